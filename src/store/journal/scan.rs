//! Reads a journal from its beginning to its end, however large it is. What is damaged is told as such,
//! and reading goes on behind it.

use std::io;

use super::{
    format::{self, Found, Header},
    record::Record,
};

/// What is read at once, unless a record is larger.
const CHUNK: usize = 256 * 1024;

/// What stands at some place of the file.
#[derive(Debug)]
pub struct Piece<'a> {
    pub offset: u64,
    pub bytes: &'a [u8],
    pub what: What<'a>,
}

#[derive(Debug)]
pub enum What<'a> {
    Record(Record<'a>),
    Damage,
    /// The file ends in the middle of a record.
    Torn,
}

/// Shows all pieces in order. `read` returns bytes from an offset on, about so many, and none at the
/// end of the file. Nothing is shown of a file of another version.
///
/// # Errors
/// Those of `read` and of `show`.
pub fn scan(
    mut read: impl FnMut(u64, usize) -> io::Result<Vec<u8>>,
    mut show: impl FnMut(&Piece<'_>) -> io::Result<()>,
) -> io::Result<Header> {
    let mut buffer = read(0, CHUNK)?;
    let header = format::read_header(&buffer);
    let mut at = match header {
        Header::Ours { bytes, .. } => bytes,
        Header::Other(_) => return Ok(header),
        Header::Torn => buffer.len(),
        Header::Broken => 0,
    };
    let mut offset = at as u64;
    let mut is_all = false;
    loop {
        let rest = &buffer[at..];
        let (bytes, what) = match format::find(rest, is_all) {
            Found::End => return Ok(header),
            Found::Incomplete => {
                buffer.drain(..at);
                at = 0;
                let more = read(offset + buffer.len() as u64, CHUNK.max(buffer.len()))?;
                is_all = more.is_empty();
                buffer.extend_from_slice(&more);
                continue;
            }
            Found::Torn => (rest.len(), What::Torn),
            Found::Damage { bytes } => (bytes, What::Damage),
            Found::Record { payload, bytes } => {
                (bytes, Record::parse(payload).map_or(What::Damage, What::Record))
            }
        };
        show(&Piece { offset, bytes: &rest[..bytes], what })?;
        at += bytes;
        offset += bytes as u64;
    }
}
