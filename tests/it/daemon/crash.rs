//! The daemon is killed, and the next one goes on (the crash table in the design).

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use super::Bridge;
use crate::util::{
    daemon::Stage,
    fake::{self, ACP_BEGIN, Gate, SESSION, acp_answer},
    namespace::isolated,
};

// The next daemon kills the engine that the last one has left, so this is done where nothing else
// can be hit.
isolated! {
    fn a_message_that_waits_is_driven_and_one_in_mid_turn_is_resumed_once() {
        let (bridge, gate) = (Bridge::start(), Gate::new());
        let machine = bridge.machine().with_agent("fake", &gate.acp("done")).with("maxTurns", 1);
        let mut daemon = machine.connected();
        bridge.say("t", "the long work");
        let _cut = gate.next();
        bridge.say("u", "waits for its place");
        daemon.log("reply");
        daemon.log("reply");
        daemon.kill();

        let daemon = machine.start();
        let mut ears = bridge.listen();
        // Whichever comes first.
        let mut long_work = None;
        for _ in 0..2 {
            let engine = gate.next();
            let prompt = engine.prompt();
            if engine.session().0 == "session/new" {
                assert!(prompt.contains("waits for its place"), "{prompt}");
                assert!(!prompt.contains("stopped while you worked"), "{prompt}");
            } else {
                assert_eq!(engine.session().1.as_deref(), Some(SESSION));
                assert!(prompt.contains("stopped while you worked"), "{prompt}");
                assert!(prompt.ends_with("the long work"), "{prompt}");
                long_work = Some(engine);
                break;
            }
            drop(engine);
            bridge.until(&mut ears, "u", 1);
        }
        let told = bridge.until(&mut ears, "t", 1);
        assert!(told.len() == 1 && told[0].contains("The session is resumed"), "{told:?}");
        daemon.kill();
        drop(long_work);

        let daemon = machine.start();
        if bridge.posts("u").is_empty() {
            drop(gate.next());
        }
        assert_eq!(bridge.until(&mut ears, "u", 1), ["done"]);
        let told = bridge.until(&mut ears, "t", 2);
        assert!(told.len() == 2 && told[1].contains("for the second time"), "{told:?}");
        // It is the person's turn now, and the session is still known.
        bridge.say("t", "go on");
        let engine = gate.next();
        assert_eq!(engine.session().1.as_deref(), Some(SESSION));
        assert!(engine.prompt().ends_with("go on"), "{}", engine.prompt());
        drop(engine);
        assert_eq!(bridge.until(&mut ears, "t", 3)[2], "done");
        daemon.stop();
    }
}

isolated! {
    /// Real agents need seconds to leave. The answer does not wait for that, and a crash in between
    /// costs nothing and has nothing done twice.
    fn an_answer_is_kept_and_posted_before_its_engine_has_left() {
        let (bridge, gate) = (Bridge::start(), Gate::new());
        let path = gate.path();
        let [said, end] = acp_answer("done");
        let steps = ["read", "print", &said, "print", &end, "gate", &path];
        let agent = fake::command(&[&ACP_BEGIN[..], &steps].concat());
        let machine = bridge.machine().with_agent("fake", &agent);
        let daemon = machine.connected();
        let mut ears = bridge.listen();
        bridge.say("t", "one");
        let leaving = gate.next();
        ears.expect("t", "result", "done");
        bridge.say("t", "two");
        drop(leaving);
        let leaving = gate.next();
        assert!(leaving.prompt().ends_with("two"), "{}", leaving.prompt());
        ears.expect("t", "result", "done");
        daemon.kill();
        drop(leaving);

        let daemon = machine.start();
        bridge.say("u", "three");
        let leaving = gate.next();
        assert!(leaving.prompt().contains("three"), "nothing is done again: {}", leaving.prompt());
        ears.expect("u", "result", "done");
        drop(leaving);
        machine.wait_for(|machine| machine.left()[0] == 0);
        assert_eq!(bridge.posts("t"), ["done", "done"]);
        assert!(gate.is_empty());
        daemon.stop();
    }
}

isolated! {
    fn without_a_session_to_resume_the_human_is_asked() {
        let (bridge, gate) = (Bridge::start(), Gate::new());
        let path = gate.path();
        let hello = r#"{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":1}}"#;
        let session = r#"{"jsonrpc":"2.0","id":2,"result":{"sessionId":"fake-session"}}"#;
        let [said, end] = acp_answer("done");
        let agent = fake::command(&[
            "read", "print", hello, "read", "print", session, "read", "gate", &path, "print",
            &said, "print", &end, "wait-eof",
        ]);
        let machine = bridge.machine().with_agent("forgetful", &agent);
        let daemon = machine.connected();
        bridge.say("t", "the long work");
        let _cut = gate.next();
        daemon.kill();

        let _daemon = machine.connected();
        let mut ears = bridge.listen();
        let told = bridge.until(&mut ears, "t", 1);
        assert!(told[0].contains("Send it again"), "{told:?}");
        bridge.say("t", "again");
        let engine = gate.next();
        assert!(engine.prompt().contains("again"), "{}", engine.prompt());
        drop(engine);
        assert_eq!(bridge.until(&mut ears, "t", 2)[1], "done");
    }
}

/// The bridge treats the answer so, the daemon is killed, and the next one sends it.
#[track_caller]
fn check_answer_in_outbox(is_taken: bool) {
    let is_sick = Arc::new(AtomicBool::new(true));
    let sick = Arc::clone(&is_sick);
    let stage = Stage::new(move |seen, conn| {
        let is_now = seen.target == "/api/message" && sick.load(Ordering::SeqCst);
        if is_now && is_taken {
            // The bridge has it, and its answer is lost.
            conn.hold();
        } else if is_now {
            conn.answer(503, "", "not now");
        }
        is_now
    });
    let machine = stage.machine();
    let daemon = machine.start();
    let line = stage.stream();
    line.reply("t", "m1", "hello");
    let first = stage.expect("t", "result", "said: hello");
    daemon.kill();
    is_sick.store(false, Ordering::SeqCst);

    let daemon = machine.start();
    let again = stage.expect("t", "result", "said: hello");
    assert_eq!(first["clientMsgId"], again["clientMsgId"]);
    let line = stage.stream();
    line.reply("t", "m1", "hello");
    line.reply("t", "m2", "and now?");
    stage.expect("t", "result", "said: and now?");
    daemon.stop();
    assert_eq!((machine.left()[2], machine.left()[0]), (0, 0));
}

#[test]
fn an_answer_that_the_bridge_has_not_taken_is_sent_by_the_next_daemon() {
    check_answer_in_outbox(false);
}

#[test]
fn an_answer_that_was_sent_and_not_removed_is_sent_under_the_same_name() {
    check_answer_in_outbox(true);
}

/// It was sent at every start, for ever.
#[test]
fn an_answer_from_before_an_orderly_stop_is_sent_once() {
    let is_sick = Arc::new(AtomicBool::new(true));
    let sick = Arc::clone(&is_sick);
    let stage = Stage::new(move |seen, conn| {
        let is_now = seen.target == "/api/message" && sick.load(Ordering::SeqCst);
        if is_now {
            conn.answer(503, "", "not now");
        }
        is_now
    });
    let machine = stage.machine();
    let daemon = machine.start();
    // Held, or the daemon would connect again and leave a second stream to be met below.
    let line = stage.stream();
    line.reply("t", "m1", "hello");
    stage.expect("t", "result", "said: hello");
    daemon.stop();
    assert_eq!((machine.left()[2], machine.left()[0]), (1, 0));
    is_sick.store(false, Ordering::SeqCst);
    while !stage.bridge.seen.is_empty() {
        stage.bridge.next();
    }
    for left in [&["hello"][..], &[]] {
        let daemon = machine.start();
        let line = stage.stream();
        let next = format!("and {}?", left.len());
        line.reply("t", &next, &next);
        for said in left.iter().copied().chain([&*next]) {
            stage.expect("t", "result", &format!("said: {said}"));
        }
        daemon.stop();
        assert_eq!(machine.left()[2], 0);
    }
}

isolated! {
    fn a_crash_right_after_the_message_loses_nothing() {
        let stage = Stage::new(|_, _| false);
        let machine = stage.machine();
        let mut daemon = machine.start();
        let line = stage.stream();
        line.reply("t", "m1", "hello");
        daemon.log("reply");
        daemon.kill();
        // It was killed at any point from the inbox to the answer: answered, resumed or asked for.
        let _daemon = machine.start();
        assert_eq!(stage.post()["threadId"], "t");
        let line = stage.stream();
        line.reply("t", "m2", "still there?");
        while !stage.post()["body"].as_str().unwrap().ends_with("said: still there?") {}
    }
}
