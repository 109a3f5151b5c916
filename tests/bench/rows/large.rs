//! Much of something: bindings, and bytes in one message.

use anyhow::{Context as _, Result};

use super::Stage;
use crate::{
    bridge::Event,
    daemon::Bench,
    proc::ms,
    stats::{Rounds, Row},
};

const REPEATS: usize = 5;
/// Messages for each daemon with many bindings.
const EVENTS: usize = 20;

pub(crate) fn bindings(bench: &Bench) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (label, count, bar) in [("10,000", 10_000, 4.0), ("50,000", 50_000, 5.0)] {
        let (mut starts, mut peaks, mut idles) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..REPEATS {
            let stage = Stage::new(bench, |home| home.add_bindings(count))?;
            starts.push(stage.start);
            for number in 0..EVENTS {
                let (thread, message) = (format!("t{}", number % 10), format!("m{number}"));
                let event =
                    Event { thread: &thread, message: &message, body: "Hello?", is_ours: true };
                let passed = stage.turn(&event)?;
                // The first ones wait for what a start has to do.
                if number >= EVENTS / 2 {
                    idles.push(ms(passed.written, passed.idle));
                }
            }
            peaks.push(stage.daemon.process().memory()?.1);
        }
        let (starts, peaks) = (Rounds::each(starts), Rounds::each(peaks));
        let idles = Rounds::cut(&idles, REPEATS);
        let metric = format!("state with {label} bindings: event → idle");
        rows.push(Row::at_most(metric, idles.median(), bar, "ms").note(idles));
        if count == 50_000 {
            rows.push(
                Row::at_most("start with 50,000 bindings", starts.median(), 200.0, "ms")
                    .note(starts),
            );
            rows.push(Row::at_most("… peak memory", peaks.median(), 160.0, "MB").note(peaks));
        }
    }
    Ok(rows)
}

pub(crate) fn event(bench: &Bench) -> Result<Vec<Row>> {
    let body = "0123456789abcde ".repeat(10 * 1024 * 1024 / 16);
    let (mut times, mut peaks) = (Vec::new(), Vec::new());
    for _ in 0..REPEATS {
        let stage = Stage::new(bench, |_| Ok(()))?;
        let small = Event { thread: "t", message: "m0", body: "Hello?", is_ours: true };
        stage.turn(&small)?;
        let passed = stage.turn(&Event { message: "m1", body: &body, ..small })?;
        let turns = stage.home.turns(2)?;
        let turn = turns.iter().find(|turn| turn.message == "m1").context("no turn")?;
        times.push(ms(passed.written, turn.started));
        peaks.push(stage.daemon.process().memory()?.1);
    }
    let (times, peaks) = (Rounds::each(times), Rounds::each(peaks));
    Ok(vec![
        Row::at_most("10 MB event: first byte written → agent started", times.median(), 40.0, "ms")
            .note(times),
        Row::at_most("… peak memory", peaks.median(), 100.0, "MB").note(peaks),
    ])
}
