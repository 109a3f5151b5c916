//! Two daemons of one name: the second is refused as long as the first is there, and told what to do.

use std::{thread, time::Duration};

use serde_json::Value;

use crate::{
    serve::{Bridge, account},
    util::{
        http::{Conn, Events, Reply},
        patience::Patience,
    },
};

/// Asks for a stream that may be refused.
fn ask(bridge: &Bridge, query: &str) -> (Conn, Reply) {
    let mut conn = bridge.conn();
    conn.send(format!(
        "GET /api/bridge/stream{query} HTTP/1.1\r\nHost: localhost\r\n\
         Authorization: Bearer {}\r\nAccept: text/event-stream\r\n\r\n",
        bridge.token
    ));
    let head = conn.reply_head().unwrap();
    (conn, head)
}

#[track_caller]
fn refused(bridge: &Bridge, query: &str) -> Value {
    let (mut conn, head) = ask(bridge, query);
    assert_eq!(head.status, 409);
    assert_eq!(head.header("retry-after"), Some("15"));
    conn.body_of(head).json()
}

fn connected(bridge: &Bridge, query: &str) -> Events {
    let mut stream = bridge.events(query, None);
    stream.expect("hello");
    stream
}

fn machine(bridge: &Bridge) -> Value {
    bridge.get("/api/bridge/machines").ok()["machines"][0].take()
}

#[test]
fn a_second_daemon_of_one_name_is_refused() {
    let bridge = Bridge::start();
    let mut page = connected(&bridge, "");
    let mut first = connected(&bridge, "?agentId=box&instance=a1");
    assert_eq!(page.expect("machine").data["conflictAt"], Value::Null);
    let answer = refused(&bridge, "?agentId=box&instance=b2");
    assert_eq!(answer["ok"], false);
    let error = answer["error"].as_str().unwrap();
    assert!(error.contains("\"box\"") && error.contains("another agentId"), "{error}");
    // People see it, too.
    let told = page.expect("machine").data;
    assert!(told["conflictAt"].is_string(), "{told}");
    assert_eq!(machine(&bridge)["conflictAt"], told["conflictAt"]);
    // It is refused with a position as well, and the first goes on.
    refused(&bridge, "?agentId=box&capabilities=x&instance=b2");
    bridge.reply("t", "one");
    first.expect("reply");
    // Another name, another account, and the reference, which names no instance, are all welcome.
    connected(&bridge, "?agentId=attic&instance=b2");
    connected(&bridge, "?agentId=box");
    let other = account(&bridge.server, "bob");
    let mut stream = Events::open(bridge.server.addr(), &other, "?agentId=box&instance=b2", None);
    stream.expect("hello");
    // And a daemon beside the reference.
    connected(&bridge, "?agentId=reference");
    connected(&bridge, "?agentId=reference&instance=a1");
}

#[test]
fn the_name_is_free_as_soon_as_its_daemon_has_gone() {
    // No heartbeat notices it here.
    let bridge = Bridge::with(|options| options.heartbeat = Duration::from_hours(1));
    let first = connected(&bridge, "?agentId=box&instance=a1");
    drop(first);
    let mut patience = Patience::new();
    loop {
        let (mut conn, head) = ask(&bridge, "?agentId=box&instance=b2");
        if head.status == 200 {
            break;
        }
        assert!(patience.lasts(), "it is still refused");
        conn.body_of(head);
        thread::yield_now();
    }
}

#[test]
fn a_daemon_that_comes_back_replaces_its_own_stream() {
    let bridge = Bridge::with(|options| options.heartbeat = Duration::from_hours(1));
    let mut old = connected(&bridge, "?agentId=box&instance=a1");
    let mut new = connected(&bridge, "?agentId=box&instance=a1");
    assert_eq!(old.chunk(), None, "it has ended");
    bridge.reply("t", "one");
    new.expect("reply");
    assert_eq!(machine(&bridge)["connected"], true);
    refused_at(&bridge, "?agentId=box&instance=b2");
}

/// With another heartbeat, another time to come back.
#[track_caller]
fn refused_at(bridge: &Bridge, query: &str) {
    assert_eq!(ask(bridge, query).1.status, 409);
}

/// Of two that come at the same moment one gets in.
#[test]
fn of_two_at_once_one_gets_in() {
    let bridge = Bridge::with(|options| options.heartbeat = Duration::from_secs(1));
    for round in 0..20 {
        let come = &|instance: u32| {
            let query = format!("?agentId=box{round}&instance={instance}");
            let (conn, head) = ask(&bridge, &query);
            // The loser of a close race is let in, and its stream ends before its first event.
            let mut stream = Events { conn, head };
            (stream.head.status == 200 && stream.next().is_some()).then_some(stream)
        };
        let streams: Vec<Option<Events>> = thread::scope(|scope| {
            let tasks: Vec<_> =
                (0..4).map(|instance| scope.spawn(move || come(instance))).collect();
            tasks.into_iter().map(|task| task.join().unwrap()).collect()
        });
        assert_eq!(streams.iter().flatten().count(), 1, "round {round}");
    }
}
