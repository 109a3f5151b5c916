//! A thread whose history can't be read holds up no other, and nothing of its own is lost. The bridge
//! replays nothing.

use std::time::{Duration, Instant};

use crate::util::{
    fake::Gate,
    hosted::{History, Hosted, Inside, echo},
};

/// The history of one thread can't be read.
#[track_caller]
fn one_is_sick(sickness: History) {
    let bridge = Hosted::start();
    let machine = bridge.machine().with("requestTimeoutMs", 500);
    bridge.make_known(&machine, &["live", "healthy", "sick"]);
    bridge.say("healthy", "missed");
    bridge.set_history("sick", sickness);
    let reads = |bridge: &Inside| {
        let reads = bridge.reads.iter().filter(|(thread, _)| thread == "live");
        reads.map(|(_, since)| since.clone()).collect::<Vec<_>>()
    };
    let daemon = machine.connected();
    assert_eq!(bridge.until("healthy", 2)[1], echo("missed"), "another thread's history");
    bridge.wait(|bridge| !reads(bridge).is_empty());
    bridge.say("live", "now");
    assert_eq!(bridge.until("live", 2)[1], echo("now"), "a live message waits for nobody");
    daemon.stop();
    let before = bridge.look(reads);
    bridge.say("sick", "missed");

    // What was read is not read again, and what was not is.
    let daemon = machine.connected();
    bridge.wait(|bridge| before.len() < reads(bridge).len());
    let since = bridge.look(reads);
    assert!(since[0] < since[before.len()], "{since:?}");
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
