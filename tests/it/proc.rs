//! Child processes that misbehave, and killing.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crossbeam_channel::after;
use obto_bridge::{
    proc::{
        self, Child, ChildEvent, Plan,
        kill::To,
        sweep::{Before, Marked, sweep},
    },
    task,
};
use rustix::process::Signal;

use crate::util::{
    fake,
    namespace::{in_own_pid_namespace, is_alive, isolated},
    patience::{self, check_quick},
};

/// More than the system takes to end a process.
const SOON: Duration = Duration::from_mins(1);

fn spawn(marker: &str, directives: &[&str]) -> Child {
    Child::spawn(&fake::plan(marker, directives)).unwrap()
}

fn next(child: &Child) -> ChildEvent {
    patience::recv(child.events()).expect("an event in time")
}

fn line(child: &Child) -> String {
    match next(child) {
        ChildEvent::Line(line) => String::from_utf8(line).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// The exit code, or a signal's number below zero.
fn exit(child: &Child) -> i32 {
    use std::os::unix::process::ExitStatusExt as _;
    match next(child) {
        ChildEvent::Exit { status: Some(status), .. } => {
            status.code().unwrap_or_else(|| -status.signal().unwrap())
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn lines_come_before_the_exit_and_the_last_needs_no_end() {
    let child =
        spawn("", &["print", "one", "raw", "ha", "raw", "lf", "complain", "oh", "exit", "3"]);
    assert_eq!(line(&child), "one");
    assert_eq!(line(&child), "half");
    match next(&child) {
        ChildEvent::Exit { status, stderr_tail } => {
            assert_eq!((status.unwrap().code(), stderr_tail.as_str()), (Some(3), "oh"));
        }
        other => panic!("{other:?}"),
    }
    assert!(patience::recv(child.events()).is_err(), "nothing follows the exit");
}

#[test]
fn input_arrives_in_order_and_ends() {
    let mut child = spawn("", &["echo"]);
    for n in 0..1000 {
        child.send(format!("{n}\n").into_bytes()).unwrap();
    }
    child.close_input();
    assert_eq!(child.send(vec![b'\n']).unwrap_err().kind(), ErrorKind::BrokenPipe);
    for n in 0..1000 {
        assert_eq!(line(&child), n.to_string());
    }
    assert_eq!(exit(&child), 0);
}

#[test]
fn a_line_of_megabytes_arrives_whole() {
    let child = spawn("", &["spew", "20", "print", "after"]);
    assert_eq!(line(&child).len(), (20 << 20) + 1);
    assert_eq!(line(&child), "after");
    assert_eq!(exit(&child), 0);
}

#[test]
fn the_environment_is_the_plans_alone() {
    let child = spawn("a.b", &["env", "OBTO_BRIDGE_TURN", "env", "PATH", "env", "HOME"]);
    assert_eq!([line(&child), line(&child), line(&child)], ["\"a.b\"", "\"\"", "\"\""]);
}

#[test]
fn a_spawn_that_fails_says_why() {
    let good = fake::plan("", &[]);
    let check = |plan: &Plan, kind, text: &str| {
        let error = Child::spawn(plan).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(text), "{error}");
    };
    let no_program = Plan { program: PathBuf::from("no-such-engine"), ..good.clone() };
    check(&no_program, ErrorKind::NotFound, "no-such-engine");
    let no_dir = Plan { dir: PathBuf::from("/no/such/directory"), ..good.clone() };
    check(&no_dir, ErrorKind::NotADirectory, "/no/such/directory");
    let directory = Plan { program: PathBuf::from("/"), ..good.clone() };
    check(&directory, ErrorKind::NotFound, "no program /");
}

/// Both were told as a program that is not installed, or as a machine at its limits.
#[test]
fn a_program_that_is_there_and_can_not_run_is_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let good = fake::plan("", &[]);
    let check = |start: &[u8], word: &str| {
        let program = dir.path().join("broken");
        let mut options = File::options();
        options.write(true).create(true).truncate(true);
        // The file is closed before it is run.
        options.mode(0o755).open(&program).unwrap().write_all(start).unwrap();
        // Another test may be in the middle of starting something, with our file still open.
        let plan = Plan { program, ..good.clone() };
        let spawn = || Child::spawn(&plan).unwrap_err();
        until(|| spawn().kind() != ErrorKind::ExecutableFileBusy);
        let error = spawn();
        assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
        assert!(error.to_string().contains(word), "{word}: {error}");
    };
    check(
        b"#!/opt/old-venv/bin/python3 -s\n",
        "interpreter /opt/old-venv/bin/python3 does not exist",
    );
    check(b"#! /no/such/node\n", "interpreter /no/such/node does not exist");
    check(
        b"#!/bin/sh\r\nexit\r\n",
        "names the interpreter /bin/sh and ends like a line of Windows",
    );
    check(b"", "it is empty");
    check(b"echo hello\n", "names no interpreter");
    let mut elf = fs::read(&good.program).unwrap();
    elf.truncate(10);
    check(&elf, "incomplete, or made for another kind of machine");
    let mut other = fs::read("/bin/sh").unwrap();
    other[18] = 0x15; // PowerPC
    check(&other, "made for another kind of machine");
    check(b"MZ\x90\0", "made for Windows");
    check(b"\xcf\xfa\xed\xfe", "made for macOS");
    check(b"\0\0\0\0", "no program");
}

#[test]
fn a_name_is_looked_up_in_the_plans_path() {
    let find = |name: &str, path: &str| proc::find(Path::new(name), path.as_ref(), Path::new("/"));
    assert_eq!(find("sh", "/nowhere:/bin"), Some("/bin/sh".into()));
    assert_eq!((find("sh", "/nowhere"), find("sh", "")), (None, None));
    assert_eq!(find("/bin/sh", ""), Some("/bin/sh".into()));
    // Seen from the directory in which we were started, not from the child's.
    assert_eq!(find("bin/sh", ""), Some("/bin/sh".into()));
    assert_eq!(find("./bin/sh", ""), Some("/./bin/sh".into()));
    for relative in ["bin", "./bin", ":", ""] {
        assert_eq!(find("sh", relative), None, "{relative:?}");
    }
    let dir = tempfile::tempdir().unwrap();
    File::create(dir.path().join("notes")).unwrap();
    assert_eq!(find("notes", dir.path().to_str().unwrap()), None, "not executable");
}

#[test]
fn run_collects_output_and_has_limits() {
    let run = |directives: &[&str], max| proc::run(&fake::plan("", directives), SOON, max).unwrap();
    let output = run(&["print", "1.2.3", "complain", "warning", "exit", "4"], 100);
    assert_eq!((output.stdout.as_slice(), output.stderr.as_str()), (&b"1.2.3\n"[..], "warning"));
    assert_eq!((output.status.unwrap().code(), output.timed_out), (Some(4), false));
    assert_eq!(run(&["print", "12345"], 3).stdout, b"123");
    assert_eq!(run(&["echo"], 3).stdout, b"", "its input has ended");
}

isolated! {
    fn run_kills_at_its_deadline() {
        let plan = fake::plan("", &["print", "x", "deaf", "hang"]);
        let output = proc::run(&plan, Duration::from_millis(200), 100).unwrap();
        assert!(output.timed_out && output.status.is_some(), "{output:?}");
        assert_eq!(output.stdout, b"x\n");
    }
}

isolated! {
    fn a_deaf_child_is_killed() {
        let child = spawn("", &["deaf", "print", "ready", "hang"]);
        assert_eq!(line(&child), "ready");
        for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
            assert!(child.handle().signal(signal, To::Process).unwrap());
        }
        let begin = Instant::now();
        assert!(child.handle().signal(Signal::KILL, To::Group).unwrap());
        assert_eq!(exit(&child), -9);
        check_quick(begin.elapsed(), Duration::from_secs(2));
    }
}

isolated! {
    fn dropping_a_child_kills_its_group() {
        let child = spawn("", &["group-straggler", "print", "ready", "hang"]);
        let (straggler, leader) = (line(&child), child.handle().id().to_string());
        assert!(is_alive(&straggler) && is_alive(&leader));
        let (handle, events) = (child.handle().clone(), child.events().clone());
        drop(child);
        assert!(events.iter().any(|event| matches!(event, ChildEvent::Exit { .. })));
        assert!(!is_alive(&leader) && !handle.signal(Signal::KILL, To::Group).unwrap());
        until(|| !is_alive(&straggler));
    }
}

isolated! {
    fn what_is_left_of_the_group_goes_with_its_leader() {
        let child = spawn("", &["group-straggler", "exit", "0"]);
        let straggler = line(&child);
        assert_eq!(exit(&child), 0);
        until(|| !is_alive(&straggler));
    }
}

isolated! {
    fn a_reaped_child_refuses_signals() {
        let child = spawn("", &["exit", "0"]);
        assert_eq!(exit(&child), 0);
        for to in [To::Process, To::Group] {
            assert!(!child.handle().signal(Signal::KILL, to).unwrap(), "{to:?}");
        }
    }
}

isolated! {
    fn signals_that_cross_the_end_reach_the_child_or_nobody() {
        for _ in 0..50 {
            let child = spawn("", &["exit", "0"]);
            // An error would be a signal to a number that is nobody's.
            while child.handle().signal(Signal::CONT, To::Process).unwrap() {}
            assert_eq!(exit(&child), 0);
        }
    }
}

/// A line of 40 MB took longer to take apart than the exit was held back for, and the answer behind
/// it was dropped.
#[test]
fn what_was_written_before_the_exit_comes_before_it_however_long_that_takes() {
    let slowly = |event| {
        if matches!(&event, ChildEvent::Line(line) if line.len() > 1 << 20) {
            after(Duration::from_millis(1_200)).recv().unwrap();
        }
        Some(event)
    };
    let plan = fake::plan("", &["spew", "1", "print", "after", "exit", "0"]);
    let child: Child = Child::spawn_with(&plan, slowly).unwrap();
    assert_eq!(line(&child).len(), (1 << 20) + 1);
    assert_eq!(line(&child), "after");
    assert_eq!(exit(&child), 0);
}

/// More than waits for its reader, which is asked for room again and again.
#[test]
fn a_flood_is_as_fast_as_its_reader() {
    const LINES: usize = 100_000;
    let plan = Plan {
        program: "/bin/sh".into(),
        args: ["-c", &format!("yes | head -n {LINES}")].map(Into::into).into(),
        env: vec![("PATH".into(), "/usr/bin:/bin".into())],
        ..fake::plan("", &[])
    };
    let begin = Instant::now();
    let child = Child::spawn(&plan).unwrap();
    for _ in 0..LINES {
        assert_eq!(line(&child), "y");
    }
    assert_eq!(exit(&child), 0);
    check_quick(begin.elapsed(), Duration::from_secs(5));
}

isolated! {
    fn a_grandchild_that_never_stops_writing_does_not_hide_the_exit() {
        let plan = Plan {
            program: "/bin/sh".into(),
            args: ["-c", "yes & exit 5"].map(Into::into).into(),
            ..fake::plan("", &[])
        };
        let child = Child::spawn(&plan).unwrap();
        let mut patience = patience::Patience::new();
        let code = loop {
            assert!(patience.lasts(), "no exit in time");
            if let ChildEvent::Exit { status, .. } = next(&child) {
                break status.unwrap().code();
            }
        };
        assert_eq!(code, Some(5));
    }
}

isolated! {
    fn a_grandchild_that_holds_the_pipe_does_not_hide_the_exit() {
        let begin = Instant::now();
        let child = spawn("mine.1", &["straggler", "print", "last", "exit", "5"]);
        let straggler = line(&child);
        assert_eq!(line(&child), "last");
        assert_eq!(exit(&child), 5);
        check_quick(begin.elapsed(), Duration::from_secs(5));
        assert!(is_alive(&straggler), "it has left the group");

        assert_eq!(sweep(Marked::Turn("mine.2"), &Before::default(), SOON), 0);
        assert!(is_alive(&straggler));
        assert_eq!(sweep(Marked::Turn("mine.1"), &Before::default(), SOON), 1);
        until(|| !is_alive(&straggler));
        assert_eq!(sweep(Marked::Turn("mine.1"), &Before::default(), SOON), 0);
    }
}

/// Ways out of a turn, for a shell: what gets away says its pid and stays.
const ESCAPES: [&str; 6] = [
    "env -i setsid sh -c 'echo $$; exec sleep 1000' &",
    "(setsid sh -c '(env -i setsid sh -c \"echo \\$\\$; exec sleep 1000\") & exit' &) &",
    "nohup env -i setsid sh -c 'echo $$; exec sleep 1000' 2> /dev/null &",
    "env -i setsid sh -c 'cd /; echo $$; exec sleep 1000 <&- >&- 2>&-' &",
    "env -i setsid bash -c 'echo $$; exec -a innocent sleep 1000' &",
    "unset OBTO_BRIDGE_TURN; OBTO_BRIDGE_TURN=mine.2 setsid sh -c 'echo $$; exec sleep 1000' &",
];

/// Starts a shell that lets something escape and ends; the pid of what escaped.
fn escape(marker: &str, script: &str) -> String {
    let child = Child::spawn(&Plan {
        program: "/bin/sh".into(),
        args: ["-c", &format!("{script}\nread end")].map(Into::into).into(),
        env: [("PATH", "/usr/bin:/bin"), ("OBTO_BRIDGE_TURN", marker)]
            .map(|(name, value)| (name.into(), value.into()))
            .into(),
        ..fake::plan("", &[])
    });
    let mut child = child.unwrap();
    let escaped = line(&child);
    child.close_input();
    exit(&child);
    assert!(is_alive(&escaped), "{script}");
    escaped
}

// Its parent is gone, and it has no environment that says whose it is.
isolated! {
    fn what_sheds_its_environment_is_swept_all_the_same() {
        let others = escape("", ESCAPES[0]);
        for script in ESCAPES {
            let neighbour = escape("mine.3", ESCAPES[0]);
            let escaped = escape("mine.1", script);
            until(|| exe(&escaped).is_some_and(|it| it.contains("sleep")));
            assert_eq!(sweep(Marked::Turn("mine.4"), &Before::default(), SOON), 0, "{script}");
            assert!(is_alive(&escaped), "{script}");
            assert!(sweep(Marked::Turn("mine.1"), &Before::default(), SOON) > 0, "{script}");
            until(|| !is_alive(&escaped));
            assert!(is_alive(&neighbour), "another turn's, in the same daemon: {script}");
            // As the next start does it.
            assert!(sweep(Marked::Daemon("mine"), &Before::default(), SOON) > 0, "{script}");
            until(|| !is_alive(&neighbour));
        }
        assert!(is_alive(&others), "it was never ours");
    }
}

/// What a process runs.
fn exe(pid: &str) -> Option<String> {
    Some(fs::read_link(format!("/proc/{pid}/exe")).ok()?.display().to_string())
}

// One child is started at a time, since they inherit what says whose they are.
isolated! {
    fn children_that_start_together_are_told_apart() {
        let markers: Vec<String> = (0..8).map(|turn| format!("mine.{turn}")).collect();
        let tasks = markers.iter().cloned().chain([String::new()]).map(|marker| {
            let start = move || (0..10).map(|_| spawn(&marker, &["hang"])).collect::<Vec<_>>();
            let (sender, receiver) = crossbeam_channel::bounded(1);
            drop(task::spawn("start", move || drop(sender.send(start()))).unwrap());
            receiver
        });
        let tasks: Vec<_> = tasks.collect();
        let children: Vec<_> = tasks.iter().map(|task| patience::recv(task).unwrap()).collect();
        for marker in &markers {
            assert_eq!(sweep(Marked::Turn(marker), &Before::default(), SOON), 10, "{marker}");
        }
        assert!(children[8].iter().all(|child| is_alive(child.handle().id())));
        let limits = fs::read_to_string("/proc/self/limits").unwrap();
        let own = limits.lines().find(|line| line.starts_with("Max file locks")).unwrap();
        assert!(own.contains("unlimited"), "ours is what it was: {own}");
    }
}

isolated! {
    fn a_sweep_leaves_other_daemons_alone() {
        let [mine, other, none] = ["mine.1", "mine2.1", ""].map(|marker| {
            let child = spawn(marker, &["straggler", "hang"]);
            let straggler = line(&child);
            (child, straggler)
        });
        // The engine and its straggler.
        assert_eq!(sweep(Marked::Daemon("mine"), &Before::default(), SOON), 2);
        assert_eq!(exit(&mine.0), -9);
        until(|| !is_alive(&mine.1));
        for (child, straggler) in [&other, &none] {
            assert!(is_alive(straggler) && is_alive(child.handle().id()));
        }
        assert_eq!(sweep(Marked::Daemon("mine2"), &Before::default(), SOON), 2);
        assert_eq!(sweep(Marked::Daemon(""), &Before::default(), SOON), 0);
        assert!(is_alive(&none.1), "no marker, never swept");
    }
}

// A number that was given back a moment ago may be the next one's. Such a process was left alone.
isolated! {
    fn a_sweep_finds_what_has_the_number_of_an_older_process() {
        let old = [""; 4].map(|marker| spawn(marker, &["hang"]));
        let numbers = old.each_ref().map(|child| child.handle().id());
        assert_eq!(sweep(Marked::Turn("mine.2"), &Before::default(), SOON), 0);
        let before = Before::last();
        for child in &old {
            child.handle().signal(Signal::KILL, To::Process).unwrap();
            assert_eq!(exit(child), -9);
        }
        // The system counts on from here, unless its kernel was built without CHECKPOINT_RESTORE.
        let last = File::options().write(true).open("/proc/sys/kernel/ns_last_pid");
        let Ok(mut last) = last else { return };
        write!(last, "{}", numbers[0] - 1).unwrap();
        let new = ["mine.1"; 4].map(|marker| spawn(marker, &["print", "ready", "hang"]));
        assert!(new.iter().any(|child| numbers.contains(&child.handle().id())), "{numbers:?}");
        for child in &new {
            assert_eq!(line(child), "ready");
        }
        assert_eq!(sweep(Marked::Turn("mine.1"), &before, SOON), 4);
    }
}

isolated! {
    fn a_spawn_that_fails_kills_nothing() {
        let bystander = spawn("mine.1", &["print", "ready", "hang"]);
        assert_eq!(line(&bystander), "ready");
        let plan = Plan { program: PathBuf::from("/no/such/program"), ..fake::plan("mine.1", &[]) };
        for _ in 0..20 {
            assert!(Child::spawn(&plan).is_err());
        }
        assert!(is_alive(bystander.handle().id()));
        assert!(is_alive("1") && in_own_pid_namespace());
    }
}

/// Waits for what the kernel is about to do.
fn until(done: impl Fn() -> bool) {
    assert!(patience::comes_true(done), "not in time");
}
