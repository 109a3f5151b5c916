//! The dispatcher's decisions: who acts on a message, and when. Pure: events in, effects out, the
//! time comes with the event. `daemon` carries the effects out; a seeded simulation
//! (`tests/it/sim`) carries them out on a model of bridge, workers and disk.
//!
//! A thread goes through two small state machines that are independent of each other. One is about
//! who owns it (`claims`); a thread that is known to be ours, or of which nothing is held, is not
//! in it:
//!
//! | state | what happens | next |
//! |---|---|---|
//! | waiting | one of the few places for claims is free | in flight |
//! | in flight | won: messages go to the worker. Lost: they are not ours | – |
//! | in flight | failed, so nobody knows | later |
//! | later | the time has come | waiting |
//!
//! The other is about the work on a thread that is ours (`workers`); a thread without a worker and
//! without messages is not in it:
//!
//! | state | what happens | next |
//! |---|---|---|
//! | working | a message: into the mailbox | working |
//! | working | the worker offers to leave, and nothing is queued | leaving |
//! | working | the worker ends by itself: its oldest message is answered with an error | working with a new one if more is queued, else – |
//! | working | the system refused to start it | later |
//! | leaving | the worker ended | working with a new one if more is queued, else – |
//! | later | the time has come: everything is handed over again | working |
//!
//! A message that is a control word (`control`) goes neither way but to the daemon, once the thread
//! is ours.
//!
//! * A message that says who owns its thread settles a claim; but while one is in flight, only its
//!   answer may say that it is another machine.
//! * The messages of a thread stay together and in order. A claim never delays another thread.
//! * A message is *outstanding* from its arrival to its [`Effect::Done`]; the same one arriving
//!   meanwhile, or later, is a duplicate. Every entry gets exactly one `Done`, and until then it
//!   is in the inbox: nothing here needs to be saved, and a message that is held when the program
//!   ends is met again at the next start.
//! * A panicking worker costs the turn that it was in, never the same one twice: what it had begun
//!   must not be blindly repeated.
//! * An event may say that a thread moved to another machine. What was handed to a worker before
//!   that is ours and is finished.
//! * After [`Event::Stop`] nothing is started, claimed or delivered; what ends is still noted.
//!
//! Memory is bounded by the inbox, which holds every message that is held here.

mod claims;
pub mod control;
#[cfg(test)]
mod tests;
mod workers;

use std::{collections::HashSet, sync::Arc, time::Duration};

use crate::{
    bridge::wire::{PostKind, Reply},
    dispatch::{
        claims::Claims,
        control::{Controls, Order, Stopped, Word},
        workers::Workers,
    },
    ids::{MachineId, MessageId, ThreadId},
    store::entry::{EntryId, Progress, message_key},
};

/// Calls on the bridge at the same time.
pub const CLAIMS_MAX: usize = 4;

/// After a failure this passes, then twice as much, up to the maximum.
const DELAY_MIN: Duration = Duration::from_secs(1);
const DELAY_MAX: Duration = Duration::from_mins(1);

/// A bridge that asks for more patience than this gets this much.
const RETRY_AFTER_MAX: Duration = Duration::from_mins(5);

const WORKER_FAILED: &str = "The daemon failed while it worked on your message (its log says why). \
    What the agent had done until then stays done. Send the message again if you want another try.";

/// What the dispatcher is told.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A message is in the inbox: just received, or left by an earlier process.
    Inbound {
        entry: EntryId,
        reply: Arc<Reply>,
        /// How far its turn came before the crash.
        progress: Option<Progress>,
        /// Whether the journal of done messages has its [`message_key`].
        is_seen: bool,
    },
    /// A claim is over.
    Claimed { thread: ThreadId, outcome: ClaimOutcome },
    /// A worker: the answer to this entry is in the outbox. Or the daemon: this control word is
    /// carried out and answered.
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
    /// Stop the turn of this message, or, if it has none yet, have the worker end it without one.
    /// Either way [`Event::Finished`] follows.
    Interrupt { entry: EntryId },
    /// Carry out a control word and answer it, then say [`Event::Finished`].
    Control { thread: ThreadId, entry: EntryId, reply: Arc<Reply>, order: Order },
    /// The entry is done with. [`Why::Answered`], [`Why::Cleared`]: write `message`, the
    /// [`message_key`], into the journal of done messages before the next event is handed in. Any:
    /// remove the entry once the thread's binding is on disk; a worker that has it in its mailbox
    /// must skip it.
    Done { entry: EntryId, message: MessageId, why: Why },
    /// Post this on the thread, as the answer to `entry`.
    Say { thread: ThreadId, entry: EntryId, kind: PostKind, body: String },
}

/// Why an entry is done with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    Answered,
    /// The human did not want it any more.
    Cleared,
    /// The same message was received before.
    Duplicate,
    /// Another machine has the thread.
    NotOurs,
}

/// A message that is not done.
#[derive(Clone, Debug)]
struct Message {
    entry: EntryId,
    reply: Arc<Reply>,
    progress: Option<Progress>,
    /// The human wants it stopped.
    is_stopped: bool,
}

impl Message {
    fn new(entry: EntryId, reply: Arc<Reply>, progress: Option<Progress>) -> Message {
        Message { entry, reply, progress, is_stopped: false }
    }

    fn is_newer(&self, than: &Message) -> bool {
        control::is_newer(self.entry, &self.reply, than.entry, &than.reply)
    }

    fn key(&self) -> MessageId {
        message_key(self.entry, &self.reply)
    }
}

/// What is known of all threads. Threads that are at rest take no space but their name, if they are
/// ours.
#[derive(Debug)]
pub struct Dispatch {
    machine: MachineId,
    ours: HashSet<ThreadId>,
    claims: Claims,
    workers: Workers,
    controls: Controls,
    /// The keys of the messages that are not done.
    outstanding: HashSet<MessageId>,
    is_stopping: bool,
}

impl Dispatch {
    /// `ours` are the threads that are bound to this machine already.
    pub fn new(machine: MachineId, ours: impl IntoIterator<Item = ThreadId>) -> Dispatch {
        Dispatch {
            machine,
            ours: ours.into_iter().collect(),
            claims: Claims::default(),
            workers: Workers::default(),
            controls: Controls::default(),
            outstanding: HashSet::new(),
            is_stopping: false,
        }
    }

    /// Takes one event in. `now` is the time since the start of the program and never runs
    /// backwards. Effects are appended, to be carried out in order before the next event.
    pub fn step(&mut self, now: Duration, event: Event, effects: &mut Vec<Effect>) {
        if self.is_stopping {
            return self.step_while_stopping(event, effects);
        }
        match event {
            Event::Inbound { entry, reply, progress, is_seen } => {
                self.inbound(Message::new(entry, reply, progress), is_seen, effects);
            }
            Event::Claimed { thread, outcome } => self.claimed(now, &thread, outcome, effects),
            Event::Finished { thread, entry } => self.finished(&thread, entry, effects),
            Event::Idle { thread } => self.workers.idle(&thread, effects),
            Event::WorkerEnded { thread } => self.worker_ended(&thread, effects),
            Event::WorkerRefused { thread } => self.workers.refused(now, &thread),
            Event::Tick => {}
            Event::Stop => {
                self.is_stopping = true;
                return;
            }
        }
        self.workers.wake(now, effects);
        self.claims.wake(now);
        self.claims.start(effects);
    }

    /// When to hand in an [`Event::Tick`] if nothing else happens before.
    pub fn next_deadline(&self) -> Option<Duration> {
        if self.is_stopping {
            return None;
        }
        [self.claims.next_deadline(), self.workers.next_deadline()].into_iter().flatten().min()
    }

    /// How many messages are not done.
    pub fn outstanding(&self) -> usize {
        self.claims.len() + self.workers.len() + self.controls.len()
    }

    /// The messages of a thread of ours that are not answered, oldest first. The first one is being
    /// worked on, or will be next.
    pub fn queue(&self, thread: &ThreadId) -> impl Iterator<Item = (EntryId, &Reply)> {
        self.workers.queue(thread).map(|message| (message.entry, &*message.reply))
    }

    fn step_while_stopping(&mut self, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::Finished { thread, entry } => self.finished(&thread, entry, effects),
            Event::Claimed { thread, outcome } if self.is_won(&outcome) => {
                self.bind(&thread, effects);
            }
            _ => {}
        }
    }

    fn inbound(&mut self, message: Message, is_seen: bool, effects: &mut Vec<Effect>) {
        let reply = Arc::clone(&message.reply);
        let thread = &reply.thread_id;
        match &reply.machine {
            Some(machine) if *machine != self.machine => {
                self.disown(thread, effects);
                return done(&message, Why::NotOurs, effects);
            }
            Some(_) => self.own(thread, effects),
            // A turn is begun only on a thread that is ours; the binding may not have been written.
            None if message.progress.is_some() => self.own(thread, effects),
            None => {}
        }
        if is_seen || !self.outstanding.insert(message.key()) {
            return done(&message, Why::Duplicate, effects);
        }
        if self.ours.contains(thread) {
            self.accept(thread, message, effects);
        } else {
            self.claims.hold(thread, message);
        }
    }

    /// A message on a thread of ours.
    fn accept(&mut self, thread: &ThreadId, message: Message, effects: &mut Vec<Effect>) {
        let order = match control::read(&message.reply.body) {
            None if self.controls.is_cleared(&message) => {
                self.forget(&message);
                return done(&message, Why::Cleared, effects);
            }
            None => return self.workers.deliver(thread, message, effects),
            Some(Word::Stop) => return self.stop(thread, message, false, effects),
            Some(Word::StopAll) => return self.stop(thread, message, true, effects),
            Some(Word::Status) => Order::Status,
            Some(Word::Queue) => Order::Queue,
            Some(Word::New) => Order::New,
            Some(Word::Help) => Order::Help,
        };
        effects.push(order_for(thread, &message, order));
        self.controls.open(message);
    }

    fn stop(&mut self, thread: &ThreadId, stop: Message, is_all: bool, effects: &mut Vec<Effect>) {
        let mut cleared = 0;
        if is_all {
            self.controls.clear(&stop);
            for message in self.workers.clear(thread, &stop) {
                cleared += 1;
                self.forget(&message);
                done(&message, Why::Cleared, effects);
            }
        }
        if let Some(target) = self.workers.stop(thread, &stop, effects) {
            return self.controls.open_until(target, stop, cleared);
        }
        let waiting = self.workers.queue(thread).count();
        let stopped = Stopped { is_all, had_turn: false, cleared, waiting };
        effects.push(order_for(thread, &stop, Order::Stopped(stopped)));
        self.controls.open(stop);
    }

    /// The turn of a message is over, and so are the stops that waited for it. What the turn said is
    /// answer enough, unless there is more to tell.
    fn stops_are_over(&mut self, thread: &ThreadId, entry: EntryId, effects: &mut Vec<Effect>) {
        for (stop, cleared) in self.controls.over(entry) {
            // After a stop of the program nothing begins now.
            let waiting = if self.is_stopping { 0 } else { self.workers.queue(thread).count() };
            let is_all = control::read(&stop.reply.body) == Some(Word::StopAll);
            if !is_all && waiting == 0 {
                self.finished(thread, stop.entry, effects);
            } else {
                let stopped = Stopped { is_all, had_turn: true, cleared, waiting };
                effects.push(order_for(thread, &stop, Order::Stopped(stopped)));
            }
        }
    }

    fn claimed(
        &mut self,
        now: Duration,
        thread: &ThreadId,
        outcome: ClaimOutcome,
        effects: &mut Vec<Effect>,
    ) {
        if !self.claims.landed(thread) {
            return;
        }
        match outcome {
            outcome if self.is_won(&outcome) => self.own(thread, effects),
            ClaimOutcome::Failed { retry_after } => self.claims.failed(now, thread, retry_after),
            ClaimOutcome::Won | ClaimOutcome::Lost { .. } => self.disown(thread, effects),
        }
    }

    fn is_won(&self, outcome: &ClaimOutcome) -> bool {
        match outcome {
            ClaimOutcome::Won => true,
            ClaimOutcome::Lost { winner } => winner.as_ref() == Some(&self.machine),
            ClaimOutcome::Failed { .. } => false,
        }
    }

    fn bind(&mut self, thread: &ThreadId, effects: &mut Vec<Effect>) {
        if self.ours.insert(thread.clone()) {
            effects.push(Effect::Bind { thread: thread.clone() });
        }
    }

    /// The thread is ours, and so is what was held for it.
    fn own(&mut self, thread: &ThreadId, effects: &mut Vec<Effect>) {
        self.bind(thread, effects);
        for message in self.claims.settle(thread) {
            self.accept(thread, message, effects);
        }
    }

    /// The thread is another machine's, and so is what was held for it; but not if a claim is in
    /// flight, because its answer knows better.
    fn disown(&mut self, thread: &ThreadId, effects: &mut Vec<Effect>) {
        self.ours.remove(thread);
        if self.claims.is_in_flight(thread) {
            return;
        }
        for message in self.claims.settle(thread) {
            self.forget(&message);
            done(&message, Why::NotOurs, effects);
        }
    }

    fn finished(&mut self, thread: &ThreadId, entry: EntryId, effects: &mut Vec<Effect>) {
        let finished = self.controls.close(entry);
        if let Some(message) = finished.or_else(|| self.workers.finished(thread, entry)) {
            self.forget(&message);
            done(&message, Why::Answered, effects);
            self.stops_are_over(thread, entry, effects);
        }
    }

    fn worker_ended(&mut self, thread: &ThreadId, effects: &mut Vec<Effect>) {
        if let Some(message) = self.workers.ended(thread) {
            self.forget(&message);
            effects.push(Effect::Say {
                thread: thread.clone(),
                entry: message.entry,
                kind: PostKind::Error,
                body: WORKER_FAILED.to_owned(),
            });
            done(&message, Why::Answered, effects);
            self.stops_are_over(thread, message.entry, effects);
        }
        self.workers.start_over(thread, effects);
    }

    fn forget(&mut self, message: &Message) {
        self.outstanding.remove(&message.key());
    }
}

fn order_for(thread: &ThreadId, message: &Message, order: Order) -> Effect {
    let (thread, reply) = (thread.clone(), Arc::clone(&message.reply));
    Effect::Control { thread, entry: message.entry, reply, order }
}

fn done(message: &Message, why: Why, effects: &mut Vec<Effect>) {
    effects.push(Effect::Done { entry: message.entry, message: message.key(), why });
}

/// How long to wait after so many failures in a row.
fn delay(failures: u32) -> Duration {
    DELAY_MIN.saturating_mul(1 << failures.saturating_sub(1).min(6)).min(DELAY_MAX)
}
