//! The journal: everything that must survive about messages and posts, in one file that is only ever
//! added to. A message costs a record when it comes in, when its turn begins, when its answer is
//! known and when it is done, and one task (`writer`) has them share what a disk is slow at. What
//! came earlier is on disk whenever what came later is, so a crash leaves some earlier moment
//! of it, and never a later step without the one before.
//!
//! [`crate::store::inbox`], [`crate::store::outbox`] and [`crate::store::seen`] are what the rest of
//! the program sees of it. When most of the file is of no use any more, what is goes to a new file.

mod contents;
mod format;
mod record;
mod scan;
mod takeover;
mod writer;

use std::{
    convert::Infallible,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::{
        Arc, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::Context;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded, unbounded};
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};

pub use self::{
    contents::{Contents, Place, REMEMBERED_MAX, Slot},
    format::Header,
    record::{Digest, Fact, Record, cursor, digest, done, message, post, progress, sent},
    scan::{Piece, What, scan},
    writer::{PostRequest, ROTATE_BYTES, Stored},
};

use self::{
    takeover::Left,
    writer::{Change, Command, Files, Then, Writer},
};
use crate::{
    bridge::wire::{Post, Reply},
    ids::{Engine, TurnId},
    store::{
        Disk,
        cursor::Cursor,
        entry::{Entry, EntryId, Progress},
    },
    task::{self, Joined},
    time,
};

/// Records that wait for the task. One more waits, or, if its sender must not, is tried again later.
const QUEUE: usize = 256;

/// A message whose turn may have come further than its records say counts as begun at least so often:
/// often enough that it is not begun again by itself, and no name of a post is used again.
const DOUBTFUL_ATTEMPTS: u32 = 2;

/// The way to the journal, shared by clones. Dropping the last one ends the task when everything is
/// durable, and waits for that.
#[derive(Clone, Debug)]
pub struct Journal(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    files: Arc<Files>,
    /// Of entries and posts.
    next: AtomicU64,
    // The task leaves when this closes, so it stands before the task.
    commands: Sender<Command>,
    _task: Joined,
}

/// A journal that is open, and what it had to say.
#[derive(Debug)]
pub struct Opened {
    pub journal: Journal,
    /// The messages that are not done, in order of arrival.
    pub entries: Vec<Entry>,
    pub cursor: Cursor,
    /// What became of posts that nobody waits for.
    pub stored: Receiver<Stored>,
    /// Closes when the task ends, without which nothing can be written.
    pub running: Receiver<Infallible>,
}

/// Where the journal of a state directory is.
pub fn path(dir: &Path) -> PathBuf {
    dir.join("journal")
}

/// Opens, or makes, the journal in a state directory, whose lock is held. What is damaged is kept in
/// `broken/`, and the log says so; what an earlier version left in its files is taken over.
///
/// # Errors
/// When it can't be read or written, or is of a later version.
pub fn open(disk: Arc<dyn Disk>, dir: &Path) -> anyhow::Result<Opened> {
    disk.create_dir(dir)
        .and_then(|()| disk.sweep(dir))
        .with_context(|| format!("preparing the state directory {}", dir.display()))?;
    let path = path(dir);
    let reading = || format!("reading {}", path.display());
    let scan = |damage: &mut Damage| {
        read(&path, |offset, bytes| disk.read_at(&path, offset, bytes), damage)
    };
    let mut damage = Damage::default();
    let found = scan(&mut damage).with_context(reading)?;
    damage.set_aside(&*disk, &path)?;
    let taking_over = || format!("taking over what an earlier version left in {}", dir.display());
    let left = Left::find(&*disk, dir).with_context(taking_over)?;
    let mut more = left.records(&*disk, dir, &found.contents).with_context(taking_over)?;
    let (stored_sender, stored) = unbounded();
    let (running_sender, running) = bounded(0);
    let files = Arc::new(Files::new(Arc::clone(&disk), path.clone(), found.contents));
    let mut loaded = load(&files).with_context(reading)?;
    more.extend(loaded.doubts);
    let is_new = !found.is_whole || loaded.is_less || !more.is_empty();
    let mut bytes = found.bytes;
    if let Some(at) = found.torn_at.filter(|_| !is_new) {
        // Which needs no room: a full disk is what leaves this behind.
        disk.truncate(&path, at).with_context(|| format!("cutting off {}", path.display()))?;
        bytes = at;
    }
    let mut writer = Writer::new(Arc::clone(&files), bytes, stored_sender, running_sender);
    if is_new {
        writer.rotate_with(&more).with_context(|| format!("writing {} anew", path.display()))?;
        let found = scan(&mut Damage::default()).with_context(reading)?;
        *files.contents() = found.contents;
        loaded = load(&files).with_context(reading)?;
    }
    left.clean(&*disk, dir).with_context(taking_over)?;
    let Loaded { entries, cursor, .. } = loaded;
    // Counting on from the clock keeps the ids of an earlier process apart from ours, also when
    // nothing of it is left.
    let next = files.contents().newest().saturating_add(1).max(time::now().as_millis() * 1_000);
    let (commands, queue) = bounded(QUEUE);
    let task = task::spawn("journal", move || writer.run(&queue))
        .context("starting the task that writes the journal")?;
    let shared = Shared { files, next: AtomicU64::new(next), commands, _task: task.into() };
    Ok(Opened { journal: Journal(Arc::new(shared)), entries, cursor, stored, running })
}

/// What a file holds. For looking at it while a daemon uses it, or without one.
///
/// # Errors
/// When it can't be read, or is of a later version.
pub fn look(disk: &dyn Disk, dir: &Path) -> io::Result<Looked> {
    let path = path(dir);
    // At once, since a daemon may put a new file in its place at any time.
    let bytes = match disk.read(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
        bytes => bytes?,
    };
    let read_at = |offset, length| Ok(part(&bytes, offset, length).to_vec());
    let Read { contents, .. } = read(&path, read_at, &mut Damage::default())?;
    Ok(Looked { contents, bytes })
}

/// A journal at some moment.
#[derive(Debug)]
pub struct Looked {
    pub contents: Contents,
    pub bytes: Vec<u8>,
}

impl Looked {
    /// How far everything was read.
    pub fn cursor(&self) -> Option<Cursor> {
        let place = self.contents.cursor?;
        let length = usize::try_from(place.bytes).ok()?;
        parse(part(&self.bytes, place.offset, length)).ok()
    }
}

/// Some bytes of a file that is in memory.
pub fn part(bytes: &[u8], offset: u64, length: usize) -> &[u8] {
    let from = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
    &bytes[from..from.saturating_add(length).min(bytes.len())]
}

struct Read {
    contents: Contents,
    /// Of the file.
    bytes: u64,
    /// There is a file, and nothing of it is damaged.
    is_whole: bool,
    /// Where an unfinished record begins.
    torn_at: Option<u64>,
}

/// Reads the file. What is damaged is added to `damage`.
fn read(
    path: &Path,
    read_at: impl FnMut(u64, usize) -> io::Result<Vec<u8>>,
    damage: &mut Damage,
) -> io::Result<Read> {
    let mut found = Read { contents: Contents::default(), bytes: 0, is_whole: true, torn_at: None };
    let mut is_empty = true;
    let header = scan(read_at, |piece| {
        found.bytes = piece.offset + piece.bytes.len() as u64;
        // Nothing can be added behind a record without an end.
        found.is_whole &= piece.bytes.ends_with(b"\n") || matches!(piece.what, What::Torn);
        match &piece.what {
            What::Record(record) => {
                is_empty = false;
                let bytes = u32::try_from(piece.bytes.len()).map_err(io::Error::other)?;
                found.contents.apply(&record.fact, Place { offset: piece.offset, bytes });
            }
            What::Damage => {
                damage.add(piece);
                found.contents.doubt();
            }
            What::Torn => {
                found.torn_at = Some(piece.offset);
                let (path, bytes) = (path.display(), piece.bytes.len());
                log::warn!(
                    "{path} ends with {bytes} bytes of an unfinished record, as after a crash; dropping them"
                );
            }
        }
        Ok(())
    });
    let refuse = |why: &str| {
        let path = path.display();
        io::Error::new(ErrorKind::InvalidData, format!("{path} {why}"))
    };
    match header {
        Err(error) if error.kind() == ErrorKind::NotFound => found.is_whole = false,
        Err(error) => return Err(error),
        Ok(Header::Ours { bytes, is_ended }) => {
            found.bytes = found.bytes.max(bytes as u64);
            found.is_whole &= is_ended;
        }
        Ok(Header::Other(version)) => {
            return Err(refuse(&format!(
                "is of version {version}, from a later obto-bridge; start that one, or move the file \
                 away to go on without the messages and posts that wait in it"
            )));
        }
        Ok(Header::Torn) => {
            found.is_whole = false;
            log::warn!("{} is cut off in its first line; starting without it", path.display());
        }
        Ok(Header::Broken) if is_empty => {
            return Err(refuse(
                "holds nothing that can be read; move the file away to go on without the messages and \
                 posts that waited in it",
            ));
        }
        Ok(Header::Broken) => found.is_whole = false,
    }
    found.is_whole &= damage.0.is_empty();
    Ok(found)
}

/// What could not be read, with the places where it was.
#[derive(Default)]
struct Damage(Vec<(u64, Vec<u8>)>);

impl Damage {
    fn add(&mut self, piece: &Piece<'_>) {
        match self.0.last_mut() {
            Some((offset, bytes)) if *offset + bytes.len() as u64 == piece.offset => {
                bytes.extend_from_slice(piece.bytes);
            }
            _ => self.0.push((piece.offset, piece.bytes.to_vec())),
        }
    }

    fn set_aside(&self, disk: &dyn Disk, path: &Path) -> io::Result<()> {
        for (offset, bytes) in &self.0 {
            let why =
                format!("{} bytes of {} at {offset} are damaged", bytes.len(), path.display());
            set_aside(disk, path, *offset, bytes, &why)?;
        }
        Ok(())
    }
}

/// Keeps what can't be used where a person finds it.
fn set_aside(
    disk: &dyn Disk,
    journal: &Path,
    offset: u64,
    bytes: &[u8],
    why: &str,
) -> io::Result<()> {
    let dir = journal.with_file_name("broken");
    disk.create_dir(&dir)?;
    let to = dir.join(format!("journal.{}.{offset}", time::now().as_millis()));
    disk.write_atomic(&to, bytes)?;
    log::error!("{why}; set aside as {}, and what is left is used", to.display());
    Ok(())
}

#[derive(Default)]
struct Loaded {
    entries: Vec<Entry>,
    cursor: Cursor,
    /// Records of how far the doubtful ones are to be taken for.
    doubts: Vec<Vec<u8>>,
    /// Something could not be understood and is set aside.
    is_less: bool,
}

/// Reads what there is to know of the texts.
fn load(files: &Files) -> io::Result<Loaded> {
    let mut loaded = Loaded::default();
    let entries = files.contents().entries.clone();
    for (id, waiting) in entries {
        let Some(reply) = understand::<Reply>(files, waiting.message, &mut loaded)? else {
            files.contents().remove(id);
            continue;
        };
        let mut progress = match waiting.progress.map(|place| text::<Progress>(files, place)) {
            None => None,
            Some(Ok(progress)) => Some(progress),
            // Still the turn was begun.
            Some(Err(error)) if error.kind() == ErrorKind::InvalidData => {
                log::error!("how far the turn of {id} came can't be understood: {error}");
                Some(unknown_progress(&reply))
            }
            Some(Err(error)) => return Err(error),
        };
        if waiting.is_doubtful {
            let doubt = match progress {
                Some(known) => {
                    Progress { attempts: known.attempts.max(DOUBTFUL_ATTEMPTS), ..known }
                }
                None => unknown_progress(&reply),
            };
            loaded.doubts.push(record::progress(id, &doubt));
            progress = Some(doubt);
        }
        loaded.entries.push(Entry { id, reply, progress });
    }
    let posts: Vec<(EntryId, Place)> =
        files.contents().posts.iter().map(|(id, kept)| (*id, kept.post)).collect();
    for (id, place) in posts {
        let post = understand::<Post>(files, place, &mut loaded)?;
        let mut contents = files.contents();
        match post {
            Some(post) => {
                if let Some(kept) = contents.posts.get_mut(&id) {
                    kept.thread = Some(post.thread_id);
                }
            }
            None => contents.forget_post(id),
        }
    }
    let cursor = files.contents().cursor;
    if let Some(place) = cursor {
        match understand(files, place, &mut loaded)? {
            Some(cursor) => loaded.cursor = cursor,
            None => files.contents().cursor = None,
        }
    }
    Ok(loaded)
}

/// The message was begun, and nothing else is known. Without a session to resume, a person is asked.
fn unknown_progress(reply: &Reply) -> Progress {
    let engine = reply.engine.clone().unwrap_or(Engine::CLAUDE);
    Progress { attempts: 1, ..Progress::new(TurnId::new("unknown"), engine) }
}

/// None: it can't be understood, although it is as it was written, and is set aside.
fn understand<T: DeserializeOwned>(
    files: &Files,
    place: Place,
    loaded: &mut Loaded,
) -> io::Result<Option<T>> {
    match text(files, place) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == ErrorKind::InvalidData => {
            loaded.is_less = true;
            let bytes = files.read(place)?;
            let why = format!("a record of {} can't be understood ({error})", files.path.display());
            set_aside(&*files.disk, &files.path, place.offset, &bytes, &why)?;
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// What the JSON of a record says.
fn text<T: DeserializeOwned>(files: &Files, place: Place) -> io::Result<T> {
    parse(&files.read(place)?)
}

fn parse<T: DeserializeOwned>(record: &[u8]) -> io::Result<T> {
    let json = record.iter().position(|byte| *byte == b'{').map_or(&[][..], |at| &record[at..]);
    serde_json::from_slice(json).map_err(|error| io::Error::new(ErrorKind::InvalidData, error))
}

impl Journal {
    /// Only ever held for a look at the maps.
    pub(super) fn contents(&self) -> MutexGuard<'_, Contents> {
        self.0.files.contents()
    }

    /// The name of an entry or a post that is about to be written.
    pub(super) fn next_id(&self, seed: &str) -> EntryId {
        let sequence = self.0.next.fetch_add(1, Ordering::Relaxed);
        EntryId { sequence, hash: short_hash(seed) }
    }

    /// Writes a record, which is durable when it returns.
    pub(super) fn write(&self, record: Vec<u8>, slot: Slot) -> io::Result<()> {
        self.wait(record, Change::Has(slot))
    }

    pub(super) fn write_post(
        &self,
        id: EntryId,
        post: &Post,
        finishes: Option<EntryId>,
    ) -> io::Result<()> {
        let record = record::post(id, finishes, post, size(post));
        self.wait(record, Change::Post { id, thread: post.thread_id.clone(), finishes })
    }

    /// Returns when everything is durable that was handed over before.
    pub fn sync(&self) -> io::Result<()> {
        self.wait(Vec::new(), Change::Nothing)
    }

    fn wait(&self, record: Vec<u8>, change: Change) -> io::Result<()> {
        let (done, is_done) = bounded(1);
        let command = Command { record, change, then: Then::Tell(done) };
        self.0.commands.send(command).map_err(|_| gone())?;
        is_done.recv().map_err(|_| gone())?
    }

    /// Has a record written soon. It is durable with the next one that is waited for. Not for the
    /// main task.
    pub(super) fn note(&self, record: Vec<u8>, slot: Option<Slot>) {
        let change = slot.map_or(Change::Nothing, Change::Has);
        // Without the task the daemon ends.
        self.0.commands.send(Command { record, change, then: Then::Nothing }).ok();
    }

    /// The same, and never waits.
    pub(super) fn try_note(&self, record: Vec<u8>) -> io::Result<()> {
        let command = Command { record, change: Change::Nothing, then: Then::Nothing };
        self.0.commands.try_send(command).map_err(|error| refused(&error))
    }

    /// Has a post written; a [`Stored`] says when it is durable. Never waits.
    pub(super) fn try_post(&self, request: PostRequest) -> Result<(), (io::Error, PostRequest)> {
        let PostRequest { post, finishes, .. } = &request;
        let id = self.next_id(post.client_msg_id.as_str());
        let change = Change::Post { id, thread: post.thread_id.clone(), finishes: *finishes };
        let record = record::post(id, *finishes, post, size(post));
        let command = Command { record, change, then: Then::Report(Box::new(request)) };
        self.0.commands.try_send(command).map_err(|error| {
            let problem = refused(&error);
            match error.into_inner().then {
                Then::Report(request) => (problem, *request),
                Then::Nothing | Then::Tell(_) => unreachable!("it was handed over above"),
            }
        })
    }

    /// The text of a post that is kept. None: it is gone.
    pub(super) fn read_post(&self, id: EntryId) -> io::Result<Option<Post>> {
        let _layout = self.0.files.layout.read().unwrap_or_else(PoisonError::into_inner);
        let place = self.contents().posts.get(&id).map(|kept| kept.post);
        place.map(|place| text(&self.0.files, place)).transpose()
    }
}

/// About that of its JSON.
fn size(post: &Post) -> usize {
    post.body.len() + post.body.len() / 16 + 512
}

fn gone() -> io::Error {
    io::Error::other("the task that writes the journal is gone; restart the daemon")
}

fn refused(error: &TrySendError<Command>) -> io::Error {
    match error {
        TrySendError::Full(_) => {
            io::Error::new(ErrorKind::WouldBlock, "too much waits to be written to the journal")
        }
        TrySendError::Disconnected(_) => gone(),
    }
}

/// The first four bytes of a hash, for names.
pub fn short_hash(seed: &str) -> u32 {
    let hash = Sha256::digest(seed);
    u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]])
}
