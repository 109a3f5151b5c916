//! A turn's use of the server: a connection to it, and the lease that keeps it.

use std::{
    io::{self, ErrorKind},
    time::{Duration, Instant},
};

use anyhow::{Context, Error};

use super::ServerHandle;
use crate::agent::{
    Failure, FailureKind,
    http::{HttpTransport, Lease},
    launch::EngineDef,
    transport::Transport,
};

/// All steps of the end of a server, which may have to be stopped before the next one starts.
const STOP: Duration = Duration::from_secs(15);

impl ServerHandle {
    /// When the keeper has answered at the latest, if a start takes no longer than `startup`.
    pub fn deadline(startup: Duration) -> Instant {
        Instant::now() + startup + STOP
    }
}

/// Connects a turn to the server; `lease` is the answer to [`ServerHandle::request`], none if there
/// was none in time.
///
/// # Errors
/// When the server can't be started or reached.
pub fn connect(
    row: &EngineDef,
    lease: Option<anyhow::Result<Lease>>,
) -> Result<Box<dyn Transport>, Failure> {
    let lease = lease.context("it did not start in time").and_then(|lease| lease);
    let connected =
        lease.and_then(|lease| HttpTransport::connect(lease).context("connecting to it"));
    match connected {
        Ok(transport) => Ok(Box::new(transport)),
        Err(error) if is_missing(&error) => Err(row.not_installed()),
        Err(error) => Err(Failure::new(
            FailureKind::NotInstalled,
            format!("opencode's server could not be started: {error:#}."),
            "Run `opencode serve` on the machine to see why, then send the message again.",
        )),
    }
}

fn is_missing(error: &Error) -> bool {
    let mut causes = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    causes.any(|cause| cause.kind() == ErrorKind::NotFound)
}
