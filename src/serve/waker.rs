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
        // In this order: a byte that comes after the flag is down must stay.
        while let Ok(1..) = (&self.reader).read(&mut [0; 8]) {}
        self.is_used.store(false, Ordering::SeqCst);
    }
}

/// It is ready to be read when the wait is to end.
impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use crossbeam_channel::unbounded;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    /// Whatever comes while the wait that it ends is just over.
    #[test]
    fn nobody_wakes_in_vain() {
        const WAKERS: usize = 4;
        const EACH: usize = 20_000;
        let waker = Waker::new().unwrap();
        let (sender, items) = unbounded();
        let (heard, hear): (Vec<_>, Vec<_>) = (0..WAKERS).map(|_| unbounded::<()>()).unzip();
        thread::scope(|scope| {
            for (n, hear) in hear.iter().enumerate() {
                let (waker, sender) = (&waker, &sender);
                scope.spawn(move || {
                    for _ in 0..EACH {
                        sender.send(n).unwrap();
                        waker.wake();
                        // Nobody else may come who would wake in its place.
                        hear.recv().unwrap();
                    }
                });
            }
            let (heard, mut count) = (heard, 0);
            while count < WAKERS * EACH {
                let mut fds = [PollFd::new(&waker, PollFlags::IN)];
                let minute = Timespec { tv_sec: 60, tv_nsec: 0 };
                assert_eq!(poll(&mut fds, Some(&minute)), Ok(1), "after {count}");
                waker.reset();
                for n in items.try_iter() {
                    heard[n].send(()).unwrap();
                    count += 1;
                }
            }
        });
    }
}
