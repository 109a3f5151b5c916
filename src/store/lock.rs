//! One daemon a state directory. Two would drive the same threads and overwrite each other's
//! bindings. The lock is the kernel's, so it is gone with the process, however that ended; or a moment
//! later, with a child that it was just starting.

use std::{
    fmt,
    fs::{File, OpenOptions, TryLockError},
    io::{Read, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process, thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::{
    store::{Disk, RealDisk},
    time,
};

/// Longer than any pid and time.
const CONTENTS_BYTES_MAX: u64 = 200;

/// How long a child that a killed daemon was starting may have the lock: until its program begins.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two tries: only a wait without a deadline is told when the lock is free.
const PAUSE: Duration = Duration::from_millis(10);

/// Another daemon has the directory. A type of its own, because the exit code tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// What the other daemon says of itself.
    holder: String,
    dir: PathBuf,
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "another daemon ({}) uses {}; stop it first, or choose another state directory",
            self.holder,
            self.dir.display()
        )
    }
}

impl std::error::Error for Held {}

/// The right to use a state directory, until dropped.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes `dir/daemon.lock`; makes `dir` if need be. The file holds the pid and the start time
    /// of the daemon that has it. Waits a second for one that is just leaving.
    ///
    /// # Errors
    /// [`Held`] when another daemon has it: the error names its pid.
    pub fn acquire(dir: &Path) -> Result<Lock> {
        Lock::acquire_within(dir, PATIENCE)
    }

    fn acquire_within(dir: &Path, patience: Duration) -> Result<Lock> {
        RealDisk
            .create_dir(dir)
            .with_context(|| format!("making the state directory {}", dir.display()))?;
        let path = dir.join("daemon.lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("opening {}", path.display()))?;
        let give_up = Instant::now() + patience;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if Instant::now() < give_up => {
                    thread::park_timeout(PAUSE);
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(Held { holder: holder(&mut file), dir: dir.to_owned() }.into());
                }
                Err(TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("locking {}", path.display()));
                }
            }
        }
        let contents = format!("pid {}, since {}\n", process::id(), time::now());
        file.set_len(0)
            .and_then(|()| file.write_all(contents.as_bytes()))
            .with_context(|| format!("writing {}", path.display()))?;
        Ok(Lock { _file: file })
    }
}

/// What the other daemon wrote; it may be about to.
fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.rewind().and_then(|()| file.take(CONTENTS_BYTES_MAX).read_to_string(&mut text));
    match (read, text.trim()) {
        (Ok(_), text) if !text.is_empty() => text.to_owned(),
        _ => "pid unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As when a daemon is killed between the two steps in which a child begins.
    #[test]
    fn a_child_of_the_daemon_before_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        let Lock { _file: file } = Lock::acquire(path).unwrap();
        let child = file.try_clone().unwrap();
        drop(file);
        thread::scope(|scope| {
            let next = scope.spawn(|| Lock::acquire_within(path, Duration::from_mins(1)));
            let error = Lock::acquire_within(path, 10 * PAUSE).unwrap_err();
            assert!(error.is::<Held>(), "{error}");
            drop(child);
            next.join().unwrap().unwrap();
        });
    }
}
