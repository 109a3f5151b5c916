//! The patterns of rules: `*` stands for any text, everything else for itself, and a backslash takes
//! the meaning from what follows it. There is no `?` and no `[…]`, which are common in addresses and
//! file names. Matching takes linear time whatever the pattern.

/// A pattern over a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Glob {
    /// The texts between the stars; one if there is no star. Never empty.
    pieces: Vec<String>,
}

impl Glob {
    /// Reads a pattern. `escaped` makes of a character behind a backslash what stands for it in the
    /// texts that are matched.
    pub(super) fn parse(pattern: &str, escaped: fn(char) -> char) -> Result<Glob, &'static str> {
        let mut pieces = vec![String::new()];
        let mut chars = pattern.chars();
        while let Some(c) = chars.next() {
            let c = match c {
                '*' => {
                    pieces.push(String::new());
                    continue;
                }
                '\\' => escaped(chars.next().ok_or("a backslash must be followed by something")?),
                c => c,
            };
            pieces.last_mut().expect("there is always one").push(c);
        }
        Ok(Glob { pieces })
    }

    pub(super) fn matches(&self, text: &str) -> bool {
        let (first, rest) = self.pieces.split_first().expect("there is always one");
        let Some((last, middle)) = rest.split_last() else { return text == first };
        let Some(mut text) = text.strip_prefix(first.as_str()) else { return false };
        for piece in middle {
            match text.find(piece.as_str()) {
                Some(at) => text = &text[at + piece.len()..],
                None => return false,
            }
        }
        text.ends_with(last.as_str())
    }

    /// Whether some text that begins with `start` matches.
    pub(super) fn may_begin(&self, start: &str) -> bool {
        let first = &self.pieces[0];
        first.starts_with(start) || (self.pieces.len() > 1 && start.starts_with(first.as_str()))
    }

    /// The texts between the stars.
    pub(super) fn pieces(&self) -> impl Iterator<Item = &str> {
        self.pieces.iter().map(String::as_str)
    }

    /// The one text that matches, if there are no stars.
    pub(super) fn exact(&self) -> Option<&str> {
        match &self.pieces[..] {
            [only] => Some(only),
            _ => None,
        }
    }

    /// Whether it ends in a star.
    pub(super) fn is_open(&self) -> bool {
        self.pieces.len() > 1 && self.pieces.last().is_some_and(String::is_empty)
    }

    /// The same pattern with every character replaced.
    pub(super) fn map(&self, each: fn(char) -> char) -> Glob {
        Glob { pieces: self.pieces.iter().map(|piece| piece.chars().map(each).collect()).collect() }
    }

    /// The same pattern with the texts between its stars replaced.
    pub(super) fn each_piece(&self, each: fn(&str) -> String) -> Glob {
        Glob { pieces: self.pieces.iter().map(|piece| each(piece)).collect() }
    }

    /// Without the last `end` of a pattern that has it right before a last star.
    pub(super) fn without_open_end(&self, end: &str) -> Option<Glob> {
        let (last, pieces) = self.pieces.split_last()?;
        let shorter = pieces.last()?.strip_suffix(end)?.to_owned();
        let mut pieces = pieces.to_vec();
        *pieces.last_mut()? = shorter;
        last.is_empty().then_some(Glob { pieces })
    }
}

/// `text` as a pattern that matches nothing else. `plain` undoes what [`Glob::parse`] makes of a
/// character behind a backslash.
pub(super) fn escape(text: &str, plain: fn(char) -> char) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '*' | '\\') || plain(c) != c {
            out.push('\\');
        }
        out.push(plain(c));
    }
    out
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn glob(pattern: &str) -> Glob {
        Glob::parse(pattern, |c| c).unwrap()
    }

    #[track_caller]
    fn check(pattern: &str, texts: &[&str], expected: bool) {
        for text in texts {
            assert_eq!(glob(pattern).matches(text), expected, "{pattern:?} on {text:?}");
        }
    }

    #[test]
    fn stars_stand_for_any_text_and_nothing_else_is_special() {
        check("git status*", &["git status", "git status -s", "git statusx"], true);
        check("git status*", &["git statu", "xgit status", ""], false);
        check("a*b*c", &["abc", "a1b2c", "abbcc", "abcbc"], true);
        check("a*b*c", &["ac", "acb", "abcd"], false);
        check("ab*ba", &["abba", "abxba"], true);
        // One text can't be both the beginning and the end.
        check("ab*ba", &["aba"], false);
        check("*", &["", "x", "é\n"], true);
        check("a?[b]", &["a?[b]"], true);
        check("a?[b]", &["axb", "a?b"], false);
        check("", &[""], true);
        check("", &["x"], false);
    }

    #[test]
    fn a_backslash_takes_the_meaning_away() {
        check(r"a\*b", &["a*b"], true);
        check(r"a\*b", &["axb", r"a\*b"], false);
        check(r"\\", &[r"\"], true);
        assert!(Glob::parse(r"a\", |c| c).is_err());
        for text in ["*", r"\*", "a*b\\", "é**"] {
            check(&escape(text, |c| c), &[text], true);
            check(&escape(text, |c| c), &["", "x", "a*b"], false);
        }
    }

    #[track_caller]
    fn begins(pattern: &str, start: &str, expected: bool) {
        assert_eq!(glob(pattern).may_begin(start), expected, "{pattern:?} {start:?}");
    }

    #[test]
    fn what_a_text_may_become_is_known_from_its_beginning() {
        begins("git push*", "", true);
        begins("git push*", "git ", true);
        begins("git push*", "git push --f", true);
        begins("git push*", "git pull", false);
        begins("git push", "git push x", false);
        begins("*force*", "anything", true);
    }

    /// A pattern that costs a naive matcher the age of the universe.
    #[test]
    fn no_pattern_takes_long() {
        let started = Instant::now();
        let pattern = "*a".repeat(400) + "b";
        assert!(!glob(&pattern).matches(&"a".repeat(1 << 20)));
        assert!(started.elapsed() < Duration::from_secs(2));
    }
}
