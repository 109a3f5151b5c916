//! What an agent asks that speaks the Agent Client Protocol, and how it is stopped: codex-acp, which
//! ends its turn at the first refusal.

use crate::{
    control::{Question, Scene, run, run_both, stop, tests_of},
    homes::Engine,
};
use serde_json::json;

tests_of! { Engine::CodexAcp;
    what_is_approved_happens_and_what_is_not_does_not,
    always_holds_for_the_same_and_for_nothing_else,
    an_edit_is_put_with_its_diff,
    nobody_answering_is_a_refusal,
    a_stop_while_it_asks_ends_turn_and_question,
    a_daemon_killed_while_it_asks_says_so_and_continues,
}

#[test]
fn a_stop_ends_a_command() {
    stop::a_stop_ends_a_command(Engine::CodexAcp);
}

#[test]
fn a_stop_ends_the_wait_for_a_model() {
    stop::a_stop_ends_the_wait_for_a_model(Engine::CodexAcp);
}

#[test]
fn an_engine_that_dies_asking_has_to_ask_again() {
    stop::an_engine_that_dies_asking_has_to_ask_again(Engine::CodexAcp);
}

/// Two questions; which of them comes first, chance decides.
#[track_caller]
fn in_order(scene: &Scene, second: &str) -> [Question; 2] {
    let mut both = [scene.question(1, "touch "), scene.question(2, "touch ")];
    both.sort_by_key(|it| it.body.contains(second));
    both
}

#[test]
fn two_at_once_are_answered_in_reverse_order() {
    let both = |name: &str| {
        let touch = |n: usize| format!("touch {name}-{n}");
        format!("{name} {}[[text:over]]", run_both(Engine::CodexAcp, &touch(1), &touch(2)))
    };
    let scene = Scene::begin(Engine::CodexAcp, &both("both"));
    let [one, two] = in_order(&scene, "touch both-2");
    scene.say(&format!("approve {}", two.code));
    assert_eq!(scene.outcome(&two), "allowed");
    assert!(!scene.has("both-1"), "the other one is still open");
    scene.say(&format!("approve {}", one.code));
    assert_eq!(scene.outcome(&one), "allowed");
    scene.result(1, "over");
    assert!(scene.has("both-1") && scene.has("both-2"));
}

/// It ends the turn, so that what else was open is not done either, and nobody says that it was.
#[test]
fn trap_a_refusal_ends_the_turn_and_what_else_is_open() {
    let both = run_both(Engine::CodexAcp, "touch one", "touch two");
    let scene = Scene::begin(Engine::CodexAcp, &format!("the word is quince {both}[[text:over]]"));
    let [one, two] = in_order(&scene, "touch two");
    scene.say(&format!("deny {} because it is late", two.code));
    assert_eq!(scene.outcome(&two), "denied");
    scene.refused(1, "", "touch two", "it is late");
    assert_eq!(scene.outcome(&one), "gone");
    scene.say(&format!("approve {}", one.code));
    scene.status(&format!("That question is over; this changed nothing. **Gone** `{}`", one.code));
    scene.say("which word? [[text:that]]");
    scene.result(2, "that");
    assert!(scene.asked("which word?").mentions("the word is quince"), "the session goes on");
    assert!(!scene.has("one") && !scene.has("two"), "nobody allowed it");
}

#[test]
fn rules_decide_before_the_human() {
    let rules = json!({"allow": ["run(touch fine*)"], "deny": ["run(touch bad*)"]});
    let touch = |files: &str| run(Engine::CodexAcp, files);
    let text = format!(
        "all of it {}{}{}[[text:over]]",
        touch("touch fine-1"),
        touch("touch fine-2 && touch other"),
        touch("touch fine-3; touch bad")
    );
    let scene = Scene::with(Engine::CodexAcp, &json!({"permissions": rules}), &text);
    scene.question(1, "touch fine-2 && touch other");
    assert!(scene.has("fine-1"), "a rule allows it");
    scene.say("yes");
    scene.refused(1, "", "touch fine-3; touch bad", "denies it");
    assert!(scene.has("fine-2") && scene.has("other"));
    assert!(!scene.has("fine-3") && !scene.has("bad"), "a part of it is denied");
    scene.assert_questions(1);
}
