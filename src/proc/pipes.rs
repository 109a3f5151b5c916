//! A child's output: cut into lines, or kept as a tail. Some grandchild may hold a pipe open for as
//! long as it lives, and write to it: so an output ends by rules of ours.

use std::{
    collections::VecDeque,
    io::BufRead as _,
    mem,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::io::Errno;

use super::ChildEvent;

const TAIL_BYTES: usize = 8 << 10;
const TAIL_LINES: usize = 40;

/// How much of a line that is too long is kept.
const LONG_LINE_START: usize = 200;

/// What is read at a time.
const READ_BYTES: usize = 64 << 10;

/// What a pipe holds at most, so what a child may have written before its exit and we have not read.
const PIPE_BYTES: usize = 1 << 20;

/// After a child's exit, an empty pipe that another process holds open is waited for as long as this.
const QUIET: Duration = Duration::from_millis(500);
/// And never longer than this: that process may write without end.
const DRAIN: Duration = Duration::from_secs(5);

/// The output of a child, as far as the child itself has written to it. It ends where the pipe ends,
/// or once the child has exited and the pipe is empty.
pub(super) struct OutputPipe {
    pub(super) pipe: OwnedFd,
    phase: Phase,
}

#[derive(Clone, Copy)]
enum Phase {
    Running,
    /// The child has exited, and so many bytes may still be its own.
    Exited(usize),
    /// What comes now was written by others, and is read until then at most, and only until they are
    /// quiet.
    Others {
        until: Instant,
        quiet: Instant,
    },
}

/// What to do about an output that was polled.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Read,
    Wait,
    End,
}

impl OutputPipe {
    pub(super) fn new(pipe: OwnedFd) -> OutputPipe {
        OutputPipe { pipe, phase: Phase::Running }
    }

    pub(super) fn child_has_exited(&mut self) {
        self.phase = Phase::Exited(PIPE_BYTES);
    }

    /// When it is to be polled again at the latest.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        match self.phase {
            Phase::Running => None,
            Phase::Exited(_) => Some(now),
            Phase::Others { until, quiet } => Some(until.min(quiet)),
        }
    }

    pub(super) fn next(&mut self, is_ready: bool, now: Instant) -> Next {
        match self.phase {
            Phase::Running | Phase::Exited(1..) if is_ready => Next::Read,
            Phase::Exited(_) => {
                self.phase = Phase::Others { until: now + DRAIN, quiet: now + QUIET };
                Next::Wait
            }
            Phase::Others { until, .. } if until <= now => Next::End,
            Phase::Others { until, .. } if is_ready => {
                self.phase = Phase::Others { until, quiet: now + QUIET };
                Next::Read
            }
            Phase::Others { quiet, .. } if quiet <= now => Next::End,
            Phase::Running | Phase::Others { .. } => Next::Wait,
        }
    }

    /// Reads what is there, at most what fits. None: nothing more comes.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Option<usize> {
        loop {
            match rustix::io::read(&self.pipe, &mut *buffer) {
                Ok(0) => return None,
                Ok(length) => {
                    if let Phase::Exited(left) = &mut self.phase {
                        *left = left.saturating_sub(length);
                    }
                    return Some(length);
                }
                Err(Errno::INTR) => {}
                Err(error) => {
                    log::debug!("a child's output: {error}");
                    return None;
                }
            }
        }
    }
}

/// Cuts what is read into lines. They are asked for one by one, so that what waits for a slow reader
/// is one buffer.
pub(super) struct Lines {
    limit: usize,
    buffer: Box<[u8]>,
    /// What of the buffer is filled, and how much of that is taken.
    filled: usize,
    taken: usize,
    /// The beginning of a line whose end has not come yet.
    line: Vec<u8>,
    /// The rest of this line is not wanted: it is too long.
    is_skipping: bool,
    has_ended: bool,
}

impl Lines {
    pub(super) fn new(limit: usize) -> Lines {
        Lines {
            limit,
            buffer: vec![0; READ_BYTES].into(),
            filled: 0,
            taken: 0,
            line: Vec::new(),
            is_skipping: false,
            has_ended: false,
        }
    }

    /// Fills the buffer, of which everything was taken. None: nothing more comes.
    pub(super) fn fill(&mut self, read: impl FnOnce(&mut [u8]) -> Option<usize>) -> Option<()> {
        (self.filled, self.taken) = (read(&mut self.buffer)?, 0);
        Some(())
    }

    /// Nothing more comes: the line that has no end is one.
    pub(super) fn end(&mut self) {
        self.has_ended = true;
    }

    /// The next line; none until there is more in the buffer.
    pub(super) fn next(&mut self) -> Option<ChildEvent> {
        if self.is_skipping {
            let mut rest = &self.buffer[self.taken..self.filled];
            let skipped = rest.skip_until(b'\n').expect("memory can be read");
            self.is_skipping = skipped == 0 || self.buffer[self.taken + skipped - 1] != b'\n';
            self.taken += skipped;
        }
        let room = self.limit.saturating_add(1) - self.line.len();
        let until = self.filled.min(self.taken.saturating_add(room));
        let mut rest = &self.buffer[self.taken..until];
        self.taken += rest.read_until(b'\n', &mut self.line).expect("as above");
        if self.line.pop_if(|byte| *byte == b'\n').is_some() {
            return Some(ChildEvent::Line(mem::take(&mut self.line)));
        }
        if self.line.len() > self.limit {
            let start = self.line[..LONG_LINE_START.min(self.line.len())].to_vec();
            // Handed over before the rest is skipped, for there may be no end to it.
            (self.line, self.is_skipping) = (Vec::new(), true);
            return Some(ChildEvent::LongLine(start));
        }
        let is_last = self.has_ended && !self.line.is_empty();
        is_last.then(|| ChildEvent::Line(mem::take(&mut self.line)))
    }
}

/// The end of a child's standard error.
#[derive(Default)]
pub(super) struct Tail(VecDeque<u8>);

impl Tail {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.0.extend(bytes);
        let surplus = self.0.len().saturating_sub(TAIL_BYTES);
        self.0.drain(..surplus);
    }

    pub(super) fn text(&mut self) -> String {
        let text = String::from_utf8_lossy(self.0.make_contiguous());
        let lines: Vec<&str> = text.trim().lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines of an input that comes in parts of this length.
    fn lines(input: &str, limit: usize, part: usize) -> Vec<String> {
        let mut lines = Lines::new(limit);
        let mut told = Vec::new();
        let mut parts = input.as_bytes().chunks(part);
        loop {
            while let Some(event) = lines.next() {
                told.push(match event {
                    ChildEvent::Line(line) => String::from_utf8(line).unwrap(),
                    ChildEvent::LongLine(start) => {
                        format!("long {}", String::from_utf8(start).unwrap())
                    }
                    ChildEvent::Exit { .. } => unreachable!("reading sees no exit"),
                });
            }
            let read = |buffer: &mut [u8]| {
                let part = parts.next()?;
                buffer[..part.len()].copy_from_slice(part);
                Some(part.len())
            };
            if lines.fill(read).is_none() {
                if lines.has_ended {
                    return told;
                }
                lines.end();
            }
        }
    }

    #[track_caller]
    fn check(input: &str, limit: usize, expected: &[&str]) {
        for part in 1..=input.len().max(1) {
            assert_eq!(lines(input, limit, part), expected, "{input:?} in parts of {part}");
        }
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
        check("1234567890\n\n12345\n", 4, &["long 12345", "", "long 12345"]);
    }

    #[test]
    fn the_tail_keeps_the_end() {
        let mut tail = Tail::default();
        let lines: Vec<String> = (0..10_000).map(|n| format!("line {n}\n")).collect();
        for line in lines {
            tail.push(line.as_bytes());
        }
        let kept = tail.text();
        assert!(kept.starts_with("line 9960\n") && kept.ends_with("line 9999"), "{kept}");
        tail.push("ä".repeat(100_000).as_bytes());
        assert!(tail.text().len() <= TAIL_BYTES + "\u{fffd}".len());
    }

    #[test]
    fn after_the_exit_an_output_is_read_as_far_as_the_child_may_have_written() {
        let (reader, _writer) = std::io::pipe().unwrap();
        let mut output = OutputPipe::new(reader.into());
        let now = Instant::now();
        let later = |after: Duration| now + after;
        assert_eq!((output.next(true, now), output.next(false, now)), (Next::Read, Next::Wait));
        assert_eq!(output.due(now), None);
        output.child_has_exited();
        // However long its reader takes.
        let late = later(DRAIN * 10);
        assert_eq!((output.due(late), output.next(true, late)), (Some(late), Next::Read));
        assert_eq!(output.next(false, now), Next::Wait);
        assert_eq!(output.due(now), Some(later(QUIET)));
        assert_eq!(output.next(true, later(QUIET)), Next::Read, "others write");
        assert_eq!(output.next(false, later(QUIET * 3 / 2)), Next::Wait);
        assert_eq!(output.next(false, later(QUIET * 2)), Next::End, "they are quiet");
        assert_eq!(output.next(true, later(DRAIN)), Next::End, "they never end");
    }
}
