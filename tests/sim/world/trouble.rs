//! Trouble: crashes, stops, broken connections, sick histories and disks, clocks that jump, days that
//! pass, threads that are moved.

use std::time::Duration;

use obto_bridge::coordinator::Event;

use super::{Op, Task, World, machine::INBOX_MAX};
use crate::parts::{Count, Outcome, TWIN};

const DAY: Duration = Duration::from_hours(24);

impl World {
    pub(super) fn trouble(&mut self) -> Outcome {
        if self.is_calm {
            return Ok(());
        }
        let most = if self.rng.bool() { 1_000 } else { 12_000 };
        let next = self.between(10, most);
        self.after(next, Op::Trouble);
        let machine = self.rng.usize(0..TWIN);
        let thread = self.rng.usize(0..self.bridge.threads.len());
        let is_up =
            self.machines[machine].process.as_ref().is_some_and(|it| it.sleeps_until <= self.now);
        match self.rng.u32(0..26) {
            0..=3 if is_up => self.crash(machine),
            4..=5 if is_up => return self.stop(machine),
            6..=8 if is_up => return self.disconnect(machine),
            9..=10 if is_up => return self.renew(machine),
            11..=13 => {
                let until = self.now + self.between(1_000, 120_000);
                self.note(|| format!("the history of thread {thread} can't be read"));
                self.bridge.threads[thread].sick_until = until;
            }
            14..=15 => {
                let until = self.now + self.between(1_000, 60_000);
                self.note(|| format!("the history of thread {thread} is slow"));
                self.bridge.threads[thread].slow_until = until;
            }
            16..=17 => {
                let until = self.now + self.between(100, 20_000);
                self.note(|| format!("the disk of {machine} fails"));
                self.machines[machine].disk.sick_until = until;
            }
            18 if is_up => self.suspend(machine),
            19 => self.set_clocks(machine),
            20 if is_up && self.rng.bool() => self.away_for_days(machine),
            21 => {
                self.bridge.pruned = self.rng.usize(self.bridge.pruned..=self.bridge.log.len());
                for at in 0..self.bridge.pruned {
                    self.messages[self.bridge.log[at]].is_pruned = true;
                }
            }
            22 => return self.move_thread(thread),
            23 => return self.twin(),
            _ => {}
        }
        Ok(())
    }

    /// All that is not on the disk is gone.
    pub(super) fn crash(&mut self, machine: usize) {
        self.note(|| format!("{machine} crashes"));
        self.counts.count(Count::Crash);
        self.gone(machine);
        if machine != TWIN {
            let most = if self.rng.u32(0..5) == 0 { 60_000 } else { 2_000 };
            let start = self.between(10, most);
            self.after(start, Op::Start { machine });
        }
    }

    pub(super) fn stop(&mut self, machine: usize) -> Outcome {
        if self.machines[machine].process.as_ref().is_none_or(|it| it.is_stopping) {
            return Ok(());
        }
        self.note(|| format!("{machine} is to stop"));
        self.counts.count(Count::Stop);
        let Some(process) = &mut self.machines[machine].process else { return Ok(()) };
        process.is_stopping = true;
        process.link = None;
        if machine == 0 {
            self.gone(TWIN);
        }
        self.step(machine, Event::Stop)?;
        if self.machines[machine].process.is_none() {
            return Ok(());
        }
        let grace = self.between(0, 2_000);
        self.task_after(grace, machine, Task::End);
        Ok(())
    }

    fn suspend(&mut self, machine: usize) {
        let long = if self.rng.u32(0..4) == 0 { DAY + DAY } else { Duration::from_mins(1) };
        self.sleep(machine, long);
    }

    fn sleep(&mut self, machine: usize, long: Duration) {
        let Some(process) = &mut self.machines[machine].process else { return };
        if process.sleeps_until <= self.now {
            process.sleeps_until = self.now + long;
            process.slept += long;
            process.sleep = long;
            self.note(|| format!("{machine} is suspended"));
            self.counts.count(Count::Suspended);
        }
    }

    fn set_clocks(&mut self, machine: usize) {
        self.counts.count(Count::ClockJump);
        let jump =
            Duration::from_secs(self.rng.u64(1..100) * if self.has_odd_times { 3_600 } else { 1 });
        if self.rng.bool() {
            self.machines[machine].ahead = jump;
        } else {
            self.machines[machine].behind = jump;
        }
        if self.rng.bool() {
            self.bridge.skew += Duration::from_secs(self.rng.u64(0..60));
        }
    }

    fn away_for_days(&mut self, machine: usize) {
        self.note(|| format!("{machine} is away for days"));
        self.counts.count(Count::Days);
        self.gone(machine);
        let days = DAY + DAY + self.between(0, 1_000_000);
        self.after(days, Op::Start { machine });
        // Somebody writes while it is away, and the others come back when it does.
        if self.rng.bool() {
            for _ in 0..self.rng.u32(1..3) {
                self.person();
            }
            let long = days.saturating_sub(Duration::from_secs(20));
            for other in 0..TWIN {
                self.sleep(other, long);
            }
        }
    }

    /// Somebody moves a thread to the other machine, while both hear of it.
    fn move_thread(&mut self, thread: usize) -> Outcome {
        let Some(owner) = self.bridge.threads[thread].owner else { return Ok(()) };
        let hears = |machine: usize| {
            let process = self.machines[machine].process.as_ref();
            let disk = &self.machines[machine].disk;
            let has_room = disk.sick_until < self.now && disk.inbox.len() < INBOX_MAX;
            let process = process.filter(|it| it.sleeps_until <= self.now && has_room);
            process.and_then(|it| it.link.as_ref()).is_some_and(|link| link.queue.is_empty())
        };
        // All is done, and the other machine will not look so far back, nor be sent it again: that would
        // say that the thread has always been its own.
        let cursor = &self.machines[1 - owner].disk.cursor;
        let read_until = cursor.seen_until.filter(|_| cursor.behind.is_empty());
        let is_settled = self.bridge.threads[thread].messages.iter().all(|message| {
            let is_left = |entry: &super::machine::Entry| entry.message == *message;
            let is_left = self.machines.iter().any(|it| it.disk.inbox.values().any(is_left));
            let message = &self.messages[*message];
            message.is_done
                && !is_left
                && message.is_received[1 - owner]
                && Some(message.stored) < read_until
        });
        let has_moved = self.bridge.threads[thread].has_moved;
        if !has_moved && (0..TWIN).all(hears) && is_settled && self.machines[TWIN].process.is_none()
        {
            self.counts.count(Count::Moved);
            self.note(|| format!("thread {thread} moves to {}", 1 - owner));
            self.bridge.threads[thread].owner = Some(1 - owner);
            self.bridge.threads[thread].has_moved = true;
            let number = self.messages.len();
            let body = format!(
                "work {number} after the move to another machine, in many words, all for you"
            );
            self.write(thread, body, None);
            for machine in 0..TWIN {
                let link = self.machines[machine].process.as_ref().and_then(|it| it.link.as_ref());
                let link = link.map_or(0, |link| link.number);
                self.deliver(machine, link)?;
            }
        }
        Ok(())
    }

    /// A third daemon starts, with the name of the first one.
    fn twin(&mut self) -> Outcome {
        let is_first_there = self.machines[0].process.as_ref().is_some_and(|it| it.link.is_some());
        if self.bridge.knows_instances && is_first_there && self.machines[TWIN].process.is_none() {
            return self.start(TWIN);
        }
        Ok(())
    }
}
