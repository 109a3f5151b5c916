//! As much of HTTP/1.1 as the engines need from a model server.
//!
//! Every response closes its connection. That costs an engine a few loopback
//! connects and saves this server from keeping track of what is half read.

use serde_json::Value;
use std::{
    fmt,
    io::{self, BufRead, BufReader, Read, Write},
    net::TcpStream,
};

/// A request, read whole.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) method: String,
    pub(crate) path: String,
    /// Whether a key or token came along. Its value is nobody's business.
    pub(crate) authorized: bool,
    pub(crate) body: Vec<u8>,
}

/// Reads one request.
pub(crate) fn read(stream: &TcpStream) -> io::Result<Incoming> {
    let mut reader = BufReader::new(stream);
    let first = line(&mut reader)?;
    let mut words = first.split(' ');
    let method = words.next().unwrap_or_default().to_owned();
    let path = words.next().unwrap_or_default().to_owned();
    let (mut authorized, mut length, mut chunked) = (false, 0, false);
    loop {
        let header = line(&mut reader)?;
        if header.is_empty() {
            break;
        }
        let Some((name, value)) = header.split_once(':') else { continue };
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "authorization" | "x-api-key" | "x-goog-api-key" => authorized = !value.is_empty(),
            "content-length" => length = value.parse().map_err(io::Error::other)?,
            "transfer-encoding" => chunked = value.eq_ignore_ascii_case("chunked"),
            "content-encoding" => {
                panic!("{path} has a body in {value}, which this server can't read")
            }
            _ => {}
        }
    }
    let mut body = Vec::new();
    if chunked {
        loop {
            let size = u64::from_str_radix(&line(&mut reader)?, 16).map_err(io::Error::other)?;
            reader.by_ref().take(size).read_to_end(&mut body)?;
            line(&mut reader)?;
            if size == 0 {
                break;
            }
        }
    } else {
        reader.take(length).read_to_end(&mut body)?;
    }
    Ok(Incoming { method, path, authorized, body })
}

fn line(reader: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim_end().to_owned())
}

/// Answers with JSON.
pub(crate) fn json(
    mut stream: &TcpStream,
    status: u16,
    retry_after: Option<u32>,
    body: &Value,
) -> io::Result<()> {
    let body = body.to_string();
    let retry_after = retry_after.map(|it| format!("retry-after: {it}\r\n")).unwrap_or_default();
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status} Scripted\r\ncontent-type: application/json\r\nrequest-id: req_scripted\r\n\
         x-request-id: req_scripted\r\n{retry_after}content-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )
}

/// A stream of server-sent events. Dropped unfinished, it is a broken one.
pub(crate) struct Events<'a> {
    stream: &'a TcpStream,
    pause: &'a dyn Fn(),
}

impl fmt::Debug for Events<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

impl<'a> Events<'a> {
    /// Sends the status and the headers.
    pub(crate) fn begin(mut stream: &'a TcpStream, pause: &'a dyn Fn()) -> io::Result<Events<'a>> {
        stream.write_all(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\n\
              request-id: req_scripted\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n",
        )?;
        Ok(Events { stream, pause })
    }

    /// Sends an event that is named after its `type`.
    pub(crate) fn typed(&mut self, data: &Value) -> io::Result<()> {
        let name = data["type"].as_str().unwrap_or_default();
        self.chunk(&format!("event: {name}\ndata: {data}\n\n"))
    }

    /// Sends an event without a name.
    pub(crate) fn bare(&mut self, data: &str) -> io::Result<()> {
        self.chunk(&format!("data: {data}\n\n"))
    }

    /// Waits as long as the script wants between words.
    pub(crate) fn pause(&self) {
        (self.pause)();
    }

    /// Ends the stream in good order.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.stream.write_all(b"0\r\n\r\n")
    }

    fn chunk(&mut self, text: &str) -> io::Result<()> {
        write!(self.stream, "{:x}\r\n{text}\r\n", text.len())
    }
}
