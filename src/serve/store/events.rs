//! What happened, numbered: the source of every stream and of its replay.

use anyhow::Result;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use crate::{
    ids::{MachineId, ThreadId},
    serve::store::{
        AccountKey, Caller, Retention, Store,
        messages::{Message, Role, message_columns, message_from},
        threads::{Thread, thread_by_key},
    },
    time,
};

/// Replay reads this many events at a time, and stops early at [`PAGE_BYTES`].
const PAGE_EVENTS: u32 = 256;
const PAGE_BYTES: usize = 1024 * 1024;

/// The random number of a database file. It is a part of every event's id, so that the ids of a
/// file that is no longer there are not taken for ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epoch(pub(super) i64);

impl Epoch {
    /// The id of an event on the stream.
    pub fn id(self, seq: i64) -> String {
        format!("{:016x}-{seq}", self.0)
    }

    /// The number of an event of ours. None: the id is foreign, or none.
    fn seq(self, id: &str) -> Option<i64> {
        let (epoch, seq) = id.trim().split_once('-')?;
        (epoch == format!("{:016x}", self.0)).then(|| seq.parse().ok())?
    }
}

/// One event of an account; `seq` grows.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub epoch: Epoch,
    pub seq: i64,
    pub account: AccountKey,
    pub change: Change,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// A human's message is for daemons, an agent's for browsers. Told again when the question that
    /// it puts has ended. On replay, as it is now.
    Message(Box<Message>),
    /// A machine has bound the thread. On replay, as it is now.
    Claimed { thread: ThreadId, machine: Option<MachineId> },
    /// On replay, as it is now.
    Thread { change: ThreadChange, thread: Box<Thread> },
}

/// What happened to a thread as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThreadChange {
    Created,
    Renamed,
    Deleted,
    /// It has another agent.
    Agent,
    /// The mark up to which it was read has moved.
    Read,
    /// Messages were added to its beginning.
    History,
}

impl ThreadChange {
    /// In the table and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            ThreadChange::Created => "created",
            ThreadChange::Renamed => "renamed",
            ThreadChange::Deleted => "deleted",
            ThreadChange::Agent => "agent",
            ThreadChange::Read => "read",
            ThreadChange::History => "history",
        }
    }

    /// `thread` is what version 1 of the schema wrote for a new thread and for another agent.
    fn parse(text: &str) -> Option<ThreadChange> {
        match text {
            "created" | "thread" => Some(ThreadChange::Created),
            "renamed" => Some(ThreadChange::Renamed),
            "deleted" => Some(ThreadChange::Deleted),
            "agent" => Some(ThreadChange::Agent),
            "read" => Some(ThreadChange::Read),
            "history" => Some(ThreadChange::History),
            _ => None,
        }
    }
}

impl Event {
    /// Its id on the stream.
    pub fn id(&self) -> String {
        self.epoch.id(self.seq)
    }
}

impl Change {
    /// Whether daemons are told; browsers are told everything.
    pub fn is_for_daemons(&self) -> bool {
        matches!(self, Change::Message(message) if message.role == Role::Human)
    }

    /// The name of the event in the table.
    fn kind(&self) -> &'static str {
        match self {
            Change::Message(_) if self.is_for_daemons() => "reply",
            Change::Message(_) => "message",
            Change::Claimed { .. } => "claimed",
            Change::Thread { change, .. } => change.as_str(),
        }
    }
}

/// The rows an event is about.
#[derive(Clone, Copy)]
pub(super) struct Keys {
    pub thread: i64,
    pub message: Option<i64>,
}

/// Where a stream goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resume {
    pub kind: Replay,
    pub epoch: Epoch,
    /// Events after this one are to be replayed,
    pub after: i64,
    /// up to this one. What comes later is live.
    pub head: i64,
    /// The newest message's row, of any account.
    pub newest_message: i64,
}

/// What a stream that starts is told about the past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    /// Everything since the last event it saw follows.
    Complete,
    /// Some of what it missed is no longer kept: read the messages instead.
    Gap,
    /// It did not ask.
    None,
}

impl Replay {
    pub fn as_str(self) -> &'static str {
        match self {
            Replay::Complete => "complete",
            Replay::Gap => "gap",
            Replay::None => "none",
        }
    }
}

impl Store {
    /// Finds out where a stream goes on and runs `subscribe` at that very point: no event comes
    /// between. `last` is its `Last-Event-ID`. None: the caller has been
    /// shut out meanwhile.
    pub fn resume<T>(
        &self,
        caller: Caller,
        last: Option<&str>,
        subscribe: impl FnOnce() -> T,
    ) -> Result<Option<(Resume, T)>> {
        // The write lock keeps new events and rotations out until the subscriber is listed.
        let conn = self.writer();
        // Whether a session has expired was looked at a moment ago.
        if !super::accounts::is_valid(&conn, caller, 0)? {
            return Ok(None);
        }
        let (pruned, newest, newest_message): (i64, Option<i64>, Option<i64>) = conn
            .prepare_cached(
                "SELECT pruned, (SELECT max(seq) FROM events WHERE account = accounts.id),
                        (SELECT max(id) FROM messages)
                 FROM accounts WHERE id = ?",
            )?
            .query_row([caller.account.0], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        let head = newest.unwrap_or(pruned);
        // A number past our head is of a future that a restored copy has not seen, one before
        // `pruned` is forgotten.
        let (kind, after) = match last.map(|it| self.epoch.seq(it)) {
            None => (Replay::None, head),
            Some(Some(last)) if (pruned..=head).contains(&last) => (Replay::Complete, last),
            Some(Some(last)) if (0..pruned).contains(&last) => (Replay::Gap, pruned),
            Some(_) => (Replay::Gap, head),
        };
        let newest_message = newest_message.unwrap_or_default();
        let resume = Resume { kind, epoch: self.epoch, after, head, newest_message };
        Ok(Some((resume, subscribe())))
    }

    /// Some of the events after `after` up to `head`, in order; none when there are no more.
    pub fn events(
        &self,
        account: AccountKey,
        after: i64,
        head: i64,
        daemons: bool,
    ) -> Result<Vec<Event>> {
        let conn = self.reader();
        let mut query = conn.prepare_cached(concat!(
            "SELECT events.seq, events.kind, events.thread, threads.machine, ",
            message_columns!(),
            " FROM events
             JOIN threads ON threads.id = events.thread
             LEFT JOIN messages ON messages.id = events.message
             WHERE events.account = ?1 AND events.seq > ?2 AND events.seq <= ?3
                   AND (NOT ?4 OR events.kind = 'reply')
             ORDER BY events.seq LIMIT ?5",
        ))?;
        let mut rows = query.query(params![account.0, after, head, daemons, PAGE_EVENTS])?;
        let (mut page, mut bytes) = (Vec::new(), 0);
        while let Some(row) = rows.next()?
            && bytes < PAGE_BYTES
        {
            let event = event_from(&conn, self.epoch, row, account)?;
            if let Change::Message(message) = &event.change {
                bytes += message.body.len();
            }
            page.push(event);
        }
        Ok(page)
    }
}

fn event_from(
    conn: &Connection,
    epoch: Epoch,
    row: &Row<'_>,
    account: AccountKey,
) -> Result<Event> {
    let kind: String = row.get(1)?;
    let change = match (kind.as_str(), ThreadChange::parse(&kind)) {
        (_, Some(change)) => {
            Change::Thread { change, thread: Box::new(thread_by_key(conn, row.get(2)?)?) }
        }
        ("claimed", None) => Change::Claimed {
            thread: ThreadId::new(row.get::<_, String>(4)?),
            machine: row.get::<_, Option<String>>(3)?.map(MachineId::new),
        },
        _ => Change::Message(Box::new(message_from(row, 4)?)),
    };
    Ok(Event { epoch, seq: row.get(0)?, account, change })
}

pub(super) fn insert(
    tx: &Transaction<'_>,
    account: AccountKey,
    change: &Change,
    keys: Keys,
) -> Result<i64> {
    tx.prepare_cached(
        "INSERT INTO events (account, kind, thread, message, created) VALUES (?, ?, ?, ?, ?)",
    )?
    .execute(params![
        account.0,
        change.kind(),
        keys.thread,
        keys.message,
        millis(time::now())
    ])?;
    Ok(tx.last_insert_rowid())
}

/// Forgets events that are too many or too old, now and then.
pub(super) fn prune(tx: &Transaction<'_>, event: &Event, retention: Retention) -> Result<()> {
    let every = retention.events.div_ceil(32).max(1);
    if event.seq % i64::from(every) != 0 {
        return Ok(());
    }
    let too_many: Option<i64> = tx
        .prepare_cached(
            "SELECT seq FROM events WHERE account = ? ORDER BY seq DESC LIMIT 1 OFFSET ?",
        )?
        .query_row(params![event.account.0, retention.events], |row| row.get(0))
        .optional()?;
    let oldest = millis(time::now()) - i64::try_from(retention.age.as_millis()).unwrap_or(i64::MAX);
    let too_old: Option<i64> = tx
        .prepare_cached(
            "SELECT seq FROM events WHERE account = ? AND created < ? ORDER BY seq DESC LIMIT 1",
        )?
        .query_row(params![event.account.0, oldest], |row| row.get(0))
        .optional()?;
    if let Some(last) = too_many.max(too_old) {
        tx.execute(
            "DELETE FROM events WHERE account = ? AND seq <= ?",
            params![event.account.0, last],
        )?;
        tx.execute("UPDATE accounts SET pruned = ? WHERE id = ?", params![last, event.account.0])?;
    }
    Ok(())
}

/// Times in the tables; past the year 292 million they stand still.
pub(super) fn millis(time: time::Timestamp) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}
