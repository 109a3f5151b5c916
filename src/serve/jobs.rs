//! What the bridge does by itself, beside answering requests, in a task of its own each.

use std::{
    convert::Infallible,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::{
    serve::{clock::Clock, hub::Hub, store::Store},
    task::{self, Joined},
    time,
};

/// A removed account's streams end after at most this long.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// A message is in the index after at most this long; until then searches read it.
const INDEX_EVERY: Duration = Duration::from_millis(500);
/// The indexer works one part of the time and rests so many.
const INDEX_REST: u32 = 3;
/// Messages that are gone are looked for so often.
const SWEEP_EVERY: Duration = Duration::from_mins(1);

/// Messages are kept for days, so an hour more does not matter.
const EVERY: Duration = Duration::from_hours(1);
/// A large backlog is worked off in parts, with some rest between two.
const RUN_TIME: Duration = Duration::from_secs(30);
const REST: Duration = Duration::from_mins(1);
/// Between two writes, so that others get their turn.
const PAUSE: Duration = Duration::from_millis(20);

/// A running task. Dropping it ends and joins it.
#[derive(Debug)]
pub(super) struct Job {
    _stop: Sender<Infallible>,
    _task: Joined,
}

impl Job {
    fn start(
        name: &str,
        run: impl FnOnce(&Receiver<Infallible>) + Send + 'static,
    ) -> io::Result<Job> {
        let (stop, stopped) = bounded(0);
        let task = task::spawn(name, move || run(&stopped))?;
        Ok(Job { _stop: stop, _task: task.into() })
    }

    /// The session reaper ends the streams of callers whose access has ended. Every request is
    /// checked, but a stream only when it opens: its session may have expired since, and `serve user
    /// remove` runs in another process, which can't tell this one.
    ///
    /// # Errors
    /// When the system gives no more threads.
    pub(super) fn reaper(store: Arc<Store>, hub: Arc<Hub>, clock: Clock) -> io::Result<Job> {
        Job::start("reaper", move |stopped| {
            while !is_stopped_within(stopped, LOOK_EVERY) {
                hang_up_on_the_shut_out(&store, &hub, &clock);
            }
        })
    }

    /// The indexer puts messages into the index for searches, and takes out those that are gone.
    ///
    /// # Errors
    /// As [`Job::reaper`].
    pub(super) fn indexer(store: Arc<Store>) -> io::Result<Job> {
        Job::start("indexer", move |stopped| keep_index(&store, stopped))
    }

    /// The retention job removes messages that are older than `--keep-days`.
    ///
    /// # Errors
    /// As [`Job::reaper`].
    pub(super) fn retention(store: Arc<Store>) -> io::Result<Job> {
        Job::start("retention", move |stopped| remove_old_messages(&store, stopped))
    }
}

fn is_stopped_within(stopped: &Receiver<Infallible>, wait: Duration) -> bool {
    stopped.recv_timeout(wait) == Err(RecvTimeoutError::Disconnected)
}

fn hang_up_on_the_shut_out(store: &Store, hub: &Hub, clock: &Clock) {
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

/// New messages are there at once, and all of an older database little by little: others have most of
/// the time.
fn keep_index(store: &Store, stopped: &Receiver<Infallible>) {
    let mut swept = None::<Instant>;
    loop {
        let begun = Instant::now();
        let mut step = || {
            if store.index_some()? {
                return anyhow::Ok(true);
            }
            if swept.is_none_or(|it| SWEEP_EVERY < it.elapsed()) {
                store.sweep_index()?;
                swept = Some(Instant::now());
            }
            Ok(false)
        };
        let rest = match step() {
            Ok(true) => begun.elapsed() * INDEX_REST,
            Ok(false) => INDEX_EVERY,
            Err(error) => {
                log::error!("the index for searches could not be written: {error:#}");
                REST
            }
        };
        if is_stopped_within(stopped, rest) {
            return;
        }
    }
}

fn remove_old_messages(store: &Store, stopped: &Receiver<Infallible>) {
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
            if is_stopped_within(stopped, PAUSE) {
                return;
            }
        };
        if 0 < removed {
            log::info!(removed; "removed messages past their retention time");
        }
        if is_stopped_within(stopped, rest) {
            return;
        }
    }
}
