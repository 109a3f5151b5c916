//! opencode's server as a process, started like every other engine: a group of its own, marked,
//! without our secrets.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Result;
use crossbeam_channel::{Receiver, bounded};
use rustix::process::Signal;

use super::{Command, Config, Handle, Process, Spawner, keep};
use crate::{
    agent::launch::EngineDef,
    ids::random_hex,
    proc::{
        Child, Event, Plan,
        kill::To,
        sweep::{self, Before, Marked},
    },
    task::{self, Task},
};

/// Lines of the server between two looks of its keeper.
const LINES: usize = 64;

/// How long processes that the server left behind are looked for.
const SWEEP: Duration = Duration::from_secs(2);

/// An unused server is kept for this long.
const IDLE: Duration = Duration::from_mins(5);

/// Starts the keeper of the server; the server itself is started with the first turn that needs it.
/// `env` is what engines inherit, and `state_id` leads the marker of its processes.
///
/// # Errors
/// When the system gives no more OS threads.
pub fn start(
    row: &EngineDef,
    cwd: &Path,
    startup: Duration,
    env: Vec<(OsString, OsString)>,
    state_id: &str,
) -> Result<(Handle, Task)> {
    let config = Config { program: row.program().into(), cwd: cwd.to_owned(), idle: IDLE, startup };
    let leading = row.command[1..].iter().map(OsString::from).collect();
    keep(config, ServerSpawner { leading, env, state_id: state_id.to_owned() })
}

struct ServerSpawner {
    /// Arguments that the config puts before ours.
    leading: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    state_id: String,
}

impl Spawner for ServerSpawner {
    fn spawn(&mut self, command: &Command) -> Result<Box<dyn Process>> {
        let marker = sweep::marker(&self.state_id, &format!("opencode-{}", random_hex()));
        let ours = [(OsString::from(sweep::MARKER), OsString::from(&marker))];
        let plan = Plan {
            program: PathBuf::from(&command.program),
            args: [self.leading.clone(), command.args.clone()].concat(),
            dir: command.cwd.clone(),
            env: [self.env.clone(), command.env.clone(), ours.to_vec()].concat(),
        };
        let child = Child::spawn(&plan)?;
        let (line, lines) = bounded(LINES);
        let (exit, exited) = bounded(1);
        let events = child.events().clone();
        // Ends with the child's output, which the keeper drains.
        task::spawn("opencode-out", move || {
            for event in events {
                match event {
                    Event::Line(text) => {
                        // A keeper that no longer listens is about to end the server.
                        line.send(String::from_utf8_lossy(&text).into_owned()).ok();
                    }
                    Event::LongLine(_) => {}
                    Event::Exit { stderr_tail, .. } => {
                        log::debug!(stderr = stderr_tail.as_str(); "opencode's server ended");
                        exit.send(()).ok();
                        return;
                    }
                }
            }
        })?;
        Ok(Box::new(ServerProcess { child, marker, lines, exited }))
    }
}

struct ServerProcess {
    child: Child,
    marker: String,
    lines: Receiver<String>,
    exited: Receiver<()>,
}

impl Process for ServerProcess {
    fn lines(&self) -> &Receiver<String> {
        &self.lines
    }

    fn exited(&self) -> &Receiver<()> {
        &self.exited
    }

    fn terminate(&mut self) {
        self.child.handle().signal(Signal::TERM, To::Group).ok(); // Gone already is as good.
    }

    fn kill(&mut self) {
        self.child.handle().signal(Signal::KILL, To::Group).ok();
        sweep::sweep(Marked::Turn(&self.marker), &Before::default(), SWEEP);
    }
}
