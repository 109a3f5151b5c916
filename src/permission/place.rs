//! Files as the policy sees them. A path means two places: the one that is written, and the one
//! where symbolic links lead. What a rule allows must cover both, what it denies may be neither.
//! Pure; what is on the disk comes in by [`Places`].

use std::{
    fmt,
    path::{Path, PathBuf},
};

use super::glob::{Glob, escape};

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
    /// It can't be told, for example for lack of a right.
    Unknown,
}

/// An absolute place, in components; none of them is `.` or `..`.
type Place = Vec<String>;

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

impl<'a> Bases<'a> {
    pub(super) fn new(project: &Path, home: &Path, places: &'a dyn Places) -> Bases<'a> {
        let both = |dir: &Path| {
            let Some(dir) = dir.to_str() else { return Vec::new() };
            let written = lexical(&raw(&[], dir));
            let mut both = vec![written];
            both.extend(follow(&both[0], places).filter(|real| *real != both[0]));
            both
        };
        Bases { project: both(project), home: both(home), places }
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
        let is_odd = |c: char| c.is_control() || matches!(c, '\\' | '\u{2028}' | '\u{2029}');
        if path.is_empty() || path.len() > PATH_MAX || path.contains(is_odd) {
            return Err("the path is empty, too long or has odd characters");
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
        let below = |base: &Place| place.strip_prefix(base.as_slice());
        bases.of(self.base).iter().filter_map(below).any(|rest| fits(&self.parts, rest))
    }

    /// The same, also where the pattern itself leads over links.
    pub(super) fn reaches(&self, place: &Place, bases: &Bases<'_>) -> bool {
        if self.covers(place, bases) {
            return true;
        }
        let literal = |part: &Part| match part {
            Part::One(glob) => glob.exact().map(str::to_owned),
            Part::Any => None,
        };
        let head: Vec<String> = self.parts.iter().map_while(literal).collect();
        bases.of(self.base).iter().any(|base| {
            let real = follow(&[base.as_slice(), &head].concat(), bases.places);
            let rest = real.as_ref().and_then(|real| place.strip_prefix(real.as_slice()));
            rest.is_some_and(|rest| fits(&self.parts[head.len()..], rest))
        })
    }
}

/// Whether the parts of a pattern match the components of a place, all of both.
fn fits(parts: &[Part], place: &[String]) -> bool {
    // How many components the parts so far may have taken.
    let mut taken = vec![false; place.len() + 1];
    taken[0] = true;
    for part in parts {
        match part {
            Part::Any => {
                for at in 1..taken.len() {
                    taken[at] |= taken[at - 1];
                }
            }
            Part::One(glob) => {
                for at in (1..taken.len()).rev() {
                    taken[at] = taken[at - 1] && glob.matches(&place[at - 1]);
                }
                taken[0] = false;
            }
        }
    }
    taken[place.len()]
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

/// The place where it leads, as the system goes: a `..` behind a link is that of the link's target.
/// What is not there yet stays as it is written.
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
        match places.look(Path::new(&format!("/{}", place.join("/")))) {
            Found::Plain => {}
            Found::Unknown => return None,
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
