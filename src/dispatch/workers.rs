//! Threads that are ours and have something to do: which messages their workers have, and what
//! happens when a worker comes or goes. Pure.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    mem,
    sync::Arc,
    time::Duration,
};

use crate::{
    dispatch::{Effect, Message, delay},
    ids::ThreadId,
    store::entry::EntryId,
};

/// The second state machine of the module above.
#[derive(Debug, Default)]
pub(super) struct Workers {
    threads: HashMap<ThreadId, Worker>,
    deadlines: BTreeSet<(Duration, ThreadId)>,
}

#[derive(Debug)]
struct Worker {
    state: State,
    /// What is not answered, oldest first. While the state is `Working` all of it is in the mailbox
    /// or being worked on; in any other state no worker has any of it.
    queue: VecDeque<Message>,
    /// In a row.
    refusals: u32,
}

#[derive(Debug, PartialEq)]
enum State {
    Working,
    /// Its mailbox is dropped; it may take a moment to notice.
    Leaving,
    /// There was no room for it.
    Later {
        at: Duration,
    },
}

impl Workers {
    /// Hands a message to the worker of its thread, once there is one.
    pub(super) fn deliver(
        &mut self,
        thread: &ThreadId,
        message: Message,
        effects: &mut Vec<Effect>,
    ) {
        let worker = self.threads.entry(thread.clone()).or_insert_with(|| {
            effects.push(Effect::StartWorker { thread: thread.clone() });
            Worker { state: State::Working, queue: VecDeque::new(), refusals: 0 }
        });
        if worker.state == State::Working {
            deliver(thread, &message, effects);
        }
        worker.queue.push_back(message);
    }

    /// The messages that are not answered, oldest first.
    pub(super) fn queue(&self, thread: &ThreadId) -> impl Iterator<Item = &Message> {
        self.threads.get(thread).into_iter().flat_map(|worker| &worker.queue)
    }

    /// Stops the oldest message, which is the one that a worker is at, if `stop` is not older than
    /// it. Returns its entry.
    pub(super) fn stop(
        &mut self,
        thread: &ThreadId,
        stop: &Message,
        effects: &mut Vec<Effect>,
    ) -> Option<EntryId> {
        let worker = self.threads.get_mut(thread)?;
        let message = worker.queue.front_mut().filter(|oldest| !oldest.is_newer(stop))?;
        // A worker that does not have it yet is told with the delivery.
        message.is_stopped = true;
        if worker.state == State::Working {
            effects.push(Effect::Interrupt { entry: message.entry });
        }
        Some(message.entry)
    }

    /// Takes out what waits behind the oldest message, but for what is newer than `stop`.
    pub(super) fn clear(&mut self, thread: &ThreadId, stop: &Message) -> Vec<Message> {
        let Some(worker) = self.threads.get_mut(thread) else { return Vec::new() };
        let oldest = worker.queue.pop_front();
        let queue = mem::take(&mut worker.queue).into_iter();
        let (kept, cleared): (Vec<_>, Vec<_>) = queue.partition(|message| message.is_newer(stop));
        worker.queue = oldest.into_iter().chain(kept).collect();
        cleared
    }

    /// A message was answered. None if that is no news.
    pub(super) fn finished(&mut self, thread: &ThreadId, entry: EntryId) -> Option<Message> {
        let worker = self.threads.get_mut(thread)?;
        let at = worker.queue.iter().position(|message| message.entry == entry)?;
        worker.refusals = 0;
        worker.queue.remove(at)
    }

    /// Lets a worker go, unless it was given something while it asked.
    pub(super) fn idle(&mut self, thread: &ThreadId, effects: &mut Vec<Effect>) {
        let Some(worker) = self.threads.get_mut(thread) else { return };
        if worker.state == State::Working && worker.queue.is_empty() {
            worker.state = State::Leaving;
            effects.push(Effect::Retire { thread: thread.clone() });
        }
    }

    /// A worker is gone. Returns the message that it was working on, if it was not asked to leave:
    /// the oldest one, because a worker takes them in order. Then comes [`Workers::start_over`].
    pub(super) fn ended(&mut self, thread: &ThreadId) -> Option<Message> {
        let worker = self.threads.get_mut(thread)?;
        match worker.state {
            State::Working => worker.queue.pop_front(),
            State::Leaving | State::Later { .. } => None,
        }
    }

    /// Gives what the worker before left to a new one; without anything left the thread rests.
    pub(super) fn start_over(&mut self, thread: &ThreadId, effects: &mut Vec<Effect>) {
        let Some(worker) = self.threads.get_mut(thread) else { return };
        if matches!(worker.state, State::Later { .. }) {
            return;
        }
        if worker.queue.is_empty() {
            self.threads.remove(thread);
            return;
        }
        worker.state = State::Working;
        start(thread, worker, effects);
    }

    /// There was no room for a worker: try again later, with everything that was meant for it.
    pub(super) fn refused(&mut self, now: Duration, thread: &ThreadId) {
        let Some(worker) = self.threads.get_mut(thread) else { return };
        if worker.state != State::Working {
            return;
        }
        worker.refusals = worker.refusals.saturating_add(1);
        let at = now + delay(worker.refusals);
        worker.state = State::Later { at };
        self.deadlines.insert((at, thread.clone()));
    }

    /// Starts those whose time has come.
    pub(super) fn wake(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        while self.next_deadline().is_some_and(|at| at <= now) {
            let Some((_, thread)) = self.deadlines.pop_first() else { return };
            if let Some(worker) = self.threads.get_mut(&thread) {
                worker.state = State::Working;
                start(&thread, worker, effects);
            }
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Duration> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// How many messages are not answered.
    pub(super) fn len(&self) -> usize {
        self.threads.values().map(|worker| worker.queue.len()).sum()
    }
}

fn start(thread: &ThreadId, worker: &Worker, effects: &mut Vec<Effect>) {
    effects.push(Effect::StartWorker { thread: thread.clone() });
    worker.queue.iter().for_each(|message| deliver(thread, message, effects));
}

fn deliver(thread: &ThreadId, message: &Message, effects: &mut Vec<Effect>) {
    let entry = message.entry;
    effects.push(Effect::Deliver {
        thread: thread.clone(),
        entry,
        reply: Arc::clone(&message.reply),
        progress: message.progress.clone(),
    });
    if message.is_stopped {
        effects.push(Effect::Interrupt { entry });
    }
}
