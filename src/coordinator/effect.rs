//! What the coordinator wants done.

use std::sync::Arc;

use super::{approvals::DecidedBy, catchup::Reading};
use crate::{
    agent::{QuestionId, Verdict},
    bridge::wire::{Post, Reply},
    ids::{Engine, MachineId, MessageId, ThreadId},
    permission::approval_prompt::ApprovalRequest,
    store::{
        binding::{Binding, SessionRecord},
        cursor::Cursor,
        entry::{EntryId, Progress},
    },
    time::Timestamp,
};

/// Rules of one thread that came from `always`; the oldest goes.
const GRANTS_MAX: usize = 200;

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Have the bridge bind the thread to us. Answered by `Event::Claimed`, sooner or later.
    Claim { thread: ThreadId },
    /// Change the thread's binding in memory at once, and on disk soon: `Event::Written`.
    Change { thread: ThreadId, change: Change, number: u64 },
    /// Start the turn of this message, or say `Event::NotBegun`.
    Begin(Begin),
    /// Stop the turn of this message.
    Interrupt { entry: EntryId },
    /// Give the turn of this message a verdict.
    Tell { entry: EntryId, question: QuestionId, verdict: Verdict },
    /// Write a decision down, then say `Event::Recorded`.
    Record { request: Box<ApprovalRequest>, verdict: Verdict, by: DecidedBy },
    /// Put a post into the outbox, then say `Event::Put` or `Event::NotPut`. A confirmation
    /// only once what is done is remembered.
    Put { post: Box<Post>, finishes: Option<EntryId>, is_confirmation: bool },
    /// Remember that a message is done: in memory at once, on disk with the removal of its entry at
    /// the latest.
    Remember { message: MessageId },
    /// Remove entries from the inbox.
    Remove { entries: Vec<EntryId> },
    /// An entry of the inbox waits for a person: it does not count among those that there is room
    /// for. False: it counts again.
    SetAside { entry: EntryId, is_aside: bool },
    /// Read a history: an `Event::Found` for each message of a person, then `Event::Read`.
    ReadHistory(Reading),
    /// Ask the bridge for its time: `Event::Time`.
    AskTime,
    /// Write the cursor, before the bindings that change after it; `Event::Written` says so.
    SaveCursor { cursor: Cursor, number: u64 },
}

/// A turn that may begin.
#[derive(Clone, Debug, PartialEq)]
pub struct Begin {
    pub thread: ThreadId,
    pub entry: EntryId,
    pub reply: Arc<Reply>,
    pub progress: Option<Progress>,
    /// `/new` was obeyed: the session is a new one, and its prompt has no history.
    pub is_clean: bool,
    /// The turn has its directory's lock from the beginning.
    pub has_directory: bool,
}

/// A change of a thread's binding.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The thread is ours. What was written before this time, by the bridge's clock, was not.
    Own {
        since: Option<Timestamp>,
    },
    /// Somebody has moved the thread to another machine.
    Moved {
        to: MachineId,
    },
    Session {
        engine: Engine,
        record: Option<SessionRecord>,
    },
    /// Messages that come in after this entry need a fresh session.
    FreshAfter {
        engine: Engine,
        entry: EntryId,
    },
    /// That was obeyed: the session and the mark are gone.
    Renewed {
        engine: Engine,
    },
    /// One rule more that a person allowed for good.
    Grant {
        rule: String,
    },
    /// The questions that ended with an earlier process, until a person says something else.
    Orphaned {
        codes: Vec<String>,
    },
    /// A person has released what is held, up to this entry.
    Released {
        entry: EntryId,
    },
}

impl Change {
    /// Makes it in the binding of a thread, on this machine.
    pub fn apply(self, binding: &mut Binding, machine: &MachineId) {
        match self {
            Change::Own { since } => {
                binding.machine = Some(machine.clone());
                binding.ours_since = since;
            }
            Change::Moved { to } => binding.machine = Some(to),
            Change::Session { engine, record: Some(record) } => {
                binding.sessions.insert(engine, record);
            }
            Change::Session { engine, record: None } => {
                binding.sessions.remove(&engine);
            }
            Change::FreshAfter { engine, entry } => {
                binding.fresh_after.insert(engine, entry);
            }
            Change::Renewed { engine } => {
                binding.sessions.remove(&engine);
                binding.fresh_after.remove(&engine);
            }
            Change::Grant { rule } => {
                binding.grants.retain(|known| *known != rule);
                binding.grants.push(rule);
                let surplus = binding.grants.len().saturating_sub(GRANTS_MAX);
                binding.grants.drain(..surplus);
            }
            Change::Orphaned { codes } => binding.orphaned_questions = codes,
            Change::Released { entry } => binding.released = Some(entry),
        }
    }
}
