//! Real shells on an empty stage: all programs that they find note that they were run, with which
//! words, and do nothing; only those that run others are real.

use std::{
    ffi::OsString,
    fmt::Write as _,
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    time::Duration,
};

use obto_bridge::{
    agent::shell::Shell,
    proc::{self, Plan},
};

/// Programs that note what they are told.
const STAND_INS: &[&str] = &["git", "rm", "ls", "x", "push", "status", "a"];
/// Programs that run others, and what they need. All of them are harmless with what the lines have.
const REAL: &[&str] = &[
    "bash", "cat", "dash", "env", "find", "ksh", "mksh", "nice", "nohup", "setsid", "sh",
    "timeout", "xargs", "zsh",
];
/// Shells, how they are told a line without files of their own, and how they read it.
const SHELLS: &[(&str, &[&str], Shell)] = &[
    ("bash", &["-c"], Shell::Bourne),
    ("dash", &["-c"], Shell::Bourne),
    ("zsh", &["-f", "-c"], Shell::Bourne),
    ("ksh", &["-c"], Shell::Bourne),
    ("mksh", &["-c"], Shell::Bourne),
    ("fish", &["--no-config", "-c"], Shell::Other),
    ("tcsh", &["-f", "-c"], Shell::Other),
];
/// Where programs are.
const DIRS: &[&str] = &["/bin", "/usr/bin", "/usr/local/bin"];
/// Between the words of a command in the log, behind it, and before those of the next line.
const WORD: char = '\u{1f}';
const COMMAND: char = '\u{1d}';
const LINE: &str = "\u{1e}";

#[derive(Debug)]
pub(super) struct Program {
    pub(super) name: &'static str,
    path: PathBuf,
    args: &'static [&'static str],
    shell: Shell,
}

/// What a line has run.
#[derive(Debug, Default)]
pub(super) struct Ran {
    pub(super) commands: Vec<Vec<String>>,
    pub(super) has_written: bool,
}

pub(super) struct Stage {
    dir: tempfile::TempDir,
    programs: Vec<Program>,
}

fn find(name: &str) -> Option<PathBuf> {
    DIRS.iter().map(|dir| Path::new(dir).join(name)).find(|path| path.exists())
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

impl Stage {
    pub(super) fn new() -> Stage {
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().join("bin");
        for name in ["bin", "home"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let log = dir.path().join("log");
        for name in STAND_INS {
            let note = format!(
                "#!/bin/sh\nl={name}\nfor a do l=\"$l{WORD}$a\"; done\nprintf '%s{COMMAND}' \"$l\" >>{}\n",
                log.display()
            );
            let path = bin.join(name);
            #[expect(clippy::disallowed_methods, reason = "a script on a disk of the test's own")]
            fs::write(&path, note).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        for (name, path) in REAL.iter().filter_map(|name| Some((name, find(name)?))) {
            symlink(path, bin.join(name)).unwrap();
        }
        let installed = |(name, args, shell): &(&'static str, &'static [&str], Shell)| {
            Some(Program { name, path: find(name)?, args, shell: *shell })
        };
        Stage { programs: SHELLS.iter().filter_map(installed).collect(), dir }
    }

    pub(super) fn shells(&self, shell: Shell) -> impl Iterator<Item = &Program> {
        self.programs.iter().filter(move |it| it.shell == shell)
    }

    pub(super) fn names(&self) -> String {
        self.programs.iter().map(|it| it.name).collect::<Vec<_>>().join(", ")
    }

    /// Has a shell run each line in a directory of its own.
    pub(super) fn run(&self, program: &Program, lines: &[&str]) -> Vec<Ran> {
        let at = |name: &str| self.dir.path().join(name);
        let log = at("log");
        let work = at("work");
        fs::create_dir(&work).unwrap();
        let words = [&[program.path.to_str().unwrap()], program.args].concat();
        let words = words.iter().map(|it| quoted(it)).collect::<Vec<_>>().join(" ");
        // What a line leaves in the background still holds the pipe, so it is waited for.
        let mut script = format!(
            "ulimit -t 10\nrun() {{ printf '{LINE}' >>{log}; timeout -k 1 5 {words} \"$1\" </dev/null 2>&1 | cat >/dev/null; }}\n",
            log = log.display()
        );
        for (index, line) in lines.iter().enumerate() {
            let dir = work.join(index.to_string());
            fs::create_dir(&dir).unwrap();
            writeln!(script, "cd {}\nrun {}", dir.display(), quoted(line)).unwrap();
        }
        #[expect(clippy::disallowed_methods, reason = "a log on a disk of the test's own")]
        fs::write(&log, "").unwrap();
        let variable = |name: &str, value: OsString| (OsString::from(name), value);
        let plan = Plan {
            program: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            dir: work.clone(),
            env: vec![
                variable("PATH", at("bin").into()),
                variable("HOME", at("home").into()),
                variable("LANG", "C.UTF-8".into()),
            ],
        };
        proc::run(&plan, Duration::from_mins(5), 1 << 16).unwrap();
        let noted = String::from_utf8_lossy(&fs::read(&log).unwrap()).into_owned();
        let noted: Vec<&str> = noted.split(LINE).skip(1).collect();
        assert_eq!(noted.len(), lines.len(), "{} did not get to all lines", program.name);
        let ran = noted.iter().enumerate().map(|(index, noted)| Ran {
            commands: noted
                .split_terminator(COMMAND)
                .map(|line| line.split(WORD).map(str::to_owned).collect())
                .collect(),
            has_written: fs::read_dir(work.join(index.to_string()))
                .is_ok_and(|mut files| files.next().is_some()),
        });
        let ran = ran.collect();
        fs::remove_dir_all(&work).unwrap();
        ran
    }
}
