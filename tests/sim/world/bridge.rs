//! The bridge: threads and their owners, histories, what it has stored, and the log of its events.

use std::collections::{HashMap, HashSet};

use obto_bridge::{
    bridge::wire::Reply,
    coordinator::control::{self, Word},
    ids::ClientMsgId,
    permission::code::Code,
    time::Timestamp,
};

use crate::parts::{NAMES, machine_id, message_id, thread_id};
use std::time::Duration;

/// The bridge's time at the beginning.
const BEGINNING: u64 = 1_795_000_000_000;

/// What a person wrote, as the bridge has it, and what became of it.
pub(super) struct Message {
    pub(super) thread: usize,
    pub(super) body: String,
    /// What the bridge says of its time; none if that can't be read.
    pub(super) created_at: Option<String>,
    /// Its time does not say when it was written.
    pub(super) is_odd: bool,
    /// By the bridge's clock.
    pub(super) stored: Timestamp,
    /// The machines that had reason to look for messages on its thread when it was stored.
    pub(super) is_known: [bool; NAMES.len()],
    /// A machine was not connected then by its own wish.
    pub(super) is_in_renewal: bool,
    /// The machines that had it in the inbox.
    pub(super) is_received: [bool; NAMES.len()],
    /// The process whose inbox had no room for it.
    pub(super) overflowed: Option<(usize, u32)>,
    /// The bridge did not hand it out with what waits: a word or an answer, or stopped.
    pub(super) is_withheld: bool,
    /// The bridge has dropped it from its log.
    pub(super) is_pruned: bool,
    /// How often the prompt was given as if for the first time, and as one that was interrupted.
    pub(super) prompts: u32,
    pub(super) resumed: u32,
    /// Final posts in outboxes, and at the bridge.
    pub(super) finals_put: u32,
    pub(super) finals: u32,
    /// It is in a journal of done messages.
    pub(super) is_done: bool,
    /// The question that it names.
    pub(super) code: Option<Code>,
}

impl Message {
    pub(super) fn word(&self) -> Option<Word> {
        control::read(&self.body)
    }

    /// Text for an engine, and nothing else.
    pub(super) fn is_work(&self) -> bool {
        self.body.starts_with("work")
    }

    /// What is said to a question.
    pub(super) fn is_answer(&self) -> bool {
        let verb = self.body.split(' ').next().unwrap_or_default();
        ["yes", "approve", "always", "no"].contains(&verb)
    }
}

pub(super) struct Thread {
    pub(super) owner: Option<usize>,
    pub(super) messages: Vec<usize>,
    /// Its history can't be read until then.
    pub(super) sick_until: Duration,
    /// Its history takes its time until then.
    pub(super) slow_until: Duration,
    /// The question that people see, and when it was stored by the bridge's clock and by none.
    pub(super) question: Option<Code>,
    /// Stale messages were told of and not released since.
    pub(super) is_held: bool,
    pub(super) has_moved: bool,
}

pub(super) struct Bridge {
    pub(super) skew: Duration,
    pub(super) back: Duration,
    /// It has a log, and goes on from a position.
    pub(super) has_replay: bool,
    /// It says what its time is when a stream begins.
    pub(super) says_hello: bool,
    pub(super) knows_instances: bool,
    pub(super) threads: Vec<Thread>,
    /// Messages, in order. A position is an index.
    pub(super) log: Vec<usize>,
    /// Positions before this are gone.
    pub(super) pruned: usize,
    /// What was stored under each name, and when.
    pub(super) posts: HashMap<ClientMsgId, (String, Timestamp)>,
    /// When each question was stored.
    pub(super) questions: HashMap<Code, Timestamp>,
    /// The questions of which it was said how they ended.
    pub(super) closed: HashSet<Code>,
}

impl Bridge {
    pub(super) fn time(&self, now: Duration) -> Timestamp {
        Timestamp::from_millis(BEGINNING).plus(now + self.skew).minus(self.back)
    }
}

/// A message as it goes over the wire.
pub(super) fn reply(message: &Message, number: usize, owner: Option<usize>) -> Reply {
    Reply {
        created_at: message.created_at.clone(),
        thread_id: thread_id(message.thread),
        message_id: Some(message_id(number)),
        author: None,
        role: Some("human".to_owned()),
        body: message.body.clone(),
        engine: None,
        machine: owner.map(machine_id),
        attachment_ids: Vec::new(),
        project_dir: None,
        is_by_token: false,
    }
}
