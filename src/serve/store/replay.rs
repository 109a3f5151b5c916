//! Where a stream goes on, and what it missed.

use anyhow::Result;
use rusqlite::{Connection, Row, params};
use serde::Serialize;

use crate::{
    ids::{MachineId, ThreadId},
    serve::store::{
        AccountKey, Caller, Sql, Store,
        accounts::is_valid,
        rows::{
            AccountChange, AccountEvent, Epoch, MESSAGE_COLUMNS, ThreadChange, message_from,
            thread_by_key,
        },
    },
};

/// Replay reads this many events at a time, and stops early at [`PAGE_BYTES`].
const PAGE_EVENTS: u32 = 256;
const PAGE_BYTES: usize = 1024 * 1024;

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Replay {
    /// Everything since the last event it saw follows.
    Complete,
    /// Some of what it missed is no longer kept: read the messages instead.
    Gap,
    /// It did not ask.
    None,
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
        if !is_valid(&conn, caller, 0)? {
            return Ok(None);
        }
        let (pruned, newest, newest_message): (i64, Option<i64>, Option<i64>) = conn.one(
            "SELECT pruned, (SELECT max(seq) FROM events WHERE account = accounts.id),
                        (SELECT max(id) FROM messages)
                 FROM accounts WHERE id = ?",
            [caller.account.0],
            |row| row.try_into(),
        )?;
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
    ) -> Result<Vec<AccountEvent>> {
        let conn = self.reader();
        let mut query = conn.prepare_cached(&format!(
            "SELECT events.seq, events.kind, events.thread, threads.machine, {MESSAGE_COLUMNS}
             FROM events JOIN threads ON threads.id = events.thread
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
            if let AccountChange::Message(message) = &event.change {
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
) -> Result<AccountEvent> {
    let kind: String = row.get(1)?;
    let change = match (kind.as_str(), ThreadChange::parse(&kind)) {
        (_, Some(change)) => {
            AccountChange::Thread { change, thread: Box::new(thread_by_key(conn, row.get(2)?)?) }
        }
        ("claimed", None) => AccountChange::Claimed {
            thread: ThreadId::new(row.get::<_, String>(4)?),
            machine: row.get::<_, Option<String>>(3)?.map(MachineId::new),
        },
        _ => AccountChange::Message(Box::new(message_from(row, 4)?)),
    };
    Ok(AccountEvent { epoch, seq: row.get(0)?, account, change })
}
