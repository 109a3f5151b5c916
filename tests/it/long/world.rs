//! What happens in the long run, and when. One line of time for all of it; nothing waits.

use std::{collections::BTreeMap, time::Duration};

use fastrand::Rng;
use obto_bridge::{
    bridge::{
        backoff::{FLOOR, Pace},
        sse::{Item, Parser},
        stream::Replay,
        wire::Reply,
    },
    coordinator::{CLAIMS_MAX, ClaimOutcome, Effect, Event, catchup::ReadEnd},
    ids::{MachineId, ThreadId},
};

use super::{
    bridge::{Away, Bridge, OURS, OUTAGES, THEIRS, machine, outage, server_time, thread_of},
    process::{Connection, Process, position_on},
};
use crate::store::disk::MemoryDisk;

/// How often state, cursor and journal are written.
const WRITE: Duration = Duration::from_secs(30);
/// Nobody says anything in an hour after this, and nothing breaks.
const QUIET_FROM: Duration = Duration::from_mins(50);
const HOUR: Duration = Duration::from_hours(1);
/// The life after this lasts: what it gathered would be seen.
const RESTARTS_END: Duration = Duration::from_hours(25);

/// What is going to happen.
enum Due {
    Human,
    Restart,
    Connect,
    Cut,
    Claimed(ThreadId),
    Answered(ThreadId),
    Left(ThreadId),
    Write,
}

impl Due {
    /// Whether it happens whatever becomes of the process.
    fn is_outside(&self) -> bool {
        matches!(self, Due::Human | Due::Restart)
    }
}

/// How often things happened.
#[derive(Debug, Default)]
pub(super) struct Figures {
    pub(super) attempts: usize,
    pub(super) connections: usize,
    pub(super) restarts: usize,
    pub(super) remembered: usize,
    pub(super) removed: usize,
    pub(super) histories: usize,
    pub(super) failed_claims: usize,
    pub(super) most_outstanding: usize,
    pub(super) most_turns: usize,
    /// Connection attempts in each of [`OUTAGES`].
    pub(super) in_outage: [usize; OUTAGES.len()],
}

pub(super) struct World {
    now: Duration,
    rng: Rng,
    /// The second part of the key keeps apart what is due at the same time.
    line: BTreeMap<(Duration, u64), Due>,
    counter: u64,
    pub(super) bridge: Bridge,
    pub(super) process: Process,
    pub(super) figures: Figures,
}

fn in_hour(now: Duration) -> Duration {
    Duration::from_secs(now.as_secs() % HOUR.as_secs())
}

fn is_quiet(now: Duration) -> bool {
    QUIET_FROM <= in_hour(now)
}

impl World {
    pub(super) fn new(seed: u64, messages_max: usize) -> World {
        let mut world = World {
            now: Duration::ZERO,
            rng: Rng::with_seed(seed),
            line: BTreeMap::new(),
            counter: 0,
            bridge: Bridge::new(messages_max),
            process: Process::start(MemoryDisk::default()),
            figures: Figures::default(),
        };
        world.after(Duration::ZERO, Due::Human);
        world.after(Duration::from_mins(6 * 60 + 30), Due::Restart);
        world.begin_life();
        world
    }

    pub(super) fn now(&self) -> Duration {
        self.now
    }

    fn begin_life(&mut self) {
        self.after(Duration::ZERO, Due::Connect);
        self.after(WRITE, Due::Write);
        self.step_all();
    }

    fn after(&mut self, wait: Duration, due: Due) {
        self.counter += 1;
        self.line.insert((self.now + wait, self.counter), due);
    }

    fn seconds(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(self.rng.u64(from * 1_000..to * 1_000))
    }

    /// Lets everything happen up to a moment.
    pub(super) fn run_until(&mut self, end: Duration) {
        loop {
            let deadline = self.process.next_deadline(self.now).unwrap_or(Duration::MAX);
            let next = self.line.first_entry().filter(|it| it.key().0 <= deadline.min(end));
            if let Some(next) = next {
                let ((at, _), due) = next.remove_entry();
                self.now = at;
                self.happen(due);
            } else if deadline <= end {
                // It may be in the past: what is due then was handed in with another event.
                self.now = self.now.max(deadline);
                self.process.events.push_back(Event::Tick);
            } else {
                self.now = end;
                return;
            }
            self.step_all();
        }
    }

    fn happen(&mut self, due: Due) {
        match due {
            Due::Human => self.human(),
            Due::Restart => self.restart(),
            Due::Connect => self.connect(),
            Due::Cut => self.cut(),
            Due::Claimed(thread) => self.claimed(thread),
            Due::Answered(thread) => {
                self.process.answer(&thread, self.now);
                self.deliver_posts();
                // An engine takes a while to leave.
                let leaves = self.seconds(0, 10);
                self.after(leaves, Due::Left(thread));
            }
            Due::Left(thread) => self.process.leave(&thread),
            Due::Write => {
                let before = position_on(&self.process.disk);
                self.process.write();
                assert!(before <= position_on(&self.process.disk), "the cursor went back");
                self.deliver_posts();
                self.after(WRITE, Due::Write);
            }
        }
    }

    fn human(&mut self) {
        if is_quiet(self.now) {
            // Not in the moment in which the hour ends: it is to be over then.
            let left = HOUR.saturating_sub(in_hour(self.now));
            return self.after(left + Duration::from_secs(1), Due::Human);
        }
        let is_theirs = self.rng.u32(0..20) == 0;
        let thread =
            if is_theirs { OURS + self.rng.usize(0..THEIRS) } else { self.rng.usize(0..OURS) };
        self.bridge.send(thread, self.now);
        self.read(&self.bridge.event(self.bridge.len() - 1));
        let wait = self.seconds(1, 4);
        self.after(wait, Due::Human);
    }

    /// Crashes and starts again; every second time power was lost and what was removed lately is back.
    fn restart(&mut self) {
        let is_power_loss = self.figures.restarts.is_multiple_of(2);
        self.figures.restarts += 1;
        let disk = self.process.disk.after_crash(is_power_loss);
        let before = position_on(&disk);
        self.line.retain(|_, due| due.is_outside());
        self.process = Process::start(disk);
        assert_eq!(self.process.position(), before);
        if self.now + 6 * HOUR <= RESTARTS_END {
            self.after(6 * HOUR, Due::Restart);
        }
        self.begin_life();
    }

    fn connect(&mut self) {
        self.figures.attempts += 1;
        let (random, longest) = (self.rng.u64(..), Pace::default().cap);
        let backoff = &mut self.process.backoff;
        let wait = if let Some(outage) = outage(self.now) {
            self.figures.in_outage[outage] += 1;
            let (wait, low, high) = match OUTAGES[outage].1 {
                Away::Unreachable => (backoff.next(random, None), FLOOR, longest),
                Away::Unauthorized => (backoff.slow(random, None), longest / 2, longest),
                Away::Busy(after) => (backoff.next(random, Some(after)), after, after),
            };
            assert!((low..=high).contains(&wait), "{wait:?} in outage {outage}");
            wait
        } else if self.rng.u32(0..4) == 0 {
            backoff.next(random, None)
        } else {
            return self.connected();
        };
        self.after(wait, Due::Connect);
    }

    /// The bridge says again what came after the position. If it does not say that it did, the
    /// threads are caught up with: that reads messages which were received already.
    fn connected(&mut self) {
        self.figures.connections += 1;
        self.process.connection = Some(Connection { parser: Parser::default(), since: self.now });
        self.read(": welcome\nretry: 3000\n\n");
        let replay = if self.rng.bool() { Replay::Complete } else { Replay::Unknown };
        let server_time = Some(server_time(self.now));
        let connected = Event::Connected { replay, server_time, last_event_id: None };
        self.process.events.push_back(connected);
        let position = self.process.position();
        for number in position.map_or(0, |position| position + 1)..self.bridge.len() {
            self.read(&self.bridge.event(number));
            self.step_all();
        }
        self.step_all();
        self.deliver_posts();
        let mut lives = self.seconds(15 * 60, 25 * 60);
        if is_quiet(self.now + lives) {
            lives += Duration::from_mins(15);
        }
        let next_outage = OUTAGES.iter().map(|(from, _)| Duration::from_mins(*from));
        let until = next_outage.filter_map(|from| from.checked_sub(self.now)).min();
        self.after(until.map_or(lives, |until| lives.min(until)), Due::Cut);
    }

    fn cut(&mut self) {
        let Some(connection) = self.process.connection.take() else { return };
        self.process.events.push_back(Event::Disconnected);
        let random = self.rng.u64(..);
        let backoff = &mut self.process.backoff;
        backoff.ended_after(self.now.saturating_sub(connection.since));
        let wait = backoff.next(random, None);
        self.after(wait, Due::Connect);
    }

    /// Text arrives on the connection, in pieces.
    fn read(&mut self, text: &str) {
        let Some(connection) = &mut self.process.connection else { return };
        let mut items = Vec::new();
        let (one, two) = text.as_bytes().split_at(self.rng.usize(0..text.len()));
        connection.parser.feed(one, &mut items);
        connection.parser.feed(two, &mut items);
        for item in items {
            match item {
                Item::Retry(wait) => self.process.backoff.set_base(wait),
                Item::Event(event) => {
                    let reply = Reply::parse(&event.data).unwrap();
                    assert!(
                        self.process.position() < event.id.as_ref().map(|it| it.parse().unwrap())
                    );
                    self.process.receive(reply, event.id);
                }
                Item::Oversized { .. } => panic!("no event is that long"),
            }
        }
    }

    fn claimed(&mut self, thread: ThreadId) {
        assert!(self.process.claims.remove(&thread));
        let is_lost_on_the_way = !is_quiet(self.now) && self.rng.u32(0..4) == 0;
        let outcome = if is_lost_on_the_way || self.process.connection.is_none() {
            self.figures.failed_claims += 1;
            let retry_after = self.rng.bool().then(|| self.seconds(1, 120));
            ClaimOutcome::Failed { retry_after }
        } else {
            match self.bridge.claim(thread_of(&thread)) {
                Some(true) => ClaimOutcome::Won,
                Some(false) => ClaimOutcome::Lost { winner: Some(machine()) },
                None => ClaimOutcome::Lost { winner: Some(MachineId::new("another")) },
            }
        };
        self.process.events.push_back(Event::Claimed { thread, outcome });
    }

    /// The outbox is sent. Now and then the bridge has a post and its answer is lost.
    fn deliver_posts(&mut self) {
        if self.process.connection.is_none() {
            return;
        }
        for (id, _) in self.process.outbox.list() {
            let post = self.process.outbox.read(id).unwrap().unwrap();
            self.bridge.accept(&post);
            if !is_quiet(self.now) && self.rng.u32(0..100) == 0 {
                return;
            }
            self.process.outbox.remove(id);
        }
    }

    fn step_all(&mut self) {
        let mut effects = Vec::new();
        while let Some(event) = self.process.events.pop_front() {
            self.process.step(self.now, event, &mut effects);
            for effect in effects.drain(..) {
                self.carry_out(effect);
            }
        }
        let process = &self.process;
        let figures = &mut self.figures;
        figures.most_outstanding = figures.most_outstanding.max(process.coordinator.outstanding());
        figures.most_turns = figures.most_turns.max(process.turns.len());
    }

    fn carry_out(&mut self, effect: Effect) {
        let process = &mut self.process;
        match effect {
            Effect::Claim { thread } => {
                assert!(process.claims.insert(thread.clone()), "one claim a thread");
                assert!(process.claims.len() <= CLAIMS_MAX);
                let wait = self.seconds(1, 3);
                self.after(wait, Due::Claimed(thread));
            }
            Effect::Change { thread, change, number } => {
                process.change(&thread, change, number, self.now);
            }
            Effect::Begin(begin) => {
                let thread = begin.thread.clone();
                process.begin(begin);
                let takes = self.seconds(2, 30);
                self.after(takes, Due::Answered(thread));
            }
            Effect::Remember { message } => {
                self.figures.remembered += 1;
                process.seen.remember(&message);
            }
            Effect::Remove { entries } => {
                self.figures.removed += entries.len();
                process.remove(&entries);
            }
            Effect::ReadHistory(reading) => {
                self.figures.histories += 1;
                let is_readable = process.connection.is_some();
                let end = if is_readable {
                    let found = self.bridge.history(thread_of(&reading.thread), reading.since);
                    for reply in found {
                        process.find(reading.number, reply);
                    }
                    ReadEnd::Complete
                } else {
                    ReadEnd::Failed { retry_after: None }
                };
                let (thread, number) = (reading.thread, reading.number);
                process.events.push_back(Event::Read { thread, number, end });
            }
            Effect::AskTime => {
                let is_there = process.connection.is_some();
                let time = is_there.then(|| server_time(self.now));
                process.events.push_back(Event::Time(time));
            }
            Effect::SaveCursor { cursor, number } => {
                assert_eq!(process.store.set_cursor(&cursor), number);
            }
            other => panic!("nobody said anything that leads to {other:?}"),
        }
    }
}
