//! The kinds of records: words, and behind them, for some, a JSON object on the same line. Pure.
//!
//! | words | |
//! |---|---|
//! | `message TIME ENTRY` JSON | a message came in |
//! | `progress TIME ENTRY` JSON | how far its turn came |
//! | `post TIME POST FINISHES` JSON | a post is to go out; `FINISHES` is the entry of the message that it ends, or `-` |
//! | `sent TIME POST` | the bridge has it, or never will |
//! | `done TIME ENTRIES MESSAGES` | entries are gone, and digests of messages that are done; joined by commas, or `-` |
//! | `cursor TIME` JSON | how far everything was read |

use std::fmt::{Display, Write};

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::format;
use crate::{
    ids::MessageId,
    store::entry::EntryId,
    time::{self, Timestamp},
};

/// Of a message's id: 16 of the 32 bytes, so that no two ids will ever share one.
pub type Digest = u128;

pub fn digest(message: &MessageId) -> Digest {
    let hash = Sha256::digest(message.as_str());
    Digest::from_be_bytes(*hash.first_chunk().expect("it has 32 bytes"))
}

/// One of 32 hexadecimal digits.
pub(super) fn parse_digest(text: &str) -> Option<Digest> {
    let is_ours = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let is_digest = text.len() == 32 && text.bytes().all(is_ours);
    is_digest.then(|| Digest::from_str_radix(text, 16).ok()).flatten()
}

/// What a record says. The texts are JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact<'a> {
    Message { entry: EntryId, reply: &'a str },
    Progress { entry: EntryId, progress: &'a str },
    Post { id: EntryId, finishes: Option<EntryId>, post: &'a str },
    Sent { id: EntryId },
    Done { entries: Vec<EntryId>, messages: Vec<Digest> },
    Cursor { cursor: &'a str },
}

/// A record as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    pub at: Timestamp,
    pub fact: Fact<'a>,
}

impl Record<'_> {
    /// None: no record of ours, although its checksum fits.
    pub fn parse(payload: &str) -> Option<Record<'_>> {
        let (kind, rest) = payload.split_once(' ')?;
        let mut rest = Some(rest);
        let mut word = || {
            let (word, behind) = match rest?.split_once(' ') {
                Some((word, behind)) => (word, Some(behind)),
                None => (rest?, None),
            };
            rest = behind;
            Some(word)
        };
        let at = Timestamp::from_millis(word()?.parse().ok()?);
        let fact = match kind {
            "message" => Fact::Message { entry: EntryId::parse(word()?)?, reply: rest? },
            "progress" => Fact::Progress { entry: EntryId::parse(word()?)?, progress: rest? },
            "post" => {
                let id = EntryId::parse(word()?)?;
                let finishes = match word()? {
                    "-" => None,
                    entry => Some(EntryId::parse(entry)?),
                };
                Fact::Post { id, finishes, post: rest? }
            }
            "sent" => Fact::Sent { id: EntryId::parse(word()?)? },
            "done" => Fact::Done {
                entries: parse_list(word()?, EntryId::parse)?,
                messages: parse_list(word()?, parse_digest)?,
            },
            "cursor" => Fact::Cursor { cursor: rest? },
            _ => return None,
        };
        Some(Record { at, fact })
    }
}

fn parse_list<T>(text: &str, parse: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
    if text == "-" { Some(Vec::new()) } else { text.split(',').map(parse).collect() }
}

/// A message came in; `size` is about that of its JSON.
pub fn message(entry: EntryId, reply: &impl Serialize, size: usize) -> Vec<u8> {
    with_json("message", format_args!(" {entry} "), reply, size)
}

pub fn progress(entry: EntryId, progress: &impl Serialize) -> Vec<u8> {
    with_json("progress", format_args!(" {entry} "), progress, 256)
}

/// A post is to go out; `size` is about that of its JSON.
pub fn post(id: EntryId, finishes: Option<EntryId>, post: &impl Serialize, size: usize) -> Vec<u8> {
    match finishes {
        Some(entry) => with_json("post", format_args!(" {id} {entry} "), post, size),
        None => with_json("post", format_args!(" {id} - "), post, size),
    }
}

pub fn cursor(cursor: &impl Serialize) -> Vec<u8> {
    with_json("cursor", format_args!(" "), cursor, 256)
}

pub fn sent(id: EntryId) -> Vec<u8> {
    with_words("sent", format_args!(" {id}"))
}

pub fn done(entries: &[EntryId], messages: &[Digest]) -> Vec<u8> {
    let entries = list(entries.iter());
    let messages = list(messages.iter().map(|digest| format!("{digest:032x}")));
    with_words("done", format_args!(" {entries} {messages}"))
}

fn list<T: Display>(items: impl Iterator<Item = T>) -> String {
    let mut text = String::new();
    for item in items {
        let comma = if text.is_empty() { "" } else { "," };
        write!(text, "{comma}{item}").expect("writing to a string works");
    }
    if text.is_empty() { "-".to_owned() } else { text }
}

fn with_words(kind: &str, words: std::fmt::Arguments<'_>) -> Vec<u8> {
    let text = format!("{kind} {}{words}", time::now().as_millis());
    let mut record = format::begin(text.len());
    record.extend_from_slice(text.as_bytes());
    format::end(&mut record);
    record
}

fn with_json(
    kind: &str,
    words: std::fmt::Arguments<'_>,
    content: &impl Serialize,
    size: usize,
) -> Vec<u8> {
    let text = format!("{kind} {}{words}", time::now().as_millis());
    let mut record = format::begin(text.len() + size);
    record.extend_from_slice(text.as_bytes());
    serde_json::to_writer(&mut record, content).expect("it is plain data, and memory takes it");
    format::end(&mut record);
    record
}
