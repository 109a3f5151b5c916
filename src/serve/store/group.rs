//! Writes share their transactions: a sync takes longer than many writes. The first of a group leads
//! it. Whoever comes before it commits runs in its transaction, inside a savepoint, so that each fails
//! alone; the leader commits, and nobody is answered before that is durable.
//!
//! Nothing is seen before it is durable either: readers see what is committed, and a commit syncs.

use std::{
    any::Any,
    ops::{Deref, DerefMut},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use rusqlite::Connection;

use crate::serve::{
    lock,
    store::{Sql, rows::AccountEvent},
};

/// Members of one group. More wait for the next: a transaction holds its changes in memory.
const MEMBERS_MAX: usize = 64;
/// How long a group takes members while they keep coming.
const GROUP_TIME: Duration = Duration::from_millis(50);
/// How long a leader waits for those who wrote with it the last time, if they have not come yet; and
/// what part of the time that a commit takes.
const WAIT_MAX: Duration = Duration::from_millis(2);
const WAIT_PART: u32 = 3;

/// What members of one group leave for whoever commits it.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) events: Vec<AccountEvent>,
    /// New messages. Events tell of some a second time.
    pub(super) stored: u64,
}

/// The connection that writes, and whose turn it is.
#[derive(Debug)]
pub(super) struct Writer {
    turn: Mutex<Turn>,
    /// A group has a new member, or is over.
    changed: Condvar,
    /// Who waits for the turn, to join the group.
    arriving: AtomicUsize,
}

#[derive(Debug)]
struct Turn {
    conn: Connection,
    /// Of the transaction that is open.
    group: Option<Group>,
    /// The members of the last groups, and how long commits take: who writes at the same time as
    /// others will do so again.
    usual: usize,
    commit_time: Duration,
}

#[derive(Debug)]
struct Group {
    members: usize,
    changes: Changes,
    end: Arc<End>,
}

/// How a group ended, for its members.
#[derive(Debug, Default)]
struct End {
    outcome: Mutex<Option<Result<(), String>>>,
    told: Condvar,
}

impl End {
    fn tell(&self, outcome: Result<(), String>) {
        *lock(&self.outcome) = Some(outcome);
        self.told.notify_all();
    }

    fn wait(&self) -> Result<()> {
        let mut outcome = lock(&self.outcome);
        loop {
            match &*outcome {
                None => outcome = wait(&self.told, outcome),
                Some(told) => return told.clone().map_err(|text| anyhow!(text)),
            }
        }
    }
}

/// As in [`lock`], a panic spoils nothing.
fn wait<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condvar.wait(guard).unwrap_or_else(PoisonError::into_inner)
}

/// What a change came to, a panic included, and how its group will end.
type Joined<T> = (Result<Result<T>, Box<dyn Any + Send>>, Arc<End>);

impl Writer {
    pub(super) fn new(conn: Connection) -> Writer {
        let turn = Turn { conn, group: None, usual: 1, commit_time: Duration::ZERO };
        Writer { turn: Mutex::new(turn), changed: Condvar::new(), arriving: AtomicUsize::new(0) }
    }

    /// Runs `change` in a transaction, and returns when that is durable. `committed` gets what all
    /// of its members left, once for each transaction and before the next one begins.
    pub(super) fn write<T>(
        &self,
        change: impl FnOnce(&Connection, &mut Changes) -> Result<T>,
        committed: impl FnOnce(Changes),
    ) -> Result<T> {
        self.arriving.fetch_add(1, Ordering::SeqCst);
        let mut turn = lock(&self.turn);
        while turn.group.as_ref().is_some_and(|it| MEMBERS_MAX <= it.members) {
            turn = wait(&self.changed, turn);
        }
        self.arriving.fetch_sub(1, Ordering::SeqCst);
        let leads = turn.group.is_none();
        let (done, end) = match turn.join(change) {
            Ok(joined) => joined,
            Err(error) => {
                // There was no transaction to join, or there is none any more.
                self.changed.notify_all();
                return Err(error);
            }
        };
        if leads {
            let turn = self.gather(turn);
            self.commit(turn, committed);
        } else {
            self.changed.notify_all();
            drop(turn);
        }
        let ended = end.wait();
        let done = done.unwrap_or_else(|panic| resume_unwind(panic));
        done.and_then(|done| ended.map(|()| done))
    }

    /// Waits for those who are about to join.
    fn gather<'a>(&'a self, mut turn: MutexGuard<'a, Turn>) -> MutexGuard<'a, Turn> {
        let begun = Instant::now();
        let patience = (turn.commit_time / WAIT_PART).min(WAIT_MAX);
        loop {
            let members = turn.group.as_ref().map_or(MEMBERS_MAX, |it| it.members);
            let left = if MEMBERS_MAX <= members {
                Duration::ZERO
            } else if 0 < self.arriving.load(Ordering::SeqCst) {
                GROUP_TIME.saturating_sub(begun.elapsed())
            } else if members < turn.usual {
                patience.saturating_sub(begun.elapsed())
            } else {
                Duration::ZERO
            };
            if left.is_zero() {
                return turn;
            }
            let waited = self.changed.wait_timeout(turn, left);
            turn = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn commit(&self, mut turn: MutexGuard<'_, Turn>, committed: impl FnOnce(Changes)) {
        // A failure that took the whole transaction with it has told its members so.
        if let Some(Group { members, changes, end }) = turn.group.take() {
            let begun = Instant::now();
            let outcome = turn.conn.change("COMMIT", ()).context("committing");
            turn.commit_time = begun.elapsed();
            // It forgets slowly: what comes at once is cut into groups by chance.
            turn.usual = members.max(turn.usual.saturating_sub(turn.usual.div_ceil(4)));
            if outcome.is_ok() {
                committed(changes);
            } else {
                turn.roll_back();
            }
            end.tell(outcome.map(drop).map_err(|error| format!("{error:#}")));
        }
        drop(turn);
        self.changed.notify_all();
    }

    /// The connection when no transaction is open: what is read there is durable, and nothing is
    /// written meanwhile.
    pub(super) fn alone(&self) -> Alone<'_> {
        let mut turn = lock(&self.turn);
        while turn.group.is_some() {
            turn = wait(&self.changed, turn);
        }
        Alone(turn)
    }

    /// As [`Writer::alone`], if that is so now.
    pub(super) fn try_alone(&self) -> Option<Alone<'_>> {
        let turn = match self.turn.try_lock() {
            Ok(turn) => turn,
            Err(TryLockError::Poisoned(turn)) => turn.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        turn.group.is_none().then(|| Alone(turn))
    }
}

impl Turn {
    /// Runs a change in the group's transaction, which is begun if need be.
    fn join<T>(
        &mut self,
        change: impl FnOnce(&Connection, &mut Changes) -> Result<T>,
    ) -> Result<Joined<T>> {
        if self.group.is_none() {
            self.conn.change("BEGIN IMMEDIATE", ())?;
            self.group =
                Some(Group { members: 0, changes: Changes::default(), end: Arc::default() });
        }
        let mut own = Changes::default();
        let run = || {
            self.conn.change("SAVEPOINT member", ())?;
            change(&self.conn, &mut own)
        };
        let mut done = catch_unwind(AssertUnwindSafe(run));
        if !matches!(done, Ok(Ok(_))) {
            // Some failures have undone more than their own change.
            if !self.conn.is_autocommit() {
                self.conn.change("ROLLBACK TO member", ()).ok();
            }
            own = Changes::default();
        }
        if !self.conn.is_autocommit()
            && let Err(error) = self.conn.change("RELEASE member", ())
            && let Ok(Ok(_)) = done
        {
            done = Ok(Err(error));
        }
        let group = self.group.as_mut().expect("it was there or has just been made");
        group.members += 1;
        group.changes.events.append(&mut own.events);
        group.changes.stored += own.stored;
        let end = Arc::clone(&group.end);
        if self.conn.is_autocommit() {
            self.group = None;
            end.tell(Err("the write that shared the transaction failed".to_owned()));
        }
        Ok((done, end))
    }

    fn roll_back(&self) {
        if !self.conn.is_autocommit()
            && let Err(error) = self.conn.change("ROLLBACK", ())
        {
            log::error!("a transaction could not be rolled back: {error:#}");
        }
    }
}

/// The connection, and nobody else writes.
#[derive(Debug)]
pub(super) struct Alone<'a>(MutexGuard<'a, Turn>);

impl Deref for Alone<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.0.conn
    }
}

impl DerefMut for Alone<'_> {
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.0.conn
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::AtomicU32,
        thread::{self, yield_now},
    };

    use tempfile::TempDir;

    use super::*;

    const WRITERS: u32 = 8;

    struct Tested {
        writer: Writer,
        commits: AtomicU32,
        _dir: TempDir,
    }

    fn writer() -> Tested {
        let dir = TempDir::new().unwrap();
        let conn = Connection::open(dir.path().join("file")).unwrap();
        conn.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA foreign_keys = ON;
             CREATE TABLE numbers (n INTEGER PRIMARY KEY, of INTEGER REFERENCES numbers)",
        )
        .unwrap();
        Tested { writer: Writer::new(conn), commits: AtomicU32::new(0), _dir: dir }
    }

    impl Tested {
        fn write(&self, change: impl FnOnce(&Connection) -> Result<()>) -> Result<()> {
            let committed = |_| _ = self.commits.fetch_add(1, Ordering::SeqCst);
            self.writer.write(|tx, _| change(tx), committed)
        }

        /// Writes each number at the same time as the others, `first` before them.
        fn write_all(
            &self,
            change: impl Fn(&Connection, u32) -> Result<()> + Copy + Send + Sync,
        ) -> Vec<thread::Result<Result<()>>> {
            thread::scope(|scope| {
                let (leading, led) = crossbeam_channel::bounded(0);
                let leader = scope.spawn(move || {
                    self.write(|tx| {
                        leading.send(()).unwrap();
                        let until = Instant::now() + Duration::from_mins(1);
                        while self.writer.arriving.load(Ordering::SeqCst) + 1 < WRITERS as usize {
                            assert!(Instant::now() < until, "the others don't come");
                            yield_now();
                        }
                        change(tx, 0)
                    })
                });
                led.recv().unwrap();
                let others =
                    (1..WRITERS).map(|n| scope.spawn(move || self.write(|tx| change(tx, n))));
                let others: Vec<_> = others.collect();
                [leader].into_iter().chain(others).map(thread::ScopedJoinHandle::join).collect()
            })
        }

        fn numbers(&self) -> Vec<u32> {
            self.writer
                .alone()
                .all("SELECT n FROM numbers ORDER BY n", (), |row| row.get(0))
                .unwrap()
        }
    }

    fn insert(tx: &Connection, n: u32) -> Result<()> {
        tx.change("INSERT INTO numbers (n) VALUES (?)", [n]).map(drop)
    }

    #[test]
    fn writes_of_the_same_time_share_a_commit() {
        let tested = writer();
        assert!(tested.write_all(insert).into_iter().all(|it| it.unwrap().is_ok()));
        assert_eq!(tested.numbers(), (0..WRITERS).collect::<Vec<_>>());
        let commits = tested.commits.load(Ordering::SeqCst);
        assert!((1..WRITERS).contains(&commits), "{commits} commits for {WRITERS} writes");
    }

    #[test]
    fn a_write_that_fails_or_panics_fails_alone() {
        let tested = writer();
        let outcomes = tested.write_all(|tx, n| {
            insert(tx, n)?;
            match n {
                0 | 3 => Err(anyhow!("number {n} is bad")),
                5 => panic!("on purpose"),
                _ => Ok(()),
            }
        });
        for (n, outcome) in outcomes.into_iter().enumerate() {
            match (n, outcome) {
                (5, outcome) => assert!(outcome.is_err()),
                (0 | 3, outcome) => {
                    assert_eq!(
                        outcome.unwrap().unwrap_err().to_string(),
                        format!("number {n} is bad")
                    );
                }
                (_, outcome) => outcome.unwrap().unwrap(),
            }
        }
        assert_eq!(tested.numbers(), [1, 2, 4, 6, 7]);
    }

    #[test]
    fn a_commit_that_fails_fails_all_its_members_and_no_more() {
        let tested = writer();
        let outcomes = tested.write_all(|tx, n| {
            insert(tx, n)?;
            // It is found out at the commit.
            tx.execute_batch("PRAGMA defer_foreign_keys = ON")?;
            tx.change("INSERT INTO numbers VALUES (?, -1)", [100 + n]).map(drop)
        });
        for outcome in outcomes {
            let error = format!("{:#}", outcome.unwrap().unwrap_err());
            assert!(error.contains("committing") && error.contains("FOREIGN KEY"), "{error}");
        }
        assert_eq!((tested.numbers(), tested.commits.load(Ordering::SeqCst)), (vec![], 0));
        tested.write(|tx| insert(tx, 1)).unwrap();
        assert_eq!(tested.numbers(), [1]);
    }
}
