//! Sessions that were started on a machine: reported, listed, taken over, and their history.

use std::iter;

use serde_json::{Value, json};

use crate::{
    serve::{Bridge, account, bodies},
    util::http::{Event, Events, Reply},
};

fn session(id: &str) -> Value {
    json!({
        "source": "claude", "sessionId": id, "projectDir": "/p/q", "projectName": "q",
        "title": format!("Title of {id}"), "lastActivityAt": 1_700_000_000_000_u64,
        "lastMessagePreview": "fine", "lastMessageAuthor": "assistant",
        "recentMessages": [
            { "role": "user", "body": "how is it?", "ts": "2023-11-14T22:13:00Z" },
            { "role": "assistant", "body": "fine", "ts": "2023-11-14T22:13:20Z" },
        ],
    })
}

fn sync(bridge: &Bridge, sessions: &[Value], present: &[&str]) -> Reply {
    let body = json!({ "agentId": "box", "sessions": sessions, "presentSessionIds": present });
    bridge.post("/api/bridge/external/sync", &body)
}

#[track_caller]
fn counts(reply: Reply) -> (u64, u64, u64) {
    let answer = reply.ok();
    let count = |name: &str| answer[name].as_u64().unwrap();
    (count("count"), count("vanished"), count("restored"))
}

fn adopt(bridge: &Bridge, id: &str) -> Reply {
    let body = json!({ "agentId": "box", "source": "claude", "sessionId": id });
    bridge.post("/api/bridge/external/adopt", &body)
}

#[track_caller]
fn adopted(bridge: &Bridge, id: &str) -> String {
    adopt(bridge, id).ok()["threadId"].as_str().unwrap().to_owned()
}

fn backfill(bridge: &Bridge, thread: &str, id: &str, turns: &Value) -> Reply {
    let body = json!({ "threadId": thread, "sessionId": id, "messages": turns });
    bridge.post("/api/bridge/external/backfill", &body)
}

/// Connects the machine, which makes the account's token its own.
fn connect(bridge: &Bridge) -> Events {
    let mut daemon = bridge.events("?agentId=box", None);
    daemon.expect("hello");
    daemon
}

/// What comes next but for the news that the daemon is there, which may be late.
#[track_caller]
fn expect(page: &mut Events, name: &str) -> Event {
    let mut news = iter::from_fn(|| page.next()).skip_while(|it| it.name == "machine");
    let event = news.next().expect("the stream goes on");
    assert_eq!(event.name, name, "{event:?}");
    event
}

fn said(bridge: &Bridge, thread: &str) -> Value {
    bridge.get(&format!("/api/messages?threadId={thread}&limit=1000")).ok()
}

#[test]
fn sessions_come_go_and_come_back() {
    let bridge = Bridge::start();
    assert_eq!(counts(sync(&bridge, &[session("a"), session("b")], &["a", "b"])), (2, 0, 0));
    assert_eq!(counts(sync(&bridge, &[session("a")], &["a"])), (1, 1, 0));
    let list = bridge.get("/api/bridge/external").ok();
    let vanished: Vec<_> = list["sessions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| (it["sessionId"].as_str().unwrap(), it["vanished"].as_bool().unwrap()))
        .collect();
    assert_eq!(vanished, [("a", false), ("b", true)]);
    // Nothing is known of what is not named: nothing vanishes.
    assert_eq!(counts(sync(&bridge, &[], &[])), (0, 0, 0));
    assert_eq!(counts(sync(&bridge, &[], &["a", "b", "ours"])), (0, 0, 1));
    assert_eq!(counts(sync(&bridge, &[], &["ours"])), (0, 2, 0));
    // What is reported is there, whether it is among the ids or not.
    assert_eq!(counts(sync(&bridge, &[session("b")], &["ours"])), (1, 0, 1));
    let expected = json!({
        "agentId": "box", "source": "claude", "sessionId": "b", "projectDir": "/p/q",
        "projectName": "q", "title": "Title of b", "lastActivityAt": "2023-11-14T22:13:20.000Z",
        "lastMessagePreview": "fine", "lastMessageAuthor": "assistant", "vanished": false,
        "threadId": null,
    });
    assert_eq!(bridge.get("/api/bridge/external").ok()["sessions"][0], expected);
    let one = bridge.get("/api/bridge/external/session?agentId=box&source=claude&sessionId=b").ok();
    assert_eq!(one["recentMessages"].as_array().unwrap().len(), 2);
    assert_eq!(one["recentMessages"][1]["role"], "assistant");
    // Another machine's sessions are its own.
    let body = json!({ "agentId": "two", "sessions": [], "presentSessionIds": ["x"] });
    assert_eq!(counts(bridge.post("/api/bridge/external/sync", &body)), (0, 0, 0));
}

#[test]
fn a_session_becomes_one_thread_that_goes_on_with_it() {
    let bridge = Bridge::start();
    let mut daemon = connect(&bridge);
    sync(&bridge, &[session("a")], &[]).ok();
    let mut page = bridge.events("", None);
    page.expect("hello");
    let thread = adopted(&bridge, "a");
    let made = expect(&mut page, "thread").data;
    assert_eq!((&made["change"], &made["agentId"]), (&json!("created"), &json!("box")));
    assert_eq!(expect(&mut page, "thread").data["change"], "history");
    assert_eq!(adopted(&bridge, "a"), thread, "once more is the same");
    let listed = bridge.get("/api/threads").ok()["threads"][0].take();
    assert_eq!((&listed["title"], &listed["agent"]), (&json!("Title of a"), &json!("claude")));
    assert_eq!((&listed["last"]["preview"], &listed["unread"]), (&json!("fine"), &json!(0)));
    assert_eq!(bridge.get("/api/bridge/external").ok()["sessions"][0]["threadId"], thread.as_str());

    // Its newest turns can be read at once. Nobody is asked to act on them.
    let before = said(&bridge, &thread);
    assert_eq!(bodies(&before), ["how is it?", "fine"]);
    assert_eq!(before["messages"][0]["role"], "human");
    assert_eq!(before["messages"][0]["history"], true);
    assert_eq!(before["messages"][0]["createdAt"], "2023-11-14T22:13:00.000Z");
    let since = bridge.get(&format!("/api/messages?threadId={thread}&since=1970-01-01T00:00:00Z"));
    assert_eq!(bodies(&since.ok()), [""; 0]);
    bridge.reply(&thread, "go on");
    let event = daemon.expect("reply").data;
    assert_eq!((&event["body"], &event["agentId"]), (&json!("go on"), &json!("box")));
    let adoption =
        json!({ "sessionId": "a", "projectDir": "/p/q", "projectName": "q", "source": "claude" });
    assert_eq!(event["externalAdoption"], adoption);
    bridge.reply(&thread, "and on");
    assert_eq!(daemon.expect("reply").data["externalAdoption"], Value::Null);
    assert_eq!(bodies(&said(&bridge, &thread)), ["how is it?", "fine", "go on", "and on"]);
    // A deleted thread lets its session go.
    bridge.post("/api/thread/delete", &json!({ "threadId": thread })).ok();
    assert_ne!(adopted(&bridge, "a"), thread);
}

#[test]
fn a_history_is_put_before_the_thread_once() {
    let bridge = Bridge::start();
    let mut daemon = connect(&bridge);
    sync(&bridge, &[session("a")], &[]).ok();
    let thread = adopted(&bridge, "a");
    bridge.reply(&thread, "new");
    daemon.expect("reply");
    let mut page = bridge.events("", None);
    page.expect("hello");
    // Times that stand still, run back, are missing, or are yet to come.
    let turns = json!([
        { "role": "user", "body": "one", "ts": "2023-11-14T22:13:00Z" },
        { "role": "assistant", "body": "two", "ts": "2023-11-14T22:13:00Z" },
        { "role": "user", "body": "two", "ts": "2023-11-14T22:13:00Z" },
        { "role": "assistant", "body": "two", "ts": "2023-11-14T22:13:00Z" },
        { "role": "user", "body": "three", "ts": "2020-01-01T00:00:00Z" },
        { "role": "user", "body": "four" },
        { "role": "assistant", "body": "five", "ts": 4_000_000_000_000_u64 },
    ]);
    let all = ["one", "two", "two", "two", "three", "four", "five", "new"];
    let answer = backfill(&bridge, &thread, "a", &turns).ok();
    assert_eq!(answer, json!({ "ok": true, "inserted": 7, "deduped": 0, "removedPartial": 2 }));
    assert_eq!(bodies(&said(&bridge, &thread)), all);
    let event = expect(&mut page, "thread").data;
    assert_eq!((&event["change"], &event["unread"]), (&json!("history"), &json!(0)));
    let first = said(&bridge, &thread);
    let again = backfill(&bridge, &thread, "a", &turns).ok();
    assert_eq!(again, json!({ "ok": true, "inserted": 0, "deduped": 7, "removedPartial": 0 }));
    assert_eq!(said(&bridge, &thread), first);
    let times: Vec<&str> = first["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["createdAt"].as_str().unwrap())
        .collect();
    assert!(times.is_sorted_by(|a, b| a < b), "{times:?}");
    // A longer one is put where it belongs.
    let mut longer = turns.as_array().unwrap().clone();
    longer.insert(0, json!({ "role": "user", "body": "zero", "ts": "2019-01-01T00:00:00Z" }));
    longer.push(json!({ "role": "user", "body": "five" }));
    let answer = backfill(&bridge, &thread, "a", &json!(longer)).ok();
    assert_eq!((&answer["inserted"], &answer["deduped"]), (&json!(2), &json!(7)));
    // Daemons were told of nothing but the message.
    bridge.reply(&thread, "newer");
    assert_eq!(daemon.expect("reply").data["body"], "newer");
    let said = said(&bridge, &thread);
    assert_eq!(bodies(&said)[..2], ["zero", "one"]);
    assert_eq!(bodies(&said)[bodies(&said).len() - 2..], ["new", "newer"]);
}

#[test]
fn a_thousand_turns_at_one_moment_keep_their_order() {
    let bridge = Bridge::start();
    let _daemon = connect(&bridge);
    sync(&bridge, &[session("a")], &[]).ok();
    let thread = adopted(&bridge, "a");
    let turns: Vec<Value> =
        (0..1000).map(|n| json!({ "role": "user", "body": n.to_string(), "ts": 0 })).collect();
    assert_eq!(backfill(&bridge, &thread, "a", &json!(turns)).ok()["inserted"], 1000);
    let expected: Vec<String> = (0..1000).map(|n| n.to_string()).collect();
    assert_eq!(bodies(&said(&bridge, &thread)), expected);
    let more = vec![turns[0].clone(); 1001];
    assert_eq!(backfill(&bridge, &thread, "a", &json!(more)).status, 413);
}

#[test]
fn only_the_machine_that_has_the_thread_sends_its_history() {
    let bridge = Bridge::start();
    sync(&bridge, &[session("a")], &[]).ok();
    let thread = adopted(&bridge, "a");
    let turns = json!([{ "role": "user", "body": "forged" }]);
    assert_eq!(backfill(&bridge, &thread, "a", &turns).status, 403, "it was never connected");
    let mut second = bridge.events("?agentId=other", None);
    second.expect("hello");
    assert_eq!(backfill(&bridge, &thread, "a", &turns).status, 403);
    let _daemon = connect(&bridge);
    assert_eq!(backfill(&bridge, &thread, "b", &turns).status, 409, "another session");
    assert_eq!(backfill(&bridge, "never", "a", &turns).status, 404);
    let other = account(&bridge.server, "bob");
    let body = json!({ "threadId": thread, "sessionId": "a", "messages": turns });
    let reply = bridge.conn().request("POST", "/api/bridge/external/backfill", &other, Some(&body));
    assert_eq!(reply.status, 404);
    // A thread that was not made of a session has no history elsewhere.
    bridge.reply("t", "hello");
    bridge.post("/api/bridge/thread/claim", &json!({ "threadId": "t", "agentId": "box" })).ok();
    assert_eq!(backfill(&bridge, "t", "a", &turns).status, 409);
    assert_eq!(bodies(&said(&bridge, &thread)), ["how is it?", "fine"]);
    backfill(&bridge, &thread, "a", &turns).ok();
}

#[test]
fn sessions_of_others_and_those_that_are_gone_are_not_taken() {
    let bridge = Bridge::start();
    sync(&bridge, &[session("a")], &["a"]).ok();
    let other = account(&bridge.server, "bob");
    let ask = |method: &str, path: &str, body: Option<&Value>| {
        bridge.conn().request(method, path, &other, body)
    };
    assert_eq!(ask("GET", "/api/bridge/external", None).ok()["sessions"], json!([]));
    let body = json!({ "agentId": "box", "source": "claude", "sessionId": "a" });
    let foreign = ask("POST", "/api/bridge/external/adopt", Some(&body));
    let unknown = adopt(&bridge, "unknown");
    assert_eq!((foreign.status, foreign.json()), (404, unknown.json()));
    let query = "agentId=box&source=claude&sessionId=a";
    let path = format!("/api/bridge/external/session?{query}");
    assert_eq!(ask("GET", &path, None).status, 404);
    bridge.get(&path).ok();
    for missing in ["agentId", "source", "sessionId"] {
        let path = path.replace(missing, "x");
        assert_eq!(bridge.get(&path).json()["field"], missing);
    }
    sync(&bridge, &[], &["b"]).ok();
    assert_eq!(adopt(&bridge, "a").status, 409, "it has vanished");
}

#[test]
fn what_a_machine_reports_is_checked() {
    let bridge = Bridge::start();
    let check = |name: &str, value: Value, status: u16, field: &str| {
        let mut bad = session("a");
        bad[name] = value;
        let reply = sync(&bridge, &[session("b"), bad], &[]);
        let answer = reply.json();
        assert_eq!((reply.status, &answer["field"]), (status, &json!(field)), "{name}");
    };
    check("sessionId", json!(7), 400, "sessions[1].sessionId");
    check("sessionId", json!("x".repeat(201)), 413, "sessions[1].sessionId");
    check("source", Value::Null, 400, "sessions[1].source");
    check("projectDir", json!("/a\u{0}"), 400, "sessions[1].projectDir");
    check("title", json!([]), 400, "sessions[1].title");
    check("lastActivityAt", json!(-1), 400, "sessions[1].lastActivityAt");
    check("lastActivityAt", json!(1e300), 400, "sessions[1].lastActivityAt");
    check(
        "recentMessages",
        json!([{ "role": "system", "body": "x" }]),
        400,
        "sessions[1].recentMessages[0].role",
    );
    check(
        "recentMessages",
        json!(vec![json!({ "role": "user", "body": "x" }); 11]),
        413,
        "sessions[1].recentMessages",
    );
    assert_eq!(bridge.get("/api/bridge/external").ok()["sessions"], json!([]), "all or nothing");
    // Texts that are too long are cut.
    let mut long = session("a");
    long["title"] = json!("ü".repeat(500));
    long["recentMessages"][0]["body"] = json!("ü".repeat(5000));
    sync(&bridge, &[long], &[]).ok();
    let one = bridge.get("/api/bridge/external/session?agentId=box&source=claude&sessionId=a").ok();
    assert_eq!(one["title"].as_str().unwrap().chars().count(), 80);
    assert_eq!(one["recentMessages"][0]["body"].as_str().unwrap().chars().count(), 3000);
}
