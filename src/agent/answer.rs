//! What of a model's words is the answer: one rule for all engines. Pure.
//!
//! What the main agent says is collected in segments. A **new** call of a tool ends a segment; so does
//! a model that is asked again because its stream broke off, and a change of the phase that the engine
//! gives a message. Nothing else does: no news of a call that is known, no thought, no plan, no other
//! message. The answer is the last segment that has words and was not called commentary by the engine
//! itself; only if there is none, the last one that was. Every other segment is commentary, and is
//! reported as [`TurnEvent::Commentary`] when it ends, because a person wants to read what was found
//! while the tool runs. So is the last one when the turn ends without an answer.
//!
//! What a subagent says is the subagent's, and is not handed in here.

use std::collections::VecDeque;

use super::{Actions, TurnEvent, text::ANSWER_BYTES};

/// Segments that are kept. opencode 1.18.33 sends the text of a part after the call that follows it.
const SEGMENTS_MAX: usize = 4;

/// Messages of a segment, and names of messages and calls, that are kept apart.
const NAMES_MAX: usize = 512;

/// What the engine itself says about a message (Codex: `commentary`, `final_answer`, or nothing).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// The engine does not say: the rule decides.
    #[default]
    Unmarked,
    Commentary,
}

impl Phase {
    pub fn named(name: &str) -> Phase {
        if name == "commentary" { Phase::Commentary } else { Phase::Unmarked }
    }
}

/// What the main agent has said in a turn.
#[derive(Debug, Default)]
pub struct Answer {
    over: VecDeque<Segment>,
    last: Segment,
    /// Calls and messages that were seen.
    calls: Names,
    dropped: Names,
}

#[derive(Debug, Default)]
struct Segment {
    phase: Phase,
    messages: Vec<Message>,
}

/// A message, or a part of one that the engine names. Each is a paragraph of its own.
#[derive(Debug, Default)]
struct Message {
    id: String,
    text: String,
    /// How much of it was reported as commentary.
    told: usize,
}

impl Answer {
    /// A piece of a message, as it is streamed. `id` is the message's; empty if the engine does not
    /// name its messages.
    pub fn chunk(&mut self, id: &str, chunk: &str, phase: Phase, actions: &mut Actions) {
        if chunk.is_empty() {
            return;
        }
        // An agent that names its messages says without a name what the model did not say.
        let is_notice = self.last.messages.iter().all(|message| message.id.is_empty());
        if !id.is_empty() && is_notice {
            self.end_segment(actions);
        }
        self.enter(phase, actions);
        let messages = &mut self.last.messages;
        let at = if id.is_empty() {
            messages.len().checked_sub(1)
        } else {
            messages.iter().position(|message| message.id == id)
        };
        match at {
            Some(at) => self.last.append(at, chunk),
            None => self.last.push(id, chunk),
        }
    }

    /// A whole message, or a named part as far as it is known: what comes again under its id replaces
    /// it. `id` is empty if there is none.
    pub fn message(&mut self, id: &str, text: &str, phase: Phase, actions: &mut Actions) {
        if self.dropped.has(id) {
            return;
        }
        if let Some(at) = self.last.position(id) {
            if self.last.phase == phase {
                return self.last.replace(at, text);
            }
            // Its phase was not known when it began.
            self.last.messages.remove(at);
        }
        let known = self.over.iter_mut().find_map(|segment| Some((segment.position(id)?, segment)));
        if let Some((at, segment)) = known {
            segment.replace(at, text);
            return segment.tell(actions);
        }
        self.enter(phase, actions);
        // A stream that breaks off and is taken up again repeats whole messages.
        let is_repeated = self.last.messages.last().is_some_and(|last| last.text == text);
        if !is_repeated || text.is_empty() {
            self.last.push(id, text);
        }
    }

    /// More of a named part that is known. Others are not the model's words.
    pub fn more(&mut self, id: &str, text: &str) {
        let segments = self.over.iter_mut().chain([&mut self.last]);
        let known = segments.into_iter().find_map(|it| Some((it.position(id)?, it)));
        if let Some((at, segment)) = known {
            segment.append(at, text);
        }
    }

    /// A call of a tool. It ends the segment if it is new; an empty `id` always is.
    pub fn call(&mut self, id: &str, actions: &mut Actions) {
        if !self.calls.has(id) {
            self.calls.add(id);
            self.end_segment(actions);
        }
    }

    /// What follows is no longer part of what was said until now: the model is asked again, or
    /// somebody else has the word.
    pub fn end_segment(&mut self, actions: &mut Actions) {
        if self.last.messages.is_empty() {
            return;
        }
        self.last.tell(actions);
        self.over.push_back(std::mem::take(&mut self.last));
        if self.over.len() > SEGMENTS_MAX {
            let answer = self.answering().unwrap_or(SEGMENTS_MAX);
            let dropped = self.over.remove(usize::from(answer == 0)).unwrap_or_default();
            for message in dropped.messages {
                self.dropped.add(&message.id);
            }
        }
    }

    /// Whether anything was said since the last call.
    pub fn has_last_words(&self) -> bool {
        self.last.has_words()
    }

    /// The answer as it stands. Empty if nothing was said.
    pub fn text(&self) -> String {
        self.answering().and_then(|at| self.segment(at)).map(Segment::text).unwrap_or_default()
    }

    /// Reports what was said and is not in the answer, if there is one.
    pub fn tell_rest(&mut self, has_answer: bool, actions: &mut Actions) {
        let answering = self.answering().filter(|_| has_answer);
        let segments = self.over.iter_mut().chain([&mut self.last]).enumerate();
        for (_, segment) in segments.filter(|(at, _)| answering != Some(*at)) {
            segment.tell(actions);
        }
    }

    /// A message of another phase begins a segment.
    fn enter(&mut self, phase: Phase, actions: &mut Actions) {
        if self.last.phase != phase {
            self.end_segment(actions);
            self.last.phase = phase;
        }
    }

    fn segment(&self, at: usize) -> Option<&Segment> {
        self.over.iter().chain([&self.last]).nth(at)
    }

    fn answering(&self) -> Option<usize> {
        let last_of = |phase: Option<Phase>| {
            let fits = |it: &Segment| it.has_words() && phase.is_none_or(|phase| it.phase == phase);
            (0..=self.over.len()).rev().find(|at| self.segment(*at).is_some_and(fits))
        };
        last_of(Some(Phase::Unmarked)).or_else(|| last_of(None))
    }
}

impl Segment {
    fn position(&self, id: &str) -> Option<usize> {
        self.messages.iter().position(|message| !id.is_empty() && message.id == id)
    }

    /// Bytes that it still takes.
    fn room(&self) -> usize {
        let used: usize = self.messages.iter().map(|message| message.text.len()).sum();
        ANSWER_BYTES.saturating_sub(used)
    }

    fn push(&mut self, id: &str, text: &str) {
        if self.messages.len() < NAMES_MAX {
            self.messages.push(Message { id: id.to_owned(), ..Message::default() });
        }
        self.append(self.messages.len() - 1, text);
    }

    fn append(&mut self, at: usize, text: &str) {
        let room = self.room();
        self.messages[at].text.push_str(&text[..text.floor_char_boundary(room)]);
    }

    fn replace(&mut self, at: usize, text: &str) {
        self.messages[at].text.clear();
        self.append(at, text);
    }

    fn has_words(&self) -> bool {
        self.messages.iter().any(|message| !message.text.trim().is_empty())
    }

    fn text(&self) -> String {
        paragraphs(self.messages.iter().map(|message| &message.text[..]))
    }

    /// Reports what was not reported yet.
    fn tell(&mut self, actions: &mut Actions) {
        let news = self.messages.iter_mut().map(|message| {
            let told = std::mem::replace(&mut message.told, message.text.len());
            message.text.get(told..).unwrap_or_default()
        });
        let news = paragraphs(news);
        if !news.is_empty() {
            actions.event(TurnEvent::Commentary(news));
        }
    }
}

/// What a line begins with may be meant so: a piece of code.
fn paragraphs<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    let texts = texts.map(|text| text.trim_end().trim_start_matches(['\r', '\n']));
    texts.filter(|text| !text.is_empty()).collect::<Vec<_>>().join("\n\n")
}

/// The newest names of their kind.
#[derive(Debug, Default)]
struct Names(VecDeque<String>);

impl Names {
    fn has(&self, name: &str) -> bool {
        self.0.iter().rev().any(|known| known == name)
    }

    fn add(&mut self, name: &str) {
        if name.is_empty() {
            return;
        }
        if self.0.len() == NAMES_MAX {
            self.0.pop_front();
        }
        self.0.push_back(name.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a model does: `m:words` is a chunk of the message m, `=m:words` the whole of it,
    /// `(words` a chunk of commentary, `(m:words` a whole message of it, `#call` a call, `|` a stream that broke off.
    #[track_caller]
    fn check(said: &[&str], expected: &str, commentary: &[&str]) {
        let (mut answer, mut actions) = (Answer::default(), Actions::default());
        for step in said {
            let (kind, rest) = step.split_at(step.len().min(1));
            let (id, text) = step.trim_start_matches('=').split_once(':').unwrap_or_default();
            match kind {
                "#" => answer.call(rest, &mut actions),
                "|" => answer.end_segment(&mut actions),
                "(" if rest.contains(':') => {
                    let id = id.trim_start_matches('(');
                    answer.message(id, text, Phase::Commentary, &mut actions);
                }
                "(" => answer.chunk("", rest, Phase::Commentary, &mut actions),
                "=" => answer.message(id, text, Phase::Unmarked, &mut actions),
                _ => answer.chunk(id, text, Phase::Unmarked, &mut actions),
            }
        }
        answer.tell_rest(true, &mut actions);
        assert_eq!(answer.text(), expected, "{said:?}");
        let told: Vec<TurnEvent> =
            commentary.iter().map(|it| TurnEvent::Commentary((*it).to_owned())).collect();
        assert_eq!(actions.events, told, "{said:?}");
    }

    #[test]
    fn the_last_segment_with_words_is_the_answer() {
        check(&[], "", &[]);
        check(&[":Hel", ":lo"], "Hello", &[]);
        check(&[":I will.", "#1", ":Done."], "Done.", &["I will."]);
        // What is known of a call ends nothing.
        check(&["#1", ":on", "#1", ":e ", "#1", ":two"], "one two", &[]);
        check(&["#1", ":one", "#", ":two"], "two", &["one"]);
        check(&["=:one", "=:two"], "one\n\ntwo", &[]);
        check(&["=:one", "#1", "=:two", "=:three"], "two\n\nthree", &["one"]);
    }

    /// It was reported when the call came, and is the answer all the same.
    #[test]
    fn words_before_the_last_call_are_an_answer() {
        check(&[":Done.", "#1"], "Done.", &["Done."]);
        check(&[":Done.", "#1", ":", ": \n"], "Done.", &["Done."]);
        check(&[":a", "#1", ":b", "#2", "#3", ": ", "#4", "#5", "#6"], "b", &["a", "b"]);
        check(
            &[":a", "#1", "=1:", "#2", "=2:", "#3", "=3:", "#4", "=4:", "#5", "=5:", "#6"],
            "a",
            &["a"],
        );
    }

    #[test]
    fn messages_are_paragraphs_and_names_bring_chunks_together() {
        check(&["1:a", "2:b", "2:c"], "a\n\nbc", &[]);
        check(&["1:a", "2:b", "1:c"], "ac\n\nb", &[]);
        check(&["1:a", ":b", "1:c"], "abc", &[]);
        check(&[":a notice", "1:a", "1:b"], "ab", &["a notice"]);
    }

    #[test]
    fn what_the_engine_calls_commentary_is_an_answer_only_if_there_is_none() {
        check(&["(look", "(ing", ":done"], "done", &["looking"]);
        check(&[":done", "(bye"], "done", &["done", "bye"]);
        check(&[":done", "#1", "(by", "(e", "#2", "(e"], "done", &["done", "bye", "e"]);
        check(&["(a", "#1", "(b"], "b", &["a"]);
        check(&["=1:loo", "(1:looking", "=2:done"], "done", &["looking"]);
    }

    #[test]
    fn a_repetition_is_not_added_up() {
        check(&["=1:done", "|", "=2:done"], "done", &["done"]);
        check(&["=1:done", "=2:done"], "done", &[]);
        check(&["=1:done", "=1:done"], "done", &[]);
    }

    /// opencode: a part is there before its words are, and these come after the call that follows.
    #[test]
    fn a_part_has_its_place_before_it_has_its_words() {
        check(&["=1:", "#1", "=1:before", "=2:", "=2:after"], "after", &["before"]);
        check(&["=1:", "#1", "=1:before"], "before", &["before"]);
        check(&["=1:", "#1", "=2:", "=2:after", "=1:before"], "after", &["before"]);
    }

    #[test]
    fn an_endless_answer_is_cut_at_a_character() {
        let (mut answer, mut actions) = (Answer::default(), Actions::default());
        answer.chunk("", "x", Phase::Unmarked, &mut actions);
        answer.chunk("", &"ä".repeat(ANSWER_BYTES), Phase::Unmarked, &mut actions);
        assert_eq!(answer.text().len(), ANSWER_BYTES - 1);
        for _ in 0..2 * NAMES_MAX {
            answer.message("", "y", Phase::Unmarked, &mut actions);
            answer.message("", "z", Phase::Unmarked, &mut actions);
        }
        assert!(answer.last.messages.len() <= NAMES_MAX && answer.text().len() < ANSWER_BYTES + 9);
    }
}
