//! What a start makes of what it finds in the state directory.

use std::{fs, sync::Arc};

use obto_bridge::{
    bridge::wire::Reply,
    store::{
        RealDisk,
        messages::{self, Opened},
    },
    time,
};
use serde_json::json;

use crate::util::{
    daemon::{MACHINE, Machine},
    hosted::{Hosted, echo},
};

/// Puts a message into the inbox, as an earlier daemon did.
fn receive(machine: &Machine, messages: &[&str]) {
    let Opened { inbox, .. } = messages::open(Arc::new(RealDisk), &machine.state_file("")).unwrap();
    for (number, body) in messages.iter().enumerate() {
        let reply = json!({
            "threadId": "t", "messageId": format!("left-{number}"), "agentId": MACHINE,
            "role": "human", "author": "ada", "body": body, "createdAt": time::now().to_string(),
        });
        inbox.put(&Reply::parse(&reply.to_string()).unwrap(), 0).unwrap();
    }
}

#[test]
fn control_words_are_answered_in_the_order_in_which_they_came() {
    let bridge = Hosted::start();
    let machine = bridge.machine();
    bridge.make_known(&machine, &["t"]);
    receive(&machine, &["/help", "/queue", "/status"]);
    let _daemon = machine.connected();
    let posts = bridge.until("t", 4);
    let words = ["`/stop`", "No message waits", "is not running"];
    for (post, word) in posts[1..].iter().zip(words) {
        assert!(post.contains(word), "{word:?}: {posts:#?}");
    }
}

#[test]
fn a_broken_state_file_is_told_on_the_threads_whose_sessions_are_lost() {
    let bridge = Hosted::start();
    let machine = bridge.machine();
    bridge.make_known(&machine, &["t"]);
    machine.home.put(".agent-bridge-daemon/state.json", "{\"bindings\": {\"t\": {\"sess");
    let _daemon = machine.connected();
    bridge.say("t", "and now");
    let posts = bridge.until("t", 3);
    assert!(posts[1].contains("session"), "{posts:#?}");
    assert_eq!(posts[2], echo("and now"));
}

/// The crash came before its binding was written.
#[test]
fn a_thread_that_only_the_inbox_knows_is_caught_up_with() {
    let bridge = Hosted::start();
    let machine = bridge.machine();
    bridge.make_known(&machine, &["t"]);
    fs::remove_file(machine.state_file("state.json")).unwrap();
    receive(&machine, &["left"]);
    bridge.say("t", "missed");
    let _daemon = machine.connected();
    let is_answered = |post: &String| *post == echo("missed");
    bridge.wait(|bridge| bridge.posts("t").iter().any(is_answered));
    let posts = bridge.posts("t");
    let at = |text| posts.iter().position(|post| *post == echo(text));
    assert!(at("left").is_some_and(|left| Some(left) < at("missed")), "{posts:#?}");
}
