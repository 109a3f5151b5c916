//! The daemon under test: a home of its own, started as a person would start it, and what its agents
//! noted.

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use crossbeam_channel::{Receiver, bounded, never};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use serde_json::{Value, json};

use crate::{
    bridge::{Bridge, MACHINE, Note, What},
    proc::{Process, ms, now},
};

/// More than any start, stop or turn takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Between two looks at what nothing tells about.
pub(crate) const GLANCE: Duration = Duration::from_millis(2);

/// What is measured, and with what.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) program: PathBuf,
    /// Where that is.
    pub(crate) _place: tempfile::TempDir,
    pub(crate) agent: PathBuf,
    /// Homes are made below.
    pub(crate) dir: PathBuf,
    /// The binaries to be weighed: a label and a path.
    pub(crate) binaries: Vec<(String, PathBuf)>,
}

/// A home directory with config and state.
#[derive(Debug)]
pub(crate) struct Home {
    dir: tempfile::TempDir,
    /// Empty, or a directory of fake engines.
    path: PathBuf,
}

impl Home {
    pub(crate) fn new(bench: &Bench, bridge: &Bridge) -> Result<Home> {
        let dir = tempfile::tempdir_in(&bench.dir)?;
        let home = Home { path: dir.path().join("bin"), dir };
        for name in [".obto-bridge", ".agent-bridge-daemon", "project", "bin"] {
            let dir = home.dir.path().join(name);
            fs::create_dir(&dir)?;
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o700))?;
        }
        let config = json!({
            "baseUrl": bridge.url(),
            "originHost": "localhost",
            "apiToken": "obto_bench",
            "agentId": MACHINE,
            "projectDir": home.dir.path().join("project"),
            "agent": "bench",
            "agents": {"bench": {"command": [&bench.agent, home.agent_log()]}},
        });
        let path = home.dir.path().join(".obto-bridge/config.json");
        write(&path, config.to_string().as_bytes(), 0o600)?;
        Ok(home)
    }

    /// A setting in the config file; for before the start.
    pub(crate) fn set(&self, key: &str, value: Value) -> Result<()> {
        let path = self.dir.path().join(".obto-bridge/config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path)?)?;
        config[key] = value;
        write(&path, config.to_string().as_bytes(), 0o600)
    }

    /// The agent speaks as this engine does; for before the start.
    pub(crate) fn set_engine(&self, bench: &Bench, engine: &str) -> Result<()> {
        self.set("agent", engine.into())?;
        self.set("agents", json!({engine: {"command": [&bench.agent, self.agent_log()]}}))
    }

    /// What the asking agent noted.
    pub(crate) fn verdicts(&self) -> String {
        let path = self.dir.path().join("agent.log.verdicts");
        fs::read_to_string(path).unwrap_or_default()
    }

    /// Puts programs that say a version and nothing else where engines are looked for.
    pub(crate) fn add_fake_engines(&self) -> Result<()> {
        let versions = [
            ("claude", "2.1.197 (Claude Code)"),
            ("codex", "codex-cli 0.169.0"),
            ("opencode", "1.18.33"),
        ];
        for (name, version) in versions {
            let script = format!("#!/bin/sh\necho '{version}'\n");
            write(&self.path.join(name), script.as_bytes(), 0o755)?;
        }
        Ok(())
    }

    /// A state.json of `count` threads that were driven before, `t0` and up.
    pub(crate) fn add_bindings(&self, count: usize) -> Result<()> {
        let path = self.dir.path().join(".agent-bridge-daemon/state.json");
        let project = self.dir.path().join("project").display().to_string();
        let at = "2026-11-20T10:00:00.000Z";
        let mut file = std::io::BufWriter::new(File::create(&path)?);
        write!(file, "{{\"bindings\":{{")?;
        for number in 0..count {
            let comma = if number == 0 { "" } else { "," };
            write!(
                file,
                "{comma}\"t{number}\":{}",
                json!({"createdAt": at, "agentId": MACHINE, "sessions": {"bench": {
                    "sessionId": format!("old-session-{number}"), "projectDir": project,
                    "createdAt": at, "lastDriveAt": at}}})
            )?;
        }
        write!(file, "}}}}")?;
        file.into_inner()?.set_permissions(fs::Permissions::from_mode(0o600))?;
        Ok(())
    }

    /// Where `serve` keeps the token of its account.
    pub(crate) fn token_file(&self) -> PathBuf {
        self.dir.path().join(".obto-bridge/serve/token")
    }

    fn agent_log(&self) -> PathBuf {
        self.dir.path().join("agent.log")
    }

    /// What the agents noted, once that is `count` turns.
    pub(crate) fn turns(&self, count: usize) -> Result<Vec<Turn>> {
        let until = Instant::now() + PATIENCE;
        loop {
            let text = fs::read_to_string(self.agent_log()).unwrap_or_default();
            let turns = text.lines().map(Turn::parse).collect::<Result<Vec<_>>>()?;
            if turns.len() >= count {
                return Ok(turns);
            }
            if Instant::now() > until {
                bail!("the agents noted {} turns of {count}", turns.len());
            }
            // They write right after their answer; there is no event to wait for.
            never::<()>().recv_timeout(GLANCE).ok();
        }
    }
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let mut file = File::create(path).with_context(|| format!("creating {}", path.display()))?;
    file.write_all(bytes)?;
    Ok(file.set_permissions(fs::Permissions::from_mode(mode))?)
}

/// A line of the agents' log.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Turn {
    pub(crate) started: u64,
    pub(crate) prompted: u64,
    pub(crate) answered: u64,
    pub(crate) thread: String,
    pub(crate) message: String,
    pub(crate) session: String,
    pub(crate) is_new_session: bool,
}

impl Turn {
    fn parse(line: &str) -> Result<Turn> {
        let words: Vec<&str> = line.split(' ').collect();
        let &[started, prompted, answered, thread, message, session, how] = words.as_slice() else {
            bail!("the agents' log has the line {line:?}");
        };
        let time = |word: &str| word.parse().with_context(|| format!("a time in {line:?}"));
        Ok(Turn {
            started: time(started)?,
            prompted: time(prompted)?,
            answered: time(answered)?,
            thread: thread.to_owned(),
            message: message.to_owned(),
            session: session.to_owned(),
            is_new_session: how == "new",
        })
    }
}

/// A program under test. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Program {
    child: Child,
    /// When it was spawned.
    pub(crate) spawned: u64,
    /// Hears when it has ended.
    ended: Receiver<u64>,
    log: PathBuf,
    is_reaped: bool,
}

impl Program {
    /// Starts `program args` in `home`.
    pub(crate) fn start(program: &Path, args: &[&str], home: &Home) -> Result<Program> {
        let log = home.dir.path().join("program.log");
        let file = File::options().append(true).create(true).open(&log)?;
        let mut command = Command::new(program);
        command
            .args(args)
            .env_clear()
            .env("HOME", home.dir.path())
            .env("PATH", &home.path)
            .current_dir(home.dir.path())
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file);
        let spawned = now();
        let child = command.spawn().with_context(|| format!("starting {}", program.display()))?;
        let pid = Pid::from_child(&child);
        let (sender, ended) = bounded(1);
        thread::spawn(move || {
            // It stays a zombie, so that its id can't be anyone else's until it is reaped.
            waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).ok();
            sender.send(now()).ok();
        });
        Ok(Program { child, spawned, ended, log, is_reaped: false })
    }

    /// Starts the daemon and waits for its stream. Returns how long that took in milliseconds.
    pub(crate) fn connected(bench: &Bench, home: &Home, bridge: &Bridge) -> Result<(Program, f64)> {
        bridge.forget_notes();
        let daemon = Program::start(&bench.program, &["start"], home)?;
        let stream = |note: Note| (note.what == What::Stream).then_some(note.at);
        let at = daemon.explain(bridge.wait("stream", PATIENCE, stream))?;
        let took = ms(daemon.spawned, at);
        Ok((daemon, took))
    }

    pub(crate) fn process(&self) -> Process {
        Process(self.child.id())
    }

    /// Sends TERM and waits for the end. Returns how long that took in milliseconds.
    pub(crate) fn stop(mut self) -> Result<f64> {
        let at = now();
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        let ended = self.ended.recv_timeout(PATIENCE).context("it did not stop");
        let ended = self.explain(ended)?;
        let status = self.child.wait()?;
        self.is_reaped = true;
        if !status.success() {
            return self.explain(Err(anyhow::anyhow!("it stopped with {status}")));
        }
        Ok(ms(at, ended))
    }

    /// Adds the end of its log to an error.
    pub(crate) fn explain<T>(&self, result: Result<T>) -> Result<T> {
        result.with_context(|| {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            let mut lines: Vec<&str> = log.lines().rev().take(4).collect();
            lines.reverse();
            let state = if self.ended.is_empty() { "runs" } else { "has ended" };
            format!("the program {state}, its log ends with: {}", lines.join(" / "))
        })
    }

    /// What it printed.
    pub(crate) fn output(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if !self.is_reaped {
            // Not reaped yet, so the id is still its own.
            kill_process(Pid::from_child(&self.child), Signal::KILL).ok();
            self.child.wait().ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_of_agents_are_read() {
        let turn = Turn::parse("12 13 15 t1 m1 s1 new").unwrap();
        assert_eq!((turn.started, turn.prompted, turn.answered), (12, 13, 15));
        assert!(turn.is_new_session);
        assert_eq!((&*turn.thread, &*turn.message, &*turn.session), ("t1", "m1", "s1"));
        assert!(!Turn::parse("12 13 15 t1 m1 s1 resumed").unwrap().is_new_session);
        for wrong in ["", "12 13 15 t1 m1 s1", "x 13 15 t1 m1 s1 new"] {
            assert!(Turn::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
