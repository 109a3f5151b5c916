//! What can happen to the coordinator: arrivals, reports of turns, and results of its effects.

use std::{path::PathBuf, sync::Arc, time::Duration};

use super::{catchup::ReadEnd, recovery::Recovered};
use crate::{
    agent::QuestionId,
    bridge::{
        stream::Replay,
        wire::{Post, Reply},
    },
    ids::{ClientMsgId, Engine, MachineId, ThreadId},
    permission::{approval_prompt::ApprovalRequest, approvals::Key},
    store::{binding::SessionRecord, entry::EntryId},
    time::Timestamp,
};

#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The first event of a process: what an earlier one left in the inbox, in order of arrival.
    Recovered(Vec<Recovered>),
    /// A stream is open.
    Connected {
        replay: Replay,
        server_time: Option<Timestamp>,
        last_event_id: Option<String>,
    },
    /// The bridge named the place where the stream begins.
    Begins {
        server_time: Option<Timestamp>,
        last_event_id: Option<String>,
    },
    /// No stream is open any more.
    Disconnected,
    /// Another daemon of this name does the work. `is_final` when it answered what is ours.
    Conflict {
        is_final: bool,
    },
    /// A message came in on the stream and is in the inbox.
    Reply {
        entry: EntryId,
        reply: Arc<Reply>,
        last_event_id: Option<String>,
    },
    /// A message came in, and the inbox had no room for it.
    Overflow {
        thread: ThreadId,
        written: Option<Timestamp>,
        last_event_id: Option<String>,
    },
    /// The answer to `Effect::AskTime`.
    Time(Option<Timestamp>),
    /// A message was found in a history and is in the inbox.
    Found {
        entry: EntryId,
        reply: Arc<Reply>,
        /// The number of the reading.
        number: u64,
    },
    /// The end of an `Effect::ReadHistory`, after everything that it found.
    Read {
        thread: ThreadId,
        number: u64,
        end: ReadEnd,
    },
    Claimed {
        thread: ThreadId,
        outcome: ClaimOutcome,
    },
    /// A turn could not be started: the system has no threads or descriptors left.
    NotBegun {
        thread: ThreadId,
        entry: EntryId,
    },
    /// The thread's session of this engine; none when it is gone.
    Session {
        thread: ThreadId,
        engine: Engine,
        record: Option<SessionRecord>,
    },
    /// What the engine does, in its words.
    Doing {
        thread: ThreadId,
        line: String,
    },
    /// An engine waits for a person. Before anyone can see it.
    Asked {
        entry: EntryId,
        request: Box<ApprovalRequest>,
    },
    /// The bridge has stored the post that asks.
    Posted {
        post: ClientMsgId,
        at: Option<Timestamp>,
    },
    /// The engine no longer waits for this one.
    Withdrawn(Key),
    /// The engine has the verdict, or did not wait for it any more.
    Decided {
        key: Key,
        was_open: bool,
    },
    /// Everything like it is allowed on this thread from now on.
    Granted {
        thread: ThreadId,
        rule: String,
    },
    /// The engine may do this as soon as its thread has this canonical directory.
    Writes {
        thread: ThreadId,
        entry: EntryId,
        question: QuestionId,
        directory: PathBuf,
    },
    /// A turn's answer is durable. Its engine may still be leaving.
    Answered {
        thread: ThreadId,
        entry: EntryId,
    },
    /// The last word of a turn, also of one that panicked: its engine is gone.
    Left {
        thread: ThreadId,
        entry: EntryId,
    },
    /// The end of an `Effect::Put`.
    Put {
        thread: ThreadId,
        finishes: Option<EntryId>,
    },
    NotPut {
        post: Box<Post>,
        finishes: Option<EntryId>,
        is_confirmation: bool,
    },
    /// The end of an `Effect::Record`.
    Recorded {
        key: Key,
        is_written: bool,
    },
    /// An `Effect::Remove` failed.
    NotRemoved {
        entries: Vec<EntryId>,
    },
    /// All changes of state.json up to this one are on disk.
    Written {
        change: u64,
    },
    Tick,
    Stop,
}

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
