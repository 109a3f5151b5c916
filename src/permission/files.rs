//! The files that a command line names: what rules for reading are about is also what `cat` reads, and
//! what rules for changes are about is also what `>` writes. Only what stands there is found, not what a
//! program does by itself. Pure.

use super::{
    lex::{Lexed, ShellWord},
    options::{self, effects},
    place::{Bases, Case, Place, PlaceGlob, Spot},
    programs::{self, Operands},
    scripts::odd_script,
};
use crate::agent::ActionKind;

/// Files, and directories to which they may be relative, that a line may name.
const FILES_MAX: usize = 512;
const DIRS_MAX: usize = 8;

/// What a command line names.
#[derive(Debug, Default)]
pub(super) struct Files {
    named: Vec<File>,
    /// Directories that commands of the line go to, each as seen from where it is run.
    dirs: Vec<String>,
    /// Why other files may be meant.
    unclear: Option<&'static str>,
    /// Why more files may be read, or written.
    unclear_read: Option<&'static str>,
    unclear_written: Option<&'static str>,
}

/// Something that may be a file.
#[derive(Debug)]
struct File {
    path: String,
    uses: Uses,
}

/// What is done with a file; all false: that is not known.
#[derive(Clone, Copy, Debug, Default)]
struct Uses {
    /// A program that reads files is given it.
    is_read: bool,
    /// That program reads all that is in a directory.
    is_tree: bool,
    /// The output of a command goes there.
    is_written: bool,
    /// It is not changed.
    is_kept: bool,
}

/// It is where the standard input comes from.
const INPUT: Uses = Uses { is_read: true, is_tree: false, is_written: false, is_kept: true };
/// It is where the standard output, or another one, goes.
const OUTPUT: Uses = Uses { is_read: false, is_tree: false, is_written: true, is_kept: false };

impl Files {
    /// Takes in a command that begins with its program.
    pub(super) fn add(&mut self, words: &[ShellWord]) {
        let Some((program, rest)) = words.split_first() else { return };
        let name = programs::base(&program.text);
        if matches!(name, "cd" | "chdir" | "pushd") {
            self.goes_to(rest);
        }
        self.works_in(name, rest);
        let (name, rest) = reader(words).unwrap_or((name, rest));
        let operands = programs::operands(name);
        if programs::script_of(name).is_some_and(|it| odd_script(it, rest).is_some()) {
            self.unclear = Some("its script may read other files");
        }
        let is_recursive = |it: &ShellWord| {
            let letters = it.text.strip_prefix('-').filter(|it| !it.starts_with('-'));
            letters.is_some_and(|it| it.contains(['r', 'R', 'a']))
                || it.text.starts_with("--rec")
                || it.text.starts_with("--dereference-rec")
                || it.text.starts_with("--archive")
                || it.text.ends_with("recurse")
        };
        let is_tree = programs::reads_trees(name)
            || (programs::may_read_trees(name) && rest.iter().any(is_recursive));
        let gives_pattern = |it: &ShellWord| {
            ["-e", "-f", "--regexp", "--file"].iter().any(|o| it.text.starts_with(o))
        };
        let is_pattern_given = rest.iter().any(gives_pattern);
        let mut skips = operands == Some(Operands::AfterFirst) && !is_pattern_given;
        let mut has_operand = false;
        let is_read = operands.is_some();
        let is_kept = programs::keeps_files(name) && effects(words).is_empty();
        let uses = Uses { is_read, is_tree, is_written: false, is_kept };
        for word in rest {
            let is_option = word.text.starts_with('-');
            // What it looks for is no file.
            if is_option || !std::mem::take(&mut skips) {
                has_operand |= !is_option;
                self.word(word, uses);
            }
        }
        if is_tree && !has_operand && operands == Some(Operands::AfterFirst) {
            self.push(".".to_owned(), uses);
        }
    }

    /// Takes in the files of a line's redirections, once the directories are known that it goes to.
    pub(super) fn add_redirected(&mut self, line: &Lexed) {
        line.inputs.iter().for_each(|word| self.word(word, INPUT));
        line.outputs.iter().for_each(|word| self.word(word, OUTPUT));
    }

    /// Takes in that something runs in a directory that is not known before.
    pub(super) fn goes_anywhere(&mut self) {
        self.unclear = Some("in which directory its files are is not known before");
    }

    /// Takes in the directory that a program is told to work in.
    fn works_in(&mut self, program: &str, words: &[ShellWord]) {
        for option in programs::directories(program) {
            for (at, word) in words.iter().enumerate() {
                let value = match word.text.strip_prefix(option) {
                    Some("") => words.get(at + 1).cloned(),
                    Some(rest) => {
                        let rest = if option.starts_with("--") {
                            rest.strip_prefix('=')
                        } else {
                            Some(rest)
                        };
                        rest.map(|rest| ShellWord {
                            text: rest.to_owned(),
                            known: word.known,
                            ..ShellWord::default()
                        })
                    }
                    None => None,
                };
                if let Some(value) = value {
                    self.goes_to(&[value]);
                }
            }
        }
    }

    fn goes_to(&mut self, words: &[ShellWord]) {
        let to = words.iter().find(|it| !it.text.starts_with('-') || it.text == "-");
        match to {
            Some(word) if word.known.is_some() || word.text == "-" => self.goes_anywhere(),
            _ if self.dirs.len() >= DIRS_MAX => self.unclear = Some("it goes to many directories"),
            to => {
                let to = to.map_or("~", |word| word.text.as_str());
                let last = self.dirs.last().filter(|_| !to.starts_with(['/', '~']));
                self.dirs.push(last.map_or_else(|| to.to_owned(), |last| format!("{last}/{to}")));
            }
        }
    }

    fn word(&mut self, word: &ShellWord, uses: Uses) {
        if word.known.is_some() {
            // A pattern may stand for any file that it matches, a variable for any at all.
            if uses.is_read && !word.text.starts_with('-') {
                self.unclear_read = Some("which files it reads is not known before");
            }
            if uses.is_written {
                self.unclear_written = Some("which files it writes is not known before");
            }
            // But a `~` within a word is read by some shells and programs.
            if word.text.contains(['$', '`', '*', '?', '[', '{']) {
                return;
            }
        }
        let text: String = word.text.chars().map(super::guard::unguard).collect();
        let value = text.split_once('=').map(|(_, value)| value);
        let behind_letter =
            (text.starts_with('-') && !text.starts_with("--")).then(|| text.get(2..)).flatten();
        let paths = [Some(text.as_str()), value, behind_letter].into_iter().flatten();
        // `HEAD:x`, `name@x`: some programs read that.
        let ends = [':', '@'].into_iter().filter_map(|mark| Some(text.rsplit_once(mark)?.1));
        let perhaps = Uses { is_read: false, is_written: false, ..uses };
        for (path, uses) in paths.map(|it| (it, uses)).chain(ends.map(|it| (it, perhaps))) {
            let path = path
                .strip_prefix(['@', '<'])
                .or_else(|| path.strip_prefix("file://"))
                .unwrap_or(path);
            if path.is_empty() {
                continue;
            }
            self.push(path.to_owned(), uses);
            if !path.starts_with(['/', '~']) {
                for dir in self.dirs.clone() {
                    self.push(format!("{dir}/{path}"), uses);
                }
            }
        }
    }

    fn push(&mut self, path: String, uses: Uses) {
        if let Some(file) = self.named.iter_mut().find(|file| file.path == path) {
            file.uses.is_read |= uses.is_read;
            file.uses.is_tree |= uses.is_tree;
            file.uses.is_written |= uses.is_written;
            file.uses.is_kept &= uses.is_kept;
        } else if self.named.len() >= FILES_MAX {
            self.unclear = Some("it names too many files");
        } else {
            self.named.push(File { path, uses });
        }
    }

    /// Whether any file is read, or changed, for sure.
    pub(super) fn are(&self, kind: ActionKind) -> bool {
        self.named.iter().any(|file| file.is(kind))
    }

    /// Whether a pattern is about a file that is read, or changed, and why it may be about one.
    pub(super) fn reaches(
        &self,
        kind: ActionKind,
        glob: &PlaceGlob,
        bases: &Bases<'_>,
    ) -> (bool, Option<&'static str>) {
        let reads = kind == ActionKind::Read;
        let mut unclear =
            self.unclear.or(if reads { self.unclear_read } else { self.unclear_written });
        for file in self.named.iter().filter(|file| reads || !file.uses.is_kept) {
            let spots = bases.spots(&file.path).unwrap_or_default();
            let any = |fits: &dyn Fn(&Place) -> bool| spots.iter().flat_map(Spot::places).any(fits);
            if file.is(kind) && any(&|place| glob.reaches(place, bases, Case::Exact)) {
                return (true, None);
            }
            let is_around = |place: &Place| match kind {
                ActionKind::Read => file.uses.is_tree && glob.reaches_into(place, bases),
                _ => glob.is_within(place, bases),
            };
            if any(&|place| glob.reaches(place, bases, Case::Folded)) {
                unclear = Some("it names a file that the rule may be about");
            } else if any(&is_around) {
                unclear = Some("it names a directory with files that the rule may be about");
            } else if file.is(kind) && spots.iter().any(|spot| spot.real.is_none()) {
                unclear = Some("where links lead is not known");
            }
        }
        (false, unclear)
    }
}

impl File {
    fn is(&self, kind: ActionKind) -> bool {
        if kind == ActionKind::Read { self.uses.is_read } else { self.uses.is_written }
    }
}

/// A command that reads the files which it is given: what reads, by its name in the tables, and its
/// words.
pub(super) fn reader(words: &[ShellWord]) -> Option<(&str, &[ShellWord])> {
    let (program, rest) = words.split_first()?;
    let name = programs::base(&program.text);
    match options::subcommand(name, rest) {
        Some(at) if name == "git" && rest[at].text == "grep" => Some(("git-grep", &rest[at + 1..])),
        _ => programs::operands(name).map(|_| (name, rest)),
    }
}
