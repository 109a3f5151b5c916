//! The outside of the running task: stop it, or give it new capabilities, whatever it is doing.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossbeam_channel::Sender;
use ureq::Agent;

use crate::task::Task;

/// The running task. Dropping it stops the stream.
#[derive(Debug)]
pub struct Handle {
    pub(super) stop: Option<Sender<()>>,
    pub(super) poke: Sender<()>,
    pub(super) line: Arc<Line>,
    pub(super) task: Option<Task>,
}

impl Handle {
    /// Reconnects with other capabilities; the position is kept.
    pub fn set_capabilities(&self, capabilities: Vec<String>) {
        let mut line = self.line.lock();
        if line.capabilities == capabilities {
            return;
        }
        line.capabilities = capabilities;
        line.cut();
        drop(line);
        // A wait between two connections ends. If it was told before, that is enough.
        self.poke.try_send(()).ok();
    }

    /// Ends the connection and the task. Takes milliseconds, at worst the time limit of a
    /// connection attempt. A receiver that nobody reads any more does not matter.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        // First close the channel, then cut: see `Stream::connection` for why.
        self.stop = None;
        self.line.lock().cut();
        if let Some(task) = self.task.take() {
            // A panic is logged by `join`; there is nothing to add.
            drop(task.join());
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.end();
    }
}

/// The connection in use, where the handle can reach it: a blocked read has no other way to be
/// woken than its agent's shutdown, which an agent does not survive.
#[derive(Debug)]
pub(super) struct Line(pub(super) Mutex<LineState>);

#[derive(Debug)]
pub(super) struct LineState {
    pub(super) agent: Option<Agent>,
    pub(super) capabilities: Vec<String>,
}

impl Line {
    pub(super) fn lock(&self) -> MutexGuard<'_, LineState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LineState {
    fn cut(&mut self) {
        if let Some(agent) = self.agent.take() {
            agent.shutdown();
        }
    }
}
