//! Measures the daemon against its bar, from outside: the release binary, a bridge of our own with
//! exact clocks, and an agent that thinks for no time. `scripts/bench.sh` builds what it needs and
//! runs it; `cargo test` runs the tests of its instruments only.

#![expect(
    clippy::disallowed_methods,
    reason = "it stands outside of the daemon, and must not break with what it measures"
)]
#![cfg_attr(test, expect(clippy::float_cmp, reason = "exact by construction"))]

mod bridge;
mod daemon;
mod proc;
mod rows;
mod stats;

use std::{
    fs,
    io::{self, Write as _},
    path::PathBuf,
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use argh::FromArgs;

use daemon::Bench;
use rows::{asking, burst, idle, large, load, machine, serve, sparse, start};
use stats::Row;

/// What is begun later than this is left out.
const LIMIT: Duration = Duration::from_mins(8);

/// Measures the daemon.
#[derive(FromArgs)]
struct Args {
    /// the program under test
    #[argh(option)]
    program: PathBuf,
    /// the agent that it starts
    #[argh(option)]
    agent: PathBuf,
    /// where homes are made; on the disk that users have
    #[argh(option)]
    dir: PathBuf,
    /// a binary to weigh, as LABEL=PATH
    #[argh(option)]
    binary: Vec<String>,
    /// groups of rows; all without any
    #[argh(positional)]
    groups: Vec<String>,
}

type Group = fn(&Bench) -> Result<Vec<Row>>;

const GROUPS: [(&str, Group); 13] = [
    ("machine", machine::primitives),
    ("start", start::start_and_stop),
    ("idle", idle::idle),
    ("ours", sparse::ours),
    ("unclaimed", sparse::unclaimed),
    ("burst", burst::burst),
    ("asking", asking::asking),
    ("bindings", large::bindings),
    ("reconnect", start::reconnect),
    ("event", large::event),
    ("serve", serve::serve),
    ("load", load::load),
    ("installed", machine::installed),
];

fn main() -> Result<ExitCode> {
    let args: Args = argh::from_env();
    let binary = |text: &String| {
        let (label, path) = text.split_once('=').context("--binary is LABEL=PATH")?;
        Ok((label.to_owned(), PathBuf::from(path)))
    };
    fs::create_dir_all(&args.dir)?;
    let bench = Bench {
        program: args.program.canonicalize().context("--program")?,
        agent: args.agent.canonicalize().context("--agent")?,
        dir: args.dir.canonicalize()?,
        binaries: args.binary.iter().map(binary).collect::<Result<_>>()?,
    };
    let began = Instant::now();
    let mut out = io::stdout().lock();
    writeln!(out, "{}\n\n{}", about_the_machine(), stats::HEAD)?;
    let mut all_measured = true;
    for (name, group) in GROUPS {
        if !args.groups.is_empty() && !args.groups.iter().any(|wanted| wanted == name) {
            continue;
        }
        let rows = if began.elapsed() < LIMIT {
            group(&bench)
        } else {
            Err(anyhow::anyhow!("no time was left"))
        };
        let rows = rows.unwrap_or_else(|error| {
            all_measured = false;
            vec![Row::failed(name, &error)]
        });
        for row in rows {
            writeln!(out, "{row}")?;
        }
        out.flush()?;
    }
    writeln!(out, "\nMeasured in {} s.", began.elapsed().as_secs())?;
    Ok(if all_measured { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn about_the_machine() -> String {
    let first = |file: &str, key: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        line.unwrap_or_default().trim_start_matches([' ', '\t', ':']).trim().to_owned()
    };
    let rustc = Command::new("rustc").arg("-V").output().map(|output| output.stdout);
    format!(
        "{} cores, {}, Linux {}, {}, load {}",
        std::thread::available_parallelism().map_or(0, usize::from),
        first("/proc/cpuinfo", "model name"),
        first("/proc/sys/kernel/osrelease", ""),
        String::from_utf8_lossy(&rustc.unwrap_or_default()).trim(),
        first("/proc/loadavg", ""),
    )
}
