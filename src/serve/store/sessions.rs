//! People: how they come in by a one-time link or a password, what their cookie is good for, and how
//! an account goes. Of cookies and codes the file has only hashes.

use std::time::Duration;

use anyhow::Result;
use rusqlite::{Connection, params};

use crate::{
    serve::store::{
        AccountKey, Caller, Credential, PasswordKey, SessionKey, Sql, Store,
        accounts::{self, NewAccount, Secret, USE_MILLIS, account_of, hash},
        rows::{millis, timestamp},
    },
    time::Timestamp,
};

/// Sessions of one account; over that, the one that was unused for longest ends.
const SESSIONS_MAX: u32 = 50;
/// How long the code of a one-time link is good.
const WELCOME_TIME: Duration = Duration::from_hours(24);

/// What belongs to an account, what refers to others before them, and at last the account. Were a
/// table forgotten here, its references would keep the account from going.
const ITS_ROWS: [&str; 11] = [
    "events WHERE account = ?",
    "client_msg_ids WHERE account = ?",
    "attachments WHERE account = ?",
    "external_sessions WHERE account = ?",
    "messages WHERE thread IN (SELECT id FROM threads WHERE account = ?)",
    "threads WHERE account = ?",
    "machines WHERE account = ?",
    "tokens WHERE account = ?",
    "sessions WHERE account = ?",
    "welcomes WHERE account = ?",
    "accounts WHERE id = ?",
];

/// How long somebody stays signed in.
#[derive(Clone, Copy, Debug)]
pub struct Lifetime {
    /// From signing in.
    pub absolute: Duration,
    /// From the last request.
    pub idle: Duration,
}

impl Default for Lifetime {
    fn default() -> Lifetime {
        let day = Duration::from_hours(24);
        Lifetime { absolute: 30 * day, idle: 7 * day }
    }
}

impl Lifetime {
    fn end(self, created: Timestamp, seen: Timestamp) -> i64 {
        millis(created.plus(self.absolute).min(seen.plus(self.idle)))
    }
}

/// An account as `serve user list` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserInfo {
    pub username: String,
    pub created: Timestamp,
    pub has_password: bool,
    pub threads: u32,
    /// That are good.
    pub tokens: u32,
    /// When a browser was last seen.
    pub seen: Option<Timestamp>,
}

impl Store {
    /// Makes an account that has no token, and no password yet. False: the name is taken.
    pub fn add_user(&self, username: &str) -> Result<bool> {
        let new = NewAccount { username, email: None, password: None };
        self.write(|write| Ok(accounts::insert_account(write.tx, &new)?.is_some()))
    }

    /// Makes the code of a one-time link, which lets its bearer set the account's password. It takes
    /// the place of an earlier one. None: there is no such account.
    pub fn welcome(&self, username: &str, now: Timestamp) -> Result<Option<Secret>> {
        let code = Secret::random("");
        self.write(|write| {
            let Some(account) = account_of(write.tx, username)? else { return Ok(None) };
            write.tx.change(
                "INSERT OR REPLACE INTO welcomes (account, hash, expires) VALUES (?, ?, ?)",
                params![account.0, hash(code.reveal()), millis(now.plus(WELCOME_TIME))],
            )?;
            Ok(Some(code))
        })
    }

    /// Whether the code could be redeemed now. A look, to spare the hashing of a password.
    pub fn is_welcome(&self, code: &str, now: Timestamp) -> Result<bool> {
        let select = "SELECT 1 FROM welcomes WHERE hash = ? AND expires > ?";
        self.reader().has(select, params![hash(code), millis(now)])
    }

    /// Uses a code up: the account gets the password, and all its sessions end. None: the code is
    /// unknown, used or too old.
    pub fn redeem(&self, code: &str, password: &str, now: Timestamp) -> Result<Option<AccountKey>> {
        self.write(|write| {
            let account: Option<i64> = write.tx.value(
                "DELETE FROM welcomes WHERE hash = ? AND expires > ? RETURNING account",
                params![hash(code), millis(now)],
            )?;
            let Some(account) = account.map(AccountKey) else { return Ok(None) };
            set_password(write.tx, account, password, None)?;
            Ok(Some(account))
        })
    }

    /// Sets the password and ends all sessions but `keep`, also a link that is on its way. Whether
    /// there is such an account.
    pub fn set_password(
        &self,
        account: AccountKey,
        password: &str,
        keep: Option<SessionKey>,
    ) -> Result<bool> {
        self.write(|write| set_password(write.tx, account, password, keep))
    }

    /// As [`Store::set_password`], for whoever holds the machine.
    pub fn set_password_of(&self, username: &str, password: &str) -> Result<bool> {
        self.write(|write| match account_of(write.tx, username)? {
            Some(account) => set_password(write.tx, account, password, None),
            None => Ok(false),
        })
    }

    /// Signs somebody in who has proved to know a password. None: that is no longer the account's.
    /// Without this look, a sign-in that was under way would outlive the change of a password.
    pub fn begin_session(
        &self,
        account: AccountKey,
        password: PasswordKey,
        lifetime: Lifetime,
        now: Timestamp,
    ) -> Result<Option<(SessionKey, Secret)>> {
        self.write(|write| {
            if accounts::password(write.tx, account.0)? != Some(password) {
                return Ok(None);
            }
            let secret = Secret::random("");
            write.tx.execute("DELETE FROM sessions WHERE expires <= ?", [millis(now)])?;
            write.tx.execute(
                "DELETE FROM sessions WHERE id IN (SELECT id FROM sessions WHERE account = ?
                 ORDER BY seen DESC, id DESC LIMIT -1 OFFSET ?)",
                params![account.0, SESSIONS_MAX - 1],
            )?;
            write.tx.execute(
                "INSERT INTO sessions (account, hash, created, seen, expires)
                 VALUES (?1, ?2, ?3, ?3, ?4)",
                params![account.0, hash(secret.reveal()), millis(now), lifetime.end(now, now)],
            )?;
            Ok(Some((SessionKey(write.tx.last_insert_rowid()), secret)))
        })
    }

    /// Who has this cookie. None: nobody, or no longer.
    pub fn session(
        &self,
        cookie: &str,
        lifetime: Lifetime,
        now: Timestamp,
    ) -> Result<Option<Caller>> {
        let found: Option<(i64, i64, i64, i64)> = self.reader().first(
            "SELECT id, account, created, seen FROM sessions WHERE hash = ? AND expires > ?",
            params![hash(cookie), millis(now)],
            |row| row.try_into(),
        )?;
        let Some((id, account, created, seen)) = found else { return Ok(None) };
        if USE_MILLIS <= millis(now).saturating_sub(seen) {
            let expires = lifetime.end(timestamp(created), now);
            let update = "UPDATE sessions SET seen = ?, expires = ? WHERE id = ?";
            self.note_use(update, [millis(now), expires, id]);
        }
        let access = Credential::Session(SessionKey(id));
        Ok(Some(Caller { account: AccountKey(account), access }))
    }

    pub fn end_session(&self, session: SessionKey) -> Result<()> {
        self.change("DELETE FROM sessions WHERE id = ?", [session.0]).map(drop)
    }

    /// Whether somebody who was let in would be let in now.
    pub fn is_let_in(&self, caller: Caller, now: Timestamp) -> Result<bool> {
        accounts::is_valid(&self.reader(), caller, millis(now))
    }

    pub fn has_user(&self, username: &str) -> Result<bool> {
        Ok(account_of(&self.reader(), username)?.is_some())
    }

    /// All accounts, by name.
    pub fn users(&self) -> Result<Vec<UserInfo>> {
        self.reader().all(
            "SELECT username, created, password IS NOT NULL,
                    (SELECT count(*) FROM threads WHERE account = accounts.id),
                    (SELECT count(*) FROM tokens WHERE account = accounts.id AND revoked IS NULL),
                    (SELECT max(seen) FROM sessions WHERE account = accounts.id)
             FROM accounts ORDER BY username",
            (),
            |row| {
                Ok(UserInfo {
                    username: row.get(0)?,
                    created: timestamp(row.get(1)?),
                    has_password: row.get(2)?,
                    threads: row.get(3)?,
                    tokens: row.get(4)?,
                    seen: row.get::<_, Option<i64>>(5)?.map(timestamp),
                })
            },
        )
    }

    /// Removes an account and all rows of all tables that are its own. Whether there was one.
    pub fn remove_user(&self, username: &str) -> Result<bool> {
        self.write(|write| {
            let Some(account) = account_of(write.tx, username)? else { return Ok(false) };
            for rows in ITS_ROWS {
                write.tx.execute(&format!("DELETE FROM {rows}"), [account.0])?;
            }
            Ok(true)
        })
    }
}

fn set_password(
    tx: &Connection,
    account: AccountKey,
    password: &str,
    keep: Option<SessionKey>,
) -> Result<bool> {
    let update = "UPDATE accounts SET password = ? WHERE id = ?";
    let set = tx.execute(update, params![password, account.0])?;
    tx.execute(
        "DELETE FROM sessions WHERE account = ? AND id IS NOT ?",
        params![account.0, keep.map(|it| it.0)],
    )?;
    tx.execute("DELETE FROM welcomes WHERE account = ?", [account.0])?;
    Ok(0 < set)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        ids::{ClientMsgId, MachineId, SessionId, ThreadId},
        serve::store::{
            Retention,
            attachments::Upload,
            external::ExternalSession,
            messages::Draft,
            rows::Role,
            tests::{private_dir, reopen},
        },
        time,
    };

    /// How many rows each table has, but for the one that says which file it is.
    fn counts(store: &Store) -> BTreeMap<String, i64> {
        let conn = store.reader();
        let names = "SELECT name FROM sqlite_schema
             WHERE type = 'table' AND name NOT LIKE 'sqlite_%' AND name <> 'epoch'";
        let mut query = conn.prepare(names).unwrap();
        let names = query.query_map((), |row| row.get(0)).unwrap();
        names
            .map(|name| {
                let name: String = name.unwrap();
                let count = format!("SELECT count(*) FROM {name}");
                (name, conn.query_row(&count, (), |row| row.get(0)).unwrap())
            })
            .collect()
    }

    /// Of the password of those who settle.
    fn known() -> PasswordKey {
        PasswordKey::of("x")
    }

    /// Gives an account one of everything.
    fn settle(store: &Store, name: &str) -> Caller {
        let new = NewAccount { username: name, email: None, password: Some("x") };
        let (_, token) = store.create_account(new).unwrap().unwrap();
        let caller = store.authenticate(token.reveal()).unwrap().unwrap();
        let lifetime = Lifetime::default();
        store.begin_session(caller.account, known(), lifetime, time::now()).unwrap().unwrap();
        store.welcome(name, time::now()).unwrap().unwrap();
        let (thread, body) = (ThreadId::new("t"), "hello".to_owned());
        let draft = Draft::new(thread, Role::Human, name.to_owned(), body);
        let draft = Draft { client_msg_id: Some(ClientMsgId::new("1")), ..draft };
        store.post(caller.account, draft).unwrap().unwrap();
        let machine = MachineId::new("box");
        store.saw_machines([(caller.account, &machine, &[][..])]).unwrap();
        let data = vec![1];
        let upload = Upload { name: "a".to_owned(), media_type: "image/png", size: None, data };
        store.upload(caller.account, &upload, 9).unwrap().unwrap();
        let session = ExternalSession {
            source: "claude".to_owned(),
            id: SessionId::new("s"),
            project_dir: None,
            project_name: None,
            title: String::new(),
            last_activity: None,
            preview: None,
            preview_author: None,
            recent: Vec::new(),
        };
        store.sync_sessions(caller.account, &machine, &[session], &[]).unwrap();
        caller
    }

    #[test]
    fn an_account_goes_with_all_that_is_its_own_and_nothing_else() {
        let dir = private_dir();
        let store = Store::open(dir.path(), Retention::default(), Box::new(|_| ())).unwrap();
        let ada = settle(&store, "ada");
        let before = counts(&store);
        let bob = settle(&store, "bob");
        let both = counts(&store);
        assert!(both.iter().all(|(table, count)| before[table] < *count), "{both:?}");
        assert!(store.remove_user("bob").unwrap());
        assert_eq!(counts(&store), before);
        assert!(!store.remove_user("bob").unwrap());
        let now = time::now();
        assert!(store.is_let_in(ada, now).unwrap() && !store.is_let_in(bob, now).unwrap());
        // Whoever still holds its keys does not find the next one of that name.
        let again = settle(&store, "bob");
        assert!(again.account != bob.account && !store.is_let_in(bob, now).unwrap());
        assert_eq!(store.resume(bob, None, || ()).unwrap(), None);
    }

    #[test]
    fn sessions_of_an_account_are_bounded() {
        let dir = private_dir();
        let store = Store::open(dir.path(), Retention::default(), Box::new(|_| ())).unwrap();
        let ada = settle(&store, "ada").account;
        let (lifetime, now) = (Lifetime::default(), time::now());
        let cookies: Vec<Secret> = (0..=SESSIONS_MAX)
            .map(|_| store.begin_session(ada, known(), lifetime, now).unwrap().unwrap().1)
            .collect();
        let is_good = |secret: &Secret| store.session(secret.reveal(), lifetime, now).unwrap();
        assert_eq!(is_good(&cookies[0]), None, "the oldest has made room");
        assert!(cookies[1..].iter().all(|it| is_good(it).is_some()));
        // What has expired does not stay in the file.
        let later = now.plus(lifetime.absolute);
        store.begin_session(ada, known(), lifetime, later).unwrap().unwrap();
        assert_eq!(counts(&store)["sessions"], 1);
    }

    #[test]
    fn a_password_that_was_replaced_meanwhile_begins_no_session_and_keeps_no_stream() {
        let dir = private_dir();
        let store = Store::open(dir.path(), Retention::default(), Box::new(|_| ())).unwrap();
        let ada = settle(&store, "ada").account;
        let (lifetime, now) = (Lifetime::default(), time::now());
        let (account, stored) = store.login("ada").unwrap().unwrap();
        let basic = Caller { account, access: Credential::Password(PasswordKey::of(&stored)) };
        assert!(store.is_let_in(basic, now).unwrap());
        assert!(store.set_password_of("ada", "y").unwrap());
        assert_eq!(store.begin_session(ada, known(), lifetime, now).unwrap(), None);
        assert!(!store.is_let_in(basic, now).unwrap());
        assert_eq!(store.resume(basic, None, || ()).unwrap(), None);
        store.begin_session(ada, PasswordKey::of("y"), lifetime, now).unwrap().unwrap();
    }

    #[test]
    fn a_use_is_written_down_once_a_minute() {
        let dir = private_dir();
        let store = Store::open(dir.path(), Retention::default(), Box::new(|_| ())).unwrap();
        let ada = settle(&store, "ada").account;
        let (lifetime, begun) = (Lifetime::default(), time::now());
        let (_, secret) = store.begin_session(ada, known(), lifetime, begun).unwrap().unwrap();
        let seen = |secs| {
            let now = begun.plus(Duration::from_secs(secs));
            store.session(secret.reveal(), lifetime, now).unwrap().unwrap();
            store.users().unwrap()[0].seen.unwrap().since(begun).as_secs()
        };
        assert_eq!([seen(0), seen(59), seen(60), seen(119), seen(120)], [0, 0, 60, 60, 120]);
    }

    #[test]
    fn a_store_is_opened_beside_a_server() {
        let dir = private_dir();
        let server = reopen(&dir).unwrap();
        let beside = Store::open_beside(dir.path()).unwrap();
        assert!(beside.add_user("bob").unwrap());
        assert_eq!(server.users().unwrap()[0].username, "bob");
        drop(server);
        // Nor does whoever works beside keep a server from starting.
        reopen(&dir).unwrap();
    }
}
