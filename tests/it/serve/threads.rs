//! The list of threads and what is done to threads as a whole; questions and their ends.

use serde_json::{Value, json};

use crate::{
    serve::{Bridge, account, bodies},
    util::{http::Events, patience::Patience},
};

fn list(bridge: &Bridge, query: &str) -> Value {
    bridge.get(&format!("/api/threads{query}")).ok()
}

fn ids(answer: &Value) -> Vec<&str> {
    let threads = answer["threads"].as_array().unwrap();
    threads.iter().map(|it| it["threadId"].as_str().unwrap()).collect()
}

/// The one thread of the account.
fn only(bridge: &Bridge) -> Value {
    list(bridge, "")["threads"][0].take()
}

#[track_caller]
fn say(bridge: &Bridge, thread: &str, kind: &str, more: Value) -> Value {
    let mut post = json!({ "threadId": thread, "body": "b", "kind": kind, "author": "a" });
    post.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    bridge.post("/api/message", &post).ok()["message"].take()
}

/// A browser's stream, past its hello.
fn listen(bridge: &Bridge) -> Events {
    let mut stream = bridge.events("", None);
    stream.expect("hello");
    stream
}

#[test]
fn threads_are_listed_in_pages() {
    let bridge = Bridge::start();
    for n in 0..7 {
        bridge.reply(&format!("t{n}"), "hello");
    }
    bridge.reply("t2", "again");
    let (mut seen, mut times) = (Vec::new(), Vec::new());
    let mut query = "?limit=3".to_owned();
    loop {
        let page = list(&bridge, &query);
        seen.extend(ids(&page).into_iter().map(str::to_owned));
        let last_at = |it: &Value| it["lastAt"].as_str().unwrap().to_owned();
        times.extend(page["threads"].as_array().unwrap().iter().map(last_at));
        if page["more"] == false {
            assert_eq!(page["next"], Value::Null);
            break;
        }
        assert_eq!(page["next"].as_str(), times.last().map(String::as_str));
        query = format!("?limit=3&before={}", times.last().unwrap());
    }
    // Those of one millisecond may stand in any order, but none is missing or there twice.
    assert!(times.is_sorted_by(|a, b| b <= a), "{times:?}");
    seen.sort();
    assert_eq!(seen, ["t0", "t1", "t2", "t3", "t4", "t5", "t6"]);
    assert_eq!(bridge.get("/api/threads?before=x").json()["field"], "before");
    assert_eq!(bridge.get("/api/threads?limit=x").json()["field"], "limit");
}

#[test]
fn a_thread_is_found_by_its_title_or_what_was_said() {
    let bridge = Bridge::start();
    bridge.reply("a", "Fix the Überlauf\nin main.rs");
    bridge.reply("b", "something else 100% sure_of it");
    say(&bridge, "b", "result", json!({ "body": "done: see MAIN.rs\n".repeat(9) }));
    bridge.post("/api/thread/rename", &json!({ "threadId": "b", "title": "Naïve" })).ok();
    bridge
        .conn()
        .request(
            "POST",
            "/api/reply",
            &account(&bridge.server, "bob"),
            Some(&json!({ "threadId": "c", "body": "main.rs" })),
        )
        .ok();
    for (text, expected) in [
        ("main.rs", vec!["b", "a"]),
        ("%C3%9CBERLAUF", vec!["a"]),
        ("na%C3%AFve", vec!["b"]),
        ("100%25", vec!["b"]),
        ("%25", vec!["b"]),
        ("sure_of", vec!["b"]),
        ("sureXof", vec![]),
        ("'%20OR%201=1--", vec![]),
        ("\"", vec![]),
        ("%20%20", vec!["b", "a"]),
    ] {
        assert_eq!(ids(&list(&bridge, &format!("?q={text}"))), expected, "{text}");
    }
    assert_eq!(ids(&list(&bridge, "?q=main.rs&limit=1")), ["b"]);
    let long = bridge.get(&format!("/api/threads?q={}", "x".repeat(201)));
    assert_eq!((long.status, &long.json()["field"]), (413, &json!("q")));
}

/// What is not found in so much text goes on in the next answer; a word of three characters or more is
/// looked up as soon as the index has all.
#[test]
fn a_search_reads_so_much_at_a_time() {
    let bridge = Bridge::start();
    let long = "x".repeat(1024 * 1024);
    bridge.reply("old", "needle");
    for n in 0..7 {
        for _ in 0..5 {
            bridge.reply(&format!("t{n}"), &long);
        }
    }
    let page = list(&bridge, "?q=ne");
    assert_eq!((ids(&page), &page["more"]), (vec![], &json!(true)));
    let page = list(&bridge, &format!("?q=ne&before={}", page["next"].as_str().unwrap()));
    assert_eq!((ids(&page), &page["more"]), (vec!["old"], &json!(false)));
    let mut patience = Patience::new();
    loop {
        let page = list(&bridge, "?q=needle");
        if (ids(&page), &page["more"]) == (vec!["old"], &json!(false)) {
            break;
        }
        assert_eq!((ids(&page), &page["more"]), (vec![], &json!(true)));
        assert!(patience.pause(), "the index does not get it");
    }
    assert_eq!(list(&bridge, "?q=absent")["more"], false);
}

#[test]
fn what_was_not_read_is_counted() {
    let bridge = Bridge::start();
    bridge.reply("t", "hello");
    assert_eq!(only(&bridge)["unread"], 0, "who writes has read it");
    let first = say(&bridge, "t", "status", json!({}));
    let second = say(&bridge, "t", "result", json!({}));
    assert_eq!(only(&bridge)["unread"], 2);
    let mut stream = listen(&bridge);
    let read =
        |time: &Value| bridge.post("/api/thread/read", &json!({ "threadId": "t", "upTo": time }));
    read(&first["createdAt"]).ok();
    let event = stream.expect("thread");
    assert_eq!((&event.data["change"], &event.data["unread"]), (&json!("read"), &json!(1)));
    assert!(event.id.is_some(), "it is replayed");
    // Not back, not past the end, and no event when nothing changes.
    read(&json!("1970-01-01T00:00:00Z")).ok();
    assert_eq!(only(&bridge)["unread"], 1);
    read(&json!("9999-01-01T00:00:00Z")).ok();
    assert_eq!(stream.expect("thread").data["unread"], 0);
    read(&second["createdAt"]).ok();
    say(&bridge, "t", "result", json!({}));
    stream.expect("message");
    assert_eq!(only(&bridge)["unread"], 1);
    bridge.reply("t", "thanks");
    assert_eq!(only(&bridge)["unread"], 0);
    assert_eq!(read(&json!("soon")).json()["field"], "upTo");
    assert_eq!(read(&Value::Null).json()["field"], "upTo");
}

#[test]
fn a_thread_can_be_renamed() {
    let bridge = Bridge::start();
    bridge.reply("t", "  \n\tHello\u{7}  there \nmore");
    assert_eq!(only(&bridge)["title"], "Hello there");
    let mut stream = listen(&bridge);
    let rename = |title: Value| {
        bridge.post("/api/thread/rename", &json!({ "threadId": "t", "title": title }))
    };
    rename(json!(" <b>New</b> ")).ok();
    let event = stream.expect("thread").data;
    assert_eq!((&event["change"], &event["title"]), (&json!("renamed"), &json!("<b>New</b>")));
    for (title, status) in [
        (json!(""), 400),
        (json!("a\nb"), 400),
        (json!("a\u{0}"), 400),
        (json!(7), 400),
        (Value::Null, 400),
        (json!("x".repeat(201)), 413),
    ] {
        let reply = rename(title);
        assert_eq!((reply.status, &reply.json()["field"]), (status, &json!("title")));
    }
    bridge.post("/api/bridge/thread/agent", &json!({ "threadId": "t", "agent": "Codex" })).ok();
    let event = stream.expect("thread").data;
    assert_eq!((&event["change"], &event["agent"]), (&json!("agent"), &json!("codex")));
}

#[test]
fn a_deleted_thread_is_gone_for_all() {
    let bridge = Bridge::start();
    let start = bridge.events("", None).expect("hello").id;
    bridge.reply("keep", "stays");
    let body = json!({ "threadId": "t", "body": "secret", "clientMsgId": "once" });
    bridge.post("/api/reply", &body).ok();
    say(&bridge, "t", "result", json!({ "clientMsgId": "twice" }));
    let working = json!({ "threadId": "t", "state": "working" });
    bridge.post("/api/bridge/agent-activity", &working).ok();
    let mut stream = listen(&bridge);
    bridge.post("/api/thread/delete", &json!({ "threadId": "t" })).ok();
    let event = stream.expect("thread");
    assert_eq!(event.data, json!({ "threadId": "t", "change": "deleted" }));

    assert_eq!(ids(&list(&bridge, "")), ["keep"]);
    assert_eq!(ids(&list(&bridge, "?q=secret")), [""; 0]);
    assert_eq!(bridge.get("/api/messages?threadId=t").status, 404);
    let unknown = bridge.get("/api/messages?threadId=never").json();
    assert_eq!(bridge.get("/api/messages?threadId=t").json(), unknown);
    for (path, body) in [
        ("/api/reply", body),
        (
            "/api/message",
            json!({ "threadId": "t", "body": "b", "kind": "result", "author": "a",
                                 "clientMsgId": "twice" }),
        ),
        ("/api/bridge/agent-activity", working),
        ("/api/bridge/thread/claim", json!({ "threadId": "t", "agentId": "box" })),
        ("/api/bridge/thread/agent", json!({ "threadId": "t", "agent": "codex" })),
        ("/api/thread/rename", json!({ "threadId": "t", "title": "x" })),
        ("/api/thread/read", json!({ "threadId": "t", "upTo": "2026-01-01T00:00:00Z" })),
        ("/api/thread/delete", json!({ "threadId": "t" })),
    ] {
        assert_eq!(bridge.post(path, &body).status, 404, "{path}");
    }
    // Replay tells of the end alone, and a daemon of nothing.
    let mut stream = bridge.events("", start.clone());
    assert_eq!(stream.expect("hello").data["replay"], "complete");
    assert_eq!(stream.expect("thread").data["threadId"], "keep");
    assert_eq!(stream.expect("reply").data["threadId"], "keep");
    assert_eq!(stream.expect("thread").data["change"], "deleted");
    let mut daemon = bridge.events("?agentId=box", start);
    daemon.expect("hello");
    assert_eq!(daemon.expect("reply").data["threadId"], "keep");
    bridge.reply("keep", "next");
    assert_eq!(daemon.expect("reply").data["body"], "next");
}

#[test]
fn threads_of_others_are_unknown() {
    let bridge = Bridge::start();
    bridge.reply("t", "mine");
    let other = account(&bridge.server, "bob");
    for (path, body) in [
        ("/api/thread/rename", json!({ "title": "x" })),
        ("/api/thread/read", json!({ "upTo": "2026-01-01T00:00:00Z" })),
        ("/api/thread/delete", json!({})),
        ("/api/bridge/thread/agent", json!({ "agent": "x" })),
    ] {
        let ask = |thread: &str| {
            let mut body = body.clone();
            body["threadId"] = json!(thread);
            let reply = bridge.conn().request("POST", path, &other, Some(&body));
            assert_eq!(reply.status, 404, "{path}");
            reply.json()
        };
        assert_eq!(ask("t"), ask("unknown"), "{path}");
    }
    assert_eq!(only(&bridge)["title"], "mine");
}

fn card(code: &str) -> Value {
    json!({ "code": code, "agent": "claude", "kind": "run", "tool": "Bash", "subject": "ls <b>",
            "directory": "/p", "expiresAt": "2100-01-01T00:00:00Z" })
}

#[test]
fn a_question_is_a_card_until_it_is_closed() {
    let bridge = Bridge::start();
    bridge.reply("t", "go");
    let asked = say(&bridge, "t", "question", json!({ "question": card("K7") }));
    assert_eq!(asked["question"]["subject"], "ls <b>");
    assert_eq!(asked["closed"], Value::Null);
    say(&bridge, "t", "question", json!({ "question": card("K8") }));
    assert_eq!(only(&bridge)["openQuestions"], 2);

    let mut stream = listen(&bridge);
    let end = json!({ "code": "K7", "outcome": "denied" });
    say(&bridge, "t", "status", json!({ "questionClosed": end }));
    let again = stream.expect("message").data;
    assert_eq!((&again["messageId"], &again["closed"]), (&asked["messageId"], &json!("denied")));
    assert_eq!(stream.expect("message").data["questionClosed"], end);
    assert_eq!(only(&bridge)["openQuestions"], 1);
    let all = bridge.get("/api/messages?threadId=t").ok();
    assert_eq!(all["messages"][1]["closed"], "denied");
    assert_eq!(all["messages"][2].get("closed"), None);
    // A second end of the same question changes nothing but is said.
    say(&bridge, "t", "status", json!({ "questionClosed": { "code": "K7", "outcome": "gone" } }));
    assert_eq!(stream.expect("message").data["questionClosed"]["outcome"], "gone");
    assert_eq!(bridge.get("/api/messages?threadId=t").ok()["messages"][1]["closed"], "denied");
}

#[test]
fn of_questions_with_one_code_the_newest_open_one_is_closed() {
    let bridge = Bridge::start();
    bridge.reply("t", "go");
    bridge.reply("u", "go");
    for thread in ["t", "t", "u"] {
        say(&bridge, thread, "question", json!({ "question": card("K7") }));
    }
    for outcome in ["allowed", "expired"] {
        let end = json!({ "code": "K7", "outcome": outcome });
        say(&bridge, "t", "status", json!({ "questionClosed": end }));
    }
    let closed = |thread: &str| {
        let all = bridge.get(&format!("/api/messages?threadId={thread}")).ok();
        let messages = all["messages"].as_array().unwrap();
        messages
            .iter()
            .filter_map(|it| Some(it.get("closed")?.as_str()?.to_owned()))
            .collect::<Vec<_>>()
    };
    assert_eq!(closed("t"), ["expired", "allowed"]);
    assert_eq!(closed("u"), [""; 0]);
}

#[test]
fn a_malformed_card_costs_the_card_and_not_the_message() {
    let bridge = Bridge::start();
    bridge.reply("t", "go");
    let mut late = card("K7");
    late["expiresAt"] = json!("2001-01-01T00:00:00Z");
    say(&bridge, "t", "question", json!({ "question": late }));
    assert_eq!(only(&bridge)["openQuestions"], 0, "it has expired");
    for bad in [json!("x"), json!({}), json!({ "code": "<b>" }), json!([card("K7")]), Value::Null] {
        let stored =
            say(&bridge, "t", "question", json!({ "question": bad, "questionClosed": bad }));
        assert_eq!((stored.get("question"), stored.get("questionClosed")), (None, None));
        assert_eq!(stored["body"], "b");
    }
    // A human can't put a card before another human.
    let reply = json!({ "threadId": "t", "body": "b", "question": card("K9") });
    assert_eq!(bridge.post("/api/reply", &reply).ok()["message"].get("question"), None);
}

#[test]
fn a_preview_is_one_short_line() {
    let bridge = Bridge::start();
    bridge.reply("t", &format!("a\n\n\tb\u{0}\u{1b}[31m  {}", "ü".repeat(500)));
    let last = only(&bridge)["last"].take();
    let preview = last["preview"].as_str().unwrap();
    assert!(preview.starts_with("a b [31m ü"), "{preview}");
    assert_eq!(preview.chars().count(), 200);
}

#[test]
fn hostile_json_is_refused_politely() {
    let bridge = Bridge::start();
    let post = |body: &[u8]| {
        let mut conn = bridge.conn();
        conn.send(format!(
            "POST /api/reply HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\
             Content-Length: {}\r\n\r\n",
            bridge.token,
            body.len()
        ));
        conn.send(body);
        let reply = conn.reply().unwrap();
        assert_eq!(reply.json()["ok"], reply.status == 200);
        reply.status
    };
    let deep = "[".repeat(10_000) + &"]".repeat(10_000);
    let nested = format!("{{\"body\":\"b\",\"x\":{deep}}}");
    for body in [
        b"" as &[u8],
        b"{",
        b"null",
        b"\xff\xfe",
        b"{\"body\":\"\xff\"}",
        b"{\"body\":\"\\ud800\"}",
        b"{\"body\":\"a\"}x",
        b"{\"body\":1e999}",
        b"{\"body\":\"b\",\"threadId\":1e9}",
        b"{\"body\":\"b\",\"attachmentIds\":[[]]}",
        b"{\"body\":\"b\",\"threadId\":\"a\\u0000\"}",
        b"{\"body\":\"b\",\"clientMsgId\":\"a\\r\\nb\"}",
        b"{\"body\":\"b\",\"projectDir\":\"/a\\u0000\"}",
        deep.as_bytes(),
        nested.as_bytes(),
    ] {
        assert_eq!(post(body), 400, "{}", String::from_utf8_lossy(&body[..body.len().min(60)]));
    }
    // What is no name may have any character.
    assert_eq!(post(b"{\"body\":\"a\\u0000\\u001b[0m\",\"threadId\":\"t\"}"), 200);
    assert_eq!(bodies(&bridge.get("/api/messages?threadId=t").ok()), ["a\0\u{1b}[0m"]);
}
