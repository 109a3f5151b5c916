//! The model: a bridge, two machines with their disks and workers, and dice.

mod words;

use std::{collections::VecDeque, mem, sync::Arc, time::Duration};

use fastrand::Rng;
use obto_bridge::{
    dispatch::{CLAIMS_MAX, ClaimOutcome, Effect, Event, Why},
    ids::{Engine, MessageId, TurnId},
    store::entry::{EntryId, Progress, message_key},
};

use crate::sim::parts::{
    Count, Counts, Disk, Entry, MACHINES, Machine, Message, Mutation, Outcome, Wire, Worker,
    ensure, index, machine_id, reply, thread_id,
};

/// Steps with faults; calm ones follow.
const STEPS: usize = 120;
const CALM_STEPS: usize = 5_000;

pub(super) struct World {
    rng: Rng,
    mutation: Mutation,
    now: Duration,
    owners: Vec<Option<usize>>,
    messages: Vec<Message>,
    wires: [Vec<Wire>; MACHINES],
    machines: Vec<Machine>,
    /// Claims that were given up here and reach the bridge later.
    late_claims: Vec<(usize, usize)>,
    is_calm: bool,
    pub(super) counts: Counts,
    pub(super) is_traced: bool,
    pub(super) trace: Vec<String>,
}

impl World {
    pub(super) fn new(seed: u64, mutation: Mutation) -> World {
        let mut rng = Rng::with_seed(seed);
        let threads = rng.usize(1..8);
        World {
            mutation,
            now: Duration::ZERO,
            owners: vec![None; threads],
            messages: Vec::new(),
            wires: Default::default(),
            machines: (0..MACHINES).map(|it| Machine::start(it, Disk::default())).collect(),
            late_claims: Vec::new(),
            is_calm: false,
            counts: Counts::default(),
            is_traced: false,
            trace: Vec::new(),
            rng,
        }
    }

    pub(super) fn run(&mut self) -> Outcome {
        for _ in 0..STEPS {
            self.random_step()?;
        }
        self.is_calm = true;
        for machine in 0..MACHINES {
            if self.machines[machine].is_stopping {
                self.restart(machine);
            }
        }
        for _ in 0..CALM_STEPS {
            if self.is_over() {
                return self.check_end();
            }
            self.random_step()?;
        }
        Err("it never comes to rest".to_owned())
    }

    fn is_over(&self) -> bool {
        self.wires.iter().all(Vec::is_empty) && self.machines.iter().all(Machine::is_quiet)
    }

    fn check_end(&self) -> Outcome {
        for (i, message) in self.messages.iter().enumerate() {
            if message.word().is_some() || message.is_cleared {
                World::check_end_of_word(i, message)?;
                continue;
            }
            let (answers, errors) = (message.answers, message.errors);
            ensure(1 <= answers + errors, || format!("message {i} is lost"))?;
            ensure(message.is_excused || answers + errors == 1, || {
                format!("message {i} has {answers} answers and {errors} errors")
            })?;
        }
        for machine in &self.machines {
            let left = machine.dispatch.outstanding();
            ensure(left == 0, || format!("the dispatcher holds on to {left} messages"))?;
        }
        Ok(())
    }

    fn note(&mut self, text: impl FnOnce() -> String) {
        if self.is_traced {
            self.trace.push(text());
        }
    }

    /// True once in `n` times, and never when it is calm.
    fn fault(&mut self, n: u32) -> bool {
        !self.is_calm && self.rng.u32(0..n) == 0
    }

    fn random_step(&mut self) -> Outcome {
        let machine = self.rng.usize(0..MACHINES);
        match self.rng.u32(0..16) {
            0 | 1 if !self.is_calm => self.send(),
            2 if !self.is_calm => self.move_thread(),
            3 if self.fault(8) => self.crash(machine),
            4 if self.fault(8) => return self.stop(machine),
            5 => self.write_behind(machine),
            6 => self.late_claim(),
            7 => return self.pass_time(machine),
            8..=9 => return self.receive(machine),
            10..=11 => return self.land_claim(machine),
            12..=13 => return self.work(machine),
            _ => return self.hear_worker(machine),
        }
        Ok(())
    }

    fn send(&mut self) {
        if 14 <= self.messages.len() {
            return;
        }
        let thread = self.rng.usize(0..self.owners.len());
        let message = self.messages.len();
        let id = (self.rng.u32(0..10) != 0).then(|| MessageId::new(format!("m{message}")));
        let wire = Wire { message, owner: self.owners[thread] };
        self.note(|| format!("message {message} on thread {thread}, owner {:?}", wire.owner));
        let body = self.say_something();
        self.messages.push(Message {
            thread,
            id,
            body,
            is_timed: self.rng.bool(),
            driven_by: [0; MACHINES],
            answers: 0,
            errors: 0,
            is_excused: false,
            is_settled: false,
            is_cleared: false,
        });
        self.wires.iter_mut().for_each(|wires| wires.push(wire));
    }

    /// Somebody moves a thread to the other machine. What was sent before it had an owner must be
    /// through by then: who is to answer it could not be told otherwise.
    fn move_thread(&mut self) {
        let thread = self.rng.usize(0..self.owners.len());
        let Some(owner) = self.owners[thread] else { return };
        let is_open =
            |wire: &Wire| wire.owner.is_none() && self.messages[wire.message].thread == thread;
        let is_busy = self.wires.iter().flatten().any(is_open)
            || self
                .machines
                .iter()
                .flat_map(|it| it.disk.inbox.values())
                .any(|it| is_open(&it.wire));
        if !is_busy {
            self.owners[thread] = Some(1 - owner);
            self.note(|| format!("thread {thread} moves to {}", 1 - owner));
        }
    }

    fn restart(&mut self, machine: usize) {
        let old = &mut self.machines[machine];
        let (disk, newest) = (mem::take(&mut old.disk), mem::take(&mut old.newest));
        for thread in old.claims.drain(..) {
            self.late_claims.push((machine, thread));
        }
        if let Some(message) = old.told {
            self.messages[message].is_excused = true;
        }
        self.machines[machine] = Machine { newest, ..Machine::start(machine, disk) };
    }

    fn crash(&mut self, machine: usize) {
        self.note(|| format!("{machine} crashes"));
        self.counts.count(Count::Crash);
        self.restart(machine);
    }

    /// A stop, and later a start.
    fn stop(&mut self, machine: usize) -> Outcome {
        self.counts.count(Count::Stop);
        if self.machines[machine].is_stopping {
            self.note(|| format!("{machine} starts again"));
            self.restart(machine);
            return Ok(());
        }
        self.step(machine, Event::Stop)?;
        self.machines[machine].is_stopping = true;
        Ok(())
    }

    /// state.json is written, and the entries that waited for it are removed.
    fn write_behind(&mut self, machine: usize) {
        let machine = &mut self.machines[machine];
        machine.disk.bound.extend(machine.unwritten.drain(..));
        for entry in machine.removals.drain(..) {
            machine.disk.inbox.remove(&entry);
        }
    }

    fn late_claim(&mut self) {
        if let Some((machine, thread)) = self.late_claims.pop() {
            self.owners[thread].get_or_insert(machine);
        }
    }

    fn pass_time(&mut self, machine: usize) -> Outcome {
        let deadline = self.machines[machine].dispatch.next_deadline();
        self.now = match deadline {
            Some(deadline) if self.rng.bool() => deadline.max(self.now),
            _ => self.now + Duration::from_millis(self.rng.u64(0..500)),
        };
        self.step(machine, Event::Tick)
    }

    /// The next message of the process before, or any that is on its way.
    fn receive(&mut self, machine: usize) -> Outcome {
        if let Some(entry) = self.machines[machine].recovered.pop_front() {
            let disk = &self.machines[machine].disk;
            let Entry { wire, progress } = &disk.inbox[&entry];
            let message = &self.messages[wire.message];
            // It was stopped before its turn: nothing but the outbox knows of it.
            if message.word().is_none() && progress.is_none() && disk.outbox.contains(&wire.message)
            {
                let reply = reply(message, wire.message, wire.owner);
                return self.done(machine, entry, message_key(entry, &reply), Why::Answered);
            }
            return self.hand_in(machine, entry);
        }
        let wires = &mut self.wires[machine];
        if wires.is_empty() || self.machines[machine].is_stopping {
            return Ok(());
        }
        let at = self.rng.usize(0..wires.len());
        let wire = wires.swap_remove(at);
        if !self.is_calm && self.messages[wire.message].id.is_some() && self.rng.u32(0..4) == 0 {
            self.wires[machine].push(wire);
        }
        let disk = &mut self.machines[machine].disk;
        disk.next += 1;
        let entry = EntryId { sequence: disk.next, hash: 0 };
        disk.inbox.insert(entry, Entry { wire, progress: None });
        if self.fault(20) {
            self.crash(machine);
            return Ok(());
        }
        self.hand_in(machine, entry)
    }

    fn hand_in(&mut self, machine: usize, entry: EntryId) -> Outcome {
        let Entry { wire, mut progress } = self.machines[machine].disk.inbox[&entry].clone();
        let mut reply = reply(&self.messages[wire.message], wire.message, wire.owner);
        let word = self.messages[wire.message].word();
        match self.mutation {
            Mutation::WordsAsText if word.is_some() => "text".clone_into(&mut reply.body),
            Mutation::StopsAreNew if word.is_some() => {
                reply.created_at = Some("2027-01-01T00:00:00Z".to_owned());
            }
            _ => {}
        }
        let is_seen = self.machines[machine].disk.seen.contains(&message_key(entry, &reply));
        if self.mutation == Mutation::ForgetProgress {
            progress = None;
        }
        let event = Event::Inbound {
            entry,
            reply: Arc::new(reply),
            progress,
            is_seen: is_seen && self.mutation != Mutation::IgnoreSeen,
        };
        if word.is_some() {
            self.counts.count(Count::Word);
        }
        self.step(machine, event)
    }

    /// A claim comes back: it reached the bridge or not, and its answer reached us or not.
    fn land_claim(&mut self, machine: usize) -> Outcome {
        let claims = &mut self.machines[machine].claims;
        if claims.is_empty() {
            return Ok(());
        }
        let thread = claims.swap_remove(self.rng.usize(0..claims.len()));
        let mut outcome = if self.fault(3) {
            if self.rng.bool() {
                self.late_claims.push((machine, thread));
            }
            self.counts.count(Count::FailedClaim);
            let retry_after = self.rng.bool().then(|| Duration::from_secs(self.rng.u64(0..400)));
            ClaimOutcome::Failed { retry_after }
        } else if self.owners[thread].is_none() {
            self.owners[thread] = Some(machine);
            ClaimOutcome::Won
        } else {
            let winner = self.owners[thread].map(machine_id);
            self.counts.count(Count::LostClaim);
            ClaimOutcome::Lost { winner }
        };
        match (self.mutation, &outcome) {
            (Mutation::WinAlways, ClaimOutcome::Lost { .. })
            | (Mutation::DriveOnFailure, ClaimOutcome::Failed { .. }) => {
                outcome = ClaimOutcome::Won;
            }
            _ => {}
        }
        self.step(machine, Event::Claimed { thread: thread_id(thread), outcome })
    }

    /// A worker does the next thing.
    fn work(&mut self, machine: usize) -> Outcome {
        let mut threads: Vec<usize> = self.machines[machine].workers.keys().copied().collect();
        threads.sort_unstable();
        let Some(thread) = self.rng.choice(threads) else { return Ok(()) };
        if self.fault(12) {
            self.counts.count(Count::Panic);
            self.end_worker(machine, thread);
            return Ok(());
        }
        let is_stopping = self.machines[machine].is_stopping;
        let worker = self.machines[machine].workers.get_mut(&thread).expect("chosen from them");
        if let Some((entry, message)) = worker.current.take() {
            return self.answer(machine, thread, entry, message, false);
        }
        // A place is given after everything that the worker has said before was heard.
        let is_heard = self.machines[machine].reports.get(&thread).is_none_or(VecDeque::is_empty);
        let worker = self.machines[machine].workers.get_mut(&thread).expect("it is there");
        if !is_stopping
            && is_heard
            && let Some((entry, message, progress)) = worker.mailbox.pop_front()
        {
            let is_stopped = worker.interrupted.contains(&entry);
            let is_wanted = self.machines[machine].jobs.contains(&entry);
            if !is_wanted && self.mutation != Mutation::DriveCleared {
                self.report(machine, thread, Event::Finished { thread: thread_id(thread), entry });
                return Ok(());
            }
            if is_stopped {
                self.counts.count(Count::StoppedEarly);
                return self.answer(machine, thread, entry, message, true);
            }
            let worker = self.machines[machine].workers.get_mut(&thread).expect("it is there");
            worker.current = Some((entry, message));
            return self.begin(machine, entry, message, progress);
        }
        let worker = &self.machines[machine].workers[&thread];
        if !worker.is_open || is_stopping {
            self.end_worker(machine, thread);
            return Ok(());
        }
        if is_heard {
            self.report(machine, thread, Event::Idle { thread: thread_id(thread) });
        }
        Ok(())
    }

    /// The prompt is given to the engine.
    fn begin(
        &mut self,
        machine: usize,
        entry: EntryId,
        message: usize,
        progress: Option<Progress>,
    ) -> Outcome {
        self.note(|| format!("{machine} begins with message {message}"));
        let known = &self.messages[message];
        ensure(known.word().is_none(), || format!("word {message} is driven"))?;
        ensure(!known.is_cleared || known.is_excused, || {
            format!("message {message} is driven, and was forgotten")
        })?;
        let driven_by = &mut self.messages[message].driven_by;
        driven_by[machine] += 1;
        ensure(driven_by[1 - machine] == 0, || format!("message {message} is driven by both"))?;
        let Some(on_disk) = self.machines[machine].disk.inbox.get_mut(&entry) else {
            return Err(format!("message {message} is driven though it is done"));
        };
        let was_begun = on_disk.progress.is_some();
        ensure(!was_begun || progress.is_some(), || format!("message {message} is repeated"))?;
        if was_begun {
            self.counts.count(Count::Resumed);
        }
        let attempts = progress.map_or(1, |before| before.attempts + 1);
        on_disk.progress = Some(Progress {
            turn: TurnId::new("turn"),
            engine: Engine::CLAUDE,
            session: None,
            attempts,
            asking: Vec::new(),
            answers: None,
            is_answered: false,
        });
        Ok(())
    }

    /// The answer is put into the outbox, once: an interrupted turn looks there first. An early one
    /// is that of a message which was stopped before its turn.
    fn answer(
        &mut self,
        machine: usize,
        thread: usize,
        entry: EntryId,
        message: usize,
        is_early: bool,
    ) -> Outcome {
        let is_resumed = self.machines[machine]
            .disk
            .inbox
            .get(&entry)
            .and_then(|it| it.progress.as_ref())
            .is_some_and(|progress| 1 < progress.attempts);
        let is_new = self.machines[machine].disk.outbox.insert(message);
        if is_new || !(is_resumed || is_early) {
            self.messages[message].answers += 1;
            self.check_order(machine, thread, entry)?;
        }
        self.note(|| format!("{machine} answers message {message}"));
        if self.fault(20) {
            self.crash(machine);
            return Ok(());
        }
        self.report(machine, thread, Event::Finished { thread: thread_id(thread), entry });
        Ok(())
    }

    fn check_order(&mut self, machine: usize, thread: usize, entry: EntryId) -> Outcome {
        let newest = self.machines[machine].newest.entry(thread).or_insert(entry);
        let is_in_order = *newest <= entry;
        *newest = entry;
        ensure(is_in_order, || format!("entry {entry} is answered out of order"))
    }

    fn end_worker(&mut self, machine: usize, thread: usize) {
        self.note(|| format!("{machine}: the worker of thread {thread} ends"));
        self.machines[machine].workers.remove(&thread);
        self.report(machine, thread, Event::WorkerEnded { thread: thread_id(thread) });
    }

    fn report(&mut self, machine: usize, thread: usize, event: Event) {
        self.machines[machine].reports.entry(thread).or_default().push_back(event);
    }

    fn hear_worker(&mut self, machine: usize) -> Outcome {
        let reports = &mut self.machines[machine].reports;
        reports.retain(|_, events| !events.is_empty());
        let at = self.rng.usize(0..reports.len().max(1));
        let Some(event) = reports.values_mut().nth(at).and_then(VecDeque::pop_front) else {
            return Ok(());
        };
        if let (Mutation::RetireAlways, Event::Idle { thread }) = (self.mutation, &event) {
            return self.perform(machine, Effect::Retire { thread: thread.clone() });
        }
        self.step(machine, event)
    }

    /// Hands an event to the dispatcher and carries out what it wants, until the crash.
    fn step(&mut self, machine: usize, event: Event) -> Outcome {
        self.note(|| format!("{machine} <- {event:?}"));
        let mut effects = Vec::new();
        let is_stopping = self.machines[machine].is_stopping;
        self.machines[machine].dispatch.step(self.now, event.clone(), &mut effects);
        self.check_stops(machine, &event, &effects)?;
        if is_stopping {
            let is_work = |effect: &Effect| {
                matches!(
                    effect,
                    Effect::Claim { .. } | Effect::StartWorker { .. } | Effect::Deliver { .. }
                )
            };
            ensure(!effects.iter().any(is_work), || "work is begun after a stop".to_owned())?;
        }
        self.mutate(&mut effects);
        for effect in &effects {
            if self.fault(60) {
                self.crash(machine);
                return Ok(());
            }
            self.perform(machine, effect.clone())?;
        }
        self.check_interrupted(machine, &event, &effects)?;
        let machine = &self.machines[machine];
        let (held, room) = (machine.dispatch.outstanding(), machine.disk.inbox.len());
        ensure(held <= room, || format!("{held} messages are held, and the inbox has {room}"))
    }

    fn perform(&mut self, at: usize, effect: Effect) -> Outcome {
        self.note(|| format!("{at} -> {effect:?}"));
        let refuse = self.fault(8);
        let machine = &mut self.machines[at];
        match effect {
            Effect::Claim { thread } => {
                machine.claims.push(index(&thread));
                let calls = machine.claims.len();
                return ensure(calls <= CLAIMS_MAX, || format!("{calls} claims at a time"));
            }
            Effect::Bind { thread } => machine.unwritten.push(index(&thread)),
            Effect::StartWorker { thread } if refuse => {
                self.counts.count(Count::Refusal);
                self.report(at, index(&thread), Event::WorkerRefused { thread });
            }
            Effect::StartWorker { thread } => {
                let worker = Worker { is_open: true, ..Worker::default() };
                let before = machine.workers.insert(index(&thread), worker);
                return ensure(before.is_none(), || format!("thread {thread} has two workers"));
            }
            Effect::Deliver { thread, entry, progress, .. } => {
                let message = machine.disk.inbox[&entry].wire.message;
                if let Some(worker) = machine.workers.get_mut(&index(&thread)) {
                    ensure(worker.is_open, || format!("thread {thread}'s worker has left"))?;
                    worker.mailbox.push_back((entry, message, progress));
                    machine.jobs.insert(entry);
                }
            }
            Effect::Interrupt { entry } => {
                self.counts.count(Count::Interrupt);
                let thread = self.messages[machine.disk.inbox[&entry].wire.message].thread;
                if let Some(worker) = machine.workers.get_mut(&thread) {
                    worker.interrupted.insert(entry);
                }
            }
            Effect::Control { thread, entry, .. } => {
                let message = machine.disk.inbox[&entry].wire.message;
                // Named after the entry, so a crash before it is noted has no second one said.
                if machine.disk.outbox.insert(message) {
                    self.messages[message].answers += 1;
                }
                self.report(at, index(&thread), Event::Finished { thread, entry });
            }
            Effect::Retire { thread } => {
                self.counts.count(Count::Retire);
                // It may have panicked after it offered to leave.
                if let Some(worker) = machine.workers.get_mut(&index(&thread)) {
                    worker.is_open = false;
                }
            }
            Effect::Done { entry, message, why } => return self.done(at, entry, message, why),
            Effect::Say { entry, .. } => {
                let message = machine.disk.inbox[&entry].wire.message;
                machine.told = Some(message);
                self.messages[message].errors += 1;
                if !machine.disk.outbox.insert(message) {
                    // A crash after the answer, then a panic before the worker saw that it is there.
                    self.messages[message].is_excused = true;
                    return Ok(());
                }
                return self.check_order(at, self.messages[message].thread, entry);
            }
        }
        Ok(())
    }

    fn done(&mut self, at: usize, entry: EntryId, message: MessageId, why: Why) -> Outcome {
        if why == Why::Duplicate {
            self.counts.count(Count::Duplicate);
        }
        let machine = &mut self.machines[at];
        let is_twice =
            machine.removals.contains(&entry) || !machine.disk.inbox.contains_key(&entry);
        ensure(!is_twice, || format!("entry {entry} is done twice"))?;
        machine.jobs.remove(&entry);
        let number = machine.disk.inbox[&entry].wire.message;
        match why {
            Why::Answered => {
                machine.disk.seen.insert(message);
                machine.told = None;
                self.messages[number].is_settled = true;
            }
            Why::Cleared => {
                machine.disk.seen.insert(message);
                // After a crash the outbox is asked first, and knows the answer.
                self.messages[number].is_cleared |= !machine.disk.outbox.contains(&number);
                self.counts.count(Count::Cleared);
            }
            Why::Duplicate | Why::NotOurs => {}
        }
        let machine = &mut self.machines[at];
        machine.removals.push(entry);
        Ok(())
    }
}
