//! Control words: what a person says to the daemon, and not to the engine. Pure.
//!
//! The coordinator obeys them as soon as the thread is known to be ours, ahead of everything that
//! waits. A stop applies to what was written before it and to nothing newer: it may be read late,
//! when catching up or after a crash. It stays in the inbox until the turn that it stops is over, so
//! that a crash in between does not forget that the turn was to be stopped.

use std::collections::{BTreeMap, HashMap};

use super::message::Message;
use crate::{ids::ThreadId, permission::code::Code, store::entry::EntryId, time::Timestamp};

/// A control word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// Interrupt the turn that runs.
    Stop,
    /// And drop what waits.
    StopAll,
    /// Say what happens on the thread.
    Status,
    /// List what waits.
    Queue,
    /// Give the next message a session of its own.
    New,
    /// Show the whole of a question that was cut.
    Show(Wanted),
    /// List the words.
    Help,
}

/// The question that is to be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The only one.
    Any,
    Code(Code),
    /// What was meant as a code is none.
    Mistyped,
}

/// Reads a message: it is a control word if it is nothing else, blanks and case aside. Everything
/// else that begins with a slash is text for the engine.
pub fn read(body: &str) -> Option<Word> {
    /// No word is longer, and bodies may be megabytes long.
    const LEN_MAX: usize = 16;
    let body = body.trim();
    if !body.starts_with('/') || LEN_MAX < body.len() {
        return None;
    }
    let words: Vec<String> = body.split_whitespace().map(str::to_ascii_lowercase).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["/stop"] => Some(Word::Stop),
        ["/stop", "all"] => Some(Word::StopAll),
        ["/status"] => Some(Word::Status),
        ["/queue"] => Some(Word::Queue),
        ["/new"] => Some(Word::New),
        ["/help"] => Some(Word::Help),
        ["/show"] => Some(Word::Show(Wanted::Any)),
        // An agent's own command of this name would hardly have such an operand.
        ["/show", code] => Some(Word::Show(code.parse().map_or(Wanted::Mistyped, Wanted::Code))),
        _ => None,
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct StopOutcome {
    /// It was `/stop all`.
    pub(super) is_all: bool,
    /// A turn, or a message that waited for its turn, was stopped, and a post says so.
    pub(super) had_turn: bool,
    /// Messages that were dropped.
    pub(super) cleared: usize,
    /// Messages that still wait.
    pub(super) waiting: usize,
}

/// Stops that are not done: each waits for the end of the turn that it stops.
#[derive(Debug, Default)]
pub(super) struct Stops {
    open: BTreeMap<EntryId, Stop>,
    /// Up to when everything on a thread was dropped, for messages that come in late. As many as
    /// there are threads on which this process read `/stop all`.
    cleared: HashMap<ThreadId, Timestamp>,
}

#[derive(Debug)]
struct Stop {
    message: Message,
    /// The message whose turn is being stopped.
    target: EntryId,
    /// Messages that it dropped.
    cleared: usize,
}

impl Stops {
    /// A stop waits for the end of the turn of `target`.
    pub(super) fn open(&mut self, target: EntryId, message: Message, cleared: usize) {
        self.open.insert(message.entry, Stop { message, target, cleared });
    }

    /// The stops of a message whose turn is over, each with the number of messages it dropped.
    pub(super) fn over(&mut self, target: EntryId) -> Vec<(Message, usize)> {
        let over = self.open.extract_if(.., |_, stop| stop.target == target);
        over.map(|(_, stop)| (stop.message, stop.cleared)).collect()
    }

    /// Everything on the thread that was written before this message is dropped.
    pub(super) fn clear(&mut self, stop: &Message) {
        if let Some(time) = stop.written() {
            let newest = self.cleared.entry(stop.thread().clone()).or_insert(time);
            *newest = time.max(*newest);
        }
    }

    /// Whether a message comes in after it was dropped. What had begun was stopped, or will be.
    pub(super) fn is_cleared(&self, message: &Message) -> bool {
        let until = self.cleared.get(message.thread());
        message.progress.is_none()
            && until.is_some_and(|until| message.written().is_some_and(|written| written < *until))
    }

    pub(super) fn len(&self) -> usize {
        self.open.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_exact_but_for_blanks_and_case() {
        #[track_caller]
        fn check(body: &str, expected: Option<Word>) {
            assert_eq!(read(body), expected, "{body:?}");
        }
        check("/stop", Some(Word::Stop));
        check(" /Stop\n", Some(Word::Stop));
        check("/STOP  All", Some(Word::StopAll));
        check("/status", Some(Word::Status));
        check("/queue", Some(Word::Queue));
        check("/new", Some(Word::New));
        check("/help", Some(Word::Help));
        check("/show", Some(Word::Show(Wanted::Any)));
        let code = "K7Q2".parse().unwrap();
        check(" /SHOW  k7q2\n", Some(Word::Show(Wanted::Code(code))));
        check("/show K702", Some(Word::Show(Wanted::Mistyped)));
        check("/show me K7Q2", None);
        for text in [
            "",
            "/",
            "stop",
            "//stop",
            "/stop all now",
            "/stop it",
            "/stopall",
            "/new session",
            "/compact",
            "please /stop",
            "/ stop",
            "`/stop`",
            "/ѕtop",
            "/help me",
        ] {
            check(text, None);
        }
        check(&format!("/stop{}all", " ".repeat(1 << 20)), None);
    }
}
