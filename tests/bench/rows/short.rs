//! What the gate measures of two builds: what takes little time, and shows work that was added to a
//! message. The machine may be busy with anything else, so both builds run at once and take turns with
//! every start and every message, and of times it is the tenth percentile that counts: who was not
//! interrupted.

use std::time::Duration;

use anyhow::Result;

use super::{
    burst::{self, Shape},
    sparse::Talk,
    start::Place,
    syscalls,
};
use crate::{daemon::Bench, stats::Row};

const STARTS: usize = 6;
const EVENTS: usize = 60;
const PERCENT: usize = 10;
const BURST: Shape = Shape { threads: 20, each: 10, is_bound: false };

/// The rows of both. Counts of system calls are steady enough for one round.
pub(crate) fn round(builds: [&Bench; 2], counts: bool) -> Result<[Vec<Row>; 2]> {
    let mut rows = starts(builds)?;
    let [one, two] = builds;
    let mut talks = [Talk::owned(one)?, Talk::owned(two)?];
    in_turn(EVENTS, |build| talks[build].say())?;
    for (rows, talk) in rows.iter_mut().zip(talks) {
        rows.extend(talk.end()?.rows(PERCENT));
    }
    for (rows, bench) in rows.iter_mut().zip(builds) {
        rows.extend(burst::rows(bench, BURST)?);
        if counts {
            rows.extend(syscalls::syscalls(bench)?);
        }
        // The bars are those of a release on a quiet machine.
        for row in rows.iter_mut().filter(|row| !row.is_worst) {
            row.bar = None;
        }
    }
    Ok(rows)
}

fn starts(builds: [&Bench; 2]) -> Result<[Vec<Row>; 2]> {
    let [one, two] = builds;
    let places = [Place::new(one, |_| Ok(()))?, Place::new(two, |_| Ok(()))?];
    let mut shortest = [f64::INFINITY; 2];
    in_turn(STARTS, |build| {
        let (start, _) = places[build].start_and_stop(Duration::ZERO)?;
        shortest[build] = start.min(shortest[build]);
        Ok(())
    })?;
    Ok(shortest.map(|it| vec![Row::told("start → stream connected, shortest", it, "ms")]))
}

/// Each of the two so often; neither is always right behind the other.
fn in_turn(times: usize, mut act: impl FnMut(usize) -> Result<()>) -> Result<()> {
    for time in 0..times {
        for build in if time % 2 == 0 { [0, 1] } else { [1, 0] } {
            act(build)?;
        }
    }
    Ok(())
}
