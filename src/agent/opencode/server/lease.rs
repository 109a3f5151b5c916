//! A turn's use of the server: a connection to it, and the lease that keeps it.

use std::{
    io,
    time::{Duration, Instant},
};

use anyhow::{Context, Error};

use super::ServerHandle;
use crate::agent::{
    Exit, Failure, FailureKind, NOT_ON_PATH,
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
    let lease = match lease.context("it did not start in time").and_then(|lease| lease) {
        Ok(lease) => lease,
        Err(error) => return Err(not_started(row, &error)),
    };
    let connected = HttpTransport::connect(lease).context("connecting to it");
    connected
        .map(|transport| Box::new(transport) as Box<dyn Transport>)
        .map_err(|error| failure(format!("{error:#}"), ""))
}

fn not_started(row: &EngineDef, error: &Error) -> Failure {
    if let Some(error) = error.chain().find_map(|cause| cause.downcast_ref::<io::Error>()) {
        return row.not_started(error);
    }
    let said = format!("{error:#}");
    let path = if said.contains(&Exit::NOT_FOUND.to_string()) { NOT_ON_PATH } else { "" };
    failure(said, path)
}

fn failure(said: String, more: &str) -> Failure {
    let advice = "Run `opencode serve` on the machine to see why, then send the message again.";
    Failure::new(
        FailureKind::NotInstalled,
        format!("opencode's server could not be started: {said}."),
        [advice, more].join(" ").trim(),
    )
}
