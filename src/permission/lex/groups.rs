//! Redirections and groups. Pure.

use super::{End, GROUPS_ODDLY, Lexer, REDIRECTS_ODDLY, ends_word, is_plain};

const GROUPS: &str = "it groups or expands commands by brackets or braces";
const REDIRECTS: &str = "it redirects input or output";

impl Lexer<'_> {
    /// `a &> b` is in some shells `a & > b`, so nothing may follow.
    pub(super) fn redirect_both(&mut self) {
        self.problem(REDIRECTS);
        self.end_word();
        self.eat(">");
        self.eat(">");
        self.taint_if(self.rest.starts_with(['&', '|', '!', '(', '<', '>']), REDIRECTS_ODDLY);
        self.rest = self.rest.trim_start_matches(['>', '|', '&']);
        self.at.is_something = true;
        self.at.is_over = true;
        self.at.redirects = Some('>');
    }

    /// `2>&1` and `>/dev/null` change no file; everything else may.
    pub(super) fn redirect(&mut self, c: char) {
        if let Some(word) = &self.at.word {
            let digits = !word.is_quoted && word.text.bytes().all(|b| b.is_ascii_digit());
            let is_descriptor = digits && word.text.len() == 1;
            // `{name}>x`, descriptors beyond 9, and `<1-9>`, which is a pattern in zsh.
            let is_odd = (digits && !is_descriptor)
                || (!word.is_quoted && word.text.ends_with('}'))
                || self.at.redirects.is_some()
                || self.rest.starts_with('(');
            if is_descriptor && self.at.redirects.is_none() {
                self.at.word = None;
            }
            self.taint_if(is_odd, REDIRECTS_ODDLY);
        } else {
            self.taint_if(self.at.redirects.is_some(), REDIRECTS_ODDLY);
        }
        self.end_word();
        self.at.is_something = true;
        if self.redirects_nowhere() {
            return;
        }
        if self.eat("(") {
            self.expands(REDIRECTS);
            return self.open(End::Substitution);
        }
        self.problem(REDIRECTS);
        if c == '<' && self.eat("<") {
            // The text of `<<<` stays, since a shell would run it.
            self.eat("<");
            return self.taint("a part of it is a text for a program to read");
        }
        if c == '>' {
            let _ = self.eat(">") || self.eat("|");
        }
        if self.duplicates() {
            return;
        }
        self.taint_if(self.rest.starts_with(['<', '>', '|', '&', '!', '(']), REDIRECTS_ODDLY);
        self.rest = self.rest.trim_start_matches(['>', '|', '&']);
        self.at.redirects = Some(c);
    }

    pub(super) fn redirects_nowhere(&mut self) -> bool {
        let blanks = self.rest.trim_start_matches([' ', '\t']);
        let rest = [(self.rest, "&1"), (self.rest, "&2"), (blanks, "/dev/null")]
            .into_iter()
            .find_map(|(rest, target)| rest.strip_prefix(target))
            .filter(|rest| rest.chars().next().is_none_or(ends_word));
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    /// `>&3`, `<&0`, `>&-`.
    pub(super) fn duplicates(&mut self) -> bool {
        let rest = self.rest.strip_prefix('&').and_then(|rest| {
            let rest = rest.strip_prefix(|c: char| c.is_ascii_digit() || c == '-')?;
            rest.chars().next().is_none_or(ends_word).then_some(rest)
        });
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    pub(super) fn open_group(&mut self) {
        self.problem(GROUPS);
        self.taint_if(!self.is_command() || self.rest.starts_with('('), GROUPS_ODDLY);
        self.open(End::Group);
    }

    pub(super) fn close_bracket(&mut self) {
        self.problem(GROUPS);
        match self.outer.last() {
            Some((_, End::Group)) => {
                self.close();
                self.at.is_something = true;
                self.at.is_over = true;
            }
            Some((_, End::Substitution)) => self.close(),
            _ => {
                self.taint(GROUPS_ODDLY);
                self.end_command("\n");
            }
        }
    }

    pub(super) fn open_brace(&mut self) {
        if self.at.word.is_none() && self.ends_word() {
            self.problem(GROUPS);
            self.taint_if(!self.is_command(), GROUPS_ODDLY);
            self.end_command("\n");
            self.at.braces += 1;
            return;
        }
        let is_program = self.at.word.is_none() && self.is_command();
        self.problem(GROUPS);
        // `{}` stays what it is.
        if is_program || !self.rest.starts_with('}') {
            self.expands(GROUPS);
        }
        self.push('{');
        let end = self.rest.find(|c| !is_plain(c)).unwrap_or(self.rest.len());
        let (list, rest) = self.rest.split_at(end);
        let is_list =
            rest.starts_with('}') && (list.is_empty() || list.contains(',') || list.contains(".."));
        if is_list && !is_program {
            let word = self.word();
            word.text.push_str(list);
            word.text.push('}');
            self.rest = &rest[1..];
        } else {
            self.taint(GROUPS_ODDLY);
        }
    }

    pub(super) fn close_brace(&mut self) {
        if self.at.word.is_none() && self.ends_word() {
            self.problem(GROUPS);
            self.taint_if(!self.is_command() || self.at.braces == 0, GROUPS_ODDLY);
            self.end_command("\n");
            self.at.braces = self.at.braces.saturating_sub(1);
            self.at.is_something = true;
            self.at.is_over = true;
        } else {
            self.taint(GROUPS_ODDLY);
            self.expands(GROUPS);
            self.push('}');
        }
    }
}
