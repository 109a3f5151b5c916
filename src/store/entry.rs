//! The names and contents of entries of inbox and outbox, apart from the disk that holds them, so that the
//! coordinator can speak of them. Pure.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    bridge::wire::Reply,
    ids::{Engine, MessageId, SessionId, TurnId},
};

/// Names an entry. Ordered by arrival, and never used twice, not even by the entries of
/// an earlier process. As a file name it holds nothing that came from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId {
    pub sequence: u64,
    /// Tells apart the entries of two processes that counted from the same number, should the
    /// clock have been set back between them.
    pub hash: u32,
}

impl EntryId {
    /// Reads what `Display` writes, and nothing else.
    pub fn parse(text: &str) -> Option<EntryId> {
        let (sequence, hash) = text.split_once('-')?;
        let id = EntryId {
            sequence: u64::from_str_radix(sequence, 16).ok()?,
            hash: u32::from_str_radix(hash, 16).ok()?,
        };
        (id.to_string() == text).then_some(id)
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{:08x}", self.sequence, self.hash)
    }
}

/// What a message is known by: its id, or its entry's if the bridge gave it none. Such a message
/// can't be recognised when the bridge sends it again, but when its entry is met again it can.
pub fn message_key(id: EntryId, reply: &Reply) -> MessageId {
    reply.message_id.clone().unwrap_or_else(|| MessageId::new(format!("entry {id}")))
}

/// A message that waits to be answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub id: EntryId,
    pub reply: Reply,
    /// None until the engine was given the prompt.
    pub progress: Option<Progress>,
}

/// How far the turn of a message came. With it in the inbox a message is never blindly repeated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// The turn that runs, or was interrupted.
    pub turn: TurnId,
    pub engine: Engine,
    /// The engine's session, as soon as it is known. Until a binding with it is written, this is
    /// the only place that has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    /// How many turns were begun for this message, this one included.
    pub attempts: u32,
    /// Codes of the questions that wait for a person. They end with the turn.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub asking: Vec<String>,
    /// The message is the answer to the question of this code, which belongs to the turn. Written
    /// before the engine gets the verdict, so that no later start takes the answer for a prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers: Option<String>,
    /// The turn is over, and the model posted its answer before the end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_answered: bool,
}

impl Progress {
    /// A turn that has no session yet.
    pub fn new(turn: TurnId, engine: Engine) -> Progress {
        Progress {
            turn,
            engine,
            session: None,
            attempts: 0,
            asking: Vec::new(),
            answers: None,
            is_answered: false,
        }
    }
}
