//! What Claude Code asks, and how it is stopped.

use crate::{
    control::{Scene, ask_the_human, stop, tests_of},
    homes::Engine,
    rig::Setup,
};
use serde_json::json;
use std::fs;

tests_of! { Engine::Claude;
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
    stop::a_stop_ends_a_command(Engine::Claude);
}

#[test]
fn a_stop_ends_the_wait_for_a_model() {
    stop::a_stop_ends_the_wait_for_a_model(Engine::Claude);
}

#[test]
fn an_engine_that_dies_asking_has_to_ask_again() {
    stop::an_engine_that_dies_asking_has_to_ask_again(Engine::Claude);
}

/// Rules in the person's own settings come first, those that allow and those that deny; but their
/// default mode, which would have us not asked, does not count.
#[test]
fn trap_the_persons_own_rules_answer_before_we_do() {
    let setup = Setup::logged_in();
    let settings = json!({"permissions": {
        "allow": ["Bash(touch theirs*)"],
        "deny": ["Bash(touch never*)"],
        "defaultMode": "acceptEdits",
    }});
    fs::create_dir_all(setup.home.path(".claude")).unwrap();
    fs::write(setup.home.path(".claude/settings.json"), settings.to_string()).unwrap();
    let made = setup.home.project().join("made.txt");
    let text = format!(
        "begin [[shell:touch theirs]][[shell:touch never]][[write:{}|x]][[text:over]]",
        made.display()
    );
    let config = json!({"permissions": {"allow": ["run"]}});
    let scene = Scene::of(setup, Engine::Claude, &config, &text);
    scene.question(1, "made.txt");
    assert!(scene.has("theirs") && !scene.has("never"), "its own rules hold");
    scene.say("no");
    scene.result(1, "over");
    assert!(!scene.has("made.txt"), "it was denied");
    let log = scene.rig.daemon().log();
    assert_eq!(log.matches("asks for permission").count(), 1, "it asked about its own rules");
}

/// They are started before anything is asked, in a directory that nobody has trusted.
#[test]
fn trap_a_projects_servers_are_not_started() {
    let setup = Setup::logged_in();
    let started = setup.home.path("started");
    let server = json!({"command": "touch", "args": [started]});
    let servers = json!({"mcpServers": {"theirs": server}});
    fs::write(setup.home.project().join(".mcp.json"), servers.to_string()).unwrap();
    let scene = Scene::of(setup, Engine::Claude, &json!({}), "hello [[text:hello]]");
    scene.result(1, "hello");
    assert!(!started.exists(), "a program of the project ran");
}

/// Nobody sits at a terminal, and a turn's end is the end of all that it began.
#[test]
fn trap_what_would_wait_or_outlive_the_turn_is_not_offered() {
    let text = format!("hello {}[[text:over]]", ask_the_human(Engine::Claude, "Which?"));
    let scene = Scene::with(Engine::Claude, &json!({"relayPermissions": false}), &text);
    scene.result(1, "over");
    scene.assert_questions(0);
    let request = scene.asked("hello");
    for tool in ["AskUserQuestion", "EnterPlanMode", "ExitPlanMode", "CronCreate", "Workflow"] {
        assert!(!request.tools.iter().any(|it| it == tool), "{tool}: {:?}", request.tools);
    }
    let tools = request.body["tools"].to_string();
    assert!(tools.contains("Bash") && !tools.contains("run_in_background"), "{tools}");
}
