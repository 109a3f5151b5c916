//! An engine that prints garbage, half a line, nothing, or ends at any point: the human is told, the
//! place is free again, and the daemon goes on.

use serde_json::json;

use super::Bridge;
use crate::util::fake::{self, ACP_BEGIN, acp_answer};

/// Has the fake engine answer one message, whose answer is of that kind and says that. Then the
/// echo agent is asked.
#[track_caller]
fn check(directives: &[&str], limits: &[(&str, u64)], kind: &str, words: &[&str]) {
    check_as("fake", directives, limits, kind, words);
}

/// Likewise, in the place of this engine.
#[track_caller]
fn check_as(name: &str, directives: &[&str], limits: &[(&str, u64)], kind: &str, words: &[&str]) {
    let bridge = Bridge::start();
    let machine = bridge.machine().with_agent(name, &fake::command(directives));
    let machine = machine.with("agent", "echo").with("maxTurns", 1);
    let machine = limits.iter().fold(machine, |machine, (key, value)| machine.with(key, *value));
    let _daemon = machine.connected();
    let mut ears = bridge.listen();
    bridge.request("/api/reply", &json!({ "threadId": "t", "body": "x", "agent": name }));
    let body = ears.expect("t", kind, "");
    for word in words {
        assert!(body.contains(word), "{directives:?}: {word:?} is not in: {body}");
    }
    bridge.say("u", "still there?");
    ears.echo("u", "still there?");
    assert_eq!(bridge.posts("t").len(), 1, "{:?}", bridge.posts("t"));
}

/// A whole ACP turn with these directives before each of its lines.
fn turn(between: &[&str]) -> Vec<String> {
    let [said, end] = acp_answer("done");
    let [read, print, hello, _, _, session] = ACP_BEGIN;
    let steps = [read, print, hello, read, print, session, read, print, &said, print, &end];
    let mut all: Vec<String> = Vec::new();
    for step in steps {
        if step == print {
            all.extend(between.iter().map(ToString::to_string));
        }
        all.push(step.to_owned());
    }
    all.push("wait-eof".to_owned());
    all
}

#[track_caller]
fn check_turn(between: &[&str]) {
    let turn = turn(between);
    check(&turn.iter().map(String::as_str).collect::<Vec<_>>(), &[], "result", &["done"]);
}

#[test]
fn garbage_between_the_lines_does_not_matter() {
    check_turn(&[
        "print",
        "Warning: a new version is out",
        "print",
        "",
        "print",
        "{\"id\":",
        "print",
        "[]",
    ]);
    check_turn(&[
        "print",
        "\u{1b}[31mred\u{1b}[0m",
        "print",
        "null",
        "print",
        "{\"jsonrpc\":\"2.0\",\"id\":99,\"result\":{}}",
    ]);
    check_turn(&["spew", "2", "complain", "oh"]);
}

/// On the same line, where the noise has no end of its own.
#[test]
fn garbage_in_front_of_a_line_does_not_matter() {
    check_turn(&["raw", "\u{1b}]0;agent\u{7}\u{1b}[?25l"]);
    check_turn(&["raw", "\u{feff}", "raw", "progress 50%… {half} "]);
}

/// A log that is JSON, and counts its lines.
#[test]
fn a_log_is_no_answer() {
    let log = |id: u32| format!(r#"{{"level":"info","msg":"starting","id":{id},"result":"ok"}}"#);
    let lines = [1, 2, 3].map(log);
    let prints = lines.iter().flat_map(|line| ["print", line]).collect::<Vec<_>>();
    check_turn(&prints);
}

const ENDED: &str = "**fake could not answer.** the agent ended before it had answered";

#[test]
fn an_engine_that_says_nothing() {
    check(&[], &[], "error", &[ENDED, "exit code 0"]);
    check(&["read", "exit", "7"], &[], "error", &[ENDED, "exit code 7"]);
    check(
        &["complain", "no key for the model", "exit", "1"],
        &[],
        "error",
        &["no key for the model"],
    );
}

#[test]
fn an_engine_that_says_half_a_line() {
    check(&["read", "raw", "{\"jsonrpc\":"], &[], "error", &[ENDED]);
    check(&["print", "garbage", "exit", "3"], &[], "error", &[ENDED, "exit code 3"]);
}

#[test]
fn an_engine_that_ends_at_any_point() {
    let turn = turn(&[]);
    let bytes: usize = turn.iter().filter(|it| it.starts_with('{')).map(|it| it.len() + 1).sum();
    let turn: Vec<&str> = turn.iter().map(String::as_str).collect();
    // The last two lines are the answer and its end.
    for at in [1, 40, 110, 150, 200, bytes - 70, bytes - 2] {
        let at = at.to_string();
        check(&[&["die-at", &at], &turn[..]].concat(), &[], "error", &[ENDED, "exit code 9"]);
    }
    let at = bytes.to_string();
    check(&[&["die-at", &at], &turn[..]].concat(), &[], "result", &["done"]);
}

#[test]
fn an_engine_that_does_not_end() {
    let ended = "and its process was ended.";
    let startup = "said nothing for 1s after its start (`startupSeconds`)";
    check(&["hang"], &[("startupSeconds", 1)], "error", &[startup, ended]);
    let whole = "The turn took longer than 1s (`turnSeconds`)";
    check(&["babble"], &[("turnSeconds", 1)], "error", &[whole, ended, "no session"]);
    check(&["endless"], &[("turnSeconds", 1)], "error", &[whole, ended]);
    let hang = [&ACP_BEGIN[..], &["read", "hang"]].concat();
    let silence = "was silent for 1s (`silenceSeconds`)";
    check(&hang, &[("silenceSeconds", 1)], "error", &[silence, ended, "Ask it to go on"]);
    // Before the prompt it has no more time than to start, and nothing was done that could be gone on
    // with.
    let ready =
        "did not get ready for the message within 1s (`startupSeconds`); the message was not";
    let mute = [&ACP_BEGIN[..4], &["hang"]].concat();
    check(&mute, &[("startupSeconds", 1)], "error", &[ready, ended, "Send the message again"]);
    let hello = r#"{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":1}}"#;
    let forgetful = ["read", "print", hello, "read", "print", ACP_BEGIN[5], "read", "hang"];
    check(
        &forgetful,
        &[("silenceSeconds", 1)],
        "error",
        &[silence, ended, "no session to go on with"],
    );
    let cancelled = r#"{"jsonrpc":"2.0","id":3,"result":{"stopReason":"cancelled"}}"#;
    let polite = [&ACP_BEGIN[..], &["read", "read", "print", cancelled, "wait-eof"]].concat();
    let asked = "It stopped when it was asked to.";
    check(&polite, &[("silenceSeconds", 1)], "error", &[silence, asked]);
}

/// Claude Code is sent the message along with its first request, so that nothing tells the time to
/// start from the turn but its first line. After that hooks of the person's own may run in silence.
#[test]
fn claude_that_says_nothing_or_nothing_more() {
    let startup = "said nothing for 1s after its start (`startupSeconds`)";
    let check = |steps: &[&str], limit: &str, words: &[&str]| {
        check_as("claude", steps, &[(limit, 1)], "error", words);
    };
    check(&["hang"], "startupSeconds", &[startup, "and its process was ended."]);
    let initialized = r#"{"type":"control_response","response":{"subtype":"success",
        "request_id":"initialize","response":{}}}"#;
    let initialized = initialized.replace('\n', "");
    let steps = ["read", "read", "print", &initialized, "hang"];
    let silence = "was silent for 1s (`silenceSeconds`)";
    check(&steps, "silenceSeconds", &[silence, "there is no session to go on with"]);
}
