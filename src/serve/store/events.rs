//! What happened, numbered: the source of every stream and of its replay.

use anyhow::Result;
use rusqlite::{Transaction, params};

use crate::{
    serve::store::{
        AccountKey, Retention, Sql,
        rows::{Change, Event, Keys, millis},
    },
    time,
};

pub(super) fn insert(
    tx: &Transaction<'_>,
    account: AccountKey,
    change: &Change,
    keys: Keys,
) -> Result<i64> {
    tx.change(
        "INSERT INTO events (account, kind, thread, message, created) VALUES (?, ?, ?, ?, ?)",
        params![account.0, change.kind(), keys.thread, keys.message, millis(time::now())],
    )?;
    Ok(tx.last_insert_rowid())
}

/// Forgets events that are too many or too old, now and then.
pub(super) fn prune(tx: &Transaction<'_>, event: &Event, retention: Retention) -> Result<()> {
    let every = retention.events.div_ceil(32).max(1);
    if event.seq % i64::from(every) != 0 {
        return Ok(());
    }
    let too_many: Option<i64> = tx.first(
        "SELECT seq FROM events WHERE account = ? ORDER BY seq DESC LIMIT 1 OFFSET ?",
        params![event.account.0, retention.events],
        |row| row.get(0),
    )?;
    let oldest = millis(time::now().minus(retention.age));
    let too_old: Option<i64> = tx.first(
        "SELECT seq FROM events WHERE account = ? AND created < ? ORDER BY seq DESC LIMIT 1",
        params![event.account.0, oldest],
        |row| row.get(0),
    )?;
    if let Some(last) = too_many.max(too_old) {
        tx.execute(
            "DELETE FROM events WHERE account = ? AND seq <= ?",
            params![event.account.0, last],
        )?;
        tx.execute("UPDATE accounts SET pruned = ? WHERE id = ?", params![last, event.account.0])?;
    }
    Ok(())
}
