//! A child's standard input. What it takes at once is written by whoever sends; what is left waits
//! here for the child's task, so that no sender waits for a child that does not read.

use std::{
    collections::VecDeque,
    fmt, io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

#[cfg(target_os = "linux")]
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{Errno, ioctl_fionbio};

/// What may wait for a child that does not read. Attachments make lines of many megabytes.
const MAX_QUEUED_BYTES: usize = 256 << 20;
const MAX_QUEUED: usize = 4096;

/// Wakes the task of a child, which polls the descriptor that comes with it.
#[derive(Clone, Debug)]
pub(super) struct Waker(Arc<OwnedFd>);

impl Waker {
    #[cfg(target_os = "linux")]
    pub(super) fn new() -> io::Result<(Waker, Arc<OwnedFd>)> {
        // One descriptor for each child, where a pipe takes two.
        let fd = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        Ok((Waker(Arc::clone(&fd)), fd))
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn new() -> io::Result<(Waker, Arc<OwnedFd>)> {
        let (woken, waker) = io::pipe()?;
        ioctl_fionbio(&woken, true)?;
        ioctl_fionbio(&waker, true)?;
        Ok((Waker(Arc::new(waker.into())), Arc::new(woken.into())))
    }

    pub(super) fn wake(&self) {
        // Eight bytes are one event of an eventfd. Without room for them it is awake already.
        rustix::io::write(&self.0, &1_u64.to_ne_bytes()).unwrap_or_default();
    }
}

/// The end that sends. Dropping it ends the input after what is queued.
pub(super) struct Input {
    queue: Arc<InputQueue>,
    waker: Waker,
}

/// Leaves out the queue, which holds prompts.
impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Input({} bytes wait)", self.queue.lock().bytes)
    }
}

#[derive(Default)]
pub(super) struct InputQueue(Mutex<Queue>);

#[derive(Default)]
struct Queue {
    /// None: the child reads no more, or all is written and nothing more comes.
    pipe: Option<Arc<OwnedFd>>,
    waiting: VecDeque<Vec<u8>>,
    /// How much of the first one is written.
    written: usize,
    /// How many wait in all.
    bytes: usize,
    /// Nothing more comes.
    is_closed: bool,
}

impl Input {
    /// # Errors
    /// When the pipe can't be told not to block.
    pub(super) fn new(pipe: OwnedFd, waker: Waker) -> io::Result<(Input, Arc<InputQueue>)> {
        // It concerns our end alone.
        ioctl_fionbio(&pipe, true)?;
        let queue = Queue { pipe: Some(Arc::new(pipe)), ..Queue::default() };
        let queue = Arc::new(InputQueue(Mutex::new(queue)));
        Ok((Input { queue: Arc::clone(&queue), waker }, queue))
    }

    pub(super) fn send(&self, bytes: Vec<u8>) -> io::Result<()> {
        let mut queue = self.queue.lock();
        if queue.pipe.is_none() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let total = queue.bytes.saturating_add(bytes.len());
        if total > MAX_QUEUED_BYTES || queue.waiting.len() >= MAX_QUEUED {
            let text = format!("the process does not read its input: {} bytes wait", queue.bytes);
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, text));
        }
        queue.bytes = total;
        queue.waiting.push_back(bytes);
        if queue.waiting.len() == 1 {
            queue.write();
            if queue.pipe.is_none() {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            if !queue.waiting.is_empty() {
                self.waker.wake();
            }
        }
        Ok(())
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        let mut queue = self.queue.lock();
        queue.is_closed = true;
        if queue.waiting.is_empty() {
            queue.pipe = None;
        }
    }
}

impl InputQueue {
    /// No code of others runs under it, and no write waits.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pipe, while something waits for it.
    pub(super) fn waits_for(&self) -> Option<Arc<OwnedFd>> {
        let queue = self.lock();
        queue.pipe.clone().filter(|_| !queue.waiting.is_empty())
    }

    pub(super) fn write(&self) {
        self.lock().write();
    }

    /// The child has ended.
    pub(super) fn end(&self) {
        self.lock().end();
    }
}

impl Queue {
    /// Writes what the pipe takes.
    fn write(&mut self) {
        while let (Some(pipe), Some(first)) = (&self.pipe, self.waiting.front()) {
            match rustix::io::write(pipe, &first[self.written..]) {
                Ok(length) => {
                    self.bytes -= length;
                    self.written += length;
                    if self.written == first.len() {
                        self.written = 0;
                        self.waiting.pop_front();
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(error) => {
                    log::debug!("a child's input: {error}");
                    self.end();
                }
            }
        }
        if self.is_closed {
            self.pipe = None;
        }
    }

    fn end(&mut self) {
        *self = Queue { is_closed: self.is_closed, ..Queue::default() };
    }
}

#[cfg(test)]
mod tests {
    use std::io::{PipeReader, Read as _};

    use super::*;

    fn open() -> (Input, Arc<InputQueue>, PipeReader) {
        let (reader, writer) = io::pipe().unwrap();
        let (input, queue) = Input::new(writer.into(), Waker::new().unwrap().0).unwrap();
        (input, queue, reader)
    }

    #[track_caller]
    fn refused(input: &Input) -> io::ErrorKind {
        input.send(vec![0]).unwrap_err().kind()
    }

    #[test]
    fn a_child_that_does_not_read_makes_sending_fail_and_not_wait() {
        let (input, queue, reader) = open();
        let block = MAX_QUEUED_BYTES / 4;
        for _ in 0..4 {
            input.send(vec![0; block]).unwrap();
        }
        // The pipe itself has taken some.
        let taken = MAX_QUEUED_BYTES - queue.lock().bytes;
        input.send(vec![0; taken]).unwrap();
        assert_eq!(refused(&input), io::ErrorKind::QuotaExceeded);
        drop(reader);
        queue.write();
        assert_eq!(refused(&input), io::ErrorKind::BrokenPipe);
        assert!(queue.waits_for().is_none() && queue.lock().bytes == 0);

        let (input, queue, _reader) = open();
        input.send(vec![0; 1 << 20]).unwrap();
        for _ in 1..MAX_QUEUED {
            input.send(vec![0]).unwrap();
        }
        assert_eq!(refused(&input), io::ErrorKind::QuotaExceeded);
        queue.end();
        assert_eq!(refused(&input), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn what_waits_is_written_in_order_and_before_the_end() {
        let (input, queue, mut reader) = open();
        let sent: Vec<u8> = (0_u8..=250).cycle().take(1 << 20).collect();
        for part in sent.chunks(100_000) {
            input.send(part.to_vec()).unwrap();
        }
        drop(input);
        let mut read = Vec::new();
        let mut buffer = vec![0; 30_000];
        while let length @ 1.. = reader.read(&mut buffer).unwrap() {
            read.extend_from_slice(&buffer[..length]);
            queue.write();
        }
        assert!(read == sent, "{} of {} bytes", read.len(), sent.len());
    }
}
