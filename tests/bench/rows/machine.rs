//! What the machine allows, so that figures of two machines can be compared, and what is installed.

use std::{
    fs::{self, File},
    io::Write as _,
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{
    daemon::Bench,
    proc::{ms, now},
    stats::{Rounds, Row},
};

const SAMPLES: usize = 200;
const ROUNDS: usize = 5;

pub(crate) fn primitives(bench: &Bench) -> Result<Vec<Row>> {
    let mut spawns = Vec::new();
    for _ in 0..SAMPLES {
        let before = now();
        let output = Command::new(&bench.agent).arg("--probe").output()?;
        let started = String::from_utf8(output.stdout)?.trim().parse();
        spawns.push(ms(before, started.context("the agent tells no time")?));
    }
    let dir = tempfile::tempdir_in(&bench.dir)?;
    let opened = File::open(dir.path())?;
    let mut writes = Vec::new();
    for number in 0..SAMPLES {
        let before = now();
        let temporary = dir.path().join("tmp");
        let mut file = File::create(&temporary)?;
        file.write_all(&[b'x'; 1024])?;
        file.sync_all()?;
        fs::rename(&temporary, dir.path().join(format!("{number}")))?;
        opened.sync_all()?;
        writes.push(ms(before, now()));
    }
    let (spawns, writes) = (Rounds::cut(&spawns, ROUNDS), Rounds::cut(&writes, ROUNDS));
    Ok(vec![
        Row::told("this machine: spawn → agent's first instruction", spawns.median(), "ms")
            .note(spawns),
        Row::told("this machine: 1 KB, fsync, rename, fsync directory", writes.median(), "ms")
            .note(writes),
    ])
}

pub(crate) fn installed(bench: &Bench) -> Result<Vec<Row>> {
    let row = |(label, path): &(String, std::path::PathBuf)| {
        let size = fs::metadata(path).with_context(|| path.display().to_string())?.len();
        let size = f64::from(u32::try_from(size).unwrap_or(u32::MAX)) / 1e6;
        let metric = format!("installed: {label}");
        Ok(match (label.contains("static"), label.contains("client")) {
            (true, true) => Row::at_most(metric, size, 3.0, "MB"),
            (true, false) => Row::at_most(metric, size, 3.5, "MB"),
            (false, _) => Row::told(metric, size, "MB"),
        })
    };
    bench.binaries.iter().map(row).collect()
}
