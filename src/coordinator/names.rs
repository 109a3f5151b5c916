//! The names of the daemon's own posts (`clientMsgId`). A bridge stores each once, so a name belongs
//! to one text: a process that starts again and says the same says it under the same name, and no
//! other post has that name. A turn's posts are named after its attempt (`worker`).

use crate::{
    ids::{ClientMsgId, MessageId, TurnId},
    permission::code::Code,
    store::entry::EntryId,
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

/// Stale messages; the name is that of the first of them.
pub fn held(entry: EntryId) -> ClientMsgId {
    ClientMsgId::new(format!("{entry}.held"))
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
