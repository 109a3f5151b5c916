//! A minute in which nothing happens but the bridge's heartbeats.

use std::time::Duration;

use anyhow::Result;

use super::{Stage, pause};
use crate::{
    daemon::{Bench, Home},
    proc::Work,
    stats::{Row, figure},
};

const SETTLE: Duration = Duration::from_secs(2);

pub(crate) fn idle(bench: &Bench) -> Result<Vec<Row>> {
    let stage = Stage::new(bench, Home::add_fake_engines)?;
    pause(SETTLE);
    let before = stage.daemon.process().work()?;
    pause(Duration::from_mins(1));
    let after = stage.daemon.explain(stage.daemon.process().work())?;
    let (resident, peak) = stage.daemon.process().memory()?;

    let (mut cpu, mut wakeups, mut who) = (0.0, 0.0, Vec::new());
    for (name, now) in &after {
        let then =
            before.get(name).copied().unwrap_or(Work { cpu_ms: 0.0, switches: 0.0, tasks: 0 });
        let (ms, switches) = (now.cpu_ms - then.cpu_ms, now.switches - then.switches);
        cpu += ms;
        wakeups += switches;
        if switches > 0.0 {
            who.push(format!("{name} {} ms {switches}", figure(ms)));
        }
    }
    let tasks: usize = after.values().map(|it| it.tasks).sum();
    Ok(vec![
        Row::at_most("idle resident memory", resident, 6.0, "MB")
            .note(format!("peak {}", figure(peak)))
            .note(format!("{tasks} threads")),
        Row::at_most("idle CPU in a minute", cpu, 6.0, "ms").note(who.join(", ")),
        Row::at_most("… wake-ups", wakeups, 80.0, ""),
    ])
}
