//! What was said while no stream was open, on a bridge that does not replay; and what is too old to
//! run unasked.

use std::sync::{Arc, Mutex};

use obto_bridge::time::{self, Timestamp};
use serde_json::{Value, json};

use crate::util::daemon::{Line, MACHINE, Stage, is_for};

/// A person's message of this age in seconds.
fn message(id: &str, body: &str, age: u64) -> Value {
    let written = Timestamp::from_millis(time::now().as_millis() - age * 1_000);
    json!({"threadId": "t", "messageId": id, "author": "ada", "role": "human", "body": body,
        "agentId": MACHINE, "createdAt": written.to_string()})
}

fn say(line: &Line, message: &Value) {
    line.event("reply", &message.to_string());
}

/// A bridge without event ids, like the hosted one. What is in the list, it gives as history.
fn stage() -> (Stage, Arc<Mutex<Vec<Value>>>) {
    let history: Arc<Mutex<Vec<Value>>> = Arc::default();
    let given = Arc::clone(&history);
    let stage = Stage::new(move |seen, conn| {
        let is_catching_up = is_for(seen, "/api/messages") && seen.target.contains("since=");
        if is_catching_up {
            conn.json(200, json!({"ok": true, "messages": *given.lock().unwrap()}));
        }
        is_catching_up
    });
    (stage, history)
}

#[test]
fn what_was_missed_is_answered_before_what_is_said_now() {
    let (stage, history) = stage();
    let machine = stage.machine();
    let daemon = machine.start();
    let line = stage.stream();
    let first = message("m1", "one", 30);
    say(&line, &first);
    stage.expect("t", "result", "one");
    // An agent's words and what is known already come with it.
    let mut theirs = message("m9", "an agent's", 20);
    theirs["role"] = "agent".into();
    history.lock().unwrap().extend([first, theirs, message("m2", "two", 10)]);
    drop(line);
    let line = stage.stream();
    say(&line, &message("m3", "three", 0));
    stage.expect("t", "result", "two");
    stage.expect("t", "result", "three");
    say(&line, &message("m4", "four", 0));
    stage.expect("t", "result", "four");
    daemon.stop();
    assert_eq!(machine.left()[0], 0);
}

#[test]
fn what_was_missed_while_the_daemon_was_off_is_answered() {
    let (stage, history) = stage();
    let machine = stage.machine();
    let daemon = machine.start();
    let line = stage.stream();
    say(&line, &message("m1", "one", 30));
    stage.expect("t", "result", "one");
    daemon.stop();
    drop(line);
    history.lock().unwrap().push(message("m2", "two", 10));
    let daemon = machine.start();
    let _line = stage.stream();
    stage.expect("t", "result", "two");
    daemon.stop();
}

#[test]
fn what_is_days_old_runs_only_when_the_human_says_so() {
    const DAY: u64 = 24 * 3_600;
    let (stage, _) = stage();
    let machine = stage.machine();
    let daemon = machine.start();
    let line = stage.stream();
    say(&line, &message("m1", "drop the table", 3 * DAY));
    say(&line, &message("m2", "and the other", 2 * DAY));
    let told = stage.expect("t", "status", "2 messages came in");
    let told = told["body"].as_str().unwrap();
    assert!(told.contains("drop the table") && told.contains("Reply `run`"), "{told}");
    // Something else is answered as usual, and the old ones still wait. A stop reaches those before it.
    say(&line, &message("m6", "/stop all", 4 * DAY));
    stage.expect("t", "status", "Nothing is running on this thread.");
    say(&line, &message("m7", "/queue", 0));
    stage.expect("t", "status", "2 messages from before this machine was back");
    say(&line, &message("m3", "hello", 0));
    stage.expect("t", "result", "hello");
    say(&line, &message("m4", " RUN ", 0));
    stage.expect("t", "result", "drop the table");
    stage.expect("t", "result", "and the other");
    say(&line, &message("m5", "run", 0));
    stage.expect("t", "result", "said: run");
    say(&line, &message("m8", "old", 2 * DAY));
    stage.expect("t", "status", "A message came in");
    say(&line, &message("m9", "/stop all", 0));
    stage.expect("t", "status", "1 waiting message is dropped; it will not run.");
    say(&line, &message("m10", "run", 0));
    stage.expect("t", "result", "said: run");
    daemon.stop();
}
