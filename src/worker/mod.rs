//! A worker drives one message: an OS thread for one turn, from the moment that the loop gives it a
//! turn slot until its engine is gone. It owns nothing beyond that turn; what the thread's binding
//! must know comes with the [`Job`], and every change goes back as an [`Event`]: the session before the
//! answer that relies on it, what a person has to decide before the prompt that asks, and always
//! [`Event::Left`] as the last.

mod asking;
mod attempt;
mod drive;
mod handler;
mod history;
mod long;
mod progress;
mod run;
mod sessions;
mod texts;
mod transports;

use std::{
    cell::Cell, convert::Infallible, ffi::OsString, io, path::PathBuf, sync::Arc, time::Duration,
};

use crossbeam_channel::{Receiver, Sender, TryRecvError};

pub use asking::{Codes, Subject};
pub use history::{PrefetchedHistory, prefetch as prefetch_history};
pub use long::Answers;
pub use progress::EVERY as PROGRESS_EVERY;
pub use sessions::record;

use crate::{
    agent::{
        Limits, Model, Sandbox, TurnCommand,
        engines::{self, Engines},
        launch::EngineDef,
        opencode,
    },
    bridge::{
        Client,
        wire::{Activity, Post, Reply},
    },
    coordinator::Event,
    ids::{Engine, ThreadId},
    permission::{Policy, Rule},
    store::{
        audit::Audit,
        binding::SessionRecord,
        entry::{EntryId, Progress},
        outbox::Outbox,
        spool::Inbox,
    },
    task,
    worker::run::Run,
};

/// One message whose turn begins now, with all that it needs of its thread's binding.
#[derive(Debug)]
pub struct Job {
    pub thread: ThreadId,
    pub entry: EntryId,
    pub reply: Arc<Reply>,
    /// How far an earlier daemon came with it.
    pub progress: Option<Progress>,
    /// The thread's session of the engine that answers ([`Shared::engine`]).
    pub session: Option<SessionRecord>,
    /// What was allowed on this thread with `always`.
    pub grants: Vec<Rule>,
    /// `/new` came before it: the fresh session starts without the thread's history.
    pub is_clean: bool,
    /// The thread has the lock of the directory that [`writes`] named.
    pub has_lock: bool,
    /// The thread's history, if it was read while the thread was claimed.
    pub prefetched: Option<PrefetchedHistory>,
    /// Interrupts and verdicts. Closed before the message is answered: stop it. An interrupt after
    /// that makes the engine leave at once.
    pub commands: Receiver<TurnCommand>,
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
    /// How long a question waits for a person; none: it is refused at once.
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

/// Handles that all turns share. Nothing in it is state of the daemon.
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
    /// What engines inherit of the daemon's own environment.
    pub env: Vec<(OsString, OsString)>,
    /// Leads the marker of every process that a turn starts.
    pub state_id: String,
    /// To the loop.
    pub events: Sender<Event>,
    pub activity: Sender<(ThreadId, Activity)>,
    /// Closed: the daemon stops, and calls to the bridge are given up.
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

/// The canonical directory that the message's engine may write in without asking first, which needs
/// its lock from the beginning of the turn.
pub fn writes(shared: &Shared, reply: &Reply, session: Option<&SessionRecord>) -> Option<PathBuf> {
    let Settings { allow_all, sandbox, .. } = &shared.settings;
    let engine = &shared.engine(reply.engine.as_ref()).name;
    let is_free = *allow_all || (engines::describe(engine).writes_unasked)(*sandbox);
    // A turn does not begin in a directory that is not there, or not offered.
    let dir = is_free.then(|| drive::directory(&shared.settings, reply, session).ok()).flatten()?;
    dir.canonicalize().ok()
}

/// The turn of a message, to be run in a task of its own.
pub fn turn(shared: Arc<Shared>, job: Job) -> impl FnOnce() + Send + 'static {
    move || {
        let is_answered = Cell::new(false);
        let outcome = task::catch(|| drive::drive(&Run::new(&shared, &job, &is_answered)));
        let Job { thread, entry, .. } = job;
        if let Err(panic) = &outcome {
            log::error!(threadId = thread.as_str(), panic = panic.as_str(); "a turn panicked");
        }
        if !is_answered.get() {
            shared.activity.try_send((thread.clone(), Activity::Idle)).ok(); // Only an indicator.
        }
        shared.events.send(Event::Left { thread, entry }).ok(); // The loop may have ended.
    }
}

/// Whether a channel that speaks by closing has spoken.
pub fn is_closed(channel: &Receiver<Infallible>) -> bool {
    matches!(channel.try_recv(), Err(TryRecvError::Disconnected))
}
