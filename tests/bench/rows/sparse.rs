//! One message now and then, as a person writes them.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{Passed, Stage, pause};
use crate::{
    bridge::Event,
    daemon::{Bench, Turn},
    proc::ms,
    stats::{Rounds, Row, figure},
};

const EVENTS: usize = 250;
const ROUNDS: usize = 5;
const PACE: Duration = Duration::from_millis(100);
/// Threads that take turns.
const THREADS: usize = 10;

/// What was measured of each message, in milliseconds.
struct Run {
    to_agent: Vec<f64>,
    to_post: Vec<f64>,
    to_idle: Vec<f64>,
    cpu_each: f64,
    children_cpu_each: f64,
}

pub(crate) fn ours(bench: &Bench) -> Result<Vec<Row>> {
    let stage = Stage::new(bench, |_| Ok(()))?;
    let thread = |number: usize| format!("t{}", number % THREADS);
    // The first turn of each thread is another matter.
    run(&stage, 0..THREADS * 2, true, thread)?;
    let run = run(&stage, THREADS * 2..THREADS * 2 + EVENTS, true, thread)?;
    let (agent, post) = (Rounds::cut(&run.to_agent, ROUNDS), Rounds::cut(&run.to_post, ROUNDS));
    let idle = Rounds::cut(&run.to_idle, ROUNDS);
    let p99 = agent.percentile(99);
    Ok(vec![
        Row::at_most(
            "event → agent's first instruction, thread ours: p50",
            agent.median(),
            1.8,
            "ms",
        )
        .note(&agent),
        Row::at_most("… p99", p99, 6.0, "ms")
            .note(format!("max {}", figure(agent.percentile(100)))),
        Row::at_most("agent's answer → POST arrives: p50", post.median(), 1.5, "ms")
            .note(&post)
            .note(format!("p99 {}", figure(post.percentile(99)))),
        Row::told("event → idle: p50", idle.median(), "ms").note(&idle),
        Row::at_most("CPU per event, sparse", run.cpu_each, 2.5, "ms")
            .note(format!("agents {} ms more", figure(run.children_cpu_each))),
    ])
}

pub(crate) fn unclaimed(bench: &Bench) -> Result<Vec<Row>> {
    let stage = Stage::new(bench, |_| Ok(()))?;
    let thread = |number: usize| format!("t{number}");
    run(&stage, 0..10, false, thread)?;
    stage.bridge.set_round_trip(Duration::from_millis(50));
    // One more, so that connections are warm, as they are after a thread's first message.
    run(&stage, 10..15, false, thread)?;
    let run = run(&stage, 15..15 + 200, false, thread)?;
    let agent = Rounds::cut(&run.to_agent, ROUNDS);
    let p99 = agent.percentile(99);
    Ok(vec![
        Row::at_most("the same, unclaimed, round trip 50 ms: p50", agent.median(), 60.0, "ms")
            .note(&agent),
        Row::told("… p99", p99, "ms").note(format!("max {}", figure(agent.percentile(100)))),
    ])
}

fn run(
    stage: &Stage,
    numbers: std::ops::Range<usize>,
    is_ours: bool,
    thread: impl Fn(usize) -> String,
) -> Result<Run> {
    let count = numbers.len();
    let process = stage.daemon.process();
    let before = process.cpu()?;
    let mut passed = HashMap::<String, Passed>::new();
    let total = numbers.end;
    for number in numbers {
        let next = Instant::now() + PACE;
        let (thread, message) = (thread(number), format!("m{number}"));
        let event = Event { thread: &thread, message: &message, body: "How is it going?", is_ours };
        passed.insert(message.clone(), stage.turn(&event)?);
        pause(next.saturating_duration_since(Instant::now()));
    }
    let after = process.cpu()?;
    let turns = stage.home.turns(total)?;
    let each = |sum: f64| sum / f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    let mut run = Run {
        to_agent: Vec::new(),
        to_post: Vec::new(),
        to_idle: Vec::new(),
        cpu_each: each(after.0 - before.0),
        children_cpu_each: each(after.1 - before.1),
    };
    for Turn { started, answered, message, .. } in turns {
        let Some(times) = passed.remove(&message) else { continue };
        run.to_agent.push(ms(times.written, started));
        run.to_post.push(ms(answered, times.posted));
        run.to_idle.push(ms(times.written, times.idle));
    }
    passed.is_empty().then_some(run).context("a message had no turn")
}
