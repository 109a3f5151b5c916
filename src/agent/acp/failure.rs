//! Errors of ACP agents in words for people. Codes tell little (nearly everything is -32603), so
//! the kind is guessed from the text. Pure.

use serde_json::Value;

use crate::agent::{
    Exit, Failure, FailureKind,
    rpc::RpcError,
    text::{NEW_SESSION, is_too_long, last_words, text},
};

const UPDATE: &str = "The agent and this program don't fit together; update them.";

/// The message with what `data` adds to it: agents put the reason into `details` or `message`.
pub(super) fn describe(error: &RpcError) -> String {
    let more = ["/details", "/message", ""]
        .into_iter()
        .map(|at| text(&error.data, at))
        .find(|more| !more.is_empty() && !error.message.contains(more));
    match more {
        Some(more) => format!("{}: {more}", error.message),
        None => error.message.clone(),
    }
}

pub(super) fn not_logged_in(error: &RpcError, logins: &[String]) -> Failure {
    Failure::new(FailureKind::NotLoggedIn, describe(error), log_in(logins))
}

/// It was told to log in, and could not.
pub(super) fn no_login(way: &str, error: &RpcError, logins: &[String]) -> Failure {
    let message = format!("the agent could not log in by `{way}`: {}", describe(error));
    Failure::new(FailureKind::NotLoggedIn, message, log_in(logins))
}

pub(super) fn slow_login(way: &str, logins: &[String]) -> Failure {
    let message = format!("the agent did not log in by `{way}` in time (`startupSeconds`)");
    Failure::new(FailureKind::NotLoggedIn, message, log_in(logins))
}

fn log_in(logins: &[String]) -> String {
    let advice = "Log in with the agent's own command in a terminal on this machine.";
    match logins {
        [] => advice.to_owned(),
        names => format!(
            "{advice} It offers: {}. Or give it its API key: as `env` of its entry under `agents` in \
             the config file.",
            names.join(", ")
        ),
    }
}

/// An error response to the prompt, or to a request before it.
pub(super) fn of_error(error: &RpcError) -> Failure {
    let status = http_status(&error.data).unwrap_or(0);
    classify(describe(error), status, error.code)
}

/// An error that came as the agent's words.
pub(super) fn of_words(words: String) -> Failure {
    let words = if words.is_empty() { "the agent reported an error".to_owned() } else { words };
    classify(words, 0, 0)
}

fn classify(message: String, status: u64, code: i64) -> Failure {
    let lower = message.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    // Not a part of another number: of how many tokens there were.
    let numbers: Vec<&str> = lower.split(|it: char| !it.is_ascii_digit()).collect();
    let has_code = |codes: &[&str]| codes.iter().any(|code| numbers.contains(code));
    let (kind, advice) = if status == 429
        || has_code(&["429", "529"])
        || says(&["rate limit", "usage limit", "quota", "overloaded"])
    {
        (FailureKind::RateLimited, "Try again later.")
    } else if status == 401 || has_code(&["401"]) || says(&["unauthorized", "authentication"]) {
        (FailureKind::NotLoggedIn, "Check the agent's login or API key on this machine.")
    } else if matches!(status, 400 | 413)
        || is_too_long(&message)
        || says(&["error: 400", "status 400", "400 bad request", "invalid_request"])
    {
        (FailureKind::Model, NEW_SESSION)
    } else if matches!(code, -32601 | -32602 | -32700 | -32600) {
        (FailureKind::Protocol, UPDATE)
    } else {
        (FailureKind::Model, "Try again; if it stays, run the agent in a terminal to see more.")
    };
    Failure::new(kind, message, advice)
}

/// `http_status_code` wherever it is, at most a few levels down (codex-acp 0.16.0).
fn http_status(data: &Value) -> Option<u64> {
    let info = data.get("codex_error_info")?.as_object()?;
    info.values().find_map(|inner| inner.get("http_status_code")?.as_u64())
}

pub(super) fn no_session() -> Failure {
    Failure::new(FailureKind::Protocol, "the agent sent a session without an id", UPDATE)
}

pub(super) fn crashed(exit: Exit, stderr_tail: &str) -> Failure {
    let message = match &last_words(stderr_tail)[..] {
        "" => format!("the agent ended before it had answered ({exit})"),
        said => format!("the agent ended before it had answered ({exit}): {said}"),
    };
    Failure::new(FailureKind::Crashed, message, "Run the agent in a terminal to see why.")
}
