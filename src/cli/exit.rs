//! How the program ends: one table of exit codes for all commands. The numbers are the reference's where
//! it has any (protocol section 11), else those of sysexits, else ours from 10 on.

use std::process;

use crate::{agent::FailureKind, daemon::Finished, daemon::Outcome};

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitCode(u8);

impl ExitCode {
    pub(super) const OK: ExitCode = ExitCode(0);
    pub(super) const FAILURE: ExitCode = ExitCode(1);
    pub(super) const USAGE: ExitCode = ExitCode(2);
    pub(super) const AGENT: ExitCode = ExitCode(10);
    pub(super) const LIMIT: ExitCode = ExitCode(11);
    pub(super) const STOPPED: ExitCode = ExitCode(12);
    pub(super) const DENIED: ExitCode = ExitCode(13);
    pub(super) const USAGE_LIMIT: ExitCode = ExitCode(14);
    pub(super) const NOT_LOGGED_IN: ExitCode = ExitCode(15);
    pub(super) const UNAVAILABLE: ExitCode = ExitCode(69);
    pub(super) const OUTPUT: ExitCode = ExitCode(74);
    pub(super) const IN_USE: ExitCode = ExitCode(75);
    pub(super) const REFUSED: ExitCode = ExitCode(77);
    pub(super) const CONFIG: ExitCode = ExitCode(78);

    /// A code that one command alone has.
    pub(super) const fn of_command(code: u8) -> ExitCode {
        ExitCode(code)
    }

    /// Ended by a signal.
    pub(super) fn of_signal(number: i32) -> ExitCode {
        ExitCode(u8::try_from(number).unwrap_or(u8::MAX).saturating_add(128))
    }

    /// What became of a message.
    pub(super) fn of_message(finished: &Finished) -> ExitCode {
        match finished.outcome {
            Outcome::Stopped => ExitCode::STOPPED,
            // The engine may say so in an answer, or end its turn with an error of its own.
            _ if finished.was_denied => ExitCode::DENIED,
            Outcome::Answered => ExitCode::OK,
            Outcome::Failed(FailureKind::TimedOut) => ExitCode::LIMIT,
            Outcome::Failed(FailureKind::RateLimited) => ExitCode::USAGE_LIMIT,
            Outcome::Failed(FailureKind::NotLoggedIn) => ExitCode::NOT_LOGGED_IN,
            Outcome::Failed(_) => ExitCode::AGENT,
        }
    }

    pub(super) fn number(self) -> u8 {
        self.0
    }

    /// Its name in JSON.
    pub(super) fn name(self) -> &'static str {
        let row = TABLE.iter().find(|row| row.0 == self.0);
        row.map_or("ended by a signal", |row| row.1)
    }
}

impl process::Termination for ExitCode {
    fn report(self) -> process::ExitCode {
        self.0.into()
    }
}

/// Every code that is the same for all commands: number, name, meaning. docs/exit-codes.md has the same rows.
pub(super) const TABLE: [(u8, &str, &str); 14] = [
    (0, "answered", "answered, done, or asked to stop"),
    (1, "failed", "failed; the message on standard error says why"),
    (2, "usage", "the command line was not understood"),
    (10, "agent failed", "the agent failed: it is not installed, crashed, or its model did"),
    (11, "limit", "a limit ended the turn: --timeout, startupSeconds, silenceSeconds, turnSeconds"),
    (12, "stopped", "a person stopped it"),
    (
        13,
        "denied",
        "something that the agent wanted to do was denied, or nobody answered its question",
    ),
    (14, "usage limit", "the model's usage limit is reached"),
    (15, "not logged in", "the agent is not logged in"),
    (69, "unavailable", "the bridge can't be reached, or no daemon runs"),
    (74, "output", "the output can't be written"),
    (75, "in use", "another daemon uses the state directory"),
    (77, "refused", "the bridge refuses the token"),
    (78, "configuration", "the configuration can't be used"),
];

/// The table for `obto-bridge help exit-codes`.
pub(super) fn help() -> String {
    let rows = TABLE.iter().map(|(code, _, meaning)| format!("{code:>5}  {meaning}\n"));
    let rows: String = rows.collect();
    format!(
        "Exit codes of `run`, `start` and `local`:\n\n{rows}  128+  ended by that signal: 143 is TERM, 130 INT\n\n\
             `obto-bridge COMMAND --help` has what a command uses a code for besides."
    )
}
