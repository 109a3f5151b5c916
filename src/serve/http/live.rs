//! A connection whose stream goes on without a task of its own: nothing here waits.

use std::{
    any::Any,
    io,
    os::fd::{AsFd, BorrowedFd},
};

use rustix::event::PollFlags;

use crate::serve::http::socket::Socket;

/// What a client may say on its stream: a farewell of TLS, and no further request.
const HEARD_MAX: usize = 64 * 1024;

/// The end of a stream's beginning: takes the connection over.
pub type Detach = Box<dyn FnOnce(LiveStream) + Send>;

/// A stream that its task has left.
#[derive(Debug)]
pub struct LiveStream {
    socket: Socket,
    chunked: bool,
    /// What the peer has not taken yet.
    unsent: Vec<u8>,
    heard: usize,
    /// The connection counts among the open ones as long as this lives.
    _place: Box<dyn Any + Send>,
}

impl LiveStream {
    pub(super) fn new(
        socket: Socket,
        chunked: bool,
        place: Box<dyn Any + Send>,
    ) -> io::Result<LiveStream> {
        socket.stop_waiting()?;
        Ok(LiveStream { socket, chunked, unsent: Vec::new(), heard: 0, _place: place })
    }

    /// Adds a piece of the stream to `batch`, for [`LiveStream::send`].
    pub fn add(&self, piece: &[u8], batch: &mut Vec<u8>) {
        if self.chunked {
            batch.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        }
        batch.extend_from_slice(piece);
        if self.chunked {
            batch.extend_from_slice(b"\r\n");
        }
    }

    /// Sends what the peer takes now, and keeps the rest. Only after all before is gone.
    ///
    /// # Errors
    /// The peer is gone.
    pub fn send(&mut self, batch: &[u8]) -> io::Result<()> {
        debug_assert!(self.unsent.is_empty(), "it would come in front of what is kept");
        let taken = self.socket.try_write(batch)?;
        self.unsent.extend_from_slice(&batch[taken..]);
        Ok(())
    }

    /// Sends of what is kept as much as the peer takes now.
    ///
    /// # Errors
    /// As [`LiveStream::send`].
    pub fn flush(&mut self) -> io::Result<()> {
        let taken = self.socket.try_write(&self.unsent)?;
        if taken == self.unsent.len() {
            self.unsent = Vec::new();
        } else {
            self.unsent.drain(..taken);
        }
        Ok(())
    }

    /// Whether the peer has taken all.
    pub fn is_flushed(&self) -> bool {
        self.unsent.is_empty() && !self.socket.has_unsent()
    }

    /// What to wait for: the peer's end, and room for what is kept.
    pub fn interest(&self) -> PollFlags {
        if self.is_flushed() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT }
    }

    /// Looks what came of the wait.
    ///
    /// # Errors
    /// The peer is gone, or says what no client has to say.
    pub fn hear(&mut self, ready: PollFlags) -> io::Result<()> {
        if ready.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL) {
            self.heard += self.socket.throw_away()?;
            if !ready.contains(PollFlags::IN) || HEARD_MAX < self.heard {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
        }
        Ok(())
    }

    /// Says that nothing more comes, if the peer takes that now.
    pub fn end(mut self) {
        let last: &[u8] = if self.chunked { b"0\r\n\r\n" } else { b"" };
        let mut tell = || {
            self.flush()?;
            if self.is_flushed() {
                self.send(last)?;
                self.socket.try_end_writing()?;
            }
            io::Result::Ok(())
        };
        if let Err(error) = tell() {
            log::debug!("a stream's client was gone before its end: {error}");
        }
    }
}

impl AsFd for LiveStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
