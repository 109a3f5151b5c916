//! Command lines as the policy sees them. A shell's line is taken apart once, and two things come of
//! it: the simple commands that it runs, if that can be said for sure (what a rule allows must cover
//! each), and everything that it might run, also by way of `sudo`, `sh -c` or `$(…)` (what a rule
//! denies must be none of it). What is not understood, of a line or of a program in it, taints the
//! line: then it is neither allowed nor passed by. Pure.

use super::{
    command_glob::CommandGlob,
    files::{self, Files},
    guard::{is_guard, unguard},
    lex::{self, Lexed, ShellWord},
    options::{Effect, effects},
    programs::{self, Does, Role, base},
};
use crate::agent::shell::Shell;

/// A longer line is not taken apart.
const LINE_MAX: usize = 16 * 1024;
/// Commands that a line may hide in each other.
const DEPTH_MAX: usize = 4;
/// Texts to which a line may lead, and their bytes.
const REACHED_MAX: usize = 512;
const REACHED_BYTES_MAX: usize = 512 * 1024;

/// Words of a command among which its first that is no option is looked for.
const NEAR: usize = 64;

const DEEP: &str = "commands are hidden in each other too deeply";
const ARITHMETIC: &str = "a command of the shell in it may do arithmetic, which can run commands";
/// What `set` may set without a change in how a shell reads.
const SAFE_OPTIONS: &str = "-e -u -x -eu -ux -ex -eux -o -eo -euo -euxo -uo pipefail +e +u +x";

/// A command line, taken apart.
#[derive(Debug)]
pub(super) struct Scan {
    /// The simple commands, and the line made of them with its operators; or why they are not sure.
    pub(super) sure: Result<Sure, &'static str>,
    /// Everything that might run, and the line itself.
    reached: Vec<Reached>,
    /// Commands of programs that no table knows, which may run the rest of their words.
    unknown: Vec<String>,
    /// Of what might run.
    bytes: usize,
    /// Why there may be more.
    taint: Option<&'static str>,
    /// The files that it names.
    pub(super) files: Files,
    /// How the line that is being read is read.
    shell: Shell,
    /// The line writes to a file, which may be a script that it then runs.
    is_writing: bool,
}

/// Texts in which words are separated by one blank, and blanks and operators within a word are
/// [guarded](super::guard).
#[derive(Debug, PartialEq)]
pub(super) struct Sure {
    pub(super) commands: Vec<Simple>,
    pub(super) whole: String,
}

/// A simple command, and what it does besides what its name says.
#[derive(Debug, PartialEq)]
pub(super) struct Simple {
    text: String,
    effects: Vec<Effect>,
}

impl Simple {
    /// Whether a pattern covers it, with all that it does. The error is what the pattern does not
    /// name.
    pub(super) fn is_covered(&self, glob: &CommandGlob) -> Result<bool, &'static str> {
        if !glob.covers(&self.text) {
            return Ok(false);
        }
        match self.effects.iter().find(|effect| !glob.names(&effect.named)) {
            None => Ok(true),
            Some(Effect { does: Does::Writes, .. }) => {
                Err("an argument has the program write or remove files, and no rule names it")
            }
            Some(Effect { does: Does::Runs, .. }) => {
                Err("an argument has the program run or load something, and no rule names it")
            }
        }
    }
}

/// A command that might run.
#[derive(Debug)]
struct Reached {
    text: String,
    /// Bytes of the text before something that the shell expands; none if there is nothing such.
    known: Option<usize>,
}

impl Scan {
    /// `home` is what the shell makes of `~`.
    pub(super) fn of(line: &str, shell: Shell, home: &str) -> Scan {
        const LONG: &str = "the command line is too long to be taken apart";
        let raw = line.split_whitespace().collect::<Vec<_>>().join(" ");
        let reached = vec![Reached { text: raw, known: None }];
        let mut scan = Scan {
            sure: Err(LONG),
            reached,
            unknown: Vec::new(),
            bytes: 0,
            taint: Some(LONG),
            files: Files::default(),
            shell,
            is_writing: false,
        };
        if line.len() <= LINE_MAX {
            let lexed = lex::lex(line, shell);
            scan.sure = sure(&lexed);
            scan.taint = lexed.taint;
            scan.is_writing = !lexed.outputs.is_empty();
            for words in &lexed.commands {
                scan.command(words, 0);
            }
            scan.files.add_redirected(&lexed);
            let tilde = |word: &ShellWord| word.is_home;
            if lexed.commands.iter().any(|words| words.iter().any(tilde)) {
                for words in lexed.commands {
                    let words: Vec<_> = words.into_iter().map(|it| it.at_home(home)).collect();
                    scan.command(&words, 0);
                }
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
        let wraps = self.unknown.iter().any(|it| ends(it).any(|end| glob.covers(end)));
        let wraps = wraps.then_some("a program in it may run the rest of its words");
        (self.reached.iter().any(|it| glob.reaches(&it.text)), self.taint.or(expands).or(wraps))
    }

    fn taint(&mut self, why: &'static str) {
        self.taint.get_or_insert(why);
    }

    fn taint_if(&mut self, is_odd: bool, why: &'static str) {
        if is_odd {
            self.taint(why);
        }
    }

    fn is_full(&self) -> bool {
        self.reached.len() >= REACHED_MAX || self.bytes > REACHED_BYTES_MAX
    }

    /// Notes what a simple command runs, itself and in its words.
    fn command(&mut self, words: &[ShellWord], depth: usize) {
        let mut words = words;
        loop {
            let assignments = words.iter().take_while(|it| variable(&it.text).is_some()).count();
            for word in &words[..assignments] {
                self.sets(word);
            }
            if assignments > 0 {
                self.text("", words);
            }
            words = &words[assignments..];
            match words.first() {
                Some(first) if programs::leads(&first.text) => {
                    self.text("", words);
                    words = &words[1..];
                }
                Some(_) => break,
                None => return,
            }
        }
        self.files.add(words);
        // Names with dots are variables in some.
        self.taint_if(words[0].text.contains('='), "it may set a variable");
        self.program(words, depth);
        match role(&words[0]) {
            Some(Role::Wraps | Role::Differs) => self.wrapped(words, depth),
            Some(Role::WrapsLines) => {
                self.joined(&words[1..], depth);
                self.wrapped(words, depth);
            }
            Some(Role::Feeds) => {
                let fed = ShellWord { text: "…".into(), known: Some(0), ..ShellWord::default() };
                let runs =
                    |it: &ShellWord| it.known.is_some() || role(it).is_some_and(Role::runs_others);
                let is_fed_program = words[1..].iter().any(runs);
                let mut words = words.to_vec();
                words.push(fed);
                self.wrapped(&words, depth);
                self.taint_if(is_fed_program, "what `xargs` would run is not known before");
            }
            _ if !programs::is_known(base(&words[0].text)) => {
                let words: Vec<&str> = words.iter().map(|it| it.text.as_str()).collect();
                self.unknown.push(words.join(" "));
            }
            _ => {}
        }
    }

    /// Notes what begins at any further word, or is a line in one.
    fn wrapped(&mut self, words: &[ShellWord], depth: usize) {
        let reads_lines = role(&words[0]) == Some(Role::WrapsLines);
        // What a feeder adds is never the program.
        let fed = usize::from(role(&words[0]) == Some(Role::Feeds));
        for at in 1..words.len() - fed {
            if self.is_full() {
                return self.taint("the line leads to too many commands");
            }
            let word = &words[at];
            self.program(&words[at..], depth);
            let is_line = word.text.contains(|c| is_guard(c) || c == '\t')
                || (reads_lines
                    && !word
                        .text
                        .chars()
                        .all(|c| c.is_ascii_alphanumeric() || "_-./:@%+,=".contains(c)));
            if is_line {
                self.script(word, depth, reads_lines);
                self.values(word, depth);
            }
        }
    }

    /// Notes the line in a word that begins with options: `-vSgit push`, `--split-string=git push`.
    fn values(&mut self, word: &ShellWord, depth: usize) {
        if !word.text.starts_with('-') {
            return;
        }
        let value = word.text.split_once('=').map(|(_, value)| value);
        let letters = word.text.char_indices().skip(2).take(8).map(|(at, _)| &word.text[at..]);
        for text in value.into_iter().chain(letters) {
            let word = ShellWord { text: text.to_owned(), is_quoted: true, ..ShellWord::default() };
            self.script(&word, depth, false);
        }
    }

    /// Notes a command that begins with its program.
    fn program(&mut self, words: &[ShellWord], depth: usize) {
        if self.is_full() {
            return self.taint("the line leads to too many commands");
        }
        let (first, rest) = words.split_first().expect("callers have one");
        self.text("", words);
        let name = base(&first.text);
        if files::reader(words).is_some() {
            self.files.add(words);
        }
        if name != first.text {
            self.text(name, rest);
        }
        // `git -C elsewhere push` is a `git push`.
        let is_option = |word: &ShellWord| word.text.starts_with(['-', '+']);
        if rest.first().is_some_and(is_option) {
            let near = &rest[..rest.len().min(NEAR)];
            for at in 1..near.len() {
                self.text(name, &rest[at..]);
            }
            let is_odd =
                rest.len() > NEAR && near.iter().filter(|it| is_option(it)).count() > NEAR / 3;
            self.taint_if(is_odd, "it has too many options before its words");
        }
        // On some file systems that is the same program.
        if name.contains(char::is_uppercase) {
            self.text(&name.to_lowercase(), rest);
        }
        if name == "find" {
            self.find(rest, depth);
        } else {
            let runs = |it: &Effect| it.does == Does::Runs && it.is_sure;
            self.taint_if(
                effects(words).iter().any(runs),
                "an argument has a program run something that is not known before",
            );
        }
        match role(first) {
            Some(Role::Shell) => self.shell(rest, depth, Shell::Bourne),
            Some(Role::OtherShell) => self.shell(rest, depth, Shell::Other),
            Some(Role::Evaluates) => self.evaluates(rest, depth),
            Some(Role::Keeps) => {
                for word in rest {
                    self.script(word, depth, true);
                }
            }
            Some(Role::Sources) => {
                let is_file = rest.first().is_some_and(is_script);
                self.taint_if(
                    !is_file || self.is_writing,
                    "it reads commands from somewhere that is not a file",
                );
                self.named(rest);
            }
            Some(Role::Changes) => {
                self.taint("a word of it may change what others mean, or run what is not seen");
            }
            Some(role) => self.builtin(role, rest),
            None => {}
        }
    }

    /// Notes what a word of the shell does with its own words.
    fn builtin(&mut self, role: Role, rest: &[ShellWord]) {
        match role {
            Role::Sets => {
                for word in rest {
                    let is_name = word.known.is_none() && is_name(&word.text);
                    if variable(&word.text).is_some() || is_name {
                        self.sets(word);
                    } else {
                        self.taint_if(word.text != "-r", ARITHMETIC);
                    }
                }
            }
            Role::Computes => {
                let is_plain =
                    |it: &ShellWord| it.known.is_none() && !it.text.contains(['[', '$', '`']);
                let is_odd = !rest.iter().all(is_plain)
                    || rest.first().is_some_and(|it| it.text.starts_with('-'));
                self.taint_if(is_odd, ARITHMETIC);
            }
            Role::Tests => self.taint_if(!is_plain_test(rest), ARITHMETIC),
            Role::Options => {
                let is_fine = |it: &ShellWord| {
                    it.known.is_none() && SAFE_OPTIONS.split(' ').any(|known| known == it.text)
                };
                let is_odd = !rest.iter().all(is_fine);
                self.taint_if(is_odd, "it may change how the shell reads other words");
            }
            _ => {}
        }
    }

    /// Notes what `find` runs.
    fn find(&mut self, words: &[ShellWord], depth: usize) {
        for (at, word) in words.iter().enumerate() {
            let runs = |it: &str| matches!(it, "-exec" | "-execdir" | "-ok" | "-okdir");
            let may_run = word.known.is_some_and(|known| {
                "-exec".starts_with(&word.text[..known]) || "-ok".starts_with(&word.text[..known])
            });
            self.taint_if(may_run, "what `find` would run is not known before");
            if matches!(&word.text[..], "-execdir" | "-okdir") {
                self.files.goes_anywhere();
            }
            if runs(&word.text) && at + 1 < words.len() {
                if depth >= DEPTH_MAX || self.is_full() {
                    return self.taint(DEEP);
                }
                // It puts the names of files in.
                let put_in = |word: &ShellWord| ShellWord {
                    known: word.known.or_else(|| word.text.find("{}")),
                    ..word.clone()
                };
                let words: Vec<ShellWord> = words[at + 1..].iter().map(put_in).collect();
                self.command(&words, depth + 1);
            }
        }
    }

    /// Notes what a shell runs. Only `-c SCRIPT` and the name of a file are sure.
    fn shell(&mut self, words: &[ShellWord], depth: usize, shell: Shell) {
        const INPUT: &str = "a shell reads commands from its input, or from somewhere unusual";
        let outer = std::mem::replace(&mut self.shell, shell);
        let (mut is_line, mut script) = (false, None);
        let mut at = 0;
        while let Some(word) = words.get(at) {
            at += 1;
            let letters = word.text.strip_prefix('-').unwrap_or("?");
            if word.known.is_none()
                && letters.chars().all(|c| "celfuvxno".contains(c))
                && !letters.is_empty()
            {
                is_line |= letters.contains('c');
                if letters.contains('o') {
                    let is_known = words.get(at).is_some_and(|it| it.text == "pipefail");
                    self.taint_if(!is_known || !letters.ends_with('o'), INPUT);
                    at += 1;
                }
            } else if matches!(&word.text[..], "--norc" | "--noprofile" | "--posix" | "--login") {
            } else {
                self.taint_if(word.text.starts_with(['-', '+']), INPUT);
                script = Some(word);
                break;
            }
        }
        match script {
            Some(word) if !is_line => {
                self.taint_if(!is_script(word) || self.is_writing, INPUT);
                self.named(&words[at - 1..]);
            }
            Some(word) => self.script(word, depth, true),
            None => self.taint(INPUT),
        }
        for word in words.iter().filter(|it| !is_line || script != Some(it)) {
            self.script(word, depth, false);
        }
        self.shell = outer;
    }

    /// Notes the script that words begin with: `sh deploy.sh` is also a `deploy.sh`.
    fn named(&mut self, words: &[ShellWord]) {
        let Some((script, rest)) = words.split_first() else { return };
        self.text("", words);
        self.text(base(&script.text), rest);
    }

    fn evaluates(&mut self, words: &[ShellWord], depth: usize) {
        let options = words.iter().take_while(|it| it.text.starts_with('-')).count();
        self.joined(words, depth);
        if options > 0 {
            self.joined(&words[options..], depth);
        }
    }

    /// Notes the line that words make.
    fn joined(&mut self, words: &[ShellWord], depth: usize) {
        let line: Vec<&str> = words.iter().map(|word| word.text.as_str()).collect();
        let known = words.iter().all(|word| word.known.is_none());
        let word = ShellWord {
            text: line.join(" "),
            known: (!known).then_some(0),
            is_quoted: true,
            ..ShellWord::default()
        };
        self.script(&word, depth, true);
    }

    /// Notes what a word runs when it is read as a command line, which it is for sure or maybe.
    fn script(&mut self, word: &ShellWord, depth: usize, is_sure: bool) {
        if depth >= DEPTH_MAX || self.is_full() {
            return self.taint(DEEP);
        }
        self.taint_if(
            is_sure && word.known.is_some(),
            "a command line within the line is not known before",
        );
        let lexed = lex::lex(&word.text.chars().map(unguard).collect::<String>(), self.shell);
        if is_sure {
            self.taint = self.taint.or(lexed.taint);
        }
        self.is_writing |= !lexed.outputs.is_empty();
        for words in &lexed.commands {
            self.command(words, depth + 1);
        }
        self.files.add_redirected(&lexed);
    }

    /// Notes that a variable is set.
    fn sets(&mut self, word: &ShellWord) {
        let name = variable(&word.text).unwrap_or(&word.text);
        self.taint_if(name.contains('['), ARITHMETIC);
        self.taint_if(programs::is_effective(name), "it sets a variable that may change what runs");
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
        if self.is_full() {
            return self.taint("the line leads to too many commands");
        }
        self.reached.push(Reached { text, known });
    }
}

/// What begins at each further word of a command, by the name of its program.
fn ends(command: &str) -> impl Iterator<Item = &str> {
    command.match_indices(' ').map(|(at, _)| {
        let end = &command[at + 1..];
        let program = end.split(' ').next().unwrap_or(end);
        &end[program.rfind('/').map_or(0, |at| at + 1)..]
    })
}

fn sure(lexed: &Lexed) -> Result<Sure, &'static str> {
    if let Some(problem) = lexed.problem {
        return Err(problem);
    }
    let simple = |words: &Vec<ShellWord>| Simple {
        text: words.iter().map(|word| word.text.as_str()).collect::<Vec<_>>().join(" "),
        effects: all_effects(words),
    };
    let commands: Vec<Simple> = lexed.commands.iter().map(simple).collect();
    let Some((first, rest)) = commands.split_first() else { return Err("there is no command") };
    let mut whole = first.text.clone();
    for (operator, command) in lexed.operators.iter().zip(rest) {
        whole.extend([if *operator == ";" { "" } else { " " }, operator, " ", &command.text]);
    }
    Ok(Sure { commands, whole })
}

/// What a command does, and what the commands do that it may run.
fn all_effects(words: &[ShellWord]) -> Vec<Effect> {
    const WORDS_MAX: usize = 64;
    if !role(&words[0]).is_some_and(Role::runs_others) {
        return effects(words);
    }
    let mut all: Vec<Effect> =
        (0..words.len().min(WORDS_MAX)).flat_map(|at| effects(&words[at..])).collect();
    if words.len() > WORDS_MAX {
        all.push(Effect { named: "\n".to_owned(), does: Does::Runs, is_sure: false });
    }
    all
}

/// What a program does, in whatever case a file system may take its name.
fn role(program: &ShellWord) -> Option<Role> {
    let name = base(&program.text);
    let is_lower = !name.contains(char::is_uppercase);
    if is_lower { programs::role(name) } else { programs::role(&name.to_lowercase()) }
}

/// The variable that a word sets, with what of it is set. In zsh that may be a number.
fn variable(word: &str) -> Option<&str> {
    let (name, _) = word.split_once('=')?;
    let name = name.strip_suffix('+').unwrap_or(name);
    let is_variable =
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    (is_variable || name.contains('[')).then_some(name)
}

fn is_name(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Whether a word names a file that holds a script, and not what some process has open.
fn is_script(word: &ShellWord) -> bool {
    let mut parts = word.text.split('/').filter(|it| !matches!(*it, "" | "."));
    let is_plain = !word.text.is_empty() && !word.text.starts_with(['-', '+']);
    let is_device = word.text.starts_with('/')
        && parts.clone().next().is_none_or(|first| matches!(first, "dev" | "proc" | ".vol"));
    word.known.is_none() && is_plain && !is_device && !parts.any(|it| it == "..")
}

/// Whether what `test` compares is no arithmetic.
fn is_plain_test(words: &[ShellWord]) -> bool {
    let mut words: Vec<&ShellWord> = words.iter().collect();
    words.pop_if(|it| it.text == "]");
    while words.first().is_some_and(|it| it.text == "!" && it.known.is_none()) {
        words.remove(0);
    }
    let is_one = |word: &ShellWord| word.known.is_none() || word.is_quoted;
    let is = |word: &ShellWord, list: &str| {
        word.known.is_none() && list.split(' ').any(|it| it == word.text)
    };
    match words[..] {
        [] => true,
        [word] => is_one(word),
        [operator, word] => is(operator, "-n -z -e -f -d -r -w -x -s -L -h") && is_one(word),
        [left, operator, right] => {
            let is_number =
                |it: &ShellWord| it.known.is_none() && it.text.bytes().all(|b| b.is_ascii_digit());
            (is(operator, "= == != -nt -ot -ef") && is_one(left) && is_one(right))
                || (is(operator, "-eq -ne -lt -le -gt -ge") && is_number(left) && is_number(right))
        }
        _ => false,
    }
}
