//! What happened, numbered: the source of every stream and of its replay.

use anyhow::Result;
use rusqlite::{Connection, params};

use crate::{
    serve::store::{
        Retention, Sql, Write,
        rows::{AccountChange, AccountEvent, millis},
        threads::ThreadRow,
    },
    time,
};

impl Write<'_> {
    /// Something happened to a thread, or to the message of this row on it.
    pub(super) fn event(
        &mut self,
        thread: &ThreadRow,
        change: AccountChange,
        message: Option<i64>,
    ) -> Result<()> {
        let account = thread.account;
        self.tx.change(
            "INSERT INTO events (account, kind, thread, message, created) VALUES (?, ?, ?, ?, ?)",
            params![account.0, change.kind(), thread.key, message, millis(time::now())],
        )?;
        let seq = self.tx.last_insert_rowid();
        self.changes.events.push(AccountEvent { epoch: self.epoch, seq, account, change });
        Ok(())
    }
}

/// Forgets events that are too many or too old, now and then.
pub(super) fn prune(tx: &Connection, event: &AccountEvent, retention: Retention) -> Result<()> {
    let every = retention.events.div_ceil(32).max(1);
    if event.seq % i64::from(every) != 0 {
        return Ok(());
    }
    let oldest = millis(time::now().minus(retention.age));
    tx.change(
        "UPDATE accounts SET pruned = max(pruned,
             ifnull((SELECT seq FROM events WHERE account = ?1
                     ORDER BY seq DESC LIMIT 1 OFFSET ?2), 0),
             ifnull((SELECT seq FROM events WHERE account = ?1 AND created < ?3
                     ORDER BY seq DESC LIMIT 1), 0)) WHERE id = ?1",
        params![event.account.0, retention.events, oldest],
    )?;
    let delete = "DELETE FROM events
         WHERE account = ?1 AND seq <= (SELECT pruned FROM accounts WHERE id = ?1)";
    tx.change(delete, [event.account.0]).map(drop)
}
