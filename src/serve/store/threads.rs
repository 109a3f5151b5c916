//! Threads: the list, their marks, and what is done to them as a whole.

use std::collections::HashSet;

use anyhow::{Context, Result};
use rusqlite::{Connection, ToSql, params};

use crate::{
    ids::{Engine, MachineId, ThreadId},
    serve::store::{
        AccountKey, Sql, Store, Write,
        rows::{
            AccountChange, SELECT_THREADS, Thread, ThreadChange, millis, thread_by_key,
            thread_from, timestamp,
        },
        search,
    },
    time::{self, Timestamp},
};

/// A list or a search reads at most about this much text and then says where to go on.
const READ_BYTES: usize = 32 * 1024 * 1024;

/// For [`Write::change_thread`].
pub(super) const SET_AGENT: &str =
    "UPDATE threads SET agent = ?2 WHERE id = ?1 AND agent IS NOT ?2";

/// Some threads, the one with the newest message first.
#[derive(Debug, Default)]
pub struct Threads {
    pub threads: Vec<Thread>,
    /// There may be more: those that were used before this time.
    pub next: Option<Timestamp>,
}

/// A thread's row while it is written to.
pub(super) struct ThreadRow {
    pub(super) account: AccountKey,
    pub(super) key: i64,
    pub(super) machine: Option<MachineId>,
    pub(super) project_dir: Option<String>,
    pub(super) adoption: Option<String>,
    pub(super) created: i64,
    pub(super) last: i64,
}

pub(super) struct NewThread<'a> {
    pub(super) title: String,
    pub(super) agent: Option<&'a str>,
    pub(super) machine: Option<&'a str>,
    pub(super) project_dir: Option<&'a str>,
    pub(super) adoption: Option<String>,
}

impl Store {
    /// The threads that were used before `before`, the newest first. With `search`, those that have
    /// it in their title or a message, whatever its case. More than `READ_BYTES` are not read at a
    /// time, and then fewer threads are found.
    pub fn threads(
        &self,
        account: AccountKey,
        before: Timestamp,
        limit: usize,
        search: Option<&str>,
    ) -> Result<Threads> {
        let page = Page { account, before, limit };
        let Some(text) = search.map(str::to_lowercase) else {
            return page.read(&self.reader(), |_, _, _| Ok(true));
        };
        let conn = self.searcher(account);
        match self.threads_with(&conn, account, &text) {
            Some(keys) => page.read(&conn, |key, title, _| {
                Ok(keys.contains(&key) || title.to_lowercase().contains(&text))
            }),
            None => page.read(&conn, |key, title, budget| {
                Ok(title.to_lowercase().contains(&text) || is_said(&conn, key, &text, budget)?)
            }),
        }
    }

    /// What the index knows of a text. None: every thread has to be read.
    fn threads_with(
        &self,
        conn: &Connection,
        account: AccountKey,
        text: &str,
    ) -> Option<HashSet<i64>> {
        self.index.as_ref()?;
        search::threads_with(conn, account, text, READ_BYTES).unwrap_or_else(|error| {
            log::error!("the index for searches could not be used: {error:#}");
            None
        })
    }

    pub fn thread(&self, account: AccountKey, thread: &ThreadId) -> Result<Option<Thread>> {
        let conn = self.reader();
        let row = find(&conn, account, thread)?;
        row.map(|row| thread_by_key(&conn, row.key)).transpose()
    }

    /// Binds a thread to a machine unless it is bound already. Whether this call did it, and to
    /// whom it is bound now. None: there is no such thread.
    pub fn claim(
        &self,
        account: AccountKey,
        thread: &ThreadId,
        machine: &MachineId,
    ) -> Result<Option<(bool, MachineId)>> {
        self.write(|write| {
            let Some(row) = find(write.tx, account, thread)? else { return Ok(None) };
            if let Some(winner) = row.machine {
                return Ok(Some((false, winner)));
            }
            let update = "UPDATE threads SET machine = ? WHERE id = ?";
            write.tx.change(update, params![machine.as_str(), row.key])?;
            let (thread, winner) = (thread.clone(), Some(machine.clone()));
            write.event(&row, AccountChange::Claimed { thread, machine: winner }, None)?;
            Ok(Some((true, machine.clone())))
        })
    }

    /// Switches a thread to another agent. False: there is no such thread.
    pub fn set_agent(
        &self,
        account: AccountKey,
        thread: &ThreadId,
        agent: &Engine,
    ) -> Result<bool> {
        self.set(account, thread, ThreadChange::Agent, SET_AGENT, agent.as_str())
    }

    /// False: there is no such thread.
    pub fn rename(&self, account: AccountKey, thread: &ThreadId, title: &str) -> Result<bool> {
        let update = "UPDATE threads SET title = ?2 WHERE id = ?1 AND title <> ?2";
        self.set(account, thread, ThreadChange::Renamed, update, title)
    }

    /// Marks what came up to this time as read; a mark never goes back. False: there is no such
    /// thread.
    pub fn mark_read(
        &self,
        account: AccountKey,
        thread: &ThreadId,
        up_to: Timestamp,
    ) -> Result<bool> {
        let update =
            "UPDATE threads SET read = min(?2, last) WHERE id = ?1 AND read < min(?2, last)";
        self.set(account, thread, ThreadChange::Read, update, millis(up_to))
    }

    /// As [`Write::change_thread`]. False: there is no such thread.
    fn set(
        &self,
        account: AccountKey,
        thread: &ThreadId,
        change: ThreadChange,
        update: &str,
        value: impl ToSql,
    ) -> Result<bool> {
        self.write(|write| {
            let Some(row) = find(write.tx, account, thread)? else { return Ok(false) };
            write.change_thread(&row, change, update, value)?;
            Ok(true)
        })
    }

    /// Removes a thread with its messages and pictures. Its id is used up, so that a post that is
    /// still under way does not bring back half of it. False: there is no such thread.
    pub fn delete_thread(&self, account: AccountKey, thread: &ThreadId) -> Result<bool> {
        self.write(|write| {
            let Some(row) = find(write.tx, account, thread)? else { return Ok(false) };
            for sql in [
                "DELETE FROM events WHERE thread = ?",
                "DELETE FROM client_msg_ids
                 WHERE message IN (SELECT id FROM messages WHERE thread = ?)",
                "DELETE FROM messages WHERE thread = ?",
                "UPDATE external_sessions SET thread = NULL WHERE thread = ?",
            ] {
                write.tx.execute(sql, [row.key])?;
            }
            write.tx.execute(
                "UPDATE threads SET deleted = ?, title = '', adoption = NULL WHERE id = ?",
                params![millis(time::now()), row.key],
            )?;
            write.thread_event(&row, ThreadChange::Deleted)?;
            Ok(true)
        })
    }
}

impl Write<'_> {
    /// Changes the thread of row `?1` to the value `?2`, and tells of it if that was news.
    pub(super) fn change_thread(
        &mut self,
        row: &ThreadRow,
        change: ThreadChange,
        update: &str,
        value: impl ToSql,
    ) -> Result<()> {
        if 0 < self.tx.change(update, params![row.key, value])? {
            self.thread_event(row, change)?;
        }
        Ok(())
    }

    pub(super) fn thread_event(&mut self, row: &ThreadRow, change: ThreadChange) -> Result<()> {
        let thread = Box::new(thread_by_key(self.tx, row.key)?);
        self.event(row, AccountChange::Thread { change, thread }, None)
    }
}

/// What is listed.
struct Page {
    account: AccountKey,
    before: Timestamp,
    limit: usize,
}

impl Page {
    /// Those threads that are wanted, by their keys and titles. What is read to find out counts
    /// against the budget.
    fn read(
        self,
        conn: &Connection,
        mut is_wanted: impl FnMut(i64, &str, &mut usize) -> Result<bool>,
    ) -> Result<Threads> {
        let mut query = conn.prepare_cached(
            "SELECT id, title, last FROM threads
             WHERE account = ? AND deleted IS NULL AND last < ? ORDER BY last DESC, id DESC",
        )?;
        let mut rows = query.query(params![self.account.0, millis(self.before)])?;
        let mut found = Threads::default();
        let (mut budget, mut last_at) = (READ_BYTES, None);
        while let Some(row) = rows.next()? {
            let (key, at) = (row.get(0)?, timestamp(row.get(2)?));
            // Threads of one time go together: the next answer starts before that time.
            if (self.limit <= found.threads.len() || budget == 0) && last_at != Some(at) {
                found.next = last_at;
                break;
            }
            last_at = Some(at);
            if is_wanted(key, row.get_ref(1)?.as_str()?, &mut budget)? {
                // All of a newest message is read for a few words of it.
                let (thread, newest) =
                    conn.one(&format!("{SELECT_THREADS} WHERE threads.id = ?"), [key], |row| {
                        Ok((
                            thread_from(row)?,
                            row.get_ref(11)?.as_str_or_null()?.map_or(0, str::len),
                        ))
                    })?;
                budget = budget.saturating_sub(newest);
                found.threads.push(thread);
            }
        }
        Ok(found)
    }
}

/// Whether a message of the thread has this text, which is in lower case. The newest are read
/// first, as long as there is budget.
fn is_said(conn: &Connection, thread: i64, text: &str, budget: &mut usize) -> Result<bool> {
    let mut query =
        conn.prepare_cached("SELECT body FROM messages WHERE thread = ? ORDER BY created DESC")?;
    let mut rows = query.query([thread])?;
    while 0 < *budget
        && let Some(row) = rows.next()?
    {
        let body = row.get_ref(0)?.as_str()?;
        // Every row costs something, also an empty one.
        *budget = budget.saturating_sub(body.len() + 100);
        if body.to_lowercase().contains(text) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A thread that is not deleted.
pub(super) fn find(
    conn: &Connection,
    account: AccountKey,
    thread: &ThreadId,
) -> Result<Option<ThreadRow>> {
    conn.first(
        "SELECT id, machine, project_dir, adoption, created, last FROM threads
             WHERE account = ? AND thread_id = ? AND deleted IS NULL",
        params![account.0, thread.as_str()],
        |row| {
            let (key, machine, project_dir, adoption, created, last) = row.try_into()?;
            let machine = Option::<String>::map(machine, MachineId::new);
            Ok(ThreadRow { account, key, machine, project_dir, adoption, created, last })
        },
    )
}

/// Whether there was a thread of this id.
pub(super) fn is_deleted(tx: &Connection, account: AccountKey, thread: &ThreadId) -> Result<bool> {
    tx.has(
        "SELECT 1 FROM threads WHERE account = ? AND thread_id = ? AND deleted IS NOT NULL",
        params![account.0, thread.as_str()],
    )
}

/// Adds a row and tells of it.
pub(super) fn insert(
    write: &mut Write<'_>,
    account: AccountKey,
    thread: &ThreadId,
    new: NewThread<'_>,
) -> Result<ThreadRow> {
    let NewThread { title, agent, machine, project_dir, adoption } = new;
    let (id, created) = (thread.as_str(), millis(time::now()));
    write.tx.execute(
        "INSERT INTO threads (account, thread_id, title, agent, machine, project_dir, adoption,
                              created, last, read)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?8, ?8)",
        params![account.0, id, title, agent, machine, project_dir, adoption, created],
    )?;
    let row = find(write.tx, account, thread)?.context("a new thread is not there")?;
    write.thread_event(&row, ThreadChange::Created)?;
    Ok(row)
}
