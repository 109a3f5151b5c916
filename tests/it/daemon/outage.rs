//! The bridge goes away and comes back; the token changes.

use super::Bridge;
use crate::util::{
    daemon::Stage,
    fake::Gate,
    http::{Conn, Events},
};

#[test]
fn an_answer_waits_for_the_bridge_and_is_posted_once() {
    let (mut bridge, gate) = (Bridge::start(), Gate::new());
    let machine = bridge.machine().with_agent("fake", &gate.acp("done"));
    let mut daemon = machine.connected();
    bridge.say("t", "hello");
    let engine = gate.next();
    bridge.down();
    drop(engine);
    daemon.log("/api/message");
    assert_eq!(machine.left()[2], 1);
    bridge.up();
    let mut ears = bridge.listen();
    assert_eq!(bridge.until(&mut ears, "t", 1), ["done"]);
    // The stream is back, too.
    bridge.say("t", "again");
    drop(gate.next());
    assert_eq!(bridge.until(&mut ears, "t", 2), ["done", "done"]);
    daemon.stop();
    assert_eq!(machine.left()[2], 0);
}

#[test]
fn what_was_said_meanwhile_is_heard_after_the_reconnect() {
    let mut bridge = Bridge::start();
    let machine = bridge.machine();
    let mut daemon = machine.connected();
    let mut ears = bridge.listen();
    bridge.say("t", "one");
    ears.echo("t", "one");
    daemon.stop();
    bridge.say("t", "two");
    bridge.down();
    bridge.up();
    daemon = machine.start();
    let mut ears = bridge.listen();
    assert!(bridge.until(&mut ears, "t", 2)[1].ends_with("two"));
    daemon.log("connected to the bridge");
}

#[test]
fn a_new_token_is_used_without_a_restart() {
    let bridge = Bridge::start();
    let machine = bridge.machine();
    let mut daemon = machine.connected();
    machine.home.run(&["rotate-token"]).expect(0, &[]);
    let config = machine.home.read_config();
    let token = config["apiToken"].as_str().unwrap();
    assert_ne!(token, bridge.token);
    // The old one is dead, and so is the stream that was opened with it.
    daemon.log("connected to the bridge");
    let mut ears = Events::open(bridge.addr, token, "", None);
    ears.expect("hello");
    let hello = serde_json::json!({ "threadId": "t", "body": "hello" });
    Conn::open(bridge.addr).request("POST", "/api/reply", token, Some(&hello)).ok();
    let post = std::iter::from_fn(|| ears.next()).find(|event| event.name == "message").unwrap();
    assert_eq!(post.data["body"], "Echo agent (no model): You said: hello");
    assert!(!daemon.logged().contains(token));
}

#[test]
fn the_place_in_the_stream_outlives_the_daemon() {
    let stage = Stage::new(|_, _| false);
    let machine = stage.machine();
    let daemon = machine.start();
    let line = stage.stream();
    assert_eq!(line.seen.header("last-event-id"), None);
    line.raw("id: 41\nevent: hello\ndata: {}\n\nid: 42\n");
    line.reply("t", "m", "hello");
    stage.expect("t", "result", "hello");
    daemon.stop();
    let daemon = machine.start();
    assert_eq!(stage.stream().seen.header("last-event-id"), Some("42"));
    daemon.kill();
}
