//! Codex's requests for permission, and the answers to them. Each becomes a [`Question`] in words
//! that are the same for all engines; an [`Asked`] remembers how its answer must look.
//!
//! No answer has a place for a reason: a denied command is, for the model, `Rejected("rejected by
//! user")`, a denied patch `patch rejected by user`, a denied MCP tool `user rejected MCP tool
//! call` (0.169.0), and the turn goes on; the reason goes beside it. `cancel` would end the turn and is never sent.

use std::{collections::BTreeMap, path::Path};

use serde_json::{Value, json};

use crate::agent::{ActionKind, Question, QuestionId, Verdict, codex::wire};

/// Kept between a patch's `item/started` and its end; a model has few patches open at a time.
const CHANGES_MAX: usize = 64;

/// An open question: the request's id, and what kind of answer it wants.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) request: Value,
    answer: Answer,
}

#[derive(Debug)]
enum Answer {
    /// `{"decision": …}`; a decline works although `availableDecisions` does not list it.
    Decision,
    /// What was asked for is granted by repeating it (0.169.0, from its generated schema).
    Permissions(Value),
    Elicitation,
}

/// The changes of patches that were started: a patch's request does not repeat them.
#[derive(Debug, Default)]
pub(super) struct Changes(BTreeMap<String, Vec<Value>>);

impl Changes {
    pub(super) fn started(&mut self, item: String, changes: Vec<Value>) {
        if self.0.len() >= CHANGES_MAX {
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
) -> Option<(Question, Asked)> {
    let (question, answer) = match method {
        "item/commandExecution/requestApproval" => (command(params), Answer::Decision),
        "item/fileChange/requestApproval" => (file_change(params, changes), Answer::Decision),
        "item/permissions/requestApproval" => {
            let permissions = without_nulls(params["permissions"].clone());
            (permissions_question(params), Answer::Permissions(permissions))
        }
        "mcpServer/elicitation/request" => (elicitation(params)?, Answer::Elicitation),
        _ => return None,
    };
    let question = Question { id: question_id(request), ..question };
    Some((question, Asked { request: request.clone(), answer }))
}

/// Codex's request ids are unique for as long as its process lives.
pub(super) fn question_id(request: &Value) -> QuestionId {
    QuestionId(request.to_string())
}

impl Asked {
    /// The result to send for `verdict`.
    pub(super) fn answer(self, verdict: &Verdict) -> Value {
        match (self.answer, verdict) {
            (Answer::Decision, Verdict::Allow) => json!({ "decision": "accept" }),
            (Answer::Decision, Verdict::AllowAlways) => {
                json!({ "decision": "acceptForSession" })
            }
            (Answer::Decision, Verdict::Deny { .. } | Verdict::Chosen(_)) => {
                json!({ "decision": "decline" })
            }
            (Answer::Permissions(wanted), Verdict::Allow) => {
                json!({ "permissions": wanted, "scope": "turn" })
            }
            (Answer::Permissions(wanted), Verdict::AllowAlways) => {
                json!({ "permissions": wanted, "scope": "session" })
            }
            (Answer::Permissions(_), Verdict::Deny { .. } | Verdict::Chosen(_)) => {
                json!({ "permissions": {}, "scope": "turn" })
            }
            (Answer::Elicitation, Verdict::Allow) => elicited("accept", json!({}), Value::Null),
            (Answer::Elicitation, Verdict::AllowAlways) => {
                elicited("accept", json!({}), json!({ "persist": "session" }))
            }
            (Answer::Elicitation, Verdict::Deny { .. } | Verdict::Chosen(_)) => {
                elicitation_declined()
            }
        }
    }
}

/// No; also the answer to an elicitation that is more than a yes or no.
pub(super) fn elicitation_declined() -> Value {
    elicited("decline", Value::Null, Value::Null)
}

fn elicited(action: &str, content: Value, meta: Value) -> Value {
    json!({ "action": action, "content": content, "_meta": meta })
}

/// A command line, or the network for a command that already runs.
fn command(params: Value) -> Question {
    let network = &params["networkApprovalContext"];
    let (kind, subject) = match network["host"].as_str() {
        Some(host) => {
            let protocol = network["protocol"].as_str().unwrap_or("network");
            (ActionKind::Fetch, format!("{protocol}://{host}"))
        }
        None => (ActionKind::Run, shell_command(params["command"].as_str().unwrap_or_default())),
    };
    question("commandExecution", kind, subject, params)
}

/// The subject is the path if there is just one: a policy that allows that path must not allow the
/// others with it, nor a whole root.
fn file_change(mut params: Value, changes: &Changes) -> Question {
    let item = params["itemId"].as_str().unwrap_or_default();
    let changes = changes.0.get(item).cloned().unwrap_or_default();
    let subject = match &changes[..] {
        [change] if params["grantRoot"].is_null() && change["kind"]["move_path"].is_null() => {
            change["path"].as_str().unwrap_or_default().to_owned()
        }
        _ => String::new(),
    };
    if let Some(params) = params.as_object_mut() {
        params.insert("changes".to_owned(), Value::Array(changes));
    }
    question("fileChange", ActionKind::Edit, subject, params)
}

fn permissions_question(params: Value) -> Question {
    question("permissions", ActionKind::Other, String::new(), params)
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
    let server = params["serverName"].as_str().unwrap_or_default();
    let tool = match meta["tool_name"].as_str() {
        // Codex's own name for it, which is also what people know from Claude Code.
        Some(tool) => format!("mcp__{server}__{tool}"),
        None => format!("mcp__{server}"),
    };
    let reason = params["message"].as_str().map(str::to_owned);
    let input = if is_tool { meta["tool_params"].clone() } else { json!({}) };
    let mut question = question(&tool, ActionKind::Mcp, String::new(), input);
    question.reason = reason;
    Some(question)
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
    let id = QuestionId(String::new());
    Question {
        id,
        tool: tool.to_owned(),
        kind,
        subject,
        reason,
        input,
        edits: Vec::new(),
        choices: Vec::new(),
    }
}

fn without_nulls(mut value: Value) -> Value {
    if let Some(object) = value.as_object_mut() {
        object.retain(|_, value| !value.is_null());
    }
    value
}

/// The command inside `/bin/bash -lc '…'`, in which Codex wraps every one, so that a policy for
/// `git status` matches. What is not such a wrapper, entirely, stays as it is. (The request's
/// `commandActions` are no substitute: they are for display and leave parts of the command out.)
pub(super) fn shell_command(command: &str) -> String {
    let inner = || {
        let (shell, rest) = command.split_once(' ')?;
        let name = Path::new(shell).file_name()?.to_str()?;
        let script = rest.strip_prefix("-lc ").or_else(|| rest.strip_prefix("-c "))?;
        if matches!(name, "bash" | "zsh" | "sh") { single_word(script) } else { None }
    };
    inner().unwrap_or_else(|| command.to_owned())
}

/// Undoes the quoting of one shell word; none if `text` is more, or less, than that.
fn single_word(text: &str) -> Option<String> {
    let mut word = String::new();
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        match char {
            '\'' => loop {
                match chars.next()? {
                    '\'' => break,
                    char => word.push(char),
                }
            },
            '"' => loop {
                match chars.next()? {
                    '"' => break,
                    '\\' => match chars.next()? {
                        char @ ('"' | '\\' | '$' | '`') => word.push(char),
                        char => word.extend(['\\', char]),
                    },
                    '$' | '`' => return None,
                    char => word.push(char),
                }
            },
            '\\' => word.push(chars.next()?),
            char if char.is_alphanumeric() || "-_./:=@%+,".contains(char) => word.push(char),
            _ => return None,
        }
    }
    (!word.is_empty()).then_some(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(command: &str, expected: &str) {
        assert_eq!(shell_command(command), expected);
    }

    #[test]
    fn a_policy_sees_the_command_and_not_its_wrapper() {
        check("/bin/bash -lc 'git status'", "git status");
        check("/bin/bash -lc ls", "ls");
        check("zsh -c \"echo 'a' \\\"b\\\"\"", "echo 'a' \"b\"");
        check(r#"/bin/sh -lc 'echo '"'"'x'"'"''"#, "echo 'x'");
        check(r"/bin/bash -lc 'it'\''s'", "it's");
    }

    /// The subject is what the policy allows, so it must be all that would run.
    #[test]
    fn what_is_not_entirely_a_wrapper_stays_whole() {
        for whole in [
            "",
            "ls",
            "git status",
            "/bin/bash -lc 'git status' ; rm -rf .",
            "/bin/bash -lc 'git status';rm",
            "/bin/bash -lc 'git status' 'rm -rf .'",
            "/bin/bash -lc 'git status",
            "/bin/bash -lc \"echo $(rm x)\"",
            "/bin/bash -lc \"echo `rm x`\"",
            "/bin/bash -lc ls>x",
            "/bin/bash -lc ''",
            "/bin/bash -lc",
            "/bin/bash -x -lc 'git status'",
            "FOO=1 /bin/bash -lc 'git status'",
            "/usr/bin/python3 -c 'print(1)'",
        ] {
            check(whole, whole);
        }
    }

    #[track_caller]
    fn ask(method: &str, params: Value, changes: &Changes) -> (Question, Asked) {
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
        assert_eq!(patch("one", json!("/etc")).input["grantRoot"], "/etc");
        assert_eq!(patch("unknown", Value::Null).input, json!({"changes": []}));
    }

    #[test]
    fn patches_that_never_end_are_forgotten() {
        let mut changes = Changes::default();
        for i in 0..=CHANGES_MAX {
            changes.started(i.to_string(), Vec::new());
        }
        assert_eq!(changes.0.len(), CHANGES_MAX);
        changes.completed("5");
        assert_eq!(changes.0.len(), CHANGES_MAX - 1);
    }

    #[test]
    fn a_command_that_wants_the_network_is_asked_by_host() {
        let params = json!({"command": null, "networkApprovalContext": {"host": "example.org", "protocol": "https"}});
        let (question, _) =
            ask("item/commandExecution/requestApproval", params, &Changes::default());
        assert_eq!(question.kind, ActionKind::Fetch);
        assert_eq!(question.subject, "https://example.org");
    }

    #[test]
    fn permissions_are_granted_as_asked_or_not_at_all() {
        let params = json!({
            "threadId": "t", "reason": "fetch", "cwd": "/p",
            "permissions": {"network": {"enabled": true}, "fileSystem": null},
        });
        let asked = || ask("item/permissions/requestApproval", params.clone(), &Changes::default());
        assert_eq!(asked().0.input["permissions"]["network"], json!({"enabled": true}));
        let granted = json!({"network": {"enabled": true}});
        assert_eq!(
            asked().1.answer(&Verdict::Allow),
            json!({"permissions": granted, "scope": "turn"})
        );
        assert_eq!(
            asked().1.answer(&Verdict::AllowAlways),
            json!({"permissions": granted, "scope": "session"})
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
