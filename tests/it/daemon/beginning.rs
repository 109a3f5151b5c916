//! The first moments of a machine at its bridge: what is said then, or was said before, is answered.

use std::fs;

use super::Bridge;
use crate::util::{
    fake,
    hosted::{Hosted, echo},
    namespace::isolated,
};

/// It has just connected for the first time.
#[track_caller]
fn a_crash_at_the_very_beginning(bridge: &Hosted) {
    let machine = bridge.machine();
    let daemon = machine.connected();
    bridge.say("t", "first");
    bridge.until("t", 1);
    daemon.kill();
    bridge.say("t", "missed");
    let _daemon = machine.connected();
    assert_eq!(bridge.until("t", 2), ["first", "missed"].map(echo));
}

isolated! {
    fn a_crash_right_after_the_first_connection_loses_nothing() {
        a_crash_at_the_very_beginning(&Hosted::start().that_says_its_time());
    }
}

isolated! {
    fn a_crash_right_after_the_first_connection_to_a_bridge_that_tells_no_time_loses_nothing() {
        a_crash_at_the_very_beginning(&Hosted::start());
    }
}

/// The daemon learns a moment after its start that an engine does not work, and tells the bridge.
#[test]
fn nothing_is_missed_when_the_engines_change() {
    let bridge = Hosted::start();
    let machine = bridge.machine().with_agent("claude", &fake::command(&["exit", "1"]));
    let machine = machine.with("agent", "echo");
    bridge.say_at_stream(1, "new");
    let _daemon = machine.connected();
    assert_eq!(bridge.until("new", 1), [echo("hello")]);
}

#[test]
fn what_was_said_before_the_first_machine_connects_is_answered() {
    let bridge = Bridge::start();
    bridge.say("t", "early");
    let machine = bridge.machine();
    let _daemon = machine.connected();
    let mut ears = bridge.listen();
    assert_eq!(bridge.until(&mut ears, "t", 1), [echo("early")]);
}

/// As a container's is without a volume.
#[test]
fn what_was_said_while_the_machine_lost_its_state_is_answered() {
    let bridge = Bridge::start();
    let machine = bridge.machine();
    let daemon = machine.connected();
    let mut ears = bridge.listen();
    bridge.say("t", "hello");
    assert_eq!(bridge.until(&mut ears, "t", 1), [echo("hello")]);
    daemon.stop();
    bridge.say("t", "missed");
    fs::remove_dir_all(machine.state_file("")).unwrap();
    let _daemon = machine.connected();
    let mut count = 2;
    while *bridge.until(&mut ears, "t", count).last().unwrap() != echo("missed") {
        // It may say that the session is gone.
        count += 1;
    }
    assert!(!bridge.posts("t")[1..].contains(&echo("hello")), "answered twice");
}
