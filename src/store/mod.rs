//! What must survive a crash: a [`Disk`] that makes writes durable, and on it the journal of messages
//! and posts, the bindings, the audit, and the lock. Everything here goes through [`Disk`], so that
//! tests can stop it between any two operations and look at what is left.

pub mod audit;
pub mod binding;
pub mod cursor;
pub mod entry;
pub mod inbox;
pub mod journal;
pub mod lock;
pub mod messages;
pub mod outbox;
pub mod seen;
pub mod state;
pub mod vec_map;
mod writer;

use std::{
    ffi::OsStr,
    fmt,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU64, Ordering},
};

use crate::ids;

/// Temporary files begin with this; nothing else in our directories does.
const TEMPORARY: &str = ".tmp-";

/// The few things that the store asks of a file system. "Durable" means that it survives a loss of
/// power once the call has returned.
pub trait Disk: Send + Sync + fmt::Debug {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// Replaces `path` in one step and durably: a reader sees the old bytes or the new ones.
    /// Only the owner can read the file.
    fn write_atomic(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;

    /// Durable. An existing `to` is replaced.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Not durable, and no error when there is nothing to remove. A file may be back after a loss
    /// of power, so the caller must expect to find it again.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// The files of a directory, sorted, without directories and temporary files.
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>>;

    /// Makes a directory for the owner alone, with its parents; one that is there is left as it is.
    fn create_dir(&self, path: &Path) -> io::Result<()>;

    /// Removes a directory that is empty. Not durable.
    fn remove_empty_dir(&self, path: &Path) -> io::Result<()>;

    /// Adds to the end of a file, which is made if need be. Durable, but a crash may leave a part.
    fn append(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;

    /// Makes an empty file for the owner alone, in place of one that may be there. Not durable.
    fn create(&self, path: &Path) -> io::Result<()>;

    /// Adds to the end of a file that is there. Durable with the next [`Disk::sync`]; before that a
    /// crash may leave any part of it, and so may an error.
    fn extend(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;

    /// Makes durable what a file holds.
    fn sync(&self, path: &Path) -> io::Result<()>;

    /// Cuts a file off behind its first `bytes`. Durable.
    fn truncate(&self, path: &Path, bytes: u64) -> io::Result<()>;

    /// The bytes from `offset` on, and fewer than `bytes` only at the end of the file.
    fn read_at(&self, path: &Path, offset: u64, bytes: usize) -> io::Result<Vec<u8>>;

    /// Removes the temporary files that a crash left in `dir`. For the one who holds the lock.
    fn sweep(&self, dir: &Path) -> io::Result<()>;
}

#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }

    fn write_atomic(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let dir = parent(path);
        let temporary = dir.join(temporary_name());
        let written = write_durably(&temporary, bytes).and_then(|()| fs::rename(&temporary, path));
        if let Err(error) = written {
            // What matters is why it failed; a leftover is swept at the next start.
            fs::remove_file(&temporary).unwrap_or_default();
            return Err(error);
        }
        sync_dir(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)?;
        sync_dir(parent(to))?;
        if parent(from) == parent(to) { Ok(()) } else { sync_dir(parent(from)) }
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        match fs::remove_file(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let mut files = files(dir)?;
        files.retain(|path| !is_temporary(path));
        files.sort();
        Ok(files)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        sync_dir(parent(path))
    }

    fn remove_empty_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn append(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let is_new = !path.exists();
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        file.write_all(bytes)?;
        file.sync_data()?;
        if is_new { sync_dir(parent(path)) } else { Ok(()) }
    }

    fn create(&self, path: &Path) -> io::Result<()> {
        create(path).map(drop)
    }

    fn extend(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        OpenOptions::new().append(true).open(path)?.write_all(bytes)
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        OpenOptions::new().append(true).open(path)?.sync_data()
    }

    fn truncate(&self, path: &Path, bytes: u64) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(path)?;
        file.set_len(bytes)?;
        file.sync_data()
    }

    fn read_at(&self, path: &Path, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
        let file = File::open(path)?;
        let left = file.metadata()?.len().saturating_sub(offset);
        let mut content = vec![0; bytes.min(usize::try_from(left).unwrap_or(bytes))];
        file.read_exact_at(&mut content, offset)?;
        Ok(content)
    }

    fn sweep(&self, dir: &Path) -> io::Result<()> {
        files(dir)?.iter().filter(|path| is_temporary(path)).try_for_each(|path| self.remove(path))
    }
}

/// The random name of a state directory, made when there is none: it tells apart two daemons of one
/// machine name, as a cloned machine has them.
pub fn instance(disk: &dyn Disk, dir: &Path) -> io::Result<String> {
    let path = dir.join("instance");
    let known = disk.read(&path).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let is_name = |text: &String| {
        !text.is_empty() && text.len() <= 64 && text.bytes().all(|it| it.is_ascii_alphanumeric())
    };
    if let Some(known) = known.filter(is_name) {
        return Ok(known);
    }
    let new = ids::random_hex();
    disk.write_atomic(&path, new.as_bytes())?;
    Ok(new)
}

/// Unique in this process by the counter and among processes by the pid.
fn temporary_name() -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    format!("{TEMPORARY}{}-{}", process::id(), COUNTER.fetch_add(1, Ordering::Relaxed))
}

fn is_temporary(path: &Path) -> bool {
    path.file_name().and_then(OsStr::to_str).is_some_and(|name| name.starts_with(TEMPORARY))
}

fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

/// Replaces a file that nothing relies on: in one step, and not durably.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = parent(path).join(temporary_name());
    let written = create(&temporary)
        .and_then(|mut file| file.write_all(bytes))
        .and_then(|()| fs::rename(&temporary, path));
    written.inspect_err(|_| fs::remove_file(&temporary).unwrap_or_default())
}

/// A rename is in the directory, which has to be written as well.
fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// The directory of `path`, also of a bare file name.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

fn files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            files.push(entry.path());
        }
    }
    Ok(files)
}
