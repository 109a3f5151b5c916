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
    dispatch::{Dispatch, Event},
    ids::{ClientMsgId, Engine, MessageId, SessionId, ThreadId, TurnId},
    store::{
        Disk,
        binding::{Binding, SessionRecord},
        entry::{EntryId, Progress, message_key},
        outbox::Outbox,
        seen::Seen,
        spool::Inbox,
        state::{Cursor, Store},
    },
    time::Timestamp,
};

use super::bridge::{machine, number_of, server_time};
use crate::store::disk::MemoryDisk;

/// The state task writes to memory, so this is far more than it takes.
const PATIENCE: Duration = Duration::from_mins(5);

/// An open connection.
pub(super) struct Connection {
    pub(super) parser: Parser,
    pub(super) since: Duration,
}

/// What an OS thread for a conversation would have.
#[derive(Default)]
pub(super) struct Worker {
    pub(super) mailbox: VecDeque<(EntryId, Arc<Reply>, Option<Progress>)>,
    pub(super) current: Option<(EntryId, usize)>,
    /// Of turns, which tells whether one came in between.
    pub(super) turns: u64,
}

/// One life of the daemon.
pub(super) struct Process {
    pub(super) disk: Arc<MemoryDisk>,
    pub(super) inbox: Inbox,
    pub(super) outbox: Outbox,
    pub(super) seen: Seen,
    pub(super) store: Store,
    pub(super) cursor: Cursor,
    pub(super) dispatch: Dispatch,
    pub(super) events: VecDeque<Event>,
    pub(super) workers: HashMap<ThreadId, Worker>,
    pub(super) claims: HashSet<ThreadId>,
    settling: VecDeque<(u64, EntryId)>,
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
        let (inbox, recovered) = Inbox::open(on(), &dir().join("inbox")).unwrap();
        let outbox = Outbox::open(on(), &dir().join("outbox")).unwrap();
        outbox.expect_settled(&recovered.iter().map(|entry| entry.id).collect());
        let store = Store::open(on(), &dir()).unwrap();
        let ours = store.bindings().keys().cloned();
        let mut process = Process {
            dispatch: Dispatch::new(machine(), ours),
            seen: Seen::open(on(), &dir().join("seen")).unwrap(),
            cursor: Cursor::load(&*disk, &dir()).unwrap(),
            inbox,
            outbox,
            store,
            disk,
            events: VecDeque::new(),
            workers: HashMap::new(),
            claims: HashSet::new(),
            settling: VecDeque::new(),
            backoff: Backoff::new(Pace::default()),
            connection: None,
        };
        for entry in recovered {
            if process.outbox.finishes(entry.id) {
                process.settle(entry.id, Some(&message_key(entry.id, &entry.reply)));
            } else {
                process.inbound(entry.id, entry.reply, entry.progress);
            }
        }
        process
    }

    /// A message came, on the stream or from a history.
    pub(super) fn receive(&mut self, reply: Reply, event_id: Option<String>) {
        let entry = self.inbox.put(&reply).unwrap();
        if event_id.is_some() {
            self.backoff.good();
            self.cursor.last_event_id = event_id;
        }
        let written = reply.created_at.as_deref().and_then(Timestamp::parse);
        self.cursor.seen_until = self.cursor.seen_until.max(written);
        self.inbound(entry, reply, None);
    }

    fn inbound(&mut self, entry: EntryId, reply: Reply, progress: Option<Progress>) {
        let is_seen = self.seen.contains(&message_key(entry, &reply));
        self.events.push_back(Event::Inbound { entry, reply: Arc::new(reply), progress, is_seen });
    }

    /// The number of the last event that was read.
    pub(super) fn position(&self) -> Option<usize> {
        self.cursor.last_event_id.as_ref().map(|id| id.parse().unwrap())
    }

    /// The thread is ours from now on.
    pub(super) fn bind(&mut self, thread: &ThreadId, now: Duration) {
        self.store.set(thread, Binding::new(machine(), server_time(now)));
    }

    /// A worker gives the next message to its engine. None when there is none, or it is
    /// busy.
    pub(super) fn begin(&mut self, thread: &ThreadId) -> Option<EntryId> {
        let worker = self.workers.get_mut(thread)?;
        if worker.current.is_some() {
            return None;
        }
        let (entry, reply, before) = worker.mailbox.pop_front()?;
        worker.turns += 1;
        worker.current = Some((entry, number_of(&reply)));
        let progress = Progress {
            turn: TurnId::new(format!("turn-{}", worker.turns)),
            engine: Engine::CODEX,
            session: Some(session(thread)),
            attempts: before.map_or(1, |before| before.attempts + 1),
            asking: Vec::new(),
            answers: None,
            is_answered: false,
        };
        self.inbox.started(&entry, &progress).unwrap();
        Some(entry)
    }

    /// The turn is over: the answer into the outbox, the session into the binding.
    pub(super) fn answer(&mut self, thread: &ThreadId, now: Duration) {
        let worker = self.workers.get_mut(thread).unwrap();
        let (entry, number) = worker.current.take().unwrap();
        let post = Post::new(
            thread.clone(),
            PostKind::Result,
            Engine::CODEX.author(),
            format!("Did {number}"),
            ClientMsgId::new(format!("{entry}.answer")),
        );
        self.outbox.put(&post, Some(entry)).unwrap();
        let mut binding = self.store.get(thread).cloned().unwrap();
        let mut record = SessionRecord::new(session(thread));
        record.last_drive_at = Some(server_time(now));
        binding.sessions.insert(Engine::CODEX, record);
        self.store.set(thread, binding);
        self.events.push_back(Event::Finished { thread: thread.clone(), entry });
    }

    /// The message is done with; what is on disk of it goes with the next [`Process::write`].
    pub(super) fn settle(&mut self, entry: EntryId, answered: Option<&MessageId>) {
        if let Some(message) = answered {
            self.seen.remember(message);
        }
        self.settling.push_back((self.store.generation(), entry));
    }

    /// Bindings, cursor and journal go to the disk, and then what waited for it goes from there.
    pub(super) fn write(&mut self) {
        self.store.set_cursor(&self.cursor);
        assert!(self.store.flush(PATIENCE));
        self.seen.flush().unwrap();
        for (generation, entry) in self.settling.drain(..) {
            assert!(self.store.is_written(generation));
            self.inbox.done(&entry).unwrap();
            self.outbox.settled(entry).unwrap();
        }
    }

    /// The event id that a process would find that starts now.
    pub(super) fn position_on_disk(&self) -> Option<usize> {
        let cursor = Cursor::load(&*self.disk, &dir()).unwrap();
        cursor.last_event_id.map(|id| id.parse().unwrap())
    }
}

fn session(thread: &ThreadId) -> SessionId {
    SessionId::new(format!("session of {thread}"))
}
