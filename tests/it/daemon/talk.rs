//! People talk with engines.

use std::{collections::BTreeMap, fs};

use serde_json::{Value, json};

use super::Bridge;
use crate::util::{
    daemon::{MACHINE, Stage},
    fake::{Gate, SESSION},
};

#[test]
fn two_quick_messages_on_a_fresh_thread_share_a_session_and_are_answered_in_order() {
    let (bridge, gate) = (Bridge::start(), Gate::new());
    let machine = bridge.machine().with_agent("fake", &gate.acp("done"));
    let daemon = machine.connected();
    let mut ears = bridge.listen();
    bridge.say("t", "one");
    bridge.say("t", "two");
    let first = gate.next();
    assert_eq!(first.session(), ("session/new".to_owned(), None));
    assert!(first.prompt().contains("one"), "{}", first.prompt());
    assert!(gate.is_empty(), "the second waits for the first");
    drop(first);
    ears.expect("t", "result", "done");
    let second = gate.next();
    assert_eq!(second.session(), ("session/resume".to_owned(), Some(SESSION.to_owned())));
    assert!(second.prompt().ends_with("two"), "{}", second.prompt());
    drop(second);
    ears.expect("t", "result", "done");
    daemon.stop();
    let sessions = &machine.state()["bindings"]["t"]["sessions"];
    assert_eq!(sessions.as_object().unwrap().len(), 1);
    assert_eq!(sessions["fake"]["sessionId"], SESSION);
    assert_eq!(bridge.posts("t"), ["done", "done"]);
}

#[test]
fn many_threads_at_once_are_all_answered_in_order_and_within_the_limit_of_turns() {
    const THREADS: usize = 20;
    const MESSAGES: usize = 5;
    const TURNS: usize = 3;
    let bridge = Bridge::start();
    let script = r#"echo + >>"$HOME/turns"; "$0" echo-agent; echo - >>"$HOME/turns""#;
    let agent = ["/bin/sh", "-c", script, env!("CARGO_BIN_EXE_obto-bridge")].map(str::to_owned);
    let machine = bridge.machine().with_agent("counted", &agent).with("maxTurns", TURNS);
    let daemon = machine.connected();
    let mut ears = bridge.listen();
    for message in 0..MESSAGES {
        for thread in 0..THREADS {
            bridge.say(&format!("t{thread}"), &message.to_string());
        }
    }
    let mut said: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut answers = 0;
    while answers < THREADS * MESSAGES {
        let post = ears.post();
        let text = |key: &str| post[key].as_str().unwrap().to_owned();
        // Who waits for long is told so.
        if post["kind"] == "status" && text("body").starts_with("Waits for") {
            continue;
        }
        assert_eq!(post["kind"], "result", "{post}");
        said.entry(text("threadId")).or_default().push(text("body"));
        answers += 1;
    }
    assert_eq!(said.len(), THREADS);
    let expected: Vec<String> =
        (0..MESSAGES).map(|it| format!("Echo agent (no model): You said: {it}")).collect();
    for (thread, bodies) in said {
        assert_eq!(bodies, expected, "{thread}");
    }
    daemon.stop();
    let turns = fs::read_to_string(machine.home.path().join("turns")).unwrap();
    let (mut running, mut most) = (0_usize, 0);
    for turn in turns.lines() {
        running = if turn == "+" { running + 1 } else { running - 1 };
        most = most.max(running);
    }
    assert_eq!((running, most), (0, TURNS));
    assert_eq!(machine.left()[0] + machine.left()[2], 0);
}

#[test]
fn a_page_sees_that_somebody_works() {
    let (bridge, gate) = (Bridge::start(), Gate::new());
    let _daemon = bridge.machine().with_agent("fake", &gate.acp("done")).connected();
    let mut ears = bridge.listen();
    bridge.say("t", "hello");
    let engine = gate.next();
    assert_eq!(ears.event("claimed").data, json!({ "threadId": "t", "agentId": MACHINE }));
    let mut state = || ears.event("activity").data["state"].take();
    assert_eq!(state(), "working");
    drop(engine);
    assert_eq!(state(), "idle");
    assert_eq!(bridge.until(&mut ears, "t", 1), ["done"]);
}

#[test]
fn the_bridge_is_told_who_can_be_asked() {
    let (stage, gate) = (Stage::new(|_, _| false), Gate::new());
    let machine = stage
        .machine()
        .with_agent("fake", &gate.acp(""))
        .with_agent("lost", &["/no/such".to_owned()]);
    let _daemon = machine.start();
    let target = stage.stream().seen.target;
    let (path, query) = target.split_once('?').unwrap();
    assert_eq!(path, "/api/bridge/stream");
    let capabilities = query.strip_prefix("agentId=box&capabilities=").unwrap();
    let (capabilities, instance) = capabilities.split_once("&instance=").unwrap();
    assert_eq!(instance.len(), 32, "{instance}");
    let names: Vec<&str> = capabilities.split(',').collect();
    assert!(names.contains(&"fake"), "{names:?}");
    assert!(!names.contains(&"echo") && !names.contains(&"lost"), "{names:?}");
}

/// A message that begins a thread with an engine.
fn ask(thread: &str, agent: &str) -> Value {
    json!({ "threadId": thread, "body": "hello", "agent": agent })
}

#[test]
fn a_thread_may_ask_for_an_engine_and_gets_another_if_there_is_none() {
    let (bridge, gate) = (Bridge::start(), Gate::new());
    let machine = bridge.machine().with_agent("fake", &gate.acp("here")).with("agent", "echo");
    let _daemon = machine.connected();
    let mut ears = bridge.listen();
    bridge.request("/api/reply", &ask("known", "fake"));
    drop(gate.next());
    ears.expect("known", "result", "here");
    bridge.request("/api/reply", &ask("unknown", "gemini"));
    ears.expect("unknown", "status", "no agent called gemini; echo answers instead");
    ears.echo("unknown", "hello");

    // And in the middle of a thread: each engine has a session of its own.
    bridge.request("/api/bridge/thread/agent", &json!({ "threadId": "known", "agent": "echo" }));
    bridge.say("known", "and you?");
    ears.echo("known", "and you?");
    machine.state_when(|state| {
        let sessions = &state["bindings"]["known"]["sessions"];
        sessions["fake"].is_object() && sessions["echo"].is_object()
    });
}

#[test]
fn nothing_of_ours_reaches_the_engine() {
    let (bridge, gate) = (Bridge::start(), Gate::new());
    let machine = bridge.machine().with_agent("fake", &gate.acp("done"));
    let token = bridge.token.clone();
    let env = [
        ("BRIDGE_API_TOKEN", token.as_str()),
        ("BRIDGE_MAX_TURNS", "2"),
        ("AGENT_ID", MACHINE),
        ("COPY", &token),
        ("OPENAI_API_KEY", "theirs"),
    ];
    let mut daemon = machine.start_with(&["--log", "debug"], &env);
    daemon.log("connected to the bridge");
    bridge.say("t", "hello");
    let engine = gate.next();
    let names = engine.env_names();
    assert_eq!(names, ["HOME", "OBTO_BRIDGE_TURN", "OPENAI_API_KEY", "PATH"]);
    assert_eq!(engine.env("OPENAI_API_KEY"), Some("theirs"));
    assert!(!engine.args().join(" ").contains(&token));
    assert!(!engine.prompt().contains(&token));
    drop(engine);
    daemon.log("turn ended");
    daemon.stop();
}

#[test]
fn what_came_before_is_given_to_a_fresh_session() {
    let (bridge, gate) = (Bridge::start(), Gate::new());
    bridge.say("t", "before the daemon was there");
    let machine = bridge.machine().with_agent("fake", &gate.acp("done"));
    let _daemon = machine.connected();
    bridge.say("t", "now");
    let prompt = gate.next().prompt();
    assert!(prompt.contains("before the daemon was there"), "{prompt}");
    assert!(prompt.contains("thread:t"), "{prompt}");
}

#[test]
fn a_message_that_comes_twice_is_answered_once() {
    let stage = Stage::new(|_, _| false);
    let machine = stage.machine();
    let daemon = machine.start();
    let line = stage.stream();
    line.reply("t", "m1", "one");
    line.reply("t", "m1", "one");
    stage.expect("t", "result", "said: one");
    line.reply("t", "m1", "one");
    line.reply("t", "m2", "two");
    stage.expect("t", "result", "said: two");
    drop(line);
    daemon.stop();

    let _daemon = machine.start();
    let line = stage.stream();
    line.reply("t", "m2", "two");
    line.reply("t", "m1", "one");
    line.reply("t", "m3", "three");
    stage.expect("t", "result", "said: three");
}

#[test]
fn another_machines_message_is_left_alone() {
    let stage = Stage::new(|seen, conn| {
        let is_lost = seen.target.contains("claim") && seen.json()["threadId"] == "lost";
        if is_lost {
            conn.json(200, json!({ "ok": true, "won": false, "winner": "laptop" }));
        }
        is_lost
    });
    let machine = stage.machine();
    let mut daemon = machine.start_with(&["--log", "debug"], &[]);
    let line = stage.stream();
    line.event("reply", r#"{"threadId":"theirs","messageId":"m1","body":"x","agentId":"laptop"}"#);
    line.event("reply", r#"{"threadId":"lost","messageId":"m2","body":"x"}"#);
    daemon.log("NotOurs");
    line.reply("ours", "m3", "hello");
    stage.expect("ours", "result", "hello");
    daemon.stop();
    let bindings = machine.state()["bindings"].clone();
    assert_eq!(bindings.as_object().unwrap().keys().collect::<Vec<_>>(), ["ours"]);
}
