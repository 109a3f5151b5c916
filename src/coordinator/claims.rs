//! Threads without a known owner. Their messages are held until the bridge names the machine: to run
//! them at once would have two machines drive the same thread. A claim never delays another
//! thread. Pure.
//!
//! | state | what happens | next |
//! |---|---|---|
//! | waiting | one of the few slots for claims is free | in flight |
//! | in flight | won: its messages are ours. Lost: they are not | – |
//! | in flight | failed, so the owner is not known | later |
//! | later | the time has come | waiting |
//!
//! A message that says who owns its thread ends a claim; but while one is in flight, only its answer
//! may say that it is another machine.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    time::Duration,
};

use super::{
    CLAIMS_MAX, Effect, RETRY_AFTER_MAX, delay,
    message::{Arrival, Message},
};
use crate::{ids::ThreadId, time::Timestamp};

#[derive(Debug, Default)]
pub(super) struct Claims {
    threads: HashMap<ThreadId, Unclaimed>,
    /// First come, first served. May hold threads whose owner is known by now.
    waiting: VecDeque<ThreadId>,
    /// Calls that have not returned; also those whose outcome no longer matters.
    in_flight: HashSet<ThreadId>,
    deadlines: BTreeSet<(Duration, ThreadId)>,
}

#[derive(Debug)]
struct Unclaimed {
    state: State,
    held: Vec<Message>,
    /// Something may have been written on the thread that did not come in.
    has_missed: bool,
    /// Up to when everything was read when the first message came in, or when that was written.
    since: Timestamp,
    /// In a row.
    failures: u32,
}

#[derive(Debug, PartialEq)]
enum State {
    Waiting,
    InFlight,
    Later { at: Duration },
}

impl Claims {
    /// Holds a message until its thread's owner is known.
    pub(super) fn hold(
        &mut self,
        thread: &ThreadId,
        message: Message,
        seen_until: Option<Timestamp>,
    ) {
        let seen_until = seen_until.unwrap_or_default();
        let since = message.written().map_or(seen_until, |written| written.min(seen_until));
        let has_missed = message.origin == Arrival::Recovered;
        if let Some(unclaimed) = self.threads.get_mut(thread) {
            unclaimed.has_missed |= has_missed;
            unclaimed.since = unclaimed.since.min(since);
            // What a history holds may be older than what came in meanwhile.
            let held = &mut unclaimed.held;
            let is_found = message.origin == Arrival::CaughtUp;
            let at = if is_found { message.place(held.iter()) } else { held.len() };
            held.insert(at, message);
            return;
        }
        let (state, held) = (State::Waiting, vec![message]);
        let unclaimed = Unclaimed { state, held, has_missed, since, failures: 0 };
        self.threads.insert(thread.clone(), unclaimed);
        self.waiting.push_back(thread.clone());
    }

    pub(super) fn holds(&self, thread: &ThreadId) -> bool {
        self.threads.contains_key(thread)
    }

    /// What was written while no stream was open is missing on these threads, too, if they turn out to
    /// be ours.
    pub(super) fn have_missed(&mut self) {
        self.threads.values_mut().for_each(|unclaimed| unclaimed.has_missed = true);
    }

    /// From when on something may be missing on a thread, if it may.
    pub(super) fn missing_since(&self, thread: &ThreadId) -> Option<Timestamp> {
        let unclaimed = self.threads.get(thread).filter(|unclaimed| unclaimed.has_missed)?;
        Some(unclaimed.since)
    }

    /// Makes the calls that there is room for.
    pub(super) fn start(&mut self, effects: &mut Vec<Effect>) {
        for _ in 0..self.waiting.len() {
            if self.in_flight.len() == CLAIMS_MAX {
                return;
            }
            let Some(thread) = self.waiting.pop_front() else { return };
            let Some(unclaimed) = self.threads.get_mut(&thread) else { continue };
            if unclaimed.state != State::Waiting {
                continue;
            }
            if self.in_flight.contains(&thread) {
                // An older call on this thread is still out, and its answer may be out of date.
                self.waiting.push_back(thread);
                continue;
            }
            unclaimed.state = State::InFlight;
            self.in_flight.insert(thread.clone());
            effects.push(Effect::Claim { thread });
        }
    }

    /// A call returned. Whether its outcome is still of interest.
    pub(super) fn landed(&mut self, thread: &ThreadId) -> bool {
        let was_out = self.in_flight.remove(thread);
        match self.threads.get_mut(thread) {
            Some(unclaimed) if was_out && unclaimed.state == State::InFlight => {
                // It no longer is, whatever comes of it.
                unclaimed.state = State::Waiting;
                true
            }
            _ => false,
        }
    }

    pub(super) fn is_in_flight(&self, thread: &ThreadId) -> bool {
        self.threads.get(thread).is_some_and(|unclaimed| unclaimed.state == State::InFlight)
    }

    /// The call that just landed failed: another one follows later.
    pub(super) fn failed(
        &mut self,
        now: Duration,
        thread: &ThreadId,
        retry_after: Option<Duration>,
    ) {
        let Some(unclaimed) = self.threads.get_mut(thread) else { return };
        unclaimed.failures = unclaimed.failures.saturating_add(1);
        let asked = retry_after.unwrap_or_default().min(RETRY_AFTER_MAX);
        let at = now + delay(unclaimed.failures).max(asked);
        unclaimed.state = State::Later { at };
        self.deadlines.insert((at, thread.clone()));
    }

    /// The owner is known: hands out what was held.
    pub(super) fn resolve(&mut self, thread: &ThreadId) -> Vec<Message> {
        let Some(unclaimed) = self.threads.remove(thread) else { return Vec::new() };
        if let State::Later { at } = unclaimed.state {
            self.deadlines.remove(&(at, thread.clone()));
        }
        unclaimed.held
    }

    /// Puts those whose time has come in line.
    pub(super) fn wake(&mut self, now: Duration) {
        while self.next_deadline().is_some_and(|at| at <= now) {
            let Some((_, thread)) = self.deadlines.pop_first() else { return };
            if let Some(unclaimed) = self.threads.get_mut(&thread) {
                unclaimed.state = State::Waiting;
                self.waiting.push_back(thread);
            }
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Duration> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    pub(super) fn len(&self) -> usize {
        self.threads.values().map(|unclaimed| unclaimed.held.len()).sum()
    }
}
