//! The memory of done messages, and the lock.

use std::{path::Path, process, sync::Arc};

use obto_bridge::{
    ids::MessageId,
    store::{
        Disk,
        journal::{self, Journal},
        lock::Lock,
        messages::{self, Opened},
        seen::{CAPACITY, Seen},
    },
};

use crate::store::disk::MemoryDisk;

const DIR: &str = "/d";

fn open(disk: &Arc<MemoryDisk>) -> (Journal, Seen) {
    let disk: Arc<dyn Disk> = Arc::<MemoryDisk>::clone(disk);
    let Opened { journal, seen, .. } = messages::open(disk, Path::new(DIR)).unwrap();
    (journal, seen)
}

fn id(number: usize) -> MessageId {
    MessageId::new(format!("message\n{number}"))
}

fn size(disk: &MemoryDisk) -> usize {
    disk.read(&journal::path(Path::new(DIR))).unwrap().len()
}

#[test]
fn what_is_done_is_known_after_a_restart() {
    let disk: Arc<MemoryDisk> = Arc::default();
    let (journal, mut seen) = open(&disk);
    seen.remember(&id(1));
    seen.flush().unwrap();
    journal.sync().unwrap();
    let before = (disk.operations(), size(&disk));
    seen.remember(&id(1));
    seen.flush().unwrap();
    journal.sync().unwrap();
    assert_eq!((disk.operations(), size(&disk)), before, "what is known is not written again");
    seen.remember(&MessageId::new("x".repeat(1_000_000)));
    seen.flush().unwrap();
    journal.sync().unwrap();
    assert!(size(&disk) < before.1 + 100, "an id costs the same, however long it is");
    drop((journal, seen));
    let (_, seen) = open(&disk);
    assert!(seen.contains(&id(1)) && !seen.contains(&id(2)));
}

#[test]
fn what_could_not_be_written_is_written_with_the_next() {
    let disk: Arc<MemoryDisk> = Arc::default();
    let (journal, mut seen) = open(&disk);
    disk.fail(true);
    seen.remember(&id(1));
    seen.flush().unwrap();
    journal.sync().unwrap_err();
    assert!(seen.contains(&id(1)));
    disk.fail(false);
    seen.remember(&id(2));
    seen.flush().unwrap();
    journal.sync().unwrap();
    drop((journal, seen));
    let (_, seen) = open(&disk);
    assert!(seen.contains(&id(1)) && seen.contains(&id(2)));
}

#[test]
fn the_oldest_are_forgotten_and_the_journal_stays_small() {
    let disk: Arc<MemoryDisk> = Arc::default();
    let (journal, mut seen) = open(&disk);
    let count = 4 * CAPACITY + 10;
    for number in 0..count {
        seen.remember(&id(number));
        while seen.flush().is_err() {
            journal.sync().unwrap();
        }
    }
    journal.sync().unwrap();
    let size_max = journal::ROTATE_BYTES + (1 << 20);
    assert!((size(&disk) as u64) < size_max, "{} bytes", size(&disk));
    let oldest = count - CAPACITY;
    let check = |seen: &Seen| {
        assert!(!seen.contains(&id(oldest - 1)));
        assert!(seen.contains(&id(oldest)) && seen.contains(&id(count - 1)));
    };
    check(&seen);
    drop((journal, seen));
    check(&open(&disk).1);
}

#[test]
fn a_second_daemon_is_told_who_has_the_directory() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("state");
    let lock = Lock::acquire(&dir).unwrap();
    let error = Lock::acquire(&dir).unwrap_err().to_string();
    assert!(error.contains(&format!("pid {}", process::id())), "{error}");
    assert!(error.contains(dir.to_str().unwrap()), "{error}");
    drop(lock);
    let _lock = Lock::acquire(&dir).unwrap();
}
