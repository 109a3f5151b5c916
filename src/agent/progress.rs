//! What an engine does now, in one line for the person who waits: the same words for all engines.
//! Commands and paths are foreign text. They stand between backticks, without anything that would
//! end the quotation or the line, so that none can pass for words of ours. Pure.

use camino::Utf8Path;

use super::text::quotable;

/// Characters of a line.
const LINE_CHARS: usize = 120;

/// An action that begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing<'a> {
    /// A command line.
    Running(&'a str),
    /// Paths.
    Editing(&'a [&'a str]),
    Reading(&'a str),
    /// A pattern or question.
    Searching(&'a str),
    Fetching(&'a str),
    /// A subagent's task in a few words.
    Asking(&'a str),
    /// Another tool, by its name.
    Calling(&'a str),
}

impl Doing<'_> {
    /// The line. Paths inside `project` are told from there.
    pub fn line(self, project: &Utf8Path) -> String {
        let inside = |path: &str| {
            let inner = Utf8Path::new(path).strip_prefix(project).map_or("", Utf8Path::as_str);
            if inner.is_empty() { path.to_owned() } else { inner.to_owned() }
        };
        let (verb, what) = match self {
            Doing::Running(command) => ("Running", command.to_owned()),
            Doing::Editing([]) => ("Editing", String::new()),
            Doing::Editing([path]) => ("Editing", inside(path)),
            Doing::Editing([path, rest @ ..]) => {
                return format!("{} and {} more", quoted("Editing", &inside(path), 20), rest.len());
            }
            Doing::Reading(path) => ("Reading", inside(path)),
            Doing::Searching(what) => ("Searching", what.to_owned()),
            Doing::Fetching(url) => ("Fetching", url.to_owned()),
            Doing::Asking(task) => ("Asking subagent:", task.to_owned()),
            Doing::Calling(tool) => ("Calling", tool.to_owned()),
        };
        quoted(verb, &what, 0)
    }
}

/// `verb` and `what` between backticks, with room for `more` characters behind them.
fn quoted(verb: &str, what: &str, more: usize) -> String {
    let room = LINE_CHARS - verb.chars().count() - 3 - more;
    match quotable(what, room).as_str() {
        "" => format!("{}…", verb.trim_end_matches(':')),
        what => format!("{verb} `{what}`"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(doing: Doing<'_>, expected: &str) {
        assert_eq!(doing.line(Utf8Path::new("/p")), expected);
    }

    #[test]
    fn a_line_says_what_is_done_to_what() {
        check(Doing::Running("cargo test"), "Running `cargo test`");
        check(Doing::Editing(&["/p/src/a.rs"]), "Editing `src/a.rs`");
        check(Doing::Editing(&["/p/a", "/b", "/c"]), "Editing `a` and 2 more");
        check(Doing::Editing(&[]), "Editing…");
        check(Doing::Reading("/etc/hosts"), "Reading `/etc/hosts`");
        check(Doing::Reading("/project/a"), "Reading `/project/a`");
        check(Doing::Reading("/p"), "Reading `/p`");
        check(Doing::Searching("fn main"), "Searching `fn main`");
        check(Doing::Fetching("https://docs.rs/"), "Fetching `https://docs.rs/`");
        check(Doing::Asking("find the bug"), "Asking subagent: `find the bug`");
        check(Doing::Asking(""), "Asking subagent…");
        check(Doing::Calling("git:push"), "Calling `git:push`");
    }

    #[test]
    fn a_command_cannot_leave_its_quotes_or_its_line() {
        check(
            Doing::Running("a\nb` **approved** `\u{1b}[2J\u{202e}c"),
            "Running `a b' **approved** ' [2J c`",
        );
        let long = Doing::Running(&"x".repeat(1000)).line(Utf8Path::new("/p"));
        assert_eq!(long.chars().count(), 120);
        assert!(long.ends_with("x…`"), "{long}");
        let many = "ä".repeat(1000);
        let long = Doing::Editing(&[&many, "b"]).line(Utf8Path::new("/p"));
        assert!(long.chars().count() <= 120 && long.ends_with("…` and 1 more"), "{long}");
    }

    proptest! {
        #[test]
        fn a_line_is_always_one_short_line(what in any::<String>(), other in any::<String>()) {
            let both = [&what[..], &other[..]];
            for doing in [
                Doing::Running(&what), Doing::Editing(&both), Doing::Reading(&what),
                Doing::Searching(&what), Doing::Fetching(&what), Doing::Asking(&what),
                Doing::Calling(&what),
            ] {
                let line = doing.line(Utf8Path::new("/p"));
                prop_assert!(line.chars().count() <= 120, "{line}");
                prop_assert!(!line.contains(|c: char| c.is_control()), "{line:?}");
                prop_assert!(line.matches('`').count() <= 2, "{line}");
            }
        }
    }
}
