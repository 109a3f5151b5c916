//! The desk: where questions lie open until a human answers, and where every message of a human is
//! held against them first. It never sends anything; it says what is to be done. Pure: time comes
//! in as an argument.
//!
//! Nothing is allowed by a word that was written before the question, that was read while catching
//! up, that came too late by any of three clocks, or that may have been meant for another question.
//! In doubt the human is asked to name the code.

#[cfg(test)]
mod bounds_tests;
mod choice;
#[cfg(test)]
mod property_tests;
#[cfg(test)]
mod tests;
mod thread;
mod words;

use std::{collections::HashMap, time::Duration};

use self::thread::Thread;
use crate::{
    agent::{QuestionId, Verdict},
    bridge::wire::{Closing, Outcome},
    ids::{ClientMsgId, MessageId, ThreadId, TurnId},
    permission::{
        answer::{self, Spoken},
        card::Asked,
        code::Code,
    },
    time::Timestamp,
};

/// Open questions of a thread; one more is refused at once.
pub const OPEN_MAX: usize = 100;

/// Messages of a thread that wait for a question's post to be stored; one more is no answer.
pub const PARKED_MAX: usize = 128;

/// Ended questions of a thread whose story can be told.
const PAST_MAX: usize = 50;

/// Messages of a thread that were answers, in case they come again.
const HEARD_MAX: usize = 256;

/// Threads that are remembered without an open question.
const THREADS_MAX: usize = 1_000;

/// Both clocks of this machine: the one stands still while it sleeps, the other can be set.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Since some moment, by the monotonic clock.
    pub running: Duration,
    pub wall: Timestamp,
}

/// A message of a human.
#[derive(Clone, Copy, Debug)]
pub struct Heard<'a> {
    pub thread: &'a ThreadId,
    /// By which it is known when it comes again.
    pub id: Option<&'a MessageId>,
    pub author: Option<&'a str>,
    pub text: &'a str,
    /// The server's time of it.
    pub written: Option<Timestamp>,
    pub how: How,
}

/// How a message came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    Live,
    /// Found while catching up, or in the inbox at the start: it never answers anything.
    CaughtUp,
}

/// What a message is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hearing {
    /// A message like any other.
    NotAnAnswer,
    /// Kept here until [`Desk::released`] gives it back: whether it answers is not known yet.
    Park,
    /// An answer. Tell the worker, then [`Desk::confirmed`].
    Decide(Decision),
    /// It answers nothing, but was meant to: post this text and be done with it.
    Reply(String),
    /// An answer that has been heard already: be done with it.
    Repeated,
}

/// A question and what its engine is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    pub key: Key,
    pub verdict: Verdict,
}

/// One question among all that ever were. The code is in it because an engine may ask again under
/// the same id: whoever decides must compare it too.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    pub thread: ThreadId,
    pub turn: TurnId,
    pub question: QuestionId,
    pub code: Code,
}

impl Key {
    pub fn of(asked: &Asked) -> Key {
        Key {
            thread: asked.thread.clone(),
            turn: asked.turn.clone(),
            question: asked.question.id.clone(),
            code: asked.code,
        }
    }
}

/// A question that has ended, and what is to be posted about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Closed<M> {
    pub asked: Asked,
    /// What the engine was told; after [`Desk::ask`] and [`Desk::expire`]: is still to be told. None
    /// if it ended without.
    pub verdict: Option<Verdict>,
    pub closing: Closing,
    /// The post's text, Markdown.
    pub body: String,
    /// The message that had answered it: it is done now.
    pub answer: Option<M>,
}

/// What became of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Allowed,
    Always,
    Denied,
    Answered,
    Expired,
    /// The engine no longer waits for it.
    Withdrawn,
    /// With its turn.
    Ended,
    /// Never put to anybody.
    Refused,
    /// With an earlier daemon.
    Died,
}

impl Fate {
    fn of(verdict: &Verdict) -> Fate {
        match verdict {
            Verdict::Allow => Fate::Allowed,
            Verdict::AllowAlways => Fate::Always,
            Verdict::Chosen(_) => Fate::Answered,
            Verdict::Deny { .. } => Fate::Denied,
        }
    }

    fn outcome(self) -> Outcome {
        match self {
            Fate::Allowed => Outcome::Allowed,
            Fate::Always => Outcome::Always,
            Fate::Denied | Fate::Refused => Outcome::Denied,
            Fate::Answered => Outcome::Answered,
            Fate::Expired => Outcome::Expired,
            Fate::Withdrawn | Fate::Ended | Fate::Died => Outcome::Gone,
        }
    }
}

/// A question that has ended, as far as it is remembered.
#[derive(Clone, Debug)]
struct Past {
    code: Code,
    /// None if an earlier daemon's.
    turn: Option<TurnId>,
    fate: Fate,
    /// ` by` and who answered, or nothing.
    by: String,
}

/// All open questions. `M` is what the caller knows a message by.
#[derive(Debug)]
pub struct Desk<M> {
    threads: HashMap<ThreadId, Thread<M>>,
    /// Counts the uses of threads, so that the least recently used is forgotten.
    uses: u64,
}

impl<M> Default for Desk<M> {
    fn default() -> Desk<M> {
        Desk { threads: HashMap::new(), uses: 0 }
    }
}

impl<M: Clone> Desk<M> {
    /// Puts a question on the desk. What is returned has ended by that: an earlier one under the same
    /// name, or the new one itself, refused, if too many are open or its code was used lately.
    pub fn ask(&mut self, asked: Asked, now: Now) -> Vec<Closed<M>> {
        self.thread(&asked.thread).ask(asked, now)
    }

    /// A question's post is stored. `at` is the server's time of it, none if the bridge gave none.
    pub fn posted(&mut self, post: &ClientMsgId, at: Option<Timestamp>) {
        self.threads.values_mut().for_each(|thread| thread.posted(post, at));
    }

    /// Holds a human's message against the open questions.
    pub fn hear(&mut self, heard: &Heard<'_>, message: &M, now: Now) -> Hearing {
        match self.threads.get_mut(heard.thread) {
            Some(thread) => thread.hear(heard, message, now),
            None => hear_nowhere(heard.text),
        }
    }

    /// Takes back what was parked and can be judged now. To be called after every other call and
    /// heard again, in this order.
    pub fn released(&mut self, now: Now) -> Vec<M> {
        self.threads.values_mut().flat_map(|thread| thread.released(now)).collect()
    }

    /// The worker has told the engine, or could not because nobody waited any more. None if the
    /// question has ended otherwise.
    pub fn confirmed(&mut self, key: &Key, taken: bool) -> Option<Closed<M>> {
        self.threads.get_mut(&key.thread)?.confirmed(key, taken)
    }

    /// The question of a decision that is not confirmed yet.
    pub fn decided(&self, key: &Key) -> Option<&Asked> {
        self.threads.get(&key.thread)?.decided(key)
    }

    /// A decision could not be carried out: the question waits for another answer.
    pub fn reopen(&mut self, key: &Key) {
        if let Some(thread) = self.threads.get_mut(&key.thread) {
            thread.reopen(key);
        }
    }

    /// The engine took a question back. One that is answered already waits for its confirmation,
    /// because engines say the same after an answer.
    pub fn gone(
        &mut self,
        thread: &ThreadId,
        turn: &TurnId,
        question: &QuestionId,
    ) -> Option<Closed<M>> {
        self.threads.get_mut(thread)?.gone(turn, question)
    }

    /// A turn is over, and with it all that it asked.
    pub fn turn_ended(&mut self, thread: &ThreadId, turn: &TurnId) -> Vec<Closed<M>> {
        self.threads.get_mut(thread).map(|thread| thread.turn_ended(turn)).unwrap_or_default()
    }

    /// These were open when an earlier daemon ended.
    pub fn died(&mut self, thread: &ThreadId, codes: &[Code]) {
        if !codes.is_empty() {
            self.thread(thread).died(codes);
        }
    }

    /// How long until [`Desk::expire`] has something to do, by the clock that is there first.
    pub fn due(&self, now: Now) -> Option<Duration> {
        self.threads.values().filter_map(|thread| thread.due(now)).min()
    }

    /// Ends what nobody answered in time. The workers are to be told.
    pub fn expire(&mut self, now: Now) -> Vec<Closed<M>> {
        self.threads.values_mut().flat_map(|thread| thread.expire(now)).collect()
    }

    /// The open questions of a thread, oldest first.
    pub fn open(&self, thread: &ThreadId) -> impl Iterator<Item = &Asked> {
        self.threads.get(thread).into_iter().flat_map(Thread::open)
    }

    /// A thread that is written to; the one that rested longest makes room for a new one.
    fn thread(&mut self, id: &ThreadId) -> &mut Thread<M> {
        if self.threads.len() >= THREADS_MAX && !self.threads.contains_key(id) {
            let resting = self.threads.iter().filter(|(_, thread)| thread.is_resting());
            let oldest = resting.min_by_key(|(_, thread)| thread.used).map(|(id, _)| id.clone());
            if let Some(oldest) = oldest {
                self.threads.remove(&oldest);
            }
        }
        self.uses += 1;
        let thread = self.threads.entry(id.clone()).or_default();
        thread.used = self.uses;
        thread
    }
}

/// On a thread where nothing was ever asked.
fn hear_nowhere(text: &str) -> Hearing {
    let spoken = answer::read(text);
    match (spoken, spoken.code()) {
        (Spoken::Choose { words, .. }, _) if !answer::is_numbers(words) => Hearing::NotAnAnswer,
        (_, Some(code)) => Hearing::Reply(words::unknown(code, &[])),
        (_, None) => Hearing::NotAnAnswer,
    }
}
