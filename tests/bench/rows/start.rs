//! Start and stop, and the way back to a bridge that hung up.

use std::time::Duration;

use anyhow::Result;

use super::{Stage, pause};
use crate::{
    bridge::{Bridge, What},
    daemon::{Bench, Home, PATIENCE, Program},
    proc::ms,
    stats::{Rounds, Row},
};

const REPEATS: usize = 11;
/// After its start a daemon is left alone for so long before it is stopped.
const SETTLE: Duration = Duration::from_millis(300);

pub(crate) fn start_and_stop(bench: &Bench) -> Result<Vec<Row>> {
    let (bare, stops) = starts(bench, |_| Ok(()))?;
    let (engines, _) = starts(bench, Home::add_fake_engines)?;
    Ok(vec![
        Row::at_most("start → stream connected", bare.median(), 10.0, "ms")
            .note(bare)
            .note("no known engine on PATH"),
        Row::at_most("… with three engines, versions cached", engines.median(), 10.0, "ms")
            .note(engines),
        Row::at_most("stop of an idle daemon", stops.median(), 20.0, "ms").note(stops),
    ])
}

fn starts(bench: &Bench, prepare: impl FnOnce(&Home) -> Result<()>) -> Result<(Rounds, Rounds)> {
    let bridge = Bridge::start()?;
    let home = Home::new(bench, &bridge)?;
    prepare(&home)?;
    let (mut starts, mut stops) = (Vec::new(), Vec::new());
    for _ in 0..=REPEATS {
        let (daemon, start) = Program::connected(bench, &home, &bridge)?;
        pause(SETTLE);
        starts.push(start);
        stops.push(daemon.stop()?);
    }
    // The first one warmed the caches up, the daemon's and the system's.
    Ok((Rounds::each(starts.into_iter().skip(1)), Rounds::each(stops.into_iter().skip(1))))
}

pub(crate) fn reconnect(bench: &Bench) -> Result<Vec<Row>> {
    let mut gaps = Vec::new();
    for _ in 0..5 {
        // A fresh daemon each time: back-off grows with every loss in a row.
        let stage = Stage::new(bench, |_| Ok(()))?;
        let dropped = stage.bridge.drop_stream()?;
        let again = stage.bridge.wait("second stream", PATIENCE, |note| {
            (note.what == What::Stream && note.at > dropped).then_some(note.at)
        });
        gaps.push(ms(dropped, stage.daemon.explain(again)?));
    }
    let shortest = gaps.iter().copied().fold(f64::INFINITY, f64::min);
    let gaps = Rounds::each(gaps);
    let longest = gaps.percentile(100);
    let mut row = Row::at_most("stream dropped → new request, longest", longest, 1500.0, "ms");
    if shortest < 1.0 {
        row = row.note("**at once: a hot loop?**");
    }
    Ok(vec![row.note(format!("median {:.0}", gaps.median())).note(gaps)])
}
