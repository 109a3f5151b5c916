//! What the daemon tells whoever started it: when it is connected, and what becomes of each message.
//! Commands that wait for one message live by it; it is nobody's state.

use std::{fmt, sync::Arc};

use crate::{
    agent::{FailureKind, Usage},
    bridge::wire::PostKind,
    ids::{Engine, MessageId, SessionId, ThreadId},
};

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    /// The stream of the bridge is open.
    Connected,
    /// No stream is open, and why.
    Disconnected { why: String },
    /// The turn of this message begins.
    Begun { message: Option<MessageId> },
    /// A turn said something on its thread that is not its end.
    Said { kind: PostKind, body: String },
    /// A turn came to its end, which is durable.
    Finished(Box<Finished>),
    /// This message is done: after its turn, or without one.
    Done { message: MessageId },
    /// The bridge has every post about a message that is done.
    Delivered,
}

/// The end of a turn.
#[derive(Clone, Debug, PartialEq)]
pub struct Finished {
    pub thread: ThreadId,
    pub message: Option<MessageId>,
    pub engine: Engine,
    pub session: Option<SessionId>,
    pub outcome: Outcome,
    /// The answer, or why there is none.
    pub text: String,
    pub usage: Usage,
    /// Something that the engine wanted to do was denied: by a rule, a person, or because nobody
    /// answered.
    pub was_denied: bool,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Answered,
    /// By a person.
    Stopped,
    Failed(FailureKind),
}

/// To whoever listens, if anybody does. What listens must not wait for the daemon.
#[derive(Clone, Default)]
pub struct Reports(Option<Arc<dyn Fn(Report) + Send + Sync>>);

impl fmt::Debug for Reports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reports")
    }
}

impl Reports {
    pub fn to(listener: impl Fn(Report) + Send + Sync + 'static) -> Reports {
        Reports(Some(Arc::new(listener)))
    }

    pub fn send(&self, report: impl FnOnce() -> Report) {
        if let Some(listener) = &self.0 {
            listener(report());
        }
    }
}
