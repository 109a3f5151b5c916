//! What ACP agents ask, in words that are the same for all engines, and what becomes of it.

use super::*;
use crate::agent::Edit;

fn options() -> Value {
    json!([
        { "optionId": "always", "kind": "allow_always" },
        { "optionId": "once", "kind": "allow_once" },
        { "optionId": "no", "kind": "reject_once" },
        { "optionId": "never", "kind": "reject_always" },
    ])
}

/// The question that a call becomes; `before` was told of it earlier.
#[track_caller]
fn asked(before: Value, call: Value) -> Question {
    let mut played = Played::prompted(&spec());
    if !before.is_null() {
        played.update(before);
    }
    played.permission(1, call, options());
    played.questions()[0].clone()
}

#[track_caller]
fn check(call: Value, kind: ActionKind, subject: &str) {
    let question = asked(Value::Null, call.clone());
    assert_eq!((question.kind, &question.subject[..]), (kind, subject), "{call}");
}

#[test]
fn calls_have_kinds_and_subjects() {
    use ActionKind::{Edit, Fetch, Mcp, Other, Read, Run};
    let call = |kind: &str, input: Value| json!({ "kind": kind, "title": "T", "rawInput": input });
    check(call("execute", json!({"command": "git status"})), Run, "git status");
    check(call("execute", json!({"command": "/bin/bash -lc 'git status'"})), Run, "git status");
    check(call("execute", json!({"command": ["bash", "-lc", "a; b"]})), Run, "a; b");
    check(call("execute", json!({"command": ["a", "b c"]})), Run, "a 'b c'");
    check(call("execute", json!({"cmd": "rm"})), Run, "");
    check(json!({"kind": "execute", "title": "git status"}), Run, "git status");
    check(json!({"kind": "execute", "title": "git status && …"}), Run, "");
    check(call("edit", json!({"file_path": "/p/a"})), Edit, "/p/a");
    check(call("delete", json!({"path": "/p/a"})), Edit, "/p/a");
    check(call("read", json!({"abs_path": "/p/a"})), Read, "/p/a");
    check(json!({"kind": "search", "locations": [{"path": "/p"}]}), Read, "/p");
    check(json!({"kind": "read", "locations": [{"path": "/a"}, {"path": "/b"}]}), Read, "");
    check(call("fetch", json!({"url": "https://a"})), Fetch, "https://a");
    check(call("fetch", json!({"query": "https://a"})), Fetch, "search: https://a");
    check(call("think", json!({})), Other, "T");
    let named = json!({"kind": "other", "_meta": {"toolName": "mcp__git__push"}});
    check(named, Mcp, "git:push");
    check(json!({"kind": "other", "title": "mcp__git__push__x"}), Mcp, "git:push__x");
    check(json!({"kind": "other", "title": "push (git MCP Server)"}), Mcp, "git:push");
}

/// Codex-acp 0.16.0 names commands by what it takes their purpose for, and that leaves parts out.
#[test]
fn trap_a_command_is_run_whatever_it_is_called() {
    for kind in ["read", "search", "edit", "fetch", "other", ""] {
        let input = json!({ "command": ["/bin/bash", "-lc", "cat a > b"] });
        check(json!({ "kind": kind, "rawInput": input }), ActionKind::Run, "cat a > b");
    }
}

/// What the agent is told to run may be made to look like something that is allowed.
#[test]
fn trap_a_command_that_reads_like_a_tool() {
    for command in ["mcp__bridge__x; rm -rf ~", "rm -rf ~ # (bridge MCP Server)"] {
        let input = json!({ "command": command });
        let claude =
            json!({"kind": "execute", "title": command, "name": "Bash", "rawInput": input});
        check(claude, ActionKind::Run, command);
        check(json!({"kind": "execute", "title": command}), ActionKind::Run, command);
        check(
            json!({"kind": "other", "title": command, "rawInput": input}),
            ActionKind::Run,
            command,
        );
    }
}

#[test]
fn an_edit_shows_what_changes_in_every_file() {
    let edit = |path: &str, diff: &str| Edit {
        path: path.to_owned(),
        diff: diff.to_owned(),
        ..Edit::default()
    };
    let block = |path: &str, old: Value, new: &str| json!({ "type": "diff", "path": path, "oldText": old, "newText": new });
    let one = json!({
        "kind": "edit", "rawInput": {"file_path": "/p/a"}, "locations": [{"path": "/p/a"}],
        "content": [block("/p/a", json!("x\ny\n"), "x\nz\n")],
    });
    let question = asked(Value::Null, one);
    assert_eq!(
        (&question.subject[..], question.edits),
        ("/p/a", vec![edit("/p/a", " x\n-y\n+z\n")])
    );
    let two = json!({
        "kind": "edit", "locations": [{"path": "/p/a"}, {"path": "/etc/c"}],
        "content": [block("/p/a", Value::Null, "x\n"), block("/p/b", json!("x\n"), "")],
    });
    let question = asked(Value::Null, two);
    assert_eq!(question.subject, "", "a rule for one must not allow all");
    let edits = [edit("/p/a", "+x\n"), edit("/p/b", "-x\n"), edit("/etc/c", "")];
    assert_eq!(question.edits, edits);
    assert_eq!(asked(Value::Null, json!({"kind": "read", "content": []})).edits, []);
}

#[test]
fn what_was_told_before_counts() {
    let before = json!({
        "sessionUpdate": "tool_call", "toolCallId": "c", "kind": "edit", "title": "Edit a",
        "rawInput": {"file_path": "/p/a", "why": "x"},
        "content": [{"type": "diff", "path": "/p/a", "oldText": null, "newText": "n"}],
    });
    let question = asked(before, json!({"toolCallId": "c", "rawInput": {}, "content": []}));
    assert_eq!((question.kind, &question.subject[..]), (ActionKind::Edit, "/p/a"));
    assert_eq!(question.edits[0].diff, "+n\n");
    assert_eq!(question.input["why"], "x");
}

/// Without a subject the title still says to the human what it is about.
#[test]
fn a_call_without_a_subject_has_its_title_as_the_reason() {
    let question = asked(Value::Null, json!({"kind": "fetch", "title": "Fetch the docs"}));
    assert_eq!(question.reason.as_deref(), Some("Fetch the docs"));
    let input = json!({"command": "ls", "description": "look"});
    let question = asked(Value::Null, json!({"kind": "execute", "title": "ls", "rawInput": input}));
    assert_eq!(question.reason.as_deref(), Some("look"));
}

/// The verdict and the option that it chooses.
#[track_caller]
fn check_option(verdict: Verdict, options: Value, expected: Option<&str>) {
    let mut played = Played::prompted(&spec());
    played.permission(7, json!({ "kind": "execute", "rawInput": { "command": "ls" } }), options);
    let question = played.questions()[0].id.clone();
    played.command(TurnCommand::Decide { question, verdict });
    assert_eq!(played.outcome(7).unwrap()["optionId"].as_str(), expected);
}

/// With many agents for ever, and written into the project.
#[test]
fn trap_nothing_is_stored_for_always() {
    check_option(Verdict::Allow, options(), Some("once"));
    check_option(Verdict::AllowAlways, options(), Some("once"));
    check_option(deny(), options(), Some("no"));
    check_option(Verdict::Chosen(vec![vec!["yes".to_owned()]]), options(), Some("no"));
    let only_always = json!([{ "optionId": "always", "kind": "allow_always" }]);
    check_option(Verdict::AllowAlways, only_always.clone(), None);
    check_option(deny(), only_always, None);
    // Nor is anything kept here: what is like it is asked again.
    let call = json!({ "kind": "execute", "rawInput": { "command": "ls" } });
    let mut played = Played::prompted(&spec());
    for id in [7, 8] {
        played.permission(id, call.clone(), options());
        let question = played.questions().last().unwrap().id.clone();
        played.command(TurnCommand::Decide { question, verdict: Verdict::AllowAlways });
    }
    assert_eq!(played.questions().len(), 2);
}

#[test]
fn trap_what_is_asked_after_the_interrupt_is_cancelled() {
    let call = json!({ "kind": "execute", "rawInput": { "command": "ls" } });
    let mut played = Played::prompted(&spec());
    played.permission(1, call.clone(), options());
    played.permission(2, call.clone(), options());
    played.command(TurnCommand::Interrupt);
    let question = played.questions()[0].id.clone();
    played.command(TurnCommand::Decide { question, verdict: Verdict::Allow });
    played.permission(3, call, options());
    for id in [1, 2, 3] {
        assert_eq!(played.outcome(id), Some(&json!({ "outcome": "cancelled" })));
        assert_eq!(
            played
                .writes
                .iter()
                .filter(|write| write["id"] == id && write["method"].is_null())
                .count(),
            1
        );
    }
    let gone = |event: &&TurnEvent| matches!(event, TurnEvent::QuestionGone(_));
    assert_eq!(played.events.iter().filter(gone).count(), 2);
}

#[test]
fn the_end_takes_every_question_back() {
    let call = json!({ "kind": "execute", "rawInput": { "command": "ls" } });
    let gone = TurnEvent::QuestionGone(QuestionId("1".to_owned()));
    let mut played = Played::prompted(&spec());
    played.permission(1, call.clone(), options());
    played.result("session/prompt", json!({ "stopReason": "end_turn" }));
    assert!(played.events.contains(&gone));
    let mut played = Played::prompted(&spec());
    played.permission(1, call, options());
    played.exit(Exit::Signal(9), "");
    assert_eq!(played.events.last(), Some(&gone));
}

#[test]
fn trap_other_requests_are_refused_at_once() {
    for method in ["fs/write_text_file", "terminal/create", "craft/drainMidTurnQueue", ""] {
        let mut played = Played::prompted(&spec());
        played.value(json!({ "id": 5, "method": method, "params": {} }));
        assert_eq!(played.writes.last().unwrap()["error"]["code"], -32601, "{method}");
    }
}

#[track_caller]
fn check_progress(updates: &[Value], expected: &[&str]) {
    let mut played = Played::prompted(&spec());
    played.events.clear();
    for update in updates {
        let mut update = update.clone();
        update["sessionUpdate"] = json!("tool_call_update");
        update["toolCallId"] = json!("c");
        played.update(update);
    }
    let lines: Vec<TurnEvent> =
        expected.iter().map(|line| TurnEvent::Progress((*line).to_owned())).collect();
    assert_eq!(played.events, lines);
}

#[test]
fn progress_is_told_once_and_when_it_says_something() {
    let call = |kind: &str, title: &str, input: Value| json!({ "kind": kind, "title": title, "rawInput": input });
    let run = call("execute", "cargo test (run)", json!({"command": "cargo\ntest"}));
    check_progress(&[run.clone(), run], &["Running `cargo test`"]);
    // Opencode and claude first say little.
    let bare = call("execute", "bash", json!({}));
    let later = json!({"status": "in_progress", "rawInput": {"command": "ls"}});
    check_progress(&[call("edit", "edit", json!({})), json!({"status": "completed"})], &[]);
    check_progress(&[json!({"kind": "execute", "status": "pending"}), bare], &["Running `bash`"]);
    check_progress(&[call("other", "", json!({})), later], &[]);
    check_progress(&[call("edit", "Edit", json!({"file_path": "/p/src/a"}))], &["Editing `src/a`"]);
    check_progress(&[call("read", "Read", json!({"path": "/etc/a"}))], &["Reading `/etc/a`"]);
    let search = json!({"kind": "search", "title": "grep x", "status": "in_progress"});
    check_progress(&[search], &["Searching `grep x`"]);
    check_progress(&[call("fetch", "F", json!({"url": "http://a"}))], &["Fetching `http://a`"]);
    check_progress(&[call("think", "look", json!({}))], &["Asking subagent: `look`"]);
    let mcp = json!({"kind": "other", "title": "mcp__git__push"});
    check_progress(&[mcp], &["Calling `git:push`"]);
}

#[track_caller]
fn check_cost(resumed: bool, before: Option<f64>, expected: Option<f64>) {
    let session = resumed.then(|| SessionId::new("s"));
    let mut played = Played::new(&TurnSpec { session, ..spec() });
    let capabilities = json!({ "sessionCapabilities": { "resume": {} } });
    played.result("initialize", json!({ "protocolVersion": 1, "agentCapabilities": capabilities }));
    let cost =
        |amount: f64| json!({ "sessionUpdate": "usage_update", "cost": { "amount": amount } });
    if let Some(before) = before {
        played.update(cost(before));
    }
    let method = if resumed { "session/resume" } else { "session/new" };
    played.result(method, json!({ "sessionId": "s" }));
    played.update(cost(1.5));
    played.update(json!({ "sessionUpdate": "usage_update", "used": 1 }));
    let usage = json!({ "inputTokens": 10, "outputTokens": 2 });
    played.result("session/prompt", json!({ "stopReason": "end_turn", "usage": usage }));
    let usage = crate::agent::Usage { input_tokens: 10, output_tokens: 2, cost_usd: expected };
    assert!(played.events.contains(&TurnEvent::Usage(usage)), "{:?}", played.events);
}

/// Agents tell what the session has cost, in all turns. Where that is not known from before, it is
/// not guessed.
#[test]
fn cost_is_that_of_the_turn() {
    check_cost(false, None, Some(1.5));
    check_cost(true, Some(0.5), Some(1.0));
    check_cost(true, None, None);
}

/// What the agent tells of its tool's input and what its diff shows may differ.
#[test]
fn only_what_is_said_is_left_out_of_the_arguments() {
    let block =
        |new: &str| json!({ "type": "diff", "path": "/p/a", "oldText": null, "newText": new });
    let call = |new: &str| {
        let input = json!({ "file_path": "/p/a", "content": "x\n", "mode": 7 });
        json!({ "kind": "edit", "rawInput": input, "content": [block(new)] })
    };
    assert_eq!(asked(Value::Null, call("x\n")).shown, ["/content", "/file_path"]);
    assert_eq!(asked(Value::Null, call("harmless\n")).shown, ["/file_path"]);
    let input = json!({ "command": ["bash", "-lc", "ls"], "cwd": "/etc", "env": {} });
    assert_eq!(asked(Value::Null, json!({ "rawInput": input })).shown, ["/command"]);
    let deleted = json!({ "kind": "delete", "rawInput": { "path": "/p/a" } });
    assert_eq!(asked(Value::Null, deleted).edits[0].change, crate::agent::Change::Delete);
}

/// Whether somebody can allow what is asked with these options, and what is answered then.
#[track_caller]
fn check_offer(options: Value, chosen: Option<&str>) {
    let mut played = Played::prompted(&spec());
    let call = json!({ "kind": "execute", "rawInput": { "command": "ls" } });
    played.permission(7, call, options);
    let question = played.questions()[0].clone();
    assert_eq!(question.cannot_allow.is_none(), chosen.is_some());
    let verdict = Verdict::Allow;
    played.command(TurnCommand::Decide { question: question.id, verdict });
    assert_eq!(played.outcome(7).unwrap()["optionId"].as_str(), chosen);
}

#[test]
fn an_option_without_a_kind_counts_if_its_id_says_what_it_is() {
    check_offer(json!([{ "optionId": "always", "kind": "allow_always" }]), None);
    check_offer(
        json!([{ "optionId": "allow-once" }, { "optionId": "reject" }]),
        Some("allow-once"),
    );
    check_offer(json!([{ "optionId": "allow" }, { "optionId": "yes" }]), None);
    check_offer(json!([{ "optionId": "once", "kind": "allow_always" }]), None);
    check_offer(json!([{ "name": "allow_once" }]), None);
    check_offer(json!([]), None);
}
