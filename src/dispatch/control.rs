//! Control words: what a person says to the daemon, and not to the engine. Pure.
//!
//! They are carried out as soon as the thread is known to be ours, ahead of everything that waits.
//! A stop concerns what was written before it and nothing newer: it may be read late, when catching
//! up or after a crash. It is done with when the turn that it stops is over, so that a crash in
//! between does not forget that the human wanted it stopped.

use std::collections::{BTreeMap, HashMap};

use crate::{
    bridge::wire::Reply, dispatch::Message, ids::ThreadId, store::entry::EntryId, time::Timestamp,
};

/// A control word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// Interrupt the turn that runs.
    Stop,
    /// And forget what waits.
    StopAll,
    /// Say what happens on the thread.
    Status,
    /// List what waits.
    Queue,
    /// Give the next message a session of its own.
    New,
    /// Name the words.
    Help,
}

/// Reads a message: it is a control word if it is nothing else, blanks and case aside. What else
/// begins with a slash is text for the engine.
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
        _ => None,
    }
}

/// Whether a message was written after another: by the server's times, or, where they do not tell,
/// by the order in which the two arrived.
pub fn is_newer(entry: EntryId, reply: &Reply, than: EntryId, other: &Reply) -> bool {
    match (written(reply), written(other)) {
        (Some(time), Some(other)) if time != other => other < time,
        _ => than < entry,
    }
}

fn written(reply: &Reply) -> Option<Timestamp> {
    reply.created_at.as_deref().and_then(Timestamp::parse)
}

/// What the daemon is to do, and to answer, for a control word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Status,
    Queue,
    New,
    Help,
    /// A stop is over; all that is left is to say so.
    Stopped(Stopped),
}

/// What came of a stop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stopped {
    /// It was `/stop all`.
    pub is_all: bool,
    /// A turn was interrupted, or a message that waited for its turn; the thread was told.
    pub had_turn: bool,
    /// Messages that were forgotten.
    pub cleared: usize,
    /// Messages that are still to be driven.
    pub waiting: usize,
}

/// The words that are not done with.
#[derive(Debug, Default)]
pub(super) struct Controls {
    open: BTreeMap<EntryId, Open>,
    /// Up to when everything on a thread was forgotten, for messages that come in late. As many as
    /// there are threads on which `/stop all` was said to this process.
    cleared: HashMap<ThreadId, Timestamp>,
}

#[derive(Debug)]
struct Open {
    message: Message,
    /// The message whose turn is being stopped.
    stops: Option<EntryId>,
    /// Messages that it has had forgotten.
    cleared: usize,
}

impl Controls {
    /// The word is on its way to the daemon, which will say that it is answered.
    pub(super) fn open(&mut self, message: Message) {
        self.open.insert(message.entry, Open { message, stops: None, cleared: 0 });
    }

    /// The word stops this message, and is open until that is over.
    pub(super) fn open_until(&mut self, stops: EntryId, message: Message, cleared: usize) {
        self.open.insert(message.entry, Open { message, stops: Some(stops), cleared });
    }

    /// The word was answered. None if the entry is no word's.
    pub(super) fn close(&mut self, entry: EntryId) -> Option<Message> {
        self.open.remove(&entry).map(|open| open.message)
    }

    /// The stops of a message whose turn is over, with how many others each has had forgotten. They
    /// stay open until they are answered.
    pub(super) fn over(&mut self, stopped: EntryId) -> Vec<(Message, usize)> {
        let stops = self.open.values_mut().filter(|open| open.stops == Some(stopped));
        stops
            .map(|open| {
                open.stops = None;
                (open.message.clone(), open.cleared)
            })
            .collect()
    }

    /// Everything that was written before this is forgotten.
    pub(super) fn clear(&mut self, stop: &Message) {
        if let Some(time) = written(&stop.reply) {
            let newest = self.cleared.entry(stop.reply.thread_id.clone()).or_insert(time);
            *newest = time.max(*newest);
        }
    }

    /// Whether a message comes in after it was forgotten. What had begun was stopped, or will be.
    pub(super) fn is_cleared(&self, message: &Message) -> bool {
        let until = self.cleared.get(&message.reply.thread_id);
        message.progress.is_none()
            && until.is_some_and(|until| {
                written(&message.reply).is_some_and(|written| written < *until)
            })
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

    #[test]
    fn the_server_s_time_tells_what_is_newer_and_else_the_order_of_arrival() {
        let entry = |sequence| EntryId { sequence, hash: 0 };
        let reply = |time: &str| {
            Reply::parse(&format!(r#"{{"threadId":"t","createdAt":"{time}"}}"#)).unwrap()
        };
        let (early, late, none) =
            (reply("2026-11-22T10:00:00Z"), reply("2026-11-22T10:00:01Z"), reply(""));
        assert!(is_newer(entry(1), &late, entry(2), &early));
        assert!(!is_newer(entry(2), &early, entry(1), &late));
        assert!(is_newer(entry(2), &early, entry(1), &early));
        assert!(!is_newer(entry(1), &late, entry(2), &none));
        assert!(is_newer(entry(2), &none, entry(1), &late));
    }
}
