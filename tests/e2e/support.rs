//! The table in docs/agents.md of what each engine supports says what they do.

use crate::{
    control::run,
    homes::Engine,
    rig::{Post, Rig, Setup},
    scenarios::asked,
};
use serde_json::{Value, json};
use std::fs;

/// A red dot, as small as a picture can be.
const PICTURE: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg==";

/// The columns of the table after the agent's name, entry and package.
const COLUMNS: [&str; 7] =
    ["goes on", "asks", "shows edits", "stops", "pictures", "posts itself", "key"];

/// Makes a test for each engine.
macro_rules! support_of {
    ($($name:ident $engine:ident),+ $(,)?) => {
        $(#[test]
        fn $name() {
            check(Engine::$engine);
        })+
    };
}

support_of! {
    the_docs_know_claude Claude,
    the_docs_know_codex Codex,
    the_docs_know_opencode Opencode,
    the_docs_know_claude_acp ClaudeAcp,
    the_docs_know_codex_acp CodexAcp,
    the_docs_know_copilot Copilot,
    the_docs_know_gemini Gemini,
    the_docs_know_qwen Qwen,
}

#[track_caller]
fn check(engine: Engine) {
    let [name, entry, package, said @ ..] = &row(engine)[..] else { panic!("it has no row") };
    assert_eq!(*name, format!("`{}`", engine.name()));
    assert_eq!(*entry, format!("`{}`", json!({"command": engine.command()})));
    let pins: Value = serde_json::from_str(include_str!("engines/package.json")).unwrap();
    let pins = pins["dependencies"].as_object().unwrap().iter();
    let mut pins = pins.map(|(name, version)| format!("`{name}` {}", version.as_str().unwrap()));
    assert!(pins.any(|it| it == *package), "{package} is not what is tried");
    let seen = observe(engine).map(|it| if it { "yes" } else { "no" });
    let said: Vec<&str> = said.iter().map(String::as_str).collect();
    assert_eq!(seen[..], said[..], "of {COLUMNS:?}, seen is on the left");
}

/// The engine's row of the table in docs/agents.md.
#[track_caller]
fn row(engine: Engine) -> Vec<String> {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/agents.md")).unwrap();
    let head = format!("| agent | entry | npm package | {} |", COLUMNS.join(" | "));
    let table = page.split_once(&head).unwrap_or_else(|| panic!("no table under {head}")).1;
    let start = format!("| `{}` |", engine.name());
    let mut row = table.lines().skip(1).take_while(|it| it.starts_with('|'));
    let row = row.find(|it| it.starts_with(&start)).unwrap_or_default();
    row.trim_matches('|').split('|').map(|it| it.trim().to_owned()).collect()
}

/// Has the engine do everything that has a column.
fn observe(engine: Engine) -> [bool; 7] {
    let mut setup = Setup::logged_in();
    setup.config["relayPermissions"] = json!(true);
    // Where codex asks for every patch.
    setup.config["codexSandbox"] = json!("read-only");
    let rig = setup.start();
    let thread = rig.begin(engine, "the word is quince [[text:noted]]");
    assert_eq!(result(&rig, &thread, 1).body, "noted");
    if engine == Engine::Gemini {
        a_minute_passes(&rig);
    }
    let posts_itself = asked(&rig, "quince").tools.iter().any(|it| it.ends_with("bridge_post"));

    rig.say(&thread, "which word? [[text:that]]");
    assert_eq!(result(&rig, &thread, 2).body, "that");
    let again = asked(&rig, "which word?");
    let goes_on = again.mentions("the word is quince") && !again.prompt.contains("EARLIER");

    let command = run(engine, "touch made");
    let question = approve(&rig, &thread, 3, &format!("run it {command}[[text:over]]"));
    let asks = question.is_some_and(|it| it.body.contains("touch made"));
    assert!(!asks || rig.home.project().join("made").exists(), "it was allowed");

    let path = rig.home.project().join("new.txt").display().to_string();
    let edit = format!("write it [[write:{path}|fresh line]][[text:over]]");
    let question = approve(&rig, &thread, 4, &edit);
    let diff = question.and_then(|it| it.card["diff"].as_str().map(str::to_owned));
    let shows_edits = diff.is_some_and(|it| it.lines().any(|it| it == "+fresh line"));

    rig.say(&thread, "wait [[gate:never]]");
    asked(&rig, "wait [[");
    rig.say(&thread, "/stop");
    let stopped = |it: &[Post]| it.iter().any(|it| it.body.contains("Stopped.")).then_some(());
    let stops = rig.wait_for_posts(&thread, stopped).is_ok();

    let thread = rig.begin_with_picture(engine, "look at this [[text:seen]]", PICTURE);
    assert_eq!(result(&rig, &thread, 1).body, "seen");
    let pictures = asked(&rig, "look at this").mentions(PICTURE);
    [goes_on, asks, shows_edits, stops, pictures, posts_itself, takes_a_key(engine)]
}

/// Gemini 0.61.0 names the file of a session after the minute of its start, and overwrites it when it
/// loads the session in that minute.
fn a_minute_passes(rig: &Rig) {
    let chats = rig.home.path(".gemini/tmp/project/chats");
    for file in fs::read_dir(chats).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        fs::rename(&path, path.with_file_name(name.replacen("-20", "-19", 1))).unwrap();
    }
}

/// The `n`-th answer on a thread.
#[track_caller]
fn result(rig: &Rig, thread: &str, n: usize) -> Post {
    let is_end = |it: &&Post| matches!(&it.kind[..], "result" | "error");
    let found = rig.wait_for_posts(thread, |it| it.iter().filter(is_end).nth(n - 1).cloned());
    found.unwrap_or_else(|posts| panic!("no answer {n}, only {posts:#?}"))
}

/// Says this, and allows what is then asked, if anything is. Waits for the `n`-th answer.
#[track_caller]
fn approve(rig: &Rig, thread: &str, n: usize, text: &str) -> Option<Post> {
    let is_new = |before: &[Post], it: &Post| !before.iter().any(|old| old.card == it.card);
    let before = rig.posts(thread);
    rig.say(thread, text);
    let found = rig.wait_for_posts(thread, |posts| {
        let question = posts.iter().find(|it| it.kind == "question" && is_new(&before, it));
        let n_ends = posts.iter().filter(|it| matches!(&it.kind[..], "result" | "error")).count();
        question.map(|it| Some(it.clone())).or_else(|| (n <= n_ends).then_some(None))
    });
    let question = found.unwrap_or_else(|posts| panic!("neither question nor answer: {posts:#?}"));
    if let Some(question) = &question {
        let code = question.card["code"].as_str().expect("a question has a code");
        rig.say(thread, &format!("approve {code}"));
    }
    result(rig, thread, n);
    question
}

/// Whether it answers without a login, with a key in its environment alone.
fn takes_a_key(engine: Engine) -> bool {
    let mut setup = Setup::logged_out();
    setup.home.give_key(engine, &setup.model);
    let rig = setup.start();
    let thread = rig.begin(engine, "hello [[text:hello]]");
    result(&rig, &thread, 1).body == "hello"
}
