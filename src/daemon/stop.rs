//! How the daemon stops (ARCHITECTURE.md: stop). Every step has a bound; what is not finished is on disk and
//! goes on with the next start.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, at, never, select_biased};

use super::{Daemon, End};
use crate::{
    coordinator::{Coordinator, Event},
    signals::Signal,
};

/// From the order to stop now until the last engine is gone: the turn loop gives a second to each of
/// its steps.
const HURRY: Duration = Duration::from_secs(15);

/// For the last posts that the disk is to take, and for the last writes of state.json.
const FLUSH: Duration = Duration::from_secs(3);

impl Daemon {
    /// Ends everything in order. A stop by signal lets running turns finish for `drainSeconds`; an
    /// error, or a second signal, does not.
    pub(super) fn stop(
        mut self,
        signals: &Receiver<Signal>,
        end: anyhow::Result<End>,
    ) -> anyhow::Result<End> {
        let mut end = end;
        let has_no_turns = |coordinator: &Coordinator| coordinator.turns() == 0;
        log::info!(turns = self.coordinator.turns(); "stopping");
        self.readiness.stopping(self.calls.shared.config.drain + HURRY + 3 * FLUSH);
        self.step(Event::Stop);
        // The receiver goes first: the stream's task may be waiting for room in it.
        self.inbound = never();
        drop(self.stream.take());
        drop(self.drain.take());
        if matches!(end, Ok(End::Stopped | End::Left | End::Refused)) {
            let patience = Instant::now() + self.calls.shared.config.drain;
            if let Some(signal) = self.wait_for(signals, patience, has_no_turns) {
                end = Ok(End::Killed(signal));
            }
        }
        drop(self.stop.take());
        self.wait_for(&never(), Instant::now() + HURRY, has_no_turns);
        // What a disk that failed did not take is tried once more.
        self.wait_for(&never(), Instant::now() + FLUSH, Coordinator::has_stored_all);
        let left = self.coordinator.turns();
        if left > 0 {
            log::error!(turns = left; "some turns did not end in time");
        }
        self.records.store.set_cursor(self.coordinator.cursor());
        if !self.records.store.flush(FLUSH) {
            log::error!("state.json could not be written; what it lacks is in the inbox");
        }
        self.step(self.records.all_written());
        self.wait_for(&never(), Instant::now() + FLUSH, Coordinator::has_stored_all);
        // The last handles close the channel that wakes the sending task, which then tries what it
        // has for three seconds and ends. Dropping them ends opencode's server as well: the
        // recorder may be the last, so it is waited for below.
        let Daemon { records, running, decisions, calls, sending, keeper, board, events, .. } =
            self;
        // A recorder that waits for room in the loop's channel is woken by its end.
        drop((events, records, running, decisions, calls));
        // A panic was logged.
        drop((sending.join(), keeper.join()));
        board.take_down();
        log::info!("stopped");
        end
    }

    /// Waits until it is so, or for `patience`, or for a second signal, whose number is returned.
    fn wait_for(
        &mut self,
        signals: &Receiver<Signal>,
        patience: Instant,
        is_so: impl Fn(&Coordinator) -> bool,
    ) -> Option<i32> {
        while !is_so(&self.coordinator) {
            let due = self.deadline().map_or_else(never, at);
            select_biased! {
                recv(signals) -> signal => match signal {
                    Ok(Signal::StopNow(number) | Signal::Stop(number)) => return Some(number),
                    Ok(Signal::HangUp) => {}
                    Err(_) => return None,
                },
                recv(self.events) -> event => if let Ok(event) = event {
                    self.step(event);
                },
                recv(self.stored) -> stored => if let Ok(stored) = stored {
                    self.step(self.records.stored(stored));
                },
                recv(self.records.store.written()) -> _ => self.step(self.records.all_written()),
                recv(at(patience)) -> _ => return None,
                // No answer comes in any more, but questions expire.
                recv(due) -> _ => self.step(Event::Tick),
            }
        }
        None
    }
}
