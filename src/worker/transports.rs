//! Opens the transport to an engine: a process of the turn's own, or a lease of the shared server.

use std::{
    io,
    time::{Duration, Instant},
};

use crossbeam_channel::never;
use rustix::io::Errno;

use crate::{
    agent::{
        TurnSpec, description::Launch, opencode::server, stdio::StdioTransport,
        transport::Transport,
    },
    proc::sweep,
    worker::run::{Run, Unstarted},
};

/// How long a turn waits for processes and descriptors to be free, and how often it looks.
const SHORTAGE: Duration = Duration::from_mins(5);
const AGAIN: Duration = Duration::from_secs(1);

/// Opens the transport of a turn. A stop of the daemon or by a person ends the wait for it.
pub(super) fn open(run: &Run<'_>, spec: &TurnSpec) -> Result<Box<dyn Transport>, Unstarted> {
    let (shared, def) = (run.shared, run.def);
    let process = match &def.description.launch {
        Launch::Process(process) => process,
        Launch::SharedServer => {
            // The keeper itself gives up first.
            let deadline = server::ServerHandle::deadline(shared.config.startup_timeout);
            let lease = match shared.opencode.request() {
                Ok(lease) => run.wait(&lease, deadline)?,
                Err(error) => Some(Err(error)),
            };
            return Ok(server::connect(def, lease)?);
        }
    };
    let marker = sweep::marker(&shared.state_id, spec.turn.as_str());
    let plan = def.plan(process, spec, &shared.env, &marker);
    let until = Instant::now() + SHORTAGE;
    let mut is_logged = false;
    loop {
        match StdioTransport::start(&plan, &marker, process.ladder) {
            Ok(transport) => return Ok(Box::new(transport)),
            // That passes, and the engine has had no prompt.
            Err(error) if is_shortage(&error) && Instant::now() < until => {
                if !is_logged {
                    log::error!(error:% = error; "cannot start an engine; trying again every second");
                    is_logged = true;
                }
            }
            Err(error) => return Err(def.not_started(&error).into()),
        }
        run.wait::<()>(&never(), Instant::now() + AGAIN)?;
    }
}

/// Descriptors, processes or memory are used up, or the program is just being installed.
fn is_shortage(error: &io::Error) -> bool {
    let shortages = [Errno::MFILE, Errno::NFILE, Errno::AGAIN, Errno::NOMEM, Errno::TXTBSY];
    shortages.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}
