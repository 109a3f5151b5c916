//! What each route answers when all is well, and when a request is well-formed but wrong.

use std::{sync::Barrier, thread};

use serde_json::{Value, json};

use crate::serve::{Bridge, bodies};

#[test]
fn a_conversation_from_both_sides() {
    let bridge = Bridge::start();
    let reply = bridge.post("/api/reply", &json!({ "body": "Hello\nthere", "agent": " Codex " }));
    let thread = reply.ok()["threadId"].as_str().unwrap().to_owned();
    let answer = bridge
        .post(
            "/api/message",
            &json!({ "threadId": thread, "body": "Hi", "kind": "result",
                     "author": "codex-bridge", "role": "agent" }),
        )
        .ok();
    let message = &answer["message"];
    assert_eq!(message["_id"], message["messageId"]);
    assert_eq!(message["role"], "agent");
    assert_eq!(message["attachments"], json!([]));

    let all = bridge.get(&format!("/api/messages?threadId={thread}")).ok();
    assert_eq!(bodies(&all), ["Hello\nthere", "Hi"]);
    assert_eq!(all["messages"][0]["author"], "ada");
    assert_eq!(all["messages"][0]["kind"], Value::Null);

    let threads = bridge.get("/api/threads").ok();
    let listed = &threads["threads"][0];
    assert_eq!(listed["title"], "Hello");
    assert_eq!(listed["agent"], "codex");
    assert_eq!(listed["agentId"], Value::Null);
    let last =
        json!({ "author": "codex-bridge", "role": "agent", "kind": "result", "preview": "Hi" });
    assert_eq!(listed["last"], last);
    assert_eq!(listed["lastAt"], message["createdAt"]);
}

#[test]
fn messages_are_read_in_pages_without_holes() {
    let bridge = Bridge::start();
    let sent: Vec<Value> = (0..20).map(|n| bridge.reply("t", &n.to_string())).collect();
    let times: Vec<&str> = sent.iter().map(|it| it["createdAt"].as_str().unwrap()).collect();
    assert!(times.is_sorted_by(|a, b| a < b), "{times:?}");
    assert!(sent.is_sorted_by(|a, b| a["messageId"].as_str() < b["messageId"].as_str()));

    let read = |query: &str| bridge.get(&format!("/api/messages?threadId=t&{query}")).ok();
    let page = read(&format!("since={}", times[16]));
    assert_eq!((bodies(&page), &page["more"]), (vec!["17", "18", "19"], &json!(false)));
    let page = read(&format!("since={}&limit=2", times[16]));
    assert_eq!((bodies(&page), &page["more"]), (vec!["17", "18"], &json!(true)));
    let page = read(&format!("before={}&limit=3", times[10]));
    assert_eq!((bodies(&page), &page["more"]), (vec!["7", "8", "9"], &json!(true)));
    let page = read("limit=2");
    assert_eq!(bodies(&page), ["18", "19"]);
    assert_eq!(bodies(&read(&format!("since={}", times[19]))), [""; 0]);
}

#[test]
fn an_answer_stays_within_its_size_and_says_so() {
    let bridge = Bridge::start();
    let long = "x".repeat(1024 * 1024);
    for _ in 0..10 {
        bridge.reply("t", &long);
    }
    let page = bridge.get("/api/messages?threadId=t&since=1970-01-01T00:00:00Z").ok();
    assert_eq!((bodies(&page).len(), &page["more"]), (8, &json!(true)));
}

#[test]
fn wrong_fields_are_named() {
    let bridge = Bridge::start();
    bridge.reply("t", "hello");
    let check = |path: &str, body: Value, status: u16, field: &str| {
        let reply = bridge.post(path, &body);
        let answer = reply.json();
        assert_eq!((reply.status, answer["ok"].as_bool()), (status, Some(false)), "{body}");
        assert_eq!(answer["field"].as_str().unwrap_or_default(), field, "{body}: {answer}");
    };
    let message = |key: &str, value: Value| {
        let mut body = json!({ "threadId": "t", "body": "b", "kind": "result", "author": "a" });
        body[key] = value;
        body
    };
    check("/api/message", message("threadId", json!(7)), 400, "threadId");
    check("/api/message", message("threadId", json!(" ")), 400, "threadId");
    check("/api/message", message("threadId", json!("x".repeat(201))), 413, "threadId");
    check("/api/message", message("threadId", json!("unknown")), 404, "");
    check("/api/message", message("body", Value::Null), 400, "body");
    check("/api/message", message("body", json!(["b"])), 400, "body");
    check("/api/message", message("body", json!("x".repeat(1024 * 1024 + 1))), 413, "body");
    check("/api/message", message("kind", json!("shout")), 400, "kind");
    check("/api/message", message("author", json!("a\u{7}")), 400, "author");
    check("/api/message", message("role", json!("human")), 400, "role");
    check("/api/message", message("clientMsgId", json!({})), 400, "clientMsgId");
    check("/api/message", json!([]), 400, "");
    check("/api/reply", json!({ "threadId": "t" }), 400, "body");
    check("/api/reply", json!({ "threadId": "t", "body": " \n" }), 400, "body");
    check("/api/reply", json!({ "body": "b", "agent": 1 }), 400, "agent");
    check("/api/reply", json!({ "body": "b", "attachmentIds": "a" }), 400, "attachmentIds");
    check("/api/reply", json!({ "body": "b", "attachmentIds": ["a"] }), 400, "attachmentIds");
    check("/api/bridge/thread/claim", json!({ "threadId": "t" }), 400, "agentId");
    check("/api/bridge/thread/claim", json!({ "threadId": "x", "agentId": "box" }), 404, "");
    check("/api/bridge/thread/agent", json!({ "threadId": "x", "agent": "codex" }), 404, "");
    check("/api/bridge/agent-activity", json!({ "threadId": "t", "state": "x" }), 400, "state");
    check("/api/bridge/agent-activity", json!({ "threadId": "x", "state": "idle" }), 404, "");
    check("/api/bridge/external/sync", json!({}), 400, "agentId");
    check("/api/bridge/nothing", json!({}), 404, "");

    for (query, field) in [
        ("", "threadId"),
        ("threadId=t&since=yesterday", "since"),
        ("threadId=t&before=x", "before"),
        ("threadId=t&limit=0", "limit"),
        ("threadId=t&limit=-1", "limit"),
        ("threadId=t&since=2026-01-01T00:00:00Z&before=2026-01-01T00:00:00Z", "since"),
    ] {
        let reply = bridge.get(&format!("/api/messages?{query}"));
        assert_eq!((reply.status, reply.json()["field"].as_str()), (400, Some(field)), "{query}");
    }
    assert_eq!(bridge.get("/api/messages?threadId=x").status, 404);
    assert_eq!(bridge.get("/api/bridge/attachment/7").status, 404);
    assert_eq!(bridge.get("/api/bridge/stream?agentId=%0a").status, 400);
}

#[test]
fn the_longest_message_is_taken_in_any_script() {
    let bridge = Bridge::start();
    let body = "語".repeat(1024 * 1024);
    assert_eq!(bridge.reply("t", &body)["body"], body);
}

#[test]
fn a_repeated_post_is_stored_once_also_at_the_same_time() {
    let bridge = Bridge::start();
    let post = |n: usize| {
        let body = format!("version {n}");
        let body = json!({ "threadId": "t", "body": body, "clientMsgId": "once" });
        bridge.post("/api/reply", &body).ok()["message"].take()
    };
    let start = Barrier::new(16);
    let stored: Vec<Value> = thread::scope(|scope| {
        let posts: Vec<_> = (0..16)
            .map(|n| {
                let start = &start;
                scope.spawn(move || {
                    start.wait();
                    post(n)
                })
            })
            .collect();
        posts.into_iter().map(|it| it.join().unwrap()).collect()
    });
    assert!(stored.iter().all(|it| *it == stored[0]), "{stored:?}");
    assert_eq!(bodies(&bridge.get("/api/messages?threadId=t").ok()).len(), 1);
}

#[test]
fn of_many_machines_exactly_one_wins_a_thread() {
    let bridge = Bridge::start();
    for round in 0..5 {
        let thread = format!("t{round}");
        bridge.reply(&thread, "who?");
        let start = Barrier::new(16);
        let answers: Vec<(String, Value)> = thread::scope(|scope| {
            let claims: Vec<_> = (0..16)
                .map(|n| {
                    let (bridge, start, thread) = (&bridge, &start, &thread);
                    scope.spawn(move || {
                        let machine = format!("box{n}");
                        let body = json!({ "threadId": thread, "agentId": machine });
                        let mut conn = bridge.conn();
                        start.wait();
                        let path = "/api/bridge/thread/claim";
                        (machine, conn.request("POST", path, &bridge.token, Some(&body)).ok())
                    })
                })
                .collect();
            claims.into_iter().map(|it| it.join().unwrap()).collect()
        });
        let won: Vec<_> = answers.iter().filter(|(_, answer)| answer["won"] == true).collect();
        assert_eq!(won.len(), 1, "{answers:?}");
        assert!(answers.iter().all(|(_, answer)| answer["winner"] == *won[0].0));
        // Its own second claim changes nothing, and says who has it.
        let body = json!({ "threadId": thread, "agentId": won[0].0 });
        let again = bridge.post("/api/bridge/thread/claim", &body).ok();
        assert_eq!(again, json!({ "ok": true, "won": false, "winner": won[0].0 }));
    }
}

#[test]
fn methods_and_heads() {
    let bridge = Bridge::start();
    let mut conn = bridge.conn();
    for (method, path, status, allow) in [
        ("POST", "/api/threads", 405, Some("GET, HEAD")),
        ("GET", "/api/reply", 405, Some("POST")),
        ("BREW", "/api/threads", 405, Some("GET, HEAD")),
        ("OPTIONS", "/api/reply", 405, Some("POST")),
        ("BREW", "/nowhere", 404, None),
        ("GET", "/healthz", 200, None),
    ] {
        let reply = conn.request(method, path, &bridge.token, None);
        assert_eq!((reply.status, reply.header("allow")), (status, allow), "{method} {path}");
    }
    let auth = &bridge.token;
    conn.send(format!(
        "HEAD /api/threads HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {auth}\r\n\r\n"
    ));
    let head = conn.reply_head().unwrap();
    let whole = conn.request("GET", "/api/threads", auth, None);
    assert_eq!(head.header("content-length"), whole.header("content-length"));
}
