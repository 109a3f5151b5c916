//! The retention job: removes messages that are older than `--keep-days`.

use std::{
    convert::Infallible,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::{
    serve::store::Store,
    task::{self, Task},
    time,
};

/// Messages are kept for days, so an hour more does not matter.
const EVERY: Duration = Duration::from_hours(1);
/// A large backlog is worked off in parts, with some rest between two.
const RUN_TIME: Duration = Duration::from_secs(30);
const REST: Duration = Duration::from_mins(1);
/// Between two writes, so that others get their turn.
const PAUSE: Duration = Duration::from_millis(20);

/// The running task. Dropping it ends and joins it.
#[derive(Debug)]
pub(super) struct RetentionJob {
    /// Closed to stop.
    stop: Option<Sender<Infallible>>,
    task: Option<Task>,
}

impl RetentionJob {
    pub(super) fn start(store: Arc<Store>) -> io::Result<RetentionJob> {
        let (stop, stopped) = bounded(0);
        let task = task::spawn("retention", move || run(&store, &stopped))?;
        Ok(RetentionJob { stop: Some(stop), task: Some(task) })
    }
}

impl Drop for RetentionJob {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(task) = self.task.take() {
            // A panic is logged by `join`; there is nothing to add.
            drop(task.join());
        }
    }
}

fn run(store: &Store, stopped: &Receiver<Infallible>) {
    let stopped_within = |wait| stopped.recv_timeout(wait) == Err(RecvTimeoutError::Disconnected);
    loop {
        let until = Instant::now() + RUN_TIME;
        let mut removed = 0;
        let rest = loop {
            match store.expire(time::now()) {
                Ok(0) => break EVERY,
                Ok(count) => removed += count,
                Err(error) => {
                    log::error!("old messages could not be removed: {error:#}");
                    break EVERY;
                }
            }
            if until < Instant::now() {
                break REST;
            }
            if stopped_within(PAUSE) {
                return;
            }
        };
        if 0 < removed {
            log::info!(removed; "removed messages past their retention time");
        }
        if stopped_within(rest) {
            return;
        }
    }
}
