//! Clocks that differ, and clocks that are set back.

use std::time::Duration;

use serde_json::Value;

use crate::util::{
    fake::Gate,
    hosted::{Hosted, echo},
};

/// The bridge's clock says what is old, not the machine's.
#[track_caller]
fn on_a_machine_that_is_ahead(bridge: &Hosted) {
    let machine = bridge.machine();
    let daemon = machine.connected();
    bridge.say("t", "hello");
    assert_eq!(bridge.until("t", 1), [echo("hello")]);
    daemon.stop();
    bridge.say("t", "missed");
    let _daemon = machine.connected();
    assert_eq!(bridge.until("t", 2)[1], echo("missed"));
    bridge.say("t", "and now");
    assert_eq!(bridge.until("t", 3)[2], echo("and now"));
}

const AHEAD: Duration = Duration::from_hours(25);

#[test]
fn a_machine_whose_clock_is_ahead_answers_at_once() {
    on_a_machine_that_is_ahead(&Hosted::start().behind(AHEAD).that_says_its_time());
}

#[test]
fn a_machine_whose_clock_is_ahead_answers_at_once_also_if_the_bridge_does_not_say_the_time() {
    on_a_machine_that_is_ahead(&Hosted::start().behind(AHEAD));
}

/// The mark of `/new` is in the future: the clock was set back since.
#[test]
fn a_new_session_is_begun_also_after_the_clock_was_set_back() {
    let (bridge, gate) = (Hosted::start(), Gate::new());
    let machine = bridge.machine().with_agent("fake", &gate.acp("done"));
    let daemon = machine.connected();
    bridge.say("t", "one");
    drop(gate.next());
    bridge.until("t", 1);
    bridge.say("t", "/new");
    bridge.until("t", 2);
    daemon.stop();
    let mut state = machine.state();
    let mark = &mut state["bindings"]["t"]["freshAfter"]["fake"];
    let hash = mark.as_str().unwrap().split('-').next_back().unwrap();
    *mark = Value::from(format!("0fffffffffffffff-{hash}"));
    machine.home.put(".agent-bridge-daemon/state.json", &state.to_string());
    let _daemon = machine.connected();
    bridge.say("t", "two");
    assert_eq!(gate.next().session().0, "session/new");
}
