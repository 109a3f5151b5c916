//! A rule as it stands in the config: `kind`, or `kind(pattern)`. Pure.

use std::fmt;

use super::{command_glob::CommandGlob, glob::Glob, place::PlaceGlob, url::UrlGlob};
use crate::agent::ActionKind;

/// Longer rules are a mistake.
const RULE_MAX: usize = 16 * 1024;

/// The kinds by their names in rules.
const KINDS: [(&str, ActionKind); 6] = [
    ("read", ActionKind::Read),
    ("edit", ActionKind::Edit),
    ("run", ActionKind::Run),
    ("fetch", ActionKind::Fetch),
    ("mcp", ActionKind::Mcp),
    ("other", ActionKind::Other),
];

/// The kind that a rule or a person names.
pub fn kind_of(name: &str) -> Option<ActionKind> {
    KINDS.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind)
}

/// The name of a kind in rules.
pub fn kind_name(kind: ActionKind) -> &'static str {
    KINDS.iter().find(|(_, known)| *known == kind).map_or("other", |(name, _)| name)
}

/// A rule. It prints as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    text: String,
    pub(super) kind: ActionKind,
    /// None: everything of the kind.
    pub(super) pattern: Option<Pattern>,
}

/// What a rule says of its kind's subjects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Pattern {
    Command(CommandGlob),
    Place(PlaceGlob),
    Url(UrlGlob),
    /// Searches of the web, whatever they look for.
    Search,
    Name(Glob),
}

impl Rule {
    /// Reads a rule. The error says what is wrong and how it should look.
    pub fn parse(text: &str) -> Result<Rule, String> {
        let text = text.trim();
        if text.len() > RULE_MAX {
            return Err(format!("a rule has at most {RULE_MAX} bytes"));
        }
        let (name, pattern) = match text.split_once('(') {
            None => (text, None),
            Some((name, rest)) => match rest.strip_suffix(')') {
                Some(pattern) if !pattern.is_empty() => (name, Some(pattern)),
                _ => return Err("a pattern is written in brackets, like run(git status *)".into()),
            },
        };
        let Some(kind) = kind_of(name) else {
            return Err(format!(
                "{name:?} is no kind; there are read, edit, run, fetch, mcp and other, alone or \
                 with a pattern, like run(git status *)"
            ));
        };
        let pattern = pattern.map(|pattern| Pattern::parse(kind, pattern)).transpose()?;
        Ok(Rule { text: text.to_owned(), kind, pattern })
    }
}

impl Pattern {
    fn parse(kind: ActionKind, pattern: &str) -> Result<Pattern, &'static str> {
        Ok(match kind {
            ActionKind::Run => Pattern::Command(CommandGlob::parse(pattern)?),
            ActionKind::Read | ActionKind::Edit => Pattern::Place(PlaceGlob::parse(pattern)?),
            ActionKind::Fetch if pattern == "search" => Pattern::Search,
            ActionKind::Fetch => Pattern::Url(UrlGlob::parse(pattern)?),
            ActionKind::Mcp if !pattern.contains(':') => {
                return Err("a tool is written server:tool, like mcp(github:*)");
            }
            ActionKind::Mcp | ActionKind::Other => Pattern::Name(Glob::parse(pattern, |c| c)?),
        })
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_print_as_they_are_written() {
        for text in [
            "read",
            "run(git status*)",
            "edit(//**)",
            "edit(~/x)",
            "fetch(search)",
            "mcp(a:*)",
            "other(Task(x))",
        ] {
            assert_eq!(Rule::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Rule::parse(" run ").unwrap().to_string(), "run");
        for (name, kind) in KINDS {
            assert_eq!((kind_of(name), kind_name(kind)), (Some(kind), name));
        }
    }

    #[track_caller]
    fn bad(text: &str, why: &str) {
        let error = Rule::parse(text).unwrap_err();
        assert!(error.contains(why), "{text}: {error}");
    }

    #[test]
    fn a_bad_rule_is_told_how_it_should_look() {
        bad("", "read, edit, run");
        bad("Bash(git status)", "read, edit, run");
        bad("Run", "\"Run\" is no kind");
        bad("run(", "run(git status *)");
        bad("run()", "run(git status *)");
        bad("run(x) y", "run(git status *)");
        bad("run(x\\)", "backslash");
        bad("edit(../x)", "`..`");
        bad("edit(src/)", "**");
        bad("edit(/)", "**");
        bad("edit(src**)", "src/**/*.rs");
        bad("edit(~root/x)", "~/");
        bad("fetch(docs.rs)", "https://docs.rs/*");
        bad("fetch(https://docs.rs*)", "evil");
        bad("mcp(github)", "server:tool");
        bad(&format!("run({})", "x".repeat(20_000)), "at most");
    }
}
