//! Codex's errors as a person should read them: what happened, and what to do about it.

use serde_json::Value;

use crate::{
    agent::{
        Exit, Failure, FailureKind, TurnEnd,
        rpc::RpcError,
        text::{self, NEW_SESSION, is_too_long, last_words},
    },
    time::Timestamp,
};

/// No account on this machine. Codex itself would try without one for 13 seconds (0.169.0).
pub(super) fn not_logged_in() -> Failure {
    Failure::new(
        FailureKind::NotLoggedIn,
        "Codex is not logged in on this machine.",
        "Run `codex login` there, or `codex login --with-api-key`, then send the message again.",
    )
}

/// The error of a turn that failed: `{message, codexErrorInfo, additionalDetails}`. `resets` is when
/// the account's limit that is used up is reset.
pub(super) fn of_turn(error: &Value, resets: Option<Timestamp>) -> Failure {
    let text = message(error);
    let (kind, advice) = match (info(error), status(error, &text)) {
        ("usageLimitExceeded" | "rateLimitExceeded", _) | (_, Some(429)) => (
            FailureKind::RateLimited,
            "Wait until the limit is reset, or give the thread to another agent.",
        ),
        ("unauthorized", _) | (_, Some(401 | 403)) => (
            FailureKind::NotLoggedIn,
            "Run `codex login` on this machine, or check the key of the provider that Codex is \
             configured for.",
        ),
        _ if text.starts_with("Missing environment variable") => (
            FailureKind::NotLoggedIn,
            "Set the variable where the daemon is started, then restart the daemon.",
        ),
        ("contextWindowExceeded" | "sessionBudgetExceeded", _) => (FailureKind::Model, NEW_SESSION),
        ("serverOverloaded" | "internalServerError", _) | (_, Some(500..)) => {
            (FailureKind::Model, "The model's service has a problem. Try again in a few minutes.")
        }
        (
            "httpConnectionFailed"
            | "responseStreamConnectionFailed"
            | "responseStreamDisconnected",
            None,
        ) => (FailureKind::Model, "Check the machine's network, then send the message again."),
        ("modelNotFound", _) => {
            (FailureKind::Model, "Choose another model in Codex's configuration.")
        }
        ("badRequest", _) | (_, Some(400 | 413)) => (FailureKind::Model, NEW_SESSION),
        _ if is_too_long(&text) => (FailureKind::Model, NEW_SESSION),
        _ => (
            FailureKind::Model,
            "Send the message again. If that does not help, try `codex` in a terminal in the \
             project's directory.",
        ),
    };
    match resets {
        Some(at) if kind == FailureKind::RateLimited => {
            let advice = format!("The limit is reset at {at}. {advice}");
            Failure::new(kind, text, advice)
        }
        _ => Failure::new(kind, text, advice),
    }
}

/// The refusal of a request that a turn can't do without. Codex has one code for nearly all of
/// them, so the text decides (0.169.0).
pub(super) fn of_refusal(error: &RpcError, resuming: bool) -> TurnEnd {
    let gone = ["no rollout found", "invalid thread id", "thread not found"];
    if resuming && gone.iter().any(|text| error.message.contains(text)) {
        return TurnEnd::SessionGone { detail: text::message(&error.message) };
    }
    let (kind, advice) = if error.message.contains("already has an active writer") {
        (
            FailureKind::Busy,
            "The session is open in another Codex (a terminal, an editor). Close it there, then \
             send the message again.",
        )
    } else if error.data["input_error_code"] == "input_too_large" {
        (FailureKind::Refused, "Send a shorter message.")
    } else if error.message.contains("failed to load configuration") {
        (FailureKind::Refused, "Correct Codex's config.toml; `codex` in a terminal says the same.")
    } else {
        (FailureKind::Protocol, "Update Codex: `npm install -g @openai/codex`.")
    };
    let message = text::message(&error.message);
    TurnEnd::Failed(Failure::new(kind, format!("Codex refused: {message}"), advice))
}

/// The process ended before the turn did.
pub(super) fn of_crash(exit: Exit, stderr_tail: &str) -> Failure {
    // The complaint about a missing bubblewrap is there in every run.
    let lines = stderr_tail.lines().filter(|line| !line.contains("could not find bubblewrap"));
    let message = match last_words(&lines.collect::<Vec<_>>().join("\n")) {
        said if said.is_empty() => format!("Codex ended with {exit} and said nothing."),
        said => format!("Codex ended with {exit}: {said}"),
    };
    Failure::new(
        FailureKind::Crashed,
        message,
        "Its session is kept; the next message resumes it. If it happens again, try `codex` in a \
         terminal in the project's directory.",
    )
}

/// One line for a notice that Codex tries again.
pub(super) fn retry_text(error: &Value) -> String {
    match error["additionalDetails"].as_str() {
        Some(details) if !details.is_empty() => {
            text::message(&format!("{} ({details})", message(error)))
        }
        _ => message(error),
    }
}

fn message(error: &Value) -> String {
    match text::message(text::text(error, "/message")) {
        message if message.is_empty() => "Codex's turn failed without a reason.".to_owned(),
        message => message,
    }
}

/// `codexErrorInfo` is a name, or an object with the name as its only key.
fn info(error: &Value) -> &str {
    match &error["codexErrorInfo"] {
        Value::String(name) => name,
        Value::Object(object) => object.keys().next().map_or("", String::as_str),
        _ => "",
    }
}

/// The HTTP status, from the object or else from the text (`unexpected status 401 Unauthorized`).
fn status(error: &Value, text: &str) -> Option<u64> {
    let field = error["codexErrorInfo"][info(error)]["httpStatusCode"].as_u64();
    field.or_else(|| {
        let (_, rest) = text.split_once("status")?;
        rest.trim_start_matches([':', ' ']).get(..3)?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(error: Value, kind: FailureKind, advice: &str) {
        let failure = of_turn(&error, None);
        assert_eq!(failure.kind, kind, "{error}");
        assert!(failure.advice.contains(advice), "{error}: {}", failure.advice);
        assert!(!failure.message.is_empty());
    }

    #[test]
    fn turn_errors_are_told_by_info_and_status() {
        use FailureKind::{Model, NotLoggedIn, RateLimited};
        let status = |name: &str, code: u64| json!({"message": "m", "codexErrorInfo": {name: {"httpStatusCode": code}}});
        check(status("httpConnectionFailed", 401), NotLoggedIn, "codex login");
        check(status("httpConnectionFailed", 403), NotLoggedIn, "codex login");
        check(status("responseTooManyFailedAttempts", 429), RateLimited, "Wait");
        check(status("responseStreamDisconnected", 404), Model, "again");
        check(status("anything", 503), Model, "few minutes");
        check(json!({"message": "m", "codexErrorInfo": "usageLimitExceeded"}), RateLimited, "Wait");
        check(json!({"message": "m", "codexErrorInfo": "unauthorized"}), NotLoggedIn, "login");
        check(json!({"message": "m", "codexErrorInfo": "contextWindowExceeded"}), Model, "`/new`");
        check(json!({"message": "m", "codexErrorInfo": "badRequest"}), Model, "`/new`");
        check(status("other", 400), Model, "`/new`");
        check(json!({"message": "the context window is full"}), Model, "`/new`");
        check(
            json!({"message": "unexpected status 401 Unauthorized: no", "codexErrorInfo": "other"}),
            NotLoggedIn,
            "codex login",
        );
        check(
            json!({"message": "exceeded retry limit, last status: 429 Too"}),
            RateLimited,
            "Wait",
        );
        check(
            json!({"codexErrorInfo": {"httpConnectionFailed": {"httpStatusCode": null}}}),
            Model,
            "network",
        );
        check(json!({"message": "status ü", "codexErrorInfo": [1]}), Model, "again");
        check(Value::Null, Model, "again");
    }

    #[test]
    fn refusals_are_told_by_their_text() {
        let refuse = |message: &str, resuming| {
            let error = RpcError { code: -32600, message: message.to_owned(), data: Value::Null };
            of_refusal(&error, resuming)
        };
        let kind = |end| match end {
            TurnEnd::Failed(failure) => Some(failure.kind),
            _ => None,
        };
        assert!(matches!(refuse("invalid thread id: x", true), TurnEnd::SessionGone { .. }));
        assert!(matches!(refuse("thread not found: x", true), TurnEnd::SessionGone { .. }));
        assert_eq!(kind(refuse("thread not found: x", false)), Some(FailureKind::Protocol));
        assert_eq!(
            kind(refuse("failed to load configuration: x", false)),
            Some(FailureKind::Refused)
        );
        let too_large = RpcError {
            code: -32602,
            message: "Input exceeds the maximum length of 1048576 characters.".to_owned(),
            data: json!({"input_error_code": "input_too_large"}),
        };
        assert_eq!(kind(of_refusal(&too_large, true)), Some(FailureKind::Refused));
    }

    #[test]
    fn a_crash_tells_the_end_of_standard_error_without_colours() {
        let tail = "\u{1b}[2m2026\u{1b}[0m \u{1b}[31mERROR\u{1b}[0m Codex could not find bubblewrap on PATH.\n\
                    Error: \u{1b}[1mno config\u{1b}[0m\r\n\n\u{1b}[";
        let failure = of_crash(Exit::Code(1), tail);
        assert_eq!(failure.message, "Codex ended with exit code 1: Error: no config");
        assert_eq!(
            of_crash(Exit::Signal(9), " \n").message,
            "Codex ended with signal 9 and said nothing."
        );
    }
}
