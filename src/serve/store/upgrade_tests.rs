//! The ladder of schemas: what an older version left is kept, whole or not touched.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use rusqlite::Connection;
use tempfile::TempDir;

use super::*;
use crate::{
    ids::ThreadId,
    serve::store::{messages::Range, replay::Replay},
    time::Timestamp,
};

/// What a bridge of version 1 left: its schema, an account with a token, a thread of two messages.
const CONTENT: &str = "
    INSERT INTO accounts VALUES (1, 'acc_1', 'ada', NULL, NULL, 1000, 0);
    INSERT INTO tokens VALUES (
        1, 1, x'2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b', 'obto_1', 'box',
        1000, NULL);
    INSERT INTO threads VALUES (1, 1, 't', 'first', 'claude', 'box', 2000, 3000);
    INSERT INTO messages VALUES (1, 1, 'msg_1', 'ada', 'human', NULL, 'first', 2000);
    INSERT INTO messages VALUES (2, 1, 'msg_2', 'claude-bridge', 'agent', 'result', 'second', 3000);
    INSERT INTO client_msg_ids VALUES (1, 'c', 2);
    INSERT INTO events VALUES (1, 1, 'thread', 1, NULL, 2000);
    INSERT INTO events VALUES (2, 1, 'reply', 1, 1, 2000);
    INSERT INTO events VALUES (3, 1, 'message', 1, 2, 3000);
    PRAGMA user_version = 1;";
/// Its token, of which the table has the hash.
const TOKEN: &str = "secret";

fn version_1() -> (TempDir, PathBuf) {
    let dir = TempDir::new().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let path = dir.path().join(FILE);
    drop(private_file(&path).unwrap());
    let conn = connect(&path).unwrap();
    conn.execute_batch(MIGRATIONS[0]).unwrap();
    conn.execute_batch(CONTENT).unwrap();
    (dir, path)
}

fn open(dir: &Path) -> Result<Store> {
    Store::open(dir, Retention::default(), Box::new(|_| ()))
}

fn version(path: &Path) -> u32 {
    let conn = Connection::open(path).unwrap();
    conn.query_row("PRAGMA user_version", (), |row| row.get(0)).unwrap()
}

fn bodies(store: &Store, caller: Caller) -> Vec<String> {
    let all = Range::Before(Timestamp::from_millis(u64::MAX));
    let page =
        store.messages(caller.account, &ThreadId::new("t"), all, 9, usize::MAX).unwrap().unwrap();
    page.messages.into_iter().map(|it| it.body).collect()
}

#[test]
fn a_file_of_version_1_keeps_what_is_in_it() {
    let (dir, path) = version_1();
    let store = open(dir.path()).unwrap();
    let caller = store.authenticate(TOKEN).unwrap().unwrap();
    assert_eq!(bodies(&store, caller), ["first", "second"]);
    assert_eq!(store.events(caller.account, 0, i64::MAX, false).unwrap().len(), 3);
    // Its event ids had no epoch: what they meant can't be told any more.
    let (resume, ()) = store.resume(caller, Some("2"), || ()).unwrap().unwrap();
    assert_eq!((resume.kind, resume.after), (Replay::Gap, 3));
    drop(store);
    assert_eq!(version(&path), u32::try_from(MIGRATIONS.len()).unwrap());

    // What it was before is kept beside it, for its owner alone, and is good.
    let copy = dir.path().join("bridge.sqlite.v1.bak");
    assert_eq!(fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(version(&copy), 1);
    fs::rename(&copy, &path).unwrap();
    let store = open(dir.path()).unwrap();
    assert_eq!(bodies(&store, store.authenticate(TOKEN).unwrap().unwrap()), ["first", "second"]);
}

#[test]
fn the_epoch_stays_and_a_new_file_is_not_copied() {
    let dir = TempDir::new().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let epoch = open(dir.path()).unwrap().epoch;
    assert_eq!(open(dir.path()).unwrap().epoch, epoch);
    let files = fs::read_dir(dir.path()).unwrap().map(|it| it.unwrap().file_name());
    assert!(files.into_iter().all(|it| !it.to_string_lossy().contains("bak")));
}

#[test]
fn a_step_that_fails_takes_nothing_with_it() {
    let (_dir, path) = version_1();
    let mut conn = connect(&path).unwrap();
    let steps = [MIGRATIONS[0], "DELETE FROM messages; CREATE TABLE new (a);", "no SQL"];
    migrate(&mut conn, &path, &steps, true).unwrap_err();
    drop(conn);
    assert_eq!(version(&path), 1);
    let left: u32 = Connection::open(&path)
        .unwrap()
        .query_row("SELECT count(*) FROM messages", (), |row| row.get(0))
        .unwrap();
    assert_eq!(left, 2);
}

/// What a kill leaves is the files as they are at that moment.
#[test]
fn a_crash_in_the_middle_of_the_steps_leaves_the_old_version() {
    let (dir, path) = version_1();
    let mut conn = connect(&path).unwrap();
    // Small enough a cache, so that the unfinished change spills into the log.
    conn.pragma_update(None, "cache_size", 1).unwrap();
    let tx = conn.transaction_with_behavior(TransactionBehavior::Exclusive).unwrap();
    for step in &MIGRATIONS[1..] {
        tx.execute_batch(step).unwrap();
    }
    tx.execute_batch(
        "CREATE TABLE filler AS WITH RECURSIVE n (i) AS
             (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200) SELECT randomblob(4000) FROM n;
         PRAGMA user_version = 99;",
    )
    .unwrap();
    let copy = TempDir::new().unwrap();
    fs::set_permissions(copy.path(), fs::Permissions::from_mode(0o700)).unwrap();
    for name in [FILE, "bridge.sqlite-wal"] {
        fs::copy(dir.path().join(name), copy.path().join(name)).unwrap();
    }
    let log = fs::metadata(copy.path().join("bridge.sqlite-wal")).unwrap().len();
    assert!(100_000 < log, "the change was under way: {log}");
    drop(tx);
    let store = open(copy.path()).unwrap();
    assert_eq!(bodies(&store, store.authenticate(TOKEN).unwrap().unwrap()), ["first", "second"]);
    let tables: Vec<String> = store
        .reader()
        .prepare("SELECT name FROM sqlite_schema WHERE name = 'filler'")
        .unwrap()
        .query_map((), |row| row.get(0))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    assert!(tables.is_empty(), "{tables:?}");
}
