//! Bytes to events: an incremental parser of `text/event-stream`, to the letter of the WHATWG HTML
//! standard, section 9.2.6. Pure. It is written for a peer that may send anything at any pace: a
//! chunk may end between any two bytes, and a line without an end does not grow.

#[cfg(test)]
mod tests;

use std::{mem, time::Duration};

use super::wire::ID_BYTES;

/// One line, and the data of one event, may be this long unless the caller says otherwise.
pub const MAX_BYTES: usize = 32 * 1024 * 1024;

/// A line buffer above this is given back after use, so that one big event does not keep its memory.
const KEEP_BYTES: usize = 64 * 1024;

const BOM: &[u8] = b"\xEF\xBB\xBF";

/// What a stream says. Comments and unknown fields say nothing; they are signs of life only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    Event(SseEvent),
    /// The server's wish for the reconnection time.
    Retry(Duration),
    /// An event or a line was longer than `limit` bytes. The event is dropped, the next is not.
    Oversized {
        limit: usize,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SseEvent {
    /// `message` when the server named none.
    pub event: String,
    pub data: String,
    /// The position after this event: the last `id` of this or an earlier event. None as long as
    /// this stream had none; empty when the server took it back.
    pub id: Option<String>,
}

/// The state between two chunks of one connection. A new connection takes a new parser.
#[derive(Debug)]
pub struct Parser {
    limit: usize,
    /// The beginning of a line whose end has not come yet.
    line: Vec<u8>,
    /// The rest of this line is not wanted: it is too long.
    skipping: bool,
    /// The last line ended with CR, so an LF that comes now belongs to it.
    after_cr: bool,
    /// No line has ended yet, so a byte order mark may still be in front.
    first_line: bool,
    /// None without a `data` line.
    data: Option<Vec<u8>>,
    oversized: bool,
    event: String,
    /// The `id` seen last; it counts from the end of its event on.
    id: Option<String>,
    dispatched_id: Option<String>,
}

impl Default for Parser {
    fn default() -> Parser {
        Parser::new(MAX_BYTES)
    }
}

impl Parser {
    /// `limit` bounds one line and the data of one event, in bytes.
    pub fn new(limit: usize) -> Parser {
        Parser {
            limit,
            line: Vec::new(),
            skipping: false,
            after_cr: false,
            first_line: true,
            data: None,
            oversized: false,
            event: String::new(),
            id: None,
            dispatched_id: None,
        }
    }

    /// The position in the stream: the `id` that counted when the last event ended, even if that
    /// event had no data or was dropped. It is what a reconnect sends as `Last-Event-ID`.
    pub fn last_event_id(&self) -> Option<&str> {
        self.dispatched_id.as_deref()
    }

    /// Takes the next bytes and appends what they complete to `out`. An event that the stream does
    /// not finish with an empty line is never reported.
    pub fn feed(&mut self, mut bytes: &[u8], out: &mut Vec<Item>) {
        while let Some(first) = bytes.first() {
            if mem::take(&mut self.after_cr) && *first == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let Some(end) = line_end(bytes) else {
                self.hold(bytes, out);
                return;
            };
            self.after_cr = bytes[end] == b'\r';
            if self.line.is_empty() && !self.skipping {
                self.line(&bytes[..end], out);
            } else {
                self.hold(&bytes[..end], out);
                self.held_line(out);
            }
            bytes = &bytes[end + 1..];
        }
    }

    /// Keeps a part of a line for later, unless the line is too long by now.
    fn hold(&mut self, part: &[u8], out: &mut Vec<Item>) {
        if self.skipping {
            return;
        }
        if self.line.len() + part.len() > self.limit {
            self.skipping = true;
            self.line = Vec::new();
            self.drop_event(out);
        } else {
            self.line.extend_from_slice(part);
        }
    }

    /// The line that was held is complete.
    fn held_line(&mut self, out: &mut Vec<Item>) {
        if mem::take(&mut self.skipping) {
            self.first_line = false;
            return;
        }
        let mut line = mem::take(&mut self.line);
        if let Some(value) = self.large_data(&line) {
            line.drain(..value);
            self.data = Some(line);
            return;
        }
        self.line(&line, out);
        if line.capacity() <= KEEP_BYTES {
            line.clear();
            self.line = line;
        }
    }

    /// Where the value begins, if the line is all the data so far and its buffer would be given back:
    /// then the buffer becomes the data, and megabytes are not copied.
    fn large_data(&self, line: &Vec<u8>) -> Option<usize> {
        let is_taken = self.oversized || self.data.is_some() || self.first_line;
        let is_large = line.capacity() > KEEP_BYTES && line.len() <= self.limit;
        let value = line.strip_prefix(b"data:").filter(|_| is_large && !is_taken)?;
        Some(line.len() - value.strip_prefix(b" ").unwrap_or(value).len())
    }

    fn line(&mut self, mut line: &[u8], out: &mut Vec<Item>) {
        if line.len() > self.limit {
            self.first_line = false;
            self.drop_event(out);
            return;
        }
        // No line break is part of a byte order mark, so it is all in the first line.
        if mem::take(&mut self.first_line) {
            line = line.strip_prefix(BOM).unwrap_or(line);
        }
        if line.is_empty() {
            self.dispatch(out);
            return;
        }
        let colon = line.iter().position(|byte| *byte == b':');
        let (name, value) = match colon {
            Some(at) => (&line[..at], &line[at + 1..]),
            None => (line, &b""[..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match name {
            b"data" => self.data(value, out),
            b"event" => self.event = text(value),
            // One that no request could carry is none: then what came before it comes again.
            b"id" if !value.contains(&0) && value.len() <= ID_BYTES => self.id = Some(text(value)),
            b"retry" => out.extend(retry(value).map(Item::Retry)),
            // A comment has an empty name. Other names are for the future.
            _ => {}
        }
    }

    fn data(&mut self, value: &[u8], out: &mut Vec<Item>) {
        if self.oversized {
            return;
        }
        let before = self.data.as_ref().map_or(0, |data| data.len() + 1);
        if before + value.len() > self.limit {
            self.drop_event(out);
        } else if let Some(data) = &mut self.data {
            data.push(b'\n');
            data.extend_from_slice(value);
        } else {
            self.data = Some(value.to_vec());
        }
    }

    /// Gives up the event that is being read and says so, once.
    fn drop_event(&mut self, out: &mut Vec<Item>) {
        self.data = None;
        if !mem::replace(&mut self.oversized, true) {
            out.push(Item::Oversized { limit: self.limit });
        }
    }

    /// An empty line: the event is complete.
    fn dispatch(&mut self, out: &mut Vec<Item>) {
        self.dispatched_id.clone_from(&self.id);
        let event = mem::take(&mut self.event);
        self.oversized = false;
        // The standard asks whether the data buffer is empty before it takes the last line feed
        // off: one empty `data` line is an event, no `data` line is none.
        let Some(data) = self.data.take() else { return };
        let event = if event.is_empty() { "message".to_owned() } else { event };
        let data = String::from_utf8(data)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
        out.push(Item::Event(SseEvent { event, data, id: self.id.clone() }));
    }
}

/// Line by line is as good as the whole stream: a line break is no part of a longer UTF-8 sequence,
/// and an unfinished sequence does not swallow it.
fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}

/// Milliseconds in ASCII digits; anything else is ignored. More than fits is as long as fits.
fn retry(value: &[u8]) -> Option<Duration> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(Duration::from_millis(text(value).parse().unwrap_or(u64::MAX)))
}

/// Where the first CR or LF is. Looks at blocks without a branch per byte, which the compiler turns
/// into vector code: a line may be megabytes long.
fn line_end(bytes: &[u8]) -> Option<usize> {
    const BLOCK: usize = 64;
    let is_break = |byte: &u8| matches!(byte, b'\n' | b'\r');
    let clean = bytes
        .chunks_exact(BLOCK)
        .take_while(|block| !block.iter().fold(false, |hit, byte| hit | is_break(byte)))
        .count()
        * BLOCK;
    bytes[clean..].iter().position(is_break).map(|at| clean + at)
}
