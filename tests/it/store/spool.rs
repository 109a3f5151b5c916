//! Inbox and outbox, one rule at a time. What crashes do to them is in `crash`.

use std::{io::ErrorKind, path::Path, sync::Arc};

use obto_bridge::{
    ids::{Engine, MessageId, ThreadId},
    store::{
        Disk, RealDisk,
        entry::{Entry, EntryId},
        outbox::Outbox,
        spool::{INBOX_ENTRIES_MAX, Inbox},
    },
};
use proptest::prelude::*;

use crate::store::{disk::MemoryDisk, post, progress, reply};

fn inbox(disk: &Arc<MemoryDisk>) -> (Inbox, Vec<Entry>) {
    let disk: Arc<dyn Disk> = Arc::<MemoryDisk>::clone(disk);
    Inbox::open(disk, Path::new("/in")).unwrap()
}

#[test]
fn the_real_disk_carries_both() {
    let temp = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let (inbox, _) = Inbox::open(Arc::clone(&disk), &temp.path().join("inbox")).unwrap();
    let id = inbox.put(&reply("message"), 0).unwrap();
    inbox.started(&id, &progress(Some("session"))).unwrap();
    let (inbox, entries) = Inbox::open(Arc::clone(&disk), &temp.path().join("inbox")).unwrap();
    let expected = Entry { id, reply: reply("message"), progress: Some(progress(Some("session"))) };
    assert_eq!(entries, [expected]);
    inbox.done(&id).unwrap();
    assert_eq!(inbox.count(), 0);

    let outbox = Outbox::open(Arc::clone(&disk), &temp.path().join("outbox")).unwrap();
    outbox.put(&post("answer"), None).unwrap();
    let outbox = Outbox::open(disk, &temp.path().join("outbox")).unwrap();
    assert_eq!(outbox.read(outbox.list()[0].0).unwrap(), Some(post("answer")));
}

#[test]
fn entries_are_recovered_in_the_order_of_arrival() {
    let disk: Arc<MemoryDisk> = Arc::default();
    let names = |entries: &[Entry]| -> Vec<String> {
        entries.iter().map(|entry| entry.reply.body.clone()).collect()
    };
    let mut expected = Vec::new();
    for round in 0..3 {
        let (inbox, entries) = inbox(&disk);
        assert_eq!(names(&entries), expected);
        for number in 0..20 {
            let message = reply(&format!("{round}-{number}"));
            inbox.put(&message, 0).unwrap();
            expected.push(message.body);
        }
    }
}

#[test]
fn done_is_done_twice_without_harm() {
    let disk: Arc<MemoryDisk> = Arc::default();
    let (inbox, _) = inbox(&disk);
    let id = inbox.put(&reply("message"), 0).unwrap();
    inbox.clone().done(&id).unwrap();
    inbox.done(&id).unwrap();
    assert_eq!((inbox.count(), disk.paths().len()), (0, 0));
}

#[test]
fn ids_are_not_used_again_after_everything_was_done() {
    let disk: Arc<MemoryDisk> = Arc::default();
    let (before, _) = inbox(&disk);
    let first = before.put(&reply("message"), 0).unwrap();
    before.done(&first).unwrap();
    // Two processes in the same microsecond would need the same message as well.
    let (after, _) = inbox(&disk);
    assert_ne!(after.put(&reply("other"), 0).unwrap(), first);
}

#[test]
fn broken_entries_are_set_aside_and_never_removed() {
    let disk: Arc<MemoryDisk> = Arc::default();
    let (before, _) = inbox(&disk);
    let id = before.put(&reply("message"), 0).unwrap();
    let broken = [
        ("/in/new/00000000000000ff-00000001.json", "{\"version\":1,\"content\":{\"thr"),
        ("/in/new/00000000000000ff-00000002.json", "{\"version\":9,\"content\":{}}"),
        ("/in/new/00000000000000FF-00000003.json", "{}"),
        ("/in/new/notes.txt", "{}"),
    ];
    for (path, text) in broken {
        disk.put(path, text.as_bytes());
    }
    let (_, entries) = inbox(&disk);
    assert_eq!(entries.iter().map(|entry| entry.id).collect::<Vec<_>>(), [id]);
    for (path, text) in broken {
        let aside = path.replace("/new/", "/broken/");
        assert_eq!(disk.read(Path::new(&aside)).unwrap(), text.as_bytes(), "{aside}");
    }
}

#[test]
fn a_begun_turn_whose_progress_is_broken_is_not_repeated() {
    let disk: Arc<MemoryDisk> = Arc::default();
    let (before, _) = inbox(&disk);
    let mut message = reply("message");
    message.engine = Some(Engine::CODEX);
    let id = before.put(&message, 0).unwrap();
    disk.put(&format!("/in/started/{id}.json"), b"");
    for _ in 0..2 {
        let (_, entries) = inbox(&disk);
        let progress = entries[0].progress.as_ref().expect("it was begun");
        assert_eq!((&progress.engine, &progress.session), (&Engine::CODEX, &None));
        assert_eq!(progress.attempts, 1);
    }
}

#[test]
fn a_full_inbox_says_so() {
    let disk: Arc<MemoryDisk> = Arc::default();
    let (inbox, _) = inbox(&disk);
    let first = inbox.put(&reply("message"), 0).unwrap();
    for _ in 1..INBOX_ENTRIES_MAX {
        inbox.put(&reply("message"), 0).unwrap();
    }
    let error = inbox.put(&reply("message"), 0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::QuotaExceeded, "{error}");
    inbox.done(&first).unwrap();
    inbox.put(&reply("message"), 0).unwrap();
}

proptest! {
    #[test]
    fn names_hold_nothing_from_outside(thread in ".*", message in proptest::option::of(".*")) {
        let disk: Arc<MemoryDisk> = Arc::default();
        let mut reply = reply("");
        reply.thread_id = ThreadId::new(thread);
        reply.message_id = message.map(MessageId::new);
        let id = inbox(&disk).0.put(&reply, 0).unwrap();
        prop_assert_eq!(disk.paths(), [format!("/in/new/{id}.json")]);
        prop_assert!(id.to_string().bytes().all(|it| it.is_ascii_hexdigit() || it == b'-'));
        prop_assert_eq!(&inbox(&disk).1[0].reply, &reply);
    }

    #[test]
    fn only_names_that_we_made_are_read(sequence: u64, hash: u32, text in "[0-9a-fA-F+-]{20,30}") {
        let id = EntryId { sequence, hash };
        prop_assert_eq!(EntryId::parse(&id.to_string()), Some(id));
        let is_same = EntryId::parse(&text).is_none_or(|id| id.to_string() == text);
        prop_assert!(is_same);
    }
}
