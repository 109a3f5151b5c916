//! `run` on every engine: each way in which a job can end, and its exit code.

use crate::{
    homes::Engine,
    patience::Patience,
    rig::{PATIENCE, Rig, Setup},
    run,
    scenarios::asked,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::{
    fs::{self, File},
    os::unix::process::ExitStatusExt,
    process::{Child, Command, Stdio},
};

/// Makes a test for each engine.
macro_rules! jobs_of {
    ($($name:ident $engine:ident),+ $(,)?) => {
        $(#[test]
        fn $name() {
            every_end_has_its_code(Engine::$engine);
        })+
    };
}

jobs_of! {
    claude Claude,
    codex Codex,
    opencode Opencode,
    claude_acp ClaudeAcp,
    codex_acp CodexAcp,
    copilot Copilot,
    gemini Gemini,
    qwen Qwen,
}

/// A job that runs.
struct Job {
    child: Child,
    name: String,
}

impl Job {
    fn start(rig: &Rig, engine: Engine, name: &str, prompt: &str, more: &[&str]) -> Job {
        let output = |kind: &str| {
            let file = rig.home.path(format!("{name}.{kind}"));
            File::options().append(true).create(true).open(file).unwrap()
        };
        let child = Command::new(env!("CARGO_BIN_EXE_obto-bridge"))
            .args(["run", "--json", "--agent", engine.name(), "--prompt", prompt])
            .args(more)
            .env_clear()
            .envs(rig.home.env())
            .env("TMPDIR", rig.home.path(""))
            .current_dir(rig.home.project())
            .stdin(Stdio::null())
            .stdout(output("out"))
            .stderr(output("err"))
            .spawn()
            .unwrap();
        Job { child, name: name.to_owned() }
    }

    /// The thread, from the address that is printed first.
    fn thread(&self, rig: &Rig) -> String {
        let mut patience = Patience::of(PATIENCE);
        loop {
            let said = fs::read_to_string(rig.home.path(format!("{}.err", self.name))).unwrap();
            let first = said.lines().next().and_then(|line| line.rsplit_once("/api/view#t/"));
            if let Some((_, thread)) = first.filter(|_| said.contains('\n')) {
                return thread.to_owned();
            }
            assert!(patience.pause(), "no address was printed");
        }
    }

    /// Waits for its end, with this code; what it printed.
    #[track_caller]
    fn ends(mut self, rig: &Rig, code: i32) -> Value {
        let ended = run::end_of(&self.child);
        let end = Patience::of(PATIENCE).recv(&ended);
        if end.is_err_and(|it| it.is_timeout()) {
            kill_process(Pid::from_child(&self.child), Signal::KILL).unwrap();
        }
        let status = self.child.wait().unwrap();
        let read =
            |kind| fs::read_to_string(rig.home.path(format!("{}.{kind}", self.name))).unwrap();
        let (out, err) = (read("out"), read("err"));
        assert_eq!(
            (status.code(), status.signal()),
            (Some(code), None),
            "{}\n{out}\n{err}",
            self.name
        );
        let object: Value =
            serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"));
        assert_eq!(object["exitCode"], code, "{out}");
        object
    }
}

fn every_end_has_its_code(engine: Engine) {
    let mut setup = Setup::logged_in();
    // Where codex asks before it writes.
    setup.config["codexSandbox"] = json!("read-only");
    let rig = setup.start();
    let start = |rig: &Rig, name: &str, prompt: &str, more: &[&str]| {
        Job::start(rig, engine, name, prompt, more)
    };

    let end = start(&rig, "answered", "hello [[text:at your service]]", &[]).ends(&rig, 0);
    assert_eq!((&end["answer"], &end["agent"]), (&json!("at your service"), &json!(engine.name())));
    assert!(end["session"].is_string() && end["reason"].is_null(), "{end}");

    let end = start(&rig, "limit", "wait [[gate:limit]]", &["--timeout", "15"]).ends(&rig, 11);
    assert_eq!(end["outcome"], "limit");

    let job = start(&rig, "stopped", "stop me [[gate:stopped]]", &[]);
    asked(&rig, "stop me");
    let thread = job.thread(&rig);
    rig.say(&thread, "/stop");
    assert_eq!(job.ends(&rig, 12)["outcome"], "stopped");

    let job = start(&rig, "ended", "end me [[gate:ended]]", &[]);
    asked(&rig, "end me");
    let thread = job.thread(&rig);
    kill_process(Pid::from_child(&job.child), Signal::TERM).unwrap();
    job.ends(&rig, 143);
    let told = rig.posts(&thread).iter().any(|post| post.body.contains("ended by signal"));
    assert!(told, "{:#?}", rig.posts(&thread));

    let path = rig.home.project().join("denied.txt").display().to_string();
    let write = format!("write it [[write:{path}|x]][[text:could not]]");
    let end = start(&rig, "denied", &write, &[]).ends(&rig, 13);
    assert!(end["denied"] == true && !fs::exists(&path).unwrap(), "{end}");

    // Copilot puts the errors of its model into its words, like any answer.
    if engine != Engine::Copilot {
        rig.model.set_status(400);
        start(&rig, "failed", "fail [[text:no]]", &[]).ends(&rig, 10);
        rig.model.set_status(401);
        start(&rig, "login", "log in [[text:no]]", &[]).ends(&rig, 15);
        // Qwen asks a model at its limit again for more than seven minutes.
        if engine != Engine::Qwen {
            rig.model.set_status(429);
            start(&rig, "usage", "too much [[text:no]]", &[]).ends(&rig, 14);
        }
        rig.model.recover();
    }
}
