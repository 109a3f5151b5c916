//! The task `stream`: what people say, from the bridge to the daemon's loop, over connections that
//! come and go. A reply is kept on disk before it is handed over, and only then does the position
//! in the stream (`Last-Event-ID`) move past it.
//!
//! Each connection has a task of its own (`link`), so that a new one can be opened while the old
//! one is still read: make before break (`run`).

mod clock;
mod connect;
mod event;
mod hello;
mod link;
mod run;
mod settings;

use std::{io, sync::Arc};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

pub use self::{
    event::{Replay, StreamEvent},
    settings::Settings,
};

use self::run::Stream;
use super::{AccessSource, Net, wire::Reply};
use crate::task::{self, Joined};

/// Events between this task and the daemon's loop. When it is full, TCP pushes back.
const EVENTS: usize = 16;

/// The running task. Dropping it ends the connections and the task, which takes milliseconds, at
/// worst the time limit of a connection attempt. Events that are not received any more do not hold
/// it up.
#[derive(Debug)]
pub struct StreamHandle {
    _stop: Sender<()>,
    /// The capabilities that a connection has to announce from now on.
    wanted: Sender<Vec<String>>,
    _task: Joined,
}

impl StreamHandle {
    /// Connects anew with other capabilities. The connection in use is closed only when the new one
    /// is open, so nothing is missed in between.
    pub fn set_capabilities(&self, capabilities: Vec<String>) {
        self.wanted.send(capabilities).ok(); // The task may have ended.
    }
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
) -> anyhow::Result<(StreamHandle, Receiver<StreamEvent<T>>)>
where
    T: Send + 'static,
    K: FnMut(&Reply) -> io::Result<T> + Send + 'static,
{
    let (stop_sender, stop) = bounded(0);
    // Unbounded: the loop names the engines once for each time that it asks them, which is at the start.
    let (wanted_sender, wanted) = unbounded();
    let (sender, events) = bounded(EVENTS);
    let ends = run::Ends { stop, wanted, events: sender };
    let mut stream = Stream::new(access, net, settings, ends, keep)?;
    // Here, since the connection need not wait until the stream's own task runs.
    stream.open().ok(); // Nothing has stopped it yet.
    let task = task::spawn("stream", move || stream.run())?;
    let handle = StreamHandle { _stop: stop_sender, wanted: wanted_sender, _task: task.into() };
    Ok((handle, events))
}
