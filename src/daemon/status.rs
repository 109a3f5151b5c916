//! What `obto-bridge status` shows of the daemon: a small file that is written soon after something has
//! changed, and not at all while nothing does. It is for people; nothing relies on it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process,
    time::{Duration, Instant},
};

use rustix::process::{Pid, test_kill_process};
use serde::{Deserialize, Serialize};

use crate::{
    ids::{Engine, MachineId, ThreadId},
    store::{Disk, RealDisk, state::StateStore},
    time::{self, Timestamp},
    worker::Shared,
};

/// Changes of this long are written together.
const SOON: Duration = Duration::from_millis(250);

/// Of the file.
const VERSION: u32 = 1;

/// What the daemon does right now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    version: u32,
    pub pid: u32,
    pub agent_id: MachineId,
    pub started_at: Timestamp,
    /// None while there is no connection.
    pub connected_since: Option<Timestamp>,
    /// Why there is none.
    pub problem: Option<String>,
    /// When the next connection is tried.
    pub next_try_at: Option<Timestamp>,
    /// When the bridge last sent a message for this machine.
    pub last_event_at: Option<Timestamp>,
    pub turns: Vec<ListedTurn>,
    /// Messages that are not answered, those in `turns` included.
    pub inbox: usize,
    /// Posts that the bridge does not have yet.
    pub outbox: usize,
    /// Posts that the bridge will never take; they are in `outbox/refused`.
    pub refused: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListedTurn {
    pub thread_id: ThreadId,
    pub agent: Engine,
    pub since: Timestamp,
}

impl Status {
    /// What a running daemon said last; none if no daemon runs on this state directory.
    pub fn of_running(state_dir: &Path) -> Option<Status> {
        let bytes = RealDisk.read(&file(state_dir)).ok()?;
        let status: Status = serde_json::from_slice(&bytes).ok()?;
        let pid = Pid::from_raw(i32::try_from(status.pid).ok()?)?;
        // Nothing is sent: the system only says whether there is such a process.
        (status.version == VERSION && test_kill_process(pid).is_ok()).then_some(status)
    }
}

/// The daemon's notes for the next writing.
#[derive(Debug)]
pub(super) struct Board {
    file: PathBuf,
    status: Status,
    turns: BTreeMap<ThreadId, ListedTurn>,
    /// When it is to be written.
    pub(super) due: Option<Instant>,
}

fn file(state_dir: &Path) -> PathBuf {
    state_dir.join("run").join("status.json")
}

impl Board {
    pub(super) fn new(state_dir: &Path, machine: &MachineId) -> Board {
        Board {
            file: file(state_dir),
            status: Status {
                version: VERSION,
                pid: process::id(),
                agent_id: machine.clone(),
                started_at: time::now(),
                connected_since: None,
                problem: None,
                next_try_at: None,
                last_event_at: None,
                turns: Vec::new(),
                inbox: 0,
                outbox: 0,
                refused: 0,
            },
            turns: BTreeMap::new(),
            // A script that starts a daemon may ask about it at once.
            due: Some(Instant::now()),
        }
    }

    /// Something that is counted has changed.
    pub(super) fn changed(&mut self) {
        self.due.get_or_insert_with(|| Instant::now() + SOON);
    }

    /// Whether it was not before.
    pub(super) fn connected(&mut self) -> bool {
        let is_new = self.status.connected_since.replace(time::now()).is_none();
        self.status.problem = None;
        self.status.next_try_at = None;
        self.changed();
        is_new
    }

    pub(super) fn disconnected(&mut self, why: &str, next: Duration) {
        self.status.connected_since = None;
        self.status.problem = Some(why.to_owned());
        self.status.next_try_at = Some(time::now().plus(next));
        self.changed();
    }

    pub(super) fn event(&mut self) {
        self.status.last_event_at = Some(time::now());
        self.changed();
    }

    pub(super) fn turn_started(&mut self, thread: ThreadId, agent: Engine) {
        let turn = ListedTurn { thread_id: thread.clone(), agent, since: time::now() };
        self.turns.insert(thread, turn);
        self.changed();
    }

    pub(super) fn turn_ended(&mut self, thread: &ThreadId) {
        self.turns.remove(thread);
        self.changed();
    }

    /// Has the status written if it is time to.
    pub(super) fn publish(&mut self, shared: &Shared, store: &StateStore) {
        if self.due.is_none_or(|due| Instant::now() < due) {
            return;
        }
        self.due = None;
        let outbox = &shared.outbox;
        self.status.turns = self.turns.values().cloned().collect();
        self.status.inbox = shared.inbox.count();
        self.status.outbox = outbox.count();
        self.status.refused = outbox.refused();
        let bytes = serde_json::to_vec(&self.status).expect("a status is plain data");
        store.replace_later(self.file.clone(), bytes);
    }

    /// No daemon runs from now on.
    pub(super) fn take_down(&self) {
        RealDisk.remove(&self.file).unwrap_or_default(); // A dead pid tells as much.
    }
}
