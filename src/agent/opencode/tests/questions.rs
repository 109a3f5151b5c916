//! What opencode asks, in words that are the same for all engines, and what becomes of it.

use super::*;
use crate::agent::{Change, Choice, ChoiceOption, Edit};

fn deny(reason: &str) -> Verdict {
    Verdict::Deny { reason: reason.to_owned() }
}

fn permission(name: &str, metadata: Value) -> Value {
    json!({ "id": "per_1", "sessionID": "ses_1", "permission": name, "patterns": ["x/*"],
        "metadata": metadata, "tool": { "callID": "c" } })
}

fn call(tool: &str, input: Value) -> Value {
    let state = json!({ "status": "running", "input": input });
    let part = json!({ "type": "tool", "tool": tool, "callID": "c", "state": state });
    json!({ "sessionID": "ses_1", "part": part })
}

/// The question that a permission for a tool call becomes.
#[track_caller]
fn asked_for(tool: &str, input: Value, name: &str, metadata: Value) -> Question {
    let mut played = Played::prompted(&spec());
    played.event("message.part.updated", call(tool, input));
    played.event("permission.asked", permission(name, metadata));
    if played.last()["path"] == "/mcp" {
        let servers = json!({ "git": {}, "my": {}, "my_server": {}, "a b.c": {} });
        played.respond("GET", "/mcp", 200, servers);
    }
    played.questions().pop().expect("a question").clone()
}

#[track_caller]
fn check(name: &str, input: Value, metadata: Value, kind: ActionKind, subject: &str) {
    let question = asked_for(name, input, name, metadata);
    assert_eq!((question.kind, &question.subject[..]), (kind, subject), "{name}");
}

#[test]
fn permissions_have_kinds_and_subjects() {
    use ActionKind::{Fetch, Mcp, Other, Read, Run};
    let none = || json!({});
    check("bash", none(), json!({"command": "a && b"}), Run, "a && b");
    // Without the tool's input the path is not known: the pattern counts from the repository.
    check("read", json!({"filePath": "/p/.env"}), none(), Read, "/p/.env");
    check("read", none(), none(), Read, "");
    check("glob", none(), json!({"pattern": "*.rs", "path": "src"}), Read, "src/*.rs");
    check("glob", none(), json!({"pattern": "*.rs"}), Read, "*.rs");
    check("glob", none(), json!({"pattern": "/etc/*", "path": "src"}), Read, "/etc/*");
    check("glob", none(), json!({"pattern": "../*"}), Read, "");
    check("grep", none(), json!({"pattern": "x"}), Read, ".");
    check("list", none(), json!({"path": "/etc"}), Read, "/etc");
    check("webfetch", none(), json!({"url": "https://a"}), Fetch, "https://a");
    check("websearch", none(), json!({"query": "https://a"}), Fetch, "search: https://a");
    check("task", none(), json!({"description": "look"}), Other, "subagent: look");
    check("skill", none(), none(), Other, "skill: x/*");
    check("doom_loop", none(), json!({"tool": "bash"}), Other, "the same again and again: bash");
    check("git_push", none(), none(), Mcp, "git:push");
    check("a_b_c_d", none(), none(), Mcp, "a b.c:d");
    // It may be `server_x` of `my`, or `x` of `my_server`.
    check("my_server_x", none(), none(), Mcp, "");
    check("plugin_tool", none(), none(), Other, "");
}

#[test]
fn the_servers_are_asked_for_once_and_a_silent_server_costs_nothing() {
    let mut played = Played::prompted(&spec());
    played.event("permission.asked", permission("git_push", json!({})));
    assert!(played.questions().is_empty());
    played.respond("GET", "/mcp", 500, json!({}));
    assert_eq!(played.questions()[0].kind, ActionKind::Other);
    let mut again = permission("git_pull", json!({}));
    again["id"] = json!("per_2");
    played.event("permission.asked", again);
    assert_eq!(played.questions().len(), 2);
}

/// What leads outside counts as what will be done there.
#[test]
fn a_path_outside_is_asked_for_as_what_is_done_with_it() {
    let file = json!({ "filepath": "/etc/hosts", "parentDir": "/etc" });
    for (tool, kind) in [
        ("read", ActionKind::Read),
        ("grep", ActionKind::Read),
        ("write", ActionKind::Edit),
        ("apply_patch", ActionKind::Edit),
        ("unheard_of", ActionKind::Other),
    ] {
        let question = asked_for(tool, json!({}), "external_directory", file.clone());
        assert_eq!((question.kind, &question.subject[..]), (kind, "/etc/hosts"), "{tool}");
        assert_eq!(question.edits, []);
        assert!(question.reason.is_some());
    }
    let command = json!({ "command": "cat /etc/hosts", "directories": ["/etc"] });
    let question = asked_for("bash", json!({}), "external_directory", command);
    assert_eq!((question.kind, &question.subject[..]), (ActionKind::Run, "cat /etc/hosts"));
}

/// As it was seen: the tool is pending, the permission comes, and then the tool's input.
#[test]
fn a_permission_may_come_before_the_input_of_its_tool() {
    let mut played = Played::prompted(&spec());
    let mut pending = call("write", json!({}));
    pending["part"]["state"]["status"] = json!("pending");
    played.event("message.part.updated", pending);
    let file = json!({ "filepath": "/etc/hosts", "parentDir": "/etc" });
    played.event("permission.asked", permission("external_directory", file));
    assert_eq!(played.questions()[0].kind, ActionKind::Edit);
    played.event("message.part.updated", call("write", json!({ "filePath": "/etc/hosts" })));
    let line = TurnEvent::Progress("Editing `/etc/hosts`".to_owned());
    assert_eq!(played.events.last(), Some(&line));
}

/// The permission to leave the project and the one to run are for the same command.
#[test]
fn a_command_that_leads_outside_is_put_once() {
    let second = |command: &str, verdict| {
        let mut played = Played::prompted(&spec());
        let first = json!({ "command": "cat /etc/hosts", "directories": ["/etc"] });
        played.event("permission.asked", permission("external_directory", first));
        played.decide("per_1", verdict);
        let mut next = permission("bash", json!({ "command": command }));
        next["id"] = json!("per_2");
        played.event("permission.asked", next);
        played.questions().len()
    };
    assert_eq!(second("cat /etc/hosts", Verdict::Allow), 1);
    assert_eq!(second("cat /etc/shadow", Verdict::Allow), 2);
    assert_eq!(second("cat /etc/hosts", deny("no")), 2);
}

#[test]
fn an_edit_shows_what_changes() {
    let edit = |path: &str, diff: &str| Edit {
        path: path.to_owned(),
        diff: diff.to_owned(),
        ..Edit::default()
    };
    let patch = "Index: /p/a\n===\n--- /p/a\n+++ /p/a\n@@ -1 +1 @@\n-a\n+b\n";
    let one = json!({ "filepath": "/p/a", "diff": patch });
    let question = asked_for("edit", json!({}), "edit", one);
    assert_eq!((&question.subject[..], question.edits), ("/p/a", vec![edit("/p/a", "-a\n+b\n")]));
    let files = json!([
        { "filePath": "/p/a", "type": "update", "patch": patch },
        { "filePath": "/p/c", "type": "move", "patch": patch, "movePath": "/q/d" },
    ]);
    let many = json!({ "filepath": "a, c", "diff": patch, "files": files });
    let question = asked_for("apply_patch", json!({}), "edit", many);
    assert_eq!(question.subject, "", "a rule for one must not allow all");
    let changes = [Change::Modify, Change::Move, Change::MoveTarget];
    let paths = [("/p/a", "-a\n+b\n"), ("/p/c", "-a\n+b\n"), ("/q/d", " (moved from /p/c)\n")];
    let edits = paths.map(|(path, diff)| edit(path, diff));
    let edits: Vec<_> =
        edits.into_iter().zip(changes).map(|(it, change)| Edit { change, ..it }).collect();
    assert_eq!(question.edits, edits);
}

#[test]
fn what_a_tool_is_called_with_can_be_read() {
    let input = json!({ "branch": "main" });
    assert_eq!(asked_for("git_push", input.clone(), "git_push", json!({})).input, input);
    let mut played = Played::prompted(&spec());
    played.event("permission.asked", permission("read", json!({})));
    assert_eq!(played.questions()[0].input, json!({ "patterns": ["x/*"] }));
}

/// For every session in the directory, until the server ends.
#[test]
fn trap_nothing_is_stored_for_always() {
    for name in ["bash", "edit", "webfetch", "external_directory"] {
        let mut played = Played::prompted(&spec());
        played.event("permission.asked", permission(name, json!({ "command": "ls" })));
        played.decide("per_1", Verdict::AllowAlways);
        assert_eq!(replies(&played), [&json!({ "reply": "once" })], "{name}");
    }
}

fn asks(played: &mut Played, id: &str, session: &str) {
    let mut asked = permission("bash", json!({ "command": id }));
    asked["id"] = json!(id);
    asked["sessionID"] = json!(session);
    played.event("permission.asked", asked);
}

/// The server has taken the last reply, and says so in both ways.
fn replied(played: &mut Played, id: &str, session: &str, status: u16) {
    played.event("permission.replied", json!({ "sessionID": session, "requestID": id }));
    played.respond("POST", &format!("/permission/{id}/reply"), status, json!(true));
}

fn reject(message: &str) -> Value {
    json!({ "reply": "reject", "message": message })
}

/// With one permission opencode refuses all that its session waits for, without a reason.
#[test]
fn trap_a_refusal_would_take_the_others_of_its_session_with_it() {
    let once = json!({ "reply": "once" });
    let mut played = Played::prompted(&spec());
    asks(&mut played, "per_1", "ses_1");
    asks(&mut played, "per_2", "ses_1");
    played.decide("per_2", deny("why not"));
    assert!(replies(&played).is_empty(), "the other one is still open");
    played.decide("per_1", Verdict::Allow);
    assert_eq!(replies(&played), [&once], "it may be overtaken");
    replied(&mut played, "per_1", "ses_1", 200);
    assert_eq!(replies(&played), [&once, &reject("why not")]);
    assert_eq!(played.last()["path"], "/permission/per_2/reply");
    replied(&mut played, "per_2", "ses_1", 200);
    assert!(!played.events.iter().any(|it| matches!(it, TurnEvent::QuestionGone(_))));
    assert_eq!(replies(&played).len(), 2);
}

#[test]
fn several_refusals_have_all_their_reasons_in_the_first() {
    let mut played = Played::prompted(&spec());
    let created = json!({ "info": { "id": "ses_2", "parentID": "ses_1" } });
    played.event("session.created", created);
    asks(&mut played, "per_1", "ses_1");
    asks(&mut played, "per_2", "ses_1");
    asks(&mut played, "per_3", "ses_2");
    played.decide("per_1", deny("one"));
    played.decide("per_2", deny("two"));
    assert_eq!(replies(&played), [&reject("one\ntwo")], "a subagent's is no part of it");
    replied(&mut played, "per_1", "ses_1", 200);
    // It is gone already, unless opencode has become kinder.
    assert_eq!(replies(&played), [&reject("one\ntwo"), &reject("two")]);
    replied(&mut played, "per_2", "ses_1", 404);
    played.decide("per_3", deny("three"));
    assert_eq!(replies(&played).last(), Some(&&reject("three")));
}

#[test]
fn a_refusal_that_waits_is_told_when_the_other_is_gone_or_the_turn_is_stopped() {
    let mut played = Played::prompted(&spec());
    asks(&mut played, "per_1", "ses_1");
    asks(&mut played, "per_2", "ses_1");
    played.decide("per_1", deny("one"));
    let elsewhere = json!({ "sessionID": "ses_1", "requestID": "per_2" });
    played.event("permission.replied", elsewhere);
    assert_eq!(replies(&played), [&reject("one")]);

    let mut played = Played::prompted(&spec());
    asks(&mut played, "per_1", "ses_1");
    asks(&mut played, "per_2", "ses_1");
    played.decide("per_1", deny("one"));
    played.command(TurnCommand::Interrupt);
    let plain = json!({ "reply": "reject" });
    assert_eq!(replies(&played), [&plain, &plain]);
}

fn words() -> Value {
    let options = json!([{ "label": "Red", "description": "r" }, { "label": "Blue" }]);
    let questions = json!([
        { "question": "Which colour?", "options": options, "multiple": true },
        { "question": "Sure?", "options": [], "custom": false },
    ]);
    json!({ "id": "que_1", "sessionID": "ses_1", "questions": questions })
}

fn with_human() -> TurnSpec {
    TurnSpec { asks_human: true, ..spec() }
}

/// What is sent when the model's own question is answered.
#[track_caller]
fn check_words(verdict: Verdict, path: &str, body: Value) {
    let mut played = Played::prompted(&with_human());
    played.event("question.asked", words());
    played.decide("que_1", verdict);
    assert_eq!((&played.last()["path"], &played.last()["body"]), (&json!(path), &body));
    assert_eq!(played.last()["directory"], "/p");
}

#[test]
fn the_models_own_question_is_put_and_answered() {
    let mut played = Played::prompted(&with_human());
    played.event("question.asked", words());
    let option = |label: &str, description: &str| ChoiceOption {
        label: label.to_owned(),
        description: description.to_owned(),
    };
    let choice = Choice {
        question: "Which colour?".to_owned(),
        options: vec![option("Red", "r"), option("Blue", "")],
        is_multiple: true,
        is_open: true,
    };
    let question = &played.questions()[0];
    assert_eq!((question.choices.len(), &question.choices[0]), (2, &choice));
    assert!(!question.choices[1].is_open);
    let chosen = |it: &[&[&str]]| {
        let texts = |it: &&[&str]| it.iter().map(|it| (*it).to_owned()).collect();
        Verdict::Chosen(it.iter().map(texts).collect())
    };
    let answers = json!({ "answers": [["Red", "Blue"], ["yes"]] });
    check_words(chosen(&[&["Red", "Blue"], &["yes"]]), "/question/que_1/reply", answers);
    // A permission is no answer, and neither is half of one.
    for verdict in [Verdict::Allow, Verdict::AllowAlways, chosen(&[&["Red"]]), deny(" ")] {
        check_words(verdict, "/question/que_1/reject", json!({}));
    }
    let choice = chosen(&[&["yes"]]);
    let mut played = Played::prompted(&with_human());
    played.event("permission.asked", permission("bash", json!({ "command": "ls" })));
    played.decide("per_1", choice);
    assert_eq!(replies(&played)[0]["reply"], "reject", "a choice is no permission");
}

#[test]
fn trap_the_refusal_of_a_question_carries_its_reason_as_an_answer() {
    let told = "(No answer was given: ask me tomorrow)";
    let body = json!({ "answers": [[told], [told]] });
    check_words(deny("ask me tomorrow"), "/question/que_1/reply", body);
}

/// A subagent's, too; and one that is answered at a terminal is gone.
#[test]
fn a_subagents_question_is_put_and_may_be_answered_elsewhere() {
    let mut played = Played::prompted(&with_human());
    let mut asked = words();
    asked["sessionID"] = json!("ses_2");
    played.event("question.asked", asked);
    played.respond("GET", "/session/ses_2", 200, json!({ "id": "ses_2", "parentID": "ses_1" }));
    assert_eq!(played.questions().len(), 1);
    for kind in ["question.rejected", "question.replied"] {
        played.event(kind, json!({ "sessionID": "ses_2", "requestID": "que_1" }));
    }
    let gone = TurnEvent::QuestionGone(QuestionId("que_1".to_owned()));
    assert_eq!(played.events.iter().filter(|event| **event == gone).count(), 1);
}

#[test]
fn trap_an_interrupt_refuses_what_is_open() {
    let mut played = Played::prompted(&with_human());
    played.event("permission.asked", permission("bash", json!({ "command": "ls" })));
    played.event("question.asked", words());
    let before = played.writes.len();
    played.command(TurnCommand::Interrupt);
    let paths: Vec<&str> =
        played.writes[before..].iter().filter_map(|write| write["path"].as_str()).collect();
    let expected = ["/session/ses_1/abort", "/permission/per_1/reply", "/question/que_1/reject"];
    assert_eq!(paths, expected);
    assert_eq!(replies(&played), [&json!({ "reply": "reject" })]);
    let gone = |event: &&TurnEvent| matches!(event, TurnEvent::QuestionGone(_));
    assert_eq!(played.events.iter().filter(gone).count(), 2);
    // What is asked, or decided, after it.
    let writes = played.writes.len();
    played.decide("per_1", Verdict::Allow);
    assert_eq!(played.writes.len(), writes);
    played.event("permission.asked", permission("bash", json!({ "command": "ls" })));
    played.event("question.asked", words());
    assert_eq!(played.writes[writes]["body"]["reply"], "reject");
    assert_eq!(played.last()["path"], "/question/que_1/reject");
    assert_eq!(played.questions().len(), 2);
}

#[test]
fn the_end_takes_every_question_back() {
    let mut played = Played::prompted(&spec());
    played.event("permission.asked", permission("bash", json!({ "command": "ls" })));
    played.exit(Exit::Signal(9), "");
    let gone = TurnEvent::QuestionGone(QuestionId("per_1".to_owned()));
    assert_eq!(played.events.last(), Some(&gone));
}

#[track_caller]
fn check_progress(tool: &str, input: Value, expected: &[&str]) {
    let mut played = Played::prompted(&spec());
    played.events.clear();
    played.event("message.part.updated", call(tool, input.clone()));
    played.event("message.part.updated", call(tool, input));
    let lines: Vec<TurnEvent> =
        expected.iter().map(|line| TurnEvent::Progress((*line).to_owned())).collect();
    assert_eq!(played.events, lines);
}

#[test]
fn progress_is_told_once_when_a_tool_begins() {
    check_progress("bash", json!({"command": "cargo\ntest"}), &["Running `cargo test`"]);
    check_progress("edit", json!({"filePath": "/p/src/a"}), &["Editing `src/a`"]);
    check_progress("apply_patch", json!({"patchText": "x"}), &["Editing…"]);
    check_progress("read", json!({"filePath": "/etc/a"}), &["Reading `/etc/a`"]);
    check_progress("list", json!({}), &["Reading…"]);
    check_progress("grep", json!({"pattern": "x"}), &["Searching `x`"]);
    check_progress("websearch", json!({"query": "q"}), &["Searching `q`"]);
    check_progress("webfetch", json!({"url": "http://a"}), &["Fetching `http://a`"]);
    check_progress("task", json!({"description": "d"}), &["Asking subagent: `d`"]);
    check_progress("git_push", json!({}), &["Calling `git_push`"]);
    check_progress("todowrite", json!({}), &[]);
}

/// A turn has a message for each request to the model, and the last one tells of itself only.
#[test]
fn usage_is_that_of_the_whole_turn() {
    let info = |id: &str, parent: &str, input: u64| {
        json!({ "id": id, "parentID": parent, "role": "assistant", "cost": 0.5,
            "tokens": { "input": input, "output": 1, "cache": { "read": 100, "write": 0 } } })
    };
    let mut played = Played::prompted(&spec());
    let mut hear = |session: &str, info: Value| {
        played.event("message.updated", json!({ "sessionID": session, "info": info }));
    };
    hear("ses_1", info("m1", "u", 0));
    hear("ses_1", info("m1", "u", 1));
    hear("ses_1", info("m0", "an earlier turn", 1000));
    hear("stranger", info("m9", "u", 1000));
    hear("ses_1", json!({ "id": "u", "role": "user" }));
    let child = json!({ "id": "ses_2", "parentID": "ses_1" });
    played.event("session.created", json!({ "info": child }));
    played.event("message.updated", json!({ "sessionID": "ses_2", "info": info("m2", "u2", 2) }));
    played.answer(200, json!({ "info": info("m3", "u", 3), "parts": [] }));
    let usage = played.events.iter().find_map(|event| match event {
        TurnEvent::Usage(usage) => Some(usage.clone()),
        _ => None,
    });
    let expected = crate::agent::Usage { input_tokens: 306, output_tokens: 3, cost_usd: Some(1.5) };
    assert_eq!(usage, Some(expected));
}

/// The permission tells less of a call than the call itself.
#[test]
fn all_arguments_of_a_call_are_told() {
    let called = json!({ "command": "ls", "workdir": "/etc", "timeout": 5 });
    let question = asked_for("bash", called.clone(), "bash", json!({ "command": "ls" }));
    assert_eq!((question.input, &question.shown[..]), (called, &["/command".to_owned()][..]));
    let question =
        asked_for("bash", json!({ "command": "rm" }), "bash", json!({ "command": "ls" }));
    assert_eq!(question.input["command (called)"], "rm");
    let patch = "@@ -1 +1 @@\n-a\n+b\n";
    let called =
        json!({ "filePath": "/p/a", "oldString": "a", "newString": "b", "replaceAll": true });
    let metadata = json!({ "filepath": "/p/a", "diff": patch });
    let question = asked_for("edit", called, "edit", metadata);
    assert!(!question.shown.contains(&"/replaceAll".to_owned()));
    assert!(question.shown.contains(&"/oldString".to_owned()), "{:?}", question.shown);
}
