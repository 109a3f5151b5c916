//! The daemon of the long run: its real parts, put together as `daemon` does it, without a socket
//! and without a clock.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use obto_bridge::{
    bridge::{
        backoff::{Backoff, Pace},
        sse::Parser,
        wire::{Post, PostKind, Reply},
    },
    coordinator::{
        Begin, Change, Coordinator, Effect, Event, LeaveRules, Recovered, Settings, View,
    },
    ids::{ClientMsgId, Engine, MessageId, SessionId, ThreadId, TurnId},
    permission::approvals::Now,
    store::{
        Disk,
        binding::{Binding, SessionRecord},
        cursor::Cursor,
        entry::{EntryId, Progress},
        inbox::Inbox,
        journal::{self, Fact, Journal, Record},
        messages::{self, Opened},
        outbox::Outbox,
        seen::Seen,
        state::StateStore,
    },
};

use super::bridge::{OURS, machine, number_of, server_time};
use crate::store::disk::MemoryDisk;

/// The state task writes to memory, so this is far more than it takes.
const PATIENCE: Duration = Duration::from_mins(5);

/// An open connection.
pub(super) struct Connection {
    pub(super) parser: Parser,
    pub(super) since: Duration,
}

/// A turn in progress.
#[derive(Debug)]
pub(super) struct Turn {
    entry: EntryId,
    number: usize,
}

/// What the coordinator looks at.
struct Records<'a> {
    store: &'a StateStore,
    seen: &'a Seen,
}

impl View for Records<'_> {
    fn is_done(&self, message: &MessageId) -> bool {
        self.seen.contains(message)
    }

    fn binding(&self, thread: &ThreadId) -> Option<&Binding> {
        self.store.get(thread)
    }

    fn threads(&self) -> Vec<ThreadId> {
        self.store.bindings().keys().cloned().collect()
    }

    fn engine(&self, _: &Reply) -> Engine {
        Engine::CODEX
    }

    fn writes_in(&self, _: &Reply) -> Option<PathBuf> {
        None
    }
}

/// One life of the daemon.
pub(super) struct Process {
    pub(super) disk: Arc<MemoryDisk>,
    journal: Journal,
    pub(super) inbox: Inbox,
    pub(super) outbox: Outbox,
    pub(super) seen: Seen,
    pub(super) store: StateStore,
    pub(super) coordinator: Coordinator,
    pub(super) events: VecDeque<Event>,
    pub(super) turns: HashMap<ThreadId, Turn>,
    pub(super) claims: HashSet<ThreadId>,
    pub(super) backoff: Backoff,
    pub(super) connection: Option<Connection>,
}

fn dir() -> PathBuf {
    PathBuf::from("/state")
}

impl Process {
    /// Starts on what an earlier one left.
    pub(super) fn start(disk: MemoryDisk) -> Process {
        let disk = Arc::new(disk);
        let on = || -> Arc<dyn Disk> { Arc::<MemoryDisk>::clone(&disk) };
        let Opened { journal, inbox, entries, outbox, seen, cursor, .. } =
            messages::open(on(), &dir()).unwrap();
        let store = StateStore::open(on(), journal.clone(), &dir()).unwrap();
        let settings = Settings {
            machine: machine(),
            author: Engine::CODEX.author(),
            max_turns: OURS,
            parallel_in_directory: false,
            offline_max_age: Duration::from_hours(24),
            project_dir: "/project".to_owned(),
            has_lost_bindings: false,
            leave: LeaveRules::default(),
        };
        let ours = store.bindings().keys().map(|thread| (thread.clone(), Vec::new()));
        let recovered = entries.into_iter().map(|entry| Recovered {
            entry: entry.id,
            reply: Arc::new(entry.reply),
            progress: entry.progress,
            has_answer: outbox.finishes(entry.id),
            session: None,
        });
        Process {
            coordinator: Coordinator::new(settings, cursor, ours),
            seen,
            journal,
            events: VecDeque::from([Event::Recovered(recovered.collect())]),
            inbox,
            outbox,
            store,
            disk,
            turns: HashMap::new(),
            claims: HashSet::new(),
            backoff: Backoff::new(Pace::default()),
            connection: None,
        }
    }

    pub(super) fn step(&mut self, now: Duration, event: Event, effects: &mut Vec<Effect>) {
        let view = Records { store: &self.store, seen: &self.seen };
        self.coordinator.step(clocks(now), event, &view, effects);
    }

    pub(super) fn next_deadline(&self, now: Duration) -> Option<Duration> {
        self.coordinator.next_deadline(clocks(now))
    }

    /// A message came on the stream.
    pub(super) fn receive(&mut self, reply: Reply, event_id: Option<String>) {
        let entry = self.inbox.put(&reply, 0).unwrap();
        self.backoff.good();
        let reply = Arc::new(reply);
        self.events.push_back(Event::Reply { entry, reply, last_event_id: event_id });
    }

    /// A message was in a history.
    pub(super) fn find(&mut self, number: u64, reply: Reply) {
        let entry = self.inbox.put(&reply, 0).unwrap();
        self.events.push_back(Event::Found { entry, reply: Arc::new(reply), number });
    }

    /// The number of the last event that was read.
    pub(super) fn position(&self) -> Option<usize> {
        let cursor = self.coordinator.cursor();
        cursor.last_event_id.as_ref().map(|id| id.parse().unwrap())
    }

    /// A thread is ours from now on, or has a session.
    pub(super) fn change(&mut self, thread: &ThreadId, change: Change, number: u64, now: Duration) {
        let binding = self.store.get(thread).cloned();
        let mut binding = binding.unwrap_or_else(|| Binding::new(machine(), server_time(now)));
        match change {
            Change::Own { since } => binding.ours_since = since,
            Change::Session { engine, record: Some(record) } => {
                binding.sessions.insert(engine, record);
            }
            other => panic!("nobody wanted {other:?}"),
        }
        assert_eq!(self.store.set(thread, binding), number);
    }

    /// A turn gives its message to its engine.
    pub(super) fn begin(&mut self, begin: Begin) {
        let Begin { thread, entry, reply, progress: before, .. } = begin;
        let progress = Progress {
            turn: TurnId::new(format!("turn-{entry}")),
            engine: Engine::CODEX,
            session: Some(session(&thread)),
            attempts: before.map_or(1, |before| before.attempts + 1),
            asking: Vec::new(),
            answers: None,
            is_answered: false,
        };
        self.inbox.progressed(&entry, &progress).unwrap();
        let turn = Turn { entry, number: number_of(&reply) };
        assert!(self.turns.insert(thread, turn).is_none(), "one turn a thread");
    }

    /// The answer is known: it goes into the outbox, and the session into the binding.
    pub(super) fn answer(&mut self, thread: &ThreadId, now: Duration) {
        let Turn { entry, number } = self.turns[thread];
        let post = Post::new(
            thread.clone(),
            PostKind::Result,
            Engine::CODEX.author(),
            format!("Did {number}"),
            ClientMsgId::new(format!("{entry}.answer")),
        );
        self.outbox.put(&post, Some(entry)).unwrap();
        let mut record = SessionRecord::new(session(thread));
        record.last_drive_at = Some(server_time(now));
        let (thread, engine) = (thread.clone(), Engine::CODEX);
        let session = Event::Session { thread: thread.clone(), engine, record: Some(record) };
        self.events.extend([session, Event::Answered { thread, entry }]);
    }

    /// The engine is gone.
    pub(super) fn leave(&mut self, thread: &ThreadId) {
        let Turn { entry, .. } = self.turns.remove(thread).unwrap();
        self.events.push_back(Event::Left { thread: thread.clone(), entry });
    }

    /// Entries go together with the memory of their messages.
    pub(super) fn remove(&mut self, entries: &[EntryId]) {
        while self.seen.done(entries).is_err() {
            self.journal.sync().unwrap();
        }
    }

    /// Bindings, cursor and what is noted go to the disk.
    pub(super) fn write(&mut self) {
        assert!(self.store.flush(PATIENCE));
        self.journal.sync().unwrap();
        self.events.push_back(Event::Written { change: self.store.newest_written() });
    }
}

/// The event id that a process would find that starts on this disk. It is asked for often, so the
/// journal is read from its end.
pub(super) fn position_on(disk: &MemoryDisk) -> Option<usize> {
    let journal = disk.read(&journal::path(&dir())).unwrap();
    let payload = |line| str::from_utf8(line).ok()?.get("00000000 00000000 ".len()..);
    let cursor = journal.rsplit(|byte| *byte == b'\n').filter_map(payload).find_map(|payload| {
        match Record::parse(payload)?.fact {
            Fact::Cursor { cursor } => Some(serde_json::from_str::<Cursor>(cursor).unwrap()),
            _ => None,
        }
    });
    cursor?.last_event_id.map(|id| id.parse().unwrap())
}

pub(super) fn clocks(now: Duration) -> Now {
    Now { running: now, wall: server_time(now) }
}

fn session(thread: &ThreadId) -> SessionId {
    SessionId::new(format!("session of {thread}"))
}
