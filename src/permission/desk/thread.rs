//! The questions of one thread, and what a message is to them. Pure.

use std::{collections::VecDeque, time::Duration};

use super::{
    Closed, Decision, Fate, HEARD_MAX, Heard, Hearing, How, Key, Now, OPEN_MAX, PARKED_MAX,
    PAST_MAX, Past,
    choice::{self, Chosen, own_words},
    words,
};
use crate::{
    agent::{QuestionId, Verdict},
    bridge::wire::Closing,
    ids::{ClientMsgId, MessageId, TurnId},
    permission::{
        answer::{self, Spoken},
        card::{self, Asked, clean},
        code::Code,
    },
    time::Timestamp,
};

#[derive(Debug)]
pub(super) struct Thread<M> {
    /// Oldest first.
    open: Vec<Open<M>>,
    /// Oldest first.
    past: VecDeque<Past>,
    parked: Vec<(Option<MessageId>, M)>,
    heard: VecDeque<MessageId>,
    /// The turn that asked last and still runs.
    asking: Option<TurnId>,
    /// Questions died with an earlier daemon, and the human has said nothing else since.
    has_died: bool,
    /// When it was written to last, as the desk counts.
    pub(super) used: u64,
}

#[derive(Debug)]
struct Open<M> {
    asked: Asked,
    /// By the clock of [`Now::running`].
    since: Duration,
    posted: Posted,
    /// An older one ended without an answer while this was open. A word without a code may have been
    /// meant for that one.
    needs_code: bool,
    /// Answered; the worker has not confirmed it yet.
    answer: Option<Answer<M>>,
}

/// Whether the post that asks is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Posted {
    NotYet,
    /// At this time of the server's.
    At(Timestamp),
    /// The bridge does not say when.
    Untimed,
}

#[derive(Debug)]
struct Answer<M> {
    verdict: Verdict,
    message: M,
    by: String,
    /// It named no question, and more than one was open.
    is_guess: bool,
}

/// What a text is to a question.
enum Act {
    Decide(Verdict),
    Say(String),
}

impl Act {
    fn is_consent(&self) -> bool {
        matches!(self, Act::Decide(Verdict::Allow | Verdict::AllowAlways | Verdict::Chosen(_)))
    }
}

impl<M> Default for Thread<M> {
    fn default() -> Thread<M> {
        Thread {
            open: Vec::new(),
            past: VecDeque::new(),
            parked: Vec::new(),
            heard: VecDeque::new(),
            asking: None,
            has_died: false,
            used: 0,
        }
    }
}

impl<M> Open<M> {
    /// How much time is left, by the clock that leaves less.
    fn left(&self, now: Now) -> Duration {
        let limit = self.asked.limit;
        let running = (self.since + limit).saturating_sub(now.running);
        running.min(self.asked.asked_at.plus(limit).since(now.wall))
    }

    fn has_expired(&self, now: Now) -> bool {
        self.left(now).is_zero()
    }

    fn posted_at(&self) -> Option<Timestamp> {
        match self.posted {
            Posted::At(at) => Some(at),
            Posted::NotYet | Posted::Untimed => None,
        }
    }

    /// Whether a message is late by the server's times alone.
    fn is_late(&self, written: Option<Timestamp>) -> bool {
        let end = self.posted_at().map(|at| at.plus(self.asked.limit));
        matches!((written, end), (Some(written), Some(end)) if end < written)
    }
}

impl<M: Clone> Thread<M> {
    pub(super) fn is_resting(&self) -> bool {
        self.open.is_empty() && self.parked.is_empty()
    }

    pub(super) fn open(&self) -> impl Iterator<Item = &Asked> {
        self.open.iter().map(|open| &open.asked)
    }

    pub(super) fn ask(&mut self, asked: Asked, now: Now) -> Vec<Closed<M>> {
        self.has_died = false;
        self.asking = Some(asked.turn.clone());
        let same = |open: &Open<M>| {
            open.asked.turn == asked.turn && open.asked.question.id == asked.question.id
        };
        let earlier = self.open.iter().position(same);
        let mut closed: Vec<_> =
            earlier.map(|at| self.close(at, Fate::Withdrawn, None)).into_iter().collect();
        let is_taken = self.open().any(|open| open.code == asked.code)
            || self.past.iter().any(|past| past.code == asked.code);
        // Two cards with one code: nobody could say which of them an answer is for.
        let twin = |open: &Open<M>| open.asked.code == asked.code && open.answer.is_none();
        if let Some(at) = self.open.iter().position(twin) {
            let verdict = Verdict::Deny { reason: words::code_is_taken() };
            closed.push(self.close(at, Fate::Refused, Some(verdict)));
        }
        let reason = if self.open.len() >= OPEN_MAX {
            Some(words::too_many(self.open.len()))
        } else {
            is_taken.then(words::code_is_taken)
        };
        self.open.push(Open {
            asked,
            since: now.running,
            posted: Posted::NotYet,
            needs_code: false,
            answer: None,
        });
        if let Some(reason) = reason {
            let verdict = Verdict::Deny { reason };
            closed.push(self.close(self.open.len() - 1, Fate::Refused, Some(verdict)));
        }
        closed
    }

    pub(super) fn posted(&mut self, post: &ClientMsgId, at: Option<Timestamp>) {
        for open in self.open.iter_mut().filter(|open| open.asked.post == *post) {
            // The first word counts: a post that is sent again is stored once.
            if open.posted == Posted::NotYet {
                open.posted = at.map_or(Posted::Untimed, Posted::At);
            }
        }
    }

    pub(super) fn released(&mut self, now: Now) -> Vec<M> {
        let waits = self.oldest(now).is_some_and(|at| self.open[at].posted == Posted::NotYet);
        if waits {
            return Vec::new();
        }
        self.parked.drain(..).map(|(_, message)| message).collect()
    }

    pub(super) fn confirmed(&mut self, key: &Key, taken: bool) -> Option<Closed<M>> {
        let is_meant = |open: &Open<M>| open.answer.is_some() && Key::of(&open.asked) == *key;
        let at = self.open.iter().position(is_meant)?;
        let verdict = self.open[at].answer.as_ref()?.verdict.clone();
        let closed = if taken {
            self.close(at, Fate::of(&verdict), Some(verdict))
        } else {
            self.close(at, Fate::Withdrawn, None)
        };
        Some(closed)
    }

    pub(super) fn decided(&self, key: &Key) -> Option<&Asked> {
        let is_meant = |open: &&Open<M>| open.answer.is_some() && Key::of(&open.asked) == *key;
        self.open.iter().find(is_meant).map(|open| &open.asked)
    }

    pub(super) fn reopen(&mut self, key: &Key) {
        for open in self.open.iter_mut().filter(|open| Key::of(&open.asked) == *key) {
            open.answer = None;
        }
    }

    pub(super) fn gone(&mut self, turn: &TurnId, question: &QuestionId) -> Option<Closed<M>> {
        let is_meant = |open: &Open<M>| {
            open.answer.is_none() && open.asked.turn == *turn && open.asked.question.id == *question
        };
        let at = self.open.iter().position(is_meant)?;
        Some(self.close(at, Fate::Withdrawn, None))
    }

    pub(super) fn turn_ended(&mut self, turn: &TurnId) -> Vec<Closed<M>> {
        let mut closed = Vec::new();
        while let Some(at) = self.open.iter().position(|open| open.asked.turn == *turn) {
            closed.push(self.close(at, Fate::Ended, None));
        }
        if self.asking.as_ref() == Some(turn) {
            self.asking = None;
        }
        closed
    }

    pub(super) fn died(&mut self, codes: &[Code]) {
        self.has_died = true;
        for code in codes {
            self.remember(Past { code: *code, turn: None, fate: Fate::Died, by: String::new() });
        }
    }

    pub(super) fn due(&self, now: Now) -> Option<Duration> {
        self.open.iter().filter(|open| open.answer.is_none()).map(|open| open.left(now)).min()
    }

    pub(super) fn expire(&mut self, now: Now) -> Vec<Closed<M>> {
        let mut closed = Vec::new();
        let is_over = |open: &Open<M>| open.answer.is_none() && open.has_expired(now);
        while let Some(at) = self.open.iter().position(is_over) {
            let reason = words::nobody_answered(self.open[at].asked.limit);
            closed.push(self.close(at, Fate::Expired, Some(Verdict::Deny { reason })));
        }
        closed
    }

    pub(super) fn hear(&mut self, heard: &Heard<'_>, message: &M, now: Now) -> Hearing {
        if heard.id.is_some_and(|id| self.is_repeated(id)) {
            return Hearing::Repeated;
        }
        let spoken = answer::read(heard.text);
        let hearing = match (spoken, spoken.code()) {
            _ if heard.text.trim().is_empty() => Hearing::NotAnAnswer,
            (_, Some(code)) => self.hear_named(code, spoken, heard, message, now),
            (Spoken::Mistyped(name), _) => self.hear_mistyped(name),
            _ => self.hear_bare(spoken, heard, message, now),
        };
        match hearing {
            Hearing::Decide(_) | Hearing::Reply(_) => {
                self.heard.extend(heard.id.cloned());
                if self.heard.len() > HEARD_MAX {
                    self.heard.pop_front();
                }
            }
            Hearing::NotAnAnswer => self.has_died = false,
            Hearing::Park | Hearing::Repeated => {}
        }
        hearing
    }

    pub(super) fn is_repeated(&self, id: &MessageId) -> bool {
        self.heard.contains(id) || self.parked.iter().any(|(parked, _)| parked.as_ref() == Some(id))
    }

    /// An answer that names its question, which proves that it was written after it.
    fn hear_named(
        &mut self,
        code: Code,
        spoken: Spoken<'_>,
        heard: &Heard<'_>,
        message: &M,
        now: Now,
    ) -> Hearing {
        let Some(at) = self.open.iter().position(|open| open.asked.code == code) else {
            if let Some(past) = self.past.iter().rev().find(|past| past.code == code) {
                return Hearing::Reply(words::story(past));
            }
            let is_prose =
                matches!(spoken, Spoken::Choose { words, .. } if !answer::is_numbers(words));
            return if is_prose && self.open.is_empty() {
                Hearing::NotAnAnswer
            } else {
                Hearing::Reply(words::unknown(code, &self.codes()))
            };
        };
        let open = &self.open[at];
        if heard.how == How::CaughtUp {
            return Hearing::Reply(caught_up(heard));
        }
        if let Some(answer) = &open.answer {
            return Hearing::Reply(words::being_told(&open.asked, &answer.by));
        }
        if open.has_expired(now) || open.is_late(heard.written) {
            return Hearing::Reply(words::late(&open.asked));
        }
        // Some bridges count whole seconds, so the same time is no earlier one.
        let is_before = matches!((heard.written, open.posted_at()), (Some(w), Some(p)) if w < p);
        if is_before {
            return Hearing::Reply(words::written_before(&open.asked));
        }
        let act = act(&open.asked, spoken, heard.text);
        self.carry_out(at, act, heard, message, false)
    }

    fn hear_mistyped(&self, name: &str) -> Hearing {
        if self.open.is_empty() && self.just_closed().is_none() {
            return Hearing::NotAnAnswer;
        }
        let name = clean::code(&clean::prose(name, 16));
        Hearing::Reply(words::mistyped(&name, &self.codes()))
    }

    /// A text that names no question is about the oldest, or about none.
    fn hear_bare(
        &mut self,
        spoken: Spoken<'_>,
        heard: &Heard<'_>,
        message: &M,
        now: Now,
    ) -> Hearing {
        let Some(at) = self.oldest(now) else {
            return if spoken.is_answer() { self.hear_idle() } else { Hearing::NotAnAnswer };
        };
        let open = &self.open[at];
        let asked = &open.asked;
        let has_choices = !asked.question.choices.is_empty();
        let is_number = answer::is_numbers(heard.text);
        let is_answer = spoken.is_answer() || (has_choices && is_number);
        if heard.how == How::CaughtUp {
            return if is_answer { Hearing::Reply(caught_up(heard)) } else { Hearing::NotAnAnswer };
        }
        if open.posted == Posted::NotYet {
            if self.parked.len() >= PARKED_MAX {
                return Hearing::NotAnAnswer;
            }
            self.parked.push((heard.id.cloned(), message.clone()));
            return Hearing::Park;
        }
        let act = act(asked, spoken, heard.text);
        match (heard.written, open.posted_at()) {
            (Some(written), Some(posted)) if written <= posted => {
                return if is_answer {
                    Hearing::Reply(words::written_before(asked))
                } else {
                    Hearing::NotAnAnswer
                };
            }
            (None, _) | (_, None) if act.is_consent() => {
                return Hearing::Reply(words::name_the_code(asked, words::NO_TIMES));
            }
            _ => {}
        }
        if act.is_consent() && open.is_late(heard.written) {
            return Hearing::Reply(words::late(asked));
        }
        if act.is_consent() && open.needs_code {
            return Hearing::Reply(words::name_the_code(asked, words::ANOTHER_LAPSED));
        }
        let others_choose = self.open().any(|open| !open.question.choices.is_empty());
        if is_number && !has_choices && others_choose {
            return Hearing::Reply(words::name_the_code(asked, words::OLDEST_IS_NO_CHOICE));
        }
        self.carry_out(at, act, heard, message, true)
    }

    /// An answering word while nothing waits for one. People say `yes` to prose as well, so it is an
    /// answer only if a question was there just now.
    fn hear_idle(&self) -> Hearing {
        if let Some(open) = self.open.last() {
            return Hearing::Reply(match &open.answer {
                Some(answer) => words::being_told(&open.asked, &answer.by),
                None => words::late(&open.asked),
            });
        }
        match self.just_closed() {
            Some(past) => Hearing::Reply(words::nothing_open(past)),
            None => Hearing::NotAnAnswer,
        }
    }

    /// The last question, if its turn still runs, or if it died and nothing was said since.
    fn just_closed(&self) -> Option<&Past> {
        let last = self.past.back()?;
        let is_recent = match &last.turn {
            Some(turn) => self.asking.as_ref() == Some(turn),
            None => self.has_died,
        };
        is_recent.then_some(last)
    }

    /// The oldest question that can still be answered.
    fn oldest(&self, now: Now) -> Option<usize> {
        self.open.iter().position(|open| open.answer.is_none() && !open.has_expired(now))
    }

    /// The codes of what is not answered.
    fn codes(&self) -> Vec<Code> {
        let open = self.open.iter().filter(|open| open.answer.is_none());
        open.map(|open| open.asked.code).collect()
    }

    fn carry_out(
        &mut self,
        at: usize,
        act: Act,
        heard: &Heard<'_>,
        message: &M,
        is_bare: bool,
    ) -> Hearing {
        let verdict = match act {
            Act::Say(text) => return Hearing::Reply(text),
            Act::Decide(verdict) => verdict,
        };
        let is_guess = is_bare && self.codes().len() > 1;
        let by = heard.author.map(|author| clean::prose(author, 60));
        let by = by.filter(|by| !by.is_empty());
        let by = by.map(|by| format!(" by {}", clean::code(&by))).unwrap_or_default();
        let message = message.clone();
        let open = &mut self.open[at];
        open.answer = Some(Answer { verdict: verdict.clone(), message, by, is_guess });
        Hearing::Decide(Decision { key: Key::of(&open.asked), verdict })
    }

    /// Takes a question off the desk and says what is to be posted about it.
    fn close(&mut self, at: usize, fate: Fate, verdict: Option<Verdict>) -> Closed<M> {
        let Open { asked, answer, .. } = self.open.remove(at);
        if answer.is_none() && fate != Fate::Refused {
            // Whoever answers without a code now may not know yet that this one is over.
            self.open[at..].iter_mut().for_each(|younger| younger.needs_code = true);
        }
        let is_answered =
            matches!(fate, Fate::Allowed | Fate::Always | Fate::Denied | Fate::Answered);
        let by =
            answer.as_ref().filter(|_| is_answered).map(|it| it.by.clone()).unwrap_or_default();
        let past = Past { code: asked.code, turn: Some(asked.turn.clone()), fate, by };
        let rule = asked.always.as_deref().map(|rule| clean::code(&clean::name(rule, 200)));
        let mut body = words::closed(&past, &card::summary(&asked.question), rule.as_deref());
        if is_answered && answer.as_ref().is_some_and(|answer| answer.is_guess) {
            body = format!("{body}\n\n{}", words::went_to_the_oldest());
        }
        let open = self.codes();
        if !open.is_empty() {
            body = format!("{body}\n\n{}", words::still_open(&open));
        }
        // A code that was refused because it belongs to another question keeps that one's story.
        if !self.past.iter().any(|known| known.code == past.code) && !open.contains(&past.code) {
            self.remember(past);
        }
        let closing = Closing { code: asked.code.to_string(), outcome: fate.outcome() };
        Closed { asked, verdict, closing, body, answer: answer.map(|answer| answer.message) }
    }

    fn remember(&mut self, past: Past) {
        if self.past.len() >= PAST_MAX {
            self.past.pop_front();
        }
        self.past.push_back(past);
    }
}

fn caught_up(heard: &Heard<'_>) -> String {
    words::caught_up(&clean::code(&clean::prose(heard.text, 40)))
}

fn deny(text: Option<&str>) -> Act {
    let words = text.map(str::trim).filter(|text| !text.is_empty());
    let reason = words.map_or_else(words::denied, |text| words::denied_because(&own_words(text)));
    Act::Decide(Verdict::Deny { reason })
}

/// What a text is to the question that it is about.
fn act(asked: &Asked, spoken: Spoken<'_>, text: &str) -> Act {
    if !asked.question.choices.is_empty() {
        return act_on_choice(asked, spoken, text);
    }
    match spoken {
        Spoken::Approve(_) => Act::Decide(Verdict::Allow),
        Spoken::Always(_) if asked.always.is_some() => Act::Decide(Verdict::AllowAlways),
        Spoken::Always(_) => Act::Say(words::no_rule(asked)),
        Spoken::Deny { reason, .. } => deny(reason),
        Spoken::Other(text) => deny(Some(text)),
        Spoken::Mistyped(_) => Act::Say(words::not_an_answer(asked, "")),
        Spoken::Choose { words, .. } => match answer::read(words) {
            Spoken::Deny { code: None, reason } => deny(reason),
            Spoken::Other(words) if !answer::is_numbers(words) => deny(Some(words)),
            // Not one of the forms that allow, and not clear enough to refuse.
            _ => Act::Say(words::not_an_answer(asked, "")),
        },
    }
}

fn act_on_choice(asked: &Asked, spoken: Spoken<'_>, text: &str) -> Act {
    let choices = &asked.question.choices;
    let words = match spoken {
        Spoken::Deny { code: Some(_), reason } => return deny(reason),
        Spoken::Approve(Some(_)) => return Act::Say(words::not_an_answer(asked, "")),
        Spoken::Always(Some(_)) => return Act::Say(words::no_rule(asked)),
        Spoken::Choose { words, .. } => words,
        _ => text.trim(),
    };
    let said = answer::read(words);
    if let Spoken::Deny { reason, .. } = said
        && !choice::is_option(choices, words)
    {
        return deny(reason);
    }
    match choice::read(choices, words) {
        Chosen::All(all) => Act::Decide(Verdict::Chosen(all)),
        Chosen::Wrong(why) => Act::Say(words::not_an_answer(asked, &why)),
        Chosen::NoChoice if said.is_answer() => Act::Say(words::not_an_answer(asked, "")),
        Chosen::NoChoice => deny(Some(words)),
    }
}
