//! What the real daemon takes: OS threads and processes for a turn, memory for much of something.

use std::fs;

use serde_json::json;

use crate::{
    crash::rig::{Bridge, Machine, program},
    leftovers::start,
    util::{
        daemon::{Daemon, MACHINE, Stage},
        namespace::isolated,
        patience::comes_true,
    },
};

const BINDINGS: usize = 50_000;

/// A message's text.
const BYTES: usize = 10 << 20;

/// The number that the system gave last, to a process or an OS thread of this namespace. None: its
/// kernel does not say.
fn last_number() -> Option<u32> {
    let text = fs::read_to_string("/proc/sys/kernel/ns_last_pid").ok()?;
    Some(text.trim().parse().unwrap())
}

/// The names of a process's OS threads.
fn tasks(pid: i32) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    // One may have ended meanwhile.
    let names = tasks.filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
    names.map(|name| name.trim().to_owned()).collect()
}

/// Checks the memory that a daemon has had at once, in megabytes.
#[track_caller]
fn check_peak(daemon: &Daemon, most: u64) {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak < most * 1_000, "{peak} KB");
}

// Each took five OS threads: one of its own, and four for the engine's pipes and its end.
isolated! {
    fn a_turn_starts_one_process_and_no_os_thread() {
        const TURNS: usize = 8;
        let bridge = Bridge::start();
        let machine = Machine::new(&bridge, "ada");
        let daemon = start(&machine);
        let mut said = 0;
        let mut turn = || {
            machine.say("t", &format!("m{said}"), "answer", None);
            said += 1;
            assert!(comes_true(|| machine.said_if_any("t").len() == said && machine.is_settled()));
        };
        // The first turns find no OS thread that rests.
        (0..TURNS).for_each(|_| turn());
        let Some(before) = last_number() else { return };
        (0..TURNS).for_each(|_| turn());
        let started = usize::try_from(last_number().unwrap() - before).unwrap();
        assert!((TURNS..=TURNS + 2).contains(&started), "{started} for {TURNS} turns");

        let resting = || tasks(daemon.pid()).iter().filter(|name| *name == "resting").count();
        assert!(resting() > 0, "{:?}", tasks(daemon.pid()));
        assert!(comes_true(|| resting() == 0), "{:?}", tasks(daemon.pid()));
        turn();
        daemon.signal(rustix::process::Signal::TERM);
        daemon.end().expect(0, &[]);
    }
}

#[test]
fn fifty_thousand_bindings_take_100_mb() {
    let stage = Stage::new(|_, _| false);
    let machine = stage.machine();
    let at = "2026-11-20T10:00:00.000Z";
    let project = machine.project();
    let binding = |number: usize| {
        let session = json!({
            "sessionId": format!("echo-11111111222243338444{number:012}"), "projectDir": project,
            "createdAt": at, "lastDriveAt": at,
        });
        let binding =
            json!({ "createdAt": at, "agentId": MACHINE, "sessions": { "echo": session } });
        (format!("t-1732270000000-{number:05}"), binding)
    };
    let bindings: serde_json::Map<_, _> = (0..BINDINGS).map(binding).collect();
    let file = json!({ "bindings": bindings }).to_string();
    machine.home.put(".agent-bridge-daemon/state.json", &file);
    let daemon = machine.start();
    let line = stage.stream();
    // It changes a binding, so all are written.
    line.reply("t-1732270000000-00007", "m", "hello");
    stage.expect("t-1732270000000-00007", "result", "said: hello");
    machine.state_when(|state| {
        state["bindings"]["t-1732270000000-00007"]["sessions"]["echo"]["lastDriveAt"] != at
    });
    check_peak(&daemon, 100);
    daemon.stop();
}

#[test]
fn a_message_of_10_mb_is_in_memory_a_few_times_only() {
    let stage = Stage::new(|_, _| false);
    let machine = stage.machine();
    let journal = machine.project().join("journal").display().to_string();
    let command = [program().display().to_string(), "acp".to_owned(), journal];
    let machine = machine.with_agent("worker", &command);
    let daemon = machine.start();
    let line = stage.stream();
    let body = format!("token=m do=answer {}", "0123456789abcde ".repeat(BYTES / 16));
    line.reply("t", "m", &body);
    stage.expect("t", "result", "answer: m");
    // It has the text, the prompt, and the line for the engine twice.
    check_peak(&daemon, 85);
    daemon.stop();
}
