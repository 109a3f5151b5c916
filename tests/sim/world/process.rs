//! A process begins and ends; what it writes behind.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use obto_bridge::{
    coordinator::{Coordinator, DecidedBy, Event, LeaveRules, Recovered},
    store::{
        binding::SessionRecord,
        entry::{EntryId, Progress},
    },
    time::Timestamp,
};

use super::{
    Op, Task, World,
    machine::{Memory, Process, ours, settings},
};
use crate::parts::{Count, Key, Mutation, Now, Outcome, TWIN, machine_id};

impl World {
    pub(super) fn start(&mut self, machine: usize) -> Outcome {
        if self.machines[machine].process.is_some() {
            return Ok(());
        }
        self.note(|| format!("{machine} starts"));
        let (now, max_turns) = (self.now, self.max_turns);
        let settings = settings(machine, max_turns, self.leave_rules(machine));
        let moves_cursor = self.mutation == Mutation::LeftOversMoveCursor;
        let is_first = self.mutation == Mutation::LeftOversFirst;
        let is_forgetful = self.mutation == Mutation::ForgetProgress;
        let forgets_answers = self.mutation == Mutation::ForgetAnswers;
        let forgets_questions = self.mutation == Mutation::ForgetQuestions;
        let it = &mut self.machines[machine];
        it.life += 1;
        let mut recovered = Vec::new();
        let ids: Vec<EntryId> = it.disk.inbox.keys().copied().collect();
        // An answer whose message is gone is a post like any other.
        for file in &mut it.disk.outbox {
            file.finishes = file.finishes.filter(|entry| it.disk.inbox.contains_key(entry));
        }
        it.disk.outbox.retain(|file| !file.is_sent || file.finishes.is_some());
        for id in &ids {
            let has_answer = it.disk.finishes(*id) && !forgets_answers;
            let entry = it.disk.inbox.get_mut(id).expect("its name was listed");
            entry.is_aside = false;
            let session = entry.progress.as_ref().and_then(|progress| progress.session.clone());
            let mut reply = Arc::clone(&entry.reply);
            let written = reply.created_at.as_deref().and_then(Timestamp::parse);
            if moves_cursor && it.disk.cursor.seen_until.is_some() {
                it.disk.cursor.seen_until = it.disk.cursor.seen_until.max(written);
            }
            if is_first && let Some(seen_until) = it.disk.cursor.seen_until {
                Arc::make_mut(&mut reply).created_at = Some(seen_until.to_string());
            }
            let mut progress = entry.progress.clone().filter(|_| !is_forgetful);
            if let Some(progress) = progress.as_mut().filter(|_| has_answer && forgets_questions) {
                progress.asking.clear();
            }
            recovered.push(Recovered {
                entry: *id,
                reply,
                has_answer,
                session: session.map(SessionRecord::new),
                progress,
            });
        }
        let cursor = it.disk.cursor.clone();
        let position = cursor.last_event_id.as_deref().map(|id| id.parse().expect("a number"));
        it.process = Some(Process {
            coordinator: Coordinator::new(settings, cursor, ours(&it.disk, &machine_id(machine))),
            memory: Memory {
                machine: machine_id(machine),
                bindings: it.disk.bindings.clone(),
                seen: it.disk.seen.clone(),
                is_free: self.is_free,
                ignores_seen: self.mutation == Mutation::IgnoreSeen,
            },
            started: now,
            knows_time: false,
            slept: Duration::ZERO,
            sleeps_until: Duration::ZERO,
            sleep: Duration::ZERO,
            tick_at: None,
            timer: 0,
            link: None,
            links: 0,
            is_renewing: false,
            has_lost_reading: false,
            connected_since: Duration::ZERO,
            position,
            claims: 0,
            readings: Vec::new(),
            records: Vec::new(),
            turns: Vec::new(),
            next: 0,
            unwritten: Vec::new(),
            changes: 0,
            is_writing: false,
            cursor: None,
            is_sending: true,
            is_stopping: false,
            refused_at: None,
            waiting_since: HashMap::new(),
            won_at: HashMap::new(),
            obeyed: HashSet::new(),
            answers: HashSet::new(),
            is_recovering: true,
            overdue: HashSet::new(),
        });
        // The connection is made while the rest is read.
        let connect = self.between(1, 500);
        self.task_after(connect, machine, Task::Connect);
        let send = self.moment();
        self.task_after(send, machine, Task::Send);
        self.step(machine, Event::Recovered(recovered))?;
        if let Some(process) = &mut self.machines[machine].process {
            process.is_recovering = false;
        }
        Ok(())
    }

    /// Some daemons end by themselves.
    fn leave_rules(&mut self, machine: usize) -> LeaveRules {
        let mut rules = LeaveRules::default();
        if machine != TWIN && self.fault(8) {
            match self.rng.u32(0..3) {
                0 => rules.messages = Some(self.rng.u64(1..4)),
                1 => rules.idle = Some(self.between(100, 60_000)),
                _ => rules.after = Some(self.between(1_000, 300_000)),
            }
        }
        rules
    }

    /// Begins the stop of a process that is to end by itself, as after TERM.
    pub(super) fn end_by_itself(&mut self, machine: usize) -> Outcome {
        let now = self.clock(machine);
        let Some(process) = &self.machines[machine].process else { return Ok(()) };
        if process.is_stopping
            || !process.coordinator.is_over(now)
            || self.mutation == Mutation::StayOn
        {
            return Ok(());
        }
        self.counts.count(Count::Left);
        self.stop(machine)
    }

    /// A process is gone, and with it all that was not on disk.
    pub(super) fn gone(&mut self, machine: usize) {
        self.machines[machine].process = None;
        self.machines[machine].life += 1;
        // Otherwise its twin would take its place, and the two would know nothing of each other.
        if machine == 0 && self.machines[TWIN].process.is_some() {
            self.gone(TWIN);
        }
    }

    /// What a stop leaves room for is over: turns are cut, and the disk is written.
    pub(super) fn end(&mut self, machine: usize) -> Outcome {
        self.cut_turns(machine)?;
        let it = &mut self.machines[machine];
        let Some(process) = it.process.as_mut() else { return Ok(()) };
        for (thread, binding) in process.unwritten.drain(..) {
            it.disk.bindings.insert(thread, binding);
        }
        it.disk.cursor = process.coordinator.cursor().clone();
        self.note(|| format!("{machine} has stopped"));
        self.gone(machine);
        if machine != TWIN {
            let most = if self.rng.u32(0..5) == 0 { 60_000 } else { 2_000 };
            let start = self.between(10, most);
            self.after(start, Op::Start { machine });
        }
        Ok(())
    }

    pub(super) fn running(&self, machine: usize) -> Duration {
        let process = self.machines[machine].process.as_ref().expect("it runs");
        self.now.max(process.sleeps_until).saturating_sub(process.started + process.slept)
    }

    pub(super) fn clock(&self, machine: usize) -> Now {
        let it = &self.machines[machine];
        let bridge = self.bridge.time(self.now).minus(self.bridge.skew);
        Now { running: self.running(machine), wall: bridge.plus(it.ahead).minus(it.behind) }
    }

    pub(super) fn tick(&mut self, machine: usize, timer: u32) -> Outcome {
        let running = self.running(machine);
        let process = self.machines[machine].process.as_mut().expect("it runs");
        let Some(at) = process.tick_at.filter(|_| process.timer == timer) else { return Ok(()) };
        if running < at {
            // It was suspended meanwhile.
            self.task_after(at.saturating_sub(running), machine, Task::Tick { timer });
            return Ok(());
        }
        process.tick_at = None;
        self.step(machine, Event::Tick)
    }

    /// Has the coordinator woken when it wants to.
    pub(super) fn set_timer(&mut self, machine: usize) {
        let now = self.clock(machine);
        let process = self.machines[machine].process.as_mut().expect("it runs");
        let due = process.coordinator.next_deadline(now).map(|at| at.max(now.running));
        let is_set = due == process.tick_at;
        process.tick_at = due;
        if let Some(due) = due.filter(|_| !is_set) {
            process.timer += 1;
            let timer = process.timer;
            // Not twice at the same time, however often it asks for now.
            let delay = due.saturating_sub(now.running).max(Duration::from_millis(1));
            self.task_after(delay, machine, Task::Tick { timer });
        }
    }

    pub(super) fn write_soon(&mut self, machine: usize, delay: Duration) {
        let process = self.machines[machine].process.as_mut().expect("it runs");
        if !std::mem::replace(&mut process.is_writing, true) {
            self.task_after(delay, machine, Task::WriteState);
        }
    }

    /// The cursor and bindings are written behind, several changes at a time.
    pub(super) fn write_state(&mut self, machine: usize) -> Outcome {
        let fails = self.disk_fails(machine);
        let is_late = self.mutation == Mutation::LateCursor && self.rng.u32(0..4) > 0;
        let it = &mut self.machines[machine];
        let process = it.process.as_mut().expect("it writes");
        process.is_writing = false;
        if fails {
            self.write_soon(machine, Duration::from_secs(1));
            return Ok(());
        }
        let change = process.changes;
        if let Some(cursor) = process.cursor.take_if(|_| !is_late) {
            it.disk.cursor = cursor;
            if self.fault(200) {
                self.crash(machine);
                return Ok(());
            }
        }
        let it = &mut self.machines[machine];
        let process = it.process.as_mut().expect("it writes");
        for (thread, binding) in process.unwritten.drain(..) {
            it.disk.bindings.insert(thread, binding);
        }
        self.step(machine, Event::Written { change })
    }

    /// A decision is written down, and that its message is an answer and no prompt.
    pub(super) fn record(&mut self, machine: usize, number: u32) -> Outcome {
        let fails = self.disk_fails(machine) || self.fault(20);
        let it = &mut self.machines[machine];
        let process = it.process.as_mut().expect("it writes");
        let Some(at) = process.records.iter().position(|it| it.0 == number) else { return Ok(()) };
        let (_, asked, verdict, by) = process.records.swap_remove(at);
        let key = Key::of(&asked);
        let is_consent = !matches!(verdict, obto_bridge::agent::Verdict::Deny { .. });
        if !fails {
            if let DecidedBy::Message { entry, .. } = by
                && let Some(entry) = it.disk.inbox.get_mut(&entry)
            {
                entry.progress = Some(Progress {
                    turn: asked.turn.clone(),
                    engine: asked.engine.clone(),
                    session: None,
                    attempts: 0,
                    asking: Vec::new(),
                    answers: Some(asked.code.to_string()),
                    is_answered: false,
                });
            }
            if is_consent {
                it.disk.audit.insert(key.clone());
            }
        }
        if self.fault(40) {
            self.crash(machine);
            return Ok(());
        }
        let is_written = !fails || self.mutation == Mutation::RecordAlways;
        self.step(machine, Event::Recorded { key, is_written })
    }

    pub(super) fn count_denied(&mut self, verdict: &obto_bridge::agent::Verdict) {
        let is_denied = matches!(verdict, obto_bridge::agent::Verdict::Deny { .. });
        self.counts.count(if is_denied { Count::Denied } else { Count::Allowed });
    }
}
