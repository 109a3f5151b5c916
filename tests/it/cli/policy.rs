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

/// On the real `/proc`, and what was given is what is judged.
#[test]
fn ways_around_a_denial_are_asked() {
    let home = Home::new();
    home.put(
        CONFIG,
        r#"{"permissions": {"allow": ["read", "edit"], "deny": ["edit(.git/**)", "read(keys/*)"]}}"#,
    );
    fs::create_dir_all(home.path().join("keys")).unwrap();
    symlink("/proc/self/cwd", home.path().join("here")).unwrap();
    let pid = format!("/proc/{}/cwd/.git/config", std::process::id());
    for path in ["/proc/self/cwd/.git/config", "/dev/fd/3", "here/.git/config", &pid, ".GIT/x"] {
        check(&home, &["claude", "edit", path], "ask", &["edit"]);
    }
    check(&home, &["claude", "edit", ".git/config"], "deny", &["edit(.git/**)"]);
    for above in [".", "..", "~", "/"] {
        check(&home, &["claude", "read", above, "--tool", "Grep"], "ask", &["read(keys/*)"]);
    }
    check(&home, &["claude", "read", "keys", "--tool", "Grep"], "ask", &["read(keys/*)"]);
    check(&home, &["claude", "read", "keys/x", "--tool", "Grep"], "deny", &["read(keys/*)"]);
    check(&home, &["claude", "read", "src", "--tool", "Grep"], "allow", &[]);
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
