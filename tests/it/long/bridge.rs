//! The bridge of the long run: it numbers messages, says them on a stream, takes answers, and has
//! outages.

use std::time::Duration;

use obto_bridge::{
    bridge::wire::{Post, Reply},
    ids::{MachineId, ThreadId},
    store::entry::EntryId,
    time::Timestamp,
};
use serde_json::json;

/// Threads that this machine gets.
pub(super) const OURS: usize = 200;
/// Threads that another machine always claims first.
pub(super) const THEIRS: usize = 50;

/// Ids are this long, so that whoever keeps them is seen to grow.
const ID_CHARS: usize = 256;

/// When the simulation begins, by the server's clock.
const START: Timestamp = Timestamp::from_millis(1_800_000_000_000);

pub(super) fn machine() -> MachineId {
    MachineId::new("this machine")
}

pub(super) fn thread_id(thread: usize) -> ThreadId {
    ThreadId::new(format!("thread-{thread:03}"))
}

pub(super) fn thread_of(id: &ThreadId) -> usize {
    id.as_str().strip_prefix("thread-").unwrap().parse().unwrap()
}

pub(super) fn server_time(now: Duration) -> Timestamp {
    START.plus(now)
}

/// The number of a message, which its id has many zeros before.
pub(super) fn number_of(reply: &Reply) -> usize {
    reply.message_id.as_ref().unwrap().as_str().parse().unwrap()
}

/// How a bridge that is away refuses a connection.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Away {
    Unreachable,
    /// It takes no token.
    Unauthorized,
    /// It asks for this much patience.
    Busy(Duration),
}

/// From this minute on for an hour.
pub(super) const OUTAGES: [(u64, Away); 3] = [
    (9 * 60 + 20, Away::Unreachable),
    (21 * 60 + 20, Away::Unauthorized),
    (33 * 60 + 20, Away::Busy(Duration::from_mins(2))),
];

/// The outage that there is now.
pub(super) fn outage(now: Duration) -> Option<usize> {
    let minute = now.as_secs() / 60;
    OUTAGES.iter().position(|(from, _)| (*from..from + 60).contains(&minute))
}

/// What the bridge has. Nothing in it grows but one small record a message, for which there is room
/// from the beginning: the memory that is measured is the daemon's.
pub(super) struct Bridge {
    messages: Vec<Message>,
    owned: [bool; OURS],
    /// Posts that came again under the same name.
    pub(super) repeated: usize,
}

#[derive(Clone, Copy)]
struct Message {
    thread: usize,
    at: Duration,
    /// The entry that it had when it was answered.
    answer: Option<EntryId>,
}

impl Bridge {
    pub(super) fn new(capacity: usize) -> Bridge {
        let none = Message { thread: 0, at: Duration::ZERO, answer: None };
        let mut messages = vec![none; capacity];
        messages.clear();
        Bridge { messages, owned: [false; OURS], repeated: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    /// A human says something.
    pub(super) fn send(&mut self, thread: usize, at: Duration) {
        assert!(self.messages.len() < self.messages.capacity());
        self.messages.push(Message { thread, at, answer: None });
    }

    /// Whether it was free until now; if not, it is ours already. None if another machine has it.
    pub(super) fn claim(&mut self, thread: usize) -> Option<bool> {
        let owned = self.owned.get_mut(thread)?;
        Some(!std::mem::replace(owned, true))
    }

    fn json(&self, number: usize) -> String {
        let Message { thread, at, .. } = self.messages[number];
        let owner = self.owned.get(thread).is_some_and(|it| *it).then(machine);
        json!({
            "threadId": thread_id(thread), "messageId": format!("{number:0ID_CHARS$}"), "author": "ann",
            "role": "human", "body": format!("Please do number {number}."),
            "createdAt": server_time(at), "agentId": owner,
        })
        .to_string()
    }

    /// A message as the stream has it.
    pub(super) fn event(&self, number: usize) -> String {
        format!("id: {number}\nevent: reply\ndata: {}\n\n", self.json(number))
    }

    fn read(&self, number: usize) -> Reply {
        Reply::parse(&self.json(number)).unwrap()
    }

    /// The history of a thread from a moment on.
    pub(super) fn history(&self, thread: usize, since: Timestamp) -> Vec<Reply> {
        let from = self.messages.partition_point(|it| server_time(it.at) < since);
        let here = (from..self.len()).filter(|it| self.messages[*it].thread == thread);
        here.map(|number| self.read(number)).collect()
    }

    /// Takes an answer. The same post may come twice, but not a second answer.
    pub(super) fn accept(&mut self, post: &Post) {
        let number: usize = post.body.strip_prefix("Did ").unwrap().parse().unwrap();
        let entry = EntryId::parse(post.client_msg_id.as_str().strip_suffix(".answer").unwrap());
        let message = &mut self.messages[number];
        assert_eq!(post.thread_id, thread_id(message.thread));
        assert!(message.thread < OURS, "message {number} was another machine's to answer");
        self.repeated += usize::from(message.answer.is_some());
        let first = *message.answer.get_or_insert(entry.unwrap());
        assert_eq!(Some(first), entry, "message {number} is answered twice");
    }

    /// How many messages on our threads wait for an answer.
    pub(super) fn unanswered(&self) -> usize {
        self.messages.iter().filter(|it| it.thread < OURS && it.answer.is_none()).count()
    }
}
