//! What people say to the daemon itself: words that stop, ask and begin anew.

use std::time::{Duration, Instant};

use super::{Bridge, Ears, stop::processes};
use crate::util::{
    daemon::Machine,
    fake::{self, ACP_BEGIN, Gate, SESSION},
    namespace::isolated,
    patience::check_quick,
};

/// An ACP agent that stops at the gate with its prompt, and then works until it is interrupted.
fn busy(gate: &Gate) -> Vec<String> {
    let path = gate.path();
    let cancelled = r#"{"jsonrpc":"2.0","id":3,"result":{"stopReason":"cancelled"}}"#;
    let steps = ["read", "gate", &path, "read", "print", cancelled, "wait-eof"];
    fake::command(&[&ACP_BEGIN[..], &steps].concat())
}

/// Waits until nothing is left of the messages that were answered.
#[track_caller]
fn settled(machine: &Machine, left: usize) {
    machine.wait_for(|machine| machine.left()[0] == left);
}

isolated! {
    fn a_stop_ends_the_turn_and_the_next_message_goes_on_with_the_session() {
        let (bridge, gate) = (Bridge::start(), Gate::new());
        let machine = bridge.machine().with_agent("fake", &busy(&gate));
        let _daemon = machine.connected();
        let mut ears = bridge.listen();
        bridge.say("t", "the long work");
        drop(gate.next());
        let begin = Instant::now();
        bridge.say("t", " /Stop ");
        ears.expect("t", "status", "Stopped.");
        check_quick(begin.elapsed(), Duration::from_secs(5));
        settled(&machine, 0);
        assert_eq!(processes("fake-agent"), 0);
        bridge.say("t", "go on");
        let engine = gate.next();
        assert_eq!(engine.session(), ("session/resume".to_owned(), Some(SESSION.to_owned())));
        assert!(engine.prompt().ends_with("go on"), "{}", engine.prompt());
        assert_eq!(bridge.posts("t"), ["Stopped."]);
    }
}

isolated! {
    fn what_a_stop_of_all_has_forgotten_does_not_run_after_a_crash() {
        let (bridge, gate) = (Bridge::start(), Gate::new());
        let machine = bridge.machine().with_agent("fake", &busy(&gate));
        let daemon = machine.connected();
        let mut ears = bridge.listen();
        bridge.say("t", "one");
        drop(gate.next());
        for body in ["two", "three", "four"] {
            bridge.say("t", body);
        }
        bridge.say("t", "/queue");
        let list = ears.expect("t", "status", "3 messages wait on this thread");
        assert!(list.contains("`two`") && list.contains("`four`"), "{list}");
        bridge.say("t", "/stop all");
        ears.expect("t", "status", "Stopped.");
        ears.expect("t", "status", "3 waiting messages are dropped; none of them will run.");
        daemon.kill();
        let _daemon = machine.connected();
        bridge.say("t", "/status");
        ears.expect("t", "status", "fake is not running.");
        bridge.say("t", "five");
        assert!(gate.next().prompt().ends_with("five"));
        settled(&machine, 1);
        assert!(gate.is_empty());
        assert_eq!(bridge.posts("t").len(), 4, "{:?}", bridge.posts("t"));
    }
}

isolated! {
    /// The turn had not ended when the daemon died, so nothing but the word tells that it is to.
    fn a_stop_is_not_forgotten_by_a_crash() {
        let (bridge, gate) = (Bridge::start(), Gate::new());
        let path = gate.path();
        let steps = ["read", "gate", &path, "read", "gate", &path, "hang"];
        let deaf = fake::command(&[&ACP_BEGIN[..], &steps].concat());
        let machine = bridge.machine().with_agent("fake", &deaf);
        let daemon = machine.connected();
        let mut ears = bridge.listen();
        bridge.say("t", "the long work");
        drop(gate.next());
        bridge.say("t", "/stop");
        let _interrupted = gate.next();
        daemon.kill();
        let _daemon = machine.connected();
        ears.expect("t", "status", "Stopped.");
        settled(&machine, 0);
        assert!(gate.is_empty());
        assert_eq!(bridge.posts("t"), ["Stopped."]);
    }
}

#[test]
fn a_stop_leaves_what_waits() {
    let (bridge, gate) = (Bridge::start(), Gate::new());
    let machine = bridge.machine().with_agent("fake", &busy(&gate));
    let _daemon = machine.connected();
    let mut ears = bridge.listen();
    bridge.say("t", "/stop");
    ears.expect("t", "status", "Nothing is running on this thread.");
    bridge.say("t", "one");
    drop(gate.next());
    bridge.say("t", "two");
    bridge.say("t", "/stop");
    let mut told = [ears.post(), ears.post()].map(|it| it["body"].as_str().unwrap().to_owned());
    told.sort();
    assert_eq!(told, ["1 message waits; it begins now.", "Stopped."]);
    let engine = gate.next();
    assert!(engine.prompt().ends_with("two"), "{}", engine.prompt());
}

#[test]
fn a_message_that_waits_for_its_turn_can_be_stopped() {
    let (bridge, gate) = (Bridge::start(), Gate::new());
    let machine = bridge.machine().with_agent("fake", &gate.acp("done")).with("maxTurns", 1);
    let _daemon = machine.connected();
    let mut ears = bridge.listen();
    bridge.say("t", "one");
    let engine = gate.next();
    bridge.say("u", "other");
    bridge.say("u", "/stop");
    ears.expect("u", "status", "Stopped before it began.");
    drop(engine);
    ears.expect("t", "result", "done");
    settled(&machine, 0);
    assert!(gate.is_empty());
}

#[test]
fn a_status_tells_what_happens_in_the_turn() {
    let (bridge, gate) = (Bridge::start(), Gate::new());
    let path = gate.path();
    let call = r#"{"jsonrpc":"2.0","method":"session/update","params":{"sessionId":"fake-session","update":{"sessionUpdate":"tool_call","toolCallId":"1","title":"cargo test"}}}"#;
    let steps = ["read", "print", call, "gate", &path];
    let agent = fake::command(&[&ACP_BEGIN[..], &steps].concat());
    let machine = bridge.machine().with_agent("fake", &agent);
    let mut daemon = machine.start_with(&["--log", "debug"], &[]);
    daemon.log("connected to the bridge");
    let mut ears = bridge.listen();
    bridge.say("t", "one");
    let _engine = gate.next();
    bridge.say("t", "two");
    daemon.log("cargo test");
    bridge.say("t", "/status");
    let body = ears.expect("t", "status", "fake has been running for ");
    for part in
        ["last: Calling `cargo test`", "waiting: 1 message", "session: `fake-session`", "`box`"]
    {
        assert!(body.contains(part), "{part}: {body}");
    }
    assert!(body.contains(machine.project().to_str().unwrap()), "{body}");
}

#[test]
fn a_new_session_begins_with_the_next_message_also_after_a_crash() {
    let (bridge, gate) = (Bridge::start(), Gate::new());
    let machine = bridge.machine().with_agent("fake", &gate.acp("done"));
    let daemon = machine.connected();
    let mut ears = bridge.listen();
    bridge.say("t", "work-1");
    let engine = gate.next();
    bridge.say("t", "two");
    bridge.say("t", "/new");
    ears.expect("t", "status", "The messages so far are still answered");
    bridge.say("t", "work-3");
    bridge.say("t", "four");
    let next = |ears: &mut Ears, engine: fake::Arrival| {
        drop(engine);
        ears.expect("t", "result", "done");
        let engine = gate.next();
        (engine.session().0, engine)
    };
    let (session, engine) = next(&mut ears, engine);
    assert_eq!(session, "session/resume", "two was written before");
    let (session, engine) = next(&mut ears, engine);
    assert_eq!(session, "session/new");
    assert!(engine.prompt().contains("work-3") && !engine.prompt().contains("work-1"));
    let (session, engine) = next(&mut ears, engine);
    assert_eq!(session, "session/resume", "four goes on with it");
    drop(engine);
    ears.expect("t", "result", "done");
    bridge.say("t", "/new");
    ears.expect("t", "status", "The old one, `fake-session`, is kept on the machine in");
    daemon.kill();
    let _daemon = machine.connected();
    bridge.say("t", "five");
    assert_eq!(gate.next().session().0, "session/new");
}

#[test]
fn other_words_with_a_slash_are_text() {
    let (bridge, gate) = (Bridge::start(), Gate::new());
    let machine = bridge.machine().with_agent("fake", &gate.acp("done"));
    let _daemon = machine.connected();
    let mut ears = bridge.listen();
    bridge.say("t", "/help");
    ears.expect("t", "status", "`/stop all`");
    bridge.say("t", "/compact now");
    let engine = gate.next();
    assert!(engine.prompt().contains("/compact now"), "{}", engine.prompt());
    drop(engine);
    ears.expect("t", "result", "done");
}

#[test]
fn the_owner_alone_answers() {
    let bridge = Bridge::start();
    let machines = [bridge.machine(), bridge.machine().with("agentId", "other")];
    let _daemons = machines.each_ref().map(Machine::connected);
    let mut ears = bridge.listen();
    bridge.say("t", "/help");
    ears.expect("t", "status", "these words");
    for round in 1..5 {
        bridge.say("t", "/queue");
        ears.expect("t", "status", "No message waits");
        bridge.say("t", "hello");
        ears.echo("t", "hello");
        assert_eq!(bridge.posts("t").len(), 1 + 2 * round);
    }
}
