//! Hands events to the coordinator and carries out what it decides, until the crash.

use std::collections::VecDeque;

use obto_bridge::{
    coordinator::{Begin, CLAIMS_MAX, Change, DecidedBy, Effect, Event, catchup::URGENT_MAX},
    store::entry::EntryId,
};

use super::{
    Task, World,
    machine::{Outgoing, ReadingCall},
};
use crate::parts::{Count, Mutation, Outcome, ensure, message_index, thread_index};

impl World {
    pub(super) fn step(&mut self, machine: usize, event: Event) -> Outcome {
        let mut events = VecDeque::from([event]);
        let (mut effects, mut begun) = (Vec::new(), Vec::new());
        while let Some(event) = events.pop_front() {
            let now = self.clock(machine);
            self.note(|| format!("{machine} <- {event:?}"));
            let clears = self.clears(machine, &event);
            let process = self.machines[machine].process.as_mut().expect("it runs");
            process.knows_time |= matches!(
                event,
                Event::Connected { server_time: Some(_), .. } | Event::Time(Some(_))
            );
            process.coordinator.step(now, event, &process.memory, &mut effects);
            self.mutate(&mut effects);
            self.check_effects(machine, &effects)?;
            for effect in std::mem::take(&mut effects) {
                if self.fault(150) {
                    self.crash(machine);
                    return Ok(());
                }
                self.note(|| format!("{machine} -> {effect:?}"));
                if let Effect::Begin(Begin { entry, progress: None, .. }) = &effect {
                    begun.push(*entry);
                }
                events.extend(self.carry_out(machine, effect)?);
                if self.machines[machine].process.is_none() {
                    return Ok(());
                }
            }
            self.check_stop(machine, clears)?;
        }
        begun.into_iter().try_for_each(|entry| self.check_order(machine, entry))?;
        self.check_bounds(machine)?;
        self.set_timer(machine);
        self.end_by_itself(machine)
    }

    /// Returns what failed, or is done at once.
    fn carry_out(&mut self, machine: usize, effect: Effect) -> Result<Option<Event>, String> {
        let delay = self.moment();
        match effect {
            Effect::Claim { thread } => {
                let process = self.machines[machine].process.as_mut().expect("it runs");
                process.claims += 1;
                let claims = process.claims;
                ensure(claims <= CLAIMS_MAX, || format!("{claims} claims at the same time"))?;
                self.task_after(delay, machine, Task::Claim { thread: thread_index(&thread) });
            }
            Effect::Change { thread, change, number } => {
                if matches!(change, Change::Own { .. }) {
                    self.is_won(machine, thread_index(&thread));
                }
                let process = self.machines[machine].process.as_mut().expect("it runs");
                let binding = process.memory.change(&thread, change);
                process.unwritten.push((thread, binding));
                process.changes = number;
                self.write_soon(machine, delay);
            }
            Effect::Begin(begin) => return self.begin(machine, begin),
            Effect::Interrupt { entry } => self.interrupt(machine, entry),
            Effect::Tell { entry, question, verdict } => {
                self.tell(machine, entry, question, verdict);
            }
            Effect::Record { request: asked, verdict, by } => {
                if by == DecidedBy::Timeout {
                    self.counts.count(Count::Expired);
                }
                let answer = match &by {
                    DecidedBy::Message { entry, .. } => Some(self.message_of(*entry)),
                    DecidedBy::Timeout => None,
                };
                let process = self.machines[machine].process.as_mut().expect("it runs");
                process.answers.extend(answer);
                process.next += 1;
                let number = process.next;
                process.records.push((number, asked, verdict, by));
                self.task_after(delay, machine, Task::Record { number });
            }
            Effect::Put { post, finishes, is_confirmation } => {
                if self.disk_fails(machine) {
                    return Ok(Some(Event::NotPut { post, finishes, is_confirmation }));
                }
                if is_confirmation {
                    self.flush_seen(machine);
                }
                let thread = post.thread_id.clone();
                self.put_out(machine, *post, finishes);
                return Ok(Some(Event::Put { thread, finishes }));
            }
            Effect::Remember { message } => {
                self.messages[message_index(&message)].is_done = true;
                let process = self.machines[machine].process.as_mut().expect("it runs");
                if !process.is_recovering {
                    process.obeyed.insert(message_index(&message));
                }
                process.memory.seen.insert(message);
            }
            Effect::Remove { entries } => return self.remove(machine, entries),
            Effect::SetAside { entry, is_aside } => {
                let message = self.message_of(entry);
                let process = self.machines[machine].process.as_ref().expect("it runs");
                let is_fine = !is_aside || !process.knows_time || self.is_stale(message);
                ensure(is_fine, || format!("message {message} is held and is not old"))?;
                self.counts.count(if is_aside { Count::Stale } else { Count::Released });
                if let Some(entry) = self.machines[machine].disk.inbox.get_mut(&entry) {
                    entry.is_aside = is_aside;
                }
            }
            Effect::ReadHistory(reading) => {
                let number = reading.number;
                let delay = self.history_delay(thread_index(&reading.thread));
                let process = self.machines[machine].process.as_mut().expect("it runs");
                process.readings.push(ReadingCall { reading, found: None });
                let calls = process.readings.len();
                ensure(calls <= URGENT_MAX + 2, || format!("{calls} readings at the same time"))?;
                self.task_after(delay, machine, Task::History { number });
            }
            Effect::AskTime => self.task_after(delay, machine, Task::AskedTime),
            Effect::SaveCursor { cursor, number } => {
                let process = self.machines[machine].process.as_mut().expect("it runs");
                process.cursor = Some(cursor);
                process.changes = number;
                self.write_soon(machine, delay);
            }
        }
        Ok(None)
    }

    /// Durable when it returns. The post goes out soon.
    pub(super) fn put_out(
        &mut self,
        machine: usize,
        post: obto_bridge::bridge::wire::Post,
        finishes: Option<EntryId>,
    ) {
        let answers = finishes.map(|entry| self.message_of(entry));
        if let Some(message) = answers {
            self.messages[message].finals_put += 1;
        }
        let delay = self.moment();
        let it = &mut self.machines[machine];
        it.disk.outbox.push(Outgoing { post, finishes, answers, is_sent: false });
        let process = it.process.as_mut().expect("it runs");
        if !std::mem::replace(&mut process.is_sending, true) {
            self.task_after(delay, machine, Task::Send);
        }
    }

    fn flush_seen(&mut self, machine: usize) {
        let it = &mut self.machines[machine];
        let process = it.process.as_ref().expect("it runs");
        it.disk.seen.clone_from(&process.memory.seen);
    }

    fn remove(
        &mut self,
        machine: usize,
        mut entries: Vec<EntryId>,
    ) -> Result<Option<Event>, String> {
        if self.disk_fails(machine) {
            return Ok(Some(Event::NotRemoved { entries }));
        }
        self.flush_seen(machine);
        while let Some(entry) = entries.last().copied() {
            if self.disk_fails(machine) {
                return Ok(Some(Event::NotRemoved { entries }));
            }
            if self.fault(150) {
                self.crash(machine);
                return Ok(None);
            }
            let disk = &mut self.machines[machine].disk;
            let removed = disk.inbox.remove(&entry);
            ensure(removed.is_some(), || format!("entry {entry} is removed twice"))?;
            disk.settled(entry);
            entries.pop();
        }
        Ok(None)
    }

    /// Breaks something on purpose.
    fn mutate(&mut self, effects: &mut Vec<Effect>) {
        let is_hit = |mutation: Mutation, effect: &Effect| match mutation {
            Mutation::LoseClaim => matches!(effect, Effect::Claim { .. }),
            Mutation::LoseBegin | Mutation::BeginTwice => matches!(effect, Effect::Begin(_)),
            Mutation::LoseInterrupt => matches!(effect, Effect::Interrupt { .. }),
            Mutation::LosePut => matches!(effect, Effect::Put { .. }),
            Mutation::LoseRemember => matches!(effect, Effect::Remember { .. }),
            Mutation::LoseRemove => matches!(effect, Effect::Remove { .. }),
            Mutation::LoseTell => matches!(effect, Effect::Tell { .. }),
            _ => false,
        };
        let mutation = self.mutation;
        if mutation == Mutation::None {
            return;
        }
        if mutation == Mutation::BeginTwice {
            if let Some(effect) = effects.iter().rfind(|it| is_hit(mutation, it)) {
                effects.push(effect.clone());
            }
        } else {
            effects.retain(|effect| !is_hit(mutation, effect) || self.rng.bool());
        }
    }
}
