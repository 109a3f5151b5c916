//! The journal of done messages, and the lock.

use std::{path::Path, process, sync::Arc};

use obto_bridge::{
    ids::MessageId,
    store::{
        Disk,
        lock::Lock,
        seen::{CAPACITY, Seen},
    },
};

use crate::store::disk::MemoryDisk;

const PATH: &str = "/seen";

fn open(disk: &Arc<MemoryDisk>) -> Seen {
    let disk: Arc<dyn Disk> = Arc::<MemoryDisk>::clone(disk);
    Seen::open(disk, Path::new(PATH)).unwrap()
}

fn id(number: usize) -> MessageId {
    MessageId::new(format!("message\n{number}"))
}

fn size(disk: &MemoryDisk) -> usize {
    disk.read(Path::new(PATH)).unwrap().len()
}

#[test]
fn what_is_done_is_known_after_a_restart() {
    let disk: Arc<MemoryDisk> = Arc::default();
    let mut seen = open(&disk);
    seen.remember(&id(1));
    seen.flush().unwrap();
    seen.remember(&id(1));
    seen.flush().unwrap();
    seen.remember(&MessageId::new("x".repeat(1_000_000)));
    seen.flush().unwrap();
    assert_eq!(disk.operations(), 2, "what is known is not written again");
    assert_eq!(size(&disk), 2 * 33, "an id costs the same, however long it is");
    let seen = open(&disk);
    assert!(seen.contains(&id(1)) && !seen.contains(&id(2)));
}

#[test]
fn a_torn_line_is_dropped_and_does_not_spoil_the_next() {
    let disk: Arc<MemoryDisk> = Arc::default();
    let mut seen = open(&disk);
    seen.remember(&id(1));
    seen.flush().unwrap();
    disk.append(Path::new(PATH), b"0123").unwrap();
    let mut seen = open(&disk);
    seen.remember(&id(2));
    seen.flush().unwrap();
    let seen = open(&disk);
    assert!(seen.contains(&id(1)) && seen.contains(&id(2)));
    assert_eq!(size(&disk), 2 * 33);
}

#[test]
fn what_could_not_be_written_is_written_with_the_next() {
    let disk: Arc<MemoryDisk> = Arc::default();
    let mut seen = open(&disk);
    disk.fail(true);
    seen.remember(&id(1));
    seen.flush().unwrap_err();
    assert!(seen.contains(&id(1)));
    disk.fail(false);
    seen.remember(&id(2));
    seen.flush().unwrap();
    let seen = open(&disk);
    assert!(seen.contains(&id(1)) && seen.contains(&id(2)));
}

#[test]
fn the_oldest_are_forgotten_and_the_journal_stays_small() {
    let disk: Arc<MemoryDisk> = Arc::default();
    let mut seen = open(&disk);
    let count = 2 * CAPACITY + 10;
    for number in 0..count {
        seen.remember(&id(number));
        seen.flush().unwrap();
    }
    let oldest = count - CAPACITY;
    assert!(size(&disk) <= 2 * CAPACITY * 33);
    for seen in [seen, open(&disk)] {
        assert!(!seen.contains(&id(oldest - 1)));
        assert!(seen.contains(&id(oldest)) && seen.contains(&id(count - 1)));
    }
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
