//! One `opencode serve` for all threads. A start costs 4 s and 600 MB, so the server is kept while
//! turns come, and stopped after some idle minutes. One task owns it; everybody else holds a
//! [`ServerHandle`] and, for the time of a turn, a [`Lease`].

mod lease;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    ffi::OsString,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use crossbeam_channel::{
    Receiver, RecvError, RecvTimeoutError, Sender, after, bounded, never, select_biased,
};
use rustix::process::Signal;
use serde_json::json;

use crate::{
    agent::{
        http::{self, Endpoint, Lease, Outdated, Password, Request},
        launch::EngineDef,
        opencode::wire,
        stdio::{KILL, Ladder, LadderStep, StdioTransport},
        text::last_words,
        transport::{Transport, TransportEvent},
    },
    ids::random_hex,
    proc::{Plan, kill::To, sweep},
    task::{self, Task},
};

pub use lease::connect;

/// Leases that are waited for or given back at a time; turns are limited to far fewer.
const QUEUE: usize = 64;
/// For each step of the stop: dispose, SIGTERM, SIGKILL.
const STEP: Duration = Duration::from_secs(3);
/// The line before the address (opencode 1.18.33).
const LISTENING: &str = "opencode server listening on http://";
/// An unused server is kept for this long.
const IDLE: Duration = Duration::from_mins(5);
/// After the dispose.
const LADDER: Ladder = &[(LadderStep::Signal(Signal::TERM, To::Group), STEP), KILL];

#[derive(Clone, Debug)]
pub struct ServerSetup {
    /// The program with the arguments that the config puts before ours, the server's own directory
    /// (sessions have theirs), and what engines inherit.
    pub plan: Plan,
    /// Leads the marker of its processes.
    pub state_id: String,
    /// How long an unused server is kept.
    pub idle: Duration,
    /// From the spawn to the line that says where it listens: 2 to 4 s, and more than 20 s on a
    /// machine that compiles something meanwhile.
    pub startup: Duration,
}

/// Starts a process, whose marker has the given value. Values are not sent to it, and what it prints
/// is mostly no JSON.
pub type Spawn = dyn FnMut(&Plan, &str) -> Result<Box<dyn Transport>> + Send;

type Wanted = Sender<Result<Lease>>;

/// The way to the keeper. Dropping it stops the server.
#[derive(Debug)]
pub struct ServerHandle {
    wanted: Sender<Wanted>,
}

/// Starts the keeper of the server, which is started like every other engine: a group of its own,
/// marked, without our secrets. `env` is what engines inherit.
///
/// # Errors
/// When the system gives no more OS threads.
pub fn start(
    row: &EngineDef,
    cwd: &Path,
    startup: Duration,
    env: &[(OsString, OsString)],
    state_id: &str,
) -> Result<(ServerHandle, Task)> {
    let plan = row.base(cwd.to_owned(), env);
    let config = ServerSetup { plan, state_id: state_id.to_owned(), idle: IDLE, startup };
    keep(
        config,
        Box::new(|plan, marker| Ok(Box::new(StdioTransport::start(plan, marker, LADDER)?))),
    )
}

/// Starts the keeper's task; the server is started with the first lease. When the handle is dropped,
/// the task ends, and the server with it. The daemon joins the task before it ends: the handle may
/// be dropped by any task that shares it, and a server that outlives the daemon is stopped by nobody.
///
/// # Errors
/// When the system gives no more OS threads.
pub fn keep(config: ServerSetup, spawn: Box<Spawn>) -> Result<(ServerHandle, Task)> {
    let (wanted, requests) = bounded(QUEUE);
    let mut keeper = Keeper {
        config,
        spawn,
        requests,
        waiting: VecDeque::new(),
        running: None,
        leases: Vec::new(),
        outdated: false,
        idle: None,
    };
    let task = task::spawn("opencode-serve", move || keeper.run())
        .context("can't start the task that keeps opencode's server")?;
    Ok((ServerHandle { wanted }, task))
}

impl ServerHandle {
    /// Asks for the server, which is started if it is not running. Its lease, or why there is none,
    /// comes through the channel, if it is waited for long enough.
    ///
    /// # Errors
    /// When too many turns ask at once.
    pub fn request(&self) -> Result<Receiver<Result<Lease>>> {
        let (reply, lease) = bounded(1);
        self.wanted
            .try_send(reply)
            .map_err(|_| anyhow!("opencode's server is asked for by too many turns at once"))?;
        Ok(lease)
    }
}

struct Keeper {
    config: ServerSetup,
    spawn: Box<Spawn>,
    requests: Receiver<Wanted>,
    /// Came while a server was starting.
    waiting: VecDeque<Wanted>,
    running: Option<RunningServer>,
    /// Each disconnects when its lease is dropped.
    leases: Vec<Receiver<Outdated>>,
    outdated: bool,
    /// Since when no turn uses the server.
    idle: Option<Instant>,
}

struct RunningServer {
    process: Box<dyn Transport>,
    server: Endpoint,
}

impl Keeper {
    fn run(&mut self) {
        while self.step() {}
        self.stop();
    }

    /// Waits for one thing to happen. False when the handle is gone.
    fn step(&mut self) -> bool {
        if let Some(wanted) = self.waiting.pop_front() {
            self.grant(&wanted);
            return true;
        }
        let (nothing, no_lease) = (never(), never());
        let said = self.running.as_ref().map_or(&nothing, |running| running.process.incoming());
        // Leases are looked at one at a time: idleness begins when the last one has ended.
        let lease = self.leases.first().unwrap_or(&no_lease);
        let idle = match self.idle {
            Some(since) if self.running.is_some() => {
                after((since + self.config.idle).saturating_duration_since(Instant::now()))
            }
            _ => never(),
        };
        select_biased! {
            recv(said) -> said => if let Some(line) = printed(said.ok()) {
                log::debug!("opencode serve: {line}");
            } else {
                log::warn!("opencode's server ended by itself");
                self.bury();
            },
            recv(self.requests) -> wanted => {
                let Ok(wanted) = wanted else { return false };
                self.grant(&wanted);
            }
            recv(lease) -> returned => match returned {
                Ok(Outdated) => self.outdated = true,
                Err(RecvError) => self.returned(),
            },
            recv(idle) -> _ => self.stop(),
        }
        true
    }

    /// The first lease was given back.
    fn returned(&mut self) {
        self.leases.swap_remove(0);
        if self.leases.is_empty() && self.outdated {
            log::info!(
                "opencode's server is stopped, with all that turns left behind; the next one reads opencode's settings anew"
            );
            self.stop();
        }
        self.idle = self.leases.is_empty().then(Instant::now);
    }

    fn grant(&mut self, wanted: &Wanted) {
        let lease = self.lease();
        // The caller may have given up; its lease ends here then.
        drop(wanted.send(lease));
    }

    fn lease(&mut self) -> Result<Lease> {
        if self.running.is_none() {
            self.running = Some(self.start()?);
        }
        let running = self.running.as_ref().context("it was just started")?;
        let (lease, returned) = Lease::new(running.server.clone());
        self.leases.push(returned);
        self.idle = None;
        Ok(lease)
    }

    fn start(&mut self) -> Result<RunningServer> {
        let password = Password::new(random_hex());
        let marker = sweep::marker(&self.config.state_id, &format!("opencode-{}", random_hex()));
        let plan = plan(&self.config.plan, &password, &marker);
        let mut process = (self.spawn)(&plan, &marker).context("can't start `opencode serve`")?;
        match self.listening(&*process) {
            Ok(address) => {
                log::info!("opencode's server listens on {address}");
                Ok(RunningServer { process, server: Endpoint { address, password } })
            }
            Err(error) => {
                process.kill();
                Err(error)
            }
        }
    }

    /// Waits for the line that tells the address, or for the end of the daemon.
    fn listening(&mut self, process: &dyn Transport) -> Result<SocketAddr> {
        let deadline = after(self.config.startup);
        let mut last = String::new();
        loop {
            let line = select_biased! {
                recv(self.requests) -> wanted => {
                    self.waiting.push_back(wanted.map_err(|_| anyhow!("the daemon stops"))?);
                    continue;
                }
                recv(process.incoming()) -> said => match said.ok() {
                    Some(TransportEvent::Exit { exit, stderr_tail }) => {
                        let complaint = last_words(&stderr_tail);
                        let said = if complaint.is_empty() { &last } else { &complaint };
                        bail!("`opencode serve` ended before it listened ({exit}): {said:?}");
                    }
                    said => printed(said).context("`opencode serve` is gone")?,
                },
                recv(deadline) -> _ => {
                    let limit = self.config.startup.as_secs();
                    bail!("`opencode serve` did not listen within {limit} s: {last:?}");
                }
            };
            // A terminal's codes may be in front of it.
            if let Some((_, address)) = line.trim().split_once(LISTENING) {
                return address.trim_end_matches('/').parse().with_context(|| {
                    format!("`opencode serve` listens on {address:?}, which is no address")
                });
            }
            last = line.chars().take(200).collect();
        }
    }

    /// Ends what a dead server has left: the commands of its tools are in sessions of their own and
    /// run on.
    fn bury(&mut self) {
        self.outdated = false;
        if let Some(mut running) = self.running.take() {
            running.process.kill();
        }
    }

    /// Ends the server. Only its own dispose reaches the shells of running tools, which are in
    /// sessions of their own.
    fn stop(&mut self) {
        self.idle = None;
        self.outdated = false;
        let Some(mut running) = self.running.take() else { return };
        let request =
            Request { method: "POST", path: "/global/dispose", directory: "", body: None };
        if let Err(error) = http::call(&running.server, request, STEP) {
            log::warn!("can't dispose of opencode's server: {error}");
        }
        running.process.escalate();
        let left = ended(&*running.process);
        if !left {
            log::warn!("opencode's server ignores SIGTERM: killed");
        }
        // Also if it has left: where the dispose failed, the commands of its tools run on.
        running.process.kill();
        if !left && !ended(&*running.process) {
            log::error!("opencode's server can't be killed");
        }
    }
}

/// Waits for the end of a process, one step of the stop long.
fn ended(process: &dyn Transport) -> bool {
    let until = Instant::now() + STEP;
    loop {
        let said = process.incoming().recv_deadline(until);
        if said.as_ref().is_err_and(RecvTimeoutError::is_timeout) {
            return false;
        }
        if printed(said.ok()).is_none() {
            return true;
        }
    }
}

/// A line that the server has printed, which is mostly no JSON. None: it has ended.
fn printed(said: Option<TransportEvent>) -> Option<String> {
    match said? {
        TransportEvent::Garbage(line) => Some(line),
        TransportEvent::Value(line) => Some(line.to_string()),
        TransportEvent::Exit { stderr_tail, .. } => {
            log::debug!(stderr = stderr_tail.as_str(); "opencode's server ended");
            None
        }
    }
}

fn plan(base: &Plan, password: &Password, marker: &str) -> Plan {
    let settings = json!({
        "autoupdate": false,
        "share": "disabled",
        "permission": wire::server_permission(),
        // Else the refusal of a tool ends the turn without a word to the model.
        "experimental": { "continue_loop_on_deny": true },
    });
    let mut plan = base.clone();
    // Port 0 means 4096 if that is free, and any other if not.
    plan.args.extend(["serve", "--hostname=127.0.0.1", "--port=0"].map(OsString::from));
    plan.env.extend([
        ("OPENCODE_SERVER_PASSWORD".into(), password.expose().into()),
        ("OPENCODE_CONFIG_CONTENT".into(), settings.to_string().into()),
        (sweep::MARKER.into(), marker.into()),
    ]);
    plan
}
