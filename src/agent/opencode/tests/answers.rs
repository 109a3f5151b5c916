//! What of a session's messages and parts is the answer.

use super::*;

fn begun(played: &mut Played, message: &str, is_summary: bool) {
    let info = json!({ "id": message, "role": "assistant", "summary": is_summary });
    played.event("message.updated", json!({ "sessionID": "ses_1", "info": info }));
}

fn part(played: &mut Played, message: &str, mut part: Value) {
    part["messageID"] = json!(message);
    played.event("message.part.updated", json!({ "sessionID": "ses_1", "part": part }));
}

fn text(id: &str, text: &str) -> Value {
    json!({ "type": "text", "id": id, "text": text })
}

fn delta(played: &mut Played, part: &str, delta: &str) {
    let properties = json!({ "sessionID": "ses_1", "partID": part, "field": "text",
        "delta": delta });
    played.event("message.part.delta", properties);
}

/// The summary that takes the place of a session that had become too long, and the prompt itself.
#[test]
fn what_the_model_does_not_say_to_the_person_is_no_answer() {
    let mut played = Played::prompted(&spec());
    part(&mut played, "msg_0", text("prt_0", "the prompt"));
    begun(&mut played, "msg_1", false);
    part(&mut played, "msg_1", text("prt_1", "THE-ANSWER"));
    part(&mut played, "msg_1", json!({ "type": "tool", "callID": "c", "state": {} }));
    begun(&mut played, "msg_2", true);
    part(&mut played, "msg_2", text("prt_2", "a summary"));
    begun(&mut played, "msg_3", false);
    let info = json!({ "id": "msg_3", "finish": "stop" });
    played.answer(200, json!({ "info": info, "parts": [] }));
    played.check_answered("THE-ANSWER");
    assert_eq!(played.commentary(), ["THE-ANSWER"]);
}

/// The pieces of a part are heard when the server dies, those of a thought are not.
#[test]
fn half_a_part_is_heard() {
    let mut played = Played::prompted(&spec());
    begun(&mut played, "msg_1", false);
    part(&mut played, "msg_1", json!({ "type": "reasoning", "id": "prt_1", "text": "" }));
    delta(&mut played, "prt_1", "hm");
    part(&mut played, "msg_1", text("prt_2", ""));
    delta(&mut played, "prt_2", "The cause ");
    delta(&mut played, "prt_2", "is");
    played.exit(Exit::Signal(9), "");
    assert_eq!(played.commentary(), ["The cause is"]);
}

/// A stop finds words before the call that it ends; they are no answer, but not lost.
#[test]
fn a_stop_in_a_call_is_no_answer() {
    let mut played = Played::prompted(&spec());
    begun(&mut played, "msg_1", false);
    part(&mut played, "msg_1", text("prt_1", "I look."));
    let call = json!({ "type": "tool", "callID": "c", "state": { "status": "running" } });
    part(&mut played, "msg_1", call.clone());
    played.command(TurnCommand::Interrupt);
    let info = json!({ "id": "msg_1", "finish": "tool-calls" });
    played.answer(200, json!({ "info": info, "parts": [call] }));
    assert_eq!(played.end, Some(TurnEnd::Interrupted));
    assert_eq!(played.commentary(), ["I look."]);
}
