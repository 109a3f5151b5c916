//! The task that writes state.json, hands the cursor to the journal, and writes what `obto-bridge
//! status` shows. It has a copy of the text of every binding, so that the main task neither serializes
//! all of them for each change nor waits for the disk.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use crate::{
    ids::ThreadId,
    store::{
        Disk, RealDisk,
        journal::{Journal, Slot},
        replace,
    },
};

/// A change is written this much later, with all that follow it: a turn makes several.
const LAZINESS: Duration = Duration::from_millis(250);

/// Between two writes at least this passes, and a millisecond more for each 20 KB of the file, so
/// that a large file does not keep the disk busy.
const PAUSE: Duration = Duration::from_millis(20);
const BYTES_PER_MILLISECOND: usize = 20 * 1024;

/// After a failed write: the disk is full, most likely, and will be for a while.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);

/// What the writer is to do.
#[derive(Debug)]
pub(super) enum WriterCommand {
    Binding {
        thread: ThreadId,
        /// As JSON on one line.
        text: Box<str>,
    },
    /// A record for the journal.
    Cursor(Vec<u8>),
    /// Somebody waits for what is not written yet.
    Hurry,
    /// Write now; answered with whether everything is on disk.
    Flush(Sender<bool>),
    /// Replace a file that nothing relies on.
    Replace { path: PathBuf, bytes: Vec<u8> },
}

#[derive(Debug)]
pub(super) struct Writer {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) journal: Journal,
    pub(super) state_path: PathBuf,
    /// Each as JSON on one line.
    pub(super) bindings: BTreeMap<ThreadId, Box<str>>,
    /// The fields beside `bindings`, as JSON with a comma behind each.
    pub(super) rest: String,
    /// How many changes were made of `bindings` and the cursor.
    pub(super) generation: u64,
    /// Whether `bindings` have changed since they were written.
    pub(super) has_changed: bool,
    /// Whether the journal has a cursor that may not be durable.
    pub(super) has_cursor: bool,
    /// When what has changed is to be written, and when that may be at the earliest.
    pub(super) due: Instant,
    pub(super) not_before: Instant,
    /// The newest change that is on disk.
    pub(super) written: Arc<AtomicU64>,
    /// Says that `written` grew.
    pub(super) wake: Sender<()>,
    pub(super) is_failing: bool,
}

impl Writer {
    /// Runs until `changes` closes, and writes what is left then.
    pub(super) fn run(mut self, changes: &Receiver<WriterCommand>) {
        loop {
            let change = if self.is_dirty() {
                changes.recv_deadline(self.due)
            } else {
                changes.recv().map_err(|_| RecvTimeoutError::Disconnected)
            };
            match change {
                Ok(change) => self.apply(change),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if self.due <= Instant::now() && self.is_dirty() {
                changes.try_iter().for_each(|change| self.apply(change));
                self.write();
            }
        }
        if self.is_dirty() {
            self.write();
        }
    }

    fn is_dirty(&self) -> bool {
        self.has_cursor || self.has_changed
    }

    fn apply(&mut self, change: WriterCommand) {
        match change {
            WriterCommand::Binding { thread, text } => {
                self.changes();
                self.bindings.insert(thread, text);
                self.has_changed = true;
            }
            WriterCommand::Cursor(record) => {
                self.changes();
                self.journal.note(record, Some(Slot::Cursor));
                self.has_cursor = true;
            }
            WriterCommand::Hurry => self.due = self.not_before,
            WriterCommand::Flush(done) => {
                if self.is_dirty() {
                    self.write();
                }
                // The caller may have stopped waiting.
                done.try_send(!self.is_dirty()).unwrap_or_default();
            }
            WriterCommand::Replace { path, bytes } => {
                let dir = path.parent().unwrap_or(Path::new("."));
                if let Err(error) = RealDisk.create_dir(dir).and_then(|()| replace(&path, &bytes)) {
                    log::debug!(error:% = error; "{} could not be written", path.display());
                }
            }
        }
    }

    fn changes(&mut self) {
        if !self.is_dirty() {
            self.due = (Instant::now() + LAZINESS).max(self.not_before);
        }
        self.generation += 1;
    }

    /// Writes what changed.
    fn write(&mut self) {
        let pause = match self.try_write() {
            Ok(pause) => {
                if self.is_failing {
                    log::info!("{} is written again", self.state_path.display());
                }
                self.is_failing = false;
                pause
            }
            Err(error) => {
                if !self.is_failing {
                    let path = self.state_path.display();
                    log::error!("writing {path} failed, trying again every second: {error}");
                }
                self.is_failing = true;
                PAUSE_AFTER_FAILURE
            }
        };
        self.not_before = Instant::now() + pause;
        self.due = self.not_before;
    }

    fn try_write(&mut self) -> io::Result<Duration> {
        let mut pause = PAUSE;
        // First, since it names what is missing on threads that the bindings make ours.
        if self.has_cursor {
            self.journal.sync()?;
            self.has_cursor = false;
        }
        if self.has_changed {
            let bytes = self.file()?;
            self.disk.write_atomic(&self.state_path, &bytes)?;
            self.has_changed = false;
            let extra = u64::try_from(bytes.len() / BYTES_PER_MILLISECOND).unwrap_or(u64::MAX);
            pause = pause.saturating_add(Duration::from_millis(extra));
        }
        self.written.store(self.generation, Ordering::Release);
        // When it is full, the main task is about to look anyway.
        self.wake.try_send(()).unwrap_or_default();
        Ok(pause)
    }

    /// state.json with a line for each binding.
    fn file(&self) -> io::Result<Vec<u8>> {
        let size: usize =
            self.bindings.iter().map(|(id, text)| id.as_str().len() + text.len() + 8).sum();
        let mut bytes = Vec::with_capacity(size + self.rest.len() + 32);
        bytes.extend_from_slice(b"{");
        bytes.extend_from_slice(self.rest.as_bytes());
        bytes.extend_from_slice(b"\"bindings\": {");
        for (i, (thread, text)) in self.bindings.iter().enumerate() {
            bytes.extend_from_slice(if i == 0 { b"\n" } else { b",\n" });
            serde_json::to_writer(&mut bytes, thread)?;
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(text.as_bytes());
        }
        bytes.extend_from_slice(b"\n}}\n");
        Ok(bytes)
    }
}
