//! The approvals that are pending, and the match of every message of a human against them. Nothing
//! here sends anything; each method returns what the caller has to do. Pure: time is an argument.
//!
//! Two rules decide what a message answers. One that names a code answers that question. One that
//! names none answers a question only if it is the only one that is open on the thread and the
//! bridge has stored its post; otherwise the human is asked for the code.
//!
//! Nothing is ever allowed by a message that was written before the question was stored, that was
//! read while catching up, that is late by any of three clocks, or that may have been meant for
//! another question; nor by one that came with a machine's token, which no person has signed in for.
//! Nor is a question that was cut, unless the whole of it was shown before: by `/show` on the thread, or
//! on a page that says so.

#[cfg(test)]
mod bounds_tests;
mod choice;
mod matching;
#[cfg(test)]
mod property_tests;
#[cfg(test)]
mod tests;
mod texts;
#[cfg(test)]
mod whole_tests;

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use crate::{
    agent::{QuestionId, Verdict},
    bridge::wire::{Closing, Outcome},
    ids::{ClientMsgId, MessageId, ThreadId, TurnId},
    permission::{
        approval_prompt::{self, ApprovalRequest},
        code::Code,
    },
    time::Timestamp,
};

/// Open questions of a thread; one more is refused at once.
pub const OPEN_MAX: usize = 100;

/// Ended questions of a thread of which the outcome can still be said.
const PAST_MAX: usize = 50;

/// Messages of a thread that were answers, in case they arrive again.
const MATCHED_MAX: usize = 256;

/// Threads that are remembered without an open question.
const THREADS_MAX: usize = 1_000;

/// Both clocks of this machine: one stands still while it sleeps, the other can be set.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Since some moment, by the monotonic clock.
    pub running: Duration,
    pub wall: Timestamp,
}

/// A message of a human.
#[derive(Clone, Copy, Debug)]
pub struct Incoming<'a> {
    pub thread: &'a ThreadId,
    /// Recognises the message when it arrives again.
    pub id: Option<&'a MessageId>,
    pub author: Option<&'a str>,
    pub text: &'a str,
    /// By the bridge's clock.
    pub written: Option<Timestamp>,
    /// It was found while catching up, or in the inbox at the start: it never answers anything.
    pub is_caught_up: bool,
    /// A program posted it with a machine's token: it may refuse, and nothing else.
    pub is_by_token: bool,
}

/// What a message is.
#[derive(Clone, Debug, PartialEq)]
pub enum Match {
    /// A message like any other.
    NotAnAnswer,
    /// An answer. Tell the engine, then call [`PendingApprovals::confirmed`] or
    /// [`PendingApprovals::withdrawn`].
    Answer(Decided),
    /// It was meant as an answer and is none: post this text, and the message is done.
    Explain(String),
    /// An answer that arrived before: the message is done.
    Repeated,
}

/// A question and what its engine is to be told.
#[derive(Clone, Debug, PartialEq)]
pub struct Decided {
    pub request: Box<ApprovalRequest>,
    pub verdict: Verdict,
}

/// One question among all that ever were. The code is in it because an engine may ask again under
/// the same id.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    pub thread: ThreadId,
    pub turn: TurnId,
    pub question: QuestionId,
    pub code: Code,
}

impl Key {
    pub fn of(request: &ApprovalRequest) -> Key {
        Key {
            thread: request.thread.clone(),
            turn: request.turn.clone(),
            question: request.question.id.clone(),
            code: request.code,
        }
    }
}

/// A question that has ended, and what is to be posted about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Closed<M> {
    pub request: ApprovalRequest,
    /// What the engine was told; after [`PendingApprovals::ask`] and [`PendingApprovals::expire`]:
    /// has yet to be told. None if the engine gets no verdict.
    pub verdict: Option<Verdict>,
    pub closing: Closing,
    /// The post's text, Markdown.
    pub body: String,
    /// The message that had answered it: it is done now.
    pub answer: Option<M>,
}

#[derive(Clone, Debug)]
struct EndedQuestion {
    code: Code,
    /// How, Markdown.
    text: String,
}

#[derive(Debug)]
struct Open<M> {
    request: ApprovalRequest,
    /// By the clock of [`Now::running`].
    since: Duration,
    stored: Stored,
    whole: Whole,
    /// Another question ended without an answer while this one was open: a message that names none
    /// may have been meant for that one.
    needs_code: bool,
    /// The engine has not confirmed it yet.
    answer: Option<Given<M>>,
}

/// Whether the bridge has stored the post that asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stored {
    NotYet,
    At(Timestamp),
    /// The bridge does not say when.
    Untimed,
}

/// Whether all that a question is about was shown.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Whole {
    InPrompt,
    /// The prompt is cut, and nobody was shown the rest.
    Hidden,
    /// The last of the posts that show it is on its way.
    Posting(ClientMsgId),
    /// When the bridge had it, if it says.
    Shown(Option<Timestamp>),
}

#[derive(Debug)]
struct Given<M> {
    verdict: Verdict,
    message: M,
    /// ` by` and who answered, or nothing.
    by: String,
}

impl<M> Open<M> {
    /// How much time is left, by the clock that leaves less.
    fn left(&self, now: Now) -> Duration {
        let limit = self.request.limit;
        let running = (self.since + limit).saturating_sub(now.running);
        running.min(self.request.asked_at.plus(limit).since(now.wall))
    }

    fn has_expired(&self, now: Now) -> bool {
        self.left(now).is_zero()
    }

    fn is(&self, key: &Key) -> bool {
        Key::of(&self.request) == *key
    }
}

struct QuestionEnd {
    outcome: Outcome,
    verdict: Option<Verdict>,
    /// What humans are told besides; nothing if a human's answer ends it.
    note: &'static str,
}

impl QuestionEnd {
    fn denied(outcome: Outcome, note: &'static str, reason: String) -> QuestionEnd {
        QuestionEnd { outcome, verdict: Some(Verdict::Deny { reason }), note }
    }

    fn gone(note: &'static str) -> QuestionEnd {
        QuestionEnd { outcome: Outcome::Gone, verdict: None, note }
    }
}

/// What is remembered of a thread beside its open questions.
#[derive(Debug, Default)]
struct Memory {
    /// Oldest first.
    past: VecDeque<EndedQuestion>,
    /// Messages that were answers.
    matched: VecDeque<MessageId>,
    /// The bridge's time of the latest answer: what is older may have been meant for its question.
    answered: Option<Timestamp>,
    /// A question was open just now: neither did its turn end since then, nor did the human say
    /// anything else.
    is_recent: bool,
    /// When it was used last, as [`PendingApprovals::uses`] counts.
    used: u64,
}

impl Memory {
    fn add(&mut self, code: Code, text: String) {
        if self.past.len() >= PAST_MAX {
            self.past.pop_front();
        }
        self.past.push_back(EndedQuestion { code, text });
        self.is_recent = true;
    }

    /// A message that was an answer is known when it arrives again.
    fn recognise(&mut self, id: Option<&MessageId>) {
        self.matched.extend(id.cloned());
        if self.matched.len() > MATCHED_MAX {
            self.matched.pop_front();
        }
    }
}

/// All pending approvals. `M` is what the caller knows a message by.
#[derive(Debug)]
pub struct PendingApprovals<M> {
    /// Oldest first.
    open: Vec<Open<M>>,
    threads: HashMap<ThreadId, Memory>,
    /// Counts the uses of threads, so that the least recently used is forgotten.
    uses: u64,
}

impl<M> Default for PendingApprovals<M> {
    fn default() -> PendingApprovals<M> {
        PendingApprovals { open: Vec::new(), threads: HashMap::new(), uses: 0 }
    }
}

impl<M> PendingApprovals<M> {
    /// Adds a question. Returns what has ended by that: the new one itself, refused, if too many are
    /// open or its code was used lately, and an earlier one under the same id or with the same code.
    pub fn ask(&mut self, request: ApprovalRequest, now: Now) -> Vec<Closed<M>> {
        let new = Key::of(&request);
        let count = self.open(&new.thread).count();
        let is_open = self.open(&new.thread).any(|open| open.code == new.code);
        let memory = self.memory(&new.thread);
        let is_taken = is_open || memory.past.iter().any(|past| past.code == new.code);
        let whole = if approval_prompt::is_cut(&request) { Whole::Hidden } else { Whole::InPrompt };
        let (since, stored) = (now.running, Stored::NotYet);
        self.open.push(Open { request, since, stored, whole, needs_code: false, answer: None });
        let refused =
            |reason: &str| QuestionEnd::denied(Outcome::Denied, texts::REFUSED, reason.to_owned());
        let mut closed = Vec::new();
        if is_taken || count >= OPEN_MAX {
            let reason = if is_taken { texts::CODE_IS_TAKEN } else { texts::TOO_MANY };
            closed.push(self.close(self.open.len() - 1, refused(reason)));
        }
        let earlier = |open: &Open<M>| {
            let key = Key { code: new.code, ..Key::of(&open.request) };
            (key == new && !open.is(&new)).then(|| QuestionEnd::gone(texts::WITHDRAWN))
        };
        closed.extend(self.close_all(earlier));
        // Two prompts with one code: an answer could be for either.
        let twin = |open: &Open<M>| {
            let is_twin = open.request.thread == new.thread && open.request.code == new.code;
            (is_twin && is_taken && open.answer.is_none()).then(|| refused(texts::CODE_IS_TAKEN))
        };
        closed.extend(self.close_all(twin));
        closed
    }

    /// The question of which a person wants to see the whole: that with this code, or the only one.
    ///
    /// # Errors
    /// What to tell them if there is none.
    pub fn to_show(
        &self,
        thread: &ThreadId,
        code: Option<Code>,
    ) -> Result<&ApprovalRequest, String> {
        let mut open = self.open(thread).filter(|it| code.is_none_or(|code| it.code == code));
        match (open.next(), open.next()) {
            (Some(request), None) => Ok(request),
            (None, _) => Err(self.nothing_to_show(thread)),
            (Some(_), Some(_)) => Err(texts::say_which_to_show(&self.codes(thread))),
        }
    }

    /// What to tell a person who wants to see a question that there is not.
    pub fn nothing_to_show(&self, thread: &ThreadId) -> String {
        texts::none_to_show(&self.codes(thread))
    }

    /// Posts show the whole of a question; `last` is the last of them.
    pub fn showing(&mut self, key: &Key, last: ClientMsgId) {
        let open = self.open.iter_mut().find(|open| open.is(key));
        if let Some(open) = open.filter(|open| open.whole == Whole::Hidden) {
            open.whole = Whole::Posting(last);
        }
    }

    /// A question's post, or the last of those that show it whole, is stored. `at` is the bridge's
    /// time of it, none if it gave none.
    pub fn stored(&mut self, post: &ClientMsgId, at: Option<Timestamp>) {
        for open in &mut self.open {
            if matches!(&open.whole, Whole::Posting(last) if last == post) {
                open.whole = Whole::Shown(at);
            }
        }
        for open in self.open.iter_mut().filter(|open| open.request.post == *post) {
            // The first time counts: a post that is sent again is stored once.
            if open.stored == Stored::NotYet {
                open.stored = at.map_or(Stored::Untimed, Stored::At);
            }
        }
    }

    /// The engine has the verdict of an [`Decided`]. None if the question has ended otherwise.
    pub fn confirmed(&mut self, key: &Key) -> Option<Closed<M>> {
        let at = self.open.iter().position(|open| open.answer.is_some() && open.is(key))?;
        let verdict = self.open[at].answer.as_ref()?.verdict.clone();
        let outcome = match verdict {
            Verdict::Allow => Outcome::Allowed,
            Verdict::AllowAlways => Outcome::Always,
            Verdict::Chosen(_) => Outcome::Answered,
            Verdict::Deny { .. } => Outcome::Denied,
        };
        Some(self.close(at, QuestionEnd { outcome, verdict: Some(verdict), note: "" }))
    }

    /// The engine no longer waits and was given no verdict: an answer that is on its way to it comes
    /// too late. None if the question has ended otherwise.
    pub fn withdrawn(&mut self, key: &Key) -> Option<Closed<M>> {
        let at = self.open.iter().position(|open| open.is(key))?;
        Some(self.close(at, QuestionEnd::gone(texts::WITHDRAWN)))
    }

    /// An [`Decided`] could not be carried out: the question waits for another one.
    pub fn reopen(&mut self, key: &Key) {
        if let Some(open) = self.open.iter_mut().find(|open| open.is(key)) {
            open.answer = None;
        }
    }

    /// A turn is over, and with it all that it asked.
    pub fn turn_ended(&mut self, thread: &ThreadId, turn: &TurnId) -> Vec<Closed<M>> {
        let is_over = |open: &Open<M>| open.request.thread == *thread && open.request.turn == *turn;
        let closed =
            self.close_all(|open| is_over(open).then(|| QuestionEnd::gone(texts::TURN_ENDED)));
        if let Some(memory) = self.threads.get_mut(thread) {
            memory.is_recent = false;
        }
        closed
    }

    /// These were open when an earlier daemon ended.
    pub fn orphaned(&mut self, thread: &ThreadId, codes: &[Code]) {
        if codes.is_empty() {
            return;
        }
        let memory = self.memory(thread);
        for code in codes {
            memory.add(*code, texts::orphaned(*code));
        }
    }

    /// How long until [`PendingApprovals::expire`] has something to do, by the clock that is there
    /// first.
    pub fn due(&self, now: Now) -> Option<Duration> {
        self.open.iter().filter(|open| open.answer.is_none()).map(|open| open.left(now)).min()
    }

    /// Ends what was not answered in time. The engines are to be told.
    pub fn expire(&mut self, now: Now) -> Vec<Closed<M>> {
        self.close_all(|open| {
            (open.answer.is_none() && open.has_expired(now)).then(|| {
                let reason = texts::not_answered(open.request.limit);
                QuestionEnd::denied(Outcome::Expired, texts::EXPIRED, reason)
            })
        })
    }

    /// The open questions of a thread, oldest first.
    pub fn open(&self, thread: &ThreadId) -> impl Iterator<Item = &ApprovalRequest> {
        self.open.iter().map(|open| &open.request).filter(move |request| request.thread == *thread)
    }

    /// Ends every open question for which `end` says how.
    fn close_all(&mut self, end: impl Fn(&Open<M>) -> Option<QuestionEnd>) -> Vec<Closed<M>> {
        let next = |open: &Vec<Open<M>>| {
            open.iter().enumerate().find_map(|(at, open)| Some((at, end(open)?)))
        };
        let mut closed = Vec::new();
        while let Some((at, end)) = next(&self.open) {
            closed.push(self.close(at, end));
        }
        closed
    }

    /// Removes an open question and says what is to be posted about it.
    fn close(
        &mut self,
        at: usize,
        QuestionEnd { outcome, verdict, note }: QuestionEnd,
    ) -> Closed<M> {
        let Open { request, answer, .. } = self.open.remove(at);
        if answer.is_none() {
            // A human who answers without a code now may not know yet that this one is over.
            let others = self.open.iter_mut().filter(|open| open.request.thread == request.thread);
            others.for_each(|open| open.needs_code = true);
        }
        let by = answer.as_ref().filter(|_| note.is_empty()).map_or("", |answer| &answer.by);
        let text = texts::closed(&request, outcome, by, note);
        let open: Vec<Code> = self.unanswered(&request.thread).map(|it| it.request.code).collect();
        let memory = self.memory(&request.thread);
        // A code that was refused because another question has it says what became of that one.
        if !memory.past.iter().any(|known| known.code == request.code)
            && !open.contains(&request.code)
        {
            memory.add(request.code, text.clone());
        }
        let body = if open.is_empty() { text } else { format!("{text}\n\n{}", texts::open(&open)) };
        let closing = Closing { code: request.code.to_string(), outcome };
        Closed { request, verdict, closing, body, answer: answer.map(|answer| answer.message) }
    }

    fn unanswered(&self, thread: &ThreadId) -> impl Iterator<Item = &Open<M>> {
        self.open.iter().filter(move |open| open.answer.is_none() && open.request.thread == *thread)
    }

    /// What is remembered of a thread; the one that was used least recently makes room for a new one.
    fn memory(&mut self, id: &ThreadId) -> &mut Memory {
        if self.threads.len() >= THREADS_MAX && !self.threads.contains_key(id) {
            let idle = self.threads.iter().filter(|(id, _)| self.open(id).next().is_none());
            let oldest = idle.min_by_key(|(_, memory)| memory.used).map(|(id, _)| id.clone());
            if let Some(oldest) = oldest {
                self.threads.remove(&oldest);
            }
        }
        self.uses += 1;
        let memory = self.threads.entry(id.clone()).or_default();
        memory.used = self.uses;
        memory
    }
}
