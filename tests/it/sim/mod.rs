//! A seeded simulation of two machines on one bridge. Events come in any order, late and twice;
//! claims fail, time out and race; workers panic, are refused and retire; a machine is stopped or
//! crashes between any two effects and starts again from what is on its disk. Then everything
//! calms down, and every message must have been answered once, by one machine, in order.
//!
//! `OBTO_SIM_SEEDS=1000000 cargo test --test it sim` runs more of it; `OBTO_SIM_SEED=7` runs the
//! one that failed and prints what happened.

mod model;
mod parts;

use model::World;
use parts::{Counts, Mutation};

const SEEDS: u64 = 10_000;

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
    for seed in (first..number("OBTO_SIM_SEEDS").unwrap_or(SEEDS)).step_by(2) {
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
fn broken_dispatchers_are_found_out() {
    for mutation in Mutation::ALL {
        let found = (0..2_000).find_map(|seed| run(seed, mutation).err());
        assert!(found.is_some(), "{mutation:?} went unnoticed");
    }
}

#[test]
fn the_simulation_meets_what_it_is_about() {
    let mut total = Counts::default();
    for seed in 0..300 {
        let mut world = World::new(seed, Mutation::None);
        world.run().unwrap();
        total.add(&world.counts);
    }
    assert!(total.all_above(20), "{total:?}");
}
