//! From `initialize` to the prompt.

use super::*;
use crate::agent::Protocol;

/// A host that wants its session back, from an agent that offers both ways.
fn resuming() -> Played {
    let spec = TurnSpec { session: Some(SessionId::new("s")), ..spec() };
    let mut played = Played::new(&spec);
    let capabilities = json!({ "loadSession": true, "sessionCapabilities": { "resume": {} } });
    played.result("initialize", json!({ "protocolVersion": 1, "agentCapabilities": capabilities }));
    played
}

fn said(text: &str) -> Value {
    json!({ "sessionUpdate": "agent_message_chunk", "content": { "type": "text", "text": text } })
}

/// Qwen-code 0.15.10 offers `session/resume` and has only `session/load`: every second message lost
/// what the session knew.
#[test]
fn what_can_not_be_resumed_is_loaded() {
    for code in [-32601, -32603, -32002, 0] {
        let mut played = resuming();
        assert_eq!(played.written("session/resume")[0]["params"]["sessionId"], "s");
        played.respond("session/resume", json!({ "error": { "code": code, "message": "no" } }));
        let load = &played.written("session/load")[0]["params"];
        assert_eq!(*load, json!({ "sessionId": "s", "cwd": "/p", "mcpServers": [] }));
        // The replay.
        played.update(said("an old answer"));
        played.result("session/load", Value::Null);
        played.update(said("a new one"));
        played.result("session/prompt", json!({ "stopReason": "end_turn" }));
        assert_eq!(played.answered(), "a new one", "{code}");
        assert!(played.written("session/new").is_empty());
    }
}

/// Gemini 0.61.0 answers in the middle of the replay, and the rest became part of the answer.
#[test]
fn a_replay_that_goes_on_after_its_response_is_no_answer() {
    let spec = TurnSpec { session: Some(SessionId::new("s")), ..spec() };
    for refuses in [false, true] {
        let mut played = Played::new(&spec);
        let capabilities = json!({ "loadSession": true });
        played.result(
            "initialize",
            json!({ "protocolVersion": 1, "agentCapabilities": capabilities }),
        );
        let modes = json!({ "currentModeId": "default", "availableModes": [{ "id": "default" }] });
        played.result("session/load", json!({ "modes": modes }));
        let again = |played: &mut Played| {
            let response = if refuses {
                json!({ "error": { "code": -32601 } })
            } else {
                json!({ "result": {} })
            };
            played.respond("session/set_mode", response);
        };
        for n in 1..4 {
            assert_eq!(played.written("session/set_mode").len(), n);
            played.update(said("an old answer"));
            assert!(played.written("session/prompt").is_empty());
            again(&mut played);
        }
        // Nothing came meanwhile.
        again(&mut played);
        played.update(said("a new one"));
        played.result("session/prompt", json!({ "stopReason": "end_turn" }));
        assert_eq!(played.answered(), "a new one");
    }
}

#[test]
fn a_session_is_gone_when_no_way_leads_to_it() {
    let mut played = resuming();
    played.respond("session/resume", json!({ "error": { "code": -32601, "message": "what?" } }));
    played.respond("session/load", json!({ "error": { "code": -32002, "message": "no s" } }));
    let gone = TurnEnd::SessionGone { detail: "no s".to_owned() };
    assert_eq!(played.end, Some(gone));
    assert!(played.written("session/prompt").is_empty());
}

#[test]
fn a_session_that_is_resumed_is_not_loaded() {
    let mut played = resuming();
    played.result("session/resume", json!({}));
    assert!(played.written("session/load").is_empty());
    assert_eq!(played.written("session/prompt").len(), 1);
}

const CODEX: &str = r#"[{"id":"api-key","name":"API Key","_meta":{"api-key":{"provider":"openai"}}},
    {"id":"chat-gpt","name":"ChatGPT"}]"#;

/// What codex-acp 2.6.0 offers, to a host with these variables.
fn with_variables(session: Option<&str>, variables: &[&str]) -> Played {
    let mut spec = TurnSpec { session: session.map(SessionId::new), ..spec() };
    spec.login.variables = variables.iter().map(|&name| name.to_owned()).collect();
    let mut played = Played::new(&spec);
    let ways: Value = serde_json::from_str(CODEX).unwrap();
    played.result(
        "initialize",
        json!({ "protocolVersion": 1, "authMethods": ways,
            "agentCapabilities": { "sessionCapabilities": { "resume": {} } } }),
    );
    played
}

fn refusal() -> Value {
    json!({ "error": { "code": -32000, "message": "Authentication required" } })
}

#[test]
fn an_agent_with_a_key_is_told_to_log_in_and_asked_again() {
    for (session, method) in [(None, "session/new"), (Some("s"), "session/resume")] {
        let mut played = with_variables(session, &["OPENAI_API_KEY"]);
        let asked = played.written(method)[0]["params"].clone();
        played.respond(method, refusal());
        assert_eq!(played.written("authenticate")[0]["params"], json!({ "methodId": "api-key" }));
        played.result("authenticate", json!({}));
        assert_eq!(played.written(method).len(), 2);
        assert_eq!(played.written(method)[1]["params"], asked);
        played.result(method, json!({ "sessionId": "s" }));
        played.result("session/prompt", json!({ "stopReason": "end_turn" }));
        assert_eq!(played.answered(), "");
    }
}

/// Several agents say so at the prompt only, before they have done anything.
#[test]
fn a_prompt_is_repeated_after_the_login_if_nothing_was_done() {
    let mut played = with_variables(None, &["OPENAI_API_KEY"]);
    played.result("session/new", json!({ "sessionId": "s" }));
    played.respond("session/prompt", refusal());
    assert!(played.protocol.is_opening());
    played.result("authenticate", json!({}));
    let prompts = played.written("session/prompt");
    assert_eq!((prompts.len(), &prompts[0]["params"]), (2, &prompts[1]["params"]));

    let mut played = with_variables(None, &["OPENAI_API_KEY"]);
    played.result("session/new", json!({ "sessionId": "s" }));
    played.update(said("I begin"));
    played.respond("session/prompt", refusal());
    assert!(played.written("authenticate").is_empty(), "it would do it twice");
    assert_eq!(played.failed().0, FailureKind::NotLoggedIn);

    let mut played = with_variables(None, &["OPENAI_API_KEY"]);
    played.result("session/new", json!({ "sessionId": "s" }));
    played.command(TurnCommand::Interrupt);
    played.respond("session/prompt", refusal());
    assert!(played.written("authenticate").is_empty(), "a person has stopped it");
}

#[test]
fn a_login_is_tried_once_and_its_failure_told() {
    let mut played = with_variables(None, &["OPENAI_API_KEY"]);
    played.respond("session/new", refusal());
    played.result("authenticate", json!({}));
    played.respond("session/new", refusal());
    assert_eq!(played.written("authenticate").len(), 1);
    let (kind, message, advice) = played.failed();
    assert_eq!((kind, message), (FailureKind::NotLoggedIn, "Authentication required"));
    assert!(advice.contains("API Key, ChatGPT") && advice.contains("`agents`"), "{advice}");

    let mut played = with_variables(None, &["CODEX_API_KEY"]);
    played.respond("session/new", refusal());
    played.respond("authenticate", json!({ "error": { "code": -32603, "message": "bad key" } }));
    let (kind, message, _) = played.failed();
    assert_eq!(kind, FailureKind::NotLoggedIn);
    assert_eq!(message, "the agent could not log in by `api-key`: bad key");

    // It would open a browser.
    let mut played = with_variables(None, &["PATH"]);
    played.respond("session/new", refusal());
    assert!(played.written("authenticate").is_empty());
    assert_eq!(played.failed().0, FailureKind::NotLoggedIn);
}

/// It cost `silenceSeconds` with every message, and then the answer.
#[test]
fn what_is_not_answered_in_time_is_given_up() {
    let mut played = resuming();
    assert!(played.protocol.is_opening());
    played.overdue();
    let gone = "the agent did not answer `session/resume` in time".to_owned();
    assert_eq!(played.end, Some(TurnEnd::SessionGone { detail: gone }));

    let mut played = with_variables(None, &["CODEX_API_KEY"]);
    played.respond("session/new", refusal());
    played.overdue();
    let (kind, message, _) = played.failed();
    assert_eq!(kind, FailureKind::NotLoggedIn);
    assert_eq!(message, "the agent did not log in by `api-key` in time (`startupSeconds`)");

    // Of these there is nothing to say that the runner does not know.
    let mut played = with_variables(None, &[]);
    played.overdue();
    assert_eq!(played.end, None);
    assert!(!Played::prompted(&spec()).protocol.is_opening());
}
