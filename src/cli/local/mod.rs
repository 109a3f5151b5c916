//! `local`: a bridge and a daemon in one process, which talk over loopback HTTP like strangers, so
//! that there is no second code path. With `--send` it asks one question and prints the answer.

mod agents;
mod ask;

use std::{
    ffi::{OsStr, OsString},
    io::{self, Read},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use argh::FromArgs;
use crossbeam_channel::{Receiver, Sender, after, at, bounded, never, select};
use serde_json::json;

use self::ask::{Ask, LocalPrompt, Said};
use crate::{
    bridge::{Access, Client, Net},
    cli::{
        ExitCode, ExitResult, account, console::Console, ephemeral::Ephemeral, logs, ownership,
        policy, start,
    },
    config::{Env, Paths, Token},
    daemon::{self, End, Finished, Report, Setup},
    ids,
    logging::Format,
    serve::{Options, Server},
    signals::{self, Signal},
    store::{
        RealDisk,
        lock::{Held, Lock},
    },
    task::{self, Task},
};

/// The account's name, and the first port that is tried.
const ACCOUNT: &str = "local";
const PORT: u16 = 4780;
/// Further ports that are tried when that one is taken.
const MORE_PORTS: u16 = 19;
/// For the engine to leave by itself after --send, before it is ended.
const LEAVE: Duration = Duration::from_secs(2);
/// The longest message that is read from standard input, in bytes.
const MAX_MESSAGE: u64 = 1024 * 1024;

/// run a bridge and a daemon in one process, for this machine alone
#[derive(FromArgs, Debug)]
#[argh(
    subcommand,
    name = "local",
    example = "{command_name} --send \"What is in this directory?\" --agent claude",
    note = "A second signal does not wait for running turns; the exit code is 128 plus its number.",
    error_code(1, "It can't start, or --send got no answer; the reason is on standard error."),
    error_code(
        10,
        "to 15: with --send, what became of the message; `obto-bridge help exit-codes` has them."
    ),
    error_code(75, "Another daemon uses the directory."),
    error_code(78, "The config.json in the directory can't be used.")
)]
pub(super) struct Args {
    /// post this message on a new thread and print the answer; - for standard input
    #[argh(option)]
    send: Option<String>,
    /// with --send: print one JSON object in place of the answer
    #[argh(switch)]
    json: bool,
    /// agent that answers: claude, codex, opencode, one of the config, or echo, which is built in
    /// and only repeats what it gets
    #[argh(option)]
    agent: Option<String>,
    /// directory in which the agent works; default the current one
    #[argh(option)]
    project: Option<PathBuf>,
    /// with --send: seconds to wait for the answer; default 7200
    #[argh(option, default = "7200")]
    timeout: u32,
    /// address and port; default 127.0.0.1:4780 or the next free port, with --send any free one
    #[argh(option)]
    listen: Option<SocketAddr>,
    /// directory of the bridge, the daemon's state and config.json; default
    /// ~/.agent-bridge-daemon/local
    #[argh(option)]
    data: Option<PathBuf>,
    /// json or text; text if standard error is a terminal
    #[argh(option, from_str_fn(Format::parse))]
    log_format: Option<Format>,
    /// what is logged to standard error, in the form of `RUST_LOG`, which it replaces; with --send
    /// warnings alone if neither is given
    #[argh(option)]
    log: Option<String>,
}

pub(super) fn run(args: Args, env: &Env, paths: &Paths, console: &mut Console<'_>) -> ExitResult {
    logs::to_stderr(args.log_format, args.log.as_deref(), env, args.send.is_some());
    Ok(local(&args, env, paths, console)?)
}

fn local(
    args: &Args,
    env: &Env,
    paths: &Paths,
    console: &mut Console<'_>,
) -> anyhow::Result<ExitCode> {
    let mut data = match &args.data {
        Some(data) => env.cwd.join(data),
        None => paths.state_dir.join("local"),
    };
    let mut paths = Paths { config_file: data.join("config.json"), state_dir: data.join("daemon") };
    let own_program = std::env::current_exe().context("looking for this program's own file")?;
    let mut env = environment(args, env);
    ownership::check(&paths)?;
    let (config, _) = policy::load(&paths, &env)?;
    if !config.project_dir.is_dir() {
        bail!("the project directory {} does not exist", config.project_dir);
    }
    match agents::choose(args.agent.as_deref(), &config, &env, &own_program) {
        Ok(engine) => set(&mut env, "BRIDGE_AGENT", engine.as_str()),
        // One may be installed while this runs.
        Err(why) if args.agent.is_none() && args.send.is_none() => console.note(why),
        Err(why) => bail!(why),
    }

    let mut ephemeral = None;
    // Held until the end: bridge and daemon are one here.
    let _lock = match Lock::acquire(&data) {
        // One question needs nothing of what is there, so it does not have to wait for who has it.
        Err(error) if error.is::<Held>() && args.send.is_some() && args.data.is_none() => {
            let ephemeral = ephemeral.insert(Ephemeral::new(&env)?);
            ephemeral.path().clone_into(&mut data);
            paths.state_dir = data.join("daemon");
            Lock::acquire(&data)?
        }
        lock => lock?,
    };
    let signals = signals::watch()?;
    let server = serve(args, &data)?;
    let (token, account) = token(&server, &data)?;
    set(&mut env, "BRIDGE_BASE_URL", url(&server));
    set(&mut env, "BRIDGE_API_TOKEN_FILE", account::token_file(&data));
    let (mut config, _) = policy::load(&paths, &env)?;
    if args.send.is_some() {
        // Nobody waits for an answer after its time.
        config.drain = Duration::ZERO;
    }
    start::warn(&config, &paths.config_file);
    let (tell, finished) = bounded(1);
    // Of further turns there is no need to know.
    let listener = move |report| {
        if let Report::Finished(end) = report {
            tell.try_send(*end).ok();
        }
    };
    let setup = Setup {
        paths,
        config,
        // Not through a proxy: the bridge is in this process.
        net: Net::default(),
        disk: Arc::new(RealDisk),
        progress_every: daemon::PROGRESS_EVERY,
        env,
        own_program,
        offers_echo: true,
        exit_on_auth_failure: true,
        leave: daemon::LeaveRules::default(),
        readiness: daemon::readiness::Settings::default(),
        is_ephemeral: ephemeral.is_some(),
        reports: daemon::Reports::to(listener),
    };
    let running = LocalBridge::start(setup, signals.rx.clone(), server)?;
    match &args.send {
        None => running.wait(&account, &data, console),
        Some(text) => {
            let question = LocalPrompt {
                text: if text == "-" { input(console)? } else { text.clone() },
                engine: args.agent.clone(),
                thread: format!("thread_{}", ids::random_hex()),
            };
            let deadline = Instant::now() + Duration::from_secs(args.timeout.into());
            running.ask(question, token, deadline, &finished, args.json, console)
        }
    }
}

/// The message that comes on standard input.
fn input(console: &mut Console<'_>) -> anyhow::Result<String> {
    let mut text = String::new();
    let read = (&mut *console.input).take(MAX_MESSAGE + 1).read_to_string(&mut text);
    read.context("reading the message from standard input")?;
    if text.len() as u64 > MAX_MESSAGE {
        bail!("the message on standard input is longer than 1 MB");
    }
    Ok(text)
}

/// The surroundings without what belongs to another bridge.
fn environment(args: &Args, env: &Env) -> Env {
    let mut env = env.clone();
    for name in ["BRIDGE_API_TOKEN", "BRIDGE_API_TOKEN_FILE", "BRIDGE_ACCOUNT_ID"] {
        env.vars.remove(OsStr::new(name));
    }
    // Something that is an address, until there is one.
    set(&mut env, "BRIDGE_BASE_URL", "http://127.0.0.1");
    set(&mut env, "BRIDGE_ORIGIN_HOST", "127.0.0.1");
    if let Some(project) = &args.project {
        set(&mut env, "BRIDGE_PROJECT_DIR", project);
    }
    env
}

fn set(env: &mut Env, name: &str, value: impl Into<OsString>) {
    env.vars.insert(name.into(), value.into());
}

fn url(server: &Server) -> String {
    format!("http://{}", server.addr())
}

/// Starts the bridge on the wanted port, or on one that is free.
fn serve(args: &Args, data: &Path) -> anyhow::Result<Server> {
    let start = |listen| Server::start(Options::new(listen, data.join("bridge")));
    let loopback = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let first = match (args.listen, &args.send) {
        (Some(listen), _) => return start(listen),
        (None, Some(_)) => return start(loopback(0)),
        (None, None) => start(loopback(PORT)),
    };
    (1..=MORE_PORTS).fold(first, |server, more| match server {
        Err(error) if is_taken(&error) => start(loopback(PORT + more)),
        server => server,
    })
}

fn is_taken(error: &anyhow::Error) -> bool {
    let mut causes = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    causes.any(|cause| cause.kind() == io::ErrorKind::AddrInUse)
}

/// The token of the first start, or of a new account if that one is lost or no longer good, and the
/// account's name.
fn token(server: &Server, data: &Path) -> anyhow::Result<(Token, String)> {
    if let Some(token) = account::stored(data)? {
        let access =
            Access { base_url: url(server), origin_host: String::new(), token: token.clone() };
        match Client::new(Arc::new(access), &Net::default())?.whoami() {
            Err(error) if error.is_auth() => {
                log::warn!("the bridge in {} does not know its token any more", data.display());
            }
            Err(error) => return Err(error).context("asking our own bridge"),
            Ok(whoami) => return Ok((token, whoami.user.unwrap_or_default())),
        }
    }
    // The name is taken if the token was lost; then its threads are lost with it.
    let create = |name: String| Ok((account::create(server, &name, data)?, name));
    create(ACCOUNT.to_owned())
        .or_else(|_: anyhow::Error| create(format!("{ACCOUNT}-{}", &ids::random_hex()[..8])))
}

/// Bridge and daemon.
struct LocalBridge {
    daemon: Task,
    /// For the daemon.
    orders: Sender<Signal>,
    end: Receiver<anyhow::Result<End>>,
    /// The process's own; the daemon gets what is meant for it.
    signals: Receiver<Signal>,
    server: Server,
}

impl LocalBridge {
    fn start(
        setup: Setup,
        signals: Receiver<Signal>,
        server: Server,
    ) -> anyhow::Result<LocalBridge> {
        let (orders, received) = bounded(16);
        let (tell, end) = bounded(1);
        let daemon = task::spawn("daemon", move || {
            // The receiver may be gone by now.
            tell.send(daemon::run(setup, &received)).ok();
        })?;
        Ok(LocalBridge { daemon, orders, end, signals, server })
    }

    /// Runs until a signal.
    fn wait(
        self,
        account: &str,
        data: &Path,
        console: &mut Console<'_>,
    ) -> anyhow::Result<ExitCode> {
        let (url, bridge) = (url(&self.server), data.join("bridge"));
        account::keep_address(&bridge, &url);
        console.say(format!("The bridge is at {url}, with a daemon for this machine."));
        if let Some(code) = self.server.welcome(account)? {
            console.say("Sign in for the first time with this link, once and within 24 hours:");
            console.say(account::link(&bridge, &code));
        } else {
            console.say(format!("Sign in as {account:?} at {url}/api/view"));
            console.say(format!(
                "Another password is set with: obto-bridge serve user passwd {account} --data {}",
                bridge.display()
            ));
        }
        Ok(match self.finish(None)? {
            End::Stopped | End::Left => ExitCode::OK,
            End::Killed(signal) => ExitCode::of_signal(signal),
            End::Refused => bail!("the bridge refused its own token; start again"),
        })
    }

    /// Asks, prints what comes, and stops.
    fn ask(
        self,
        question: LocalPrompt,
        token: Token,
        deadline: Instant,
        finished: &Receiver<Finished>,
        json: bool,
        console: &mut Console<'_>,
    ) -> anyhow::Result<ExitCode> {
        let ask = Ask::start(&url(&self.server), token, question)?;
        let failed = |why: &str| (ExitCode::FAILURE, Err(why.to_owned()));
        let (code, outcome) = loop {
            select! {
                recv(ask.said) -> said => match said {
                    Ok(Said::Progress(text)) => console.note(text),
                    Ok(Said::Answer(text)) => break (ExitCode::OK, Ok(text)),
                    Ok(Said::Failure(why)) => break failed(&why),
                    Err(_) => break failed("the conversation broke off"),
                },
                recv(self.signals) -> signal => match signal {
                    Ok(Signal::Stop(number) | Signal::StopNow(number)) => {
                        let why = "interrupted before there was an answer".to_owned();
                        break (ExitCode::of_signal(number), Err(why));
                    }
                    Ok(Signal::HangUp) | Err(_) => {}
                },
                recv(self.end) -> end => break match end {
                    Ok(Err(error)) => return Err(error),
                    _ => failed("the daemon ended before there was an answer"),
                },
                recv(at(deadline)) -> _ => {
                    let why = "there was no answer within the time of --timeout".to_owned();
                    break (ExitCode::LIMIT, Err(why));
                }
            }
        };
        // It is known before the answer is on its way.
        let finished = finished.try_recv().ok();
        let is_turns = matches!(code, ExitCode::OK | ExitCode::FAILURE);
        let code = finished.as_ref().filter(|_| is_turns).map_or(code, ExitCode::of_message);
        if json {
            let usage = finished.as_ref().map(|end| &end.usage);
            console.say_json(&json!({
                "outcome": code.name(),
                "exitCode": code.number(),
                "answer": outcome.as_ref().ok(),
                "reason": outcome.as_ref().err(),
                "denied": finished.as_ref().is_some_and(|end| end.was_denied),
                "agent": finished.as_ref().map(|end| &end.engine),
                "session": finished.as_ref().and_then(|end| end.session.as_ref()),
                "usage": usage.map(|it| json!({"inputTokens": it.input_tokens, "outputTokens": it.output_tokens})),
                "costUsd": usage.and_then(|it| it.cost_usd),
            }));
        } else if let Ok(answer) = &outcome {
            console.say(answer);
        }
        if let Err(why) = outcome {
            console.complain(why);
        }
        // The daemon may have ended by itself; then there is nothing to stop.
        self.orders.try_send(Signal::Stop(0)).ok();
        let end = self.finish(Some(LEAVE));
        ask.stop();
        end?;
        Ok(code)
    }

    /// Waits for the daemon's end, which is to be quick after `hurry`, handing signals on, and stops the bridge after it: what the
    /// daemon still has to say goes there.
    fn finish(self, hurry: Option<Duration>) -> anyhow::Result<End> {
        let mut signals = self.signals;
        let mut hurry = hurry.map_or_else(never, after);
        let end = loop {
            select! {
                recv(signals) -> signal => match signal {
                    // More signals than the daemon can take say nothing new.
                    Ok(signal) => drop(self.orders.try_send(signal)),
                    Err(_) => signals = never(),
                },
                recv(self.end) -> end => break end,
                recv(hurry) -> _ => {
                    self.orders.try_send(Signal::StopNow(0)).ok();
                    hurry = never();
                }
            }
        };
        self.daemon.join().map_err(anyhow::Error::msg).context("the daemon panicked")?;
        self.server.stop();
        end.context("the daemon ended without a word")?
    }
}
