//! A limit on turns in progress: real engines take hundreds of megabytes each. The loop owns the
//! places, so it can say who waits for what.

use std::collections::{BTreeMap, VecDeque};

use crate::{ids::ThreadId, store::entry::EntryId};

/// Who works, and who waits.
#[derive(Debug)]
pub(super) struct Places {
    free: usize,
    working: BTreeMap<ThreadId, EntryId>,
    waiting: VecDeque<(ThreadId, EntryId)>,
}

impl Places {
    pub(super) fn new(count: usize) -> Places {
        Places { free: count, working: BTreeMap::new(), waiting: VecDeque::new() }
    }

    /// A worker has a message at hand.
    pub(super) fn want(&mut self, thread: ThreadId, entry: EntryId) {
        self.waiting.push_back((thread, entry));
    }

    /// A worker is done, or gone, or does not want any more.
    pub(super) fn release(&mut self, thread: &ThreadId) {
        self.waiting.retain(|(waiting, _)| waiting != thread);
        self.free += usize::from(self.working.remove(thread).is_some());
    }

    /// The next one that may begin.
    pub(super) fn next(&mut self) -> Option<EntryId> {
        self.free = self.free.checked_sub(usize::from(!self.waiting.is_empty()))?;
        let (thread, entry) = self.waiting.pop_front()?;
        self.working.insert(thread, entry);
        Some(entry)
    }
}
