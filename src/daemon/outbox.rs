//! Joins the outbox on disk with the task that sends it.

use std::io;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use crate::{
    bridge::{
        Client,
        outbox::{self, OutboxStore, Settings, Stored},
        wire::{Activity, Post},
    },
    coordinator::Event,
    ids::{ClientMsgId, ThreadId},
    store::outbox::{Outbox, OutboxId},
    task::Task,
};

/// Indicators that wait; more are dropped.
const ACTIVITIES: usize = 16;

/// The outbox as the sending task sees it.
struct Store {
    outbox: Outbox,
    events: Sender<Event>,
}

impl OutboxStore for Store {
    type Entry = OutboxId;

    fn list(&mut self) -> io::Result<Vec<(OutboxId, ThreadId)>> {
        Ok(self.outbox.list())
    }

    fn read(&mut self, entry: &OutboxId) -> io::Result<Option<Post>> {
        self.outbox.read(*entry)
    }

    fn remove(&mut self, entry: &OutboxId) -> io::Result<()> {
        self.outbox.remove(*entry)
    }

    fn asked(&mut self, question: Stored) {
        let Stored { post, at, .. } = question;
        self.events.send(Event::Posted { post, at }).ok(); // The daemon may have left.
    }

    fn conflict(&mut self, thread: &ThreadId, post: &ClientMsgId) {
        log::error!(
            threadId = thread.as_str(), post:% = post;
            "another daemon of this machine's name does the same work, so this one begins nothing \
             more: give one of them another agentId, and restart it"
        );
        self.events.send(Event::Conflict { is_final: true }).ok(); // The daemon may have left.
    }

    fn refuse(&mut self, entry: &OutboxId, reason: &str) -> io::Result<()> {
        self.outbox.refuse(*entry, reason)
    }
}

/// The channels of the sending task.
pub(super) struct Channels {
    pub(super) wake: Sender<()>,
    pub(super) activity: Sender<(ThreadId, Activity)>,
    /// What the loop has to know.
    pub(super) events: Receiver<Event>,
    /// The other ends, for [`start`].
    ends: (Receiver<()>, Receiver<(ThreadId, Activity)>, Sender<Event>),
}

pub(super) fn channels() -> Channels {
    let (wake, woken) = bounded(1);
    let (activity, activities) = bounded(ACTIVITIES);
    // Unbounded: one for each open question, and these have a bound; or one for each post, and the
    // loop empties it.
    let (event, events) = unbounded();
    Channels { wake, activity, events, ends: (woken, activities, event) }
}

/// Starts the sending task. It leaves when all wake channels are closed.
pub(super) fn start(client: Client, store: &Outbox, channels: &Channels) -> io::Result<Task> {
    let (wake, activity, events) = channels.ends.clone();
    let store = Store { outbox: store.clone(), events };
    outbox::start(client, store, Settings::default(), wake, activity)
}
