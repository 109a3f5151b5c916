//! Where a command reads and prints. Output is for programs and people alike; what went wrong, and
//! what is said on the way, goes to the other stream.

use std::io::{self, BufRead, Write};

/// The streams of this process, or a test's.
pub(super) struct Console<'a> {
    pub(super) out: &'a mut dyn Write,
    pub(super) err: &'a mut dyn Write,
    pub(super) input: &'a mut dyn BufRead,
    /// Whether there is a person to ask.
    pub(super) interactive: bool,
}

/// The longest answer to a question, in bytes.
const MAX_ANSWER: u64 = 16 * 1024;

impl Console<'_> {
    /// Prints a line. A reader that went away (`| head`) is no failure of ours.
    pub(super) fn say(&mut self, line: impl AsRef<str>) {
        writeln!(self.out, "{}", line.as_ref()).and_then(|()| self.out.flush()).ok();
    }

    /// Tells a person something that is no output.
    pub(super) fn note(&mut self, line: impl AsRef<str>) {
        writeln!(self.err, "{}", line.as_ref()).ok();
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

/// `text` without what would drive the terminal that shows it. Lines and tabs stay.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() && !matches!(c, '\n' | '\t') { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn ask(interactive: bool, typed: &str, default: &str) -> (String, String) {
        let (mut out, mut err, mut input) = (Vec::new(), Vec::new(), typed.as_bytes());
        let mut console = Console { out: &mut out, err: &mut err, input: &mut input, interactive };
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
    }
}
