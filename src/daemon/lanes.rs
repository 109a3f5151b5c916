//! The messages that the dispatcher has delivered, by thread, and the turn that each thread has.

use std::{
    collections::{HashMap, VecDeque},
    mem,
    sync::Arc,
    time::Instant,
};

use crossbeam_channel::{Receiver, unbounded};

use super::{Daemon, places::Grant};
use crate::{
    agent::TurnCommand,
    bridge::wire::{PostKind, Reply},
    dispatch::Event,
    ids::ThreadId,
    permission::Rule,
    store::{
        binding::SessionRecord,
        entry::{EntryId, Progress},
    },
    task::Task,
    worker::{self, Job},
};

pub(super) type Lanes = HashMap<ThreadId, Lane>;

#[derive(Debug, Default)]
pub(super) struct Lane {
    /// The first one may have a turn.
    queue: VecDeque<Delivered>,
    state: State,
}

#[derive(Debug)]
struct Delivered {
    entry: EntryId,
    reply: Arc<Reply>,
    progress: Option<Progress>,
    is_clean: bool,
    has_lock: bool,
    commands: Receiver<TurnCommand>,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Idle,
    /// The first message waits for a slot.
    Waiting,
    Running(#[expect(dead_code, reason = "its end is reported")] Task),
}

impl Lane {
    fn has_turn(&self, entry: EntryId) -> bool {
        matches!(self.state, State::Running(_))
            && self.queue.front().is_some_and(|it| it.entry == entry)
    }
}

impl Daemon {
    pub(super) fn turns(&self) -> usize {
        self.lanes.values().filter(|lane| matches!(lane.state, State::Running(_))).count()
    }

    pub(super) fn deliver(
        &mut self,
        thread: &ThreadId,
        entry: EntryId,
        reply: Arc<Reply>,
        progress: Option<Progress>,
    ) {
        // Without a lane it was refused just now, and the delivery comes again.
        let Some(lane) = self.lanes.get_mut(thread) else { return };
        // Unbounded: a verdict for each open question, and these have a bound, or a stop, which is
        // in the inbox.
        let (sender, commands) = unbounded();
        self.jobs.insert(entry, sender);
        lane.queue.push_back(Delivered {
            entry,
            reply,
            progress,
            is_clean: false,
            has_lock: false,
            commands,
        });
        self.ready.push(thread.clone());
    }

    /// Once all that is known has been taken in: a stop may be for what was just delivered.
    pub(super) fn advance_all(&mut self) {
        for thread in mem::take(&mut self.ready) {
            self.advance(&thread);
        }
    }

    /// Asks for a slot for the thread's next message.
    fn advance(&mut self, thread: &ThreadId) {
        if self.drain.is_none() {
            return;
        }
        let Some(lane) = self.lanes.get(thread) else { return };
        let (State::Idle, Some(next)) = (&lane.state, lane.queue.front()) else { return };
        let (entry, reply) = (next.entry, Arc::clone(&next.reply));
        let is_clean = self.obey_new(thread, entry, &reply);
        let session = self.session(thread, &reply);
        let writes = worker::writes(&self.shared, &reply, session.as_ref());
        if let Some(lane) = self.lanes.get_mut(thread) {
            lane.state = State::Waiting;
            if let Some(next) = lane.queue.front_mut() {
                next.is_clean = is_clean;
                next.has_lock = writes.is_some();
            }
        }
        self.places.want(thread.clone(), entry, writes, Instant::now());
        self.give_places();
    }

    fn obey_new(&mut self, thread: &ThreadId, entry: EntryId, reply: &Reply) -> bool {
        if self.fresh_mark(thread, entry, reply).is_none() {
            return false;
        }
        let engine = self.shared.engine(reply.engine.as_ref()).name.clone();
        let mut binding = self.binding(thread);
        binding.sessions.remove(&engine);
        binding.fresh_after.remove(&engine);
        self.store.set(thread, binding);
        true
    }

    fn session(&self, thread: &ThreadId, reply: &Reply) -> Option<SessionRecord> {
        let engine = &self.shared.engine(reply.engine.as_ref()).name;
        self.store.get(thread)?.sessions.get(engine).cloned()
    }

    pub(super) fn give_places(&mut self) {
        while let Some(grant) = self.places.next() {
            match grant {
                Grant::Place(entry) => self.begin(entry),
                Grant::Lock(thread) => self.may_write(&thread),
            }
        }
    }

    fn begin(&mut self, entry: EntryId) {
        let waits = |lane: &Lane| {
            matches!(lane.state, State::Waiting)
                && lane.queue.front().is_some_and(|it| it.entry == entry)
        };
        let Some(thread) =
            self.lanes.iter().find(|(_, lane)| waits(lane)).map(|(id, _)| id.clone())
        else {
            return;
        };
        if self.drain.is_none() {
            return;
        }
        let Some(next) = self.lanes.get(&thread).and_then(|lane| lane.queue.front()) else {
            return;
        };
        let engine = self.shared.engine(next.reply.engine.as_ref()).name.clone();
        let grants = self.store.get(&thread).into_iter().flat_map(|binding| &binding.grants);
        let job = Job {
            thread: thread.clone(),
            entry,
            reply: Arc::clone(&next.reply),
            progress: next.progress.clone(),
            session: self.session(&thread, &next.reply),
            grants: grants.filter_map(|rule| Rule::parse(rule).ok()).collect(),
            is_clean: next.is_clean,
            has_lock: next.has_lock,
            prefetched: self.prefetched.remove(&thread),
            commands: next.commands.clone(),
        };
        self.turns_started += 1;
        match worker::start(&self.shared, job, self.turns_started) {
            Ok(task) => {
                if let Some(lane) = self.lanes.get_mut(&thread) {
                    lane.state = State::Running(task);
                }
                self.board.turn_started(thread, engine);
            }
            Err(error) => {
                log::error!(threadId = thread.as_str(), error:% = error; "cannot start a turn; trying again");
                self.places.release(&thread);
                self.lanes.remove(&thread);
                self.events.push_back(Event::WorkerRefused { thread });
            }
        }
    }

    /// Stops the turn of a message, or ends the message without one.
    pub(super) fn interrupt(&mut self, entry: EntryId) {
        log::info!(entry:% = entry; "stopping a turn, as the human says");
        if self.lanes.values().any(|lane| lane.has_turn(entry)) {
            if let Some(commands) = self.jobs.get(&entry) {
                commands.send(TurnCommand::Interrupt).ok(); // Its turn may be over.
            }
            return;
        }
        let has_it = |lane: &Lane| lane.queue.iter().any(|it| it.entry == entry);
        let found = self.lanes.iter().find(|(_, lane)| has_it(lane)).map(|(id, _)| id.clone());
        if let Some(thread) = found {
            let name = format!("{entry}.say");
            self.say(thread.clone(), name, Some(entry), PostKind::Status, worker::stopped_text());
            self.events.push_back(Event::Finished { thread, entry });
        }
    }

    /// A message is done with; one that has its turn is until the engine has left.
    pub(super) fn forget(&mut self, entry: EntryId) {
        if self.lanes.values().any(|lane| lane.has_turn(entry)) {
            return;
        }
        self.jobs.remove(&entry);
        let at = |lane: &Lane| lane.queue.iter().position(|it| it.entry == entry);
        let Some((thread, lane, at)) = self
            .lanes
            .iter_mut()
            .find_map(|(thread, lane)| Some((thread, at(lane)?, lane)))
            .map(|(thread, at, lane)| (thread.clone(), lane, at))
        else {
            return;
        };
        lane.queue.remove(at);
        if at == 0 && matches!(lane.state, State::Waiting) {
            lane.state = State::Idle;
            self.places.release(&thread);
            self.give_places();
            self.advance(&thread);
        }
    }

    pub(super) fn left(&mut self, thread: &ThreadId, entry: EntryId, is_answered: bool) {
        self.board.turn_ended(thread);
        self.nobody_asks(thread);
        self.jobs.remove(&entry);
        if let Some(lane) = self.lanes.get_mut(thread) {
            lane.queue.pop_front();
            lane.state = State::Idle;
        }
        self.places.release(thread);
        if is_answered {
            self.advance(thread);
            if self.lanes.get(thread).is_some_and(|lane| lane.queue.is_empty()) {
                self.events.push_back(Event::Idle { thread: thread.clone() });
            }
        } else {
            self.lanes.remove(thread);
            // A stop leaves it for the next start.
            if self.drain.is_some() {
                self.events.push_back(Event::WorkerEnded { thread: thread.clone() });
            }
        }
        self.give_places();
    }
}
