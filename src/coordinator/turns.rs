//! Threads that are ours and have something to do: their messages in order, and the turn of the
//! oldest one. Turns of one thread run one after another; a turn begins when it has its slot. Pure.
//!
//! | state | what happens | next |
//! |---|---|---|
//! | idle | a message | waiting |
//! | waiting | the slot is granted: the turn begins | running |
//! | waiting | a stop: the message is done without a turn | waiting for the next one, else – |
//! | running | the answer is known and durable: the message is done | leaving |
//! | running | the engine is gone without an answer: the turn panicked | waiting for the next one, else – |
//! | running | the system has no room for the turn | later |
//! | leaving | the engine is gone: slot and directory are free | waiting for the next one, else – |
//! | later | the time has come | waiting |

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    mem,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    delay,
    message::{Arrival, Message},
    slots::{Grant, Slots, Wait, WaitNotice},
};
use crate::{
    ids::{Engine, ThreadId},
    store::entry::EntryId,
    time::Timestamp,
};

#[derive(Debug)]
pub(super) struct Turns {
    threads: HashMap<ThreadId, ThreadTurns>,
    slots: Slots,
    /// When threads in the state `Later` go on.
    deadlines: BTreeSet<(Duration, ThreadId)>,
    /// Threads whose oldest message is to wait for a slot.
    ready: VecDeque<ThreadId>,
}

#[derive(Debug, Default)]
struct ThreadTurns {
    /// What is not answered, oldest first. The turn that runs is that of the first one.
    queue: VecDeque<Message>,
    state: State,
    /// How often in a row the system had no room for the turn.
    refusals: u32,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Idle,
    Waiting,
    Running(Running),
    /// The message is answered; the engine has not left yet.
    Leaving(EntryId),
    Later {
        at: Duration,
    },
}

#[derive(Clone, Debug)]
pub(super) struct Running {
    pub(super) entry: EntryId,
    pub(super) engine: Engine,
    pub(super) since: Timestamp,
    /// What the engine did last, in its words.
    pub(super) doing: Option<String>,
}

#[derive(Debug)]
pub(super) enum StopTarget {
    /// Nothing that is older than the stop.
    Nothing,
    /// A turn that runs; it is to be interrupted.
    Running(EntryId),
    /// A message that waited for its turn; it is out of the queue.
    Waiting(Message),
}

impl Turns {
    pub(super) fn new(slots: Slots) -> Turns {
        Turns { threads: HashMap::new(), slots, deadlines: BTreeSet::new(), ready: VecDeque::new() }
    }

    /// Puts a message at the end of its thread's queue, or, if a history holds it, where it belongs.
    pub(super) fn push(&mut self, message: Message) {
        if message.origin == Arrival::CaughtUp {
            return self.insert(message);
        }
        let id = message.thread().clone();
        let thread = self.threads.entry(id.clone()).or_default();
        thread.queue.push_back(message);
        if matches!(thread.state, State::Idle) {
            self.ready.push_back(id);
        }
    }

    /// Puts a message before what was written later on its thread and has not begun.
    pub(super) fn insert(&mut self, message: Message) {
        let id = message.thread().clone();
        let thread = self.threads.entry(id.clone()).or_default();
        let queue = &mut thread.queue;
        let is_running = matches!(thread.state, State::Running(_));
        let at = message.place(queue.iter()).max(usize::from(is_running));
        queue.insert(at, message);
        match thread.state {
            // It was another message that stood in line.
            State::Waiting if at == 0 => self.rest(&id),
            State::Idle => self.ready.push_back(id),
            _ => {}
        }
    }

    /// Puts threads with a message at hand into the line for a slot. `writes_in` names the
    /// directory that the message's engine writes in without asking.
    pub(super) fn line_up(
        &mut self,
        now: Duration,
        writes_in: impl Fn(&Message) -> Option<PathBuf>,
    ) {
        while self.deadlines.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, id)) = self.deadlines.pop_first() else { break };
            if let Some(thread) = self.threads.get_mut(&id) {
                thread.state = State::Idle;
            }
            self.ready.push_back(id);
        }
        while let Some(id) = self.ready.pop_front() {
            let Some(thread) = self.threads.get_mut(&id) else { continue };
            if !matches!(thread.state, State::Idle) {
                continue;
            }
            match thread.queue.front() {
                Some(message) => {
                    self.slots.want(id, message.entry, writes_in(message), now);
                    thread.state = State::Waiting;
                }
                None => drop(self.threads.remove(&id)),
            }
        }
    }

    /// What may go on now: a thread whose turn begins, with its message, or a turn that has its
    /// directory. To be called until there is nothing more. No turn begins without `has_room`.
    pub(super) fn next(&mut self, has_room: bool) -> Option<(Grant, Option<Message>)> {
        let grant = self.slots.next(has_room)?;
        let message = match &grant {
            Grant::Slot { thread, .. } => {
                self.threads.get(thread).and_then(|it| it.queue.front()).cloned()
            }
            Grant::Directory(_) => None,
        };
        Some((grant, message))
    }

    /// The turn of the thread's oldest message has begun.
    pub(super) fn began(&mut self, id: &ThreadId, engine: Engine, since: Timestamp) {
        let Some(thread) = self.threads.get_mut(id) else { return };
        if let Some(message) = thread.queue.front() {
            let entry = message.entry;
            thread.state = State::Running(Running { entry, engine, since, doing: None });
        }
    }

    pub(super) fn running(&self, id: &ThreadId) -> Option<&Running> {
        match &self.threads.get(id)?.state {
            State::Running(running) => Some(running),
            _ => None,
        }
    }

    /// Whether this turn runs and its answer is not known yet.
    pub(super) fn is_running(&self, id: &ThreadId, entry: EntryId) -> bool {
        self.running(id).is_some_and(|running| running.entry == entry)
    }

    pub(super) fn does(&mut self, id: &ThreadId, line: String) {
        if let Some(ThreadTurns { state: State::Running(running), .. }) = self.threads.get_mut(id) {
            running.doing = Some(line);
        }
    }

    /// How many turns have not ended, those included whose engine is leaving.
    pub(super) fn in_progress(&self) -> usize {
        let is_on =
            |thread: &&ThreadTurns| matches!(thread.state, State::Running(_) | State::Leaving(_));
        self.threads.values().filter(is_on).count()
    }

    /// The messages of a thread that are not answered, oldest first.
    pub(super) fn queue(&self, id: &ThreadId) -> impl Iterator<Item = &Message> {
        self.threads.get(id).into_iter().flat_map(|thread| &thread.queue)
    }

    /// The messages of a thread whose turn has not begun, oldest first.
    pub(super) fn waiting(&self, id: &ThreadId) -> impl Iterator<Item = &Message> {
        self.queue(id).skip(usize::from(self.running(id).is_some()))
    }

    /// How many messages are not answered.
    pub(super) fn len(&self) -> usize {
        self.threads.values().map(|thread| thread.queue.len()).sum()
    }

    /// The answer to a message is durable. None if the coordinator knew that.
    pub(super) fn answered(&mut self, id: &ThreadId, entry: EntryId) -> Option<Message> {
        let thread = self.threads.get_mut(id)?;
        match &thread.state {
            State::Running(running) if running.entry == entry => {
                thread.state = State::Leaving(entry);
                thread.refusals = 0;
                thread.queue.pop_front()
            }
            _ => None,
        }
    }

    /// The engine is gone. Returns the message if there is no answer to it.
    pub(super) fn left(&mut self, id: &ThreadId, entry: EntryId) -> Option<Message> {
        let thread = self.threads.get_mut(id)?;
        let unanswered = match &thread.state {
            State::Running(running) if running.entry == entry => thread.queue.pop_front(),
            State::Leaving(leaving) if *leaving == entry => None,
            _ => return None,
        };
        self.rest(id);
        unanswered
    }

    /// There was no room for the turn of this message: it is tried again later.
    pub(super) fn refused(&mut self, now: Duration, id: &ThreadId, entry: EntryId) {
        if !self.is_running(id, entry) {
            return;
        }
        self.rest(id);
        if let Some(thread) = self.threads.get_mut(id) {
            thread.refusals = thread.refusals.saturating_add(1);
            let at = now + delay(thread.refusals);
            thread.state = State::Later { at };
            self.deadlines.insert((at, id.clone()));
        }
    }

    /// Finds what a stop applies to: the oldest message, unless it is newer than the stop.
    pub(super) fn stop(&mut self, stop: &Message) -> StopTarget {
        let id = stop.thread();
        let Some(thread) = self.threads.get_mut(id) else { return StopTarget::Nothing };
        if thread.queue.front().is_none_or(|oldest| oldest.is_newer(stop)) {
            return StopTarget::Nothing;
        }
        match thread.state {
            State::Running(ref running) => return StopTarget::Running(running.entry),
            // Its predecessor is answered, and keeps the slot until the engine has left.
            State::Leaving(_) => {}
            State::Later { at } => {
                self.deadlines.remove(&(at, id.clone()));
                self.rest(id);
            }
            State::Idle | State::Waiting => self.rest(id),
        }
        let oldest = self.threads.get_mut(id).and_then(|thread| thread.queue.pop_front());
        oldest.map_or(StopTarget::Nothing, StopTarget::Waiting)
    }

    /// Takes out what waits behind the oldest message and is not newer than `stop`.
    pub(super) fn clear(&mut self, stop: &Message) -> Vec<Message> {
        let Some(thread) = self.threads.get_mut(stop.thread()) else { return Vec::new() };
        let oldest = thread.queue.pop_front();
        let queue = mem::take(&mut thread.queue).into_iter();
        let (kept, cleared): (Vec<_>, Vec<_>) = queue.partition(|message| message.is_newer(stop));
        thread.queue = oldest.into_iter().chain(kept).collect();
        cleared
    }

    /// The turn is about to be allowed something that may write in `dir`, its canonical project
    /// directory. True: it has the directory. False: [`Turns::next`] says when it has it.
    pub(super) fn lock(&mut self, id: &ThreadId, dir: &Path, now: Duration) -> bool {
        self.slots.lock(id, dir, now)
    }

    /// What a thread waits for, if it does.
    pub(super) fn wait(&self, id: &ThreadId) -> Option<Wait> {
        self.slots.wait(id)
    }

    /// Threads that have waited for a while and have no post about it. Each is named once a message.
    pub(super) fn untold(&mut self, now: Duration) -> Vec<WaitNotice> {
        self.slots.untold(now)
    }

    /// When a turn that there was no room for is tried again.
    pub(super) fn next_deadline(&self) -> Option<Duration> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// When a thread is to be told that it waits.
    pub(super) fn tell_due(&self) -> Option<Duration> {
        self.slots.due()
    }

    /// Gives the slot back; the next message of the thread is at hand.
    fn rest(&mut self, id: &ThreadId) {
        self.slots.release(id);
        if let Some(thread) = self.threads.get_mut(id) {
            thread.state = State::Idle;
            self.ready.push_back(id.clone());
        }
    }
}
