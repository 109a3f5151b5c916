//! From `initialize` to the prompt.

use super::*;

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
