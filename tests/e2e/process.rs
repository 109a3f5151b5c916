//! Looks at processes and, where a test is about that, ends exactly one of them.

use crate::homes::Home;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::{collections::HashMap, fs};

/// A process as it was when it was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: Pid,
    parent: i32,
    /// In clock ticks since boot: another one with the same id has another.
    start: u64,
    /// Arguments, separated by spaces.
    pub(crate) command: String,
}

impl Process {
    /// Looks at a process. None: there is no such one, or it only waits to be reaped.
    fn look(pid: Pid) -> Option<Process> {
        let line = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field is a name in parentheses, with anything in it.
        let fields: Vec<&str> = line.rsplit_once(')')?.1.split_whitespace().collect();
        let (state, parent, start) = (fields[0], fields[1], fields[19]);
        let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        (!matches!(state, "Z" | "X")).then(|| Process {
            pid,
            parent: parent.parse().expect("a parent's id is a number"),
            start: start.parse().expect("a start time is a number"),
            command: String::from_utf8_lossy(&command).trim_end_matches('\0').replace('\0', " "),
        })
    }

    /// Whether it is still there, and not another one with its id.
    pub(crate) fn is_alive(&self) -> bool {
        Process::look(self.pid).is_some_and(|it| it.start == self.start)
    }

    /// Whether the other one has started it.
    pub(crate) fn is_child_of(&self, other: &Process) -> bool {
        self.parent == other.pid.as_raw_nonzero().get()
    }

    /// Kills it and nothing else.
    pub(crate) fn kill(&self) {
        // The handle is of what has the id now; after the look it can't become another.
        let handle = pidfd_open(self.pid, PidfdFlags::empty()).unwrap();
        assert!(self.is_alive(), "{self:?} has ended by itself");
        pidfd_send_signal(&handle, Signal::KILL).unwrap();
    }
}

/// All that a process has started, and what that has, parents first.
pub(crate) fn descendants(of: Pid) -> Vec<Process> {
    let mut children: HashMap<i32, Vec<Process>> = HashMap::new();
    for process in all().filter_map(Process::look) {
        children.entry(process.parent).or_default().push(process);
    }
    let mut found = children.remove(&of.as_raw_nonzero().get()).unwrap_or_default();
    let mut next = 0;
    while let Some(process) = found.get(next) {
        let pid = process.pid.as_raw_nonzero().get();
        found.extend(children.remove(&pid).unwrap_or_default());
        next += 1;
    }
    found
}

/// What the turns of the daemon with this home have started, wherever it is by now.
pub(crate) fn marked(home: &Home) -> Vec<Process> {
    let home = format!("HOME={}", home.env()["HOME"]);
    let is_marked = |pid: Pid| {
        let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let mut vars = environ.split(|byte| *byte == 0);
        vars.clone().any(|it| it == home.as_bytes())
            && vars.any(|it| it.starts_with(b"OBTO_BRIDGE_TURN="))
    };
    all().filter(|it| is_marked(*it)).filter_map(Process::look).collect()
}

fn all() -> impl Iterator<Item = Pid> {
    let pids = fs::read_dir("/proc").unwrap().flatten();
    pids.filter_map(|it| Pid::from_raw(it.file_name().to_str()?.parse().ok()?))
}
