//! Pictures, kept in the file of everything else, so that a backup has them too.

use std::time::Duration;

use anyhow::Result;
use rusqlite::{Connection, params};

use crate::{
    ids,
    serve::store::{
        AccountKey, Sql, Store,
        rows::{File, millis},
    },
    time,
};

/// An upload that no message took within this time is removed.
const UNUSED_TIME: Duration = Duration::from_hours(24);

/// A picture to be stored.
#[derive(Debug)]
pub struct Upload {
    /// Shown to people, and never a path.
    pub name: String,
    pub media_type: &'static str,
    pub size: Option<(u32, u32)>,
    pub data: Vec<u8>,
}

impl Store {
    /// None: with it the account's pictures would be over `quota` bytes.
    pub fn upload(&self, account: AccountKey, upload: &Upload, quota: u64) -> Result<Option<File>> {
        let now = time::now();
        let oldest = millis(now.minus(UNUSED_TIME));
        let file = File {
            id: format!("att_{}", ids::random_hex()),
            name: upload.name.clone(),
            media_type: upload.media_type.to_owned(),
            bytes: upload.data.len() as u64,
            width: upload.size.map(|it| it.0),
            height: upload.size.map(|it| it.1),
        };
        self.write(|write| {
            let tx = write.tx;
            tx.execute("DELETE FROM attachments WHERE message IS NULL AND created < ?", [oldest])?;
            let used: i64 = tx.query_row(
                "SELECT ifnull(sum(bytes), 0) FROM attachments WHERE account = ?",
                [account.0],
                |row| row.get(0),
            )?;
            // A sum of lengths; it can't be negative.
            let used = u64::try_from(used).unwrap_or_default();
            if quota < used.saturating_add(file.bytes) {
                return Ok(None);
            }
            tx.execute(
                "INSERT INTO attachments (account, attachment_id, name, media_type, bytes, width,
                                          height, created)
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                params![
                    account.0,
                    file.id,
                    file.name,
                    file.media_type,
                    i64::try_from(file.bytes)?,
                    file.width,
                    file.height,
                    millis(now)
                ],
            )?;
            tx.execute(
                "INSERT INTO attachment_data VALUES (?, ?)",
                params![tx.last_insert_rowid(), upload.data],
            )?;
            Ok(Some(file))
        })
    }

    /// The media type and bytes of a picture of this account.
    pub fn attachment(&self, account: AccountKey, id: &str) -> Result<Option<(String, Vec<u8>)>> {
        self.reader().first(
            "SELECT media_type, data FROM attachments
                 JOIN attachment_data ON attachment = attachments.id
                 WHERE account = ? AND attachment_id = ?",
            params![account.0, id],
            |row| row.try_into(),
        )
    }
}

/// Whether these are pictures of the account that no message has, each named once.
pub(super) fn are_free(conn: &Connection, account: AccountKey, ids: &[String]) -> Result<bool> {
    let free: Option<i64> = conn.value(
        "SELECT count(*) FROM attachments WHERE account = ? AND message IS NULL
             AND attachment_id IN (SELECT value FROM json_each(?))",
        params![account.0, serde_json::to_string(ids)?],
    )?;
    Ok(free == i64::try_from(ids.len()).ok())
}

pub(super) fn attach(
    conn: &Connection,
    account: AccountKey,
    message: i64,
    ids: &[String],
) -> Result<()> {
    let attach =
        "UPDATE attachments SET message = ?, position = ? WHERE account = ? AND attachment_id = ?";
    for (position, id) in ids.iter().enumerate() {
        conn.change(attach, params![message, i64::try_from(position)?, account.0, id])?;
    }
    Ok(())
}
