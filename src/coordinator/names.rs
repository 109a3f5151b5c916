//! The names of the daemon's own posts (`clientMsgId`). A bridge stores each once, so a name belongs
//! to one thing that is said: a process that starts again and says it again, perhaps in other words,
//! says it under the same name, and people see the first. A turn's posts are named after its attempt
//! (`worker`).

use crate::{
    ids::{ClientMsgId, MessageId, TurnId},
    permission::code::Code,
    store::{entry::EntryId, journal::short_hash},
};

/// The end of a message without a turn: a post of the attempt 0, which is none. A turn that ends before
/// its attempt is on disk says so under this name, too; either is the last post of its message.
pub fn end(message: &MessageId) -> ClientMsgId {
    ClientMsgId::new(format!("{message}.0.1"))
}

/// The answer to a control word.
pub fn say(entry: EntryId) -> ClientMsgId {
    ClientMsgId::new(format!("{entry}.say"))
}

/// The parts of a question's whole, counted from 1.
pub fn show(entry: EntryId, part: usize) -> ClientMsgId {
    ClientMsgId::new(format!("{entry}.show.{part}"))
}

/// What a message waits for.
pub fn wait(entry: EntryId) -> ClientMsgId {
    ClientMsgId::new(format!("{entry}.wait"))
}

/// The session of the thread is lost; the name is that of the first message after it.
pub fn lost(entry: EntryId) -> ClientMsgId {
    ClientMsgId::new(format!("{entry}.lost"))
}

/// Stale messages, these and no others: with one more it is another post. `first` is one of them.
pub fn held(first: EntryId, entries: impl Iterator<Item = EntryId>) -> ClientMsgId {
    let all: Vec<String> = entries.map(|entry| entry.to_string()).collect();
    ClientMsgId::new(format!("{first}.held.{:08x}", short_hash(&all.join(" "))))
}

/// A reply to what was meant as an answer and is none.
pub fn reply(entry: EntryId) -> ClientMsgId {
    ClientMsgId::new(format!("{entry}.reply"))
}

/// The end of a question by this answer.
pub fn answer(entry: EntryId) -> ClientMsgId {
    ClientMsgId::new(format!("{entry}.answer"))
}

/// The end of a question without an answer.
pub fn closed(turn: &TurnId, code: Code) -> ClientMsgId {
    ClientMsgId::new(format!("{turn}.{code}.closed"))
}

/// The end of a message whose turn waited for people when the daemon stopped.
pub fn died(entry: EntryId) -> ClientMsgId {
    ClientMsgId::new(format!("{entry}.died"))
}
