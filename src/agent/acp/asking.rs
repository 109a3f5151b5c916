//! Tool calls of ACP agents in words that are the same for all engines. Agents tell of a call by
//! installments, and each fills in other fields, so what is known comes from all of them. Pure.

use camino::Utf8Path;
use serde_json::Value;

use crate::agent::{
    ActionKind, Change, Edit, Question, QuestionId,
    asking::texts,
    diff,
    progress::Doing,
    shell,
    text::{first_text, list, text},
};

/// Names of inputs that are the path which a call is about.
const PATHS: [&str; 5] = ["file_path", "filePath", "filepath", "path", "abs_path"];

/// What updates told about a tool call.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct KnownCall {
    title: String,
    kind: String,
    /// Of the tool itself, where the agent tells it.
    name: String,
    input: Value,
    /// Content and locations, whose place is with the latest update that has them.
    content: Value,
    locations: Value,
    /// The progress line about its begin is out.
    is_told: bool,
}

impl KnownCall {
    /// Takes over what `update` has; updates carry only what changed.
    pub(super) fn merge(&mut self, update: &Value) {
        let set = |field: &mut String, value: &str| {
            if !value.is_empty() {
                value.clone_into(field);
            }
        };
        set(&mut self.title, text(update, "/title"));
        set(&mut self.kind, text(update, "/kind"));
        let named = ["/name", "/_meta/toolName", "/_meta/claudeCode/toolName"];
        set(&mut self.name, first_text(update, &named));
        if let Some(input) =
            update.get("rawInput").filter(|it| it.as_object().is_some_and(|it| !it.is_empty()))
        {
            self.input = input.clone();
        }
        for (field, key) in [(&mut self.content, "content"), (&mut self.locations, "locations")] {
            if let Some(value) = update[key].as_array().filter(|value| !value.is_empty()) {
                *field = Value::Array(value.clone());
            }
        }
    }

    /// The line about its begin: once, when it is known what the call acts on, or else when it runs.
    pub(super) fn progress(&mut self, status: &str, project: &Utf8Path) -> Option<String> {
        let kind = self.action_kind();
        let subject = self.subject(kind, &self.edits(kind));
        if self.is_told || self.title.is_empty() || (subject.is_empty() && status != "in_progress")
        {
            return None;
        }
        self.is_told = true;
        let what = if subject.is_empty() { &self.title } else { &subject };
        let doing = match (kind, &self.kind[..]) {
            (ActionKind::Run, _) => Doing::Running(what),
            (ActionKind::Edit, _) => {
                let paths = self.paths();
                return Some(Doing::Editing(&paths).line(project));
            }
            // A search's title has the pattern.
            (_, "search") => Doing::Searching(&self.title),
            (_, "think") => Doing::Asking(&self.title),
            (ActionKind::Read, _) => Doing::Reading(what),
            (ActionKind::Fetch, _) => Doing::Fetching(what),
            (ActionKind::Mcp | ActionKind::Other, _) => Doing::Calling(what),
        };
        Some(doing.line(project))
    }

    /// The question that a request of permission for the call is.
    pub(super) fn question(&self, id: QuestionId, call: &Value) -> Question {
        let kind = self.action_kind();
        let edits = self.edits(kind);
        let subject = self.subject(kind, &edits);
        // A title may leave things out: it is for people, and no policy goes by it.
        let title = if subject.is_empty() { &self.title } else { "" };
        let reasons = [first_text(&self.input, &["/reason", "/description"]), title];
        let reason = reasons.into_iter().find(|text| !text.is_empty()).map(str::to_owned);
        let tool = match (&self.name[..], self.foreign()) {
            ("", Some(_)) => &self.title,
            ("", None) => &self.kind,
            (name, _) => name,
        };
        let input = if self.input.is_null() { call.clone() } else { self.input.clone() };
        Question {
            id,
            tool: tool.to_owned(),
            kind,
            shown: self.shown(&input, &subject, &edits, reason.as_deref()),
            subject,
            reason,
            input,
            edits,
            change: self.change(),
            ..Question::default()
        }
    }

    /// What of the input the subject, the edits and the reason say. An agent tells an edit twice, as
    /// the tool's input and as a diff: the input is left out only as far as the diff was made of it.
    fn shown(
        &self,
        input: &Value,
        subject: &str,
        edits: &[Edit],
        reason: Option<&str>,
    ) -> Vec<String> {
        let is_path = |path: &str| path == subject || edits.iter().any(|edit| edit.path == path);
        let blocks = || list(&self.content, "").iter().filter(|it| text(it, "/type") == "diff");
        let is_block = |at: &str, value: &str| {
            !edits.is_empty() && blocks().any(|block| text(block, at) == value)
        };
        let is_said = |key: &str, value: &str| match key {
            "command" | "url" => value == subject || shell::unwrapped(value) == subject,
            "query" => subject == format!("search: {value}"),
            "title" | "reason" | "description" => value == subject || Some(value) == reason,
            "old_string" | "oldString" | "old_str" => is_block("/oldText", value),
            "content" | "new_string" | "newString" | "new_str" => is_block("/newText", value),
            // Opencode 1.18.33 tells an edit as a patch besides.
            "diff" => edits.len() == 1 && diff::of_patch(value) == edits[0].diff,
            _ => PATHS.contains(&key) && is_path(value),
        };
        let texts_in = |object: &Value, at: &str| -> Vec<String> {
            let fields = object.as_object().into_iter().flatten();
            let said =
                fields.filter(|(key, value)| value.as_str().is_some_and(|it| is_said(key, it)));
            said.map(|(key, _)| format!("{at}/{key}")).collect()
        };
        let mut shown = texts_in(input, "");
        if input["command"].is_array() && command(input).is_some_and(|it| it == subject) {
            shown.push("/command".to_owned());
        }
        if self.input.is_null() {
            // The call itself: what it is called, and its state.
            shown.extend(texts(input, &["/toolCallId", "/status", "/kind", "/sessionUpdate"]));
            for (at, place) in list(input, "/locations").iter().enumerate() {
                shown.extend(texts_in(place, &format!("/locations/{at}")));
            }
            if !edits.is_empty() {
                let is_diff = |(_, it): &(usize, &Value)| text(it, "/type") == "diff";
                for (at, _) in list(input, "/content").iter().enumerate().filter(is_diff) {
                    let said = ["type", "path", "oldText", "newText"];
                    shown.extend(said.map(|key| format!("/content/{at}/{key}")));
                }
            }
        }
        shown
    }

    fn change(&self) -> Change {
        match &self.kind[..] {
            "delete" => Change::Delete,
            "move" => Change::Move,
            _ => Change::Modify,
        }
    }

    /// A command is run, whatever the agent calls that: codex-acp 0.16.0 calls it by what it takes
    /// the command's purpose for.
    fn action_kind(&self) -> ActionKind {
        if self.foreign().is_some() {
            return ActionKind::Mcp;
        }
        match &self.kind[..] {
            _ if command(&self.input).is_some() => ActionKind::Run,
            "execute" => ActionKind::Run,
            "edit" | "delete" | "move" => ActionKind::Edit,
            "read" | "search" => ActionKind::Read,
            "fetch" => ActionKind::Fetch,
            _ => ActionKind::Other,
        }
    }

    /// An MCP server's tool as `server:tool`. Claude and qwen name it, claude 0.23.1 only in the
    /// title; gemini 0.61.0 has it in words there. The title of a command is the command, which may
    /// read like anything.
    fn foreign(&self) -> Option<String> {
        let coded = |name: &str| Some(name.strip_prefix("mcp__")?.replacen("__", ":", 1));
        if !self.name.is_empty() {
            return coded(&self.name);
        }
        if !matches!(&self.kind[..], "" | "other") || command(&self.input).is_some() {
            return None;
        }
        coded(&self.title)
            .or_else(|| titled(&self.title).map(|(tool, server)| format!("{server}:{tool}")))
    }

    /// What a policy matches; empty if nothing stands for all that would be done.
    fn subject(&self, kind: ActionKind, edits: &[Edit]) -> String {
        let sole_path = || match self.paths()[..] {
            [path] => path.to_owned(),
            _ => String::new(),
        };
        match kind {
            ActionKind::Run => command(&self.input).or_else(|| self.titled()).unwrap_or_default(),
            ActionKind::Edit if edits.len() > 1 => String::new(),
            ActionKind::Edit | ActionKind::Read => sole_path(),
            ActionKind::Fetch => match (text(&self.input, "/url"), text(&self.input, "/query")) {
                ("", "") => String::new(),
                ("", query) => format!("search: {query}"),
                (url, _) => url.to_owned(),
            },
            ActionKind::Mcp => self.foreign().unwrap_or_default(),
            ActionKind::Other => self.title.clone(),
        }
    }

    /// Gemini 0.61.0 tells nothing of a command but its title, which is all of it.
    fn titled(&self) -> Option<String> {
        let cut = self.title.contains('…') || self.title.contains("...");
        (self.input.is_null() && !cut).then(|| self.title.clone())
    }

    /// All paths of the call, each once.
    fn paths(&self) -> Vec<&str> {
        let mut paths: Vec<&str> = PATHS
            .into_iter()
            .filter_map(|key| self.input[key].as_str())
            .chain(list(&self.content, "").iter().map(|it| text(it, "/path")))
            .chain(list(&self.locations, "").iter().map(|it| text(it, "/path")))
            .filter(|path| !path.is_empty())
            .collect();
        paths.sort_unstable();
        paths.dedup();
        paths
    }

    /// The diffs that came with the call; a path that none is for is there without one.
    fn edits(&self, kind: ActionKind) -> Vec<Edit> {
        if kind != ActionKind::Edit {
            return Vec::new();
        }
        let blocks = list(&self.content, "").iter().filter(|it| text(it, "/type") == "diff");
        let change = self.change();
        let mut edits: Vec<Edit> = blocks
            .map(|it| Edit {
                path: text(it, "/path").to_owned(),
                diff: diff::between(text(it, "/oldText"), text(it, "/newText")),
                change,
            })
            .collect();
        for path in self.paths() {
            if !edits.iter().any(|edit| edit.path == path) {
                edits.push(Edit { path: path.to_owned(), diff: String::new(), change });
            }
        }
        edits
    }
}

/// Tool and server in `tool (server MCP Server)`, Gemini's title of an MCP tool (0.61.0).
pub(super) fn titled(title: &str) -> Option<(&str, &str)> {
    title.strip_suffix(" MCP Server)")?.rsplit_once(" (")
}

/// The command line of a call, also from the form `["/bin/bash", "-lc", "…"]` (codex-acp 0.16.0).
fn command(input: &Value) -> Option<String> {
    let command = match &input["command"] {
        Value::String(line) => shell::unwrapped(line),
        Value::Array(words) => {
            let words: Vec<&str> = words.iter().map(Value::as_str).collect::<Option<_>>()?;
            shell::of_words(&words)
        }
        _ => return None,
    };
    (!command.is_empty()).then_some(command)
}
