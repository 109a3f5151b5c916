//! Child processes: each in a group of its own, with one task that empties its pipes and sees its
//! end, by itself and not by the end of a pipe, which a grandchild may hold open without
//! end. Nothing else in the program starts processes, and only [`kill`] sends signals.

mod input;
pub mod kill;
mod limit;
mod pipes;
mod refusal;
pub mod sweep;
mod watch;

use std::{
    env::{current_dir, split_paths},
    ffi::{OsStr, OsString},
    fmt,
    io::{self, ErrorKind},
    os::{
        fd::OwnedFd,
        unix::{fs::PermissionsExt as _, process::CommandExt as _},
    },
    path::{Path, PathBuf},
    process::{self, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use rustix::process::Signal;

use crate::task;
use input::{Input, Waker};
use kill::{ChildHandle, To};
use pipes::OutputPipe;
use watch::{Exit, Watch};

/// The longest line that is kept. Claude Code 2.1.197 was seen to write images of 14 MB in one line.
pub const MAX_LINE: usize = 64 << 20;

/// Lines that wait for their reader. When it is full the child's own write blocks.
const MAX_EVENTS: usize = 256;

/// How long a killed process may take to be reaped. More means that the kernel holds on to it.
const REAP: Duration = Duration::from_secs(2);

/// What to start, completely: nothing is inherited but the descriptors of the three pipes.
#[derive(Clone)]
pub struct Plan {
    /// A path, or a name to be looked up in the `PATH` of `env`.
    pub program: PathBuf,
    pub args: Vec<OsString>,
    /// Where the child runs. It must exist.
    pub dir: PathBuf,
    /// The complete environment.
    pub env: Vec<(OsString, OsString)>,
}

impl Plan {
    /// A variable of the child; of two values the last one counts.
    fn var(&self, name: &str) -> Option<&OsStr> {
        let (_, value) = self.env.iter().rfind(|(key, _)| key == name)?;
        Some(value)
    }

    fn path(&self) -> &OsStr {
        self.var("PATH").unwrap_or_default()
    }
}

/// Leaves out the environment, which holds the keys of the user's model providers.
impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Plan { program, args, dir, env } = self;
        write!(f, "Plan({program:?} {args:?} in {dir:?}, {} variables)", env.len())
    }
}

/// What a child does, in order; [`ChildEvent::Exit`] is the last that counts.
#[derive(Debug)]
pub enum ChildEvent {
    /// A line of its output without the line feed. The last one may have had none.
    Line(Vec<u8>),
    /// A line over [`MAX_LINE`]: how it begins. The rest of it is skipped.
    LongLine(Vec<u8>),
    /// It has ended, and its output until then has been handed over.
    Exit {
        /// None when the system would not say.
        status: Option<ExitStatus>,
        /// The last 40 lines, at most 8 KB, of its standard error.
        stderr_tail: String,
    },
}

/// A child process that did start. Dropping it kills its process group.
#[derive(Debug)]
pub struct Child<T = ChildEvent> {
    handle: ChildHandle,
    input: Option<Input>,
    events: Receiver<T>,
}

impl Child {
    /// Starts `plan`.
    ///
    /// # Errors
    /// `NotFound` when the program is not there, `NotADirectory` when the directory is not,
    /// `InvalidData` when the program can't run here, and others when the system refuses or gives no
    /// process or OS thread. Nothing is left running then.
    pub fn spawn(plan: &Plan) -> io::Result<Child> {
        Child::spawn_with(plan, Some)
    }
}

impl<T: Send + 'static> Child<T> {
    /// Like [`Child::spawn`], with every event put through `convert` on the task that read it;
    /// None drops it.
    pub fn spawn_with(plan: &Plan, convert: fn(ChildEvent) -> Option<T>) -> io::Result<Child<T>> {
        Child::start(plan, convert, kill::can_hold())
    }

    /// `holds`: the exit is learned of by a descriptor, and needs no task that waits for it.
    fn start(
        plan: &Plan,
        convert: fn(ChildEvent) -> Option<T>,
        holds: bool,
    ) -> io::Result<Child<T>> {
        let mut command = command(plan)?;
        let (events_in, events) = bounded(MAX_EVENTS);
        let (waker, woken) = Waker::new()?;
        // The tasks come before the process: a system that has no thread left to give then leaves
        // no process behind either. Without one, they end as soon as these slots are dropped.
        let watching = waiting("agent-io", |watch: Watch<T>| watch.run(MAX_LINE))?;
        let (tell, told) = bounded(1);
        let reaping = if holds {
            None
        } else {
            let waker = waker.clone();
            Some(waiting("agent-wait", move |(child, handle): (process::Child, ChildHandle)| {
                tell.send(watch::reap(&handle, child)).ok(); // It may be gone.
                waker.wake();
            })?)
        };

        #[expect(clippy::disallowed_methods, reason = "this is the one place")]
        let child = limit::spawn(plan.var(sweep::MARKER), || command.spawn());
        let mut child = child.map_err(|error| refusal::explain(&command, error))?;
        let handle = ChildHandle::of(&child);
        let (out, err) = (output(child.stdout.take()), output(child.stderr.take()));
        let stdin = child.stdin.take().expect("it was asked to be a pipe");
        let opened = Input::new(stdin.into(), waker);
        let held = if holds { handle.hold().map(Some) } else { Ok(None) };
        let (exit, (input, queue)) = match (reaping, held, opened) {
            (None, Ok(Some(held)), Ok(opened)) => (Exit::Held(held, child), opened),
            (Some(reaping), _, Ok(opened)) => {
                hand_over(&reaping, (child, handle.clone()));
                (Exit::Told(told), opened)
            }
            (_, held, opened) => {
                handle.signal(Signal::KILL, To::Group).ok();
                watch::reap(&handle, child);
                let error = held.err().or_else(|| opened.err());
                return Err(error.expect("one of both has failed"));
            }
        };
        let watch = Watch {
            handle: handle.clone(),
            exit,
            input: queue,
            out: Some(out),
            err: Some(err),
            woken,
            events: events_in,
            convert,
            handed: 0,
        };
        hand_over(&watching, watch);
        Ok(Child { handle, input: Some(input), events })
    }
}

impl<T> Child<T> {
    pub fn events(&self) -> &Receiver<T> {
        &self.events
    }

    pub fn handle(&self) -> &ChildHandle {
        &self.handle
    }

    /// Queues bytes for its standard input and returns at once.
    ///
    /// # Errors
    /// `BrokenPipe` when its input was closed, by us or by it; `QuotaExceeded` when it does not read
    /// and too much waits already.
    pub fn send(&self, bytes: Vec<u8>) -> io::Result<()> {
        self.input.as_ref().ok_or(ErrorKind::BrokenPipe)?.send(bytes)
    }

    /// Its standard input ends after what is queued.
    pub fn close_input(&mut self) {
        self.input = None;
    }

    pub fn input_is_open(&self) -> bool {
        self.input.is_some()
    }
}

impl<T> Drop for Child<T> {
    fn drop(&mut self) {
        self.handle.signal(Signal::KILL, To::Group).ok();
    }
}

/// What a short-lived child did.
#[derive(Debug)]
pub struct Output {
    /// None when the system would not say, or the child could not be ended.
    pub status: Option<ExitStatus>,
    /// Its standard output, cut at the limit. Every line ends with a line feed.
    pub stdout: Vec<u8>,
    /// The end of its standard error.
    pub stderr: String,
    /// It was killed because the deadline had passed.
    pub timed_out: bool,
}

/// Runs a program, without any input, to its end, or to `deadline`, when it is killed with its group.
/// At most `max_output` bytes of its output are kept.
///
/// # Errors
/// As [`Child::spawn`].
pub fn run(plan: &Plan, deadline: Duration, max_output: usize) -> io::Result<Output> {
    let mut child = Child::spawn(plan)?;
    child.close_input();
    let mut output =
        Output { status: None, stdout: Vec::new(), stderr: String::new(), timed_out: false };
    let mut until = Instant::now() + deadline;
    loop {
        match child.events().recv_deadline(until) {
            Ok(ChildEvent::Line(line) | ChildEvent::LongLine(line)) => {
                let room = max_output.saturating_sub(output.stdout.len());
                output.stdout.extend(line.into_iter().chain([b'\n']).take(room));
            }
            Ok(ChildEvent::Exit { status, stderr_tail }) => {
                return Ok(Output { status, stderr: stderr_tail, ..output });
            }
            Err(RecvTimeoutError::Timeout) if !output.timed_out => {
                output.timed_out = true;
                child.handle.signal(Signal::KILL, To::Group).ok();
                until = Instant::now() + REAP;
            }
            Err(_) => return Ok(output),
        }
    }
}

/// Finds the program that a shell would start for `program`: a name through `path` (a `PATH`), and
/// what has a slash there, seen from `cwd`. Relative directories in `path`, the empty one too, are
/// passed over: they would mean another program in every project.
pub fn find(program: &Path, path: &OsStr, cwd: &Path) -> Option<PathBuf> {
    let dirs: Vec<PathBuf> = if program.as_os_str().as_encoded_bytes().contains(&b'/') {
        vec![cwd.to_owned()]
    } else {
        split_paths(path).filter(|dir| dir.is_absolute()).collect()
    };
    dirs.into_iter().map(|dir| dir.join(program)).find(|path| is_program(path))
}

/// Whether this is a file that can be executed.
pub fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// The program is looked up here, not from the child's directory, and there is no `pre_exec`: either would make the standard library
/// fork, which takes 35 to 60 ms in a process of 500 MB, instead of using `posix_spawn`.
fn command(plan: &Plan) -> io::Result<Command> {
    // The system's error for a missing directory is the same as for a missing program.
    if !plan.dir.is_dir() {
        let what = format!("the directory {} does not exist", plan.dir.display());
        return Err(io::Error::new(ErrorKind::NotADirectory, what));
    }
    let program =
        find(&plan.program, plan.path(), &current_dir().unwrap_or_default()).ok_or_else(|| {
            let what = format!("no program {} found", plan.program.display());
            io::Error::new(ErrorKind::NotFound, what)
        })?;
    let mut command = Command::new(program);
    command.args(&plan.args).current_dir(&plan.dir).env_clear();
    command.envs(plan.env.iter().map(|(name, value)| (name, value)));
    command.process_group(0);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Ok(command)
}

/// A task that waits for the thing it works on. It is not joined: it may watch a pipe that a
/// grandchild holds.
fn waiting<S: Send + 'static>(
    name: &str,
    run: impl FnOnce(S) + Send + 'static,
) -> io::Result<Sender<S>> {
    let (slot, filled) = bounded::<S>(1);
    let task = task::spawn(name, move || {
        if let Ok(thing) = filled.recv() {
            run(thing);
        }
    })?;
    drop(task);
    Ok(slot)
}

fn hand_over<S>(slot: &Sender<S>, thing: S) {
    slot.try_send(thing).expect("the task has waited for just this one");
}

fn output(pipe: Option<impl Into<OwnedFd>>) -> OutputPipe {
    OutputPipe::new(pipe.expect("it was asked to be a pipe").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// More than a shell takes.
    const SOON: Duration = Duration::from_mins(1);

    /// Where the system has no descriptor for a child, as macOS.
    #[test]
    fn an_exit_is_seen_with_and_without_a_descriptor_for_the_child() {
        let script = "echo line; echo complaint >&2; read it; echo $it; exit 3";
        let plan = Plan {
            program: "/bin/sh".into(),
            args: ["-c", script].map(Into::into).into(),
            dir: "/".into(),
            env: Vec::new(),
        };
        for holds in [kill::can_hold(), false] {
            let child = Child::start(&plan, Some, holds).unwrap();
            let next = || child.events().recv_timeout(SOON).unwrap();
            assert!(matches!(next(), ChildEvent::Line(line) if line == b"line"));
            child.send(b"given\n".to_vec()).unwrap();
            assert!(matches!(next(), ChildEvent::Line(line) if line == b"given"));
            let ChildEvent::Exit { status, stderr_tail } = next() else { panic!("no exit") };
            assert_eq!((status.unwrap().code(), stderr_tail.as_str()), (Some(3), "complaint"));
            assert!(!child.handle().signal(Signal::KILL, To::Group).unwrap(), "it is reaped");
        }
    }
}
