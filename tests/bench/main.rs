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
mod disk;
mod proc;
mod rows;
mod stats;
mod table;

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use argh::FromArgs;
use serde_json::json;

use daemon::Bench;
use disk::Disk;
use rows::{asking, burst, idle, large, load, machine, serve, short, sparse, start, syscalls};
use stats::Row;
use table::{Build, Line};

/// The gate waits for the short form: rounds that would begin later are left out.
const SHORT_LIMIT: Duration = Duration::from_mins(1);
/// However busy the machine is: with fewer rounds none of them need have been quiet.
const SHORT_LEAST: usize = 3;

/// Measures the daemon.
#[derive(FromArgs)]
struct Args {
    /// the program under test
    #[argh(option)]
    program: PathBuf,
    /// another build of it, measured in turn with the first
    #[argh(option)]
    against: Option<PathBuf>,
    /// the agent that they start
    #[argh(option)]
    agent: PathBuf,
    /// where homes are made
    #[argh(option)]
    dir: PathBuf,
    /// a binary to weigh, as LABEL=PATH
    #[argh(option)]
    binary: Vec<String>,
    /// how often everything is measured whose figures differ from time to time
    #[argh(option, default = "3")]
    rounds: usize,
    /// print one JSON object a line; the table goes to standard error
    #[argh(switch)]
    json: bool,
    /// measure what takes little time, and fail if a row is worse by half than --against
    #[argh(switch)]
    short: bool,
    /// groups of rows; all without any
    #[argh(positional)]
    groups: Vec<String>,
}

type Group = fn(&Bench) -> Result<Vec<Row>>;

const GROUPS: &[(&str, Group)] = &[
    ("machine", machine::primitives),
    ("start", start::start_and_stop),
    ("idle", idle::idle),
    ("ours", sparse::ours),
    ("unclaimed", sparse::unclaimed),
    ("engines", sparse::engines),
    ("burst", burst::unclaimed),
    ("bound", burst::bound),
    ("asking", asking::asking),
    ("bindings", large::bindings),
    ("event", large::event),
    ("syscalls", syscalls::syscalls),
    ("reconnect", start::reconnect),
    ("cut", start::cut),
    ("serve", serve::serve),
    #[cfg(feature = "serve")]
    ("writers", rows::fleet::writers),
    ("load", load::load),
    ("installed", machine::installed),
];

/// What takes a minute or more by itself, or does not change from round to round.
const ONCE: &[&str] = &["idle", "cut", "load", "installed"];

fn main() -> Result<ExitCode> {
    let args: Args = argh::from_env();
    fs::create_dir_all(&args.dir)?;
    let ours = bench(&args, &args.program)?;
    let against = args.against.as_deref().map(|it| bench(&args, it)).transpose()?;
    let out = Out { json: args.json, compares: against.is_some() };
    out.head(&Disk::of(&ours.dir)?)?;
    let began = Instant::now();
    let lines = if args.short {
        let against = against.as_ref().context("--short wants --against")?;
        if let Err(error) = sparse::Talk::owned(against) {
            out.show(&format!("skipped: the build before can't be measured like this: {error:#}"))?;
            return Ok(ExitCode::SUCCESS);
        }
        let lines = short([&ours, against], args.rounds)?;
        lines.iter().try_for_each(|line| out.line(line))?;
        lines
    } else {
        full(&args, &out, &ours, against.as_ref())?
    };
    out.show(&format!("\nMeasured in {} s.", began.elapsed().as_secs()))?;
    let worse = lines.iter().filter(|line| args.short && line.is_worse());
    let worse: Vec<String> = worse.map(Line::to_string).collect();
    if !worse.is_empty() {
        out.show(&format!("\nWorse by half than the build before:\n{}", worse.join("\n")))?;
    }
    let is_good = worse.is_empty() && lines.iter().all(Line::is_whole);
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn full(args: &Args, out: &Out, ours: &Bench, against: Option<&Bench>) -> Result<Vec<Line>> {
    let mut all = Vec::new();
    for (name, group) in GROUPS {
        if !args.groups.is_empty() && !args.groups.iter().any(|wanted| wanted == name) {
            continue;
        }
        let mut rounds = Vec::new();
        for round in 0..if ONCE.contains(name) { 1 } else { args.rounds } {
            let mut builds = vec![(Build::Ours, ours)];
            builds.extend(against.map(|it| (Build::Against, it)));
            // So that neither always comes right after the other.
            if round % 2 == 1 {
                builds.reverse();
            }
            for (build, bench) in builds {
                let rows = group(bench).unwrap_or_else(|error| vec![Row::failed(name, &error)]);
                rounds.push((build, rows));
            }
        }
        let lines = table::lines(name, &rounds);
        lines.iter().try_for_each(|line| out.line(line))?;
        all.extend(lines);
    }
    Ok(all)
}

/// What seems worse is measured once more: twice is no chance.
fn short(builds: [&Bench; 2], wanted: usize) -> Result<Vec<Line>> {
    let mut rounds = Vec::new();
    let mut measure = || {
        let began = Instant::now();
        for round in 0..wanted {
            if round >= SHORT_LEAST && began.elapsed() > SHORT_LIMIT {
                break;
            }
            let [ours, against] = short::round(builds, round == 0)?;
            rounds.extend([(Build::Ours, ours), (Build::Against, against)]);
        }
        anyhow::Ok(table::lines("short", &rounds))
    };
    let lines = measure()?;
    if lines.iter().any(Line::is_worse) { measure() } else { Ok(lines) }
}

fn bench(args: &Args, program: &Path) -> Result<Bench> {
    let binary = |text: &String| {
        let (label, path) = text.split_once('=').context("--binary is LABEL=PATH")?;
        Ok((label.to_owned(), PathBuf::from(path)))
    };
    // How much of a file counts as resident depends on how it came into the page cache: for a copy
    // just made by as much as 5 % more than for a file from the disk.
    let place = tempfile::tempdir_in(&args.dir)?;
    let copy = place.path().canonicalize()?.join("obto-bridge");
    fs::copy(program, &copy).with_context(|| program.display().to_string())?;
    Ok(Bench {
        program: copy,
        _place: place,
        agent: args.agent.canonicalize().context("--agent")?,
        dir: args.dir.canonicalize()?,
        binaries: args.binary.iter().map(binary).collect::<Result<_>>()?,
    })
}

/// Where the table goes.
struct Out {
    json: bool,
    compares: bool,
}

impl Out {
    fn head(&self, disk: &Disk) -> Result<()> {
        let machine = about_the_machine();
        if self.json {
            print(&json!({"machine": machine, "disk": disk.json()}).to_string())?;
        }
        self.show(&format!("{machine}\n{disk}\n\n{}", table::head(self.compares)))
    }

    fn line(&self, line: &Line) -> Result<()> {
        if self.json {
            print(&line.json().to_string())?;
        }
        self.show(&line.to_string())
    }

    /// For people.
    fn show(&self, text: &str) -> Result<()> {
        if self.json { Ok(writeln!(io::stderr(), "{text}")?) } else { print(text) }
    }
}

fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
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
