//! What the approvals do with too much, long texts, many questions, many threads; and what a program
//! may answer, which has a token and no person.

use super::{
    tests::{Scene, options, request},
    *,
};

#[test]
fn a_megabyte_of_reason_is_cut() {
    let (mut scene, codes) = Scene::with(1);
    let Match::Answer(answer) = scene.say(&"ä".repeat(1 << 19)) else { panic!() };
    assert_eq!(answer.request.code, codes[0]);
    let Verdict::Deny { reason } = answer.verdict else { panic!() };
    assert!((4_000..4_100).contains(&reason.chars().count()), "{}", reason.chars().count());
}

#[test]
fn what_came_with_a_token_may_refuse_and_nothing_else() {
    let (mut scene, codes) = Scene::with(1);
    let code = codes[0];
    scene.is_by_token = true;
    for text in ["approve", "yes", "always", "Allow!"] {
        let named = format!("{} {code}", text.trim_end_matches('!'));
        for text in [text, &named] {
            scene.check_explained(text, &["token", &code.to_string(), "stays open"]);
        }
    }
    let choice = scene.ask_choice(vec![options(&["red", "no"])]);
    for words in ["1", "red", "2", "no"] {
        scene.check_explained(&format!("{choice} {words}"), &["token", &choice.to_string()]);
    }
    scene.check_denied(&format!("deny {code} because no"), code, "no");
    scene.check_denied(&format!("deny {choice}"), choice, "");
    let (mut scene, codes) = Scene::with(1);
    scene.is_by_token = true;
    scene.check_explained("approve", &["token"]);
    // The question is as open as it was.
    scene.is_by_token = false;
    scene.check("always", codes[0], &Verdict::AllowAlways);
    let (mut scene, codes) = Scene::with(1);
    scene.is_by_token = true;
    scene.check_denied("do it otherwise", codes[0], "do it otherwise");
}

#[test]
fn a_hundred_are_open_and_no_more() {
    let (mut scene, codes) = Scene::with(50);
    scene.check(&format!("approve {}", codes[49]), codes[49], &Verdict::Allow);
    scene.check(&format!("approve {}", codes[0]), codes[0], &Verdict::Allow);
    for _ in 50..OPEN_MAX {
        scene.ask();
    }
    let one_more = scene.next();
    let code = one_more.code;
    let closed = scene.approvals.ask(one_more, scene.now());
    assert!(
        matches!(&closed[..], [Closed { verdict: Some(Verdict::Deny { reason }), .. }] if reason.contains("too many"))
    );
    scene.check_explained(&format!("approve {code}"), &["could not be put"]);
}

#[test]
fn a_code_is_never_that_of_another() {
    let (mut scene, codes) = Scene::with(2);
    let twin = ApprovalRequest { code: codes[1], ..scene.next() };
    let closed = scene.approvals.ask(twin, scene.now());
    assert_eq!(closed.len(), 2, "nobody could tell which is meant");
    scene.check_explained(&format!("approve {}", codes[1]), &["nothing was allowed"]);
    let again = ApprovalRequest { code: codes[1], ..scene.next() };
    assert_eq!(scene.approvals.ask(again, scene.now()).len(), 1);
    scene.check(&format!("approve {}", codes[0]), codes[0], &Verdict::Allow);
}

#[test]
fn memory_is_bounded() {
    let (mut scene, codes) = Scene::with(1);
    scene.answer("approve");
    for _ in 0..PAST_MAX {
        let code = scene.ask();
        scene.check_denied(&format!("deny {code}"), code, "");
        let (thread, turn) = (scene.thread.clone(), scene.turn.clone());
        scene.approvals.turn_ended(&thread, &turn);
    }
    scene.check_explained(&format!("approve {}", codes[0]), &["No question"]);
    let open = scene.ask();
    for n in 0..THREADS_MAX * 2 {
        scene.approvals.orphaned(&ThreadId::new(format!("other {n}")), &[Code::from_seed(9)]);
    }
    assert_eq!(scene.approvals.threads.len(), THREADS_MAX);
    scene.check(&format!("approve {open}"), open, &Verdict::Allow);
}

#[test]
fn a_thread_s_answer_is_not_another_s() {
    let (mut scene, codes) = Scene::with(1);
    let other = Code::from_seed(500);
    scene.put(request("other", "turn", "q1", other));
    scene.check_explained(&format!("approve {other}"), &["No question", &codes[0].to_string()]);
}

#[test]
fn empty_text_is_no_answer() {
    let (mut scene, _) = Scene::with(1);
    scene.check_ordinary("");
    scene.check_ordinary(" \n ");
}
