//! Takes a command line apart like a shell, without running or expanding anything. It goes on where
//! it is no longer sure, and says why it is not: what is allowed needs to be sure, what is denied
//! must be found all the same. Pure.

use std::mem::take;

use super::guard::{guard, is_guard};

/// Nested `$(…)`, backticks and brackets.
const NESTED_MAX: usize = 32;

const UNCLOSED: &str = "its quotes or brackets do not close";
const EXPANDS: &str = "the shell would replace a part of it (`$` or backticks)";
const GROUPS: &str = "it groups or expands commands by brackets or braces";
const REDIRECTS: &str = "it redirects input or output";

/// A line in parts.
#[derive(Debug, Default)]
pub(super) struct Lexed {
    /// Simple commands; none is empty.
    pub(super) commands: Vec<Vec<ShellWord>>,
    /// What stands between them, and after the last one.
    pub(super) operators: Vec<&'static str>,
    /// Why it is not sure that these commands, and no others, run.
    pub(super) problem: Option<&'static str>,
    /// Why commands may run that are not among these.
    pub(super) hidden: Option<&'static str>,
}

/// A word without its quotes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ShellWord {
    /// With separators [guarded](super::guard).
    pub(super) text: String,
    /// Bytes of the text that are sure; none if all are.
    pub(super) known: Option<usize>,
    /// Something of it was quoted.
    pub(super) is_quoted: bool,
}

/// A command as far as it was read.
#[derive(Default)]
struct PartialCommand {
    words: Vec<ShellWord>,
    word: Option<ShellWord>,
    /// Within double quotes.
    is_quoted: bool,
    /// The next word is the target of a redirection.
    skips: bool,
}

#[derive(Default)]
struct Lexer<'a> {
    rest: &'a str,
    lexed: Lexed,
    at: PartialCommand,
    /// What is interrupted by a command within a command, and what ends that one.
    outer: Vec<(PartialCommand, char)>,
}

pub(super) fn lex(line: &str) -> Lexed {
    let mut lexer = Lexer { rest: line, ..Lexer::default() };
    while let Some(c) = lexer.next() {
        if lexer.at.is_quoted {
            lexer.double_quoted(c);
        } else {
            lexer.unquoted(c);
        }
    }
    lexer.finish()
}

impl Lexer<'_> {
    fn next(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    fn eat(&mut self, text: &str) -> bool {
        let rest = self.rest.strip_prefix(text);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn problem(&mut self, why: &'static str) {
        self.lexed.problem.get_or_insert(why);
    }

    fn hide(&mut self, why: &'static str) {
        self.problem(why);
        self.lexed.hidden.get_or_insert(why);
    }

    fn word(&mut self) -> &mut ShellWord {
        self.at.word.get_or_insert_default()
    }

    fn push(&mut self, c: char) {
        self.look(c, "");
        self.word().text.push(c);
    }

    fn push_quoted(&mut self, c: char) {
        self.look(c, "\n\t");
        let word = self.word();
        word.text.push(guard(c));
        word.is_quoted = true;
    }

    /// What people can't see, and shells may read in other ways than we do.
    fn look(&mut self, c: char, fine: &str) {
        let invisible = c.is_control()
            || (c.is_whitespace() && c != ' ')
            || is_guard(c)
            || matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fffd}');
        if invisible && !fine.contains(c) {
            self.problem("it has characters that can't be seen");
        }
        if c == '\0' {
            self.hide("it has a zero byte");
        }
    }

    /// From here on the word is what the shell makes of it.
    fn expands(&mut self, why: &'static str) {
        self.problem(why);
        let word = self.word();
        word.known.get_or_insert(word.text.len());
    }

    fn unquoted(&mut self, c: char) {
        match c {
            ' ' | '\t' => self.end_word(),
            '\n' => self.end_command("\n"),
            ';' => {
                if self.rest.starts_with([';', '&', '|']) {
                    self.problem("it has operators that make no sense here");
                }
                self.end_command(";");
            }
            '&' if self.eat("&") => self.end_command("&&"),
            '&' if self.rest.starts_with('>') => {
                self.problem(REDIRECTS);
                self.end_word();
            }
            '&' => {
                self.problem("it runs something in the background");
                self.end_command("&");
            }
            '|' if self.eat("|") => self.end_command("||"),
            '|' => {
                if self.eat("&") {
                    self.problem("it has operators that make no sense here");
                }
                self.end_command("|");
            }
            '<' | '>' => self.redirect(c),
            '\'' => self.single_quoted(),
            '"' => {
                self.word().is_quoted = true;
                self.at.is_quoted = true;
            }
            '\\' => self.backslash(),
            '$' => self.dollar(),
            '`' => self.backtick(),
            '(' => {
                self.problem(GROUPS);
                self.open(')');
            }
            ')' => {
                self.problem(GROUPS);
                self.close(')');
            }
            '{' | '}' => self.brace(c),
            '*' | '?' | '[' => self.file_glob(c),
            '#' if self.at.word.is_none() => {
                self.problem("it has a comment");
                let end = self.rest.find('\n').unwrap_or(self.rest.len());
                self.rest = &self.rest[end..];
            }
            c => self.push(c),
        }
    }

    fn double_quoted(&mut self, c: char) {
        match c {
            '"' => self.at.is_quoted = false,
            '$' => self.dollar(),
            '`' => self.backtick(),
            '\\' => match self.next() {
                Some('\n') => {}
                Some(c @ ('"' | '\\' | '$' | '`')) => self.push_quoted(c),
                Some(c) => {
                    self.push_quoted('\\');
                    self.push_quoted(c);
                }
                None => self.hide(UNCLOSED),
            },
            c => self.push_quoted(c),
        }
    }

    fn single_quoted(&mut self) {
        self.word().is_quoted = true;
        while let Some(c) = self.next() {
            if c == '\'' {
                return;
            }
            // In fish this does not close the quote.
            if c == '\\' && self.rest.starts_with('\'') {
                self.hide("shells differ in where its quotes end");
            }
            self.push_quoted(c);
        }
        self.hide(UNCLOSED);
    }

    fn backslash(&mut self) {
        match self.next() {
            Some('\n') => {}
            Some(c) => {
                // `\n` and `\x41` are escapes in fish.
                if c.is_alphanumeric() {
                    self.problem("shells differ in what a backslash before a letter is");
                }
                self.push_quoted(c);
            }
            None => self.hide(UNCLOSED),
        }
    }

    fn dollar(&mut self) {
        self.expands(EXPANDS);
        if self.eat("(") {
            self.open(')');
        } else if !self.at.is_quoted && self.eat("'") {
            loop {
                match self.next() {
                    Some('\'') => return,
                    Some('\\') => drop(self.next()),
                    Some(c) => self.push_quoted(c),
                    None => return self.hide(UNCLOSED),
                }
            }
        } else if !self.eat("{") {
            self.push('$');
        }
    }

    fn backtick(&mut self) {
        if self.outer.last().is_some_and(|(_, end)| *end == '`') {
            return self.close('`');
        }
        self.expands(EXPANDS);
        self.open('`');
    }

    fn brace(&mut self, c: char) {
        if self.at.word.is_none() && self.rest.chars().next().is_none_or(ends_word) {
            self.problem(GROUPS);
            self.end_command(";");
        } else {
            self.expands(GROUPS);
            self.push(c);
        }
    }

    /// As an argument its expansion is covered by whatever star of a rule covers it.
    fn file_glob(&mut self, c: char) {
        if self.at.words.is_empty() {
            self.problem("the program is named by a pattern");
        }
        let word = self.word();
        word.known.get_or_insert(word.text.len());
        self.push(c);
    }

    /// `2>&1` and `>/dev/null` change no file; everything else may.
    fn redirect(&mut self, c: char) {
        if self
            .at
            .word
            .as_ref()
            .is_some_and(|it| !it.is_quoted && matches!(&it.text[..], "1" | "2"))
        {
            self.at.word = None;
        }
        self.end_word();
        if self.redirects_nowhere() {
            return;
        }
        self.problem(REDIRECTS);
        if self.eat("(") {
            return self.open(')');
        }
        match c {
            '<' if self.eat("<<") => {}
            '<' if self.eat("<") => self.hide("a part of it is a text for a program to read"),
            _ => {
                self.rest = self.rest.trim_start_matches(['>', '|', '&']);
                self.at.skips = true;
            }
        }
    }

    fn redirects_nowhere(&mut self) -> bool {
        let blanks = self.rest.trim_start_matches([' ', '\t']);
        let rest = [(self.rest, "&1"), (self.rest, "&2"), (blanks, "/dev/null")]
            .into_iter()
            .find_map(|(rest, target)| rest.strip_prefix(target))
            .filter(|rest| rest.chars().next().is_none_or(ends_word));
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn open(&mut self, end: char) {
        if self.outer.len() >= NESTED_MAX {
            return self.hide("it is nested too deeply");
        }
        self.outer.push((take(&mut self.at), end));
    }

    fn close(&mut self, end: char) {
        self.end_command(";");
        if let Some((frame, _)) = self.outer.pop_if(|(_, it)| *it == end) {
            self.at = frame;
        }
    }

    fn end_word(&mut self) {
        if let Some(word) = self.at.word.take()
            && !take(&mut self.at.skips)
        {
            self.at.words.push(word);
        }
    }

    fn end_command(&mut self, operator: &'static str) {
        self.end_word();
        self.at.skips = false;
        let words = take(&mut self.at.words);
        if let Some(program) = words.first() {
            if program.text.contains('=') {
                self.problem("it sets a variable");
            } else if program.text.is_empty() || !program.text.chars().all(is_of_program) {
                self.problem("its program has an odd name");
            }
            self.lexed.commands.push(words);
            self.lexed.operators.push(if operator == "\n" { ";" } else { operator });
        } else if operator != "\n" {
            self.problem("it has operators that make no sense here");
        }
    }

    fn finish(mut self) -> Lexed {
        if self.at.is_quoted || !self.outer.is_empty() {
            self.hide(UNCLOSED);
        }
        self.end_command("\n");
        // What was interrupted by something that never ended may run as well.
        while let Some((frame, _)) = self.outer.pop() {
            self.at = PartialCommand { skips: false, ..frame };
            self.end_command(";");
        }
        if self.lexed.operators.last().is_some_and(|it| matches!(*it, "&&" | "||" | "|")) {
            self.problem("it ends in an operator");
        }
        self.lexed
    }
}

fn ends_word(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | ';' | '&' | '|' | ')')
}

fn is_of_program(c: char) -> bool {
    c.is_alphanumeric() || "_-./+@:,~".contains(c)
}
