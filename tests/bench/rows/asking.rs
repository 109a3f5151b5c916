//! A person answers an agent that asks, while a hundred other threads wait for their turns.

use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use crossbeam_channel::never;

use super::Stage;
use crate::{
    bridge::{Event, What},
    daemon::{Bench, GLANCE, PATIENCE},
    proc::ms,
    stats::{Rounds, Row},
};

const ANSWERS: usize = 100;
const QUEUED: usize = 100;

pub(crate) fn asking(bench: &Bench) -> Result<Vec<Row>> {
    let stage = Stage::new(bench, |home| home.set("relayPermissions", true.into()))?;
    let send = |thread: &str, message: &str, body: &str| {
        stage.bridge.send(&Event { thread, message, body, is_ours: true }.bytes())
    };
    send("asks", "m", "bench:ask")?;
    let mut code = question(&stage)?;
    for number in 0..QUEUED + HOLDING {
        send(&format!("t{number}"), &format!("q{number}"), "bench:hold")?;
    }
    holding(&stage)?;
    let mut took = Vec::new();
    for number in 0..ANSWERS {
        let written = send("asks", &format!("a{number}"), &format!("approve {code}"))?;
        let next = question(&stage)?;
        took.push(ms(written, verdict(&stage, number)?));
        code = next;
    }
    let took = Rounds::each(took);
    let what = "reply to a question → engine has the verdict, 100 threads queued: p50";
    Ok(vec![
        Row::at_most(what, took.median(), 20.0, "ms"),
        Row::at_most("… p99", took.percentile(99), 20.0, "ms"),
    ])
}

/// Turns that hold their places: `maxTurns` is 4, and one asks.
const HOLDING: usize = 3;

/// Waits until as many turns hold as there are places for.
fn holding(stage: &Stage) -> Result<()> {
    let mut working = 0;
    let held = stage.bridge.wait("turns that hold", PATIENCE, |note| {
        working += usize::from(matches!(note.what, What::Working { .. }));
        (working == HOLDING).then_some(())
    });
    stage.daemon.explain(held)
}

/// The code of the next question that is posted.
fn question(stage: &Stage) -> Result<String> {
    let code = stage.bridge.wait("question", PATIENCE, |note| match note.what {
        What::Post { body, .. } if body.contains("How to answer") => {
            Some(body.split("Question `").nth(1)?.split('`').next()?.to_owned())
        }
        _ => None,
    });
    stage.daemon.explain(code)
}

/// When the agent had its verdict of this number.
fn verdict(stage: &Stage, number: usize) -> Result<u64> {
    let until = Instant::now() + PATIENCE;
    loop {
        let text = stage.home.verdicts();
        if let Some(line) = text.lines().nth(number) {
            return line.parse().with_context(|| format!("a time in {line:?}"));
        }
        if Instant::now() > until {
            bail!("the agent noted no verdict {number}");
        }
        never::<()>().recv_timeout(GLANCE).ok();
    }
}
