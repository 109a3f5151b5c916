//! The repository keeps its own rules: what the README promises, which way dependencies go, how
//! files begin and how long they are.

use std::{
    collections::{BTreeMap, BTreeSet},
    env::vars_os,
    fs,
    iter::Peekable,
    path::{Path, PathBuf},
    str::Chars,
};

use obto_bridge::proc::Plan;

use crate::util::bin::{self, Home};

/// Longer files are hard to read at a sitting.
const LINES_MAX: usize = 600;

/// Crates that are kept out, or that would bring such in: an async runtime, C that has to be
/// installed, and what costs more than it gives here.
const BANNED: [&str; 9] = [
    "async-std",
    "chrono",
    "clap",
    "native-tls",
    "openssl",
    "openssl-sys",
    "regex",
    "tokio",
    "tracing",
];

/// A module of the crate and those that it may use. Above is what knows more; nothing below a line
/// knows anything above it, but for the wire types that the store keeps and the coordinator reads.
const MAY_USE: [(&str, &[&str]); 20] = [
    ("main", &["cli"]),
    // The only place that knows both the daemon and the server.
    (
        "cli",
        &[
            "agent",
            "bridge",
            "config",
            "daemon",
            "ids",
            "logging",
            "permission",
            "serve",
            "signals",
            "store",
            "task",
            "time",
            "visible",
        ],
    ),
    (
        "daemon",
        &[
            "agent",
            "bridge",
            "config",
            "coordinator",
            "ids",
            "logging",
            "permission",
            "proc",
            "signals",
            "store",
            "task",
            "time",
            "worker",
        ],
    ),
    (
        "worker",
        &[
            "agent",
            "bridge",
            "config",
            "coordinator",
            "ids",
            "logging",
            "permission",
            "proc",
            "prompt",
            "store",
            "task",
            "time",
        ],
    ),
    // Not the daemon: the two talk over HTTP.
    ("serve", &["ascii", "ids", "task", "time", "visible"]),
    ("coordinator", &["agent", "bridge", "ids", "permission", "store", "time"]),
    // Not the bridge: an engine knows nothing of where its messages come from.
    ("agent", &["ascii", "config", "ids", "proc", "prompt", "task", "time", "visible"]),
    ("permission", &["agent", "bridge", "config", "ids", "time", "visible"]),
    ("prompt", &["ids", "time", "visible"]),
    ("bridge", &["ascii", "config", "ids", "store", "task", "time"]),
    ("store", &["bridge", "ids", "task", "time"]),
    ("logging", &["config", "time", "visible"]),
    ("signals", &["task"]),
    ("proc", &["task"]),
    ("config", &["ids"]),
    ("task", &[]),
    ("time", &["ascii"]),
    ("ids", &["ascii"]),
    ("ascii", &[]),
    ("visible", &[]),
];

/// Words that ARCHITECTURE.md keeps out of names, and where one of them is the name of another thing.
const OTHER_THINGS: [(&str, &str); 6] = [
    // `question` on the wire, as its fields: the server and the page know nothing of prompts.
    ("card", "src/bridge/wire.rs"),
    ("card", "src/permission/approval_prompt/"),
    ("card", "src/serve/"),
    // The end of a request or of a call, and no message's.
    ("settle", "src/agent/acp/"),
    ("settle", "src/agent/turn.rs"),
    ("settle", "src/bridge/outbox/"),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The Rust files below `dir`, by their names from the root.
fn sources(dir: &str) -> Vec<(String, String)> {
    let mut dirs = vec![PathBuf::from(dir)];
    let mut files = Vec::new();
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(root().join(&dir)).unwrap() {
            let path = dir.join(entry.unwrap().file_name());
            if root().join(&path).is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.to_str().unwrap().to_owned();
                files.push((name.clone(), read(&name)));
            }
        }
    }
    files
}

/// The string literals of a source, as they are written.
fn literals(source: &str) -> Vec<&str> {
    source.split('"').skip(1).step_by(2).collect()
}

fn is_test(name: &str) -> bool {
    name.ends_with("tests.rs") || name.contains("/tests/")
}

/// A source without its comments and without the tests at its end.
fn code(source: &str) -> String {
    let code = source.split("#[cfg(test)]\nmod tests {").next().unwrap();
    // A `//` without a space in front may be in an address.
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.map(|line| line.split(" //").next().unwrap()).collect::<Vec<_>>().join("\n")
}

/// The modules that `code` names after `crate::`, alone or in braces.
fn uses(code: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
    let name = |text: &str| text.split(|c| !is_name(c)).next().unwrap().to_owned();
    let mut uses = BTreeSet::new();
    for (at, found) in code.match_indices("crate::") {
        let rest = &code[at + found.len()..];
        let Some(list) = rest.strip_prefix('{') else {
            uses.insert(name(rest));
            continue;
        };
        let (mut depth, mut begins) = (1, true);
        for (at, c) in list.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => begins = true,
                c if depth == 1 && begins && !c.is_whitespace() => {
                    uses.insert(name(&list[at..]));
                    begins = false;
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    uses.remove("");
    uses
}

#[test]
fn uses_are_found() {
    let code = "use crate::{a::b, c::{d, e},\n    f};\nlet x = crate::g::h(); use crate::logging;";
    assert_eq!(uses(code).into_iter().collect::<Vec<_>>(), ["a", "c", "f", "g", "logging"]);
}

#[test]
fn dependencies_go_one_way() {
    let allowed: BTreeMap<_, _> = MAY_USE.into_iter().collect();
    for (name, source) in sources("src") {
        if name == "src/lib.rs" || is_test(&name) {
            continue;
        }
        let module = name["src/".len()..].split(['/', '.']).next().unwrap();
        let allowed = allowed.get(module).unwrap_or_else(|| panic!("{module} is in no row"));
        let source = code(&source).replace("obto_bridge::", "crate::");
        for used in uses(&source).iter().filter(|used| *used != module) {
            assert!(allowed.contains(&used.as_str()), "{name} must not use crate::{used}");
        }
    }
}

/// The cells of the rows of a Markdown table, from the line that begins with `head` on.
fn rows<'a>(text: &'a str, head: &str) -> Vec<Vec<&'a str>> {
    let table = text.split_once(head).unwrap_or_else(|| panic!("no table {head}")).1;
    let lines = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    lines.map(|line| line.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

/// The modules of each line of the picture in ARCHITECTURE.md, from above.
fn layers(architecture: &str) -> Vec<Vec<&str>> {
    let picture = architecture.split_once("Direction of dependencies").unwrap().1;
    let picture = picture.split("```").nth(1).unwrap().trim();
    let is_name = |word: &&str| word.chars().all(|c| c.is_ascii_lowercase());
    picture.lines().map(|line| line.split_whitespace().filter(is_name).collect()).collect()
}

#[test]
fn the_picture_of_dependencies_agrees_with_the_table() {
    let architecture = read("ARCHITECTURE.md");
    let layers = layers(&architecture);
    let layer = |module: &str| {
        let at = layers.iter().position(|layer| layer.contains(&module));
        at.unwrap_or_else(|| panic!("{module} is missing in the picture"))
    };
    for (module, used) in MAY_USE {
        for used in used {
            let is_pair = [module, used].iter().all(|it| ["bridge", "store"].contains(it));
            assert!(is_pair || layer(module) < layer(used), "{module} is not above {used}");
        }
    }
}

/// The words of the names in a source, in lower case: `ClaimOutcome` and `claim_outcome` are two.
fn words(code: &str) -> BTreeSet<String> {
    let code = code.replace("\\\"", "").replace("'\"'", "");
    let mut words = BTreeSet::new();
    for part in code.split('"').step_by(2) {
        for name in part.split(|c: char| !c.is_ascii_alphanumeric()) {
            let mut rest = name;
            while !rest.is_empty() {
                let is_start = |(at, c): (usize, char)| 0 < at && c.is_ascii_uppercase();
                let capitals = rest.len() > 1 && rest.chars().all(|c| !c.is_ascii_lowercase());
                let end = rest.char_indices().find(|it| !capitals && is_start(*it));
                let (word, next) = rest.split_at(end.map_or(rest.len(), |(at, _)| at));
                words.insert(word.to_ascii_lowercase());
                rest = next;
            }
        }
    }
    words
}

#[test]
fn words_of_names_are_found() {
    let code = "let claim_outcome = CLAIMS_MAX + ClaimOutcome::of(\"a \\\"desk\\\"\", '\"');";
    let expected = ["claim", "claims", "let", "max", "of", "outcome"];
    assert_eq!(words(code).into_iter().collect::<Vec<_>>(), expected);
}

/// One word for one thing: the last column of the table of words has those that are not used.
#[test]
fn names_use_the_words_of_the_table() {
    let architecture = read("ARCHITECTURE.md");
    let rows = rows(&architecture, "| word | means |");
    let banned = rows.iter().flat_map(|row| row.last().unwrap().split(", "));
    let banned: BTreeSet<&str> = banned.filter(|word| !word.is_empty()).collect();
    assert!(5 < banned.len() && banned.contains("desk"), "the table was found: {banned:?}");
    for (file, source) in sources("src") {
        if is_test(&file) {
            continue;
        }
        let names = words(&format!("{} {file}", code(&source)));
        for word in &banned {
            let forms = [(*word).to_owned(), format!("{word}s"), format!("{word}d")];
            let is_other = |(other, dir): &(&str, &str)| other == word && file.starts_with(dir);
            let is_free = OTHER_THINGS.iter().any(is_other);
            let used = forms.iter().find(|form| names.contains(*form));
            assert!(
                is_free || used.is_none(),
                "{file} has a name with {used:?}; see ARCHITECTURE.md"
            );
        }
    }
}

/// Modules whose files do not import each other in a circle.
const WITHOUT_CIRCLES: [&str; 8] =
    ["agent", "bridge", "coordinator", "daemon", "permission", "serve", "store", "worker"];

/// The paths that a file of the module `module` names after `crate`, `self` or `super`, from the
/// root of the crate on.
fn paths(code: &str, module: &[&str]) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    let parent = &module[..module.len() - 1];
    for (word, from) in [("crate::", &[][..]), ("self::", module), ("super::", parent)] {
        for (at, found) in code.match_indices(word) {
            let is_part = code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
            if !is_part {
                let from: Vec<String> = from.iter().map(|&name| name.to_owned()).collect();
                read_tree(&mut code[at + found.len()..].chars().peekable(), from, &mut paths);
            }
        }
    }
    paths
}

/// Reads what follows a `::`, a name or a list in braces.
fn read_tree(code: &mut Peekable<Chars<'_>>, mut path: Vec<String>, paths: &mut Vec<Vec<String>>) {
    loop {
        while code.next_if(|c| c.is_whitespace()).is_some() {}
        if code.next_if_eq(&'{').is_some() {
            loop {
                while code.next_if(|c| c.is_whitespace() || *c == ',').is_some() {}
                if code.next_if_eq(&'}').is_some() || code.peek().is_none() {
                    return;
                }
                read_tree(code, path.clone(), paths);
            }
        }
        let mut name = String::new();
        while let Some(c) = code.next_if(|c| c.is_alphanumeric() || *c == '_' || *c == '*') {
            name.push(c);
        }
        path.push(name);
        if code.next_if_eq(&':').is_none() {
            // What it is called here does not matter.
            while code.next_if(|c| !matches!(c, ',' | '}' | ';')).is_some() {}
            return paths.push(path);
        }
        code.next();
    }
}

#[test]
fn paths_are_read() {
    let code = "use crate::{\n    a::{self, b::c},\n    d as e,\n};\nself::f::g(); super::h;";
    let read: Vec<String> = paths(code, &["m", "n"]).iter().map(|path| path.join("/")).collect();
    assert_eq!(read, ["a/self", "a/b/c", "d", "m/n/f/g", "m/h"]);
}

/// A module's root, `mod.rs`, is free to its files: they are parts of what it declares.
#[test]
fn files_do_not_import_each_other_in_a_circle() {
    let module = |name: &str| {
        let name = name.trim_start_matches("src/").trim_end_matches(".rs");
        name.trim_end_matches("/mod").split('/').map(str::to_owned).collect::<Vec<_>>()
    };
    for dir in WITHOUT_CIRCLES {
        let files: BTreeMap<Vec<String>, String> = sources(&format!("src/{dir}"))
            .into_iter()
            .filter(|(name, _)| !is_test(name))
            .map(|(name, source)| (module(&name), code(&source)))
            .collect();
        let names: BTreeSet<_> = files.keys().cloned().collect();
        assert!(5 < names.len(), "{dir} was found");
        let mut graph: BTreeMap<Vec<String>, BTreeSet<Vec<String>>> = BTreeMap::new();
        for (name, source) in files {
            let parts: Vec<&str> = name.iter().map(String::as_str).collect();
            // A root names its files without `self`.
            let source = source.replace("\nuse ", "\nuse self::").replace("self::crate", "crate");
            let paths = paths(&source, &parts).into_iter();
            let used = paths.filter_map(|path| {
                (1..=path.len()).rev().map(|end| path[..end].to_vec()).find(|it| names.contains(it))
            });
            graph.insert(name.clone(), used.filter(|used| !name.starts_with(used)).collect());
        }
        // What uses nothing that is left goes; a circle stays.
        while let Some((leaf, _)) = graph.iter().find(|(_, used)| used.is_empty()) {
            let leaf = leaf.clone();
            graph.remove(&leaf);
            for used in graph.values_mut() {
                used.remove(&leaf);
            }
        }
        assert!(graph.is_empty(), "these are in a circle, or use one that is: {graph:#?}");
    }
}

#[test]
fn files_say_why_they_exist_and_are_short() {
    for dir in ["src", "tests"] {
        for (name, source) in sources(dir) {
            assert!(source.starts_with("//! "), "{name} does not open with //!");
            let lines = source.lines().count();
            assert!(lines <= LINES_MAX, "{name} has {lines} lines; split it");
        }
    }
}

#[test]
fn nothing_is_left_for_later() {
    for (name, source) in sources("src") {
        for word in ["todo!(", "unimplemented!(", "#[ignore", "FIXME", "STUB"] {
            assert!(!source.contains(word), "{name} has {word}");
        }
    }
}

/// Cargo.lock also has what no feature of ours turns on, so cargo itself is asked.
#[test]
fn banned_crates_stay_out() {
    let plan = Plan {
        program: env!("CARGO").into(),
        args: ["tree", "--locked", "--offline", "--edges=normal,build", "--prefix=none"]
            .map(Into::into)
            .into(),
        dir: root().to_owned(),
        env: vars_os().collect(),
    };
    let output = bin::run(&plan, b"");
    let tree = String::from_utf8(output.stdout).unwrap();
    let crates: BTreeSet<_> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(crates.contains("ureq"), "cargo tree did not work: {}", output.stderr);
    for banned in BANNED {
        assert!(!crates.contains(banned), "{banned} came in: cargo tree -i {banned}");
    }
}

/// The commands that `--help` lists.
fn commands() -> Vec<String> {
    let help = Home::new().run(&["--help"]).expect(0, &[]).stdout;
    let list = help.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let names = list.lines().filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    names.filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// The text of docs/commands.md about `command`.
fn command_section<'a>(page: &'a str, command: &str) -> &'a str {
    let section = page.split(&format!("## `obto-bridge {command}`")).nth(1).unwrap();
    section.split("\n## ").next().unwrap()
}

#[test]
fn the_docs_have_every_command_with_every_option() {
    let page = read("docs/commands.md");
    let headings = page.lines().filter_map(|line| line.strip_prefix("## `obto-bridge "));
    let mut described: BTreeSet<_> = headings.map(|rest| rest.trim_end_matches('`')).collect();
    // The page is that of the whole program.
    described.retain(|it| cfg!(feature = "serve") || !["local", "serve"].contains(it));
    let commands = commands();
    assert_eq!(described, commands.iter().map(String::as_str).collect());
    for command in &commands {
        let section = command_section(&page, command);
        let help = Home::new().run(&[command, "--help"]).expect(0, &[]).stdout;
        let options = help.split("Options:").nth(1).unwrap().split("\n\n").next().unwrap();
        let options = options.lines().filter_map(|line| line.strip_prefix("  "));
        let words = options.flat_map(|line| line.split("  ").next().unwrap().split([' ', ',']));
        for option in words.filter(|word| word.starts_with("--") && *word != "--help") {
            assert!(section.contains(&format!("`{option}")), "{command} {option} is missing");
        }
    }
}

#[test]
fn the_docs_have_every_exit_code_as_the_program_has_it() {
    let page = read("docs/exit-codes.md");
    let rows = rows(&page, "| code | meaning |");
    let rows: Vec<String> = rows.iter().map(|row| row.join("  ")).collect();
    let help = Home::new().run(&["help", "exit-codes"]).expect(0, &[]).stdout;
    let is_row = |line: &&str| line.starts_with(|c: char| c.is_ascii_digit());
    let listed: Vec<&str> = help.lines().map(str::trim).filter(is_row).collect();
    assert!(listed.len() > 10, "{help}");
    assert_eq!(listed, rows);
}

#[test]
fn the_docs_have_every_setting() {
    let page = read("docs/configuration.md");
    let source = code(&(read("src/config/mod.rs") + &read("src/config/network.rs")));
    let literals = literals(&source);
    let is_var = |text: &str| {
        let mut parts = text.split('_');
        text.contains('_')
            && parts.all(|part| !part.is_empty() && part.chars().all(|c| c.is_ascii_uppercase()))
    };
    let is_key = |text: &str| {
        text.chars().all(|c| c.is_ascii_alphanumeric())
            && text.starts_with(|c: char| c.is_ascii_lowercase())
    };
    let mut settings: BTreeSet<&str> = ["agents"].into();
    for (before, var) in literals.iter().zip(&literals[1..]) {
        if is_var(var) {
            settings.insert(var);
            settings.extend(is_key(before).then_some(before));
        }
    }
    assert!(settings.len() > 40, "the settings were found: {settings:?}");
    for setting in settings {
        assert!(
            page.contains(&format!("`{setting}`")),
            "{setting} is missing in docs/configuration.md"
        );
    }
}

/// The Markdown files that people read: README.md, those beside it, and the pages of docs.
fn pages() -> Vec<PathBuf> {
    let files = |dir: &str| {
        let entries = fs::read_dir(root().join(dir)).unwrap();
        let names = entries.map(|entry| Path::new(dir).join(entry.unwrap().file_name()));
        names.filter(|name| name.extension().is_some_and(|it| it == "md")).collect::<Vec<_>>()
    };
    [files(""), files("docs")].concat()
}

/// The anchors of a page's headings, as GitHub makes them.
fn anchors(page: &str) -> BTreeSet<String> {
    let mut fenced = false;
    let mut anchors = BTreeSet::new();
    for line in page.lines() {
        fenced ^= line.starts_with("```");
        if let Some(heading) = line.strip_prefix('#').filter(|_| !fenced) {
            let heading = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
            let is_kept = |c: &char| c.is_alphanumeric() || ['-', '_'].contains(c);
            anchors.insert(heading.chars().filter(is_kept).collect());
        }
    }
    anchors
}

#[test]
fn links_in_the_docs_lead_somewhere() {
    let mut seen = 0;
    for page in pages() {
        let name = page.display();
        let text = read(page.to_str().unwrap());
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") || link.contains(char::is_whitespace) {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target =
                if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            assert!(root().join(&target).exists(), "{name} links to {link}");
            let found = || anchors(&read(target.to_str().unwrap())).contains(anchor);
            assert!(
                anchor.is_empty() || found(),
                "{name} links to {link}, which has no such heading"
            );
            seen += 1;
        }
    }
    assert!(seen > 30, "{seen} links were found");
}
