//! The outbox: what is to go out and is not yet accepted, one file a post. A post can be the last
//! one of a message, its answer. While that message's entry is in the inbox, the answer's file is
//! kept even when the bridge has it: after a crash it tells that the message is answered, and being
//! sent again under the same `clientMsgId` does no harm.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io::{self, ErrorKind},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};

use crate::{
    bridge::wire::Post,
    ids::ThreadId,
    store::{Disk, entry::EntryId, spool::Directory},
};

/// The newest refused posts are kept for a person to look at.
const REFUSED_MAX: usize = 1_000;

/// Names an entry of the outbox.
pub type OutboxId = EntryId;

/// The posts that the bridge did not accept yet. Clones share the directory.
#[derive(Clone, Debug)]
pub struct Outbox {
    waiting: Directory,
    refused: Directory,
    answers: Arc<Mutex<Finishing>>,
}

/// What is known of the files without reading them.
#[derive(Debug, Default)]
struct Finishing {
    /// The posts that end a message whose entry is still in the inbox. A message has one answer; an
    /// earlier one is a post like any other.
    by_message: HashMap<EntryId, OutboxId>,
    /// The threads of the posts that the bridge does not have, answers or not.
    unsent: BTreeMap<OutboxId, ThreadId>,
}

/// What a file of the outbox holds.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    post: Post,
    /// The inbox's entry whose answer this is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    finishes: Option<String>,
}

/// A post that the bridge will never take.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Refused {
    reason: String,
    post: Post,
}

impl Outbox {
    /// Opens, or makes, the outbox in `dir` with what an earlier process left in it.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path) -> io::Result<Outbox> {
        let outbox = Outbox {
            waiting: Directory::open(Arc::clone(&disk), dir)?,
            refused: Directory::open(disk, &dir.join("refused"))?,
            answers: Arc::default(),
        };
        for (id, content) in outbox.waiting.recover::<Content>(&dir.join("broken"))? {
            outbox.answers().unsent.insert(id, content.post.thread_id);
            if let Some(entry) = content.finishes.as_deref().and_then(EntryId::parse) {
                outbox.answers().by_message.insert(entry, id);
            }
        }
        let refused = outbox.refused.ids()?;
        for id in &refused {
            outbox.refused.adopt(*id, 0);
        }
        for old in refused.iter().rev().skip(REFUSED_MAX) {
            outbox.refused.remove(*old)?;
        }
        Ok(outbox)
    }

    /// Stores a post; durable when it returns. Posts of one thread are handed in by one task at a
    /// time, and leave in that order. `finishes` is the message that this post ends.
    pub fn put(&self, post: &Post, finishes: Option<EntryId>) -> io::Result<()> {
        let content =
            Content { post: post.clone(), finishes: finishes.map(|entry| entry.to_string()) };
        let id = self.waiting.next_id(post.client_msg_id.as_str());
        // Known before it can be listed, sent and removed.
        let mut answers = self.answers();
        answers.unsent.insert(id, post.thread_id.clone());
        if let Some(entry) = finishes {
            answers.by_message.insert(entry, id);
        }
        drop(answers);
        let written = self.waiting.write(id, &content);
        if written.is_err() {
            let mut answers = self.answers();
            answers.unsent.remove(&id);
            if let Some(entry) = finishes {
                answers.by_message.remove(&entry);
            }
        }
        written
    }

    /// All posts that the bridge does not have yet, oldest first, with their threads. The disk is
    /// not read for it.
    pub fn list(&self) -> Vec<(OutboxId, ThreadId)> {
        let (answers, written) = (self.answers(), self.waiting.sizes());
        let unsent = answers.unsent.iter().filter(|(id, _)| written.contains_key(id));
        unsent.map(|(id, thread)| (*id, thread.clone())).collect()
    }

    /// None if the entry is gone, for example removed by hand.
    pub fn read(&self, id: OutboxId) -> io::Result<Option<Post>> {
        match self.waiting.read::<Content>(id) {
            Ok(content) => Ok(Some(content.post)),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.answers().unsent.remove(&id);
                self.waiting.remove(id)?;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Forgets a post that the bridge has, or, if it ends a message that is not acknowledged, keeps only
    /// the file. If it is back after a loss of power, it is sent again under the same
    /// `clientMsgId`, which the bridge knows.
    pub fn remove(&self, id: OutboxId) -> io::Result<()> {
        let mut answers = self.answers();
        answers.unsent.remove(&id);
        if answers.by_message.values().any(|answer| *answer == id) {
            return Ok(());
        }
        drop(answers);
        self.waiting.remove(id)
    }

    /// Keeps a post that the bridge will never take in `refused/`, with the reason.
    pub fn refuse(&self, id: OutboxId, reason: &str) -> io::Result<()> {
        if let Some(post) = self.read(id)? {
            self.refused.write(id, &Refused { reason: reason.to_owned(), post })?;
        }
        self.remove(id)
    }

    /// Whether the answer to this message is here.
    pub fn finishes(&self, entry: EntryId) -> bool {
        self.answers().by_message.contains_key(&entry)
    }

    /// The message's entry is gone from the inbox, so its answer need not be kept for it. After an
    /// error this can be called again.
    pub fn acknowledged(&self, entry: EntryId) -> io::Result<()> {
        let mut answers = self.answers();
        let Some(id) = answers.by_message.get(&entry).copied() else { return Ok(()) };
        if !answers.unsent.contains_key(&id) {
            self.waiting.remove(id)?;
        }
        answers.by_message.remove(&entry);
        Ok(())
    }

    /// Right after [`Outbox::open`]: the messages of these entries are still in the inbox. All
    /// other answers are posts like any other; their messages are acknowledged already.
    pub fn expect_acknowledged(&self, inbox: &HashSet<EntryId>) {
        self.answers().by_message.retain(|entry, _| inbox.contains(entry));
    }

    /// Whether a post of this thread waits for the bridge.
    pub fn has_unsent(&self, thread: &ThreadId) -> bool {
        self.answers().unsent.values().any(|of| of == thread)
    }

    /// How many posts wait for the bridge.
    pub fn count(&self) -> usize {
        self.list().len()
    }

    /// How many posts the bridge will never take.
    pub fn refused(&self) -> usize {
        self.refused.sizes().len()
    }

    /// Only ever held for a look at the maps, or to remove a file.
    fn answers(&self) -> MutexGuard<'_, Finishing> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{bridge::wire::PostKind, ids::ClientMsgId, store::RealDisk};

    const ENTRY: EntryId = EntryId { sequence: 7, hash: 1 };

    fn open(dir: &Path) -> Outbox {
        Outbox::open(Arc::new(RealDisk), dir).unwrap()
    }

    fn post(body: &str) -> Post {
        Post::new(
            ThreadId::new("../../t"),
            PostKind::Result,
            "claude-bridge".to_owned(),
            body.to_owned(),
            ClientMsgId::new(body),
        )
    }

    #[test]
    fn posts_leave_in_order_and_survive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let outbox = open(dir.path());
        for body in ["a", "b", "c"] {
            outbox.put(&post(body), None).unwrap();
        }
        outbox.remove(outbox.list()[0].0).unwrap();
        let outbox = open(dir.path());
        let bodies: Vec<String> = outbox
            .list()
            .into_iter()
            .map(|(id, _)| outbox.read(id).unwrap().unwrap().body)
            .collect();
        assert_eq!(bodies, ["b", "c"]);
    }

    #[test]
    fn an_answer_is_kept_until_its_message_is_acknowledged() {
        let dir = tempfile::tempdir().unwrap();
        let outbox = open(dir.path());
        outbox.put(&post("answer"), Some(ENTRY)).unwrap();
        assert!(outbox.has_unsent(&ThreadId::new("../../t")));
        assert!(!outbox.has_unsent(&ThreadId::new("another")));
        outbox.remove(outbox.list()[0].0).unwrap();
        assert!(!outbox.has_unsent(&ThreadId::new("../../t")));
        assert_eq!(outbox.count(), 0, "it is not sent again by this process");
        assert!(outbox.finishes(ENTRY));

        let outbox = open(dir.path());
        assert!(outbox.has_unsent(&ThreadId::new("../../t")));
        assert!(outbox.finishes(ENTRY), "a crash before the message was acknowledged");
        assert_eq!(outbox.count(), 1, "sent again, since it is not known");
        outbox.acknowledged(ENTRY).unwrap();
        assert!(!outbox.finishes(ENTRY));
        outbox.remove(outbox.list()[0].0).unwrap();
        assert_eq!(open(dir.path()).count(), 0);
    }

    #[test]
    fn an_answer_that_was_sent_goes_when_its_message_is_acknowledged() {
        let dir = tempfile::tempdir().unwrap();
        let outbox = open(dir.path());
        outbox.put(&post("answer"), Some(ENTRY)).unwrap();
        outbox.remove(outbox.list()[0].0).unwrap();
        outbox.acknowledged(ENTRY).unwrap();
        assert_eq!(open(dir.path()).count(), 0);
    }

    /// It was sent again at every start.
    #[test]
    fn an_answer_whose_message_was_acknowledged_earlier_is_sent_once() {
        let dir = tempfile::tempdir().unwrap();
        let outbox = open(dir.path());
        let other = EntryId { sequence: 8, hash: 1 };
        outbox.put(&post("answer"), Some(ENTRY)).unwrap();
        outbox.put(&post("other"), Some(other)).unwrap();
        outbox.acknowledged(ENTRY).unwrap();

        let outbox = open(dir.path());
        outbox.expect_acknowledged(&HashSet::from([other]));
        assert!(!outbox.finishes(ENTRY) && outbox.finishes(other));
        outbox.list().into_iter().for_each(|(id, _)| outbox.remove(id).unwrap());
        let outbox = open(dir.path());
        assert_eq!(outbox.count(), 1, "that of the message in the inbox");
        assert!(outbox.finishes(other));
    }

    #[test]
    fn a_refused_post_is_kept_aside_with_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        let outbox = open(dir.path());
        outbox.put(&post("too large"), None).unwrap();
        outbox.refuse(outbox.list()[0].0, "413").unwrap();
        assert_eq!(outbox.count(), 0);
        let kept = RealDisk.list(&dir.path().join("refused")).unwrap();
        let text = String::from_utf8(RealDisk.read(&kept[0]).unwrap()).unwrap();
        assert!(text.contains("413") && text.contains("too large"), "{text}");
    }

    #[test]
    fn a_post_removed_by_hand_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let outbox = open(dir.path());
        outbox.put(&post("a"), None).unwrap();
        std::fs::remove_file(&RealDisk.list(dir.path()).unwrap()[0]).unwrap();
        assert!(outbox.read(outbox.list()[0].0).unwrap().is_none());
        assert_eq!(outbox.count(), 0);
    }
}
