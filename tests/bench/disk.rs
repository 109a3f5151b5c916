//! What homes are made on, and what it costs there to be sure of something: figures of two disks
//! can't be compared without it.

use std::{
    fmt,
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::{
    proc::{ms, now},
    stats::{figure, percentile},
};

const SAMPLES: usize = 100;

#[derive(Debug)]
pub(crate) struct Disk {
    path: PathBuf,
    file_system: String,
    device: String,
    /// A kilobyte at the end of a file, and fdatasync; the median in milliseconds.
    append: f64,
    /// A kilobyte in a new file, fsync, rename, fsync of the directory.
    replace: f64,
}

impl Disk {
    pub(crate) fn of(path: &Path) -> Result<Disk> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let (file_system, device) =
            mount(&mounts, path).unwrap_or_else(|| ("unknown".into(), "unknown".into()));
        let dir = tempfile::tempdir_in(path).with_context(|| path.display().to_string())?;
        Ok(Disk {
            path: path.to_owned(),
            file_system,
            device,
            append: appends(dir.path())?,
            replace: replaces(dir.path())?,
        })
    }

    pub(crate) fn json(&self) -> Value {
        let Disk { path, file_system, device, append, replace } = self;
        json!({"dir": path, "fileSystem": file_system, "device": device,
            "appendMs": append, "replaceMs": replace})
    }
}

impl fmt::Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} on {} ({}); append + fdatasync {} ms, file + fsync + rename + directory {} ms",
            self.path.display(),
            self.file_system,
            self.device,
            figure(self.append),
            figure(self.replace)
        )
    }
}

fn appends(dir: &Path) -> Result<f64> {
    let mut file = File::create(dir.join("log"))?;
    let mut times = Vec::new();
    for _ in 0..SAMPLES {
        let before = now();
        file.write_all(&[b'x'; 1024])?;
        file.sync_data()?;
        times.push(ms(before, now()));
    }
    Ok(percentile(times, 50))
}

fn replaces(dir: &Path) -> Result<f64> {
    let opened = File::open(dir)?;
    let mut times = Vec::new();
    for number in 0..SAMPLES {
        let before = now();
        let temporary = dir.join("tmp");
        let mut file = File::create(&temporary)?;
        file.write_all(&[b'x'; 1024])?;
        file.sync_all()?;
        fs::rename(&temporary, dir.join(number.to_string()))?;
        opened.sync_all()?;
        times.push(ms(before, now()));
    }
    Ok(percentile(times, 50))
}

/// The file system and the device of a path: `36 35 98:0 /root /mnt rw - ext4 /dev/sda rw`, of which
/// the longest mount point that holds the path counts, and the last of these.
fn mount(mounts: &str, path: &Path) -> Option<(String, String)> {
    let mount = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let point = left.split(' ').nth(4)?.replace("\\040", " ");
        let mut right = right.split(' ');
        let what = (right.next()?.to_owned(), right.next()?.to_owned());
        path.starts_with(&point).then_some((point.len(), what))
    };
    mounts.lines().filter_map(mount).max_by_key(|(length, _)| *length).map(|(_, what)| what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_of_a_path_is_found() {
        let mounts = "22 1 254:0 / / rw,noatime shared:1 - ext4 /dev/vda rw\n\
            30 22 0:26 / /dev/shm rw - tmpfs tmpfs rw\n\
            31 22 0:27 / /with\\040blank rw - xfs /dev/vdb rw\n";
        let of = |path: &str| mount(mounts, Path::new(path)).unwrap().0;
        assert_eq!(
            (&*of("/data/x"), &*of("/dev/shm/a"), &*of("/dev/shmx")),
            ("ext4", "tmpfs", "ext4")
        );
        assert_eq!(of("/with blank/a"), "xfs");
        assert_eq!(mount("", Path::new("/")), None);
    }

    #[test]
    fn a_sync_costs_something() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::of(dir.path()).unwrap();
        assert!(disk.append > 0.0 && disk.replace > 0.0, "{disk}");
    }
}
