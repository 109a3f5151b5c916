//! The bridge's database: one SQLite file. Everything is scoped by account, so another account's id
//! is an id that does not exist.
//!
//! Writes take turns on one connection and are synced before they are answered, those that come at the
//! same time by one sync. Events get their sequence numbers there, and are handed to the hub before
//! the next transaction begins: the order in which it gets them is the order of their numbers. Reads
//! have a connection of their own and wait for no sync. So do searches, several, so that those of one
//! account do not hold up those of all others.

pub mod accounts;
pub mod attachments;
mod events;
mod expiry;
pub mod external;
mod group;
pub mod machines;
pub mod messages;
pub mod replay;
pub mod rows;
mod search;
pub mod sessions;
mod sql;
#[cfg(test)]
mod tests;
pub mod threads;
pub mod waiting;

use std::{
    fmt,
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rusqlite::{Connection, ErrorCode, Params, TransactionBehavior, ffi};
use serde::{Serialize, Serializer};

use crate::{ascii, serve::lock};
use group::{Alone, Changes, Writer};
use rows::{AccountEvent, Epoch};
use search::Index;
use sql::Sql;

/// The database, in the data directory.
pub(super) const FILE: &str = "bridge.sqlite";
/// The schema, and its version (`user_version`). A change to it takes a new version, and a step from
/// the one before.
const SCHEMA: &str = include_str!("schema.sql");
const VERSION: u32 = 5;
/// That of the first release, and the steps from there on.
const FIRST_VERSION: u32 = 4;
const STEPS: [&str; 1] = ["ALTER TABLE messages ADD COLUMN via TEXT;
     UPDATE accounts SET username = lower(trim(username))
     WHERE (SELECT count(*) FROM accounts AS other
            WHERE lower(trim(other.username)) = lower(trim(accounts.username))) = 1"];
/// Writers of one process take turns before they get here; those of another, `serve user`, are quick.
pub(super) const BUSY_TIME: Duration = Duration::from_secs(5);

/// An account's row: the proof that somebody was let in, and for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AccountKey(i64);

#[cfg(test)]
impl AccountKey {
    /// A key for tests that have no store.
    pub fn test(key: i64) -> AccountKey {
        AccountKey(key)
    }
}

/// The authenticated caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Caller {
    pub account: AccountKey,
    pub access: Credential,
}

impl Caller {
    /// None: it is no daemon.
    pub fn token(self) -> Option<TokenKey> {
        match self.access {
            Credential::Token(token) => Some(token),
            Credential::Session(_) | Credential::Password(_) => None,
        }
    }
}

/// What somebody came with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Credential {
    /// A daemon's.
    Token(TokenKey),
    /// A cookie's.
    Session(SessionKey),
    /// User name and password.
    Password(PasswordKey),
}

/// Tells a stored password from the one that takes its place: a hash of its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PasswordKey([u8; 32]);

impl PasswordKey {
    /// Of what is stored.
    pub fn of(stored: &str) -> PasswordKey {
        PasswordKey(accounts::hash(stored))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionKey(i64);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TokenKey(i64);

/// As text on the wire.
impl Serialize for TokenKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl TokenKey {
    /// From what the wire has; whose it is, if anybody's, is for the store to say.
    pub fn parse(text: &str) -> Option<TokenKey> {
        ascii::number(text).map(TokenKey)
    }
}

/// Searches that run at the same time.
const SEARCHES: usize = 4;
/// A write that went well so lately shows that the next one will.
const FRESH: Duration = Duration::from_secs(5);
/// A write that takes so long does not come to an end.
const STUCK: Duration = Duration::from_secs(30);

/// How long things are kept: events for streams that come back, messages for people.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// The newest of each account.
    pub events: u32,
    pub age: Duration,
    /// The newest of a thread stays all the same. None: for ever.
    pub messages: Option<Duration>,
}

impl Default for Retention {
    fn default() -> Retention {
        Retention { events: 10_000, age: Duration::from_hours(7 * 24), messages: None }
    }
}

/// Told of every event in the order of their numbers, while nobody else can write.
pub type Publish = Box<dyn Fn(AccountEvent) + Send + Sync>;

pub struct Store {
    write: Writer,
    read: Mutex<Connection>,
    /// For searches, which may read much; those of an account have one of them. None but in a server.
    search: Vec<Mutex<Connection>>,
    /// None: it could not be made, and every search reads.
    index: Option<Index>,
    /// The newest message. No other ever gets its id, also when it is gone: the index relies on that.
    last_message: AtomicI64,
    path: PathBuf,
    epoch: Epoch,
    /// When a write went well.
    written: Mutex<Instant>,
    /// Messages since the start.
    pub(super) stored: AtomicU64,
    retention: Retention,
    publish: Publish,
    /// Held as long as a server has the store open.
    lock: Option<File>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store in `dir`, which is made if need be and belongs to this process alone.
    ///
    /// # Errors
    /// Others may read the directory; another server uses it; the file is none of ours or newer.
    pub fn open(dir: &Path, retention: Retention, publish: Publish) -> Result<Store> {
        let Some(lock) = claim_directory(dir)? else {
            bail!(
                "another server uses {}; stop it, or choose another data directory",
                dir.display()
            );
        };
        let mut store = Store::connect(dir, retention, publish, Some(lock))?;
        store.prepare_searches()?;
        Ok(store)
    }

    fn prepare_searches(&mut self) -> Result<()> {
        match Index::open(&self.path, self.epoch) {
            Ok(index) => {
                self.last_message.fetch_max(index.newest()?, Ordering::Relaxed);
                self.index = Some(index);
            }
            Err(error) => log::error!("searches go without an index: {error:#}"),
        }
        for _ in 0..SEARCHES {
            let conn = reader(&self.path)?;
            if let Some(index) = &self.index {
                index.attach(&conn)?;
            }
            self.search.push(Mutex::new(conn));
        }
        Ok(())
    }

    /// Opens the store for a short while, also while a server uses it. Events that are written here
    /// are published nowhere.
    ///
    /// # Errors
    /// As [`Store::open`], but a server may use it.
    pub fn open_beside(dir: &Path) -> Result<Store> {
        let lock = claim_directory(dir)?;
        let mut store = Store::connect(dir, Retention::default(), Box::new(|_| ()), lock)?;
        // It was needed for the check; a server may start now.
        store.lock = None;
        Ok(store)
    }

    fn connect(
        dir: &Path,
        retention: Retention,
        publish: Publish,
        lock: Option<File>,
    ) -> Result<Store> {
        let path = dir.join(FILE);
        private_file(&path)?;
        let opened = open_file(&path, lock.is_some());
        let (connections, epoch) = opened.map_err(|error| name_remedy(error, &path))?;
        let [write, read] = connections;
        let newest = "SELECT ifnull(max(id), 0) FROM messages";
        let newest = read.one(newest, (), |row| row.get(0))?;
        Ok(Store {
            write: Writer::new(write),
            read: Mutex::new(read),
            search: Vec::new(),
            index: None,
            last_message: AtomicI64::new(newest),
            path,
            epoch,
            written: Mutex::new(Instant::now()),
            stored: AtomicU64::new(0),
            retention,
            publish,
            lock,
        })
    }

    fn reader(&self) -> MutexGuard<'_, Connection> {
        lock(&self.read)
    }

    fn searcher(&self, account: AccountKey) -> MutexGuard<'_, Connection> {
        let place = usize::try_from(account.0).unwrap_or_default();
        lock(place.checked_rem(self.search.len()).map_or(&self.read, |place| &self.search[place]))
    }

    /// Brings the index for searches a step further. False: all messages are in it.
    pub fn index_some(&self) -> Result<bool> {
        self.index.as_ref().map_or(Ok(false), Index::advance)
    }

    /// Takes messages that are gone out of the index for searches; how many.
    pub fn sweep_index(&self) -> Result<i64> {
        self.index.as_ref().map_or(Ok(0), Index::sweep)
    }

    /// The connection that writes, between two transactions.
    fn writer(&self) -> Alone<'_> {
        self.write.alone()
    }

    /// Whether a message could be stored now. Most often a write of late tells; if not, one is
    /// made that changes nothing.
    pub fn check_writable(&self) -> Result<()> {
        let last = *lock(&self.written);
        if last.elapsed() < FRESH {
            return Ok(());
        }
        let conn = match self.write.try_alone() {
            Some(conn) => conn,
            None if last.elapsed() < STUCK => return Ok(()),
            None => bail!("a write has not ended for {STUCK:?}"),
        };
        conn.pragma_update(None, "user_version", VERSION)?;
        *lock(&self.written) = Instant::now();
        Ok(())
    }

    /// How large the database is on disk, with its log.
    pub fn bytes(&self) -> u64 {
        bytes(&self.path)
    }

    /// And the index for searches.
    pub fn index_bytes(&self) -> u64 {
        self.index.as_ref().map_or(0, |it| bytes(it.path()))
    }

    /// Runs `change` in a transaction, which it may share with others. When it is durable, and before
    /// any other write, the events it left are published.
    fn write<T>(&self, change: impl FnOnce(&mut Write<'_>) -> Result<T>) -> Result<T> {
        let change = |tx: &Connection, changes: &mut Changes| {
            let last_message = &self.last_message;
            let mut write = Write { tx, epoch: self.epoch, last_message, changes };
            let done = change(&mut write)?;
            if let Some(last) = changes.events.last() {
                events::prune(tx, last, self.retention)?;
            }
            Ok(done)
        };
        self.write.write(change, |changes| {
            *lock(&self.written) = Instant::now();
            self.stored.fetch_add(changes.stored, Ordering::Relaxed);
            changes.events.into_iter().for_each(&self.publish);
        })
    }

    /// Writes with one statement. Whether that changed anything.
    fn change(&self, sql: &str, params: impl Params) -> Result<bool> {
        self.write(|write| Ok(0 < write.tx.change(sql, params)?))
    }
}

struct Write<'a> {
    tx: &'a Connection,
    epoch: Epoch,
    last_message: &'a AtomicI64,
    changes: &'a mut Changes,
}

impl Write<'_> {
    /// The id of a new message.
    fn next_message(&self) -> i64 {
        1 + self.last_message.fetch_add(1, Ordering::Relaxed)
    }
}

/// A file of SQLite with its log.
fn bytes(path: &Path) -> u64 {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    let size = |path: &Path| path.metadata().map_or(0, |it| it.size());
    size(path) + size(Path::new(&log))
}

/// Makes the directory private and ours; the lock lasts as long as the file is open. None: somebody
/// else has it.
fn claim_directory(dir: &Path) -> Result<Option<File>> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("making the data directory {}", dir.display()))?;
    refuse_if_shared(dir, "700")?;
    let path = dir.join("serve.lock");
    let lock = private_file(&path)?;
    match lock.try_lock() {
        Ok(()) => Ok(Some(lock)),
        Err(fs::TryLockError::WouldBlock) => Ok(None),
        Err(fs::TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("locking {}", path.display()))
        }
    }
}

fn private_file(path: &Path) -> Result<File> {
    let opened = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
    let file = opened.with_context(|| format!("opening {}", path.display()))?;
    refuse_if_shared(path, "600")?;
    Ok(file)
}

/// Tokens are stored hashed, conversations are not.
fn refuse_if_shared(path: &Path, wanted: &str) -> Result<()> {
    let mode = path.metadata().with_context(|| format!("looking at {}", path.display()))?.mode();
    if mode & 0o077 != 0 {
        bail!(
            "{} can be used by others (mode {:o}); run: chmod {wanted} {}",
            path.display(),
            mode & 0o777,
            path.display()
        );
    }
    Ok(())
}

/// The connections to write and to read with. A file that is ours `alone` is checked.
fn open_file(path: &Path, alone: bool) -> Result<([Connection; 2], Epoch)> {
    let mut write = connect(path)?;
    if alone {
        check(&write)?;
    }
    prepare(&mut write).with_context(|| format!("preparing {}", path.display()))?;
    let epoch = write.query_row("SELECT value FROM epoch", (), |row| row.get(0).map(Epoch))?;
    Ok(([write, reader(path)?], epoch))
}

/// A connection that only reads.
fn reader(path: &Path) -> Result<Connection> {
    let conn = connect(path)?;
    conn.pragma_update(None, "query_only", true)?;
    Ok(conn)
}

/// Reads the whole file. About three seconds per gigabyte of messages; better before the first
/// request than in the middle of one.
fn check(conn: &Connection) -> Result<()> {
    let verdict: String = conn.query_row("PRAGMA integrity_check(1)", (), |row| row.get(0))?;
    if verdict != "ok" {
        let code = ffi::Error::new(ffi::SQLITE_CORRUPT);
        return Err(rusqlite::Error::SqliteFailure(code, Some(verdict)).into());
    }
    Ok(())
}

/// Says what to do about a damaged file.
fn name_remedy(error: anyhow::Error, path: &Path) -> anyhow::Error {
    let is_damaged = error.chain().any(|cause| {
        let error = cause.downcast_ref::<rusqlite::Error>();
        let code = error.and_then(rusqlite::Error::sqlite_error_code);
        matches!(code, Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
    });
    if !is_damaged {
        return error;
    }
    error.context(format!(
        "the database {0} is damaged, or is no database. To restore a copy that `obto-bridge serve \
         backup` made: move {0}, {0}-wal and {0}-shm elsewhere, put the copy in the place of {0}, \
         run `chmod 600 {0}`, and start again",
        path.display()
    ))
}

fn connect(path: &Path) -> Result<Connection> {
    open_durable(path).with_context(|| format!("opening {}", path.display()))
}

fn open_durable(path: &Path) -> Result<Connection> {
    let conn = Connection::open(path)?;
    conn.busy_timeout(BUSY_TIME)?;
    let mode: String = conn.query_row("PRAGMA journal_mode = WAL", (), |row| row.get(0))?;
    if mode != "wal" {
        return Err(io::Error::other(format!("no write-ahead log here, but {mode}")).into());
    }
    // A message that was acknowledged must survive a power cut: NORMAL would sync only at
    // checkpoints. It costs one fdatasync a message, at the pace of people and agents.
    conn.pragma_update(None, "synchronous", "FULL")?;
    conn.pragma_update(None, "foreign_keys", true)?;
    conn.set_prepared_statement_cache_capacity(64);
    Ok(conn)
}

/// Makes the tables of a new file, or changes those of an older version.
fn prepare(conn: &mut Connection) -> Result<()> {
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    match tx.query_row("PRAGMA user_version", (), |row| row.get(0))? {
        VERSION => return Ok(()),
        0 => tx.execute_batch(SCHEMA)?,
        version @ FIRST_VERSION..VERSION => {
            for step in STEPS.iter().skip((version - FIRST_VERSION) as usize) {
                tx.execute_batch(step)?;
            }
        }
        version if version < FIRST_VERSION => {
            bail!("its version {version} is of before the first release")
        }
        version => bail!("it was written by a newer obto-bridge (version {version} of the schema)"),
    }
    tx.pragma_update(None, "user_version", VERSION)?;
    Ok(tx.commit()?)
}
