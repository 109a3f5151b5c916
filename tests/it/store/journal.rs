//! The journal when it is damaged, cut, of another version, or on a disk that takes nothing; and that
//! it stays small.

use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};

use obto_bridge::{
    ids::{ClientMsgId, Engine, MessageId, ThreadId},
    store::{
        Disk, RealDisk,
        cursor::Cursor,
        entry::EntryId,
        journal::{self, Fact, Header, Piece, PostRequest, What},
        messages::{self, Opened},
        state::StateStore,
    },
};

use crate::{
    store::{disk::MemoryDisk, post, progress, reply},
    util::patience,
};

const DIR: &str = "/d";
const JOURNAL: &str = "/d/journal";

pub(super) fn open(disk: &Arc<MemoryDisk>) -> anyhow::Result<Opened> {
    let disk: Arc<dyn Disk> = Arc::<MemoryDisk>::clone(disk);
    messages::open(disk, Path::new(DIR))
}

fn read(disk: &MemoryDisk) -> Vec<u8> {
    disk.read(Path::new(JOURNAL)).unwrap()
}

fn on(bytes: &[u8]) -> Arc<MemoryDisk> {
    let disk: Arc<MemoryDisk> = Arc::default();
    disk.put(JOURNAL, bytes);
    disk
}

/// Every kind of record: a message that waits, one that was begun, one with an answer, one that is
/// done; a post that waits; a cursor.
fn every_kind() -> Vec<u8> {
    let disk: Arc<MemoryDisk> = Arc::default();
    let Opened { journal, inbox, outbox, mut seen, .. } = open(&disk).unwrap();
    let put = |message: &str| inbox.put(&reply(message), 0).unwrap();
    let (_waits, begun, answered, done) =
        (put("waits"), put("begun"), put("answered"), put("done"));
    for entry in [begun, answered, done] {
        inbox.progressed(&entry, &progress(Some("session"))).unwrap();
    }
    let mut store =
        StateStore::open(Arc::<MemoryDisk>::clone(&disk), journal.clone(), Path::new(DIR)).unwrap();
    store.set_cursor(&Cursor { last_event_id: Some("7".to_owned()), ..Cursor::default() });
    assert!(store.flush(Duration::from_mins(1)));
    outbox.put(&post("status"), None).unwrap();
    outbox.put(&post("the answer"), Some(answered)).unwrap();
    outbox.put(&post("the answer of done"), Some(done)).unwrap();
    outbox.remove(outbox.list()[2].0);
    seen.remember(&MessageId::new("done"));
    seen.done(&[done]).unwrap();
    journal.sync().unwrap();
    drop((journal, inbox, outbox, seen, store));
    read(&disk)
}

/// What a start makes of a journal, in words.
pub(super) fn understood(opened: &Opened) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for entry in &opened.entries {
        let message = entry.reply.message_id.as_ref().unwrap();
        let how = match &entry.progress {
            None => "new",
            Some(progress) if progress.session.is_some() => "begun",
            Some(_) => "unknown",
        };
        let is_answered = opened.outbox.finishes(entry.id);
        all.insert(format!("{message}: {how}{}", if is_answered { ", answered" } else { "" }));
    }
    for (id, _) in opened.outbox.list() {
        all.insert(format!("post: {}", opened.outbox.read(id).unwrap().unwrap().client_msg_id));
    }
    if opened.seen.contains(&MessageId::new("done")) {
        all.insert("done: done".to_owned());
    }
    all.extend(opened.cursor.last_event_id.as_ref().map(|id| format!("cursor: {id}")));
    all
}

fn set(items: &[&str]) -> BTreeSet<String> {
    items.iter().map(|item| (*item).to_owned()).collect()
}

/// The pieces of a journal: where each begins, and whether it is a record.
fn pieces(bytes: &[u8]) -> Vec<(usize, usize, Option<&'static str>)> {
    let mut pieces = Vec::new();
    let read = |offset, length| Ok(journal::part(bytes, offset, length).to_vec());
    let add = |piece: &Piece<'_>| {
        let kind = match &piece.what {
            What::Record(record) => Some(match record.fact {
                Fact::Message { .. } => "message",
                Fact::Progress { .. } => "progress",
                Fact::Post { .. } => "post",
                Fact::Sent { .. } => "sent",
                Fact::Done { .. } => "done",
                Fact::Cursor { .. } => "cursor",
            }),
            What::Damage | What::Torn => None,
        };
        pieces.push((usize::try_from(piece.offset).unwrap(), piece.bytes.len(), kind));
        Ok(())
    };
    assert!(matches!(journal::scan(read, add).unwrap(), Header::Ours { .. }));
    pieces
}

/// A start on what a crash has left of it loses nothing of what was whole, and starts again the same.
#[test]
fn cut_at_every_byte_it_is_what_it_was_at_some_moment() {
    let whole = every_kind();
    let records = pieces(&whole);
    let kinds: BTreeSet<_> = records.iter().filter_map(|(.., kind)| *kind).collect();
    assert_eq!(kinds.len(), 6, "{kinds:?}");
    let mut before = BTreeSet::new();
    for end in 0..=whole.len() {
        let disk = on(&whole[..end]);
        let opened = open(&disk).unwrap_or_else(|error| panic!("{end}: {error:#}"));
        let now = understood(&opened);
        // The line break at the end of a record may be missing.
        let is_whole = |(at, length, _): &(usize, usize, _)| at + length == end + 1;
        let is_moment = records.iter().any(is_whole);
        assert!(now == before || is_moment, "{end}: {before:?} became {now:?}");
        let written = opened.inbox.put(&reply("next"), 0).unwrap();
        drop(opened);
        let again = open(&disk).unwrap();
        let next = again.entries.last().unwrap();
        assert_eq!((next.id, &next.reply), (written, &reply("next")), "{end}");
        let mut expected = now.clone();
        expected.insert("next: new".to_owned());
        assert_eq!(understood(&again), expected, "{end}");
        assert!(disk.list(Path::new("/d/broken")).unwrap().is_empty(), "{end}: that is no damage");
        before = now;
    }
    let expected = [
        "waits: new",
        "begun: begun",
        "answered: begun, answered",
        "post: status",
        "post: the answer",
        "done: done",
        "cursor: 7",
    ];
    assert_eq!(before, set(&expected));
}

/// It is what a full disk leaves behind, so it must not keep a daemon from its start on one.
#[test]
fn an_unfinished_end_is_cut_off_without_any_room() {
    let whole = every_kind();
    let (at, length, _) = *pieces(&whole).last().unwrap();
    let disk = on(&whole[..at + length - 2]);
    let opened = open(&disk).unwrap();
    assert_eq!(disk.operations(), 1, "it is cut off");
    assert_eq!(read(&disk), whole[..at]);
    opened.inbox.put(&reply("next"), 0).unwrap();
    drop(opened);
    assert_eq!(open(&disk).unwrap().entries.last().unwrap().reply, reply("next"));
}

/// Whatever bit is wrong: what is not damaged is used, what is damaged is kept, and no message whose
/// turn may have begun counts as new.
#[test]
fn with_any_bit_flipped_what_can_be_read_is_used_and_the_rest_is_kept() {
    let whole = every_kind();
    let records = pieces(&whole);
    let header = records[0].0;
    for bit in 0..8 * whole.len() {
        let at = bit / 8;
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (bit % 8);
        let disk = on(&bytes);
        let opened = open(&disk).unwrap_or_else(|error| panic!("{bit}: {error:#}"));
        let now = understood(&opened);
        let kept: Vec<u8> = disk
            .list(Path::new("/d/broken"))
            .unwrap()
            .iter()
            .flat_map(|path| disk.read(path).unwrap())
            .collect();
        let hit = records.iter().find(|(from, length, _)| (*from..from + length).contains(&at));
        let is_end = hit.map_or(at + 1 == header, |(from, length, _)| at + 1 == from + length);
        if is_end {
            assert!(kept.is_empty(), "{bit}: the end of a line tells nothing");
            assert_eq!(now, understood(&open(&on(&whole)).unwrap()), "{bit}");
            continue;
        }
        let (from, length) = hit.map_or((0, header), |(from, length, _)| (*from, *length));
        assert_eq!(kept, bytes[from..from + length], "{bit}: what is damaged is kept whole");
        let is_post = hit.is_some_and(|(.., kind)| *kind == Some("post"));
        assert!(
            is_post || now.contains("post: status") && now.contains("post: the answer"),
            "{bit}"
        );
        for message in ["waits", "begun", "answered", "done"] {
            let may_lack = hit.is_some_and(|(.., kind)| *kind == Some("message"));
            let is_there = now.iter().any(|it| it.starts_with(&format!("{message}: ")));
            assert!(is_there || may_lack, "{bit}: {message} in {now:?}");
        }
        for message in ["begun", "answered", "done"] {
            let new = format!("{message}: new");
            assert!(!now.contains(&new), "{bit}: it would be driven again: {now:?}");
        }
        drop(opened);
        let again = open(&disk).unwrap();
        assert_eq!(understood(&again), now, "{bit}: the next start comes to the same");
    }
}

#[test]
fn a_journal_of_a_later_version_or_none_at_all_is_refused_by_name_and_stays() {
    let later = b"obto-bridge journal 2 c9d7a2b4\n00000000 00000000 \n".to_vec();
    let disk = on(&later);
    // The sum of the line is not known here, so that it is damaged rather than later.
    let refused = format!("{:#}", open(&disk).unwrap_err());
    assert!(refused.contains("/d/journal") && refused.contains("move the file away"), "{refused}");
    assert_eq!(read(&disk), later);

    let disk = on(journal_of(2).as_bytes());
    let refused = format!("{:#}", open(&disk).unwrap_err());
    for part in ["/d/journal", "version 2", "later obto-bridge", "move the file away"] {
        assert!(refused.contains(part), "{part:?}: {refused}");
    }
    assert_eq!(read(&disk), journal_of(2).as_bytes(), "nothing of it is lost");
    assert_eq!(disk.paths(), [JOURNAL]);
    disk.rename(Path::new(JOURNAL), Path::new("/d/away")).unwrap();
    assert!(open(&disk).unwrap().entries.is_empty(), "as advised");
}

/// A header of another version: its sum is that of the words before it.
fn journal_of(version: u32) -> String {
    let text = format!("obto-bridge journal {version}");
    let mut sum = u32::MAX;
    for byte in text.bytes() {
        sum ^= u32::from(byte);
        for _ in 0..8 {
            sum = if sum & 1 == 1 { (sum >> 1) ^ 0xedb8_8320 } else { sum >> 1 };
        }
    }
    format!("{text} {:08x}\nwhatever that one writes\n", !sum)
}

/// For each operation: it fails there once, half-way where it can, and what was said to be durable is
/// there at the next start; what failed can be said again.
#[test]
fn on_a_disk_that_is_full_at_any_record_nothing_that_was_promised_is_lost() {
    let steps = |disk: &Arc<MemoryDisk>, fails_at: Option<usize>| -> (Vec<String>, usize) {
        let Opened { journal, inbox, outbox, mut seen, .. } = open(disk).unwrap();
        let first = disk.operations();
        if let Some(at) = fails_at {
            disk.fail_once(first + at);
        }
        let mut failures = 0;
        let mut again = |step: &mut dyn FnMut() -> std::io::Result<()>| {
            while step().is_err() {
                failures += 1;
                assert!(failures < 10, "it never works again");
            }
        };
        let mut ids: Vec<EntryId> = Vec::new();
        for message in ["one", "two"] {
            again(&mut || inbox.put(&reply(message), 0).map(|id| ids.push(id)));
        }
        again(&mut || inbox.progressed(&ids[0], &progress(Some("session"))));
        again(&mut || outbox.put(&post("answer"), Some(ids[0])));
        again(&mut || outbox.put(&post("status"), None));
        outbox.remove(outbox.list()[0].0);
        seen.remember(&MessageId::new("one"));
        seen.done(&ids[..1]).unwrap();
        again(&mut || journal.sync());
        drop((journal, inbox, outbox, seen));
        let operations = disk.operations() - first;
        let opened = open(disk).unwrap();
        let mut found: Vec<String> =
            opened.entries.iter().map(|it| it.reply.body.clone()).collect();
        let posts = opened.outbox.list().into_iter();
        found.extend(posts.map(|(id, _)| opened.outbox.read(id).unwrap().unwrap().body));
        assert!(opened.seen.contains(&MessageId::new("one")));
        (found, operations)
    };
    let (expected, operations) = steps(&Arc::default(), None);
    assert_eq!(expected, ["the body of two", "the body of status"]);
    assert!(10 <= operations, "{operations}");
    for at in 0..operations {
        let disk: Arc<MemoryDisk> = Arc::default();
        assert_eq!(steps(&disk, Some(at)).0, expected, "operation {at}");
        assert!(disk.list(Path::new("/d/broken")).unwrap().is_empty(), "operation {at}");
    }
}

/// After a sync that failed nothing is certain of what was written, so it goes on in a new file.
#[test]
fn after_a_failed_sync_it_goes_on_in_a_new_file() {
    let disk: Arc<MemoryDisk> = Arc::default();
    let Opened { inbox, .. } = open(&disk).unwrap();
    inbox.put(&reply("one"), 0).unwrap();
    let before = read(&disk);
    // The write works, and the sync behind it does not.
    disk.fail_once(disk.operations() + 1);
    inbox.put(&reply("two"), 0).unwrap_err();
    assert!(before.len() < read(&disk).len(), "it was written");
    inbox.put(&reply("three"), 0).unwrap();
    let after = String::from_utf8(read(&disk)).unwrap();
    assert!(!after.contains("the body of two"), "{after}");
    drop(inbox);
    let bodies: Vec<String> =
        open(&disk).unwrap().entries.into_iter().map(|it| it.reply.body).collect();
    assert_eq!(bodies, ["the body of one", "the body of three"]);
}

/// Somebody removes or replaces the file under a running daemon.
#[test]
fn a_file_that_is_taken_away_is_written_anew() {
    let temp = tempfile::tempdir().unwrap();
    let open = || messages::open(Arc::new(RealDisk), temp.path()).unwrap();
    let Opened { inbox, .. } = open();
    std::fs::remove_file(journal::path(temp.path())).unwrap();
    inbox.put(&reply("one"), 0).unwrap_err();
    inbox.put(&reply("one"), 0).unwrap();
    drop(inbox);
    assert_eq!(open().entries.len(), 1);
}

/// A disk may be full for days, and what waits for it has a bound.
#[test]
fn of_the_places_that_wait_for_a_full_disk_the_newest_is_kept() {
    let disk: Arc<MemoryDisk> = Arc::default();
    let Opened { journal, .. } = open(&disk).unwrap();
    let state: Arc<dyn Disk> = Arc::<MemoryDisk>::clone(&disk);
    let mut store = StateStore::open(state, journal, Path::new(DIR)).unwrap();
    disk.fail(true);
    let mut cursor = Cursor::default();
    for number in 0..1_000 {
        cursor.last_event_id = Some(number.to_string());
        store.set_cursor(&cursor);
    }
    assert!(!store.flush(Duration::from_mins(1)));
    disk.fail(false);
    assert!(patience::comes_true(|| store.flush(Duration::from_mins(1))));
    drop(store);
    let bytes = read(&disk);
    let cursors = pieces(&bytes).iter().filter(|(.., kind)| *kind == Some("cursor")).count();
    assert!(cursors < 10, "{cursors}");
    assert_eq!(open(&disk).unwrap().cursor, cursor);
}

/// The loop never waits: what it hands over is reported.
#[test]
fn a_post_that_nobody_waits_for_is_reported_either_way() {
    let disk: Arc<MemoryDisk> = Arc::default();
    let Opened { outbox, stored, .. } = open(&disk).unwrap();
    let request =
        || PostRequest { post: Box::new(post("p")), finishes: None, is_confirmation: false };
    outbox.put_later(request()).unwrap();
    patience::recv(&stored).unwrap().result.unwrap();
    assert_eq!(outbox.count(), 1);
    disk.fail(true);
    outbox.put_later(request()).unwrap();
    let failed = patience::recv(&stored).unwrap();
    failed.result.unwrap_err();
    assert_eq!((failed.request.post, outbox.count()), (Box::new(post("p")), 1));
}

/// While it is written anew, posts are read from wherever they are.
#[test]
fn posts_can_be_read_while_the_file_is_written_anew() {
    let temp = tempfile::tempdir().unwrap();
    let Opened { inbox, outbox, mut seen, .. } =
        messages::open(Arc::new(RealDisk), temp.path()).unwrap();
    outbox.put(&post("kept"), None).unwrap();
    let id = outbox.list()[0].0;
    let mut large = reply("large");
    large.body = "x".repeat(1 << 20);
    let mut largest = 0;
    for _ in 0..24 {
        let entry = inbox.put(&large, 0).unwrap();
        seen.done(&[entry]).unwrap();
        for _ in 0..20 {
            assert_eq!(outbox.read(id).unwrap(), Some(post("kept")));
        }
        let size = std::fs::metadata(journal::path(temp.path())).unwrap().len();
        largest = largest.max(size);
    }
    assert!(largest < 3 * journal::ROTATE_BYTES, "{largest}");
}

/// Messages of one thread after another, over a simulated month: `OBTO_JOURNAL_MESSAGES` says how many.
#[test]
#[expect(clippy::disallowed_methods, reason = "the number of messages is given there")]
fn a_month_of_messages_leaves_a_small_journal() {
    let count: usize = std::env::var("OBTO_JOURNAL_MESSAGES")
        .map_or(6_000, |count| count.parse().expect("OBTO_JOURNAL_MESSAGES is a number"));
    let disk: Arc<MemoryDisk> = Arc::default();
    let Opened { journal, inbox, outbox, mut seen, .. } = open(&disk).unwrap();
    let (mut largest, mut memory) = (0, 0);
    for number in 0..count {
        let message = MessageId::new(format!("message-{number}"));
        let mut reply = reply(message.as_str());
        reply.thread_id = ThreadId::new(format!("thread-{}", number % 500));
        reply.engine = Some(Engine::CODEX);
        let entry = inbox.put(&reply, 0).unwrap();
        inbox.progressed(&entry, &progress(Some("session"))).unwrap();
        let mut answer = post("answer");
        answer.client_msg_id = ClientMsgId::new(format!("{message}.1.1"));
        outbox.put(&answer, Some(entry)).unwrap();
        outbox.remove(outbox.list()[0].0);
        seen.remember(&message);
        while seen.done(&[entry]).is_err() {
            journal.sync().unwrap();
        }
        if number % 500 == 0 {
            largest = largest.max(disk.sizes().iter().map(|(_, size)| *size).sum());
            memory = memory.max(memory_kib() - disk.capacity() as u64 / 1024);
        }
    }
    drop((journal, inbox, outbox, seen));
    let left = read(&disk).len();
    let began = std::time::Instant::now();
    let opened = open(&disk).unwrap();
    let start = began.elapsed();
    println!(
        "{count} messages: journal at most {largest} bytes, {left} at the end; memory without it at most {memory} KiB; opened in {start:?}"
    );
    assert!(opened.entries.is_empty() && opened.outbox.count() == 0);
    let size_max = usize::try_from(journal::ROTATE_BYTES).unwrap() + (2 << 20);
    assert!(largest < size_max, "{largest} bytes");
}

fn memory_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}
