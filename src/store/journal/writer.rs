//! The task `journal`: all that is written to the journal. What has queued up meanwhile shares one
//! write and one sync. A write that failed may have left a part, and after a sync that failed nothing
//! is certain of what was written since the one before; so the next write first cuts the part off, or
//! goes on in a new file.

use std::{
    convert::Infallible,
    io::{self, ErrorKind},
    mem,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::{
    contents::{Contents, Place, Slot},
    format::{self, Found},
    record,
};
use crate::{
    bridge::wire::Post,
    ids::ThreadId,
    store::{Disk, entry::EntryId},
};

/// What nobody waits for goes along with what somebody waits for, if that comes within this time.
const PATIENCE: Duration = Duration::from_millis(50);

/// After a failed write, what nobody waits for is tried again this much later.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// Of one write, unless a single record is larger.
const BATCH_BYTES: usize = 1 << 20;

/// Of one write when a file is written anew, unless a single record is larger.
const COPY_BYTES: usize = 64 * 1024;

/// A file that is smaller stays as it is; a larger one is written anew when half of it is of no use.
pub const ROTATE_BYTES: u64 = 4 << 20;

/// Digests in one record.
const DIGESTS: usize = 1_000;

/// What the task and its users share.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) path: PathBuf,
    contents: Mutex<Contents>,
    /// Held for reading a record by its place, and for the moment in which places change.
    pub(super) layout: RwLock<()>,
}

impl Files {
    pub(super) fn new(disk: Arc<dyn Disk>, path: PathBuf, contents: Contents) -> Files {
        Files { disk, path, contents: Mutex::new(contents), layout: RwLock::new(()) }
    }

    /// Only ever held for a look at the maps.
    pub(super) fn contents(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bytes of a record, which are as they were written, also the end of its line.
    pub(super) fn read(&self, place: Place) -> io::Result<Vec<u8>> {
        let length = usize::try_from(place.bytes).unwrap_or(usize::MAX);
        let mut bytes = self.disk.read_at(&self.path, place.offset, length)?;
        match format::find(&bytes, true) {
            Found::Record { payload, bytes: found } if found == length => {
                let end = format::HEAD + payload.len();
                bytes.truncate(end);
                bytes.push(b'\n');
                Ok(bytes)
            }
            _ => {
                let at = place.offset;
                let text = format!("the record at {at} of {} is damaged", self.path.display());
                Err(io::Error::new(ErrorKind::InvalidData, text))
            }
        }
    }
}

/// What a record changes once it is written.
#[derive(Debug)]
pub(super) enum Change {
    /// Nothing, or what its user has changed already.
    Nothing,
    Has(Slot),
    Post {
        id: EntryId,
        thread: ThreadId,
        finishes: Option<EntryId>,
    },
}

/// Who is to know that a record is durable.
#[derive(Debug)]
pub(super) enum Then {
    /// Nobody. The record is written soon, and durable with the next one that somebody waits for.
    Nothing,
    Tell(Sender<io::Result<()>>),
    Report(Box<PostRequest>),
}

/// A post that is stored without anybody waiting for it.
#[derive(Debug)]
pub struct PostRequest {
    pub post: Box<Post>,
    /// The message that it ends.
    pub finishes: Option<EntryId>,
    /// It confirms that messages are done.
    pub is_confirmation: bool,
}

/// What became of a [`PostRequest`].
#[derive(Debug)]
pub struct Stored {
    pub request: PostRequest,
    pub result: io::Result<()>,
}

/// One record, or none: then all that was written before is to be durable.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) record: Vec<u8>,
    pub(super) change: Change,
    pub(super) then: Then,
}

/// What is known of the end of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Known,
    /// Behind the known length there may be a part of a write that failed.
    Torn,
    /// Behind the last sync there may be anything, and perhaps there is no file.
    Lost,
}

#[derive(Debug)]
pub(super) struct Writer {
    pub(super) files: Arc<Files>,
    /// Results of posts that nobody waits for. Unbounded: the loop asks for one of each thread at a
    /// time.
    stored: Sender<Stored>,
    /// Closes with the task.
    _running: Sender<Infallible>,
    end: End,
    /// Of the file, as far as it is known.
    bytes: u64,
    /// Something of it was not synced.
    is_unsynced: bool,
    /// When it has this size, it is looked at whether to write it anew.
    look_at: u64,
    /// What nobody waits for and is not written yet.
    notes: Vec<Command>,
    /// When they are written at the latest.
    notes_due: Instant,
    is_failing: bool,
}

impl Writer {
    /// On a file of so many bytes, which are durable.
    pub(super) fn new(
        files: Arc<Files>,
        bytes: u64,
        stored: Sender<Stored>,
        running: Sender<Infallible>,
    ) -> Writer {
        Writer {
            files,
            stored,
            _running: running,
            end: End::Known,
            bytes,
            is_unsynced: false,
            look_at: ROTATE_BYTES,
            notes: Vec::new(),
            notes_due: Instant::now(),
            is_failing: false,
        }
    }

    /// Runs until `commands` closes, and makes durable what is left then.
    pub(super) fn run(mut self, commands: &Receiver<Command>) {
        loop {
            let first = if self.notes.is_empty() {
                commands.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                commands.recv_deadline(self.notes_due)
            };
            match first {
                Ok(first) => {
                    let waiting = self.collect(first, commands);
                    if waiting.is_empty() && Instant::now() < self.notes_due {
                        continue;
                    }
                    let is_awaited = !waiting.is_empty();
                    self.commit(waiting, is_awaited);
                }
                Err(RecvTimeoutError::Timeout) => self.commit(Vec::new(), false),
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.rotate_if_due();
        }
        if !self.notes.is_empty() || self.is_unsynced {
            self.commit(Vec::new(), true);
        }
    }

    /// Takes what has queued up, as much as goes into one write. What nobody waits for joins the notes.
    fn collect(&mut self, first: Command, commands: &Receiver<Command>) -> Vec<Command> {
        let mut waiting = Vec::new();
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(command) = next {
            bytes += command.record.len();
            if matches!(command.then, Then::Nothing) {
                if self.notes.is_empty() {
                    self.notes_due = Instant::now() + PATIENCE;
                }
                // Only the newest place counts, and a disk may be full for days.
                let is_cursor = |it: &Command| matches!(it.change, Change::Has(Slot::Cursor));
                if is_cursor(&command) {
                    self.notes.retain(|note| !is_cursor(note));
                }
                self.notes.push(command);
            } else {
                waiting.push(command);
            }
            next = if bytes < BATCH_BYTES { commands.try_recv().ok() } else { None };
        }
        waiting
    }

    /// Writes the notes, and behind them what is waited for. `is_durable`: with a sync.
    fn commit(&mut self, waiting: Vec<Command>, is_durable: bool) {
        match self.write(&waiting, is_durable) {
            Ok(()) => {
                if self.is_failing {
                    log::info!("{} is written again", self.files.path.display());
                }
                self.is_failing = false;
                for command in waiting {
                    self.answer(command.then, None);
                }
            }
            Err(error) => {
                if !self.is_failing {
                    log::error!("writing {} failed: {error}", self.files.path.display());
                }
                self.is_failing = true;
                self.notes_due = Instant::now() + AFTER_FAILURE;
                for command in waiting {
                    self.answer(command.then, Some(&error));
                }
            }
        }
    }

    fn answer(&self, then: Then, error: Option<&io::Error>) {
        let result = match error {
            None => Ok(()),
            Some(error) => Err(io::Error::new(error.kind(), error.to_string())),
        };
        // Whoever asked may have left.
        match then {
            Then::Nothing => {}
            Then::Tell(caller) => caller.try_send(result).unwrap_or_default(),
            Then::Report(request) => {
                self.stored.try_send(Stored { request: *request, result }).unwrap_or_default();
            }
        }
    }

    fn write(&mut self, waiting: &[Command], is_durable: bool) -> io::Result<()> {
        self.repair()?;
        let notes = mem::take(&mut self.notes);
        let result = self.append(&notes, waiting, is_durable);
        if result.is_err() {
            self.notes = notes;
        }
        result
    }

    fn append(
        &mut self,
        notes: &[Command],
        waiting: &[Command],
        is_durable: bool,
    ) -> io::Result<()> {
        let files = Arc::clone(&self.files);
        let all = || notes.iter().chain(waiting);
        let joined;
        // One alone is not copied: it may be megabytes long.
        let bytes: &[u8] = if let ([], [only]) = (notes, waiting) {
            &only.record
        } else {
            joined = all().map(|command| &*command.record).collect::<Vec<_>>().concat();
            &joined
        };
        if !bytes.is_empty() {
            files.disk.extend(&files.path, bytes).inspect_err(|_| self.end = End::Torn)?;
            self.is_unsynced = true;
        }
        if is_durable && self.is_unsynced {
            files.disk.sync(&files.path).inspect_err(|_| self.end = End::Lost)?;
            self.is_unsynced = false;
        }
        let mut contents = files.contents();
        for Command { record, change, .. } in all() {
            let place = Place {
                offset: self.bytes,
                bytes: u32::try_from(record.len()).map_err(io::Error::other)?,
            };
            self.bytes += u64::from(place.bytes);
            match change {
                Change::Nothing => {}
                Change::Has(slot) => contents.has(*slot, place),
                Change::Post { id, thread, finishes } => {
                    contents.add_post(*id, Some(thread.clone()), *finishes, place);
                }
            }
        }
        Ok(())
    }

    /// Before anything is written: nothing uncertain is at the end of the file.
    fn repair(&mut self) -> io::Result<()> {
        let Files { disk, path, .. } = &*self.files;
        match self.end {
            End::Known => return Ok(()),
            End::Torn if disk.truncate(path, self.bytes).is_ok() => {}
            End::Torn | End::Lost => self.rotate()?,
        }
        self.end = End::Known;
        Ok(())
    }

    fn rotate_if_due(&mut self) {
        if self.bytes < self.look_at || self.end != End::Known {
            return;
        }
        let live = self.files.contents().bytes();
        if self.bytes < 2 * live {
            self.look_at = self.bytes + ROTATE_BYTES;
            return;
        }
        if let Err(error) = self.rotate() {
            let path = self.files.path.display();
            log::warn!("{path} can't be written anew, and grows until it can be: {error}");
            self.look_at = self.bytes + ROTATE_BYTES;
        }
    }

    /// Goes on in a new file with what is of use.
    pub(super) fn rotate(&mut self) -> io::Result<()> {
        self.rotate_with(&[])
    }

    /// The same, with these records at its end, which are not taken in: the file is to be read anew.
    pub(super) fn rotate_with(&mut self, more: &[Vec<u8>]) -> io::Result<()> {
        let files = Arc::clone(&self.files);
        let temporary = files.path.with_file_name(TEMPORARY);
        let made = make(&files, &temporary, more).and_then(|made| {
            let _layout = files.layout.write().unwrap_or_else(PoisonError::into_inner);
            let renamed = files.disk.rename(&temporary, &files.path);
            // Failed half-way, it may have its new name, but not for certain after a loss of power.
            let is_there = renamed.is_ok() || is_gone(&*files.disk, &temporary);
            if is_there {
                files.contents().moved(&made.places);
                self.bytes = made.bytes;
                self.is_unsynced = false;
                self.look_at = ROTATE_BYTES;
                self.end = if renamed.is_ok() { End::Known } else { End::Lost };
            }
            renamed
        });
        if made.is_err() {
            files.disk.remove(&temporary).unwrap_or_default(); // The next start removes it.
        }
        made
    }
}

/// Of the file that takes the place of the other one. Swept at the start, as all temporary files.
const TEMPORARY: &str = ".tmp-journal";

struct Made {
    places: Vec<(Slot, Place)>,
    bytes: u64,
}

/// Writes a new file, durably.
fn make(files: &Files, path: &Path, more: &[Vec<u8>]) -> io::Result<Made> {
    let Files { disk, .. } = files;
    let (records, remembered, sent) = {
        let contents = files.contents();
        let sent: Vec<EntryId> =
            contents.posts.iter().filter(|(_, kept)| kept.is_sent).map(|(id, _)| *id).collect();
        (contents.records(), contents.remembered(), sent)
    };
    disk.create(path)?;
    let mut made = Made { places: Vec::with_capacity(records.len()), bytes: 0 };
    let mut buffer = format::header();
    remembered.chunks(DIGESTS).for_each(|some| buffer.extend(record::done(&[], some)));
    let mut add = |slot: Option<Slot>, record: &[u8], buffer: &mut Vec<u8>| -> io::Result<()> {
        if COPY_BYTES < buffer.len() + record.len() {
            disk.extend(path, buffer)?;
            made.bytes += buffer.len() as u64;
            buffer.clear();
        }
        if let Some(slot) = slot {
            let offset = made.bytes + buffer.len() as u64;
            let bytes = u32::try_from(record.len()).map_err(io::Error::other)?;
            made.places.push((slot, Place { offset, bytes }));
        }
        buffer.extend_from_slice(record);
        Ok(())
    };
    for (slot, place) in records {
        add(Some(slot), &files.read(place)?, &mut buffer)?;
    }
    for record in more {
        add(None, record, &mut buffer)?;
    }
    for id in sent {
        add(None, &record::sent(id), &mut buffer)?;
    }
    disk.extend(path, &buffer)?;
    made.bytes += buffer.len() as u64;
    disk.sync(path)?;
    Ok(made)
}

fn is_gone(disk: &dyn Disk, path: &Path) -> bool {
    disk.read_at(path, 0, 1).is_err_and(|error| error.kind() == ErrorKind::NotFound)
}
