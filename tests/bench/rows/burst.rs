//! A thousand messages at once, on a hundred threads that nobody has claimed.

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
    stats::{Rounds, Row},
};

const THREADS: usize = 100;
const EACH: usize = 10;
const REPEATS: usize = 5;
const LIMIT: Duration = Duration::from_secs(30);
/// After the last answer we listen for this long whether one comes twice.
const QUIET: Duration = Duration::from_millis(500);
/// Descriptors are counted this often.
const GLANCE: Duration = Duration::from_millis(5);

struct Burst {
    drained: f64,
    cpu_each: f64,
    peak: f64,
    descriptors: usize,
    /// Posts that were sent twice under one `clientMsgId`: harmless, but work for nothing.
    repeated: usize,
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

pub(crate) fn burst(bench: &Bench) -> Result<Vec<Row>> {
    let bursts = (0..REPEATS).map(|_| once(bench)).collect::<Result<Vec<_>>>()?;
    let rounds = |of: fn(&Burst) -> f64| Rounds::each(bursts.iter().map(of));
    let sum = |of: fn(&Faults) -> usize| bursts.iter().map(|it| of(&it.faults)).sum::<usize>();
    let (drained, cpu, peak) =
        (rounds(|it| it.drained), rounds(|it| it.cpu_each), rounds(|it| it.peak));
    let descriptors = bursts.iter().map(|it| it.descriptors).max().unwrap_or_default();
    let counts = [
        sum(|it| it.lost),
        sum(|it| it.doubled),
        sum(|it| it.reordered),
        sum(|it| it.second_sessions),
    ];
    let faults: usize = counts.iter().sum();
    let other = sum(|it| it.other_posts);
    let repeated: usize = bursts.iter().map(|it| it.repeated).sum();
    let [lost, doubled, reordered, second] = counts;
    Ok(vec![
        Row::at_most(
            "1,000 events over 100 threads at once: drained in",
            drained.median(),
            1500.0,
            "ms",
        )
        .note(drained)
        .note("maxTurns 4, the default; threads unclaimed"),
        Row::at_most("… peak memory", peak.median(), 25.0, "MB").note(peak),
        Row::at_most("… file descriptors", count(descriptors), 300.0, ""),
        Row::at_most("… lost + doubled + reordered + second sessions", count(faults), 0.0, "")
            .note(format!(
                "{lost} + {doubled} + {reordered} + {second}; {other} posts beside the answers, \
             {repeated} sent twice under one clientMsgId"
            )),
        Row::at_most("CPU per event, burst", cpu.median(), 1.2, "ms").note(cpu),
    ])
}

fn count(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

fn once(bench: &Bench) -> Result<Burst> {
    let stage = Stage::new(bench, |_| Ok(()))?;
    let process = stage.daemon.process();
    let mut events = Vec::new();
    for number in 0..EACH {
        for thread in 0..THREADS {
            let (thread, message) = (format!("t{thread}"), format!("m{thread}-{number}"));
            let body = "And one more thing.";
            let event = Event { thread: &thread, message: &message, body, is_ours: false };
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
                    if seen.len() == THREADS * EACH && cpu == 0.0 {
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
        cpu_each: if cpu == 0.0 { f64::NAN } else { cpu / count(THREADS * EACH) },
        peak: process.memory()?.1,
        descriptors,
        repeated,
        faults: faults(&posts, &turns),
    })
}

/// Compares what was asked with what was answered, and with what the agents were given.
fn faults(posts: &[(String, String)], turns: &[Turn]) -> Faults {
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
    found.lost = THREADS * EACH - answers.len().min(THREADS * EACH);
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

    fn turn(thread: &str, message: &str, session: &str) -> Turn {
        Turn {
            started: 0,
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
        assert_eq!(faults(&posts, &turns), expected);
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
