//! Random lines out of what shells find special: whatever a pattern allows is put to a real shell,
//! which must run what the pattern says and nothing else.

use std::{fs, time::Duration};

use proptest::prelude::*;

use super::*;
use crate::proc::{self, Plan};

/// Pieces of lines, most of them hostile.
const PIECES: &[&str] = &[
    "git status",
    "git status",
    "git status",
    "git",
    "status",
    " ",
    " ",
    "\t",
    "\n",
    ";",
    "&&",
    "||",
    "|",
    "&",
    "'",
    "'",
    "\"",
    "\"",
    "\\",
    "`",
    "$(",
    ")",
    "(",
    "${",
    "}",
    "{",
    "$x",
    "<",
    ">",
    ">>",
    "2>&1",
    ">/dev/null",
    "#",
    "!",
    "*",
    "?",
    "[",
    "]",
    "~",
    "=",
    "A=1",
    "-s",
    "rm x",
    "rm",
    "x",
    ",",
    "\r",
    "\u{a0}",
    "é",
    "\\\n",
    "$'",
    "<<x",
    "1",
];

/// Whole attempts, which random pieces make up too rarely; around them come more pieces.
const ATTACKS: &[&str] = &[
    ";rm x",
    "&&rm x",
    "||rm x",
    "|rm x",
    "& rm x",
    "\nrm x",
    "$(rm x)",
    "`rm x`",
    "(rm x)",
    "{ rm x; }",
    ">x",
    "<(rm x)",
    "'rm x'",
    "\"rm x\"",
    "eval rm x",
    ";eval 'rm x'",
    ";r\\m x",
    ";r'm' x",
    ";$y rm x",
    "\nA=1 rm x",
    ";command rm x",
    "\\\nrm x",
    "#\nrm x",
    "#'\nrm x",
    "${y:-$(rm x)}",
    ";for i in 1;do rm x;done",
    "<<x\n'\nx\nrm x",
    "$((1+$(rm x)))",
    ";if rm x;then x;fi",
    ";!\trm x",
    "$'\\''; rm x #'",
    "'\\'';rm x;'",
];

/// What a shell says about a line in which only `git` and `rm` exist: `git` with a first argument
/// that begins with `status` is fine.
const JUDGE: &str = r#"
git() { case "$1" in status*) ;; *) echo "ran git $1" ;; esac; return $CODE; }
rm() { echo "ran rm"; }
command_not_found_handle() { echo "ran $1"; }
set -f
PATH=/nowhere
"#;

fn line() -> impl Strategy<Value = String> {
    let piece = prop_oneof![3 => prop::sample::select(PIECES), 1 => prop::sample::select(ATTACKS)];
    prop::collection::vec(piece, 0..9).prop_map(|pieces| format!("git status{}", pieces.concat()))
}

/// Shells to ask, and what of them is installed.
fn shells() -> Vec<&'static str> {
    ["/bin/bash", "/bin/dash"].into_iter().filter(|shell| Path::new(shell).exists()).collect()
}

/// What a line ran besides, whether its commands fail or not.
fn ran(shell: &str, line: &str) -> String {
    let mut all = String::new();
    for code in 0..2 {
        let dir = tempfile::tempdir().unwrap();
        let plan = Plan {
            program: shell.into(),
            args: vec!["-c".into(), format!("CODE={code}{JUDGE}\n{line}").into()],
            dir: dir.path().to_owned(),
            env: Vec::new(),
        };
        let output = proc::run(&plan, Duration::from_secs(30), 1 << 16).unwrap();
        all += &String::from_utf8_lossy(&output.stdout);
        all += &output.stderr;
        if fs::read_dir(dir.path()).unwrap().next().is_some() {
            all += "ran >";
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1000, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn what_a_pattern_allows_runs_nothing_else(line in line()) {
        let policy = policy(&["run(git status*)"], &[], &[]);
        let decision = policy.decide(&action(&run(&line), &Disk::default()), &[]);
        if decision.ruling == Ruling::Allow {
            for shell in shells() {
                let output = ran(shell, &line);
                let other = output.contains("ran ") || output.contains("not found");
                prop_assert!(!other, "{shell} on {line:?}: {output}");
            }
        }
    }

    /// Here every line is allowed, but for what a rule denies.
    #[test]
    fn what_a_rule_denies_does_not_run(line in line()) {
        let policy = policy(&["run"], &[], &["run(rm*)"]);
        let decision = policy.decide(&action(&run(&line), &Disk::default()), &[]);
        if decision.ruling == Ruling::Allow {
            for shell in shells() {
                let output = ran(shell, &line);
                prop_assert!(!output.contains("ran rm"), "{shell} on {line:?}: {output}");
            }
        }
    }

    #[test]
    fn nothing_panics_and_a_grant_is_exact(line in any::<String>(), path in any::<String>()) {
        let policy = policy(&["edit(src/**)"], &["run(a*)"], &["run(b*)", "edit(x)", "fetch(https://x/*)"]);
        let disk = Disk::default();
        for kind in [ActionKind::Run, ActionKind::Edit, ActionKind::Fetch, ActionKind::Mcp] {
            let question = question(kind, &path, &line, json!({ "command": line, "path": path }));
            let action = action(&question, &disk);
            let decision = policy.decide(&action, &[]);
            if let Some(grant) = Policy::default().always(&action) {
                let again = policy.decide(&action, &[grant]).ruling;
                prop_assert!(again == Ruling::Allow || decision.rule.is_some());
            }
        }
    }
}
