//! Joins the outbox on disk with the task that sends it.

use std::io;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use crate::{
    bridge::{
        Client,
        outbox::{self, OutboxStore, Settings, Stored},
        wire::{Activity, Post},
    },
    ids::{ClientMsgId, ThreadId},
    store::outbox::{Outbox, OutboxId},
    task::Task,
};

/// Indicators that wait; more are dropped.
const ACTIVITIES: usize = 16;

/// What the sending task reports to the loop.
#[derive(Debug)]
pub(super) enum Told {
    /// The bridge has stored a question.
    Stored(Stored),
    /// Another daemon of this machine's name has posted under a name of ours.
    Conflict,
}

/// The outbox as the sending task sees it.
struct Store {
    outbox: Outbox,
    told: Sender<Told>,
}

impl OutboxStore for Store {
    type Entry = OutboxId;

    fn list(&mut self) -> io::Result<Vec<OutboxId>> {
        Ok(self.outbox.list())
    }

    fn read(&mut self, entry: &OutboxId) -> io::Result<Option<Post>> {
        self.outbox.read(*entry)
    }

    fn remove(&mut self, entry: &OutboxId) -> io::Result<()> {
        self.outbox.remove(*entry)
    }

    fn asked(&mut self, question: Stored) {
        self.told.send(Told::Stored(question)).ok(); // The loop may have ended.
    }

    fn conflict(&mut self, thread: &ThreadId, post: &ClientMsgId) {
        log::error!(
            threadId = thread.as_str(), post:% = post;
            "another daemon of this machine's name does the same work, so this one begins nothing \
             more: give one of them another agentId, and restart it"
        );
        self.told.send(Told::Conflict).ok(); // The loop may have ended.
    }

    fn refuse(&mut self, entry: &OutboxId, reason: &str) -> io::Result<()> {
        self.outbox.refuse(*entry, reason)
    }
}

/// The sending task. It ends when all wake channels are closed.
#[derive(Debug)]
pub(super) struct Sending {
    task: Task,
}

/// The channels of the sending task.
pub(super) struct Channels {
    pub(super) wake: Sender<()>,
    pub(super) activity: Sender<(ThreadId, Activity)>,
    /// What the loop has to know.
    pub(super) told: Receiver<Told>,
    /// The other ends, for [`start`].
    ends: (Receiver<()>, Receiver<(ThreadId, Activity)>, Sender<Told>),
}

pub(super) fn channels() -> Channels {
    let (wake, woken) = bounded(1);
    let (activity, activities) = bounded(ACTIVITIES);
    // Unbounded: one for each open question, and these have a bound; or one for each post, and the
    // loop empties it.
    let (tell, told) = unbounded();
    Channels { wake, activity, told, ends: (woken, activities, tell) }
}

pub(super) fn start(client: Client, store: &Outbox, channels: &Channels) -> io::Result<Sending> {
    let (wake, activity, told) = channels.ends.clone();
    let store = Store { outbox: store.clone(), told };
    let task = outbox::start(client, store, Settings::default(), wake, activity)?;
    Ok(Sending { task })
}

impl Sending {
    /// Waits until the task has sent what it could.
    pub(super) fn join(self) {
        drop(self.task.join()); // A panic was logged.
    }
}
