//! One `opencode serve` for all threads. A start costs 4 s and 600 MB, so the server is kept while
//! turns come, and stopped after some idle minutes. One task owns it; everybody else holds a
//! [`Handle`] and, for the time of a turn, a [`Lease`].

mod lease;

pub use lease::connect;
mod process;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    ffi::OsString,
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use crossbeam_channel::{Receiver, RecvError, Sender, after, bounded, never, select_biased};
use serde_json::json;

use crate::{
    agent::{
        http::{self, Lease, Outdated, Password, Request, Server},
        opencode::wire,
    },
    ids::random_hex,
    task::{self, Task},
};

pub use process::start;

/// Leases that are waited for or given back at a time; turns are limited to far fewer.
const QUEUE: usize = 64;
/// For each step of the stop: dispose, SIGTERM, SIGKILL.
const STEP: Duration = Duration::from_secs(3);
/// The line before the address (opencode 1.18.33).
const LISTENING: &str = "opencode server listening on http://";

/// How to start the server.
#[derive(Clone, Debug)]
pub struct Config {
    /// The program, for example `opencode`.
    pub program: OsString,
    /// The server's own directory. Sessions have theirs.
    pub cwd: PathBuf,
    /// How long an unused server is kept: 5 minutes in the daemon.
    pub idle: Duration,
    /// From the spawn to the line that says where it listens: 2 to 4 s, and more than 20 s on a
    /// machine that compiles something meanwhile.
    pub startup: Duration,
}

/// A program to start, as [`Spawner`] is given it.
#[derive(Clone, Debug)]
pub struct Command {
    pub program: OsString,
    pub args: Vec<OsString>,
    /// In addition to the cleaned environment. Holds the password: never log it.
    pub env: Vec<(OsString, OsString)>,
    pub cwd: PathBuf,
}

/// Starts processes: `proc` in the daemon, a fake in tests.
pub trait Spawner: Send + 'static {
    fn spawn(&mut self, command: &Command) -> Result<Box<dyn Process>>;
}

/// A started server.
pub trait Process: Send {
    /// Lines of its standard output. Someone must go on reading them: the keeper does.
    fn lines(&self) -> &Receiver<String>;
    /// Closed or written to when the process has ended.
    fn exited(&self) -> &Receiver<()>;
    /// SIGTERM to its group.
    fn terminate(&mut self);
    /// SIGKILL to its group and to all that carry its marker.
    fn kill(&mut self);
}

type Wanted = Sender<Result<Lease>>;

/// The way to the keeper. Dropping it stops the server.
#[derive(Debug)]
pub struct Handle {
    wanted: Sender<Wanted>,
}

/// Starts the keeper's task; the server is started with the first lease. When the handle is dropped,
/// the task ends, and the server with it. The daemon joins the task before it ends: the handle may
/// be dropped by any task that shares it, and a server that outlives the daemon is stopped by nobody.
///
/// # Errors
/// When the system gives no more OS threads.
pub fn keep(config: Config, spawner: impl Spawner) -> Result<(Handle, Task)> {
    let (wanted, requests) = bounded(QUEUE);
    let mut keeper = Keeper {
        config,
        spawner,
        requests,
        waiting: VecDeque::new(),
        running: None,
        leases: Vec::new(),
        outdated: false,
        idle: None,
    };
    let task = task::spawn("opencode-serve", move || keeper.run())
        .context("can't start the task that keeps opencode's server")?;
    Ok((Handle { wanted }, task))
}

impl Handle {
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

struct Keeper<S> {
    config: Config,
    spawner: S,
    requests: Receiver<Wanted>,
    /// Came while a server was starting.
    waiting: VecDeque<Wanted>,
    running: Option<Running>,
    /// Each disconnects when its lease is dropped.
    leases: Vec<Receiver<Outdated>>,
    outdated: bool,
    /// Since when no turn uses the server.
    idle: Option<Instant>,
}

struct Running {
    process: Box<dyn Process>,
    server: Server,
}

impl<S: Spawner> Keeper<S> {
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
        let (nothing, no_line) = (never(), never());
        let (exited, lines) = self.running.as_ref().map_or((&nothing, &no_line), |running| {
            (running.process.exited(), running.process.lines())
        });
        let no_lease = never();
        // Leases are looked at one at a time: idleness begins when the last one has ended.
        let lease = self.leases.first().unwrap_or(&no_lease);
        let idle = match self.idle {
            Some(since) if self.running.is_some() => {
                after((since + self.config.idle).saturating_duration_since(Instant::now()))
            }
            _ => never(),
        };
        select_biased! {
            recv(exited) -> _ => {
                log::warn!("opencode's server ended by itself");
                self.bury();
            }
            recv(self.requests) -> wanted => {
                let Ok(wanted) = wanted else { return false };
                self.grant(&wanted);
            }
            recv(lease) -> returned => match returned {
                Ok(Outdated) => self.outdated = true,
                Err(RecvError) => self.returned(),
            },
            recv(lines) -> line => match line {
                Ok(line) => log::debug!("opencode serve: {line}"),
                // Without its output nothing is left to wait for but its end.
                Err(_) => self.wait_for_exit(),
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

    fn start(&mut self) -> Result<Running> {
        let password = Password::new(random_hex());
        let command = command(&self.config, &password);
        let mut process = self.spawner.spawn(&command).context("can't start `opencode serve`")?;
        match self.listening(&*process) {
            Ok(address) => {
                log::info!("opencode's server listens on {address}");
                Ok(Running { process, server: Server { address, password } })
            }
            Err(error) => {
                process.kill();
                Err(error)
            }
        }
    }

    /// Waits for the line that tells the address, or for the end of the daemon.
    fn listening(&mut self, process: &dyn Process) -> Result<SocketAddr> {
        let deadline = after(self.config.startup);
        let mut last = String::new();
        loop {
            select_biased! {
                recv(self.requests) -> wanted => match wanted {
                    Ok(wanted) => self.waiting.push_back(wanted),
                    Err(_) => bail!("the daemon stops"),
                },
                recv(process.lines()) -> line => match line {
                    Ok(line) => match line.trim().strip_prefix(LISTENING) {
                        Some(address) => {
                            return address.trim_end_matches('/').parse().with_context(|| {
                                format!("`opencode serve` listens on {address:?}, which is no address")
                            });
                        }
                        None => last = line.chars().take(200).collect(),
                    },
                    Err(_) => bail!("`opencode serve` ended before it listened: {last:?}"),
                },
                recv(process.exited()) -> _ => {
                    bail!("`opencode serve` ended before it listened: {last:?}");
                }
                recv(deadline) -> _ => {
                    let limit = self.config.startup.as_secs();
                    bail!("`opencode serve` did not listen within {limit} s: {last:?}");
                }
            }
        }
    }

    /// The output has ended, which it does a moment before the process.
    fn wait_for_exit(&mut self) {
        let Some(running) = &self.running else { return };
        if !ended(&*running.process) {
            log::warn!("opencode's server closed its output but did not end: killed");
        }
        self.bury();
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
        running.process.terminate();
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

fn ended(process: &dyn Process) -> bool {
    !process.exited().recv_timeout(STEP).is_err_and(|error| error.is_timeout())
}

fn command(config: &Config, password: &Password) -> Command {
    let settings = json!({
        "autoupdate": false,
        "share": "disabled",
        "permission": wire::server_permission(),
        // Else the refusal of a tool ends the turn without a word to the model.
        "experimental": { "continue_loop_on_deny": true },
    });
    Command {
        program: config.program.clone(),
        // Port 0 means 4096 if that is free, and any other if not.
        args: ["serve", "--hostname=127.0.0.1", "--port=0"].map(OsString::from).into(),
        env: vec![
            ("OPENCODE_SERVER_PASSWORD".into(), password.expose().into()),
            ("OPENCODE_CONFIG_CONTENT".into(), settings.to_string().into()),
        ],
        cwd: config.cwd.clone(),
    }
}
