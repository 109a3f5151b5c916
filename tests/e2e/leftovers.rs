//! No process of a turn outlives it: each engine, ended in each way that there is, while a command of
//! its model runs that has put another one into a session of its own.

use crate::{
    homes::Engine,
    patience::Patience,
    process::{self, Process},
    rig::{PATIENCE, Post, Rig, Setup},
};
use rustix::process::Signal;
use serde_json::json;
use std::time::Duration;

/// Between two looks at what has no event for a test.
const LOOK: Duration = Duration::from_millis(20);

/// What no signal to a process group or a session reaches, and what the engine waits for.
const COMMANDS: [&str; 2] = ["sleep 611", "sleep 600"];

/// Runs both, but only the first time: the turn may be told to go on. Codex waits no more than 10 s
/// for a command, hence the gate.
const SCRIPT: &str = "begin [[shell:test -e begun || \
    { touch begun; setsid nohup sleep 611 >/dev/null 2>&1 & sleep 600; }]][[gate:end]][[text:over]]";

/// Makes a test of each ending for each engine.
macro_rules! endings_of {
    ($($module:ident $engine:ident),+ $(,)?) => {
        $(mod $module {
            use crate::homes::Engine;

            #[test]
            fn nothing_outlives_a_stop() {
                super::stop(Engine::$engine);
            }

            #[test]
            fn nothing_outlives_a_second_signal() {
                super::second_signal(Engine::$engine);
            }

            #[test]
            fn nothing_outlives_the_start_after_a_crash() {
                super::crash(Engine::$engine);
            }

            #[test]
            fn nothing_outlives_the_turns_limit() {
                super::limit(Engine::$engine);
            }
        })+
    };
}

endings_of! {
    claude Claude,
    codex Codex,
    opencode Opencode,
    acp CodexAcp,
}

/// A daemon in the middle of a turn, the turn's thread, and all its processes.
struct Busy {
    rig: Rig,
    thread: String,
    all: Vec<Process>,
}

/// Has an engine begin the commands.
#[track_caller]
fn begin(engine: Engine, key: &str, seconds: u64) -> Busy {
    try_begin(engine, key, seconds).expect("the turn lasts until its commands run")
}

/// None: the turn was over before its commands ran.
#[track_caller]
fn try_begin(engine: Engine, key: &str, seconds: u64) -> Option<Busy> {
    let mut setup = Setup::logged_in();
    setup.config["allowAll"] = json!(true);
    setup.config[key] = json!(seconds);
    // Claude Code wants to be told that root's machine is a sandbox.
    setup.home.set("IS_SANDBOX", "1");
    let rig = setup.start();
    let thread = rig.begin(engine, SCRIPT);
    let mut all = Vec::new();
    let mut is_over = false;
    wait_until(&rig, "the commands run", || {
        all = process::marked(&rig.home);
        is_over = rig.posts(&thread).iter().any(Post::is_last);
        is_over || COMMANDS.iter().all(|command| all.iter().any(|it| it.command == *command))
    });
    if is_over {
        return None;
    }
    assert!(COMMANDS.len() < all.len(), "the engine is not marked: {all:#?}");
    Some(Busy { rig, thread, all })
}

#[track_caller]
fn wait_until(rig: &Rig, what: &str, mut is_so: impl FnMut() -> bool) {
    let mut patience = Patience::of(PATIENCE);
    while !is_so() {
        let left = process::marked(&rig.home);
        assert!(patience.lasts(), "not in {PATIENCE:?}: {what}; there are {left:#?}");
        rig.daemon().ended().recv_timeout(LOOK).expect_err("nobody sends here");
    }
}

/// None of the home's turns has left anything.
#[track_caller]
fn assert_nothing_left(rig: &Rig) {
    let left = process::marked(&rig.home);
    assert!(left.is_empty(), "{left:#?}");
}

fn stop(engine: Engine) {
    let Busy { mut rig, .. } = begin(engine, "drainSeconds", 1);
    rig.take_daemon().stop();
    assert_nothing_left(&rig);
}

fn second_signal(engine: Engine) {
    let Busy { mut rig, .. } = begin(engine, "drainSeconds", 600);
    rig.daemon().signal(Signal::TERM);
    wait_until(&rig, "it says that it stops", || rig.daemon().log().contains("stopping turns=1"));
    for command in COMMANDS {
        let runs = process::marked(&rig.home).iter().any(|it| it.command == command);
        assert!(runs, "the first signal lets turns finish, and {command:?} is gone");
    }
    rig.daemon().signal(Signal::TERM);
    let status = rig.take_daemon().wait();
    assert_eq!(status.code(), Some(128 + Signal::TERM.as_raw()), "{status}");
    assert_nothing_left(&rig);
}

fn crash(engine: Engine) {
    let Busy { mut rig, thread, all } = begin(engine, "drainSeconds", 1);
    rig.session_is_on_disk(engine);
    rig.take_daemon().kill9();
    let loose = all.iter().find(|it| it.command == COMMANDS[0]).expect("it was waited for");
    assert!(loose.is_alive(), "it ended by itself, so the sweep has nothing to do");
    rig.model.open("end");
    rig.start_daemon();
    // It was swept before the turn went on.
    let posts = rig.answer(&thread, 1);
    assert_eq!(posts.last().map(|it| it.body.as_str()), Some("over"), "{posts:#?}");
    let left: Vec<_> = all.iter().filter(|it| it.is_alive()).collect();
    assert!(left.is_empty(), "{left:#?}");
    rig.take_daemon().stop();
    assert_nothing_left(&rig);
}

fn limit(engine: Engine) {
    // On a busy machine opencode has needed more than 15 s until its first command ran.
    let begun = |seconds| Some((seconds, try_begin(engine, "turnSeconds", seconds)?));
    let (seconds, busy) = [15, 60, 240].into_iter().find_map(begun).expect("one is long enough");
    let Busy { rig, thread, all } = busy;
    let posts = rig.answer(&thread, 1);
    let last = posts.last().expect("an answer is a post");
    assert_eq!(last.kind, "error", "{posts:#?}");
    let limit =
        format!("took longer than {}", humantime::format_duration(Duration::from_secs(seconds)));
    assert!(last.body.contains(&limit), "the limit is not named: {posts:#?}");
    wait_until(&rig, "all is gone", || all.iter().all(|it| !it.is_alive()));
    assert_nothing_left(&rig);
}
