//! The way of two messages through the store, cut off at every operation: what is there at the next
//! start, with and without the removed files that a loss of power brings back.

use std::{path::Path, sync::Arc};

use obto_bridge::{
    bridge::wire::Reply,
    ids::{MessageId, SessionId},
    store::{
        Disk,
        entry::EntryId,
        messages::{self, Opened},
    },
};

use crate::store::{disk::MemoryDisk, post, progress, reply};

/// What was promised before the crash: a step is in here when its call returned without an error.
#[derive(Debug, Default)]
struct Promised {
    arrived: Vec<Reply>,
    is_begun: bool,
    has_session: bool,
    is_answered: bool,
    is_seen: bool,
    /// The call was made, whether it failed or not.
    done_was_called: bool,
    sent_was_called: bool,
}

fn open(disk: &Arc<dyn Disk>) -> anyhow::Result<Opened> {
    messages::open(Arc::clone(disk), Path::new("/d"))
}

fn script(disk: &Arc<dyn Disk>, promised: &mut Promised) -> anyhow::Result<()> {
    let Opened { journal, inbox, outbox, mut seen, .. } = open(disk)?;
    let mut ids: Vec<EntryId> = Vec::new();
    for message in ["first", "second"] {
        ids.push(inbox.put(&reply(message), 0)?);
        promised.arrived.push(reply(message));
    }
    inbox.progressed(&ids[0], &progress(None))?;
    promised.is_begun = true;
    inbox.progressed(&ids[0], &progress(Some("session")))?;
    promised.has_session = true;
    outbox.put(&post("answer"), Some(ids[0]))?;
    promised.is_answered = true;
    promised.done_was_called = true;
    seen.remember(&MessageId::new("first"));
    seen.done(&ids[..1])?;
    journal.sync()?;
    promised.is_seen = true;
    promised.sent_was_called = true;
    outbox.remove(outbox.list()[0].0);
    journal.sync()?;
    Ok(())
}

fn check_next_start(disk: MemoryDisk, promised: &Promised) {
    let disk: Arc<dyn Disk> = Arc::new(disk);
    let Opened { inbox, entries, outbox, seen, .. } = open(&disk).unwrap();
    let is_seen = seen.contains(&MessageId::new("first"));
    assert!(is_seen || !promised.is_seen);
    assert!(!is_seen || promised.is_answered, "nothing is done before its answer is safe");
    for message in &promised.arrived {
        let entry = entries.iter().find(|entry| entry.reply == *message);
        if message.message_id != Some(MessageId::new("first")) {
            assert_eq!(entry.unwrap().progress, None);
            continue;
        }
        match entry {
            None => assert!(promised.done_was_called, "{message:?} is lost"),
            Some(_) if is_seen => {}
            Some(entry) => {
                let is_begun = entry.progress.is_some();
                assert!(is_begun || !promised.is_begun, "it would be blindly repeated");
                let session = entry.progress.as_ref().and_then(|it| it.session.clone());
                assert!(session == Some(SessionId::new("session")) || !promised.has_session);
            }
        }
    }
    if promised.is_answered && !promised.sent_was_called {
        assert_eq!(outbox.read(outbox.list()[0].0).unwrap(), Some(post("answer")));
    }
    let unsettled = entries.iter().filter(|it| it.reply == reply("first")).map(|it| it.id);
    for entry in unsettled.filter(|_| promised.is_answered && !promised.done_was_called) {
        assert!(outbox.finishes(entry), "it would be driven again");
    }
    // Life goes on: new entries come after the old ones.
    let newest = entries.iter().map(|entry| entry.id).max();
    assert!(newest < Some(inbox.put(&reply("third"), 0).unwrap()));
}

#[test]
fn a_crash_at_any_operation_loses_nothing_and_repeats_nothing() {
    let whole: Arc<MemoryDisk> = Arc::default();
    let disk: Arc<dyn Disk> = Arc::<MemoryDisk>::clone(&whole);
    script(&disk, &mut Promised::default()).unwrap();
    let operations = whole.operations();
    assert!(9 <= operations, "{operations} operations");
    for n in 0..=operations {
        let failing = Arc::new(MemoryDisk::failing_from(n));
        let disk: Arc<dyn Disk> = Arc::<MemoryDisk>::clone(&failing);
        let mut promised = Promised::default();
        let result = script(&disk, &mut promised);
        assert_eq!(result.is_ok(), n == operations, "operation {n}");
        for removed_are_back in [false, true] {
            check_next_start(failing.after_crash(removed_are_back), &promised);
        }
    }
}
