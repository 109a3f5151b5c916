//! Claude Code's tools in words that are the same for all engines: what one would do, for the
//! policy and for the person who is asked. Names are those of claude 2.1.141 to 2.1.197; not every
//! version has all of them. Pure.

use camino::Utf8Path;
use serde_json::{Map, Value, json};

use crate::agent::{
    ActionKind, Change, Choice, Edit, Question, QuestionId,
    asking::{choice, directory, glob, labelled, texts, texts_of_each},
    diff,
    progress::Doing,
    text::{first_text, list, text},
};

/// The tool with which the model asks the human.
const ASK: &str = "AskUserQuestion";
/// Where its input has the questions.
const QUESTIONS: &str = "/questions";

/// The tool that is asked for by the `can_use_tool` request `asked`.
pub(super) fn tool(asked: &Value) -> &str {
    text(asked, "/tool_name")
}

pub(super) fn question(id: &str, asked: &Value) -> Question {
    let (tool, input) = (tool(asked), &asked["input"]);
    let (kind, subject) = describe(tool, input);
    // For many tools the "reason" only repeats what the tool acts on.
    let reason = Some(first_text(asked, &["/decision_reason", "/description"]))
        .filter(|reason| !reason.is_empty() && *reason != subject);
    Question {
        id: QuestionId(id.to_owned()),
        tool: tool.to_owned(),
        kind,
        shown: shown(tool, input, reason),
        reason: reason.map(str::to_owned),
        subject,
        input: input.clone(),
        edits: edits(tool, input),
        choices: if tool == ASK { choices(input) } else { Vec::new() },
        ..Question::default()
    }
}

/// What of the input the subject, the edits, the choices and the reason say.
fn shown(tool: &str, input: &Value, reason: Option<&str>) -> Vec<String> {
    let said: &[&str] = match tool {
        "Bash" | "PowerShell" | "Monitor" => &["/command"],
        "Write" => &["/file_path", "/content"],
        "Edit" => &["/file_path", "/old_string", "/new_string"],
        "MultiEdit" | "Read" => &["/file_path"],
        "NotebookEdit" if text(input, "/edit_mode") == "delete" => &["/notebook_path", "/cell_id"],
        "NotebookEdit" => &["/notebook_path", "/new_source"],
        "NotebookRead" => &["/notebook_path"],
        "WebFetch" => &["/url"],
        "WebSearch" => &["/query"],
        "Skill" => &["/skill"],
        "Task" | "Agent" => &["/description"],
        _ => &[],
    };
    let mut shown = texts(input, said);
    match tool {
        "MultiEdit" => {
            shown.extend(texts_of_each(input, "/edits", &["/old_string", "/new_string"]));
        }
        ASK => shown.push(QUESTIONS.to_owned()),
        _ if reason.is_some_and(|reason| reason == text(input, "/description")) => {
            shown.push("/description".to_owned());
        }
        _ => {}
    }
    shown
}

/// What kind of action a tool is, and what it acts on.
pub(super) fn describe(tool: &str, input: &Value) -> (ActionKind, String) {
    let (kind, at) = match tool {
        "Bash" | "PowerShell" | "Monitor" => (ActionKind::Run, "/command"),
        "Write" | "Edit" | "MultiEdit" => (ActionKind::Edit, "/file_path"),
        "NotebookEdit" => (ActionKind::Edit, "/notebook_path"),
        "Read" => (ActionKind::Read, "/file_path"),
        "NotebookRead" => (ActionKind::Read, "/notebook_path"),
        "Glob" => return (ActionKind::Read, glob(input)),
        "Grep" | "LS" => return (ActionKind::Read, directory(input).to_owned()),
        "WebFetch" => (ActionKind::Fetch, "/url"),
        // Not bare: a search for an address must not pass for the fetch of it.
        "WebSearch" => return (ActionKind::Fetch, labelled("search", text(input, "/query"))),
        "Skill" => return (ActionKind::Other, labelled("skill", text(input, "/skill"))),
        "Task" | "Agent" => {
            return (ActionKind::Other, labelled("subagent", text(input, "/description")));
        }
        _ => {
            return match tool.strip_prefix("mcp__") {
                Some(name) => (ActionKind::Mcp, mcp(name)),
                None => (ActionKind::Other, String::new()),
            };
        }
    };
    (kind, text(input, at).to_owned())
}

/// `server__tool` as `server:tool`, taken apart where Claude Code does it.
fn mcp(name: &str) -> String {
    name.split_once("__")
        .map_or_else(|| name.to_owned(), |(server, tool)| format!("{server}:{tool}"))
}

fn edits(tool: &str, input: &Value) -> Vec<Edit> {
    let replaced =
        |edit: &Value| diff::between(text(edit, "/old_string"), text(edit, "/new_string"));
    let (at, diff) = match tool {
        "Write" => ("/file_path", diff::added(text(input, "/content"))),
        "Edit" => ("/file_path", replaced(input)),
        "MultiEdit" => {
            let edits = list(input, "/edits");
            ("/file_path", edits.iter().map(replaced).collect::<Vec<_>>().join(" …\n"))
        }
        "NotebookEdit" if text(input, "/edit_mode") == "delete" => {
            ("/notebook_path", format!("-(cell {})\n", text(input, "/cell_id").replace('\n', " ")))
        }
        "NotebookEdit" => ("/notebook_path", diff::added(text(input, "/new_source"))),
        _ => return Vec::new(),
    };
    let change = if tool == "Write" { Change::Write } else { Change::Modify };
    vec![Edit { path: text(input, at).to_owned(), diff, change }]
}

fn choices(input: &Value) -> Vec<Choice> {
    // Its dialog always has an "Other" with room for words.
    let choice = |asked: &Value| choice(asked, asked["multiSelect"] == true, true);
    list(input, QUESTIONS).iter().map(choice).collect()
}

/// The tool's input with the answers: a text for each question, several choices with commas
/// between (from the schemas in claude 2.1.197). None if they don't answer what was asked.
pub(super) fn answered(asked: &Value, chosen: &[Vec<String>]) -> Option<Value> {
    let mut input = asked["input"].clone();
    let questions = list(&input, QUESTIONS);
    if tool(asked) != ASK || questions.len() != chosen.len() || chosen.iter().any(Vec::is_empty) {
        return None;
    }
    let answers: Map<String, Value> = questions
        .iter()
        .zip(chosen)
        .map(|(asked, chosen)| (text(asked, "/question").to_owned(), json!(chosen.join(", "))))
        .collect();
    input.as_object_mut()?.insert("answers".to_owned(), Value::Object(answers));
    Some(input)
}

/// Whether the tool wants words and no permission: allowed without them, the model would read that
/// it was answered.
pub(super) fn wants_words(asked: &Value) -> bool {
    tool(asked) == ASK
}

/// What a tool that begins does, for the progress line. Tools that only manage the
/// session itself have no line.
pub(super) fn progress(tool: &str, input: &Value, project: &Utf8Path) -> Option<String> {
    let (kind, subject) = describe(tool, input);
    let doing = match (tool, kind) {
        ("Grep" | "Glob", _) => Doing::Searching(text(input, "/pattern")),
        ("WebSearch", _) => Doing::Searching(text(input, "/query")),
        ("Task" | "Agent", _) => Doing::Asking(text(input, "/description")),
        ("Skill", _) | (_, ActionKind::Mcp) => Doing::Calling(&subject),
        (_, ActionKind::Run) => Doing::Running(&subject),
        (_, ActionKind::Edit) => return Some(Doing::Editing(&[&subject]).line(project)),
        (_, ActionKind::Read) => Doing::Reading(&subject),
        (_, ActionKind::Fetch) => Doing::Fetching(&subject),
        (_, ActionKind::Other) => return None,
    };
    Some(doing.line(project))
}
