//! The bytes of a connection, plain or under TLS: every read and write has a deadline. All of it
//! belongs to the connection's own task; others may only shut the TCP socket below, which wakes it.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustls::{ServerConnection, Stream};

/// How many pieces of what a stream's client says are read in one go.
const LOOKS_MAX: usize = 16;

/// One end of a connection.
#[derive(Debug)]
pub(super) struct Socket {
    tcp: Arc<TcpStream>,
    tls: Option<Box<ServerConnection>>,
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
        Stream::new(&mut *tls, &mut Timed { tcp: &tcp, deadline }).flush()?;
        Ok(Socket { tcp, tls: Some(tls) })
    }

    pub(super) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Reads what there is, at least a byte; 0 is the end.
    pub(super) fn read_some(&mut self, into: &mut [u8], deadline: Instant) -> io::Result<usize> {
        let mut timed = Timed { tcp: &self.tcp, deadline };
        let Some(tls) = &mut self.tls else { return timed.read(into) };
        Stream::new(&mut **tls, &mut timed).read(into)
    }

    pub(super) fn write_all(&mut self, bytes: &[u8], deadline: Instant) -> io::Result<()> {
        let mut timed = Timed { tcp: &self.tcp, deadline };
        let Some(tls) = &mut self.tls else { return timed.write_all(bytes) };
        // It takes bounded pieces, and each goes out before the next. What keeps the last one from
        // going is said by the flush.
        let mut stream = Stream::new(&mut **tls, &mut timed);
        stream.write_all(bytes)?;
        stream.flush()
    }

    /// Says that nothing more comes. Without this word, a peer under TLS can't tell our end from
    /// somebody's who cut the line.
    pub(super) fn end_writing(&mut self, deadline: Instant) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            Stream::new(&mut **tls, &mut Timed { tcp: &self.tcp, deadline }).flush()?;
        }
        self.tcp.shutdown(Shutdown::Write)
    }

    /// From now on nothing here waits for the peer.
    pub(super) fn stop_waiting(&self) -> io::Result<()> {
        self.tcp.set_nonblocking(true)
    }

    /// Writes what the peer takes now, after [`Socket::stop_waiting`]; how much. Under TLS some of
    /// that may still be here.
    pub(super) fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut tcp = &*self.tcp;
        let Some(tls) = &mut self.tls else {
            return if bytes.is_empty() { Ok(0) } else { none_if_full(|| tcp.write(bytes)) };
        };
        let mut taken = 0;
        loop {
            while tls.wants_write() {
                if none_if_full(|| tls.write_tls(&mut tcp))? == 0 {
                    return Ok(taken);
                }
            }
            if taken == bytes.len() {
                return Ok(taken);
            }
            taken += tls.writer().write(&bytes[taken..])?;
        }
    }

    /// Whether something that was taken has not gone yet.
    pub(super) fn has_unsent(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }

    /// [`Socket::end_writing`] without waiting.
    pub(super) fn try_end_writing(&mut self) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
        }
        self.try_write(&[])?;
        self.tcp.shutdown(Shutdown::Write)
    }

    /// Reads what a stream's client says, after [`Socket::stop_waiting`], and throws it away: no
    /// further request is read from its connection. How much that was.
    ///
    /// # Errors
    /// The peer has closed. Under TLS its farewell is a message among others.
    pub(super) fn throw_away(&mut self) -> io::Result<usize> {
        let (mut tcp, mut unwanted, mut heard) = (&*self.tcp, [0; 1024], 0);
        for _ in 0..LOOKS_MAX {
            let read = match &mut self.tls {
                None => tcp.read(&mut unwanted),
                Some(tls) => tls.read_tls(&mut tcp),
            };
            match read {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => heard += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            if let Some(tls) = &mut self.tls {
                let state = tls.process_new_packets().map_err(io::Error::other)?;
                if state.peer_has_closed() {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
                while let Ok(1..) = tls.reader().read(&mut unwanted) {}
            }
        }
        Ok(heard)
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

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tcp.as_fd()
    }
}

/// What a socket took, which is nothing if it has no room now.
fn none_if_full(mut write: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match write() {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(0),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// The first byte that a peer sends, left where it is. None: it left.
pub(super) fn first_byte(tcp: &TcpStream, deadline: Instant) -> io::Result<Option<u8>> {
    let mut byte = [0];
    let timed = Timed { tcp, deadline };
    let count = timed.wait(TcpStream::set_read_timeout, |tcp| tcp.peek(&mut byte))?;
    Ok((0 < count).then_some(byte[0]))
}

/// A blocking TCP socket whose reads and writes end at one absolute time.
struct Timed<'a> {
    tcp: &'a TcpStream,
    deadline: Instant,
}

impl Timed<'_> {
    fn wait(
        &self,
        set_timeout: fn(&TcpStream, Option<Duration>) -> io::Result<()>,
        mut work: impl FnMut(&TcpStream) -> io::Result<usize>,
    ) -> io::Result<usize> {
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            set_timeout(self.tcp, Some(left))?;
            match work(self.tcp) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // What a time-out of a blocking socket looks like depends on the system.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return Err(ErrorKind::TimedOut.into());
                }
                done => return done,
            }
        }
    }
}

impl Read for Timed<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.wait(TcpStream::set_read_timeout, |mut tcp| tcp.read(into))
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.wait(TcpStream::set_write_timeout, |mut tcp| tcp.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Ends a connection from another task, also while it is blocked in a write.
#[derive(Clone, Debug)]
pub struct Hangup(Arc<TcpStream>);

impl Hangup {
    #[cfg(test)]
    pub(in crate::serve) fn test(tcp: TcpStream) -> Hangup {
        Hangup(Arc::new(tcp))
    }

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
