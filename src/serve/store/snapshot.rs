//! Whole copies of the file while it is in use.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use anyhow::{Context, Result};
use rusqlite::Connection;
use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::ids;

/// Copies the database behind `conn` as it is at one moment; writers go on meanwhile. `finish` may
/// still change the copy, which appears at `to` whole and durable, or not at all.
pub(in crate::serve) fn snapshot(
    conn: &Connection,
    to: &Path,
    finish: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
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
