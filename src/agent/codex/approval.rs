//! Codex's requests to the person who uses it, and the answers to them. Each becomes a [`Question`] in words
//! that are the same for all engines; a [`Pending`] remembers how its answer must look.
//!
//! No answer has a place for a reason: a denied command is, for the model, `Rejected("rejected by
//! user")`, a denied patch `patch rejected by user`, a denied MCP tool `user rejected MCP tool
//! call` (0.169.0), and the turn goes on; the reason goes beside it. `cancel` would end the turn and
//! is never sent. Nor is what Codex would store by itself: `acceptForSession`, amendments of its
//! policy, grants for a session.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::agent::{
    ActionKind, Change, Edit, Question, QuestionId, Verdict,
    asking::{choice, moved, sole_path, texts, texts_of_each},
    codex::wire,
    diff,
    ledger::OPEN_MAX,
    shell,
    text::{list, text},
};

/// An open question: the request's id, and what kind of answer it wants.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) request: Value,
    answer: AnswerForm,
}

#[derive(Debug)]
enum AnswerForm {
    /// `{"decision": …}`; a decline works although `availableDecisions` does not list it.
    Decision,
    /// What was asked for is granted by repeating it (0.169.0, from its generated schema).
    Permissions(Value),
    Elicitation,
    /// Ids of the questions of `item/tool/requestUserInput`.
    Words(Vec<String>),
}

/// The changes of patches between their `item/started` and their end: a patch's request does not
/// repeat them. A model has few patches open at a time.
#[derive(Debug, Default)]
pub(super) struct Changes(BTreeMap<String, Vec<Value>>);

impl Changes {
    pub(super) fn started(&mut self, item: String, changes: Vec<Value>) {
        if self.0.len() >= OPEN_MAX {
            self.0.pop_first();
        }
        self.0.insert(item, changes);
    }

    pub(super) fn completed(&mut self, item: &str) {
        self.0.remove(item);
    }
}

/// Reads a request for permission. None: no such request, or one that a yes or no can't answer.
pub(super) fn read(
    request: &Value,
    method: &str,
    params: Value,
    changes: &Changes,
) -> Option<(Question, Pending)> {
    let (question, answer) = match method {
        "item/commandExecution/requestApproval" => (command(params), AnswerForm::Decision),
        "item/fileChange/requestApproval" => (file_change(params, changes), AnswerForm::Decision),
        "item/permissions/requestApproval" => {
            let permissions = without_nulls(params["permissions"].clone());
            (permissions_question(params), AnswerForm::Permissions(permissions))
        }
        "mcpServer/elicitation/request" => (elicitation(params)?, AnswerForm::Elicitation),
        "item/tool/requestUserInput" => user_input(params)?,
        _ => return None,
    };
    let question = Question { id: question_id(request), ..question };
    Some((question, Pending { request: request.clone(), answer }))
}

/// Codex's request ids are unique for as long as its process lives.
pub(super) fn question_id(request: &Value) -> QuestionId {
    QuestionId(request.to_string())
}

impl Pending {
    /// The result to send for `verdict`. A choice is no permission, and a permission no choice.
    pub(super) fn answer(self, verdict: &Verdict) -> Value {
        let allowed = matches!(verdict, Verdict::Allow | Verdict::AllowAlways);
        match (self.answer, verdict) {
            (AnswerForm::Decision, _) => {
                json!({ "decision": if allowed { "accept" } else { "decline" } })
            }
            (AnswerForm::Permissions(wanted), _) => {
                let granted = if allowed { wanted } else { json!({}) };
                json!({ "permissions": granted, "scope": "turn" })
            }
            (AnswerForm::Elicitation, _) if allowed => elicited("accept", json!({})),
            (AnswerForm::Elicitation, _) => elicitation_declined(),
            (AnswerForm::Words(ids), Verdict::Chosen(chosen)) if ids.len() == chosen.len() => {
                let answers: Map<String, Value> = ids
                    .into_iter()
                    .zip(chosen)
                    .map(|(id, chosen)| (id, json!({ "answers": chosen })))
                    .collect();
                json!({ "answers": answers })
            }
            // The model reads that there is no answer, and goes on.
            (AnswerForm::Words(_), _) => json!({ "answers": {} }),
        }
    }
}

/// No; also the answer to an elicitation that is more than a yes or no.
pub(super) fn elicitation_declined() -> Value {
    elicited("decline", Value::Null)
}

fn elicited(action: &str, content: Value) -> Value {
    json!({ "action": action, "content": content, "_meta": null })
}

/// A command line, or the network for a command that already runs. Keys for a terminal (`kind` is
/// `writeStdin`) and a command with more than its sandbox have no subject: a rule for the command
/// line does not speak of these (0.169.0, from its generated schema). Nor is a policy asked where
/// Codex itself wants a person (`humanCommand`).
fn command(params: Value) -> Question {
    let network = &params["networkApprovalContext"];
    let is_plain = params["additionalPermissions"].is_null()
        && params["kind"].as_str().is_none_or(|kind| kind == "command");
    let (kind, subject) = match network["host"].as_str() {
        Some(host) => {
            let protocol = network["protocol"].as_str().unwrap_or("network");
            (ActionKind::Fetch, format!("{protocol}://{host}"))
        }
        None if is_plain => (ActionKind::Run, shell::unwrapped(text(&params, "/command"))),
        None => (ActionKind::Run, String::new()),
    };
    let is_input = params["kind"] == "writeStdin";
    let tool = if is_input { "writeStdin" } else { "commandExecution" };
    let shown = match kind {
        ActionKind::Fetch => {
            let network = ["/networkApprovalContext/host", "/networkApprovalContext/protocol"];
            texts(&params, &network)
        }
        _ if subject.is_empty() => Vec::new(),
        _ => texts(&params, &["/command"]),
    };
    Question { shown, ..question(tool, kind, subject, params) }
}

/// With a whole root it is never just one path.
fn file_change(mut params: Value, changes: &Changes) -> Question {
    let changes = changes.0.get(text(&params, "/itemId")).cloned().unwrap_or_default();
    let mut edits: Vec<Edit> = changes.iter().flat_map(edits_of).collect();
    if let Some(root) = params["grantRoot"].as_str() {
        let diff = " (everything below, for the rest of the session)\n".to_owned();
        edits.push(Edit { path: root.to_owned(), diff, change: Change::Modify });
    }
    let subject = sole_path(&edits);
    if let Some(params) = params.as_object_mut() {
        params.insert("changes".to_owned(), Value::Array(changes));
    }
    let said = ["/path", "/diff", "/kind/type", "/kind/move_path"];
    let mut shown = texts_of_each(&params, "/changes", &said);
    shown.push("/grantRoot".to_owned());
    Question { shown, edits, ..question("fileChange", ActionKind::Edit, subject, params) }
}

/// A change of one file; a move touches two. The `diff` of what is added or deleted is the text
/// itself, that of an update a patch, with a last line about the move (0.169.0).
fn edits_of(change: &Value) -> Vec<Edit> {
    let lines = text(change, "/diff");
    let target = change["kind"]["move_path"].as_str();
    let (change_kind, diff) = match text(change, "/kind/type") {
        "add" => (Change::Write, diff::added(lines)),
        "delete" => (Change::Delete, diff::removed(lines)),
        _ => {
            let note = target.map(|target| format!("\n\nMoved to: {target}"));
            let lines = note.and_then(|note| lines.strip_suffix(&note)).unwrap_or(lines);
            (Change::Modify, diff::of_patch(lines))
        }
    };
    let mut edits = moved(text(change, "/path"), diff, target);
    if target.is_none() {
        edits[0].change = change_kind;
    }
    edits
}

/// A wider sandbox for the rest of the turn (seen with the feature `request_permissions_tool`).
fn permissions_question(params: Value) -> Question {
    let wanted = &params["permissions"];
    let mut parts = Vec::new();
    if wanted["network"]["enabled"] == true {
        parts.push("network".to_owned());
    }
    let files = &wanted["fileSystem"];
    let entries = list(files, "/entries");
    parts.extend(entries.iter().map(|entry| {
        let path = &entry["path"];
        let place =
            [&path["path"], &path["pattern"], &path["value"]["path"], &path["value"]["kind"]]
                .into_iter()
                .find_map(Value::as_str);
        format!("{} {}", entry["access"].as_str().unwrap_or("use"), place.unwrap_or("?"))
    }));
    // Older versions have only these.
    for access in ["read", "write"].into_iter().filter(|_| entries.is_empty()) {
        let paths = files[access].as_array().into_iter().flatten().filter_map(Value::as_str);
        parts.extend(paths.map(|path| format!("{access} {path}")));
    }
    question("permissions", ActionKind::Other, parts.join("; "), params)
}

/// Questions of the model's own. A secret has no place on a thread that others read.
fn user_input(mut params: Value) -> Option<(Question, AnswerForm)> {
    let Value::Array(asked) = wire::take(&mut params, "questions") else { return None };
    let ids: Option<Vec<String>> =
        asked.iter().map(|it| it["id"].as_str().map(str::to_owned)).collect();
    let ids = ids.filter(|ids| !ids.is_empty())?;
    if asked.iter().any(|it| it["isSecret"] == true) {
        return None;
    }
    let input = json!({ "questions": asked });
    let question = Question {
        shown: vec!["/questions".to_owned()],
        ..question("requestUserInput", ActionKind::Other, String::new(), input)
    };
    let is_open = |it: &Value| it["isOther"] == true || list(it, "/options").is_empty();
    let choices = asked.iter().map(|it| choice(it, false, is_open(it))).collect();
    Some((Question { choices, ..question }, AnswerForm::Words(ids)))
}

/// An MCP tool that wants to run, or a server that asks for a plain yes.
fn elicitation(mut params: Value) -> Option<Question> {
    let meta = wire::take(&mut params, "_meta");
    let is_tool = meta["codex_approval_kind"] == "mcp_tool_call";
    let fields =
        params["requestedSchema"]["properties"].as_object().is_some_and(|it| !it.is_empty());
    if params["mode"] != "form" || (fields && !is_tool) {
        return None;
    }
    let server = text(&params, "/serverName");
    let (tool, subject) = match meta["tool_name"].as_str() {
        // Codex's own name for it, which is also what people know from Claude Code.
        Some(tool) => (format!("mcp__{server}__{tool}"), format!("{server}:{tool}")),
        None => (format!("mcp__{server}"), server.to_owned()),
    };
    let reason = params["message"].as_str().map(str::to_owned);
    let input = if is_tool { meta["tool_params"].clone() } else { json!({}) };
    Some(Question { reason, ..question(&tool, ActionKind::Mcp, subject, input) })
}

/// The id is filled in by [`read`]. What the machinery needs is left out of the input: the person
/// who reads it shall see what would be done.
fn question(tool: &str, kind: ActionKind, subject: String, params: Value) -> Question {
    const MACHINERY: [&str; 11] = [
        "approvalId",
        "availableDecisions",
        "commandActions",
        "environmentId",
        "itemId",
        "kind",
        "proposedExecpolicyAmendment",
        "proposedNetworkPolicyAmendments",
        "startedAtMs",
        "threadId",
        "turnId",
    ];
    let reason = params["reason"].as_str().map(str::to_owned);
    let mut input = without_nulls(params);
    if let Some(input) = input.as_object_mut() {
        input.retain(|key, _| !MACHINERY.contains(&key.as_str()) && key != "reason");
    }
    Question { tool: tool.to_owned(), kind, subject, reason, input, ..Question::default() }
}

fn without_nulls(mut value: Value) -> Value {
    if let Some(object) = value.as_object_mut() {
        object.retain(|_, value| !value.is_null());
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn ask(method: &str, params: Value, changes: &Changes) -> (Question, Pending) {
        read(&json!(7), method, params, changes).expect("a question")
    }

    #[test]
    fn a_patch_is_shown_with_the_changes_of_its_item() {
        let change = |path| json!({"path": path, "kind": {"type": "add"}, "diff": "+x"});
        let mut changes = Changes::default();
        changes.started("one".to_owned(), vec![change("/p/a")]);
        changes.started("two".to_owned(), vec![change("/p/a"), change("/etc/b")]);
        let patch = |item, root: Value| {
            let params = json!({"itemId": item, "turnId": "t", "reason": "r", "grantRoot": root});
            ask("item/fileChange/requestApproval", params, &changes).0
        };
        let one = patch("one", Value::Null);
        assert_eq!(
            (one.kind, &one.subject[..], one.reason.as_deref()),
            (ActionKind::Edit, "/p/a", Some("r"))
        );
        assert_eq!(one.input, json!({"changes": [change("/p/a")]}));
        // Several paths, or a root: no single path stands for them.
        assert_eq!(patch("two", Value::Null).subject, "");
        assert_eq!(patch("one", json!("/etc")).subject, "");
        let root = patch("one", json!("/etc"));
        assert_eq!(root.input["grantRoot"], "/etc");
        let paths: Vec<&str> = root.edits.iter().map(|edit| &edit.path[..]).collect();
        assert_eq!(paths, ["/p/a", "/etc"]);
        assert_eq!(patch("unknown", Value::Null).input, json!({"changes": []}));
        let said = ["/changes/0/path", "/changes/0/diff", "/changes/0/kind/type", "/grantRoot"];
        assert_eq!(root.shown, said);
        assert_eq!(root.edits[0].change, Change::Write);
    }

    #[test]
    fn patches_that_never_end_are_forgotten() {
        let mut changes = Changes::default();
        for i in 0..=OPEN_MAX {
            changes.started(i.to_string(), Vec::new());
        }
        assert_eq!(changes.0.len(), OPEN_MAX);
        changes.completed("5");
        assert_eq!(changes.0.len(), OPEN_MAX - 1);
    }

    #[test]
    fn a_command_that_wants_the_network_is_asked_by_host() {
        let params = json!({"command": null, "networkApprovalContext": {"host": "example.org", "protocol": "https"}});
        let (question, _) =
            ask("item/commandExecution/requestApproval", params, &Changes::default());
        assert_eq!(question.kind, ActionKind::Fetch);
        assert_eq!(question.subject, "https://example.org");
    }

    /// What a rule for the command line does not speak of must not be allowed by it.
    #[test]
    fn more_than_a_command_has_no_subject() {
        let subject = |more: Value| {
            let mut params = json!({"command": "/bin/bash -lc 'git status'", "kind": "command"});
            params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let method = "item/commandExecution/requestApproval";
            let (question, _) = ask(method, params, &Changes::default());
            (question.tool, question.subject)
        };
        let is = |tool: &str, subject: &str| (tool.to_owned(), subject.to_owned());
        assert_eq!(subject(json!({})), is("commandExecution", "git status"));
        assert_eq!(subject(json!({"kind": null})), is("commandExecution", "git status"));
        assert_eq!(subject(json!({"kind": "writeStdin"})), is("writeStdin", ""));
        assert_eq!(subject(json!({"kind": "humanCommand"})), is("commandExecution", ""));
        let more = json!({"additionalPermissions": {"network": {"enabled": true}}});
        assert_eq!(subject(more), is("commandExecution", ""));
    }

    #[test]
    fn older_versions_name_permitted_paths_without_entries() {
        let files = json!({"read": ["/a"], "write": ["/b", "/c"], "entries": null});
        let params = json!({"permissions": {"fileSystem": files}});
        let (question, _) = ask("item/permissions/requestApproval", params, &Changes::default());
        assert_eq!(question.subject, "read /a; write /b; write /c");
    }

    #[test]
    fn words_are_asked_for_and_answered_by_id() {
        let questions = json!([
            {"id": "a", "question": "A?", "options": [{"label": "x", "description": "d"}]},
            {"id": "b", "question": "B?", "options": null},
        ]);
        let asked = || {
            let params = json!({ "questions": questions });
            ask("item/tool/requestUserInput", params, &Changes::default())
        };
        let open: Vec<bool> = asked().0.choices.iter().map(|choice| choice.is_open).collect();
        assert_eq!(open, [false, true]);
        let none = json!({"answers": {}});
        let answer = |verdict| asked().1.answer(&verdict);
        let chosen =
            |it: &[&str]| Verdict::Chosen(it.iter().map(|it| vec![(*it).to_owned()]).collect());
        assert_eq!(
            answer(chosen(&["x", "y"])),
            json!({"answers": {"a": {"answers": ["x"]}, "b": {"answers": ["y"]}}})
        );
        assert_eq!(answer(chosen(&["x"])), none);
        assert_eq!(answer(Verdict::AllowAlways), none);
        assert_eq!(answer(Verdict::Deny { reason: "no".to_owned() }), none);
        for odd in
            [json!([]), json!([{"question": "no id"}]), json!([{"id": "p", "isSecret": true}])]
        {
            let params = json!({ "questions": odd });
            let changes = Changes::default();
            assert!(read(&json!(1), "item/tool/requestUserInput", params, &changes).is_none());
        }
    }

    #[test]
    fn permissions_are_granted_as_asked_or_not_at_all() {
        let params = json!({
            "threadId": "t", "reason": "fetch", "cwd": "/p",
            "permissions": {"network": {"enabled": true}, "fileSystem": null},
        });
        let asked = || ask("item/permissions/requestApproval", params.clone(), &Changes::default());
        assert_eq!(asked().0.input["permissions"]["network"], json!({"enabled": true}));
        assert_eq!(asked().0.subject, "network");
        let granted = json!({"network": {"enabled": true}});
        assert_eq!(
            asked().1.answer(&Verdict::Allow),
            json!({"permissions": granted, "scope": "turn"})
        );
        assert_eq!(
            asked().1.answer(&Verdict::AllowAlways),
            json!({"permissions": granted, "scope": "turn"})
        );
        assert_eq!(
            asked().1.answer(&Verdict::Deny { reason: "no".to_owned() }),
            json!({"permissions": {}, "scope": "turn"})
        );
    }

    #[test]
    fn a_form_or_a_link_is_no_question() {
        let elicit = |params| {
            read(&json!(1), "mcpServer/elicitation/request", params, &Changes::default()).is_some()
        };
        let form = |properties| json!({"mode": "form", "serverName": "s", "message": "m", "requestedSchema": {"properties": properties}});
        assert!(elicit(form(json!({}))));
        assert!(!elicit(form(json!({"password": {"type": "string"}}))));
        assert!(!elicit(
            json!({"mode": "url", "serverName": "s", "message": "m", "url": "https://x"})
        ));
        assert!(!elicit(Value::Null));
        assert!(read(&json!(1), "execCommandApproval", json!({}), &Changes::default()).is_none());
    }
}
