//! What a start makes of what it finds in the state directory.

use std::{fs, sync::Arc};

use obto_bridge::{
    bridge::wire::{Post, PostKind, Reply},
    ids::{ClientMsgId, ThreadId},
    store::{
        Disk, RealDisk,
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

/// What the damaged part said is not known: the turn may have begun.
#[test]
fn a_message_behind_which_the_journal_is_damaged_is_not_driven_and_its_human_is_told() {
    let bridge = Hosted::start();
    let machine = bridge.machine();
    bridge.make_known(&machine, &["t"]);
    receive(&machine, &["hello"]);
    RealDisk.append(&machine.state_file("journal"), b"this was a record\n").unwrap();
    let _daemon = machine.connected();
    let told = &bridge.until("t", 2)[1];
    assert!(told.contains("Send it again"), "{told}");
    let broken = RealDisk.list(&machine.state_file("broken")).unwrap();
    assert_eq!(RealDisk.read(&broken[0]).unwrap(), b"this was a record\n");
    bridge.say("t", "again");
    assert_eq!(bridge.until("t", 3)[2], echo("again"));
}

#[test]
fn a_journal_of_a_later_version_is_refused_by_name_with_what_to_do() {
    let machine = Machine::new("http://127.0.0.1:9", "obto_0123456789abcdef");
    let later = "obto-bridge journal 2 7829be0b\nwhatever that one writes\n";
    machine.home.put(".agent-bridge-daemon/journal", later);
    let said = ["journal is of version 2", "later obto-bridge", "move the file away"];
    machine.home.run(&["start"]).expect(1, &said);
    machine.home.run(&["journal", "show"]).expect(1, &["version 2"]);
    assert_eq!(fs::read_to_string(machine.state_file("journal")).unwrap(), later);
}

#[test]
fn what_version_0_1_0_left_is_answered_and_sent() {
    let bridge = Hosted::start();
    let machine = bridge.machine();
    bridge.make_known(&machine, &["t"]);
    let reply = json!({
        "threadId": "t", "messageId": "left", "agentId": MACHINE, "role": "human", "author": "ada",
        "body": "left", "createdAt": time::now().to_string(),
    });
    let post = Post::new(
        ThreadId::new("t"),
        PostKind::Status,
        "echo-bridge".to_owned(),
        "what was to be sent".to_owned(),
        ClientMsgId::new("unsent"),
    );
    let reply = json!({ "version": 1, "content": Reply::parse(&reply.to_string()).unwrap() });
    let post = json!({ "version": 1, "content": { "post": post } });
    let files = [("inbox/new", 7, reply), ("outbox", 8, post)];
    for (spool, number, content) in files {
        let name = format!(".agent-bridge-daemon/{spool}/{number:016x}-00000001.json");
        machine.home.put(&name, &content.to_string());
    }
    let _daemon = machine.connected();
    let mut posts = bridge.until("t", 3);
    posts.sort();
    for expected in ["what was to be sent".to_owned(), echo("left")] {
        assert!(posts.contains(&expected), "{posts:#?}");
    }
    assert!(!machine.state_file("inbox").exists());
}
