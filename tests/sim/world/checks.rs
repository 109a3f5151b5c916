//! What must always be so, and what must be so in the end.

use std::{path::Path, time::Duration};

use obto_bridge::{
    coordinator::{Effect, Event, catchup::PATIENCE},
    ids::ThreadId,
    store::entry::{EntryId, Progress},
};

use super::{Task, World, bridge::Message, machine::Memory, people::owners, turn::Phase};
use crate::parts::{
    Count, Key, MAX_AGE, Outcome, TWIN, ensure, is_same_name, message_id, thread_id, thread_index,
};

/// How long a message may wait for nothing.
const DUE: Duration = Duration::from_secs(10);

/// How long a history that could not be read may still be in the way after it can.
const RECOVERY: Duration = Duration::from_secs(100);

impl World {
    /// After a stop of the program nothing begins.
    pub(super) fn check_effects(&self, machine: usize, effects: &[Effect]) -> Outcome {
        let process = self.machines[machine].process.as_ref().expect("it runs");
        let is_work = |effect: &Effect| {
            matches!(
                effect,
                Effect::Claim { .. } | Effect::Begin(_) | Effect::ReadHistory(_) | Effect::AskTime
            )
        };
        let begins = process.is_stopping && effects.iter().any(is_work);
        ensure(!begins, || format!("something begins after the stop: {effects:?}"))
    }

    /// All that is held is in the inbox.
    pub(super) fn check_bounds(&self, machine: usize) -> Outcome {
        let it = &self.machines[machine];
        let held = it.process.as_ref().expect("it runs").coordinator.held();
        let room = it.disk.inbox.len();
        ensure(held <= room, || format!("{held} messages are held, and the inbox has {room}"))
    }

    /// Whether a message may be held until a person releases it: by the bridge's clock.
    pub(super) fn is_stale(&self, number: usize) -> bool {
        const JUMPS: Duration = Duration::from_hours(1);
        let message = &self.messages[number];
        message.is_odd || MAX_AGE < self.bridge.time(self.now).since(message.stored) + JUMPS
    }

    pub(super) fn check_locks(&self, machine: usize) -> Outcome {
        let process = self.machines[machine].process.as_ref().expect("it runs");
        let locks: Vec<&Path> =
            process.turns.iter().filter_map(|turn| turn.lock.as_deref()).collect();
        let is_same = |one: &Path, other: &Path| one.starts_with(other) || other.starts_with(one);
        let is_shared =
            (0..locks.len()).any(|at| locks[..at].iter().any(|other| is_same(locks[at], other)));
        ensure(!is_shared, || format!("two turns write in one directory: {locks:?}"))?;
        let turns = process.turns.len();
        ensure(turns <= self.max_turns, || format!("{turns} turns at the same time"))
    }

    pub(super) fn check_begin(
        &self,
        machine: usize,
        thread: &ThreadId,
        entry: EntryId,
        message: usize,
        progress: Option<&Progress>,
    ) -> Outcome {
        let it = &self.machines[machine];
        let process = it.process.as_ref().expect("it runs");
        let thread = thread_index(thread);
        let is_taken = process.turns.iter().any(|turn| turn.thread == thread);
        ensure(!is_taken, || format!("thread {thread} has two turns"))?;
        let on_disk = it.disk.inbox.get(&entry);
        ensure(on_disk.is_some(), || format!("message {message} begins and is not in the inbox"))?;
        let on_disk = on_disk.and_then(|entry| entry.progress.as_ref());
        ensure(on_disk == progress, || format!("message {message} begins blindly"))?;
        let owner = self.bridge.threads[thread].owner;
        let is_ours = owner.is_some_and(|owner| is_same_name(owner, machine));
        let has_moved = self.bridge.threads[thread].has_moved;
        ensure(is_ours || has_moved, || format!("thread {thread} is not ours"))?;
        if self.bridge.knows_instances && is_same_name(machine, TWIN) {
            let other = TWIN - machine;
            let has_it =
                self.machines[other].disk.inbox.values().any(|entry| entry.message == message);
            ensure(!has_it, || format!("message {message} is driven by both daemons of one name"))?;
        }
        if progress.is_some() {
            return Ok(());
        }
        self.check_cleared(machine, thread, message)
    }

    /// What was written before comes before, but nobody can tell what came first within a millisecond;
    /// to be called when all is done that was decided together.
    pub(super) fn check_order(&self, machine: usize, entry: EntryId) -> Outcome {
        let process = self.machines[machine].process.as_ref().expect("it runs");
        let message = self.message_of(entry);
        let thread = self.messages[message].thread;
        let has_moved = self.bridge.threads[thread].has_moved;
        let is_overdue = process
            .waiting_since
            .get(&thread)
            .is_some_and(|since| *since + PATIENCE <= self.running(machine));
        let is_odd =
            self.bridge.threads[thread].messages.iter().any(|it| self.messages[*it].is_odd);
        if is_overdue || has_moved || is_odd || process.overdue.contains(&message) {
            return Ok(());
        }
        let earlier = self.bridge.threads[thread].messages.iter().take_while(|it| **it < message);
        let stored = self.messages[message].stored;
        let is_earlier = |it: usize| self.messages[it].stored != stored;
        let mut earlier =
            earlier.filter(|it| is_earlier(**it) && self.is_to_come(machine, **it, entry));
        earlier
            .next()
            .map_or(Ok(()), |first| Err(format!("message {message} begins before {first}")))
    }

    /// Whether a machine has yet to begin a message that it has, or is to find.
    fn is_to_come(&self, machine: usize, number: usize, entry: EntryId) -> bool {
        let message = &self.messages[number];
        let it = &self.machines[machine];
        let process = it.process.as_ref().expect("it runs");
        let mut entries = it.disk.inbox.values().filter(|entry| entry.message == number).peekable();
        let is_kept = entries.peek().is_some();
        let is_known = message.is_known[machine]
            || it.disk.inbox.iter().any(|(id, it)| *id < entry && it.message == number);
        // Stopped before it began, and the post that says so waits for the disk, or for what else the
        // thread is told before.
        let thread = &self.bridge.threads[message.thread];
        let knows = |stop: &Message| stop.is_known[machine] || stop.is_received[machine];
        let is_stopped = thread.messages.iter().any(|later| {
            let stop = &self.messages[*later];
            number < *later && stop.body.starts_with("/stop") && knows(stop)
        });
        // What it could not know of may come in late.
        let is_here =
            is_kept && is_known || message.is_known[machine] && !message.is_received[machine];
        let is_over = message.is_done
            || 0 < message.finals_put + message.prompts + message.resumed
            || process.memory.seen.contains(&message_id(number))
            || process.answers.contains(&number)
            || entries.any(|entry| entry.is_aside || entry.progress.is_some());
        // A process that crashes may forget that it had no room for it.
        let is_forgotten =
            message.overflowed.is_some_and(|(at, life)| at == machine && life != it.life);
        message.is_work()
            && is_here
            && !is_over
            && !message.is_odd
            && !message.is_withheld
            && !is_forgotten
            && !is_stopped
    }

    /// `/stop all` is not followed by what was written before it.
    fn check_cleared(&self, machine: usize, thread: usize, message: usize) -> Outcome {
        let process = self.machines[machine].process.as_ref().expect("it runs");
        let is_late = |stop: &&usize| {
            let known = &self.messages[**stop];
            message < **stop
                && known.body == "/stop all"
                && self.messages[message].stored < known.stored
                && !known.is_odd
                && process.obeyed.contains(*stop)
        };
        let stop = self.bridge.threads[thread].messages.iter().find(is_late);
        let is_odd = self.messages[message].is_odd;
        match stop.filter(|_| !is_odd) {
            Some(stop) => Err(format!("message {message} begins after {stop} has dropped it")),
            None => Ok(()),
        }
    }

    /// The turn that this event is to stop.
    pub(super) fn clears(&self, machine: usize, event: &Event) -> Option<u32> {
        let Event::Reply { entry, reply, .. } = event else { return None };
        let it = &self.machines[machine];
        let process = it.process.as_ref()?;
        let stop = self.message_of(*entry);
        let Memory { machine: name, bindings, seen, .. } = &process.memory;
        let is_repeated = it.disk.inbox.iter().any(|(id, it)| it.message == stop && id != entry);
        let is_stop = reply.body.starts_with("/stop") && reply.machine.as_ref() == Some(name);
        let is_ours = bindings.get(&reply.thread_id)?.machine.as_ref() == Some(name);
        if !is_stop
            || !is_ours
            || is_repeated
            || process.is_stopping
            || seen.contains(&message_id(stop))
        {
            return None;
        }
        let thread = thread_index(&reply.thread_id);
        let turn = process
            .turns
            .iter()
            .find(|turn| turn.thread == thread && turn.phase != Phase::Leaving)?;
        let is_older = turn.message < stop
            && !self.messages[turn.message].is_odd
            && !self.messages[stop].is_odd;
        is_older.then_some(turn.number)
    }

    pub(super) fn check_stop(&self, machine: usize, turn: Option<u32>) -> Outcome {
        let (Some(number), Some(process)) = (turn, &self.machines[machine].process) else {
            return Ok(());
        };
        let turn = process.turns.iter().find(|turn| turn.number == number);
        let is_obeyed = turn.is_none_or(|turn| turn.is_interrupted || turn.phase == Phase::Leaving);
        ensure(is_obeyed, || "a turn runs on after /stop".to_owned())
    }

    /// Something is allowed: a person said so after it was asked, and that is on record.
    pub(super) fn check_consent(&self, machine: usize, key: &Key) -> Outcome {
        let is_recorded = self.machines[machine].disk.audit.contains(key);
        ensure(is_recorded, || format!("{} is allowed and not on record", key.code))?;
        let asked = self.bridge.questions.get(&key.code).copied();
        let is_consent = |number: &usize| {
            let message = &self.messages[*number];
            let verb = message.body.split(' ').next().unwrap_or_default();
            let is_named = message.code == Some(key.code);
            let is_after =
                message.code.is_none() && asked.is_some_and(|asked| asked <= message.stored);
            ["yes", "approve", "always"].contains(&verb) && (is_named || is_after)
        };
        let thread = &self.bridge.threads[thread_index(&key.thread)];
        ensure(thread.messages.iter().any(is_consent), || {
            format!("{} is allowed by nobody", key.code)
        })
    }

    pub(super) fn comes_in(&mut self, machine: usize, entry: EntryId) {
        let running = self.running(machine);
        let thread = self.messages[self.message_of(entry)].thread;
        let is_alone = !self.machines[machine]
            .disk
            .inbox
            .iter()
            .any(|(id, it)| *id != entry && self.messages[it.message].thread == thread);
        let process = self.machines[machine].process.as_mut().expect("it runs");
        let since = process.waiting_since.entry(thread).or_insert(running);
        if is_alone && running < *since + PATIENCE {
            *since = running;
        }
    }

    /// A live message is to begin soon.
    pub(super) fn expect_begin(&mut self, machine: usize, entry: EntryId) {
        if self.messages[self.message_of(entry)].is_work() {
            let since = self.running(machine);
            self.task_after(DUE, machine, Task::IsDue { entry, since });
        }
    }

    /// So are those that waited for a claim of the thread.
    pub(super) fn is_won(&mut self, machine: usize, thread: usize) {
        let running = self.running(machine);
        let it = &mut self.machines[machine];
        let process = it.process.as_mut().expect("it runs");
        process.won_at.insert(thread, running);
        process.waiting_since.insert(thread, running);
        let held =
            it.disk.inbox.iter().filter(|(_, it)| self.messages[it.message].thread == thread);
        let held: Vec<EntryId> = held.map(|(entry, _)| *entry).collect();
        for entry in held {
            self.expect_begin(machine, entry);
        }
    }

    /// No message waits for the trouble of another thread.
    pub(super) fn check_due(&self, machine: usize, entry: EntryId, since: Duration) -> Outcome {
        let it = &self.machines[machine];
        let process = it.process.as_ref().expect("it runs");
        let Some(waiting) = it.disk.inbox.get(&entry) else { return Ok(()) };
        let thread = self.messages[waiting.message].thread;
        let known = &self.bridge.threads[thread];
        let was =
            |until: Duration, recovery: Duration| !until.is_zero() && self.now < until + recovery;
        let is_excused = process.link.is_none()
            || since < process.connected_since
            || self.running(machine) < since + DUE
            || process.won_at.get(&thread).is_some_and(|at| self.running(machine) < *at + DUE)
            || process.is_stopping
            // The next process has it.
            || process.coordinator.is_last()
            || was(process.sleeps_until, RECOVERY)
            || was(it.disk.sick_until, DUE + DUE)
            || was(known.sick_until, RECOVERY)
            || was(known.slow_until, RECOVERY)
            || process.refused_at.is_some_and(|at| was(at, RECOVERY))
            || self.machines[TWIN].process.is_some()
            // It may be stopped, and what says so is behind a post that waits for the disk.
            || process.is_writing
            // Its own history may wait for room, and then it waits for that in vain for a while.
            || it.disk.is_full()
            || was(it.disk.full_at, RECOVERY);
        let waits = waiting.progress.is_none()
            && !waiting.is_aside
            && !process.memory.seen.contains(&message_id(waiting.message));
        let is_ours = process.memory.bindings.contains_key(&thread_id(thread));
        let is_behind = process.turns.len() == self.max_turns
            || process
                .turns
                .iter()
                .any(|turn| turn.thread == thread || turn.lock.is_some() && self.is_free)
            || it
                .disk
                .inbox
                .range(..entry)
                .any(|(_, it)| self.messages[it.message].thread == thread)
            || it.disk.finishes(entry);
        let is_stuck = waits && is_ours && !is_behind && !is_excused;
        ensure(!is_stuck, || format!("message {} waits for nothing", waiting.message))
    }

    /// Every message is answered, or its fate is told.
    pub(super) fn check_end(&mut self) -> Outcome {
        for number in 0..self.messages.len() {
            self.check_fate(number)?;
        }
        let open = self.bridge.questions.keys().find(|code| !self.bridge.closed.contains(*code));
        ensure(open.is_none(), || format!("nobody is told how {open:?} ended"))?;
        for machine in 0..TWIN {
            let it = &self.machines[machine];
            let Some(process) = &it.process else { return Err(format!("{machine} is down")) };
            let outstanding = process.coordinator.outstanding();
            let aside = it.disk.inbox.values().filter(|entry| entry.is_aside).count();
            ensure(outstanding == aside, || {
                format!(
                    "{machine} holds on to {outstanding} messages, and {aside} are in quarantine"
                )
            })?;
            let entries = it.disk.inbox.len();
            ensure(entries == aside, || {
                format!("{machine} leaves {entries} entries, {aside} are in quarantine")
            })?;
            let unsent = it.disk.outbox.iter().filter(|file| !file.is_sent).count();
            ensure(unsent == 0, || format!("{machine} does not send {unsent} posts"))?;
            ensure(process.turns.is_empty(), || format!("{machine} has turns"))?;
        }
        Ok(())
    }

    fn check_fate(&mut self, number: usize) -> Outcome {
        let message = &self.messages[number];
        let thread = &self.bridge.threads[message.thread];
        let (finals, put) = (message.finals, message.finals_put);
        ensure(finals <= 1, || format!("message {number} has {finals} answers"))?;
        ensure(put == 0 || finals == 1, || {
            format!("the answer to message {number} is not at the bridge")
        })?;
        let is_held = (0..TWIN).any(|machine| {
            self.machines[machine]
                .disk
                .inbox
                .values()
                .any(|entry| entry.message == number && entry.is_aside)
        });
        ensure(!is_held || thread.is_held, || {
            format!("message {number} waits and nobody is told")
        })?;
        // Done without a word: `/stop all` has dropped it, or it had others run or end.
        // One without a time, or of the same millisecond, stops what came in before it.
        let is_dropped = thread.messages.iter().any(|stop| {
            let known = &self.messages[*stop];
            let is_after = number < *stop || known.stored == message.stored;
            known.body == "/stop all" && (is_after || known.is_odd)
        });
        let is_odd_and_dropped = message.is_odd
            && thread.messages.iter().any(|stop| self.messages[*stop].body == "/stop all");
        let is_silent = message.is_done && (is_dropped || !message.is_work());
        if finals == 1 || is_held || is_silent || is_odd_and_dropped {
            return Ok(());
        }
        if self.is_unknowable(number) {
            self.counts.count(Count::Unknowable);
            return Ok(());
        }
        Err(format!("message {number} is lost"))
    }

    /// The protocol has no way to learn of it: it was not received, it is in no log, and its thread
    /// was not known to the machine that owns it.
    fn is_unknowable(&self, number: usize) -> bool {
        let message = &self.messages[number];
        let is_lost = !self.bridge.has_replay || message.is_pruned || message.is_withheld;
        if message.is_odd && message.overflowed.is_some() {
            // Where in the history to look for it, nobody says.
            return true;
        }
        // So was the message that its thread was claimed for, and it says no time.
        let thread = &self.bridge.threads[message.thread];
        let is_odd = |earlier: &usize| *earlier < number && self.messages[*earlier].is_odd;
        let is_received = match thread.owner {
            Some(owner) => owners(owner).any(|it| message.is_received[it]),
            None => message.is_received.contains(&true),
        };
        if !is_received && thread.messages.iter().any(is_odd) {
            return true;
        }
        let known = is_received
            || thread.owner.is_some_and(|owner| owners(owner).any(|it| message.is_known[it]));
        is_lost && !known && !message.is_in_renewal
    }
}
