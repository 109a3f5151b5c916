//! Quotes, and what the shell replaces. Pure.

use super::{End, Lexer, UNCLOSED, is_plain};

const EXPANDS: &str = "the shell would replace a part of it (`$` or backticks)";
const EXPANDS_ODDLY: &str = "shells differ in what they make of a `$` or of backticks in it";

impl Lexer<'_> {
    pub(super) fn double_quoted(&mut self, c: char) {
        match c {
            '"' => {
                self.quote_in_backticks();
                self.at.is_quoted = false;
            }
            '$' => self.dollar(),
            '`' => self.backtick(),
            '\\' => {
                self.backslash_in_backticks();
                match self.next() {
                    Some('\n') => {}
                    Some(c @ ('"' | '\\' | '$' | '`')) => self.push_quoted(c),
                    Some(c) => {
                        self.push_quoted('\\');
                        self.push_quoted(c);
                    }
                    None => self.taint(UNCLOSED),
                }
            }
            c => self.push_quoted(c),
        }
        self.before = c;
    }

    pub(super) fn single_quoted(&mut self) {
        self.quote_in_backticks();
        self.word().is_quoted = true;
        while let Some(c) = self.next() {
            if c == '\'' {
                return;
            }
            // In fish this does not close the quote.
            if c == '\\' {
                self.backslash_in_backticks();
                self.taint_if(self.rest.starts_with('\''), "shells differ in where its quotes end");
            }
            self.taint_if(c == '`' && self.is_in_backticks(), EXPANDS_ODDLY);
            self.push_quoted(c);
        }
        self.taint(UNCLOSED);
    }

    pub(super) fn backslash(&mut self) {
        self.backslash_in_backticks();
        match self.next() {
            // It vanishes before anything else is read, so it must not stand within something.
            Some('\n') => {
                let is_plain = |c| is_plain(c) || matches!(c, ' ' | '\t' | '\n' | '"' | '\'');
                let is_odd = !matches!(self.before, ' ' | '\t' | '\n')
                    || !self.rest.chars().next().is_none_or(is_plain);
                self.taint_if(is_odd, "a line of it goes on in the next one at an odd place");
            }
            Some(c) => {
                // `\n` and `\x41` are escapes in fish.
                if c.is_alphanumeric() {
                    self.problem("shells differ in what a backslash before a letter is");
                }
                self.push_quoted(c);
            }
            None => self.taint(UNCLOSED),
        }
    }

    /// Within backticks a backslash is taken away before anything else is read.
    pub(super) fn backslash_in_backticks(&mut self) {
        self.taint_if(self.is_in_backticks(), EXPANDS_ODDLY);
    }

    /// And shells differ in what a quote is within backticks within quotes.
    pub(super) fn quote_in_backticks(&mut self) {
        let is_odd = self.outer.iter().any(|(at, end)| *end == End::Backtick && at.is_quoted);
        self.taint_if(is_odd, EXPANDS_ODDLY);
    }

    pub(super) fn is_in_backticks(&self) -> bool {
        self.outer.iter().any(|(_, end)| *end == End::Backtick)
    }

    pub(super) fn dollar(&mut self) {
        self.expands(EXPANDS);
        let start = self.rest;
        if self.eat("(") {
            self.taint_if(self.rest.starts_with('('), EXPANDS_ODDLY);
            return self.open(End::Substitution);
        }
        if self.rest.starts_with('\'') && !self.at.is_quoted {
            self.taint(EXPANDS_ODDLY);
            return self.ansi_quoted();
        }
        if self.eat("{") {
            let name = self.name();
            let end = self.rest.find('}').unwrap_or(0);
            if name && self.rest.starts_with('}') {
                self.eat("}");
            } else if name && is_plain_expansion(&self.rest[..end]) {
                self.rest = &self.rest[end + 1..];
            } else {
                return self.taint(EXPANDS_ODDLY);
            }
        } else if !self.name() {
            let is_quote = self.at.is_quoted && self.rest.starts_with('"');
            if let Some(rest) = self.rest.strip_prefix([
                '?', '@', '*', '!', '$', '-', '#', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9',
            ]) {
                self.rest = rest;
                // `$#x` and `$$x` are two things in zsh and in others.
                let is_odd = |c: char| {
                    matches!(c, '{' | '(' | '[' | '#' | '$' | '-' | '=') || c.is_alphanumeric()
                };
                self.taint_if(rest.starts_with(is_odd), EXPANDS_ODDLY);
            } else {
                self.taint_if(!is_quote && !self.ends_word(), EXPANDS_ODDLY);
            }
        }
        // An index in zsh: it is arithmetic, which runs what is in it.
        self.taint_if(self.rest.starts_with('['), EXPANDS_ODDLY);
        let read = start.len() - self.rest.len();
        self.word().text.push('$');
        self.word().text.push_str(&start[..read]);
    }

    pub(super) fn ansi_quoted(&mut self) {
        self.eat("'");
        loop {
            match self.next() {
                Some('\'') => return,
                Some('\\') => drop(self.next()),
                Some(c) => self.push_quoted(c),
                None => return self.taint(UNCLOSED),
            }
        }
    }

    /// Goes on behind the name of a variable.
    pub(super) fn name(&mut self) -> bool {
        let end = self.rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let (name, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if is_name {
            self.rest = rest;
        }
        is_name
    }

    pub(super) fn backtick(&mut self) {
        if self.outer.last().is_some_and(|(_, end)| *end == End::Backtick) {
            self.taint_if(self.at.is_quoted, EXPANDS_ODDLY);
            return self.close();
        }
        self.taint_if(self.is_in_backticks(), EXPANDS_ODDLY);
        self.expands(EXPANDS);
        self.open(End::Backtick);
    }

    /// As an argument its expansion is covered by whatever star of a rule covers it.
    pub(super) fn file_glob(&mut self, c: char) {
        // The command `[`.
        if c == '[' && self.is_command() && self.rest.starts_with([' ', '\t']) {
            return self.push(c);
        }
        if self.at.words.is_empty() {
            self.problem("the program is named by a pattern");
        }
        let word = self.word();
        if word.known.is_none() {
            word.known = Some(word.text.len());
            word.is_glob = true;
        }
        self.push(c);
    }

    pub(super) fn hash(&mut self) {
        if self.at.word.is_some() {
            self.unknown();
            return self.push('#');
        }
        let is_comment = matches!(self.before, ' ' | '\t' | '\n' | ';' | '&' | '|');
        let is_odd = !is_comment || !self.outer.is_empty() || self.at.redirects.is_some();
        self.taint_if(is_odd, "shells differ in whether a part of it is a comment");
        self.problem("it has a comment");
        let end = self.rest.find('\n').unwrap_or(self.rest.len());
        self.rest = &self.rest[end..];
    }

    pub(super) fn tilde(&mut self) {
        if self.at.word.is_none() && (self.ends_word() || self.rest.starts_with('/')) {
            self.word().is_home = true;
        } else {
            self.unknown();
        }
        self.push('~');
    }
}

/// `:-x`, `%.rs`, `##*/` and the like behind a name in `${…}`.
fn is_plain_expansion(text: &str) -> bool {
    let operators = [":-", ":+", "-", "+", "%%", "%", "##", "#"];
    let value = operators.iter().find_map(|it| text.strip_prefix(it));
    value.is_some_and(|it| it.chars().all(|c| is_plain(c) && c != '%' || c == '*'))
}
