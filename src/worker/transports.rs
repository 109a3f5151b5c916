//! Opens the transport to an engine: a process of the turn's own, or a lease of the shared server.

use std::{
    io::{self, ErrorKind},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use crossbeam_channel::{Receiver, never};
use rustix::io::Errno;
use serde_json::Value;

use crate::{
    agent::{
        Failure, FailureKind, TurnSpec,
        carrier::{Carrier, Incoming},
        detect,
        engines::{EngineDef, EngineKind},
        http::HttpCarrier,
        opencode::{self, server::Lease},
        stdio::StdioCarrier,
    },
    config::Token,
    proc::sweep,
    worker::run::{Run, Unstarted},
};

/// All steps of the end of opencode's server.
const SERVER_STOP: Duration = Duration::from_secs(15);

/// How long a turn waits for processes and descriptors to be free, and how often it looks.
const SHORTAGE: Duration = Duration::from_mins(5);
const AGAIN: Duration = Duration::from_secs(1);

/// Opens the transport of a turn. A stop, also by a human, ends the wait for it.
pub(super) fn open(run: &Run<'_>, spec: &TurnSpec) -> Result<Box<dyn Carrier>, Unstarted> {
    let (shared, def) = (run.shared, run.def);
    if def.kind == EngineKind::Opencode {
        return server(run);
    }
    let marker = sweep::marker(&shared.state_id, spec.turn.as_str());
    let token = shared.token.as_ref().map(Token::reveal);
    let plan = def.plan(spec, &shared.env, token, &marker);
    match patiently(run, || StdioCarrier::start(&plan, &marker, def.kind.ladder()))? {
        Ok(carrier) => Ok(Box::new(carrier)),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(not_installed(def).into()),
        Err(error) => Err(Unstarted::Failed(Failure::new(
            FailureKind::NotInstalled,
            format!("`{}` could not be started: {error}.", def.program[0]),
            "Look at the daemon's log and at the limits of the machine (processes, open files, \
             memory), then send the message again.",
        ))),
    }
}

/// Starts an engine. While the machine has nothing left to start it with, it is tried again: that
/// passes, and the engine has had no prompt. Gives up after [`SHORTAGE`].
fn patiently<T>(
    run: &Run<'_>,
    start: impl Fn() -> io::Result<T>,
) -> Result<io::Result<T>, Unstarted> {
    let until = Instant::now() + SHORTAGE;
    let mut is_logged = false;
    loop {
        match start() {
            Err(error) if is_shortage(&error) && Instant::now() < until => {
                if !is_logged {
                    log::error!(error:% = error; "cannot start an engine; trying again every second");
                    is_logged = true;
                }
            }
            result => return Ok(result),
        }
        run.wait::<()>(&never(), Instant::now() + AGAIN)?;
    }
}

/// Descriptors, processes or memory are used up.
fn is_shortage(error: &io::Error) -> bool {
    let shortages = [Errno::MFILE, Errno::NFILE, Errno::AGAIN, Errno::NOMEM];
    shortages.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

fn server(run: &Run<'_>) -> Result<Box<dyn Carrier>, Unstarted> {
    let (shared, def) = (run.shared, run.def);
    let failed = |error: anyhow::Error| {
        let is_missing = error
            .chain()
            .filter_map(|cause| cause.downcast_ref::<io::Error>())
            .any(|cause| cause.kind() == ErrorKind::NotFound);
        if is_missing {
            return not_installed(def);
        }
        Failure::new(
            FailureKind::NotInstalled,
            format!("opencode's server could not be started: {error:#}."),
            "Run `opencode serve` on the machine to see why, then send the message again.",
        )
    };
    // The keeper itself gives up first; before it starts a server it may have to stop another.
    let deadline = Instant::now() + shared.settings.limits.startup + SERVER_STOP;
    let lease = shared.opencode.request().map_err(failed)?;
    let lease = run
        .wait(&lease, deadline)?
        .context("it did not start in time")
        .and_then(|lease| lease)
        .map_err(failed)?;
    let carrier =
        HttpCarrier::connect(lease.server.clone()).context("connecting to it").map_err(failed)?;
    Ok(Box::new(Leased { carrier, lease }))
}

/// A carrier to the shared server, and the lease that keeps the server.
struct Leased {
    carrier: HttpCarrier,
    lease: Lease,
}

impl Carrier for Leased {
    fn send(&mut self, value: &Value) -> io::Result<()> {
        if opencode::is_outdate(value) {
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

fn not_installed(def: &EngineDef) -> Failure {
    Failure::new(
        FailureKind::NotInstalled,
        format!("`{}` was not found on this machine.", def.program[0]),
        detect::how_to_install(&def.name, &def.program[0]),
    )
}
