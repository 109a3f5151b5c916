//! A copy of a bridge's memory, taken beside the running server: what a person keeps elsewhere.

use std::path::Path;

use anyhow::{Context, Result, bail};
use rusqlite::{Connection, OpenFlags};

use crate::serve::store::{self, snapshot::snapshot};

/// Copies the database of the data directory to `to`, which must not exist. The server may run or
/// not; it goes on writing, and what it acknowledges from now on may be missing in the copy.
///
/// # Errors
/// There is no database, `to` exists or can't be written, or the copy is damaged.
pub fn backup(data: &Path, to: &Path) -> Result<()> {
    let from = data.join(store::FILE);
    if !from.try_exists().with_context(|| format!("looking for {}", from.display()))? {
        bail!("{} holds no bridge: there is no {}", data.display(), store::FILE);
    }
    if to.symlink_metadata().is_ok() {
        bail!("{} exists already; choose another name, nothing is overwritten", to.display());
    }
    let conn = Connection::open_with_flags(&from, OpenFlags::SQLITE_OPEN_READ_WRITE)
        .with_context(|| format!("opening {}", from.display()))?;
    conn.busy_timeout(store::BUSY_TIME)?;
    snapshot(&conn, to, finish)
}

fn finish(copy: &Path) -> Result<()> {
    let conn = Connection::open_with_flags(copy, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    // It is nobody's yet: what a journal would protect is thrown away after a failure.
    conn.pragma_update(None, "journal_mode", "OFF")?;
    let verdict: String = conn.query_row("PRAGMA integrity_check(1)", (), |row| row.get(0))?;
    if verdict != "ok" {
        bail!("the copy is damaged, and so may be the original: {verdict}");
    }
    // A bridge that is restored from it gives out numbers again that others may know already.
    if conn.table_exists(None, "epoch")? {
        conn.execute("UPDATE epoch SET value = random()", ())?;
    }
    Ok(())
}
