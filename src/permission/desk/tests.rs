//! The desk by examples.

use serde_json::json;

use super::*;
use crate::{
    agent::{ActionKind, Choice, ChoiceOption, Question},
    ids::Engine,
};

/// When the desk's questions are asked by this machine's clock, and posted by the server's, which
/// is a day behind.
const ASKED: Timestamp = Timestamp::from_millis(1_800_000_000_000);
const POSTED: Timestamp = Timestamp::from_millis(1_799_913_600_000);
const LIMIT: Duration = Duration::from_mins(10);

pub(super) fn asked(thread: &str, turn: &str, id: &str, code: Code) -> Asked {
    Asked {
        thread: ThreadId::new(thread),
        turn: TurnId::new(turn),
        engine: Engine::CLAUDE,
        question: Question {
            id: QuestionId(id.to_owned()),
            tool: "Bash".to_owned(),
            kind: ActionKind::Run,
            subject: format!("echo {id}"),
            reason: None,
            input: json!({}),
            edits: Vec::new(),
            choices: Vec::new(),
        },
        code,
        directory: "/home/me/project".into(),
        always: Some("run(echo*)".to_owned()),
        post: ClientMsgId::new(format!("post {code}")),
        asked_at: ASKED,
        limit: LIMIT,
        takes_reasons: true,
    }
}

pub(super) fn options(labels: &[&str]) -> Choice {
    let option =
        |label: &&str| ChoiceOption { label: (*label).to_owned(), description: String::new() };
    Choice {
        question: "Which?".to_owned(),
        options: labels.iter().map(option).collect(),
        is_multiple: false,
        is_open: false,
    }
}

/// A desk with a thread, and the time.
pub(super) struct Scene {
    pub(super) desk: Desk<u32>,
    pub(super) thread: ThreadId,
    pub(super) turn: TurnId,
    asks: u32,
    messages: u32,
    /// Since the questions were asked, by all clocks.
    passed: Duration,
    how: How,
    has_times: bool,
}

impl Scene {
    fn new() -> Scene {
        Scene {
            desk: Desk::default(),
            thread: ThreadId::new("t"),
            turn: TurnId::new("turn"),
            asks: 0,
            messages: 0,
            passed: Duration::from_secs(1),
            how: How::Live,
            has_times: true,
        }
    }

    /// With `count` questions that are asked and posted.
    pub(super) fn with(count: u32) -> (Scene, Vec<Code>) {
        let mut scene = Scene::new();
        let codes = (0..count).map(|_| scene.ask()).collect::<Vec<_>>();
        for code in &codes {
            scene.posted(*code);
        }
        (scene, codes)
    }

    pub(super) fn now(&self) -> Now {
        Now { running: self.passed, wall: ASKED.plus(self.passed) }
    }

    pub(super) fn next(&mut self) -> Asked {
        self.asks += 1;
        let mut asked =
            asked("t", self.turn.as_str(), &format!("q{}", self.asks), Code::from_seed(self.asks));
        asked.asked_at = self.now().wall;
        asked
    }

    pub(super) fn ask(&mut self) -> Code {
        let asked = self.next();
        self.put(asked)
    }

    pub(super) fn put(&mut self, asked: Asked) -> Code {
        let code = asked.code;
        assert_eq!(self.desk.ask(asked, self.now()), []);
        code
    }

    fn ask_choice(&mut self, choices: Vec<Choice>) -> Code {
        let mut asked = self.next();
        asked.question.choices = choices;
        let code = self.put(asked);
        self.posted(code);
        code
    }

    fn server_time(&self) -> Timestamp {
        POSTED.plus(self.passed)
    }

    fn posted(&mut self, code: Code) {
        let at = self.has_times.then(|| self.server_time());
        self.desk.posted(&ClientMsgId::new(format!("post {code}")), at);
        self.passed += Duration::from_secs(1);
    }

    pub(super) fn hear(&mut self, text: &str) -> Hearing {
        let at = self.server_time();
        self.hear_written(text, self.has_times.then_some(at))
    }

    fn hear_written(&mut self, text: &str, written: Option<Timestamp>) -> Hearing {
        self.messages += 1;
        let id = MessageId::new(format!("m{}", self.messages));
        self.hear_as(&id, text, written)
    }

    fn hear_as(&mut self, id: &MessageId, text: &str, written: Option<Timestamp>) -> Hearing {
        let (thread, author, now) = (self.thread.clone(), Some("ann"), self.now());
        let heard = Heard { thread: &thread, id: Some(id), author, text, written, how: self.how };
        self.desk.hear(&heard, &self.messages.clone(), now)
    }

    /// Hears an answer and has it confirmed.
    #[track_caller]
    pub(super) fn answer(&mut self, text: &str) -> Closed<u32> {
        let Hearing::Decide(decision) = self.hear(text) else { panic!("{text:?} is no answer") };
        let closed = self.desk.confirmed(&decision.key, true).expect("it is on the desk");
        assert_eq!(closed.answer, Some(self.messages));
        assert_eq!(closed.verdict, Some(decision.verdict));
        closed
    }

    #[track_caller]
    pub(super) fn check(&mut self, text: &str, code: Code, verdict: &Verdict) {
        match self.hear(text) {
            Hearing::Decide(decision) => {
                assert_eq!((decision.key.code, &decision.verdict), (code, verdict), "{text:?}");
            }
            other => panic!("{text:?}: {other:?}"),
        }
    }

    #[track_caller]
    pub(super) fn check_denied(&mut self, text: &str, code: Code, part: &str) {
        match self.hear(text) {
            Hearing::Decide(Decision { key, verdict: Verdict::Deny { reason } }) => {
                assert_eq!(key.code, code, "{text:?}");
                assert!(reason.contains(part), "{text:?}: {reason}");
            }
            other => panic!("{text:?}: {other:?}"),
        }
    }

    #[track_caller]
    pub(super) fn check_reply(&mut self, text: &str, parts: &[&str]) {
        match self.hear(text) {
            Hearing::Reply(reply) => {
                for part in parts {
                    assert!(reply.contains(part), "{text:?}: {reply}");
                }
            }
            other => panic!("{text:?}: {other:?}"),
        }
    }

    #[track_caller]
    pub(super) fn check_ordinary(&mut self, text: &str) {
        assert_eq!(self.hear(text), Hearing::NotAnAnswer, "{text:?}");
    }
}

fn chosen(labels: &[&str]) -> Verdict {
    Verdict::Chosen(labels.iter().map(|label| vec![(*label).to_owned()]).collect())
}

#[test]
fn each_form_answers() {
    for (text, verdict) in [
        ("approve", Verdict::Allow),
        ("Yes", Verdict::Allow),
        ("allow.", Verdict::Allow),
        ("approve CODE", Verdict::Allow),
        ("yes code!", Verdict::Allow),
        ("always", Verdict::AllowAlways),
        ("ALWAYS CODE", Verdict::AllowAlways),
    ] {
        let (mut scene, codes) = Scene::with(1);
        let text = text.replace("CODE", &codes[0].to_string());
        scene.check(
            &text.replace("code", &codes[0].to_string().to_lowercase()),
            codes[0],
            &verdict,
        );
    }
    for (text, part) in [
        ("deny", "no reason"),
        ("no.", "no reason"),
        ("deny CODE", "no reason"),
        ("deny CODE because use tabs", "says: use tabs"),
        ("deny because use tabs", "says: use tabs"),
        ("use tabs", "says: use tabs"),
        ("approve everything", "says: approve everything"),
        ("CODE use tabs", "says: use tabs"),
        ("CODE no, use tabs", "says: no, use tabs"),
        ("CODE deny because use tabs", "says: use tabs"),
    ] {
        let (mut scene, codes) = Scene::with(1);
        scene.check_denied(&text.replace("CODE", &codes[0].to_string()), codes[0], part);
    }
}

#[test]
fn a_bare_word_is_for_the_oldest_and_the_reply_says_so() {
    let (mut scene, codes) = Scene::with(3);
    let closed = scene.answer("approve");
    assert_eq!(closed.asked.code, codes[0]);
    for part in ["Allowed", "by `ann`", "`echo q1`", "No question was named", &codes[1].to_string()]
    {
        assert!(closed.body.contains(part), "{part}: {}", closed.body);
    }
    assert_eq!(closed.closing, Closing { code: codes[0].to_string(), outcome: Outcome::Allowed });
    let closed = scene.answer(&format!("always {}", codes[2]));
    assert_eq!(closed.closing.outcome, Outcome::Always);
    assert!(closed.body.contains("`run(echo*)` is allowed"), "{}", closed.body);
    assert!(!closed.body.contains("No question was named"), "{}", closed.body);
    let closed = scene.answer("not like this");
    assert_eq!((closed.asked.code, closed.closing.outcome), (codes[1], Outcome::Denied));
    assert!(!closed.body.contains("Still open") && !closed.body.contains("was named"));
}

#[test]
fn two_are_answered_in_reverse_order() {
    let (mut scene, codes) = Scene::with(2);
    scene.check(&format!("approve {}", codes[1]), codes[1], &Verdict::Allow);
    scene.check_denied(&format!("deny {}", codes[0]), codes[0], "");
}

#[test]
fn repeated_late_and_unknown_answers_are_replied_to() {
    let (mut scene, codes) = Scene::with(2);
    let approve = format!("approve {}", codes[0]);
    scene.check(&approve, codes[0], &Verdict::Allow);
    scene.check_reply(&approve, &["answered already", "`ann`"]);
    let (turn, first) = (scene.turn.clone(), codes[0]);
    let key =
        Key { thread: scene.thread.clone(), turn, question: QuestionId("q1".into()), code: first };
    assert!(scene.desk.confirmed(&key, true).is_some());
    assert!(scene.desk.confirmed(&key, true).is_none());
    scene.check_reply(&approve, &["was allowed", "`ann`"]);
    scene.check_reply(&format!("{first} 2"), &["was allowed"]);
    scene.check_reply("approve X9X9", &["No question `X9X9`", &codes[1].to_string()]);
    scene.check_reply("X9X9 whatever", &["No question"]);
    scene.check_reply("approve К7Q2", &["not the code"]);
    scene.passed += LIMIT;
    scene.check_reply(&format!("approve {}", codes[1]), &["expired", "10 minutes"]);
    scene.check_reply("approve", &["expired"]);
    let closed = scene.desk.expire(scene.now());
    assert_eq!(closed.len(), 1);
    assert!(
        matches!(&closed[0].verdict, Some(Verdict::Deny { reason }) if reason.contains("Nobody"))
    );
    assert_eq!(closed[0].closing.outcome, Outcome::Expired);
    scene.check_reply(&format!("always {}", codes[1]), &["has expired"]);
}

/// After a question people still say its words, but to prose they say `yes` as well.
#[test]
fn bare_words_with_nothing_open() {
    let mut scene = Scene::new();
    scene.check_ordinary("yes");
    scene.check_ordinary("2");
    scene.check_ordinary("approve k0");
    scene.check_ordinary("K7Q2 is a fine board");
    scene.check_reply("approve K7Q2", &["No question `K7Q2`"]);
    scene.check_reply("K7Q2 2", &["No question `K7Q2`"]);
    let (mut scene, _) = Scene::with(1);
    scene.answer("yes");
    scene.check_reply("yes", &["No question is open", "was allowed"]);
    scene.check_ordinary("and now the README");
    let (thread, turn) = (scene.thread.clone(), scene.turn.clone());
    assert_eq!(scene.desk.turn_ended(&thread, &turn), []);
    scene.check_ordinary("yes");
    scene.check_ordinary("approve k70");
}

#[test]
fn a_word_written_before_the_question_is_no_answer() {
    for text in ["approve", "always", "yes", "CODE", "deny"] {
        let (mut scene, codes) = Scene::with(1);
        let text = text.replace("CODE", &format!("approve {}", codes[0]));
        let posted = POSTED.plus(Duration::from_secs(1));
        let before = Timestamp::from_millis(posted.as_millis() - 1);
        let hearing = scene.hear_written(&text, Some(before));
        assert!(matches!(&hearing, Hearing::Reply(why) if why.contains("before")), "{hearing:?}");
    }
    let (mut scene, codes) = Scene::with(1);
    let posted = POSTED.plus(Duration::from_secs(1));
    assert_eq!(scene.hear_written("fix the README", Some(posted)), Hearing::NotAnAnswer);
    assert!(matches!(scene.hear_written("approve", Some(posted)), Hearing::Reply(_)));
    let same = scene.hear_written(&format!("approve {}", codes[0]), Some(posted));
    assert!(matches!(same, Hearing::Decide(_)), "whole seconds: {same:?}");
}

#[test]
fn without_times_only_a_code_allows() {
    let mut scene = Scene { has_times: false, ..Scene::new() };
    let code = scene.ask();
    scene.posted(code);
    for text in ["approve", "always", "yes"] {
        scene.check_reply(text, &["name the question", &format!("`approve {code}`")]);
    }
    scene.check(&format!("approve {code}"), code, &Verdict::Allow);
    let code = scene.ask();
    scene.posted(code);
    scene.check_denied("stop that", code, "stop that");
}

#[test]
fn nothing_is_answered_while_catching_up() {
    let (mut scene, codes) = Scene::with(1);
    scene.how = How::CaughtUp;
    for text in ["approve", "deny", &format!("always {}", codes[0]), &format!("{} 1", codes[0])] {
        scene.check_reply(text, &["Say it again"]);
    }
    scene.check_ordinary("fix the README");
    scene.how = How::Live;
    scene.check("approve", codes[0], &Verdict::Allow);
}

#[test]
fn messages_wait_until_the_post_is_stored() {
    let mut scene = Scene::new();
    let code = scene.ask();
    assert_eq!(scene.hear("yes"), Hearing::Park);
    assert_eq!(scene.hear("tabs, please"), Hearing::Park);
    assert!(scene.desk.released(scene.now()).is_empty());
    scene.posted(code);
    assert_eq!(scene.desk.released(scene.now()), [1, 2]);
    assert!(scene.desk.released(scene.now()).is_empty());
    // Written before the post was stored.
    let early = scene.hear_as(&MessageId::new("m1"), "yes", Some(POSTED));
    assert!(matches!(early, Hearing::Reply(_)), "{early:?}");
    let code = scene.ask();
    scene.check_reply("approve X9X9", &["No question"]);
    scene.check(&format!("approve {code}"), code, &Verdict::Allow);
}

#[test]
fn the_parked_are_bounded_and_come_back() {
    let mut scene = Scene::new();
    scene.ask();
    for _ in 0..PARKED_MAX {
        assert_eq!(scene.hear("yes"), Hearing::Park);
    }
    scene.check_ordinary("yes");
    let (thread, turn) = (scene.thread.clone(), scene.turn.clone());
    let closed = scene.desk.turn_ended(&thread, &turn);
    assert_eq!(closed[0].closing.outcome, Outcome::Gone);
    assert_eq!(scene.desk.released(scene.now()).len(), PARKED_MAX);
    scene.check_ordinary("yes");
    let code = scene.ask();
    assert_eq!(scene.hear("later"), Hearing::Park);
    let key = QuestionId("q2".to_owned());
    assert_eq!(scene.desk.gone(&thread, &turn, &key).unwrap().asked.code, code);
    assert_eq!(scene.desk.released(scene.now()).len(), 1);
}

#[test]
fn the_same_message_answers_once() {
    let (mut scene, codes) = Scene::with(2);
    let (id, at) = (MessageId::new("m"), Some(scene.server_time()));
    assert!(matches!(scene.hear_as(&id, "approve", at), Hearing::Decide(_)));
    assert_eq!(scene.hear_as(&id, "approve", at), Hearing::Repeated);
    scene.check("approve", codes[1], &Verdict::Allow);
    scene.ask();
    assert_eq!(scene.hear_as(&MessageId::new("p"), "approve", at), Hearing::Park);
    assert_eq!(scene.hear_as(&MessageId::new("p"), "approve", at), Hearing::Repeated);
}

/// Somebody says `approve` to the first question in the moment in which it ends.
#[test]
fn a_bare_word_never_goes_over_to_a_younger_question() {
    let (mut scene, codes) = Scene::with(2);
    let (thread, turn) = (scene.thread.clone(), scene.turn.clone());
    assert!(scene.desk.gone(&thread, &turn, &QuestionId("q1".to_owned())).is_some());
    scene.check_reply("approve", &["An older question ended", &codes[1].to_string()]);
    scene.check(&format!("approve {}", codes[1]), codes[1], &Verdict::Allow);
    let code = scene.ask();
    scene.posted(code);
    scene.check("approve", code, &Verdict::Allow);
}

/// A machine that slept has not got consent: its monotonic clock stood still.
#[test]
fn any_clock_can_end_a_question() {
    for (running, wall, server) in [(600, 0, 0), (0, 600, 0), (0, 0, 601)] {
        for text in ["approve", "approve CODE", "always", "always CODE"] {
            let mut scene = Scene::new();
            let code = scene.ask();
            scene.posted(code);
            let start = scene.now();
            let now = Now {
                running: start.running + Duration::from_secs(running),
                wall: start.wall.plus(Duration::from_secs(wall)),
            };
            let text = text.replace("CODE", &code.to_string());
            let written = Some(scene.server_time().plus(Duration::from_secs(server)));
            let thread = scene.thread.clone();
            let heard = Heard {
                thread: &thread,
                id: None,
                author: None,
                text: &text,
                written,
                how: How::Live,
            };
            let hearing = scene.desk.hear(&heard, &1, now);
            assert!(
                matches!(&hearing, Hearing::Reply(why) if why.contains("expired")),
                "{text}: {hearing:?}"
            );
            assert_eq!(scene.desk.expire(now).len(), usize::from(server == 0));
        }
    }
}

#[test]
fn what_is_due_is_the_first_clock_s() {
    let (scene, _) = Scene::with(1);
    let now = scene.now();
    let left = scene.desk.due(now).unwrap();
    assert_eq!(left + Duration::from_secs(1), LIMIT);
    let ahead = Now { wall: now.wall.plus(Duration::from_mins(5)), ..now };
    assert_eq!(scene.desk.due(ahead), left.checked_sub(Duration::from_mins(5)));
    let back = Now { wall: POSTED, ..now };
    assert_eq!(scene.desk.due(back), Some(left));
    assert_eq!(Desk::<u32>::default().due(now), None);
}

#[test]
fn an_engine_that_asks_again_under_the_same_id_gets_no_old_answer() {
    let (mut scene, codes) = Scene::with(1);
    let mut again = scene.next();
    again.question.id = QuestionId("q1".to_owned());
    let code = again.code;
    let closed = scene.desk.ask(again, scene.now());
    assert_eq!((closed.len(), closed[0].closing.outcome), (1, Outcome::Gone));
    scene.posted(code);
    scene.check_reply(&format!("approve {}", codes[0]), &["no longer waited for"]);
    let Hearing::Decide(decision) = scene.hear(&format!("approve {code}")) else { panic!() };
    let first = Key { code: codes[0], ..decision.key.clone() };
    assert!(scene.desk.confirmed(&first, true).is_none());
    // The engine dies; its next turn asks under that id once more.
    let (thread, turn) = (scene.thread.clone(), scene.turn.clone());
    assert_eq!(scene.desk.turn_ended(&thread, &turn)[0].answer, Some(scene.messages));
    assert!(scene.desk.confirmed(&decision.key, true).is_none());
    scene.turn = TurnId::new("next");
    let mut again = scene.next();
    again.question.id = QuestionId("q1".to_owned());
    let next = scene.put(again);
    scene.posted(next);
    scene.check_reply(&format!("approve {code}"), &["ended with its turn", "`continue`"]);
    scene.check("approve", next, &Verdict::Allow);
}

#[test]
fn what_nobody_waits_for_any_more_was_not_allowed() {
    let (mut scene, codes) = Scene::with(1);
    let Hearing::Decide(decision) = scene.hear("approve") else { panic!() };
    let (thread, turn) = (scene.thread.clone(), scene.turn.clone());
    assert!(scene.desk.gone(&thread, &turn, &decision.key.question).is_none(), "it is answered");
    assert_eq!(scene.desk.expire(Now { running: LIMIT * 2, wall: ASKED }), []);
    let closed = scene.desk.confirmed(&decision.key, false).unwrap();
    assert_eq!((closed.verdict, closed.closing.outcome), (None, Outcome::Gone));
    assert_eq!(closed.answer, Some(1));
    scene.check_reply(&format!("approve {}", codes[0]), &["Nothing was allowed"]);
}

#[test]
fn questions_die_with_a_daemon() {
    let mut scene = Scene::new();
    let (thread, code) = (scene.thread.clone(), Code::from_seed(77));
    scene.desk.died(&thread, &[code]);
    scene.check_reply("approve", &["died with its turn", "`continue`"]);
    scene.check_reply("yes", &["died"]);
    scene.how = How::CaughtUp;
    scene.check_reply("yes", &["died"]);
    scene.how = How::Live;
    scene.check_reply(&format!("{code} 2"), &["died"]);
    scene.check_ordinary("continue");
    scene.check_ordinary("yes");
    scene.check_reply(&format!("approve {code}"), &["died"]);
}

#[test]
fn choices_are_answered() {
    for (text, expected) in [
        ("CODE 2", Ok(chosen(&["No"]))),
        ("1", Ok(chosen(&["Yes"]))),
        ("yes", Ok(chosen(&["Yes"]))),
        ("No", Ok(chosen(&["No"]))),
        ("CODE no", Ok(chosen(&["No"]))),
        ("CODE yes", Ok(chosen(&["Yes"]))),
        ("maybe", Ok(Verdict::Deny { reason: words::denied_because("maybe") })),
        ("deny", Ok(Verdict::Deny { reason: words::denied() })),
        ("deny CODE because of x", Ok(Verdict::Deny { reason: words::denied_because("of x") })),
        ("3", Err("options 1 to 2")),
        ("CODE 0", Err("options 1 to 2")),
        ("CODE", Err("Say what you choose")),
        ("approve", Err("stays open")),
        ("approve CODE", Err("stays open")),
        ("always CODE", Err("nothing to allow")),
    ] {
        let mut scene = Scene::new();
        let code = scene.ask_choice(vec![options(&["Yes", "No"])]);
        let text = text.replace("CODE", &code.to_string());
        match expected {
            Ok(verdict) => scene.check(&text, code, &verdict),
            Err(part) => scene.check_reply(&text, &[part, &code.to_string()]),
        }
    }
    let mut scene = Scene::new();
    let code =
        scene.ask_choice(vec![options(&["a", "b"]), Choice { is_open: true, ..options(&["c"]) }]);
    scene.check(&format!("{code}\n2\nsomething else"), code, &chosen(&["b", "something else"]));
    let code = scene.ask_choice(vec![Choice { is_open: true, ..options(&["a"]) }]);
    let closed = scene.answer("deny because x");
    assert_eq!((closed.asked.code, closed.closing.outcome), (code, Outcome::Denied));
    let code = scene.ask_choice(vec![options(&["a"])]);
    let closed = scene.answer(&format!("{code} a"));
    assert_eq!(closed.closing.outcome, Outcome::Answered);
}

#[test]
fn a_number_is_for_a_choice_only() {
    let (mut scene, codes) = Scene::with(1);
    scene.check_reply(&format!("{} 2", codes[0]), &["stays open"]);
    let code = scene.ask_choice(vec![options(&["a", "b"])]);
    scene.check_reply("2", &["no numbered options"]);
    scene.check(&format!("{code} 2"), code, &chosen(&["b"]));
}

#[test]
fn always_needs_a_rule() {
    let mut scene = Scene::new();
    let code = scene.put(Asked { always: None, ..asked("t", "turn", "q", Code::from_seed(5)) });
    scene.posted(code);
    scene.check_reply("always", &["no rule", "stays open"]);
    scene.check_reply(&format!("always {code}"), &["no rule"]);
    scene.check_reply(&format!("{code} approve"), &["stays open", &format!("`approve {code}`")]);
    scene.check("approve", code, &Verdict::Allow);
}
