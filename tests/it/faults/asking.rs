//! People whose agent asks for permission, while network and daemon fail: they answer by the code, by
//! a bare word, late, with a refusal, or not at all. What they allowed is remembered, and nothing
//! else may have been done.

use std::{collections::BTreeSet, time::Duration};

use obto_bridge::task::{self, Task};
use serde_json::Value;

use super::{
    check,
    dice::{Dice, millis},
    run::{Person, wait},
};
use crate::util::patience::Patience;

/// Threads on which an agent asks; each has a person of its own, who writes one message after the
/// other.
pub(super) const THREADS: u32 = 2;
const MESSAGES: u32 = 4;
/// How long an engine waits for a person.
pub(super) const LIMIT: Duration = Duration::from_millis(1_500);

pub(super) fn name(thread: u32) -> String {
    format!("asking-{thread}")
}

pub(super) fn job(thread: u32, number: u32) -> String {
    format!("job/{thread}.{number}/0")
}

/// Starts them. The end of a task without an error is the end of all its messages.
pub(super) fn start(dice: Dice, person: impl Fn() -> Person) -> Vec<Task> {
    let each = (0..THREADS).map(|thread| {
        let mut person = person();
        task::spawn("asking", move || {
            for number in 0..MESSAGES {
                converse(dice, &mut person, thread, number);
            }
        })
        .unwrap()
    });
    each.collect()
}

/// From a message to what ends it.
fn converse(dice: Dice, person: &mut Person, thread: u32, number: u32) {
    let mut rng = dice.rng("answers", u64::from(thread * 100 + number));
    let (name, job) = (name(thread), job(thread, number));
    let ends = |messages: &[Value]| messages.iter().filter(|it| check::is_end(it)).count();
    let before = ends(&person.read(&name));
    person.write(&name, &format!("please do asking {job}"));
    let (mut patience, mut count) = (Patience::new(), 0);
    let mut is_answered = false;
    loop {
        let messages = person.read(&name);
        if messages.len() != count {
            count = messages.len();
            patience.renew();
        }
        if ends(&messages) > before {
            return;
        }
        assert!(patience.lasts(), "{job} does not end");
        if let Some(code) = messages.iter().find_map(|it| card(it, &job)).filter(|_| !is_answered) {
            is_answered = true;
            if rng.u8(..4) == 0 {
                wait(millis(&mut rng, 0..2_500)); // May be too late.
            }
            match rng.u8(..6) {
                0 | 1 => person.write(&name, &format!("approve {code}")),
                2 => person.write(&name, &format!("always {code}")),
                3 => person.write(&name, "yes"),
                4 => person.write(&name, &format!("deny {code} because of the tests")),
                _ => {}
            }
        }
        wait(Duration::from_millis(100));
    }
}

/// The code of the card that is about this job.
fn card(message: &Value, job: &str) -> Option<String> {
    let body = message["body"].as_str().filter(|_| message["kind"] == "question")?;
    let code = body.split("Question `").nth(1)?.split('`').next()?;
    body.contains(&format!("\n{job}\n")).then(|| code.to_owned())
}

/// The jobs of which a person allowed the action, as the threads tell it.
pub(super) fn allowed(messages: &[Value], jobs: &[String]) -> BTreeSet<String> {
    let said = |text: &str| {
        messages.iter().any(|it| it["role"] == "human" && it["body"].as_str() == Some(text))
    };
    let is_allowed = |job: &&String| {
        let mut codes = messages.iter().filter_map(|it| card(it, job));
        codes.any(|code| {
            ["approve", "always"].iter().any(|word| said(&format!("{word} {code}"))) || said("yes")
        })
    };
    jobs.iter().filter(is_allowed).cloned().collect()
}

/// Judges what was done against what was allowed; returns how much was done.
pub(super) fn check(records: &str, read: impl FnMut(&str) -> Vec<Value>) -> Result<usize, String> {
    let mut read = read;
    let acted: Vec<&str> = records.lines().filter_map(|line| line.strip_suffix(" acted")).collect();
    let mut allowed_jobs = BTreeSet::new();
    for thread in 0..THREADS {
        let jobs: Vec<String> = (0..MESSAGES).map(|number| job(thread, number)).collect();
        let messages = read(&name(thread));
        allowed_jobs.append(&mut allowed(&messages, &jobs));
        check::thread(&messages, false).map_err(|why| format!("{}: {why}", name(thread)))?;
    }
    let once: BTreeSet<&str> = acted.iter().copied().collect();
    if once.len() != acted.len() {
        return Err(format!("something was done twice: {acted:?}"));
    }
    match once.iter().find(|job| !allowed_jobs.contains(**job)) {
        Some(job) => Err(format!("{job} was done, and nobody allowed it")),
        None => Ok(acted.len()),
    }
}
