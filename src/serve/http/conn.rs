//! One connection from accept to close: requests in order, each with absolute deadlines, so that a
//! peer that trickles bytes holds a place for seconds and not for ever.

use std::{
    io,
    net::{IpAddr, TcpStream},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use crate::{
    serve::http::{
        Limits, RequestHandler, Setup, Shared,
        budget::{SMALL_BYTES, Share},
        live::Detach,
        message::{Body, Framing, Head, Origin, Request, Response, StreamBody},
        socket::{Hangup, Socket, first_byte},
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
enum Close {
    /// Nobody is left to tell.
    Closed,
    /// Say this, then close.
    Refused(Response),
}

impl From<io::Error> for Close {
    fn from(_: io::Error) -> Close {
        Close::Closed
    }
}

/// Makes a socket of a connection that came; under TLS that is a handshake. None: it did not get
/// so far.
pub(super) fn begin(tcp: Arc<TcpStream>, setup: &Setup) -> Option<Socket> {
    let Some(tls) = &setup.tls else { return Some(Socket::plain(tcp)) };
    let deadline = Instant::now() + setup.limits.handshake;
    let shaken = match first_byte(&tcp, deadline) {
        // It looked, or went away, or waits for us to speak.
        Ok(None) => return None,
        // A method, where TLS begins with a number.
        Ok(Some(b'A'..=b'Z')) => {
            let text = "this port speaks TLS; the address begins with https://";
            refuse(&mut Socket::plain(tcp), &Response::error(400, text), setup);
            return None;
        }
        Ok(Some(_)) => tls
            .accept()
            .map_err(io::Error::other)
            .and_then(|secured| Socket::secure(tcp, secured, deadline)),
        Err(error) => Err(error),
    };
    if let Err(error) = &shaken {
        log::debug!("a TLS handshake failed: {error}");
        setup.counters.failed.fetch_add(1, Ordering::Relaxed);
    }
    shaken.ok()
}

/// What becomes of a connection after an answer.
enum Next {
    Request,
    Close,
    Detach(Detached),
}

/// A stream that goes on without this task.
pub(super) struct Detached {
    pub(super) detach: Detach,
    pub(super) chunked: bool,
}

/// Serves requests until the peer closes, idles too long or breaks the rules, or until a stream has
/// begun.
pub(super) fn serve<H: RequestHandler>(
    socket: Socket,
    peer: IpAddr,
    server: &Shared<H>,
) -> Option<(Socket, Detached)> {
    let from = Origin { peer, tls: socket.is_tls() };
    let mut conn = Conn { socket, from, server, buffer: Vec::new(), used: 0 };
    let mut first = true;
    loop {
        match conn.exchange(first) {
            Ok(Next::Request) => first = false,
            Ok(Next::Detach(detached)) => return Some((conn.socket, detached)),
            Ok(Next::Close) | Err(Close::Closed) => {
                // Whoever left already does not mind, and whoever does not read is not waited for.
                conn.socket.end_writing(Instant::now() + LINGER_TIME).ok();
                return None;
            }
            Err(Close::Refused(response)) => {
                refuse(&mut conn.socket, &response, &server.setup);
                return None;
            }
        }
    }
}

/// Writes a response to whatever was asked and closes without cutting it off.
pub(super) fn refuse(socket: &mut Socket, response: &Response, setup: &Setup) {
    setup.counters.answered(response.status);
    let mut bytes = response.head_bytes(false, false);
    if let Body::Bytes(body) = &response.body {
        bytes.extend_from_slice(body);
    }
    let deadline = Instant::now() + setup.limits.write;
    let told = socket.write_all(&bytes, deadline);
    if told.is_err() || socket.end_writing(deadline).is_err() {
        return;
    }
    let deadline = Instant::now() + LINGER_TIME;
    let mut rest = vec![0; READ_BYTES];
    let mut left = LINGER_BYTES;
    while 0 < left
        && let Ok(count @ 1..) = socket.read_some(&mut rest, deadline)
    {
        left = left.saturating_sub(count);
    }
}

/// What a body may have.
struct Bounds<'a> {
    limit: usize,
    deadline: Instant,
    share: Share<'a>,
}

struct Conn<'a, H> {
    socket: Socket,
    from: Origin,
    server: &'a Shared<H>,
    /// What has come; with pipelining that is more than one request.
    buffer: Vec<u8>,
    /// How much of it was used. It is cut off before more is read, not piece by piece: that would
    /// move all the rest for every small chunk.
    used: usize,
}

impl<'a, H: RequestHandler> Conn<'a, H> {
    fn limits(&self) -> &'a Limits {
        &self.server.setup.limits
    }

    /// One request and its response.
    fn exchange(&mut self, first: bool) -> Result<Next, Close> {
        let handler = &self.server.handler;
        let (head, body_deadline) = self.read_head(first)?;
        let has_body = head.framing != Framing::Length(0);
        let keep = head.keeps_alive();
        let (is_head, http11) = (head.method == "HEAD", head.http11);
        let (admitted, limit) = match handler.admit(&head) {
            Ok(admitted) => admitted,
            // The body of a request that is refused is not waited for.
            Err(response) if has_body => return Err(Close::Refused(response)),
            Err(response) => return Ok(self.answer(response, is_head, http11, keep)?),
        };
        let share = self.server.budget.share();
        let mut bounds = Bounds { limit, deadline: body_deadline, share };
        let body = self.read_body(&head, &mut bounds)?;
        let outcome = task::catch(|| handler.handle(admitted, Request { head, body }));
        drop(bounds);
        match outcome {
            Ok(response) => Ok(self.answer(response, is_head, http11, keep)?),
            Err(panic) => {
                log::error!("a request handler panicked: {panic}");
                Err(Close::Refused(Response::error(500, "internal error; see the server's log")))
            }
        }
    }

    /// The next head and the deadline for its body.
    fn read_head(&mut self, first: bool) -> Result<(Head, Instant), Close> {
        if self.unused().is_empty() {
            let patience = if first { self.limits().head_time } else { self.limits().idle };
            self.fill(Instant::now() + patience)?;
        }
        let begun = Instant::now();
        loop {
            if let Some((head, length)) =
                Head::parse(self.unused(), self.from).map_err(Close::Refused)?
            {
                if self.limits().head_bytes < length {
                    return Err(self.head_too_long());
                }
                self.used += length;
                return Ok((head, begun + self.limits().body_time));
            }
            if self.limits().head_bytes <= self.unused().len() {
                return Err(self.head_too_long());
            }
            self.fill_or_time_out(begun + self.limits().head_time, "head")?;
        }
    }

    fn head_too_long(&self) -> Close {
        let limit = self.limits().head_bytes;
        Close::Refused(Response::error(431, format!("the request head is over {limit} bytes")))
    }

    fn read_body(&mut self, head: &Head, bounds: &mut Bounds<'_>) -> Result<Vec<u8>, Close> {
        if let Framing::Length(length) = head.framing
            && bounds.limit < length
        {
            return Err(body_too_long(bounds.limit));
        }
        if head.expects_continue && head.framing != Framing::Length(0) && self.unused().is_empty() {
            self.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        match head.framing {
            Framing::Length(length) => self.take(length, bounds),
            Framing::Chunked => self.read_chunks(bounds),
        }
    }

    fn read_chunks(&mut self, bounds: &mut Bounds<'_>) -> Result<Vec<u8>, Close> {
        let bad = |text: &str| Close::Refused(Response::error(400, text));
        let mut body = Vec::new();
        loop {
            let line = self.line(bounds.deadline)?;
            // Who takes one of these for a line's end has read another body.
            if line.iter().any(|byte| matches!(byte, b'\r' | b'\n')) {
                return Err(bad("a chunk's line does not end in CR LF"));
            }
            let (size, extension) = match line.iter().position(|byte| *byte == b';') {
                Some(at) => (&line[..at], true),
                None => (&line[..], false),
            };
            // Blanks are allowed in front of an extension, and nowhere else.
            let size = str::from_utf8(size)
                .ok()
                .map(|it| if extension { it.trim_end_matches([' ', '\t']) } else { it });
            let size = size.filter(|it| {
                (1..=8).contains(&it.len()) && it.bytes().all(|byte| byte.is_ascii_hexdigit())
            });
            let size = size.and_then(|it| usize::from_str_radix(it, 16).ok());
            let size = size.ok_or_else(|| bad("a chunk has no size"))?;
            if size == 0 {
                break;
            }
            if bounds.limit - body.len() < size {
                return Err(body_too_long(bounds.limit));
            }
            body.append(&mut self.take(size, bounds)?);
            bounds.share.keep(size);
            if self.take(2, bounds)? != b"\r\n" {
                return Err(bad("a chunk is longer than it says"));
            }
        }
        // Trailers are read past; nothing here uses any.
        for _ in 0..16 {
            if self.line(bounds.deadline)?.is_empty() {
                return Ok(body);
            }
        }
        Err(bad("too many trailers"))
    }

    /// What has come and was not used yet.
    fn unused(&self) -> &[u8] {
        &self.buffer[self.used..]
    }

    /// The next line without its end.
    fn line(&mut self, deadline: Instant) -> Result<Vec<u8>, Close> {
        loop {
            if let Some(end) = self.unused().windows(2).position(|it| it == b"\r\n") {
                let line = self.unused()[..end].to_vec();
                self.used += end + 2;
                return Ok(line);
            }
            if LINE_MAX < self.unused().len() {
                return Err(Close::Refused(Response::error(400, "a chunk's line is too long")));
            }
            self.fill_or_time_out(deadline, "body")?;
        }
    }

    /// The next bytes. What of them is large takes its share as it comes, not as it is announced.
    fn take(&mut self, length: usize, bounds: &mut Bounds<'_>) -> Result<Vec<u8>, Close> {
        while self.unused().len() < length {
            if !bounds.share.hold(self.unused().len() + READ_BYTES) {
                return Err(Close::Refused(no_room()));
            }
            self.fill_or_time_out(bounds.deadline, "body")?;
        }
        if self.used == 0 {
            let rest = self.buffer.split_off(length);
            return Ok(std::mem::replace(&mut self.buffer, rest));
        }
        let taken = self.unused()[..length].to_vec();
        self.used += length;
        Ok(taken)
    }

    fn fill_or_time_out(&mut self, deadline: Instant, part: &str) -> Result<(), Close> {
        self.fill(deadline).map_err(|error| match error.kind() {
            io::ErrorKind::TimedOut => {
                Close::Refused(Response::error(408, format!("the request {part} took too long")))
            }
            _ => Close::Closed,
        })
    }

    /// Reads at least one byte more.
    fn fill(&mut self, deadline: Instant) -> io::Result<()> {
        self.buffer.drain(..self.used);
        self.used = 0;
        let used = self.buffer.len();
        self.buffer.resize(used + READ_BYTES, 0);
        let read = self.socket.read_some(&mut self.buffer[used..], deadline);
        self.buffer.truncate(used + *read.as_ref().unwrap_or(&0));
        match read? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// Writes the response.
    fn answer(
        &mut self,
        response: Response,
        is_head: bool,
        http11: bool,
        keep: bool,
    ) -> io::Result<Next> {
        let mut share = self.server.budget.share();
        let response = match &response.body {
            // A client that reads slowly holds it for long.
            Body::Bytes(body) if !share.hold(body.len()) => no_room(),
            _ => response,
        };
        self.server.setup.counters.answered(response.status);
        let keep = keep && matches!(response.body, Body::Bytes(_));
        let mut bytes = response.head_bytes(keep, http11);
        match response.body {
            _ if is_head => self.write_all(&bytes)?,
            Body::Bytes(body) if SMALL_BYTES < body.len() => {
                self.write_all(&bytes)?;
                self.write_all(&body)?;
            }
            Body::Bytes(mut body) => {
                bytes.append(&mut body);
                self.write_all(&bytes)?;
            }
            Body::Stream(run) => {
                self.write_all(&bytes)?;
                return self.run_stream(run, http11);
            }
        }
        Ok(if keep { Next::Request } else { Next::Close })
    }

    fn run_stream(&mut self, run: StreamBody, chunked: bool) -> io::Result<Next> {
        let write = self.limits().write;
        let mut writer = StreamWriter { socket: &mut self.socket, chunked, write };
        let begun = task::catch(|| run(&mut writer)).unwrap_or_else(|panic| {
            log::error!("an event stream panicked: {panic}");
            Err(io::ErrorKind::Other.into())
        });
        if let Some(detach) = begun? {
            return Ok(Next::Detach(Detached { detach, chunked }));
        }
        if chunked {
            self.write_all(b"0\r\n\r\n")?;
        }
        Ok(Next::Close)
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.socket.write_all(bytes, Instant::now() + self.limits().write)
    }
}

/// The budget of large bodies is used up.
fn no_room() -> Response {
    Response::error(503, "too many large requests at the same time; try again")
        .with("Retry-After", "1")
}

fn body_too_long(limit: usize) -> Close {
    Close::Refused(Response::error(413, format!("the request body is over {limit} bytes")))
}

/// The body of a [`Response::stream`].
#[derive(Debug)]
pub struct StreamWriter<'a> {
    socket: &'a mut Socket,
    chunked: bool,
    write: Duration,
}

impl StreamWriter<'_> {
    /// Sends a piece at once.
    ///
    /// # Errors
    /// The peer is gone, or did not take it within [`Limits::write`].
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let deadline = Instant::now() + self.write;
        if !self.chunked {
            return self.socket.write_all(bytes, deadline);
        }
        let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
        chunk.reserve(bytes.len() + 2);
        chunk.extend_from_slice(bytes);
        chunk.extend_from_slice(b"\r\n");
        self.socket.write_all(&chunk, deadline)
    }

    /// Has the connection end when the peer acknowledges nothing for so long.
    pub fn give_up_after(&self, silence: Duration) {
        self.socket.give_up_after(silence);
    }

    pub fn hangup(&self) -> Hangup {
        self.socket.hangup()
    }
}
