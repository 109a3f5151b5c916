//! How the daemon leaves (ARCHITECTURE.md: stop). Every step has a bound; what is not finished is on disk and
//! goes on with the next start.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, at, never, select_biased};

use super::{Daemon, End};
use crate::{dispatch::Event, signals::Signal};

/// From the order to stop now until the last engine is gone: the turn loop gives a second to each of
/// its steps.
const HURRY: Duration = Duration::from_secs(15);

/// For the last writes of state.json.
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
        log::info!(turns = self.turns(); "stopping");
        self.events.push_back(Event::Stop);
        self.step_all();
        // The receiver goes first: the stream's task may be waiting for room in it.
        self.inbound = never();
        if let Some(stream) = self.stream.take() {
            stream.stop();
        }
        drop(self.drain.take());
        if matches!(end, Ok(End::Stopped | End::Refused)) {
            let patience = Instant::now() + self.setup.config.drain;
            if let Some(signal) = self.await_turns(signals, patience) {
                end = Ok(End::Killed(signal));
            }
        }
        drop(self.stop.take());
        self.await_turns(&never(), Instant::now() + HURRY);
        if self.turns() > 0 {
            log::error!(turns = self.turns(); "some turns did not end in time");
        }
        self.store.set_cursor(&self.cursor);
        if !self.store.flush(FLUSH) {
            log::error!("state.json could not be written; what it lacks is in the inbox");
        }
        self.settle_all();
        // The last handles close the channel that wakes the sending task, which then tries what it
        // has for three seconds and leaves. Dropping them ends opencode's server as well.
        let Daemon { shared, sending, board, .. } = self;
        drop(shared);
        sending.join();
        board.take_down();
        log::info!("stopped");
        end
    }

    /// Waits until all turns are over, or for `patience`, or for a second signal, whose number is
    /// returned.
    fn await_turns(&mut self, signals: &Receiver<Signal>, patience: Instant) -> Option<i32> {
        while self.turns() > 0 {
            // Nobody can answer any more, but time goes on.
            self.expire();
            let due = self.questions_due().map_or_else(never, at);
            select_biased! {
                recv(signals) -> signal => match signal {
                    Ok(Signal::StopNow(number) | Signal::Stop(number)) => return Some(number),
                    Ok(Signal::HangUp) => {}
                    Err(_) => return None,
                },
                recv(self.reports) -> report => if let Ok(report) = report {
                    self.report(report);
                    self.step_all();
                },
                recv(at(patience)) -> _ => return None,
                recv(due) -> _ => {}
            }
        }
        None
    }
}
