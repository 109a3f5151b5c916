//! Start and stop, and the way back to a bridge that hung up.

use std::{thread, time::Duration};

use anyhow::{Result, anyhow};

use super::{Stage, pause};
use crate::{
    bridge::{Bridge, What},
    daemon::{Bench, Home, Program},
    proc::ms,
    stats::{Rounds, Row},
};

const REPEATS: usize = 5;
/// Losses in a row for each daemon, and daemons beside one another.
const CUTS: usize = 4;
const CUT_DAEMONS: usize = 8;
/// A balancer that cuts.
const LIFE: Duration = Duration::from_secs(20);
/// Longer than any wait between two attempts.
const COMES_BACK: Duration = Duration::from_secs(70);
/// After its start a daemon is left alone for so long before it is stopped.
const SETTLE: Duration = Duration::from_millis(300);

pub(crate) fn start_and_stop(bench: &Bench) -> Result<Vec<Row>> {
    let (bare, stops) = starts(bench, |_| Ok(()))?;
    let (engines, _) = starts(bench, Home::add_fake_engines)?;
    Ok(vec![
        Row::at_most("start → stream connected", bare.median(), 10.0, "ms")
            .note("no known engine on PATH"),
        Row::at_most("… with three engines, versions cached", engines.median(), 10.0, "ms"),
        Row::at_most("stop of an idle daemon", stops.median(), 20.0, "ms"),
    ])
}

fn starts(bench: &Bench, prepare: impl FnOnce(&Home) -> Result<()>) -> Result<(Rounds, Rounds)> {
    let place = Place::new(bench, prepare)?;
    let times = (0..REPEATS).map(|_| place.start_and_stop(SETTLE)).collect::<Result<Vec<_>>>()?;
    let (starts, stops) = times.into_iter().unzip::<_, _, Vec<f64>, Vec<f64>>();
    Ok((Rounds::each(starts), Rounds::each(stops)))
}

/// Where a daemon is started again and again.
pub(super) struct Place<'a> {
    bench: &'a Bench,
    bridge: Bridge,
    home: Home,
}

impl Place<'_> {
    /// The first start warms the caches up, the daemon's and the system's.
    pub(super) fn new(
        bench: &Bench,
        prepare: impl FnOnce(&Home) -> Result<()>,
    ) -> Result<Place<'_>> {
        let bridge = Bridge::start()?;
        let home = Home::new(bench, &bridge)?;
        prepare(&home)?;
        let place = Place { bench, bridge, home };
        place.start_and_stop(SETTLE)?;
        Ok(place)
    }

    /// How long the start took, and the stop, in milliseconds.
    pub(super) fn start_and_stop(&self, settle: Duration) -> Result<(f64, f64)> {
        let (daemon, start) = Program::connected(self.bench, &self.home, &self.bridge)?;
        pause(settle);
        Ok((start, daemon.stop()?))
    }
}

pub(crate) fn reconnect(bench: &Bench) -> Result<Vec<Row>> {
    let mut gaps = Vec::new();
    for _ in 0..3 {
        // A fresh daemon each time: back-off grows with every loss in a row.
        let stage = Stage::new(bench, |_| Ok(()))?;
        // What a daemon learns of its engines right after its start ends a wait.
        pause(SETTLE);
        gaps.push(gap(&stage)?);
    }
    Ok(vec![row("stream dropped → new request", gaps)])
}

/// How long the way back takes where every connection is cut.
pub(crate) fn cut(bench: &Bench) -> Result<Vec<Row>> {
    let gaps = thread::scope(|scope| {
        let stages = (0..CUT_DAEMONS).map(|_| {
            scope.spawn(|| {
                let stage = Stage::new(bench, |_| Ok(()))?;
                let gaps = (0..CUTS).map(|_| {
                    pause(LIFE);
                    gap(&stage)
                });
                gaps.collect::<Result<Vec<f64>>>()
            })
        });
        let stages: Vec<_> = stages.collect();
        let gaps =
            stages.into_iter().map(|it| it.join().map_err(|_| anyhow!("a task panicked"))?);
        gaps.collect::<Result<Vec<_>>>()
    })?;
    Ok(vec![row("stream of 20 s dropped → new request", gaps.concat())])
}

fn row(metric: &str, gaps: Vec<f64>) -> Row {
    let gaps = Rounds::each(gaps);
    let (shortest, longest) = (gaps.percentile(0), gaps.percentile(100));
    let row = Row::at_most(format!("{metric}: longest"), longest, 1_600.0, "ms")
        .worst()
        .note(format!("median {:.0}, mean {:.0}", gaps.median(), gaps.mean()));
    if shortest < 1.0 { row.note("**at once: a hot loop?**") } else { row }
}

/// Drops the stream and waits for the next; how long that took in milliseconds.
fn gap(stage: &Stage) -> Result<f64> {
    let dropped = stage.bridge.drop_stream()?;
    let again = stage.bridge.wait("second stream", COMES_BACK, |note| {
        (note.what == What::Stream && note.at > dropped).then_some(note.at)
    });
    Ok(ms(dropped, stage.daemon.explain(again)?))
}
