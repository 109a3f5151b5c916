//! Messages that are older than they are to be kept go, a few at a time, so that nobody waits long
//! for the turn to write.

use anyhow::Result;
use rusqlite::params;

use crate::{
    serve::store::{Sql, Store, rows::millis},
    time::Timestamp,
};

/// Messages that one write removes.
const BATCH: u32 = 200;

impl Store {
    /// Removes some of the messages that are too old at `now`, with all that refers to them; how
    /// many. The newest of a thread always stays: a thread is its messages.
    pub fn expire(&self, now: Timestamp) -> Result<usize> {
        let Some(age) = self.retention.messages else { return Ok(0) };
        let oldest = millis(now.minus(age));
        let keys: Vec<i64> = self.reader().all(
            "SELECT messages.id FROM messages JOIN threads ON threads.id = messages.thread
             WHERE messages.created < ? AND messages.created < threads.last
             ORDER BY messages.created LIMIT ?",
            params![oldest, BATCH],
            |row| row.get(0),
        )?;
        if keys.is_empty() {
            return Ok(0);
        }
        self.write(|write| {
            // A stream that comes back from before them must not be told that it missed nothing.
            write.tx.execute(
                "UPDATE accounts SET pruned = max(pruned, coalesce(
                     (SELECT max(seq) FROM events WHERE account = accounts.id AND created < ?), 0))",
                [oldest],
            )?;
            write.tx.execute(
                "DELETE FROM events
                 WHERE seq <= (SELECT pruned FROM accounts WHERE accounts.id = events.account)",
                (),
            )?;
            for table in ["events", "client_msg_ids"] {
                let sql = format!("DELETE FROM {table} WHERE message = ?");
                for key in &keys {
                    write.tx.change(&sql, [key])?;
                }
            }
            let delete = "DELETE FROM messages WHERE id = ?
                 AND created < (SELECT last FROM threads WHERE threads.id = messages.thread)";
            keys.iter().map(|key| write.tx.change(delete, [key])).sum()
        })
    }
}
