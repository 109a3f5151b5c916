//! Many messages at once, on threads that nobody has claimed and on ones that were driven before.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use crossbeam_channel::RecvTimeoutError;

use super::Stage;
use crate::{
    bridge::{Event, What},
    daemon::{Bench, Turn},
    proc::ms,
    stats::Row,
};

const LIMIT: Duration = Duration::from_mins(1);
/// After the last answer we listen for this long whether one comes twice.
const QUIET: Duration = Duration::from_millis(500);
/// Descriptors are counted this often.
const GLANCE: Duration = Duration::from_millis(5);

/// What comes at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) threads: usize,
    pub(super) each: usize,
    /// Whether the machine has a session for each of the threads.
    pub(super) is_bound: bool,
}

impl Shape {
    fn total(self) -> usize {
        self.threads * self.each
    }
}

struct Burst {
    drained: f64,
    cpu_each: f64,
    peak: f64,
    descriptors: usize,
    /// Posts that were sent twice under one `clientMsgId`: harmless, but work for nothing.
    repeated: usize,
    begun: usize,
    faults: Faults,
}

/// What must not be.
#[derive(Debug, Default, PartialEq)]
struct Faults {
    lost: usize,
    doubled: usize,
    reordered: usize,
    second_sessions: usize,
    other_posts: usize,
}

pub(crate) fn unclaimed(bench: &Bench) -> Result<Vec<Row>> {
    rows(bench, Shape { threads: 100, each: 10, is_bound: false })
}

pub(crate) fn bound(bench: &Bench) -> Result<Vec<Row>> {
    rows(bench, Shape { threads: 100, each: 10, is_bound: true })
}

pub(super) fn rows(bench: &Bench, shape: Shape) -> Result<Vec<Row>> {
    let burst = once(bench, shape)?;
    let how = if shape.is_bound { "bound" } else { "unclaimed" };
    let what = format!("{} events over {} threads at once, {how}", shape.total(), shape.threads);
    let Faults { lost, doubled, reordered, second_sessions, other_posts } = burst.faults;
    // As many sessions as have to be begun.
    let begun = if shape.is_bound { 0 } else { shape.threads };
    let never =
        |metric: &str, value, bar| Row::at_most(metric, count(value), count(bar), "").worst();
    Ok(vec![
        Row::at_most(format!("{what}: drained in"), burst.drained, 2_000.0, "ms")
            .note("maxTurns 4, the default"),
        Row::at_most("… CPU per event", burst.cpu_each, 1.2, "ms"),
        Row::at_most("… peak memory", burst.peak, 20.0, "MB"),
        never("… file descriptors", burst.descriptors, 300),
        never("… lost", lost, 0),
        never("… doubled", doubled, 0),
        never("… reordered", reordered, 0),
        never("… second sessions of a thread", second_sessions, 0),
        never("… turns that resumed no session", burst.begun, begun).note(format!(
            "{other_posts} posts beside the answers, {} sent twice under one clientMsgId",
            burst.repeated
        )),
    ])
}

fn count(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

fn once(bench: &Bench, shape: Shape) -> Result<Burst> {
    let Shape { threads, each, is_bound } = shape;
    let bindings = if is_bound { threads } else { 0 };
    let stage = Stage::new(bench, |home| home.add_bindings(bindings))?;
    let process = stage.daemon.process();
    let mut events = Vec::new();
    for number in 0..each {
        for thread in 0..threads {
            let (thread, message) = (format!("t{thread}"), format!("m{thread}-{number}"));
            let body = "And one more thing.";
            let event = Event { thread: &thread, message: &message, body, is_ours: is_bound };
            events.extend(event.bytes());
        }
    }
    let cpu_before = process.cpu()?.0;
    let written = stage.bridge.send(&events)?;
    let (mut posts, mut seen) = (Vec::<(String, String)>::new(), HashSet::new());
    // What is sent again under the same name is stored once.
    let (mut stored, mut repeated) = (HashSet::new(), 0);
    let (mut last, mut descriptors, mut cpu) = (written, 0, 0.0);
    let mut until = Instant::now() + LIMIT;
    loop {
        match stage.bridge.notes.recv_timeout(GLANCE) {
            Ok(note) => {
                if let What::Post { thread, client_msg_id, body } = note.what {
                    // As the bridge does it.
                    if !stored.insert(client_msg_id) {
                        repeated += 1;
                        continue;
                    }
                    if body.starts_with("re ") && seen.insert(body.clone()) {
                        last = note.at;
                    }
                    posts.push((thread, body));
                    if seen.len() == shape.total() && cpu == 0.0 {
                        cpu = process.cpu()?.0 - cpu_before;
                        until = Instant::now() + QUIET;
                    }
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => bail!("the bridge of the benchmark is gone"),
        }
        if Instant::now() > until {
            break;
        }
        descriptors = descriptors.max(stage.daemon.explain(process.descriptors())?);
    }
    let turns = stage.home.turns(seen.len())?;
    Ok(Burst {
        drained: ms(written, last),
        cpu_each: if cpu == 0.0 { f64::NAN } else { cpu / count(shape.total()) },
        peak: process.memory()?.1,
        descriptors,
        repeated,
        begun: turns.iter().filter(|turn| turn.is_new_session).count(),
        faults: faults(shape.total(), &posts, &turns),
    })
}

/// Compares what was asked with what was answered, and with what the agents were given.
fn faults(total: usize, posts: &[(String, String)], turns: &[Turn]) -> Faults {
    let mut found = Faults::default();
    let mut answers = HashMap::<&str, usize>::new();
    let mut latest = HashMap::<&str, usize>::new();
    for (thread, body) in posts {
        let Some(message) = body.strip_prefix("re ") else {
            found.other_posts += 1;
            continue;
        };
        *answers.entry(message).or_default() += 1;
        let number = message.rsplit_once('-').and_then(|(_, it)| it.parse().ok()).unwrap_or(0);
        let latest = latest.entry(thread).or_default();
        found.reordered += usize::from(number < *latest);
        *latest = number.max(*latest);
    }
    found.lost = total - answers.len().min(total);
    found.doubled = answers.values().map(|count| count - 1).sum();
    // A message that was given to an agent twice was acted on twice.
    let given: HashSet<&str> = turns.iter().map(|turn| &*turn.message).collect();
    found.doubled += turns.len() - given.len();
    let mut sessions = HashMap::<&str, HashSet<&str>>::new();
    for turn in turns {
        sessions.entry(&turn.thread).or_default().insert(&turn.session);
    }
    found.second_sessions = sessions.values().map(|it| it.len() - 1).sum();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const THREADS: usize = 100;
    const EACH: usize = 10;

    fn turn(thread: &str, message: &str, session: &str) -> Turn {
        Turn {
            started: 0,
            prompted: 0,
            answered: 0,
            thread: thread.to_owned(),
            message: message.to_owned(),
            session: session.to_owned(),
            is_new_session: false,
        }
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut Vec<(String, String)>, &mut Vec<Turn>), expected: Faults) {
        let (mut posts, mut turns) = (Vec::new(), Vec::new());
        for number in 0..EACH {
            for thread in 0..THREADS {
                let (thread, message) = (format!("t{thread}"), format!("m{thread}-{number}"));
                turns.push(turn(&thread, &message, &format!("s-{thread}")));
                posts.push((thread, format!("re {message}")));
            }
        }
        change(&mut posts, &mut turns);
        assert_eq!(faults(THREADS * EACH, &posts, &turns), expected);
    }

    #[test]
    fn every_fault_is_found() {
        check(|_, _| {}, Faults::default());
        check(|posts, _| drop(posts.pop()), Faults { lost: 1, ..Faults::default() });
        check(
            |posts, _| posts.push(posts[999].clone()),
            Faults { doubled: 1, ..Faults::default() },
        );
        check(|_, turns| turns.push(turns[7].clone()), Faults { doubled: 1, ..Faults::default() });
        check(|posts, _| posts.swap(100, 200), Faults { reordered: 1, ..Faults::default() });
        check(
            |_, turns| turns[250].session = "another".to_owned(),
            Faults { second_sessions: 1, ..Faults::default() },
        );
        check(
            |posts, _| posts.push(("t1".to_owned(), "The turn failed.".to_owned())),
            Faults { other_posts: 1, ..Faults::default() },
        );
    }
}
