//! People: they write, stop, ask how it is, answer questions and release what waits for them.

use obto_bridge::permission::code::Code;

use super::{
    Op, World,
    bridge::Message,
    connection::Stored,
    machine::{Entry, Process, Wire},
};
use crate::parts::{NAMES, is_same_name, thread_id};

impl World {
    /// A person writes something, and then somebody else.
    pub(super) fn person(&mut self) {
        if self.is_calm || self.to_write == 0 {
            return;
        }
        self.to_write -= 1;
        let thread = self.rng.usize(0..self.bridge.threads.len());
        let (body, code) = self.think_of(thread);
        self.write(thread, body, code);
        let most = if self.rng.bool() { 300 } else { 15_000 };
        let next = self.between(0, most);
        if self.to_write == 0 {
            let calm = self.between(0, 60_000);
            self.after(calm, Op::Calm);
        } else {
            self.after(next, Op::Person);
        }
    }

    fn think_of(&mut self, thread: usize) -> (String, Option<Code>) {
        let number = self.messages.len();
        let question = self.bridge.threads[thread].question;
        if let Some(code) = question
            && self.rng.u32(0..3) != 0
        {
            let verb = ["yes", "approve", "no", "always"][self.rng.usize(0..4)];
            return if self.rng.bool() {
                (format!("{verb} {code}"), Some(code))
            } else {
                (verb.to_owned(), None)
            };
        }
        if self.bridge.threads[thread].is_held && self.rng.bool() {
            return ("run".to_owned(), None);
        }
        let word = match self.rng.u32(0..30) {
            0..=2 => "/stop",
            3..=4 => "/stop all",
            5 => "/status",
            6..=7 => "/new",
            8 => "/queue",
            9 => "yes",
            10 => "run",
            _ => {
                return (
                    format!(
                        "work {number} that takes more words than an answer in a hurry has room for"
                    ),
                    None,
                );
            }
        };
        (word.to_owned(), None)
    }

    /// Stores a message of a person and sends it to everyone who listens.
    pub(super) fn write(&mut self, thread: usize, body: String, code: Option<Code>) {
        let number = self.messages.len();
        let stored = self.bridge.time(self.now);
        let is_odd = self.has_odd_times && !self.is_calm && self.rng.u32(0..6) == 0;
        let created_at = match self.rng.u32(0..3) {
            0 if is_odd => None,
            1 if is_odd => Some("yesterday".to_owned()),
            _ if is_odd => Some("2020-02-02T20:20:20Z".to_owned()),
            _ => Some(stored.to_string()),
        };
        let owner = self.bridge.threads[thread].owner;
        let mut message = Message {
            thread,
            body,
            created_at,
            is_odd,
            stored,
            is_known: [false; NAMES.len()],
            is_in_renewal: false,
            is_received: [false; NAMES.len()],
            overflowed: None,
            is_withheld: false,
            is_pruned: false,
            prompts: 0,
            resumed: 0,
            finals_put: 0,
            finals: 0,
            is_done: false,
            code,
        };
        let id = thread_id(thread);
        for (at, machine) in self.machines.iter().enumerate() {
            let is_there = |entry: &Entry| self.messages[entry.message].thread == thread;
            let process = machine.process.as_ref();
            let is_bound = machine.disk.bindings.contains_key(&id)
                || process.is_some_and(|it| it.memory.bindings.contains_key(&id));
            // A thread that it claims is looked at when it is won.
            let is_claimed = !is_bound && machine.disk.inbox.values().any(is_there);
            message.is_known[at] = (is_bound || is_claimed) && self.has_cursor(at);
            message.is_in_renewal |= machine.process.as_ref().is_some_and(|it| it.is_renewing);
        }
        self.note(|| format!("message {number} on thread {thread} of {owner:?}: {}", message.body));
        self.messages.push(message);
        self.bridge.threads[thread].messages.push(number);
        self.bridge.log.push(number);
        let position = self.bridge.log.len();
        for machine in 0..NAMES.len() {
            self.stream(
                machine,
                Wire::Message { message: number, owner, position: Some(position) },
            );
        }
    }

    /// Whether a machine knows, or must know by now, from when on it would miss something.
    fn has_cursor(&self, machine: usize) -> bool {
        const SOON: std::time::Duration = std::time::Duration::from_secs(3);
        let it = &self.machines[machine];
        let is_long = |process: &Process| {
            let since = process.connected_since + SOON;
            process.link.is_some()
                && since < self.running(machine)
                && it.disk.sick_until + SOON < self.now
        };
        let is_told = self.bridge.says_hello && it.process.as_ref().is_some_and(is_long);
        it.disk.cursor.seen_until.is_some() || it.disk.cursor.last_event_id.is_some() || is_told
    }

    /// People release, or leave waiting, what is in quarantine when everything else is done.
    pub(super) fn release_all(&mut self) {
        for thread in 0..self.bridge.threads.len() {
            if self.bridge.threads[thread].is_held && self.rng.bool() {
                self.write(thread, "run".to_owned(), None);
            }
        }
    }

    /// What people see on a thread.
    pub(super) fn see(&mut self, post: &Stored<'_>) {
        let thread = &mut self.bridge.threads[post.thread];
        if let Some(code) = post.code {
            thread.question = Some(code);
            self.bridge.questions.insert(code, post.at);
        }
        if let Some(code) = post.closes {
            thread.question = None;
            self.bridge.closed.insert(code);
        }
        if is_about_held(post.name) {
            thread.is_held = true;
        }
    }
}

/// Whether a post of this name lists stale messages.
pub(super) fn is_about_held(name: &str) -> bool {
    name.split('.').nth(1) == Some("held")
}

/// The machines of a thread's owner.
pub(super) fn owners(owner: usize) -> impl Iterator<Item = usize> {
    (0..NAMES.len()).filter(move |machine| is_same_name(*machine, owner))
}
