//! The inbox: what came in and is not yet done; and the numbered directory that it shares with the
//! outbox. Maildir style, one file an entry, no index that could disagree with the directory.
//!
//! An entry of the inbox is a file in `new/`. When the engine is given its prompt, a file of the
//! same name in `started/` says how far the turn came. (It is not the entry itself that moves: the
//! message may be megabytes long, and the progress is written several times.) When it is done,
//! first the message is removed and then the progress, so that a crash in between leaves a
//! progress without a message, which means nothing, and never a begun message that looks new.
//!
//! Removing is not made durable, which would cost a flush for every message. After a loss of power
//! a done entry may be back: the journal of done messages ([`crate::store::seen`]) is durable
//! before anything is removed and knows it, by its message's id or by its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};

use crate::{
    bridge::wire::Reply,
    ids::{Engine, TurnId},
    store::{
        Disk,
        entry::{Entry, EntryId, Progress},
    },
    time,
};

/// The version of the files of both spools.
const VERSION: u32 = 1;

/// More messages than that do not wait: the bridge has to keep them.
pub const INBOX_ENTRIES_MAX: usize = 10_000;

/// All messages that wait are in memory as well.
pub const INBOX_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// What every file of a spool holds: the version, so that a later one can tell, and the content.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SpoolFile<T> {
    version: u32,
    content: T,
}

/// One directory of numbered files. Sizes are kept in memory, for bounds; contents are not.
#[derive(Clone, Debug)]
pub(super) struct Directory {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    /// Of what is in it.
    sizes: Arc<Mutex<BTreeMap<EntryId, Size>>>,
    next: Arc<AtomicU64>,
}

#[derive(Debug)]
pub(super) struct Size {
    bytes: u64,
    /// It does not count among those that there is room for.
    is_aside: bool,
}

impl Directory {
    pub(super) fn open(disk: Arc<dyn Disk>, path: &Path) -> io::Result<Directory> {
        disk.create_dir(path)?;
        disk.sweep(path)?;
        Ok(Directory {
            disk,
            path: path.to_owned(),
            sizes: Arc::default(),
            // Counting on from the clock keeps the ids of an earlier process apart from ours, also
            // when none of its entries are left.
            next: Arc::new(AtomicU64::new(time::now().as_millis() * 1_000)),
        })
    }

    fn file(&self, id: EntryId) -> PathBuf {
        self.path.join(format!("{id}.json"))
    }

    /// Only ever held for a look at the map.
    pub(super) fn sizes(&self) -> MutexGuard<'_, BTreeMap<EntryId, Size>> {
        self.sizes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads all entries in order. What is no entry is set aside in `aside`, and the log says so.
    pub(super) fn recover<T: DeserializeOwned>(
        &self,
        aside: &Path,
    ) -> io::Result<Vec<(EntryId, T)>> {
        let mut entries = Vec::new();
        for path in self.disk.list(&self.path)? {
            match self.read_file(&path) {
                Ok((id, size, content)) => {
                    self.adopt(id, size);
                    entries.push((id, content));
                }
                Err(error) if error.kind() == ErrorKind::InvalidData => {
                    self.set_aside(&path, aside, &error)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(entries)
    }

    /// The ids that are there, in order, whatever the files hold.
    pub(super) fn ids(&self) -> io::Result<Vec<EntryId>> {
        Ok(self.disk.list(&self.path)?.iter().filter_map(|path| id_of(path)).collect())
    }

    fn read_file<T: DeserializeOwned>(&self, path: &Path) -> io::Result<(EntryId, u64, T)> {
        let id = id_of(path)
            .ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "the name is no entry's"))?;
        let bytes = self.disk.read(path)?;
        let content = decode(&bytes)?;
        Ok((id, bytes.len() as u64, content))
    }

    pub(super) fn read<T: DeserializeOwned>(&self, id: EntryId) -> io::Result<T> {
        decode(&self.disk.read(&self.file(id))?)
    }

    /// Takes an entry of an earlier process into the count.
    pub(super) fn adopt(&self, id: EntryId, bytes: u64) {
        self.next.fetch_max(id.sequence.saturating_add(1), Ordering::Relaxed);
        self.sizes().insert(id, Size { bytes, is_aside: false });
    }

    fn set_aside(&self, path: &Path, aside: &Path, error: &io::Error) -> io::Result<()> {
        self.disk.create_dir(aside)?;
        let to = aside.join(path.file_name().unwrap_or_default());
        log::error!("{} is broken ({error}); set aside as {}", path.display(), to.display());
        self.disk.rename(path, &to)
    }

    /// The name of an entry that is about to be written.
    pub(super) fn next_id(&self, seed: &str) -> EntryId {
        EntryId { sequence: self.next.fetch_add(1, Ordering::Relaxed), hash: short_hash(seed) }
    }

    pub(super) fn write<T: Serialize>(&self, id: EntryId, content: &T) -> io::Result<()> {
        let bytes = serde_json::to_vec(&SpoolFile { version: VERSION, content })?;
        self.disk.write_atomic(&self.file(id), &bytes)?;
        self.sizes().insert(id, Size { bytes: bytes.len() as u64, is_aside: false });
        Ok(())
    }

    pub(super) fn remove(&self, id: EntryId) -> io::Result<()> {
        self.disk.remove(&self.file(id))?;
        self.sizes().remove(&id);
        Ok(())
    }
}

/// Names are fixed in width, so that the order of names is the order of ids.
fn id_of(path: &Path) -> Option<EntryId> {
    EntryId::parse(path.file_name()?.to_str()?.strip_suffix(".json")?)
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    let file: SpoolFile<T> = serde_json::from_slice(bytes)
        .map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
    if file.version != VERSION {
        let text = format!("version {} is not known to this program", file.version);
        return Err(io::Error::new(ErrorKind::InvalidData, text));
    }
    Ok(file.content)
}

/// The first four bytes of a hash, for names of files.
pub fn short_hash(seed: &str) -> u32 {
    let hash = Sha256::digest(seed);
    u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]])
}

/// The messages that are not done. Clones share the directory.
#[derive(Clone, Debug)]
pub struct Inbox {
    new: Directory,
    started: Directory,
}

impl Inbox {
    /// Opens, or makes, the inbox in `dir` and recovers what an earlier process left, in the order
    /// of arrival.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path) -> io::Result<(Inbox, Vec<Entry>)> {
        let inbox = Inbox {
            new: Directory::open(Arc::clone(&disk), &dir.join("new"))?,
            started: Directory::open(disk, &dir.join("started"))?,
        };
        let broken = dir.join("broken");
        let replies: Vec<(EntryId, Reply)> = inbox.new.recover(&broken)?;
        let mut begun: BTreeSet<EntryId> = inbox.started.ids()?.into_iter().collect();
        let mut entries = Vec::with_capacity(replies.len());
        for (id, reply) in replies {
            let progress = if begun.remove(&id) { Some(inbox.progress(id, &reply)?) } else { None };
            entries.push(Entry { id, reply, progress });
        }
        for orphan in begun {
            inbox.started.remove(orphan)?;
        }
        Ok((inbox, entries))
    }

    /// If it can't be read, still the turn was begun. Without a session to resume, a person
    /// is asked. The file stays, so that the next start comes to the same conclusion.
    fn progress(&self, id: EntryId, reply: &Reply) -> io::Result<Progress> {
        match self.started.read(id) {
            Err(error) if error.kind() == ErrorKind::InvalidData => {
                log::error!("{} is broken: {error}", self.started.file(id).display());
                let engine = reply.engine.clone().unwrap_or(Engine::CLAUDE);
                Ok(Progress { attempts: 1, ..Progress::new(TurnId::new("unknown"), engine) })
            }
            result => result,
        }
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
        let id = self.new.next_id(seed);
        self.new.write(id, reply).map_err(refine)?;
        Ok(id)
    }

    fn check_bounds(&self, extra_room: usize) -> io::Result<()> {
        let sizes = self.new.sizes();
        let counted = || sizes.values().filter(|size| !size.is_aside);
        let (entries, bytes) = (counted().count(), counted().map(|size| size.bytes).sum::<u64>());
        let is_small = extra_room > 0;
        if entries < INBOX_ENTRIES_MAX + extra_room && (is_small || bytes < INBOX_BYTES_MAX) {
            return Ok(());
        }
        let text = format!("{entries} messages of {bytes} bytes in all wait already");
        Err(io::Error::new(ErrorKind::QuotaExceeded, text))
    }

    /// Has a message not count among those that there is room for, or count again.
    pub fn set_aside(&self, id: EntryId, is_aside: bool) {
        if let Some(size) = self.new.sizes().get_mut(&id) {
            size.is_aside = is_aside;
        }
    }

    /// Notes how far the turn of an entry came; durable when it returns. Called before the engine
    /// is given the prompt, and whenever there is more to say.
    pub fn started(&self, id: &EntryId, progress: &Progress) -> io::Result<()> {
        self.started.write(*id, progress)
    }

    /// Forgets an entry, once its message is in the journal of done messages and its session in a
    /// state.json that has been written. No error if it is gone already.
    pub fn done(&self, id: &EntryId) -> io::Result<()> {
        self.set_aside(*id, false);
        self.new.remove(*id)?;
        self.started.remove(*id)
    }

    pub fn count(&self) -> usize {
        self.new.sizes().len()
    }
}
