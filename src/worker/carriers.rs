//! Opens the way to an engine: a process of the turn's own, or a place at the shared server.

use std::{
    io::{self, ErrorKind},
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, after, select_biased};
use rustix::io::Errno;

use crate::{
    agent::{
        Failure, FailureKind, TurnCommand, TurnSpec, carrier::Carrier, description::Launch,
        launch::EngineDef, stdio::StdioCarrier,
    },
    config::Token,
    proc::sweep,
    worker::Shared,
};

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
    let process = match &def.description.launch {
        Launch::Process(process) => process,
        Launch::SharedServer => {
            let startup = shared.settings.limits.startup;
            return shared.opencode.open(def, startup, &shared.stop);
        }
    };
    let marker = sweep::marker(&shared.state_id, spec.turn.as_str());
    let token = shared.token.as_ref().map(Token::reveal);
    let plan = def.plan(process, spec, &shared.env, token, &marker);
    match patiently(shared, commands, || StdioCarrier::start(&plan, &marker, process.ladder)) {
        Ok(carrier) => Ok(Box::new(carrier)),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(def.not_installed()),
        Err(error) => Err(Failure::new(
            FailureKind::NotInstalled,
            format!("`{}` could not be started: {error}.", def.program()),
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
