//! What comes before what: missed messages, left-overs, stale messages, and another daemon's work.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{Bench, at, progress, thread};
use crate::{
    bridge::{stream::Replay, wire::Reply},
    coordinator::{ClaimOutcome, Event, Recovered, catchup::ReadEnd},
    ids::{MachineId, MessageId},
    store::entry::EntryId,
};

#[test]
fn what_was_missed_comes_before_what_is_live_on_its_thread_alone() {
    let mut bench = Bench::unconnected(&["t", "u"]);
    bench.connects(Replay::Unknown, "read t");
    bench.says("u", "live", 5, "read u");
    bench.says("t", "live", 5, "");
    bench.arrives("new", "a", Some("me"), "own new, begin new 3");
    bench.is_found("u", 2, "missed", 3, "");
    bench.is_read("u", 2, ReadEnd::Complete, "begin u 4");
    bench.answered("u", 4, "done missed");
    bench.left("u", 4, "begin u 1");
    assert_eq!(bench.seen_until(), Some(at(0)), "it stands still while a thread is unread");
    bench.is_read("t", 1, ReadEnd::Complete, "begin t 2");
    assert_eq!(bench.seen_until(), Some(at(0)), "the bridge's clock has not reached the rest");
}

/// Left-overs are newer than what was missed before them, and say nothing of what was read.
#[test]
fn what_an_earlier_process_left_waits_for_what_was_missed() {
    let mut bench = Bench::unconnected(&["t"]);
    bench.recovers("t", 9, None, "");
    bench.passes(3_600_000, "");
    bench.connects(Replay::Unknown, "read t");
    assert_eq!(bench.seen_until(), Some(at(0)));
    bench.is_found("t", 1, "missed", 3, "");
    bench.is_read("t", 1, ReadEnd::Complete, "begin t 2");
    bench.answered("t", 2, "done missed");
    bench.left("t", 2, "begin t 1");
    assert_eq!(bench.seen_until(), Some(at(3599)), "a second behind the connection");
}

#[test]
fn a_connection_that_is_lost_while_histories_are_read_has_them_read_again() {
    let mut bench = Bench::unconnected(&["t", "u"]);
    bench.now = Duration::from_secs(100);
    bench.connects(Replay::Unknown, "read t");
    bench.is_found("t", 1, "missed", 50, "");
    bench.is_read("t", 1, ReadEnd::Complete, "begin t 1");
    bench.passes(50, "read u");
    bench.check(Event::Disconnected, "");
    bench.is_read("u", 2, ReadEnd::Complete, "");
    assert_eq!(bench.seen_until(), Some(at(0)));
    bench.connects(Replay::Unknown, "");
    bench.passes(50, "read u");
    bench.is_read("u", 3, ReadEnd::Complete, "");
    bench.passes(50, "read t");
    bench.is_read("t", 4, ReadEnd::Complete, "");
    assert_eq!(bench.seen_until(), Some(at(99)));
}

#[test]
fn a_history_that_cannot_be_read_holds_up_its_own_thread_alone_and_not_for_ever() {
    let mut bench = Bench::unconnected(&["t", "u"]);
    bench.now = Duration::from_secs(100);
    bench.connects(Replay::Unknown, "read t");
    let failed = ReadEnd::Failed { retry_after: None };
    bench.is_read("t", 1, failed, "");
    bench.passes(50, "read u");
    bench.is_found("u", 2, "missed", 50, "");
    bench.is_read("u", 2, ReadEnd::Complete, "begin u 1");
    let cursor = bench.coordinator.cursor();
    assert_eq!(cursor.seen_until, Some(at(99)));
    assert_eq!(cursor.behind, BTreeMap::from([(thread("t"), at(0))]));
    bench.says("t", "live", 100, "");
    bench.passes(950, "read t");
    bench.is_read("t", 3, failed, "");
    bench.passes(29_000, "read t");
    bench.passes(100, "begin t 2");
    bench.says("t", "live", 101, "");
    bench.is_read("t", 4, ReadEnd::Complete, "");
    assert!(bench.coordinator.cursor().behind.is_empty());
}

#[test]
fn a_message_that_found_no_room_is_read_from_its_history() {
    let mut bench = Bench::new(&["t"]);
    let written = Some(at(5));
    bench.check(Event::Overflow { thread: thread("t"), written, last_event_id: None }, "read t");
    bench.says("t", "later", 6, "");
    bench.is_found("t", 1, "refused", 5, "");
    bench.is_read("t", 1, ReadEnd::Complete, "begin t 2");
}

#[test]
fn stale_messages_wait_for_a_person_and_leave_room_in_the_inbox() {
    let mut bench = Bench::new(&["t"]);
    bench.now = Duration::from_hours(48);
    bench.connects(Replay::Complete, "");
    bench.says("t", "old", 1, "aside 1");
    bench.says("t", "older", 0, "aside 2");
    bench.says(
        "t",
        "/queue",
        200_000,
        "say t \"No message waits on this thread.\", done m3, remove 3",
    );
    let said = "2 messages came in while this machine was away, and were not run because so much \
        time has passed:";
    bench.passes(2_000, &format!("say t {said:?}"));
    bench.says("t", "Run", 200_000, "back 1, back 2, done m4, begin t 2");
    bench.answered("t", 2, "done m2");
    bench.left("t", 2, "begin t 1");
}

/// A machine whose clock is days ahead, before the bridge has said what its time is.
#[test]
fn what_only_our_own_clock_calls_stale_runs_once_the_bridge_has_told_its_time() {
    let mut bench = Bench::unconnected(&["t"]);
    bench.now = Duration::from_hours(48);
    bench.check(
        Event::Connected { replay: Replay::Complete, server_time: None, last_event_id: None },
        "",
    );
    bench.says("t", "new", 1, "aside 1");
    bench.check(Event::Time(Some(at(2))), "back 1, begin t 1");
}

#[test]
fn another_daemon_of_this_name_has_the_work() {
    let mut bench = Bench::unconnected(&["t"]);
    bench.check(Event::Conflict { is_final: false }, "");
    bench.recovers("t", 1, Some(progress()), "");
    bench.connects(Replay::Complete, "begin t 1");
    bench.check(Event::Conflict { is_final: true }, "");
    bench.says("u", "work", 2, "");
    bench.connects(Replay::Complete, "");
}

/// The bridge had sent it again before the crash, and that it is done was not written.
#[test]
fn a_message_that_is_left_twice_is_driven_once() {
    let mut bench = Bench::new(&["t"]);
    let left = |(entry, reply): (EntryId, Arc<Reply>), has_answer| Recovered {
        entry,
        reply,
        progress: None,
        has_answer,
        session: None,
    };
    let first = left(bench.message("t", "a", "work", 1), true);
    let second = left(bench.message("t", "a", "work", 1), false);
    // What the earlier process knew to be missing is looked for.
    bench.check(Event::Recovered(vec![first, second]), "done a, read t, remove 1+2");
}

/// The other machine answers what is written until then.
#[test]
fn what_a_history_still_finds_after_its_thread_has_moved_is_dropped() {
    let mut bench = Bench::unconnected(&["t"]);
    bench.connects(Replay::Unknown, "read t");
    bench.arrives("t", "a", Some("other"), "remove 1");
    bench.arrives("t", "b", Some("me"), "own t, begin t 2");
    bench.is_found("t", 1, "missed", 3, "");
    bench.answered("t", 2, "done b, remove 3+2");
}

#[test]
fn a_thread_that_was_moved_here_is_read_from_then_on() {
    let mut bench = Bench::unconnected(&[]);
    bench.arrives("t", "a", Some("me"), "own t, begin t 1");
    bench.now = Duration::from_secs(9);
    bench.connects(Replay::Unknown, "read t");
    assert_eq!(bench.reads_since, Some(at(1)));
}

/// Nobody has noticed that the connection was dead; `/status` is answered at once, and then nothing but
/// the cursor tells what is missing.
#[test]
fn what_was_missed_on_a_thread_that_is_still_claimed_is_in_the_cursor_before_anything_is_done() {
    let mut bench = Bench::unconnected(&[]);
    bench.connects(Replay::Unknown, "");
    bench.says("t", "/status", 2, "claim t");
    bench.now += Duration::from_secs(9);
    bench.connects(Replay::Unknown, "");
    let status = "say t \"claude is not running.\", done m1, remove 1";
    bench.claimed("t", ClaimOutcome::Won, &format!("own t, read t, {status}"));
    assert_eq!(bench.reads_since, Some(at(0)));
    assert_eq!(bench.coordinator.cursor().behind, BTreeMap::from([(thread("t"), at(0))]));
}

/// The crash came after the journal was written and before the binding was.
#[test]
fn a_message_that_was_done_says_whose_its_thread_is() {
    let mut bench = Bench::unconnected(&[]);
    bench.disk.done.insert(MessageId::new("m1"));
    bench.recovers("t", 5, None, "own t, done m1, remove 1");
    bench.connects(Replay::Unknown, "read t");
    assert_eq!(bench.reads_since, Some(at(0)));
}

/// An earlier process had no room for what is sent again now.
#[test]
fn what_an_earlier_process_left_waits_for_what_is_replayed() {
    let mut bench = Bench::unconnected(&["t"]);
    bench.recovers("t", 9, None, "");
    bench.connects(Replay::Complete, "read t");
    bench.is_found("t", 1, "no room", 3, "");
    bench.is_read("t", 1, ReadEnd::Complete, "begin t 2");
}

/// A later start would run what it was to stop.
#[test]
fn a_stop_reaches_what_waits_for_a_claim_also_while_the_daemon_ends() {
    let mut bench = Bench::new(&[]);
    bench.says("t", "work", 1, "claim t");
    bench.check(Event::Stop, "");
    let (entry, reply) = bench.message("t", "stop", "/stop all", 2);
    let reply = Arc::new(Reply { machine: Some(MachineId::new("me")), ..(*reply).clone() });
    let event = Event::Reply { entry, reply, last_event_id: None };
    let stopped = "say t \"Stopped before it began.\", done m1, say t \"Nothing else waits.\"";
    bench.check(event, &format!("own t, {stopped}, remove 1, done stop, remove 2"));
}
