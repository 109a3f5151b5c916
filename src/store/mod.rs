//! What must survive a crash: a [`Disk`] that makes writes durable, and on it the spools, the
//! bindings, the memory of messages that are done, and the lock. Everything here goes through
//! [`Disk`], so that tests can stop it between any two operations and look at what is left.

pub mod audit;
pub mod binding;
pub mod entry;
pub mod lock;
pub mod outbox;
pub mod seen;
pub mod spool;
pub mod state;
pub mod vec_map;
mod writer;

use std::{
    ffi::OsStr,
    fmt,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
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

    /// Adds to the end of a file, which is made if need be. Durable, but a crash may leave a part.
    fn append(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;

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

    fn append(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let is_new = !path.exists();
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        file.write_all(bytes)?;
        file.sync_data()?;
        if is_new { sync_dir(parent(path)) } else { Ok(()) }
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
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
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
