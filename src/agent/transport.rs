//! How values travel to an engine and back: lines on its standard streams here, HTTP and
//! server-sent events on loopback in `http`. A protocol does not know which.

use std::{io, time::Duration};

use crossbeam_channel::Receiver;
use serde_json::Value;

use crate::agent::Exit;

/// The way to one engine for one turn.
pub trait Transport: Send {
    /// Hands a value over. Must not block on an engine that does not read.
    fn send(&mut self, value: &Value) -> io::Result<()>;

    /// What comes from the engine, in order; [`TransportEvent::Exit`] is the last.
    fn incoming(&self) -> &Receiver<TransportEvent>;

    /// No more values follow.
    fn close_input(&mut self);

    /// The next, harsher step of the engine's exit ladder, and how long to wait for its effect
    /// before the one after it. None when there is nothing left to do.
    fn escalate(&mut self) -> Option<Duration>;

    /// Ends the engine at once, with every process that carries the turn's marker. True: its process
    /// has ended, though [`TransportEvent::Exit`] may still be behind what it had written.
    fn kill(&mut self) -> bool;
}

#[derive(Debug)]
pub enum TransportEvent {
    Value(Value),
    /// A line that is no JSON: how it begins.
    Garbage(String),
    /// The engine is gone.
    Exit {
        exit: Exit,
        stderr_tail: String,
    },
}

/// How much of a line that is no JSON is kept.
const GARBAGE: usize = 200;

impl TransportEvent {
    pub fn garbage(line: &[u8]) -> TransportEvent {
        TransportEvent::Garbage(
            String::from_utf8_lossy(&line[..GARBAGE.min(line.len())]).into_owned(),
        )
    }
}
