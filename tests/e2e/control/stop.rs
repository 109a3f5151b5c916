//! `/stop` in the middle of a command that would take ten minutes, however the command has hidden
//! itself: the turn is over at once, nothing of it is left, and the next message goes on.

use crate::{
    control::Scene,
    homes::Engine,
    process::{self, Process},
    rig::PATIENCE,
};
use serde_json::json;
use std::time::{Duration, Instant};

/// From the human's word to the end of the turn.
const AT_ONCE: Duration = Duration::from_secs(5);

/// Between two looks at processes, which have no event for a test.
const LOOK: Duration = Duration::from_millis(20);

/// Looks at the processes of the daemon's turns until this is so.
#[track_caller]
fn wait_until(scene: &Scene, what: &str, is_so: impl Fn(&[Process]) -> bool) -> Duration {
    let begin = Instant::now();
    loop {
        let all = process::marked(&scene.rig.home);
        if is_so(&all) {
            return begin.elapsed();
        }
        assert!(begin.elapsed() < PATIENCE, "not in {PATIENCE:?}: {what}; there are {all:#?}");
        scene.rig.daemon().ended().recv_timeout(LOOK).expect_err("nobody sends here");
    }
}

/// Commands that sleep, the shell lines that run them, and whether they hide in a session of their
/// own.
const SLEEPS: [(&str, &str); 3] = [
    ("sleep 600", "sleep 600"),
    ("sleep 601", "sleep 601 & wait"),
    ("sleep 602", "setsid nohup sleep 602 >/dev/null 2>&1 & setsid sleep 603"),
];

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
        scene.say(&format!("sleep {n} [[shell:{line}]][[gate:never]]"));
        wait_until(&scene, command, |all| all.iter().any(|it| it.command == *command));
        let said = Instant::now();
        scene.say("/stop");
        let stopped = scene.post("end of a turn", n + 1, |it| it.body.contains("Stopped."));
        let took = said.elapsed();
        assert!(took < AT_ONCE, "{line:?} was stopped after {took:?}: {stopped:#?}");
        wait_until(&scene, "all is gone", <[Process]>::is_empty);
        assert!(said.elapsed() < AT_ONCE, "{line:?} was gone after {:?}", said.elapsed());
        scene.say(&format!("word {n}? [[text:that one]]"));
        scene.result(n + 2, "that one");
        let request = scene.asked(&format!("word {n}?"));
        assert!(request.mentions("the word is quince"), "it is another session: {request:#?}");
        assert_eq!(scene.session(), session);
    }
}
