//! Messages that wait for a daemon without a position in the stream: each is handed out once, in
//! order, and what was answered or was no prompt is not.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use obto_bridge::time;
use serde_json::{Value, json};

use crate::{
    serve::{
        Bridge, account,
        browser::{Browser, PASSWORD},
    },
    util::{http::Events, patience::Patience},
};

const BOX: &str = "?agentId=box&instance=1";

fn claim(bridge: &Bridge, thread: &str, machine: &str) {
    let claim = json!({ "threadId": thread, "agentId": machine });
    assert_eq!(bridge.post("/api/bridge/thread/claim", &claim).ok()["won"], true);
}

/// An agent's post; `names` is its `clientMsgId`, or a message of which it is the first post.
fn post(bridge: &Bridge, thread: &str, kind: &str, names: Option<&Value>) {
    let mut post = json!({ "threadId": thread, "body": "b", "kind": kind, "author": "a" });
    if let Some(message) = names {
        post["clientMsgId"] = match &message["messageId"] {
            Value::String(id) => format!("{id}.1.1").into(),
            _ => message.clone(),
        };
    }
    bridge.post("/api/message", &post).ok();
}

fn prompt(bridge: &Bridge, thread: &str, code: &str, name: &str, minutes: u64) {
    let expires = time::now().plus(std::time::Duration::from_secs(60 * minutes));
    let question = json!({ "code": code, "agent": "claude", "kind": "run", "tool": "Bash",
                           "subject": "make", "directory": "/", "expiresAt": expires });
    let post = json!({ "threadId": thread, "body": "b", "kind": "question", "author": "a",
                       "clientMsgId": name, "question": question });
    bridge.post("/api/message", &post).ok();
}

/// What the stream hands out, up to the position that comes after it.
fn handed_out(stream: &mut Events) -> (Vec<String>, Option<String>) {
    let hello = stream.expect("hello");
    assert_eq!(hello.data["replay"], "none");
    let count = hello.data["waiting"].as_u64().unwrap();
    if count == 0 {
        return (Vec::new(), hello.id);
    }
    assert_eq!(hello.id, None, "there is no position yet");
    let mut bodies = Vec::new();
    for _ in 0..count {
        let event = stream.expect("reply");
        assert_eq!(event.id, None, "there is no position yet");
        bodies.push(event.data["body"].as_str().unwrap().to_owned());
    }
    let position = stream.chunk().unwrap();
    assert_eq!(position.name, "");
    (bodies, position.id)
}

fn waiting(bridge: &Bridge, query: &str) -> Vec<String> {
    handed_out(&mut bridge.events(query, None)).0
}

#[test]
fn what_was_written_before_the_first_machine_came_is_handed_out() {
    let bridge = Bridge::start();
    let stranger = account(&bridge.server, "bob");
    let body = json!({ "threadId": "t", "body": "another account's" });
    bridge.conn().request("POST", "/api/reply", &stranger, Some(&body)).ok();
    for (thread, body) in [("t", "one"), ("u", "two"), ("t", "three"), ("t", "/status")] {
        bridge.reply(thread, body);
    }
    let mut stream = bridge.events(BOX, None);
    let (bodies, position) = handed_out(&mut stream);
    assert_eq!(bodies, ["one", "three", "two"]);
    // What comes now is live, and has its place after that position.
    bridge.reply("t", "four");
    let live = stream.expect("reply");
    assert_eq!(live.data["body"], "four");
    let mut again = bridge.events(BOX, position);
    let hello = again.expect("hello");
    assert_eq!(hello.data["replay"], "complete");
    assert_eq!(hello.data["waiting"], Value::Null);
    assert_eq!(again.expect("reply"), live);
    // Browsers read threads.
    assert_eq!(bridge.events("", None).expect("hello").data["waiting"], Value::Null);
}

/// Live, replayed, handed out and in the history: it is told the same.
#[test]
fn what_came_with_a_token_says_so_wherever_it_is_told() {
    let bridge = Bridge::start();
    let ada = Browser::welcome(&bridge, "ada");
    let mut before = bridge.events("?agentId=attic&instance=2", None);
    let position = before.expect("hello").id;
    for (text, claimed) in [("one", "session"), ("two", "")] {
        let body = json!({ "threadId": "t", "body": text, "via": claimed });
        bridge.post("/api/reply", &body).ok();
    }
    ada.post("/api/reply", &json!({ "threadId": "t", "body": "three", "via": "token" })).ok();
    let basic = format!("Basic {}", BASE64_STANDARD.encode(format!("ada:{PASSWORD}")));
    let four = json!({ "threadId": "t", "body": "four" });
    bridge.conn().request("POST", "/api/reply", &basic, Some(&four)).ok();
    let expected = [json!("token"), json!("token"), Value::Null, Value::Null];
    let vias = |stream: &mut Events| [(); 4].map(|()| stream.expect("reply").data["via"].take());
    assert_eq!(vias(&mut before), expected, "live");
    let mut again = bridge.events("?agentId=attic&instance=2", position);
    assert_eq!(again.expect("hello").data["replay"], "complete");
    assert_eq!(vias(&mut again), expected, "replayed");
    let mut first = bridge.events(BOX, None);
    assert_eq!(first.expect("hello").data["waiting"], 4);
    assert_eq!(vias(&mut first), expected, "handed out");
    let history = bridge.get("/api/messages?threadId=t").ok();
    let history = history["messages"].as_array().unwrap();
    let history: Vec<Value> = history.iter().map(|it| it["via"].clone()).collect();
    assert_eq!(history, expected, "in the history");
}

#[test]
fn only_threads_without_a_machine_and_its_own_are_looked_at() {
    let bridge = Bridge::start();
    for thread in ["own", "unclaimed", "another", "deleted"] {
        bridge.reply(thread, thread);
    }
    claim(&bridge, "own", "box");
    claim(&bridge, "another", "attic");
    bridge.post("/api/thread/delete", &json!({ "threadId": "deleted" })).ok();
    assert_eq!(waiting(&bridge, BOX), ["own", "unclaimed"]);
    let mut stream = bridge.events("?agentId=attic&instance=1", None);
    stream.expect("hello");
    assert_eq!(stream.expect("reply").data["body"], "unclaimed");
    assert_eq!(stream.expect("reply").data["body"], "another");
}

#[test]
fn what_a_post_names_is_not_handed_out_and_what_was_passed_over_is() {
    let bridge = Bridge::start();
    let missed = bridge.reply("t", "missed");
    let answered = bridge.reply("t", "answered");
    let begun = bridge.reply("t", "begun");
    post(&bridge, "t", "result", Some(&answered));
    // It may be half done: its daemon alone could say.
    post(&bridge, "t", "status", Some(&begun));
    // Names of other forms name nothing, and a status answers nothing.
    post(&bridge, "t", "status", Some(&json!("0000000000000001-00000001.say")));
    let id = missed["messageId"].as_str().unwrap();
    post(&bridge, "t", "status", Some(&json!(format!("{id}0.1.1"))));
    post(&bridge, "t", "status", Some(&json!(format!("{id}.held"))));
    bridge.reply("t", "last");
    assert_eq!(waiting(&bridge, BOX), ["missed", "last"]);
    post(&bridge, "t", "error", Some(&missed));
    assert_eq!(waiting(&bridge, BOX), ["last"]);
}

#[test]
fn an_answer_that_names_nothing_answers_all_before_it() {
    let bridge = Bridge::start();
    bridge.reply("t", "one");
    bridge.reply("t", "two");
    post(&bridge, "t", "status", None);
    assert_eq!(waiting(&bridge, BOX), ["one", "two"]);
    post(&bridge, "t", "result", Some(&json!("of another form")));
    let three = bridge.reply("t", "three");
    assert_eq!(waiting(&bridge, BOX), ["three"]);
    // A daemon that names its answers has taken over since: what is past stays answered.
    post(&bridge, "t", "result", Some(&three));
    assert_eq!(waiting(&bridge, BOX), [""; 0]);
}

#[test]
fn a_stop_is_for_what_was_written_before_it() {
    let bridge = Bridge::start();
    for (thread, stop) in [("t", "/stop"), ("u", "  /Stop \n ALL"), ("v", "/stop it")] {
        for body in ["before", stop, "after"] {
            bridge.reply(thread, body);
        }
    }
    assert_eq!(waiting(&bridge, BOX), ["after", "after", "before", "/stop it", "after"]);
}

#[test]
fn answers_to_prompts_are_not_handed_out() {
    let bridge = Bridge::start();
    let task = bridge.reply("t", "task");
    let name = |n: u32| format!("{}.1.{n}", task["messageId"].as_str().unwrap());
    prompt(&bridge, "t", "K7Q2", &name(1), 10);
    for body in
        ["yes", "deny because it is late", "approve k7q2", "No K7Q2, wait", "K7Q2 1", "1, 2"]
    {
        bridge.reply("t", body);
    }
    bridge.reply("t", "no tabs, please");
    let closing = json!({ "threadId": "t", "body": "b", "kind": "status", "author": "a",
                          "clientMsgId": "x.answer",
                          "questionClosed": { "code": "K7Q2", "outcome": "allowed" } });
    bridge.post("/api/message", &closing).ok();
    // None is open any more, so this is what it says.
    bridge.reply("t", "yes");
    // But a late answer names its prompt, or follows it.
    bridge.reply("t", "approve K7Q2");
    prompt(&bridge, "t", "M3M3", &name(2), 0);
    bridge.reply("t", "always");
    assert_eq!(waiting(&bridge, BOX), ["no tabs, please", "yes"]);
}

#[test]
fn a_daemon_that_was_cut_off_gets_the_rest_and_live_messages_keep_their_order() {
    const COUNT: usize = 300;
    let bridge = Bridge::start();
    let bodies: Vec<String> = (0..COUNT).map(|n| n.to_string()).collect();
    let sent: Vec<_> = bodies.iter().map(|body| bridge.reply("t", body)).collect();
    let mut stream = bridge.events(BOX, None);
    assert_eq!(stream.expect("hello").data["waiting"], COUNT);
    for (body, sent) in bodies.iter().zip(&sent).take(100) {
        assert_eq!(stream.expect("reply").data["body"], **body);
        post(&bridge, "t", "result", Some(sent));
    }
    drop(stream);
    let mut stream = bridge.events(BOX, None);
    assert_eq!(stream.expect("hello").data["waiting"], COUNT - 100);
    bridge.reply("t", "live");
    for body in &bodies[100..] {
        assert_eq!(stream.expect("reply").data["body"], **body);
    }
    let live = stream.expect("reply");
    assert_eq!(live.data["body"], "live");
    assert!(live.id.is_some());
}

/// The reference comes without a position every time, and would do its work twice.
#[test]
fn a_daemon_without_an_instance_gets_what_came_while_it_was_away() {
    let bridge = Bridge::with(|options| options.heartbeat = std::time::Duration::from_millis(10));
    bridge.reply("t", "before");
    let mut stream = bridge.events("?agentId=box", None);
    assert_eq!(handed_out(&mut stream).0, ["before"]);
    bridge.reply("t", "live");
    stream.expect("reply");
    // What is written in the same millisecond in which a machine leaves counts as missed.
    let written = time::now();
    let mut patience = Patience::new();
    while time::now() <= written {
        assert!(patience.lasts(), "the clock stands still");
    }
    drop(stream);
    let mut patience = Patience::new();
    while bridge.get("/api/bridge/machines").ok()["machines"][0]["connected"] == true {
        assert!(patience.lasts(), "it is still listed");
    }
    bridge.reply("t", "away");
    assert_eq!(waiting(&bridge, "?agentId=box"), ["away"]);
    assert_eq!(waiting(&bridge, BOX), ["before", "live", "away"]);
}
