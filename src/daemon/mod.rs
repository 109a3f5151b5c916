//! The daemon: one loop owns the state. It selects over everything that can happen, hands it to the
//! dispatcher, and carries out what that decides. It never waits for the network, a disk flush of
//! somebody else, or a child.

mod catchup;
mod config;
mod control;
mod engines;
mod held;
mod machine;
mod open;
mod outbox;
mod places;
mod questions;
mod settle;
pub mod status;
mod stop;
mod waiting;
mod words;

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::bail;
use crossbeam_channel::{Receiver, Sender, at, bounded, never, select_biased, unbounded};

use self::{
    catchup::{Catching, Found},
    held::Held,
    places::{Grant, Places},
    questions::Questions,
    settle::Settling,
    status::Board,
};
use crate::{
    agent::{TurnCommand, detect::Verdict},
    bridge::{
        Client, Net,
        outbox::Stored,
        stream::{self, StreamEvent},
        wire::{Post, PostKind, Reply},
    },
    config::{Config, Env, Paths},
    dispatch::{self, ClaimOutcome, Dispatch, Effect, Event, Why},
    ids::{ClientMsgId, MachineId, ThreadId},
    logging,
    permission::approvals::Key,
    signals::Signal,
    store::{
        Disk,
        binding::Binding,
        entry::{EntryId, Progress, message_key},
        lock::Lock,
        seen::Seen,
        state::{Cursor, Store},
    },
    task,
    time::{self, Timestamp},
    worker::{self, Early, Job, Report, Shared, Worker},
};

pub use worker::PROGRESS_EVERY;

/// How long leftovers of an earlier daemon's engines are hunted at the start.
const SWEEP: Duration = Duration::from_secs(2);

/// The place in the stream is written at most this often: when an older one is found after a crash,
/// what follows it comes again and is recognised.
const CURSOR: Duration = Duration::from_secs(5);

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
}

/// Why the daemon ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Somebody asked.
    Stopped,
    /// Somebody asked twice; the number of the signal.
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

/// How a claim ended.
type Claimed = (ThreadId, ClaimOutcome);

/// The state, owned by the one loop.
struct Daemon {
    setup: Setup,
    started: Instant,
    dispatch: Dispatch,
    events: VecDeque<Event>,
    shared: Arc<Shared>,
    workers: HashMap<ThreadId, Worker>,
    workers_started: u64,
    /// Of threads that are being claimed.
    early: HashMap<ThreadId, Early>,
    places: Places,
    /// The other ends of the messages that workers have.
    jobs: HashMap<EntryId, Ends>,
    store: Store,
    seen: Seen,
    settling: VecDeque<Settling>,
    cursor: Cursor,
    cursor_due: Option<Instant>,
    disk_due: Option<Instant>,
    settle_due: Option<Instant>,
    /// For the tasks that claim.
    claimed_in: Sender<Claimed>,
    claimed: Receiver<Claimed>,
    reports: Receiver<Report>,
    capabilities: Receiver<Vec<Verdict>>,
    /// What is told of this machine to bridges that want to know.
    machine: Arc<machine::Telling>,
    /// This one does.
    tells_machine: bool,
    inbound: Receiver<StreamEvent<EntryId>>,
    catching: Catching,
    board: Board,
    held: Held,
    questions: Questions,
    /// Questions that the bridge has stored.
    stored: Receiver<Stored>,
    stream: Option<stream::Handle>,
    sending: outbox::Sending,
    drain: Option<Sender<Infallible>>,
    stop: Option<Sender<Infallible>>,
}

/// Our ends of a [`Job`].
#[derive(Debug)]
struct Ends {
    commands: Sender<TurnCommand>,
    place: Sender<()>,
}

/// What woke the loop.
enum Woken {
    Signal(Signal),
    Report(Report),
    Claimed(ThreadId, ClaimOutcome),
    Stored(Stored),
    Inbound(StreamEvent<EntryId>),
    /// From catching up; none when it has ended.
    Found(Option<Found>),
    Capabilities(Vec<Verdict>),
    /// A timer, or state.json was written.
    Time,
    /// A task is gone without which there is no daemon.
    Ended(&'static str),
}

impl Daemon {
    /// The loop.
    fn serve(&mut self, signals: &Receiver<Signal>) -> anyhow::Result<End> {
        self.step_all();
        loop {
            match self.wait(signals) {
                Woken::Signal(Signal::Stop(_)) => return Ok(End::Stopped),
                Woken::Signal(Signal::StopNow(signal)) => return Ok(End::Killed(signal)),
                Woken::Inbound(StreamEvent::AuthRefused { .. })
                    if self.setup.exit_on_auth_failure =>
                {
                    return Ok(End::Refused);
                }
                Woken::Ended(task) => bail!("the task `{task}` ended; restart the daemon"),
                woken => self.take(woken),
            }
            self.step_all();
        }
    }

    /// Waits for the next thing to happen, whatever it is.
    fn wait(&self, signals: &Receiver<Signal>) -> Woken {
        let timer = self.deadline().map_or_else(never, at);
        select_biased! {
            recv(signals) -> signal => signal.map_or(Woken::Signal(Signal::Stop(0)), Woken::Signal),
            recv(self.reports) -> report => report.map_or(Woken::Time, Woken::Report),
            recv(self.claimed) -> claim => match claim {
                Ok((thread, outcome)) => Woken::Claimed(thread, outcome),
                Err(_) => Woken::Time,
            },
            recv(self.stored) -> stored => stored.map_or(Woken::Ended("outbox"), Woken::Stored),
            recv(self.store.written()) -> _ => Woken::Time,
            recv(self.inbound) -> event => event.map_or(Woken::Ended("stream"), Woken::Inbound),
            recv(self.catching.found()) -> found => Woken::Found(found.ok()),
            recv(self.capabilities) -> engines => engines.map_or(Woken::Time, Woken::Capabilities),
            recv(timer) -> _ => Woken::Time,
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let dispatch = self.dispatch.next_deadline().map(|after| self.started + after);
        [
            dispatch,
            self.cursor_due,
            self.disk_due,
            self.settle_due,
            self.board.due(),
            self.held.due(),
            self.questions_due(),
            self.catching.due(),
            self.places.due(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Takes in what happened. The decisions follow in [`Daemon::step_all`].
    fn take(&mut self, woken: Woken) {
        match woken {
            Woken::Signal(_) => log::info!(
                "HUP is ignored: the settings of the connection are read anew for every request"
            ),
            Woken::Report(report) => {
                self.report(report);
                // What is there is taken in at once, so that it goes to the disk together.
                while let Ok(report) = self.reports.try_recv() {
                    self.report(report);
                }
            }
            Woken::Claimed(thread, outcome) => {
                if outcome != ClaimOutcome::Won {
                    self.early.remove(&thread);
                }
                self.events.push_back(Event::Claimed { thread, outcome });
            }
            Woken::Stored(stored) => self.stored(&stored),
            Woken::Inbound(event) => self.stream_event(event),
            Woken::Found(found) => self.found(found),
            Woken::Capabilities(verdicts) => self.detected(&verdicts),
            Woken::Time | Woken::Ended(_) => self.events.push_back(Event::Tick),
        }
        self.expire();
        let now = Instant::now();
        if self.catching.due().is_some_and(|due| due <= now) {
            self.let_live_go();
        }
        if self.cursor_due.is_some_and(|due| due <= now) {
            self.cursor_due = None;
            self.store.set_cursor(&self.cursor);
        }
    }

    fn stream_event(&mut self, event: StreamEvent<EntryId>) {
        match event {
            StreamEvent::Connected { replay, server_time, last_event_id } => {
                log::info!(replay:? = replay; "connected to the bridge");
                self.board.connected();
                self.moved_on(last_event_id);
                self.catch_up(replay, server_time.as_deref());
            }
            StreamEvent::Begins { server_time, last_event_id } => {
                self.begin_at(server_time.as_deref());
                self.moved_on(last_event_id);
            }
            StreamEvent::Reply { kept, reply, last_event_id } => {
                log::info!(
                    target: logging::EVENT, threadId = reply.thread_id.as_str(), entry:% = kept;
                    "reply"
                );
                self.board.event();
                self.moved_on(last_event_id);
                // From here on it is one for all: it may be megabytes long.
                let reply = Arc::new(reply);
                if !self.answers(kept, &reply, false) && !self.lets_go(kept, &reply) {
                    self.live(kept, reply);
                }
            }
            StreamEvent::Accepts(words) => {
                self.tells_machine = words.iter().any(|word| word == machine::WORD);
                self.tell_machine();
            }
            StreamEvent::Disconnected { why, next } => {
                self.tells_machine = false;
                self.board.disconnected(&why, next);
                let level = if next.is_zero() { log::Level::Info } else { log::Level::Warn };
                log::log!(
                    level, reason = why.as_str(), next_ms = millis(next);
                    "not connected to the bridge"
                );
            }
            // The stream says it in the log itself, once a minute.
            StreamEvent::AuthRefused { why, next, .. } => self.board.disconnected(&why, next),
        }
    }

    fn moved_on(&mut self, last_event_id: Option<String>) {
        if last_event_id.is_some() && last_event_id != self.cursor.last_event_id {
            let is_first = self.cursor.last_event_id.is_none();
            self.cursor.last_event_id = last_event_id;
            self.cursor_moved();
            if is_first {
                // From here on nothing is missed, also by a daemon that dies at once.
                self.store.set_cursor(&self.cursor);
            }
        }
    }

    fn cursor_moved(&mut self) {
        self.cursor_due.get_or_insert_with(|| Instant::now() + CURSOR);
    }

    fn inbound(&mut self, entry: EntryId, reply: Arc<Reply>, progress: Option<Progress>) {
        self.saw(reply.created_at.as_deref().and_then(Timestamp::parse));
        let key = message_key(entry, &reply);
        // What was begun is finished, however old it is, and a word is for the daemon.
        let may_wait = progress.is_none() && dispatch::control::read(&reply.body).is_none();
        if may_wait && !self.seen.contains(&key) && self.hold_back(entry, &reply) {
            return;
        }
        self.dispatch_inbound(entry, reply, progress);
    }

    fn dispatch_inbound(&mut self, entry: EntryId, reply: Arc<Reply>, progress: Option<Progress>) {
        let is_seen = self.seen.contains(&message_key(entry, &reply));
        self.events.push_back(Event::Inbound { entry, reply, progress, is_seen });
    }

    fn report(&mut self, report: Report) {
        match report {
            Report::Session { thread, engine, record } => {
                let mut binding = self.binding(&thread);
                match record {
                    Some(record) => binding.sessions.insert(engine, record),
                    None => binding.sessions.remove(&engine),
                };
                self.store.set(&thread, binding);
            }
            Report::Renewed { thread, engine, mark } => {
                let mut binding = self.binding(&thread);
                binding.sessions.remove(&engine);
                // There may be a newer one.
                if binding.fresh_after.get(&engine) == Some(&mark) {
                    binding.fresh_after.remove(&engine);
                }
                self.store.set(&thread, binding);
            }
            Report::Doing { thread, line } => self.board.turn_does(&thread, line),
            // What the human does not want any more is skipped by the worker.
            Report::Ready { entry, .. } if !self.jobs.contains_key(&entry) => {}
            Report::Ready { thread, entry, writes } => {
                self.places.want(thread, entry, writes, Instant::now());
                self.give_places();
            }
            Report::Started { thread, engine } => self.board.turn_started(thread, engine),
            Report::Rested { thread } => self.rested(&thread),
            Report::Finished { thread, entry } => {
                self.events.push_back(Event::Finished { thread, entry });
            }
            Report::Asked { entry, request } => self.asked(entry, *request),
            Report::Withdrawn { thread, turn, question, code } => {
                self.withdrawn(&Key { thread, turn, question, code });
            }
            Report::Decided { thread, turn, question, code, was_open } => {
                let key = Key { thread, turn, question, code };
                if was_open { self.decided(&key) } else { self.withdrawn(&key) }
            }
            Report::Granted { thread, rule } => self.granted(&thread, &rule),
            Report::Writes { entry, thread, question, directory } => {
                self.writes(entry, thread, question, directory);
            }
            Report::Ceased { thread, turn } => self.ceased(&thread, &turn),
            Report::Idle { thread } => self.events.push_back(Event::Idle { thread }),
            Report::Ended { thread } => {
                self.workers.remove(&thread);
                self.rested(&thread);
                self.events.push_back(Event::WorkerEnded { thread });
            }
        }
    }

    /// A thread's turn is over, or its worker gone.
    fn rested(&mut self, thread: &ThreadId) {
        self.board.turn_ended(thread);
        self.nobody_asks(thread);
        self.places.release(thread);
        self.give_places();
    }

    fn give_places(&mut self) {
        while let Some(grant) = self.places.next() {
            match grant {
                Grant::Place(entry) => {
                    if let Some(job) = self.jobs.get(&entry) {
                        job.place.try_send(()).ok(); // There is room: it speaks once.
                    }
                }
                Grant::Lock(thread) => self.may_write(&thread),
            }
        }
    }

    /// The thread's binding, or a new one that is ours.
    fn binding(&self, thread: &ThreadId) -> Binding {
        let machine = || self.setup.config.machine.clone();
        self.store.get(thread).cloned().unwrap_or_else(|| Binding::new(machine(), time::now()))
    }

    /// Hands everything that happened to the dispatcher and carries out what it decides.
    fn step_all(&mut self) {
        let mut effects = Vec::new();
        loop {
            while let Some(event) = self.events.pop_front() {
                self.dispatch.step(self.started.elapsed(), event, &mut effects);
                for effect in effects.drain(..) {
                    self.carry_out(effect);
                }
            }
            self.settle_soon();
            // Answers to control words have led to further ones.
            if self.events.is_empty() {
                break;
            }
        }
        self.tell_held();
        self.tell_waiting();
        self.publish();
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Claim { thread } => self.claim(thread),
            Effect::Bind { thread } => {
                let mut binding = self.binding(&thread);
                binding.machine = Some(self.setup.config.machine.clone());
                self.store.set(&thread, binding);
            }
            Effect::StartWorker { thread } => self.start_worker(thread),
            Effect::Deliver { thread, entry, reply, progress } => {
                // Without a worker it was refused just now, and the delivery comes again.
                if let Some(worker) = self.workers.get(&thread) {
                    // Unbounded: a verdict for each open question, and these have a bound, or a
                    // stop, which is in the inbox. Room for all of them would be kept for every
                    // message that waits.
                    let (commands, orders) = unbounded();
                    let (place, begin) = bounded(1);
                    let fresh = self.fresh_mark(&thread, entry, &reply);
                    let job = Job { entry, reply, progress, fresh, commands: orders, place: begin };
                    worker.messages.send(job).ok(); // Its end is reported.
                    self.jobs.insert(entry, Ends { commands, place });
                }
            }
            Effect::Retire { thread } => drop(self.workers.remove(&thread)),
            Effect::Interrupt { entry } => self.interrupt(entry),
            Effect::Control { thread, entry, reply, order } => {
                self.control(thread, entry, &reply, order);
            }
            Effect::Done { entry, message, why } => {
                log::debug!(entry:% = entry, why:? = why; "done with a message");
                self.jobs.remove(&entry);
                let is_remembered = matches!(why, Why::Answered | Why::Cleared);
                self.settle(entry, is_remembered.then_some(&message));
            }
            Effect::Say { thread, entry, kind, body } => {
                self.say(thread, format!("{entry}.say"), Some(entry), kind, body);
            }
        }
    }

    /// Claims take a round trip, so each has an OS thread of its own; the dispatcher limits them.
    fn claim(&mut self, thread: ThreadId) {
        if let Some(early) = worker::ask_early(&self.shared.client, &thread) {
            self.early.insert(thread.clone(), early);
        }
        let (client, machine) = (self.shared.client.clone(), self.setup.config.machine.clone());
        let (claimed, id) = (self.claimed_in.clone(), thread.clone());
        let started = task::spawn("claim", move || {
            // Without an outcome the thread would wait for ever.
            let mut outcome = ClaimOutcome::Failed { retry_after: None };
            if let Err(panic) = task::catch(|| outcome = claim(&client, &thread, &machine)) {
                log::error!(threadId = thread.as_str(), panic = panic.as_str(); "a claim panicked");
            }
            claimed.send((thread, outcome)).ok(); // The daemon may have left.
        });
        if let Err(error) = started {
            log::error!(threadId = id.as_str(), error:% = error; "cannot start a task to claim a thread; trying again");
            self.claimed_in.send((id, ClaimOutcome::Failed { retry_after: None })).ok(); // We hold the receiver.
        }
    }

    fn start_worker(&mut self, thread: ThreadId) {
        self.workers_started += 1;
        let binding = self.binding(&thread);
        let early = self.early.remove(&thread);
        match worker::start(&self.shared, thread.clone(), self.workers_started, binding, early) {
            Ok(worker) => drop(self.workers.insert(thread, worker)),
            Err(error) => {
                log::error!(threadId = thread.as_str(), error:% = error; "cannot start a worker; trying again");
                self.events.push_back(Event::WorkerRefused { thread });
            }
        }
    }

    /// A post of the daemon's own under a name of its own; `finishes` is the message it answers.
    fn say(
        &mut self,
        thread: ThreadId,
        name: String,
        finishes: Option<EntryId>,
        kind: PostKind,
        body: String,
    ) {
        let post = self.post(thread, kind, body, ClientMsgId::new(name));
        self.put(post, finishes);
    }

    fn post(&self, thread: ThreadId, kind: PostKind, body: String, name: ClientMsgId) -> Post {
        Post::new(thread, kind, self.setup.config.engine.author(), body, name)
    }

    /// Stores a post; one that the disk does not take waits for the disk.
    fn put(&mut self, post: Post, finishes: Option<EntryId>) {
        if let Err(error) = self.shared.outgoing.put(&post, finishes) {
            self.put_later(post, finishes, &error);
        }
    }
}

/// One claim, start to end.
fn claim(client: &Client, thread: &ThreadId, machine: &MachineId) -> ClaimOutcome {
    match client.claim(thread, machine) {
        Ok(claim) if claim.won => ClaimOutcome::Won,
        Ok(claim) => ClaimOutcome::Lost { winner: claim.winner },
        Err(error) => {
            log::warn!(threadId = thread.as_str(), error:% = error; "cannot claim the thread yet");
            ClaimOutcome::Failed { retry_after: error.retry_after() }
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
