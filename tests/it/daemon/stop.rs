//! How the daemon ends, and what does not end it.

use std::{fs, time::Duration};

use rustix::process::Signal;
use serde_json::json;

use super::Bridge;
use crate::util::{
    daemon::{Stage, is_for},
    fake::{self, ACP_BEGIN, Gate, SESSION},
    namespace::isolated,
    patience::{check_quick, check_quick_once, comes_true},
};

#[test]
fn an_idle_daemon_stops_within_a_second() {
    let bridge = Bridge::start();
    let machine = bridge.machine();
    check_quick_once(Duration::from_secs(1), || {
        let mut daemon = machine.connected();
        let mut ears = bridge.listen();
        // A worker without work is idle, too.
        bridge.say("t", "hello");
        ears.echo("t", "hello");
        let (time, code) = daemon.time_to_stop(Signal::TERM);
        assert_eq!(code, Some(0));
        time
    });
    check_quick_once(Duration::from_secs(1), || {
        let (time, code) = machine.connected().time_to_stop(Signal::INT);
        assert_eq!(code, Some(0));
        time
    });
}

#[test]
fn a_daemon_without_a_bridge_stops_within_a_second() {
    let stage = Stage::new(|_, conn| {
        conn.hold();
        true
    });
    let machine = stage.machine();
    check_quick_once(Duration::from_secs(1), || {
        let mut daemon = machine.start();
        stage.request("/api/bridge/stream");
        let (time, code) = daemon.time_to_stop(Signal::TERM);
        assert_eq!(code, Some(0));
        time
    });
}

#[test]
fn running_turns_finish_first_and_waiting_messages_keep() {
    let (bridge, gate) = (Bridge::start(), Gate::new());
    let machine = bridge.machine().with_agent("fake", &gate.acp("done"));
    let mut daemon = machine.connected();
    let mut ears = bridge.listen();
    bridge.say("t", "one");
    let engine = gate.next();
    bridge.say("t", "two");
    daemon.log("reply");
    daemon.log("reply");
    daemon.signal(Signal::TERM);
    daemon.log("stopping");
    drop(engine);
    assert_eq!(daemon.end(), Some(0));
    ears.expect("t", "result", "done");
    assert_eq!(machine.left()[0], 1);
    let _daemon = machine.start();
    let engine = gate.next();
    assert!(engine.prompt().ends_with("two"), "{}", engine.prompt());
    drop(engine);
    ears.expect("t", "result", "done");
}

#[test]
fn a_turn_that_takes_too_long_is_interrupted_told_and_resumed() {
    let (bridge, gate) = (Bridge::start(), Gate::new());
    let path = gate.path();
    // After the gate comes the interrupt.
    let cancelled = r#"{"jsonrpc":"2.0","id":3,"result":{"stopReason":"cancelled"}}"#;
    let steps = ["read", "gate", &path, "read", "print", cancelled, "wait-eof"];
    let agent = fake::command(&[&ACP_BEGIN[..], &steps].concat());
    let machine = bridge.machine().with_agent("fake", &agent).with("drainSeconds", 0);
    let mut daemon = machine.connected();
    let mut ears = bridge.listen();
    bridge.say("t", "the long work");
    drop(gate.next());
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.end(), Some(0));
    ears.expect("t", "status", "is stopping and has interrupted fake");

    let machine = machine.with_agent("fake", &gate.acp("done"));
    let _daemon = machine.start();
    let engine = gate.next();
    assert_eq!(engine.session(), ("session/resume".to_owned(), Some(SESSION.to_owned())));
    let prompt = engine.prompt();
    assert!(prompt.contains("stopped while you worked"), "{prompt}");
    assert!(prompt.ends_with("the long work"), "{prompt}");
    drop(engine);
    ears.expect("t", "status", "The session is resumed");
    ears.expect("t", "result", "done");
}

isolated! {
    /// It said that it was stopping, under the name that the next start had for its answer, which the
    /// bridge then dropped.
    fn a_stop_while_an_engine_is_being_opened_says_nothing() {
        let (bridge, gate) = (Bridge::start(), Gate::new());
        let path = gate.path();
        // `opencode serve` that does not listen.
        let machine = bridge.machine().with("drainSeconds", 0);
        let machine = machine.with_agent("opencode", &fake::command(&["gate", &path, "hang"]));
        let mut daemon = machine.connected();
        let mut ears = bridge.listen();
        bridge.say("t", "one");
        drop(gate.next());
        // Nor does a person wait for it.
        bridge.say("t", "/stop");
        ears.expect("t", "status", "Stopped.");
        bridge.say("u", "two");
        daemon.log("turn starts");
        let (time, code) = daemon.time_to_stop(Signal::TERM);
        assert_eq!(code, Some(0));
        assert!(time < Duration::from_secs(5), "{time:?}");
        assert_eq!(machine.left()[1], 0);

        let machine = machine.with_agent("opencode", &fake::command(&["exit", "3"]));
        let _daemon = machine.start();
        ears.expect("u", "error", "could not be started");
        assert_eq!(bridge.posts("u").len(), 1);
    }
}

#[test]
fn a_person_stops_a_turn_that_waits_for_its_history() {
    let stage = Stage::new(|seen, conn| {
        let is_history = is_for(seen, "/api/messages");
        if is_history {
            conn.hold();
        }
        is_history
    });
    let mut daemon = stage.machine().start();
    let line = stage.stream();
    line.reply("t", "m1", "hello");
    daemon.log("turn starts");
    line.reply("t", "m2", "/stop");
    stage.expect("t", "status", "Stopped.");
    let (time, code) = daemon.time_to_stop(Signal::TERM);
    assert_eq!(code, Some(0));
    assert!(time < Duration::from_secs(5), "{time:?}");
}

isolated! {
    fn a_second_signal_does_not_wait_and_leaves_no_engine() {
        let (bridge, gate) = (Bridge::start(), Gate::new());
        let path = gate.path();
        let steps = ["read", "straggler", "deaf", "gate", &path, "hang"];
        let agent = fake::command(&[&ACP_BEGIN[..], &steps].concat());
        let machine = bridge.machine().with_agent("fake", &agent);
        let mut daemon = machine.connected();
        bridge.say("t", "hello");
        let engine = gate.next();
        assert_eq!(processes("fake-agent"), 2, "the engine and its straggler");
        daemon.signal(Signal::TERM);
        // The system makes one of two that come at the same time.
        daemon.log("stopping");
        let (time, code) = daemon.time_to_stop(Signal::TERM);
        assert_eq!(code, Some(128 + 15));
        check_quick(time, Duration::from_secs(5));
        assert_eq!(processes("fake-agent"), 0);
        drop(engine);
    }
}

isolated! {
    /// Once the engine of a test that left its daemon to be killed ran for ever.
    fn an_engine_that_hangs_ends_without_its_daemon() {
        let (bridge, gate) = (Bridge::start(), Gate::new());
        let path = gate.path();
        let steps = ["read", "deaf", "gate", &path, "hang"];
        let agent = fake::command(&[&ACP_BEGIN[..], &steps].concat());
        let daemon = bridge.machine().with_agent("fake", &agent).connected();
        bridge.say("t", "hello");
        let engine = gate.next();
        assert_eq!(processes("fake-agent"), 1);
        daemon.kill();
        drop(engine);
        assert!(comes_true(|| processes("fake-agent") == 0), "it runs on");
    }
}

/// How many processes of a program there are, in the namespace of the test.
pub(super) fn processes(program: &str) -> usize {
    let all = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
    let names = all.filter_map(|path| fs::read_to_string(path.join("cmdline")).ok());
    names.filter(|line| line.split('\0').next().is_some_and(|it| it.ends_with(program))).count()
}

#[test]
fn a_hangup_is_ignored() {
    let bridge = Bridge::start();
    let mut daemon = bridge.machine().connected();
    daemon.signal(Signal::HUP);
    daemon.log("HUP is ignored");
    let mut ears = bridge.listen();
    bridge.say("t", "hello");
    ears.echo("t", "hello");
    daemon.stop();
}

#[test]
fn a_second_daemon_on_the_same_state_leaves_and_names_the_first() {
    let bridge = Bridge::start();
    let machine = bridge.machine();
    let first = machine.connected();
    let pid = format!("pid {}", first.pid());
    machine.home.run(&["start"]).expect(75, &["another daemon", &pid]);
    let mut ears = bridge.listen();
    bridge.say("t", "hello");
    ears.echo("t", "hello");
    // The lock is the kernel's: it does not outlive its daemon.
    first.kill();
    machine.connected().stop();
}

#[test]
fn a_refused_token_ends_the_daemon_only_if_asked() {
    let stage = Stage::new(|seen, conn| {
        let is_stream = is_for(seen, "/api/bridge/stream");
        if is_stream {
            conn.json(401, json!({ "error": "no such token" }));
        }
        is_stream
    });
    let machine = stage.machine();
    let mut daemon = machine.start_with(&["--exit-on-auth-failure"], &[]);
    assert_eq!(daemon.end(), Some(77));
    let mut daemon = machine.start();
    let line = daemon.log("401");
    assert_eq!(line["level"], "error");
    daemon.stop();
}
