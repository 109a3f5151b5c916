//! A machine: its disk, which outlives everything, and the process that runs on it.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use obto_bridge::{
    agent::Verdict,
    bridge::wire::{Post, Reply},
    coordinator::{Change, Coordinator, DecidedBy, LeaveRules, Settings, View, catchup::Reading},
    ids::{Engine, MachineId, MessageId, ThreadId},
    permission::{approval_prompt::ApprovalRequest, code::Code},
    store::{
        binding::Binding,
        cursor::Cursor,
        entry::{EntryId, Progress},
    },
    time::Timestamp,
};

use super::turn::Turn;
use crate::parts::{Key, MAX_AGE, machine_id, thread_index};

/// Entries that the inbox takes; short messages always get in.
pub(super) const INBOX_MAX: usize = 5;

/// An entry of the inbox.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) message: usize,
    pub(super) reply: Arc<Reply>,
    pub(super) progress: Option<Progress>,
    /// In memory only.
    pub(super) is_aside: bool,
}

/// A file of the outbox.
pub(super) struct Outgoing {
    pub(super) post: Post,
    pub(super) finishes: Option<EntryId>,
    /// The message that it answers, also when that is settled.
    pub(super) answers: Option<usize>,
    pub(super) is_sent: bool,
}

/// What survives a crash.
#[derive(Default)]
pub(super) struct Disk {
    pub(super) inbox: BTreeMap<EntryId, Entry>,
    pub(super) outbox: Vec<Outgoing>,
    pub(super) seen: HashSet<MessageId>,
    pub(super) bindings: BTreeMap<ThreadId, Binding>,
    pub(super) cursor: Cursor,
    /// Decisions that allow something.
    pub(super) audit: HashSet<Key>,
    /// It fails now and then until this time.
    pub(super) sick_until: Duration,
    /// When the inbox had no room for a message.
    pub(super) full_at: Duration,
}

impl Disk {
    /// Room for work in the inbox is used up: what a person holds aside does not count.
    pub(super) fn is_full(&self) -> bool {
        INBOX_MAX <= self.inbox.values().filter(|entry| !entry.is_aside).count()
    }

    pub(super) fn finishes(&self, entry: EntryId) -> bool {
        self.outbox.iter().any(|file| file.finishes == Some(entry))
    }

    /// The entry is gone, so its answer need not be kept for it.
    pub(super) fn settled(&mut self, entry: EntryId) {
        self.outbox.retain(|file| file.finishes != Some(entry) || !file.is_sent);
        for file in self.outbox.iter_mut().filter(|file| file.finishes == Some(entry)) {
            file.finishes = None;
        }
    }
}

/// A connection.
pub(super) struct Link {
    pub(super) number: u32,
    pub(super) queue: VecDeque<Wire>,
    pub(super) is_busy: bool,
    /// It begins with its hello: what is written before is on no stream.
    pub(super) is_late: bool,
}

/// Something on the way from the bridge.
#[derive(Clone, Debug)]
pub(super) enum Wire {
    Message {
        message: usize,
        owner: Option<usize>,
        position: Option<usize>,
    },
    Begins {
        position: usize,
    },
    /// The hello of a bridge that replays nothing, which comes later than its response.
    Hello,
}

pub(super) struct ReadingCall {
    pub(super) reading: Reading,
    /// What was in the answer and is not stored yet.
    pub(super) found: Option<VecDeque<usize>>,
}

/// What a process knows of its disk.
pub(super) struct Memory {
    pub(super) machine: MachineId,
    pub(super) bindings: BTreeMap<ThreadId, Binding>,
    pub(super) seen: HashSet<MessageId>,
    /// Engines write without asking.
    pub(super) is_free: bool,
    pub(super) ignores_seen: bool,
}

pub(super) fn directory(thread: usize) -> PathBuf {
    PathBuf::from(["/p", "/q", "/p/inside"][thread % 3])
}

impl View for Memory {
    fn is_done(&self, message: &MessageId) -> bool {
        !self.ignores_seen && self.seen.contains(message)
    }

    fn binding(&self, thread: &ThreadId) -> Option<&Binding> {
        self.bindings.get(thread)
    }

    fn threads(&self) -> Vec<ThreadId> {
        let ours =
            self.bindings.iter().filter(|(_, it)| it.machine.as_ref() == Some(&self.machine));
        ours.map(|(thread, _)| thread.clone()).collect()
    }

    fn engine(&self, _reply: &Reply) -> Engine {
        Engine::CLAUDE
    }

    fn writes_in(&self, reply: &Reply) -> Option<PathBuf> {
        self.is_free.then(|| directory(thread_index(&reply.thread_id)))
    }
}

impl Memory {
    pub(super) fn change(&mut self, thread: &ThreadId, change: Change) -> Binding {
        let machine = &self.machine;
        let new = || Binding::new(machine.clone(), Timestamp::default());
        let binding = self.bindings.entry(thread.clone()).or_insert_with(new);
        change.apply(binding, machine);
        binding.clone()
    }
}

pub(super) struct Process {
    pub(super) coordinator: Coordinator,
    pub(super) memory: Memory,
    pub(super) started: Duration,
    /// The bridge has told it its time; until then its own clock says what is old.
    pub(super) knows_time: bool,
    /// How long it was suspended.
    pub(super) slept: Duration,
    pub(super) sleeps_until: Duration,
    pub(super) sleep: Duration,
    pub(super) tick_at: Option<Duration>,
    /// The timer that is set.
    pub(super) timer: u32,
    pub(super) link: Option<Link>,
    pub(super) links: u32,
    /// The connection was cut by the daemon's own wish.
    pub(super) is_renewing: bool,
    /// The connection was lost during a catch-up, and that is not noticed.
    pub(super) has_lost_reading: bool,
    /// Without a break.
    pub(super) connected_since: Duration,
    pub(super) position: Option<usize>,
    pub(super) claims: usize,
    pub(super) readings: Vec<ReadingCall>,
    pub(super) records: Vec<(u32, Box<ApprovalRequest>, Verdict, DecidedBy)>,
    pub(super) turns: Vec<Turn>,
    /// Counts turns and records.
    pub(super) next: u32,
    /// Changes of state.json that are not on disk.
    pub(super) unwritten: Vec<(ThreadId, Binding)>,
    /// The number of the newest change.
    pub(super) changes: u64,
    pub(super) is_writing: bool,
    pub(super) cursor: Option<Cursor>,
    pub(super) is_sending: bool,
    pub(super) is_stopping: bool,
    /// When the system had no room for a turn.
    pub(super) refused_at: Option<Duration>,
    /// When the first message of a thread began to wait for its history.
    pub(super) waiting_since: HashMap<usize, Duration>,
    /// When threads became its own.
    pub(super) won_at: HashMap<usize, Duration>,
    /// Messages that it was done with itself.
    pub(super) obeyed: HashSet<usize>,
    /// Messages that it took as answers to questions.
    pub(super) answers: HashSet<usize>,
    pub(super) is_recovering: bool,
    /// Messages that no longer waited for their thread's history.
    pub(super) overdue: HashSet<usize>,
}

pub(super) struct Machine {
    pub(super) disk: Disk,
    pub(super) process: Option<Process>,
    /// Counts processes.
    pub(super) life: u32,
    /// Its clock is ahead by this, or behind.
    pub(super) ahead: Duration,
    pub(super) behind: Duration,
}

pub(super) fn settings(machine: usize, max_turns: usize, leave: LeaveRules) -> Settings {
    Settings {
        machine: machine_id(machine),
        author: "claude-bridge".to_owned(),
        max_turns,
        parallel_in_directory: false,
        offline_max_age: MAX_AGE,
        project_dir: "/p".to_owned(),
        has_lost_bindings: false,
        leave,
    }
}

/// The threads that are bound, with the questions that ended with an earlier process.
pub(super) fn ours(disk: &Disk, machine: &MachineId) -> Vec<(ThreadId, Vec<Code>)> {
    let codes = |binding: &Binding| {
        binding.orphaned_questions.iter().filter_map(|it| it.parse().ok()).collect()
    };
    let ours = disk.bindings.iter().filter(|(_, it)| it.machine.as_ref() == Some(machine));
    ours.map(|(thread, binding)| (thread.clone(), codes(binding))).collect()
}
