//! Takes a command line apart as the shells of the Bourne family do, without running or expanding
//! anything. What it understands is a closed list of what bash, dash, ksh, mksh and zsh read alike:
//! everything else taints the line. It goes on behind that, so that what is denied is found all
//! the same. Pure.

mod groups;
mod quotes;

use std::mem::take;

use super::{
    approval_prompt::is_hidden,
    guard::{guard, is_guard},
    programs,
};
use crate::agent::shell::Shell;

/// Nested `$(…)`, backticks and brackets.
const NESTED_MAX: usize = 32;

const UNCLOSED: &str = "its quotes or brackets do not close";
const GROUPS_ODDLY: &str = "shells differ in what they make of its brackets or braces";
const REDIRECTS_ODDLY: &str = "shells differ in what they make of its redirections";
const OPERATORS: &str = "it has operators that make no sense here";
const CHARACTERS: &str = "shells differ in what they make of a character in it";

/// A line in parts.
#[derive(Debug, Default)]
pub(super) struct Lexed {
    /// Simple commands; none is empty.
    pub(super) commands: Vec<Vec<ShellWord>>,
    /// What stands between them, and after the last one.
    pub(super) operators: Vec<&'static str>,
    /// Files that are redirected from.
    pub(super) inputs: Vec<ShellWord>,
    /// Files that are redirected to.
    pub(super) outputs: Vec<ShellWord>,
    /// Why it is not sure that these commands, and no others, run, with these words.
    pub(super) problem: Option<&'static str>,
    /// Why commands may run that are not among these: something of the line is not understood.
    pub(super) taint: Option<&'static str>,
}

/// A word without its quotes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ShellWord {
    /// With separators [guarded](super::guard).
    pub(super) text: String,
    /// Bytes of the text that are sure; none if all are.
    pub(super) known: Option<usize>,
    /// What is not sure of it is a pattern for file names alone.
    pub(super) is_glob: bool,
    /// Something of it was quoted.
    pub(super) is_quoted: bool,
    /// It begins with a `~` that stands for the home directory.
    pub(super) is_home: bool,
}

impl ShellWord {
    /// The word with the home directory in place of the `~`.
    pub(super) fn at_home(mut self, home: &str) -> ShellWord {
        if take(&mut self.is_home) {
            self.text.replace_range(..1, home);
            self.known = self.known.map(|known| known - 1 + home.len());
        }
        self
    }
}

/// A command as far as it was read.
#[derive(Default)]
struct PartialCommand {
    words: Vec<ShellWord>,
    word: Option<ShellWord>,
    /// Within double quotes.
    is_quoted: bool,
    /// The next word is the target of a redirection: from a file, or to one.
    redirects: Option<char>,
    /// A group or a redirection stands here, so it is a command also without words.
    is_something: bool,
    /// No word may follow, only redirections and operators.
    is_over: bool,
    /// Groups in braces that are open here.
    braces: usize,
}

/// What ends a command within a command.
#[derive(Clone, Copy, PartialEq)]
enum End {
    /// That of `(…)`.
    Group,
    /// That of `$(…)` and `<(…)`.
    Substitution,
    Backtick,
}

#[derive(Default)]
struct Lexer<'a> {
    rest: &'a str,
    /// The character before `rest`, or what stands for it.
    before: char,
    lexed: Lexed,
    at: PartialCommand,
    /// What is interrupted by a command within a command, and what ends that one.
    outer: Vec<(PartialCommand, End)>,
}

pub(super) fn lex(line: &str, shell: Shell) -> Lexed {
    let mut lexer = Lexer { rest: line, before: '\n', ..Lexer::default() };
    if line.contains('\0') {
        lexer.taint("it has a zero byte");
    }
    if shell == Shell::Other && !is_plain_line(line) {
        lexer.taint(
            "the agent's shell is one that is not known here, which may read it differently",
        );
    }
    while let Some(c) = lexer.next() {
        if lexer.at.is_quoted {
            lexer.double_quoted(c);
        } else {
            lexer.unquoted(c);
        }
    }
    lexer.finish()
}

/// Whether every shell takes a line for a single command and its arguments as they stand there.
fn is_plain_line(line: &str) -> bool {
    line.chars().all(|c| c.is_ascii_alphanumeric() || " _-./:=+,".contains(c))
        && line.split(' ').all(|word| !word.starts_with(['=', ':', '+']))
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

    fn ends_word(&self) -> bool {
        self.rest.chars().next().is_none_or(ends_word)
    }

    fn problem(&mut self, why: &'static str) {
        self.lexed.problem.get_or_insert(why);
    }

    fn taint(&mut self, why: &'static str) {
        self.problem(why);
        self.lexed.taint.get_or_insert(why);
    }

    fn taint_if(&mut self, is_odd: bool, why: &'static str) {
        if is_odd {
            self.taint(why);
        }
    }

    fn word(&mut self) -> &mut ShellWord {
        let is_odd = self.at.word.is_none() && self.at.is_over && self.at.redirects.is_none();
        self.taint_if(is_odd, GROUPS_ODDLY);
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
        let invisible = is_hidden(c) || is_guard(c) || c == '\u{fffd}';
        self.taint_if(invisible && !fine.contains(c), "it has characters that can't be seen");
    }

    /// From here on the word is what the shell makes of it.
    fn unknown(&mut self) {
        let word = self.word();
        word.is_glob = false;
        word.known.get_or_insert(word.text.len());
    }

    fn expands(&mut self, why: &'static str) {
        self.problem(why);
        self.unknown();
    }

    /// Whether a command may begin here: before it are at most words like `then`.
    fn is_command(&self) -> bool {
        let is_reserved = |word: &ShellWord| !word.is_quoted && programs::leads(&word.text);
        let PartialCommand { words, word, redirects, is_over, .. } = &self.at;
        word.is_none() && redirects.is_none() && !is_over && words.iter().all(is_reserved)
    }

    fn is_before_redirection(&self) -> bool {
        self.at.word.is_none()
            && self.rest.starts_with(['<', '>'])
            && !self.rest[1..].starts_with('(')
    }

    fn unquoted(&mut self, c: char) {
        match c {
            ' ' | '\t' => self.end_word(),
            '\n' => self.end_command("\n"),
            ';' | '&' | '|' => self.operator(c),
            '<' | '>' => self.redirect(c),
            '\'' => self.single_quoted(),
            '"' => {
                self.quote_in_backticks();
                self.word().is_quoted = true;
                self.at.is_quoted = true;
            }
            '\\' => self.backslash(),
            '$' => self.dollar(),
            '`' => self.backtick(),
            '(' => self.open_group(),
            ')' => self.close_bracket(),
            '{' => self.open_brace(),
            '}' => self.close_brace(),
            '*' | '?' | '[' | '^' => self.file_glob(c),
            '#' => self.hash(),
            '~' => self.tilde(),
            // In zsh `=git` is the path of git.
            '=' if self.at.word.is_none() => {
                let is_plain = self.ends_word() || self.rest.starts_with("= ");
                self.taint_if(!is_plain, CHARACTERS);
                self.push(c);
            }
            '!' => {
                let is_odd = self.at.word.is_none() && !self.ends_word();
                self.taint_if(is_odd || self.rest.starts_with('('), CHARACTERS);
                self.push(c);
            }
            // The descriptor of a redirection behind a group, which is no word.
            '0'..='9' if self.at.is_over && self.is_before_redirection() => {}
            c if is_plain(c) => self.push(c),
            c => {
                self.taint(CHARACTERS);
                self.push(c);
            }
        }
        self.before = c;
    }

    fn operator(&mut self, c: char) {
        let odd = match c {
            ';' => [';', '&', '|'],
            '&' => [';', '!', '|'],
            _ => [';', '!', '&'],
        };
        let operator = match c {
            '&' if self.eat("&") => "&&",
            '|' if self.eat("|") => "||",
            ';' => ";",
            '|' => "|",
            _ if self.rest.starts_with('>') => return self.redirect_both(),
            _ => {
                self.problem("it runs something in the background");
                "&"
            }
        };
        self.taint_if(self.rest.starts_with(odd), OPERATORS);
        self.end_command(operator);
        if operator == "|" {
            self.eat("&");
        }
    }

    fn open(&mut self, end: End) {
        if self.outer.len() >= NESTED_MAX {
            return self.taint("it is nested too deeply");
        }
        self.outer.push((take(&mut self.at), end));
    }

    fn close(&mut self) {
        self.end_command("\n");
        self.taint_if(self.at.braces > 0, GROUPS_ODDLY);
        if let Some((at, _)) = self.outer.pop() {
            self.at = at;
        }
    }

    fn end_word(&mut self) {
        let Some(word) = self.at.word.take() else { return };
        match self.at.redirects.take() {
            None => self.at.words.push(word),
            Some('<') => self.lexed.inputs.push(word),
            Some(_) => self.lexed.outputs.push(word),
        }
    }

    fn end_command(&mut self, operator: &'static str) {
        self.end_word();
        let has_no_target = self.at.redirects.take().is_some();
        self.taint_if(has_no_target, REDIRECTS_ODDLY);
        self.at.is_over = false;
        let is_something = take(&mut self.at.is_something);
        let words = take(&mut self.at.words);
        if let Some(program) = words.first() {
            if program.text.contains('=') {
                self.problem("it sets a variable");
            } else if program.text.is_empty() || !program.text.chars().all(is_of_program) {
                self.problem("its program has an odd name");
            }
            self.reserved(&words);
            self.lexed.commands.push(words);
            self.lexed.operators.push(if operator == "\n" { ";" } else { operator });
        } else if operator != "\n" {
            self.problem(OPERATORS);
            self.taint_if(!is_something, OPERATORS);
        }
    }

    /// Words after which a shell reads in another way than this.
    fn reserved(&mut self, words: &[ShellWord]) {
        let leads = |it: &&ShellWord| {
            !it.is_quoted && (programs::leads(&it.text) || matches!(&it.text[..], "time" | "-p"))
        };
        let mut words = words.iter().skip_while(leads);
        let Some(first) = words.next().filter(|it| !it.is_quoted) else { return };
        if first.text == "for" {
            let is_name = |it: &ShellWord| {
                !it.is_quoted && it.text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            };
            let is_plain = words.next().is_some_and(is_name)
                && words.next().is_none_or(|it| !it.is_quoted && it.text == "in");
            self.taint_if(!is_plain, "it has a loop that shells read differently");
        }
        self.taint_if(
            programs::reads_on_differently(&first.text),
            "it has a word after which shells read differently",
        );
    }

    fn finish(mut self) -> Lexed {
        if self.at.is_quoted || !self.outer.is_empty() {
            self.taint(UNCLOSED);
        }
        self.end_command("\n");
        self.taint_if(self.at.braces > 0, UNCLOSED);
        // What was interrupted by something that never ended may run as well.
        while let Some((at, _)) = self.outer.pop() {
            self.at = at;
            self.end_command("\n");
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

/// What no shell takes for anything but itself, wherever it stands in a word.
fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_-./:@%+,=]".contains(c) || !c.is_ascii()
}

fn is_of_program(c: char) -> bool {
    c.is_alphanumeric() || "_-./+@:,~[".contains(c)
}
