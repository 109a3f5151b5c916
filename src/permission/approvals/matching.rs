//! What a message of a human is to the open questions of its thread. Pure.

use super::{
    Decided, EndedQuestion, Given, Incoming, Key, Match, Now, Open, PendingApprovals, Stored,
    Whole,
    choice::{self, NoChoice, own_words},
    texts,
};
use crate::{
    agent::Verdict,
    ids::ThreadId,
    permission::{
        answer::{self, Parsed},
        approval_prompt::{ApprovalRequest, clean},
        code::Code,
    },
    time::Timestamp,
};

impl<M> Open<M> {
    fn stored_at(&self) -> Option<Timestamp> {
        match self.stored {
            Stored::At(at) => Some(at),
            Stored::NotYet | Stored::Untimed => None,
        }
    }

    /// Whether a message is late by the bridge's times alone.
    fn is_late(&self, written: Option<Timestamp>) -> bool {
        let end = self.stored_at().map(|at| at.plus(self.request.limit));
        matches!((written, end), (Some(written), Some(end)) if end < written)
    }

    /// Whether the writer of a message may have seen this question.
    fn may_be_known(&self, written: Option<Timestamp>) -> bool {
        match self.stored {
            Stored::NotYet => false,
            Stored::At(at) => written.is_none_or(|written| at < written),
            Stored::Untimed => true,
        }
    }

    /// Whether the writer of a message may have been shown all of this question.
    fn was_shown(&self, written: Option<Timestamp>) -> bool {
        match self.whole {
            Whole::InPrompt => true,
            Whole::Hidden | Whole::Posting(_) => false,
            Whole::Shown(at) => !matches!((written, at), (Some(written), Some(at)) if written < at),
        }
    }

    /// What a text is to this question, which is what it is about. Nothing is allowed that was not
    /// shown whole.
    fn act(&self, parsed: Parsed<'_>, incoming: &Incoming<'_>) -> Match {
        let (parsed, says_whole) = match parsed {
            Parsed::ApproveWhole(code) => (Parsed::Approve(Some(code)), true),
            Parsed::AlwaysWhole(code) => (Parsed::Always(Some(code)), true),
            parsed => (parsed, false),
        };
        match act(&self.request, parsed, incoming.text) {
            Match::Answer(Decided { verdict: Verdict::Allow | Verdict::AllowAlways, .. })
                if !says_whole && !self.was_shown(incoming.written) =>
            {
                Match::Explain(texts::not_shown_whole(&self.request))
            }
            matched => matched,
        }
    }
}

impl<M> PendingApprovals<M> {
    /// Matches a human's message against the open questions.
    pub fn match_message(&mut self, incoming: &Incoming<'_>, message: M, now: Now) -> Match {
        let memory = self.threads.get(incoming.thread);
        if incoming.id.is_some_and(|id| memory.is_some_and(|it| it.matched.contains(id))) {
            return Match::Repeated;
        }
        let parsed = answer::read(incoming.text);
        let matched = match (parsed, parsed.code()) {
            _ if incoming.text.trim().is_empty() => Match::NotAnAnswer,
            (_, Some(code)) => self.match_code(code, parsed, incoming, now),
            (Parsed::Mistyped(name), _) => self.match_mistyped(name, incoming.thread),
            _ => self.match_bare(parsed, incoming, now),
        };
        let matched = match matched {
            Match::Answer(Decided { request, verdict })
                if incoming.is_by_token && !matches!(verdict, Verdict::Deny { .. }) =>
            {
                Match::Explain(texts::by_token(&request))
            }
            matched => matched,
        };
        if let Match::Answer(Decided { request, verdict }) = &matched {
            self.answer(&Key::of(request), verdict, incoming, message);
        }
        if let Some(memory) = self.threads.get_mut(incoming.thread) {
            match matched {
                Match::NotAnAnswer => memory.is_recent = false,
                _ => memory.recognise(incoming.id),
            }
        }
        matched
    }

    fn answer(&mut self, key: &Key, verdict: &Verdict, incoming: &Incoming<'_>, message: M) {
        let by = incoming.author.map(|author| clean::prose(author, 60)).filter(|by| !by.is_empty());
        let by = by.map(|by| format!(" by {}", clean::code(&by))).unwrap_or_default();
        for open in self.open.iter_mut().filter(|open| open.request.thread == key.thread) {
            // Without a time nothing shows whether another message is older than this answer.
            open.needs_code |= incoming.written.is_none();
        }
        if let Some(open) = self.open.iter_mut().find(|open| open.is(key)) {
            open.answer = Some(Given { verdict: verdict.clone(), message, by });
        }
        let memory = self.memory(&key.thread);
        memory.answered = memory.answered.max(incoming.written);
    }

    /// A text that names its question, which proves that it was written after it.
    fn match_code(
        &self,
        code: Code,
        parsed: Parsed<'_>,
        incoming: &Incoming<'_>,
        now: Now,
    ) -> Match {
        let thread = incoming.thread;
        let is_meant =
            |open: &&Open<M>| open.request.thread == *thread && open.request.code == code;
        let Some(open) = self.open.iter().find(is_meant) else {
            return self.match_unknown(code, parsed, thread);
        };
        if incoming.is_caught_up {
            return Match::Explain(caught_up(incoming.text));
        }
        if let Some(answer) = &open.answer {
            return Match::Explain(texts::answered_already(&open.request, &answer.by));
        }
        if open.has_expired(now) || open.is_late(incoming.written) {
            return Match::Explain(texts::late(&open.request));
        }
        // Some bridges count whole seconds, so the same time is no earlier one.
        let times = (incoming.written, open.stored_at());
        if matches!(times, (Some(written), Some(stored)) if written < stored) {
            return Match::Explain(texts::written_before(&open.request));
        }
        open.act(parsed, incoming)
    }

    /// A text with a code that no open question has.
    fn match_unknown(&self, code: Code, parsed: Parsed<'_>, thread: &ThreadId) -> Match {
        let past = self.threads.get(thread).into_iter().flat_map(|memory| &memory.past);
        if let Some(past) = past.rev().find(|past| past.code == code) {
            return Match::Explain(texts::over(&past.text));
        }
        let is_prose = matches!(parsed, Parsed::Choose { words, .. } if !answer::is_numbers(words));
        let open = self.codes(thread);
        if is_prose && open.is_empty() {
            return Match::NotAnAnswer;
        }
        Match::Explain(texts::unknown(&code.to_string(), &open))
    }

    fn match_mistyped(&self, name: &str, thread: &ThreadId) -> Match {
        if self.open(thread).next().is_none() && self.just_closed(thread).is_none() {
            return Match::NotAnAnswer;
        }
        Match::Explain(texts::unknown(&clean::prose(name, 16), &self.codes(thread)))
    }

    /// A text that names no question is about the only one that is open, or about none.
    fn match_bare(&self, parsed: Parsed<'_>, incoming: &Incoming<'_>, now: Now) -> Match {
        let Incoming { thread, written, .. } = *incoming;
        let pending: Vec<&Open<M>> = self.unanswered(thread).collect();
        let has_choices = |open: &&Open<M>| !open.request.question.choices.is_empty();
        let is_answer = parsed.is_answer()
            || (answer::is_numbers(incoming.text) && pending.iter().any(has_choices));
        let explain_if_answer =
            |text: String| if is_answer { Match::Explain(text) } else { Match::NotAnAnswer };
        let request: Vec<&ApprovalRequest> = pending.iter().map(|open| &open.request).collect();
        let name_the_code = |why| texts::name_the_code(&request, why);
        if pending.iter().all(|open| open.has_expired(now)) {
            return self.why_idle(thread).map_or(Match::NotAnAnswer, explain_if_answer);
        }
        if incoming.is_caught_up {
            return explain_if_answer(caught_up(incoming.text));
        }
        // One whose post is not stored cannot have been seen. If the bridge has it and only its
        // response is missing, an answering word is asked for the code and nothing is lost.
        if !pending.iter().any(|open| open.may_be_known(written)) {
            return explain_if_answer(name_the_code(texts::EARLY));
        }
        let [open] = pending[..] else {
            return Match::Explain(name_the_code(""));
        };
        let matched = open.act(parsed, incoming);
        let is_consent =
            matches!(&matched, Match::Answer(it) if !matches!(it.verdict, Verdict::Deny { .. }));
        if !is_consent {
            return matched;
        }
        if open.is_late(written) {
            return Match::Explain(texts::late(&open.request));
        }
        let why = if written.is_none() || open.stored_at().is_none() {
            texts::NO_TIMES
        } else if open.needs_code
            || self.threads.get(thread).is_some_and(|it| written <= it.answered)
        {
            texts::ANOTHER_ENDED
        } else {
            return matched;
        };
        Match::Explain(name_the_code(why))
    }

    /// Why an answering word answers nothing although a question was there just now; none if there
    /// was none. People say `yes` to prose as well.
    fn why_idle(&self, thread: &ThreadId) -> Option<String> {
        let last = self.open.iter().rfind(|open| open.request.thread == *thread);
        match last {
            Some(Open { request, answer: Some(answer), .. }) => {
                Some(texts::answered_already(request, &answer.by))
            }
            Some(open) => Some(texts::late(&open.request)),
            None => self.just_closed(thread).map(|past| texts::over(&past.text)),
        }
    }

    fn just_closed(&self, thread: &ThreadId) -> Option<&EndedQuestion> {
        self.threads.get(thread).filter(|memory| memory.is_recent)?.past.back()
    }

    /// The codes of what is not answered.
    pub(super) fn codes(&self, thread: &ThreadId) -> Vec<Code> {
        self.unanswered(thread).map(|open| open.request.code).collect()
    }
}

fn caught_up(text: &str) -> String {
    texts::caught_up(&clean::code(&clean::prose(text, 40)))
}

/// What a text is to the question that it is about.
fn act(request: &ApprovalRequest, parsed: Parsed<'_>, text: &str) -> Match {
    let choices = &request.question.choices;
    let words = match parsed {
        Parsed::Choose { words, .. } => words,
        _ => text.trim(),
    };
    let verdict = match (parsed, answer::read(words)) {
        (Parsed::Deny { code: Some(_), reason }, _) => Ok(deny(reason)),
        (Parsed::Always(Some(_)), _) if !choices.is_empty() => Err(texts::no_rule(request)),
        (Parsed::Approve(Some(_)), _) if !choices.is_empty() => Err(texts::stays_open(request, "")),
        (_, Parsed::Deny { code: None, reason }) if !choice::is_option(choices, words) => {
            Ok(deny(reason))
        }
        (_, said) if !choices.is_empty() => match choice::read(choices, words) {
            Ok(all) => Ok(Verdict::Chosen(all)),
            Err(NoChoice::Wrong(why)) => Err(texts::stays_open(request, &why)),
            Err(NoChoice::Other) if said.is_answer() => Err(texts::stays_open(request, "")),
            Err(NoChoice::Other) => Ok(deny(Some(words))),
        },
        (Parsed::Approve(_), _) => Ok(Verdict::Allow),
        (Parsed::Always(_), _) if request.always.is_some() => Ok(Verdict::AllowAlways),
        (Parsed::Always(_), _) => Err(texts::no_rule(request)),
        (Parsed::Other(text), _) => Ok(deny(Some(text))),
        (Parsed::Choose { .. }, Parsed::Other(words)) if !answer::is_numbers(words) => {
            Ok(deny(Some(words)))
        }
        // Not one of the forms that allow, and not clear enough to refuse.
        _ => Err(texts::stays_open(request, "")),
    };
    match verdict {
        Ok(verdict) => Match::Answer(Decided { request: Box::new(request.clone()), verdict }),
        Err(text) => Match::Explain(text),
    }
}

fn deny(text: Option<&str>) -> Verdict {
    let words = text.map(str::trim).filter(|text| !text.is_empty());
    let reason = words.map_or_else(texts::denied, |text| texts::denied_because(&own_words(text)));
    Verdict::Deny { reason }
}
