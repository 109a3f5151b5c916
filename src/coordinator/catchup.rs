//! Catch-up: what people wrote while no stream was open is read from the threads' histories, and
//! what came later waits for it. Needed after every connection that did not declare its replay
//! complete (protocol section 3), and for what an earlier process left also after the others. Pure.
//!
//! * A thread of ours is *unread* from such a connection on until its history was read. Messages that
//!   come in on it meanwhile wait, and so do those that an earlier process left in the inbox, until
//!   the first connection says what there is to read.
//! * Histories are read in the order of need: threads with waiting messages first, several at the
//!   same time; then all others, one at a time, the most recently used first; those that could not be
//!   read, apart from the others and with growing pauses. A thread waits for its own history alone,
//!   and no longer than [`PATIENCE`].
//! * The cursor is the bridge's own time, never ours. Everything before it has been read, but on the
//!   threads that it names as *behind*. It stands still while a thread that can be read is unread, and
//!   while there is no connection: a crash, or a further connection, reads the same again, and what
//!   is known already is a duplicate.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    time::Duration,
};

use super::{
    DELAY_MAX, delay,
    message::{Arrival, Message},
};
use crate::{bridge::stream::Replay, ids::ThreadId, store::cursor::Cursor, time::Timestamp};

/// Histories of threads with waiting messages that are read at the same time.
pub const URGENT_MAX: usize = 8;

/// Between two threads that nothing waits for, so that a machine with thousands of them does not
/// flood the bridge.
const PAUSE: Duration = Duration::from_millis(50);

/// How long a message waits at most for the history of its thread, while there is a connection.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Two messages on two threads may reach us in another order than the bridge stored them in. So the
/// cursor keeps this far behind the newest one.
const OVERLAP: Duration = Duration::from_secs(1);

/// A message that is said to be this much older than what was read until has a time that is not to be
/// believed: read from there, a history has much that another machine answered. A machine that lost
/// its state may be handed out messages that have waited for it for weeks.
const OLDER_MAX: Duration = Duration::from_hours(30 * 24);

/// The cursor is written at most this often: when an older one is found after a crash, what follows
/// it comes again and is recognised.
const SAVE_EVERY: Duration = Duration::from_secs(5);

/// A history that is to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    pub thread: ThreadId,
    /// Everything that the bridge stored at or after this time.
    pub since: Timestamp,
    /// Tells this reading from earlier ones of the same thread.
    pub number: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadEnd {
    /// Every message was handed over.
    Complete,
    /// It may work later.
    Failed { retry_after: Option<Duration> },
    /// The bridge has no such thread any more.
    Gone,
}

#[derive(Debug, Default)]
pub(super) struct CatchUp {
    cursor: Cursor,
    /// The newest place in the stream; the cursor's follows when it may.
    last_event_id: Option<String>,
    /// What was written until then has come in on the stream or is in the histories of the unread
    /// threads, by the bridge's time. A history does not move it: what was written on other threads
    /// before its newest message may not have come in, because the stream is dead by now.
    newest: Option<Timestamp>,
    has_connected: bool,
    is_connected: bool,
    /// The bridge's time at a time of ours.
    clock: Option<(Timestamp, Duration)>,
    unread: HashMap<ThreadId, Unread>,
    /// How many of them have not failed.
    healthy: usize,
    /// Unread threads with waiting messages.
    urgent: VecDeque<ThreadId>,
    /// Unread threads that nothing waits for, most recently used first. May hold others, too.
    background: VecDeque<ThreadId>,
    /// Threads that could not be read, and when they are tried again.
    failing: BTreeSet<(Duration, ThreadId)>,
    /// Messages that wait for the history of their thread.
    parked: BTreeMap<ThreadId, Parked>,
    readings: u64,
    urgent_readings: usize,
    background_reading: Option<u64>,
    failing_reading: Option<u64>,
    background_due: Duration,
    save_due: Option<Duration>,
    is_time_asked: bool,
    ask_time_due: Option<Duration>,
}

#[derive(Debug)]
struct Unread {
    since: Timestamp,
    reading: Option<u64>,
    /// The connection was lost while it was being read, or more is missing since: once more.
    is_outdated: bool,
    failures: u32,
    /// Its messages have waited long enough.
    is_overdue: bool,
}

#[derive(Debug)]
struct Parked {
    /// When the first one began to wait with a connection.
    since: Option<Duration>,
    messages: Vec<Message>,
}

impl CatchUp {
    pub(super) fn new(cursor: Cursor) -> CatchUp {
        let behind = cursor.behind.clone();
        let mut catchup = CatchUp {
            last_event_id: cursor.last_event_id.clone(),
            newest: cursor.seen_until,
            cursor,
            ..CatchUp::default()
        };
        for (thread, since) in behind {
            catchup.is_unread(&thread, since);
        }
        catchup
    }

    /// The threads to read although a bridge replays: what it sends again may be older than what an
    /// earlier process left, or what their histories have.
    pub(super) fn ahead_of_replay(&self) -> Vec<ThreadId> {
        let is_ahead = |message: &Message| self.cursor.seen_until < message.written();
        let parked = self.parked.iter().filter(|(_, it)| it.messages.iter().any(is_ahead));
        parked.map(|(thread, _)| thread).chain(self.unread.keys()).cloned().collect()
    }

    /// A connection was made. `threads` are to be read, the most recently used first, each with the
    /// time since when it is ours.
    pub(super) fn connected(
        &mut self,
        now: Duration,
        replay: Replay,
        server_time: Option<Timestamp>,
        threads: impl Iterator<Item = (Option<Timestamp>, ThreadId)>,
    ) {
        self.has_connected = true;
        self.is_connected = true;
        self.begins(now, server_time);
        // Also if it takes the place of another: that one may have been dead for a while.
        self.lost_readings();
        if replay != Replay::Complete {
            self.newest = self.newest.max(server_time);
        }
        let seen_until = self.cursor.seen_until;
        for (ours_since, thread) in threads {
            // A bridge whose clock was set back wrote what is missing under earlier times.
            let since = seen_until.max(ours_since);
            let since = since.min(server_time.or(since));
            // What came before a message that an earlier process left may have been found missing
            // by that one, and not been read.
            let parked = self.parked.get(&thread).into_iter().flat_map(|it| &it.messages);
            let oldest = parked.filter_map(|message| self.since(message.written())).min();
            match since.into_iter().chain(oldest).min() {
                // Known only to this process otherwise, since the cursor has passed it.
                Some(since) if Some(since) < seen_until => self.is_missing(&thread, since),
                Some(since) => self.is_unread(&thread, since),
                None => {}
            }
        }
        for (thread, parked) in &mut self.parked {
            parked.since = Some(now);
            if self.unread.contains_key(thread) && !self.urgent.contains(thread) {
                self.urgent.push_back(thread.clone());
            }
        }
        self.advance(now);
    }

    /// The bridge says what its time is. The very first stream begins at this time; nothing before
    /// it is for us. But with a place in the stream, what comes after that place may be older and
    /// still missing.
    pub(super) fn begins(&mut self, now: Duration, server_time: Option<Timestamp>) {
        let Some(time) = server_time else { return };
        self.clock = Some((time, now));
        if self.cursor.seen_until.is_none() && self.cursor.last_event_id.is_none() {
            self.cursor.seen_until = Some(time);
            self.newest = self.newest.max(Some(time));
            // From here on nothing is missed, also after a crash.
            self.save_due = Some(now);
        }
    }

    /// What is written from now on is missing.
    pub(super) fn disconnected(&mut self) {
        self.is_connected = false;
        self.parked.values_mut().for_each(|parked| parked.since = None);
        self.lost_readings();
    }

    /// What is being read now may be older than what is missed.
    fn lost_readings(&mut self) {
        self.unread.values_mut().for_each(|unread| unread.is_outdated |= unread.reading.is_some());
    }

    pub(super) fn moved_on(&mut self, now: Duration, last_event_id: Option<String>) {
        if last_event_id.is_some() && last_event_id != self.last_event_id {
            let is_first = self.last_event_id.is_none();
            self.last_event_id = last_event_id;
            if is_first {
                self.save_due = Some(now);
            }
            self.advance(now);
        }
    }

    /// A message of this time came in.
    pub(super) fn saw(&mut self, now: Duration, written: Option<Timestamp>) {
        // A time that the bridge's clock has not reached must not hide what it writes until then.
        let latest = self.bridge_time(now).unwrap_or(Timestamp::MAX);
        let written = written.map(|written| written.min(latest));
        if self.newest < written {
            self.newest = written;
            self.advance(now);
        }
    }

    /// A message of this thread is stored by the bridge and not here, and the cursor has passed it, or
    /// will: so it names the thread.
    pub(super) fn is_missing(&mut self, thread: &ThreadId, since: Timestamp) {
        let behind = self.cursor.behind.entry(thread.clone()).or_insert(Timestamp::MAX);
        if since < *behind {
            *behind = since;
            self.save_due = Some(Duration::ZERO);
        }
        self.is_unread(thread, since);
    }

    fn is_unread(&mut self, thread: &ThreadId, since: Timestamp) {
        if let Some(unread) = self.unread.get_mut(thread) {
            unread.since = unread.since.min(since);
            unread.is_outdated |= unread.reading.is_some();
            return;
        }
        let unread =
            Unread { since, reading: None, is_outdated: false, failures: 0, is_overdue: false };
        self.unread.insert(thread.clone(), unread);
        self.healthy += 1;
        self.background.push_back(thread.clone());
    }

    /// From when on to read if a message of this time is missing, or what came after it.
    pub(super) fn since(&self, written: Option<Timestamp>) -> Option<Timestamp> {
        let seen_until = self.cursor.seen_until;
        let earliest = seen_until.map(|seen_until| seen_until.minus(OLDER_MAX));
        written
            .filter(|written| earliest.is_none_or(|earliest| earliest <= *written))
            .or(seen_until)
    }

    /// The bridge's time, if it was ever told.
    pub(super) fn bridge_time(&self, now: Duration) -> Option<Timestamp> {
        self.clock.map(|(time, at)| time.plus(now.saturating_sub(at)))
    }

    /// Whether a message has to wait for the history of its thread; then [`CatchUp::park`]. What a
    /// history holds waits for the rest of it, too: left-overs and live messages come in between.
    pub(super) fn must_wait(&self, message: &Message) -> bool {
        let thread = message.thread();
        let is_early = message.origin == Arrival::Recovered && !self.has_connected;
        is_early
            || self.parked.contains_key(thread)
            || self.unread.get(thread).is_some_and(|unread| !unread.is_overdue)
    }

    pub(super) fn park(&mut self, now: Duration, message: Message) {
        let thread = message.thread();
        let since = self.is_connected.then_some(now);
        if !self.parked.contains_key(thread) {
            self.urgent.push_back(thread.clone());
        }
        let empty = Parked { since, messages: Vec::new() };
        let messages = &mut self.parked.entry(thread.clone()).or_insert(empty).messages;
        // What an earlier process left may have come in later than what was written after it.
        messages.insert(message.place(messages.iter()), message);
    }

    /// Messages that need not wait any longer: those of a thread together, in the order in which they
    /// were written.
    pub(super) fn released(&mut self, now: Duration) -> Vec<Message> {
        if !self.has_connected {
            return Vec::new();
        }
        let unread = &mut self.unread;
        let goes_on = |thread: &ThreadId, parked: &mut Parked| {
            let Some(unread) = unread.get_mut(thread) else { return true };
            let is_overdue = parked.since.is_some_and(|since| since + PATIENCE <= now);
            if is_overdue {
                log::warn!(
                    threadId = thread.as_str();
                    "the history of the thread could not be read in time; what came in meanwhile no longer waits for it"
                );
                unread.is_overdue = true;
            }
            is_overdue
        };
        let mut goes_on = goes_on;
        let released = self.parked.extract_if(.., |thread, parked| goes_on(thread, parked));
        released.flat_map(|(_, parked)| parked.messages).collect()
    }

    /// Takes out the oldest message that waits on a thread, unless it is newer than this stop.
    pub(super) fn stop(&mut self, stop: &Message) -> Option<Message> {
        let parked = self.parked.get_mut(stop.thread())?;
        let oldest = parked.messages.iter().position(|message| !message.is_newer(stop))?;
        let message = parked.messages.remove(oldest);
        if parked.messages.is_empty() {
            self.parked.remove(stop.thread());
        }
        Some(message)
    }

    /// Takes out what waits on a thread and is not newer than this stop.
    pub(super) fn clear(&mut self, stop: &Message) -> Vec<Message> {
        let Some(parked) = self.parked.get_mut(stop.thread()) else { return Vec::new() };
        let is_cleared = |message: &mut Message| !message.is_newer(stop);
        let cleared = parked.messages.extract_if(.., is_cleared).collect();
        if parked.messages.is_empty() {
            self.parked.remove(stop.thread());
        }
        cleared
    }

    /// The messages that wait on a thread, oldest first.
    pub(super) fn waiting(&self, thread: &ThreadId) -> impl Iterator<Item = &Message> {
        self.parked.get(thread).into_iter().flat_map(|parked| &parked.messages)
    }

    pub(super) fn len(&self) -> usize {
        self.parked.values().map(|parked| parked.messages.len()).sum()
    }

    /// The next history to read, if there is one.
    pub(super) fn next(&mut self, now: Duration) -> Option<Reading> {
        if !self.is_connected {
            return None;
        }
        if self.urgent_readings < URGENT_MAX
            && let Some(thread) = Self::first(&mut self.urgent, &self.unread)
        {
            self.urgent_readings += 1;
            return Some(self.read(&thread));
        }
        if self.background_reading.is_none()
            && self.background_due <= now
            && let Some(thread) = Self::first(&mut self.background, &self.unread)
        {
            let reading = self.read(&thread);
            self.background_reading = Some(reading.number);
            return Some(reading);
        }
        if self.failing_reading.is_none() && self.failing.first().is_some_and(|(at, _)| *at <= now)
        {
            let (_, thread) = self.failing.pop_first()?;
            let reading = self.read(&thread);
            self.failing_reading = Some(reading.number);
            return Some(reading);
        }
        None
    }

    /// The first of a queue that is still to be read. One that is sick is tried again in its own time.
    fn first(
        queue: &mut VecDeque<ThreadId>,
        unread: &HashMap<ThreadId, Unread>,
    ) -> Option<ThreadId> {
        let is_due = |it: &Unread| it.reading.is_none() && it.failures == 0;
        while let Some(thread) = queue.pop_front() {
            if unread.get(&thread).is_some_and(is_due) {
                return Some(thread);
            }
        }
        None
    }

    fn read(&mut self, thread: &ThreadId) -> Reading {
        self.readings += 1;
        let number = self.readings;
        let unread = self.unread.get_mut(thread).expect("only unread threads are read");
        unread.reading = Some(number);
        unread.is_outdated = false;
        Reading { thread: thread.clone(), since: unread.since, number }
    }

    /// Whether what this reading finds still matters.
    pub(super) fn is_reading(&self, thread: &ThreadId, number: u64) -> bool {
        self.unread.get(thread).is_some_and(|unread| unread.reading == Some(number))
    }

    pub(super) fn ended(&mut self, now: Duration, thread: &ThreadId, number: u64, end: ReadEnd) {
        if self.background_reading == Some(number) {
            self.background_reading = None;
            self.background_due = now + PAUSE;
        } else if self.failing_reading == Some(number) {
            self.failing_reading = None;
        } else {
            self.urgent_readings = self.urgent_readings.saturating_sub(1);
        }
        let Some(unread) = self.unread.get_mut(thread) else { return };
        if unread.reading != Some(number) {
            return;
        }
        unread.reading = None;
        match end {
            ReadEnd::Complete | ReadEnd::Gone if !unread.is_outdated => self.is_read(thread),
            ReadEnd::Complete | ReadEnd::Gone => {
                // It can be read, so it is worth waiting for.
                unread.is_overdue = false;
                self.line_up(thread);
            }
            ReadEnd::Failed { retry_after } => {
                if unread.failures == 0 {
                    self.healthy -= 1;
                }
                unread.failures = unread.failures.saturating_add(1);
                let at = now + delay(unread.failures).max(retry_after.unwrap_or_default());
                self.failing.insert((at, thread.clone()));
            }
        }
        self.advance(now);
    }

    /// To be read once more.
    fn line_up(&mut self, thread: &ThreadId) {
        if self.unread[thread].failures > 0 {
            self.failing.insert((Duration::ZERO, thread.clone()));
        } else if self.parked.contains_key(thread) {
            self.urgent.push_back(thread.clone());
        } else {
            self.background.push_back(thread.clone());
        }
    }

    /// Nothing is missing on the thread any more, or it is another machine's.
    pub(super) fn is_read(&mut self, thread: &ThreadId) {
        let Some(unread) = self.unread.remove(thread) else { return };
        if unread.failures == 0 {
            self.healthy -= 1;
        } else {
            self.failing.retain(|(_, failing)| failing != thread);
        }
        if self.healthy == 0 && self.unread.is_empty() {
            log::info!("caught up with the threads of this machine");
        }
    }

    /// Moves the cursor as far as it may go.
    fn advance(&mut self, now: Duration) {
        if !self.is_connected || self.healthy > 0 {
            return;
        }
        let behind: BTreeMap<_, _> =
            self.unread.iter().map(|(thread, unread)| (thread.clone(), unread.since)).collect();
        let newest = self.newest.map(|newest| newest.minus(OVERLAP));
        let seen_until = newest.max(self.cursor.seen_until);
        let last_event_id = self.last_event_id.clone();
        let cursor = Cursor { last_event_id, seen_until, behind };
        if cursor != self.cursor {
            // From the first one on nothing is missed, also after a crash.
            let is_first = self.cursor.seen_until.is_none() && seen_until.is_some();
            self.cursor = cursor;
            let due = if is_first { now } else { now + SAVE_EVERY };
            self.save_due = Some(self.save_due.map_or(due, |earlier| earlier.min(due)));
        }
    }

    /// The cursor, when it is time to write it.
    pub(super) fn take_cursor(&mut self, now: Duration) -> Option<Cursor> {
        self.save_due.take_if(|due| *due <= now).map(|_| self.cursor.clone())
    }

    pub(super) fn cursor(&self) -> &Cursor {
        &self.cursor
    }

    fn needs_time(&self) -> bool {
        self.is_connected && self.clock.is_none() && !self.is_time_asked
    }

    /// Whether the bridge is to be asked for its time: without that there is no cursor, and no age.
    pub(super) fn asks_time(&mut self, now: Duration) -> bool {
        let is_due = self.ask_time_due.is_none_or(|due| due <= now);
        let asks = self.needs_time() && is_due;
        self.is_time_asked |= asks;
        asks
    }

    /// The bridge has told its time, or has not.
    pub(super) fn time_told(&mut self, now: Duration, time: Option<Timestamp>) {
        self.is_time_asked = false;
        self.ask_time_due = time.is_none().then(|| now + DELAY_MAX);
        self.begins(now, time);
    }

    pub(super) fn next_deadline(&self) -> Option<Duration> {
        let mut deadlines = vec![self.save_due];
        if self.is_connected {
            deadlines.push(self.ask_time_due.filter(|_| self.needs_time()));
            deadlines.push(
                self.failing.first().map(|(at, _)| *at).filter(|_| self.failing_reading.is_none()),
            );
            let has_background = self.background_reading.is_none() && !self.background.is_empty();
            deadlines.push(has_background.then_some(self.background_due));
            deadlines.extend(self.parked.values().map(|it| it.since.map(|since| since + PATIENCE)));
        }
        deadlines.into_iter().flatten().min()
    }
}
