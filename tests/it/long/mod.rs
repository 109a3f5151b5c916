//! Two days in some seconds. The daemon's parts that need no socket run together on a disk in
//! memory, under a clock that is only a number: messages all the time, connections that break every
//! 20 minutes, outages of an hour, crashes on the first day and none on the second. At the end of
//! every hour all is quiet, and nothing of the hour may be left: not in the coordinator, not in inbox
//! and outbox, not in memory.

mod bridge;
mod process;
mod world;

use std::time::Duration;

use self::{
    bridge::{OURS, outage},
    world::World,
};
use crate::{
    ALLOCATOR,
    util::{namespace::isolated, patience::step},
};

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

/// The last life begins, and what it may take more than in its first quiet hour, in bytes and without
/// the files, which are in memory here. If it kept the ids of messages, it would be more.
const LAST_LIFE: usize = 26;
const GROWTH_MAX: usize = 256 * 1024;

isolated! {
    fn two_days_leave_nothing_behind() {
        let mut world = World::new(48, MESSAGES_MAX);
        let mut hours = Vec::new();
        for hour in 1..=HOURS {
            let end = Duration::from_hours(hour);
            world.run_until(end);
            step();
            world.process.disk.settle();
            hours.push(check_hour(&world, outage(end).is_none()));
        }
        for hour in [6, 24, 35, 36, 48] {
            println!("after {hour} h: {:?}", hours[hour - 1]);
        }
        println!("{} messages, {:?}", world.bridge.len(), world.figures);
        check_end(&world);
        check_growth(&hours);
    }
}

/// What is there at the end of an hour, in bytes.
#[derive(Debug)]
struct Hour {
    disk: usize,
    journal: usize,
    /// What is allocated besides the files.
    memory: usize,
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
        disk: sizes.iter().map(|(_, size)| size).sum(),
        journal,
        memory: ALLOCATOR.allocated() - process.disk.capacity(),
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
    let shrinks = |hour: &usize| hours[*hour].journal < hours[*hour - 1].journal;
    let anew = (LAST_LIFE..hours.len()).filter(shrinks).count();
    assert!(3 < anew, "the journal is written anew");
    assert!(hours.iter().all(|hour| hour.disk < DISK_MAX));
    let memory = hours[LAST_LIFE - 1..].iter().map(|hour| hour.memory);
    let (before, most) = (hours[LAST_LIFE - 1].memory, memory.max().unwrap());
    println!("{before} bytes after {LAST_LIFE} h, and at most {most} afterwards");
    assert!(most <= before + GROWTH_MAX, "more than {GROWTH_MAX} bytes of growth");
}
