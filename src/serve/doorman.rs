//! Ends the streams of those who would no longer be let in. Requests are checked one by one, but a
//! stream was let in once: its session may have expired since, and `serve user remove` works in
//! another process, which can't tell us.

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

use crate::{
    serve::{clock::Clock, hub::Hub, store::Store},
    task::{self, Task},
};

/// Somebody who was removed hears no more after so long.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// A running doorman; dropping it ends it.
#[derive(Debug)]
pub(super) struct Doorman {
    /// Closed to stop.
    stop: Option<Sender<Infallible>>,
    task: Option<Task>,
}

impl Doorman {
    /// # Errors
    /// When the system gives no more threads.
    pub(super) fn start(store: Arc<Store>, hub: Arc<Hub>, clock: Clock) -> io::Result<Doorman> {
        let (stop, stopped) = bounded(0);
        let task = task::spawn("doorman", move || {
            while stopped.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
                look(&store, &hub, &clock);
            }
        })?;
        Ok(Doorman { stop: Some(stop), task: Some(task) })
    }
}

fn look(store: &Store, hub: &Hub, clock: &Clock) {
    for caller in hub.callers() {
        match store.is_let_in(caller, clock.now()) {
            Ok(true) => (),
            Ok(false) => hub.hang_up(|it| it == caller),
            // Who can't be asked about stays; every request of theirs is asked about again.
            Err(error) => {
                log::warn!("the doorman could not read the store: {error:#}");
                return;
            }
        }
    }
}

impl Drop for Doorman {
    fn drop(&mut self) {
        drop(self.stop.take());
        if self.task.take().is_some_and(|task| task.join().is_err()) {
            log::error!("the doorman had failed");
        }
    }
}
