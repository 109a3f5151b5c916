//! The messages that are done. A bridge sends a message again when a connection breaks, catch-up
//! reads it again, and a removed inbox entry may be back after a loss of power: none of that may
//! drive it twice. The journal holds a digest of each id, so neither memory nor disk depends on
//! how long the ids are that a bridge makes up.

use std::{
    collections::{HashSet, VecDeque},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::Arc,
};

use sha2::{Digest as _, Sha256};

use crate::{ids::MessageId, store::Disk};

/// The newest this many are remembered; a bridge repeats what is minutes old, not weeks.
pub const CAPACITY: usize = 20_000;

/// 16 of the 32 bytes: no two ids will ever share them.
type Digest = u128;

/// A bounded, durable set of message ids.
#[derive(Debug)]
pub struct Seen {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    /// Oldest first.
    order: VecDeque<Digest>,
    digests: HashSet<Digest>,
    /// Lines in the journal, those of forgotten ids included.
    lines: usize,
    /// Lines that are only in memory.
    unwritten: String,
}

impl Seen {
    /// Reads the journal. Lines that are none, such as a last one cut off by a crash, are dropped.
    pub fn open(disk: Arc<dyn Disk>, path: &Path) -> io::Result<Seen> {
        let bytes = match disk.read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let mut seen = Seen {
            disk,
            path: path.to_owned(),
            order: VecDeque::new(),
            digests: HashSet::new(),
            lines: 0,
            unwritten: String::new(),
        };
        let mut is_whole = true;
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            match parse_line(line) {
                Some(digest) => seen.add(digest),
                None => is_whole = false,
            }
        }
        if !is_whole {
            log::warn!("{} holds broken lines, as after a crash; dropping them", path.display());
            seen.compact()?;
        }
        Ok(seen)
    }

    pub fn contains(&self, message: &MessageId) -> bool {
        self.digests.contains(&digest(message))
    }

    /// Remembers a message in memory; [`Seen::flush`] makes it durable, with others.
    pub fn remember(&mut self, message: &MessageId) {
        let digest = digest(message);
        if !self.digests.contains(&digest) {
            self.add(digest);
            self.unwritten.push_str(&line(&digest));
        }
    }

    /// Writes what is remembered; durable when it returns. On an error it is written with the next
    /// call.
    pub fn flush(&mut self) -> io::Result<()> {
        if self.unwritten.is_empty() {
            return Ok(());
        }
        if 2 * CAPACITY < self.lines {
            return self.compact();
        }
        let written = self.disk.append(&self.path, self.unwritten.as_bytes());
        match written {
            Ok(()) => self.unwritten.clear(),
            // Part of a line may be there. The next flush writes the whole journal anew.
            Err(_) => self.lines = 2 * CAPACITY + 1,
        }
        written
    }

    fn add(&mut self, digest: Digest) {
        self.lines += 1;
        if !self.digests.insert(digest) {
            return;
        }
        self.order.push_back(digest);
        if CAPACITY < self.order.len()
            && let Some(oldest) = self.order.pop_front()
        {
            self.digests.remove(&oldest);
        }
    }

    fn compact(&mut self) -> io::Result<()> {
        let text: String = self.order.iter().map(line).collect();
        self.disk.write_atomic(&self.path, text.as_bytes())?;
        self.lines = self.order.len();
        self.unwritten.clear();
        Ok(())
    }
}

fn digest(message: &MessageId) -> Digest {
    let hash = Sha256::digest(message.as_str());
    Digest::from_be_bytes(*hash.first_chunk().expect("it has 32 bytes"))
}

fn line(digest: &Digest) -> String {
    format!("{digest:032x}\n")
}

fn parse_line(line: &[u8]) -> Option<Digest> {
    let hex = line.strip_suffix(b"\n").filter(|hex| hex.len() == 32)?;
    Digest::from_str_radix(str::from_utf8(hex).ok()?, 16).ok()
}
