//! state.json: which threads are ours, and with which sessions. In memory, with one task that
//! writes. At 50,000 bindings the file is 15 MB, so the loop does not wait for it: a change sends one
//! serialized binding to the writer, which keeps the text of all of them and puts a file together
//! when it may write again. Nothing that must survive a crash relies on it alone: an entry of the
//! inbox is done only when [`StateStore::newest_written`] says so of what its message changed.
//!
//! How far the stream was read ([`Cursor`]) is in the journal, because it is no part of what we share
//! with the reference daemon.

use std::{
    collections::BTreeMap,
    fmt::Write,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{
    ids::ThreadId,
    store::{
        Disk,
        binding::Binding,
        cursor::Cursor,
        journal::{self, Journal},
        writer::{Writer, WriterCommand},
    },
    task::{self, Joined},
    time,
};

/// The bindings in memory, and the way to the task that writes them. Owned by the main task.
/// Dropping it writes what is not yet written and waits for that.
#[derive(Debug)]
pub struct StateStore {
    bindings: BTreeMap<ThreadId, Binding>,
    /// Of the newest change: how many there were.
    generation: u64,
    /// Up to which change somebody waits.
    hurried: u64,
    /// Of the newest change that is on disk.
    written: Arc<AtomicU64>,
    wake: Receiver<()>,
    // The writer leaves when this closes. It has no bound, because the main task must not wait for a
    // disk; there are a few changes for each entry of the inbox, and that one has a bound and is done
    // only after they are written.
    changes: Sender<WriterCommand>,
    _writer: Joined,
    /// The file could not be understood, and its bindings are lost.
    is_broken: bool,
}

impl StateStore {
    /// Reads `dir/state.json` of either version and starts the writer. A file that can't be
    /// understood is set aside under a name that the log tells, and no binding is known then.
    ///
    /// # Errors
    /// When the file can't be read or set aside: going on would overwrite it.
    pub fn open(disk: Arc<dyn Disk>, journal: Journal, dir: &Path) -> Result<StateStore> {
        disk.create_dir(dir)
            .and_then(|()| disk.sweep(dir))
            .with_context(|| format!("preparing the state directory {}", dir.display()))?;
        let state_path = dir.join("state.json");
        let is_there = disk.list(dir)?.contains(&state_path);
        let file: Option<StateFile> = read(&*disk, &state_path)?;
        let is_broken = is_there && file.is_none();
        let StateFile { bindings, rest } = file.unwrap_or_default();
        let bindings = bindings.unwrap_or_default();
        let written = Arc::new(AtomicU64::new(0));
        let (wake_sender, wake) = bounded(1);
        let (changes, receiver) = unbounded();
        let writer = Writer {
            disk,
            journal,
            state_path,
            bindings: bindings.iter().map(|(id, it)| (id.clone(), text(it))).collect(),
            rest: fields(&rest),
            generation: 0,
            has_changed: false,
            has_cursor: false,
            due: Instant::now(),
            not_before: Instant::now(),
            written: Arc::clone(&written),
            wake: wake_sender,
            is_failing: false,
        };
        let writer = task::spawn("state", move || writer.run(&receiver))
            .context("starting the task that writes state.json")?;
        Ok(StateStore {
            bindings,
            generation: 0,
            hurried: 0,
            written,
            wake,
            changes,
            _writer: writer.into(),
            is_broken,
        })
    }

    /// Whether the file was broken and set aside, so that earlier bindings are lost.
    pub fn is_broken(&self) -> bool {
        self.is_broken
    }

    pub fn get(&self, thread: &ThreadId) -> Option<&Binding> {
        self.bindings.get(thread)
    }

    /// All bindings, by thread id.
    pub fn bindings(&self) -> &BTreeMap<ThreadId, Binding> {
        &self.bindings
    }

    /// Replaces a thread's binding and has it written. Returns the generation for
    /// [`StateStore::newest_written`].
    pub fn set(&mut self, thread: &ThreadId, binding: Binding) -> u64 {
        self.generation += 1;
        self.send(WriterCommand::Binding { thread: thread.clone(), text: text(&binding) });
        self.bindings.insert(thread.clone(), binding);
        self.generation
    }

    /// The generation of the newest change that is on disk, with everything before it.
    pub fn newest_written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    /// Receives something when more than before is on disk; its end is that of the writer.
    pub fn written(&self) -> &Receiver<()> {
        &self.wake
    }

    /// Has the cursor written, before the bindings that change after it. Returns the generation for
    /// [`StateStore::newest_written`].
    pub fn set_cursor(&mut self, cursor: &Cursor) -> u64 {
        self.generation += 1;
        self.send(WriterCommand::Cursor(journal::cursor(cursor)));
        self.generation
    }

    /// Has all changes so far written soon: somebody waits for them.
    pub fn hurry(&mut self) {
        if self.hurried < self.generation {
            self.hurried = self.generation;
            self.send(WriterCommand::Hurry);
        }
    }

    /// Has a file replaced that nothing relies on, and is not durable.
    pub fn replace_later(&self, path: PathBuf, bytes: Vec<u8>) {
        self.send(WriterCommand::Replace { path, bytes });
    }

    /// Has everything written now. False when that failed or took longer than `patience`.
    pub fn flush(&self, patience: Duration) -> bool {
        let (done, answer) = bounded(1);
        self.send(WriterCommand::Flush(done));
        answer.recv_timeout(patience).unwrap_or(false)
    }

    fn send(&self, change: WriterCommand) {
        if self.changes.send(change).is_err() {
            log::error!("the task that writes state.json is gone; restart the daemon");
        }
    }
}

/// Without the room that it grew in.
fn text(binding: &Binding) -> Box<str> {
    binding.to_value().to_string().into_boxed_str()
}

/// The fields of an object as JSON, with a comma behind each.
fn fields(object: &Map<String, Value>) -> String {
    object.iter().fold(String::new(), |mut text, (key, value)| {
        writeln!(text, "{}: {value},", Value::from(key.as_str()))
            .expect("writing to a string works");
        text
    })
}

/// None when there is no such file, or it was broken and is now set aside.
fn read<T: for<'de> Deserialize<'de>>(disk: &dyn Disk, path: &Path) -> Result<Option<T>> {
    let bytes = match disk.read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
    };
    match serde_json::from_slice(&bytes) {
        Ok(content) => Ok(Some(content)),
        Err(error) => {
            set_aside(disk, path, &error)?;
            Ok(None)
        }
    }
}

/// Never overwrites: what is in a broken file may still be of use to a person.
fn set_aside(disk: &dyn Disk, path: &Path, error: &serde_json::Error) -> Result<()> {
    let mut seconds = time::now().as_millis() / 1_000;
    let name = |seconds: u64| PathBuf::from(format!("{}.broken.{seconds}", path.display()));
    while disk.read(&name(seconds)).is_ok() {
        seconds += 1;
    }
    let to = name(seconds);
    disk.rename(path, &to)
        .with_context(|| format!("setting {} aside as {}", path.display(), to.display()))?;
    log::error!(
        "{} can't be understood ({error}); it is set aside as {}, and this daemon starts without it",
        path.display(),
        to.display()
    );
    Ok(())
}

/// state.json. Each binding is read on its own: as one tree of values all would take ten times the
/// space.
#[derive(Debug, Default, Deserialize)]
struct StateFile {
    bindings: Option<BTreeMap<ThreadId, Binding>>,
    /// The fields that we do not know.
    #[serde(flatten)]
    rest: Map<String, Value>,
}
