//! Accounts and their tokens. A token is shown once, when it is made; the file has its hash.

use std::fmt;

use anyhow::Result;
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use sha2::{Digest, Sha256};

use crate::{
    ids::{self, MachineId},
    serve::store::{
        AccountKey, Caller, PasswordKey, Sql, Store, TokenKey,
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

/// `acc_…`, the public name of an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountId(String);

impl AccountId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

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
const NAME_CHARS: usize = 200;

/// What is wrong with a user name that somebody chose.
pub fn name_problem(name: &str) -> Option<&'static str> {
    if name.trim().is_empty() {
        Some("is blank")
    } else if NAME_CHARS < name.chars().count() || name.contains(char::is_control) {
        Some("is too long or has control characters")
    } else if name.contains(':') {
        Some("has a colon, which a browser can't send")
    } else {
        None
    }
}

/// An account to be made.
#[derive(Debug)]
pub struct NewAccount<'a> {
    /// Unique; compared byte for byte.
    pub username: &'a str,
    pub email: Option<&'a str>,
    /// From [`crate::serve::password::hash`].
    pub password: Option<&'a str>,
}

/// What `whoami` tells.
#[derive(Debug)]
pub struct Account {
    pub account_id: AccountId,
    pub username: String,
    pub email: Option<String>,
    /// Of the token that asks.
    pub token_prefix: Option<String>,
}

/// A token that is good, as its owner is shown it.
#[derive(Debug)]
pub struct TokenInfo {
    pub key: TokenKey,
    pub prefix: String,
    /// The last one that streamed with it.
    pub machine: Option<MachineId>,
    pub created: Timestamp,
    /// To the minute.
    pub used: Option<Timestamp>,
}

impl Store {
    /// Makes an account with a token. None: the user name is taken.
    pub fn create_account(&self, new: NewAccount<'_>) -> Result<Option<(AccountId, Secret)>> {
        self.write(|write| {
            let Some((account, account_id)) = insert_account(&write.tx, &new)? else {
                return Ok(None);
            };
            Ok(Some((account_id, insert_token(&write.tx, account, None)?)))
        })
    }

    pub fn authenticate(&self, token: &str) -> Result<Option<Caller>> {
        let found: Option<(i64, i64, Option<i64>)> = self.reader().first(
            "SELECT id, account, used FROM tokens WHERE hash = ? AND revoked IS NULL",
            [hash(token)],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )?;
        let Some((token, account, used)) = found else { return Ok(None) };
        let now = millis(time::now());
        if used.is_none_or(|used| USE_MILLIS <= now.saturating_sub(used)) {
            self.note_use("UPDATE tokens SET used = ?1 WHERE id = ?2", now, token);
        }
        let (account, token) = (AccountKey(account), Some(TokenKey(token)));
        Ok(Some(Caller { account, token, session: None, password: None }))
    }

    /// Writes down when something was used. That this fails is no reason to let nobody in.
    pub(super) fn note_use(&self, update: &str, now: i64, id: i64) {
        let noted = self.write(|write| Ok(write.tx.execute(update, [now, id])?));
        if let Err(error) = noted {
            log::warn!("the last use of a token or session was not noted: {error:#}");
        }
    }

    /// The account of a user name, with the password's hash.
    pub fn login(&self, username: &str) -> Result<Option<(Caller, String)>> {
        let found = self
            .reader()
            .prepare_cached(
                "SELECT id, password FROM accounts WHERE username = ? AND password IS NOT NULL",
            )?
            .query_row([username], |row| {
                let (account, stored): (_, String) = (AccountKey(row.get(0)?), row.get(1)?);
                let password = Some(PasswordKey::of(&stored));
                Ok((Caller { account, token: None, session: None, password }, stored))
            })
            .optional()?;
        Ok(found)
    }

    /// Puts a better hash of the same password in the place of `old`, if that is still there.
    pub fn strengthen(&self, account: AccountKey, old: &str, new: &str) -> Result<()> {
        self.write(|write| {
            let update = "UPDATE accounts SET password = ? WHERE id = ? AND password = ?";
            write.tx.execute(update, params![new, account.0, old])?;
            Ok(())
        })
    }

    /// The good tokens of an account, oldest first.
    pub fn tokens(&self, account: AccountKey) -> Result<Vec<TokenInfo>> {
        self.reader().all(
            "SELECT id, prefix, machine, created, used FROM tokens
             WHERE account = ? AND revoked IS NULL ORDER BY id",
            [account.0],
            |row| {
                Ok(TokenInfo {
                    key: TokenKey(row.get(0)?),
                    prefix: row.get(1)?,
                    machine: row.get::<_, Option<String>>(2)?.map(MachineId::new),
                    created: timestamp(row.get(3)?),
                    used: row.get::<_, Option<i64>>(4)?.map(timestamp),
                })
            },
        )
    }

    /// Makes a further token. None: the account has too many.
    pub fn add_token(&self, account: AccountKey) -> Result<Option<(TokenKey, Secret)>> {
        self.write(|write| {
            let count: i64 = write.tx.query_row(
                "SELECT count(*) FROM tokens WHERE account = ? AND revoked IS NULL",
                [account.0],
                |row| row.get(0),
            )?;
            if TOKENS_MAX <= count {
                return Ok(None);
            }
            let token = insert_token(&write.tx, account.0, None)?;
            Ok(Some((TokenKey(write.tx.last_insert_rowid()), token)))
        })
    }

    /// Whether there was such a token on the account, and a good one.
    pub fn revoke_token(&self, account: AccountKey, token: TokenKey) -> Result<bool> {
        self.write(|write| {
            let revoked = write.tx.execute(
                "UPDATE tokens SET revoked = ? WHERE id = ? AND account = ? AND revoked IS NULL",
                params![millis(time::now()), token.0, account.0],
            )?;
            Ok(0 < revoked)
        })
    }

    pub fn account(&self, caller: Caller) -> Result<Account> {
        self.reader().one(
            "SELECT account_id, username, email, (SELECT prefix FROM tokens WHERE id = ?)
                 FROM accounts WHERE id = ?",
            params![caller.token.map(|it| it.0), caller.account.0],
            |row| {
                Ok(Account {
                    account_id: AccountId(row.get(0)?),
                    username: row.get(1)?,
                    email: row.get(2)?,
                    token_prefix: row.get(3)?,
                })
            },
        )
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
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        let Some((account, machine)) = revoked else { return Ok(None) };
        let token = insert_token(&tx, account, machine.as_deref())?;
        tx.commit()?;
        closing();
        Ok(Some(token))
    }

    /// Remembers which machine uses a token.
    pub fn note_machine(&self, token: TokenKey, machine: &MachineId) -> Result<()> {
        let known: Option<String> =
            self.reader()
                .one("SELECT machine FROM tokens WHERE id = ?", [token.0], |row| row.get(0))?;
        if known.as_deref() == Some(machine.as_str()) {
            return Ok(());
        }
        self.write(|write| {
            write.tx.execute(
                "UPDATE tokens SET machine = ? WHERE id = ?",
                params![machine.as_str(), token.0],
            )?;
            Ok(())
        })
    }
}

/// None: the user name is taken.
pub(super) fn insert_account(
    tx: &Transaction<'_>,
    new: &NewAccount<'_>,
) -> Result<Option<(i64, AccountId)>> {
    let account_id = AccountId(format!("acc_{}", ids::random_hex()));
    // Random, so that the id of an account that was removed is never another's: whoever still holds
    // it must find nothing.
    let id = tx.first(
        "INSERT INTO accounts (id, account_id, username, email, password, created)
             VALUES (random() & 0x7fffffffffffffff, ?, ?, ?, ?, ?)
             ON CONFLICT (username) DO NOTHING RETURNING id",
        params![account_id.0, new.username, new.email, new.password, millis(time::now())],
        |row| row.get(0),
    )?;
    Ok(id.map(|id| (id, account_id)))
}

/// Whether somebody who was let in still would be at that time.
pub(super) fn is_valid(conn: &Connection, caller: Caller, now: i64) -> Result<bool> {
    let account = caller.account.0;
    let found = match (caller.token, caller.session) {
        (Some(token), _) => conn.has(
            "SELECT 1 FROM tokens WHERE id = ? AND account = ? AND revoked IS NULL",
            [token.0, account],
        )?,
        (None, Some(session)) => conn.has(
            "SELECT 1 FROM sessions WHERE id = ? AND account = ? AND expires > ?",
            [session.0, account, now],
        )?,
        (None, None) => caller.password.is_some() && caller.password == password(conn, account)?,
    };
    Ok(found)
}

/// Of the password that the account has now, if any.
pub(super) fn password(conn: &Connection, account: i64) -> Result<Option<PasswordKey>> {
    let stored: Option<Option<String>> =
        conn.first("SELECT password FROM accounts WHERE id = ?", [account], |row| row.get(0))?;
    Ok(stored.flatten().as_deref().map(PasswordKey::of))
}

fn insert_token(tx: &Transaction<'_>, account: i64, machine: Option<&str>) -> Result<Secret> {
    let token = Secret::random("obto_");
    tx.execute(
        "INSERT INTO tokens (account, hash, prefix, machine, created) VALUES (?, ?, ?, ?, ?)",
        params![account, hash(&token.0), &token.0[..PREFIX_CHARS], machine, millis(time::now())],
    )?;
    Ok(token)
}

/// A token has 256 random bits, so a plain hash is enough and a look-up by it leaks nothing.
pub(super) fn hash(token: &str) -> Vec<u8> {
    Sha256::digest(token.as_bytes()).to_vec()
}
