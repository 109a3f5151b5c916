//! Catch-up: what people wrote while no stream was open, read from the threads' histories. Needed
//! after every connection that did not declare its replay complete (protocol section 3). It runs
//! beside the live stream, one request at a time, the most recently used threads first; whatever it
//! finds that is known already is dropped by the dispatcher.
//!
//! The cursor is the bridge's own time, never ours. It stands still while this runs, so that a crash
//! in between reads the same again.

use std::{
    collections::HashSet,
    convert::Infallible,
    io, mem,
    sync::Arc,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender, after, bounded, never, select_biased, unbounded};

use super::Daemon;
use crate::{
    bridge::{
        Client, Error,
        backoff::{Backoff, Pace},
        stream::Replay,
        wire::{Message, Reply},
    },
    dispatch::control,
    ids::{MachineId, ThreadId},
    logging,
    store::{entry::EntryId, spool::Inbox, state::Store},
    task,
    time::Timestamp,
};

/// Between two threads, so that a machine with thousands of them does not flood the bridge.
const PAUSE: Duration = Duration::from_millis(50);

/// How long a live message waits at most for its thread to be read.
const WAITING: Duration = Duration::from_secs(30);

/// Messages between this task and the loop.
const FOUND: usize = 64;

/// Pages of one thread; a bridge that gives the same page again and again ends here.
const PAGES: usize = 100;

/// Where catching up stands; a part of the daemon's state.
pub(super) struct Catching {
    found: Receiver<Found>,
    /// Threads to read before the others.
    urgent: Option<Sender<ThreadId>>,
    /// Threads that are still to be read.
    unread: HashSet<ThreadId>,
    /// Live messages of those threads, which must not overtake what was missed.
    waiting: Vec<(EntryId, Arc<Reply>)>,
    /// When they go on all the same.
    due: Option<Instant>,
    is_running: bool,
    /// A connection was lost meanwhile, so what was missed then has to be read as well.
    is_needed_again: bool,
    /// The newest message that came in, by the bridge's time.
    newest: Option<Timestamp>,
}

impl Default for Catching {
    fn default() -> Catching {
        Catching {
            found: never(),
            urgent: None,
            unread: HashSet::new(),
            waiting: Vec::new(),
            due: None,
            is_running: false,
            is_needed_again: false,
            newest: None,
        }
    }
}

impl Catching {
    pub(super) fn found(&self) -> &Receiver<Found> {
        &self.found
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }
}

impl Daemon {
    /// A connection was made. `server_time` is the bridge's, as it wrote it.
    pub(super) fn catch_up(&mut self, replay: Replay, server_time: Option<&str>) {
        self.begin_at(server_time);
        match replay {
            Replay::Complete => {}
            _ if self.catching.is_running => self.catching.is_needed_again = true,
            Replay::Gap | Replay::Unknown => self.start_catching_up(),
        }
    }

    /// The very first stream begins at this time, the bridge's; nothing before it is for us. But with
    /// a place in the stream, what comes after that place may be older and still missing.
    pub(super) fn begin_at(&mut self, server_time: Option<&str>) {
        if self.cursor.seen_until.is_none() && self.cursor.last_event_id.is_none() {
            self.cursor.seen_until = server_time.and_then(Timestamp::parse);
        }
    }

    fn start_catching_up(&mut self) {
        let (urgent, asked_for) = unbounded();
        let plan = Plan {
            asked_for,
            client: self.shared.client.clone(),
            inbox: self.shared.inbox.clone(),
            machine: self.setup.config.machine.clone(),
            threads: threads(&self.store, &self.setup.config.machine),
            since: self.cursor.seen_until,
            stop: self.shared.drain.clone(),
        };
        let unread = plan.threads.iter().cloned().collect();
        // Without a cursor nothing is read, and nothing has to wait.
        let is_reading = plan.since.is_some();
        match start(plan) {
            Ok(found) => {
                self.catching.found = found;
                self.catching.urgent = Some(urgent);
                if is_reading {
                    self.catching.unread = unread;
                    self.catching.is_running = true;
                }
            }
            Err(error) => log::error!(
                error:% = error;
                "cannot start the task that catches up; it is tried with the next connection"
            ),
        }
    }

    /// A live message. If its thread is still to be read, that is done next, and the message waits so
    /// that it does not overtake what was missed.
    pub(super) fn live(&mut self, entry: EntryId, reply: Arc<Reply>) {
        // A word is for the daemon, which needs not know what was missed.
        let is_word = control::read(&reply.body).is_some();
        if is_word || !self.catching.unread.contains(&reply.thread_id) {
            return self.inbound(entry, reply, None);
        }
        if let Some(urgent) = &self.catching.urgent {
            urgent.send(reply.thread_id.clone()).ok(); // A task that has ended is reported.
        }
        self.catching.waiting.push((entry, reply));
        self.catching.due.get_or_insert_with(|| Instant::now() + WAITING);
    }

    /// Lets live messages go on whose threads were read, or that have waited long enough.
    pub(super) fn let_live_go(&mut self) {
        let is_time = self.catching.due.is_some_and(|due| due <= Instant::now());
        if is_time {
            log::warn!(
                "catching up takes long; messages that came in meanwhile no longer wait for it"
            );
        }
        for (entry, reply) in mem::take(&mut self.catching.waiting) {
            if is_time || !self.catching.unread.contains(&reply.thread_id) {
                self.inbound(entry, reply, None);
            } else {
                self.catching.waiting.push((entry, reply));
            }
        }
        if self.catching.waiting.is_empty() {
            self.catching.due = None;
        }
    }

    /// Takes in what catching up found; none when its task is gone.
    pub(super) fn found(&mut self, found: Option<Found>) {
        match found {
            Some(Found::Message { entry, reply }) => {
                log::info!(
                    target: logging::EVENT, threadId = reply.thread_id.as_str(), entry:% = entry;
                    "reply, caught up with"
                );
                let reply = Arc::from(reply);
                if !self.answers(entry, &reply, true) {
                    self.inbound(entry, reply, None);
                }
            }
            // The stream may have told an earlier time meanwhile.
            Some(Found::Now(now)) if self.cursor.seen_until.is_none() => self.saw(Some(now)),
            Some(Found::Now(_)) => {}
            Some(Found::Read(thread)) => {
                self.catching.unread.remove(&thread);
                self.let_live_go();
            }
            Some(Found::Complete) | None => {
                self.catching.unread.clear();
                self.let_live_go();
                let again = self.catching.is_needed_again;
                let newest = self.catching.newest;
                self.catching = Catching { newest, ..Catching::default() };
                if again {
                    self.start_catching_up();
                } else {
                    self.saw(newest);
                }
            }
        }
    }

    /// A message of this time came in. The cursor follows, but not past what is still to be read.
    pub(super) fn saw(&mut self, time: Option<Timestamp>) {
        self.catching.newest = self.catching.newest.max(time);
        let newest = self.catching.newest;
        if !self.catching.is_running && self.cursor.seen_until < newest {
            self.cursor.seen_until = newest;
            self.cursor_moved();
        }
    }
}

/// What is to be read.
struct Plan {
    client: Client,
    inbox: Inbox,
    machine: MachineId,
    /// Ours, most recently used first.
    threads: Vec<ThreadId>,
    /// Some of them, as soon as somebody writes on one.
    asked_for: Receiver<ThreadId>,
    /// None when the bridge's time was never seen: then it is asked for, and nothing is read.
    since: Option<Timestamp>,
    stop: Receiver<Infallible>,
}

/// The daemon stops.
struct Stopped;

fn send(found: &Sender<Found>, it: Found) -> Result<(), Stopped> {
    found.send(it).map_err(|_| Stopped)
}

#[derive(Debug)]
pub(super) enum Found {
    /// A human's message, in the inbox.
    Message { entry: EntryId, reply: Box<Reply> },
    /// The bridge's time: from here on there is a cursor.
    Now(Timestamp),
    /// This thread was read.
    Read(ThreadId),
    /// Everything was read.
    Complete,
}

/// Starts reading. The channel closes without [`Found::Complete`] only when the daemon stops.
///
/// # Errors
/// When the system gives no more threads.
fn start(plan: Plan) -> io::Result<Receiver<Found>> {
    let (found, results) = bounded(FOUND);
    task::spawn("catch-up", move || {
        drop(plan.run(&found)); // Stopped means that nobody waits for it any more.
    })?;
    Ok(results)
}

/// The threads of this machine, the most recently used first.
fn threads(store: &Store, machine: &MachineId) -> Vec<ThreadId> {
    let mut threads: Vec<(Option<Timestamp>, &ThreadId)> = store
        .bindings()
        .iter()
        .filter(|(_, binding)| binding.machine.as_ref().is_none_or(|owner| owner == machine))
        .map(|(thread, binding)| {
            let driven =
                binding.sessions.values().filter_map(|session| session.last_drive_at).max();
            (driven.or(binding.created_at), thread)
        })
        .collect();
    threads.sort_by(|a, b| b.cmp(a));
    threads.into_iter().map(|(_, thread)| thread.clone()).collect()
}

impl Plan {
    fn run(&self, found: &Sender<Found>) -> Result<(), Stopped> {
        let Some(since) = self.since else {
            let whoami = self.patiently(|| self.client.whoami())?;
            if let Some(now) = whoami.and_then(|it| Timestamp::parse(it.server_time.as_deref()?)) {
                send(found, Found::Now(now))?;
            }
            return send(found, Found::Complete);
        };
        let started = Instant::now();
        let mut unread: HashSet<&ThreadId> = self.threads.iter().collect();
        for thread in &self.threads {
            for urgent in self.asked_for.try_iter() {
                if unread.remove(&urgent) {
                    self.thread(&urgent, since, found)?;
                }
            }
            if unread.remove(thread) {
                self.thread(thread, since, found)?;
                self.pause(PAUSE)?;
            }
        }
        log::info!(
            threads = self.threads.len(), seconds = started.elapsed().as_secs();
            "caught up with the threads of this machine"
        );
        send(found, Found::Complete)
    }

    /// Reads one thread, page by page.
    fn thread(
        &self,
        thread: &ThreadId,
        since: Timestamp,
        found: &Sender<Found>,
    ) -> Result<(), Stopped> {
        self.pages(thread, since, found)?;
        send(found, Found::Read(thread.clone()))
    }

    fn pages(
        &self,
        thread: &ThreadId,
        since: Timestamp,
        found: &Sender<Found>,
    ) -> Result<(), Stopped> {
        // One millisecond earlier, since several messages may share one; known ones are recognised.
        let mut since = Timestamp::from_millis(since.as_millis().saturating_sub(1));
        let mut known = HashSet::new();
        for _ in 0..PAGES {
            let from = since.to_string();
            let Some(page) = self.patiently(|| self.client.messages_since(thread, &from))? else {
                return Ok(());
            };
            let mut is_new = false;
            for message in page {
                since = since
                    .max(message.created_at.as_deref().and_then(Timestamp::parse).unwrap_or(since));
                if let Some(id) = &message.message_id
                    && known.insert(id.clone())
                {
                    is_new = true;
                    self.message(message, found)?;
                }
            }
            if !is_new {
                return Ok(());
            }
        }
        log::warn!(threadId = thread.as_str(); "the bridge's history of the thread does not end; went on without the rest");
        Ok(())
    }

    fn message(&self, message: Message, found: &Sender<Found>) -> Result<(), Stopped> {
        if !message.is_human() {
            return Ok(());
        }
        let reply = Reply::from_message(message, Some(self.machine.clone()));
        let mut backoff = Backoff::new(Pace::default());
        loop {
            match self.inbox.put(&reply) {
                Ok(entry) => return send(found, Found::Message { entry, reply: Box::new(reply) }),
                Err(error) => {
                    log::error!(error:% = error; "cannot store a message that was caught up with; trying again");
                    self.pause(backoff.next(fastrand::u64(..), None))?;
                }
            }
        }
    }

    /// Asks until there is an answer. None is a refusal that asking again won't change.
    fn patiently<T>(&self, ask: impl Fn() -> Result<T, Error>) -> Result<Option<T>, Stopped> {
        let mut backoff = Backoff::new(Pace::default());
        loop {
            match ask() {
                Ok(answer) => return Ok(Some(answer)),
                Err(error) if error.is_retryable() || error.is_auth() => {
                    log::debug!(error:% = error; "catching up: trying again");
                    self.pause(backoff.next(fastrand::u64(..), error.retry_after()))?;
                }
                Err(error) => {
                    log::debug!(error:% = error; "catching up: going on without this thread");
                    return Ok(None);
                }
            }
        }
    }

    /// Waits, unless the daemon stops.
    fn pause(&self, time: Duration) -> Result<(), Stopped> {
        select_biased! {
            recv(self.stop) -> _ => Err(Stopped),
            recv(after(time)) -> _ => Ok(()),
        }
    }
}
