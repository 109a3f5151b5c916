//! Files as the policy sees them. A path means two places: the one that is written, and the one
//! where symbolic links lead. What a rule allows must cover both, what it denies may be neither.
//! Pure; what is on the disk comes in by [`Places`].

use std::{
    borrow::Cow,
    fmt,
    path::{Path, PathBuf},
};

use super::{
    approval_prompt::is_hidden,
    glob::{Glob, escape},
};

/// Longer paths are refused by the system as well.
const PATH_MAX: usize = 4096;
/// Links that one path may lead over, as in Linux.
const LINKS_MAX: usize = 40;
/// Steps of following a path.
const STEPS_MAX: usize = 1000;

/// What is on the disk.
pub trait Places: fmt::Debug {
    /// What `path` is, without following it if it is a link.
    fn look(&self, path: &Path) -> Found;
}

/// What a path is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A symbolic link to this.
    Link(PathBuf),
    /// Something else, or nothing.
    Plain,
    /// It can't be told, for example for lack of a right, or it is another thing for each process.
    Unknown,
}

/// An absolute place, in components; none of them is `.` or `..`.
pub(super) type Place = Vec<String>;

/// Where relative paths and patterns begin: as they are named, and where they really are.
#[derive(Debug)]
pub(super) struct Bases<'a> {
    project: Vec<Place>,
    home: Vec<Place>,
    places: &'a dyn Places,
}

/// A path of an action.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Spot {
    pub(super) written: Place,
    /// None if it can't be told.
    pub(super) real: Option<Place>,
}

impl Spot {
    /// All that it means, as far as that is known.
    pub(super) fn places(&self) -> impl Iterator<Item = &Place> {
        [&self.written].into_iter().chain(&self.real)
    }
}

/// How names are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Case {
    Exact,
    /// As file systems do that take upper and lower case for the same.
    Folded,
    /// The same, and as those that take a letter with an accent for the letter and the accent.
    FoldedMarks,
}

impl Case {
    fn name(self, name: &str) -> Cow<'_, str> {
        match self {
            Case::Exact => Cow::Borrowed(name),
            Case::Folded => Cow::Owned(fold(name)),
            Case::FoldedMarks => Cow::Owned(fold_marks(name)),
        }
    }

    fn glob(self, glob: &Glob) -> Cow<'_, Glob> {
        match self {
            Case::Exact => Cow::Borrowed(glob),
            Case::Folded => Cow::Owned(glob.each_piece(fold)),
            Case::FoldedMarks => Cow::Owned(glob.each_piece(fold_marks)),
        }
    }

    /// How `parts` below `base` fit a place.
    fn fit(self, base: &[String], parts: &[Part], place: &[String]) -> Fit {
        let is_same = |(one, other): (&String, &String)| self.name(one) == self.name(other);
        if !base.iter().zip(place).all(is_same) {
            Fit::default()
        } else if place.len() < base.len() {
            Fit { is_whole: false, is_above: true }
        } else {
            fit(parts, &place[base.len()..], self)
        }
    }
}

/// A pattern over places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PlaceGlob {
    base: Base,
    parts: Vec<Part>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Base {
    Project,
    Home,
    Top,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    /// `**`: any number of components.
    Any,
    One(Glob),
}

/// A directory or file as it is named, and where it really is, if that is elsewhere. None of them if
/// its name is not UTF-8.
pub(super) fn places_of(path: &Path, places: &dyn Places) -> Vec<Place> {
    let Some(path) = path.to_str() else { return Vec::new() };
    let written = lexical(&raw(&[], path));
    let real = follow(&written, places).filter(|real| *real != written);
    [written].into_iter().chain(real).collect()
}

impl<'a> Bases<'a> {
    pub(super) fn new(project: &Path, home: &Path, places: &'a dyn Places) -> Bases<'a> {
        Bases { project: places_of(project, places), home: places_of(home, places), places }
    }

    fn of(&self, base: Base) -> &[Place] {
        match base {
            Base::Project => &self.project,
            Base::Home => &self.home,
            Base::Top => const { &[Vec::new()] },
        }
    }

    /// The places that `path` may mean. The error says why it can't be told.
    pub(super) fn spots(&self, path: &str) -> Result<Vec<Spot>, &'static str> {
        if path.is_empty() || path.len() > PATH_MAX || path.contains(is_odd) {
            return Err("the path is empty, too long or has odd characters");
        }
        // Some tools take them away, others don't.
        let is_edged = |name: &str| {
            name.starts_with(char::is_whitespace) || name.ends_with(char::is_whitespace)
        };
        if path.split('/').any(is_edged) {
            return Err("a name in the path begins or ends with a blank");
        }
        if path.contains(", ") || path.starts_with("file:") || path.contains("://") {
            return Err("it may be another path than it seems, or several");
        }
        let below = |bases: &[Place], rest: &str| -> Result<Vec<String>, &'static str> {
            let base = bases.first().ok_or("the directory's name is not UTF-8")?;
            Ok(raw(base, rest))
        };
        let is_absolute = path.starts_with('/');
        let mut raws = vec![if is_absolute { raw(&[], path) } else { below(&self.project, path)? }];
        // Some engines expand it, others don't.
        if let Some(rest) = path.strip_prefix('~') {
            let rest = rest.strip_prefix('/').or(rest.is_empty().then_some(""));
            raws.push(below(&self.home, rest.ok_or("it is another user's home")?)?);
        }
        Ok(raws
            .into_iter()
            .map(|raw| Spot { written: lexical(&raw), real: follow(&raw, self.places) })
            .collect())
    }

    /// A line of a shell with what it makes of the names of these directories.
    pub(super) fn expanded(&self, line: &str) -> String {
        let path = |bases: &[Place]| bases.first().map(|base| format!("/{}", base.join("/")));
        let (project, home) = (path(&self.project), path(&self.home));
        let mut line = line.to_owned();
        for (names, path) in [(["${HOME}", "$HOME"], &home), (["${PWD}", "$PWD"], &project)] {
            for name in names {
                line = line.replace(name, path.as_deref().unwrap_or(name));
            }
        }
        match self.home.first().and_then(|home| home.last()) {
            Some(user) => line.replace(&format!("~{user}/"), "~/"),
            None => line,
        }
    }

    /// `spot` as a pattern for nothing else, if its two places are the same as seen from the
    /// project, or from the top.
    pub(super) fn name(&self, spot: &Spot) -> Option<String> {
        let inside = |place: &Place| {
            let base = self.project.iter().find(|base| place.starts_with(base))?;
            Some(place[base.len()..].to_vec()).filter(|rest| !rest.is_empty())
        };
        let real = spot.real.as_ref()?;
        let escaped = |place: &[String]| escape(&place.join("/"), |c| c);
        match (inside(&spot.written), inside(real)) {
            (Some(written), Some(real)) if written == real => {
                let name = escaped(&written);
                Some(if name.starts_with('~') { format!("./{name}") } else { name })
            }
            _ if spot.written == *real => Some(format!("//{}", escaped(real))),
            _ => None,
        }
    }

    /// Whether a place is the project's directory or inside it.
    pub(super) fn is_inside(&self, place: &Place) -> bool {
        self.project.iter().any(|base| place.starts_with(base))
    }
}

impl PlaceGlob {
    pub(super) fn parse(pattern: &str) -> Result<PlaceGlob, &'static str> {
        let (base, rest) = if let Some(rest) = pattern.strip_prefix("~/") {
            (Base::Home, rest)
        } else if pattern.starts_with('~') {
            return Err("only one's own home can be named, as ~/…");
        } else if pattern.starts_with('/') {
            (Base::Top, pattern.trim_start_matches('/'))
        } else {
            (Base::Project, pattern)
        };
        if rest.ends_with('/') || rest.is_empty() {
            return Err("a directory stands for itself alone; for all in it add **");
        }
        let mut parts = Vec::new();
        for part in rest.split('/') {
            match part {
                "" | "." => {}
                ".." => return Err("a pattern can't have `..` in it; name the place itself"),
                "**" => parts.push(Part::Any),
                _ if part.contains("**") => {
                    return Err("`**` stands alone between slashes: src/**/*.rs");
                }
                part => parts.push(Part::One(Glob::parse(part, |c| c)?)),
            }
        }
        Ok(PlaceGlob { base, parts })
    }

    /// Whether it covers a place.
    pub(super) fn covers(&self, place: &Place, bases: &Bases<'_>) -> bool {
        let bases = bases.of(self.base).iter();
        bases.map(|base| Case::Exact.fit(base, &self.parts, place)).any(|fit| fit.is_whole)
    }

    /// The same, also where the pattern itself leads over links.
    pub(super) fn reaches(&self, place: &Place, bases: &Bases<'_>, case: Case) -> bool {
        self.fits(place, bases, case).any(|fit| fit.is_whole)
    }

    /// Whether it may cover something that is in `place`.
    pub(super) fn reaches_into(&self, place: &Place, bases: &Bases<'_>) -> bool {
        self.fits(place, bases, Case::Folded).any(|fit| fit.is_above)
    }

    /// Whether all that it covers is in `place`.
    pub(super) fn is_within(&self, place: &Place, bases: &Bases<'_>) -> bool {
        let head = self.head();
        let begins = |base: &Place| {
            let from = [base.as_slice(), &head].concat();
            let real = follow(&from, bases.places);
            [Some(from), real].into_iter().flatten().any(|it| it.starts_with(place))
        };
        bases.of(self.base).iter().any(begins)
    }

    /// The names that it begins with.
    fn head(&self) -> Vec<String> {
        let literal = |part: &Part| match part {
            Part::One(glob) => glob.exact().map(str::to_owned),
            Part::Any => None,
        };
        self.parts.iter().map_while(literal).collect()
    }

    fn has_marks(&self) -> bool {
        self.parts.iter().any(|part| match part {
            Part::One(glob) => glob.pieces().any(|piece| piece.contains(is_mark)),
            Part::Any => false,
        })
    }

    /// How it fits a place, as seen from where it begins and from where its links lead.
    fn fits(&self, place: &Place, bases: &Bases<'_>, case: Case) -> impl Iterator<Item = Fit> {
        let is_marked = place.iter().any(|name| name.contains(is_mark)) || self.has_marks();
        let case = if case == Case::Folded && is_marked { Case::FoldedMarks } else { case };
        let head = self.head();
        bases.of(self.base).iter().flat_map(move |base| {
            let real = follow(&[base.as_slice(), &head].concat(), bases.places);
            let real = real.map(|real| case.fit(&real, &self.parts[head.len()..], place));
            [Some(case.fit(base, &self.parts, place)), real].into_iter().flatten()
        })
    }
}

/// How far a pattern goes along with a place.
#[derive(Clone, Copy, Debug, Default)]
struct Fit {
    /// It matches the place.
    is_whole: bool,
    /// It may match something in the place, or the place itself.
    is_above: bool,
}

/// The parts of a pattern against the components of a place.
fn fit(parts: &[Part], place: &[String], case: Case) -> Fit {
    let place: Vec<Cow<'_, str>> = place.iter().map(|name| case.name(name)).collect();
    // How many components the parts so far may have taken.
    let mut taken = vec![false; place.len() + 1];
    taken[0] = true;
    let mut fit = Fit { is_whole: false, is_above: place.is_empty() };
    for part in parts {
        match part {
            Part::Any => {
                for at in 1..taken.len() {
                    taken[at] |= taken[at - 1];
                }
            }
            Part::One(glob) => {
                let glob = case.glob(glob);
                for at in (1..taken.len()).rev() {
                    taken[at] = taken[at - 1] && glob.matches(&place[at - 1]);
                }
                taken[0] = false;
            }
        }
        fit.is_above |= taken[place.len()];
    }
    fit.is_whole = taken[place.len()];
    fit
}

/// A name as file systems compare it that take upper and lower case for the same.
pub(super) fn fold(name: &str) -> String {
    if name.is_ascii() {
        return name.to_ascii_lowercase();
    }
    name.chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect()
}

/// The same for names of which one is written with marks. Without the tables of Unicode it is not known
/// which letters have one built in, so all letters beyond ASCII count as such.
fn fold_marks(name: &str) -> String {
    const OTHER: char = '\u{fffd}';
    fold(name).chars().fold(String::new(), |mut folded, c| {
        if is_mark(c) {
            folded.pop();
        }
        folded.push(if c.is_ascii() { c } else { OTHER });
        folded
    })
}

/// What is written behind a letter and belongs to it: accents, and the later parts of a syllable of
/// Japanese and Korean.
fn is_mark(c: char) -> bool {
    matches!(c, '\u{300}'..='\u{36f}' | '\u{1161}'..='\u{11ff}' | '\u{3099}' | '\u{309a}')
}

/// What some tools take away or read as something else.
fn is_odd(c: char) -> bool {
    c == '\\' || is_hidden(c)
}

fn raw(base: &[String], path: &str) -> Vec<String> {
    base.iter().map(String::as_str).chain(path.split('/')).map(str::to_owned).collect()
}

/// The place that is written: `..` takes the component before it away.
fn lexical(raw: &[String]) -> Place {
    let mut place = Place::new();
    for component in raw {
        match component.as_str() {
            "" | "." => {}
            ".." => drop(place.pop()),
            _ => place.push(component.clone()),
        }
    }
    place
}

/// Whether a place is another one for every process that looks, or is named by what a process has
/// open (`/proc/self/cwd`, `/proc/7/root`, `/dev/fd/3`), or is a second name of places that no link
/// shows (on macOS). What the daemon finds there is not what an agent would find.
fn depends_on_process(place: &[String]) -> bool {
    let names: Vec<&str> = place.iter().map(String::as_str).take(3).collect();
    match names[..] {
        ["proc", name, ..] => {
            matches!(name, "self" | "thread-self") || name.starts_with(|c: char| c.is_ascii_digit())
        }
        ["dev", "fd" | "stdin" | "stdout" | "stderr", ..]
        | [".vol", ..]
        | ["System", "Volumes", "Data", ..] => true,
        _ => false,
    }
}

/// The place where it leads, as the system goes: a `..` behind a link is that of the link's target.
/// What is not there yet stays as it is written. None if that can't be told, or not for an agent.
fn follow(raw: &[String], places: &dyn Places) -> Option<Place> {
    let mut todo: Vec<String> = raw.iter().rev().cloned().collect();
    let (mut place, mut links, mut steps) = (Place::new(), 0, 0);
    while let Some(component) = todo.pop() {
        steps += 1;
        if steps > STEPS_MAX {
            return None;
        }
        match component.as_str() {
            "" | "." => continue,
            ".." => {
                place.pop();
                continue;
            }
            _ => place.push(component),
        }
        if depends_on_process(&place) {
            return None;
        }
        match places.look(Path::new(&format!("/{}", place.join("/")))) {
            Found::Plain => {}
            Found::Unknown => return None,
            // `/proc/net`, for one, leads to that of the process that looks.
            Found::Link(_) if place[0] == "proc" => return None,
            Found::Link(target) => {
                links += 1;
                let target = target.to_str().filter(|_| links <= LINKS_MAX)?;
                if target.starts_with('/') {
                    place.clear();
                } else {
                    place.pop();
                }
                todo.extend(target.split('/').rev().map(str::to_owned));
            }
        }
    }
    Some(place)
}
