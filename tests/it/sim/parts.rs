//! What the model is made of: messages, disks, workers and machines.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use obto_bridge::{
    bridge::wire::Reply,
    dispatch::{
        Dispatch, Event,
        control::{self, Word},
    },
    ids::{MachineId, MessageId, ThreadId},
    store::entry::{EntryId, Progress},
};

pub(super) const MACHINES: usize = 2;

/// What is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Mutation {
    None,
    LoseClaim,
    LoseDeliver,
    LoseDone,
    DeliverTwice,
    StartTwice,
    ReverseDeliveries,
    /// The journal of done messages is not asked.
    IgnoreSeen,
    /// A lost claim is taken for a won one.
    WinAlways,
    /// A failed claim is taken for a won one.
    DriveOnFailure,
    /// What an earlier process had begun looks new.
    ForgetProgress,
    /// A worker may go though it was given something.
    RetireAlways,
    /// Control words look like text.
    WordsAsText,
    LoseControl,
    LoseInterrupt,
    /// A worker does not look whether a message is still wanted.
    DriveCleared,
    /// A stop looks as if it were written now.
    StopsAreNew,
}

impl Mutation {
    pub(super) const ALL: [Mutation; 16] = [
        Mutation::LoseClaim,
        Mutation::LoseDeliver,
        Mutation::LoseDone,
        Mutation::DeliverTwice,
        Mutation::StartTwice,
        Mutation::ReverseDeliveries,
        Mutation::IgnoreSeen,
        Mutation::WinAlways,
        Mutation::DriveOnFailure,
        Mutation::ForgetProgress,
        Mutation::RetireAlways,
        Mutation::WordsAsText,
        Mutation::LoseControl,
        Mutation::LoseInterrupt,
        Mutation::DriveCleared,
        Mutation::StopsAreNew,
    ];
}

/// How often the interesting things happened.
#[derive(Debug, Default)]
pub(super) struct Counts([u32; 13]);

#[derive(Clone, Copy)]
pub(super) enum Count {
    Crash,
    Stop,
    Panic,
    Refusal,
    Retire,
    LostClaim,
    FailedClaim,
    Duplicate,
    Resumed,
    Word,
    Interrupt,
    /// A message that no turn was begun for was stopped.
    StoppedEarly,
    Cleared,
}

impl Counts {
    pub(super) fn count(&mut self, what: Count) {
        self.0[what as usize] += 1;
    }

    pub(super) fn add(&mut self, other: &Counts) {
        self.0.iter_mut().zip(other.0).for_each(|(a, b)| *a += b);
    }

    pub(super) fn all_above(&self, least: u32) -> bool {
        self.0.iter().all(|count| least < *count)
    }
}

pub(super) type Outcome = Result<(), String>;

pub(super) fn ensure(is_fine: bool, what: impl FnOnce() -> String) -> Outcome {
    if is_fine { Ok(()) } else { Err(what()) }
}

/// A message on the bridge, and what became of it.
pub(super) struct Message {
    pub(super) thread: usize,
    pub(super) id: Option<MessageId>,
    pub(super) body: &'static str,
    /// Whether the bridge says when it was written.
    pub(super) is_timed: bool,
    /// By the machine, in all.
    pub(super) driven_by: [u32; MACHINES],
    pub(super) answers: u32,
    pub(super) errors: u32,
    /// Two faults hit the same message, and the human was told twice.
    pub(super) is_excused: bool,
    /// A word was carried out, or the human did not want a message any more.
    pub(super) is_settled: bool,
    pub(super) is_cleared: bool,
}

impl Message {
    pub(super) fn word(&self) -> Option<Word> {
        control::read(self.body)
    }
}

/// An event on its way to a machine: a message, and who owned its thread when it was sent.
#[derive(Clone, Copy)]
pub(super) struct Wire {
    pub(super) message: usize,
    pub(super) owner: Option<usize>,
}

/// An entry of the inbox.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) wire: Wire,
    pub(super) progress: Option<Progress>,
}

/// What survives a crash.
#[derive(Default)]
pub(super) struct Disk {
    pub(super) inbox: BTreeMap<EntryId, Entry>,
    pub(super) seen: BTreeSet<MessageId>,
    pub(super) bound: BTreeSet<usize>,
    /// Messages that have an answer in the outbox, sent or not.
    pub(super) outbox: BTreeSet<usize>,
    pub(super) next: u64,
}

#[derive(Default)]
pub(super) struct Worker {
    pub(super) mailbox: VecDeque<(EntryId, usize, Option<Progress>)>,
    pub(super) is_open: bool,
    pub(super) current: Option<(EntryId, usize)>,
    /// What it was told to stop.
    pub(super) interrupted: BTreeSet<EntryId>,
}

pub(super) struct Machine {
    pub(super) disk: Disk,
    pub(super) dispatch: Dispatch,
    /// Entries of the process before, not yet handed in.
    pub(super) recovered: VecDeque<EntryId>,
    pub(super) workers: HashMap<usize, Worker>,
    /// What the workers of a thread say, in order.
    pub(super) reports: BTreeMap<usize, VecDeque<Event>>,
    pub(super) claims: Vec<usize>,
    /// Bindings and removals that will be on disk soon.
    pub(super) unwritten: Vec<usize>,
    pub(super) removals: Vec<EntryId>,
    /// What a worker has in its mailbox is skipped unless it is in here.
    pub(super) jobs: BTreeSet<EntryId>,
    /// An error was told and not yet noted.
    pub(super) told: Option<usize>,
    pub(super) is_stopping: bool,
    /// Of the newest answer on each thread.
    pub(super) newest: HashMap<usize, EntryId>,
}

pub(super) fn machine_id(machine: usize) -> MachineId {
    MachineId::new(["ann", "bob"][machine])
}

pub(super) fn thread_id(thread: usize) -> ThreadId {
    ThreadId::new(thread.to_string())
}

pub(super) fn index(thread: &ThreadId) -> usize {
    thread.as_str().parse().expect("made by thread_id")
}

impl Machine {
    pub(super) fn start(machine: usize, disk: Disk) -> Machine {
        let recovered = disk.inbox.keys().copied().collect();
        let ours = disk.bound.iter().map(|thread| thread_id(*thread));
        Machine {
            dispatch: Dispatch::new(machine_id(machine), ours),
            disk,
            recovered,
            workers: HashMap::new(),
            reports: BTreeMap::new(),
            claims: Vec::new(),
            unwritten: Vec::new(),
            removals: Vec::new(),
            jobs: BTreeSet::new(),
            told: None,
            is_stopping: false,
            newest: HashMap::new(),
        }
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.disk.inbox.is_empty()
            && self.recovered.is_empty()
            && self.reports.values().all(VecDeque::is_empty)
            && self.claims.is_empty()
            && self.workers.is_empty()
    }
}

/// `number` is the message's: they are written one a second.
pub(super) fn reply(message: &Message, number: usize, owner: Option<usize>) -> Reply {
    let created_at = message.is_timed.then(|| format!("2026-11-22T10:00:{number:02}Z"));
    Reply {
        created_at,
        thread_id: thread_id(message.thread),
        message_id: message.id.clone(),
        author: None,
        role: None,
        body: message.body.to_owned(),
        engine: None,
        machine: owner.map(machine_id),
        attachment_ids: Vec::new(),
        external_adoption: None,
        project_dir: None,
    }
}
