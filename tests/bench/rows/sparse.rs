//! One message now and then, as a person writes them.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{Passed, Stage, pause};
use crate::{
    bridge::Event,
    daemon::{Bench, Home, Turn},
    proc::ms,
    stats::{Rounds, Row, figure},
};

const EVENTS: usize = 150;
/// Of unclaimed threads; each takes three round trips and more.
const UNCLAIMED: usize = 60;
const PACE: Duration = Duration::from_millis(50);
/// Threads that take turns.
const THREADS: usize = 10;

pub(crate) fn ours(bench: &Bench) -> Result<Vec<Row>> {
    let mut talk = Talk::owned(bench)?;
    for _ in 0..EVENTS {
        talk.say_at_pace()?;
    }
    let run = talk.end()?;
    let mut rows = run.rows(50);
    rows.insert(1, Row::told("… p99", run.to_agent.percentile(99), "ms"));
    Ok(rows)
}

/// The whole way to an engine and back, which is longer than with ACP.
pub(crate) fn engines(bench: &Bench) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (engine, bar) in [("codex", 3.5), ("claude", 3.0)] {
        let mut talk = Talk::warm(bench, |home| home.set_engine(bench, engine))?;
        for _ in 0..EVENTS / 3 {
            talk.say_at_pace()?;
        }
        let run = talk.end()?;
        rows.extend([
            Row::told(format!("{engine}: event → prompt read: p50"), run.to_prompt.median(), "ms"),
            Row::at_most(format!("{engine}: whole turn: p50"), run.to_idle.median(), bar, "ms"),
            Row::told(format!("{engine}: CPU per event, sparse"), run.cpu_each, "ms"),
        ]);
    }
    Ok(rows)
}

pub(crate) fn unclaimed(bench: &Bench) -> Result<Vec<Row>> {
    let mut talk = Talk::new(bench, None, |_| Ok(()))?;
    for number in 0..15 + UNCLAIMED {
        if number == 10 {
            talk.stage.bridge.set_round_trip(Duration::from_millis(50));
        }
        // And until then connections get warm, as they are after a thread's first message.
        if number == 15 {
            talk.begin()?;
        }
        talk.say_at_pace()?;
    }
    let metric = "event → agent's first instruction, unclaimed, round trip 50 ms: p50";
    Ok(vec![Row::at_most(metric, talk.end()?.to_agent.median(), 60.0, "ms")])
}

/// One message after the other, to one daemon.
pub(crate) struct Talk {
    stage: Stage,
    /// Threads that take turns, and are the machine's; without, each message has a new one.
    threads: Option<usize>,
    /// The number of the next message.
    next: usize,
    /// What counts.
    passed: HashMap<String, Passed>,
    cpu: (f64, f64),
}

impl Talk {
    fn new(
        bench: &Bench,
        threads: Option<usize>,
        prepare: impl FnOnce(&Home) -> Result<()>,
    ) -> Result<Talk> {
        let stage = Stage::new(bench, prepare)?;
        Ok(Talk { stage, threads, next: 0, passed: HashMap::new(), cpu: (0.0, 0.0) })
    }

    /// On threads that the bridge says are this machine's. The first turn of each thread is another
    /// matter.
    pub(crate) fn owned(bench: &Bench) -> Result<Talk> {
        Talk::warm(bench, |_| Ok(()))
    }

    fn warm(bench: &Bench, prepare: impl FnOnce(&Home) -> Result<()>) -> Result<Talk> {
        let mut talk = Talk::new(bench, Some(THREADS), prepare)?;
        for _ in 0..THREADS * 2 {
            talk.say()?;
        }
        talk.begin()?;
        Ok(talk)
    }

    /// What was said before does not count.
    fn begin(&mut self) -> Result<()> {
        self.passed.clear();
        self.cpu = self.stage.daemon.process().cpu()?;
        Ok(())
    }

    fn say_at_pace(&mut self) -> Result<()> {
        let next = Instant::now() + PACE;
        self.say()?;
        pause(next.saturating_duration_since(Instant::now()));
        Ok(())
    }

    /// Sends a message and waits until its turn is over.
    pub(super) fn say(&mut self) -> Result<()> {
        let number = self.next;
        self.next += 1;
        let thread = format!("t{}", self.threads.map_or(number, |threads| number % threads));
        let message = format!("m{number}");
        let (body, is_ours) = ("How is it going?", self.threads.is_some());
        let event = Event { thread: &thread, message: &message, body, is_ours };
        let passed = self.stage.turn(&event)?;
        self.passed.insert(message, passed);
        Ok(())
    }

    pub(super) fn end(mut self) -> Result<Run> {
        let process = self.stage.daemon.process();
        let (cpu, resident) = (process.cpu()?, process.memory()?.0);
        let count = f64::from(u32::try_from(self.passed.len()).unwrap_or(u32::MAX));
        let mut samples: [Vec<f64>; 4] = Default::default();
        for turn in self.stage.home.turns(self.next)? {
            let Turn { started, prompted, answered, message, .. } = turn;
            let Some(Passed { written, posted, idle }) = self.passed.remove(&message) else {
                continue;
            };
            let times =
                [(written, started), (written, prompted), (answered, posted), (written, idle)];
            for (samples, (from, to)) in samples.iter_mut().zip(times) {
                samples.push(ms(from, to));
            }
        }
        let [to_agent, to_prompt, to_post, to_idle] = samples.map(Rounds::each);
        let run = Run {
            to_agent,
            to_prompt,
            to_post,
            to_idle,
            cpu_each: (cpu.0 - self.cpu.0) / count,
            children_cpu_each: (cpu.1 - self.cpu.1) / count,
            resident,
        };
        self.passed.is_empty().then_some(run).context("a message had no turn")
    }
}

/// What was measured of each message, in milliseconds.
pub(super) struct Run {
    to_agent: Rounds,
    to_prompt: Rounds,
    to_post: Rounds,
    to_idle: Rounds,
    cpu_each: f64,
    children_cpu_each: f64,
    resident: f64,
}

impl Run {
    /// The times by this percentile.
    pub(super) fn rows(&self, percent: usize) -> Vec<Row> {
        let time = |metric: &str, of: &Rounds, bar| {
            Row::at_most(format!("{metric}: p{percent}"), of.percentile(percent), bar, "ms")
        };
        vec![
            time("event → agent's first instruction, thread ours", &self.to_agent, 1.8),
            time("event → prompt read by the agent", &self.to_prompt, 3.0),
            time("agent's answer → POST arrives", &self.to_post, 1.5),
            time("event → idle, the whole turn", &self.to_idle, 3.5),
            Row::at_most("CPU per event, sparse", self.cpu_each, 2.5, "ms")
                .note(format!("agents {} ms more", figure(self.children_cpu_each))),
            Row::told("resident memory after these", self.resident, "MB"),
        ]
    }
}
