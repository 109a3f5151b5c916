//! Random lines out of what shells find special: whatever a pattern allows is put to a real shell,
//! which must run what the pattern says and nothing else.

use std::time::Duration;

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

/// What a shell says about a line in which only `git` and `rm` exist: `git` with a first argument
/// that begins with `status` is fine.
const JUDGE: &str = r#"
git() { case "$1" in status*) ;; *) echo "ran git $1" ;; esac; }
rm() { echo "ran rm"; }
command_not_found_handle() { echo "ran $1"; }
set -f
PATH=/nowhere
"#;

fn line() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(PIECES), 0..12)
        .prop_map(|pieces| format!("git status{}", pieces.concat()))
}

/// Shells to ask, and what of them is installed.
fn shells() -> Vec<&'static str> {
    ["/bin/bash", "/bin/dash"].into_iter().filter(|shell| Path::new(shell).exists()).collect()
}

fn ran(shell: &str, line: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let plan = Plan {
        program: shell.into(),
        args: vec!["-c".into(), format!("{JUDGE}\n{line}").into()],
        dir: dir.path().to_owned(),
        env: Vec::new(),
    };
    let output = proc::run(&plan, None, Duration::from_secs(30), 1 << 16).unwrap();
    let files = std::fs::read_dir(dir.path()).unwrap().count();
    let wrote = if files > 0 { "ran >" } else { "" };
    String::from_utf8_lossy(&output.stdout).into_owned() + &output.stderr + wrote
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 600, failure_persistence: None, ..ProptestConfig::default()
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
            if let Some(grant) = always(&action) {
                let again = policy.decide(&action, &[grant]).ruling;
                prop_assert!(again == Ruling::Allow || decision.rule.is_some());
            }
        }
    }
}
