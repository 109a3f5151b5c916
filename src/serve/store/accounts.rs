//! Accounts and their tokens. A token is shown once, when it is made; the file has its hash.

use std::fmt;

use anyhow::Result;
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use sha2::{Digest, Sha256};

use crate::{
    ids::{self, MachineId},
    serve::store::{AccountKey, Caller, Store, TokenKey, events::millis},
    time,
};

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

/// `obto_…`, what a machine proves itself with. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    fn random() -> Token {
        Token(format!("obto_{}{}", ids::random_hex(), ids::random_hex()))
    }

    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
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

impl Store {
    /// None: the user name is taken.
    pub fn create_account(&self, new: NewAccount<'_>) -> Result<Option<(AccountId, Token)>> {
        self.write(|write| {
            let account_id = AccountId(format!("acc_{}", ids::random_hex()));
            let inserted = write.tx.execute(
                "INSERT INTO accounts (account_id, username, email, password, created)
                 VALUES (?, ?, ?, ?, ?) ON CONFLICT (username) DO NOTHING",
                params![account_id.0, new.username, new.email, new.password, millis(time::now())],
            )?;
            if inserted == 0 {
                return Ok(None);
            }
            let token = insert_token(&write.tx, write.tx.last_insert_rowid(), None)?;
            Ok(Some((account_id, token)))
        })
    }

    pub fn authenticate(&self, token: &str) -> Result<Option<Caller>> {
        let found = self
            .reader()
            .prepare_cached("SELECT id, account FROM tokens WHERE hash = ? AND revoked IS NULL")?
            .query_row([hash(token)], |row| {
                let (token, account) = (TokenKey(row.get(0)?), AccountKey(row.get(1)?));
                Ok(Caller { account, token: Some(token) })
            })
            .optional()?;
        Ok(found)
    }

    /// The account of a user name, with the password's hash.
    pub fn login(&self, username: &str) -> Result<Option<(Caller, String)>> {
        let found = self
            .reader()
            .prepare_cached(
                "SELECT id, password FROM accounts WHERE username = ? AND password IS NOT NULL",
            )?
            .query_row([username], |row| {
                Ok((Caller { account: AccountKey(row.get(0)?), token: None }, row.get(1)?))
            })
            .optional()?;
        Ok(found)
    }

    pub fn account(&self, caller: Caller) -> Result<Account> {
        let account = self
            .reader()
            .prepare_cached(
                "SELECT account_id, username, email, (SELECT prefix FROM tokens WHERE id = ?)
                 FROM accounts WHERE id = ?",
            )?
            .query_row(params![caller.token.map(|it| it.0), caller.account.0], |row| {
                Ok(Account {
                    account_id: AccountId(row.get(0)?),
                    username: row.get(1)?,
                    email: row.get(2)?,
                    token_prefix: row.get(3)?,
                })
            })?;
        Ok(account)
    }

    /// Replaces a token. `closing` runs before any stream can start or event be published.
    /// None: another call has replaced it already.
    pub fn rotate(&self, old: TokenKey, closing: impl FnOnce()) -> Result<Option<Token>> {
        let mut conn = self.writer();
        let tx = conn.transaction()?;
        let revoked: Option<(i64, Option<String>)> = tx
            .prepare_cached(
                "UPDATE tokens SET revoked = ? WHERE id = ? AND revoked IS NULL
                 RETURNING account, machine",
            )?
            .query_row(params![millis(time::now()), old.0], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let Some((account, machine)) = revoked else { return Ok(None) };
        let token = insert_token(&tx, account, machine.as_deref())?;
        tx.commit()?;
        closing();
        Ok(Some(token))
    }

    /// Remembers which machine uses a token.
    pub fn note_machine(&self, token: TokenKey, machine: &MachineId) -> Result<()> {
        let known: Option<String> = self
            .reader()
            .prepare_cached("SELECT machine FROM tokens WHERE id = ?")?
            .query_row([token.0], |row| row.get(0))?;
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

pub(super) fn is_valid(conn: &Connection, token: TokenKey) -> Result<bool> {
    let valid = conn
        .prepare_cached("SELECT revoked IS NULL FROM tokens WHERE id = ?")?
        .query_row([token.0], |row| row.get(0))?;
    Ok(valid)
}

fn insert_token(tx: &Transaction<'_>, account: i64, machine: Option<&str>) -> Result<Token> {
    let token = Token::random();
    tx.execute(
        "INSERT INTO tokens (account, hash, prefix, machine, created) VALUES (?, ?, ?, ?, ?)",
        params![account, hash(&token.0), &token.0[..PREFIX_CHARS], machine, millis(time::now())],
    )?;
    Ok(token)
}

/// A token has 256 random bits, so a plain hash is enough and a look-up by it leaks nothing.
fn hash(token: &str) -> Vec<u8> {
    Sha256::digest(token.as_bytes()).to_vec()
}
