//! What the machine allows, so that figures of two machines can be compared, and what is installed.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result};

use crate::{
    daemon::Bench,
    proc::{ms, now},
    stats::{Rounds, Row},
};

const SAMPLES: usize = 200;

pub(crate) fn primitives(bench: &Bench) -> Result<Vec<Row>> {
    let mut spawns = Vec::new();
    for _ in 0..SAMPLES {
        let before = now();
        let output = Command::new(&bench.agent).arg("--probe").output()?;
        let started = String::from_utf8(output.stdout)?.trim().parse();
        spawns.push(ms(before, started.context("the agent tells no time")?));
    }
    let spawns = Rounds::each(spawns);
    Ok(vec![Row::told("this machine: spawn → agent's first instruction", spawns.median(), "ms")])
}

pub(crate) fn installed(bench: &Bench) -> Result<Vec<Row>> {
    let size = |path: &Path| {
        let size = fs::metadata(path).with_context(|| path.display().to_string())?.len();
        anyhow::Ok(f64::from(u32::try_from(size).unwrap_or(u32::MAX)) / 1e6)
    };
    let mut rows = vec![Row::told("size of the program", size(&bench.program)?, "MB")];
    for (label, path) in &bench.binaries {
        let (metric, size) = (format!("installed: {label}"), size(path)?);
        rows.push(match (label.contains("static"), label.contains("client")) {
            (true, true) => Row::at_most(metric, size, 3.0, "MB"),
            (true, false) => Row::at_most(metric, size, 3.5, "MB"),
            (false, _) => Row::told(metric, size, "MB"),
        });
    }
    Ok(rows)
}
