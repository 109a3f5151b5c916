//! The dispatcher's decisions. Pure.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use crate::{
    bridge::wire::{PostKind, Reply},
    ids::{MachineId, MessageId, ThreadId},
    store::entry::{EntryId, Progress},
};

/// What the dispatcher is told.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A message is in the inbox: just received, or left by an earlier process.
    Inbound {
        entry: EntryId,
        reply: Arc<Reply>,
        /// How far its turn came before the crash.
        progress: Option<Progress>,
        /// Whether the journal of done messages has it.
        is_seen: bool,
    },
    /// A claim is over.
    Claimed { thread: ThreadId, outcome: ClaimOutcome },
    /// A worker: the answer to this entry is in the outbox.
    Finished { thread: ThreadId, entry: EntryId },
    /// A worker has had nothing to do for a while and offers to leave. Without an
    /// [`Effect::Retire`] it stays.
    Idle { thread: ThreadId },
    /// A worker is gone, after everything else that it had to report. If it was not retired, it
    /// panicked.
    WorkerEnded { thread: ThreadId },
    /// A worker could not be started: the system has no threads or descriptors left.
    WorkerRefused { thread: ThreadId },
    /// Time has passed.
    Tick,
    /// The program is to end.
    Stop,
}

/// How a claim ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimOutcome {
    Won,
    Lost {
        /// Our own name counts as won: we may have claimed it right before a crash.
        winner: Option<MachineId>,
    },
    /// It is not known who has it, so it must not be driven.
    Failed {
        retry_after: Option<Duration>,
    },
}

/// What the dispatcher wants done, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Have the bridge bind the thread to us. Answered by [`Event::Claimed`], sooner or later.
    Claim { thread: ThreadId },
    /// Record that the thread is ours.
    Bind { thread: ThreadId },
    /// Start a worker with an empty mailbox. If that fails, say [`Event::WorkerRefused`] and
    /// disregard the [`Effect::Deliver`]s that follow: they will come again.
    StartWorker { thread: ThreadId },
    /// Put a message into the worker's mailbox.
    Deliver { thread: ThreadId, entry: EntryId, reply: Arc<Reply>, progress: Option<Progress> },
    /// Drop the worker's mailbox, so that it leaves.
    Retire { thread: ThreadId },
    /// The entry is done with. [`Why::Answered`]: write `message` into the journal of done messages
    /// before the next event is handed in. Any: remove the entry once the thread's binding is
    /// on disk.
    Done { entry: EntryId, message: Option<MessageId>, why: Why },
    /// Post this on the thread, as the answer to `entry`.
    Say { thread: ThreadId, entry: EntryId, kind: PostKind, body: String },
}

/// Why an entry is done with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    Answered,
    /// The same message was received before.
    Duplicate,
    /// Another machine has the thread.
    NotOurs,
}

/// See the module.
#[derive(Debug)]
pub struct Dispatch {
    machine: MachineId,
}

impl Dispatch {
    pub fn new(machine: MachineId, ours: impl IntoIterator<Item = ThreadId>) -> Dispatch {
        let _ = ours;
        Dispatch { machine }
    }

    pub fn step(&mut self, now: Duration, event: Event, effects: &mut Vec<Effect>) {
        let _ = (now, event, effects);
    }

    pub fn next_deadline(&self) -> Option<Duration> {
        None
    }
}
