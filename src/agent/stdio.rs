//! The transport for engines that speak JSON lines on their standard streams, one process per turn.

use std::{io, time::Duration};

use crossbeam_channel::Receiver;
use rustix::process::Signal;
use serde_json::Value;

use crate::{
    agent::transport::{Transport, TransportEvent},
    proc::{
        Child, ChildEvent, Plan,
        kill::To,
        sweep::{Before, Marked, sweep},
    },
};

/// How an engine is made to leave, mildest first, and how long each step is given to work. It
/// always ends with a kill, which [`Transport::kill`] adds.
pub type Ladder = &'static [(LadderStep, Duration)];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LadderStep {
    CloseInput,
    Signal(Signal, To),
    /// The process group, and every process with the turn's marker.
    Kill,
}

/// The end of every ladder, and the kernel's part: nothing catches a KILL.
pub const KILL: (LadderStep, Duration) = (LadderStep::Kill, Duration::from_secs(2));

/// A sweep is milliseconds; a process that the kernel holds on to is not waited for.
const SWEEP: Duration = Duration::from_secs(2);

/// One engine process. Dropping it kills what is left of the turn.
#[derive(Debug)]
pub struct StdioTransport {
    child: Child<TransportEvent>,
    /// The value of the marker variable.
    marker: String,
    /// The steps that were not taken yet.
    ladder: Ladder,
    /// What ran already, as far as it was seen.
    before: Before,
}

impl StdioTransport {
    /// Starts the engine. `marker` is the value that the plan's environment has for
    /// [`crate::proc::sweep::MARKER`].
    ///
    /// # Errors
    /// When it can't be started; nothing is left running then.
    pub fn start(plan: &Plan, marker: &str, ladder: Ladder) -> io::Result<StdioTransport> {
        let before = Before::last();
        let child = Child::spawn_with(plan, incoming)?;
        log::debug!(pid = child.handle().id(); "engine started");
        Ok(StdioTransport { child, marker: marker.to_owned(), ladder, before })
    }
}

impl Transport for StdioTransport {
    fn send(&mut self, value: &Value) -> io::Result<()> {
        let mut line = serde_json::to_vec(value)?;
        line.push(b'\n');
        self.child.send(line)
    }

    fn incoming(&self) -> &Receiver<TransportEvent> {
        self.child.events()
    }

    fn close_input(&mut self) {
        self.child.close_input();
    }

    fn escalate(&mut self) -> Option<Duration> {
        loop {
            let ((step, wait), rest) = self.ladder.split_first()?;
            self.ladder = rest;
            match *step {
                // It has had its time for this one.
                LadderStep::CloseInput if !self.child.input_is_open() => continue,
                LadderStep::CloseInput => self.child.close_input(),
                LadderStep::Signal(signal, to) => {
                    if let Err(error) = self.child.handle().signal(signal, to) {
                        log::warn!("the engine can't be signalled: {error}");
                    }
                }
                LadderStep::Kill => {
                    self.kill();
                }
            }
            return Some(*wait);
        }
    }

    fn kill(&mut self) -> bool {
        let signalled = self.child.handle().signal(Signal::KILL, To::Group);
        if let Err(error) = &signalled {
            log::warn!("the engine can't be killed: {error}");
        }
        let ended = sweep(Marked::Turn(&self.marker), &self.before, SWEEP);
        if ended > 0 {
            log::info!(ended; "processes that a turn left behind were ended");
        }
        matches!(signalled, Ok(false))
    }
}

impl Drop for StdioTransport {
    fn drop(&mut self) {
        self.kill();
    }
}

fn incoming(event: ChildEvent) -> Option<TransportEvent> {
    match event {
        ChildEvent::Line(line) if line.trim_ascii().is_empty() => None,
        ChildEvent::Line(line) => {
            Some(parse(&line).map_or_else(|| TransportEvent::garbage(&line), TransportEvent::Value))
        }
        ChildEvent::LongLine(start) => Some(TransportEvent::garbage(&start)),
        ChildEvent::Exit { status, stderr_tail } => {
            Some(TransportEvent::Exit { exit: status.into(), stderr_tail })
        }
    }
}

/// Engines cut long tool output where they like: in the middle of a UTF-8 sequence, or between the
/// two `\u` escapes of an emoji. Such a line may be a question that waits for its answer, so it is
/// mended and not dropped.
fn parse(line: &[u8]) -> Option<Value> {
    read(line).or_else(|| read(behind_noise(line)?))
}

fn read(text: &[u8]) -> Option<Value> {
    serde_json::from_slice(text).ok().or_else(|| {
        let mended = mend_surrogates(&String::from_utf8_lossy(text));
        serde_json::from_str(&mended).ok()
    })
}

/// How much of a line is looked at for noise.
const NOISE: usize = 4 << 10;

/// The object that a line ends with, if something else is in front of it: what a terminal would
/// obey, a byte order mark, a progress bar or a notice without an end of its own. Only the first
/// thing that looks like an object: a line that begins with one is a frame, and another one within
/// it is not.
fn behind_noise(line: &[u8]) -> Option<&[u8]> {
    let start = &line[..NOISE.min(line.len())];
    let at = start.windows(2).position(|bytes| bytes == b"{\"")?;
    (at != 0).then(|| &line[at..])
}

/// Replaces `\ud800` to `\udfff` that have no partner by `\ufffd`.
fn mend_surrogates(text: &str) -> String {
    let mut mended = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        mended.push_str(&rest[..at]);
        rest = &rest[at..];
        let len = match (surrogate(rest), rest.get(6..).and_then(surrogate)) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => 12,
            (Some(_), _) => {
                mended.push_str("\\ufffd");
                rest = &rest[6..];
                continue;
            }
            // Another escape: two characters, of which the second may be a backslash.
            (None, _) => 1 + rest[1..].chars().next().map_or(0, char::len_utf8),
        };
        mended.push_str(&rest[..len]);
        rest = &rest[len..];
    }
    mended + rest
}

/// The value of the `\u` escape that `text` begins with, if it is half of a pair.
fn surrogate(text: &str) -> Option<u16> {
    let digits = text.strip_prefix("\\u")?.get(..4)?;
    u16::from_str_radix(digits, 16).ok().filter(|unit| (0xd800..=0xdfff).contains(unit))
}

#[cfg(test)]
mod tests {
    use std::{os::unix::process::ExitStatusExt as _, process::ExitStatus};

    use super::*;
    use crate::agent::Exit;

    #[track_caller]
    fn check(line: &[u8], expected: &str) {
        let got = match incoming(ChildEvent::Line(line.to_vec())) {
            Some(TransportEvent::Value(value)) => value.to_string(),
            Some(TransportEvent::Garbage(text)) => format!("garbage {text}"),
            Some(TransportEvent::Exit { .. }) => "exit".to_owned(),
            None => "nothing".to_owned(),
        };
        assert_eq!(got, expected, "{}", line.escape_ascii());
    }

    #[test]
    fn lines_become_values_or_garbage() {
        check(br#"{"a":1}"#, r#"{"a":1}"#);
        check(b"  7\r", "7");
        check(b" \r", "nothing");
        check(b"npm warn", "garbage npm warn");
        check(br#"{"a":"#, r#"garbage {"a":"#);
        check(&b"x".repeat(300), &format!("garbage {}", "x".repeat(200)));
        let deep = "[".repeat(100_000);
        check(deep.as_bytes(), &format!("garbage {}", "[".repeat(200)));
    }

    /// They were thrown away, questions and chunks of answers alike.
    #[test]
    fn a_frame_behind_noise_is_found() {
        const FRAME: &str = r#"{"a":{"b":1}}"#;
        for noise in [
            "\u{feff}",
            "\u{1b}]0;agent\u{7}\u{1b}[?25l",
            "\u{1b}[31m",
            "\rprogress 50%…",
            "npm warn {old} lockfile ",
            "[2026-11-30 12:00] ",
            "\0\u{8}\u{8}",
        ] {
            check(format!("{noise}{FRAME}").as_bytes(), FRAME);
        }
        check(b"\xef\xbb\xbf{\"a\":\"x\xc3\"}", "{\"a\":\"x\u{fffd}\"}");
        check(b"\x1b[2K{\"a\":\"\\ud83d\"}", "{\"a\":\"\u{fffd}\"}");
        let large = format!(r#"{{"a":"{}"}}"#, "x".repeat(1 << 20));
        check(format!("loading… {large}").as_bytes(), &large);
        // Half a frame with a whole object in it is no frame.
        check(br#"{"a":{"id":1}"#, r#"garbage {"a":{"id":1}"#);
        check(br#"{"a": {"id":1,"b":{"c":2}}"#, r#"garbage {"a": {"id":1,"b":{"c":2}}"#);
        check(br#"loaded {"a":1} and more"#, r#"garbage loaded {"a":1} and more"#);
        let far = format!("{}{FRAME}", " -".repeat(NOISE));
        check(far.as_bytes(), &format!("garbage {}", " -".repeat(100)));
    }

    #[test]
    fn characters_cut_in_half_are_mended() {
        check(b"{\"a\":\"x\xc3\"}", "{\"a\":\"x\u{fffd}\"}");
        check(br#"["\ud83d"]"#, "[\"\u{fffd}\"]");
        check(br#"["\ud83d\ud83d\ude00","\ude00"]"#, "[\"\u{fffd}😀\",\"\u{fffd}\"]");
        check(br#"["\\ud83d \ud83d"]"#, "[\"\\\\ud83d \u{fffd}\"]");
        check(br#"["\ud83d\n"]"#, "[\"\u{fffd}\\n\"]");
        check(br#"["\ud8"#, r#"garbage ["\ud8"#);
        check("[\"\\ä\"".as_bytes(), "garbage [\"\\ä\"");
    }

    #[test]
    fn an_exit_is_a_code_or_a_signal() {
        assert_eq!(Exit::from(Some(ExitStatus::from_raw(3 << 8))), Exit::Code(3));
        assert_eq!(Exit::from(Some(ExitStatus::from_raw(9))), Exit::Signal(9));
        assert_eq!(Exit::from(None), Exit::Unknown);
    }
}
