//! The policy on a made-up disk: what the tables and the random lines are checked with.

mod commands;
mod engines;
mod own;
mod paths;
mod programs;
mod random;
mod reading;
mod understood;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use super::*;
use crate::{
    agent::{ActionKind, Edit, Question, QuestionId, shell::Shell},
    config::Permissions,
    ids::Engine,
};

const PROJECT: &str = "/home/ada/project";
const HOME: &str = "/home/ada";

/// Links; everything else is plain.
#[derive(Debug, Default)]
struct Disk(BTreeMap<PathBuf, Found>);

impl Disk {
    fn with(links: &[(&str, &str)]) -> Disk {
        let link = |(from, to): &(&str, &str)| (PathBuf::from(from), Found::Link(to.into()));
        Disk(links.iter().map(link).collect())
    }
}

impl Places for Disk {
    fn look(&self, path: &Path) -> Found {
        self.0.get(path).cloned().unwrap_or(Found::Plain)
    }
}

fn rules(rules: &[&str]) -> Vec<String> {
    rules.iter().map(|rule| (*rule).to_owned()).collect()
}

fn policy(allow: &[&str], ask: &[&str], deny: &[&str]) -> Policy {
    guarding(&[], allow, ask, deny)
}

fn guarding(own: &[&str], allow: &[&str], ask: &[&str], deny: &[&str]) -> Policy {
    let lists =
        Permissions { allow: Some(rules(allow)), ask: Some(rules(ask)), deny: Some(rules(deny)) };
    Policy::new(&lists, OwnFiles::new(own.iter().map(PathBuf::from).collect())).unwrap()
}

fn question(kind: ActionKind, tool: &str, subject: &str, input: Value) -> Question {
    Question {
        id: QuestionId("1".to_owned()),
        tool: tool.to_owned(),
        kind,
        subject: subject.to_owned(),
        reason: None,
        input,
        ..Question::default()
    }
}

fn action<'a>(question: &'a Question, places: &'a dyn Places) -> Action<'a> {
    let (directory, home) = (Path::new(PROJECT), Path::new(HOME));
    let shell = Shell::Bourne;
    Action { question, engine: &Engine::CLAUDE, directory, home, places, shell }
}

#[track_caller]
fn check(policy: &Policy, question: &Question, expected: Ruling) {
    let disk = Disk::default();
    let decision = policy.decide(&action(question, &disk), &[]);
    assert_eq!(decision.ruling, expected, "{:?}: {decision:?}", question.subject);
}

fn run(line: &str) -> Question {
    question(ActionKind::Run, "Bash", line, json!({ "command": line }))
}

#[test]
fn deny_wins_then_ask_then_allow_and_silence_is_asked() {
    let policy = policy(&["run"], &["run(git *)"], &["run(git push*)"]);
    check(&policy, &run("git push"), Ruling::Deny);
    check(&policy, &run("git status"), Ruling::Ask);
    check(&policy, &run("ls"), Ruling::Allow);
    check(&policy, &question(ActionKind::Other, "Skill", "", json!({})), Ruling::Ask);
    let decision = policy.decide(&action(&run("git push"), &Disk::default()), &[]);
    assert_eq!(decision.rule.as_deref(), Some("run(git push*)"));
}

#[test]
fn a_grant_wins_over_ask_and_never_over_deny() {
    let policy = policy(&[], &["run(git *)"], &["run(git push*)"]);
    let disk = Disk::default();
    let grants = [Rule::parse("run(git status)").unwrap(), Rule::parse("run(git push)").unwrap()];
    let decide = |line: &str| policy.decide(&action(&run(line), &disk), &grants).ruling;
    assert_eq!(decide("git status"), Ruling::Allow);
    assert_eq!(decide("git status -s"), Ruling::Ask);
    assert_eq!(decide("git push"), Ruling::Deny);
}

#[test]
fn a_bad_rule_names_its_list() {
    let permissions =
        Permissions { ask: Some(rules(&["run", "Bash(x)"])), ..Permissions::default() };
    let text = Policy::new(&permissions, OwnFiles::default()).unwrap_err();
    for part in ["permissions.ask", "Bash(x)", "run(git status *)"] {
        assert!(text.contains(part), "{text}");
    }
}

/// What a grant is, and that it covers what it was made of and nothing near it.
#[track_caller]
fn granted(question: &Question, rule: &str, near: &[Question]) {
    let disk = Disk::default();
    let grant = Policy::default().always(&action(question, &disk)).expect("it can be granted");
    assert_eq!(grant.to_string(), rule);
    assert_eq!(Rule::parse(rule).unwrap(), grant, "it can be stored as text");
    let policy = policy(&[], &[], &[]);
    let allows =
        |it: &Question| policy.decide(&action(it, &disk), std::slice::from_ref(&grant)).ruling;
    assert_eq!(allows(question), Ruling::Allow);
    for near in near {
        assert_eq!(allows(near), Ruling::Ask, "{:?}", near.subject);
    }
}

#[test]
fn always_is_this_and_nothing_else() {
    granted(&run("cargo test"), "run(cargo test)", &[run("cargo test x"), run("cargo")]);
    granted(
        &run("git commit -m 'a *' && git push"),
        r"run(git commit -m a\ \* && git push)",
        &[
            run("git push"),
            run("git commit -m 'a b' && git push"),
            run("git commit -m a '*' && git push"),
        ],
    );
    granted(&run("echo a '&&' rm x"), r"run(echo a \&\& rm x)", &[run("echo a && rm x")]);
    granted(&run("echo a && rm x"), "run(echo a && rm x)", &[run("echo a '&&' rm x"), run("rm x")]);
    let edit = |path: &str| question(ActionKind::Edit, "Edit", path, json!({ "file_path": path }));
    granted(&edit("src/a*.rs"), r"edit(src/a\*.rs)", &[edit("src/ab.rs"), edit("a*.rs")]);
    granted(&edit("/etc/hosts"), "edit(//etc/hosts)", &[edit("/etc/passwd"), edit("etc/hosts")]);
    let fetch = |url: &str| question(ActionKind::Fetch, "WebFetch", url, json!({ "url": url }));
    granted(
        &fetch("https://Docs.rs/serde"),
        "fetch(https://docs.rs/*)",
        &[fetch("http://docs.rs/"), fetch("https://docs.rs.evil.example/")],
    );
    let mcp = |tool: &str| question(ActionKind::Mcp, tool, "", json!({}));
    granted(&mcp("mcp__git__merge"), "mcp(git:merge)", &[mcp("mcp__git__merge_all")]);
}

#[test]
fn what_cannot_be_said_safely_is_not_granted() {
    let mut outside = run("ls");
    outside.input["cwd"] = json!("/tmp");
    let two = json!({ "changes": [{ "path": "a" }, { "path": "b" }] });
    for question in [
        run("echo $HOME"),
        run("echo x > y"),
        run(""),
        outside,
        question(ActionKind::Edit, "fileChange", "", two),
        question(ActionKind::Edit, "edit", "", json!({})),
        question(ActionKind::Fetch, "WebSearch", "rust", json!({})),
        question(ActionKind::Fetch, "WebFetch", "https://a@b/", json!({})),
        question(ActionKind::Mcp, "mcp__a__b__c", "", json!({})),
        question(ActionKind::Other, "Skill", "", json!({})),
    ] {
        let disk = Disk::default();
        assert_eq!(Policy::default().always(&action(&question, &disk)), None, "{question:?}");
    }
    let disk = Disk::with(&[("/home/ada/project/link", "/etc/passwd")]);
    let link = question(ActionKind::Edit, "Edit", "link", json!({ "file_path": "link" }));
    assert_eq!(
        Policy::default().always(&action(&link, &disk)),
        None,
        "its name would be true only today"
    );
}

#[test]
fn a_refusal_tells_the_agent_and_the_human_what_to_do() {
    let decided = |policy: &Policy| {
        refusal("Bash", &policy.decide(&action(&run("git push"), &Disk::default()), &[]))
    };
    let asked = decided(&Policy::default());
    for part in ["Bash", "`question`", "end your turn", "`relayPermissions`", "`allowAll`"] {
        assert!(asked.contains(part), "{asked:?} lacks {part:?}");
    }
    let denied = decided(&policy(&[], &[], &["run(git push*)"]));
    assert!(denied.contains("`run(git push*)`") && denied.contains("`permissions`"), "{denied}");
    assert!(!denied.contains("relayPermissions"), "asking would not help: {denied}");
    let own = guarding(&["/home/ada/.obto-bridge"], &[], &[], &[]);
    let line = run("cat ~/.obto-bridge/config.json");
    let never = refusal("Bash", &own.decide(&action(&line, &Disk::default()), &[]));
    assert!(never.contains("own files") && never.contains("no rule and no approval"), "{never}");
    assert!(!never.contains("relayPermissions"), "{never}");
}
