//! A bridge, or something in its place, that sends what nobody expects. Whatever it is, the daemon
//! says so in its log, and then answers a message as if nothing had been.

use std::sync::atomic::{AtomicUsize, Ordering};

use obto_bridge::bridge::sse;
use serde_json::{Value, json};

use crate::util::{
    daemon::{Daemon, Line, MACHINE, Stage, is_for},
    sick_bridge::{Conn, Seen},
};

fn quiet(_: &Seen, _: &mut Conn) -> bool {
    false
}

/// The daemon still works.
#[track_caller]
fn still_answers(stage: &Stage, line: &Line) {
    line.reply("good", "good-1", "still there?");
    stage.expect("good", "result", "said: still there?");
}

/// Sends bytes on the stream, waits for the words in the log, and checks that it goes on.
#[track_caller]
fn check(bytes: impl Into<Vec<u8>>, words: &[&str]) {
    let stage = Stage::new(quiet);
    let machine = stage.machine();
    let mut daemon = machine.start();
    let line = stage.stream();
    line.raw(bytes);
    for word in words {
        daemon.log(word);
    }
    still_answers(&stage, &line);
    daemon.stop();
    assert_eq!(machine.left()[0], 0);
}

#[test]
fn an_event_that_is_no_object() {
    for data in ["not json", "[]", "null", "\"t\"", "{\"threadId\":\"t\"", "\u{0}"] {
        check(format!("event: reply\ndata: {data}\n\n"), &["no JSON object"]);
    }
}

#[test]
fn an_event_without_a_thread() {
    for thread in ["", r#""threadId":"","#, r#""threadId":[7],"#, r#""threadId":{"a":[]},"#] {
        check(
            format!("event: reply\ndata: {{{thread}\"messageId\":\"m\",\"body\":\"x\"}}\n\n"),
            &["without a threadId"],
        );
    }
}

#[test]
fn a_field_of_a_wrong_type_counts_as_missing() {
    let stage = Stage::new(quiet);
    let _daemon = stage.machine().start();
    let line = stage.stream();
    let wrong = [json!(7), json!(true), json!([1, {}]), json!({"a": null}), json!(1.5e300)];
    let fields = ["messageId", "author", "role", "agent", "attachmentIds", "externalAdoption"];
    for (number, value) in wrong.iter().enumerate() {
        for field in fields {
            let mut reply = json!({
                "threadId": format!("{field}-{number}"), "messageId": format!("{field}-{number}"),
                "author": "ada", "role": "human", "body": "hello", "agentId": MACHINE,
            });
            reply[field] = value.clone();
            line.event("reply", &reply.to_string());
            let mut post = stage.post();
            if field == "agent" && value.is_number() {
                // A number is as good as a name, only that nobody has it.
                assert_eq!(post["kind"], "status", "{post}");
                post = stage.post();
            }
            assert_eq!(post["threadId"], format!("{field}-{number}"), "{post}");
            assert!(post["body"].as_str().unwrap().ends_with("said: hello"), "{post}");
        }
    }
    // An owner that can't be read is none, so the thread is claimed.
    line.event("reply", r#"{"threadId":"owner","messageId":"o","body":"mine?","agentId":[1]}"#);
    stage.request("/api/bridge/thread/claim");
    stage.expect("owner", "result", "said: mine?");
    // Without a text there is nothing to answer, but nothing breaks either.
    line.event(
        "reply",
        &json!({"threadId": "b", "body": {"x": 1}, "agentId": MACHINE}).to_string(),
    );
    assert_eq!(stage.post()["threadId"], "b");
    still_answers(&stage, &line);
}

/// A time that can't be read is no time: the message waits for `run`, as an old one would.
#[test]
fn a_message_whose_time_can_not_be_read_is_asked_about() {
    let stage = Stage::new(quiet);
    let _daemon = stage.machine().start();
    let line = stage.stream();
    let times = [
        json!("1969-12-31T23:59:59Z"),
        json!("soon"),
        json!(7),
        json!([1]),
        json!("9".repeat(70_000)),
    ];
    let say = |thread: &str, id: String, body: &str, time: Option<&Value>| {
        let mut reply = json!({"threadId": thread, "messageId": id, "author": "ada", "role": "human",
                               "body": body, "agentId": MACHINE});
        if let Some(time) = time {
            reply["createdAt"] = time.clone();
        }
        line.event("reply", &reply.to_string());
    };
    for (number, time) in times.iter().enumerate() {
        let thread = format!("t{number}");
        say(&thread, format!("m{number}"), "hello", Some(time));
        let post = stage.expect(&thread, "status", "at an unknown time: `hello`");
        assert!(post["body"].as_str().unwrap().contains("Reply `run`"), "{post}");
        say(&thread, format!("r{number}"), "run", None);
        stage.expect(&thread, "result", "said: hello");
    }
}

#[test]
fn ids_that_are_too_long_break_nothing() {
    let stage = Stage::new(quiet);
    let mut daemon = stage.machine().start();
    let line = stage.stream();
    for length in [1025, 65_536, 300_000] {
        line.reply(&"t".repeat(length), "m", "hello");
        daemon.log("whose threadId is over 1024 bytes");
    }
    let long = "m".repeat(300_000);
    for _ in 0..2 {
        line.reply("t", &long, "once");
    }
    let reply = json!({"threadId": "u", "messageId": "u", "role": "human", "body": "pictures",
                       "agentId": MACHINE, "attachmentIds": [long, "a b"], "author": long, "agent": "echo"});
    line.event("reply", &reply.to_string());
    line.raw(format!("id: {long}\n\n"));
    let mut posts = [stage.post(), stage.post()];
    posts.sort_by_key(|post| post["threadId"].to_string());
    assert!(posts[0]["body"].as_str().unwrap().ends_with("said: once"), "{posts:?}");
    assert!(posts[1]["body"].as_str().unwrap().contains("pictures"), "{posts:?}");
    still_answers(&stage, &line);
}

#[test]
fn events_and_fields_that_nobody_knows() {
    check(
        "retry: soon\nid: \u{0}\n:comment\n\nevent: party\ndata: {}\n\nevent\n\ndata\n\nnonsense: x\n\n\
         event: hello\ndata: what?\n\nevent: hello\ndata: {\"replay\":[]}\n\n\r\r\n\u{feff}data: x\n\n",
        &["connected"],
    );
    check(b"event: reply\ndata: {\"threadId\":\"\xff\xfe\"\n\n".as_slice(), &["no JSON object"]);
}

#[test]
fn a_megabyte_in_one_line() {
    let stage = Stage::new(quiet);
    let _daemon = stage.machine().start();
    let line = stage.stream();
    let text = "é".repeat(512 * 1024);
    line.reply("long", "m1", &text);
    let post = stage.post();
    assert_eq!(post["threadId"], "long");
    let body = post["body"].as_str().unwrap();
    assert!(body.len() > 100_000 && body.contains("éé"), "{} bytes", body.len());
    still_answers(&stage, &line);
}

#[test]
fn an_endless_line() {
    let mut bytes = b"event: reply\ndata: ".to_vec();
    bytes.resize(sse::MAX_BYTES + 1024 * 1024, b'x');
    let stage = Stage::new(quiet);
    let mut daemon = stage.machine().start();
    let line = stage.stream();
    line.raw(bytes);
    // Not at its end, which may never come.
    daemon.log("dropped an event of more than");
    line.raw("\n\n");
    still_answers(&stage, &line);
}

/// A login page answers the first `count` requests for `path`; after that, the bridge.
fn with_login_page(path: &'static str, count: usize) -> Stage {
    instead(path, count, |conn| {
        let page = "<!doctype html><title>Sign in to the hotel's network</title>";
        conn.answer(200, "Content-Type: text/html\r\n", page);
    })
}

/// Something else answers the first `count` requests for `path`.
fn instead(
    path: &'static str,
    count: usize,
    answer: impl Fn(&mut Conn) + Send + Sync + 'static,
) -> Stage {
    let asked = AtomicUsize::new(0);
    Stage::new(move |seen, conn| {
        let is_now = is_for(seen, path) && asked.fetch_add(1, Ordering::SeqCst) < count;
        if is_now {
            answer(conn);
        }
        is_now
    })
}

#[test]
fn a_login_page_instead_of_the_stream() {
    let stage = with_login_page("/api/bridge/stream", 1);
    let mut daemon = stage.machine().start();
    let line = daemon.log("not connected");
    assert!(line.to_string().contains("Sign in to the hotel"), "{line}");
    assert_eq!(line["level"], "warn");
    still_answers(&stage, &stage.stream());
}

#[test]
fn a_login_page_instead_of_taking_a_post() {
    let stage = with_login_page("/api/message", 1);
    let mut daemon = stage.machine().start();
    let line = stage.stream();
    line.reply("t", "m1", "hello");
    let first = stage.request("/api/message").json();
    daemon.log("hotel");
    let second = stage.request("/api/message").json();
    assert_eq!(first, second, "the same post, with the same clientMsgId");
    still_answers(&stage, &line);
}

/// Something wrong in place of an answer to a claim.
#[track_caller]
fn check_claim(answer: impl Fn(&mut Conn) + Send + Sync + 'static) {
    let stage = instead("/api/bridge/thread/claim", 1, answer);
    let mut daemon = stage.machine().start();
    let line = stage.stream();
    line.event("reply", r#"{"threadId":"t","messageId":"m","body":"whose?"}"#);
    daemon.log("cannot claim the thread yet");
    stage.expect("t", "result", "said: whose?");
    still_answers(&stage, &line);
}

#[test]
fn something_else_than_the_answer_to_a_claim() {
    check_claim(|conn| conn.json(200, json!([])));
    check_claim(|conn| conn.json(200, json!({ "ok": true })));
    check_claim(|conn| conn.json(200, json!({ "won": "yes" })));
    check_claim(|conn| conn.answer(200, "", "<html>"));
    check_claim(|conn| conn.json(500, json!({ "error": "oops" })));
    check_claim(|conn| {
        conn.raw("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"won\":");
        conn.close();
    });
}

#[test]
fn something_else_than_the_history() {
    for answer in
        [json!([]), json!({ "messages": "none" }), json!({ "messages": [1, null, "x", {}] })]
    {
        let text = answer.to_string();
        let stage = instead("/api/messages", 1, move |conn| conn.json(200, answer.clone()));
        let _daemon = stage.machine().start();
        let line = stage.stream();
        line.reply("t", "m", "hello");
        stage.request("/api/messages");
        let post = stage.request("/api/message").json();
        assert_eq!((&post["threadId"], &post["kind"]), (&json!("t"), &json!("result")), "{text}");
        still_answers(&stage, &line);
    }
}

#[test]
fn a_stream_that_breaks_off_in_the_middle_of_an_event() {
    let stage = Stage::new(quiet);
    let mut daemon: Daemon = stage.machine().start();
    let line = stage.stream();
    line.raw("event: reply\ndata: {\"threadId\":\"half\",\"messageId\":\"h\",\"body\":\"x\"");
    drop(line);
    daemon.log("not connected to the bridge");
    still_answers(&stage, &stage.stream());
}
