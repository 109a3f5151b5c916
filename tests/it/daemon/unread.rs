//! Catching up is cut off in the middle, by the daemon's end or by an outage: what was not read yet
//! is read afterwards, and what is found out of order is still answered in order. The bridge replays
//! nothing.

use std::time::Duration;

use crate::util::{
    daemon::Daemon,
    fake::Gate,
    hosted::{History, Hosted, echo},
    namespace::isolated,
};

/// The daemon ends so while it catches up, and a message that was found already is being worked on.
#[track_caller]
fn ends_while_it_catches_up(end: fn(Daemon)) {
    const THREADS: [&str; 12] = ["t0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "last"];
    let (bridge, gate) = (Hosted::start(), Gate::new());
    let machine = bridge.machine().with_agent("fake", &gate.acp("done"));
    let machine = machine.with("agent", "echo").with("drainSeconds", 0);
    bridge.make_known(&machine, &THREADS);
    bridge.say("t0", "old");
    bridge.say_to("last", "new", Some("fake"));
    for thread in THREADS {
        bridge.set_history(thread, History::Slow(Duration::from_millis(100)));
    }
    let daemon = machine.connected();
    let cut = gate.next();
    end(daemon);
    drop(cut);
    let _daemon = machine.connected();
    assert_eq!(bridge.until("t0", 2)[1], echo("old"));
}

#[test]
fn what_is_not_read_yet_is_read_after_a_stop() {
    ends_while_it_catches_up(|daemon| drop(daemon.stop()));
}

isolated! {
    fn what_is_not_read_yet_is_read_after_a_crash() {
        ends_while_it_catches_up(Daemon::kill);
    }
}

isolated! {
    fn after_a_crash_what_was_missed_still_comes_before_what_was_said_later() {
        let bridge = Hosted::start();
        let machine = bridge.machine();
        let mut daemon = machine.connected();
        bridge.say("t", "hello");
        bridge.until("t", 1);
        bridge.down();
        daemon.log("not connected");
        bridge.say("t", "old");
        bridge.set_history("t", History::Held);
        bridge.up();
        bridge.wait(|bridge| bridge.opened == 2);
        bridge.say("t", "new");
        daemon.log(r#""msg":"reply""#);
        daemon.kill();
        bridge.set_history("t", History::Sound);
        let _daemon = machine.connected();
        assert_eq!(bridge.until("t", 3), ["hello", "old", "new"].map(echo));
    }
}

isolated! {
    fn after_a_crash_what_waited_comes_before_what_was_missed() {
        let (bridge, gate) = (Hosted::start(), Gate::new());
        let machine = bridge.machine().with_agent("fake", &gate.acp("done"));
        let machine = machine.with("agent", "echo").with("maxTurns", 1);
        bridge.make_known(&machine, &["t"]);
        let mut daemon = machine.connected();
        bridge.say_to("busy", "work", Some("fake"));
        let cut = gate.next();
        bridge.say("t", "left");
        for _ in ["work", "left"] {
            daemon.log(r#""msg":"reply""#);
        }
        daemon.kill();
        drop(cut);
        bridge.say("t", "missed");
        let _daemon = machine.connected();
        drop(gate.next());
        bridge.wait(|bridge| bridge.posts("t").contains(&echo("missed")));
        let mut posts = bridge.posts("t");
        posts.retain(|post| post.starts_with("Echo"));
        assert_eq!(posts, ["hello", "left", "missed"].map(echo));
    }
}

/// The stream begins with the hello, and by then the thread was read.
#[test]
fn what_is_said_before_a_late_hello_is_answered() {
    let bridge = Hosted::start().that_says_its_time();
    let machine = bridge.machine();
    bridge.make_known(&machine, &["t"]);
    bridge.begin_late("t");
    let _daemon = machine.connected();
    assert_eq!(bridge.until("t", 2)[1], echo("early"));
}

/// Its thread was read before it was written, and the stream came back after everything was read.
#[test]
fn what_is_said_in_an_outage_during_catch_up_is_answered() {
    let bridge = Hosted::start();
    let machine = bridge.machine();
    bridge.make_known(&machine, &["slow", "quick"]);
    bridge.set_history("slow", History::Held);
    let mut daemon = machine.connected();
    bridge.wait(|bridge| bridge.asked.contains("slow"));
    bridge.down();
    daemon.log("not connected");
    bridge.say("quick", "missed");
    bridge.say("slow", "later");
    bridge.set_history("slow", History::Sound);
    bridge.wait(|bridge| bridge.is_read("slow", 0));
    bridge.up();
    assert_eq!(bridge.until("slow", 2)[1], echo("later"));
    assert_eq!(bridge.until("quick", 2)[1], echo("missed"));
}
