//! The end of a message: remembered in the journal, its binding on disk, its entry gone, in this order.

use std::{
    io,
    time::{Duration, Instant},
};

use super::Daemon;
use crate::{ids::MessageId, store::entry::EntryId};

/// A disk that failed is tried again after this long.
const DISK_RETRY: Duration = Duration::from_secs(1);

/// A message that is done with, whose entry goes as soon as its thread's binding is on disk.
#[derive(Debug)]
pub(super) struct Settling {
    generation: u64,
    entry: EntryId,
}

impl Daemon {
    /// The message is done with; its entry goes as soon as nothing relies on it any more. An
    /// `answered` one is remembered from now on, and on disk before its entry goes.
    pub(super) fn settle(&mut self, entry: EntryId, answered: Option<&MessageId>) {
        if let Some(message) = answered {
            self.seen.remember(message);
        }
        self.settling.push_back(Settling { generation: self.store.generation(), entry });
    }

    /// Removes the entries whose bindings are on disk: persist before you act.
    pub(super) fn settle_all(&mut self) {
        self.disk_due = None;
        let written = |settling: &Settling| self.store.is_written(settling.generation);
        if !self.settling.front().is_some_and(written) {
            return;
        }
        if let Err(error) = self.seen.flush() {
            return self.disk_failed(&error);
        }
        while let Some(Settling { entry, .. }) = self.settling.pop_front_if(|it| written(it)) {
            let removed = self.shared.inbox.done(&entry);
            let settled = removed.and_then(|()| self.shared.outgoing.outbox.settled(entry));
            if let Err(error) = settled {
                self.settling.push_front(Settling { generation: 0, entry });
                return self.disk_failed(&error);
            }
            self.board.changed();
        }
    }

    fn disk_failed(&mut self, error: &io::Error) {
        log::error!(error:% = error; "cannot write to the state directory; trying again");
        self.disk_due = Some(Instant::now() + DISK_RETRY);
    }
}
