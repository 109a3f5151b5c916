//! Stale messages: what a person wanted days ago may be harmful now. A message that is older than
//! `offlineMaxAgeSeconds` when it comes in stays in the inbox and is not run; one post lists them, and
//! `run` releases them. Ages are by the bridge's clock, and by ours only while a bridge has not told its
//! time. Pure.

use std::{collections::BTreeMap, time::Duration};

use super::message::{Arrival, Message};
use crate::{ids::ThreadId, store::entry::EntryId, time::Timestamp};

/// Stale messages come together, so the post follows after this long without another.
const TOGETHER: Duration = Duration::from_secs(2);

/// What releases them.
pub(super) const WORD: &str = "run";

/// Messages in quarantine, of all threads; one more is refused. They do not count among those that
/// the inbox has room for, so that what comes in now always gets in.
pub(super) const MESSAGES_MAX: usize = 10_000;
const BYTES_MAX: usize = 256 << 20;

#[derive(Debug, Default)]
pub(super) struct Quarantine {
    max_age: Duration,
    threads: BTreeMap<ThreadId, Vec<Message>>,
    messages: usize,
    bytes: usize,
    /// Threads that have no post about them yet.
    untold: Vec<ThreadId>,
    due: Option<Duration>,
}

impl Quarantine {
    pub(super) fn new(max_age: Duration) -> Quarantine {
        Quarantine { max_age, ..Quarantine::default() }
    }

    /// Whether a message is stale at this time, the bridge's if it is known. What has begun is not, however old
    /// it is. So is a message with a time that can't be read, and one without any unless it comes in
    /// live: its age can't be told, and a person can still say `run`.
    /// `released` is the newest entry on the thread that a person has released.
    pub(super) fn is_stale(
        &self,
        message: &Message,
        now: Timestamp,
        released: Option<EntryId>,
    ) -> bool {
        if message.progress.is_some() || Some(message.entry) <= released {
            return false;
        }
        match message.written() {
            Some(written) => self.max_age < now.since(written),
            None => message.reply.has_bad_time() || message.origin != Arrival::Live,
        }
    }

    pub(super) fn has_room(&self, message: &Message) -> bool {
        self.messages < MESSAGES_MAX && self.bytes + message.reply.body.len() <= BYTES_MAX
    }

    pub(super) fn hold(&mut self, now: Duration, message: Message) {
        let thread = message.thread().clone();
        if !self.untold.contains(&thread) {
            self.untold.push(thread.clone());
        }
        self.messages += 1;
        self.bytes += message.reply.body.len();
        self.threads.entry(thread).or_default().push(message);
        self.due = Some(now + TOGETHER);
    }

    /// Whether this is the word that releases what is held on its thread. Only when it comes in on
    /// the stream: what was missed, or written before a crash, may have meant something else.
    pub(super) fn is_release(&self, message: &Message) -> bool {
        message.origin == Arrival::Live
            && message.reply.body.trim_ascii().eq_ignore_ascii_case(WORD)
            && self.threads.contains_key(message.thread())
    }

    /// Everything that is held on a thread, in order.
    pub(super) fn release(&mut self, thread: &ThreadId) -> Vec<Message> {
        self.untold.retain(|untold| untold != thread);
        let messages = self.threads.remove(thread).unwrap_or_default();
        self.forget(&messages);
        messages
    }

    /// Takes out what is not stale at this time of the bridge's after all: until it was known, our
    /// own clock had to do.
    pub(super) fn reconsider(&mut self, now: Timestamp) -> Vec<Message> {
        let is_fresh = |message: &mut Message| {
            message.written().is_some_and(|written| now.since(written) <= self.max_age)
        };
        let mut fresh = Vec::new();
        self.threads.retain(|_, messages| {
            fresh.extend(messages.extract_if(.., is_fresh));
            !messages.is_empty()
        });
        self.forget(&fresh);
        fresh
    }

    /// Takes out what is held on a thread and is not newer than this stop.
    pub(super) fn clear(&mut self, stop: &Message) -> Vec<Message> {
        let Some(messages) = self.threads.remove(stop.thread()) else { return Vec::new() };
        let (kept, cleared): (Vec<_>, Vec<_>) =
            messages.into_iter().partition(|message| message.is_newer(stop));
        if !kept.is_empty() {
            self.threads.insert(stop.thread().clone(), kept);
        }
        self.forget(&cleared);
        cleared
    }

    fn forget(&mut self, messages: &[Message]) {
        self.messages -= messages.len();
        self.bytes -= messages.iter().map(|message| message.reply.body.len()).sum::<usize>();
    }

    /// The threads that get their post now, with what is held on them.
    pub(super) fn untold(&mut self, now: Duration) -> Vec<(ThreadId, Vec<Message>)> {
        if self.due.is_none_or(|due| now < due) {
            return Vec::new();
        }
        self.due = None;
        let held = |thread: ThreadId| self.threads.get(&thread).map(|it| (thread, it.clone()));
        std::mem::take(&mut self.untold).into_iter().filter_map(held).collect()
    }

    pub(super) fn due(&self) -> Option<Duration> {
        self.due
    }

    /// How many are held on a thread.
    pub(super) fn count(&self, thread: &ThreadId) -> usize {
        self.threads.get(thread).map_or(0, Vec::len)
    }

    /// How many are held in all.
    pub(super) fn len(&self) -> usize {
        self.messages
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::bridge::wire::Reply;

    fn message(created_at: impl Into<serde_json::Value>, origin: Arrival) -> Message {
        let created_at = created_at.into();
        let value = json!({"threadId": "t", "createdAt": created_at});
        let reply = Arc::new(Reply::parse(&value.to_string()).unwrap());
        Message { entry: EntryId { sequence: 1, hash: 1 }, reply, progress: None, origin }
    }

    #[test]
    fn what_is_older_than_the_limit_is_stale() {
        let now = Timestamp::parse("2026-11-22T12:00:00Z").unwrap();
        let quarantine = Quarantine::new(Duration::from_hours(24));
        let is_stale = |time: &str| quarantine.is_stale(&message(time, Arrival::Live), now, None);
        assert!(is_stale("2026-11-21T11:59:59Z"));
        assert!(!is_stale("2026-11-21T12:00:01Z"));
        assert!(!is_stale("2026-11-23T12:00:00Z"), "a time that is ahead");
    }

    #[test]
    fn what_has_no_readable_time_is_held_and_what_has_none_only_if_it_was_missed() {
        let now = Timestamp::parse("2026-11-22T12:00:00Z").unwrap();
        let quarantine = Quarantine::new(Duration::from_hours(24));
        let is_stale = |time: &serde_json::Value, origin, released: bool| {
            let message = message(time.clone(), origin);
            quarantine.is_stale(&message, now, released.then_some(message.entry))
        };
        for time in [
            json!(""),
            json!("yesterday"),
            json!("1969-07-20T20:17:40Z"),
            json!([]),
            json!(7),
            json!(null),
        ] {
            assert_eq!(is_stale(&time, Arrival::Live, false), !time.is_null(), "{time}");
            assert!(is_stale(&time, Arrival::CaughtUp, false), "{time}");
            assert!(!is_stale(&time, Arrival::CaughtUp, true), "{time}, released");
            assert!(!is_stale(&time, Arrival::Live, true), "{time}, released");
        }
    }
}
