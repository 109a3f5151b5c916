//! The prompt for an approval: Markdown for every reader, and a card for a page that shows buttons.
//! Humans decide by it, so text of the agent must not pass for the prompt's own: it appears only as
//! code, cleaned, between a first and a last paragraph that are ours. Pure.

pub(in crate::permission) mod clean;
#[cfg(test)]
mod tests;

use std::{path::PathBuf, time::Duration};

use serde_json::Value;

use self::clean::Cut;
pub(super) use self::clean::is_hidden;
use crate::{
    agent::{ActionKind, Choice, Question},
    bridge::wire::{self, CardChoice, CardOption},
    ids::{ClientMsgId, Engine, ThreadId, TurnId},
    permission::{code::Code, kind_name},
    time::Timestamp,
};

/// What is shown of a command, an address, or all diffs together.
const LINES: usize = 200;
const CHARS: usize = 8_000;

/// Characters of a path, a tool's name, a rule.
const NAME_CHARS: usize = 400;

/// Characters of the engine's reason, of one of its questions, of a description.
const PROSE_CHARS: usize = 600;

/// Characters of an option.
const LABEL_CHARS: usize = 200;

/// Files of an edit, options of a question, questions of a choice, fields of an unknown input.
const FILES: usize = 20;
const OPTIONS: usize = 50;
const QUESTIONS: usize = 10;
const FIELDS: usize = 20;

/// A question put to the humans of a thread, with everything that its prompt says.
#[derive(Clone, Debug, PartialEq)]
pub struct ApprovalRequest {
    pub thread: ThreadId,
    pub turn: TurnId,
    pub engine: Engine,
    pub question: Question,
    pub code: Code,
    /// Where the engine works.
    pub directory: PathBuf,
    /// The rule that `always` would add on this thread, if there is one.
    pub always: Option<String>,
    /// The post that asks.
    pub post: ClientMsgId,
    pub asked_at: Timestamp,
    /// From `asked_at` on; then it is denied.
    pub limit: Duration,
    /// Whether the engine can be told why something is refused.
    pub takes_reasons: bool,
}

/// The post's body in Markdown, and the card that says the same.
pub fn render(request: &ApprovalRequest) -> (String, wire::Card) {
    let question = &request.question;
    let files = diffs(question);
    let body = body(request, &files);
    let diffs = files.iter().map(|(path, diff)| format!("--- {path}\n{}", diff.text));
    let card = wire::Card {
        code: request.code.to_string(),
        engine: request.engine.clone(),
        kind: kind(question).to_owned(),
        tool: clean::name(&question.tool, NAME_CHARS),
        subject: Cut::new(&clean::lines(&question.subject), LINES, CHARS).text,
        diff: diffs.collect::<Vec<_>>().join("\n"),
        directory: clean::name(&request.directory.to_string_lossy(), NAME_CHARS),
        reason: question.reason.as_deref().map(|reason| clean::prose(reason, PROSE_CHARS)),
        always: request.always.as_deref().map(|rule| clean::name(rule, NAME_CHARS)),
        choices: question.choices.iter().take(QUESTIONS).map(choice).collect(),
        expires_at: request.asked_at.plus(request.limit).to_string(),
    };
    (body, card)
}

/// A question in one line of Markdown: its code and what it is about.
pub fn line(request: &ApprovalRequest) -> String {
    format!("`{}`: {}", request.code, summary(&request.question))
}

/// What an engine wants in a few words, for the line that says how the question ended.
pub(in crate::permission) fn summary(question: &Question) -> String {
    const SUMMARY_CHARS: usize = 80;
    let text = match (&question.choices[..], &question.edits[..]) {
        ([choice, ..], _) => clean::prose(&choice.question, SUMMARY_CHARS),
        (_, [edit, ..]) if question.subject.is_empty() => clean::name(&edit.path, SUMMARY_CHARS),
        _ if question.subject.is_empty() => clean::name(&question.tool, SUMMARY_CHARS),
        _ => clean::prose(&question.subject, SUMMARY_CHARS),
    };
    clean::code(&text)
}

fn kind(question: &Question) -> &'static str {
    if question.choices.is_empty() { kind_name(question.kind) } else { "choice" }
}

fn choice(choice: &Choice) -> CardChoice {
    let options = choice.options.iter().take(OPTIONS).map(|option| CardOption {
        label: clean::prose(&option.label, LABEL_CHARS),
        description: clean::prose(&option.description, PROSE_CHARS),
    });
    CardChoice {
        question: clean::prose(&choice.question, PROSE_CHARS),
        options: options.collect(),
        is_multiple: choice.is_multiple,
        is_open: choice.is_open,
    }
}

/// Paths and diffs of the edits as far as they are shown. The first files take the room that there
/// is; of the others at least the path is shown.
fn diffs(question: &Question) -> Vec<(String, Cut)> {
    let (mut lines, mut chars) = (LINES, CHARS);
    let mut files = Vec::new();
    for edit in question.edits.iter().take(FILES) {
        let diff = Cut::new(clean::lines(&edit.diff).trim_end_matches('\n'), lines, chars);
        lines -= diff.text.split('\n').count().min(lines);
        chars -= diff.text.chars().count().min(chars);
        files.push((clean::name(&edit.path, NAME_CHARS), diff));
    }
    files
}

fn body(request: &ApprovalRequest, files: &[(String, Cut)]) -> String {
    let question = &request.question;
    let directory = clean::name(&request.directory.to_string_lossy(), NAME_CHARS);
    let mut parts = vec![format!(
        "**{} {}** in {}. Question `{}`.",
        engine(&request.engine),
        wish(question),
        clean::code(&directory),
        request.code
    )];
    if question.choices.is_empty() {
        subject(question, files, &mut parts);
    } else {
        choices(&question.choices, &mut parts);
    }
    let tool = clean::code(&clean::name(&question.tool, NAME_CHARS));
    let reason = question.reason.as_deref().filter(|reason| !reason.trim().is_empty());
    let reason = reason.map(|reason| clean::code(&clean::prose(reason, PROSE_CHARS)));
    let reason = reason.map(|reason| format!(" The agent's reason: {reason}."));
    parts.push(format!("Tool: {tool}.{}", reason.unwrap_or_default()));
    parts.push(how_to_answer(request));
    parts.join("\n\n")
}

/// Engine names come from the config file and may contain Markdown, which must not be rendered.
pub(in crate::permission) fn engine(engine: &Engine) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    let name: String = engine.as_str().chars().filter(|c| is_plain(*c)).take(40).collect();
    if name.is_empty() { "The agent".to_owned() } else { name }
}

fn wish(question: &Question) -> String {
    match (&question.choices[..], question.kind) {
        ([_], _) => "asks you a question".to_owned(),
        ([_, ..], _) => format!("asks you {} questions", question.choices.len()),
        (_, ActionKind::Read) => "asks to read".to_owned(),
        (_, ActionKind::Edit) if question.edits.len() > 1 => {
            format!("asks to change {} files", question.edits.len())
        }
        (_, ActionKind::Edit) => "asks to change a file".to_owned(),
        (_, ActionKind::Run) => "asks to run a command".to_owned(),
        (_, ActionKind::Fetch) => "asks to fetch an address".to_owned(),
        (_, ActionKind::Mcp) => "asks to use a tool of an MCP server".to_owned(),
        (_, ActionKind::Other) => "asks to use a tool".to_owned(),
    }
}

fn subject(question: &Question, files: &[(String, Cut)], parts: &mut Vec<String>) {
    let subject = clean::lines(&question.subject);
    let is_file = question.kind == ActionKind::Edit && !files.is_empty();
    if !subject.trim().is_empty() && !is_file {
        let subject = Cut::new(&subject, LINES, CHARS);
        parts.push(clean::fence(&subject.text, ""));
        parts.extend(subject.note());
    }
    for (path, diff) in files {
        parts.push(format!("File {}:", clean::code(path)));
        if !diff.text.is_empty() {
            parts.push(clean::fence(&diff.text, "diff"));
        }
        parts.extend(diff.note());
    }
    if question.edits.len() > FILES {
        parts.push(format!("**{} more files are not shown.**", question.edits.len() - FILES));
    }
    if subject.trim().is_empty() && files.is_empty() {
        parts.extend(input(&question.input));
    }
}

/// The input of an unknown tool, one field a line.
fn input(input: &Value) -> Option<String> {
    const FIELD_CHARS: usize = 300;
    let field = |name: &str, value: &Value| {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        format!("{}: {}", clean::name(name, 60), clean::name(&value, FIELD_CHARS))
    };
    let text = match input {
        Value::Object(fields) if fields.is_empty() => return None,
        Value::Null => return None,
        Value::Object(fields) => {
            let mut lines: Vec<_> = fields.iter().take(FIELDS).map(|(k, v)| field(k, v)).collect();
            if fields.len() > FIELDS {
                lines.push(format!("… and {} more", fields.len() - FIELDS));
            }
            lines.join("\n")
        }
        other => field("input", other),
    };
    Some(clean::fence(&text, ""))
}

fn choices(choices: &[Choice], parts: &mut Vec<String>) {
    for (at, choice) in choices.iter().take(QUESTIONS).enumerate() {
        let title = if choices.len() == 1 {
            "Question".to_owned()
        } else {
            format!("Question {} of {}", at + 1, choices.len())
        };
        let how = match (choice.options.is_empty(), choice.is_multiple, choice.is_open) {
            (true, ..) => "in your own words",
            (_, true, true) => "one or more, or your own words",
            (_, true, false) => "one or more",
            (_, false, true) => "one, or your own words",
            (_, false, false) => "one",
        };
        let question = clean::code(&clean::prose(&choice.question, PROSE_CHARS));
        let mut lines = vec![format!("**{title}** ({how}): {question}"), String::new()];
        for (number, option) in choice.options.iter().take(OPTIONS).enumerate() {
            let label = clean::code(&clean::prose(&option.label, LABEL_CHARS));
            let about = clean::prose(&option.description, PROSE_CHARS);
            let about = if about.is_empty() { about } else { format!(": {}", clean::code(&about)) };
            lines.push(format!("{}. {label}{about}", number + 1));
        }
        if choice.options.len() > OPTIONS {
            lines.push(format!("\n**{} more are not shown.**", choice.options.len() - OPTIONS));
        }
        parts.push(lines.join("\n").trim_end().to_owned());
    }
    if choices.len() > QUESTIONS {
        parts.push(format!("**{} more questions are not shown.**", choices.len() - QUESTIONS));
    }
}

/// The last paragraph.
fn how_to_answer(request: &ApprovalRequest) -> String {
    let ApprovalRequest { code, question, .. } = request;
    let engine = engine(&request.engine);
    let mut lines = Vec::new();
    if question.choices.is_empty() {
        lines.push(format!("- `approve {code}` allows it once."));
        if let Some(rule) = &request.always {
            let rule = clean::code(&clean::name(rule, NAME_CHARS));
            lines.push(format!(
                "- `always {code}` allows it, and {rule} from now on, on this thread only."
            ));
        }
    } else {
        let example = choice_example(&question.choices);
        lines.push(format!("- `{code} {example}` answers it: {}.", choice_rule(&question.choices)));
    }
    let (deny, reason) = if request.takes_reasons {
        let reason = format!("and {engine} gets the text as the reason");
        (format!("- `deny {code} because …` refuses it and tells {engine} why."), reason)
    } else {
        // A human who gives a reason should know that only the thread shows it.
        let reason = format!("and {engine} is not told why");
        (format!("- `deny {code}` refuses it; {engine} can't be told why."), reason)
    };
    lines.push(deny);
    let expires = request.asked_at.plus(request.limit).to_string();
    let minute = expires.get(..16).unwrap_or(&expires);
    format!(
        "How to answer:\n\n{}\n\nAny other text refuses it if no other question is open, {reason}. \
         Without an answer it is refused at {minute}Z, in {}.",
        lines.join("\n"),
        wait(request.limit)
    )
}

fn choice_example(choices: &[Choice]) -> String {
    let one = |choice: &Choice| match (choice.options.len(), choice.is_multiple) {
        (0, _) => "your words",
        (2.., true) => "1, 2",
        _ => "1",
    };
    choices.iter().take(QUESTIONS).map(one).collect::<Vec<_>>().join("; ")
}

fn choice_rule(choices: &[Choice]) -> &'static str {
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
