//! Accounts and their tokens. A token is shown once, when it is made; the file has its hash.

use std::{collections::BTreeMap, fmt};

use anyhow::Result;
use rusqlite::{Connection, Params, params};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::{
    ids::{self, MachineId},
    serve::store::{
        AccountKey, Caller, Credential, PasswordKey, Sql, Store, TokenKey,
        rows::{millis, timestamp},
    },
    time::{self, Timestamp},
};

/// How exactly the last use of a token or session is known, in milliseconds: a write costs a sync.
pub(super) const USE_MILLIS: i64 = 60_000;
/// Tokens of one account that are good at the same time.
const TOKENS_MAX: i64 = 200;

/// How much of a token may be shown: enough to tell two apart, too little to guess one.
const PREFIX_CHARS: usize = 10;

/// A machine's token, `obto_…`, a browser's cookie, or the code of a one-time link, which alone is
/// printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub(super) fn random(prefix: &str) -> Secret {
        Secret(format!("{prefix}{}{}", ids::random_hex(), ids::random_hex()))
    }

    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Characters of a user name.
const NAME_CHARS: usize = 100;

/// A user name as it is stored and compared: without blanks around it, in small letters.
pub fn canonical(name: &str) -> String {
    name.trim().to_lowercase()
}

/// What is wrong with a user name that somebody chose. Older ones may be anything.
pub fn name_problem(name: &str) -> Option<&'static str> {
    let name = canonical(name);
    let is_good = |c: char| c.is_ascii_alphanumeric() || "._-+@".contains(c);
    if name.is_empty() {
        Some("is blank")
    } else if NAME_CHARS < name.len() {
        Some("is too long")
    } else if !name.chars().all(is_good) || !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        Some("must be letters a to z and digits, and after the first of them also . _ - + @")
    } else {
        None
    }
}

#[derive(Debug)]
pub struct NewAccount<'a> {
    /// Unique in its [`canonical`] form.
    pub username: &'a str,
    pub email: Option<&'a str>,
    /// From [`crate::serve::password::hash`].
    pub password: Option<&'a str>,
}

/// What `whoami` tells.
#[derive(Debug)]
pub struct Account {
    /// `acc_…`, its public name.
    pub account_id: String,
    pub username: String,
    pub email: Option<String>,
    /// Of the token that asks.
    pub token_prefix: Option<String>,
}

/// A token that is good, as its owner is shown it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenInfo {
    pub id: TokenKey,
    pub prefix: String,
    /// The last one that streamed with it.
    pub machine: Option<MachineId>,
    pub created_at: Timestamp,
    /// To the minute.
    pub last_used_at: Option<Timestamp>,
}

impl Store {
    /// Makes an account with a token, and gives its public name and the token. None: the user name
    /// is taken.
    pub fn create_account(&self, new: NewAccount<'_>) -> Result<Option<(String, Secret)>> {
        self.write(|write| {
            let Some((account, account_id)) = insert_account(write.tx, &new)? else {
                return Ok(None);
            };
            Ok(Some((account_id, insert_token(write.tx, account, None)?)))
        })
    }

    pub fn authenticate(&self, token: &str) -> Result<Option<Caller>> {
        let found: Option<(i64, i64, Option<i64>)> = self.reader().first(
            "SELECT id, account, used FROM tokens WHERE hash = ? AND revoked IS NULL",
            [hash(token)],
            |row| row.try_into(),
        )?;
        let Some((token, account, used)) = found else { return Ok(None) };
        let now = millis(time::now());
        if used.is_none_or(|used| USE_MILLIS <= now.saturating_sub(used)) {
            self.note_use("UPDATE tokens SET used = ? WHERE id = ?", [now, token]);
        }
        let access = Credential::Token(TokenKey(token));
        Ok(Some(Caller { account: AccountKey(account), access }))
    }

    /// Writes down when something was used. That this fails is no reason to let nobody in.
    pub(super) fn note_use(&self, update: &str, params: impl Params) {
        if let Err(error) = self.change(update, params) {
            log::warn!("the last use of a token or session was not noted: {error:#}");
        }
    }

    /// The account of a user name, with the password's hash.
    pub fn login(&self, username: &str) -> Result<Option<(AccountKey, String)>> {
        let conn = self.reader();
        let Some(account) = account_of(&conn, username)? else { return Ok(None) };
        let select = "SELECT password FROM accounts WHERE id = ? AND password IS NOT NULL";
        let stored: Option<String> = conn.value(select, [account.0])?;
        Ok(stored.map(|stored| (account, stored)))
    }

    /// Puts a better hash of the same password in the place of `old`, if that is still there.
    pub fn strengthen(&self, account: AccountKey, old: &str, new: &str) -> Result<()> {
        let update = "UPDATE accounts SET password = ? WHERE id = ? AND password = ?";
        self.change(update, params![new, account.0, old]).map(drop)
    }

    /// The good tokens of an account, oldest first.
    pub fn tokens(&self, account: AccountKey) -> Result<Vec<TokenInfo>> {
        self.reader().all(
            "SELECT id, prefix, machine, created, used FROM tokens
             WHERE account = ? AND revoked IS NULL ORDER BY id",
            [account.0],
            |row| {
                Ok(TokenInfo {
                    id: TokenKey(row.get(0)?),
                    prefix: row.get(1)?,
                    machine: row.get::<_, Option<String>>(2)?.map(MachineId::new),
                    created_at: timestamp(row.get(3)?),
                    last_used_at: row.get::<_, Option<i64>>(4)?.map(timestamp),
                })
            },
        )
    }

    /// Makes a further token. None: the account has too many.
    pub fn add_token(&self, account: AccountKey) -> Result<Option<(TokenKey, Secret)>> {
        self.write(|write| {
            let good = "SELECT 1 FROM tokens WHERE account = ? AND revoked IS NULL";
            if write.tx.has(&format!("{good} LIMIT 1 OFFSET ?"), [account.0, TOKENS_MAX - 1])? {
                return Ok(None);
            }
            let token = insert_token(write.tx, account.0, None)?;
            Ok(Some((TokenKey(write.tx.last_insert_rowid()), token)))
        })
    }

    /// Whether there was such a token on the account, and a good one.
    pub fn revoke_token(&self, account: AccountKey, token: TokenKey) -> Result<bool> {
        self.change(
            "UPDATE tokens SET revoked = ? WHERE id = ? AND account = ? AND revoked IS NULL",
            params![millis(time::now()), token.0, account.0],
        )
    }

    pub fn account(&self, caller: Caller) -> Result<Account> {
        self.reader().one(
            "SELECT account_id, username, email, (SELECT prefix FROM tokens WHERE id = ?)
                 FROM accounts WHERE id = ?",
            params![caller.token().map(|it| it.0), caller.account.0],
            |row| {
                let (account_id, username, email, token_prefix) = row.try_into()?;
                Ok(Account { account_id, username, email, token_prefix })
            },
        )
    }

    /// User names that are one but for case and blanks, in groups.
    pub fn clashing_names(&self) -> Result<Vec<Vec<String>>> {
        let names = "SELECT username FROM accounts ORDER BY username";
        let mut groups = BTreeMap::<String, Vec<String>>::new();
        let names: Vec<String> = self.reader().all(names, (), |row| row.get(0))?;
        for name in names {
            groups.entry(canonical(&name)).or_default().push(name);
        }
        Ok(groups.into_values().filter(|it| 1 < it.len()).collect())
    }

    /// Replaces a token. `closing` runs before any stream can start or event be published.
    /// None: another call has replaced it already.
    pub fn rotate(&self, old: TokenKey, closing: impl FnOnce()) -> Result<Option<Secret>> {
        let mut conn = self.writer();
        let tx = conn.transaction()?;
        let revoked: Option<(i64, Option<String>)> = tx.first(
            "UPDATE tokens SET revoked = ? WHERE id = ? AND revoked IS NULL
                 RETURNING account, machine",
            params![millis(time::now()), old.0],
            |row| row.try_into(),
        )?;
        let Some((account, machine)) = revoked else { return Ok(None) };
        let token = insert_token(&tx, account, machine.as_deref())?;
        tx.commit()?;
        closing();
        Ok(Some(token))
    }

    /// Remembers which machine uses a token.
    pub fn note_machine(&self, token: TokenKey, machine: &MachineId) -> Result<()> {
        let known = "SELECT 1 FROM tokens WHERE id = ? AND machine = ?";
        if self.reader().has(known, params![token.0, machine.as_str()])? {
            return Ok(());
        }
        let update = "UPDATE tokens SET machine = ? WHERE id = ?";
        self.change(update, params![machine.as_str(), token.0]).map(drop)
    }
}

/// None: the user name is taken.
pub(super) fn insert_account(
    tx: &Connection,
    new: &NewAccount<'_>,
) -> Result<Option<(i64, String)>> {
    let username = canonical(new.username);
    let names: Vec<String> = tx.all("SELECT username FROM accounts", (), |row| row.get(0))?;
    if names.iter().any(|it| canonical(it) == username) {
        return Ok(None);
    }
    let account_id = format!("acc_{}", ids::random_hex());
    // Random, so that the id of an account that was removed is never another's: whoever still holds
    // it must find nothing.
    let id = tx.value(
        "INSERT INTO accounts (id, account_id, username, email, password, created)
             VALUES (random() & 0x7fffffffffffffff, ?, ?, ?, ?, ?) RETURNING id",
        params![account_id, username, new.email, new.password, millis(time::now())],
    )?;
    Ok(id.map(|id| (id, account_id)))
}

/// The account of a user name. One that is stored just so goes first: older bridges made `ALICE` and
/// `alice` two accounts.
pub(super) fn account_of(conn: &Connection, username: &str) -> Result<Option<AccountKey>> {
    conn.first(
        "SELECT id FROM accounts WHERE username IN (?1, ?2) ORDER BY username = ?1 DESC LIMIT 1",
        [username, &canonical(username)],
        |row| row.get(0).map(AccountKey),
    )
}

/// Whether somebody who was let in still would be at that time.
pub(super) fn is_valid(conn: &Connection, caller: Caller, now: i64) -> Result<bool> {
    let account = caller.account.0;
    match caller.access {
        Credential::Token(token) => conn.has(
            "SELECT 1 FROM tokens WHERE id = ? AND account = ? AND revoked IS NULL",
            [token.0, account],
        ),
        Credential::Session(session) => conn.has(
            "SELECT 1 FROM sessions WHERE id = ? AND account = ? AND expires > ?",
            [session.0, account, now],
        ),
        Credential::Password(key) => Ok(password(conn, account)? == Some(key)),
    }
}

/// Of the password that the account has now, if any.
pub(super) fn password(conn: &Connection, account: i64) -> Result<Option<PasswordKey>> {
    let select = "SELECT password FROM accounts WHERE id = ? AND password IS NOT NULL";
    let stored: Option<String> = conn.value(select, [account])?;
    Ok(stored.as_deref().map(PasswordKey::of))
}

fn insert_token(tx: &Connection, account: i64, machine: Option<&str>) -> Result<Secret> {
    let token = Secret::random("obto_");
    tx.execute(
        "INSERT INTO tokens (account, hash, prefix, machine, created) VALUES (?, ?, ?, ?, ?)",
        params![account, hash(&token.0), &token.0[..PREFIX_CHARS], machine, millis(time::now())],
    )?;
    Ok(token)
}

/// A token has 256 random bits, so a plain hash is enough and a look-up by it leaks nothing.
pub fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}
