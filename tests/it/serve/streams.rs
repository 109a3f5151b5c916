//! Event streams: who hears what, and that nobody misses or hears twice.

use std::{
    thread,
    time::{Duration, Instant},
};

use obto_bridge::serve::store::Retention;
use serde_json::{Value, json};

use crate::{
    serve::{Bridge, account},
    util::{
        http::Events,
        patience::{Patience, check_quick},
    },
};

#[test]
fn a_daemon_hears_replies_in_the_protocols_words() {
    let bridge = Bridge::start();
    let mut stream = bridge.events("?agentId=box&capabilities=claude,%20Codex", None);
    assert_eq!(stream.head.header("content-type"), Some("text/event-stream"));
    assert_eq!(stream.head.header("cache-control"), Some("no-store"));
    assert_eq!(stream.head.header("x-accel-buffering"), Some("no"));
    let hello = stream.expect("hello");
    assert_eq!(hello.data["replay"], "none");
    assert!(hello.data["serverTime"].is_string());
    assert_eq!(hello.data["accepts"], json!(["machine"]));

    // The same machine a second time is the same machine.
    bridge.events("?agentId=box&capabilities=claude,%20Codex,", None).expect("hello");
    let mut patience = Patience::new();
    let machines = loop {
        // A machine is noted after the first words of its stream.
        let machines = bridge.get("/api/bridge/machines").ok();
        if machines["machines"] != json!([]) || !patience.pause() {
            break machines;
        }
    };
    assert_eq!(machines["machines"].as_array().unwrap().len(), 1);
    assert_eq!(machines["machines"][0]["agentId"], "box");
    assert_eq!(machines["machines"][0]["capabilities"], json!(["claude", "codex"]));

    let sent = bridge.reply("t", "one");
    let event = stream.expect("reply");
    let expected = json!({
        "threadId": "t", "messageId": sent["messageId"], "author": "ada", "role": "human",
        "body": "one", "createdAt": sent["createdAt"], "agent": null, "agentId": null,
        "attachmentIds": [], "externalAdoption": null, "via": "token",
    });
    assert_eq!(event.data, expected);

    // What daemons and browsers do to the thread is not told to daemons, but seen in the next reply.
    let claim = json!({ "threadId": "t", "agentId": "box" });
    bridge.post("/api/bridge/thread/claim", &claim).ok();
    bridge.post("/api/bridge/thread/agent", &json!({ "threadId": "t", "agent": "CODEX" })).ok();
    let post = json!({ "threadId": "t", "body": "b", "kind": "status", "author": "a" });
    bridge.post("/api/message", &post).ok();
    bridge.reply("t", "two");
    let event = stream.expect("reply");
    assert_eq!((&event.data["agentId"], &event.data["agent"]), (&json!("box"), &json!("codex")));
}

#[test]
fn a_browser_hears_everything() {
    let bridge = Bridge::start();
    let mut stream = bridge.events("", None);
    stream.expect("hello");
    bridge.reply("t", "one");
    let thread = stream.expect("thread").data;
    assert_eq!((&thread["threadId"], &thread["change"]), (&json!("t"), &json!("created")));
    let reply = stream.expect("reply").data;
    assert_eq!((&reply["body"], &reply["html"]), (&json!("one"), &json!("<p>one</p>\n")));
    let claim = json!({ "threadId": "t", "agentId": "box" });
    bridge.post("/api/bridge/thread/claim", &claim).ok();
    assert_eq!(stream.expect("claimed").data, json!({ "threadId": "t", "agentId": "box" }));
    let working = json!({ "threadId": "t", "state": "working" });
    bridge.post("/api/bridge/agent-activity", &working).ok();
    let activity = stream.expect("activity");
    assert_eq!((activity.id, &activity.data["state"]), (None, &json!("working")));
    assert!(activity.data["since"].is_string());
    let post = json!({ "threadId": "t", "body": "b", "kind": "status", "author": "a" });
    bridge.post("/api/message", &post).ok();
    assert_eq!(stream.expect("message").data["kind"], "status");
    assert_eq!(bridge.get("/api/bridge/machines").ok()["machines"], json!([]));
}

#[test]
fn streams_are_silent_about_other_accounts() {
    let bridge = Bridge::start();
    let other = account(&bridge.server, "bob");
    let mut stream = Events::open(bridge.server.addr(), &other, "", None);
    stream.expect("hello");
    bridge.reply("t", "private");
    let body = json!({ "threadId": "u", "body": "own" });
    bridge.conn().request("POST", "/api/reply", &other, Some(&body)).ok();
    stream.expect("thread");
    assert_eq!(stream.expect("reply").data["body"], "own");
}

#[test]
fn what_was_missed_is_replayed() {
    let bridge = Bridge::start();
    let mut stream = bridge.events("?agentId=box", None);
    let start = stream.expect("hello").id;
    drop(stream);
    for n in 0..3 {
        bridge.reply("t", &n.to_string());
    }
    let mut stream = bridge.events("?agentId=box", start);
    assert_eq!(stream.expect("hello").data["replay"], "complete");
    let heard: Vec<Value> = (0..3).map(|_| stream.expect("reply").data["body"].clone()).collect();
    assert_eq!(heard, ["0", "1", "2"]);
    bridge.reply("t", "3");
    assert_eq!(stream.expect("reply").data["body"], "3");
}

#[test]
fn what_is_no_longer_kept_is_admitted() {
    let retention = Retention { events: 32, ..Retention::default() };
    let bridge = Bridge::with(|options| options.retention = retention);
    for n in 0..100 {
        bridge.reply("t", &n.to_string());
    }
    let id = bridge.events("", None).expect("hello").id.unwrap();
    let (epoch, newest) = id.split_once('-').unwrap();
    let replay = |last: &str| {
        let hello = bridge.events("?agentId=box", Some(last.to_owned())).expect("hello");
        hello.data["replay"].as_str().unwrap().to_owned()
    };
    assert_eq!(replay(&id), "complete");
    assert_eq!(replay(&format!("{epoch}-1")), "gap");
    assert_eq!(replay(&format!("{epoch}-1000000")), "gap");
    // Not ours: of another file, of an older version, of nobody.
    let foreign = epoch.chars().rev().collect::<String>();
    for last in [&format!("{foreign}-{newest}"), newest, "-5", "-", &format!("{epoch}--1"), "é"] {
        assert_eq!(replay(last), "gap", "{last}");
    }
    // The newest 32 are there, in order.
    let mut stream = bridge.events("?agentId=box", Some(format!("{epoch}-1")));
    stream.expect("hello");
    for n in 68..100 {
        assert_eq!(stream.expect("reply").data["body"], n.to_string());
    }
}

/// The number in an event's id.
fn number(id: Option<&str>) -> i64 {
    id.unwrap().rsplit('-').next().unwrap().parse().unwrap()
}

/// Subscribers that come back at random while several post: each hears each event exactly once.
#[test]
fn nothing_is_missed_or_doubled_across_reconnects() {
    const POSTERS: usize = 3;
    const EACH: usize = 60;
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let bridge = Bridge::start();
    let start = bridge.events("?agentId=box", None).expect("hello").id;
    thread::scope(|scope| {
        for poster in 0..POSTERS {
            let bridge = &bridge;
            scope.spawn(move || {
                for n in 0..EACH {
                    bridge.reply(&format!("t{poster}"), &format!("{poster}-{n}"));
                }
            });
        }
        for listener in 0..3 {
            let (bridge, start) = (&bridge, &start);
            let mut random = fastrand::Rng::with_seed(seed + listener);
            scope.spawn(move || {
                let (mut last, mut heard) = (start.clone(), Vec::new());
                while heard.len() < POSTERS * EACH {
                    let mut stream = bridge.events("?agentId=box", last.clone());
                    let hello = stream.expect("hello");
                    assert_eq!((&hello.id, &hello.data["replay"]), (&last, &json!("complete")));
                    for _ in 0..random.usize(0..20).min(POSTERS * EACH - heard.len()) {
                        let event = stream.expect("reply");
                        assert!(
                            number(last.as_deref()) < number(event.id.as_deref()),
                            "order, seed {seed}"
                        );
                        last = event.id;
                        heard.push(event.data["body"].as_str().unwrap().to_owned());
                    }
                }
                for poster in 0..POSTERS {
                    let prefix = format!("{poster}-");
                    let of: Vec<_> = heard.iter().filter(|it| it.starts_with(&prefix)).collect();
                    let expected: Vec<_> = (0..EACH).map(|n| format!("{poster}-{n}")).collect();
                    assert!(of.into_iter().eq(&expected), "seed {seed}: {heard:?}");
                }
            });
        }
    });
}

#[test]
fn who_does_not_read_is_dropped_and_delays_nobody() {
    let bridge = Bridge::start();
    let mut slow = bridge.events("?agentId=slow", None);
    let start = slow.expect("hello").id;
    let mut quick = bridge.events("?agentId=quick", None);
    quick.expect("hello");
    // More than its queue and the socket's buffers hold.
    let body = "x".repeat(100_000);
    for n in 0..400 {
        let begun = Instant::now();
        bridge.reply("t", &format!("{n} {body}"));
        check_quick(begun.elapsed(), Duration::from_secs(5));
        assert!(quick.expect("reply").data["body"].as_str().unwrap().starts_with(&n.to_string()));
    }
    let machines = bridge.get("/api/bridge/machines").ok();
    let machines = machines["machines"].as_array().unwrap();
    let slow_one = machines.iter().find(|it| it["agentId"] == "slow").unwrap();
    assert_eq!(slow_one["connected"], false, "{machines:?}");
    drop(slow);
    // It comes back and gets all of it.
    let mut slow = bridge.events("?agentId=slow", start);
    assert_eq!(slow.expect("hello").data["replay"], "complete");
    for n in 0..400 {
        assert!(slow.expect("reply").data["body"].as_str().unwrap().starts_with(&n.to_string()));
    }
}

#[test]
fn a_silent_stream_has_a_heartbeat_and_an_abandoned_one_ends() {
    let bridge = Bridge::with(|options| options.heartbeat = Duration::from_millis(10));
    let mut gone = bridge.events("?agentId=gone", None);
    gone.expect("hello");
    drop(gone);
    let mut stream = bridge.events("?agentId=box", None);
    stream.expect("hello");
    let mut patience = Patience::new();
    loop {
        let machines = bridge.get("/api/bridge/machines").ok();
        let machines = machines["machines"].as_array().unwrap();
        if machines.iter().filter(|it| it["connected"] == true).count() == 1 {
            break;
        }
        assert!(patience.lasts(), "it is listed for ever");
    }
    stream.wait_for_heartbeat();
    bridge.reply("t", "now");
    stream.expect("reply");
}

/// A data directory that was wiped gives out the same numbers again, for other events.
#[test]
fn an_id_of_another_file_is_never_taken_for_ours() {
    let before = Bridge::start();
    let mut stream = before.events("?agentId=box", None);
    stream.expect("hello");
    before.reply("t", "old");
    let last = stream.expect("reply").id;
    let after = Bridge::start();
    after.reply("t", "missed");
    after.reply("t", "missed, too");
    let mut stream = after.events("?agentId=box", last.clone());
    assert_eq!(stream.expect("hello").data["replay"], "gap");
    // It goes on from here: nothing of the other file's past is replayed as if it were its own.
    after.reply("t", "new");
    let event = stream.expect("reply");
    assert_eq!(event.data["body"], "new");
    assert_ne!(event.id.unwrap().split('-').next(), last.as_ref().unwrap().split('-').next());
}
