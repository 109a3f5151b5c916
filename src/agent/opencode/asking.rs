//! What opencode asks, in words that are the same for all engines (opencode 1.18.33). A request
//! says little of the tool that it is for, so what the tool was called with is kept until it ends.
//! Pure.

use serde_json::{Map, Value, json};

use crate::agent::{
    ActionKind, Change, Edit, Question, QuestionId,
    asking::{choice, directory, glob, labelled, moved, sole_path, texts, texts_of_each},
    diff,
    text::{list, text},
};

/// The permission for paths outside the project; the tool's own may be asked afterwards.
pub(super) const OUTSIDE: &str = "external_directory";

/// A tool that runs, or waits to.
#[derive(Clone, Debug, Default)]
pub(super) struct Call {
    pub(super) tool: String,
    pub(super) input: Value,
}

/// Whether it takes the names of the MCP servers to say whose tool this is.
pub(super) fn is_foreign(asked: &Value) -> bool {
    describe(text(asked, "/permission"), asked, None, &[]).is_none()
}

/// Reads `permission.asked`. `call` is the tool that it is for, as far as it was seen, `servers`
/// are the MCP servers.
pub(super) fn question(asked: &Value, call: Option<&Call>, servers: &[String]) -> Question {
    let tool = text(asked, "/permission");
    let metadata = &asked["metadata"];
    let patterns = list(asked, "/patterns");
    let edits = edits(metadata);
    let foreign = || match server_tool(tool, servers) {
        Some(subject) => (ActionKind::Mcp, subject),
        None => (ActionKind::Other, String::new()),
    };
    let (kind, subject) = describe(tool, asked, call, &edits).unwrap_or_else(foreign);
    let mut input = arguments(metadata, call);
    if input.is_empty() {
        input.insert("patterns".to_owned(), json!(patterns));
    }
    let input = Value::Object(input);
    Question {
        id: QuestionId(text(asked, "/id").to_owned()),
        tool: tool.to_owned(),
        kind,
        shown: shown(&input, kind, &subject, &edits),
        subject,
        reason: (tool == OUTSIDE).then(|| "It is outside of the project.".to_owned()),
        input,
        edits,
        ..Question::default()
    }
}

/// What the permission says of the call, and what else the tool was called with: the permission for
/// a command has neither its directory nor its time limit.
fn arguments(metadata: &Value, call: Option<&Call>) -> Map<String, Value> {
    let mut all = metadata.as_object().cloned().unwrap_or_default();
    for (key, value) in call.and_then(|call| call.input.as_object()).into_iter().flatten() {
        match all.get(key) {
            None => all.insert(key.clone(), value.clone()),
            Some(known) if known != value => all.insert(format!("{key} (called)"), value.clone()),
            Some(_) => None,
        };
    }
    all
}

/// What of the arguments the subject and the edits say. The diff of an edit is opencode's own work,
/// made of the texts that the tool was called with.
fn shown(input: &Value, kind: ActionKind, subject: &str, edits: &[Edit]) -> Vec<String> {
    let is_subject = |key: &&str| input[*key] == subject && !subject.is_empty();
    let keys = ["command", "url", "filePath", "filepath"].into_iter().filter(is_subject);
    let mut shown: Vec<String> = keys.map(|key| format!("/{key}")).collect();
    if let (ActionKind::Fetch | ActionKind::Other, Some((_, what))) =
        (kind, subject.split_once(": "))
    {
        let labelled = ["query", "description", "tool"].into_iter();
        shown.extend(labelled.filter(|key| input[*key] == what).map(|key| format!("/{key}")));
    }
    if !edits.is_empty() {
        let said = ["/diff", "/oldString", "/newString", "/content", "/patchText"];
        shown.extend(texts(input, &said));
        shown.extend(texts_of_each(input, "/edits", &["/oldString", "/newString"]));
        // What is counted or said in another way there adds nothing.
        let of_file = ["filePath", "relativePath", "movePath", "patch", "before", "after"];
        for (at, file) in list(input, "/files").iter().enumerate() {
            let counts = ["additions", "deletions"];
            let keys = of_file.into_iter().chain(counts);
            shown.extend(keys.map(|key| format!("/files/{at}/{key}")));
            if let "add" | "delete" | "update" | "move" = text(file, "/type") {
                shown.push(format!("/files/{at}/type"));
            }
        }
        shown.push("/filediff".to_owned());
    }
    shown
}

/// What a tool of opencode's own would do. None: the name may be that of an MCP server's tool.
fn describe(
    tool: &str,
    asked: &Value,
    call: Option<&Call>,
    edits: &[Edit],
) -> Option<(ActionKind, String)> {
    let metadata = &asked["metadata"];
    let called = |at: &str| call.map_or("", |call| text(&call.input, at));
    let other = |label: &str, what: &str| (ActionKind::Other, labelled(label, what));
    let pattern = text(asked, "/patterns/0");
    Some(match tool {
        "bash" => (ActionKind::Run, text(metadata, "/command").to_owned()),
        "edit" | "patch" => (ActionKind::Edit, sole_path(edits)),
        // The patterns count from the root of the repository, which may be above the project.
        "read" | "lsp" => (ActionKind::Read, called("/filePath").to_owned()),
        "glob" => (ActionKind::Read, glob(metadata)),
        "grep" | "list" => (ActionKind::Read, directory(metadata).to_owned()),
        "webfetch" => (ActionKind::Fetch, text(metadata, "/url").to_owned()),
        // Not bare: a search for an address must not pass for the fetch of it.
        "websearch" | "codesearch" => {
            (ActionKind::Fetch, labelled("search", text(metadata, "/query")))
        }
        "task" => other("subagent", text(metadata, "/description")),
        "skill" => other("skill", pattern),
        "doom_loop" => other("the same again and again", text(metadata, "/tool")),
        OUTSIDE => outside(metadata, call),
        "question" | "todoread" | "todowrite" => (ActionKind::Other, String::new()),
        _ => return None,
    })
}

/// A command that leads outside, or a file that is there. It counts as what will be done with it.
fn outside(metadata: &Value, call: Option<&Call>) -> (ActionKind, String) {
    let command = text(metadata, "/command");
    if !command.is_empty() {
        return (ActionKind::Run, command.to_owned());
    }
    let kind = match call.map_or("", |call| &call.tool) {
        "read" | "glob" | "grep" | "list" | "lsp" => ActionKind::Read,
        "edit" | "write" | "patch" | "apply_patch" | "multiedit" => ActionKind::Edit,
        _ => ActionKind::Other,
    };
    (kind, text(metadata, "/filepath").to_owned())
}

/// A patch of several files has `files`, of which a moved one has two paths.
fn edits(metadata: &Value) -> Vec<Edit> {
    let files = list(metadata, "/files");
    if files.is_empty() {
        let path = text(metadata, "/filepath");
        let diff = diff::of_patch(text(metadata, "/diff"));
        let edit = Edit { path: path.to_owned(), diff, change: Change::Modify };
        // That of a permission for a path outside is no edit.
        let is_edit = !path.is_empty() && metadata["diff"].is_string();
        return is_edit.then_some(edit).into_iter().collect();
    }
    let edits = files.iter().flat_map(|file| {
        let target = Some(text(file, "/movePath")).filter(|target| !target.is_empty());
        let mut edits =
            moved(text(file, "/filePath"), diff::of_patch(text(file, "/patch")), target);
        match text(file, "/type") {
            "add" => edits[0].change = Change::Write,
            "delete" => edits[0].change = Change::Delete,
            _ => {}
        }
        edits
    });
    edits.collect()
}

/// `<server>_<tool>` as `server:tool`; empty if it could be the tool of several servers, none if of
/// none.
fn server_tool(name: &str, servers: &[String]) -> Option<String> {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    let mut fitting = servers.iter().filter_map(|server| {
        let prefix: String = server.chars().map(plain).collect();
        let tool = name.strip_prefix(&prefix)?.strip_prefix('_')?;
        Some(format!("{server}:{tool}"))
    });
    let first = fitting.next()?;
    Some(if fitting.next().is_some() { String::new() } else { first })
}

/// Reads `question.asked`: questions of the model's own.
pub(super) fn own_question(asked: &Value) -> Question {
    let choice = |it: &Value| choice(it, it["multiple"] == true, it["custom"] != false);
    Question {
        id: QuestionId(text(asked, "/id").to_owned()),
        tool: "question".to_owned(),
        input: json!({ "questions": asked["questions"] }),
        shown: vec!["/questions".to_owned()],
        choices: list(asked, "/questions").iter().map(choice).collect(),
        ..Question::default()
    }
}

/// The names of the MCP servers (`GET /mcp`).
pub(super) fn servers(body: &Value) -> Vec<String> {
    body.as_object()
        .map_or(Vec::new(), |servers: &Map<String, Value>| servers.keys().cloned().collect())
}
