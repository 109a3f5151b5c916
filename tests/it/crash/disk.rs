//! A disk that counts, and fails where it is told to.

use std::{
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard},
};

use crossbeam_channel::{Receiver, Sender, bounded};
use obto_bridge::store::{Disk, RealDisk};

/// What goes wrong with the operation of this number, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// It fails, and what comes after it works.
    Once(usize),
    /// The program ends right before it: from here on nothing has an effect or a result.
    Crash(usize),
    /// The same, in the middle of it where it has a middle, and with a loss of power: what was
    /// removed is there again.
    PowerLoss(usize),
}

#[derive(Debug)]
pub(crate) struct FaultyDisk {
    fault: Fault,
    inside: Mutex<Inside>,
    fired: Sender<()>,
    /// Receives something when the fault has happened.
    pub(crate) has_fired: Receiver<()>,
}

#[derive(Debug, Default)]
struct Inside {
    /// Counting begins when it is armed.
    is_armed: bool,
    operations: Vec<String>,
    removed: Vec<(PathBuf, Vec<u8>)>,
}

/// What an operation is to do.
enum Go {
    On,
    /// Half of it, and then fail.
    Half,
}

impl FaultyDisk {
    pub(crate) fn new(fault: Fault) -> FaultyDisk {
        let (fired, has_fired) = bounded(1);
        FaultyDisk { fault, inside: Mutex::default(), fired, has_fired }
    }

    pub(crate) fn arm(&self) {
        self.inside().is_armed = true;
    }

    /// What was done since it was armed.
    pub(crate) fn operations(&self) -> Vec<String> {
        self.inside().operations.clone()
    }

    /// Brings back what was removed and not replaced.
    pub(crate) fn undo_removals(&self) {
        if let Fault::PowerLoss(_) = self.fault {
            for (path, bytes) in self.inside().removed.drain(..) {
                if !path.exists() {
                    RealDisk.write_atomic(&path, &bytes).unwrap();
                }
            }
        }
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap()
    }

    fn count(&self, what: &str, path: &Path) -> io::Result<Go> {
        let mut inside = self.inside();
        if !inside.is_armed {
            return Ok(Go::On);
        }
        let number = inside.operations.len();
        // Refused posts have numbers for names.
        let name = match path.extension() {
            Some(_)
                if path.file_stem() > Some("0".as_ref())
                    && path.file_stem() < Some("1".as_ref()) =>
            {
                path.parent().unwrap()
            }
            _ => path,
        };
        let name = name.file_name().unwrap_or_default().to_string_lossy();
        inside.operations.push(format!("{what} {name}"));
        drop(inside);
        let (is_first, fails) = match self.fault {
            Fault::None => (false, false),
            Fault::Once(at) => (number == at, number == at),
            Fault::Crash(at) | Fault::PowerLoss(at) => (number == at, number >= at),
        };
        if is_first {
            self.fired.try_send(()).ok();
        }
        match (fails, self.fault) {
            (false, _) => Ok(Go::On),
            (true, Fault::PowerLoss(_)) if is_first => Ok(Go::Half),
            (true, _) => Err(full()),
        }
    }

    /// For operations without a middle.
    fn whole(&self, what: &str, path: &Path) -> io::Result<()> {
        match self.count(what, path)? {
            Go::On => Ok(()),
            Go::Half => Err(full()),
        }
    }
}

/// Whether an operation, as [`FaultyDisk::operations`] tells it, leaves something behind.
pub(super) fn changes(operation: &str) -> bool {
    ["write ", "append ", "remove ", "rename "].iter().any(|it| operation.starts_with(it))
}

fn full() -> io::Error {
    io::Error::new(ErrorKind::StorageFull, "no space left, says the test")
}

impl Disk for FaultyDisk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.whole("read", path)?;
        RealDisk.read(path)
    }

    fn write_atomic(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        match self.count("write", path)? {
            Go::On => RealDisk.write_atomic(path, bytes),
            Go::Half => {
                let half = path.with_file_name(".tmp-half");
                RealDisk.append(&half, &bytes[..bytes.len() / 2])?;
                Err(full())
            }
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.whole("rename", from)?;
        RealDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.whole("remove", path)?;
        if let Ok(bytes) = RealDisk.read(path) {
            self.inside().removed.push((path.to_owned(), bytes));
        }
        RealDisk.remove(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        self.whole("list", dir)?;
        RealDisk.list(dir)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.whole("create", path)?;
        RealDisk.create_dir(path)
    }

    fn remove_empty_dir(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove_empty_dir(path)
    }

    fn append(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        match self.count("append", path)? {
            Go::On => RealDisk.append(path, bytes),
            Go::Half => {
                RealDisk.append(path, &bytes[..bytes.len() / 2])?;
                Err(full())
            }
        }
    }

    fn create(&self, path: &Path) -> io::Result<()> {
        self.whole("create", path)?;
        RealDisk.create(path)
    }

    fn extend(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        match self.count("extend", path)? {
            Go::On => RealDisk.extend(path, bytes),
            Go::Half => {
                RealDisk.extend(path, &bytes[..bytes.len() / 2])?;
                Err(full())
            }
        }
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        self.whole("sync", path)?;
        RealDisk.sync(path)
    }

    fn truncate(&self, path: &Path, bytes: u64) -> io::Result<()> {
        self.whole("truncate", path)?;
        RealDisk.truncate(path, bytes)
    }

    fn read_at(&self, path: &Path, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
        self.whole("read", path)?;
        RealDisk.read_at(path, offset, bytes)
    }

    fn sweep(&self, dir: &Path) -> io::Result<()> {
        self.whole("sweep", dir)?;
        RealDisk.sweep(dir)
    }
}
