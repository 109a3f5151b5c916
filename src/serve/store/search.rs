//! The index for searches: for every three characters in a row, which messages have them. It tells
//! candidates, which are read to be sure.
//!
//! It has a file of its own, `search.sqlite`, that is made of the database alone: a copy need not have
//! it, its writes are not synced and hold up no others, and one that is lost, damaged or of another
//! database is made anew. A task keeps it up (`jobs`): until a message is in it, which may take a moment,
//! it is read in every search.

use std::{
    collections::{BTreeSet, HashSet},
    fs, io,
    path::{Path, PathBuf},
    sync::Mutex,
};

use anyhow::{Context, Result, bail};
use rusqlite::{Connection, params};

use crate::serve::{
    lock,
    store::{AccountKey, Sql, connect, private_file, rows::Epoch},
};

/// In the data directory.
const FILE: &str = "search.sqlite";
/// Its version (`user_version`). A file of another one is made anew.
const VERSION: u32 = 1;
/// Texts go in in small letters, as Rust has them, and are not kept. `newest` is the last message that
/// is in.
const SCHEMA: &str = "
    CREATE VIRTUAL TABLE found.words USING fts5(text, tokenize = 'trigram case_sensitive 1',
        content = '', contentless_delete = 1, detail = none);
    CREATE TABLE found.state (epoch INTEGER NOT NULL, newest INTEGER NOT NULL) STRICT;";

/// What one step puts in; a long text is a step of its own.
const STEP_MESSAGES: u32 = 200;
const STEP_BYTES: usize = 128 * 1024;
/// Messages that one step takes out.
const SWEEP_MESSAGES: u32 = 500;

/// Characters in a row that are looked up together.
const RUN: usize = 3;
/// A word that more messages have is found sooner by reading the newest threads.
const CANDIDATES_MAX: u32 = 5000;
/// So many messages that are not in the index yet are read in a search; with more it is of no use.
const REST_MAX: i64 = 2000;

/// Keeps the index up.
#[derive(Debug)]
pub(super) struct Index {
    path: PathBuf,
    /// Reads the database and writes the index.
    conn: Mutex<Connection>,
    /// The database when the index was last compared with it (`data_version`).
    compared: Mutex<Option<i64>>,
}

impl Index {
    /// Opens the index of this database, or makes it.
    pub(super) fn open(database: &Path, epoch: Epoch) -> Result<Index> {
        let path = database.with_file_name(FILE);
        let conn = match open(database, &path, epoch) {
            Ok(conn) => conn,
            Err(error) => {
                log::warn!("the index for searches is made anew: {error:#}");
                for end in ["", "-wal", "-shm"] {
                    remove(&path.with_file_name(format!("{FILE}{end}")))?;
                }
                open(database, &path, epoch)?
            }
        };
        Ok(Index { path, conn: Mutex::new(conn), compared: Mutex::new(None) })
    }

    /// Lets a connection to the database search.
    pub(super) fn attach(&self, conn: &Connection) -> Result<()> {
        attach(conn, &self.path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The newest message that is in. A later one must not have its id, also when it is gone.
    pub(super) fn newest(&self) -> Result<i64> {
        newest(&lock(&self.conn))
    }

    /// Puts some messages in. False: all are in.
    pub(super) fn advance(&self) -> Result<bool> {
        let conn = lock(&self.conn);
        let before = newest(&conn)?;
        if rest(&conn, before)? == 0 {
            return Ok(false);
        }
        let tx = conn.unchecked_transaction()?;
        let (mut newest, mut bytes) = (before, 0);
        {
            let mut insert =
                tx.prepare_cached("INSERT INTO found.words (rowid, text) VALUES (?, ?)")?;
            let mut query = tx.prepare_cached(
                "SELECT messages.id, threads.account, messages.body
                 FROM main.messages JOIN main.threads ON threads.id = messages.thread
                 WHERE messages.id > ? ORDER BY messages.id LIMIT ?",
            )?;
            let mut rows = query.query(params![before, STEP_MESSAGES])?;
            while bytes < STEP_BYTES
                && let Some(row) = rows.next()?
            {
                let (id, account, body) = (row.get(0)?, row.get(1)?, row.get_ref(2)?.as_str()?);
                let text = format!("{}{}", mark(AccountKey(account)), body.to_lowercase());
                insert.execute(params![id, text])?;
                newest = id;
                bytes += text.len();
            }
        }
        tx.change("UPDATE found.state SET newest = ?", [newest])?;
        tx.commit()?;
        Ok(true)
    }

    /// Takes messages out that are no longer there, whoever removed them; how many. Nothing is looked at
    /// if the database has not changed.
    pub(super) fn sweep(&self) -> Result<i64> {
        let conn = lock(&self.conn);
        let version = conn.value("PRAGMA main.data_version", ())?;
        if version == *lock(&self.compared) {
            return Ok(0);
        }
        let newest = newest(&conn)?;
        // Counting an index is quicker than comparing row by row.
        let gone: i64 = conn.one(
            "SELECT (SELECT count(*) FROM found.words_docsize) - (SELECT count(*) FROM main.messages)
                  + (SELECT count(*) FROM main.messages WHERE id > ?)",
            [newest],
            |row| row.get(0),
        )?;
        let (mut last, mut swept) = (0, 0);
        // All of them are found by then, and the rest need not be looked at.
        while swept < gone {
            let ids: Vec<i64> = conn.all(
                "SELECT id FROM found.words_docsize AS known WHERE id > ?
                 AND NOT EXISTS (SELECT 1 FROM main.messages WHERE messages.id = known.id)
                 ORDER BY id LIMIT ?",
                params![last, SWEEP_MESSAGES],
                |row| row.get(0),
            )?;
            let Some(end) = ids.last() else { break };
            last = *end;
            let tx = conn.unchecked_transaction()?;
            for id in &ids {
                tx.change("DELETE FROM found.words WHERE rowid = ?", [id])?;
            }
            tx.commit()?;
            swept += i64::try_from(ids.len())?;
        }
        *lock(&self.compared) = version;
        Ok(swept)
    }
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn open(database: &Path, path: &Path, epoch: Epoch) -> Result<Connection> {
    private_file(path)?;
    let conn = connect(database)?;
    attach(&conn, path)?;
    conn.query_row("PRAGMA found.journal_mode = WAL", (), |_| Ok(()))?;
    // What is lost with the power is put in again.
    conn.pragma_update(Some("found"), "synchronous", "NORMAL")?;
    match conn.query_row("PRAGMA found.user_version", (), |row| row.get(0))? {
        0 => {
            let tx = conn.unchecked_transaction()?;
            tx.execute_batch(SCHEMA)?;
            tx.execute("INSERT INTO found.state VALUES (?, 0)", [epoch.0])?;
            tx.pragma_update(Some("found"), "user_version", VERSION)?;
            tx.commit()?;
        }
        VERSION => {
            let known: i64 =
                conn.query_row("SELECT epoch FROM found.state", (), |row| row.get(0))?;
            if known != epoch.0 {
                bail!("it is that of another database");
            }
        }
        version => bail!("it has version {version}"),
    }
    Ok(conn)
}

fn attach(conn: &Connection, path: &Path) -> Result<()> {
    let path = path.to_str().context("the path is not UTF-8")?;
    conn.execute("ATTACH DATABASE ? AS found", [path])?;
    Ok(())
}

fn newest(conn: &Connection) -> Result<i64> {
    conn.one("SELECT newest FROM found.state", (), |row| row.get(0))
}

/// How many messages are not in the index, at most.
fn rest(conn: &Connection, newest: i64) -> Result<i64> {
    let count = "SELECT max(ifnull(max(id), 0) - ?, 0) FROM main.messages";
    conn.one(count, [newest], |row| row.get(0))
}

/// Three characters that no text has: in front of an account's texts, they are looked up with every
/// word, so that other accounts cost a search nothing.
fn mark(account: AccountKey) -> String {
    const PRIVATE_USE: u32 = 0xF_0000;
    let part = |shift: u32| u32::try_from((account.0 >> shift) & 0x7fff).unwrap_or_default();
    [0, 15, 30]
        .map(|shift| char::from_u32(PRIVATE_USE + part(shift)).unwrap_or(' '))
        .iter()
        .collect()
}

/// What to look up for a text in small letters. None: it is too short.
fn lookup(account: AccountKey, text: &str) -> Option<String> {
    // The index has none of these.
    let chars: Vec<char> = text.chars().filter(|it| *it != '\0').collect();
    let runs: BTreeSet<String> = chars.windows(RUN).map(|run| run.iter().collect()).collect();
    if runs.is_empty() {
        return None;
    }
    let quoted = |run: &String| format!("\"{}\" ", run.replace('"', "\"\""));
    Some(runs.iter().chain([&mark(account)]).map(quoted).collect())
}

/// The threads of an account that have a text, which is in small letters, in a message. None: reading them
/// one by one tells it sooner.
pub(super) fn threads_with(
    conn: &Connection,
    account: AccountKey,
    text: &str,
    mut budget: usize,
) -> Result<Option<HashSet<i64>>> {
    let Some(lookup) = lookup(account, text) else { return Ok(None) };
    let newest = newest(conn)?;
    if REST_MAX < rest(conn, newest)? {
        return Ok(None);
    }
    let candidates: Vec<i64> = conn.all(
        "SELECT rowid FROM found.words WHERE words MATCH ? ORDER BY rowid DESC LIMIT ?",
        params![lookup, CANDIDATES_MAX + 1],
        |row| row.get(0),
    )?;
    if u32::try_from(candidates.len()).is_ok_and(|it| CANDIDATES_MAX < it) {
        return Ok(None);
    }
    let rest: Vec<i64> = conn.all(
        "SELECT messages.id FROM main.messages JOIN main.threads ON threads.id = messages.thread
         WHERE messages.id > ? AND threads.account = ?",
        [newest, account.0],
        |row| row.get(0),
    )?;
    let mut found = HashSet::new();
    let mut thread_of = conn.prepare_cached("SELECT thread FROM main.messages WHERE id = ?")?;
    let mut body_of = conn.prepare_cached(
        "SELECT messages.body FROM main.messages JOIN main.threads ON threads.id = messages.thread
         WHERE messages.id = ? AND threads.account = ?",
    )?;
    for id in candidates.into_iter().chain(rest) {
        let mut threads = thread_of.query([id])?;
        // It may be gone.
        let Some(thread) = threads.next()?.map(|row| row.get(0)).transpose()? else { continue };
        if found.contains(&thread) {
            continue;
        }
        let mut bodies = body_of.query([id, account.0])?;
        let Some(row) = bodies.next()? else { continue };
        let body = row.get_ref(0)?.as_str()?;
        if budget < body.len() {
            return Ok(None);
        }
        budget -= body.len();
        if body.to_lowercase().contains(text) {
            found.insert(thread);
        }
    }
    Ok(Some(found))
}
