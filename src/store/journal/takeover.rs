//! What version 0.1.0 kept in files of their own: a message in `inbox/new/`, how far its turn came in
//! `inbox/started/`, a post in `outbox/`, done messages in `seen`, and `cursor.json`. All of it goes
//! into the journal in one step, and then the files go. A crash in between leaves both, and so may
//! a loss of power that brings removed files back: an entry that the journal has is not taken over
//! again, a message that it knows to be done is not driven again, and a post that was sent is sent
//! under the same `clientMsgId`.

use std::{
    ffi::OsStr,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use serde::{Deserialize, de::DeserializeOwned};

use super::{
    contents::Contents,
    record::{self, parse_digest},
    unknown_progress,
};
use crate::{
    bridge::wire::{Post, Reply},
    store::{
        Disk,
        cursor::Cursor,
        entry::{EntryId, Progress},
    },
};

/// The version of the files.
const VERSION: u32 = 1;

/// Digests in one record.
const DIGESTS: usize = 1_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SpoolFile<T> {
    version: u32,
    content: T,
}

/// A file of the outbox.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Outgoing {
    post: Post,
    #[serde(default)]
    finishes: Option<String>,
}

/// The files that are there.
#[derive(Debug, Default)]
pub(super) struct Left {
    new: Vec<PathBuf>,
    started: Vec<PathBuf>,
    outbox: Vec<PathBuf>,
    seen: Option<PathBuf>,
    cursor: Option<PathBuf>,
}

impl Left {
    pub(super) fn find(disk: &dyn Disk, dir: &Path) -> io::Result<Left> {
        let list = |spool: &str| {
            let spool = dir.join(spool);
            match disk.sweep(&spool).and_then(|()| disk.list(&spool)) {
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
                files => files,
            }
        };
        let others = disk.list(dir)?;
        let other = |name: &str| others.iter().find(|path| **path == dir.join(name)).cloned();
        Ok(Left {
            new: list("inbox/new")?,
            started: list("inbox/started")?,
            outbox: list("outbox")?,
            seen: other("seen"),
            cursor: other("cursor.json"),
        })
    }

    /// The records that stand for the files, as far as the journal does not have them.
    pub(super) fn records(
        &self,
        disk: &dyn Disk,
        dir: &Path,
        known: &Contents,
    ) -> io::Result<Vec<Vec<u8>>> {
        let mut records = self.seen(disk, known)?;
        // The journal's is older, if there is one, and what was read since is known by its id.
        if known.cursor.is_none() && self.cursor.is_some() {
            records.extend(cursor(disk, dir)?);
        }
        for (id, reply) in read_all::<Reply>(disk, &self.new, &dir.join("inbox/broken"))? {
            if known.entries.contains_key(&id) {
                continue;
            }
            records.push(record::message(id, &reply, reply.body.len()));
            let progress = self.progress(disk, dir, id, &reply)?;
            records.extend(progress.map(|progress| record::progress(id, &progress)));
        }
        let posts = read_all::<Outgoing>(disk, &self.outbox, &dir.join("outbox/broken"))?;
        for (id, Outgoing { post, finishes }) in posts {
            if !known.posts.contains_key(&id) {
                let finishes = finishes.as_deref().and_then(EntryId::parse);
                records.push(record::post(id, finishes, &post, post.body.len()));
            }
        }
        if !records.is_empty() {
            log::info!("taking over what an earlier version left in {}", dir.display());
        }
        Ok(records)
    }

    /// If it can't be read, still the turn was begun.
    fn progress(
        &self,
        disk: &dyn Disk,
        dir: &Path,
        id: EntryId,
        reply: &Reply,
    ) -> io::Result<Option<Progress>> {
        let path = dir.join("inbox/started").join(format!("{id}.json"));
        if self.started.binary_search(&path).is_err() {
            return Ok(None);
        }
        match read(disk, &path) {
            Ok(progress) => Ok(Some(progress)),
            Err(error) if error.kind() == ErrorKind::InvalidData => {
                log::error!("{} is broken: {error}", path.display());
                Ok(Some(unknown_progress(reply)))
            }
            Err(error) => Err(error),
        }
    }

    /// Lines that are none, such as a last one cut off by a crash, are dropped.
    fn seen(&self, disk: &dyn Disk, known: &Contents) -> io::Result<Vec<Vec<u8>>> {
        let bytes = self.seen.as_ref().map(|path| disk.read(path)).transpose()?;
        let bytes = bytes.unwrap_or_default();
        let lines = bytes.split(|byte| *byte == b'\n');
        let digests = lines.filter_map(|line| parse_digest(str::from_utf8(line).ok()?));
        let new: Vec<_> = digests.filter(|digest| !known.remembers(digest)).collect();
        Ok(new.chunks(DIGESTS).map(|some| record::done(&[], some)).collect())
    }

    /// Removes the files, once the journal has what they hold. What was set aside stays.
    pub(super) fn clean(self, disk: &dyn Disk, dir: &Path) -> io::Result<()> {
        let files = [self.started, self.new, self.outbox].into_iter().flatten();
        for file in files.chain(self.seen).chain(self.cursor) {
            disk.remove(&file)?;
        }
        // Whoever looks for messages is not to look in vain. What is not empty stays.
        for spool in ["inbox/started", "inbox/new", "inbox"] {
            disk.remove_empty_dir(&dir.join(spool)).unwrap_or_default();
        }
        Ok(())
    }
}

/// Without a position that can be understood, the stream is read from now on and threads are caught up
/// from their history.
fn cursor(disk: &dyn Disk, dir: &Path) -> io::Result<Option<Vec<u8>>> {
    let path = dir.join("cursor.json");
    match serde_json::from_slice::<Cursor>(&disk.read(&path)?) {
        Ok(cursor) => Ok(Some(record::cursor(&cursor))),
        Err(error) => {
            let to = dir.join("cursor.json.broken");
            disk.rename(&path, &to)?;
            let (path, to) = (path.display(), to.display());
            log::error!("{path} can't be understood ({error}); set aside as {to}");
            Ok(None)
        }
    }
}

/// All entries of a spool in order. What is no entry is set aside, and the log says so.
fn read_all<T: DeserializeOwned>(
    disk: &dyn Disk,
    paths: &[PathBuf],
    aside: &Path,
) -> io::Result<Vec<(EntryId, T)>> {
    let mut entries = Vec::new();
    for path in paths {
        let content = match id_of(path) {
            Some(id) => read(disk, path).map(|content| (id, content)),
            None => Err(io::Error::new(ErrorKind::InvalidData, "the name is no entry's")),
        };
        match content {
            Ok(entry) => entries.push(entry),
            Err(error) if error.kind() == ErrorKind::InvalidData => {
                disk.create_dir(aside)?;
                let to = aside.join(path.file_name().unwrap_or_default());
                disk.rename(path, &to)?;
                let (path, to) = (path.display(), to.display());
                log::error!("{path} is broken ({error}); set aside as {to}");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(entries)
}

fn id_of(path: &Path) -> Option<EntryId> {
    EntryId::parse(path.file_name().and_then(OsStr::to_str)?.strip_suffix(".json")?)
}

fn read<T: DeserializeOwned>(disk: &dyn Disk, path: &Path) -> io::Result<T> {
    let file: SpoolFile<T> = serde_json::from_slice(&disk.read(path)?)
        .map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
    if file.version != VERSION {
        let text = format!("version {} is not known to this program", file.version);
        return Err(io::Error::new(ErrorKind::InvalidData, text));
    }
    Ok(file.content)
}
