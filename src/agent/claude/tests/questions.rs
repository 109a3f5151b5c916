//! What Claude Code asks, in words that are the same for all engines, and what becomes of it.

use super::*;
use crate::agent::{ActionKind, Choice, ChoiceOption, Edit};

/// The question that a request becomes.
#[track_caller]
fn asked(tool: &str, input: Value) -> Question {
    let mut claude = Claude::default();
    let mut actions = Actions::default();
    claude.on_value(can_use_tool("1", tool, input), &mut actions);
    match actions.events.pop() {
        Some(TurnEvent::Question(question)) => question,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn check(tool: &str, input: Value, kind: ActionKind, subject: &str) {
    let question = asked(tool, input);
    assert_eq!((question.kind, &question.subject[..]), (kind, subject), "{tool}");
}

#[test]
fn tools_have_kinds_and_subjects() {
    use ActionKind::{Edit, Fetch, Mcp, Other, Read, Run};
    check("Bash", json!({"command": "ls"}), Run, "ls");
    check("Monitor", json!({"command": "tail -f x"}), Run, "tail -f x");
    check("Write", json!({"file_path": "/a"}), Edit, "/a");
    check("Edit", json!({"file_path": "/a"}), Edit, "/a");
    check("MultiEdit", json!({"file_path": "/a"}), Edit, "/a");
    check("NotebookEdit", json!({"notebook_path": "/a"}), Edit, "/a");
    check("NotebookRead", json!({"notebook_path": "/a"}), Read, "/a");
    check("Read", json!({"file_path": "/a"}), Read, "/a");
    check("Glob", json!({"pattern": "*.rs"}), Read, "*.rs");
    check("Glob", json!({"pattern": "*.rs", "path": "src/"}), Read, "src/*.rs");
    check("Glob", json!({"pattern": "/etc/*", "path": "src"}), Read, "/etc/*");
    check("Glob", json!({"pattern": "../*", "path": "src"}), Read, "");
    check("Glob", json!({"pattern": "{a,/etc}/*"}), Read, "");
    check("Grep", json!({"pattern": "x", "path": "src"}), Read, "src");
    check("Grep", json!({"pattern": "x"}), Read, ".");
    check("LS", json!({"path": "/etc"}), Read, "/etc");
    check("WebFetch", json!({"url": "http://a"}), Fetch, "http://a");
    check("WebSearch", json!({"query": "https://a"}), Fetch, "search: https://a");
    check("mcp__git__push", json!({"": "x"}), Mcp, "git:push");
    check("mcp__git__push__all", json!({}), Mcp, "git:push__all");
    check("mcp__git", json!({}), Mcp, "git");
    check("Agent", json!({"description": "find"}), Other, "subagent: find");
    check("Skill", json!({"skill": "deploy"}), Other, "skill: deploy");
    check("TodoWrite", json!({}), Other, "");
    check("Bash", json!({"command": ["ls"]}), Run, "");
    check("bash", json!(null), Other, "");
}

#[track_caller]
fn check_edit(tool: &str, input: Value, path: &str, diff: &str) {
    let change =
        if tool == "Write" { crate::agent::Change::Write } else { crate::agent::Change::Modify };
    let edit = Edit { path: path.to_owned(), diff: diff.to_owned(), change };
    assert_eq!(asked(tool, input).edits, [edit], "{tool}");
}

#[test]
fn an_edit_shows_what_changes() {
    check_edit("Write", json!({"file_path": "/a", "content": "x\ny\n"}), "/a", "+x\n+y\n");
    let edit = json!({"old_string": "a\nb", "new_string": "a\nc"});
    let mut one = edit.clone();
    one["file_path"] = json!("/a");
    check_edit("Edit", one, "/a", " a\n-b\n+c\n");
    let many = json!({"file_path": "/a", "edits": [edit, {"old_string": "d", "new_string": ""}]});
    check_edit("MultiEdit", many, "/a", " a\n-b\n+c\n …\n-d\n");
    let cell = json!({"notebook_path": "/n", "cell_id": "c1", "new_source": "1+1"});
    check_edit("NotebookEdit", cell, "/n", "+1+1\n");
    let gone = json!({"notebook_path": "/n", "cell_id": "c1", "edit_mode": "delete"});
    check_edit("NotebookEdit", gone, "/n", "-(cell c1)\n");
    check_edit("Write", json!([]), "", "");
    assert_eq!(asked("Bash", json!({"command": "ls"})).edits, []);
}

fn colours(more: Value) -> Value {
    let mut question = json!({
        "question": "Which color?", "header": "Color",
        "options": [{"label": "Red", "description": "r"}, {"label": "Blue"}],
    });
    question.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({ "questions": [question, {"question": "Why?", "options": []}] })
}

#[test]
fn the_models_own_questions_have_options() {
    let option = |label: &str, description: &str| ChoiceOption {
        label: label.to_owned(),
        description: description.to_owned(),
    };
    let mut expected = Choice {
        question: "Which color?".to_owned(),
        options: vec![option("Red", "r"), option("Blue", "")],
        is_multiple: false,
        is_open: true,
    };
    assert_eq!(asked("AskUserQuestion", colours(json!({}))).choices[0], expected);
    expected.is_multiple = true;
    assert_eq!(
        asked("AskUserQuestion", colours(json!({"multiSelect": true}))).choices[0],
        expected
    );
    assert_eq!(asked("Bash", colours(json!({}))).choices, []);
}

/// As the recorded host did it, and what the model then read.
#[test]
fn an_answer_to_the_models_question_reaches_it() {
    let chosen = Verdict::Chosen(vec![vec!["Blue".to_owned()]]);
    let play = Play::new(None).verdict(chosen).run("ask_user_question");
    play.answers_as_recorded("ask_user_question");
    let Some(TurnEnd::Answered { text }) = &play.end else { panic!("{:?}", play.end) };
    assert!(text.contains(r#""Which color?"="Blue""#), "{text}");
}

#[track_caller]
fn check_verdict(tool: &str, input: Value, verdict: Verdict, expected: Value) {
    let mut play = started().verdict(verdict);
    play.value(can_use_tool("1", tool, input));
    assert_eq!(play.writes, [wire::success("1", expected)]);
}

#[test]
fn trap_words_are_no_permission() {
    let chosen = |chosen: &[&[&str]]| {
        Verdict::Chosen(
            chosen.iter().map(|it| it.iter().map(|it| (*it).to_owned()).collect()).collect(),
        )
    };
    let mut input = colours(json!({"multiSelect": true}));
    let ask = input.clone();
    input["answers"] = json!({"Which color?": "Red, Blue", "Why?": "because"});
    let allowed = json!({"behavior": "allow", "updatedInput": input});
    check_verdict(
        "AskUserQuestion",
        ask.clone(),
        chosen(&[&["Red", "Blue"], &["because"]]),
        allowed,
    );
    let misfit = json!({"behavior": "deny", "message": "The answer does not fit what was asked."});
    for wrong in [&[&["Red"][..]][..], &[&["Red"], &[]], &[]] {
        check_verdict("AskUserQuestion", ask.clone(), chosen(wrong), misfit.clone());
    }
    // A choice is no permission, and a permission is no choice.
    check_verdict("Bash", json!({"command": "ls"}), chosen(&[]), misfit);
    let none = json!({
        "behavior": "deny",
        "message": "Nobody chose an answer. Ask in your final answer instead.",
    });
    check_verdict("AskUserQuestion", ask.clone(), Verdict::Allow, none.clone());
    check_verdict("AskUserQuestion", ask.clone(), Verdict::AllowAlways, none);
    let refused = json!({"behavior": "deny", "message": "later"});
    check_verdict("AskUserQuestion", ask, Verdict::Deny { reason: "later".to_owned() }, refused);
}

/// What Claude Code suggests would be written into the project's settings.
#[test]
fn trap_nothing_is_stored_for_always() {
    let mut question = can_use_tool("1", "Bash", json!({"command": "ls"}));
    question["request"]["permission_suggestions"] = json!([
        { "type": "addRules", "rules": [{ "toolName": "Bash" }], "behavior": "allow",
          "destination": "localSettings" },
        { "type": "setMode", "mode": "acceptEdits", "destination": "session" },
    ]);
    let [once, always] = [Verdict::Allow, Verdict::AllowAlways].map(|verdict| {
        let mut play = started().verdict(verdict);
        play.value(question.clone());
        play.host.writes
    });
    assert_eq!(once, always);
    assert_eq!(once, [wire::allow("1", &json!({"command": "ls"}))]);
}

/// A turn with two open questions.
fn asking_twice() -> Play {
    let mut play = started();
    play.at_once = false;
    play.value(can_use_tool("1", "Bash", json!({"command": "a"})));
    play.value(can_use_tool("2", "Bash", json!({"command": "b"})));
    play.log.clear();
    play
}

const GONE: &str = "QuestionGone(QuestionId(\"1\"))\nQuestionGone(QuestionId(\"2\"))\n";

/// An answer after the interrupt could still start the tool.
#[test]
fn trap_an_interrupt_takes_every_question_back() {
    let mut play = asking_twice();
    play.command(TurnCommand::Interrupt);
    assert_eq!(play.log, format!("write {}\n{GONE}", wire::interrupt("interrupt")));
    play.log.clear();
    let question = QuestionId("1".to_owned());
    play.command(TurnCommand::Decide { question, verdict: Verdict::Allow });
    play.value(json!({ "type": "control_cancel_request", "request_id": "2" }));
    assert_eq!(play.log, "");
    play.value(can_use_tool("3", "Bash", json!({"command": "c"})));
    assert_eq!(play.log, format!("write {}\n", wire::deny("3", "The turn was stopped.")));
}

/// An engine that asks and dies leaves no question behind.
#[test]
fn the_end_takes_every_question_back() {
    let mut play = asking_twice();
    play.exit(Exit::Signal(9), "");
    assert!(play.log.starts_with(GONE), "{}", play.log);
    let mut play = asking_twice();
    play.value(json!({ "type": "result", "subtype": "success", "result": "over" }));
    assert_eq!(play.log, format!("{GONE}Answered {{ text: \"over\" }}\n"));
}

#[track_caller]
fn check_progress(tool: &str, input: Value, expected: &str) {
    let mut play = Play::new(None);
    let tool_use = json!({ "type": "tool_use", "name": tool, "input": input });
    play.value(json!({ "type": "assistant", "message": { "content": [tool_use] } }));
    assert_eq!(play.log.trim_end(), expected);
}

#[test]
fn progress_is_told_when_a_tool_begins() {
    let line = |line: &str| format!("Progress({line:?})");
    check_progress("Bash", json!({"command": "cargo\ntest"}), &line("Running `cargo test`"));
    check_progress("Edit", json!({"file_path": "/w/src/a.rs"}), &line("Editing `src/a.rs`"));
    check_progress("Read", json!({"file_path": "/etc/hosts"}), &line("Reading `/etc/hosts`"));
    check_progress("Grep", json!({"pattern": "fn x", "path": "/w"}), &line("Searching `fn x`"));
    check_progress("WebSearch", json!({"query": "q"}), &line("Searching `q`"));
    check_progress("WebFetch", json!({"url": "http://a"}), &line("Fetching `http://a`"));
    check_progress("Agent", json!({"description": "look"}), &line("Asking subagent: `look`"));
    check_progress("mcp__git__push", json!({}), &line("Calling `git:push`"));
    check_progress("mcp__bridge__bridge_post", json!({}), "");
    check_progress("TodoWrite", json!({}), "");
}

#[test]
fn a_limit_is_told_with_the_time_of_its_end() {
    let event = |status: &str, more: Value| {
        let mut info = json!({ "status": status, "rateLimitType": "five_hour" });
        info.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({ "type": "rate_limit_event", "rate_limit_info": info })
    };
    let mut play = started();
    play.value(event("allowed", json!({"resetsAt": 1_800_000_000})));
    play.value(event("allowed_warning", json!({"utilization": 0.9})));
    play.value(event("rejected", json!({"isUsingOverage": true})));
    assert_eq!(play.log, "");
    play.value(event("rejected", json!({"resetsAt": 1_800_000_000_u64})));
    let next = Some(Timestamp::from_millis(1_800_000_000_000));
    let retry = TurnEvent::Retry { message: "the five hour limit is reached".to_owned(), next };
    assert_eq!(play.log, format!("{retry:?}\n"));
    play.value(json!({
        "type": "result", "subtype": "success", "is_error": true, "api_error_status": 429,
        "result": "You've hit your limit",
    }));
    let Some(TurnEnd::Failed(failure)) = &play.end else { panic!("{:?}", play.end) };
    assert!(failure.advice.contains("2027-01-15T08:00:00"), "{}", failure.advice);
}

/// What is not said by the subject or a diff is shown beside them, whatever it is.
#[test]
fn only_what_is_said_is_left_out_of_the_arguments() {
    let check = |tool: &str, input: Value, shown: &[&str]| {
        assert_eq!(asked(tool, input).shown, shown, "{tool}");
    };
    let sandbox =
        json!({"command": "ls", "dangerouslyDisableSandbox": true, "description": "look"});
    check("Bash", sandbox, &["/command"]);
    check("Bash", json!({"command": ["ls"], "timeout": 5}), &[]);
    let edit = json!({"old_string": "a", "new_string": "b", "replace_all": true});
    let edits = json!({"file_path": "/a", "edits": [edit, {"old_string": 7, "new_string": "c"}]});
    let texts = ["/file_path", "/edits/0/old_string", "/edits/0/new_string", "/edits/1/new_string"];
    check("MultiEdit", edits, &texts);
    check("Glob", json!({"pattern": "*", "path": "/etc"}), &[]);
    check("mcp__git__push", json!({"command": "x", "force": true}), &[]);
}
