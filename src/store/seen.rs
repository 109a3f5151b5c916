//! The messages that are done. A bridge sends a message again when a connection breaks, and catch-up
//! reads it again: neither may drive it twice. The journal holds a digest of each id, so neither
//! memory nor disk depends on how long the ids are that a bridge makes up.

use std::io;

use crate::{
    ids::MessageId,
    store::{
        entry::EntryId,
        journal::{self, Digest, Journal},
    },
};

/// The newest this many are remembered.
pub const CAPACITY: usize = journal::REMEMBERED_MAX;

/// A bounded set of message ids.
#[derive(Debug)]
pub struct Seen {
    journal: Journal,
    /// Those that the journal does not have yet.
    new: Vec<Digest>,
}

impl Seen {
    pub(super) fn new(journal: Journal) -> Seen {
        Seen { journal, new: Vec::new() }
    }

    pub fn contains(&self, message: &MessageId) -> bool {
        let digest = journal::digest(message);
        self.new.contains(&digest) || self.journal.contents().remembers(&digest)
    }

    /// Remembers a message in memory; [`Seen::flush`] or [`Seen::done`] hands it to the journal, with
    /// others.
    pub fn remember(&mut self, message: &MessageId) {
        if !self.contains(message) {
            self.new.push(journal::digest(message));
        }
    }

    /// Has what is remembered written before everything that is handed to the journal later. Does not
    /// wait for it.
    ///
    /// # Errors
    /// When too much waits to be written; then it is for a later call.
    pub fn flush(&mut self) -> io::Result<()> {
        if self.new.is_empty() { Ok(()) } else { self.done(&[]) }
    }

    /// The same, and the entries of messages that are done go with it, in one record. What is lost
    /// of it in a crash was done before anything that came later.
    ///
    /// # Errors
    /// As those of [`Seen::flush`].
    pub fn done(&mut self, entries: &[EntryId]) -> io::Result<()> {
        // Held meanwhile, so that a file that is written anew has either this or its effect.
        let mut contents = self.journal.contents();
        self.journal.try_note(journal::done(entries, &self.new))?;
        self.new.drain(..).for_each(|digest| contents.remember(digest));
        for entry in entries {
            contents.remove(*entry);
        }
        Ok(())
    }
}
