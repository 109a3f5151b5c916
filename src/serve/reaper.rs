//! The session reaper ends the streams of callers whose access has ended. Every request is checked,
//! but a stream only when it opens: its session may have expired since, and `serve user remove` runs
//! in another process, which can't tell this one.

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

use crate::{
    serve::{clock::Clock, hub::Hub, store::Store},
    task::{self, Task},
};

/// A removed account's streams end after at most this long.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The running reaper; dropping it ends it.
#[derive(Debug)]
pub(super) struct Reaper {
    /// Closed to stop.
    stop: Option<Sender<Infallible>>,
    task: Option<Task>,
}

impl Reaper {
    /// # Errors
    /// When the system gives no more threads.
    pub(super) fn start(store: Arc<Store>, hub: Arc<Hub>, clock: Clock) -> io::Result<Reaper> {
        let (stop, stopped) = bounded(0);
        let task = task::spawn("reaper", move || {
            while stopped.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
                look(&store, &hub, &clock);
            }
        })?;
        Ok(Reaper { stop: Some(stop), task: Some(task) })
    }
}

fn look(store: &Store, hub: &Hub, clock: &Clock) {
    for caller in hub.callers() {
        match store.is_let_in(caller, clock.now()) {
            Ok(true) => (),
            Ok(false) => hub.hang_up(|it| it == caller),
            // The stream stays: its caller's requests are still checked one by one.
            Err(error) => {
                log::warn!("the session reaper could not read the store: {error:#}");
                return;
            }
        }
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        drop(self.stop.take());
        if self.task.take().is_some_and(|task| task.join().is_err()) {
            log::error!("the session reaper had failed");
        }
    }
}
