//! What the approvals do with too much: long texts, many questions, many threads.

use super::{
    tests::{Scene, request},
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
