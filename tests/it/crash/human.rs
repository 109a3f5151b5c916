//! The human who answers an engine's questions, and what must be true of questions, answers and
//! what was done, wherever the daemon crashed.

use std::{collections::BTreeMap, fs};

use obto_bridge::permission::code::Code;
use serde_json::Value;

use super::{
    kinds::{Kind, THREAD, TOKEN},
    rig::Machine,
};

/// Somebody who looks at the thread now and then, and answers once.
#[derive(Default)]
pub(super) struct Human {
    answered: usize,
    retried: usize,
    last: String,
}

impl Human {
    /// Looks, and says what there is to be said.
    pub(super) fn look(&mut self, kind: Kind, machine: &Machine) {
        if !kind.asks() {
            return;
        }
        let posts = posts(machine);
        let unrecorded = posts.iter().filter(|post| post.1.contains("answer again when")).count();
        if self.retried < unrecorded {
            self.retried = unrecorded;
            machine.write(THREAD, &self.last);
        }
        let questions: Vec<&String> =
            posts.iter().filter_map(|(kind, body)| (kind == "question").then_some(body)).collect();
        let Some(newest) = questions.last().map(|body| code(body)) else { return };
        let answer = match (kind, self.answered) {
            (Kind::Allowed, 0) => format!("approve {newest}"),
            (Kind::Always, 0) => format!("always {newest}"),
            (Kind::Denied, 0) => format!("deny {newest} because of the tests"),
            (Kind::TwoAtOnce, 0) if questions.len() == 2 => format!("yes {newest}"),
            // The other one is the only one that is open, as soon as the first is answered.
            (Kind::TwoAtOnce, 1) if closings(&posts).contains_key(newest) => "approve".to_owned(),
            _ => return,
        };
        machine.write(THREAD, &answer);
        self.last = answer;
        self.answered += 1;
    }
}

/// Whether the thread shows a question.
pub(super) fn is_asked(machine: &Machine) -> bool {
    posts(machine).iter().any(|(kind, _)| kind == "question")
}

/// Kinds and bodies of what agents said on the thread.
fn posts(machine: &Machine) -> Vec<(String, String)> {
    let messages = machine.messages_if_any(THREAD);
    let posts = messages.iter().filter(|it| it["role"] == "agent");
    let text = |it: &Value, key: &str| it[key].as_str().unwrap_or_default().to_owned();
    posts.map(|it| (text(it, "kind"), text(it, "body"))).collect()
}

/// The first code in a text.
fn code(body: &str) -> &str {
    body.split('`').find(|part| part.parse::<Code>().is_ok()).unwrap_or_default()
}

/// Whether a post says what became of a question.
pub(super) fn is_closing(body: &str) -> bool {
    const BEGINNINGS: [&str; 5] = [
        "**Allowed** `",
        "**Refused** `",
        "**Expired** `",
        "**Gone** `",
        "The daemon was stopped right after your answer to question `",
    ];
    body.ends_with("ended with the turn that asked it.")
        || BEGINNINGS.iter().any(|beginning| body.starts_with(beginning))
}

/// Whether a post is a question, or says what became of one or of an answer.
pub(super) fn is_about_a_question(body: &str) -> bool {
    let is_question = body.contains("`approve ") && body.contains("`deny ");
    // An answer may be late, or have nothing to be about any more, after a restart.
    let replies = [
        "No question ",
        "question is over",
        "Question `",
        "questions are pending",
        "answer again when",
    ];
    is_question || is_closing(body) || replies.iter().any(|reply| body.contains(reply))
}

/// How often it was said what became of each question.
fn closings(posts: &[(String, String)]) -> BTreeMap<&str, usize> {
    let mut closings = BTreeMap::new();
    for (kind, body) in posts {
        if kind != "question" && is_closing(body) {
            *closings.entry(code(body)).or_default() += 1;
        }
    }
    closings
}

/// What was done, by number, and whether it was on record by then.
fn done(machine: &Machine) -> Vec<(usize, bool)> {
    let journal = fs::read_to_string(machine.path("journal")).unwrap_or_default();
    let prefix = format!("act-{TOKEN}-");
    let lines = journal.lines().filter_map(|line| line.strip_prefix(&prefix)?.split_once(' '));
    lines.map(|(number, how)| (number.parse().unwrap(), how == "recorded")).collect()
}

/// `has_crashed`: it need not have come to the end that it has otherwise. `is_torn`: a line of the
/// audit may be half.
pub(super) fn check(
    kind: Kind,
    machine: &Machine,
    has_crashed: bool,
    is_torn: bool,
) -> Result<(), String> {
    let mut done = done(machine);
    done.sort_unstable();
    let expected: &[(usize, bool)] = match kind {
        Kind::Allowed | Kind::Always => &[(0, true)],
        Kind::TwoAtOnce => &[(0, true), (1, true)],
        _ => &[],
    };
    let is_part = done.iter().all(|it| expected.contains(it)) && done.len() <= expected.len();
    if done != expected && !(has_crashed && is_part) || done.len() == 2 && done[0] == done[1] {
        return Err(format!("did {done:?}"));
    }
    let prompts = machine.prompts("none");
    if !prompts.is_empty() {
        return Err("an answer was a prompt".to_owned());
    }
    let posts = posts(machine);
    let closings = closings(&posts);
    let asked = posts.iter().filter(|(kind, _)| kind == "question").map(|(_, body)| code(body));
    if let Some(code) = asked.into_iter().find(|code| !closings.contains_key(code)) {
        return Err(format!("nobody was told what became of {code}"));
    }
    if let Some((code, times)) = closings.iter().find(|(_, times)| **times > 1) {
        return Err(format!("{code} ended {times} times"));
    }
    check_audit(machine, is_torn)?;
    let is_granted = posts.iter().any(|(_, body)| body.contains("is allowed on this thread"));
    let state = fs::read(machine.state("state.json")).unwrap();
    let state: Value = serde_json::from_slice(&state).unwrap();
    let grants = state["bindings"][THREAD]["grants"].as_array().map_or(0, Vec::len);
    if is_granted && grants == 0 {
        return Err("the grant is lost".to_owned());
    }
    Ok(())
}

fn check_audit(machine: &Machine, is_torn: bool) -> Result<(), String> {
    let audit = fs::read_to_string(machine.state("audit.jsonl")).unwrap_or_default();
    let broken = audit.lines().filter(|line| serde_json::from_str::<Value>(line).is_err()).count();
    if broken > usize::from(is_torn) {
        return Err(format!("{broken} lines of the audit are no JSON: {audit}"));
    }
    Ok(())
}
