//! An action in the terms of the policy: what an engine wants to do, and what of it the rules are
//! about. Pure.
//!
//! What an engine calls the subject may be a title; what its tool gets as input is the truth. Where
//! both are known, a rule must cover both.

use std::{borrow::Cow, path::Path};

use serde_json::Value;

use super::{
    command::Scan,
    place::{Bases, Places, Spot},
    url::Url,
};
use crate::{
    agent::{ActionKind, Question, description::McpReadings, engines, shell::Shell},
    ids::Engine,
};

/// Names of inputs that are a path, over all engines.
const PATH_KEYS: [&str; 10] = [
    "absolute_path",
    "abs_path",
    "dir_path",
    "directory",
    "filePath",
    "file_path",
    "filepath",
    "move_path",
    "notebook_path",
    "path",
];
/// Names of inputs that are lists of paths, or of objects with one.
const LIST_KEYS: [&str; 6] = ["changes", "content", "edits", "locations", "paths", "patterns"];
/// Names of inputs that are the directory in which a command runs.
pub(super) const PLACE_KEYS: [&str; 4] = ["cwd", "dir_path", "directory", "workdir"];
/// Tools that read directories, over all engines, in whatever case; `search` is also ACP's word.
const SEARCHES: [&str; 9] = [
    "glob",
    "grep",
    "grep_search",
    "list",
    "list_directory",
    "ls",
    "read_many_files",
    "search",
    "search_file_content",
];
/// Names of inputs that say what a search looks for.
const SEARCH_KEYS: [&str; 5] = ["glob", "include", "pattern", "query", "regex"];
/// Paths of one action.
const PATHS_MAX: usize = 256;

/// What an engine wants to do, and where.
#[derive(Clone, Copy, Debug)]
pub struct Action<'a> {
    pub question: &'a Question,
    pub engine: &'a Engine,
    /// The project's directory; absolute. Relative paths begin there.
    pub directory: &'a Path,
    /// The user's home directory; absolute.
    pub home: &'a Path,
    pub places: &'a dyn Places,
    /// What the engine gives its command lines to.
    pub shell: Shell,
}

impl<'a> Action<'a> {
    pub(super) fn bases(&self) -> Bases<'a> {
        Bases::new(self.directory, self.home, self.places)
    }

    /// Why a command is another one than a rule has in mind, or runs elsewhere.
    fn elsewhere(&self) -> Option<&'static str> {
        let input = &self.question.input;
        if self.is_told() && input["command"].is_null() {
            return Some("the agent shows a title for the command, not the command itself");
        }
        let is_set = |key: &str| !matches!(input[key], Value::Null | Value::Bool(false));
        if is_set("additionalPermissions") || is_set("dangerouslyDisableSandbox") {
            return Some("the command wants to leave its sandbox");
        }
        let bases = self.bases();
        let is_inside = |spot: &Spot| {
            let real = spot.real.as_ref();
            bases.is_inside(&spot.written) && real.is_some_and(|it| bases.is_inside(it))
        };
        let is_outside =
            |dir: &str| !bases.spots(dir).is_ok_and(|spots| spots.iter().all(is_inside));
        let dirs = PLACE_KEYS.iter().filter_map(|key| input[key].as_str());
        let is_elsewhere = dirs.filter(|dir| !dir.is_empty()).any(is_outside);
        is_elsewhere.then_some("the command would run outside the project")
    }

    /// The paths that are read or changed.
    fn paths(&self) -> Result<Vec<&'a str>, &'static str> {
        const MANY: &str = "it has too many paths";
        let Question { edits, input, subject, .. } = self.question;
        let mut paths: Vec<&str> = edits.iter().map(|edit| edit.path.as_str()).collect();
        collect(input, self.is_search(), 0, &mut paths).ok_or(MANY)?;
        paths.sort_unstable();
        paths.dedup();
        if paths.len() > PATHS_MAX {
            return Err(MANY);
        }
        if self.is_search() {
            return self.searched(paths);
        }
        if !input["grantRoot"].is_null() {
            return Err("it wants a whole directory");
        }
        match subject.as_str() {
            "" if paths.is_empty() => Err("its path is not known"),
            "" => Ok(paths),
            subject if paths.contains(&subject) => Ok(paths),
            // The paths of several files, in one line.
            subject if !paths.is_empty() && subject.split(", ").all(|it| paths.contains(&it)) => {
                Ok(paths)
            }
            _ if self.is_told() && paths.is_empty() => Err("its path is not known for sure"),
            subject => {
                paths.push(subject);
                Ok(paths)
            }
        }
    }

    /// opencode's `patterns`, if it tells nothing else, count from the root of the repository, which is
    /// the project or a directory above it.
    fn counted_from_above(&self, paths: Vec<&'a str>) -> Vec<Cow<'a, str>> {
        let input = self.question.input.as_object();
        let only = input.is_some_and(|it| it.len() == 1 && it.contains_key("patterns"));
        let above = self.directory.ancestors().skip(1).filter_map(Path::to_str);
        let joined: Vec<Cow<'_, str>> = above
            .filter(|_| only && !self.is_search())
            .flat_map(|dir| paths.iter().map(move |path| format!("{dir}/{path}").into()))
            .collect();
        paths.into_iter().map(Cow::Borrowed).chain(joined).collect()
    }

    /// A search reads the directory that it is told to search, or the project; a pattern for file
    /// names may begin with another one.
    fn searched(&self, mut paths: Vec<&'a str>) -> Result<Vec<&'a str>, &'static str> {
        paths.retain(|path| !path.is_empty());
        let Question { tool, subject, input, .. } = self.question;
        if tool.eq_ignore_ascii_case("glob") {
            let pattern = input["pattern"].as_str().unwrap_or(subject);
            if pattern.contains("..")
                || ["{/", "{~", ",/", ",~"].iter().any(|it| pattern.contains(it))
            {
                return Err("its pattern may begin at several places");
            }
            if pattern.starts_with(['/', '~']) {
                let head = pattern.find(['*', '?', '[', '{']).unwrap_or(pattern.len());
                let end = pattern[..head].rfind('/').map_or(0, |at| at + 1);
                paths.push(&pattern[..if head == pattern.len() { head } else { end }]);
            }
        } else if !subject.is_empty() && !paths.contains(&subject.as_str()) {
            paths.push(subject);
        }
        if paths.is_empty() {
            if self.is_told() && subject.is_empty() && !self.has_search_key() {
                return Err("where it searches is not known");
            }
            paths.push(".");
        }
        Ok(paths)
    }

    /// What is fetched, by what the tool gets: only tools that are known to do nothing else search.
    fn fetched(&self) -> Facts<'a> {
        let Question { tool, subject, input, .. } = self.question;
        let (mut named, mut texts) = (Vec::new(), Vec::new());
        let is_whole = addresses("", input, 0, &mut named, &mut texts).is_some();
        if engines::describe(self.engine).search_tools.contains(&tool.as_str()) && named.is_empty()
        {
            let words = texts.into_iter().chain([subject.as_str()]).flat_map(Url::all_in);
            return Facts::Query(words.filter_map(|it| Url::read(it).ok()).collect());
        }
        if named.is_empty() && (subject.is_empty() || !subject.contains("://")) {
            named.extend(texts.into_iter().flat_map(Url::all_in));
        }
        if !subject.is_empty() && !named.contains(&subject.as_str()) {
            named.push(subject);
        }
        if !is_whole || named.is_empty() {
            return Facts::Urls(Err("which address it is can't be told"));
        }
        Facts::Urls(named.into_iter().map(Url::read).collect())
    }

    /// The engine says what its tool gets.
    fn is_told(&self) -> bool {
        self.question.input.as_object().is_some_and(|input| !input.is_empty())
    }

    /// It reads what is in a directory, and not one file.
    fn is_search(&self) -> bool {
        let Question { kind, tool, .. } = self.question;
        let is_named = SEARCHES.iter().any(|name| tool.eq_ignore_ascii_case(name));
        *kind == ActionKind::Read && (is_named || self.has_search_key())
    }

    fn has_search_key(&self) -> bool {
        SEARCH_KEYS.iter().any(|key| !self.question.input[key].is_null())
    }
}

/// What of an action the rules are about.
#[derive(Debug)]
pub(super) enum Facts<'a> {
    Command {
        scan: Box<Scan>,
        bases: Bases<'a>,
        elsewhere: Option<&'static str>,
    },
    Places {
        /// None is empty; or why they can't be told.
        spots: Result<Vec<Spot>, &'static str>,
        /// All that is in these places is read.
        is_search: bool,
        bases: Bases<'a>,
    },
    /// What is fetched; or why that can't be told.
    Urls(Result<Vec<Url>, &'static str>),
    /// A search of the web, and the addresses that are in the query.
    Query(Vec<Url>),
    Names(McpReadings),
}

impl<'a> Facts<'a> {
    pub(super) fn of(action: &Action<'a>) -> Facts<'a> {
        let Question { kind, tool, subject, .. } = action.question;
        match kind {
            ActionKind::Run => {
                let home = action.home.to_string_lossy();
                let scan = Box::new(Scan::of(subject, action.shell, &home));
                Facts::Command { scan, bases: action.bases(), elsewhere: action.elsewhere() }
            }
            ActionKind::Read | ActionKind::Edit => {
                let bases = action.bases();
                let spots = action.paths().and_then(|paths| {
                    let paths = action.counted_from_above(paths);
                    let each = paths.iter().map(|path| bases.spots(path));
                    Ok(each.collect::<Result<Vec<_>, _>>()?.concat())
                });
                Facts::Places { spots, is_search: action.is_search(), bases }
            }
            ActionKind::Fetch => action.fetched(),
            ActionKind::Mcp => {
                Facts::Names((engines::describe(action.engine).mcp_names.read)(tool))
            }
            ActionKind::Other => {
                Facts::Names(McpReadings { names: vec![tool.clone()], is_any: false })
            }
        }
    }
}

impl Facts<'_> {
    /// Why it can't be told what is read or changed, which no rule may allow then: it may be anything.
    pub(super) fn unknown(&self) -> Option<&'static str> {
        match self {
            Facts::Places { spots, .. } => match spots {
                Ok(spots) => {
                    let is_unclear = spots.iter().any(|spot| spot.real.is_none());
                    is_unclear.then_some("where its links lead is not known")
                }
                Err(why) => Some(*why),
            },
            Facts::Urls(Ok(urls)) => urls.iter().find_map(|url| url.oddity),
            Facts::Urls(Err(why)) => Some(*why),
            _ => None,
        }
    }
}

/// Collects from a tool's input the texts that are addresses by their names, and the others. None if
/// there are too many.
fn addresses<'v>(
    key: &str,
    value: &'v Value,
    depth: usize,
    named: &mut Vec<&'v str>,
    texts: &mut Vec<&'v str>,
) -> Option<()> {
    if depth > 4 || named.len() + texts.len() > PATHS_MAX {
        return None;
    }
    match value {
        Value::String(text) => {
            let key = key.to_lowercase();
            let is_named =
                ["url", "uri", "href", "link", "address"].iter().any(|it| key.contains(it));
            if is_named { named } else { texts }.push(text);
            Some(())
        }
        Value::Array(items) => {
            items.iter().try_for_each(|item| addresses(key, item, depth + 1, named, texts))
        }
        Value::Object(fields) => {
            fields.iter().try_for_each(|(key, it)| addresses(key, it, depth + 1, named, texts))
        }
        _ => Some(()),
    }
}

/// Collects the paths in a tool's input. None if there are too many.
fn collect<'v>(
    value: &'v Value,
    is_search: bool,
    depth: usize,
    paths: &mut Vec<&'v str>,
) -> Option<()> {
    if depth > 3 || paths.len() > PATHS_MAX {
        return None;
    }
    let Some(object) = value.as_object() else { return Some(()) };
    let path = PATH_KEYS.iter().filter_map(|key| object.get(*key)?.as_str());
    paths.extend(path.filter(|path| !path.is_empty()));
    for key in LIST_KEYS {
        // Of a search these are what it looks for.
        if is_search && key == "patterns" {
            continue;
        }
        for item in object.get(key).and_then(Value::as_array).into_iter().flatten() {
            match item {
                Value::String(path) => paths.push(path),
                item => collect(item, is_search, depth + 1, paths)?,
            }
            if paths.len() > PATHS_MAX {
                return None;
            }
        }
    }
    // Codex: what kind of change it is, which may be a move.
    object.get("kind").map_or(Some(()), |kind| collect(kind, is_search, depth + 1, paths))
}
