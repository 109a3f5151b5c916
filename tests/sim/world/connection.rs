//! Between a process and the bridge: the stream, claims, histories, the bridge's time, and posts.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use obto_bridge::{
    bridge::{
        stream::Replay,
        wire::{Post, PostKind, Posted},
    },
    coordinator::{
        ClaimOutcome, Coordinator, Event,
        catchup::{PATIENCE, ReadEnd, Reading},
    },
    permission::code::Code,
    store::entry::EntryId,
    time::Timestamp,
};
use serde_json::json;

use super::{
    Op, Task, World,
    bridge::reply,
    machine::{Entry, INBOX_MAX, Link, Wire},
    people::is_about_held,
};
use crate::parts::{
    Count, Mutation, NAMES, Outcome, TWIN, ensure, is_same_name, machine_id, thread_id,
    thread_index,
};

/// A post that the bridge has stored.
pub(super) struct Stored<'a> {
    pub(super) thread: usize,
    pub(super) name: &'a str,
    /// Of the question that it puts.
    pub(super) code: Option<Code>,
    pub(super) closes: Option<Code>,
    pub(super) at: Timestamp,
}

impl World {
    /// Sends something to a machine, if it listens.
    pub(super) fn stream(&mut self, machine: usize, wire: Wire) {
        let delay = self.moment();
        let Some(process) = &mut self.machines[machine].process else { return };
        let Some(link) = process.link.as_mut().filter(|link| !link.is_late) else { return };
        link.queue.push_back(wire);
        if !std::mem::replace(&mut link.is_busy, true) {
            let link = link.number;
            self.task_after(delay, machine, Task::Deliver { link });
        }
    }

    pub(super) fn connect(&mut self, machine: usize) -> Outcome {
        let is_stopping = self.machines[machine]
            .process
            .as_ref()
            .is_none_or(|it| it.is_stopping || it.link.is_some());
        if is_stopping {
            return Ok(());
        }
        if self.fault(6) {
            let again = self.between(500, 20_000);
            self.task_after(again, machine, Task::Connect);
            return Ok(());
        }
        let is_connected = |other: usize| {
            let process = self.machines[other].process.as_ref();
            other != machine
                && is_same_name(machine, other)
                && process.is_some_and(|it| it.link.is_some())
        };
        let has_twin = self.bridge.knows_instances && (0..NAMES.len()).any(is_connected);
        if has_twin && self.mutation != Mutation::TwinsUnnoticed {
            self.counts.count(Count::Conflict);
            self.task_after(Duration::from_secs(30), machine, Task::Connect);
            return self.step(machine, Event::Conflict { is_final: false });
        }
        self.open(machine, VecDeque::new())
    }

    /// A stream is open. What is still on the way on another one comes first.
    fn open(&mut self, machine: usize, mut queue: VecDeque<Wire>) -> Outcome {
        let is_local = self.mutation == Mutation::LocalAges;
        let time = if is_local { self.clock(machine).wall } else { self.bridge.time(self.now) };
        let server_time = self.bridge.says_hello.then_some(time);
        let head = self.bridge.log.len();
        let is_waiting = |it: &Option<usize>| it.is_none() && self.bridge.has_replay;
        let position = self.machines[machine].process.as_ref().expect("it connects").position;
        let waiting = if is_waiting(&position) { self.waiting(machine) } else { Vec::new() };
        let is_late = self.bridge.says_hello && !self.bridge.has_replay && self.fault(4);
        let owner = |message: usize| self.bridge.threads[self.messages[message].thread].owner;
        let process = self.machines[machine].process.as_mut().expect("it connects");
        let (mut replay, mut last_event_id) = (Replay::Unknown, None);
        let mut count = None;
        match process.position.filter(|_| self.bridge.has_replay) {
            Some(position) if self.bridge.pruned <= position => {
                replay = Replay::Complete;
                queue.extend((position..head).map(|at| {
                    let message = self.bridge.log[at];
                    Wire::Message { message, owner: owner(message), position: Some(at + 1) }
                }));
                count = Some(Count::Replay);
            }
            Some(position) => {
                for at in position..head {
                    self.messages[self.bridge.log[at]].is_pruned = true;
                }
                replay = Replay::Gap;
                last_event_id = Some(head);
                count = Some(Count::Gap);
            }
            None if self.bridge.has_replay => {
                if waiting.is_empty() {
                    last_event_id = Some(head);
                } else {
                    let wire =
                        |message| Wire::Message { message, owner: owner(message), position: None };
                    queue.extend(waiting.into_iter().map(wire));
                    queue.push_back(Wire::Begins { position: head });
                    count = Some(Count::HandedOut);
                }
            }
            None if is_late => {
                queue.push_back(Wire::Hello);
                count = Some(Count::LateHello);
            }
            None => {}
        }
        if std::mem::take(&mut process.has_lost_reading) {
            replay = Replay::Complete;
        }
        if let Some(count) = count {
            self.counts.count(count);
        }
        let is_empty = queue.is_empty();
        let process = self.machines[machine].process.as_mut().expect("it connects");
        process.links += 1;
        let number = process.links;
        process.link = Some(Link { number, queue, is_busy: !is_empty, is_late });
        process.is_renewing = false;
        process.position = last_event_id.or(process.position);
        self.begins_to_wait(machine);
        if !is_empty {
            let delay = if is_late { self.between(1, 1_000) } else { self.moment() };
            self.task_after(delay, machine, Task::Deliver { link: number });
        }
        let last_event_id = last_event_id.map(|id| id.to_string());
        self.step(machine, Event::Connected { replay, server_time, last_event_id })
    }

    /// From now on messages wait for what the connection has to catch up with.
    fn begins_to_wait(&mut self, machine: usize) {
        let now = self.running(machine);
        let it = &mut self.machines[machine];
        let process = it.process.as_mut().expect("it connects");
        process.connected_since = now;
        let fresh = |since: &mut Duration| now < *since + PATIENCE;
        process
            .waiting_since
            .values_mut()
            .filter_map(|it| fresh(it).then_some(it))
            .for_each(|it| *it = now);
        for entry in it.disk.inbox.values() {
            process.waiting_since.entry(self.messages[entry.message].thread).or_insert(now);
        }
    }

    /// What waits at the bridge for a machine without a position, thread by thread.
    fn waiting(&mut self, machine: usize) -> Vec<usize> {
        if self.mutation == Mutation::NoHandOut {
            return Vec::new();
        }
        let is_ours =
            |owner: &Option<usize>| owner.is_none_or(|owner| is_same_name(owner, machine));
        let threads = self.bridge.threads.iter().filter(|thread| is_ours(&thread.owner));
        let (mut waiting, mut withheld) = (Vec::new(), Vec::new());
        for thread in threads {
            let messages = &thread.messages;
            let is_stop = |message: &&usize| self.messages[**message].body.starts_with("/stop");
            let stopped = messages.iter().rfind(is_stop).copied();
            waiting.extend(messages.iter().copied().filter(|number| {
                let message = &self.messages[*number];
                let is_named = || {
                    let prefix = format!("m{number}.");
                    self.bridge.posts.keys().any(|name| {
                        name.as_str().strip_prefix(&prefix).is_some_and(|rest| rest.contains('.'))
                    })
                };
                let is_text = message.word().is_none() && !message.is_answer();
                let is_asked = is_text && stopped < Some(*number);
                if !is_asked {
                    withheld.push(*number);
                }
                is_asked && !is_named()
            }));
        }
        for number in withheld {
            self.messages[number].is_withheld = true;
        }
        waiting
    }

    pub(super) fn disconnect(&mut self, machine: usize) -> Outcome {
        let has_twin = self.machines[TWIN].process.is_some();
        let process = self.machines[machine].process.as_mut();
        let Some(process) = process.filter(|_| !has_twin) else { return Ok(()) };
        if process.link.take().is_none() {
            return Ok(());
        }
        process.has_lost_reading =
            self.mutation == Mutation::CatchUpGoesOn && !process.readings.is_empty();
        self.note(|| format!("{machine} loses its connection"));
        self.counts.count(Count::Disconnect);
        let again = self.between(10, 4_000);
        self.task_after(again, machine, Task::Connect);
        self.step(machine, Event::Disconnected)
    }

    /// The daemon itself wants a new connection.
    pub(super) fn renew(&mut self, machine: usize) -> Outcome {
        let Some(process) = &mut self.machines[machine].process else { return Ok(()) };
        let Some(mut link) = process.link.take() else { return Ok(()) };
        link.queue.retain(|wire| !matches!(wire, Wire::Hello));
        self.counts.count(Count::Renewal);
        if self.mutation == Mutation::BreakBeforeMake {
            process.is_renewing = true;
            self.task_after(Duration::from_millis(400), machine, Task::Connect);
            return self.step(machine, Event::Disconnected);
        }
        self.open(machine, link.queue)
    }

    pub(super) fn deliver(&mut self, machine: usize, link: u32) -> Outcome {
        let delay = self.moment();
        let is_sick = self.disk_fails(machine);
        let is_shuffled = self.mutation == Mutation::ReorderDeliveries && self.rng.bool();
        let Some(process) = &mut self.machines[machine].process else { return Ok(()) };
        let Some(open) = process.link.as_mut().filter(|it| it.number == link) else {
            return Ok(());
        };
        // What could not be stored is tried again, and nothing overtakes it.
        let wire = match is_sick {
            true => None,
            false if is_shuffled => open.queue.pop_back(),
            false => open.queue.pop_front(),
        };
        open.is_busy = !open.queue.is_empty();
        if open.is_busy {
            self.task_after(delay, machine, Task::Deliver { link });
        }
        match wire {
            None => Ok(()),
            Some(Wire::Hello) => {
                let process = self.machines[machine].process.as_mut().expect("it listens");
                process.link.as_mut().expect("it is open").is_late = false;
                let server_time = Some(self.bridge.time(self.now));
                if self.mutation == Mutation::LateHello {
                    return self.step(machine, Event::Begins { server_time, last_event_id: None });
                }
                self.begins_to_wait(machine);
                let (replay, last_event_id) = (Replay::Unknown, None);
                self.step(machine, Event::Connected { replay, server_time, last_event_id })
            }
            Some(Wire::Begins { position }) => {
                self.machines[machine].process.as_mut().expect("it listens").position =
                    Some(position);
                let server_time = None;
                self.step(
                    machine,
                    Event::Begins { server_time, last_event_id: Some(position.to_string()) },
                )
            }
            Some(Wire::Message { message, owner, position }) => {
                self.arrive(machine, message, owner, position)
            }
        }
    }

    fn arrive(
        &mut self,
        machine: usize,
        message: usize,
        owner: Option<usize>,
        position: Option<usize>,
    ) -> Outcome {
        let position = position.filter(|_| self.bridge.has_replay);
        let last_event_id = position.map(|it| it.to_string());
        let Some(entry) = self.put(machine, message, owner) else {
            self.counts.count(Count::Overflow);
            let known = &self.messages[message];
            let is_short = !known.is_work();
            let body = known.body.clone();
            ensure(!is_short, || format!("{body:?} has no room"))?;
            let thread = thread_id(known.thread);
            let written = known.created_at.as_deref().and_then(Timestamp::parse);
            let life = self.machines[machine].life;
            self.messages[message].overflowed.get_or_insert((machine, life));
            self.moved_on(machine, position);
            return self.step(machine, Event::Overflow { thread, written, last_event_id });
        };
        if self.fault(40) {
            self.crash(machine);
            return Ok(());
        }
        self.moved_on(machine, position);
        let reply = Arc::clone(&self.machines[machine].disk.inbox[&entry].reply);
        self.expect_begin(machine, entry);
        self.comes_in(machine, entry);
        self.step(machine, Event::Reply { entry, reply, last_event_id })
    }

    fn moved_on(&mut self, machine: usize, position: Option<usize>) {
        let process = self.machines[machine].process.as_mut().expect("it listens");
        process.position = position.or(process.position);
    }

    /// Stores a message in the inbox, if there is room.
    fn put(&mut self, machine: usize, message: usize, owner: Option<usize>) -> Option<EntryId> {
        let mut reply = reply(&self.messages[message], message, owner);
        if self.mutation == Mutation::WordsAsText && self.messages[message].word().is_some() {
            "text".clone_into(&mut reply.body);
        }
        let disk = &mut self.machines[machine].disk;
        let bound = self.mutation == Mutation::NoExtraRoom;
        let is_full = disk.is_full() || bound && INBOX_MAX <= disk.inbox.len();
        if is_full && (bound || Coordinator::extra_room(&reply) == 0) {
            disk.full_at = self.now;
            return None;
        }
        let entry = EntryId { sequence: self.entries.len() as u64, hash: 0 };
        self.entries.push(message);
        self.messages[message].is_received[machine] = true;
        let reply = Arc::new(reply);
        disk.inbox.insert(entry, Entry { message, reply, progress: None, is_aside: false });
        Some(entry)
    }

    pub(super) fn land_claim(&mut self, machine: usize, thread: usize) -> Outcome {
        let process = self.machines[machine].process.as_mut().expect("it claims");
        process.claims -= 1;
        let known = self.bridge.threads[thread].owner;
        let mut outcome = if self.fault(4) {
            self.counts.count(Count::FailedClaim);
            if self.rng.bool() {
                self.counts.count(Count::LateClaim);
                let late = self.between(0, 20_000);
                self.after(late, Op::LateClaim { machine, thread });
            }
            let retry_after = self.rng.bool().then(|| Duration::from_secs(self.rng.u64(0..100)));
            ClaimOutcome::Failed { retry_after }
        } else if known.is_none() {
            self.bridge.threads[thread].owner = Some(machine % TWIN);
            ClaimOutcome::Won
        } else {
            self.counts.count(Count::LostClaim);
            ClaimOutcome::Lost { winner: known.map(machine_id) }
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

    /// How long the next part of a history takes.
    pub(super) fn history_delay(&mut self, thread: usize) -> Duration {
        if self.now < self.bridge.threads[thread].slow_until {
            self.between(5_000, 45_000)
        } else {
            self.between(1, 300)
        }
    }

    pub(super) fn read_on(&mut self, machine: usize, number: u64) -> Outcome {
        let process = self.machines[machine].process.as_mut().expect("it reads");
        let Some(at) = process.readings.iter().position(|it| it.reading.number == number) else {
            return Ok(());
        };
        if process.is_stopping {
            process.readings.swap_remove(at);
            return Ok(());
        }
        let thread = thread_index(&process.readings[at].reading.thread);
        let is_sick = |known: &super::bridge::Thread| self.now < known.sick_until;
        let is_stopped = self.mutation == Mutation::SickHistoryStopsAll
            && !is_sick(&self.bridge.threads[thread])
            && self.bridge.threads.iter().any(is_sick);
        if is_stopped {
            self.task_after(Duration::from_secs(1), machine, Task::History { number });
            return Ok(());
        }
        let is_sick = self.now < self.bridge.threads[thread].sick_until || self.fault(30);
        if is_sick {
            self.counts.count(Count::FailedHistory);
            let known = &mut self.bridge.threads[thread];
            known.sick_until = known.sick_until.max(self.now);
            let retry_after = self.rng.bool().then(|| Duration::from_secs(self.rng.u64(0..20)));
            return self.read_ended(machine, at, ReadEnd::Failed { retry_after });
        }
        let process = self.machines[machine].process.as_mut().expect("it reads");
        let call = &mut process.readings[at];
        let Some(found) = &mut call.found else {
            let since = call.reading.since.minus(Duration::from_millis(1));
            let messages = self.bridge.threads[thread].messages.iter().copied();
            call.found = Some(messages.filter(|it| since <= self.messages[*it].stored).collect());
            let delay = self.history_delay(thread);
            self.task_after(delay, machine, Task::History { number });
            return Ok(());
        };
        let Some(message) = found.front().copied() else {
            return self.read_ended(machine, at, ReadEnd::Complete);
        };
        let entry = if self.disk_fails(machine) { None } else { self.put(machine, message, None) };
        let delay = self.between(0, if entry.is_some() { 20 } else { 1_000 });
        self.task_after(delay, machine, Task::History { number });
        let Some(entry) = entry else { return Ok(()) };
        let process = self.machines[machine].process.as_mut().expect("it reads");
        process.readings[at].found.as_mut().expect("it is not empty").pop_front();
        self.counts.count(Count::Found);
        let reply = Arc::clone(&self.machines[machine].disk.inbox[&entry].reply);
        self.comes_in(machine, entry);
        self.step(machine, Event::Found { entry, reply, number })
    }

    fn read_ended(&mut self, machine: usize, at: usize, end: ReadEnd) -> Outcome {
        let running = self.running(machine);
        let it = &mut self.machines[machine];
        let process = it.process.as_mut().expect("it reads");
        let Reading { thread, number, .. } = process.readings.swap_remove(at).reading;
        let is_hidden = self.mutation == Mutation::FailedIsComplete;
        let end = if is_hidden { ReadEnd::Complete } else { end };
        let index = thread_index(&thread);
        let since = process.waiting_since.get(&index);
        if end == ReadEnd::Complete && since.is_some_and(|since| *since + PATIENCE <= running) {
            let entries = it.disk.inbox.values().map(|it| it.message);
            process.overdue.extend(entries.filter(|it| self.messages[*it].thread == index));
        }
        self.step(machine, Event::Read { thread: thread.clone(), number, end })?;
        if let Some(process) = &mut self.machines[machine].process {
            let is_read_again = process.readings.iter().any(|it| it.reading.thread == thread);
            if end == ReadEnd::Complete && !is_read_again {
                process.waiting_since.remove(&index);
            }
        }
        Ok(())
    }

    pub(super) fn tell_time(&mut self, machine: usize) -> Outcome {
        let fails = self.fault(3);
        let time = (!fails).then(|| self.bridge.time(self.now));
        self.step(machine, Event::Time(time))
    }

    /// Sends the oldest post of a thread.
    pub(super) fn send(&mut self, machine: usize) -> Outcome {
        let fails = self.fault(6);
        let delay = self.moment();
        let it = &mut self.machines[machine];
        let (disk, process) = (&it.disk, it.process.as_mut().expect("it sends"));
        process.is_sending = false;
        let unsent = disk.outbox.iter().filter(|it| !it.is_sent).count();
        if unsent == 0 {
            return Ok(());
        }
        let any = self.rng.usize(0..unsent);
        let thread = disk
            .outbox
            .iter()
            .filter(|it| !it.is_sent)
            .nth(any)
            .map(|it| it.post.thread_id.clone());
        let is_next = |it: &super::machine::Outgoing| {
            !it.is_sent && Some(&it.post.thread_id) == thread.as_ref()
        };
        let at = disk.outbox.iter().position(is_next).expect("there is one");
        process.is_sending = true;
        self.task_after(delay, machine, Task::Send);
        if fails {
            return Ok(());
        }
        let file = &self.machines[machine].disk.outbox[at];
        let (post, finishes) = (file.post.clone(), file.finishes);
        let answers = file.answers;
        let time = self.store(&post, answers)?;
        if self.fault(60) {
            self.crash(machine);
            return Ok(());
        }
        let disk = &mut self.machines[machine].disk;
        if finishes.is_some() {
            disk.outbox[at].is_sent = true;
        } else {
            disk.outbox.remove(at);
        }
        if post.kind == PostKind::Question {
            return self.step(machine, Event::Posted { post: post.client_msg_id, at: Some(time) });
        }
        Ok(())
    }

    /// The bridge stores a post once under its name.
    fn store(&mut self, post: &Post, answers: Option<usize>) -> Result<Timestamp, String> {
        let now = self.bridge.time(self.now);
        let name = &post.client_msg_id;
        if let Some((body, at)) = self.bridge.posts.get(name) {
            let (is_same, at) = (*body == post.body, *at);
            ensure(is_same || answers.is_none(), || {
                format!("the answer {name} is dropped by the bridge")
            })?;
            // Each message is a line of it.
            let is_told = body.lines().count() == post.body.lines().count();
            ensure(is_told || !is_about_held(name.as_str()), || {
                format!("what {name} says of stale messages is dropped by the bridge")
            })?;
            let by_words = is_same || self.mutation != Mutation::OtherWordsConflict;
            // One that is taken for another daemon's stops this one.
            ensure(by_words && Posted::read(post, &json!({ "body": body })).is_ours, || {
                format!("{name} is taken for another daemon's")
            })?;
            return Ok(at);
        }
        self.note(|| {
            format!("the bridge stores {name} on thread {}: {:.60}", post.thread_id, post.body)
        });
        self.bridge.posts.insert(name.clone(), (post.body.clone(), now));
        let code = post.question.as_ref().and_then(|card| card.code.parse().ok());
        let closes = post.question_closed.as_ref().and_then(|closing| closing.code.parse().ok());
        let thread = thread_index(&post.thread_id);
        self.see(&Stored { thread, name: name.as_str(), code, closes, at: now });
        if let Some(message) = answers {
            self.messages[message].finals += 1;
            let finals = self.messages[message].finals;
            ensure(finals <= 1, || format!("message {message} has {finals} answers"))?;
        }
        Ok(now)
    }
}
