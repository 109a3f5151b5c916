//! The real program as a child of the test, its log in a file that is printed when a test fails.

use crate::{homes::Home, patience::Patience, process, run};
use crossbeam_channel::Receiver;
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs::{self, File},
    os::unix::process::{CommandExt, ExitStatusExt},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

/// A turn that is interrupted is over long before; then the engine leaves, then the daemon.
const STOP: Duration = Duration::from_secs(40);

/// A daemon that runs. Dropping it stops it, in good order if it can.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    log: PathBuf,
    /// Closed when the process has ended and can be reaped without waiting.
    ended: Receiver<()>,
    reaped: bool,
}

impl Daemon {
    /// Starts the daemon with this home and nothing else; adds to the log of an earlier one.
    pub(crate) fn start(home: &Home) -> Daemon {
        let log = home.path("daemon.log");
        let file = File::options().append(true).create(true).open(&log).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_obto-bridge"));
        command
            .args(["start", "--log-format", "text", "--log", "debug"])
            .env_clear()
            .envs(home.env())
            .current_dir(home.path(""))
            // It is its own group, so that a signal to the test isn't one to the daemon.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file);
        let child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let ended = run::end_of(&child);
        Daemon { child, log, ended, reaped: false }
    }

    /// Closed when the process has ended.
    pub(crate) fn ended(&self) -> &Receiver<()> {
        &self.ended
    }

    /// All that it and its forerunners in this home have logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The engines and whatever they have started, parents first.
    pub(crate) fn descendants(&self) -> Vec<process::Process> {
        process::descendants(Pid::from_child(&self.child))
    }

    /// Sends a signal and doesn't wait.
    pub(crate) fn signal(&self, signal: Signal) {
        assert!(!self.reaped, "its id may be that of another process by now");
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.end_within(STOP).unwrap_or_else(|| panic!("it still runs after {STOP:?}"))
    }

    /// Asks it to stop and waits for that.
    #[track_caller]
    pub(crate) fn stop(mut self) {
        self.signal(Signal::TERM);
        let status = self.wait();
        assert!(status.success(), "{status}\n{}", self.log());
    }

    /// Kills it, and nothing of what it has started.
    pub(crate) fn kill9(mut self) {
        self.signal(Signal::KILL);
        assert_eq!(self.wait().signal(), Some(Signal::KILL.as_raw()));
    }

    fn end_within(&mut self, patience: Duration) -> Option<ExitStatus> {
        // Nobody sends: a time-out means that it still runs.
        if Patience::of(patience).recv(&self.ended).is_err_and(|it| it.is_timeout()) {
            return None;
        }
        self.reaped = true;
        Some(self.child.wait().unwrap())
    }
}

impl Drop for Daemon {
    #[expect(clippy::print_stderr, reason = "libtest shows it with the test that failed")]
    fn drop(&mut self) {
        if !self.reaped {
            self.signal(Signal::TERM);
            if self.end_within(STOP).is_none() {
                self.signal(Signal::KILL);
                self.end_within(STOP);
            }
        }
        if std::thread::panicking() {
            eprintln!("--- the daemon's log ---\n{}--- end of the log ---", self.log());
        }
    }
}
