//! What a stream is started with, and each of its connections.

use std::time::Duration;

use crate::{
    bridge::{backoff::Pace, sse},
    ids::MachineId,
};

/// What a stream is started with.
#[derive(Clone, Debug)]
pub struct Settings {
    pub machine: MachineId,
    /// Distinguishes this daemon from another one of the same name; the same at every start. If it
    /// is empty it is not sent.
    pub instance: String,
    /// Engines that work on this machine: what a connection has to announce.
    pub capabilities: Vec<String>,
    /// The position to go on from, as the last [`StreamEvent::Reply`](super::StreamEvent::Reply)
    /// gave it. A reconnect sends it as `Last-Event-ID`: everything up to here was handed over.
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
