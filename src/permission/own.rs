//! What is the bridge's own: its configuration, its state and its tokens. Whoever has them speaks for
//! the human, so no rule and no answer gives them to an agent. Pure; which files they are is handed
//! in.
//!
//! Of a command it finds what the line names, not what a program does by itself.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{
    action::{Action, Facts, PLACE_KEYS},
    glob::Glob,
    place::{Bases, Place, Places, Spot, fold, places_of},
};
use crate::agent::ActionKind;

/// Different words of a command line that are looked at.
const WORDS_MAX: usize = 4096;
/// Texts of a tool's input that are looked at, and how deep they lie.
const TEXTS_MAX: usize = 512;
const DEPTH_MAX: usize = 6;
/// Files of a process with its environment, its memory or its arguments, where a token may be.
const OF_PROCESS: [&str; 3] = ["cmdline", "environ", "mem"];

/// The bridge's own files and directories, with all that is in them; absolute.
#[derive(Clone, Debug, Default)]
pub struct OwnFiles(Vec<PathBuf>);

/// How near something comes to them; what is worse is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Nearness {
    Apart,
    /// It names a directory that they are in.
    Above,
    /// It may name them.
    Perhaps,
    Inside,
}

use Nearness::{Above, Apart, Inside, Perhaps};

impl OwnFiles {
    pub fn new(paths: Vec<PathBuf>) -> OwnFiles {
        OwnFiles(paths)
    }

    /// Where they really are; none is in another one.
    pub fn paths(&self, places: &dyn Places) -> Vec<String> {
        let real = self.0.iter().filter_map(|path| places_of(path, places).pop());
        let real: BTreeSet<Place> = real.collect();
        let is_in = |it: &Place| real.iter().any(|other| it != other && it.starts_with(other));
        real.iter().filter(|it| !is_in(it)).map(|it| format!("/{}", it.join("/"))).collect()
    }

    /// Whether any of them is in a directory.
    pub fn are_in(&self, dir: &Path, places: &dyn Places) -> bool {
        let dirs = places_of(dir, places);
        let mut own = self.0.iter().flat_map(|path| places_of(path, places));
        own.any(|own| dirs.iter().any(|dir| own.starts_with(dir)))
    }

    /// How near an action comes.
    pub(super) fn nearness(&self, action: &Action<'_>, facts: &Facts<'_>) -> Nearness {
        let places = self.0.iter().flat_map(|path| places_of(path, action.places));
        let places = places.map(|place| folded(&place)).collect();
        let own = Own { places, bases: &action.bases() };
        let question = action.question;
        match (facts, question.kind) {
            (Facts::Places { spots, .. }, _) => own.of_spots(spots.as_deref().unwrap_or_default()),
            (Facts::Command { .. }, _) => own.of_command(&question.subject, &question.input),
            (_, ActionKind::Mcp | ActionKind::Other) => {
                own.of_input("", &question.input, 0, &mut 0)
            }
            _ => Apart,
        }
    }
}

/// Where they are as written and where they really are, folded: nobody has honest files of these
/// names in another case.
#[derive(Debug)]
struct Own<'a> {
    places: Vec<Place>,
    bases: &'a Bases<'a>,
}

impl Own<'_> {
    fn of_place(&self, place: &Place) -> Nearness {
        let place = folded(place);
        let is_of_process = place.len() > 2
            && place[0] == "proc"
            && place.last().is_some_and(|name| OF_PROCESS.contains(&name.as_str()));
        if is_of_process || self.places.iter().any(|own| place.starts_with(own)) {
            Inside
        } else if self.places.iter().any(|own| own.starts_with(&place)) {
            Above
        } else {
            Apart
        }
    }

    fn of_spots(&self, spots: &[Spot]) -> Nearness {
        let places = spots.iter().flat_map(Spot::places);
        places.map(|place| self.of_place(place)).max().unwrap_or(Apart)
    }

    fn of_path(&self, path: &str) -> Nearness {
        self.of_spots(&self.bases.spots(path).unwrap_or_default())
    }

    /// A command line, wherever in it a path stands, and the directories in which it would run.
    fn of_command(&self, line: &str, input: &Value) -> Nearness {
        let dirs: Vec<&str> = PLACE_KEYS.iter().filter_map(|key| input[key].as_str()).collect();
        let dirs_are = dirs.iter().map(|dir| self.of_path(dir));
        let words = match &input["command"] {
            Value::String(line) => vec![line.as_str()],
            Value::Array(words) => words.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        let words = words.into_iter().filter(|word| *word != line);
        let lines = [line].into_iter().chain(words).map(|line| self.of_line(line, &dirs));
        dirs_are.chain(lines).max().unwrap_or(Apart)
    }

    fn of_line(&self, line: &str, dirs: &[&str]) -> Nearness {
        const ENDS: &[char] = &[';', '&', '|', '<', '>', '(', ')', '`', '=', ':'];
        let line: String = line.chars().filter(|c| !matches!(c, '\'' | '"' | '\\')).collect();
        let line = self.bases.expanded(&line);
        let words = line.split(|c: char| c.is_whitespace() || ENDS.contains(&c));
        // Long lines have the same words again and again.
        let words: BTreeSet<&str> = words.filter(|word| !word.is_empty()).collect();
        let of_names = self.of_names(&fold(&line));
        if words.len() > WORDS_MAX {
            return of_names.max(Perhaps);
        }
        words.iter().map(|word| self.of_word(word, dirs)).max().unwrap_or(Apart).max(of_names)
    }

    /// Their names in a line, of which it is not known where they lead: `cd; cat .obto-bridge/x`.
    fn of_names(&self, line: &str) -> Nearness {
        let line = line.replace(['{', '}'], "");
        let has_blanks = |path: &str| path.contains(char::is_whitespace) && line.contains(path);
        let is_named =
            |name: &String| name.len() > 4 && name.starts_with('.') && line.contains(name);
        if self.places.iter().any(|own| has_blanks(&own.join("/"))) {
            Inside
        } else if self.places.iter().filter_map(|own| own.last()).any(is_named) {
            Perhaps
        } else {
            Apart
        }
    }

    fn of_word(&self, word: &str, dirs: &[&str]) -> Nearness {
        let is_relative = !word.starts_with(['/', '~']);
        let below = dirs.iter().filter(|dir| is_relative && !dir.is_empty());
        let words = below.map(|dir| format!("{dir}/{word}")).chain([word.to_owned()]);
        let of_whole = |word: String| {
            if word.contains(['*', '?', '[', '{', '$']) {
                self.of_pattern(&word)
            } else {
                self.of_path(&word)
            }
        };
        // Options have their values right behind them, and some tools lists of files or an `@`.
        let parts = word.split(['{', '}', ',', '@']).flat_map(|part| {
            let value = part.find(['/', '~']).map(|at| &part[at..]);
            [Some(part), value].into_iter().flatten()
        });
        let parts = parts.filter(|part| !part.is_empty() && *part != word);
        let of_part = |part| if self.of_path(part) == Inside { Inside } else { Apart };
        words.map(of_whole).chain(parts.map(of_part)).max().unwrap_or(Apart)
    }

    /// A pattern for file names, as shells have them.
    fn of_pattern(&self, word: &str) -> Nearness {
        // Of every process, for one.
        if self.of_path(word) == Inside {
            return Inside;
        }
        let names: Vec<&str> = word.split('/').collect();
        let is_plain = |name: &&&str| !name.contains(['*', '?', '[', '{', '$']);
        let (head, rest) = names.split_at(names.iter().take_while(is_plain).count());
        if rest.contains(&"..") {
            return Perhaps;
        }
        let head = match &head.join("/")[..] {
            "" if word.starts_with('/') => "/".to_owned(),
            "" => ".".to_owned(),
            head => head.to_owned(),
        };
        let spots = self.bases.spots(&head).unwrap_or_default();
        let places: Vec<Place> = spots.iter().flat_map(Spot::places).map(folded).collect();
        let pairs = places.iter().flat_map(|place| self.places.iter().map(move |own| (place, own)));
        pairs.map(|(place, own)| expands_to(place, rest, own)).max().unwrap_or(Apart)
    }

    /// What a tool gets of which nothing is known but that some of it may be a path.
    fn of_input(&self, key: &str, value: &Value, depth: usize, seen: &mut usize) -> Nearness {
        *seen += 1;
        if depth > DEPTH_MAX || *seen > TEXTS_MAX {
            return Perhaps;
        }
        match value {
            Value::String(text) => {
                let path = text.strip_prefix("file://").unwrap_or(text);
                let is_path_key = ["path", "dir", "root", "folder", "file", "uri"]
                    .iter()
                    .any(|part| key.to_lowercase().contains(part));
                match self.of_path(path) {
                    Above if !is_path_key => Apart,
                    nearness => nearness,
                }
            }
            Value::Array(items) => {
                let each = items.iter().map(|item| self.of_input(key, item, depth + 1, seen));
                each.max().unwrap_or(Apart)
            }
            Value::Object(fields) => {
                let each = fields.iter().map(|(key, it)| self.of_input(key, it, depth + 1, seen));
                each.max().unwrap_or(Apart)
            }
            _ => Apart,
        }
    }
}

/// Whether the pattern `rest` in the directory `place` may stand for `own` or what is above or in it.
fn expands_to(place: &[String], rest: &[&str], own: &[String]) -> Nearness {
    if place.starts_with(own) {
        return Inside;
    }
    let Some(names) = own.strip_prefix(place) else { return Apart };
    let mut names = names.iter();
    let mut is_dotted = false;
    for part in rest.iter().filter(|part| !matches!(**part, "" | ".")) {
        let Some(name) = names.next() else { break };
        if part.contains('{') {
            return Perhaps;
        }
        if part.contains('$') || part.contains("**") {
            return Above;
        }
        if !Glob::parse(&simplified(part), |c| c).is_ok_and(|glob| glob.matches(name)) {
            return Apart;
        }
        // Shells pass over these unless they are told otherwise.
        is_dotted |= name.starts_with('.') && !part.starts_with('.');
    }
    if is_dotted || names.next().is_some() { Above } else { Perhaps }
}

/// A pattern of a shell with nothing but stars, which matches all that it does.
fn simplified(part: &str) -> String {
    let mut simple = String::new();
    let mut chars = part.chars();
    while let Some(c) = chars.next() {
        match c {
            '?' => simple.push('*'),
            '[' => {
                simple.push('*');
                chars.by_ref().find(|c| *c == ']');
            }
            c => simple.push_str(&fold(c.encode_utf8(&mut [0; 4]))),
        }
    }
    simple
}

fn folded(place: &Place) -> Place {
    place.iter().map(|name| fold(name)).collect()
}
