//! What codex asks, and how it is stopped.

use crate::{
    control::{Scene, ask_the_human, run, settings, stop, tests_of},
    homes::Engine,
    rig::{Post, Setup},
    scenarios::asked,
};
use serde_json::json;
use std::fs;

tests_of! { Engine::Codex;
    what_is_approved_happens_and_what_is_not_does_not,
    always_holds_for_the_same_and_for_nothing_else,
    an_edit_is_put_with_its_diff,
    nobody_answering_is_a_refusal,
    two_at_once_are_answered_in_reverse_order,
    a_stop_while_it_asks_ends_turn_and_question,
    a_daemon_killed_while_it_asks_says_so_and_continues,
    rules_decide_before_the_human,
    its_own_question_is_answered_by_number_and_in_words,
    its_token_is_not_read_by_any_path,
    its_token_is_not_read_in_a_project_that_it_is_in,
    what_is_denied_is_not_written_by_another_name,
}

#[test]
fn a_stop_ends_a_command() {
    stop::a_stop_ends_a_command(Engine::Codex);
}

#[test]
fn a_stop_ends_the_wait_for_a_model() {
    stop::a_stop_ends_the_wait_for_a_model(Engine::Codex);
}

/// Each of its processes counts its questions from 0.
#[test]
fn an_engine_that_dies_asking_has_to_ask_again() {
    stop::an_engine_that_dies_asking_has_to_ask_again(Engine::Codex);
}

/// A server of tools that make files. Codex asks for them by another way than for its own.
const SERVER: &str = r#"
const lines = require("readline").createInterface({ input: process.stdin });
lines.on("line", (line) => {
  const { id, method, params } = JSON.parse(line);
  const path = { type: "object", properties: { path: { type: "string" } } };
  const answers = {
    "initialize": () => ({
      protocolVersion: params.protocolVersion,
      capabilities: { tools: {} },
      serverInfo: { name: "files", version: "1" },
    }),
    "tools/list": () => ({ tools: [{ name: "make", description: "Makes a file", inputSchema: path }] }),
    "tools/call": () => {
      require("fs").writeFileSync(params.arguments.path, "made");
      return { content: [{ type: "text", text: "made it" }] };
    },
  };
  if (id === undefined) return;
  const result = answers[method] ? answers[method]() : {};
  process.stdout.write(JSON.stringify({ jsonrpc: "2.0", id, result }) + "\n");
});
"#;

/// Adds settings to the person's own, above the tables and below them.
fn configure(setup: &Setup, top: &str, tables: &str) {
    let path = setup.home.path(".codex/config.toml");
    let config = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{top}{config}{tables}")).unwrap();
}

#[test]
fn a_tool_of_a_server_is_asked_for() {
    let setup = Setup::logged_in();
    let server = setup.home.path("server.js");
    fs::write(&server, SERVER).unwrap();
    let table = format!("\n[mcp_servers.files]\ncommand = \"node\"\nargs = [{server:?}]\n");
    configure(&setup, "", &table);
    let made = |name: &str| {
        let path = setup.home.project().join(name);
        format!("{name} [[tool:mcp__files/make {}]][[text:over]]", json!({"path": path}))
    };
    let texts = [made("one"), made("two"), made("three")];
    let scene = Scene::of(setup, Engine::Codex, &json!({}), &texts[0]);
    let before = settings(&scene.rig.home);
    let one = scene.question(1, "files:make");
    assert_eq!((&one.card["kind"], &one.card["subject"]), (&json!("mcp"), &json!("files:make")));
    scene.say(&format!("deny {} because it rains", one.code));
    scene.result(1, "over");
    scene.model_reads("it rains");
    scene.say(&texts[1]);
    scene.question(2, "files:make");
    scene.say("always");
    scene.result(2, "over");
    scene.say(&texts[2]);
    scene.result(3, "over");
    assert!(!scene.has("one") && scene.has("two") && scene.has("three"));
    scene.assert_questions(2);
    assert_eq!(settings(&scene.rig.home), before);
}

/// What is granted holds for the turn, and the sandbox does the rest.
#[test]
fn a_wider_sandbox_is_asked_for() {
    let setup = Setup::logged_in();
    configure(&setup, "", "\n[features]\nrequest_permissions_tool = true\n");
    let outside = setup.home.path("outside");
    fs::create_dir(&outside).unwrap();
    let wish = json!({"permissions": {"file_system": {"write": [outside]}}, "reason": "why not"});
    let text = |name: &str| {
        let file = outside.join(name);
        format!(
            "{name} [[tool:request_permissions {wish}]][[shell:touch {}]][[text:over]]",
            file.display()
        )
    };
    let scene = Scene::of(setup, Engine::Codex, &json!({}), &text("one"));
    let question = scene.question(1, &format!("write {}", outside.display()));
    assert_eq!(question.card["kind"], "other");
    scene.say("deny");
    scene.result(1, "over");
    assert!(!outside.join("one").exists(), "it was denied");
    scene.say(&text("two"));
    scene.question(2, "write ");
    scene.say("approve");
    scene.result(2, "over");
    assert!(outside.join("two").exists(), "it was allowed");
    scene.say(&format!("three [[shell:touch {}]][[text:over]]", outside.join("three").display()));
    scene.result(3, "over");
    assert!(!outside.join("three").exists(), "it was allowed for the turn before");
    scene.assert_questions(2);
}

/// A command and patches, inside of the project and outside; each that is asked for is denied.
#[track_caller]
fn check_sandbox(sandbox: &str, done: &[&str], asked: &[&str]) {
    let setup = Setup::logged_in();
    let project = setup.home.project();
    let outside = setup.home.path("outside");
    let text = format!(
        "all of it [[shell:touch command]][[write:{}|x]][[write:{}|x]]{}[[text:over]]",
        project.join("patch").display(),
        outside.display(),
        run(Engine::Codex, "touch escalated"),
    );
    let scene = Scene::of(setup, Engine::Codex, &json!({"codexSandbox": sandbox}), &text);
    // What the model calls at once is asked in any order.
    let mut left = asked.to_vec();
    for n in 0..asked.len() {
        let question = scene.question(n + 1, "");
        let at = left.iter().position(|about| question.body.contains(about));
        left.remove(at.unwrap_or_else(|| panic!("{left:?}: {}", question.body)));
        scene.say(&format!("deny {}", question.code));
    }
    scene.result(1, "over");
    scene.assert_questions(asked.len());
    for name in ["command", "patch", "../outside", "escalated"] {
        assert_eq!(scene.has(name), done.contains(&name), "{sandbox}: {name}");
    }
}

#[test]
fn trap_the_sandbox_decides_what_asks_when_it_only_reads() {
    check_sandbox("read-only", &[], &["project/patch`", "outside`", "touch escalated"]);
}

#[test]
fn trap_the_sandbox_decides_what_asks_when_it_writes_here() {
    // Its sandbox has the system's directory for temporary files open, and this tree may be in there.
    if env!("CARGO_TARGET_TMPDIR").starts_with("/tmp/") {
        check_sandbox("workspace-write", &["command", "patch", "../outside"], &["touch escalated"]);
    } else {
        check_sandbox("workspace-write", &["command", "patch"], &["outside`", "touch escalated"]);
    }
}

#[test]
fn trap_the_sandbox_decides_what_asks_when_there_is_none() {
    let all = ["command", "patch", "../outside", "escalated"];
    check_sandbox("danger-full-access", &all, &[]);
}

/// `untrusted` in the person's settings keeps codex from starting, and a project under git would be
/// written down there as trusted.
#[test]
fn trap_the_persons_settings_neither_stop_us_nor_change() {
    let setup = Setup::logged_in();
    configure(&setup, "approval_policy = \"untrusted\"\n", "");
    let git = setup.home.project().join(".git");
    fs::create_dir_all(git.join("objects")).unwrap();
    fs::create_dir_all(git.join("refs/heads")).unwrap();
    fs::write(git.join("HEAD"), "ref: refs/heads/main\n").unwrap();
    let before = settings(&setup.home);
    let config = json!({"codexSandbox": "workspace-write"});
    let scene =
        Scene::of(setup, Engine::Codex, &config, "hello [[shell:touch made]][[text:hello]]");
    scene.result(1, "hello");
    assert!(scene.has("made"));
    assert_eq!(settings(&scene.rig.home), before);
}

/// In its sandbox it writes without a word, so a turn has the directory from its beginning.
#[test]
fn two_threads_take_turns_in_one_directory() {
    let rig = Setup::logged_in().start();
    let one = rig.begin(Engine::Codex, "thread one [[gate:go]][[text:first]]");
    asked(&rig, "thread one");
    let two = rig.begin(Engine::Codex, "thread two [[text:second]]");
    let is_told = |it: &[Post]| {
        it.iter().any(|it| it.body.contains(&format!("Waits until thread `{one}`"))).then_some(())
    };
    assert!(rig.wait_for_posts(&two, is_told).is_ok(), "it is not told: {:#?}", rig.posts(&two));
    assert!(!rig.model.turns().iter().any(|it| it.human().contains("thread two")));
    rig.model.open("go");
    rig.expect(&one, 1, "first");
    assert_eq!(rig.answer(&two, 1).last().map(|it| it.body.clone()).as_deref(), Some("second"));
}

/// It goes on by itself in the background, and an interrupt does not end it.
#[test]
fn trap_a_command_in_the_background_is_stopped_too() {
    let text = r#"sleep [[shell:{"yield_time_ms":250} | sleep 604]][[gate:never]]"#;
    let config = json!({"codexSandbox": "danger-full-access"});
    let scene = Scene::with(Engine::Codex, &config, text);
    // The model has been told that it runs.
    crate::scenarios::results(&scene.rig, "sleep ");
    stop::stop_and_see(&scene, "sleep 604");
}

/// Nobody would answer.
#[test]
fn trap_without_relay_its_own_question_is_not_put() {
    let text = format!("hello {}[[text:over]]", ask_the_human(Engine::Codex, "Which?"));
    let scene = Scene::with(Engine::Codex, &json!({"relayPermissions": false}), &text);
    scene.result(1, "over");
    scene.assert_questions(0);
}
