//! What the stream reports to the daemon's loop.

use std::time::Duration;

use crate::{bridge::wire::Reply, ids::ThreadId, time::Timestamp};

/// What the stream reports. `T` is what keeping a reply returned.
#[derive(Debug)]
pub enum StreamEvent<T> {
    /// Once for each connection, before its replies; also for one that takes the place of another,
    /// without [`StreamEvent::Disconnected`] in between. With a position to go on from it waits for
    /// the bridge's first event, which may say what was replayed, or for a fifth of the idle limit
    /// if this bridge has not said hello before. Sent again when a later `hello` says that not all of
    /// it is replayed.
    Connected {
        replay: Replay,
        /// The server's time, as it wrote it.
        server_time: Option<String>,
        last_event_id: Option<String>,
    },
    Reply {
        kept: T,
        reply: Reply,
        /// The position after this reply; to be stored, and given back at the next start.
        last_event_id: Option<String>,
    },
    /// There was no room to keep a reply of this thread. The stream goes on after it; its thread's
    /// history has it.
    Overflow {
        thread: ThreadId,
        /// By the server's time, if it said one.
        created_at: Option<Timestamp>,
        last_event_id: Option<String>,
    },
    /// The bridge named the place where the stream begins after [`StreamEvent::Connected`] was sent.
    /// A start before the first reply goes on from there.
    Begins {
        server_time: Option<String>,
        last_event_id: Option<String>,
    },
    /// What this bridge takes besides the protocol of the reference, by its own word. Once for each
    /// connection, if there is any.
    Accepts(Vec<String>),
    Disconnected {
        why: String,
        next: Duration,
    },
    /// The token was refused. Tried again slowly, with the token that is in the config by then.
    AuthRefused {
        status: u16,
        why: String,
        next: Duration,
    },
    /// Another daemon is connected under this machine's name. Tried again slowly.
    Conflict {
        why: String,
        next: Duration,
    },
}

/// Whether the bridge sent again what we missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    /// It did; nothing needs to be caught up.
    Complete,
    /// Not all of it.
    Gap,
    /// It does not say, like the hosted bridge, or had no position to start from.
    Unknown,
}
