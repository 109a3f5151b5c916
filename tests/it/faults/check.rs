//! What a run has to come to: every message one answer, in order, and no prompt twice without a
//! warning.

use std::collections::BTreeMap;

use serde_json::Value;

/// What came of messages.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub(super) messages: usize,
    pub(super) answered: usize,
    /// The human was told that the message was interrupted and is not repeated by itself.
    pub(super) told: usize,
    /// The engine was given the message again, with the warning that it may have had it.
    pub(super) warned: usize,
    /// On threads that another machine has.
    pub(super) not_ours: usize,
    /// What was done with somebody's permission.
    pub(super) allowed: usize,
}

impl Tally {
    pub(super) fn add(&mut self, other: Tally) {
        self.messages += other.messages;
        self.answered += other.answered;
        self.told += other.told;
        self.warned += other.warned;
        self.not_ours += other.not_ours;
        self.allowed += other.allowed;
    }
}

/// Whether this ends a message.
pub(super) fn is_final(message: &Value) -> bool {
    let is_agent = message["role"] == "agent";
    is_agent && (message["kind"] == "result" || message["kind"] == "error" || is_told(message))
}

/// The same, but for what a bare word led to that came when nothing was asked any more: then it is
/// a message like any other.
pub(super) fn is_end(message: &Value) -> bool {
    is_final(message) && message["body"] != "did job/none/0"
}

/// Whether a person wants something done by it.
pub(super) fn is_job(message: &Value) -> bool {
    let body = message["body"].as_str().unwrap_or_default();
    message["role"] == "human" && body.starts_with("please do")
}

fn is_told(message: &Value) -> bool {
    let body = message["body"].as_str().unwrap();
    body.contains("Reply `continue` to resume")
        || body.contains("It is not repeated by itself")
        || body.contains("it is not tried again by itself")
}

/// Judges a thread by all its messages, oldest first.
pub(super) fn thread(messages: &[Value], is_stolen: bool) -> Result<Tally, String> {
    let text = |message: &Value| message["body"].as_str().unwrap().to_owned();
    let jobs: Vec<String> =
        messages.iter().filter(|it| is_job(it)).map(|it| job(&text(it))).collect();
    let mut tally = Tally { messages: jobs.len(), ..Tally::default() };
    if is_stolen {
        tally.not_ours = jobs.len();
        return match messages.iter().find(|it| it["role"] == "agent") {
            Some(said) => Err(format!("it is not ours, and we said: {said}")),
            None => Ok(tally),
        };
    }
    let finals: Vec<&Value> = messages.iter().filter(|it| is_end(it)).collect();
    let is_bare = |it: &&Value| it["role"] == "human" && it["body"] == "yes";
    let strays = messages.iter().filter(|it| is_final(it)).count() - finals.len();
    if strays > messages.iter().filter(is_bare).count() {
        return Err(format!("{strays} answers with a code were prompts"));
    }
    for (job, last) in jobs.iter().zip(&finals) {
        if is_told(last) {
            tally.told += 1;
        } else if last["kind"] == "result" && text(last) == format!("did {job}") {
            tally.answered += 1;
        } else {
            return Err(format!("{job} was answered with: {last}"));
        }
    }
    if finals.len() != jobs.len() {
        return Err(format!("{} messages have {} answers", jobs.len(), finals.len()));
    }
    Ok(tally)
}

/// The word of a message that the engine goes by.
fn job(body: &str) -> String {
    body.split_whitespace().rfind(|word| word.starts_with("job/")).unwrap().to_owned()
}

/// Judges the engine's own record of prompts; returns how many jobs it was warned of.
pub(super) fn records(text: &str) -> Result<usize, String> {
    let mut jobs: BTreeMap<&str, Vec<bool>> = BTreeMap::new();
    let prompts = text.lines().filter(|line| !line.ends_with(" acted"));
    for line in prompts.filter(|line| !line.starts_with("job/none/0 ")) {
        let (job, is_warned) = line.split_once(' ').unwrap();
        jobs.entry(job).or_default().push(is_warned == "true");
    }
    for (job, prompts) in &jobs {
        if prompts.len() > 2 || prompts.iter().skip(1).any(|is_warned| !is_warned) {
            return Err(format!("{job} was given to the engine again: warned {prompts:?}"));
        }
    }
    Ok(jobs.values().filter(|prompts| prompts.contains(&true)).count())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(said: &[(&str, &str)], expected: Result<(usize, usize), &str>) {
        let messages: Vec<Value> = said
            .iter()
            .map(|(kind, body)| {
                let role = if kind.is_empty() { "human" } else { "agent" };
                json!({ "role": role, "kind": kind, "body": body })
            })
            .collect();
        match (thread(&messages, false), expected) {
            (Ok(tally), Ok(expected)) => assert_eq!((tally.answered, tally.told), expected),
            (Err(why), Err(word)) => assert!(why.contains(word), "{why}"),
            (result, _) => panic!("{result:?}"),
        }
    }

    #[test]
    fn threads_are_judged() {
        let told = "The daemon was stopped. It is not repeated by itself.";
        check(&[("", "please do job/1/0"), ("result", "did job/1/0")], Ok((1, 0)));
        check(&[("", "please do job/1/0"), ("status", "resumed"), ("status", told)], Ok((0, 1)));
        check(&[("", "please do job/1/0"), ("status", "resumed")], Err("1 messages have 0"));
        let twice =
            [("", "please do job/1/0"), ("result", "did job/1/0"), ("result", "did job/1/0")];
        check(&twice, Err("1 messages have 2"));
        check(&[("", "please do job/1/0"), ("error", "could not")], Err("could not"));
        check(
            &[("", "please do job/1/0"), ("", "please do job/2/0"), ("result", "did job/2/0")],
            Err("job/1/0 was"),
        );
        let stolen = thread(&[json!({ "role": "agent", "kind": "status", "body": "hello" })], true);
        assert!(stolen.unwrap_err().contains("not ours"));
    }

    #[test]
    fn prompts_are_judged() {
        assert_eq!(records("job/1 false\njob/2 true\njob/3 false\njob/3 true\n"), Ok(2));
        assert!(records("job/1 false\njob/1 false\n").is_err());
        assert!(records("job/1 true\njob/1 true\njob/1 true\n").is_err());
    }
}
