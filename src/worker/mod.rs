//! A worker drives one message: an OS thread for one turn, from the moment that the loop gives it a
//! turn slot until its engine is gone. It owns nothing beyond that turn; what it has to know of the
//! thread's binding comes with the [`TurnJob`], and every change goes back as an [`Event`]: the
//! session before the answer that relies on it, what a person has to decide before the prompt that
//! asks, and always [`Event::Left`] as the last.

mod asking;
mod attempt;
mod drive;
mod handler;
mod history;
mod long;
mod progress;
mod report;
mod run;
mod sessions;
mod texts;
mod transports;

use std::{cell::Cell, convert::Infallible, ffi::OsString, io, path::PathBuf, time::Duration};

use crossbeam_channel::{Receiver, Sender, TryRecvError};

pub use asking::{Codes, Subject};
pub use history::{PrefetchedHistory, prefetch as prefetch_history};
pub use long::Answers;
pub use progress::EVERY as PROGRESS_EVERY;
pub use report::{Finished, Outcome, Report, Reports};
pub use sessions::record;

use crate::{
    agent::{
        Model, Sandbox, TurnCommand,
        engines::{self, Engines},
        launch::EngineDef,
        opencode,
    },
    bridge::{
        Client,
        wire::{Activity, Post, Reply},
    },
    config::Config,
    coordinator::{Begin, Event},
    ids::{Engine, ThreadId},
    permission::{Policy, Rule},
    store::{audit::Audit, binding::SessionRecord, entry::EntryId, inbox::Inbox, outbox::Outbox},
    task,
    worker::run::Run,
};

/// One message whose turn begins now, with all that it needs of its thread's binding.
#[derive(Debug)]
pub struct TurnJob {
    pub begin: Begin,
    /// The thread's session of the engine that answers ([`Shared::engine`]).
    pub session: Option<SessionRecord>,
    /// What was allowed on this thread with `always`.
    pub grants: Vec<Rule>,
    /// The thread's history, if it was read while the thread was claimed.
    pub prefetched: Option<PrefetchedHistory>,
    /// Interrupts and verdicts. Closed before the message is answered: stop it. An interrupt after
    /// that makes the engine leave at once.
    pub commands: Receiver<TurnCommand>,
}

/// Handles that all turns share. Nothing in it is state of the daemon.
#[derive(Debug)]
pub struct Shared {
    pub config: Config,
    pub policy: Policy,
    pub sandbox: Sandbox,
    pub opencode_model: Option<Model>,
    /// Between two lines on the thread about what the engine does; none: no lines.
    pub progress: Option<Duration>,
    pub client: Client,
    pub inbox: Inbox,
    pub outbox: Outbox,
    /// The outbox task leaves when this is dropped.
    pub wake: Sender<()>,
    pub answers: Answers,
    pub audit: Audit,
    pub codes: Codes,
    pub engines: Engines,
    pub opencode: opencode::server::ServerHandle,
    /// What engines inherit of the daemon's own environment.
    pub env: Vec<(OsString, OsString)>,
    /// Leads the marker of every process that a turn starts.
    pub state_id: String,
    /// To the loop.
    pub events: Sender<Event>,
    pub activity: Sender<(ThreadId, Activity)>,
    /// Nothing goes on after the end of this daemon.
    pub is_ephemeral: bool,
    /// To whoever started the daemon.
    pub reports: Reports,
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
            .or_else(|| self.engines.get(&self.config.engine))
            .or_else(|| self.engines.get(&Engine::CLAUDE))
            .expect("claude is always in the table")
    }

    /// Stores a post, and wakes the outbox task once it is durable; `finishes` is the message whose
    /// answer this is.
    pub fn put(&self, post: &Post, finishes: Option<EntryId>) -> io::Result<()> {
        self.outbox.put(post, finishes)?;
        self.wake();
        if finishes.is_none() {
            self.reports.send(|| Report::Said { kind: post.kind, body: post.body.clone() });
        }
        Ok(())
    }

    /// Wakes the outbox task: there is a new post.
    pub fn wake(&self) {
        self.wake.try_send(()).ok(); // Full means that it is awake already.
    }
}

/// The canonical directory that the message's engine may write in without asking first, which needs
/// its lock from the beginning of the turn.
pub fn writes(shared: &Shared, reply: &Reply, session: Option<&SessionRecord>) -> Option<PathBuf> {
    let engine = &shared.engine(reply.engine.as_ref()).name;
    let writes_unasked = engines::describe(engine).writes_unasked;
    let is_free = shared.config.allow_all || writes_unasked(shared.sandbox);
    // A turn does not begin in a directory that is not there, or not offered.
    let dir = is_free.then(|| drive::directory(&shared.config, reply, session).ok()).flatten()?;
    dir.canonicalize().ok()
}

/// Runs the turn of a message, in a task of its own.
pub fn turn(shared: &Shared, job: TurnJob) {
    let is_answered = Cell::new(false);
    let outcome = task::catch(|| drive::drive(&Run::new(shared, &job, &is_answered)));
    let Begin { thread, entry, .. } = job.begin;
    if let Err(panic) = &outcome {
        log::error!(threadId = thread.as_str(), panic = panic.as_str(); "a turn panicked");
    }
    if !is_answered.get() {
        shared.activity.try_send((thread.clone(), Activity::Idle)).ok(); // Only an indicator.
    }
    shared.events.send(Event::Left { thread, entry }).ok(); // The loop may have ended.
}

/// Whether a channel that speaks by closing has spoken.
pub fn is_closed(channel: &Receiver<Infallible>) -> bool {
    matches!(channel.try_recv(), Err(TryRecvError::Disconnected))
}
