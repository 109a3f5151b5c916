//! The outside of the running task: stop it, or give it new capabilities, whatever it is doing.

use crossbeam_channel::Sender;

use crate::task::Task;

/// The running task. Dropping it stops the stream.
#[derive(Debug)]
pub struct Handle {
    pub(super) stop: Option<Sender<()>>,
    /// The capabilities that a connection has to announce from now on.
    pub(super) wanted: Sender<Vec<String>>,
    pub(super) task: Option<Task>,
}

impl Handle {
    /// Connects anew with other capabilities. The connection in use is closed only when the new one
    /// is open, so nothing is missed in between.
    pub fn set_capabilities(&self, capabilities: Vec<String>) {
        self.wanted.send(capabilities).ok(); // The task may have ended.
    }
}

impl Drop for Handle {
    /// Ends the connections and the task. Takes milliseconds, at worst the time limit of a
    /// connection attempt. Events that are not received any more do not hold it up.
    fn drop(&mut self) {
        self.stop = None;
        // A panic is logged by `join`; there is nothing to add.
        drop(self.task.take().map(Task::join));
    }
}
