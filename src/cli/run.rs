//! `run`: one prompt on the configured bridge, driven by a daemon of its own in this process, and an exit
//! code that says what became of it.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use argh::FromArgs;
use crossbeam_channel::{Receiver, Sender, at, bounded, never, select};
use serde_json::{Value, json};

use crate::{
    bridge::{Access, Client},
    cli::{
        CommandError, ExitCode, ExitResult, client,
        console::Console,
        duration,
        ephemeral::{self, Ephemeral},
        failed, logs, ownership, policy, start,
    },
    config::{Config, Env, Paths, live::missing_token},
    daemon::{self, End, Finished, Outcome, Report, Reports, Setup},
    ids::{self, MessageId, ThreadId},
    logging::{self, Format},
    signals::{self, Signal},
    store::RealDisk,
    task,
};

/// How long the bridge may be out of reach before there is anything to wait for.
const CONNECT: Duration = Duration::from_mins(1);
/// From the connection until the bridge has been told of the machine, and between two tries.
const KNOWN: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_millis(100);
/// For the last posts to go out, once the answer is known.
const DELIVER: Duration = Duration::from_secs(30);
/// For the engine to leave by itself at a time-out, before it is ended.
const LEAVE: Duration = Duration::from_secs(2);
/// The longest prompt that is read, in bytes; a bridge takes about as much.
const MAX_PROMPT: u64 = 1024 * 1024;
/// Reports of the daemon that wait to be printed.
const REPORTS: usize = 1024;

/// put one prompt on a thread of the bridge, have it answered here, and end
#[derive(FromArgs, Debug)]
#[argh(
    subcommand,
    name = "run",
    example = "{command_name} --agent claude --prompt \"Why does the build fail?\" --json",
    note = "The thread's address is printed first, progress and questions go to standard error, the answer to\nstandard output. `obto-bridge help exit-codes` has the codes.",
    error_code(10, "The agent failed."),
    error_code(11, "A limit ended the turn."),
    error_code(12, "A person stopped it."),
    error_code(13, "Something that the agent wanted to do was denied."),
    error_code(14, "The model's usage limit is reached."),
    error_code(15, "The agent is not logged in."),
    error_code(69, "The bridge can't be reached."),
    error_code(77, "The bridge refuses the token."),
    error_code(78, "The configuration can't be used.")
)]
pub(super) struct Args {
    /// the prompt
    #[argh(option)]
    prompt: Option<String>,
    /// a file with the prompt; - for standard input
    #[argh(option)]
    prompt_file: Option<PathBuf>,
    /// go on on this thread, which must not be another machine's; a new one if not given
    #[argh(option)]
    thread: Option<String>,
    /// agent that answers; the configured one if not given
    #[argh(option)]
    agent: Option<String>,
    /// directory in which the agent works; default the current one
    #[argh(option)]
    project: Option<PathBuf>,
    /// put the agent's questions to people on the page; without it the rules alone decide, and what they
    /// would ask is denied
    #[argh(switch)]
    ask: bool,
    /// stay for further messages on the thread until it has been quiet for that long: 90s, 10m, 2h
    #[argh(option, from_str_fn(duration))]
    follow: Option<Duration>,
    /// end after that long: 90s, 10m, 2h
    #[argh(option, from_str_fn(duration))]
    timeout: Option<Duration>,
    /// print one JSON object in place of the answer
    #[argh(switch)]
    json: bool,
    /// json or text; text if standard error is a terminal
    #[argh(option, from_str_fn(Format::parse))]
    log_format: Option<Format>,
    /// what is logged to standard error, in the form of `RUST_LOG`; warnings alone if not given
    #[argh(option)]
    log: Option<String>,
}

pub(super) fn run(args: Args, env: &Env, paths: &Paths, console: &mut Console<'_>) -> ExitResult {
    let prompt = prompt(&args, env, console)?;
    ownership::check(paths)?;
    logs::to_stderr(args.log_format, args.log.as_deref(), env, true);
    let env = environment(&args, env);
    let (mut config, _) = policy::load(paths, &env)?;
    let token = config.token.clone().ok_or_else(|| missing_token(&paths.config_file))?;
    logging::hide(&token);
    // An order to end is not put off: a runner kills what does not leave soon.
    config.drain = Duration::ZERO;
    // Each run is a machine of its own, unless it was given a name to come back under.
    config.machine = ephemeral::machine(&config.machine, &env);
    let net = client::net(&config, &env)?;
    let access = Access {
        base_url: config.base_url.clone(),
        origin_host: config.origin_host.clone(),
        token,
    };
    let thread = args.thread.clone().unwrap_or_else(|| format!("thread_{}", ids::random_hex()));
    let job = Job {
        thread: ThreadId::new(thread),
        is_new: args.thread.is_none(),
        prompt,
        client: Client::new(Arc::new(access), &net)?,
        config: config.clone(),
        follow: args.follow,
        deadline: args.timeout.and_then(|limit| Instant::now().checked_add(limit)),
        started: Instant::now(),
    };
    let state = Ephemeral::new(&env)?;
    start::warn(&config, &paths.config_file);
    let (listener, reports) = bounded(REPORTS);
    // It waits while there is no room; one that is gone is no trouble.
    let listener = move |report| drop(listener.send(report));
    let setup = Setup {
        paths: Paths { config_file: paths.config_file.clone(), state_dir: state.path().to_owned() },
        env,
        net,
        disk: Arc::new(RealDisk),
        progress_every: daemon::PROGRESS_EVERY,
        config,
        own_program: std::env::current_exe().context("looking for this program's own file")?,
        offers_echo: true,
        exit_on_auth_failure: true,
        leave: daemon::LeaveRules::default(),
        readiness: daemon::readiness::Settings::default(),
        is_ephemeral: true,
        reports: Reports::to(listener),
    };
    let address = job.address();
    console.note(format!("Thread: {address}"));
    let (end, thread) = (job.drive(setup, reports, console)?, &job.thread);
    drop(state);
    if args.json {
        console.say_json(&end.json(thread, &address, job.started.elapsed()));
    } else if let Some(answer) = end.answer() {
        console.say(answer);
    }
    if let Some(why) = end.why() {
        console.complain(logging::redact(&why));
    }
    Ok(end.code)
}

fn prompt(args: &Args, env: &Env, console: &mut Console<'_>) -> Result<String, CommandError> {
    let usage = |why: &str| CommandError { why: why.to_owned(), code: ExitCode::USAGE };
    let mut text = String::new();
    match (&args.prompt, &args.prompt_file) {
        (Some(prompt), None) => text.clone_from(prompt),
        (None, Some(file)) if file == Path::new("-") => {
            let read = console.input.take(MAX_PROMPT + 1).read_to_string(&mut text);
            read.map_err(|error| {
                failed(format!("reading the prompt from standard input: {error}"))
            })?;
        }
        (None, Some(file)) => {
            let file = env.cwd.join(file);
            let read = || fs::File::open(&file)?.take(MAX_PROMPT + 1).read_to_string(&mut text);
            let read: io::Result<usize> = { read }();
            let name = file.display();
            read.map_err(|error| failed(format!("reading the prompt from {name}: {error}")))?;
        }
        _ => return Err(usage("give the prompt by --prompt TEXT or by --prompt-file FILE")),
    }
    if text.trim().is_empty() {
        return Err(usage("the prompt is empty"));
    }
    if text.len() as u64 > MAX_PROMPT {
        return Err(usage("the prompt is longer than 1 MB"));
    }
    Ok(text)
}

/// Flags win over the environment.
fn environment(args: &Args, env: &Env) -> Env {
    let project = args.project.as_ref().map_or_else(|| env.cwd.clone(), |dir| env.cwd.join(dir));
    let mut env = with(env.clone(), "BRIDGE_PROJECT_DIR", project);
    if let Some(agent) = &args.agent {
        env = with(env, "BRIDGE_AGENT", agent);
    }
    with(env, "BRIDGE_RELAY_PERMISSIONS", if args.ask { "1" } else { "0" })
}

fn with(mut env: Env, name: &str, value: impl Into<OsString>) -> Env {
    env.vars.insert(name.into(), value.into());
    env
}

/// What is asked, and of whom.
struct Job {
    thread: ThreadId,
    is_new: bool,
    prompt: String,
    client: Client,
    config: Config,
    follow: Option<Duration>,
    deadline: Option<Instant>,
    started: Instant,
}

/// How it ended.
#[derive(Debug)]
struct JobEnd {
    code: ExitCode,
    /// Of the turn, if there was one.
    finished: Option<Box<Finished>>,
    /// Where that does not say why.
    why: Option<String>,
}

impl JobEnd {
    fn new(code: ExitCode, why: impl Into<String>) -> JobEnd {
        JobEnd { code, finished: None, why: Some(why.into()) }
    }

    fn answer(&self) -> Option<&str> {
        let finished = self.finished.as_deref()?;
        (finished.outcome == Outcome::Answered).then_some(finished.text.as_str())
    }

    /// For standard error.
    fn why(&self) -> Option<String> {
        if self.code == ExitCode::DENIED && self.answer().is_some() {
            return Some("something that the agent wanted to do was denied".to_owned());
        }
        let finished = || Some(self.finished.as_ref()?.text.clone());
        self.why.clone().or_else(|| self.answer().is_none().then(finished)?)
    }

    /// As docs/run.schema.json has it.
    fn json(&self, thread: &ThreadId, address: &str, took: Duration) -> Value {
        let finished = self.finished.as_deref();
        let usage = finished.map(|finished| &finished.usage);
        let duration = (took.as_secs_f64() * 1000.0).round() / 1000.0;
        json!({
            "thread": thread,
            "address": address,
            "outcome": self.code.name(),
            "exitCode": self.code.number(),
            "answer": self.answer(),
            "reason": self.why(),
            "denied": finished.is_some_and(|finished| finished.was_denied),
            "agent": finished.map(|finished| &finished.engine),
            "session": finished.and_then(|finished| finished.session.as_ref()),
            "usage": usage.map(|usage| json!({
                "inputTokens": usage.input_tokens,
                "outputTokens": usage.output_tokens,
            })),
            "costUsd": usage.and_then(|usage| usage.cost_usd),
            "durationSeconds": duration,
        })
    }
}

/// What the run knows of its thread.
struct Progress {
    /// Why it is not connected.
    why: Option<String>,
    /// When the prompt is to be posted; none before the daemon is connected.
    post_at: Option<Instant>,
    /// The bridge knows the machine by then.
    known_by: Instant,
    /// The prompt's, once it is posted.
    message: Option<MessageId>,
    is_posted: bool,
    /// Turns in progress.
    running: BTreeSet<Option<MessageId>>,
    finished: Option<Box<Finished>>,
    /// The prompt's message is done.
    is_done: bool,
    /// Until then the last posts may still go out.
    deliver_by: Option<Instant>,
    /// Since when nothing has happened on the thread.
    quiet_since: Option<Instant>,
}

impl Job {
    /// Where people see the thread.
    fn address(&self) -> String {
        format!("{}/api/view#t/{}", self.config.base_url, self.thread)
    }

    fn drive(
        &self,
        setup: Setup,
        reports: Receiver<Report>,
        console: &mut Console<'_>,
    ) -> anyhow::Result<JobEnd> {
        // From here on a signal is an order to stop, and not the end.
        let signals = signals::watch()?;
        let (orders, received) = bounded(16);
        let (tell, ended) = bounded(1);
        let task = task::spawn("daemon", move || {
            tell.send(daemon::run(setup, &received)).ok(); // Nobody may wait any more.
        })?;
        let outcome = self.wait(&reports, &signals.rx, &ended, console);
        let end = match outcome {
            Ok(end) => end,
            Err(gone) => {
                task.join().map_err(anyhow::Error::msg).context("the daemon panicked")?;
                return gone;
            }
        };
        if matches!(end.code, ExitCode::LIMIT) || end.code.number() > 128 {
            self.say_why(&end);
        }
        Job::stop(&orders, &signals.rx, &reports, &ended);
        task.join().map_err(anyhow::Error::msg).context("the daemon panicked")?;
        Ok(end)
    }

    /// Waits for the end of the prompt, and of what follows. An error: the daemon ended before, and
    /// that is what comes of it.
    fn wait(
        &self,
        reports: &Receiver<Report>,
        signals: &Receiver<Signal>,
        ended: &Receiver<anyhow::Result<End>>,
        console: &mut Console<'_>,
    ) -> Result<JobEnd, anyhow::Result<JobEnd>> {
        let mut progress = Progress::new();
        let connect_by = Instant::now() + CONNECT;
        loop {
            let is_due = progress.post_at.is_some_and(|at| at <= Instant::now());
            if is_due && !progress.is_posted {
                progress.post_at = None;
                match self.post() {
                    Ok(message) => {
                        progress.message = message;
                        progress.is_posted = true;
                    }
                    // The machine is known to the bridge a moment after it has connected.
                    Err(end)
                        if end.code == ExitCode::FAILURE && Instant::now() < progress.known_by =>
                    {
                        progress.post_at = Some(Instant::now() + AGAIN);
                    }
                    Err(end) => return Ok(end),
                }
            }
            if let Some(end) = self.end(&mut progress) {
                return Ok(end);
            }
            let limit = self.deadline.map_or_else(never, at);
            let unreachable = if progress.is_posted { never() } else { at(connect_by) };
            let post = progress.post_at.map_or_else(never, at);
            let deliver = progress.deliver_by.map_or_else(never, at);
            let quiet = match (self.follow, progress.quiet_since) {
                (Some(follow), Some(since)) if progress.running.is_empty() => {
                    since.checked_add(follow).map_or_else(never, at)
                }
                _ => never(),
            };
            select! {
                recv(reports) -> report => if let Ok(report) = report {
                    progress.take(report, console);
                },
                recv(signals) -> signal => match signal {
                    Ok(Signal::Stop(number) | Signal::StopNow(number)) => {
                        let why = format!("ended by signal {number}");
                        return Ok(JobEnd::new(ExitCode::of_signal(number), why));
                    }
                    Ok(Signal::HangUp) | Err(_) => {}
                },
                recv(ended) -> end => return Err(match end {
                    Ok(Ok(End::Refused)) => Ok(JobEnd::new(
                        ExitCode::REFUSED,
                        "the bridge refuses the token: check apiToken, or run `obto-bridge init`",
                    )),
                    Ok(Err(error)) => Err(error),
                    _ => Err(anyhow::anyhow!("the daemon ended before there was an answer")),
                }),
                recv(limit) -> _ => return Ok(if progress.is_posted {
                    let why = "there was no answer within the time of --timeout";
                    JobEnd::new(ExitCode::LIMIT, why)
                } else {
                    progress.unreachable()
                }),
                recv(unreachable) -> _ => return Ok(progress.unreachable()),
                recv(post) -> _ => {}
                // What is not delivered by then is not waited for.
                recv(deliver) -> _ => progress.deliver_by = None,
                recv(quiet) -> _ => progress.quiet_since = None,
            }
        }
    }

    /// Makes the thread this machine's, and puts the prompt on it.
    fn post(&self) -> Result<Option<MessageId>, JobEnd> {
        let refused = |error: crate::bridge::Error| {
            let code = if error.is_auth() {
                ExitCode::REFUSED
            } else if error.is_retryable() {
                ExitCode::UNAVAILABLE
            } else {
                ExitCode::FAILURE
            };
            JobEnd::new(code, format!("the prompt could not be posted: {error}"))
        };
        let machine = &self.config.machine;
        // A new thread is made with the prompt.
        if !self.is_new {
            let claim = match self.client.claim(&self.thread, machine) {
                Err(error) if error.status() == Some(404) => None,
                claim => Some(claim.map_err(refused)?),
            };
            if let Some(claim) = claim
                && !claim.won
                && claim.winner.as_ref() != Some(machine)
            {
                let owner = claim.winner.map(|it| it.to_string());
                let why = format!(
                    "the thread {} belongs to {}: leave --thread away for a new one",
                    self.thread,
                    owner.as_deref().unwrap_or("another machine")
                );
                return Err(JobEnd::new(ExitCode::FAILURE, why));
            }
        }
        let engine = self.config.engine.as_str();
        self.client.say(&self.thread, &self.prompt, engine, machine).map_err(refused)
    }

    /// Whether it is over.
    fn end(&self, progress: &mut Progress) -> Option<JobEnd> {
        if !progress.is_done || progress.deliver_by.is_some() {
            return None;
        }
        let is_quiet = progress.quiet_since.is_none() && progress.running.is_empty();
        if self.follow.is_some() && !is_quiet {
            return None;
        }
        Some(match progress.finished.take() {
            Some(finished) => {
                let code = ExitCode::of_message(&finished);
                JobEnd { code, finished: Some(finished), why: None }
            }
            None => JobEnd::new(
                ExitCode::STOPPED,
                "it was stopped, or another machine took it, before it began",
            ),
        })
    }

    /// Tells the thread why nothing more comes.
    fn say_why(&self, end: &JobEnd) {
        let why = end.why().unwrap_or_default();
        let name = ids::ClientMsgId::new(format!("run-{}", ids::random_hex()));
        let body = format!(
            "The run on {} is over: {why}. It does not go on by itself.",
            self.config.machine
        );
        let author = self.config.engine.author();
        let post = crate::bridge::wire::Post::new(
            self.thread.clone(),
            crate::bridge::wire::PostKind::Status,
            author,
            body,
            name,
        );
        // The bridge may be what is missing.
        if let Err(error) = self.client.post(&post) {
            log::warn!(error:% = error; "the thread could not be told that the run is over");
        }
    }

    /// Has the daemon send what it has, and end.
    fn stop(
        orders: &Sender<Signal>,
        signals: &Receiver<Signal>,
        reports: &Receiver<Report>,
        ended: &Receiver<anyhow::Result<End>>,
    ) {
        orders.try_send(Signal::Stop(0)).ok(); // It may have ended by itself.
        let mut hurry = at(Instant::now() + LEAVE);
        loop {
            select! {
                recv(ended) -> _ => return,
                // Nobody reads them any more, but the daemon must not wait for room.
                recv(reports) -> report => if report.is_err() { return },
                recv(signals) -> signal => if signal.is_ok() {
                    orders.try_send(Signal::StopNow(0)).ok();
                },
                recv(hurry) -> _ => {
                    orders.try_send(Signal::StopNow(0)).ok();
                    hurry = never();
                }
            }
        }
    }
}

impl Progress {
    fn new() -> Progress {
        Progress {
            why: None,
            post_at: None,
            known_by: Instant::now(),
            message: None,
            is_posted: false,
            running: BTreeSet::new(),
            finished: None,
            is_done: false,
            deliver_by: None,
            quiet_since: None,
        }
    }

    fn take(&mut self, report: Report, console: &mut Console<'_>) {
        match report {
            Report::Connected => {
                self.post_at = Some(Instant::now());
                self.known_by = Instant::now() + KNOWN;
            }
            Report::Disconnected { why } => self.why = Some(why),
            Report::Begun { message } => {
                self.running.insert(message);
                self.quiet_since = Some(Instant::now());
            }
            Report::Said { body, .. } => console.note(body),
            Report::Finished(finished) => {
                // Of what follows, the newest counts.
                if self.is_done || self.message.is_none() || finished.message == self.message {
                    if self.finished.is_some() {
                        console.note(&finished.text);
                    }
                    self.finished = Some(finished);
                }
            }
            Report::Done { message } => {
                self.is_done |= self.message.as_ref().is_none_or(|ours| *ours == message);
                self.running.remove(&Some(message));
                self.deliver_by = Some(Instant::now() + DELIVER);
                self.quiet_since = Some(Instant::now());
            }
            Report::Delivered => self.deliver_by = None,
        }
    }

    fn unreachable(&self) -> JobEnd {
        let why = self.why.as_deref().unwrap_or("it does not answer");
        JobEnd::new(ExitCode::UNAVAILABLE, format!("the bridge can't be reached: {why}"))
    }
}
