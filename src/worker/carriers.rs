//! Opens the way to an engine: a process of the turn's own, or a place at the shared server.

use std::{
    io::{self, ErrorKind},
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, after, select_biased};
use rustix::io::Errno;
use serde_json::Value;

use crate::{
    agent::{
        Failure, FailureKind, TurnCommand, TurnSpec,
        carrier::{Carrier, Incoming},
        detect,
        engines::{EngineDef, EngineKind},
        http::HttpCarrier,
        opencode::{self, server::Lease},
        stdio::StdioCarrier,
    },
    config::Token,
    proc::sweep,
    worker::Shared,
};

/// All steps of the end of opencode's server.
const SERVER_STOP: Duration = Duration::from_secs(15);

/// How long a turn waits for processes and descriptors to be free, and how often it looks.
const SHORTAGE: Duration = Duration::from_mins(5);
const AGAIN: Duration = Duration::from_secs(1);

/// Opens the carrier of a turn. `commands` are only looked at: with one in it, it is not waited for
/// an engine any more.
pub(super) fn open(
    shared: &Shared,
    def: &EngineDef,
    spec: &TurnSpec,
    commands: &Receiver<TurnCommand>,
) -> Result<Box<dyn Carrier>, Failure> {
    if def.kind == EngineKind::Opencode {
        return server(shared, def);
    }
    let marker = sweep::marker(&shared.state_id, spec.turn.as_str());
    let token = shared.token.as_ref().map(Token::reveal);
    let plan = def.plan(spec, &shared.env, token, &marker);
    match patiently(shared, commands, || StdioCarrier::start(&plan, &marker, def.kind.ladder())) {
        Ok(carrier) => Ok(Box::new(carrier)),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(not_installed(def)),
        Err(error) => Err(Failure::new(
            FailureKind::NotInstalled,
            format!("`{}` could not be started: {error}.", def.program[0]),
            "Look at the daemon's log and at the limits of the machine (processes, open files, \
             memory), then send the message again.",
        )),
    }
}

/// Starts an engine. While the machine has nothing left to start it with, it is tried again: that
/// passes, and the engine has had no prompt. Gives up after [`SHORTAGE`], or when the daemon stops.
fn patiently<T>(
    shared: &Shared,
    commands: &Receiver<TurnCommand>,
    start: impl Fn() -> io::Result<T>,
) -> io::Result<T> {
    let until = Instant::now() + SHORTAGE;
    let mut is_said = false;
    loop {
        match start() {
            Err(error) if is_shortage(&error) && commands.is_empty() && Instant::now() < until => {
                if !is_said {
                    log::error!(error:% = error; "cannot start an engine; trying again every second");
                    is_said = true;
                }
            }
            result => return result,
        }
        select_biased! {
            recv(shared.stop) -> _ => return Err(ErrorKind::Interrupted.into()),
            recv(after(AGAIN)) -> _ => {}
        }
    }
}

/// Descriptors, processes or memory are used up.
fn is_shortage(error: &io::Error) -> bool {
    let shortages = [Errno::MFILE, Errno::NFILE, Errno::AGAIN, Errno::NOMEM];
    shortages.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

fn server(shared: &Shared, def: &EngineDef) -> Result<Box<dyn Carrier>, Failure> {
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
    let lease = shared.opencode.lease(deadline, &shared.stop).map_err(failed)?;
    let carrier = HttpCarrier::connect(lease.server.clone())
        .map_err(|error| failed(anyhow::Error::new(error).context("connecting to it")))?;
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
