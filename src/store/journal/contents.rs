//! What a journal says in the end: which messages and posts are there, which messages are done, and
//! where in the file the records of all that are. The texts stay on the disk. Pure.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use super::record::{Digest, Fact};
use crate::{ids::ThreadId, store::entry::EntryId};

/// The newest this many done messages are remembered; a bridge repeats what is minutes old, not weeks.
pub const REMEMBERED_MAX: usize = 20_000;

/// What a remembered message takes in the file.
const DIGEST_BYTES: u64 = 33;

/// Where a record is in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub offset: u64,
    pub bytes: u32,
}

/// A message that is not done.
#[derive(Clone, Debug)]
pub struct Waiting {
    pub message: Place,
    pub progress: Option<Place>,
    /// It does not count among those that there is room for.
    pub is_aside: bool,
    /// Something behind its records was damaged, so its turn may have come further than they say.
    pub is_doubtful: bool,
}

/// A post that the bridge does not have, or that shows that its message is answered.
#[derive(Clone, Debug)]
pub struct Kept {
    pub post: Place,
    /// Not known before its text was read.
    pub thread: Option<ThreadId>,
    pub finishes: Option<EntryId>,
    pub is_sent: bool,
}

/// A record whose place matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    Message(EntryId),
    Progress(EntryId),
    Post(EntryId),
    Cursor,
}

#[derive(Debug, Default)]
pub struct Contents {
    pub entries: BTreeMap<EntryId, Waiting>,
    pub posts: BTreeMap<EntryId, Kept>,
    /// The posts that end a message whose entry is there. A message has one answer; an earlier one is
    /// a post like any other.
    answers: HashMap<EntryId, EntryId>,
    pub cursor: Option<Place>,
    /// Oldest first.
    order: VecDeque<Digest>,
    digests: HashSet<Digest>,
    /// The newest sequence number of an entry or a post.
    newest: u64,
}

impl Contents {
    /// Takes a record in, the next one of the file.
    pub fn apply(&mut self, fact: &Fact<'_>, place: Place) {
        match fact {
            Fact::Message { entry, .. } => self.has(Slot::Message(*entry), place),
            Fact::Progress { entry, .. } => self.has(Slot::Progress(*entry), place),
            Fact::Post { id, finishes, .. } => self.add_post(*id, None, *finishes, place),
            Fact::Sent { id } => self.sent(*id),
            Fact::Done { entries, messages } => {
                for message in messages {
                    self.remember(*message);
                }
                for entry in entries {
                    self.remove(*entry);
                }
            }
            Fact::Cursor { .. } => self.has(Slot::Cursor, place),
        }
    }

    /// The record of this slot is there from now on. A progress or a post whose entry is gone stays so.
    pub fn has(&mut self, slot: Slot, place: Place) {
        match slot {
            Slot::Message(entry) => {
                self.newest = self.newest.max(entry.sequence);
                let new =
                    Waiting { message: place, progress: None, is_aside: false, is_doubtful: false };
                self.entries.entry(entry).or_insert(new).message = place;
            }
            Slot::Progress(entry) => {
                if let Some(waiting) = self.entries.get_mut(&entry) {
                    waiting.progress = Some(place);
                }
            }
            Slot::Post(id) => {
                if let Some(kept) = self.posts.get_mut(&id) {
                    kept.post = place;
                }
            }
            Slot::Cursor => self.cursor = Some(place),
        }
    }

    pub fn add_post(
        &mut self,
        id: EntryId,
        thread: Option<ThreadId>,
        finishes: Option<EntryId>,
        post: Place,
    ) {
        self.newest = self.newest.max(id.sequence);
        self.posts.insert(id, Kept { post, thread, finishes, is_sent: false });
        let Some(entry) = finishes.filter(|entry| self.entries.contains_key(entry)) else { return };
        if let Some(earlier) = self.answers.insert(entry, id).filter(|earlier| *earlier != id)
            && self.posts.get(&earlier).is_some_and(|kept| kept.is_sent)
        {
            self.posts.remove(&earlier);
        }
    }

    /// The bridge has the post. The answer of a message whose entry is there stays.
    pub fn sent(&mut self, id: EntryId) {
        let Some(kept) = self.posts.get_mut(&id) else { return };
        kept.is_sent = true;
        let entry = kept.finishes;
        if entry.is_none_or(|entry| self.answers.get(&entry) != Some(&id)) {
            self.posts.remove(&id);
        }
    }

    /// What the post says is not known.
    pub fn forget_post(&mut self, id: EntryId) {
        self.posts.remove(&id);
        self.answers.retain(|_, answer| *answer != id);
    }

    /// The entry of a message goes, and its answer need not be kept for it any more.
    pub fn remove(&mut self, entry: EntryId) {
        self.entries.remove(&entry);
        if let Some(answer) = self.answers.remove(&entry)
            && self.posts.get(&answer).is_some_and(|kept| kept.is_sent)
        {
            self.posts.remove(&answer);
        }
    }

    pub fn remember(&mut self, message: Digest) {
        if !self.digests.insert(message) {
            return;
        }
        self.order.push_back(message);
        if REMEMBERED_MAX < self.order.len()
            && let Some(oldest) = self.order.pop_front()
        {
            self.digests.remove(&oldest);
        }
    }

    pub fn remembers(&self, message: &Digest) -> bool {
        self.digests.contains(message)
    }

    /// Oldest first.
    pub fn remembered(&self) -> Vec<Digest> {
        self.order.iter().copied().collect()
    }

    /// Whether the answer to this message is here.
    pub fn is_answered(&self, entry: EntryId) -> bool {
        self.answers.contains_key(&entry)
    }

    /// The posts that the bridge does not have, oldest first.
    pub fn unsent(&self) -> impl Iterator<Item = (EntryId, &Kept)> {
        self.posts.iter().filter(|(_, kept)| !kept.is_sent).map(|(id, kept)| (*id, kept))
    }

    pub fn newest(&self) -> u64 {
        self.newest
    }

    /// Something here could not be read. What it was is not known, so that every message that is
    /// there may have come further.
    pub fn doubt(&mut self) {
        self.entries.values_mut().for_each(|waiting| waiting.is_doubtful = true);
    }

    /// The records that a new file needs besides what is remembered, in an order in which they can be
    /// read: an entry before its progress and its answer.
    pub fn records(&self) -> Vec<(Slot, Place)> {
        let mut records: Vec<(Slot, Place)> = Vec::new();
        records.extend(self.cursor.map(|place| (Slot::Cursor, place)));
        for (entry, waiting) in &self.entries {
            records.push((Slot::Message(*entry), waiting.message));
            records.extend(waiting.progress.map(|place| (Slot::Progress(*entry), place)));
        }
        records.extend(self.posts.iter().map(|(id, kept)| (Slot::Post(*id), kept.post)));
        records
    }

    /// Records are elsewhere from now on. What went meanwhile stays away.
    pub fn moved(&mut self, places: &[(Slot, Place)]) {
        for (slot, place) in places {
            match slot {
                Slot::Message(entry) if !self.entries.contains_key(entry) => {}
                slot => self.has(*slot, *place),
            }
        }
    }

    /// How many bytes of the file are of use.
    pub fn bytes(&self) -> u64 {
        let entries = self.entries.values();
        let entries = entries.flat_map(|it| [Some(it.message), it.progress]).flatten();
        let posts = self.posts.values().map(|kept| kept.post);
        let places = entries.chain(posts).chain(self.cursor);
        let digests = u64::try_from(self.order.len()).unwrap_or(u64::MAX) * DIGEST_BYTES;
        places.map(|place| u64::from(place.bytes)).sum::<u64>() + digests
    }
}
