//! Answers that come from the wrong place, at the wrong time, too often, or in the wrong words; and
//! engines that ask in ways that could turn a right answer into a wrong one.

use std::sync::{Arc, Mutex};

use obto_bridge::time::{self, Timestamp};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::questions::{Asker, code, done, expect_all, question, with_asker};
use crate::util::daemon::{Daemon, Line, MACHINE, Machine, Stage, is_for};

/// A bridge of which the test says every event, and a machine with a question open.
struct Scene {
    stage: Stage,
    machine: Machine,
    daemon: Daemon,
    line: Line,
    /// What the bridge gives as the thread's history.
    history: Arc<Mutex<Vec<Value>>>,
    code: String,
}

impl Scene {
    fn new() -> Scene {
        let history: Arc<Mutex<Vec<Value>>> = Arc::default();
        let given = Arc::clone(&history);
        let stage = Stage::new(move |seen, conn| {
            let is_catching_up = is_for(seen, "/api/messages") && seen.target.contains("since=");
            if is_catching_up {
                conn.json(200, json!({"ok": true, "messages": *given.lock().unwrap()}));
            }
            is_catching_up
        });
        let machine = with_asker(stage.machine());
        let daemon = machine.start();
        let line = stage.stream();
        line.event("reply", &message("t", "m1", "ask make").to_string());
        let body = stage.expect("t", "question", "make")["body"].as_str().unwrap().to_owned();
        let code = code(&body);
        Scene { stage, machine, daemon, line, history, code }
    }

    fn say(&self, message: &Value) {
        self.line.event("reply", &message.to_string());
    }

    /// Denied by the right person it ends, and nothing was done before.
    #[track_caller]
    fn refuses(self) {
        self.say(&message("t", "last", &format!("deny {}", self.code)));
        let mut posts = [self.stage.post(), self.stage.post()];
        posts.sort_by_key(|post| post["kind"].to_string());
        assert!(posts[0]["body"].as_str().unwrap().contains("did not make"), "{posts:#?}");
        assert!(posts[1]["body"].as_str().unwrap().starts_with("**Refused**"), "{posts:#?}");
        assert!(done(&self.machine).is_empty());
        self.daemon.stop();
    }
}

/// A person's message of now.
fn message(thread: &str, id: &str, body: &str) -> Value {
    let written = Timestamp::from_millis(time::now().as_millis());
    json!({"threadId": thread, "messageId": id, "author": "ada", "role": "human", "body": body,
        "agentId": MACHINE, "createdAt": written.to_string()})
}

#[test]
fn an_agent_approves_nothing() {
    let scene = Scene::new();
    let mut approval = message("t", "m2", &format!("approve {}", scene.code));
    approval["role"] = "agent".into();
    scene.say(&approval);
    scene.say(&message("t", "last", &format!("deny {}", scene.code)));
    let mut said = String::new();
    while !(said.contains("did not make") && said.contains("**Refused**")) {
        said += scene.stage.post()["body"].as_str().unwrap();
    }
    assert!(done(&scene.machine).is_empty(), "{said}");
}

#[test]
fn a_message_for_another_machine_approves_nothing() {
    let scene = Scene::new();
    let mut approval = message("t", "m2", &format!("approve {}", scene.code));
    approval["agentId"] = "another".into();
    scene.say(&approval);
    scene.refuses();
}

#[test]
fn a_code_of_another_thread_approves_nothing() {
    let scene = Scene::new();
    scene.say(&message("u", "m2", "hello"));
    scene.stage.expect("u", "result", "nothing to ask");
    scene.say(&message("u", "m3", &format!("approve {}", scene.code)));
    scene.stage.expect("u", "status", "No question");
    scene.refuses();
}

#[test]
fn the_same_answer_twice_counts_once() {
    let scene = Scene::new();
    let approval = message("t", "m2", &format!("approve {}", scene.code));
    scene.say(&approval);
    scene.say(&approval);
    let kinds = [(); 2].map(|()| scene.stage.post()["kind"].as_str().unwrap().to_owned());
    assert!(kinds.contains(&"status".to_owned()) && kinds.contains(&"result".to_owned()));
    assert_eq!(done(&scene.machine), ["make"]);
    // The bridge sends it again after a new connection.
    let Scene { stage, machine, daemon, line, .. } = scene;
    drop(line);
    let line = stage.stream();
    line.event("reply", &approval.to_string());
    line.event("reply", &message("t", "m3", "hello").to_string());
    stage.expect("t", "result", "nothing to ask");
    daemon.stop();
    assert_eq!((machine.left()[0], machine.left()[1]), (0, 0));
}

/// Whatever was written while the machine was away is read, and never counts as consent.
#[test]
fn an_answer_that_is_caught_up_with_approves_nothing() {
    let mut scene = Scene::new();
    let approval = message("t", "m2", &format!("approve {}", scene.code));
    scene.history.lock().unwrap().push(approval.clone());
    drop(scene.line);
    scene.line = scene.stage.stream();
    scene.stage.expect("t", "status", "read while catching up");
    // The stream brings it as well.
    scene.line.event("reply", &approval.to_string());
    scene.refuses();
}

/// A bridge that keeps its events and says that it sends all of them.
#[test]
fn an_answer_that_is_replayed_in_time_counts() {
    let mut scene = Scene::new();
    scene.line.raw(format!("id: e-7\nevent: reply\ndata: {}\n\n", message("u", "m2", "hello")));
    scene.stage.expect("u", "result", "nothing to ask");
    drop(scene.line);
    scene.line = scene.stage.stream();
    assert_eq!(scene.line.seen.header("last-event-id"), Some("e-7"));
    scene.line.event("hello", &json!({"replay": "complete"}).to_string());
    scene.say_approval("e-8");
    let kinds = [(); 2].map(|()| scene.stage.post()["kind"].as_str().unwrap().to_owned());
    assert!(kinds.contains(&"result".to_owned()), "{kinds:?}");
    assert_eq!(done(&scene.machine), ["make"]);
}

impl Scene {
    fn say_approval(&self, event: &str) {
        let approval = message("t", "m9", &format!("approve {}", self.code));
        self.line.raw(format!("id: {event}\nevent: reply\ndata: {approval}\n\n"));
    }
}

#[test]
fn a_megabyte_is_a_reason_that_is_cut() {
    let asker = Asker::new();
    let (_daemon, mut ears) = asker.start();
    asker.say("ask make");
    question(&mut ears, "make");
    asker.say_bare(&format!("approve {}", "x".repeat((1 << 20) - 100)));
    expect_all(&mut ears, &[("status", "**Refused**"), ("result", "did not make")]);
    assert!(asker.done().is_empty());
}

#[test]
fn letters_that_look_alike_approve_nothing() {
    let asker = Asker::new();
    let (_daemon, mut ears) = asker.start();
    for (number, word) in
        ["аpprove", "ａｐｐｒｏｖｅ", "approve\u{200b}", "yeѕ", "al\u{ad}low"].iter().enumerate()
    {
        asker.say(&format!("ask make {number}"));
        let code = question(&mut ears, &format!("make {number}"));
        asker.say_bare(word);
        let not = format!("did not make {number}");
        expect_all(&mut ears, &[("status", &code), ("result", &not)]);
    }
    // A code in other letters is nobody's, and the question stays open.
    asker.say("ask make");
    let code = question(&mut ears, "make");
    let wide: String = code.chars().map(|c| char::from_u32(c as u32 + 0xfee0).unwrap()).collect();
    asker.say(&format!("approve {wide}"));
    ears.expect("t", "status", "No question");
    assert!(asker.done().is_empty());
    asker.say(&format!("approve {code}"));
    expect_all(&mut ears, &[("status", &code), ("result", "did make")]);
}

#[test]
fn fifty_open_questions_are_answered_in_any_order() {
    let asker = Asker::new();
    let (_daemon, mut ears) = asker.start();
    let commands: Vec<String> = (0..50).map(|number| format!("make target-{number:02}")).collect();
    let lines: Vec<String> = commands.iter().map(|command| format!("ask {command}")).collect();
    asker.say(&lines.join("\n"));
    let mut open: Vec<(usize, String)> =
        commands.iter().map(|command| question(&mut ears, command)).enumerate().collect();
    fastrand::Rng::with_seed(7).shuffle(&mut open);
    let mut allowed = Vec::new();
    for (number, code) in &open {
        let word = if number % 3 == 0 { "deny" } else { "approve" };
        asker.say(&format!("{word} {code}"));
        if word == "approve" {
            allowed.push(commands[*number].clone());
        }
    }
    let mut said: Vec<String> = open.iter().map(|_| ears.post()["body"].to_string()).collect();
    said.push(ears.post()["body"].to_string());
    for (_, code) in &open {
        let ends = said.iter().filter(|body| body.contains(&format!("** `{code}`"))).count();
        assert_eq!(ends, 1, "{code}: {said:#?}");
    }
    assert_eq!(asker.done(), allowed, "in the order of the answers");
}

/// The older one's approval must not reach the newer one.
#[test]
fn an_engine_that_asks_again_under_the_same_number_gets_no_older_answer() {
    let asker = Asker::new();
    let (_daemon, mut ears) = asker.start();
    asker.say("ask make\nreask rm -rf /");
    let older = question(&mut ears, "make");
    let mut posts = [ears.post(), ears.post()];
    posts.sort_by_key(|post| post["kind"].to_string());
    let newer = code(posts[0]["body"].as_str().unwrap());
    assert!(posts[1]["body"].as_str().unwrap().contains(&format!("**Gone** `{older}`")));
    asker.say(&format!("approve {older}"));
    ears.expect("t", "status", "no longer waits for it");
    assert!(asker.done().is_empty());
    asker.say(&format!("deny {newer}"));
    expect_all(&mut ears, &[("status", &newer), ("result", "did not rm -rf /")]);
    // The next turn's engine counts from one again.
    asker.say("ask touch x");
    let code = question(&mut ears, "touch x");
    for old in [older, newer] {
        asker.say(&format!("approve {old}"));
        ears.expect("t", "status", &old);
    }
    assert!(asker.done().is_empty());
    asker.say(&format!("approve {code}"));
    expect_all(&mut ears, &[("status", &code), ("result", "did touch x")]);
    assert_eq!(asker.done(), ["touch x"]);
}

#[test]
fn an_engine_that_dies_asking_takes_its_question_with_it() {
    let asker = Asker::new();
    let (_daemon, mut ears) = asker.start();
    asker.say("ask make\ndie");
    let mut posts = [ears.post(), ears.post(), ears.post()];
    posts.sort_by_key(|post| post["kind"].to_string());
    let body = |at: usize| posts[at]["body"].as_str().unwrap();
    assert_eq!(posts.each_ref().map(|post| &post["kind"]), ["error", "question", "status"]);
    let code = code(body(1));
    assert!(body(2).contains(&format!("**Gone** `{code}`")), "{posts:#?}");
    asker.say(&format!("approve {code}"));
    ears.expect("t", "status", "nothing was allowed");
    // The engine that is started next asks under the same number.
    asker.say("ask touch x");
    let next = question(&mut ears, "touch x");
    asker.say(&format!("approve {code}"));
    ears.expect("t", "status", &code);
    asker.say(&format!("deny {next}"));
    expect_all(&mut ears, &[("status", &next), ("result", "did not touch x")]);
    assert!(asker.done().is_empty());
}

/// A machine that sleeps hears nothing: what came meanwhile is too late once the limit is over.
#[test]
fn a_machine_that_slept_takes_no_answer_from_its_sleep() {
    let asker = Asker::new().with("relayTimeoutMs", json!(1_500));
    let (daemon, mut ears) = asker.start();
    asker.say("ask make");
    let code = code(&ears.expect("t", "question", "make"));
    daemon.signal(Signal::STOP);
    asker.say(&format!("approve {code}"));
    // A stopped process says nothing, and what is to pass is the time of its limit itself.
    crossbeam_channel::after(std::time::Duration::from_millis(1_700)).recv().unwrap();
    daemon.signal(Signal::CONT);
    // How the question ended, the engine's answer, and one to the message.
    let said =
        [ears.post(), ears.post(), ears.post()].map(|post| post["body"].to_string()).concat();
    assert!(said.contains("did not make") && asker.done().is_empty(), "{said}");
    daemon.stop();
    assert_eq!(asker.machine.left()[0], 0);
}

#[test]
fn a_daemon_that_stops_while_it_asks_says_so_at_once() {
    let asker = Asker::new().with("drainSeconds", json!(0));
    let (daemon, mut ears) = asker.start();
    asker.say("ask make");
    let code = question(&mut ears, "make");
    daemon.stop();
    let gone = format!("**Gone** `{code}`");
    expect_all(&mut ears, &[("status", &gone), ("status", "Reply `continue` to resume")]);
    assert_eq!(asker.machine.left()[0], 0, "the next start has nothing to add");
    let _daemon = asker.machine.connected();
    asker.say("continue");
    ears.expect("t", "result", "nothing to ask");
    assert!(asker.done().is_empty());
}

/// The environment alone, without a word of it in the file, and against the file.
#[test]
fn the_environment_switches_the_relay_on_and_off() {
    let on = ("BRIDGE_RELAY_PERMISSIONS", "1");
    let soon = ("BRIDGE_RELAY_TIMEOUT_MS", "300");
    let off = ("BRIDGE_RELAY_PERMISSIONS", "0");
    for (file, env, is_asked) in
        [(false, &[on, soon][..], true), (true, &[soon], true), (true, &[off], false)]
    {
        let asker = Asker::new().with("relayPermissions", json!(file));
        let mut daemon = asker.machine.start_with(&[], env);
        daemon.log("connected to the bridge");
        let mut ears = asker.bridge.listen();
        asker.say("ask make");
        if is_asked {
            ears.expect("t", "question", "make");
            expect_all(&mut ears, &[("status", "**Expired**"), ("result", "did not make")]);
        } else {
            ears.expect("t", "result", "did not make");
        }
        assert!(asker.done().is_empty());
    }
}
