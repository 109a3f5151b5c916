//! A turn's use of the server: a connection to it, and the lease that keeps it.

use std::{
    io::{self, ErrorKind},
    time::{Duration, Instant},
};

use anyhow::{Context, Error};
use crossbeam_channel::Receiver;
use serde_json::Value;

use super::{Handle, Lease};
use crate::agent::{
    Failure, FailureKind,
    carrier::{Carrier, Incoming},
    http::HttpCarrier,
    launch::EngineDef,
    opencode::wire,
};

/// All steps of the end of a server, which may have to be stopped before the next one starts.
const STOP: Duration = Duration::from_secs(15);

impl Handle {
    /// When the keeper has answered at the latest, if a start takes no longer than `startup`.
    pub fn deadline(startup: Duration) -> Instant {
        Instant::now() + startup + STOP
    }
}

/// Connects a turn to the server; `lease` is the answer to [`Handle::request`], none if there was
/// none in time.
///
/// # Errors
/// When the server can't be started or reached.
pub fn connect(
    row: &EngineDef,
    lease: Option<anyhow::Result<Lease>>,
) -> Result<Box<dyn Carrier>, Failure> {
    let lease = lease.context("it did not start in time").and_then(|lease| lease);
    let leased = lease.and_then(|lease| {
        let carrier = HttpCarrier::connect(lease.server.clone()).context("connecting to it")?;
        Ok(Leased { carrier, lease })
    });
    match leased {
        Ok(leased) => Ok(Box::new(leased)),
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

struct Leased {
    carrier: HttpCarrier,
    lease: Lease,
}

impl Carrier for Leased {
    fn send(&mut self, value: &Value) -> io::Result<()> {
        if wire::is_outdate(value) {
            self.lease.outdate();
            return Ok(());
        }
        self.carrier.send(value)
    }

    fn incoming(&self) -> &Receiver<Incoming> {
        self.carrier.incoming()
    }

    fn close_input(&mut self) {
        self.carrier.close_input();
    }

    fn escalate(&mut self) -> Option<Duration> {
        self.carrier.escalate()
    }

    fn kill(&mut self) {
        self.carrier.kill();
    }
}
