//! Nothing lost, nothing answered twice: the real daemon against the embedded bridge, through a
//! network that refuses, resets, cuts, delays, repeats, falls silent and lies, while the daemon is
//! killed and stopped at random moments; the same with the bridge as one that replays nothing; and
//! many messages that wait at such a bridge, with a daemon that is killed while it catches up.
//! Everything follows from a seed, as far as the scheduler lets it.
//!
//! `OBTO_FAULT_SEEDS=500 cargo test --test it faults -- --nocapture` runs more of it and shows the
//! figures; `OBTO_FAULT_SEED=7` runs the one that failed; `OBTO_FAULT_QUEUE=10000` has so many
//! messages wait, on a hundredth of so many threads, with 20 kills. What was done to a daemon that
//! failed, and its log, is kept in a file below `target/tmp`.

mod asking;
mod check;
mod dice;
mod proxy;
mod queue;
mod run;
mod wire;

use std::{fs, path::Path, time::Instant};

use crossbeam_channel::{bounded, unbounded};
use obto_bridge::task;
use rustix::process::Signal;

use crate::util::{
    namespace::{isolate, isolated},
    patience::{self, check_quick},
};
use queue::Size;
use run::{Figures, Site};

const SEEDS: u64 = 20;
/// Runs at the same time. They wait more than they work.
const TASKS: usize = 10;

/// A number from the environment.
#[expect(clippy::disallowed_methods, reason = "a test is told by its environment what to do")]
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn every_message_is_answered_once_whatever_network_and_signals_do() {
    let name = "every_message_is_answered_once_whatever_network_and_signals_do";
    run_seeds(name, |seed| run::run(seed, false));
}

#[test]
fn every_message_is_answered_once_also_if_the_bridge_replays_nothing() {
    let name = "every_message_is_answered_once_also_if_the_bridge_replays_nothing";
    run_seeds(name, |seed| run::run(seed, true));
}

/// Runs a test of this name for every seed.
fn run_seeds(name: &str, run: fn(u64) -> Result<Figures, String>) {
    let seeds: Vec<u64> = match number("OBTO_FAULT_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("OBTO_FAULT_SEEDS").unwrap_or(SEEDS)).collect(),
    };
    isolate(&format!("{}::{name}", module_path!()), || run_all(name, seeds, run));
}

#[test]
fn every_message_that_waited_is_answered_once_in_order_whenever_the_daemon_is_killed() {
    let size = match number("OBTO_FAULT_QUEUE") {
        None => Size { messages: 1_000, threads: 20, kills: 10 },
        Some(messages) => {
            let messages = u32::try_from(messages).unwrap();
            Size { messages, threads: messages.div_ceil(100), kills: 20 }
        }
    };
    let name = "every_message_that_waited_is_answered_once_in_order_whenever_the_daemon_is_killed";
    let seed = number("OBTO_FAULT_SEED").unwrap_or(0);
    isolate(&format!("{}::{name}", module_path!()), || {
        let started = Instant::now();
        let figures =
            queue::run(seed, size).unwrap_or_else(|why| panic!("{}", keep(name, seed, &why)));
        show(&format!("{size:?} in {:?}: {figures:#?}", started.elapsed()));
    });
}

#[expect(clippy::print_stdout, reason = "the figures are for a person")]
fn show(figures: &str) {
    println!("{figures}");
}

fn run_all(name: &str, seeds: Vec<u64>, run: fn(u64) -> Result<Figures, String>) {
    let started = Instant::now();
    let (runs, count) = (TASKS.min(seeds.len()), seeds.len());
    let (seed_in, queue) = unbounded();
    let (done, results) = bounded(runs);
    for seed in seeds {
        seed_in.send(seed).unwrap();
    }
    drop(seed_in);
    for number in 0..runs {
        let (queue, done) = (queue.clone(), done.clone());
        let work = move || {
            for seed in queue {
                let mut result = Err("no result".to_owned());
                let caught = task::catch(|| result = run(seed));
                done.send((seed, caught.and(result))).expect("all results are waited for");
            }
        };
        drop(task::spawn(&format!("run-{number}"), work).unwrap());
    }
    drop(done);
    let mut figures = Figures::default();
    let mut failures = Vec::new();
    for (seed, result) in results {
        match result {
            Ok(more) => figures.add(more),
            Err(report) => failures.push(keep(name, seed, &report)),
        }
    }
    show(&format!("{count} seeds in {:?}: {figures:#?}", started.elapsed()));
    assert!(failures.is_empty(), "{} of {count} failed\n{}", failures.len(), failures.join("\n"));
}

/// Puts a report, which is long, where a person can read it; returns what it comes to.
#[expect(clippy::disallowed_methods, reason = "it need not survive a crash")]
fn keep(name: &str, seed: u64, report: &str) -> String {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{seed}.log"));
    fs::write(&file, report).unwrap();
    let why = report.lines().next().unwrap_or_default();
    format!("OBTO_FAULT_SEED={seed}: {why}\n    what happened is in {}", file.display())
}

isolated! {
    /// No FIN, no RST, no byte: only the silence tells.
    fn a_stream_that_falls_silent_is_noticed_and_what_it_missed_is_answered() {
        let site = Site::new(dice::Dice { seed: 0 }, false);
        let answers = site.answers();
        let daemon = site.daemon();
        site.connected().unwrap();
        site.proxy.black_hole();
        let started = Instant::now();
        site.person().write("silent", "please do job/1/0");
        patience::recv(&answers).unwrap_or_else(|_| panic!("no answer\n{}", site.log()));
        let took = started.elapsed();
        assert!(took > site.idle_limit / 2, "{took:?}: the stream was not silent");
        check_quick(took, site.idle_limit * 4);
        let tally = check::thread(&site.person().read("silent"), false).unwrap();
        assert_eq!(tally.answered, 1);
        daemon.signal(Signal::TERM);
        daemon.end().expect(0, &[]);
    }
}
