//! Calls on the bridge, each in a task of its own; the result is an event.

use std::{collections::HashSet, io::ErrorKind, sync::Arc, time::Duration};

use crossbeam_channel::{after, select_biased};

use crate::{
    bridge::{
        Error,
        backoff::{Backoff, Pace},
        wire::Reply,
    },
    coordinator::{
        ClaimOutcome, Coordinator, Event,
        catchup::{ReadEnd, Reading},
    },
    ids::ThreadId,
    task::{Registry, TaskRole},
    time::Timestamp,
    worker::Shared,
};

/// Pages of one history; a bridge that gives the same page again and again ends here.
const PAGES: usize = 100;

/// Messages of a page when a history is too large to be read at once.
const PAGE: u32 = 64;

/// The event that a task owes the loop, which a panic stands for. None: nothing waits for it; a turn
/// sends its last report itself, also after a panic.
pub(super) type Owed = Option<Event>;

#[derive(Debug)]
pub(super) struct Calls {
    pub(super) shared: Arc<Shared>,
    pub(super) tasks: Registry<Owed>,
}

impl Calls {
    /// Runs it in a task; the event that it returns goes to the loop. Returns `owed`, which stands
    /// for the failure, when there is no room for a task.
    fn spawn(
        &self,
        name: &str,
        owed: Event,
        run: impl FnOnce(&Shared) -> Option<Event> + Send + 'static,
    ) -> Option<Event> {
        let shared = Arc::clone(&self.shared);
        let started = self.tasks.spawn(name, TaskRole::Helper(Some(owed.clone())), move || {
            if let Some(event) = run(&shared) {
                send(&shared, event).ok(); // The loop may have ended.
            }
        });
        let error = started.err()?;
        log::error!(task = name, error:% = error; "cannot start a task; trying again");
        Some(owed)
    }

    pub(super) fn claim(&self, thread: ThreadId) -> Option<Event> {
        let outcome = ClaimOutcome::Failed { retry_after: None };
        let owed = Event::Claimed { thread: thread.clone(), outcome };
        self.spawn("claim", owed, move |shared| {
            let outcome = claim(shared, &thread);
            Some(Event::Claimed { thread, outcome })
        })
    }

    pub(super) fn read_history(&self, reading: Reading) -> Option<Event> {
        let (thread, number) = (reading.thread.clone(), reading.number);
        let end = ReadEnd::Failed { retry_after: None };
        self.spawn("history", Event::Read { thread, number, end }, move |shared| {
            let end = read(shared, &reading).ok()?;
            Some(Event::Read { thread: reading.thread, number, end })
        })
    }

    pub(super) fn ask_time(&self) -> Option<Event> {
        self.spawn("time", Event::Time(None), |shared| {
            let whoami = shared.client.whoami();
            let time = whoami.ok().and_then(|it| Timestamp::parse(it.server_time.as_deref()?));
            Some(Event::Time(time))
        })
    }
}

struct Stopped;

fn send(shared: &Shared, event: Event) -> Result<(), Stopped> {
    select_biased! {
        send(shared.events, event) -> sent => sent.map_err(|_| Stopped),
        recv(shared.drain) -> _ => Err(Stopped),
    }
}

fn claim(shared: &Shared, thread: &ThreadId) -> ClaimOutcome {
    match shared.client.claim(thread, &shared.config.machine) {
        Ok(claim) if claim.won => ClaimOutcome::Won,
        Ok(claim) => ClaimOutcome::Lost { winner: claim.winner },
        Err(error) => {
            log::warn!(threadId = thread.as_str(), error:% = error; "cannot claim the thread yet");
            ClaimOutcome::Failed { retry_after: error.retry_after() }
        }
    }
}

/// Reads a history, page by page.
fn read(shared: &Shared, reading: &Reading) -> Result<ReadEnd, Stopped> {
    // One millisecond earlier, since several messages may share one; known ones are recognised.
    let mut since = reading.since.minus(Duration::from_millis(1));
    let mut known = HashSet::new();
    for _ in 0..PAGES {
        let page = match shared.client.messages_since(&reading.thread, &since.to_string()) {
            Ok(page) => page,
            Err(Error::TooLarge { .. }) => return read_backwards(shared, reading, since),
            Err(error) => return Ok(read_failed(&reading.thread, &error)),
        };
        let mut is_new = false;
        for message in page {
            let written = message.created_at.as_deref().and_then(Timestamp::parse);
            since = since.max(written.unwrap_or(since));
            if let Some(id) = &message.message_id
                && known.insert(id.clone())
            {
                is_new = true;
                found(shared, message, reading.number)?;
            }
        }
        if !is_new {
            return Ok(ReadEnd::Complete);
        }
    }
    log::warn!(
        threadId = reading.thread.as_str();
        "the bridge's history of the thread does not end; going on without the rest"
    );
    Ok(ReadEnd::Complete)
}

/// Reads a history that is too large for one answer: looks for the pages from its end, then
/// reads them from the oldest on, so that no more than one is in memory.
fn read_backwards(
    shared: &Shared,
    reading: &Reading,
    since: Timestamp,
) -> Result<ReadEnd, Stopped> {
    let client = &shared.client;
    let (mut pages, mut before, mut limit) = (Vec::new(), Timestamp::MAX.to_string(), PAGE);
    while pages.len() < PAGES * PAGES {
        let page = match client.messages_before(&reading.thread, &before, limit) {
            Ok(page) => page,
            Err(Error::TooLarge { .. }) if limit > 1 => {
                limit /= 2;
                continue;
            }
            Err(error) => return Ok(read_failed(&reading.thread, &error)),
        };
        let oldest = page.first().and_then(|message| message.created_at.clone());
        pages.push((before.clone(), limit));
        match oldest {
            Some(oldest) if oldest != before && is_after(&oldest, since) => before = oldest,
            _ => break,
        }
    }
    for (before, limit) in pages.into_iter().rev() {
        match client.messages_before(&reading.thread, &before, limit) {
            Ok(page) => {
                let is_missed = |message: &Reply| {
                    message.message_id.is_some()
                        && message.created_at.as_ref().is_none_or(|at| is_after(at, since))
                };
                page.into_iter()
                    .filter(is_missed)
                    .try_for_each(|message| found(shared, message, reading.number))?;
            }
            Err(error) => return Ok(read_failed(&reading.thread, &error)),
        }
    }
    Ok(ReadEnd::Complete)
}

/// Stores a message of a person and hands it over. It waits while the inbox has no room.
fn found(shared: &Shared, message: Reply, number: u64) -> Result<(), Stopped> {
    if !message.is_human() {
        return Ok(());
    }
    let reply = Arc::new(message);
    let mut backoff = Backoff::new(Pace::default());
    loop {
        match shared.inbox.put(&reply, Coordinator::extra_room(&reply)) {
            Ok(entry) => return send(shared, Event::Found { entry, reply, number }),
            Err(error) if error.kind() == ErrorKind::QuotaExceeded => {
                log::debug!(error:% = error; "catching up waits for room in the inbox");
            }
            Err(error) => {
                log::error!(error:% = error; "cannot store a message that was missed; trying again");
            }
        }
        select_biased! {
            recv(shared.drain) -> _ => return Err(Stopped),
            recv(after(backoff.next(fastrand::u64(..), None))) -> _ => {}
        }
    }
}

fn is_after(time: &str, since: Timestamp) -> bool {
    Timestamp::parse(time).is_none_or(|time| since < time)
}

fn read_failed(thread: &ThreadId, error: &Error) -> ReadEnd {
    if matches!(error.status(), Some(404 | 410)) {
        log::debug!(threadId = thread.as_str(), error:% = error; "the bridge has no such thread any more");
        return ReadEnd::Gone;
    }
    log::warn!(
        threadId = thread.as_str(), error:% = error;
        "cannot read what was missed on the thread; trying again"
    );
    ReadEnd::Failed { retry_after: error.retry_after() }
}
