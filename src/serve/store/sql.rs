//! The ways in which the store runs a statement, which is prepared once for each connection.

use anyhow::Result;
use rusqlite::{Connection, OptionalExtension, Params, Row, types::FromSql};

/// Of a connection, and so of a transaction on it.
pub(super) trait Sql {
    fn connection(&self) -> &Connection;

    /// Changes rows; how many.
    fn change(&self, sql: &str, params: impl Params) -> Result<usize> {
        Ok(self.connection().prepare_cached(sql)?.execute(params)?)
    }

    fn has(&self, sql: &str, params: impl Params) -> Result<bool> {
        Ok(self.connection().prepare_cached(sql)?.exists(params)?)
    }

    /// The one row that there is.
    fn one<T>(&self, sql: &str, params: impl Params, read: impl Read<T>) -> Result<T> {
        Ok(self.connection().prepare_cached(sql)?.query_row(params, read)?)
    }

    /// The first row, if there is one.
    fn first<T>(&self, sql: &str, params: impl Params, read: impl Read<T>) -> Result<Option<T>> {
        Ok(self.connection().prepare_cached(sql)?.query_row(params, read).optional()?)
    }

    /// The first column of the first row, if there is one.
    fn value<T: FromSql>(&self, sql: &str, params: impl Params) -> Result<Option<T>> {
        self.first(sql, params, |row| row.get(0))
    }

    fn all<T, C>(&self, sql: &str, params: impl Params, read: impl Read<T>) -> Result<C>
    where
        C: FromIterator<T>,
    {
        let mut query = self.connection().prepare_cached(sql)?;
        Ok(query.query_map(params, read)?.collect::<Result<_, _>>()?)
    }
}

impl Sql for Connection {
    fn connection(&self) -> &Connection {
        self
    }
}

pub(super) trait Read<T>: FnMut(&Row<'_>) -> rusqlite::Result<T> {}

impl<T, F: FnMut(&Row<'_>) -> rusqlite::Result<T>> Read<T> for F {}
