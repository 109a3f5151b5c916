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
    assert_eq!(play("idle").answered(), "I look.last status: 429 Too Many Requests");
}
