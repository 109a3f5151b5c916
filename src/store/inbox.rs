//! The inbox: what came in and is not yet done, as the rest of the program sees it. It is in the
//! journal: a message, and how far its turn came.
//!
//! A message that is done goes together with the memory of it ([`crate::store::seen`]).

use std::io::{self, ErrorKind};

use crate::{
    bridge::wire::Reply,
    store::{
        entry::{EntryId, Progress},
        journal::{self, Journal, Slot},
    },
};

/// More messages than that do not wait: the bridge has to keep them.
pub const INBOX_ENTRIES_MAX: usize = 10_000;

/// All messages that wait are in memory as well.
pub const INBOX_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// The messages that are not done. Clones share the journal.
#[derive(Clone, Debug)]
pub struct Inbox {
    journal: Journal,
}

impl Inbox {
    pub(super) fn new(journal: Journal) -> Inbox {
        Inbox { journal }
    }

    /// Stores a message, which may come in although so many more than usual wait; durable when it
    /// returns.
    ///
    /// # Errors
    /// Of the kind `QuotaExceeded` when too much waits already.
    pub fn put(&self, reply: &Reply, extra_room: usize) -> io::Result<EntryId> {
        self.check_bounds(extra_room)?;
        let seed = reply.message_id.as_ref().map_or(reply.thread_id.as_str(), |id| id.as_str());
        // A quota of the file system is a disk that fails; only our own bounds are a lack of room.
        let refine = |error: io::Error| match error.kind() {
            ErrorKind::QuotaExceeded => io::Error::other(error),
            _ => error,
        };
        let id = self.journal.next_id(seed);
        let size = reply.body.len() + reply.body.len() / 16 + 512;
        let record = journal::message(id, reply, size);
        self.journal.write(record, Slot::Message(id)).map_err(refine)?;
        Ok(id)
    }

    fn check_bounds(&self, extra_room: usize) -> io::Result<()> {
        let contents = self.journal.contents();
        let counted = || contents.entries.values().filter(|entry| !entry.is_aside);
        let entries = counted().count();
        let bytes = counted().map(|entry| u64::from(entry.message.bytes)).sum::<u64>();
        let is_small = extra_room > 0;
        if entries < INBOX_ENTRIES_MAX + extra_room && (is_small || bytes < INBOX_BYTES_MAX) {
            return Ok(());
        }
        let text = format!("{entries} messages of {bytes} bytes in all wait already");
        Err(io::Error::new(ErrorKind::QuotaExceeded, text))
    }

    /// Has a message not count among those that there is room for, or count again.
    pub fn set_aside(&self, id: EntryId, is_aside: bool) {
        if let Some(entry) = self.journal.contents().entries.get_mut(&id) {
            entry.is_aside = is_aside;
        }
    }

    /// Notes how far the turn of an entry came; durable when it returns. Called before the engine
    /// is given the prompt, and whenever there is more to say.
    pub fn progressed(&self, id: &EntryId, progress: &Progress) -> io::Result<()> {
        self.journal.write(journal::progress(*id, progress), Slot::Progress(*id))
    }

    pub fn count(&self) -> usize {
        self.journal.contents().entries.len()
    }
}
