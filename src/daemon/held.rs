//! Messages that are older than `offlineMaxAge` when they come in: what somebody wanted days ago may
//! be harmful now. They stay in the inbox, the thread is told once, and they run when the human
//! says so.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::Daemon;
use crate::{
    bridge::wire::{PostKind, Reply},
    dispatch::control::is_newer,
    ids::ThreadId,
    store::entry::{EntryId, message_key},
    time::{self, Timestamp},
};

/// Old messages come together, so the thread is told after this long without another.
const TOGETHER: Duration = Duration::from_secs(2);

/// What the human says to have them run.
const WORD: &str = "run";

/// How much of each message is quoted, and how many are.
const QUOTE_CHARS: usize = 80;
const QUOTES: usize = 10;

/// The threads' old messages; a part of the daemon's state.
#[derive(Debug, Default)]
pub(super) struct Held {
    messages: BTreeMap<ThreadId, Vec<(EntryId, Arc<Reply>)>>,
    /// Threads that are not told yet.
    untold: Vec<ThreadId>,
    due: Option<Instant>,
}

impl Held {
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// How many are held of a thread.
    pub(super) fn count(&self, thread: &ThreadId) -> usize {
        self.messages.get(thread).map_or(0, Vec::len)
    }
}

/// Whether a message is held back, by its server's time against ours: what is a day old is not a
/// matter of clocks that differ by minutes.
fn is_old(reply: &Reply, now: Timestamp, max_age: Duration) -> bool {
    let written = reply.created_at.as_deref().and_then(Timestamp::parse);
    written.is_some_and(|written| max_age < now.since(written))
}

impl Daemon {
    /// Whether this was the word that lets a thread's old messages go. Only on the live stream: what
    /// is caught up with is text.
    pub(super) fn lets_go(&mut self, entry: EntryId, reply: &Reply) -> bool {
        let thread = &reply.thread_id;
        let is_word = reply.body.trim().eq_ignore_ascii_case(WORD);
        if !is_word || !self.held.messages.contains_key(thread) {
            return false;
        }
        self.settle(entry, Some(&message_key(entry, reply)));
        self.let_go(thread);
        true
    }

    /// Whether the message was held back.
    pub(super) fn hold_back(&mut self, entry: EntryId, reply: &Arc<Reply>) -> bool {
        let thread = &reply.thread_id;
        // Who owns an unclaimed thread is not known yet, so nobody can tell it anything.
        let is_ours = reply.machine.as_ref() == Some(&self.setup.config.machine)
            || self.store.get(thread).is_some();
        if !is_ours || !is_old(reply, time::now(), self.setup.config.offline_max_age) {
            return false;
        }
        log::info!(threadId = thread.as_str(), entry:% = entry; "holding back an old message");
        if !self.held.untold.contains(thread) {
            self.held.untold.push(thread.clone());
        }
        let messages = self.held.messages.entry(thread.clone()).or_default();
        let key = message_key(entry, reply);
        if messages.iter().any(|(known, held)| message_key(*known, held) == key) {
            self.settle(entry, None);
            return true;
        }
        messages.push((entry, Arc::clone(reply)));
        self.held.due = Some(Instant::now() + TOGETHER);
        true
    }

    /// Forgets what is held of a thread and was written before this `stop`. Returns how many.
    pub(super) fn drop_held(&mut self, thread: &ThreadId, entry: EntryId, stop: &Reply) -> usize {
        let Some(messages) = self.held.messages.remove(thread) else { return 0 };
        let is_kept = |(held, reply): &(EntryId, Arc<Reply>)| is_newer(*held, reply, entry, stop);
        let (kept, dropped): (Vec<_>, Vec<_>) = messages.into_iter().partition(is_kept);
        if !kept.is_empty() {
            self.held.messages.insert(thread.clone(), kept);
        }
        for (entry, reply) in &dropped {
            self.settle(*entry, Some(&message_key(*entry, reply)));
        }
        dropped.len()
    }

    fn let_go(&mut self, thread: &ThreadId) {
        let Some(messages) = self.held.messages.remove(thread) else { return };
        self.held.untold.retain(|untold| untold != thread);
        log::info!(threadId = thread.as_str(), messages = messages.len(); "running old messages, as the human says");
        for (entry, reply) in messages {
            self.dispatch_inbound(entry, reply, None);
        }
    }

    /// Tells the threads whose old messages have all come in.
    pub(super) fn tell_held(&mut self) {
        if self.held.due.is_none_or(|due| Instant::now() < due) {
            return;
        }
        self.held.due = None;
        for thread in std::mem::take(&mut self.held.untold) {
            let Some(messages) = self.held.messages.get(&thread) else { continue };
            let Some((first, _)) = messages.first() else { continue };
            let (first, body) = (*first, announcement(messages, time::now()));
            // Named after the first message, so that a restart does not say it twice.
            self.say(thread, format!("{first}.held"), None, PostKind::Status, body);
        }
    }
}

fn announcement(messages: &[(EntryId, Arc<Reply>)], now: Timestamp) -> String {
    let mut lines = vec![format!(
        "{} came in while this machine was away, and {} not run because so much time has passed:",
        if messages.len() == 1 {
            "A message".to_owned()
        } else {
            format!("{} messages", messages.len())
        },
        if messages.len() == 1 { "was" } else { "were" },
    )];
    lines.extend(messages.iter().take(QUOTES).map(|(_, reply)| quote(reply, now)));
    if QUOTES < messages.len() {
        lines.push(format!("- … and {} more", messages.len() - QUOTES));
    }
    lines.push(format!(
        "\nReply `{WORD}` to have them run now. Anything else is answered as usual."
    ));
    lines.join("\n")
}

/// One line of a list of messages.
pub(super) fn quote(reply: &Reply, now: Timestamp) -> String {
    let written = reply.created_at.as_deref().and_then(Timestamp::parse).unwrap_or(now);
    let line = reply.body.split_whitespace().collect::<Vec<_>>().join(" ");
    let line: String = line.chars().filter(|c| !c.is_control() && *c != '`').collect();
    let cut: String = line.chars().take(QUOTE_CHARS).collect();
    let dots = if cut.len() < line.len() { "…" } else { "" };
    format!("- {} ago: `{cut}{dots}`", time::age(now.since(written)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ENTRY: EntryId = EntryId { sequence: 1, hash: 1 };

    fn reply(created_at: &str, body: &str) -> Reply {
        let value = json!({"threadId": "t", "createdAt": created_at, "body": body});
        Reply::parse(&value.to_string()).unwrap()
    }

    #[test]
    fn age_is_the_server_s_time_against_ours() {
        let now = Timestamp::parse("2026-11-22T12:00:00Z").unwrap();
        let day = Duration::from_hours(24);
        assert!(is_old(&reply("2026-11-21T11:59:59Z", ""), now, day));
        assert!(!is_old(&reply("2026-11-21T12:00:01Z", ""), now, day));
        assert!(!is_old(&reply("2026-11-23T12:00:00Z", ""), now, day), "a clock that is ahead");
        assert!(!is_old(&reply("", ""), now, day), "no time, no age");
    }

    #[test]
    fn an_announcement_quotes_what_is_held() {
        let now = Timestamp::parse("2026-11-22T12:00:00Z").unwrap();
        let messages = vec![(ENTRY, Arc::new(reply("2026-11-20T12:00:00Z", "drop\nthe `table`")))];
        let text = announcement(&messages, now);
        assert!(text.starts_with("A message came in"), "{text}");
        assert!(text.contains("- 2 d ago: `drop the table`"), "{text}");
        assert!(text.contains("Reply `run`"), "{text}");
        let many = vec![(ENTRY, Arc::new(reply("2026-11-20T12:00:00Z", &"x".repeat(500)))); 12];
        let text = announcement(&many, now);
        assert!(text.starts_with("12 messages") && text.contains("and 2 more"), "{text}");
        assert!(text.len() < 2_000, "{}", text.len());
    }
}
