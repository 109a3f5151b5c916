//! Machines that come and go, and the work that they are at.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    serve::{Bridge, account},
    util::http::Events,
};

/// A bridge that soon notices that somebody has gone.
fn quick() -> Bridge {
    Bridge::with(|options| options.heartbeat = Duration::from_millis(50))
}

fn report(bridge: &Bridge, machine: &str, dirs: Value) {
    let engines = json!([{ "name": "claude", "version": "2.1" }, { "name": "codex", "missing": "not\nfound" }]);
    let report = json!({ "agentId": machine, "version": "0.1.0", "engines": engines,
                         "projectDirs": dirs });
    bridge.post("/api/bridge/machine", &report).ok();
}

fn machines(bridge: &Bridge) -> Value {
    bridge.get("/api/bridge/machines").ok()["machines"].take()
}

fn listen(bridge: &Bridge) -> Events {
    let mut stream = bridge.events("", None);
    stream.expect("hello");
    stream
}

#[test]
fn a_machine_is_known_also_when_it_is_gone() {
    let bridge = quick();
    let mut page = listen(&bridge);
    let stranger = account(&bridge.server, "bob");
    let mut other = Events::open(bridge.server.addr(), &stranger, "", None);
    other.expect("hello");
    let mut daemon = bridge.events("?agentId=box&capabilities=claude", None);
    daemon.expect("hello");
    let seen = page.expect("machine");
    assert_eq!((seen.id, &seen.data["connected"]), (None, &json!(true)));
    report(&bridge, "box", json!(["/a", "/b c"]));
    let told = page.expect("machine").data;
    let listed = machines(&bridge)[0].take();
    assert_eq!(told, listed);
    assert_eq!(listed["agentId"], "box");
    assert_eq!(listed["version"], "0.1.0");
    assert_eq!(listed["capabilities"], json!(["claude"]));
    assert_eq!(listed["projectDirs"], json!(["/a", "/b c"]));
    assert_eq!(
        listed["engines"][0],
        json!({ "name": "claude", "version": "2.1", "missing": null })
    );
    assert_eq!(listed["engines"][1]["missing"], "not\nfound");
    assert!(listed["connectedSince"].is_string() && listed["lastSeen"].is_string());
    // The same once more is no news; the next event is that of its going.
    report(&bridge, "box", json!(["/a", "/b c"]));
    bridge.events("?agentId=second", None).expect("hello");
    assert_eq!(page.expect("machine").data["agentId"], "second");
    let away = page.expect("machine").data;
    assert_eq!((&away["agentId"], &away["connected"]), (&json!("second"), &json!(false)));
    assert_eq!(away["connectedSince"], Value::Null);
    let order: Vec<Value> =
        machines(&bridge).as_array().unwrap().iter().map(|it| it["agentId"].clone()).collect();
    assert_eq!(order, ["box", "second"], "those that are connected come first");
    // Nothing of it is told to others.
    let body = json!({ "threadId": "u", "body": "own" });
    bridge.conn().request("POST", "/api/reply", &stranger, Some(&body)).ok();
    other.expect("thread");
    other.expect("reply");
}

#[test]
fn what_a_machine_says_is_checked() {
    let bridge = Bridge::start();
    for (body, status, field) in [
        (json!({}), 400, "agentId"),
        (json!({ "agentId": "a\u{7}" }), 400, "agentId"),
        (json!({ "agentId": "a", "version": 1 }), 400, "version"),
        (json!({ "agentId": "a", "engines": {} }), 400, "engines"),
        (json!({ "agentId": "a", "engines": ["x"] }), 400, "engines"),
        (json!({ "agentId": "a", "engines": [{ "name": "x" }, {}] }), 400, "engines[1].name"),
        (json!({ "agentId": "a", "engines": vec![json!({ "name": "x" }); 101] }), 413, "engines"),
        (json!({ "agentId": "a", "projectDirs": "/a" }), 400, "projectDirs"),
        (json!({ "agentId": "a", "projectDirs": ["/a\u{0}"] }), 400, "projectDirs"),
        (json!({ "agentId": "a", "projectDirs": ["x".repeat(4097)] }), 413, "projectDirs"),
    ] {
        let reply = bridge.post("/api/bridge/machine", &body);
        assert_eq!((reply.status, &reply.json()["field"]), (status, &json!(field)), "{body}");
    }
    assert_eq!(machines(&bridge), json!([]));
    bridge.post("/api/bridge/machine", &json!({ "agentId": "a" })).ok();
    assert_eq!(machines(&bridge)[0]["connected"], false);
}

#[test]
fn a_new_thread_can_be_for_a_machine_and_a_directory() {
    let bridge = Bridge::start();
    report(&bridge, "box", json!(["/a", "/b"]));
    report(&bridge, "other", json!(["/c"]));
    let mut daemon = bridge.events("?agentId=box", None);
    daemon.expect("hello");
    let check = |body: Value, status: u16, field: &str| {
        let reply = bridge.post("/api/reply", &body);
        let answer = reply.json();
        assert_eq!((reply.status, answer["field"].as_str()), (status, Some(field)), "{body}");
    };
    check(json!({ "body": "b", "agentId": "nobody" }), 400, "agentId");
    check(json!({ "body": "b", "agentId": "box", "projectDir": "/c" }), 400, "projectDir");
    check(json!({ "body": "b", "projectDir": "/etc" }), 400, "projectDir");
    check(json!({ "body": "b", "projectDir": ["/a"] }), 400, "projectDir");
    let stranger = account(&bridge.server, "bob");
    let body = json!({ "body": "b", "agentId": "box" });
    assert_eq!(bridge.conn().request("POST", "/api/reply", &stranger, Some(&body)).status, 400);
    assert_eq!(bridge.get("/api/threads").ok()["threads"], json!([]), "a refusal leaves nothing");

    let body = json!({ "body": "b", "agentId": "box", "projectDir": "/b", "agent": "Claude",
                       "clientMsgId": "1" });
    let answer = bridge.post("/api/reply", &body).ok();
    assert_eq!(bridge.post("/api/reply", &body).ok()["threadId"], answer["threadId"]);
    let event = daemon.expect("reply").data;
    assert_eq!(
        (&event["agentId"], &event["projectDir"], &event["agent"], &event["threadId"]),
        (&json!("box"), &json!("/b"), &json!("claude"), &answer["threadId"])
    );
    let thread = bridge.get("/api/threads").ok()["threads"][0].take();
    assert_eq!((&thread["agentId"], &thread["projectDir"]), (&json!("box"), &json!("/b")));
    // It stays where it is, and says so again with the next message, live and when read later.
    let id = &answer["threadId"];
    check(json!({ "threadId": id, "body": "b", "agentId": "other" }), 409, "agentId");
    check(json!({ "threadId": id, "body": "b", "projectDir": "/a" }), 409, "projectDir");
    bridge.post("/api/reply", &json!({ "threadId": id, "body": "c", "projectDir": "/b" })).ok();
    assert_eq!(daemon.expect("reply").data["projectDir"], "/b");
    let read = bridge.get(&format!("/api/messages?threadId={}", id.as_str().unwrap())).ok();
    assert_eq!(read["messages"][1]["projectDir"], "/b");
    assert_eq!(read["messages"][1]["agent"], "claude");
    // Any machine that offers it will do if none is named.
    bridge.post("/api/reply", &json!({ "body": "b", "projectDir": "/c" })).ok();
    let event = daemon.expect("reply").data;
    assert_eq!((&event["agentId"], &event["projectDir"]), (&Value::Null, &json!("/c")));
}

#[test]
fn work_is_shown_until_it_ends_or_its_machine_goes() {
    let bridge = quick();
    bridge.reply("t", "go");
    bridge.post("/api/bridge/thread/claim", &json!({ "threadId": "t", "agentId": "box" })).ok();
    let mut page = listen(&bridge);
    let mut daemon = bridge.events("?agentId=box", None);
    daemon.expect("hello");
    page.expect("machine");
    let state = |state: &str| {
        let body = json!({ "threadId": "t", "state": state });
        bridge.post("/api/bridge/agent-activity", &body).ok();
    };
    let working = || bridge.get("/api/threads").ok()["threads"][0]["working"].take();
    state("working");
    let since = page.expect("activity").data["since"].take();
    assert_eq!(working(), json!({ "since": since }));
    state("working");
    assert_eq!(page.expect("activity").data["since"], since, "it goes on");
    // Told with whatever is told of the thread.
    bridge.post("/api/thread/rename", &json!({ "threadId": "t", "title": "x" })).ok();
    assert_eq!(page.expect("thread").data["working"], json!({ "since": since }));
    drop(daemon);
    let activity = page.expect("activity").data;
    assert_eq!((&activity["state"], &activity["since"]), (&json!("idle"), &Value::Null));
    assert_eq!(page.expect("machine").data["connected"], false);
    assert_eq!(working(), Value::Null);
    let mut daemon = bridge.events("?agentId=box", None);
    daemon.expect("hello");
    assert_eq!(page.expect("activity").data["since"], since);
    assert_eq!(page.expect("machine").data["connected"], true);
    state("idle");
    assert_eq!(page.expect("activity").data["state"], "idle");
    assert_eq!(working(), Value::Null);
}
