//! A child process that a test talks to by lines, with a deadline on each wait.

use crate::patience::Patience;
use crossbeam_channel::{Receiver, RecvTimeoutError, bounded, unbounded};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use serde_json::Value;
use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::process::CommandExt,
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

/// A running process. Dropping it kills it and its process group.
#[derive(Debug)]
pub(crate) struct Run {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    stderr: Arc<Mutex<String>>,
    /// Closed when the process has ended and can be reaped without waiting.
    ended: Receiver<()>,
    reaped: bool,
}

/// What a process left behind.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Run {
    /// Starts a process in a group of its own.
    pub(crate) fn start(command: &mut Command) -> Run {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child =
            command.process_group(0).spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let (line_tx, lines) = unbounded();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        // These threads end with the pipes, at the latest when the group is killed.
        std::thread::spawn(move || {
            stdout.lines().map_while(Result::ok).try_for_each(|it| line_tx.send(it))
        });
        let stderr = Arc::<Mutex<String>>::default();
        let mut pipe = child.stderr.take().unwrap();
        std::thread::spawn({
            let stderr = Arc::clone(&stderr);
            move || {
                let mut buffer = [0; 4096];
                while let Ok(n @ 1..) = pipe.read(&mut buffer) {
                    stderr.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..n]));
                }
            }
        });
        let ended = end_of(&child);
        let stdin = child.stdin.take();
        Run { child, stdin, lines, stderr, ended, reaped: false }
    }

    /// Writes a text to its input.
    pub(crate) fn write(&mut self, text: &str) {
        self.stdin.as_mut().expect("the input is open").write_all(text.as_bytes()).unwrap();
    }

    /// Closes its input.
    pub(crate) fn close(&mut self) {
        self.stdin = None;
    }

    /// Waits for a line of JSON of which this is true, passing over others.
    #[track_caller]
    pub(crate) fn wait_for(&self, wanted: impl Fn(&Value) -> bool, patience: Duration) -> Value {
        let mut left = Patience::of(patience);
        let mut passed = Vec::new();
        loop {
            match left.recv(&self.lines) {
                Ok(line) => match serde_json::from_str(&line) {
                    Ok(value) if wanted(&value) => return value,
                    _ => passed.push(line),
                },
                Err(why) => panic!("{why}, after {passed:#?}\n{}", self.stderr.lock().unwrap()),
            }
        }
    }

    /// Closes its input and waits for its end.
    #[track_caller]
    pub(crate) fn finish(mut self, patience: Duration) -> Finished {
        self.close();
        let mut left = Patience::of(patience);
        let mut stdout = String::new();
        loop {
            match left.recv(&self.lines) {
                Ok(line) => stdout = stdout + &line + "\n",
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    panic!("it still runs; {stdout}\n{}", self.stderr.lock().unwrap())
                }
            }
        }
        let ended = left.recv(&self.ended);
        assert!(ended != Err(RecvTimeoutError::Timeout), "it closed its output and runs; {stdout}");
        self.reaped = true;
        let status = self.child.wait().unwrap();
        let stderr = self.stderr.lock().unwrap().clone();
        Finished { status, stdout, stderr }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if !self.reaped {
            // Not reaped yet, so the id is still that of this process.
            kill_process_group(Pid::from_child(&self.child), Signal::KILL).ok();
            drop(self.child.wait());
        }
    }
}

/// A channel that is closed when a child has ended and can be reaped without waiting.
pub(crate) fn end_of(child: &Child) -> Receiver<()> {
    let pid = Pid::from_child(child);
    let (ended_tx, ended) = bounded::<()>(0);
    std::thread::spawn(move || {
        // It stays a zombie, so that its id can't be anyone else's yet.
        waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).ok();
        drop(ended_tx);
    });
    ended
}
