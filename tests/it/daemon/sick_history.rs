//! A thread whose history can't be read holds up no other, and nothing of its own is lost. The bridge
//! replays nothing.

use std::time::{Duration, Instant};

use crate::util::{
    fake::Gate,
    hosted::{History, Hosted, echo},
};

/// The history of one thread can't be read.
#[track_caller]
fn one_is_sick(sickness: History) {
    let bridge = Hosted::start().behind(Duration::from_mins(1));
    let machine = bridge.machine().with("requestTimeoutMs", 500);
    bridge.make_known(&machine, &["live", "healthy", "sick"]);
    bridge.set_behind(Duration::ZERO);
    bridge.say("healthy", "missed");
    bridge.set_history("sick", sickness);
    let daemon = machine.connected();
    assert_eq!(bridge.until("healthy", 2)[1], echo("missed"), "another thread's history");
    bridge.wait(|bridge| bridge.is_read("live", 0));
    bridge.say("live", "now");
    assert_eq!(bridge.until("live", 2)[1], echo("now"), "a live message waits for nobody");
    daemon.stop();
    bridge.say("sick", "missed");

    // What was read is not read again, and what was not is.
    let reads = bridge.look(|bridge| bridge.reads.len());
    let daemon = machine.connected();
    bridge.wait(|bridge| bridge.is_read("live", reads));
    let first = |from: usize| {
        bridge.look(|bridge| {
            let mut reads = bridge.reads[from..].iter();
            reads.find(|(thread, _)| thread == "live").unwrap().1.clone()
        })
    };
    assert!(first(0) < first(reads), "{} {}", first(0), first(reads));
    daemon.stop();
    bridge.set_history("sick", History::Sound);
    let _daemon = machine.connected();
    assert_eq!(bridge.until("sick", 2)[1], echo("missed"));
}

#[test]
fn a_history_that_fails_holds_up_no_other_thread() {
    one_is_sick(History::Fails);
}

#[test]
fn a_history_that_hangs_holds_up_no_other_thread() {
    one_is_sick(History::Hangs);
}

#[test]
fn a_history_that_is_too_large_holds_up_no_other_thread() {
    one_is_sick(History::TooLarge);
}

#[test]
fn a_history_that_hangs_is_waited_for_once() {
    const WAIT: Duration = Duration::from_secs(8);
    let (bridge, gate) = (Hosted::start(), Gate::new());
    let machine = bridge.machine().with_agent("fake", &gate.acp("done"));
    let machine = machine.with("requestTimeoutMs", 8_000);
    bridge.set_history("t", History::Hangs);
    let _daemon = machine.connected();
    let begin = Instant::now();
    bridge.say("t", "hello");
    let engine = gate.next();
    let took = begin.elapsed();
    assert!(took < WAIT * 7 / 4, "{took:?}");
    drop(engine);
    assert_eq!(bridge.until("t", 1), ["done"]);
}
