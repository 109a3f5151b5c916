//! What would hold the daemon up or have it spin: an inbox full of old messages, a helper that dies, a
//! directory without a proper name, a disk that takes nothing.

use std::{fs, ops::Range, sync::Arc, time::Duration};

use obto_bridge::{
    bridge::wire::Reply,
    store::{
        Disk, RealDisk,
        inbox::INBOX_ENTRIES_MAX,
        messages::{self, Opened},
    },
    time::{self, Timestamp},
};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    crash::rig,
    leftovers,
    limits::{freeze, small_disk, thaw},
    util::{
        daemon::{MACHINE, Machine},
        fake::Gate,
        hosted::{Hosted, echo},
        namespace::isolated,
        patience::comes_true,
    },
};

/// Old messages that an earlier daemon has left.
fn leave_old_messages(machine: &Machine, numbers: Range<usize>) {
    let written = Timestamp::from_millis(time::now().as_millis() - 3 * 24 * 3_600_000);
    let Opened { inbox, .. } = messages::open(Arc::new(RealDisk), &machine.state_file("")).unwrap();
    for number in numbers {
        let reply = json!({
            "threadId": "t", "messageId": format!("old-{number}"), "agentId": MACHINE,
            "role": "human", "author": "ada", "body": "old", "createdAt": written.to_string(),
        });
        inbox.put(&Reply::parse(&reply.to_string()).unwrap(), 0).unwrap();
    }
}

#[test]
fn old_messages_that_fill_the_inbox_keep_nothing_out() {
    let bridge = Hosted::start();
    let machine = bridge.machine();
    bridge.make_known(&machine, &["t"]);
    leave_old_messages(&machine, 0..INBOX_ENTRIES_MAX);
    let _daemon = machine.connected();
    let told = &bridge.until("t", 2)[1];
    assert!(told.contains("10000 messages came in"), "{told}");
    bridge.say("t", "now");
    assert_eq!(bridge.until("t", 3)[2], echo("now"));
    bridge.say("t", "/stop all");
    let told = &bridge.until("t", 4)[3];
    assert!(told.contains("10000"), "{told}");
}

/// A bridge stores a post once under its name, and what it has in place of another daemon's stops ours.
#[test]
fn old_messages_that_come_in_later_are_told_too() {
    let bridge = Hosted::start();
    let machine = bridge.machine();
    bridge.make_known(&machine, &["t"]);
    let mut told = 1;
    for (numbers, words) in [(0..1, "A message came in"), (1..3, "3 messages came in")] {
        leave_old_messages(&machine, numbers);
        let daemon = machine.connected();
        told += 1;
        let last = bridge.until("t", told).pop().unwrap();
        assert!(last.contains(words), "{last}");
        daemon.stop();
    }
    // The same ones are not told again.
    let _daemon = machine.connected();
    bridge.say("t", "now");
    assert_eq!(bridge.until("t", told + 1).pop().unwrap(), echo("now"));
}

/// Far less than a loop that spins uses, and more than a daemon does that has nothing to do.
#[track_caller]
fn is_quiet(busy: Duration) {
    assert!(busy < Duration::from_millis(300), "busy for {busy:?} of two seconds");
}

#[test]
fn a_directory_of_path_without_a_proper_name_costs_nothing() {
    let bridge = Hosted::start();
    let machine = bridge.machine();
    let script = r#"dir=$(printf 'bin\377'); mkdir "$dir"; export PATH="$PWD/$dir:$PATH"
        printf '#!/bin/sh\necho "2.1.197 (Claude Code)"\n' >"$dir/claude"; chmod +x "$dir/claude""#;
    let mut daemon = machine.start_after(script);
    daemon.log("connected to the bridge");
    bridge.say("t", "hello");
    assert_eq!(bridge.until("t", 1), [echo("hello")]);
    is_quiet(daemon.busy_for(Duration::from_secs(2)));
    assert!(!daemon.stop().contains("panicked"));
}

/// Protocols that are JSON can't name it.
#[test]
fn a_project_directory_without_a_proper_name_is_refused() {
    let (bridge, gate) = (Hosted::start(), Gate::new());
    let machine = bridge.machine().with_agent("fake", &gate.acp("done"));
    let machine = machine.with("projectDir", Value::Null);
    let script = r#"dir=$(printf 'pro\377'); mkdir "$dir"; cd "$dir""#;
    assert_eq!(machine.start_after(script).end(), Some(78));
}

/// How many processes of the engine there are.
fn engines() -> usize {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|it| fs::read_to_string(it.path().join("cmdline")).ok());
    lines.filter(|line| line.contains("journal-agent\0")).count()
}

isolated! {
    /// A question can't be stored, and the human does not want the work any more.
    fn a_stop_is_obeyed_while_a_post_waits_for_the_disk() {
        let bridge = rig::Bridge::start();
        let machine = rig::Machine::new(&bridge, "ada");
        machine.configure(json!({ "relayPermissions": true }));
        let state = small_disk(&machine);
        let mut daemon = leftovers::start(&machine);
        machine.say("t", "m", "waitask", None);
        assert!(comes_true(|| !machine.prompts("m").is_empty()));
        let audit = format!("{state}/audit.jsonl");
        RealDisk.write_atomic(audit.as_ref(), b"").unwrap();
        freeze(&machine, &audit);
        machine.home.put("go", "");
        daemon.line("cannot write to the state directory");
        assert_eq!(engines(), 1);
        machine.write("t", "/stop");
        let is_ended = comes_true(|| engines() == 0);
        thaw(&machine, &audit);
        assert!(is_ended, "it is not stopped while the disk takes nothing");
        assert!(comes_true(|| machine.is_settled()), "{:?}", machine.left());
        daemon.signal(Signal::TERM);
        daemon.end().expect(0, &[]);
    }
}
