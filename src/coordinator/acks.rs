//! The end of a message, and what is said by the daemon itself, in the order that survives a crash:
//! a post is in the outbox before its message is done; a message is remembered as done,
//! and what it changed in state.json or in the cursor is on disk, and so is all that is to be said on
//! its thread, before its entry goes. Pure.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    time::Duration,
};

use super::{Effect, approvals::TurnVerdict, message::Message};
use crate::{bridge::wire::Post, ids::ThreadId, store::entry::EntryId};

/// A disk that failed is tried again after this long.
const DISK_RETRY: Duration = Duration::from_secs(1);

/// While other messages wait, entries are removed together, this long after the first of them.
const TOGETHER: Duration = Duration::from_millis(20);

/// Posts that wait and finish no message; one more is dropped.
const UNFINISHING_MAX: usize = 1_000;

#[derive(Debug, Default)]
pub(super) struct Acks {
    /// Changes of state.json and of the cursor so far, and how many of them are on disk.
    changes: u64,
    written: u64,
    /// Posts that are not handed to the disk yet; those of a thread in order.
    posts: VecDeque<WaitingPost>,
    /// Threads of which a post is being stored, and what a turn is told then; the next one follows it.
    storing: HashMap<ThreadId, Option<TurnVerdict>>,
    /// Messages that are done when a post is stored.
    finishing: BTreeMap<EntryId, Message>,
    /// Entries to remove, each with the change that it waits for.
    removals: VecDeque<(u64, EntryId)>,
    remove_due: Option<Duration>,
    /// Entries to remove once the posts of their threads are stored.
    behind_posts: HashMap<ThreadId, Vec<EntryId>>,
    /// The disk has failed; nothing is written until then.
    retry_at: Option<Duration>,
}

#[derive(Debug)]
struct WaitingPost {
    /// The change that must be on disk before.
    after: u64,
    post: Box<Post>,
    finishes: Option<EntryId>,
    /// It confirms that messages are done.
    is_confirmation: bool,
    /// What a turn is told once this is stored.
    then: Option<TurnVerdict>,
}

impl Acks {
    /// Counts a change of state.json or of the cursor; its number.
    pub(super) fn changed(&mut self) -> u64 {
        self.changes += 1;
        self.changes
    }

    /// All changes up to this one are on disk.
    pub(super) fn written(&mut self, change: u64) {
        self.written = self.written.max(change);
    }

    /// Has a post stored; `finishes` is the message that is done then. A `confirmation` is stored
    /// once everything that was changed and forgotten so far is on disk.
    pub(super) fn post(
        &mut self,
        post: Box<Post>,
        finishes: Option<Message>,
        is_confirmation: bool,
    ) {
        self.post_then(post, finishes, is_confirmation, None);
    }

    /// The same; once it is stored a turn is told `then`. Returns that if the post is dropped.
    pub(super) fn post_then(
        &mut self,
        post: Box<Post>,
        finishes: Option<Message>,
        is_confirmation: bool,
        then: Option<TurnVerdict>,
    ) -> Option<TurnVerdict> {
        if finishes.is_none() && self.posts.len() >= UNFINISHING_MAX {
            log::error!(
                threadId = post.thread_id.as_str();
                "too many posts wait for the disk; this one is dropped"
            );
            return then;
        }
        let after = if is_confirmation { self.changes } else { 0 };
        let entry = finishes.as_ref().map(|message| message.entry);
        self.finishing.extend(finishes.map(|message| (message.entry, message)));
        self.posts.push_back(WaitingPost { after, post, finishes: entry, is_confirmation, then });
        None
    }

    /// A post is stored. Returns the message that is done by that, and what a turn is told.
    pub(super) fn stored(
        &mut self,
        thread: &ThreadId,
        finishes: Option<EntryId>,
    ) -> (Option<Message>, Option<TurnVerdict>) {
        let then = self.storing.remove(thread).flatten();
        if !self.has_posts_of(thread) {
            let entries = self.behind_posts.remove(thread).into_iter().flatten();
            self.removals.extend(entries.map(|entry| (self.changes, entry)));
        }
        (finishes.and_then(|entry| self.finishing.remove(&entry)), then)
    }

    fn has_posts_of(&self, thread: &ThreadId) -> bool {
        let mut waiting = self.posts.iter().map(|waiting| &waiting.post.thread_id);
        self.storing.contains_key(thread) || waiting.any(|it| it == thread)
    }

    /// A post could not be stored.
    pub(super) fn not_stored(
        &mut self,
        now: Duration,
        post: Box<Post>,
        finishes: Option<EntryId>,
        is_confirmation: bool,
    ) {
        let then = self.storing.remove(&post.thread_id).flatten();
        self.posts.push_front(WaitingPost { after: 0, post, finishes, is_confirmation, then });
        self.retry_at = Some(now + DISK_RETRY);
    }

    /// The entry of a message that is done goes as soon as nothing relies on it any more: a start may
    /// have to repeat what its thread is told about its questions.
    pub(super) fn remove(&mut self, thread: &ThreadId, entry: EntryId) {
        if self.has_posts_of(thread) {
            self.behind_posts.entry(thread.clone()).or_default().push(entry);
        } else {
            self.removals.push_back((self.changes, entry));
        }
    }

    pub(super) fn not_removed(&mut self, now: Duration, entries: Vec<EntryId>) {
        entries.into_iter().rev().for_each(|entry| self.removals.push_front((0, entry)));
        self.retry_at = Some(now + DISK_RETRY);
    }

    /// What can be written now. While `is_busy`, removals wait for each other a little.
    pub(super) fn emit(&mut self, now: Duration, is_busy: bool, effects: &mut Vec<Effect>) {
        if self.retry_at.is_some_and(|at| now < at) {
            return;
        }
        self.retry_at = None;
        self.emit_posts(effects);
        let written = self.written;
        if self.removals.front().is_none_or(|(change, _)| written < *change) {
            return;
        }
        if is_busy && now < *self.remove_due.get_or_insert(now + TOGETHER) {
            return;
        }
        self.remove_due = None;
        let mut entries = Vec::new();
        while let Some((_, entry)) = self.removals.pop_front_if(|(change, _)| *change <= written) {
            entries.push(entry);
        }
        effects.push(Effect::Remove { entries });
    }

    fn emit_posts(&mut self, effects: &mut Vec<Effect>) {
        // Those of a thread stay in order, so one that waits holds up what is behind it.
        let mut held_up: HashSet<ThreadId> = self.storing.keys().cloned().collect();
        let mut kept = VecDeque::new();
        while let Some(waiting) = self.posts.pop_front() {
            let thread = waiting.post.thread_id.clone();
            if self.written < waiting.after || held_up.contains(&thread) {
                held_up.insert(thread);
                kept.push_back(waiting);
                continue;
            }
            held_up.insert(thread.clone());
            let WaitingPost { post, finishes, is_confirmation, then, .. } = waiting;
            self.storing.insert(thread, then);
            effects.push(Effect::Put { post, finishes, is_confirmation });
        }
        self.posts = kept;
    }

    pub(super) fn next_deadline(&self) -> Option<Duration> {
        let waits = !self.posts.is_empty() || !self.removals.is_empty();
        let retry = self.retry_at.filter(|_| waits);
        retry.or(self.remove_due.filter(|_| !self.removals.is_empty()))
    }

    /// Whether a post waits for a change to be on disk.
    pub(super) fn awaits_written(&self) -> bool {
        self.posts.iter().any(|waiting| self.written < waiting.after)
    }

    /// Whether a post is not stored yet.
    pub(super) fn has_posts(&self) -> bool {
        !self.posts.is_empty() || !self.storing.is_empty()
    }

    /// Messages that are done as soon as their last post is stored.
    pub(super) fn len(&self) -> usize {
        self.finishing.len()
    }
}
