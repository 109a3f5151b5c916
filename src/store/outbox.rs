//! The outbox: what is to go out and is not yet accepted, as the rest of the program sees it. It is in
//! the journal. A post can be the last one of a message, its answer. While that message's entry is in
//! the inbox, the answer is kept even when the bridge has it: after a crash it tells that the message
//! is answered. What the bridge refuses becomes a file of its own, for a person.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use serde::Serialize;

use crate::{
    bridge::wire::Post,
    ids::ThreadId,
    store::{
        Disk,
        entry::EntryId,
        journal::{self, Journal, PostRequest},
    },
};

/// The newest refused posts are kept for a person to look at.
const REFUSED_MAX: usize = 1_000;

/// Of the files of refused posts.
const VERSION: u32 = 1;

/// Names an entry of the outbox.
pub type OutboxId = EntryId;

/// The posts that the bridge did not accept yet. Clones share the journal.
#[derive(Clone, Debug)]
pub struct Outbox {
    journal: Journal,
    disk: Arc<dyn Disk>,
    /// Where refused posts are kept.
    refused_dir: PathBuf,
    refused: Arc<AtomicUsize>,
}

/// A post that the bridge will never take.
#[derive(Serialize)]
struct RefusedFile<'a> {
    version: u32,
    content: Refused<'a>,
}

#[derive(Serialize)]
struct Refused<'a> {
    reason: &'a str,
    post: &'a Post,
}

impl Outbox {
    /// Refused posts are kept in a directory of `dir`.
    pub(super) fn open(disk: Arc<dyn Disk>, journal: Journal, dir: &Path) -> io::Result<Outbox> {
        let refused_dir = dir.join("refused");
        disk.create_dir(&refused_dir)?;
        disk.sweep(&refused_dir)?;
        let refused = disk.list(&refused_dir)?;
        for old in refused.iter().rev().skip(REFUSED_MAX) {
            disk.remove(old)?;
        }
        let refused = Arc::new(AtomicUsize::new(refused.len().min(REFUSED_MAX)));
        Ok(Outbox { journal, disk, refused_dir, refused })
    }

    /// Stores a post; durable when it returns. Posts of one thread are handed in by one task at a
    /// time, and leave in that order. `finishes` is the message that this post ends.
    pub fn put(&self, post: &Post, finishes: Option<EntryId>) -> io::Result<()> {
        let id = self.journal.next_id(post.client_msg_id.as_str());
        self.journal.write_post(id, post, finishes)
    }

    /// The same without waiting: what became of it is received as a [`journal::Stored`].
    ///
    /// # Errors
    /// When too much waits to be written.
    pub fn put_later(&self, request: PostRequest) -> Result<(), (io::Error, PostRequest)> {
        self.journal.try_post(request)
    }

    /// All posts that the bridge does not have yet, oldest first, with their threads. The disk is
    /// not read for it.
    pub fn list(&self) -> Vec<(OutboxId, ThreadId)> {
        let contents = self.journal.contents();
        contents.unsent().filter_map(|(id, kept)| Some((id, kept.thread.clone()?))).collect()
    }

    /// None if it is gone.
    pub fn read(&self, id: OutboxId) -> io::Result<Option<Post>> {
        self.journal.read_post(id)
    }

    /// Forgets a post that the bridge has, or, if it ends a message that is not acknowledged, keeps only
    /// the record of it. If that is lost in a crash, the post is sent again under the same
    /// `clientMsgId`, which the bridge knows.
    pub fn remove(&self, id: OutboxId) {
        self.journal.contents().sent(id);
        self.journal.note(journal::sent(id), None);
    }

    /// Keeps a post that the bridge will never take in `refused/`, with the reason.
    pub fn refuse(&self, id: OutboxId, reason: &str) -> io::Result<()> {
        if let Some(post) = self.read(id)? {
            let file = RefusedFile { version: VERSION, content: Refused { reason, post: &post } };
            let path = self.refused_dir.join(format!("{id}.json"));
            self.disk.write_atomic(&path, &serde_json::to_vec(&file)?)?;
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        self.remove(id);
        Ok(())
    }

    /// Whether the answer to this message is here.
    pub fn finishes(&self, entry: EntryId) -> bool {
        self.journal.contents().is_answered(entry)
    }

    /// Whether a post of this thread waits for the bridge.
    pub fn has_unsent(&self, thread: &ThreadId) -> bool {
        self.journal.contents().unsent().any(|(_, kept)| kept.thread.as_ref() == Some(thread))
    }

    /// How many posts wait for the bridge.
    pub fn count(&self) -> usize {
        self.journal.contents().unsent().count()
    }

    /// How many posts the bridge will never take.
    pub fn refused(&self) -> usize {
        self.refused.load(Ordering::Relaxed)
    }
}
