//! `/stop` in the middle of a command that would take ten minutes, however the command has hidden
//! itself: the turn is over at once, nothing of it is left, and the next message goes on.

use crate::{
    control::{Scene, run},
    homes::Engine,
    patience::{Patience, is_quick},
    process::{self, Process},
    rig::{PATIENCE, Post},
    scenarios::engine_processes,
};
use serde_json::json;
use std::time::{Duration, Instant};

/// From the human's word to the end of the turn.
const AT_ONCE: Duration = Duration::from_secs(5);

/// Between two looks at processes, which have no event for a test.
const LOOK: Duration = Duration::from_millis(20);

/// Looks at the processes of the daemon's turns until this is so.
#[track_caller]
pub(crate) fn wait_until(scene: &Scene, what: &str, is_so: impl Fn(&[Process]) -> bool) {
    let mut patience = Patience::of(PATIENCE);
    loop {
        let all = process::marked(&scene.rig.home);
        if is_so(&all) {
            return;
        }
        assert!(patience.lasts(), "not in {PATIENCE:?}: {what}; there are {all:#?}");
        scene.rig.daemon().ended().recv_timeout(LOOK).expect_err("nobody sends here");
    }
}

/// Commands that sleep, and the shell lines that run them, some in sessions of their own.
const SLEEPS: [(&str, &str); 3] = [
    ("sleep 600", "sleep 600"),
    ("sleep 601", "sleep 601 & wait"),
    ("sleep 602", "setsid nohup sleep 602 >/dev/null 2>&1 & setsid sleep 603"),
];

/// Stops the turn that runs this, and wants all of it gone.
#[track_caller]
pub(crate) fn stop_and_see(scene: &Scene, command: &str) {
    let stopped = |it: &[Post]| it.iter().filter(|it| it.body.contains("Stopped.")).count();
    let before = stopped(&scene.rig.posts(&scene.thread));
    wait_until(scene, command, |all| all.iter().any(|it| it.command.ends_with(command)));
    let said = Instant::now();
    scene.say("/stop");
    let found = scene.rig.wait_for_posts(&scene.thread, |it| (before < stopped(it)).then_some(()));
    assert!(found.is_ok(), "no turn was stopped: {found:#?}");
    wait_until(scene, "all is gone", <[Process]>::is_empty);
    let took = said.elapsed();
    assert!(is_quick(took, AT_ONCE), "{command:?} was gone after {took:?}");
}

pub(crate) fn a_stop_ends_a_command(engine: Engine) {
    let config = json!({
        "permissions": {"allow": ["run"]},
        // In its sandbox codex holds everything by itself.
        "codexSandbox": "danger-full-access",
    });
    let scene = Scene::with(engine, &config, "the word is quince [[text:noted]]");
    scene.result(1, "noted");
    let session = scene.session();
    for (n, (command, line)) in SLEEPS.iter().enumerate() {
        let shell = match engine {
            // Its sandbox is another, and not ours to choose.
            Engine::CodexAcp => run(engine, line),
            _ => format!("[[shell:{line}]]"),
        };
        scene.say(&format!("sleep {n} {shell}[[gate:never]]"));
        stop_and_see(&scene, command);
        scene.say(&format!("word {n}? [[text:that one]]"));
        scene.result(n + 2, "that one");
        let request = scene.asked(&format!("word {n}?"));
        assert!(request.mentions("the word is quince"), "it is another session: {request:#?}");
        assert_eq!(scene.session(), session);
    }
}

pub(crate) fn a_stop_ends_the_wait_for_a_model(engine: Engine) {
    let scene = Scene::begin(engine, "the word is quince [[text:noted]]");
    scene.result(1, "noted");
    for gate in ["[[gate:never]]", "[[text:a part of it]][[hang:600]]"] {
        scene.say(&format!("stuck at {gate}"));
        scene.asked(&format!("stuck at {gate}"));
        stop_and_see(&scene, "");
    }
    scene.say("which word? [[text:that]]");
    scene.result(2, "that");
    assert!(scene.asked("which word?").mentions("the word is quince"), "the session goes on");
}

/// What a dead process was to be allowed, its successor is not, even if it asks for the same in the
/// same words.
pub(crate) fn an_engine_that_dies_asking_has_to_ask_again(engine: Engine) {
    let scene = Scene::begin(engine, "the word is quince [[text:noted]]");
    scene.result(1, "noted");
    let text = format!("make it {}[[text:over]]", run(engine, "touch made"));
    scene.say(&text);
    let first = scene.question(1, "touch made");
    for process in engine_processes(&scene.rig, engine) {
        if process.is_alive() {
            process.kill();
        }
    }
    let died = scene.post("end of the turn", 2, |it| matches!(&it.kind[..], "result" | "error"));
    assert_eq!(died.kind, "error", "{died:#?}");
    assert_eq!(scene.outcome(&first), "gone");
    scene.say(&text);
    let second = scene.question(2, "touch made");
    assert_ne!(first.code, second.code);
    scene.say(&format!("approve {}", first.code));
    scene
        .status(&format!("That question is over; this changed nothing. **Gone** `{}`", first.code));
    assert!(!scene.has("made"), "that was another question");
    scene.say(&format!("approve {}", second.code));
    assert_eq!(scene.outcome(&second), "allowed");
    scene.post("answer", 2, |it| it.kind == "result");
    assert!(scene.has("made"), "it was allowed");
}
