//! A seeded simulation of the whole world around the coordinator: a bridge, machines, disks, engines,
//! people, clocks, and what goes wrong with each of them. Then everything calms down, and every
//! message must have been answered once, by one machine, in order, or its fate told.
//!
//! `OBTO_SIM_SEEDS=1000000 cargo test --test sim` runs more of it; `OBTO_SIM_SEED=7` runs the one that
//! failed and prints what happened.

mod parts;
mod world;

use parts::{Counts, Mutation};
use world::World;

const SEEDS: u64 = 20_000;

/// A number from the environment.
#[expect(clippy::disallowed_methods, reason = "a test is told by its environment what to do")]
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

fn run(seed: u64, mutation: Mutation) -> Result<(), String> {
    World::new(seed, mutation).run()
}

/// Says what happened, from a second run that keeps a record of it.
fn report(seed: u64, what: &str) -> String {
    let mut world = World::new(seed, Mutation::None);
    world.is_traced = true;
    let again = world.run();
    assert_eq!(again.as_ref().err().map(String::as_str), Some(what), "a seed always does the same");
    format!("{}\nOBTO_SIM_SEED={seed}: {what}", world.trace.join("\n"))
}

/// Half of the seeds each, because the harness has a thread for each test.
#[track_caller]
fn check(first: u64) {
    if let Some(seed) = number("OBTO_SIM_SEED") {
        return run(seed, Mutation::None).unwrap_or_else(|what| panic!("{}", report(seed, &what)));
    }
    let seeds = (first..number("OBTO_SIM_SEEDS").unwrap_or(SEEDS)).step_by(2);
    for seed in seeds {
        run(seed, Mutation::None).unwrap_or_else(|what| panic!("{}", report(seed, &what)));
    }
}

#[test]
fn every_message_is_answered_once_with_even_seeds() {
    check(0);
}

#[test]
fn every_message_is_answered_once_with_odd_seeds() {
    check(1);
}

/// The simulation would notice if it were not so.
#[test]
fn faults_are_found() {
    for mutation in Mutation::ALL {
        let mut seeds = 0..SEEDS;
        let needed = seeds.position(|seed| run(seed, mutation).is_err());
        assert!(needed.is_some(), "{mutation:?} went unnoticed");
    }
}

#[test]
fn the_simulation_meets_what_it_is_about() {
    let mut total = Counts::default();
    for seed in 0..1_000 {
        let mut world = World::new(seed, Mutation::None);
        world.run().unwrap_or_else(|what| panic!("{}", report(seed, &what)));
        total.add(&world.counts);
    }
    assert!(total.all_above(3), "{total:?}");
}
