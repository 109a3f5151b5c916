//! What waits at the embedded bridge for a machine without state: it is answered once, in order.

use std::fs;

use crate::daemon::{Bridge, Ears};

/// What the echo engine has answered, once there are so many answers on a thread.
#[track_caller]
fn answers(bridge: &Bridge, ears: &mut Ears, thread: &str, count: usize) -> Vec<String> {
    let posts = bridge.until(ears, thread, count);
    posts.iter().map(|post| post.rsplit("You said: ").next().unwrap().to_owned()).collect()
}

#[test]
fn what_was_said_before_the_first_machine_came_is_answered() {
    let bridge = Bridge::start();
    bridge.say("t", "one");
    bridge.say("u", "two");
    bridge.say("t", "three");
    let mut ears = bridge.listen();
    let machine = bridge.machine();
    let daemon = machine.start();
    assert_eq!(answers(&bridge, &mut ears, "t", 2), ["one", "three"]);
    assert_eq!(answers(&bridge, &mut ears, "u", 1), ["two"]);
    bridge.say("t", "four");
    assert_eq!(answers(&bridge, &mut ears, "t", 3), ["one", "three", "four"]);
    daemon.stop();
    // It had no position before; what it has now is no reason to answer anything again.
    let daemon = machine.connected();
    bridge.say("t", "five");
    assert_eq!(answers(&bridge, &mut ears, "t", 4), ["one", "three", "four", "five"]);
    assert_eq!(bridge.posts("u").len(), 1);
    daemon.stop();
}

#[test]
fn what_waits_for_a_machine_that_lost_its_state_is_answered() {
    let bridge = Bridge::start();
    let mut ears = bridge.listen();
    let machine = bridge.machine();
    let daemon = machine.start();
    for thread in ["t", "u"] {
        bridge.say(thread, "before");
        assert_eq!(answers(&bridge, &mut ears, thread, 1), ["before"]);
    }
    daemon.stop();
    // The bridge sees the machine go.
    while ears.event("machine").data["connected"] == true {}
    for n in 0..20 {
        bridge.say(["t", "u"][n % 2], &n.to_string());
    }
    bridge.say("u", "/status");
    fs::remove_dir_all(machine.state_file("")).unwrap();
    let daemon = machine.start();
    for (thread, first) in [("t", 0), ("u", 1)] {
        let expected: Vec<_> = (first..20).step_by(2).map(|n| n.to_string()).collect();
        let posts = answers(&bridge, &mut ears, thread, 11);
        assert_eq!(posts[1..], expected);
    }
    bridge.say("u", "last");
    assert_eq!(answers(&bridge, &mut ears, "u", 12)[11], "last");
    daemon.stop();
}
