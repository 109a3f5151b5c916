//! When the machine has nothing left: no descriptors, no processes, no disk. It is said once, what
//! can go on goes on, nothing is lost, nobody else is signalled, and work resumes by itself.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::Path,
};

use obto_bridge::proc::Plan;
use rustix::process::{Signal, geteuid};
use serde_json::json;

use crate::{
    crash::rig::{Bridge, Machine},
    leftovers::{Bystander, start},
    util::{
        bin::{self, Running},
        namespace::isolated,
        patience::comes_true,
    },
};

/// Nobody's numbers. The processes of one are counted together, so each test has its own.
const USERS: [u32; 3] = [54_321, 54_322, 54_323];

/// Messages of a burst, each on a thread of its own.
const BURST: usize = 30;

/// Lets the daemon have so much of something, with room to be given more.
fn burst(user: u32, name: &str, limit: u64, says: &str) {
    let bridge = Bridge::start();
    let machine = Machine::new(&bridge, "ada");
    machine.configure(json!({ "maxTurns": BURST }));
    let bystanders = [
        Bystander::start(&machine, "others", Some("other.turn")),
        Bystander::start(&machine, "nobodys", None),
    ];
    let mut daemon = start_limited(&machine, user, &format!("--{name}={limit}:4096"));
    for n in 0..BURST {
        machine.say(&format!("t{n}"), &format!("m{n}"), "wait", None);
    }
    daemon.line(says);
    assert!(comes_true(|| begun(&machine) > 0), "some turns go on");
    run(&machine, &format!("{}prlimit --pid={} --{name}=4096:4096", as_user(user), daemon.pid()));
    if !comes_true(|| begun(&machine) == BURST) {
        daemon.signal(Signal::TERM);
        let ended = daemon.end();
        panic!("{} of {BURST} turns began:\n{}\n{}", begun(&machine), ended.stdout, ended.stderr);
    }
    machine.home.put("go", "");
    for n in 0..BURST {
        let answered = || machine.said_if_any(&format!("t{n}")) == [format!("answer: m{n}")];
        assert!(comes_true(answered), "{:?}", machine.said_if_any(&format!("t{n}")));
        assert_eq!(machine.prompts(&format!("m{n}")), ["first"]);
    }
    daemon.signal(Signal::TERM);
    daemon.end().expect(0, &[]);
    bystanders.iter().for_each(Bystander::check);
}

/// How many prompts the engine was given.
fn begun(machine: &Machine) -> usize {
    fs::read_to_string(machine.path("journal")).unwrap_or_default().lines().count()
}

fn start_limited(machine: &Machine, user: u32, limit: &str) -> Running {
    if is_root() {
        give(machine, user);
    }
    let command = machine.home.command(&["start"]);
    let mut daemon =
        command.after(&format!(r#"exec {}prlimit {limit} "$0" "$@""#, as_user(user))).start();
    daemon.line("connected to the bridge");
    daemon
}

/// Before a command: to root a limit of processes means nothing.
fn as_user(user: u32) -> String {
    if !is_root() {
        return String::new();
    }
    format!("setpriv --reuid={user} --regid={user} --clear-groups ")
}

/// Root outside of every user namespace.
fn is_root() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap();
    geteuid().is_root() && map.split_whitespace().eq(["0", "0", "4294967295"])
}

fn give(machine: &Machine, user: u32) {
    let give = |path: &Path| chown(path, Some(user), Some(user)).unwrap();
    give(machine.home.path());
    for name in [".obto-bridge", ".obto-bridge/config.json"] {
        give(&machine.path(name));
    }
}

isolated! {
    fn a_burst_on_64_descriptors() {
        burst(USERS[0], "nofile", 64, "Too many open files");
    }
}

isolated! {
    fn a_burst_on_few_processes() {
        burst(USERS[1], "nproc", 60, "Resource temporarily unavailable");
    }
}

#[track_caller]
fn run(machine: &Machine, line: &str) {
    let mut words = line.split(' ');
    let plan = Plan {
        program: words.next().unwrap().into(),
        args: words.map(Into::into).collect(),
        dir: machine.home.path().to_owned(),
        env: vec![("PATH".into(), "/usr/sbin:/usr/bin:/sbin:/bin".into())],
    };
    let output = bin::run(&plan, b"");
    assert!(output.status.is_some_and(|status| status.success()), "{line}: {output:?}");
}

/// Gives the machine a small disk of its own for its state, and returns the place. The bridge's own
/// files are elsewhere; what is mounted here is gone with the namespace.
pub(crate) fn small_disk(machine: &Machine) -> String {
    let state = machine.state("");
    let state = state.to_str().unwrap().trim_end_matches('/').to_owned();
    fs::create_dir(&state).unwrap();
    run(machine, &format!("mount -t tmpfs -o size=1m,mode=700 tmpfs {state}"));
    state
}

/// Leaves no room on a disk.
pub(crate) fn fill(machine: &Machine, state: &str) {
    let fill = format!("head -c 2000000 /dev/zero > {state}/filler; true");
    let plan = Plan {
        program: "/bin/sh".into(),
        args: vec!["-c".into(), fill.into()],
        dir: machine.home.path().to_owned(),
        env: vec![("PATH".into(), "/usr/bin:/bin".into())],
    };
    bin::run(&plan, b"");
}

/// Makes room again.
pub(crate) fn empty(_: &Machine, state: &str) {
    fs::remove_file(format!("{state}/filler")).unwrap();
}

/// A file or a directory can't be written any more.
pub(crate) fn freeze(machine: &Machine, path: &str) {
    run(machine, &format!("mount --bind {path} {path}"));
    run(machine, &format!("mount -o remount,bind,ro {path}"));
}

pub(crate) fn thaw(machine: &Machine, path: &str) {
    run(machine, &format!("umount {path}"));
}

fn on_a_broken_disk(breaks: impl FnOnce(&Machine, &str), mends: impl FnOnce(&Machine, &str)) {
    let bridge = Bridge::start();
    let machine = Machine::new(&bridge, "ada");
    let state = small_disk(&machine);
    let mut daemon = start(&machine);
    machine.say("t1", "one", "answer", None);
    assert!(comes_true(|| machine.said_if_any("t1") == ["answer: one"]));
    assert!(comes_true(|| machine.is_settled()));
    // So long that they don't fit into what is left of the last block of a file.
    let [two, three] = ["2", "3"].map(|digit| digit.repeat(5_000));
    machine.say("t2", &two, "wait", None);
    assert!(comes_true(|| !machine.prompts(&two).is_empty()));

    breaks(&machine, &state);
    machine.say("t3", &three, "answer", None);
    daemon.line("can't store a reply");
    // The turn that runs ends, and its answer waits for the disk.
    machine.home.put("go", "");
    daemon.line("cannot write to the state directory");
    assert_eq!(machine.prompts(&three), [""; 0], "nothing is begun that is not on disk");

    mends(&machine, &state);
    for (thread, token) in [("t2", &two), ("t3", &three)] {
        let answered = || machine.said_if_any(thread) == [format!("answer: {token}")];
        assert!(comes_true(answered), "{token} is not answered");
        assert_eq!(machine.prompts(token), ["first"]);
    }
    assert!(comes_true(|| machine.is_settled()));
    daemon.signal(Signal::TERM);
    let ended = daemon.end().expect(0, &[]);
    let complaints = ended.stdout.matches("can't store a reply").count();
    assert_eq!(complaints, 1, "said once:\n{}", ended.stdout);
    let state: serde_json::Value =
        serde_json::from_slice(&fs::read(machine.state("state.json")).unwrap()).unwrap();
    assert_eq!(state["bindings"].as_object().unwrap().len(), 3);
    assert!(!machine.state("broken").exists());
}

isolated! {
    fn a_full_disk() {
        on_a_broken_disk(fill, empty);
    }
}

isolated! {
    fn a_disk_that_becomes_read_only() {
        on_a_broken_disk(freeze, thaw);
    }
}

#[test]
fn a_state_directory_of_somebody_else_is_an_error_that_names_it() {
    let bridge = Bridge::start();
    let machine = Machine::new(&bridge, "ada");
    let state = machine.state("");
    fs::create_dir(&state).unwrap();
    fs::set_permissions(&state, fs::Permissions::from_mode(0o000)).unwrap();
    let command = machine.home.command(&["start"]);
    let command = if is_root() {
        give(&machine, USERS[2]);
        command.after(&format!(r#"exec {}"$0" "$@""#, as_user(USERS[2])))
    } else {
        command
    };
    command.run().expect(1, &[".agent-bridge-daemon", "Permission denied"]);
    fs::set_permissions(&state, fs::Permissions::from_mode(0o700)).unwrap();
}
