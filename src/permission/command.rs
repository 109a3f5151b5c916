//! Command lines as the policy sees them. A shell's line is taken apart once, and two things come of
//! it: the simple commands that it runs, if that can be said for sure (what a rule allows must cover
//! each), and everything that it might run, also by way of `sudo`, `sh -c` or `$(…)` (what a rule
//! denies must be none of it). Pure.
//!
//! It is not known which shell reads the line: bash, zsh, dash and fish were looked at, and where
//! they differ nothing is sure.

use super::{
    guard::{is_guard, unguard},
    lex::{self, Lexed, ShellWord},
    rule::CommandGlob,
};

/// A longer line is not taken apart.
const LINE_MAX: usize = 16 * 1024;
/// Commands that a line may hide in each other.
const DEPTH_MAX: usize = 4;
/// Texts to which a line may lead, and their bytes.
const REACHED_MAX: usize = 512;
const REACHED_BYTES_MAX: usize = 512 * 1024;

/// What run other commands, named by their further words: after one of these any word may begin a
/// command. The shell's own words are among them.
const WRAPPERS: &str = "\
    ! and ash begin builtin busybox caffeinate chroot chrt command coproc dbus-run-session do \
    doas elif else env exec faketime firejail flock gtime if ionice ltrace nice noglob nocorrect \
    nohup not nsenter numactl or parallel pkexec prlimit proxychains rtk runuser script setarch \
    setpriv setsid stdbuf strace su sudo systemd-run taskset then time timeout toybox unbuffer \
    unshare until watch while";
/// Wrappers that add words of which nothing is known.
const FEEDERS: &[&str] = &["xargs", "parallel"];
/// What take a script as an argument.
const SHELLS: &[&str] = &[
    "ash", "bash", "csh", "dash", "eval", "fish", "ksh", "mksh", "rbash", "sh", "tcsh", "trap",
    "yash", "zsh",
];

/// A command line, taken apart.
#[derive(Debug)]
pub(super) struct Scan {
    /// The simple commands, and the line made of them with its operators; or why they are not sure.
    pub(super) sure: Result<Sure, &'static str>,
    /// Everything that might run, and the line itself.
    reached: Vec<Reached>,
    /// Of what might run.
    bytes: usize,
    /// Why there may be more.
    hidden: Option<&'static str>,
}

/// Texts in which words are separated by one blank, and blanks and operators within a word are
/// [guarded](super::guard).
#[derive(Debug, PartialEq)]
pub(super) struct Sure {
    pub(super) commands: Vec<String>,
    pub(super) whole: String,
}

/// A command that might run.
#[derive(Debug)]
struct Reached {
    text: String,
    /// Bytes of the text before something that the shell expands; none if there is nothing such.
    known: Option<usize>,
}

impl Scan {
    pub(super) fn of(line: &str) -> Scan {
        const LONG: &str = "the command line is too long to be taken apart";
        let raw = line.split_whitespace().collect::<Vec<_>>().join(" ");
        let reached = vec![Reached { text: raw, known: None }];
        let mut scan = Scan { sure: Err(LONG), reached, bytes: 0, hidden: Some(LONG) };
        if line.len() <= LINE_MAX {
            let lexed = lex::lex(line);
            scan.sure = sure(&lexed);
            scan.hidden = lexed.hidden;
            for words in &lexed.commands {
                scan.command(words, 0);
            }
        }
        scan
    }

    /// Whether a pattern describes anything that might run, and why it might describe more.
    pub(super) fn reaches(&self, glob: &CommandGlob) -> (bool, Option<&'static str>) {
        let expands =
            |it: &Reached| it.known.is_some_and(|known| glob.may_begin(&it.text[..known]));
        let expands = self.reached.iter().any(expands);
        let expands =
            expands.then_some("what the shell would make of the line is not known before");
        (self.reached.iter().any(|it| glob.reaches(&it.text)), self.hidden.or(expands))
    }

    /// Notes what a simple command runs, itself and in its words.
    fn command(&mut self, words: &[ShellWord], depth: usize) {
        let assignments = words.iter().take_while(|word| is_assignment(&word.text)).count();
        if assignments > 0 {
            self.text("", words);
        }
        let words = &words[assignments..];
        let Some(first) = words.first() else { return };
        self.program(words, depth);
        let name = base(&first.text);
        let mut words = words.to_vec();
        if FEEDERS.contains(&name) {
            words.push(ShellWord { text: "…".to_owned(), known: Some(0), is_quoted: false });
        }
        if WRAPPERS.split(' ').any(|it| it == name) || FEEDERS.contains(&name) {
            for at in 1..words.len() {
                self.program(&words[at..], depth);
                if words[at].text.contains(|c| is_guard(c) || c == '\t') {
                    self.script(&words[at], depth);
                }
                if self.hidden.is_some() {
                    return;
                }
            }
        }
    }

    /// Notes a command that begins with its program.
    fn program(&mut self, words: &[ShellWord], depth: usize) {
        let (first, rest) = words.split_first().expect("callers have one");
        self.text("", words);
        let name = base(&first.text);
        if name != first.text {
            self.text(name, rest);
        }
        // `git -C elsewhere push` is a `git push`.
        if rest.first().is_some_and(|word| word.text.starts_with('-')) {
            for at in 1..rest.len().min(16) {
                self.text(name, &rest[at..]);
            }
        }
        for at in 1..words.len() {
            if matches!(&words[at - 1].text[..], "-exec" | "-execdir" | "-ok" | "-okdir") {
                self.text("", &words[at..]);
                self.text(base(&words[at].text), &words[at + 1..]);
                self.shell(&words[at..], depth);
            }
        }
        self.shell(words, depth);
        let is_hollow = |word: &ShellWord| word.text.starts_with(['-', '+']);
        if SHELLS.contains(&name) && rest.iter().all(is_hollow) {
            self.hidden = Some("a shell reads commands from its input");
        }
    }

    fn shell(&mut self, words: &[ShellWord], depth: usize) {
        let (first, rest) = words.split_first().expect("callers have one");
        let name = base(&first.text);
        if name == "eval" {
            let script: Vec<&str> = rest.iter().map(|word| word.text.as_str()).collect();
            let known = rest.iter().all(|word| word.known.is_none());
            self.script(
                &ShellWord {
                    text: script.join(" "),
                    known: (!known).then_some(0),
                    is_quoted: true,
                },
                depth,
            );
        } else if SHELLS.contains(&name) {
            for word in rest {
                self.script(word, depth);
            }
        }
    }

    /// Notes what a word runs when it is read as a command line.
    fn script(&mut self, word: &ShellWord, depth: usize) {
        if word.known.is_some() {
            self.hidden = Some("a command line within the line is not known before");
        }
        if depth >= DEPTH_MAX || self.reached.len() >= REACHED_MAX {
            self.hidden = Some("commands are hidden in each other too deeply");
            return;
        }
        let lexed = lex::lex(&word.text.chars().map(unguard).collect::<String>());
        self.hidden = self.hidden.or(lexed.hidden);
        for words in &lexed.commands {
            self.command(words, depth + 1);
        }
    }

    fn text(&mut self, program: &str, words: &[ShellWord]) {
        let mut text: String = program.chars().map(unguard).collect();
        let mut known = None;
        for (at, word) in words.iter().enumerate() {
            if at > 0 || !program.is_empty() {
                text.push(' ');
            }
            let (sure, rest) = word.text.split_at(word.known.unwrap_or(word.text.len()));
            text.extend(sure.chars().map(unguard));
            if word.known.is_some() {
                let is_program = at == 0 && program.is_empty();
                known.get_or_insert(if is_program { 0 } else { text.len() });
            }
            text.extend(rest.chars().map(unguard));
        }
        self.bytes += text.len();
        if self.reached.len() >= REACHED_MAX || self.bytes > REACHED_BYTES_MAX {
            self.hidden = Some("the line leads to too many commands");
            return;
        }
        self.reached.push(Reached { text, known });
    }
}

fn sure(lexed: &Lexed) -> Result<Sure, &'static str> {
    if let Some(problem) = lexed.problem {
        return Err(problem);
    }
    let join = |words: &Vec<ShellWord>| {
        words.iter().map(|word| word.text.as_str()).collect::<Vec<_>>().join(" ")
    };
    let commands: Vec<String> = lexed.commands.iter().map(join).collect();
    let Some((first, rest)) = commands.split_first() else { return Err("there is no command") };
    let mut whole = first.clone();
    for (operator, command) in lexed.operators.iter().zip(rest) {
        whole.extend([if *operator == ";" { "" } else { " " }, operator, " ", command]);
    }
    Ok(Sure { commands, whole })
}

/// A program's name without its directory.
fn base(program: &str) -> &str {
    program.rsplit('/').next().unwrap_or(program)
}

fn is_assignment(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| {
        let name = name.strip_suffix('+').unwrap_or(name);
        name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || "_[]".contains(c))
    })
}
