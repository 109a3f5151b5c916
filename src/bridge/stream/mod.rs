//! The task `stream`: what people say, from the bridge to the daemon's loop, over connections that
//! come and go. A reply is kept on disk before it is handed over, and only then does the position
//! in the stream (`Last-Event-ID`) move past it.
//!
//! Each connection has a task of its own ([`link`]), so that a new one can be opened while the old
//! one is still read: make before break ([`run`]).

mod clock;
mod connect;
mod handle;
mod hello;
mod link;
mod run;

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use crossbeam_channel::{Receiver, bounded};

pub use self::{handle::Handle, hello::Replay};

use self::{handle::Wanted, run::Stream};
use super::{AccessSource, Net, backoff::Pace, sse, wire::Reply};
use crate::{
    ids::{MachineId, ThreadId},
    task,
    time::Timestamp,
};

/// Events between this task and the daemon's loop. When it is full, TCP pushes back.
const EVENTS: usize = 64;

/// What a stream is started with.
#[derive(Clone, Debug)]
pub struct Settings {
    pub machine: MachineId,
    /// Tells this daemon from another one of the same name: the same at every start of this one.
    /// Empty: the bridge is not told.
    pub instance: String,
    /// Engines that work on this machine.
    pub capabilities: Vec<String>,
    /// The position to go on from, as the last [`StreamEvent::Reply`] gave it.
    pub last_event_id: Option<String>,
    /// A connection that is silent for longer is dead. Comments are life, too.
    pub idle: Duration,
    /// The longest event that is read, in bytes.
    pub max_event: usize,
    pub pace: Pace,
}

impl Settings {
    pub fn new(machine: MachineId) -> Settings {
        Settings {
            machine,
            instance: String::new(),
            capabilities: Vec::new(),
            last_event_id: None,
            idle: Duration::from_secs(75),
            max_event: sse::MAX_BYTES,
            pace: Pace::default(),
        }
    }
}

/// What the stream reports. `T` is what keeping a reply returned.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "almost every event is a reply")]
pub enum StreamEvent<T> {
    /// Once for each connection, before its replies; also for one that takes the place of another,
    /// without [`StreamEvent::Disconnected`] in between. With a position to go on from it waits for
    /// the bridge's first event, which may say what was replayed, or for a fifth of the idle limit
    /// if this bridge has not said hello before.
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
    /// connection, if it is anything.
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

/// Starts the stream. `keep` makes a reply durable; what it returns goes along with the reply.
/// One that fails with [`io::ErrorKind::QuotaExceeded`] has no room for this reply, which becomes
/// [`StreamEvent::Overflow`]. After any other failure it is tried again until it works: the reply is
/// not lost, and neither is the place in the stream.
///
/// # Errors
/// When the CA file can't be read, or the system gives no thread.
pub fn start<T, K>(
    access: Arc<dyn AccessSource>,
    net: &Net,
    settings: Settings,
    keep: K,
) -> anyhow::Result<(Handle, Receiver<StreamEvent<T>>)>
where
    T: Send + 'static,
    K: FnMut(&Reply) -> io::Result<T> + Send + 'static,
{
    let (stop_sender, stop) = bounded(0);
    let (poke_sender, poke) = bounded(1);
    let (sender, events) = bounded(EVENTS);
    let wanted = Arc::new(Wanted(Mutex::new(settings.capabilities.clone())));
    let ends = run::Ends { stop, poke, events: sender, wanted: Arc::clone(&wanted) };
    let stream = Stream::new(access, net, settings, ends, keep)?;
    let task = task::spawn("stream", move || stream.run())?;
    let handle = Handle { stop: Some(stop_sender), poke: poke_sender, wanted, task: Some(task) };
    Ok((handle, events))
}
