//! One connection from accept to close: requests in order, each with absolute deadlines, so that a
//! peer that trickles bytes holds a place for seconds and not for ever.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    serve::http::{
        Handler, Limits,
        message::{Body, Framing, Head, Request, Response, StreamBody},
    },
    task,
};

const READ_BYTES: usize = 16 * 1024;
/// Chunk sizes and trailers: a line longer than this is no honest client.
const LINE_MAX: usize = 1024;
/// How much of an unwanted body is read and thrown away, so that the refusal reaches a client that
/// is still sending: closing a socket with unread bytes resets it.
const LINGER_BYTES: usize = 1024 * 1024;
const LINGER_TIME: Duration = Duration::from_secs(1);

/// Why no further request is read.
enum End {
    /// Nobody is left to tell.
    Closed,
    /// Say this, then close.
    Refused(Response),
}

impl From<io::Error> for End {
    fn from(_: io::Error) -> End {
        End::Closed
    }
}

/// Serves requests until the peer closes, idles too long or breaks the rules.
pub(super) fn serve<H: Handler>(socket: &Arc<TcpStream>, handler: &H, limits: &Limits) {
    let mut conn = Conn { socket: Arc::clone(socket), limits, buffer: Vec::new() };
    let mut first = true;
    loop {
        match conn.exchange(handler, first) {
            Ok(true) => first = false,
            Ok(false) | Err(End::Closed) => return,
            Err(End::Refused(response)) => return refuse(socket, &response, limits),
        }
    }
}

/// Writes a response to whatever was asked and closes without cutting it off.
pub(super) fn refuse(socket: &TcpStream, response: &Response, limits: &Limits) {
    let mut bytes = response.head_bytes(false, false);
    if let Body::Bytes(body) = &response.body {
        bytes.extend_from_slice(body);
    }
    let told = write_all(socket, &bytes, Instant::now() + limits.write);
    if told.is_err() || socket.shutdown(Shutdown::Write).is_err() {
        return;
    }
    let deadline = Instant::now() + LINGER_TIME;
    let mut rest = vec![0; READ_BYTES];
    let mut left = LINGER_BYTES;
    while let Ok(count @ 1..) = read_some(socket, &mut rest, deadline) {
        left = match left.checked_sub(count) {
            Some(left) => left,
            None => return,
        };
    }
}

struct Conn<'a> {
    socket: Arc<TcpStream>,
    limits: &'a Limits,
    /// What has come and was not used yet; with pipelining that is more than one request.
    buffer: Vec<u8>,
}

impl Conn<'_> {
    /// One request and its response. Whether the connection stays.
    fn exchange<H: Handler>(&mut self, handler: &H, first: bool) -> Result<bool, End> {
        let (head, body_deadline) = self.read_head(first)?;
        let has_body = head.framing != Framing::Length(0);
        let keep = head.keeps_alive();
        let (is_head, http11) = (head.method == "HEAD", head.http11);
        let (admitted, limit) = match handler.admit(&head) {
            Ok(admitted) => admitted,
            // The body of a request that is refused is not waited for.
            Err(response) if has_body => return Err(End::Refused(response)),
            Err(response) => return Ok(self.answer(response, is_head, http11, keep)?),
        };
        let body = self.read_body(&head, limit, body_deadline)?;
        let mut response = None;
        let outcome =
            task::catch(|| response = Some(handler.handle(admitted, Request { head, body })));
        match (outcome, response) {
            (Ok(()), Some(response)) => Ok(self.answer(response, is_head, http11, keep)?),
            (outcome, _) => {
                log::error!("a request handler panicked: {}", outcome.err().unwrap_or_default());
                Err(End::Refused(Response::error(500, "internal error; see the server's log")))
            }
        }
    }

    /// The next head and the deadline for its body.
    fn read_head(&mut self, first: bool) -> Result<(Head, Instant), End> {
        if self.buffer.is_empty() {
            let patience = if first { self.limits.head_time } else { self.limits.idle };
            self.fill(Instant::now() + patience)?;
        }
        let begun = Instant::now();
        loop {
            if let Some((head, length)) = Head::parse(&self.buffer).map_err(End::Refused)? {
                if self.limits.head_bytes < length {
                    return Err(self.head_too_long());
                }
                self.buffer.drain(..length);
                return Ok((head, begun + self.limits.body_time));
            }
            if self.limits.head_bytes <= self.buffer.len() {
                return Err(self.head_too_long());
            }
            self.fill_or_time_out(begun + self.limits.head_time, "head")?;
        }
    }

    fn head_too_long(&self) -> End {
        let limit = self.limits.head_bytes;
        End::Refused(Response::error(431, format!("the request head is over {limit} bytes")))
    }

    fn read_body(&mut self, head: &Head, limit: usize, deadline: Instant) -> Result<Vec<u8>, End> {
        if let Framing::Length(length) = head.framing
            && limit < length
        {
            return Err(body_too_long(limit));
        }
        if head.expects_continue && head.framing != Framing::Length(0) && self.buffer.is_empty() {
            self.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        match head.framing {
            Framing::Length(length) => self.take(length, deadline),
            Framing::Chunked => self.read_chunks(limit, deadline),
        }
    }

    fn read_chunks(&mut self, limit: usize, deadline: Instant) -> Result<Vec<u8>, End> {
        let bad = |text: &str| End::Refused(Response::error(400, text));
        let mut body = Vec::new();
        loop {
            let line = self.line(deadline)?;
            let size = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
            let size = str::from_utf8(size).ok().filter(|it| {
                (1..=8).contains(&it.len()) && it.bytes().all(|byte| byte.is_ascii_hexdigit())
            });
            let size = size.and_then(|it| usize::from_str_radix(it, 16).ok());
            let size = size.ok_or_else(|| bad("a chunk has no size"))?;
            if size == 0 {
                break;
            }
            if limit - body.len() < size {
                return Err(body_too_long(limit));
            }
            body.append(&mut self.take(size, deadline)?);
            if self.take(2, deadline)? != b"\r\n" {
                return Err(bad("a chunk is longer than it says"));
            }
        }
        // Trailers are read past; nothing here uses any.
        for _ in 0..16 {
            if self.line(deadline)?.is_empty() {
                return Ok(body);
            }
        }
        Err(bad("too many trailers"))
    }

    /// The next line without its end.
    fn line(&mut self, deadline: Instant) -> Result<Vec<u8>, End> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|it| it == b"\r\n") {
                let line = self.buffer.drain(..end + 2).take(end).collect();
                return Ok(line);
            }
            if LINE_MAX < self.buffer.len() {
                return Err(End::Refused(Response::error(400, "a chunk's line is too long")));
            }
            self.fill_or_time_out(deadline, "body")?;
        }
    }

    fn take(&mut self, length: usize, deadline: Instant) -> Result<Vec<u8>, End> {
        while self.buffer.len() < length {
            self.fill_or_time_out(deadline, "body")?;
        }
        let rest = self.buffer.split_off(length);
        Ok(std::mem::replace(&mut self.buffer, rest))
    }

    fn fill_or_time_out(&mut self, deadline: Instant, part: &str) -> Result<(), End> {
        self.fill(deadline).map_err(|error| match error.kind() {
            io::ErrorKind::TimedOut => {
                End::Refused(Response::error(408, format!("the request {part} took too long")))
            }
            _ => End::Closed,
        })
    }

    /// Reads at least one byte more.
    fn fill(&mut self, deadline: Instant) -> io::Result<()> {
        let used = self.buffer.len();
        self.buffer.resize(used + READ_BYTES, 0);
        let read = read_some(&self.socket, &mut self.buffer[used..], deadline);
        self.buffer.truncate(used + *read.as_ref().unwrap_or(&0));
        match read? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// Writes the response; whether the connection stays.
    fn answer(
        &self,
        response: Response,
        is_head: bool,
        http11: bool,
        keep: bool,
    ) -> io::Result<bool> {
        let keep = keep && matches!(response.body, Body::Bytes(_));
        let mut bytes = response.head_bytes(keep, http11);
        match response.body {
            _ if is_head => self.write_all(&bytes)?,
            Body::Bytes(mut body) => {
                bytes.append(&mut body);
                self.write_all(&bytes)?;
            }
            Body::Stream(run) => {
                self.write_all(&bytes)?;
                self.run_stream(run, http11)?;
            }
        }
        Ok(keep)
    }

    fn run_stream(&self, run: StreamBody, chunked: bool) -> io::Result<()> {
        let socket = Arc::clone(&self.socket);
        let mut writer = StreamWriter { socket, chunked, write: self.limits.write };
        let mut ended = Ok(());
        if let Err(panic) = task::catch(|| ended = run(&mut writer)) {
            log::error!("an event stream panicked: {panic}");
            return Err(io::ErrorKind::Other.into());
        }
        ended?;
        if chunked { self.write_all(b"0\r\n\r\n") } else { Ok(()) }
    }

    fn write_all(&self, bytes: &[u8]) -> io::Result<()> {
        write_all(&self.socket, bytes, Instant::now() + self.limits.write)
    }
}

fn body_too_long(limit: usize) -> End {
    End::Refused(Response::error(413, format!("the request body is over {limit} bytes")))
}

/// The body of a [`Response::stream`].
#[derive(Debug)]
pub struct StreamWriter {
    socket: Arc<TcpStream>,
    chunked: bool,
    write: Duration,
}

impl StreamWriter {
    /// Sends a piece at once.
    ///
    /// # Errors
    /// The peer is gone, or did not take it within [`Limits::write`].
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let deadline = Instant::now() + self.write;
        if !self.chunked {
            return write_all(&self.socket, bytes, deadline);
        }
        let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
        chunk.reserve(bytes.len() + 2);
        chunk.extend_from_slice(bytes);
        chunk.extend_from_slice(b"\r\n");
        write_all(&self.socket, &chunk, deadline)
    }

    /// Whether the peer has closed. A look, not a wait.
    pub fn peer_is_gone(&self) -> bool {
        let peeked = self
            .socket
            .set_nonblocking(true)
            .and_then(|()| self.socket.peek(&mut [0]).or_else(would_block_is_a_byte));
        self.socket.set_nonblocking(false).is_err() || !matches!(peeked, Ok(1..))
    }

    pub fn hangup(&self) -> Hangup {
        Hangup(Arc::clone(&self.socket))
    }
}

fn would_block_is_a_byte(error: io::Error) -> io::Result<usize> {
    if error.kind() == io::ErrorKind::WouldBlock { Ok(1) } else { Err(error) }
}

/// Ends a connection from another task, also while it is blocked in a write.
#[derive(Clone, Debug)]
pub struct Hangup(Arc<TcpStream>);

impl Hangup {
    pub fn hang_up(&self) {
        shut(&self.0, Shutdown::Both);
    }
}

/// A socket that its peer has left already is as shut as it can be.
pub(super) fn shut(socket: &TcpStream, how: Shutdown) {
    if let Err(error) = socket.shutdown(how) {
        log::debug!("a connection was gone before it was shut: {error}");
    }
}

fn remaining(deadline: Instant) -> io::Result<Duration> {
    match deadline.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
        left => Ok(left),
    }
}

/// What a time-out of a blocking socket looks like depends on the system.
fn timed_out(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
        _ => error,
    }
}

fn read_some(mut socket: &TcpStream, into: &mut [u8], deadline: Instant) -> io::Result<usize> {
    loop {
        socket.set_read_timeout(Some(remaining(deadline)?))?;
        match socket.read(into) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
            read => return read.map_err(timed_out),
        }
    }
}

fn write_all(mut socket: &TcpStream, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        socket.set_write_timeout(Some(remaining(deadline)?))?;
        match socket.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
            Err(error) => return Err(timed_out(error)),
        }
    }
    Ok(())
}
