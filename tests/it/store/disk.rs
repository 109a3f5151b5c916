//! A disk in memory that counts, fails on demand, and loses power; and what the real one promises.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, ErrorKind},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard},
};

use obto_bridge::store::{Disk, RealDisk, journal};

/// Directories are not modelled: a file is its path.
#[derive(Debug, Default)]
pub(crate) struct MemoryDisk {
    inside: Mutex<Inside>,
}

#[derive(Clone, Debug, Default)]
struct Inside {
    files: BTreeMap<PathBuf, Vec<u8>>,
    /// Removed, which a loss of power may undo.
    undead: BTreeMap<PathBuf, Vec<u8>>,
    /// Operations that write.
    operations: usize,
    /// From this one on all operations fail.
    fails_from: Option<usize>,
    /// And this one fails alone.
    fails_at: Option<usize>,
}

impl Inside {
    fn count(&mut self) -> io::Result<()> {
        self.operations += 1;
        let (number, full) =
            (self.operations, || io::Error::new(ErrorKind::StorageFull, "the disk is full"));
        if self.fails_at == Some(number - 1) {
            return Err(full());
        }
        match self.fails_from {
            Some(first) if first < number => Err(full()),
            _ => Ok(()),
        }
    }
}

impl MemoryDisk {
    pub(super) fn failing_from(operation: usize) -> MemoryDisk {
        let disk = MemoryDisk::default();
        disk.inside().fails_from = Some(operation);
        disk
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap()
    }

    pub(crate) fn operations(&self) -> usize {
        self.inside().operations
    }

    pub(crate) fn fail(&self, is_failing: bool) {
        self.inside().fails_from = is_failing.then_some(0);
    }

    /// The operation of this number fails, counted as [`MemoryDisk::operations`] does.
    pub(super) fn fail_once(&self, operation: usize) {
        self.inside().fails_at = Some(operation);
    }

    pub(crate) fn put(&self, path: &str, bytes: &[u8]) {
        self.inside().files.insert(PathBuf::from(path), bytes.to_vec());
    }

    /// Damages a file at the first place where this stands, or mends it.
    pub(crate) fn flip(&self, path: &Path, text: &[u8]) {
        let mut inside = self.inside();
        let file = inside.files.get_mut(path).unwrap();
        let is_there = |part: &[u8]| part[1..] == text[1..];
        let at = file.windows(text.len()).position(is_there).unwrap();
        file[at] ^= 1;
    }

    pub(crate) fn paths(&self) -> Vec<String> {
        self.inside().files.keys().map(|path| path.display().to_string()).collect()
    }

    /// All files with their sizes in bytes.
    pub(crate) fn sizes(&self) -> Vec<(String, usize)> {
        let size = |(path, bytes): (&PathBuf, &Vec<u8>)| (path.display().to_string(), bytes.len());
        self.inside().files.iter().map(size).collect()
    }

    /// What the files take in memory.
    pub(crate) fn capacity(&self) -> usize {
        self.inside().files.values().map(Vec::capacity).sum()
    }

    /// Some time has passed: what is removed stays so, whatever happens.
    pub(crate) fn settle(&self) {
        self.inside().undead.clear();
    }

    /// What the next process finds. After a loss of power removed files may be back.
    pub(crate) fn after_crash(&self, removed_are_back: bool) -> MemoryDisk {
        let inside = self.inside();
        let mut files = inside.files.clone();
        if removed_are_back {
            for (path, bytes) in &inside.undead {
                files.entry(path.clone()).or_insert_with(|| bytes.clone());
            }
        }
        MemoryDisk { inside: Mutex::new(Inside { files, ..Inside::default() }) }
    }
}

impl Disk for MemoryDisk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.inside().files.get(path).cloned().ok_or_else(|| ErrorKind::NotFound.into())
    }

    fn write_atomic(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut inside = self.inside();
        inside.count()?;
        inside.undead.remove(path);
        inside.files.insert(path.to_owned(), bytes.to_vec());
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut inside = self.inside();
        inside.count()?;
        let bytes = inside.files.remove(from).ok_or(ErrorKind::NotFound)?;
        inside.files.insert(to.to_owned(), bytes);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut inside = self.inside();
        inside.count()?;
        if let Some(bytes) = inside.files.remove(path) {
            inside.undead.insert(path.to_owned(), bytes);
        }
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let is_temporary = |path: &Path| {
            path.file_name().is_some_and(|it| it.to_string_lossy().starts_with(".tmp-"))
        };
        let is_in = |path: &&PathBuf| path.parent() == Some(dir) && !is_temporary(path);
        Ok(self.inside().files.keys().filter(is_in).cloned().collect())
    }

    fn create_dir(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn remove_empty_dir(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    /// A failing one leaves half of it.
    fn append(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut inside = self.inside();
        let result = inside.count();
        let written = if result.is_ok() { bytes } else { &bytes[..bytes.len() / 2] };
        inside.files.entry(path.to_owned()).or_default().extend_from_slice(written);
        result
    }

    fn create(&self, path: &Path) -> io::Result<()> {
        let mut inside = self.inside();
        inside.count()?;
        inside.files.insert(path.to_owned(), Vec::new());
        Ok(())
    }

    /// A failing one leaves half of it.
    fn extend(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut inside = self.inside();
        let result = inside.count();
        let written = if result.is_ok() { bytes } else { &bytes[..bytes.len() / 2] };
        let file = inside.files.get_mut(path).ok_or(ErrorKind::NotFound)?;
        file.extend_from_slice(written);
        result
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        let mut inside = self.inside();
        inside.count()?;
        if inside.files.contains_key(path) { Ok(()) } else { Err(ErrorKind::NotFound.into()) }
    }

    fn truncate(&self, path: &Path, bytes: u64) -> io::Result<()> {
        let mut inside = self.inside();
        inside.count()?;
        let file = inside.files.get_mut(path).ok_or(ErrorKind::NotFound)?;
        file.truncate(usize::try_from(bytes).unwrap());
        Ok(())
    }

    fn read_at(&self, path: &Path, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
        let inside = self.inside();
        let file = inside.files.get(path).ok_or(ErrorKind::NotFound)?;
        Ok(journal::part(file, offset, bytes).to_vec())
    }

    fn sweep(&self, dir: &Path) -> io::Result<()> {
        let is_left = |path: &Path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            path.parent() == Some(dir) && name.starts_with(".tmp-")
        };
        self.inside().files.retain(|path, _| !is_left(path));
        Ok(())
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn the_real_disk_replaces_whole_files_for_the_owner_alone() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("a/b");
    RealDisk.create_dir(&dir).unwrap();
    RealDisk.create_dir(&dir).unwrap();
    let path = dir.join("file");
    RealDisk.write_atomic(&path, b"a longer text").unwrap();
    RealDisk.write_atomic(&path, b"short").unwrap();
    assert_eq!(RealDisk.read(&path).unwrap(), b"short");
    assert_eq!([mode(&path), mode(&dir), mode(&temp.path().join("a"))], [0o600, 0o700, 0o700]);
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 1, "no temporary file is left");
}

#[test]
fn the_real_disk_leaves_nothing_behind_when_it_fails() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("taken");
    fs::create_dir_all(path.join("by a directory")).unwrap();
    assert!(RealDisk.write_atomic(&path, b"text").is_err());
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
}

#[test]
fn the_real_disk_lists_in_order_without_what_is_temporary() {
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name);
    for name in ["b", "a", ".tmp-1-2"] {
        RealDisk.write_atomic(&at(name), b"").unwrap();
    }
    RealDisk.create_dir(&at("dir")).unwrap();
    assert_eq!(RealDisk.list(temp.path()).unwrap(), [at("a"), at("b")]);
    RealDisk.sweep(temp.path()).unwrap();
    assert!(!at(".tmp-1-2").exists() && at("a").exists());
}

#[test]
fn the_real_disk_appends_renames_and_removes() {
    let temp = tempfile::tempdir().unwrap();
    let (from, to) = (temp.path().join("from"), temp.path().join("to"));
    RealDisk.append(&from, b"one ").unwrap();
    RealDisk.append(&from, b"two").unwrap();
    assert_eq!(mode(&from), 0o600);
    RealDisk.rename(&from, &to).unwrap();
    assert_eq!(RealDisk.read(&to).unwrap(), b"one two");
    RealDisk.remove(&to).unwrap();
    RealDisk.remove(&to).unwrap();
    assert_eq!(RealDisk.read(&to).unwrap_err().kind(), ErrorKind::NotFound);
}
