//! The store without a server: what can't be seen, or not be brought about, over HTTP.

use std::{fs, io::Write as _, os::unix::fs::PermissionsExt, sync::Arc};

use rusqlite::params;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::*;
use crate::{
    ids::{self, ClientMsgId, MachineId, ThreadId},
    serve::store::{
        accounts::{self, NewAccount},
        attachments::Upload,
        messages::{Draft, Range},
        replay::Replay,
        rows::{AccountChange, AccountEvent, Message, Role, millis},
    },
    time::{self, Timestamp},
};

struct Opened {
    store: Store,
    caller: Caller,
    published: Arc<Mutex<Vec<AccountEvent>>>,
    _dir: TempDir,
}

fn open(retention: Retention) -> Opened {
    let dir = private_dir();
    let published = Arc::<Mutex<Vec<AccountEvent>>>::default();
    let events = Arc::clone(&published);
    let publish = Box::new(move |event| events.lock().unwrap().push(event));
    let store = Store::open(dir.path(), retention, publish).unwrap();
    let new = NewAccount { username: "ada", email: None, password: None };
    let (_, token) = store.create_account(new).unwrap().unwrap();
    let caller = store.authenticate(token.reveal()).unwrap().unwrap();
    Opened { store, caller, published, _dir: dir }
}

pub(super) fn private_dir() -> TempDir {
    let dir = TempDir::new().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
    dir
}

/// Opens what was just closed. A child that another test is about to start has our descriptors, and
/// with them the lock, until it becomes another program.
pub(super) fn reopen(dir: &TempDir) -> Result<Store> {
    let deadline = Instant::now() + Duration::from_mins(1);
    loop {
        match Store::open(dir.path(), Retention::default(), Box::new(|_| ())) {
            Err(error)
                if error.to_string().contains("another server uses")
                    && Instant::now() < deadline =>
            {
                std::thread::yield_now();
            }
            result => return result,
        }
    }
}

fn draft(thread: &str, body: &str) -> Draft {
    Draft::new(ThreadId::new(thread), Role::Human, "ada".to_owned(), body.to_owned())
}

fn post(opened: &Opened, thread: &str, body: &str) -> Message {
    *opened.store.post(opened.caller.account, draft(thread, body)).unwrap().unwrap()
}

#[test]
fn a_clock_that_was_set_back_does_not_hide_messages() {
    let opened = open(Retention::default());
    post(&opened, "t", "first");
    let future = time::now().plus(Duration::from_hours(1));
    let last = millis(future);
    opened.store.writer().execute("UPDATE threads SET last = ?", [last]).unwrap();
    opened.store.writer().execute("UPDATE messages SET created = ?", [last]).unwrap();
    let second = post(&opened, "t", "second");
    assert_eq!(second.created, future.plus(Duration::from_millis(1)));
    let range = Range::Since(future);
    let page = opened.store.messages(opened.caller.account, &second.thread, range, 9, usize::MAX);
    assert_eq!(page.unwrap().unwrap().messages, [second]);
}

#[test]
fn events_are_published_in_the_order_of_their_numbers() {
    let opened = open(Retention::default());
    std::thread::scope(|scope| {
        for n in 0..4 {
            let opened = &opened;
            scope.spawn(move || (0..25).for_each(|_| drop(post(opened, &n.to_string(), "x"))));
        }
    });
    let published = opened.published.lock().unwrap();
    assert_eq!(published.len(), 4 * 25 + 4, "a message each, and four new threads");
    assert!(published.is_sorted_by(|a, b| a.seq < b.seq));
    // Replay tells what was told live; but a thread is as it is now, so only messages are the same.
    let account = opened.caller.account;
    let mut replayed: Vec<AccountEvent> = Vec::new();
    loop {
        let after = replayed.last().map_or(0, |it| it.seq);
        let page = opened.store.events(account, after, i64::MAX, false).unwrap();
        if page.is_empty() {
            break;
        }
        replayed.extend(page);
    }
    assert_eq!(replayed.len(), published.len());
    for (replayed, published) in replayed.iter().zip(published.iter()) {
        match (&replayed.change, &published.change) {
            (
                AccountChange::Thread { change, thread },
                AccountChange::Thread { change: live, .. },
            ) => {
                assert_eq!((change, thread.last.is_some()), (live, true));
            }
            _ => assert_eq!(replayed, published),
        }
    }
}

#[test]
fn old_events_are_forgotten_and_messages_are_not() {
    let opened =
        open(Retention { events: 1, age: Duration::from_hours(1), ..Retention::default() });
    let long_ago = millis(time::now()) - 2 * 3_600_000;
    let first = post(&opened, "t", "first");
    opened.store.writer().execute("UPDATE events SET created = ?", [long_ago]).unwrap();
    post(&opened, "t", "second");
    let kind = |last: i64| {
        let resumed = opened.store.resume(opened.caller, Some(&opened.store.epoch.id(last)), || ());
        resumed.unwrap().unwrap().0.kind
    };
    let newest = opened.published.lock().unwrap().last().unwrap().seq;
    assert_eq!(
        [kind(0), kind(newest - 1), kind(newest)],
        [Replay::Gap, Replay::Complete, Replay::Complete]
    );
    let range = Range::Before(Timestamp::from_millis(u64::MAX));
    let page = opened.store.messages(opened.caller.account, &first.thread, range, 9, usize::MAX);
    assert_eq!(page.unwrap().unwrap().messages.len(), 2);
}

#[test]
fn a_token_that_is_replaced_meanwhile_gets_no_stream() {
    let opened = open(Retention::default());
    let token = opened.caller.token().unwrap();
    opened.store.note_machine(token, &MachineId::new("box")).unwrap();
    let new = opened.store.rotate(token, || ()).unwrap().unwrap();
    assert_eq!(opened.store.rotate(token, || ()).unwrap(), None);
    let mut asked = false;
    assert_eq!(opened.store.resume(opened.caller, None, || asked = true).unwrap(), None);
    assert!(!asked);
    // The new one inherits the machine, and neither is in the file.
    let conn = opened.store.reader();
    let machines: Vec<String> = conn
        .prepare("SELECT machine FROM tokens")
        .unwrap()
        .query_map((), |row| row.get(0))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    assert_eq!(machines, ["box", "box"]);
    drop(conn);
    assert_eq!(format!("{new:?}"), "Secret(…)");
}

#[test]
fn a_newer_file_is_refused_and_left_alone() {
    let dir = private_dir();
    let open = || reopen(&dir);
    let store = open().unwrap();
    store.writer().pragma_update(None, "user_version", 99).unwrap();
    drop(store);
    let error = format!("{:#}", open().unwrap_err());
    assert!(error.contains("newer") && error.contains("bridge.sqlite"), "{error}");
}

#[test]
fn a_failed_write_leaves_nothing_and_publishes_nothing() {
    let opened = open(Retention::default());
    post(&opened, "t", "first");
    let before = opened.published.lock().unwrap().len();
    opened
        .store
        .writer()
        .execute_batch(
            "CREATE TRIGGER full BEFORE INSERT ON events BEGIN SELECT raise(ABORT, 'full'); END",
        )
        .unwrap();
    assert!(opened.store.post(opened.caller.account, draft("t", "second")).is_err());
    assert_eq!(opened.published.lock().unwrap().len(), before);
    opened.store.writer().execute_batch("DROP TRIGGER full").unwrap();
    post(&opened, "t", "third");
    let range = Range::Since(Timestamp::default());
    let page =
        opened.store.messages(opened.caller.account, &ThreadId::new("t"), range, 9, usize::MAX);
    let bodies: Vec<String> =
        page.unwrap().unwrap().messages.into_iter().map(|it| it.body).collect();
    assert_eq!(bodies, ["first", "third"]);
}

#[test]
fn messages_expire_but_for_the_newest_of_a_thread() {
    const DAY: Duration = Duration::from_hours(24);
    let retention = Retention { messages: Some(7 * DAY), ..Retention::default() };
    let opened = open(retention);
    let account = opened.caller.account;
    // More than one batch, with a client's id each, so that something refers to every message.
    for n in 0..450 {
        let id = Some(ClientMsgId::new(format!("c{n}")));
        let draft = Draft { client_msg_id: id, ..draft("old", &n.to_string()) };
        opened.store.post(account, draft).unwrap().unwrap();
    }
    post(&opened, "quiet", "the only one");
    let aged = i64::try_from((8 * DAY).as_millis()).unwrap();
    {
        let conn = opened.store.writer();
        conn.execute("UPDATE messages SET created = created - ?", [aged]).unwrap();
        conn.execute("UPDATE events SET created = created - ?", [aged]).unwrap();
        conn.execute("UPDATE threads SET last = last - ?", [aged]).unwrap();
    }
    let before = opened.published.lock().unwrap().last().unwrap().id();
    post(&opened, "mixed", "young");
    let now = time::now();
    let mut removed = Vec::new();
    loop {
        match opened.store.expire(now).unwrap() {
            0 => break,
            count => removed.push(count),
        }
    }
    assert_eq!(removed, [200, 200, 49]);
    let left = |thread: &str| {
        let all = Range::Before(Timestamp::from_millis(u64::MAX));
        let page =
            opened.store.messages(account, &ThreadId::new(thread), all, 999, usize::MAX).unwrap();
        page.unwrap().messages.into_iter().map(|it| it.body).collect::<Vec<_>>()
    };
    assert_eq!((left("old"), left("quiet")), (vec!["449".to_owned()], vec!["the only one".into()]));
    assert_eq!(left("mixed"), ["young"]);
    let listed = opened.store.threads(account, Timestamp::from_millis(u64::MAX), 9, None).unwrap();
    assert_eq!(listed.threads.len(), 3, "every thread is still listed");
    // A stream from before is not told that it missed nothing; one from after is.
    let resumed = |last: &str| opened.store.resume(opened.caller, Some(last), || ()).unwrap();
    let first = opened.published.lock().unwrap()[0].id();
    assert_eq!(resumed(&first).unwrap().0.kind, Replay::Gap);
    assert_eq!(resumed(&before).unwrap().0.kind, Replay::Complete);
    // No row is left that refers to nothing.
    let orphans: u32 = opened
        .store
        .reader()
        .query_row("SELECT count(*) FROM pragma_foreign_key_check", (), |row| row.get(0))
        .unwrap();
    assert_eq!(orphans, 0);
}

#[test]
fn without_an_age_nothing_expires() {
    let opened = open(Retention::default());
    post(&opened, "t", "first");
    post(&opened, "t", "second");
    let far = time::now().plus(Duration::from_hours(24 * 365 * 100));
    assert_eq!(opened.store.expire(far).unwrap(), 0);
}

#[test]
fn a_store_that_can_not_be_written_is_not_ready() {
    let opened = open(Retention::default());
    opened.store.check_writable().unwrap();
    let long_ago = Instant::now().checked_sub(STUCK).unwrap();
    let ready = || {
        *opened.store.written.lock().unwrap() = long_ago;
        opened.store.check_writable()
    };
    ready().unwrap();
    opened.store.writer().pragma_update(None, "query_only", true).unwrap();
    assert!(ready().is_err());
    opened.store.writer().pragma_update(None, "query_only", false).unwrap();
    ready().unwrap();
    let writer = opened.store.writer();
    let error = ready().unwrap_err().to_string();
    assert!(error.contains("not ended"), "{error}");
    drop(writer);
    ready().unwrap();
    assert!(0 < opened.store.bytes());
}

/// A release opens what the ones before it wrote: a changed schema needs another version, and steps.
#[test]
fn the_schema_of_a_version_stays_as_it_is() {
    let digest = ids::hex(&Sha256::digest(SCHEMA));
    assert_eq!((VERSION, &digest[..16]), (5, "848f719faa843cc1"));
}

#[test]
fn a_file_of_another_version_is_refused_and_the_epoch_stays() {
    let dir = private_dir();
    let open = || reopen(&dir);
    let epoch = open().unwrap().epoch;
    assert_eq!(open().unwrap().epoch, epoch);
    let too_old = FIRST_VERSION - 1;
    for (version, word) in [(VERSION + 1, "newer"), (too_old, "before the first release")] {
        let file = Connection::open(dir.path().join(FILE)).unwrap();
        file.pragma_update(None, "user_version", version).unwrap();
        let error = format!("{:#}", open().unwrap_err());
        assert!(error.contains(word), "{error}");
    }
}

/// The first release's tables, with a message, become those of today.
#[test]
fn a_file_of_an_older_version_is_brought_up_to_date() {
    let dir = private_dir();
    drop(reopen(&dir).unwrap());
    let columns = |file: &Connection| -> Vec<String> {
        let mut query = file.prepare("SELECT name FROM pragma_table_info('messages')").unwrap();
        query.query_map((), |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    let file = Connection::open(dir.path().join(FILE)).unwrap();
    let wanted = columns(&file);
    file.execute_batch("ALTER TABLE messages DROP COLUMN via; PRAGMA user_version = 4").unwrap();
    assert_ne!(columns(&file), wanted);
    for (id, name) in (0_i64..).zip(["Ada ", "BOB", "bob", "bob ", "Eve L"]) {
        let insert =
            "INSERT INTO accounts (id, account_id, username, created) VALUES (?1, ?1, ?2, 0)";
        file.execute(insert, rusqlite::params![id, name]).unwrap();
    }
    for _ in 0..2 {
        let store = reopen(&dir).unwrap();
        assert_eq!(columns(&file), wanted);
        let users = store.users().unwrap();
        let names: Vec<&str> = users.iter().map(|it| it.username.as_str()).collect();
        assert_eq!(names, ["BOB", "ada", "bob", "bob ", "eve l"]);
        assert_eq!(store.clashing_names().unwrap(), [["BOB", "bob", "bob "]]);
        let account =
            |name: &str| accounts::account_of(&store.reader(), name).unwrap().map(|it| it.0);
        let found = ["ADA", "BOB", "bob", " Bob", "bob ", "EVE L", "nobody"].map(account);
        assert_eq!(found, [Some(0), Some(1), Some(2), Some(2), Some(3), Some(4), None]);
        for taken in ["aDa", "Bob", "BOB ", "eve l"] {
            assert!(!store.add_user(taken).unwrap(), "{taken}");
        }
    }
}

#[test]
fn a_picture_that_no_message_took_goes_after_a_day() {
    let opened = open(Retention::default());
    let upload = || {
        let data = vec![1, 2, 3];
        let upload = Upload { name: "a".to_owned(), media_type: "image/png", size: None, data };
        opened.store.upload(opened.caller.account, &upload, 6).unwrap()
    };
    let is_there = |id: &str| opened.store.attachment(opened.caller.account, id).unwrap().is_some();
    let (old, used) = (upload().unwrap(), upload().unwrap());
    assert_eq!(upload(), None, "both count");
    let mut draft = draft("t", "see");
    draft.attachments = vec![used.id.clone()];
    opened.store.post(opened.caller.account, draft).unwrap().unwrap();
    let long_ago = millis(time::now()) - 25 * 3_600_000;
    opened.store.writer().execute("UPDATE attachments SET created = ?", [long_ago]).unwrap();
    let new = upload().unwrap();
    assert_eq!([&old, &used, &new].map(|it| is_there(&it.id)), [false, true, true]);
}

/// The threads that a search finds, page by page.
fn search(opened: &Opened, text: &str) -> Vec<String> {
    search_in(&opened.store, opened.caller.account, text)
}

fn search_in(store: &Store, account: AccountKey, text: &str) -> Vec<String> {
    let (mut found, mut before) = (Vec::new(), Timestamp::from_millis(u64::MAX));
    loop {
        let page = store.threads(account, before, 3, Some(text)).unwrap();
        found.extend(page.threads.into_iter().map(|it| it.id.as_str().to_owned()));
        match page.next {
            Some(next) => before = next,
            None => break found,
        }
    }
}

/// Brings the index up to date; how many messages are in it.
fn index_all(store: &Store) -> u32 {
    while store.index_some().unwrap() {}
    store.sweep_index().unwrap();
    indexed(store)
}

fn indexed(store: &Store) -> u32 {
    let conn = store.search[0].lock().unwrap();
    conn.one("SELECT count(*) FROM found.words_docsize", (), |row| row.get(0)).unwrap()
}

/// Messages on a thread that is there, quicker than one by one.
fn fill(store: &Store, count: u32, body: &str) {
    let first = store.last_message.fetch_add(i64::from(count), Ordering::Relaxed) + 1;
    let sql = "WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < ?2)
         INSERT INTO messages (id, thread, message_id, author, role, body, created)
         SELECT ?1 + i, (SELECT max(id) FROM threads), ?1 + i, 'a', 'agent', ?3, i FROM n";
    store.writer().execute(sql, params![first, count, body]).unwrap();
}

/// Whatever the index has, a search finds what reading everything finds.
#[test]
fn a_search_finds_the_same_with_and_without_the_index() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let chars: Vec<char> = "aAbB \"'%_*ßẞΣςİıé\u{301}\u{0}漢\u{f0000}".chars().collect();
    let opened = open(Retention::default());
    let mut said = Vec::<(String, String)>::new();
    for round in 0..4 {
        for n in 0..40 {
            let thread = format!("t{}", n % 7);
            let length = random.usize(1..30);
            let body: String = (0..length).map(|_| *random.choice(&chars).unwrap()).collect();
            post(&opened, &thread, &body);
            said.push((thread, body.to_lowercase()));
        }
        if round % 2 == 1 {
            index_all(&opened.store);
        }
        let titles = opened.store.threads(opened.caller.account, time::now().plus(STUCK), 99, None);
        let titles = titles.unwrap().threads;
        said.extend(titles.into_iter().map(|it| (it.id.to_string(), it.title.to_lowercase())));
        for _ in 0..200 {
            let length = random.usize(1..6);
            let text: String = (0..length).map(|_| *random.choice(&chars).unwrap()).collect();
            let lower = text.to_lowercase();
            let has_it = said.iter().filter(|it| it.1.contains(&lower)).map(|it| it.0.clone());
            let mut expected: Vec<String> = has_it.collect();
            expected.sort();
            expected.dedup();
            let mut found = search(&opened, &text);
            found.sort();
            assert_eq!(found, expected, "{text:?}, seed {seed}");
        }
    }
}

/// What is read to find nothing would be many pages.
#[test]
fn a_word_that_is_nowhere_is_looked_up_and_not_read_for() {
    let opened = open(Retention::default());
    post(&opened, "t", "first");
    fill(&opened.store, 50, &"some text ".repeat(100_000));
    let page = |text: &str| {
        let end = Timestamp::from_millis(u64::MAX);
        opened.store.threads(opened.caller.account, end, 9, Some(text)).unwrap()
    };
    for n in 0..40 {
        post(&opened, &format!("t{n}"), &"other text ".repeat(100_000));
    }
    assert!(page("absent").next.is_some(), "it reads as much as it may");
    index_all(&opened.store);
    assert!(page("absent").next.is_none() && page("absent").threads.is_empty());
    assert_eq!(page("first").threads.len(), 1);
    // Too short for the index: as much is read as may be, and then it says where to go on.
    assert!(page("zz").next.is_some());
}

#[test]
fn what_is_removed_leaves_the_index_and_its_place_is_taken_by_nobody() {
    let retention = Retention { messages: Some(Duration::from_hours(1)), ..Retention::default() };
    let opened = open(retention);
    let store = &opened.store;
    post(&opened, "keep", "stays here");
    post(&opened, "gone", "needle one");
    assert_eq!(index_all(store), 2);
    store.delete_thread(opened.caller.account, &ThreadId::new("gone")).unwrap();
    assert_eq!(search(&opened, "needle"), [""; 0]);
    // The newest message is gone; another comes before the index knows.
    post(&opened, "new", "needle two");
    assert_eq!(search(&opened, "needle"), ["new"]);
    assert_eq!((index_all(store), search(&opened, "needle").len()), (2, 1));
    assert_eq!(search(&opened, "needle"), ["new"]);
    // Nothing has changed.
    assert_eq!(store.sweep_index().unwrap(), 0);
    post(&opened, "new", "the newest stays");
    assert_eq!(index_all(store), 3);
    // Titles are not in the index.
    store.rename(opened.caller.account, &ThreadId::new("new"), "title").unwrap();
    assert_eq!(search(&opened, "needle"), ["new"]);
    assert_eq!(store.expire(time::now().plus(Duration::from_hours(2))).unwrap(), 1);
    assert_eq!((index_all(store), search(&opened, "needle").len()), (2, 0));
    store.remove_user("ada").unwrap();
    assert_eq!(index_all(store), 0);
}

#[test]
fn an_index_that_is_lost_damaged_or_of_another_database_is_made_anew() {
    let dir = private_dir();
    let file = dir.path().join("search.sqlite");
    let store = reopen(&dir).unwrap();
    let new = NewAccount { username: "ada", email: None, password: None };
    let (_, token) = store.create_account(new).unwrap().unwrap();
    let account = store.authenticate(token.reveal()).unwrap().unwrap().account;
    store.post(account, draft("t", "needle")).unwrap().unwrap();
    drop(store);
    for spoil in ["nothing", "lost", "damaged", "cut", "other", "newer", "nothing"] {
        match spoil {
            "lost" => fs::remove_file(&file).unwrap(),
            "damaged" => File::create(&file).unwrap().write_all(&[7; 9999]).unwrap(),
            "cut" => {
                let whole = OpenOptions::new().write(true).open(&file).unwrap();
                whole.set_len(5000).unwrap();
            }
            "newer" => {
                Connection::open(&file).unwrap().pragma_update(None, "user_version", 99).unwrap();
            }
            _ => {}
        }
        let mut store = reopen(&dir).unwrap();
        if spoil == "other" {
            store.writer().execute("UPDATE epoch SET value = 7", ()).unwrap();
            drop(store);
            store = reopen(&dir).unwrap();
        }
        for _ in 0..2 {
            assert_eq!(search_in(&store, account, "needle"), ["t"], "{spoil}");
            assert_eq!(index_all(&store), 1, "{spoil}");
        }
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{spoil}");
    }
}
