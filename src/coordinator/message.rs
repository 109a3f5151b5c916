//! A message that is not done, wherever in the coordinator it is.

use std::sync::Arc;

use crate::{
    bridge::wire::Reply,
    ids::{MessageId, ThreadId},
    store::entry::{EntryId, Progress, message_key},
    time::Timestamp,
};

/// How a message came to this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// On the stream.
    Live,
    /// From its thread's history.
    CaughtUp,
    /// It was in the inbox when the process started.
    Recovered,
}

#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) entry: EntryId,
    pub(super) reply: Arc<Reply>,
    /// How far an earlier process came with its turn.
    pub(super) progress: Option<Progress>,
    pub(super) origin: Arrival,
}

impl Message {
    pub(super) fn thread(&self) -> &ThreadId {
        &self.reply.thread_id
    }

    pub(super) fn key(&self) -> MessageId {
        message_key(self.entry, &self.reply)
    }

    /// When it was written, by the bridge's clock, if that can be read.
    pub(super) fn written(&self) -> Option<Timestamp> {
        written(&self.reply)
    }

    /// Whether it was written after another: by the bridge's times, or, where they do not tell, by
    /// the order in which the two arrived.
    pub(super) fn is_newer(&self, than: &Message) -> bool {
        match (self.written(), than.written()) {
            (Some(time), Some(other)) if time != other => other < time,
            _ => than.entry < self.entry,
        }
    }

    /// Where it belongs among others of its thread, which are in order.
    pub(super) fn place<'a>(
        &self,
        mut others: impl DoubleEndedIterator<Item = &'a Message> + ExactSizeIterator,
    ) -> usize {
        others.rposition(|other| !other.is_newer(self)).map_or(0, |at| at + 1)
    }
}

pub(super) fn written(reply: &Reply) -> Option<Timestamp> {
    reply.created_at.as_deref().and_then(Timestamp::parse)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(sequence: u64, time: &str) -> Message {
        let reply = format!(r#"{{"threadId":"t","createdAt":"{time}"}}"#);
        Message {
            entry: EntryId { sequence, hash: 0 },
            reply: Arc::new(Reply::parse(&reply).unwrap()),
            progress: None,
            origin: Arrival::Live,
        }
    }

    #[test]
    fn the_bridge_s_time_says_what_is_newer_and_else_the_order_of_arrival() {
        let (early, late) = ("2026-11-22T10:00:00Z", "2026-11-22T10:00:01Z");
        assert!(message(1, late).is_newer(&message(2, early)));
        assert!(!message(2, early).is_newer(&message(1, late)));
        assert!(message(2, early).is_newer(&message(1, early)));
        assert!(!message(1, late).is_newer(&message(2, "")));
        assert!(message(2, "").is_newer(&message(1, late)));
    }
}
