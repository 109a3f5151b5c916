//! What a caller can make the bridge hold in memory: much, but never as much as there are
//! connections, and never many times what was sent.

use std::{net::SocketAddr, sync::Arc};

use crossbeam_channel::{Receiver, Sender, unbounded};
use obto_bridge::serve::http::{
    self, Limits, RequestHandler,
    message::{Head, Request, Response},
};
use serde_json::{Value, json};

use crate::{
    serve::Bridge,
    util::{
        http::{Conn, Events},
        patience,
    },
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

/// Keeps every request until the test lets it go.
struct Holding {
    here: Sender<usize>,
    go: Receiver<()>,
}

impl RequestHandler for Holding {
    type Admitted = ();

    fn admit(&self, _: &Head) -> Result<((), usize), Response> {
        Ok(((), 40 * MB))
    }

    fn handle(&self, (): (), request: Request) -> Response {
        self.here.send(request.body.len()).unwrap();
        patience::recv(&self.go).unwrap();
        Response::json(200, &json!(true))
    }
}

/// Sends the beginning of a body that is announced as so long.
fn begin(addr: SocketAddr, length: usize, sent: usize) -> Conn {
    let mut conn = Conn::open(addr);
    conn.send(format!("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n"));
    conn.send(vec![b' '; sent]);
    conn
}

#[test]
fn large_bodies_share_a_budget_and_small_ones_need_none() {
    let (here, arrived) = unbounded();
    let (let_go, go) = unbounded();
    let limits = Limits { large_bytes: MB, ..Limits::default() };
    let addr = "127.0.0.1:0".parse().unwrap();
    let setup = http::Setup { addr, limits, tls: None, counters: Arc::default() };
    let server = http::HttpServer::start(setup, Arc::new(Holding { here, go })).unwrap();
    let addr = server.addr();
    let wait = |length: usize| assert_eq!(patience::recv(&arrived), Ok(length));
    // What is announced is not held yet.
    let announced: Vec<Conn> = (0..20).map(|_| begin(addr, 30 * MB, 0)).collect();
    let large = 2 * MB - 64 * 1024;
    for _ in 0..2 {
        let mut first = begin(addr, large, large);
        wait(large);
        let refused = begin(addr, large, large).reply().unwrap();
        assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
        let mut small = begin(addr, MB / 2, MB / 2);
        wait(MB / 2);
        for _ in 0..2 {
            let_go.send(()).unwrap();
        }
        assert_eq!((first.reply().unwrap().status, small.reply().unwrap().status), (200, 200));
        // Its room was given back before it was answered.
    }
    drop(announced);
}

#[test]
fn large_answers_share_it_too() {
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
