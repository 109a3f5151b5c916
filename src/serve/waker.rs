//! Wakes a task that waits for sockets.

use std::{
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    sync::atomic::{AtomicBool, Ordering},
};

/// Ends a wait for sockets.
#[derive(Debug)]
pub(super) struct Waker {
    writer: UnixStream,
    reader: UnixStream,
    /// It was used, and the wait has not ended yet.
    is_used: AtomicBool,
}

impl Waker {
    pub(super) fn new() -> io::Result<Waker> {
        let (writer, reader) = UnixStream::pair()?;
        writer.set_nonblocking(true)?;
        reader.set_nonblocking(true)?;
        Ok(Waker { writer, reader, is_used: AtomicBool::new(false) })
    }

    pub(super) fn wake(&self) {
        if !self.is_used.swap(true, Ordering::SeqCst)
            && let Err(error) = (&self.writer).write(&[0])
        {
            log::error!("the task of the streams could not be woken: {error}");
        }
    }

    /// Whoever wakes from here on ends the next wait.
    pub(super) fn reset(&self) {
        self.is_used.store(false, Ordering::SeqCst);
        while let Ok(1..) = (&self.reader).read(&mut [0; 8]) {}
    }
}

/// It is ready to be read when the wait is to end.
impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }
}
