//! A copy of a bridge's memory, taken beside the running server: what a person keeps elsewhere.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use anyhow::{Context, Result, bail};
use rusqlite::{Connection, OpenFlags};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::{ids, serve::store};

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
    snapshot(&conn, to)
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

/// Copies the database behind `conn` as it is at one moment; writers go on meanwhile. The
/// copy appears at `to` whole and durable, or not at all.
fn snapshot(conn: &Connection, to: &Path) -> Result<()> {
    let name = to.file_name().context("the copy needs a file name")?.to_string_lossy();
    let partial = to.with_file_name(format!("{name}.tmp-{}", &ids::random_hex()[..8]));
    let write = || {
        // SQLite fills an empty file, and would make one that others can read.
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
        conn.execute("VACUUM INTO ?", [partial.to_str().context("the path is not UTF-8")?])?;
        finish(&partial)?;
        File::open(&partial)?.sync_all()?;
        rename_to_new(&partial, to)?;
        let dir = to.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."));
        anyhow::Ok(File::open(dir)?.sync_all()?)
    };
    let written = write();
    if written.is_err() {
        // It may not have come so far.
        fs::remove_file(&partial).ok();
    }
    written.with_context(|| format!("writing {}", to.display()))
}

/// Fails if `to` exists, also if it was made just now.
fn rename_to_new(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Some file systems can't; a link does not replace either.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            fs::hard_link(from, to)?;
            fs::remove_file(from)
        }
        renamed => Ok(renamed?),
    }
}
