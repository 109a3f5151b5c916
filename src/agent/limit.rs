//! The limits of a turn, and what a person is told of one that was reached. Pure.

use super::{Failure, FailureKind, Limits};

/// Which limit a turn has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    Startup,
    /// Of a request before the prompt.
    Opening,
    Silence,
    Turn,
}

impl Limit {
    /// What the person is told. `has_session`: what the engine has done so far can be gone on with.
    pub fn failure(self, limits: &Limits, has_session: bool, what_was_done: &str) -> Failure {
        let time = |limit| humantime::format_duration(limit).to_string();
        let no_session = "Check what was done, then send the message again: there is no session to \
                          go on with.";
        let (message, advice) = match self {
            Limit::Opening => (
                format!(
                    "The engine did not get ready for the message within {} (`startupSeconds`); \
                     the message was not sent to it.",
                    time(limits.startup)
                ),
                "Send the message again. If that does not help, start the engine in a terminal: it \
                 may wait for a login or for the network.",
            ),
            Limit::Startup => (
                format!(
                    "The engine said nothing for {} after its start (`startupSeconds`).",
                    time(limits.startup)
                ),
                "Start it in a terminal: it may wait for a login or for the network.",
            ),
            Limit::Silence => (
                format!("The engine was silent for {} (`silenceSeconds`).", time(limits.silence)),
                if has_session {
                    "Ask it to go on: what it did until then is kept in its session."
                } else {
                    no_session
                },
            ),
            Limit::Turn => (
                format!("The turn took longer than {} (`turnSeconds`).", time(limits.turn)),
                if has_session { "Ask it to go on, in smaller steps." } else { no_session },
            ),
        };
        Failure::new(FailureKind::TimedOut, format!("{message} {what_was_done}"), advice)
    }
}
