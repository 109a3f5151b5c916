//! What a question asks for, and what an answer grants, in words. Pure.

use std::time::Duration;

use crate::{
    agent::{ActionKind, Change, Choice, Question},
    ids::Engine,
};

/// Engine names come from the config file and may contain Markdown, which must not be rendered.
pub(in crate::permission) fn engine(engine: &Engine) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    let name: String = engine.as_str().chars().filter(|c| is_plain(*c)).take(40).collect();
    if name.is_empty() { "The agent".to_owned() } else { name }
}

/// What is asked for; nothing in it is the agent's.
pub(super) fn wish(question: &Question) -> String {
    let wish = match (&question.choices[..], question.kind) {
        ([_], _) => "asks you a question",
        ([_, ..], _) => return format!("asks you {} questions", question.choices.len()),
        (_, ActionKind::Edit) => return edit(question),
        (_, ActionKind::Read) => "asks to read",
        (_, ActionKind::Run) => "asks to run a command",
        (_, ActionKind::Fetch) => "asks to fetch an address",
        (_, ActionKind::Mcp) => "asks to use a tool of an MCP server",
        (_, ActionKind::Other) => "asks to use a tool",
    };
    wish.to_owned()
}

/// A deletion is no change, and a patch that does several things does all of them.
fn edit(question: &Question) -> String {
    let mut done: Vec<(Change, usize)> = Vec::new();
    // Where a file moves to is told with the file.
    for edit in question.edits.iter().filter(|edit| edit.change != Change::MoveTarget) {
        match done.iter_mut().find(|(change, _)| *change == edit.change) {
            Some((_, count)) => *count += 1,
            None => done.push((edit.change, 1)),
        }
    }
    if done.is_empty() {
        done.push((question.change, 1));
    }
    let each = done.iter().map(|(change, count)| {
        let verb = match change {
            Change::Modify => "change",
            Change::Write => "write",
            Change::Delete => "delete",
            Change::Move | Change::MoveTarget => "move",
        };
        match count {
            1 => format!("{verb} a file"),
            count => format!("{verb} {count} files"),
        }
    });
    let each: Vec<String> = each.collect();
    format!("asks to {}", each.join(" and "))
}

/// What `always` allows from now on. The rule that stands beside it names the path or tool.
pub(super) fn grant(question: &Question) -> &'static str {
    match question.kind {
        ActionKind::Read => "reading this path",
        ActionKind::Edit => "any change of this file, its deletion included",
        ActionKind::Run => "exactly this command line in this project",
        ActionKind::Fetch => "every address on this host",
        ActionKind::Mcp | ActionKind::Other => "every call of this tool with any arguments",
    }
}

pub(super) fn choice_example(choices: &[Choice]) -> String {
    let one = |choice: &Choice| match (choice.options.len(), choice.is_multiple) {
        (0, _) => "your words",
        (2.., true) => "1, 2",
        _ => "1",
    };
    choices.iter().map(one).collect::<Vec<_>>().join("; ")
}

pub(super) fn choice_rule(choices: &[Choice]) -> &'static str {
    match choices {
        [_] => "the number or the words of what you choose",
        _ => {
            "for each question the number or the words of what you choose, with `;` or a new line between"
        }
    }
}

/// A time limit in words.
pub(in crate::permission) fn wait(limit: Duration) -> String {
    let (count, unit) = match limit.as_secs() {
        secs @ 0..=119 => (secs, "second"),
        secs @ 120..=7_199 => (secs / 60, "minute"),
        secs => (secs / 3_600, "hour"),
    };
    let s = if count == 1 { "" } else { "s" };
    format!("{count} {unit}{s}")
}
