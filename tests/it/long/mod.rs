//! Two days in some seconds. The daemon's parts that need no socket run together on a disk in
//! memory, under a clock that is only a number: messages all the time, connections that break every
//! 20 minutes, outages of an hour, crashes on the first day and none on the second. At the end of
//! every hour all is quiet, and nothing of the hour may be left: not in the coordinator, not in inbox
//! and outbox, not in memory.

mod bridge;
mod process;
mod world;

use std::{fs, time::Duration};

use self::{
    bridge::{OURS, outage},
    world::World,
};
use crate::util::{namespace::isolated, patience::step};

const HOURS: u64 = 48;

/// Room for the bridge's records: a message every second would fill less.
const MESSAGES_MAX: usize = 200_000;
/// So many make the memory of done messages forget, and the journal be written anew.
const MESSAGES_MIN: usize = 45_000;

/// More than is said during an outage; all of it comes at once afterwards.
const OUTSTANDING_MAX: usize = 1_500;

/// A journal is written anew when it has so many bytes; what comes in until then is a batch or two.
const JOURNAL: usize = (4 << 20) + 256 * 1024;
/// More than one binding takes in state.json.
const BINDING: usize = 400;

/// All files, in bytes.
const DISK_MAX: usize = JOURNAL + OURS * BINDING;

/// From one hour to any up to another, what the process may have grown by in KiB, with the files, which
/// are in memory here: room for a journal, at first. A start takes space for a new disk before it has left
/// the old one, so it is the last life that counts. Once that has written its journal anew it has nothing
/// to grow by. But if it kept the ids of messages, it would.
const GROWTH_MAX: [(usize, usize, u64); 2] = [(26, 48, 8 * 1024), (38, 48, 256)];
/// The last life has written its journal anew by then.
const LAST_LIFE: usize = 26;

isolated! {
    fn two_days_leave_nothing_behind() {
        let mut world = World::new(48, MESSAGES_MAX);
        let mut hours = Vec::new();
        for hour in 1..=HOURS {
            let end = Duration::from_hours(hour);
            world.run_until(end);
            step();
            hours.push(check_hour(&world, outage(end).is_none()));
            world.process.disk.settle();
        }
        for hour in [6, 24, 35, 36, 48] {
            println!("after {hour} h: {:?}", hours[hour - 1]);
        }
        println!("{} messages, {:?}", world.bridge.len(), world.figures);
        check_end(&world);
        check_growth(&hours);
    }
}

/// What is there at the end of an hour.
#[derive(Debug)]
struct Hour {
    disk_bytes: usize,
    journal_bytes: usize,
    /// Resident memory of the process.
    memory_kib: u64,
}

fn check_hour(world: &World, is_connected: bool) -> Hour {
    let process = &world.process;
    let coordinator = &process.coordinator;
    let left = coordinator.outstanding();
    assert_eq!((coordinator.held(), process.inbox.count()), (left, left), "{coordinator:?}");
    assert!(process.turns.is_empty(), "{:?}: {:?}", process.turns, process.coordinator);
    let sizes = process.disk.sizes();
    let size = |name: &str| sizes.iter().find(|(path, _)| path == name).map_or(0, |it| it.1);
    let (journal, state) = (size("/state/journal"), size("/state/state.json"));
    assert!(journal <= JOURNAL, "the journal has {journal} bytes");
    assert!(state <= OURS * BINDING, "state.json has {state} bytes");
    // In an outage messages may wait for the answer to a claim.
    if is_connected {
        assert_eq!((left, process.next_deadline(world.now())), (0, None), "{coordinator:?}");
        assert!(process.claims.is_empty() && process.outbox.count() == 0);
        let names: Vec<&str> = sizes.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(names, ["/state/journal", "/state/state.json"]);
        assert_eq!(world.bridge.unanswered(), 0);
    }
    Hour {
        disk_bytes: sizes.iter().map(|(_, size)| size).sum(),
        journal_bytes: journal,
        memory_kib: memory_kib(),
    }
}

fn check_end(world: &World) {
    let figures = &world.figures;
    assert!(MESSAGES_MIN < world.bridge.len(), "{}", world.bridge.len());
    assert_eq!(world.bridge.unanswered(), 0);
    assert!(figures.most_outstanding < OUTSTANDING_MAX, "{figures:?}");
    assert!(figures.most_turns <= OURS);
    // A wait is half a minute on average while nothing answers, at least that with a refused token,
    // and two minutes when the bridge asks for them.
    let [unreachable, unauthorized, busy] = figures.in_outage;
    assert!((60..170).contains(&unreachable), "{unreachable} attempts in an hour");
    assert!((60..=121).contains(&unauthorized), "{unauthorized} attempts in an hour");
    assert!((29..=31).contains(&busy), "{busy} attempts in an hour");
    // What this is about did happen.
    assert_eq!(figures.restarts, 4);
    assert!(100 < figures.connections && 100 < figures.failed_claims);
    // What was another machine's, and what came again.
    assert!(2_000 < figures.removed - figures.remembered, "{figures:?}");
    assert!(1_000 < figures.histories && 100 < world.bridge.repeated);
}

#[expect(clippy::print_stdout, reason = "the figures are of interest")]
fn check_growth(hours: &[Hour]) {
    let shrinks = |hour: &usize| hours[*hour].journal_bytes < hours[*hour - 1].journal_bytes;
    let anew = (LAST_LIFE..hours.len()).filter(shrinks).count();
    assert!(3 < anew, "the journal is written anew");
    assert!(hours.iter().all(|hour| hour.disk_bytes < DISK_MAX));
    for (from, to, growth_max) in GROWTH_MAX {
        let before = hours[from - 1].memory_kib;
        let most = hours[from..to].iter().map(|hour| hour.memory_kib).max().unwrap();
        println!("{before} KiB after {from} h, and at most {most} KiB until {to} h");
        assert!(most <= before + growth_max, "more than {growth_max} KiB of growth");
    }
}

fn memory_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}
