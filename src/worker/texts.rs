//! What the daemon itself says on a thread. Each says what happened and what to do. Pure.

use camino::Utf8Path;

use crate::{
    agent::{Failure, Usage},
    ids::{Engine, SessionId},
};

pub(super) fn failed(engine: &Engine, failure: &Failure) -> String {
    let Failure { message, advice, .. } = failure;
    let message = message.trim();
    if advice.is_empty() {
        format!("**{engine} could not answer.** {message}")
    } else {
        format!("**{engine} could not answer.** {message}\n\n{advice}")
    }
}

/// Under what is said of a turn that came to no answer. The text is the model's own Markdown.
pub(super) fn had_said(said: &str) -> String {
    format!("\n\nIt had said:\n\n{said}")
}

pub(super) fn silent(engine: &Engine) -> String {
    format!(
        "{engine} finished without saying anything. Ask again, or look at the session on the \
         machine."
    )
}

pub(super) fn session_gone(engine: &Engine, session: &SessionId, detail: &str) -> String {
    format!(
        "The {engine} session of this thread (`{session}`) cannot be resumed here: {}. A fresh one \
         is started with what was said on this thread; what only the session knew is lost.",
        detail.trim().trim_end_matches('.')
    )
}

pub(super) fn resumed_after_interruption(engine: &Engine) -> String {
    format!(
        "The daemon was stopped while {engine} worked on this. The session is resumed; {engine} is \
         asked to check first what is already done."
    )
}

pub(super) fn interrupted_again(engine: &Engine) -> String {
    format!(
        "The daemon was stopped for the second time while {engine} worked on this message, so it is \
         not tried again by itself. Reply to go on."
    )
}

pub(super) fn interrupted_without_session(engine: &Engine) -> String {
    format!(
        "The daemon was stopped after {engine} had begun with this message and before it had a \
         session that can be resumed. It is not repeated by itself, since part of it may be done. \
         Send it again if you want it run."
    )
}

pub(super) fn stopping(engine: &Engine, is_last: bool) -> String {
    if is_last {
        return format!(
            "The run on this machine was ended and has interrupted {engine}. It does not go on by \
             itself."
        );
    }
    format!(
        "The daemon on this machine is stopping and has interrupted {engine}. When it runs again it \
         resumes this turn."
    )
}

/// What a turn used; none if the engine did not tell.
pub(super) fn usage(usage: &Usage) -> Option<String> {
    let Usage { input_tokens, output_tokens, cost_usd } = usage;
    let tokens = [(input_tokens, "tokens in"), (output_tokens, "out")]
        .map(|(count, what)| format!("{} {what}", thousands(*count)));
    let tokens = (0 < input_tokens + output_tokens).then(|| tokens.join(", "));
    let cost = cost_usd.filter(|cost| 0.0 < *cost).map(|cost| format!("${cost:.4}"));
    let parts: Vec<String> = [tokens, cost].into_iter().flatten().collect();
    (!parts.is_empty()).then(|| format!("*{}*", parts.join(", ")))
}

/// `12,345`.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at != 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// What an engine does. The line is foreign text, and can't leave the two backticks.
pub(super) fn does(engine: &Engine, line: &str) -> String {
    format!("{engine}: {line}")
}

pub(super) fn unknown_engine(asked: &Engine, taken: &Engine) -> String {
    format!("This machine knows no agent called {asked}; {taken} answers instead.")
}

/// Why the session can't be resumed, as the detail of [`session_gone`].
pub(super) fn directory_lost(lost: &Utf8Path, now: &Utf8Path) -> String {
    format!("its directory `{lost}` does not exist any more, so that the work goes on in `{now}`")
}

pub(super) fn no_directory(dir: &Utf8Path) -> String {
    format!(
        "The project directory `{dir}` does not exist on this machine. Create it, or set another one \
         (`projectDir` in the config file) and restart the daemon, or begin a thread in another one."
    )
}

pub(super) fn directory_not_offered(dir: &Utf8Path) -> String {
    format!(
        "This machine does not offer the directory `{dir}` to the bridge. Add it to `projectDirs` in \
         the config file and restart the daemon, or begin a thread in another one."
    )
}

pub(super) fn live_elsewhere(engine: &Engine) -> String {
    format!(
        "The {engine} session of this thread was changed on the machine since it was last driven \
         from here, so it may be in use there. Nothing was sent to it (`liveGuard`). Close \
         it there and send the message again."
    )
}

pub(super) fn attachments_left_out(count: usize) -> String {
    let (files, were) = if count == 1 { ("attachment", "was") } else { ("attachments", "were") };
    format!("[{count} {files} could not be fetched and {were} left out.]")
}

pub(super) fn retrying(engine: &Engine, message: &str) -> String {
    format!("{engine} is having trouble with its model and tries again: {}", message.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_told_as_far_as_it_is_known() {
        #[track_caller]
        fn check(input_tokens: u64, output_tokens: u64, cost_usd: Option<f64>, expected: &str) {
            let told = usage(&Usage { input_tokens, output_tokens, cost_usd });
            assert_eq!(told.unwrap_or_default(), expected);
        }
        check(12_345, 678, Some(0.0123), "*12,345 tokens in, 678 out, $0.0123*");
        check(1_000_000, 1_000, None, "*1,000,000 tokens in, 1,000 out*");
        check(0, 0, Some(0.5), "*$0.5000*");
        check(0, 7, Some(0.0), "*0 tokens in, 7 out*");
        check(0, 0, None, "");
    }
}
