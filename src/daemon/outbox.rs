//! Joins the outbox on disk with the task that sends it.

use std::io;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::{
    bridge::{
        Client,
        outbox::{self, OutboxStore, Settings},
        wire::{Activity, Post},
    },
    ids::ThreadId,
    store::outbox::{Outbox, OutboxId},
    task::Task,
};

/// Indicators that wait; more are dropped.
const ACTIVITIES: usize = 16;

impl OutboxStore for Outbox {
    type Entry = OutboxId;

    fn list(&mut self) -> io::Result<Vec<OutboxId>> {
        Ok(Outbox::list(self))
    }

    fn read(&mut self, entry: &OutboxId) -> io::Result<Option<Post>> {
        Outbox::read(self, *entry)
    }

    fn remove(&mut self, entry: &OutboxId) -> io::Result<()> {
        Outbox::remove(self, *entry)
    }

    fn refuse(&mut self, entry: &OutboxId, reason: &str) -> io::Result<()> {
        Outbox::refuse(self, *entry, reason)
    }
}

/// The sending task. It leaves when all wake channels are closed.
#[derive(Debug)]
pub(super) struct Sending {
    task: Task,
}

/// The channels of the sending task.
pub(super) struct Channels {
    pub(super) wake: Sender<()>,
    pub(super) activity: Sender<(ThreadId, Activity)>,
    /// Receiving ends, for [`start`].
    ends: (Receiver<()>, Receiver<(ThreadId, Activity)>),
}

pub(super) fn channels() -> Channels {
    let (wake, woken) = bounded(1);
    let (activity, activities) = bounded(ACTIVITIES);
    Channels { wake, activity, ends: (woken, activities) }
}

pub(super) fn start(client: Client, store: &Outbox, channels: &Channels) -> io::Result<Sending> {
    let (wake, activity) = channels.ends.clone();
    let task = outbox::start(client, store.clone(), Settings::default(), wake, activity)?;
    Ok(Sending { task })
}

impl Sending {
    /// Waits until the task has sent what it could.
    pub(super) fn join(self) {
        drop(self.task.join()); // A panic was logged.
    }
}
