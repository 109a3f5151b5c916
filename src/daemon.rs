//! The main loop. STUB: the interface that the command line is written against, nothing more.

use std::path::PathBuf;

use crossbeam_channel::Receiver;

use crate::{
    bridge::Net,
    config::{Config, Env, Paths},
    signals::Signal,
    store::lock::Lock,
};

/// What a daemon is started with.
#[derive(Debug)]
pub struct Setup {
    pub paths: Paths,
    pub env: Env,
    pub config: Config,
    pub net: Net,
    /// This executable: it plays the echo engine.
    pub own_program: PathBuf,
    /// Name the echo engine among the capabilities.
    pub offers_echo: bool,
    /// End when the bridge refuses the token, instead of trying again slowly.
    pub exit_on_auth_failure: bool,
}

/// Why the daemon ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Somebody asked.
    Stopped,
    /// Somebody asked twice; the number of the signal.
    Killed(i32),
    /// The bridge refuses the token, and [`Setup::exit_on_auth_failure`] is set.
    Refused,
}

/// Runs the daemon until a signal, or something it can't go on without, ends it.
///
/// # Errors
/// When the state directory can't be used.
pub fn run(setup: Setup, signals: &Receiver<Signal>) -> anyhow::Result<End> {
    let _lock = Lock::acquire(&setup.paths.state_dir)?;
    loop {
        match signals.recv() {
            Ok(Signal::HangUp) => {}
            Ok(Signal::Stop(_)) | Err(_) => return Ok(End::Stopped),
            Ok(Signal::StopNow(number)) => return Ok(End::Killed(number)),
        }
    }
}
