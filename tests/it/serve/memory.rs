//! What a caller can make the bridge hold in memory: much, but never as much as there are
//! connections, and never many times what was sent.

use std::time::{Duration, Instant};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use crate::{
    serve::Bridge,
    util::http::{Conn, Events},
};

const MB: usize = 1024 * 1024;

/// The beginning of a POST, up to its body.
fn head(bridge: &Bridge, path: &str, length: usize) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\
         Content-Length: {length}\r\n\r\n",
        bridge.token
    )
}

fn send(bridge: &Bridge, path: &str, body: &str) -> (u16, Value) {
    let mut conn = bridge.conn();
    conn.send(head(bridge, path, body.len()) + body);
    let reply = conn.reply().unwrap();
    (reply.status, reply.json())
}

/// Eight bytes of text would be hundreds in memory.
#[test]
fn a_body_of_many_small_values_is_not_parsed() {
    let bridge = Bridge::start();
    for value in ["{\"\":0}", "0", "[]", "\"\""] {
        let list = vec![value; 30_000].join(",");
        let body = format!("{{\"threadId\":\"t\",\"body\":\"b\",\"x\":[{list}]}}");
        let (status, answer) = send(&bridge, "/api/reply", &body);
        assert_eq!(
            (status, &answer["error"]),
            (413, &json!("the request body has too many values"))
        );
    }
    let list = vec!["\"a,{[\\\"\""; 20_000].join(",");
    let body = format!("{{\"threadId\":\"t\",\"body\":\"b\",\"x\":[{list}]}}");
    assert_eq!(send(&bridge, "/api/reply", &body).0, 200);
}

/// The longest report that the protocol has is taken all the same.
#[test]
fn a_report_of_a_thousand_sessions_is_read() {
    let bridge = Bridge::start();
    let turn = json!({ "role": "user", "body": "b", "ts": "2026-01-01T00:00:00Z" });
    let session = |n: usize| {
        json!({
            "source": "claude", "sessionId": format!("s{n}"), "projectDir": "/p",
            "projectName": "p", "title": "t", "lastActivityAt": "2026-01-01T00:00:00Z",
            "lastMessagePreview": "b", "lastMessageAuthor": "a", "recentMessages": vec![&turn; 10],
        })
    };
    let sessions: Vec<Value> = (0..1000).map(session).collect();
    let present: Vec<String> = (0..100_000).map(|n| format!("s{n}")).collect();
    let report = json!({ "agentId": "box", "sessions": sessions, "presentSessionIds": present });
    assert_eq!(bridge.post("/api/bridge/external/sync", &report).ok()["count"], 1000);
}

#[test]
fn a_route_takes_no_longer_body_than_it_needs() {
    let bridge = Bridge::start();
    for (path, length, expected) in [
        ("/api/thread/rename", 17_000, 413),
        ("/api/bridge/thread/claim", 17_000, 413),
        ("/api/bridge/external/adopt", 17_000, 413),
        ("/api/bridge/machine", 300_000, 413),
        ("/api/reply", 9 * MB, 413),
        ("/api/bridge/external/sync", 9 * MB, 413),
        ("/api/bridge/external/backfill", 33 * MB, 413),
        ("/api/bridge/attachment/upload", 37 * MB, 413),
    ] {
        let mut conn = bridge.conn();
        conn.send(head(&bridge, path, length));
        assert_eq!(conn.reply().unwrap().status, expected, "{path}");
    }
    // Nor does a question that has none.
    let mut conn = bridge.conn();
    conn.send(head(&bridge, "/api/threads", 17_000).replacen("POST", "GET", 1));
    assert_eq!(conn.reply().unwrap().status, 413);
}

/// Sends a part of an upload and waits until the bridge has read it.
fn begin_upload(bridge: &Bridge, length: usize, sent: usize) -> Conn {
    let mut conn = bridge.conn();
    conn.send(head(bridge, "/api/bridge/attachment/upload", length));
    conn.send(vec![b' '; sent]);
    conn
}

/// Whether the bridge has no room for this one.
fn is_refused(conn: &mut Conn) -> bool {
    conn.socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    if conn.socket.peek(&mut [0]).is_err() {
        return false;
    }
    let reply = conn.reply().unwrap();
    assert_eq!((reply.status, reply.header("retry-after")), (503, Some("1")));
    true
}

#[test]
fn large_bodies_share_a_budget_and_small_ones_need_none() {
    let bridge = Bridge::with(|options| options.limits.large_bytes = 4 * MB);
    // Announced is not yet held.
    let waiting: Vec<Conn> = (0..20).map(|_| begin_upload(&bridge, 30 * MB, 0)).collect();
    // Without its last byte it keeps what it has. Another one that wants as much is refused then; if
    // that came too early and took its room, it is the first that is refused, and they change places.
    let mut held = begin_upload(&bridge, 4 * MB, 4 * MB - 1);
    loop {
        let mut other = begin_upload(&bridge, 4 * MB, 4 * MB - 1);
        match (is_refused(&mut other), is_refused(&mut held)) {
            (true, false) => break,
            (false, true) => held = other,
            // Both, or none yet.
            _ => held = begin_upload(&bridge, 4 * MB, 4 * MB - 1),
        }
    }
    bridge.reply("t", &"x".repeat(MB / 2));
    held.send(" ");
    assert_eq!(held.reply().unwrap().status, 400, "it is read, and is no JSON");
    drop(waiting);
    // What was held is given back: by the one that was answered, and by those that were refused.
    let picture = [&b"GIF89a\x01\0\x01\0"[..], &vec![0; 2 * MB]].concat();
    let data = BASE64_STANDARD.encode(&picture);
    let upload = json!({ "name": "a", "data": data });
    let deadline = Instant::now() + Duration::from_secs(10);
    let answer = loop {
        // Those that were dropped may not have been seen to be gone.
        let answer = bridge.post("/api/bridge/attachment/upload", &upload);
        if answer.status == 200 {
            break answer.json();
        }
        assert!(answer.status == 503 && Instant::now() < deadline, "{}", answer.status);
    };
    let id = &answer["attachmentId"];
    // Answers have to share it, too.
    let path = format!("/api/bridge/attachment/{}", id.as_str().unwrap());
    assert_eq!(bridge.get(&path).body, picture);
    let bridge = Bridge::with(|options| options.limits.large_bytes = 0);
    for _ in 0..3 {
        bridge.reply("t", &"x".repeat(400_000));
    }
    assert_eq!(bridge.get("/api/messages?threadId=t").status, 503);
    assert_eq!(bridge.get("/api/messages?threadId=t&limit=2").status, 200);
}

/// A queue has a bound in bytes as well: 256 messages may be hundreds of megabytes.
#[test]
fn a_stream_that_lags_behind_large_messages_is_dropped() {
    let bridge = Bridge::start();
    let mut reader = Events::open(bridge.server.addr(), &bridge.token, "", None);
    let hello = reader.expect("hello");
    let body = "x".repeat(MB);
    let mut sent = 0;
    while !metrics(&bridge).contains("obto_bridge_streams_dropped_total 1\n") {
        bridge.reply("t", &body);
        sent += 1;
        assert!(sent < 100, "the slow reader is still listed");
    }
    assert!(16 <= sent, "it may lag a little: {sent}");
    drop(reader);
    // It comes back and reads on from the store.
    let mut reader = bridge.events("", hello.id);
    assert_eq!(reader.expect("hello").data["replay"], "complete");
}

fn metrics(bridge: &Bridge) -> String {
    String::from_utf8(bridge.get("/metrics").body).unwrap()
}
