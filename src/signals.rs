//! The system's signals as messages, so that the main loop can wait for them like for everything
//! else. `PIPE` stays ignored, which is Rust's default: a gone reader is an error of the write.

use std::io;

use crossbeam_channel::{Receiver, Sender, bounded};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::{self, Handle},
};

use crate::task::{self, Joined};

/// More than anyone sends before the first is looked at; a surplus one says nothing new.
const MAX_PENDING: usize = 16;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// The first TERM or INT: finish and leave. The number is for the exit code.
    Stop(i32),
    /// Every further one: leave now.
    StopNow(i32),
    HangUp,
}

/// The watching task. Dropping it ends and joins the task; the signals' defaults do not come back.
#[derive(Debug)]
pub struct Signals {
    pub rx: Receiver<Signal>,
    handle: Handle,
    _task: Joined,
}

/// Begins to watch.
///
/// # Errors
/// When the system refuses the handlers, the pipe behind them or the OS thread.
pub fn watch() -> io::Result<Signals> {
    let signals = iterator::Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    let handle = signals.handle();
    let (tx, rx) = bounded(MAX_PENDING);
    let task = task::spawn("signals", move || forward(signals, &tx))?;
    Ok(Signals { rx, handle, _task: task.into() })
}

fn forward(mut signals: iterator::Signals, tx: &Sender<Signal>) {
    let mut stopping = false;
    for number in signals.forever() {
        let signal = match number {
            SIGHUP => Signal::HangUp,
            _ if stopping => Signal::StopNow(number),
            _ => Signal::Stop(number),
        };
        stopping |= signal == Signal::Stop(number);
        if tx.try_send(signal).is_err() {
            log::warn!("signal {number} came while {MAX_PENDING} others wait, and is dropped");
        }
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        self.handle.close();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use signal_hook::low_level::raise;

    use super::*;

    /// One test, for handlers belong to the whole process.
    #[test]
    fn the_first_stops_and_the_second_does_not_wait() {
        let signals = watch().unwrap();
        let next = |number| {
            raise(number).unwrap();
            signals.rx.recv_timeout(Duration::from_secs(10)).unwrap()
        };
        assert_eq!(next(SIGHUP), Signal::HangUp);
        assert_eq!(next(SIGINT), Signal::Stop(SIGINT));
        assert_eq!(next(SIGHUP), Signal::HangUp);
        assert_eq!(next(SIGTERM), Signal::StopNow(SIGTERM));
        assert_eq!(next(SIGINT), Signal::StopNow(SIGINT));
        let rx = signals.rx.clone();
        drop(signals);
        assert!(rx.recv().is_err(), "the task has ended");
    }
}
