//! As much HTTP/1.1 as a proxy between our own client and our own server needs.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpStream},
};

use serde_json::Value;

/// A request or a response.
#[derive(Clone, Debug)]
pub(super) struct Message {
    /// The request or status line.
    pub(super) first: String,
    headers: Vec<String>,
    pub(super) body: Vec<u8>,
}

impl Message {
    /// None when the peer is gone.
    pub(super) fn read(reader: &mut impl BufRead) -> Option<Message> {
        let mut message = Message::read_head(reader)?;
        let length = message.header("content-length").map_or(0, |it| it.parse().unwrap());
        message.body = vec![0; length];
        reader.read_exact(&mut message.body).ok()?;
        Some(message)
    }

    pub(super) fn read_head(reader: &mut impl BufRead) -> Option<Message> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            match line.strip_suffix("\r\n")? {
                "" => break,
                line => lines.push(line.to_owned()),
            }
        }
        let first = lines.remove(0);
        Some(Message { first, headers: lines, body: Vec::new() })
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// Without this header.
    pub(super) fn without(mut self, name: &str) -> Message {
        self.headers.retain(|line| {
            !line.split(':').next().is_some_and(|key| key.eq_ignore_ascii_case(name))
        });
        self
    }

    /// The bytes, without what is about this connection only.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let is_kept = |line: &&String| {
            let name = line.split(':').next().unwrap().to_lowercase();
            !["connection", "content-length"].contains(&name.as_str())
        };
        let headers: Vec<&str> = self.headers.iter().filter(is_kept).map(String::as_str).collect();
        let head = format!(
            "{}\r\n{}\r\nContent-Length: {}\r\n\r\n",
            self.first,
            headers.join("\r\n"),
            self.body.len()
        );
        [head.as_bytes(), &self.body].concat()
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    pub(super) fn set_json(&mut self, body: &Value) {
        self.body = body.to_string().into_bytes();
    }
}

/// A response in front of the bridge's place.
pub(super) fn response(code: u16, kind: &str, body: &str) -> Vec<u8> {
    let retry_after = if matches!(code, 429 | 503) { "Retry-After: 1\r\n" } else { "" };
    format!(
        "HTTP/1.1 {code} x\r\nContent-Type: {kind}\r\n{retry_after}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Sends a request on a connection of its own; what follows is to be read.
pub(super) fn ask(addr: SocketAddr, request: &Message) -> Option<BufReader<TcpStream>> {
    let mut socket = TcpStream::connect(addr).ok()?;
    socket.write_all(&request.bytes()).ok()?;
    Some(BufReader::new(socket))
}

/// The next chunk of a response; the bridge makes one of every event and of every heartbeat.
pub(super) fn chunk(reader: &mut impl BufRead) -> Option<String> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let length = usize::from_str_radix(line.trim_end(), 16).ok().filter(|length| *length > 0)?;
    let mut chunk = vec![0; length + 2];
    reader.read_exact(&mut chunk).ok()?;
    chunk.truncate(length);
    String::from_utf8(chunk).ok()
}

pub(super) fn as_chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}
