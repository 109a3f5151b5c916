//! A child's three pipes. Each has a task of its own, and every one of them may be stuck for as long
//! as some grandchild lives: so none is joined, and what they share is small and bounded.

use std::{
    collections::VecDeque,
    io::{self, BufRead as _, BufReader, Read, Write},
    mem,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
#[cfg(target_os = "linux")]
use rustix::event::{EventfdFlags, eventfd};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

use super::ChildEvent;

/// What may wait for a child that does not read. Attachments make lines of many megabytes.
const MAX_QUEUED_BYTES: usize = 256 << 20;
const MAX_QUEUED: usize = 4096;

const TAIL_BYTES: usize = 8 << 10;
const TAIL_LINES: usize = 40;

/// How much of a line that is too long is kept.
const LONG_LINE_START: usize = 200;

/// What a pipe holds at most, so what a child may have written before its exit and we have not read.
const PIPE_BYTES: usize = 1 << 20;

/// After a child's exit, an empty pipe that another process holds open is waited for as long as this.
const QUIET: Duration = Duration::from_millis(500);
/// And never longer than this: that process may write without end.
const DRAIN: Duration = Duration::from_secs(5);

/// The near end of a child's standard input.
#[derive(Debug)]
pub(super) struct Input {
    queue: Sender<Vec<u8>>,
    bytes: Arc<AtomicUsize>,
}

/// The far end: what the writing task works off.
pub(super) struct InputQueue {
    queue: Receiver<Vec<u8>>,
    bytes: Arc<AtomicUsize>,
}

impl Input {
    pub(super) fn new() -> (Input, InputQueue) {
        let (sender, receiver) = bounded(MAX_QUEUED);
        let bytes = Arc::new(AtomicUsize::new(0));
        let input = Input { queue: sender, bytes: Arc::clone(&bytes) };
        (input, InputQueue { queue: receiver, bytes })
    }

    pub(super) fn send(&self, bytes: Vec<u8>) -> io::Result<()> {
        let len = bytes.len();
        let waiting = self.bytes.fetch_add(len, Relaxed);
        let full = || {
            let text = format!("the process does not read its input: {waiting} bytes wait");
            io::Error::new(io::ErrorKind::QuotaExceeded, text)
        };
        let sent = if waiting.saturating_add(len) > MAX_QUEUED_BYTES {
            Err(full())
        } else {
            self.queue.try_send(bytes).map_err(|error| match error {
                TrySendError::Full(_) => full(),
                TrySendError::Disconnected(_) => io::ErrorKind::BrokenPipe.into(),
            })
        };
        sent.inspect_err(|_| {
            self.bytes.fetch_sub(len, Relaxed);
        })
    }
}

impl InputQueue {
    /// Writes until the near end is closed or the child reads no more.
    pub(super) fn write_to(self, mut pipe: impl Write) {
        for bytes in self.queue {
            if let Err(error) = pipe.write_all(&bytes) {
                log::debug!("a child's input: {error}");
                return;
            }
            self.bytes.fetch_sub(bytes.len(), Relaxed);
        }
    }
}

/// Hands over every line until the pipe ends or `emit` says false.
pub(super) fn read_lines(pipe: impl Read, limit: usize, mut emit: impl FnMut(ChildEvent) -> bool) {
    let mut reader = BufReader::with_capacity(64 << 10, pipe);
    let mut line = Vec::new();
    loop {
        let most = u64::try_from(limit).map_or(u64::MAX, |limit| limit.saturating_add(1));
        match reader.by_ref().take(most).read_until(b'\n', &mut line) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) => return log::debug!("a child's output: {error}"),
        }
        let wanted = if line.pop_if(|byte| *byte == b'\n').is_some() || line.len() <= limit {
            emit(ChildEvent::Line(mem::take(&mut line)))
        } else {
            let start = line[..LONG_LINE_START.min(line.len())].to_vec();
            // Handed over before the rest is skipped, for there may be no end to it.
            line = Vec::new();
            emit(ChildEvent::LongLine(start)) && reader.skip_until(b'\n').is_ok()
        };
        if !wanted {
            return;
        }
    }
}

/// The end of a child's standard error.
#[derive(Clone, Default)]
pub(super) struct Tail(Arc<Mutex<VecDeque<u8>>>);

impl Tail {
    /// Reads to the end, so that the child never blocks on its complaints.
    pub(super) fn fill_from(&self, mut pipe: impl Read) {
        let mut buffer = [0; 4 << 10];
        loop {
            match pipe.read(&mut buffer) {
                Ok(0) => return,
                Ok(len) => self.push(&buffer[..len]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return log::debug!("a child's error output: {error}"),
            }
        }
    }

    fn push(&self, bytes: &[u8]) {
        let mut tail = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tail.extend(bytes);
        let surplus = tail.len().saturating_sub(TAIL_BYTES);
        tail.drain(..surplus);
    }

    pub(super) fn text(&self) -> String {
        let mut tail = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(tail.make_contiguous());
        let lines: Vec<&str> = text.trim().lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }
}

/// The waiting side of a child's exit and the end of its output.
pub(super) struct Draining {
    ends: Receiver<()>,
    exit: ExitSignal,
}

/// Dropping it says that the child has exited.
struct ExitSignal(Arc<OwnedFd>);

impl ExitSignal {
    /// With the descriptor that becomes readable then.
    #[cfg(target_os = "linux")]
    fn new() -> io::Result<(ExitSignal, Arc<OwnedFd>)> {
        // One descriptor for each child, where a pipe takes two.
        let fd = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        Ok((ExitSignal(Arc::clone(&fd)), fd))
    }

    #[cfg(not(target_os = "linux"))]
    fn new() -> io::Result<(ExitSignal, Arc<OwnedFd>)> {
        let (exited, exit) = io::pipe()?;
        Ok((ExitSignal(Arc::new(exit.into())), Arc::new(exited.into())))
    }
}

impl Drop for ExitSignal {
    fn drop(&mut self) {
        // Eight bytes are one event of an eventfd. It has room for them, and so has an empty pipe.
        rustix::io::write(&self.0, &1_u64.to_ne_bytes()).unwrap_or_default();
    }
}

/// For the task of a pipe: dropping it says that the pipe has been read to its end.
pub(super) struct PipeEnd {
    /// Readable once the child has exited.
    exit: Arc<OwnedFd>,
    _end: Sender<()>,
}

impl Draining {
    pub(super) fn new() -> io::Result<(Draining, PipeEnd, PipeEnd)> {
        let (end, ends) = bounded(0);
        let (exit, exited) = ExitSignal::new()?;
        let pipe_end = |end| PipeEnd { exit: Arc::clone(&exited), _end: end };
        let (out, err) = (pipe_end(end.clone()), pipe_end(end));
        Ok((Draining { ends, exit }, out, err))
    }

    /// The child has exited: waits until all that it wrote is read and handed over. That takes as
    /// long as our own side needs, and what others write into its pipes is bounded by the reader.
    pub(super) fn wait(self) {
        drop(self.exit);
        self.ends.recv().expect_err("nothing is ever sent");
    }
}

impl PipeEnd {
    /// The child's end of `pipe`, as far as the child itself has written to it.
    pub(super) fn reads<R: Read + AsFd>(&self, pipe: R) -> OutputPipe<'_, R> {
        OutputPipe { pipe, exit: &self.exit, phase: Phase::Running }
    }
}

/// The output of a child. It ends where the pipe ends, or once the child has exited and the pipe
/// is empty: another process may hold it open.
pub(super) struct OutputPipe<'a, R> {
    pipe: R,
    exit: &'a OwnedFd,
    phase: Phase,
}

#[derive(Clone, Copy)]
enum Phase {
    Running,
    /// The child has exited, and so many bytes may still be its own.
    Exited(usize),
    /// What comes now was written by others, and is read until then at most.
    Others(Instant),
}

impl<R: Read + AsFd> OutputPipe<'_, R> {
    /// Waits until there is something to read. False: nothing more is to be read.
    fn is_ready(&mut self) -> io::Result<bool> {
        loop {
            match self.phase {
                Phase::Running => match self.poll(true, None)? {
                    (true, _) => return Ok(true),
                    (false, true) => self.phase = Phase::Exited(PIPE_BYTES),
                    (false, false) => {}
                },
                Phase::Exited(left) => {
                    if left > 0 && self.poll(false, Some(Duration::ZERO))?.0 {
                        return Ok(true);
                    }
                    self.phase = Phase::Others(Instant::now() + DRAIN);
                }
                Phase::Others(until) => {
                    let wait = QUIET.min(until.saturating_duration_since(Instant::now()));
                    return Ok(!wait.is_zero() && self.poll(false, Some(wait))?.0);
                }
            }
        }
    }

    /// Whether the pipe is readable, or at its end, and, if asked for, whether the child has exited.
    fn poll(&self, with_exit: bool, wait: Option<Duration>) -> io::Result<(bool, bool)> {
        let mut fds =
            [PollFd::new(&self.pipe, PollFlags::IN), PollFd::new(&self.exit, PollFlags::IN)];
        let count = if with_exit { 2 } else { 1 };
        let wait = wait.map(|wait| Timespec::try_from(wait).expect("it is short"));
        while let Err(error) = poll(&mut fds[..count], wait.as_ref()) {
            if error != Errno::INTR {
                return Err(error.into());
            }
        }
        Ok((!fds[0].revents().is_empty(), !fds[1].revents().is_empty()))
    }
}

impl<R: Read + AsFd> Read for OutputPipe<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.is_ready()? {
            return Ok(0);
        }
        let len = self.pipe.read(buffer)?;
        if let Phase::Exited(left) = &mut self.phase {
            *left = left.saturating_sub(len);
        }
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(input: &str, limit: usize, expected: &[&str]) {
        let mut lines = Vec::new();
        read_lines(input.as_bytes(), limit, |event| {
            lines.push(match event {
                ChildEvent::Line(line) => String::from_utf8(line).unwrap(),
                ChildEvent::LongLine(start) => {
                    format!("long {}", String::from_utf8(start).unwrap())
                }
                ChildEvent::Exit { .. } => unreachable!("reading sees no exit"),
            });
            true
        });
        assert_eq!(lines, expected, "{input:?}");
    }

    #[test]
    fn lines_are_cut_at_line_feeds_and_at_the_limit() {
        check("", 4, &[]);
        check("a\nb\n", 4, &["a", "b"]);
        check("a\n\nhalf", 4, &["a", "", "half"]);
        check("1234\n5\n", 4, &["1234", "5"]);
        check("12345\n6\n", 4, &["long 12345", "6"]);
        check("12345", 4, &["long 12345"]);
        check("1234567890\n1234", 4, &["long 12345", "1234"]);
    }

    #[test]
    fn reading_ends_when_the_receiver_is_gone() {
        let mut told = 0;
        read_lines(&b"1\n2\n3\n"[..], 10, |_| {
            told += 1;
            told < 2
        });
        assert_eq!(told, 2);
    }

    #[test]
    fn the_tail_keeps_the_end() {
        let tail = Tail::default();
        let lines: Vec<String> = (0..10_000).map(|n| format!("line {n}\n")).collect();
        tail.fill_from(lines.concat().as_bytes());
        let kept = tail.text();
        assert!(kept.starts_with("line 9960\n") && kept.ends_with("line 9999"), "{kept}");
        tail.fill_from("ä".repeat(100_000).as_bytes());
        assert!(tail.text().len() <= TAIL_BYTES + "\u{fffd}".len());
    }

    #[test]
    fn a_child_that_does_not_read_makes_sending_fail_and_not_wait() {
        let (input, queue) = Input::new();
        let block = MAX_QUEUED_BYTES / 4;
        for _ in 0..4 {
            input.send(vec![0; block]).unwrap();
        }
        assert_eq!(input.send(vec![0]).unwrap_err().kind(), io::ErrorKind::QuotaExceeded);
        let writer = std::thread::scope(|scope| {
            let near = scope.spawn(move || drop(input));
            queue.write_to(io::sink());
            near.join()
        });
        assert!(writer.is_ok());

        let (input, queue) = Input::new();
        for _ in 0..MAX_QUEUED {
            input.send(vec![0]).unwrap();
        }
        assert_eq!(input.send(vec![0]).unwrap_err().kind(), io::ErrorKind::QuotaExceeded);
        drop(queue);
        assert_eq!(input.send(vec![0]).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
