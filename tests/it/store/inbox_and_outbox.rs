//! Inbox and outbox, one rule at a time. What crashes do to them is in `crash`.

use std::{io::ErrorKind, path::Path, sync::Arc};

use obto_bridge::{
    ids::{MessageId, ThreadId},
    store::{
        Disk, RealDisk,
        entry::{Entry, EntryId},
        inbox::INBOX_ENTRIES_MAX,
        journal::{self},
        messages::{self, Opened},
    },
};
use proptest::prelude::*;

use crate::store::{disk::MemoryDisk, post, progress, reply};

fn open(disk: &Arc<MemoryDisk>) -> Opened {
    let disk: Arc<dyn Disk> = Arc::<MemoryDisk>::clone(disk);
    messages::open(disk, Path::new("/d")).unwrap()
}

#[test]
fn the_real_disk_carries_both() {
    let temp = tempfile::tempdir().unwrap();
    let open = || messages::open(Arc::new(RealDisk), temp.path()).unwrap();
    let Opened { inbox, outbox, .. } = open();
    let id = inbox.put(&reply("message"), 0).unwrap();
    inbox.progressed(&id, &progress(Some("session"))).unwrap();
    outbox.put(&post("answer"), None).unwrap();
    drop((inbox, outbox));
    let Opened { inbox, entries, outbox, mut seen, .. } = open();
    let expected = Entry { id, reply: reply("message"), progress: Some(progress(Some("session"))) };
    assert_eq!(entries, [expected]);
    assert_eq!(outbox.read(outbox.list()[0].0).unwrap(), Some(post("answer")));
    seen.done(&[id]).unwrap();
    assert_eq!(inbox.count(), 0);
}

#[test]
fn entries_are_recovered_in_the_order_of_arrival() {
    let disk: Arc<MemoryDisk> = Arc::default();
    let names = |entries: &[Entry]| -> Vec<String> {
        entries.iter().map(|entry| entry.reply.body.clone()).collect()
    };
    let mut expected = Vec::new();
    for round in 0..3 {
        let Opened { inbox, entries, .. } = open(&disk);
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
    let Opened { inbox, mut seen, .. } = open(&disk);
    let id = inbox.put(&reply("message"), 0).unwrap();
    seen.done(&[id]).unwrap();
    seen.done(&[id]).unwrap();
    assert_eq!(inbox.count(), 0);
    drop((inbox, seen));
    assert_eq!(open(&disk).entries, []);
}

#[test]
fn ids_are_not_used_again_after_everything_was_done() {
    let disk: Arc<MemoryDisk> = Arc::default();
    let Opened { inbox: before, mut seen, .. } = open(&disk);
    let first = before.put(&reply("message"), 0).unwrap();
    seen.done(&[first]).unwrap();
    drop((before, seen));
    // Two processes in the same microsecond would need the same message as well.
    let after = open(&disk).inbox;
    assert_ne!(after.put(&reply("other"), 0).unwrap(), first);
}

#[test]
fn a_full_inbox_says_so() {
    let disk: Arc<MemoryDisk> = Arc::default();
    let Opened { inbox, mut seen, .. } = open(&disk);
    let first = inbox.put(&reply("message"), 0).unwrap();
    for _ in 1..INBOX_ENTRIES_MAX {
        inbox.put(&reply("message"), 0).unwrap();
    }
    let error = inbox.put(&reply("message"), 0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::QuotaExceeded, "{error}");
    seen.done(&[first]).unwrap();
    inbox.put(&reply("message"), 0).unwrap();
}

/// The posts that the bridge does not have, as the next start finds them.
fn bodies(disk: &Arc<MemoryDisk>) -> Vec<String> {
    let Opened { outbox, .. } = open(disk);
    let posts = outbox.list().into_iter().map(|(id, _)| outbox.read(id).unwrap().unwrap());
    posts.map(|post| post.body.replace("the body of ", "")).collect()
}

#[test]
fn posts_leave_in_order_and_survive_a_restart() {
    let disk: Arc<MemoryDisk> = Arc::default();
    let Opened { outbox, .. } = open(&disk);
    for name in ["a", "b", "c"] {
        outbox.put(&post(name), None).unwrap();
    }
    outbox.remove(outbox.list()[0].0);
    drop(outbox);
    assert_eq!(bodies(&disk), ["b", "c"]);
}

#[test]
fn an_answer_is_kept_until_its_message_is_acknowledged() {
    let disk: Arc<MemoryDisk> = Arc::default();
    let Opened { inbox, outbox, .. } = open(&disk);
    let entry = inbox.put(&reply("message"), 0).unwrap();
    outbox.put(&post("answer"), Some(entry)).unwrap();
    let thread = post("").thread_id;
    assert!(outbox.has_unsent(&thread) && !outbox.has_unsent(&ThreadId::new("another")));
    outbox.remove(outbox.list()[0].0);
    assert!(!outbox.has_unsent(&thread));
    assert_eq!(outbox.count(), 0, "it is not sent again");
    assert!(outbox.finishes(entry));
    drop((inbox, outbox));

    for _ in 0..2 {
        let Opened { outbox, .. } = open(&disk);
        assert!(outbox.finishes(entry), "a crash before the message was acknowledged");
        assert_eq!(outbox.count(), 0, "it was sent");
    }
    let Opened { outbox, mut seen, .. } = open(&disk);
    seen.done(&[entry]).unwrap();
    assert!(!outbox.finishes(entry));
    drop((outbox, seen));
    assert_eq!(journal::look(&*disk, Path::new("/d")).unwrap().contents.posts.len(), 0);
}

/// It was sent again at every start.
#[test]
fn an_answer_whose_message_was_acknowledged_earlier_is_sent_once() {
    let disk: Arc<MemoryDisk> = Arc::default();
    let Opened { inbox, outbox, mut seen, .. } = open(&disk);
    let entries = ["one", "other"].map(|message| inbox.put(&reply(message), 0).unwrap());
    for entry in entries {
        outbox.put(&post("answer"), Some(entry)).unwrap();
    }
    seen.done(&entries[..1]).unwrap();
    drop((inbox, outbox, seen));

    let Opened { outbox, .. } = open(&disk);
    assert!(!outbox.finishes(entries[0]) && outbox.finishes(entries[1]));
    assert_eq!(outbox.count(), 2);
    outbox.list().into_iter().for_each(|(id, _)| outbox.remove(id));
    drop(outbox);
    let contents = journal::look(&*disk, Path::new("/d")).unwrap().contents;
    assert_eq!(contents.posts.len(), 1, "that of the message in the inbox");
    assert!(contents.is_answered(entries[1]));
}

#[test]
fn a_refused_post_is_kept_aside_with_the_reason() {
    let disk: Arc<MemoryDisk> = Arc::default();
    let Opened { outbox, .. } = open(&disk);
    outbox.put(&post("too large"), None).unwrap();
    outbox.refuse(outbox.list()[0].0, "413").unwrap();
    assert_eq!((outbox.count(), outbox.refused()), (0, 1));
    let kept = disk.list(Path::new("/d/outbox/refused")).unwrap();
    let text = String::from_utf8(disk.read(&kept[0]).unwrap()).unwrap();
    assert!(text.contains("413") && text.contains("too large"), "{text}");
    drop(outbox);
    let Opened { outbox, .. } = open(&disk);
    assert_eq!((outbox.count(), outbox.refused()), (0, 1));
}

proptest! {
    /// Nothing that comes from outside can break a line of the journal, or look like one.
    #[test]
    fn whatever_is_in_a_message_is_kept(thread in ".*", message in proptest::option::of(".*"), body in any::<String>()) {
        let disk: Arc<MemoryDisk> = Arc::default();
        let mut reply = reply("");
        reply.thread_id = ThreadId::new(thread);
        reply.message_id = message.map(MessageId::new);
        reply.body = body;
        let Opened { inbox, .. } = open(&disk);
        inbox.put(&reply, 0).unwrap();
        drop(inbox);
        prop_assert_eq!(&open(&disk).entries[0].reply, &reply);
        let text = String::from_utf8(disk.read(Path::new("/d/journal")).unwrap()).unwrap();
        prop_assert_eq!(text.split('\n').count(), 3, "the header, the message and nothing");
    }

    #[test]
    fn only_names_that_we_made_are_read(sequence: u64, hash: u32, text in "[0-9a-fA-F+-]{20,30}") {
        let id = EntryId { sequence, hash };
        prop_assert_eq!(EntryId::parse(&id.to_string()), Some(id));
        let is_same = EntryId::parse(&text).is_none_or(|id| id.to_string() == text);
        prop_assert!(is_same);
    }
}
