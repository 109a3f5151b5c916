//! Tells a thread that waits for what, and what it is behind.

use std::time::Instant;

use super::{Daemon, places::Told, words};
use crate::bridge::wire::PostKind;

impl Daemon {
    /// Tells the threads that have waited for a while, each once for a message.
    pub(super) fn tell_waiting(&mut self) {
        if self.places.due().is_none_or(|due| Instant::now() < due) {
            return;
        }
        for Told { thread, entry, wait } in self.places.untold(Instant::now()) {
            let body = words::waits(&wait);
            log::info!(threadId = thread.as_str(), entry:% = entry; "waits for its turn");
            // Named after the message, so that a restart does not say it twice.
            self.say(thread, format!("{entry}.wait"), None, PostKind::Status, body);
        }
    }
}
