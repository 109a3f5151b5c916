//! The daemon: one loop owns the state. It selects over everything that can happen, hands it to the
//! coordinator as an event, and carries out what that decides. It never waits for the network, a
//! disk, a lock that is held over a flush, or a child.

mod calls;
mod engines;
mod machine;
mod open;
pub mod readiness;
mod recorder;
mod records;
mod running;
pub mod status;
mod stop;

use std::{
    collections::VecDeque,
    convert::Infallible,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::bail;
use crossbeam_channel::{Receiver, Sender, at, never, select_biased};

use self::{
    calls::{Calls, Owed},
    machine::Announcer,
    readiness::Readiness,
    recorder::DecisionRecord,
    records::Records,
    running::RunningTurns,
    status::Board,
};
use crate::{
    agent::{TurnCommand, detect::EngineStatus},
    bridge::{
        Net,
        outbox::Notice,
        stream::{self, StreamEvent},
    },
    config::{Config, Env, Paths},
    coordinator::{ClaimOutcome, Coordinator, Effect, Event},
    logging,
    permission::approvals::{Key, Now},
    signals::Signal,
    store::{
        Disk,
        entry::EntryId,
        journal::{PostRequest, Stored},
        lock::Lock,
    },
    task::{Ended, Task, TaskRole},
    time::{self, Timestamp},
    worker,
};

pub use crate::coordinator::LeaveRules;
pub use worker::{Finished, Outcome, PROGRESS_EVERY, Report, Reports};

/// How long leftovers of an earlier daemon's engines are hunted at the start.
const SWEEP: Duration = Duration::from_secs(2);

/// What a daemon is started with.
#[derive(Debug)]
pub struct Setup {
    pub paths: Paths,
    pub env: Env,
    pub config: Config,
    pub net: Net,
    /// All that must survive goes through it: the real one, but for tests.
    pub disk: Arc<dyn Disk>,
    /// Between two lines about what an engine does: [`PROGRESS_EVERY`], but for tests.
    pub progress_every: Duration,
    /// This executable: it plays the echo engine.
    pub own_program: PathBuf,
    /// Name the echo engine among the capabilities.
    pub offers_echo: bool,
    /// End when the bridge refuses the token, instead of trying again slowly.
    pub exit_on_auth_failure: bool,
    /// When it ends by itself.
    pub leave: LeaveRules,
    /// Whom to tell that it is connected.
    pub readiness: readiness::Settings,
    /// The state directory is gone after the end, so nothing goes on later.
    pub is_ephemeral: bool,
    /// To whoever wants to know what becomes of messages.
    pub reports: Reports,
}

/// Why the daemon ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By a signal.
    Stopped,
    /// By [`Setup::leave`].
    Left,
    /// By a second signal; its number.
    Killed(i32),
    /// The bridge refuses the token, and [`Setup::exit_on_auth_failure`] is set.
    Refused,
}

/// Runs the daemon until a signal, or something it can't go on without, ends it.
///
/// # Errors
/// When the state directory can't be used or an essential task can't be started or ended.
pub fn run(setup: Setup, signals: &Receiver<Signal>) -> anyhow::Result<End> {
    // Held until the very end, after everything else is dropped.
    let _lock = Lock::acquire(&setup.paths.state_dir)?;
    let mut daemon = Daemon::open(setup)?;
    let end = daemon.serve(signals);
    daemon.stop(signals, end)
}

/// The state, owned by the one loop.
struct Daemon {
    exit_on_auth_failure: bool,
    started: Instant,
    coordinator: Coordinator,
    records: Records,
    running: RunningTurns,
    /// To the recorder, which ends when this is dropped.
    decisions: Sender<Box<DecisionRecord>>,
    calls: Calls,
    board: Board,
    readiness: Readiness,
    announcer: Announcer,
    stream: Option<stream::StreamHandle>,
    sending: Task,
    /// The task that keeps opencode's server.
    keeper: Task,
    inbound: Receiver<StreamEvent<EntryId>>,
    /// Of turns, calls and the recorder.
    events: Receiver<Event>,
    /// Of the sending task, which does not wait.
    sent: Receiver<Notice>,
    capabilities: Receiver<Vec<EngineStatus>>,
    ended: Receiver<Ended<Owed>>,
    /// What became of the daemon's own posts.
    stored: Receiver<Stored>,
    /// Closes with the task that writes the journal.
    journal: Receiver<Infallible>,
    drain: Option<Sender<Infallible>>,
    stop: Option<Sender<Infallible>>,
}

enum Woken {
    Signal(Signal),
    Event(Event),
    Inbound(StreamEvent<EntryId>),
    /// All engines were asked for their versions, which happens once. None: the task that asks them is
    /// gone, so those that are installed go on counting as usable.
    Capabilities(Option<Vec<EngineStatus>>),
    Written,
    Stored(Stored),
    Time,
    Ended(Ended<Owed>),
    /// A task is gone that the daemon can't go on without.
    Lost(&'static str),
}

impl Daemon {
    fn serve(&mut self, signals: &Receiver<Signal>) -> anyhow::Result<End> {
        loop {
            match self.wait(signals) {
                Woken::Signal(Signal::Stop(_)) => return Ok(End::Stopped),
                Woken::Signal(Signal::StopNow(signal)) => return Ok(End::Killed(signal)),
                Woken::Inbound(StreamEvent::AuthRefused { .. }) if self.exit_on_auth_failure => {
                    return Ok(End::Refused);
                }
                Woken::Lost(task) => bail!("the task `{task}` ended; restart the daemon"),
                Woken::Ended(ended) if ended.role == TaskRole::Essential => {
                    bail!("{ended}; restart the daemon")
                }
                woken => self.take(woken),
            }
            self.readiness.ping();
            if self.coordinator.is_over(self.now()) {
                return Ok(End::Left);
            }
        }
    }

    /// Waits for the next thing to happen. The end of a channel is that of the task behind it.
    fn wait(&self, signals: &Receiver<Signal>) -> Woken {
        let timer = self.deadline().map_or_else(never, at);
        select_biased! {
            recv(signals) -> signal => signal.map_or(Woken::Lost("signals"), Woken::Signal),
            recv(self.ended) -> ended => ended.map_or(Woken::Lost("main"), Woken::Ended),
            recv(self.events) -> event => event.map_or(Woken::Lost("main"), Woken::Event),
            recv(self.stored) -> stored => {
                stored.map_or(Woken::Lost("journal"), Woken::Stored)
            },
            recv(self.journal) -> _ => Woken::Lost("journal"),
            recv(self.sent) -> notice => {
                notice.map_or(Woken::Lost("outbox"), |notice| Woken::Event(posted(notice)))
            },
            recv(self.records.store.written()) -> written => {
                written.map_or(Woken::Lost("state"), |()| Woken::Written)
            },
            recv(self.inbound) -> event => event.map_or(Woken::Lost("stream"), Woken::Inbound),
            recv(self.capabilities) -> engines => Woken::Capabilities(engines.ok()),
            recv(timer) -> _ => Woken::Time,
        }
    }

    fn now(&self) -> Now {
        Now { running: self.started.elapsed(), wall: time::now() }
    }

    fn deadline(&self) -> Option<Instant> {
        let coordinator = self.coordinator.next_deadline(self.now());
        let coordinator = coordinator.map(|after| self.started + after);
        [coordinator, self.board.due, self.readiness.due()].into_iter().flatten().min()
    }

    fn take(&mut self, woken: Woken) {
        match woken {
            Woken::Signal(_) => log::info!(
                "HUP is ignored: the settings of the connection are read anew for every request"
            ),
            Woken::Event(event) => {
                self.step(event);
                // What is there is taken in at once, so that it goes to the disk together.
                for _ in 0..self.events.len() {
                    let Ok(event) = self.events.try_recv() else { break };
                    self.step(event);
                }
            }
            Woken::Inbound(event) => self.stream_event(event),
            Woken::Capabilities(statuses) => {
                // Nothing more comes, and a closed channel would wake the loop again and again.
                self.capabilities = never();
                if let Some(statuses) = statuses {
                    self.detected(&statuses);
                }
            }
            Woken::Written => self.step(self.records.all_written()),
            Woken::Stored(stored) => self.step(self.records.stored(stored)),
            Woken::Ended(ended) => self.helper_ended(ended),
            Woken::Time | Woken::Lost(_) => self.step(Event::Tick),
        }
        self.board.publish(&self.calls.shared, &self.records.store);
    }

    /// A task that panicked still owes the loop an event.
    fn helper_ended(&mut self, ended: Ended<Owed>) {
        if ended.outcome.is_err() {
            log::error!("{ended}");
            if let TaskRole::Helper(Some(owed)) = ended.role {
                self.step(owed);
            }
        }
    }

    fn detected(&mut self, statuses: &[EngineStatus]) {
        let usable = statuses.iter().filter(|status| status.is_usable());
        let names = usable.map(|status| status.engine.to_string()).collect();
        if let Some(stream) = &self.stream {
            stream.set_capabilities(names);
        }
        self.announcer.detected(statuses, &self.calls);
    }

    fn stream_event(&mut self, event: StreamEvent<EntryId>) {
        let parse = |time: Option<String>| time.as_deref().and_then(Timestamp::parse);
        let event = match event {
            StreamEvent::Connected { replay, server_time, last_event_id } => {
                // A connection is announced again when its hello comes late.
                let level =
                    if self.board.connected() { log::Level::Info } else { log::Level::Debug };
                log::log!(level, replay:? = replay; "connected to the bridge");
                self.readiness.connected();
                self.calls.shared.reports.send(|| Report::Connected);
                Event::Connected { replay, server_time: parse(server_time), last_event_id }
            }
            StreamEvent::Begins { server_time, last_event_id } => {
                Event::Begins { server_time: parse(server_time), last_event_id }
            }
            StreamEvent::Reply { kept, reply, last_event_id } => {
                log::info!(
                    target: logging::EVENT, threadId = reply.thread_id.as_str(), entry:% = kept;
                    "reply"
                );
                self.board.event();
                // From here on it is one for all: it may be megabytes long.
                Event::Reply { entry: kept, reply: Arc::new(reply), last_event_id }
            }
            StreamEvent::Overflow { thread, created_at, last_event_id } => {
                log::warn!(
                    threadId = thread.as_str();
                    "the inbox is full; the message is read from its thread's history later"
                );
                Event::Overflow { thread, written: created_at, last_event_id }
            }
            StreamEvent::Accepts(words) => return self.announcer.accepts(&words, &self.calls),
            StreamEvent::Disconnected { why, next } => {
                self.announcer.disconnected();
                self.board.disconnected(&why, next);
                self.calls.shared.reports.send(|| Report::Disconnected { why: why.clone() });
                let level = if next.is_zero() { log::Level::Info } else { log::Level::Warn };
                log::log!(
                    level, reason = why.as_str(), next_ms = u64::try_from(next.as_millis()).unwrap_or(u64::MAX);
                    "not connected to the bridge"
                );
                Event::Disconnected
            }
            // The stream writes both to the log itself, once a minute.
            StreamEvent::AuthRefused { why, next, .. } => {
                self.board.disconnected(&why, next);
                self.calls.shared.reports.send(|| Report::Disconnected { why });
                // Without a token nothing is begun whose answer could not be posted.
                Event::Conflict { is_final: false }
            }
            StreamEvent::Conflict { why, next } => {
                self.board.disconnected(&why, next);
                Event::Conflict { is_final: false }
            }
        };
        self.step(event);
    }

    /// What the rest of the daemon has to know of an event.
    fn notice(&mut self, event: &Event) {
        match event {
            // The thread is another machine's, or it is not known whose.
            Event::Claimed { thread, outcome } if *outcome != ClaimOutcome::Won => {
                self.running.forget_history(thread);
            }
            Event::Answered { thread, .. } => self.board.turn_ended(thread),
            Event::Left { thread, entry } => {
                self.board.turn_ended(thread);
                self.running.left(*entry);
            }
            _ => {}
        }
    }

    /// Hands an event to the coordinator and carries out what it decides; what fails is a further
    /// event.
    fn step(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        let mut effects = Vec::new();
        while let Some(event) = events.pop_front() {
            self.notice(&event);
            self.coordinator.step(self.now(), event, &self.records, &mut effects);
            for effect in effects.drain(..) {
                events.extend(self.carry_out(effect));
            }
        }
        if self.coordinator.awaits_written() {
            self.records.store.hurry();
        }
    }

    fn carry_out(&mut self, effect: Effect) -> Option<Event> {
        match effect {
            Effect::Claim { thread } => {
                self.running.prefetch(&self.calls.shared.client, &thread);
                return self.calls.claim(thread);
            }
            Effect::Change { thread, change, number } => {
                self.records.change(&thread, change, number);
            }
            Effect::Begin(begin) => {
                let (thread, engine) = (begin.thread.clone(), begin.reply.engine.clone());
                let message = begin.reply.message_id.clone();
                let engine = self.calls.shared.engine(engine.as_ref()).name.clone();
                let refused = self.running.begin(begin, &self.records, &self.calls);
                if refused.is_none() {
                    self.board.turn_started(thread, engine);
                    self.calls.shared.reports.send(|| Report::Begun { message });
                }
                return refused;
            }
            Effect::Interrupt { entry } => self.running.command(entry, TurnCommand::Interrupt),
            Effect::Tell { entry, question, verdict } => {
                self.running.command(entry, TurnCommand::Decide { question, verdict });
            }
            Effect::Record { request, verdict, by } => {
                let decision = Box::new(DecisionRecord { request, verdict, by });
                // When too many wait, it is not written.
                let full = self.decisions.try_send(decision).err()?.into_inner();
                return Some(Event::Recorded { key: Key::of(&full.request), is_written: false });
            }
            Effect::Put { post, finishes, is_confirmation } => {
                return self.records.put(PostRequest { post, finishes, is_confirmation });
            }
            Effect::Remember { message } => {
                self.records.seen.remember(&message);
                self.calls.shared.reports.send(|| Report::Done { message });
            }
            Effect::Remove { entries } => {
                self.board.changed();
                self.calls.shared.reports.send(|| Report::Delivered);
                return self.records.remove(entries);
            }
            Effect::SetAside { entry, is_aside } => {
                self.calls.shared.inbox.set_aside(entry, is_aside);
            }
            Effect::ReadHistory(reading) => return self.calls.read_history(reading),
            Effect::AskTime => return self.calls.ask_time(),
            Effect::SaveCursor { cursor, number } => {
                let written = self.records.store.set_cursor(&cursor);
                debug_assert_eq!(written, number, "the coordinator counts the same changes");
            }
        }
        None
    }
}

fn posted(notice: Notice) -> Event {
    match notice {
        Notice::Asked { post, at } => Event::Posted { post, at },
        Notice::Conflict { thread, post } => {
            log::error!(
                threadId = thread.as_str(), post:% = post;
                "another daemon of this machine's name does the same work, so this one begins nothing \
                 more: give one of them another agentId, and restart it"
            );
            Event::Conflict { is_final: true }
        }
    }
}
