//! Turns that end by something other than an answer, though it may look like one.

use super::*;

#[test]
fn an_unknown_session_is_gone_whatever_the_error() {
    for recording in ["claude-resume-othercwd", "qwen-resume-othercwd"] {
        let played = play(recording, None);
        let end = played.end.as_ref();
        assert!(matches!(end, Some(TurnEnd::SessionGone { .. })), "{recording}: {end:?}");
        assert!(played.written("session/prompt").is_empty());
    }
    let mut spec = spec();
    spec.session = Some(SessionId::new("old"));
    let mut played = Played::new(&spec);
    played.result("initialize", json!({ "protocolVersion": 1 }));
    assert!(matches!(&played.end, Some(TurnEnd::SessionGone { .. })), "{:?}", played.end);
}

/// Whether the prompt's error in a resumed session means that the session is gone.
#[track_caller]
fn check_prompt_error(message: &str, updates: &[Value], gone: bool) {
    let mut spec = spec();
    spec.session = Some(SessionId::new("s"));
    let mut played = Played::new(&spec);
    let resumes = json!({ "sessionCapabilities": { "resume": {} } });
    played.result("initialize", json!({ "protocolVersion": 1, "agentCapabilities": resumes }));
    played.result("session/resume", json!({}));
    for update in updates {
        played.update(update.clone());
    }
    played.respond("session/prompt", json!({ "error": { "code": -32603, "message": message } }));
    let is_gone = matches!(&played.end, Some(TurnEnd::SessionGone { .. }));
    assert_eq!(is_gone, gone, "{message}: {:?}", played.end);
}

#[test]
fn trap_a_resumed_session_may_turn_out_to_be_gone_at_the_prompt() {
    let said = json!({ "sessionUpdate": "agent_message_chunk", "content": { "type": "text", "text": "x" } });
    let call = json!({ "sessionUpdate": "tool_call", "toolCallId": "c", "title": "ls" });
    let usage = json!({ "sessionUpdate": "usage_update" });
    check_prompt_error("Internal error: thread not found: s", &[usage], true);
    check_prompt_error("Internal error: thread not found: s", &[said], false);
    check_prompt_error("Internal error: thread not found: s", &[call], false);
    check_prompt_error("model not found", &[], false);
    check_prompt_error("the model server had an error", &[], false);
}

/// The messages of codex-acp 2.6.0 when its model answers 500, and then 429.
#[test]
fn trap_codex_says_what_failed_as_if_the_model_did() {
    let status = |codex: Value| json!({ "sessionUpdate": "session_info_update", "_meta": { "codex": codex } });
    let said = |text: &str| json!({ "sessionUpdate": "agent_message_chunk", "content": { "type": "text", "text": text } });
    let play = |last: &str| {
        let mut played = Played::prompted(&spec());
        played.update(said("I look."));
        let error = json!({ "additionalDetails": "high demand", "message": "Reconnecting... 1/1", "willRetry": true });
        played.update(status(json!({ "error": error })));
        played.update(status(json!({ "threadStatus": { "type": last } })));
        played.update(said("last status: 429 Too Many Requests\n\n"));
        played.result("session/prompt", json!({ "stopReason": "end_turn" }));
        let retry = TurnEvent::Retry { message: "high demand".to_owned(), next: None };
        assert!(played.events.contains(&retry), "{:?}", played.events);
        played
    };
    let (kind, message, _) = play("systemError").failed_owned();
    assert_eq!((kind, &*message), (FailureKind::RateLimited, "last status: 429 Too Many Requests"));
    // The model is asked again after what it had said.
    assert_eq!(play("idle").answered(), "last status: 429 Too Many Requests");
}

fn said(text: &str, meta: Value) -> Value {
    json!({ "sessionUpdate": "agent_message_chunk", "content": { "type": "text", "text": text },
        "_meta": meta })
}

/// Newer versions of codex-acp say what is commentary; there need be no call in between.
#[test]
fn what_codex_calls_commentary_is_no_answer() {
    let phase = |phase: &str| json!({ "codex": { "phase": phase } });
    let mut played = Played::prompted(&spec());
    played.update(said("Check", phase("commentary")));
    played.update(said("ing.", phase("commentary")));
    played.update(said("Done", phase("final_answer")));
    played.update(said(".", phase("final_answer")));
    played.result("session/prompt", json!({ "stopReason": "end_turn" }));
    assert_eq!((played.answered(), &played.commentary()[..]), ("Done.", &["Checking."][..]));
}

#[test]
fn a_failure_that_codex_recovers_from_is_no_answer() {
    let status = |kind: &str| {
        json!({ "sessionUpdate": "session_info_update",
            "_meta": { "codex": { "threadStatus": { "type": kind } } } })
    };
    let mut played = Played::prompted(&spec());
    played.update(status("systemError"));
    played.update(said("oops", Value::Null));
    played.update(status("active"));
    played.update(said("fine", Value::Null));
    played.result("session/prompt", json!({ "stopReason": "end_turn" }));
    assert_eq!((played.answered(), &played.commentary()[..]), ("fine", &["oops"][..]));
}

/// Its last words are the failure's, and are not told twice.
#[test]
fn the_words_of_a_failure_are_not_the_models() {
    let mut played = Played::prompted(&spec());
    played.update(said("I look.", Value::Null));
    let meta = json!({ "codex": { "threadStatus": { "type": "systemError" } } });
    played.update(json!({ "sessionUpdate": "session_info_update", "_meta": meta }));
    played.update(said("unexpected status 500", Value::Null));
    played.result("session/prompt", json!({ "stopReason": "end_turn" }));
    assert_eq!(played.failed().1, "unexpected status 500");
    assert_eq!(played.commentary(), ["I look."]);
}

/// opencode says the end of an answer after the response that ends the turn; an agent that has said
/// nothing yet might as well.
#[test]
fn trap_the_end_of_an_answer_comes_after_the_end_of_the_turn() {
    let stop = |agent: &str, words: &[&str]| {
        let mut played = Played::new(&spec());
        let info = json!({ "protocolVersion": 1, "agentInfo": { "name": agent } });
        played.result("initialize", info);
        played.result("session/new", json!({ "sessionId": "s" }));
        for words in words {
            played.update(said(words, Value::Null));
        }
        played.talks_on = true;
        played.result("session/prompt", json!({ "stopReason": "end_turn" }));
        played
    };
    let check = |mut played: Played, expected: &str| {
        assert_eq!(played.end, None);
        played.update(said("late.", Value::Null));
        played.quiet();
        assert_eq!(played.answered(), expected);
    };
    check(stop("OpenCode", &["The end is "]), "The end is late.");
    check(stop("OpenCode", &[]), "late.");
    check(stop("other", &[]), "late.");
    assert_eq!(stop("other", &["done"]).answered(), "done");
    // What ends the wait does not end the answer.
    let mut played = stop("OpenCode", &["done"]);
    played.command(TurnCommand::Interrupt);
    assert_eq!(played.answered(), "done");
    let mut played = stop("OpenCode", &["done"]);
    played.exit(Exit::Signal(9), "");
    assert_eq!(played.answered(), "done");
}

/// The advice was to try again, which fails for ever: only a new session helps.
#[test]
fn a_session_that_the_model_refuses_is_left_by_new() {
    let fails = |response: Value| {
        let mut played = Played::prompted(&spec());
        played.respond("session/prompt", json!({ "error": response }));
        let (_, message, advice) = played.failed();
        (message.to_owned(), advice.contains("`/new`"))
    };
    for words in [
        "prompt is too long: 214290 tokens > 200000 maximum",
        "prompt is too long: 401234 tokens > 200000 maximum",
        "Codex ran out of room in the model's context window",
        "This model's maximum context length is 128000 tokens",
        "API Error: 400 messages.3.content.1.image: Could not process image",
        "unexpected status 400 Bad Request: Invalid image",
    ] {
        assert!(fails(json!({ "code": -32603, "message": words })).1, "{words}");
    }
    let info = json!({ "codex_error_info": { "other": { "http_status_code": 400 } } });
    assert!(fails(json!({ "code": -32603, "message": "no", "data": info })).1);
    for words in ["the model took too long", "unexpected status 500", "mock 404"] {
        assert!(!fails(json!({ "code": -32603, "message": words })).1, "{words}");
    }
}
