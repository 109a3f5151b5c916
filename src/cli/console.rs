//! Where a command reads and prints. Output is for programs and people alike; what went wrong, and
//! what is said on the way, goes to the other stream.

use std::{
    fmt::Write as _,
    io::{self, BufRead, ErrorKind, Write},
};

use serde_json::Value;

use crate::visible::drives_terminal;

/// The streams of this process, or a test's.
pub(super) struct Console<'a> {
    pub(super) out: &'a mut dyn Write,
    pub(super) err: &'a mut dyn Write,
    pub(super) input: &'a mut dyn BufRead,
    /// Whether there is a person to ask.
    pub(super) interactive: bool,
    /// Output was lost.
    pub(super) is_cut: bool,
}

/// The longest answer to a question, in bytes.
const MAX_ANSWER: u64 = 16 * 1024;

impl Console<'_> {
    /// Prints a line, foreign text in it or not.
    pub(super) fn say(&mut self, line: impl AsRef<str>) {
        self.print(&printable(line.as_ref()));
    }

    /// Prints JSON. What would drive a terminal is only in its strings, and escaped there.
    pub(super) fn say_json(&mut self, value: &Value) {
        let mut text = String::new();
        for c in format!("{value:#}").chars() {
            if c != '\n' && drives_terminal(c) {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(text, "\\u{unit:04x}").expect("writing to a string works");
                }
            } else {
                text.push(c);
            }
        }
        self.print(&text);
    }

    /// A reader that went away (`| head`) is no failure of ours. A full disk is: whoever asked must
    /// not take what there is for the answer.
    fn print(&mut self, line: &str) {
        let written = writeln!(self.out, "{line}").and_then(|()| self.out.flush());
        if let Err(error) = written.or_else(forgive)
            && !self.is_cut
        {
            self.is_cut = true;
            self.complain(format!("the output can't be written: {error}"));
        }
    }

    /// Tells a person something that is no output.
    pub(super) fn note(&mut self, line: impl AsRef<str>) {
        // There is nobody left to tell that this failed.
        writeln!(self.err, "{}", printable(line.as_ref())).ok();
    }

    pub(super) fn complain(&mut self, line: impl AsRef<str>) {
        self.note(format!("obto-bridge: {}", line.as_ref()));
    }

    /// Asks for a line. The default, if there is no terminal or nothing was typed.
    pub(super) fn ask(&mut self, question: &str, default: &str) -> io::Result<String> {
        if !self.interactive {
            return Ok(default.to_owned());
        }
        if default.is_empty() {
            write!(self.out, "{question}: ")?;
        } else {
            write!(self.out, "{question} [{default}]: ")?;
        }
        self.out.flush()?;
        let line = self.read_line()?;
        let answer = line.trim();
        Ok(if answer.is_empty() { default } else { answer }.to_owned())
    }

    /// The next line of the input.
    pub(super) fn read_line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        io::Read::take(&mut self.input, MAX_ANSWER).read_line(&mut line)?;
        Ok(line)
    }
}

fn forgive(error: io::Error) -> io::Result<()> {
    if error.kind() == ErrorKind::BrokenPipe { Ok(()) } else { Err(error) }
}

/// `text` without what would drive the terminal that shows it. Lines and tabs stay.
pub(super) fn printable(text: &str) -> String {
    let clean = |c| if drives_terminal(c) && !matches!(c, '\n' | '\t') { '\u{fffd}' } else { c };
    text.chars().map(clean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn ask(interactive: bool, typed: &str, default: &str) -> (String, String) {
        let (mut out, mut err, mut input) = (Vec::new(), Vec::new(), typed.as_bytes());
        let mut console =
            Console { out: &mut out, err: &mut err, input: &mut input, interactive, is_cut: false };
        let answer = console.ask("Name", default).unwrap();
        (answer, String::from_utf8(out).unwrap())
    }

    #[test]
    fn only_a_person_is_asked() {
        assert_eq!(ask(false, "typed\n", "box"), ("box".to_owned(), String::new()));
        assert_eq!(ask(true, " typed \n", "box"), ("typed".to_owned(), "Name [box]: ".to_owned()));
        assert_eq!(ask(true, "\n", "box").0, "box");
        assert_eq!(ask(true, "", ""), (String::new(), "Name: ".to_owned()));
    }

    #[test]
    fn an_answer_has_a_bound() {
        assert_eq!(ask(true, &"x".repeat(100_000), "").0.len(), 16 * 1024);
    }

    #[test]
    fn terminals_are_not_driven() {
        assert_eq!(printable("a\u{1b}[2J\r\n\tb"), "a\u{fffd}[2J\u{fffd}\n\tb");
        assert_eq!(printable("txt.\u{202e}exe"), "txt.\u{fffd}exe");
    }

    /// Fails as it is told to.
    struct Full(ErrorKind);

    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn output_that_is_lost_is_told_once() {
        for (kind, is_cut) in [(ErrorKind::StorageFull, true), (ErrorKind::BrokenPipe, false)] {
            let (mut out, mut err, mut input) = (Full(kind), Vec::new(), &b""[..]);
            let mut console = Console {
                out: &mut out,
                err: &mut err,
                input: &mut input,
                interactive: false,
                is_cut: false,
            };
            console.say("one");
            console.say_json(&serde_json::json!({}));
            assert_eq!(console.is_cut, is_cut);
            let told = String::from_utf8(err).unwrap();
            assert_eq!(told.lines().count(), usize::from(is_cut), "{told}");
        }
    }

    #[test]
    fn json_stays_json() {
        let value = serde_json::json!({ "a\u{202e}": ["\u{e0041}\u{9b}", "é\n\t\u{1b}"] });
        let (mut out, mut err, mut input) = (Vec::new(), Vec::new(), &b""[..]);
        let (interactive, is_cut) = (false, false);
        Console { out: &mut out, err: &mut err, input: &mut input, interactive, is_cut }
            .say_json(&value);
        let text = String::from_utf8(out).unwrap();
        assert!(!text.contains(|c| c != '\n' && drives_terminal(c)), "{text:?}");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
    }
}
