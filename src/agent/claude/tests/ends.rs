//! Ends that are told by standard error, by the result's fields, or not at all.

use super::*;
use crate::agent::{Failure, FailureKind};

#[track_caller]
fn failure(end: Option<TurnEnd>) -> Failure {
    match end {
        Some(TurnEnd::Failed(failure)) => failure,
        end => panic!("{end:?} is no failure"),
    }
}

#[track_caller]
fn check_recording(recording: &str, kind: FailureKind, message: &str, advice: &str) {
    let failure = failure(Play::new(None).run(recording).host.end);
    assert_eq!(failure.kind, kind, "{failure:?}");
    assert!(failure.message.contains(message), "{failure:?}");
    assert!(failure.advice.contains(advice), "{failure:?}");
}

#[test]
fn starts_that_fail_say_why() {
    check_recording("session_in_use", FailureKind::Busy, "is already in use", "Close the other");
    check_recording("unknown_flag", FailureKind::Protocol, "--no-such-flag", "claude update");
    check_recording("stdin_not_json", FailureKind::Protocol, "could not read", "up to date");
}

/// Trap 18: as root the bypass does not start; we don't claim a sandbox behind the user's back.
#[test]
fn trap_18_root_and_bypass() {
    check_recording("root_with_bypass", FailureKind::Refused, "root/sudo", "IS_SANDBOX=1");
    assert!(!ENV.iter().any(|(name, _)| *name == "IS_SANDBOX"));
}

/// The line that could not be parsed is the prompt.
#[test]
fn a_prompt_on_standard_error_is_not_passed_on() {
    let mut play = Play::new(None);
    play.exit(Exit::Code(1), "Error parsing streaming input line: {\"secret\": SyntaxError");
    assert!(!format!("{:?}", play.end).contains("secret"));
}

#[track_caller]
fn check_exit(session: Option<&str>, exit: Exit, stderr: &str, expected: &str) {
    let mut play = Play::new(session);
    play.exit(exit, stderr);
    let end = format!("{:?}", play.host.end.unwrap());
    assert!(end.contains(expected), "{end} lacks {expected:?}");
}

#[test]
fn an_exit_without_a_result_is_a_crash_with_the_last_words() {
    let long: Vec<String> = (0..50).map(|n| format!("line {n}\n")).collect();
    let long = long.join("\n");
    check_exit(None, Exit::Code(3), &long, "exit code 3 before it answered, and said: line 46 /");
    check_exit(None, Exit::Signal(9), " \n", "signal 9 before it answered, and said nothing.");
    check_exit(None, Exit::Unknown, "a\u{1b}[31mb\u{7}", "said: ab");
    let lost = "No conversation found with session ID: x";
    check_exit(Some(SESSION), Exit::Code(1), lost, "SessionGone");
    // Nothing was to be resumed, so a retry with a fresh session could go on for ever.
    check_exit(None, Exit::Code(1), lost, "Crashed");
}

/// Trap 2: exit code 0 can mean aborted, with no result line at all.
#[test]
fn trap_2_the_exit_code_does_not_tell() {
    let mut play = started();
    play.command(TurnCommand::Interrupt);
    play.exit(Exit::Code(0), "");
    assert_eq!(play.end, Some(TurnEnd::Interrupted));

    check_exit(None, Exit::Code(0), "", "Crashed");
}

/// Trap 19: warnings on standard error are no failure.
#[test]
fn trap_19_standard_error_is_not_failure() {
    let mut play = started();
    play.value(json!({ "type": "result", "subtype": "success", "result": "done" }));
    play.exit(Exit::Code(1), "Ignoring 2 permissions.allow entries: is already in use");
    assert_eq!(play.end, Some(TurnEnd::Answered { text: "done".to_owned() }));
}

#[track_caller]
fn check_result(result: Value, kind: FailureKind, message: &str) {
    let mut play = started();
    let mut line = json!({ "type": "result", "subtype": "success", "is_error": true });
    line.as_object_mut().unwrap().extend(result.as_object().unwrap().clone());
    play.value(line);
    let failure = failure(play.host.end);
    assert_eq!(failure.kind, kind, "{failure:?}");
    assert!(failure.message.contains(message), "{failure:?}");
    assert!(!failure.advice.is_empty());
}

#[test]
fn results_that_are_failures() {
    use FailureKind::{Model, NotLoggedIn, RateLimited};
    let status = |status, text| json!({ "api_error_status": status, "result": text });
    check_result(status(400, "API Error: 400 bad"), Model, "API Error: 400 bad");
    check_result(status(403, "Failed to authenticate."), NotLoggedIn, "Failed to");
    check_result(status(404, "no such model"), Model, "no such model");
    check_result(status(413, "Request too large"), Model, "too large");
    check_result(status(429, "rejected"), RateLimited, "rejected");
    check_result(status(500, "server"), Model, "server");
    check_result(json!({ "result": "Not logged in · Please run /login" }), NotLoggedIn, "/login");
    check_result(
        json!({ "subtype": "error_max_turns", "errors": ["Reached maximum number of turns (1)"] }),
        Model,
        "maximum number of turns",
    );
    // No session was to be resumed, so a second try with a fresh one would only fail again.
    let lost = json!({ "errors": ["No conversation found with session ID: x"] });
    check_result(lost, Model, "No conversation found");
    // Diagnostics are not for people; neither is silence.
    let diagnostic =
        json!({ "subtype": "error_during_execution", "errors": ["[ede_diagnostic] x"] });
    check_result(diagnostic, Model, "ended the turn with error_during_execution");
    check_result(json!({ "subtype": 5, "result": 7 }), Model, "ended the turn with an error");
}

/// The answer is complete, so it is worth more than the word that it was stopped.
#[test]
fn an_interrupt_that_comes_too_late_does_not_cost_the_answer() {
    let mut play = started();
    play.command(TurnCommand::Interrupt);
    play.command(TurnCommand::Interrupt);
    assert_eq!(play.writes.len(), 1, "one interrupt is enough");
    play.value(json!({ "type": "result", "subtype": "success", "result": "done" }));
    assert_eq!(play.end, Some(TurnEnd::Answered { text: "done".to_owned() }));
}

fn with_background_agent() -> Play {
    let mut play = started();
    let task = json!({
        "type": "system", "subtype": "task_started", "task_id": "a", "task_type": "local_agent",
    });
    play.value(task);
    play.value(json!({ "type": "result", "subtype": "success", "result": "done" }));
    assert_eq!(play.end, None, "the agent still runs");
    play
}

#[test]
fn an_answer_is_not_lost_while_a_background_agent_runs() {
    let answered = Some(TurnEnd::Answered { text: "done".to_owned() });
    let mut play = with_background_agent();
    play.command(TurnCommand::Interrupt);
    assert_eq!(play.end, answered);

    let mut play = with_background_agent();
    play.exit(Exit::Signal(9), "killed");
    assert_eq!(play.end, answered);
}

/// The CLI has the model speak of the one agent while the other still runs.
#[test]
fn what_background_agents_come_to_is_part_of_the_answer() {
    let mut play = with_background_agent();
    let text = json!([{ "type": "text", "text": "It found X." }]);
    play.value(json!({ "type": "assistant", "message": { "content": text } }));
    let origin = json!({ "kind": "task-notification" });
    play.value(json!({ "type": "result", "subtype": "success", "origin": origin,
        "result": "It found X." }));
    play.value(json!({ "type": "system", "subtype": "task_notification", "task_id": "a" }));
    assert_eq!(play.answered(), "done\n\nIt found X.");
}

/// The made-up message of a failure is in its result.
#[test]
fn what_the_cli_makes_up_is_not_the_models() {
    let mut play = started();
    for (model, error) in [("<synthetic>", ""), ("m", "server_error")] {
        let text = json!([{ "type": "text", "text": "No response requested." }]);
        let message = json!({ "model": model, "content": text });
        play.value(json!({ "type": "assistant", "message": message, "error": error }));
    }
    play.value(json!({ "type": "result", "subtype": "success", "result": "done" }));
    assert_eq!(play.answered(), "done");
}

#[test]
fn an_interrupted_turn_does_not_wait_for_background_agents() {
    let mut play = started();
    play.value(json!({
        "type": "system", "subtype": "task_started", "task_id": "a", "task_type": "local_agent",
    }));
    play.command(TurnCommand::Interrupt);
    let aborted = "aborted_tools";
    let subtype = "error_during_execution";
    play.value(json!({
        "type": "result", "subtype": subtype, "is_error": true, "terminal_reason": aborted,
    }));
    assert_eq!(play.end, Some(TurnEnd::Interrupted));
}

/// Trap 13: a TERM leaves a running command behind, an interrupt or an INT does not.
#[test]
fn trap_13_the_ladder_has_no_term() {
    use crate::agent::{
        description::{Launch, Process},
        stdio::LadderStep,
    };
    let Launch::Process(Process { ladder, .. }) = &description::DESCRIPTION.launch else {
        panic!("no process of its own");
    };
    let signals = ladder.iter().filter(|(step, _)| matches!(step, LadderStep::Signal(..)));
    let signals: Vec<String> = signals.map(|(step, _)| format!("{step:?}")).collect();
    assert!(signals.len() == 1 && signals[0].contains("INT"), "{signals:?}");
    assert!(matches!(ladder.last(), Some((LadderStep::Kill, _))));
}

/// The advice was to say it in other words, which fails for ever: only a new session helps.
#[test]
fn a_session_that_the_model_refuses_is_left_by_new() {
    let advice = |status: Value, said: &str| {
        let result = json!({ "type": "result", "subtype": "success", "is_error": true,
            "api_error_status": status, "result": said });
        match end::of_result(&result, String::new(), "", true, None) {
            TurnEnd::Failed(failure) => failure.advice,
            other => panic!("{other:?}"),
        }
    };
    for (status, said) in [
        (json!(400), "API Error: 400 messages.3.content.1.image: Could not process image"),
        (json!(413), "Request too large"),
        (Value::Null, "Prompt is too long"),
    ] {
        assert!(advice(status, said).contains("`/new`"), "{said}");
    }
    assert!(!advice(json!(500), "overloaded").contains("`/new`"));
    assert!(!advice(Value::Null, "It took too long").contains("`/new`"));
}
