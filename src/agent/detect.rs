//! Which engines work here, and why the others do not. An engine is asked for its version once and
//! then remembered, because to start one only for that costs up to a second and 150 MB.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

#[cfg(doc)]
use crate::agent::description::Description;
use crate::{
    agent::{Exit, NOT_ON_PATH, launch::EngineDef},
    ids::Engine,
    proc,
    time::Timestamp,
};

/// The longest part of a program's output that is quoted.
const QUOTE_MAX: usize = 200;

/// Starts an engine's program with these arguments and waits for its end, both within the caller's
/// deadline: how it ended, and its standard output and error together. The error says why there is
/// no end.
pub type RunProgram<'a> =
    dyn FnMut(&EngineDef, &Path, &[&str]) -> Result<(Exit, String), String> + 'a;

/// Whether an engine works on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineStatus {
    pub engine: Engine,
    /// Where it was found.
    pub program: Option<PathBuf>,
    pub version: Option<String>,
    /// Why it can't be used and what to do about it.
    pub problem: Option<String>,
    /// What should be done although it can be used.
    pub note: Option<String>,
}

impl EngineStatus {
    pub fn is_usable(&self) -> bool {
        self.program.is_some() && self.problem.is_none()
    }
}

/// The versions of engines as they were when last asked. The owner keeps it in the state directory;
/// one that can't be read is as good as an empty one.
///
/// Problems are not remembered: most of them are cured by something other than a new program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cache(BTreeMap<Engine, CacheEntry>);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct CacheEntry {
    stamp: Stamp,
    version: String,
}

/// Tells one program from the next that is installed in its place. The path has its links resolved,
/// since some installers only point a link at another file; one that is not UTF-8 has no stamp, for
/// the cache is JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    path: String,
    modified: Timestamp,
    size: u64,
}

/// Looks for the engine's program (see `find_program`), and asks it for its version unless `cache`
/// has it from before. An agent of the config is not asked; see [`Description::package`].
pub fn detect(
    row: &EngineDef,
    path: &OsStr,
    cwd: &Path,
    cache: &mut Cache,
    run: &mut RunProgram<'_>,
) -> EngineStatus {
    let engine = &row.name;
    let mut status = look(row, path, cwd);
    let (Some(program), Some(package)) = (&status.program, &row.description.package) else {
        return status;
    };
    let stamp = stamp(program);
    let known = cache.0.get(engine).filter(|entry| Some(&entry.stamp) == stamp.as_ref());
    let version = match known {
        Some(entry) => Ok(entry.version.clone()),
        None => ask(row, program, run),
    };
    match version {
        Ok(version) => {
            if let Some(stamp) = stamp {
                cache.0.insert(engine.clone(), CacheEntry { stamp, version: version.clone() });
            }
            status.note = age_note(engine, &version, package.oldest_tried);
            status.version = Some(version);
        }
        Err(problem) => status.problem = Some(problem),
    }
    status
}

/// Whether the program of an engine is there, without starting it.
pub fn look(row: &EngineDef, path: &OsStr, cwd: &Path) -> EngineStatus {
    let name = row.program();
    let program = proc::find(Path::new(name), row.env.get("PATH").unwrap_or(path), cwd);
    let problem = program.is_none().then(|| {
        let place = if name.contains('/') { "is no program" } else { "is not on the PATH" };
        format!("`{name}` {place}. {}", row.how_to_install())
    });
    EngineStatus { engine: row.name.clone(), program, version: None, problem, note: None }
}

/// The version in what `--version` printed: `2.1.197 (Claude Code)`, `codex-cli 0.169.0`, `1.18.3`.
/// It is the first word that is two or more numbers with dots between, with a `v` before or a
/// pre-release after it or not.
pub fn version_of(output: &str) -> Option<String> {
    output.split_whitespace().find_map(|word| {
        let word = word.trim_matches(|char: char| !char.is_ascii_alphanumeric());
        let word = word.strip_prefix('v').unwrap_or(word);
        (numbers(word).len() >= 2).then(|| word.to_owned())
    })
}

fn age_note(engine: &Engine, version: &str, oldest: &str) -> Option<String> {
    (numbers(version) < numbers(oldest))
        .then(|| format!("{engine} {version} is older than {oldest}, the oldest that was tried."))
}

/// Asks `program` for its version; the error is the problem with it.
fn ask(row: &EngineDef, program: &Path, run: &mut RunProgram<'_>) -> Result<String, String> {
    let asked = format!("`{} --version`", program.display());
    let (exit, output) = run(row, program, &["--version"])
        .map_err(|error| format!("{asked} did not work: {error}"))?;
    let quote = match output.lines().map(str::trim).find(|line| !line.is_empty()) {
        Some(line) => format!(": {}", line.chars().take(QUOTE_MAX).collect::<String>()),
        None => " and printed nothing".to_owned(),
    };
    if exit == Exit::NOT_FOUND {
        return Err(format!("{asked} ended with {exit}{quote}. {NOT_ON_PATH}"));
    }
    if exit != Exit::Code(0) {
        return Err(format!("{asked} ended with {exit}{quote}"));
    }
    version_of(&output).ok_or_else(|| format!("{asked} told no version{quote}"))
}

/// The numbers before the first `-` or `+`; none if there is anything else.
fn numbers(version: &str) -> Vec<u64> {
    let release = version.split(['-', '+']).next().unwrap_or_default();
    let numbers: Result<Vec<u64>, _> = release.split('.').map(str::parse).collect();
    numbers.unwrap_or_default()
}

/// None if the program can't be looked at, or its path is not UTF-8; then it is asked every time.
fn stamp(program: &Path) -> Option<Stamp> {
    let path = fs::canonicalize(program).ok()?.into_os_string().into_string().ok()?;
    let meta = fs::metadata(&path).ok()?;
    let modified = Timestamp::from_system(meta.modified().ok()?);
    Some(Stamp { path, modified, size: meta.len() })
}

#[cfg(test)]
mod tests {
    use std::{
        env,
        ffi::OsString,
        fs::OpenOptions,
        io::Write,
        os::unix::{ffi::OsStrExt, fs::OpenOptionsExt},
    };

    use tempfile::TempDir;

    use super::*;
    use crate::{agent::engines, config::agents::Agent};

    /// A file in `dir`, made new.
    fn install(dir: &Path, name: &str, mode: u32, content: &str) -> PathBuf {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(mode);
        options.open(&path).unwrap().write_all(content.as_bytes()).unwrap();
        path
    }

    /// A machine with one directory on its `PATH`.
    struct Machine {
        dir: TempDir,
        path: OsString,
        cache: Cache,
        asked: usize,
    }

    impl Machine {
        fn new() -> Machine {
            let dir = TempDir::new().unwrap();
            Machine { path: dir.path().into(), dir, cache: Cache::default(), asked: 0 }
        }

        fn detect(&mut self, engine: Engine, answer: Result<(Exit, &str), &str>) -> EngineStatus {
            let asked = &mut self.asked;
            let mut run = |_: &EngineDef, _: &Path, args: &[&str]| {
                assert_eq!(args, ["--version"]);
                *asked += 1;
                answer.map(|(exit, text)| (exit, text.to_owned())).map_err(str::to_owned)
            };
            let dir = self.dir.path();
            let agent = Agent { command: vec![engine.to_string()], ..Agent::default() };
            let engines = engines::table([(engine.clone(), agent)].into(), dir);
            let row = &engines[&engine];
            detect(row, &self.path, dir, &mut self.cache, &mut run)
        }
    }

    #[track_caller]
    fn check_version(output: &str, expected: Option<&str>) {
        assert_eq!(version_of(output).as_deref(), expected, "{output:?}");
    }

    #[test]
    fn versions_are_found_in_what_engines_print() {
        check_version("2.1.197 (Claude Code)\n", Some("2.1.197"));
        check_version("codex-cli 0.169.0\n", Some("0.169.0"));
        check_version("1.18.3\n", Some("1.18.3"));
        check_version(
            "WARNING: proceeding\nagent version v0.9.1-beta.2, built today",
            Some("0.9.1-beta.2"),
        );
        check_version("gemini (1.2)", Some("1.2"));
        for none in [
            "",
            "codex-cli",
            "version 5",
            "1.x.2",
            "see https://example.org/1.2/",
            "-",
            "99999999999999999999.1",
        ] {
            check_version(none, None);
        }
    }

    #[test]
    fn programs_are_found_as_a_shell_would() {
        let dir = TempDir::new().unwrap();
        let root = dir.path();
        install(root, "first/codex", 0o644, "no program");
        fs::create_dir_all(root.join("second/codex")).unwrap();
        let codex = install(root, "third/codex", 0o755, "");
        install(root, "fourth/codex", 0o755, "");
        let path = env::join_paths(["first", "second", "third", "fourth"].map(|it| root.join(it)));
        let path = path.unwrap();
        let find = |name: &str| proc::find(Path::new(name), &path, root);
        assert_eq!(find("codex"), Some(codex.clone()));
        assert_eq!(find("third/codex"), Some(codex.clone()));
        assert_eq!(find(codex.to_str().unwrap()), Some(codex.clone()));
        for none in ["", "claude", "./codex", "first/codex", "/", "third/"] {
            assert_eq!(find(none), None, "{none:?}");
        }
        // A relative directory would be in the project, whose author could then choose the program.
        for relative in ["", "third", "./third", ":"] {
            let found = proc::find(Path::new("codex"), OsStr::new(relative), root);
            assert_eq!(found, None, "{relative:?}");
        }
    }

    #[test]
    fn a_program_is_asked_once_until_it_changes() {
        let mut machine = Machine::new();
        let program = install(machine.dir.path(), "codex", 0o755, "one");
        let first = machine.detect(Engine::CODEX, Ok((Exit::Code(0), "codex-cli 0.169.0\n")));
        assert_eq!(first.version.as_deref(), Some("0.169.0"));
        assert_eq!((first.is_usable(), &first.note), (true, &None));
        assert_eq!(first.program.as_ref(), Some(&program));
        // Also after a restart, which reads what was written.
        let written = serde_json::to_string(&machine.cache).unwrap();
        machine.cache = serde_json::from_str(&written).unwrap();
        assert_eq!(machine.detect(Engine::CODEX, Err("not to be asked")), first);
        assert_eq!(machine.asked, 1);
        install(machine.dir.path(), "codex", 0o755, "longer");
        let next = machine.detect(Engine::CODEX, Ok((Exit::Code(0), "codex-cli 0.170.0")));
        assert_eq!((next.version.as_deref(), machine.asked), (Some("0.170.0"), 2));
    }

    #[test]
    fn a_link_that_points_elsewhere_is_another_program() {
        let mut machine = Machine::new();
        let dir = machine.dir.path().to_owned();
        let link = dir.join("claude");
        for (version, output) in [("a", "2.1.197"), ("b", "2.1.198")] {
            let target = install(&dir, version, 0o755, "same");
            if link.is_symlink() {
                fs::remove_file(&link).unwrap();
            }
            std::os::unix::fs::symlink(target, &link).unwrap();
            let status = machine.detect(Engine::CLAUDE, Ok((Exit::Code(0), output)));
            assert_eq!(status.version.as_deref(), Some(output));
        }
    }

    #[test]
    fn a_directory_that_is_not_utf_8_works_but_is_not_remembered() {
        let mut machine = Machine::new();
        let dir = machine.dir.path().join(OsStr::from_bytes(b"caf\xe9"));
        install(&dir, "claude", 0o755, "");
        machine.path = dir.into();
        for asked in 1..=2 {
            let status = machine.detect(Engine::CLAUDE, Ok((Exit::Code(0), "2.1.197")));
            assert!(status.is_usable() && status.version.is_some(), "{status:?}");
            assert_eq!(machine.asked, asked);
        }
        assert_eq!(serde_json::to_value(&machine.cache).unwrap(), serde_json::json!({}));
    }

    #[track_caller]
    fn check_problem(answer: Result<(Exit, &str), &str>, expected: &str) {
        let mut machine = Machine::new();
        install(machine.dir.path(), "opencode", 0o755, "");
        for asked in 1..=2 {
            let status = machine.detect(Engine::OPENCODE, answer);
            let problem = status.problem.clone().unwrap_or_default();
            assert!(problem.contains(expected), "{problem:?} has no {expected:?}");
            assert!(!status.is_usable() && status.program.is_some());
            // What is broken now may be cured by the next start.
            assert_eq!(machine.asked, asked);
        }
    }

    #[test]
    fn a_program_that_does_not_work_is_told_in_words() {
        check_problem(
            Ok((Exit::Code(127), "\n env: node: No such file\nmore")),
            "/opencode --version` ended with exit code 127: env: node: No such file. A program that",
        );
        check_problem(Ok((Exit::Signal(6), "")), "ended with signal 6 and printed nothing");
        check_problem(Ok((Exit::Code(0), " \n")), "told no version and printed nothing");
        check_problem(Ok((Exit::Code(0), "hello")), "told no version: hello");
        check_problem(Err("no end within 10 s"), "did not work: no end within 10 s");
    }

    #[test]
    fn what_is_not_there_comes_with_advice() {
        let mut machine = Machine::new();
        for (engine, advice) in [
            (Engine::CLAUDE, "npm install -g @anthropic-ai/claude-code"),
            (Engine::CODEX, "npm install -g @openai/codex"),
            (Engine::OPENCODE, "npm install -g opencode-ai"),
            (Engine::new("gemini"), "Install `gemini`, or correct its command in the config file."),
            (Engine::new("./gemini"), "`./gemini` is no program."),
        ] {
            let status = machine.detect(engine, Err("not to be asked"));
            assert!(!status.is_usable());
            assert!(status.problem.as_ref().unwrap().contains(advice), "{status:?}");
        }
        assert_eq!(machine.asked, 0);
    }

    #[track_caller]
    fn check_note(engine: Engine, version: &str, old: bool) {
        let mut machine = Machine::new();
        install(machine.dir.path(), engine.as_str(), 0o755, "");
        let status = machine.detect(engine, Ok((Exit::Code(0), version)));
        assert!(status.is_usable());
        assert_eq!(status.note.is_some(), old, "{status:?}");
    }

    #[test]
    fn an_old_version_is_usable_but_noted() {
        check_note(Engine::CLAUDE, "2.1.141", false);
        check_note(Engine::CLAUDE, "2.1.9", true);
        check_note(Engine::CODEX, "0.130.0", false);
        check_note(Engine::CODEX, "0.99.0-alpha.1", true);
        check_note(Engine::CODEX, "1.0", false);
        check_note(Engine::OPENCODE, "1.4.2", true);
        check_note(Engine::new("gemini"), "0.0.1", false);
    }
}
