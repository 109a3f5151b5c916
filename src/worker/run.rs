//! One message on its way to its answer: what it is about, how it waits, and how what it says
//! becomes durable. Every wait here ends early when the daemon stops or a person stops the turn.

use std::{
    cell::Cell,
    io,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender, after, at, never, select_biased, unbounded};

use crate::{
    agent::{Failure, TurnCommand, Usage, launch::EngineDef, shell::Shell},
    bridge::wire::{Activity, Post, PostKind},
    coordinator::{Begin, Event},
    ids::{ClientMsgId, Engine, SessionId, ThreadId},
    store::entry::{EntryId, Progress},
    worker::{Finished, Outcome, Report, Shared, TurnJob, is_closed},
};

/// How long a write that failed waits before it tries the disk again.
pub(super) const DISK_RETRY: Duration = Duration::from_secs(1);

pub(super) struct Run<'a> {
    pub(super) shared: &'a Shared,
    pub(super) job: &'a TurnJob,
    pub(super) begin: &'a Begin,
    pub(super) def: &'a EngineDef,
    /// Whether the answer is durable; read when the turn's task ends, also after a panic.
    is_answered: &'a Cell<bool>,
    /// Something that the engine wanted to do was denied.
    pub(super) was_denied: Cell<bool>,
    /// The turn is being ended: only the answer still waits for a full disk.
    is_halted: Cell<bool>,
    /// When the turn has had its time.
    deadline: Cell<Option<Instant>>,
    /// Commands that come from elsewhere than the loop: results of other tasks, and what was
    /// received while the disk was waited for. Bounded by the tool calls and questions of a turn.
    pub(super) late: (Sender<TurnCommand>, Receiver<TurnCommand>),
}

/// Why a turn did not begin.
#[derive(Debug)]
pub(super) enum Unstarted {
    /// The daemon stops. Nothing is said: the next start drives the message as if nothing had
    /// happened.
    DaemonStops,
    /// A person does not want it any more.
    Stopped,
    Failed(Failure),
}

impl From<Failure> for Unstarted {
    fn from(failure: Failure) -> Unstarted {
        Unstarted::Failed(failure)
    }
}

/// What ends a message for good, once it is durable.
pub(super) struct Ending {
    pub(super) last: Last,
    pub(super) outcome: Outcome,
    /// The answer, or why there is none.
    pub(super) text: String,
    pub(super) usage: Usage,
    pub(super) session: Option<SessionId>,
}

/// What is written at the end of a message.
pub(super) enum Last {
    /// The post that answers it.
    Post { post: Post, body: String },
    /// The model has posted the answer itself, so the inbox notes it. A last note may follow.
    Posted { progress: Progress, note: Option<Post> },
}

impl<'a> Run<'a> {
    pub(super) fn new(
        shared: &'a Shared,
        job: &'a TurnJob,
        is_answered: &'a Cell<bool>,
    ) -> Run<'a> {
        Run {
            shared,
            job,
            begin: &job.begin,
            def: shared.engine(job.begin.reply.engine.as_ref()),
            is_answered,
            was_denied: Cell::new(false),
            is_halted: Cell::new(false),
            deadline: Cell::new(None),
            late: unbounded(),
        }
    }

    pub(super) fn thread(&self) -> ThreadId {
        self.begin.thread.clone()
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.def.name
    }

    /// What reads the engine's command lines.
    pub(super) fn shell(&self) -> Shell {
        (self.def.description.shell)(&self.def.environment(&self.shared.env))
    }

    pub(super) fn report(&self, event: Event) {
        self.shared.events.send(event).ok(); // The loop may have ended.
    }

    /// Only an indicator: dropped when the outbox is busy.
    pub(super) fn activity(&self, activity: Activity) {
        self.shared.activity.try_send((self.thread(), activity)).ok();
    }

    /// The engine is about to have the prompt, and may take as long as its limit says.
    pub(super) fn turn_begins(&self) {
        self.deadline.set(Instant::now().checked_add(self.shared.config.turn_timeout));
    }

    /// The turn is being ended early.
    pub(super) fn halted(&self) {
        self.is_halted.set(true);
    }

    /// Before the turn begins: waits for something until then. None: it did not come in time, or
    /// its sender is gone.
    pub(super) fn wait<T>(
        &self,
        from: &Receiver<T>,
        until: Instant,
    ) -> Result<Option<T>, Unstarted> {
        if is_closed(&self.shared.stop) {
            return Err(Unstarted::DaemonStops);
        }
        if self.is_halted.get() {
            return Err(Unstarted::Stopped);
        }
        select_biased! {
            recv(self.shared.stop) -> _ => Err(Unstarted::DaemonStops),
            // No engine has asked anything yet, so every command is an interrupt.
            recv(self.job.commands) -> _ => Err(Unstarted::Stopped),
            recv(from) -> item => Ok(item.ok()),
            recv(at(until)) -> _ => Ok(None),
        }
    }

    /// Before the turn begins: whether it still should.
    pub(super) fn check(&self) -> Result<(), Unstarted> {
        self.wait::<()>(&never(), Instant::now()).map(drop)
    }

    pub(super) fn draft(&self, kind: PostKind, name: ClientMsgId) -> Post {
        Post::new(self.thread(), kind, self.engine().author(), String::new(), name)
    }

    /// Gives a post its text, as far as a bridge takes it, and makes it durable.
    pub(super) fn post(&self, mut post: Post, body: &str) -> bool {
        self.persist(|shared| put(shared, &mut post, body, None)).is_some()
    }

    /// A status post of the daemon's own on the way.
    pub(super) fn say(&self, name: ClientMsgId, body: &str) {
        self.post(self.draft(PostKind::Status, name), body);
    }

    /// Tries until the disk has taken it; a full disk is logged once. After a stop, an interrupt or
    /// the turn's time limit it is tried one last time. None: that failed too.
    pub(super) fn persist<T>(&self, mut write: impl FnMut(&Shared) -> io::Result<T>) -> Option<T> {
        let (mut is_logged, mut is_stopped) = (false, false);
        loop {
            match write(self.shared) {
                Ok(done) => return Some(done),
                Err(error) => self.disk_failed(&error, &mut is_logged),
            }
            if is_stopped || self.is_halted.get() {
                return None;
            }
            let deadline = self.deadline.get().map_or_else(never, at);
            select_biased! {
                recv(self.shared.stop) -> _ => is_stopped = true,
                recv(self.job.commands) -> command => {
                    // The turn obeys it, as soon as this write is over.
                    let is_interrupt = matches!(command, Ok(TurnCommand::Interrupt) | Err(_));
                    self.late.0.send(command.unwrap_or(TurnCommand::Interrupt)).ok(); // We hold the receiver.
                    if is_interrupt {
                        self.halted();
                    }
                }
                recv(deadline) -> _ => self.halted(),
                recv(after(DISK_RETRY)) -> _ => {}
            }
        }
    }

    /// Makes the end of the message durable; not tried again.
    pub(super) fn try_end(&self, ending: &mut Ending) -> io::Result<()> {
        let entry = self.begin.entry;
        match &mut ending.last {
            Last::Post { post, body } => put(self.shared, post, body, Some(entry))?,
            Last::Posted { progress, note } => {
                self.shared.inbox.progressed(&entry, progress)?;
                if let Some(note) = note
                    && let Err(error) = self.shared.put(note, None)
                {
                    log::warn!(error:% = error; "a note under an answer could not be stored");
                }
            }
        }
        self.is_answered.set(true);
        self.shared.reports.send(|| {
            Report::Finished(Box::new(Finished {
                thread: self.thread(),
                message: self.begin.reply.message_id.clone(),
                engine: self.engine().clone(),
                session: ending.session.clone(),
                outcome: ending.outcome,
                text: ending.text.clone(),
                usage: ending.usage.clone(),
                was_denied: self.was_denied.get(),
            }))
        });
        self.report(Event::Answered { thread: self.thread(), entry });
        self.activity(Activity::Idle);
        Ok(())
    }

    /// Makes the end of the message durable. While the disk is full only a stop of the daemon ends
    /// the wait: the engine is gone, and there is nothing else to do for this message.
    pub(super) fn end(&self, mut ending: Ending) {
        let mut is_logged = false;
        while let Err(error) = self.try_end(&mut ending) {
            self.disk_failed(&error, &mut is_logged);
            if is_closed(&self.shared.stop) {
                return;
            }
            select_biased! {
                recv(self.shared.stop) -> _ => {}
                recv(after(DISK_RETRY)) -> _ => {}
            }
        }
    }

    pub(super) fn disk_failed(&self, error: &io::Error, is_logged: &mut bool) {
        if !*is_logged {
            log::error!(
                threadId = self.begin.thread.as_str(), error:% = error;
                "cannot write to the state directory; trying again every second"
            );
            *is_logged = true;
        }
    }
}

fn put(shared: &Shared, post: &mut Post, body: &str, finishes: Option<EntryId>) -> io::Result<()> {
    post.body = shared.answers.fit(body, &post.client_msg_id)?;
    shared.put(post, finishes)
}
