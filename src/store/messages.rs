//! Everything that a state directory has about messages and posts: its journal, opened, and what the
//! rest of the program sees of it.

use std::{convert::Infallible, path::Path, sync::Arc};

use anyhow::Context;
use crossbeam_channel::Receiver;

use crate::store::{
    Disk,
    cursor::Cursor,
    entry::Entry,
    inbox::Inbox,
    journal::{self, Journal, Stored},
    outbox::Outbox,
    seen::Seen,
};

/// What there is, and what an earlier process left in it.
#[derive(Debug)]
pub struct Opened {
    pub journal: Journal,
    pub inbox: Inbox,
    /// The messages that are not done, in order of arrival.
    pub entries: Vec<Entry>,
    pub outbox: Outbox,
    pub seen: Seen,
    pub cursor: Cursor,
    /// What became of posts that nobody waits for ([`Outbox::put_later`]).
    pub stored: Receiver<Stored>,
    /// Closes when the task ends that writes the journal.
    pub running: Receiver<Infallible>,
}

/// Opens, or makes, what is in a state directory, whose lock is held.
///
/// # Errors
/// When it can't be read or written, or is of a later version.
pub fn open(disk: Arc<dyn Disk>, dir: &Path) -> anyhow::Result<Opened> {
    let journal::Opened { journal, entries, cursor, stored, running } =
        journal::open(Arc::clone(&disk), dir)?;
    let outbox = Outbox::open(disk, journal.clone(), &dir.join("outbox"))
        .with_context(|| format!("opening the outbox in {}", dir.display()))?;
    let (inbox, seen) = (Inbox::new(journal.clone()), Seen::new(journal.clone()));
    Ok(Opened { journal, inbox, entries, outbox, seen, cursor, stored, running })
}
