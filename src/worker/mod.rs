//! A worker serves one thread of the bridge: it takes the thread's messages in order and drives one
//! turn for each. While it lives it owns the thread's binding; the dispatcher hears of every change
//! and has the only copy once the worker is gone.

mod asking;
mod carriers;
mod drive;
mod history;
mod host;
mod long;
mod progress;
mod sessions;
mod words;

use std::{
    collections::BTreeMap,
    convert::Infallible,
    ffi::OsString,
    io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender, TryRecvError, select_biased};

pub use asking::{Codes, Subject, may_write};
pub use history::{Early, ask_early};
pub use long::Answers;
pub use progress::EVERY as PROGRESS_EVERY;
pub use sessions::record;
pub use words::died_asking;

use crate::{
    agent::{
        Limits, Model, QuestionId, Sandbox, TurnCommand,
        engines::{EngineDef, Engines},
        opencode,
    },
    bridge::{
        Client,
        wire::{Activity, Post, Reply},
    },
    config::Token,
    ids::{Engine, ThreadId, TurnId},
    permission::{Policy, Rule, approval_prompt::ApprovalRequest, code::Code},
    store::{
        audit::Audit,
        binding::{Binding, SessionRecord},
        entry::{EntryId, Progress},
        outbox::Outbox,
        spool::Inbox,
    },
    task::{self, Task},
};

/// A worker without work leaves after this long.
const IDLE: Duration = Duration::from_mins(5);

/// One message for a worker.
#[derive(Debug)]
pub struct Job {
    pub entry: EntryId,
    pub reply: Arc<Reply>,
    /// How far an earlier daemon came with it.
    pub progress: Option<Progress>,
    /// The thread's session is not for messages that came in after this entry.
    pub fresh: Option<EntryId>,
    /// For this message alone. Closed before its turn begins: it is done with, and nothing is said.
    /// Closed in its turn: stop it.
    pub commands: Receiver<TurnCommand>,
    /// Speaks once, when its turn may begin.
    pub place: Receiver<()>,
}

/// What a worker tells the dispatcher.
#[derive(Debug)]
pub enum Report {
    /// The thread's session of this engine; none when it is gone.
    Session { thread: ThreadId, engine: Engine, record: Option<SessionRecord> },
    /// The thread's session of this engine is forgotten, as [`Job::fresh`] said.
    Renewed { thread: ThreadId, engine: Engine, mark: EntryId },
    /// What the engine does, for whoever asks.
    Doing { thread: ThreadId, line: String },
    /// The next message is at hand and waits for [`Job::place`]. Its engine may write in `writes`,
    /// a canonical path, without asking first.
    Ready { thread: ThreadId, entry: EntryId, writes: Option<PathBuf> },
    /// A turn has its place and begins.
    Started { thread: ThreadId, engine: Engine },
    /// The turn is over and its place free.
    Rested { thread: ThreadId },
    /// The message's answer is durable in the outbox.
    Finished { thread: ThreadId, entry: EntryId },
    /// The engine wants something that the human decides. Told before anybody can see it.
    Asked { entry: EntryId, request: Box<ApprovalRequest> },
    /// The engine no longer waits for this one.
    Withdrawn { thread: ThreadId, turn: TurnId, question: QuestionId, code: Code },
    /// The engine has the human's verdict, or did not wait for it any more.
    Decided { thread: ThreadId, turn: TurnId, question: QuestionId, code: Code, was_open: bool },
    /// Everything like it is allowed on this thread from now on.
    Granted { thread: ThreadId, rule: Rule },
    /// The engine may do this as soon as its thread has the directory's lock.
    Writes { entry: EntryId, thread: ThreadId, question: QuestionId, directory: PathBuf },
    /// A turn that asked something is over.
    Ceased { thread: ThreadId, turn: TurnId },
    /// Nothing to do for some minutes: may I leave?
    Idle { thread: ThreadId },
    /// The worker is gone.
    Ended { thread: ThreadId },
}

/// The settings that turns need.
#[derive(Clone, Debug)]
pub struct Settings {
    pub project_dir: PathBuf,
    /// Where a thread may ask to work besides.
    pub project_dirs: Vec<PathBuf>,
    pub engine: Engine,
    pub sandbox: Sandbox,
    pub allow_all: bool,
    pub policy: Policy,
    /// How long the human is waited for; none: nobody is asked.
    pub relay: Option<Duration>,
    pub home: PathBuf,
    pub live_guard: bool,
    pub live_threshold: Duration,
    pub opencode_model: Option<Model>,
    pub limits: Limits,
    /// Between two lines on the thread about what the engine does; none: no lines.
    pub progress: Option<Duration>,
    /// Say under an answer what the turn used.
    pub usage: bool,
}

/// Handles that all workers share. Nothing in it is state of the daemon.
#[derive(Debug)]
pub struct Shared {
    pub settings: Settings,
    pub client: Client,
    pub inbox: Inbox,
    pub outgoing: Outgoing,
    pub answers: Answers,
    pub audit: Audit,
    pub codes: Codes,
    pub engines: Engines,
    pub opencode: opencode::server::Handle,
    /// The daemon's own environment, of which engines inherit what is not ours.
    pub env: Vec<(OsString, OsString)>,
    /// Taken out of what engines inherit, whatever its name there.
    pub token: Option<Token>,
    /// Leads the marker of every process that a turn starts.
    pub state_id: String,
    pub reports: Sender<Report>,
    pub activity: Sender<(ThreadId, Activity)>,
    /// Closed: no new turn starts.
    pub drain: Receiver<Infallible>,
    /// Closed: stop now.
    pub stop: Receiver<Infallible>,
}

impl Shared {
    /// The engine that answers: the asked one if this machine knows it, else the configured one,
    /// else claude (protocol section 3).
    pub fn engine(&self, asked: Option<&Engine>) -> &EngineDef {
        asked
            .and_then(|asked| self.engines.get(asked))
            .or_else(|| self.engines.get(&self.settings.engine))
            .or_else(|| self.engines.get(&Engine::CLAUDE))
            .expect("claude is always in the table")
    }
}

/// The way out: durable first, then the outbox task is woken.
#[derive(Clone, Debug)]
pub struct Outgoing {
    pub outbox: Outbox,
    pub wake: Sender<()>,
}

impl Outgoing {
    /// Stores a post; `finishes` is the message whose answer this is.
    pub fn put(&self, post: &Post, finishes: Option<EntryId>) -> io::Result<()> {
        self.outbox.put(post, finishes)?;
        self.wake.try_send(()).ok(); // Full means that it is awake already.
        Ok(())
    }
}

/// The dispatcher's end of a worker.
#[derive(Debug)]
pub struct Worker {
    /// Dropping it asks the worker to leave after its turn.
    pub messages: Sender<Job>,
    pub task: Task,
}

/// Starts the worker of `thread`.
///
/// # Errors
/// When the system gives no more threads.
pub fn start(
    shared: &Arc<Shared>,
    thread: ThreadId,
    number: u64,
    binding: Binding,
    early: Option<Early>,
) -> io::Result<Worker> {
    // Unbounded: what is in it is also in the inbox, which has a bound.
    let (messages, mailbox) = crossbeam_channel::unbounded();
    let shared = Arc::clone(shared);
    // Linux keeps 15 bytes of a name; the number is for logs and debuggers and may wrap.
    let task = task::spawn(&format!("worker-{}", number % 100_000_000), move || {
        let outcome = task::catch(|| Serving::new(&shared, &thread, binding, early).run(&mailbox));
        if let Err(panic) = &outcome {
            log::error!(threadId = thread.as_str(), panic = panic.as_str(); "a worker panicked");
        }
        shared.reports.send(Report::Ended { thread }).ok(); // The dispatcher may have left before us.
    })?;
    Ok(Worker { messages, task })
}

/// How a message at hand goes on.
enum Start {
    Now,
    /// The human does not want it any more.
    Stopped,
    /// The dispatcher is done with it.
    Forgotten,
}

/// The worker at work.
struct Serving<'a> {
    shared: &'a Shared,
    thread: &'a ThreadId,
    sessions: BTreeMap<Engine, SessionRecord>,
    /// What the human allowed for good on this thread.
    grants: Vec<Rule>,
    /// The newest [`Job::fresh`] that was obeyed, of each engine.
    renewed: BTreeMap<Engine, EntryId>,
    /// The next fresh session is not told what was said before.
    is_clean: bool,
    /// When the thread was last told what its engine does.
    progress_told: Option<Instant>,
    /// For the first prompt.
    early: Option<Early>,
}

impl<'a> Serving<'a> {
    fn new(
        shared: &'a Shared,
        thread: &'a ThreadId,
        binding: Binding,
        early: Option<Early>,
    ) -> Serving<'a> {
        let grants = binding.grants.iter().filter_map(|rule| Rule::parse(rule).ok()).collect();
        let (sessions, renewed) = (binding.sessions, BTreeMap::new());
        Serving {
            shared,
            thread,
            sessions,
            grants,
            renewed,
            is_clean: false,
            progress_told: None,
            early,
        }
    }

    fn run(&mut self, mailbox: &Receiver<Job>) {
        let Shared { drain, stop, reports, .. } = self.shared;
        loop {
            // Closing a channel does not discard what is queued in it, so a stop is looked for
            // before the next message is taken.
            if is_closed(stop) || is_closed(drain) {
                return;
            }
            select_biased! {
                recv(stop) -> _ => return,
                recv(drain) -> _ => return,
                recv(mailbox) -> job => match job {
                    Ok(job) => self.serve(&job),
                    Err(_) => return,
                },
                default(IDLE) => {
                    let idle = Report::Idle { thread: self.thread.clone() };
                    if reports.send(idle).is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// Waits for a place, then drives the message.
    fn serve(&mut self, job: &Job) {
        let Shared { drain, stop, reports, .. } = self.shared;
        let engine = self.shared.engine(job.reply.engine.as_ref()).name.clone();
        self.renew(&engine, job);
        let thread = self.thread.clone();
        let writes = self.writes(&engine, &job.reply);
        reports.send(Report::Ready { thread, entry: job.entry, writes }).ok(); // It may be leaving.
        let start = select_biased! {
            // The message stays in the inbox; the next start drives it.
            recv(stop) -> _ => return,
            recv(drain) -> _ => return,
            recv(job.commands) -> command => match command {
                Ok(TurnCommand::Interrupt) => Start::Stopped,
                // Nothing was asked yet that could be decided.
                Ok(_) | Err(_) => Start::Forgotten,
            },
            recv(job.place) -> _ => Start::Now,
        };
        let (thread, entry) = (|| self.thread.clone(), job.entry);
        match start {
            Start::Now => {
                reports.send(Report::Started { thread: thread(), engine }).ok();
                self.activity(Activity::Working);
                self.drive(job);
            }
            Start::Stopped => self.stopped_early(job),
            Start::Forgotten => drop(reports.send(Report::Finished { thread: thread(), entry })),
        }
        reports.send(Report::Rested { thread: thread() }).ok();
    }

    /// The directory that a turn may write in without asking first.
    fn writes(&self, engine: &Engine, reply: &Reply) -> Option<PathBuf> {
        let Settings { allow_all, sandbox, .. } = &self.shared.settings;
        let is_free = *allow_all || (*engine == Engine::CODEX && *sandbox != Sandbox::ReadOnly);
        // One that is not there, or not offered, is written in by nobody.
        let dir =
            is_free.then(|| self.directory(reply, self.sessions.get(engine)).ok()).flatten()?;
        dir.canonicalize().ok()
    }

    /// Only an indicator: dropped when the outbox is busy.
    fn activity(&self, activity: Activity) {
        self.shared.activity.try_send((self.thread.clone(), activity)).ok();
    }
}

/// Whether a channel that speaks by closing has spoken.
pub fn is_closed(channel: &Receiver<Infallible>) -> bool {
    matches!(channel.try_recv(), Err(TryRecvError::Disconnected))
}
