//! How a turn of Claude Code ended, in words for the person who waits for it. Pure.

use serde_json::Value;

use crate::{
    agent::{
        Exit, Failure, FailureKind, TurnEnd,
        text::{self, ANSWER_BYTES, NEW_SESSION, is_too_long, last_words, list, text},
    },
    time::Timestamp,
};

const NO_SESSION: &str = "No conversation found with session ID";

const LOG_IN: &str = "Run `claude` on the machine, type /login, and send the message again.";

/// Reads a `result` line; `said` is the answer so far. Neither the exit code nor `subtype` tells: API failures are "success"
/// with `is_error`.
pub(super) fn of_result(
    result: &Value,
    mut said: String,
    api_error: &str,
    resuming: bool,
    resets: Option<Timestamp>,
) -> TurnEnd {
    if result["is_error"] != true && text(result, "/subtype") == "success" {
        add(&mut said, result);
        return TurnEnd::Answered { text: said };
    }
    if resuming && errors(result).any(|error| error.starts_with(NO_SESSION)) {
        return TurnEnd::SessionGone { detail: message(result) };
    }
    if text(result, "/terminal_reason").starts_with("aborted") {
        return TurnEnd::Interrupted;
    }
    let (kind, advice) = classify(result, api_error);
    let advice = match resets {
        Some(at) if kind == FailureKind::RateLimited => {
            format!("The limit is lifted at {at}; send it again then.")
        }
        _ => advice.to_owned(),
    };
    TurnEnd::Failed(Failure::new(kind, message(result), advice))
}

/// Adds the text of a `result` line to the answer, if it is not there. It is the last block of text
/// alone, and nothing if a call was the last block; but what the CLI says itself is in no other line
/// (claude 2.1.197).
pub(super) fn add(answer: &mut String, result: &Value) {
    let said = text(result, "/result").trim();
    let squeezed = |text: &str| text.split_whitespace().collect::<String>();
    if squeezed(answer).contains(&squeezed(said)) {
        return;
    }
    let paragraph = if answer.is_empty() { "" } else { "\n\n" };
    answer.push_str(paragraph);
    answer.push_str(said);
    answer.truncate(answer.floor_char_boundary(ANSWER_BYTES));
}

fn classify(result: &Value, api_error: &str) -> (FailureKind, &'static str) {
    let later = "This is on the side of the model's service; try again later.";
    match (result["api_error_status"].as_u64(), api_error) {
        (Some(401 | 403), _) | (None, "authentication_failed") => {
            (FailureKind::NotLoggedIn, LOG_IN)
        }
        _ if text(result, "/result").starts_with("Not logged in") => {
            (FailureKind::NotLoggedIn, LOG_IN)
        }
        (Some(429), _) | (None, "rate_limit") => {
            (FailureKind::RateLimited, "Wait until the limit is lifted, then send it again.")
        }
        (Some(404), _) | (None, "model_not_found") => {
            (FailureKind::Model, "Choose another model in Claude Code's settings.")
        }
        // Of a prompt that is too long, or of an image that every request of the session repeats.
        (Some(400 | 413), _) | (None, "invalid_request") => (FailureKind::Model, NEW_SESSION),
        _ if is_too_long(text(result, "/result")) => (FailureKind::Model, NEW_SESSION),
        (Some(500..), _) | (None, "server_error") => (FailureKind::Model, later),
        _ => (FailureKind::Model, "Send the message again, perhaps in other words."),
    }
}

fn errors(result: &Value) -> impl Iterator<Item = &str> {
    list(result, "/errors").iter().filter_map(Value::as_str)
}

fn message(result: &Value) -> String {
    // Diagnostics of the program itself mean nothing to its users.
    let errors: Vec<&str> =
        errors(result).filter(|error| !error.starts_with("[ede_diagnostic]")).collect();
    let said =
        if errors.is_empty() { text(result, "/result").to_owned() } else { errors.join("; ") };
    if said.trim().is_empty() {
        let subtype = match text(result, "/subtype") {
            "" => "an error",
            subtype => subtype,
        };
        return format!("Claude Code ended the turn with {}", text::message(subtype));
    }
    text::message(&said)
}

/// The process is gone and there was no `result` line: only standard error can tell why.
/// After an interrupt that is so, too: with SIGINT during a request to the model there is none,
/// and exit code 0.
pub(super) fn of_exit(exit: Exit, stderr: &str, resuming: bool) -> TurnEnd {
    if resuming && stderr.contains(NO_SESSION) {
        return TurnEnd::SessionGone { detail: last_words(stderr) };
    }
    let failure = |kind, advice| {
        let said = match last_words(stderr) {
            said if said.is_empty() => "and said nothing.".to_owned(),
            said => format!("and said: {said}"),
        };
        let message = format!("Claude Code ended with {exit} before it answered, {said}");
        TurnEnd::Failed(Failure::new(kind, message, advice))
    };
    if stderr.contains("is already in use") {
        return failure(FailureKind::Busy, "Close the other process, then send it again.");
    }
    if stderr.contains("cannot be used with root") {
        let advice = "Run the daemon as a user other than root, or switch `allowAll` off. If the \
                      whole machine is a sandbox, start the daemon with IS_SANDBOX=1.";
        return failure(FailureKind::Refused, advice);
    }
    if stderr.contains("error: unknown option") {
        return failure(FailureKind::Protocol, "Update Claude Code: `claude update`.");
    }
    if stderr.contains("Error parsing streaming input line") {
        // The line itself follows, which is the prompt.
        let message = "Claude Code could not read what it was sent";
        let advice = "Check that Claude Code and obto-bridge are up to date.";
        return TurnEnd::Failed(Failure::new(FailureKind::Protocol, message, advice));
    }
    failure(FailureKind::Crashed, "Check what was already done, then send the message again.")
}
