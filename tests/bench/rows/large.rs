//! Much of something: bindings, and bytes in one message.

use anyhow::{Context as _, Result};

use super::Stage;
use crate::{
    bridge::Event,
    daemon::Bench,
    proc::ms,
    stats::{Rounds, Row},
};

/// Messages for each daemon with many bindings. The first half waits for what a start has to do.
const EVENTS: usize = 20;

pub(crate) fn bindings(bench: &Bench) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (label, count, bar) in [("10,000", 10_000, 4.0), ("50,000", 50_000, 5.0)] {
        let stage = Stage::new(bench, |home| home.add_bindings(count))?;
        let mut idles = Vec::new();
        for number in 0..EVENTS {
            let (thread, message) = (format!("t{}", number % 10), format!("m{number}"));
            let event = Event { thread: &thread, message: &message, body: "Hello?", is_ours: true };
            let passed = stage.turn(&event)?;
            if number >= EVENTS / 2 {
                idles.push(ms(passed.written, passed.idle));
            }
        }
        let (idle, peak) = (Rounds::each(idles).median(), stage.daemon.process().memory()?.1);
        rows.extend([
            Row::at_most(format!("state with {label} bindings: event → idle"), idle, bar, "ms"),
            Row::at_most("… start → stream connected", stage.start, 80.0, "ms"),
            Row::at_most("… peak memory", peak, 100.0, "MB"),
        ]);
    }
    Ok(rows)
}

pub(crate) fn event(bench: &Bench) -> Result<Vec<Row>> {
    let body = "0123456789abcde ".repeat(10 * 1024 * 1024 / 16);
    let stage = Stage::new(bench, |_| Ok(()))?;
    let small = Event { thread: "t", message: "m0", body: "Hello?", is_ours: true };
    stage.turn(&small)?;
    let passed = stage.turn(&Event { message: "m1", body: &body, ..small })?;
    let turns = stage.home.turns(2)?;
    let turn = turns.iter().find(|turn| turn.message == "m1").context("no turn")?;
    let (started, idle) = (ms(passed.written, turn.started), ms(passed.written, passed.idle));
    Ok(vec![
        Row::at_most("10 MB event: first byte written → agent started", started, 60.0, "ms"),
        Row::at_most("… → idle, the whole turn", idle, 90.0, "ms"),
        Row::at_most("… peak memory", stage.daemon.process().memory()?.1, 100.0, "MB"),
    ])
}
