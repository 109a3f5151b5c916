//! The files that a command line names: what rules for reading are about is also what `cat` reads.
//! Only what is written there is found, not what a program does by itself. Pure.

use super::{
    lex::ShellWord,
    place::{Bases, Case, Place, PlaceGlob, Spot},
    programs::{self, Operands},
};

/// Files, and directories to which they may be relative, that a line may name.
const FILES_MAX: usize = 512;
const DIRS_MAX: usize = 8;

/// What a command line names.
#[derive(Debug, Default)]
pub(super) struct Files {
    named: Vec<File>,
    /// Directories that commands of the line go to, each as seen from where it is run.
    dirs: Vec<String>,
    /// Why more files may be read.
    unclear: Option<&'static str>,
}

/// Something that may be a file.
#[derive(Debug)]
struct File {
    path: String,
    /// A program that reads files is given it.
    is_read: bool,
    /// That program reads all that is in a directory.
    is_tree: bool,
}

impl Files {
    /// Takes in a command that begins with its program.
    pub(super) fn add(&mut self, words: &[ShellWord]) {
        let Some((program, rest)) = words.split_first() else { return };
        let name = programs::base(&program.text);
        if matches!(name, "cd" | "chdir" | "pushd") {
            self.goes_to(rest);
        }
        let operands = programs::operands(name);
        let is_recursive = |it: &ShellWord| {
            let letters = it.text.strip_prefix('-').filter(|it| !it.starts_with('-'));
            letters.is_some_and(|it| it.contains(['r', 'R', 'a']))
                || it.text.starts_with("--rec")
                || it.text.starts_with("--dereference-rec")
                || it.text.starts_with("--archive")
        };
        let is_tree = programs::reads_trees(name)
            || (programs::may_read_trees(name) && rest.iter().any(is_recursive));
        let is_pattern_given =
            rest.iter().any(|it| it.text.starts_with("-e") || it.text.starts_with("--regexp"));
        let mut skips = operands == Some(Operands::AfterFirst) && !is_pattern_given;
        let mut has_operand = false;
        for word in rest {
            let is_option = word.text.starts_with('-');
            // What it looks for is no file.
            if is_option || !std::mem::take(&mut skips) {
                has_operand |= !is_option;
                self.word(word, operands.is_some(), is_tree);
            }
        }
        if is_tree && !has_operand && operands == Some(Operands::AfterFirst) {
            self.push(".".to_owned(), true, true);
        }
    }

    /// Takes in what is redirected from.
    pub(super) fn add_input(&mut self, word: &ShellWord) {
        self.word(word, true, false);
    }

    fn goes_to(&mut self, words: &[ShellWord]) {
        let to = words.iter().find(|it| !it.text.starts_with('-') || it.text == "-");
        match to {
            Some(word) if word.known.is_some() || word.text == "-" => {
                self.unclear = Some("where it reads files is not known before");
            }
            _ if self.dirs.len() >= DIRS_MAX => self.unclear = Some("it goes to many directories"),
            to => {
                let to = to.map_or("~", |word| word.text.as_str());
                let last = self.dirs.last().filter(|_| !to.starts_with(['/', '~']));
                self.dirs.push(last.map_or_else(|| to.to_owned(), |last| format!("{last}/{to}")));
            }
        }
    }

    fn word(&mut self, word: &ShellWord, is_read: bool, is_tree: bool) {
        if word.known.is_some() {
            // A pattern may stand for any file that it matches, a variable for any at all.
            if is_read && !word.text.starts_with('-') {
                self.unclear = Some("which files it reads is not known before");
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
        for path in [Some(text.as_str()), value, behind_letter].into_iter().flatten() {
            let path =
                path.strip_prefix('@').or_else(|| path.strip_prefix("file://")).unwrap_or(path);
            if path.is_empty() {
                continue;
            }
            self.push(path.to_owned(), is_read, is_tree);
            if !path.starts_with(['/', '~']) {
                for dir in self.dirs.clone() {
                    self.push(format!("{dir}/{path}"), is_read, is_tree);
                }
            }
        }
    }

    fn push(&mut self, path: String, is_read: bool, is_tree: bool) {
        if let Some(file) = self.named.iter_mut().find(|file| file.path == path) {
            file.is_read |= is_read;
            file.is_tree |= is_tree;
        } else if self.named.len() >= FILES_MAX {
            self.unclear = Some("it names too many files");
        } else {
            self.named.push(File { path, is_read, is_tree });
        }
    }

    /// Whether any file is read for sure.
    pub(super) fn are_read(&self) -> bool {
        self.named.iter().any(|file| file.is_read)
    }

    /// Whether a pattern is about a file that is read, and why it may be about one.
    pub(super) fn reaches(
        &self,
        glob: &PlaceGlob,
        bases: &Bases<'_>,
    ) -> (bool, Option<&'static str>) {
        let mut unclear = self.unclear;
        for file in &self.named {
            let spots = bases.spots(&file.path).unwrap_or_default();
            let any = |fits: &dyn Fn(&Place) -> bool| spots.iter().flat_map(Spot::places).any(fits);
            if file.is_read && any(&|place| glob.reaches(place, bases, Case::Exact)) {
                return (true, None);
            }
            if any(&|place| glob.reaches(place, bases, Case::Folded)) {
                unclear = Some("it names a file that the rule may be about");
            } else if file.is_tree && any(&|place| glob.reaches_into(place, bases)) {
                unclear = Some("it reads a directory with files that the rule may be about");
            } else if file.is_read && spots.iter().any(|spot| spot.real.is_none()) {
                unclear = Some("where links lead is not known");
            }
        }
        (false, unclear)
    }
}
