//! `policy test` on the config and the disk as they are.

use std::{fs, os::unix::fs::symlink};

use crate::util::bin::Home;

const CONFIG: &str = ".obto-bridge/config.json";

#[track_caller]
fn check(home: &Home, args: &[&str], first: &str, parts: &[&str]) {
    let ran = home.run(&[&["policy", "test"], args].concat()).expect(0, parts);
    assert_eq!(ran.stdout.split_whitespace().next(), Some(first), "{}", ran.stdout);
}

#[test]
fn without_a_config_the_defaults_count() {
    let home = Home::new();
    check(&home, &["claude", "read", "/etc/hosts"], "allow", &["the rule read"]);
    check(&home, &["codex", "run", "ls"], "ask", &["no rule"]);
    check(&home, &["opencode", "mcp", "bridge:bridge_post"], "allow", &["bridge_post"]);
    check(&home, &["claude", "other", "TodoWrite"], "allow", &["TodoWrite"]);
    check(&home, &["claude", "edit", "x"], "ask", &[]);
    check(&home, &["claude", "fetch", "https://docs.rs/"], "ask", &["no rule"]);
    check(&home, &["claude", "fetch", "rust", "--tool", "WebSearch"], "allow", &["fetch(search)"]);
}

#[test]
fn the_rule_and_the_reason_are_told() {
    let home = Home::new();
    home.put(
        CONFIG,
        r#"{"agents": {"gemini": {"command": ["gemini"]}}, "allowAll": true, "permissions": {
            "allow": ["run(git status *)", "edit(src/**)", "fetch(https://docs.rs/*)"],
            "ask": ["run(git status -v)"], "deny": ["run(git push *)"]}}"#,
    );
    fs::create_dir_all(home.path().join("p/src")).unwrap();
    symlink("/etc", home.path().join("p/src/out")).unwrap();
    let allowed = ["gemini", "run", "git status -s"];
    check(&home, &allowed, "allow", &["run(git status *)", "allowAll is set"]);
    check(&home, &["claude", "run", "git status -v"], "ask", &["run(git status -v)"]);
    let hidden = "git status; sudo git push";
    check(&home, &["codex", "run", hidden], "deny", &["run(git push *)"]);
    check(&home, &["codex", "run", "git $(x)"], "ask", &["run(git push *)", "not known"]);
    check(&home, &["claude", "run", "git status > x"], "ask", &["redirects"]);
    let project = "--project";
    check(&home, &["claude", "edit", "src/new/a.rs", project, "p"], "allow", &["edit(src/**)"]);
    check(&home, &["claude", "edit", "src/out/a.rs", project, "p"], "ask", &[]);
    check(&home, &["claude", "edit", "p/src/a.rs"], "ask", &[]);
    check(&home, &["claude", "fetch", "https://docs.rs/x"], "allow", &[]);
    check(&home, &["claude", "fetch", "https://docs.rs/x", "--tool", "WebSearch"], "ask", &[]);
}

/// What is one command to bash is several to csh.
#[test]
fn the_shell_of_the_agent_counts() {
    let home = Home::new();
    home.put(
        CONFIG,
        r#"{"agents": {"other": {"command": ["other"], "env": {"SHELL": "/bin/tcsh"}}},
            "permissions": {"allow": ["run(git status *)"]}}"#,
    );
    let line = r#"git status "a\" ; touch X ; echo "b\""#;
    check(&home, &["other", "run", line], "ask", &["shell"]);
    check(&home, &["other", "run", "git status -s"], "allow", &[]);
    let line = "git status 'a b'";
    check(&home, &["other", "run", line], "ask", &["shell"]);
    check(&home, &["claude", "run", line], "allow", &[]);
}

/// On the real `/proc`, and what was given is what is judged.
#[test]
fn ways_around_a_denial_are_asked() {
    let home = Home::new();
    home.put(
        CONFIG,
        r#"{"permissions": {"allow": ["read", "edit"], "deny": ["edit(.git/**)", "read(keys/*)"]}}"#,
    );
    fs::create_dir_all(home.path().join("p/keys")).unwrap();
    symlink("/proc/self/cwd", home.path().join("here")).unwrap();
    let pid = format!("/proc/{}/cwd/.git/config", std::process::id());
    for path in ["/proc/self/cwd/.git/config", "/dev/fd/3", "here/.git/config", &pid, ".GIT/x"] {
        check(&home, &["claude", "edit", path], "ask", &["edit"]);
    }
    check(&home, &["claude", "edit", ".git/config"], "deny", &["edit(.git/**)"]);
    let grep = |dir| ["claude", "read", dir, "--tool", "Grep", "--project", "p"];
    for above in [".", "./", "keys"] {
        check(&home, &grep(above), "ask", &["read(keys/*)"]);
    }
    check(&home, &grep("keys/x"), "deny", &["read(keys/*)"]);
    check(&home, &grep("src"), "allow", &[]);
}

/// Whatever the rules say, and by whatever name.
#[test]
fn the_files_of_the_bridge_are_denied() {
    let home = Home::new();
    home.put(
        CONFIG,
        r#"{"allowAll": true, "permissions": {"allow": ["read", "edit", "run", "mcp", "fetch"]}}"#,
    );
    fs::create_dir_all(home.path().join("p")).unwrap();
    symlink("../.obto-bridge", home.path().join("p/link")).unwrap();
    let own = home.path().join(".agent-bridge-daemon/state.json").display().to_string();
    let project = ["--project", "p"];
    for (kind, value) in [
        ("read", "~/.obto-bridge/config.json"),
        ("read", "link/config.json"),
        ("read", "../.obto-bridge/serve/token"),
        ("edit", &own),
        ("run", "cat ~/.obto-bridge/config.json"),
        ("run", "grep -r x link/"),
        ("read", "/proc/self/environ"),
    ] {
        for engine in ["claude", "codex", "opencode"] {
            let words = [&[engine, kind, value][..], &project].concat();
            check(&home, &words, "deny", &["bridge's own files", "allowAll"]);
        }
    }
    let grep = ["claude", "read", "..", "--tool", "Grep", "--project", "p"];
    check(&home, &grep, "ask", &["bridge's own files"]);
    check(&home, &["claude", "read", "src/a.rs", "--project", "p"], "allow", &[]);
    check(&home, &["claude", "fetch", "http://127.0.0.1/"], "ask", &["very host"]);
    check(&home, &["claude", "fetch", "https://docs.rs/"], "allow", &[]);
}

#[test]
fn what_is_not_understood_is_told() {
    let home = Home::new();
    home.run(&["policy", "test", "claude", "Bash", "x"]).expect(2, &["Bash", "run"]);
    home.run(&["policy", "test", "cluade", "run", "x"]).expect(2, &["cluade", "opencode"]);
    home.run(&["policy", "test", "claude", "run"]).expect(2, &["value"]);
    home.run(&["policy"]).expect(2, &["test"]);
    home.put(CONFIG, r#"{"permissions": {"allow": ["read", "run("]}}"#);
    let bad = home.run(&["policy", "test", "claude", "run", "x"]);
    bad.expect(78, &["permissions.allow", "\"run(\"", "run(git status *)"]);
    home.run(&["policy", "test", "--help"]).expect(0, &["--project", "--tool"]);
}
