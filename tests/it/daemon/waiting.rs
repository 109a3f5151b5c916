//! Who waits is told for what, and two threads do not write in one directory at the same time.

use std::fs;

use serde_json::json;

use super::Bridge;
use crate::util::{
    daemon::{MACHINE, Stage},
    fake::Gate,
};

#[test]
fn who_waits_for_a_place_is_told_once() {
    let (bridge, gate) = (Bridge::start(), Gate::new());
    let machine = bridge.machine().with_agent("fake", &gate.acp("done")).with("maxTurns", 1);
    let _daemon = machine.connected();
    let mut ears = bridge.listen();
    bridge.say("t", "one");
    let engine = gate.next();
    bridge.say("u", "other");
    ears.expect("u", "status", "Waits for the turn that runs to end (`maxTurns` 1).");
    bridge.say("u", "/status");
    ears.expect("u", "status", "- Waits for the turn that runs");
    drop(engine);
    ears.expect("t", "result", "done");
    drop(gate.next());
    ears.expect("u", "result", "done");
    assert_eq!(bridge.posts("u").len(), 3);
}

#[test]
fn two_threads_that_write_in_one_directory_take_turns() {
    let (bridge, gate) = (Bridge::start(), Gate::new());
    let machine = bridge.machine().with_agent("fake", &gate.acp("done")).with("allowAll", true);
    let _daemon = machine.connected();
    let mut ears = bridge.listen();
    bridge.say("t", "one");
    let engine = gate.next();
    bridge.say("u", "other");
    let told = ears.expect("u", "status", "Waits until thread `t` has finished writing in");
    let project = machine.project().canonicalize().unwrap();
    assert!(told.contains(project.to_str().unwrap()), "{told}");
    assert!(gate.is_empty());
    drop(engine);
    ears.expect("t", "result", "done");
    drop(gate.next());
    ears.expect("u", "result", "done");
}

#[test]
fn in_parallel_they_do_not_wait() {
    let (bridge, gate) = (Bridge::start(), Gate::new());
    let machine = bridge.machine().with_agent("fake", &gate.acp("done")).with("allowAll", true);
    let machine = machine.with("parallelInDirectory", true);
    let _daemon = machine.connected();
    bridge.say("t", "one");
    bridge.say("u", "other");
    let _both = [gate.next(), gate.next()];
}

/// Once a new thread waited for the default directory, whichever it had asked for.
#[test]
fn a_new_thread_waits_for_the_directory_that_it_asked_for() {
    let (stage, gate) = (Stage::new(|_, _| false), Gate::new());
    let machine = stage.machine().with_agent("fake", &gate.acp("done")).with("allowAll", true);
    let other = machine.home.path().join("other");
    fs::create_dir(&other).unwrap();
    let machine = machine.with("projectDirs", json!([other]));
    let _daemon = machine.connected();
    let line = stage.stream();
    line.reply("t", "m1", "one");
    let _engine = gate.next();
    let reply = |thread: &str| {
        let reply = json!({
            "threadId": thread, "messageId": thread, "role": "human", "body": "other",
            "agentId": MACHINE, "projectDir": other,
        });
        line.event("reply", &reply.to_string());
    };
    reply("u");
    let _other = gate.next();
    reply("v");
    stage.expect("v", "status", "Waits until thread `u` has finished writing in");
}
