//! The bytes of a connection, plain or under TLS: every read and write has a deadline. All of it
//! belongs to the connection's own task; others may only shut the TCP socket below, which wakes it.

use std::{
    fmt,
    io::{self, Read, Write},
    net::{Shutdown, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustls::ServerConnection;

/// How many pieces of what a stream's client says are looked at for its farewell in one go.
const LOOKS_MAX: usize = 16;

/// One end of a connection.
pub(super) struct Socket {
    tcp: Arc<TcpStream>,
    tls: Option<Box<ServerConnection>>,
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tls = self.tls.is_some();
        f.debug_struct("Socket").field("tcp", &self.tcp).field("tls", &tls).finish()
    }
}

impl Socket {
    pub(super) fn plain(tcp: Arc<TcpStream>) -> Socket {
        Socket { tcp, tls: None }
    }

    /// Shakes hands, within the time until `deadline`.
    pub(super) fn secure(
        tcp: Arc<TcpStream>,
        mut tls: Box<ServerConnection>,
        deadline: Instant,
    ) -> io::Result<Socket> {
        let mut timed = Timed { tcp: &tcp, deadline };
        while tls.is_handshaking() {
            flush(&mut tls, &mut timed)?;
            if tls.is_handshaking() {
                receive(&mut tls, &mut timed)?;
            }
        }
        flush(&mut tls, &mut timed)?;
        Ok(Socket { tcp, tls: Some(tls) })
    }

    pub(super) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Reads what there is, at least a byte; 0 is the end.
    pub(super) fn read_some(&mut self, into: &mut [u8], deadline: Instant) -> io::Result<usize> {
        let mut timed = Timed { tcp: &self.tcp, deadline };
        let Some(tls) = &mut self.tls else { return timed.read(into) };
        loop {
            match tls.reader().read(into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return read,
            }
            // An answer to a key update, for example.
            flush(tls, &mut timed)?;
            receive(tls, &mut timed)?;
        }
    }

    pub(super) fn write_all(&mut self, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
        let mut timed = Timed { tcp: &self.tcp, deadline };
        let Some(tls) = &mut self.tls else { return timed.write_all(bytes) };
        while !bytes.is_empty() {
            // It takes a bounded piece, and all of that goes out before the next.
            match tls.writer().write(bytes)? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                count => bytes = &bytes[count..],
            }
            flush(tls, &mut timed)?;
        }
        Ok(())
    }

    /// Says that nothing more comes. Without this word, a peer under TLS can't tell our end from
    /// somebody's who cut the line.
    pub(super) fn end_writing(&mut self, deadline: Instant) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            flush(tls, &mut Timed { tcp: &self.tcp, deadline })?;
        }
        self.tcp.shutdown(Shutdown::Write)
    }

    /// Whether the peer has closed. A look, not a wait.
    pub(super) fn peer_is_gone(&mut self) -> bool {
        if self.tcp.set_nonblocking(true).is_err() {
            return true;
        }
        let gone = match &mut self.tls {
            None => match self.tcp.peek(&mut [0]) {
                Ok(count) => count == 0,
                Err(error) => error.kind() != io::ErrorKind::WouldBlock,
            },
            Some(tls) => said_farewell(tls, &self.tcp),
        };
        self.tcp.set_nonblocking(false).is_err() || gone
    }

    /// The system gives the connection up when the peer acknowledges nothing for so long. Without
    /// that, it would go on sending to one that has vanished for many minutes.
    pub(super) fn give_up_after(&self, silence: Duration) {
        #[cfg(target_os = "linux")]
        {
            let millis = u32::try_from(silence.as_millis()).unwrap_or(u32::MAX);
            if let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(&*self.tcp, millis) {
                log::debug!("a stream's peer is not watched: {error}");
            }
        }
        #[cfg(not(target_os = "linux"))]
        let _ = silence;
    }

    pub(super) fn hangup(&self) -> Hangup {
        Hangup(Arc::clone(&self.tcp))
    }
}

/// Under TLS the end is a message among others, so these have to be read. What else a client says
/// on a stream is thrown away: no further request is read from its connection.
fn said_farewell(tls: &mut ServerConnection, mut tcp: &TcpStream) -> bool {
    let mut unwanted = [0; 1024];
    for _ in 0..LOOKS_MAX {
        while let Ok(1..) = tls.reader().read(&mut unwanted) {}
        match tls.read_tls(&mut tcp) {
            Ok(0) => return true,
            Ok(_) => match tls.process_new_packets() {
                Ok(state) if !state.peer_has_closed() => {}
                Ok(_) | Err(_) => return true,
            },
            Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
        }
    }
    false
}

/// Sends what TLS has ready.
fn flush(tls: &mut ServerConnection, timed: &mut Timed<'_>) -> io::Result<()> {
    while tls.wants_write() {
        if tls.write_tls(timed)? == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
    }
    Ok(())
}

/// Feeds TLS with what comes. The end is found out by reading from it.
fn receive(tls: &mut ServerConnection, timed: &mut Timed<'_>) -> io::Result<()> {
    let count = tls.read_tls(timed)?;
    if let Err(error) = tls.process_new_packets() {
        // The peer may want to know what it did wrong; the error is what counts.
        flush(tls, timed).ok();
        return Err(io::Error::new(io::ErrorKind::InvalidData, error));
    }
    if count == 0 && tls.is_handshaking() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}

/// The first byte that a peer sends, left where it is. None: it left.
pub(super) fn first_byte(tcp: &TcpStream, deadline: Instant) -> io::Result<Option<u8>> {
    let mut byte = [0];
    loop {
        tcp.set_read_timeout(Some(remaining(deadline)?))?;
        match tcp.peek(&mut byte) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            peeked => return Ok((0 < peeked.map_err(timed_out)?).then_some(byte[0])),
        }
    }
}

/// A blocking TCP socket whose reads and writes end at one absolute time.
struct Timed<'a> {
    tcp: &'a TcpStream,
    deadline: Instant,
}

impl Read for Timed<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            self.tcp.set_read_timeout(Some(remaining(self.deadline)?))?;
            match self.tcp.read(into) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => return read.map_err(timed_out),
            }
        }
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            self.tcp.set_write_timeout(Some(remaining(self.deadline)?))?;
            match self.tcp.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                written => return written.map_err(timed_out),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Ends a connection from another task, also while it is blocked in a write.
#[derive(Clone, Debug)]
pub struct Hangup(Arc<TcpStream>);

impl Hangup {
    pub fn hang_up(&self) {
        shut(&self.0, Shutdown::Both);
    }

    /// Whether the peer has closed its side, or the connection has failed. A look, not a wait.
    pub fn is_over(&self) -> bool {
        #[cfg(target_os = "linux")]
        let closed = PollFlags::RDHUP;
        #[cfg(not(target_os = "linux"))]
        let closed = PollFlags::HUP;
        let mut fds = [PollFd::new(&*self.0, closed)];
        // Failures are reported unasked.
        poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| 0 < ready)
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
