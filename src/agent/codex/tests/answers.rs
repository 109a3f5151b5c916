//! What counts as the answer, and how the end of a turn is found when Codex does not tell it.

use super::*;

#[track_caller]
fn check_answer(messages: &[(&str, Value)], items: Value, expected: &str) {
    let mut player = Player::working(&spec());
    for (at, (text, phase)) in messages.iter().enumerate() {
        let id = format!("msg_{at}");
        let item = json!({"type": "agentMessage", "id": id, "text": text, "phase": phase});
        player.note("item/completed", json!({ "item": item }));
    }
    let turn = json!({"id": "u", "status": "completed", "items": items});
    player.note("turn/completed", json!({ "turn": turn }));
    let end = end_text(&TurnEnd::Answered { text: expected.to_owned() });
    assert_eq!(player.log.last(), Some(&format!("=> {end}")));
}

#[test]
fn the_answer_is_what_is_no_commentary() {
    let (none, commentary) = (Value::Null, json!("commentary"));
    let message =
        json!([{"type": "agentMessage", "id": "msg_0", "text": "final"}, {"type": "new"}, 7]);
    check_answer(&[("a", none.clone()), ("b", none.clone())], json!([]), "a\n\nb");
    check_answer(&[("a", json!("final_answer")), ("b", commentary.clone())], Value::Null, "a");
    check_answer(&[("a", commentary.clone()), ("b", none.clone())], json!([]), "b");
    check_answer(&[("a", commentary.clone()), ("b", commentary)], json!([]), "a\n\nb");
    check_answer(&[("half", none)], message.clone(), "final");
    check_answer(&[], message, "final");
    check_answer(&[], Value::Null, "");
}

/// A stream that drops repeats whole messages.
#[test]
fn a_repeated_message_is_not_added_up() {
    check_answer(&[("done", Value::Null), ("done", Value::Null)], json!([]), "done");
}

fn message(id: &str, text: &str, phase: Value) -> Value {
    json!({"item": {"type": "agentMessage", "id": id, "text": text, "phase": phase}})
}

fn idle(player: &mut Player, kind: &str) {
    player.note("thread/status/changed", json!({"status": {"type": kind}}));
}

/// Codex 0.139.0 was seen to lose it after it had condensed the conversation.
#[test]
fn trap_a_turn_whose_end_is_lost_is_asked_for() {
    let ends = |status: &str| {
        let mut player = Player::working(&spec());
        player.note("item/completed", message("m", "done", Value::Null));
        idle(&mut player, "active");
        assert!(writes(&player).is_empty());
        idle(&mut player, "idle");
        let read = player.next_write();
        assert_eq!(read["method"], "thread/read");
        assert_eq!(read["params"], json!({"threadId": "t", "includeTurns": true}));
        let item = message("m", "done", Value::Null)["item"].clone();
        let turns = json!([{"id": "s", "status": "failed"},
            {"id": "u", "status": status, "items": [item], "error": {"message": "no"}}]);
        player.hear(json!({"id": read["id"], "result": {"thread": {"turns": turns}}}));
        player
    };
    assert_eq!(ends("completed").answered(), "done");
    assert_eq!(ends("failed").failed().1, "no");
    assert_eq!(ends("interrupted").end, Some(TurnEnd::Interrupted));
    assert_eq!(ends("inProgress").end, None);
}

#[test]
fn a_turn_that_tells_its_end_is_not_asked() {
    let mut player = Player::working(&spec());
    player.note("item/completed", message("m", "done", Value::Null));
    player.host.talks_on = true;
    idle(&mut player, "idle");
    player.note("turn/completed", json!({"turn": {"id": "u", "status": "completed"}}));
    assert_eq!((player.answered(), &writes(&player)[..]), ("done", ""));
    // It went on.
    let mut player = Player::working(&spec());
    player.host.talks_on = true;
    idle(&mut player, "idle");
    idle(&mut player, "active");
    player.host.quiet();
    assert_eq!(writes(&player), "");
    // An old version does not know the question.
    let mut player = Player::working(&spec());
    idle(&mut player, "idle");
    let read = player.next_write();
    player.hear(json!({"id": read["id"], "error": {"code": -32600, "message": "unknown"}}));
    assert_eq!(player.end, None);
}

/// The words of a message that never ends are there when Codex dies in the middle of it.
#[test]
fn half_a_message_is_heard() {
    let mut player = Player::working(&spec());
    player.note("item/started", message("m", "", Value::Null));
    for (id, delta) in [("m", "The cause "), ("other", "no"), ("m", "is")] {
        player.note("item/agentMessage/delta", json!({"itemId": id, "delta": delta}));
    }
    player.exit(Exit::Signal(9), "");
    assert!(player.events.contains(&TurnEvent::Commentary("The cause is".to_owned())));
    // Whole, it takes the place of its pieces, and of the phase that it began with.
    let mut player = Player::working(&spec());
    player.note("item/started", message("m", "", Value::Null));
    player.note("item/agentMessage/delta", json!({"itemId": "m", "delta": "I loo"}));
    player.note("item/completed", message("m", "I look.", json!("commentary")));
    player.note("item/completed", message("n", "Done.", json!("final_answer")));
    player.note("turn/completed", json!({"turn": {"id": "u", "status": "completed"}}));
    assert_eq!(player.answered(), "Done.");
    assert!(player.events.contains(&TurnEvent::Commentary("I look.".to_owned())));
}
