//! What version 0.1.0 left is taken over at the first start: all of it, once, whatever state it was in
//! and wherever that start crashes.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use obto_bridge::{
    bridge::wire::{Post, Reply},
    ids::MessageId,
    store::{
        Disk, RealDisk,
        entry::{EntryId, Progress},
        journal::digest,
        messages::{self, Opened},
    },
};
use serde_json::{Value, json};

use crate::store::{
    disk::MemoryDisk,
    journal::{open, understood},
    post, progress, reply,
};

fn id(sequence: u64) -> EntryId {
    EntryId { sequence, hash: 7 }
}

fn file(content: &impl serde::Serialize) -> Value {
    json!({ "version": 1, "content": content })
}

/// The files of a state directory of 0.1.0, by their names in it.
#[derive(Clone, Default)]
struct Left(BTreeMap<String, Vec<u8>>);

impl Left {
    fn with(mut self, name: &str, text: impl Into<Vec<u8>>) -> Left {
        self.0.insert(name.to_owned(), text.into());
        self
    }

    fn message(self, entry: EntryId, reply: &Reply) -> Left {
        self.with(&format!("inbox/new/{entry}.json"), file(reply).to_string())
    }

    fn progress(self, entry: EntryId, progress: &Progress) -> Left {
        self.with(&format!("inbox/started/{entry}.json"), file(progress).to_string())
    }

    fn post(self, id: EntryId, post: &Post, finishes: Option<EntryId>) -> Left {
        let mut content = json!({ "post": post });
        if let Some(entry) = finishes {
            content["finishes"] = json!(entry.to_string());
        }
        self.with(&format!("outbox/{id}.json"), file(&content).to_string())
    }

    fn put_on(&self, disk: &MemoryDisk) {
        for (name, bytes) in &self.0 {
            disk.put(&format!("/d/{name}"), bytes);
        }
    }

    fn disk(&self) -> Arc<MemoryDisk> {
        let disk: Arc<MemoryDisk> = Arc::default();
        self.put_on(&disk);
        disk
    }
}

fn seen_line(message: &str) -> String {
    format!("{:032x}\n", digest(&MessageId::new(message)))
}

/// Everything that an orderly and a crashed daemon leave.
fn everything() -> (Left, Vec<&'static str>) {
    let left = Left::default()
        .message(id(1), &reply("waits"))
        .message(id(2), &reply("begun"))
        .progress(id(2), &progress(Some("session")))
        .message(id(3), &reply("answered"))
        .progress(id(3), &progress(Some("session")))
        .message(id(4), &reply("unclear"))
        .with(&format!("inbox/started/{}.json", id(4)), "{\"version\":1,\"cont")
        .progress(id(5), &progress(Some("a progress without a message means nothing")))
        .with(&format!("inbox/new/{}.json", id(6)), "{\"version\":1,\"content\":{\"thr")
        .with(&format!("inbox/new/{}.json", id(7)), "{\"version\":9,\"content\":{}}")
        .with("inbox/new/notes.txt", "{}")
        .with("inbox/new/.tmp-1-2", "half a mess")
        .with("inbox/broken/earlier.json", "broken for long")
        .post(id(8), &post("status"), None)
        .post(id(9), &post("the answer"), Some(id(3)))
        .post(id(10), &post("acknowledged"), Some(id(77)))
        .with(&format!("outbox/{}.json", id(11)), "")
        .with("outbox/.tmp-3-4", "half a post")
        .with("outbox/refused/0000000000000000-00000000.json", "{}")
        .with("seen", format!("{}{}0123", seen_line("done"), seen_line("long done")))
        .with("cursor.json", r#"{"lastEventId":"7","seenUntil":null}"#);
    let expected = vec![
        "waits: new",
        "begun: begun",
        "answered: begun, answered",
        "unclear: unknown",
        "post: status",
        "post: the answer",
        "post: acknowledged",
        "done: done",
        "cursor: 7",
    ];
    (left, expected)
}

fn set(items: &[&str]) -> BTreeSet<String> {
    items.iter().map(|item| (*item).to_owned()).collect()
}

/// Each as it is with every other one missing, and all together.
fn states() -> Vec<(Left, BTreeSet<String>)> {
    let (left, expected) = everything();
    let mut states = vec![(left.clone(), set(&expected)), (Left::default(), set(&[]))];
    for name in left.0.keys() {
        let mut less = left.clone();
        less.0.remove(name);
        let disk = less.disk();
        let found = understood(&open(&disk).unwrap());
        states.push((less, found));
    }
    states
}

#[test]
fn all_of_it_is_taken_over_and_then_out_of_the_way() {
    let (left, expected) = everything();
    let disk = left.disk();
    for _ in 0..2 {
        let opened = open(&disk).unwrap();
        assert_eq!(understood(&opened), set(&expected));
        let ids: Vec<EntryId> = opened.entries.iter().map(|entry| entry.id).collect();
        assert_eq!(ids, [id(1), id(2), id(3), id(4)], "in the order of arrival, under their names");
        assert!(opened.seen.contains(&MessageId::new("long done")));
        let next = opened.inbox.put(&reply("next"), 0).unwrap();
        assert!(id(11) < next);
        let Opened { mut seen, .. } = opened;
        seen.done(&[next]).unwrap();
    }
    let broken = |name: &str| format!("/d/{name}");
    let expected = [
        broken(&format!("inbox/broken/{}.json", id(6))),
        broken(&format!("inbox/broken/{}.json", id(7))),
        broken("inbox/broken/earlier.json"),
        broken("inbox/broken/notes.txt"),
        "/d/journal".to_owned(),
        broken(&format!("outbox/broken/{}.json", id(11))),
        broken("outbox/refused/0000000000000000-00000000.json"),
    ];
    assert_eq!(disk.paths(), expected, "what was broken or refused stays where a person finds it");
}

#[test]
fn a_crash_at_any_operation_of_it_loses_and_doubles_nothing() {
    for (number, (left, expected)) in states().into_iter().enumerate() {
        let whole = left.disk();
        drop(open(&whole).unwrap());
        for n in 0..=whole.operations() {
            for removed_are_back in [false, true] {
                let failing = Arc::new(MemoryDisk::failing_from(n));
                left.put_on(&failing);
                drop(open(&failing));
                let disk = Arc::new(failing.after_crash(removed_are_back));
                let what = format!("state {number}, operation {n}, {removed_are_back}");
                let opened = open(&disk).unwrap_or_else(|error| panic!("{what}: {error:#}"));
                assert_eq!(understood(&opened), expected, "{what}");
                let posts = opened.outbox.list().len();
                let names = expected.iter().filter(|it| it.starts_with("post: ")).count();
                assert_eq!(posts, names, "{what}: no post is there twice");
                let count = expected
                    .iter()
                    .filter(|it| {
                        it.contains(": new") || it.contains(": begun") || it.contains(": unknown")
                    })
                    .count();
                assert_eq!(opened.entries.len(), count, "{what}: no message is there twice");
            }
        }
    }
}

/// Power is lost after all was done, and brings the removed files back.
#[test]
fn what_is_done_stays_done_when_its_files_come_back() {
    let (left, _) = everything();
    let disk = left.disk();
    let Opened { journal, entries, outbox, mut seen, .. } = open(&disk).unwrap();
    for entry in &entries {
        seen.remember(entry.reply.message_id.as_ref().unwrap());
    }
    seen.done(&entries.iter().map(|entry| entry.id).collect::<Vec<_>>()).unwrap();
    outbox.list().into_iter().for_each(|(id, _)| outbox.remove(id));
    journal.sync().unwrap();
    drop((journal, outbox, seen));
    let disk = Arc::new(disk.after_crash(true));
    let opened = open(&disk).unwrap();
    for entry in &opened.entries {
        let message = entry.reply.message_id.as_ref().unwrap();
        assert!(opened.seen.contains(message), "{message} would be driven again");
    }
}

/// Somebody went back to 0.1.0 for a while, which knows nothing of the journal.
#[test]
fn what_0_1_0_left_beside_a_journal_joins_it() {
    let (left, expected) = everything();
    let disk = left.disk();
    drop(open(&disk).unwrap());
    Left::default()
        .message(id(21), &reply("written meanwhile"))
        .post(id(22), &post("answered meanwhile"), None)
        .with("seen", seen_line("done meanwhile"))
        .with("cursor.json", r#"{"lastEventId":"9","seenUntil":null}"#)
        .put_on(&disk);
    let opened = open(&disk).unwrap();
    let mut all = set(&expected);
    all.extend(set(&["written meanwhile: new", "post: answered meanwhile"]));
    // The older position: what was read since is known by its id.
    assert_eq!(understood(&opened), all);
    assert!(opened.seen.contains(&MessageId::new("done meanwhile")));
}

#[test]
fn on_a_real_disk_the_files_are_gone() {
    let temp = tempfile::tempdir().unwrap();
    let (left, expected) = everything();
    for (name, bytes) in &left.0 {
        let path = temp.path().join(name);
        RealDisk.create_dir(path.parent().unwrap()).unwrap();
        RealDisk.write_atomic(&path, bytes).unwrap();
    }
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let opened = messages::open(Arc::clone(&disk), temp.path()).unwrap();
    assert_eq!(understood(&opened), set(&expected));
    drop(opened);
    for name in ["inbox/new", "inbox/started"] {
        let path = temp.path().join(name);
        assert!(!Path::new(&path).exists(), "{name}");
    }
    for name in ["seen", "cursor.json"] {
        assert!(!temp.path().join(name).exists(), "{name}");
    }
    let opened = messages::open(disk, temp.path()).unwrap();
    assert_eq!(understood(&opened), set(&expected));
}
