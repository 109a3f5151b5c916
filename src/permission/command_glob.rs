//! Patterns of rules over command lines. Pure.

use super::{
    glob::Glob,
    guard::{guard, unguard},
};

/// A pattern over command lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CommandGlob {
    /// Over words, with what is quoted told apart.
    exact: Vec<Glob>,
    /// Over the same, as if nothing was quoted.
    loose: Vec<Glob>,
}

impl CommandGlob {
    pub(super) fn parse(pattern: &str) -> Result<CommandGlob, &'static str> {
        let glob = Glob::parse(pattern, guard)?;
        // `git status *` is `git status` with whatever arguments, also with none.
        let bare = glob.without_open_end(" ");
        let exact: Vec<Glob> = [glob].into_iter().chain(bare).collect();
        Ok(CommandGlob { loose: exact.iter().map(|glob| glob.map(unguard)).collect(), exact })
    }

    /// Whether it covers a simple command whose words are guarded.
    pub(super) fn covers(&self, command: &str) -> bool {
        self.exact.iter().any(|glob| glob.matches(command))
    }

    /// Whether it has a word that begins so, as it stands there.
    pub(super) fn names(&self, start: &str) -> bool {
        let word = format!(" {start}");
        let names = |(at, piece): (usize, &str)| {
            piece.contains(&word) || (at > 0 && piece.starts_with(start))
        };
        self.exact.iter().any(|glob| glob.pieces().enumerate().any(names))
    }

    /// Whether it is this whole line, and none other.
    pub(super) fn is_line(&self, line: &str) -> bool {
        self.exact.iter().any(|glob| glob.exact() == Some(line))
    }

    /// Whether it describes an unguarded text that may run.
    pub(super) fn reaches(&self, command: &str) -> bool {
        self.loose.iter().any(|glob| glob.matches(command))
    }

    /// Whether it describes anything that begins so.
    pub(super) fn may_begin(&self, start: &str) -> bool {
        self.loose.iter().any(|glob| glob.may_begin(start))
    }
}
