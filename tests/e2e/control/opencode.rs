//! What opencode asks, and how it is stopped.

use crate::{
    control::{Scene, run, stop, tests_of},
    homes::Engine,
    model::Request,
    process,
    rig::PATIENCE,
};
use serde_json::json;

tests_of! { Engine::Opencode;
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
    stop::a_stop_ends_a_command(Engine::Opencode);
}

#[test]
fn a_stop_ends_the_wait_for_a_model() {
    stop::a_stop_ends_the_wait_for_a_model(Engine::Opencode);
}

#[test]
fn an_engine_that_dies_asking_has_to_ask_again() {
    stop::an_engine_that_dies_asking_has_to_ask_again(Engine::Opencode);
}

/// A helper has a session of its own, in which it asks, and tools of one session are asked for
/// together. With one of these opencode refuses the others.
#[test]
fn trap_a_refusal_does_not_take_the_others_with_it() {
    let prompt = "help [[shell:touch helped]][[text:helped]]";
    let helper = json!({"description": "look", "subagent_type": "general", "prompt": prompt});
    let tools = ["one", "two", "three"].map(|it| run(Engine::Opencode, &format!("touch {it}")));
    let tools = tools.concat().replace("[[shell:", "[[shell+:");
    let text = format!("all [[tool:task {helper}]]{tools}[[text:over]]");
    let scene = Scene::begin(Engine::Opencode, &text);
    let mut open: Vec<_> = (1..5).map(|n| scene.question(n, "")).collect();
    let mut take = |about: &str| {
        let at = open.iter().position(|it| it.body.contains(about));
        open.remove(at.unwrap_or_else(|| panic!("nothing asks for {about:?}: {open:#?}")))
    };
    let (task, one, two, three) =
        (take("subagent: look"), take("touch one"), take("touch two"), take("touch three"));
    scene.say(&format!("deny {} because of the weather", three.code));
    assert_eq!(scene.outcome(&three), "denied");
    scene.say(&format!("approve {}", task.code));
    let fifth = scene.question(5, "touch helped");
    scene.say(&format!("approve {}", one.code));
    assert_eq!(scene.outcome(&one), "allowed");
    scene.say(&format!("deny {} because it is late", two.code));
    assert_eq!(scene.outcome(&two), "denied");
    scene.say(&format!("approve {}", fifth.code));
    assert_eq!(scene.outcome(&fifth), "allowed");
    scene.result(1, "over");
    for why in ["of the weather", "it is late"] {
        scene.model_reads(why);
    }
    for (name, is_made) in [("one", true), ("two", false), ("three", false), ("helped", true)] {
        assert_eq!(scene.has(name), is_made, "{name}");
    }
}

/// A refusal of it tells the model nothing, so what the human said is sent as the answer.
#[test]
fn trap_a_question_of_its_own_is_refused_with_the_reason() {
    let options = json!([{"label": "Red", "description": "r"}]);
    let asked = json!({"questions": [{"question": "Which?", "header": "H", "options": options}]});
    let text = format!("ask me [[tool:question {asked}]][[text:well then]]");
    let scene = Scene::begin(Engine::Opencode, &text);
    let question = scene.question(1, "Which?");
    scene.say(&format!("deny {} because I am asleep", question.code));
    scene.result(1, "well then");
    scene.model_reads("I am asleep");
    assert_eq!(scene.outcome(&question), "denied");
}

/// One server runs the turns of all threads.
#[test]
fn a_stop_of_one_thread_leaves_the_others_alone() {
    let config = json!({"permissions": {"allow": ["run(sleep *)"]}});
    let scene = Scene::with(Engine::Opencode, &config, "one [[shell:sleep 600]]");
    let text = format!("two [[gate:go]]{}[[text:done]]", run(Engine::Opencode, "touch made"));
    let other = scene.rig.begin(Engine::Opencode, &text);
    scene.asked("two ");
    stop::wait_until(&scene, "sleep 600", |all| all.iter().any(|it| it.command == "sleep 600"));
    let server =
        process::marked(&scene.rig.home).into_iter().find(|it| it.command.contains("serve"));
    let server = server.expect("it runs");
    scene.say("/stop");
    scene.status("Stopped.");
    stop::wait_until(&scene, "its end", |all| !all.iter().any(|it| it.command == "sleep 600"));
    assert!(server.is_alive(), "the other one needs it");
    scene.rig.model.open("go");
    let other = Scene { thread: other, ..scene };
    other.question(1, "touch made");
    other.say("yes");
    other.result(1, "done");
    assert!(other.has("made"));
    stop::wait_until(&other, "the end of a server that saw a turn cut short", <[_]>::is_empty);
}

/// What its rules allow is in its store, and `always` is none of them.
#[test]
fn trap_its_own_always_is_never_said() {
    let text = |name: &str| format!("{name} {}[[text:over]]", run(Engine::Opencode, name));
    let scene = Scene::begin(Engine::Opencode, &text("touch one"));
    scene.question(1, "touch one");
    scene.say("always");
    scene.result(1, "over");
    // Its own would be for all commands that begin so, on all threads.
    let other = scene.rig.begin(Engine::Opencode, &text("touch one"));
    let other = Scene { thread: other, ..scene };
    let question = other.question(1, "touch one");
    other.say(&format!("approve {}", question.code));
    other.result(1, "over");
    let is_read = |it: &Request| it.human().contains("touch one") && !it.results.is_empty();
    other.rig.model.wait_for(is_read, PATIENCE);
}
