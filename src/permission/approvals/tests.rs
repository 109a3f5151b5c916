//! The approvals by examples.

use serde_json::json;

use super::*;
use crate::{
    agent::{ActionKind, Choice, ChoiceOption, Question},
    ids::Engine,
};

/// When questions are asked by this machine's clock, and stored by the bridge's, which is a day
/// behind.
const ASKED: Timestamp = Timestamp::from_millis(1_800_000_000_000);
const POSTED: Timestamp = Timestamp::from_millis(1_799_913_600_000);
const LIMIT: Duration = Duration::from_mins(10);

pub(super) fn request(thread: &str, turn: &str, id: &str, code: Code) -> ApprovalRequest {
    ApprovalRequest {
        thread: ThreadId::new(thread),
        turn: TurnId::new(turn),
        engine: Engine::CLAUDE,
        question: Question {
            id: QuestionId(id.to_owned()),
            tool: "Bash".to_owned(),
            kind: ActionKind::Run,
            subject: format!("echo {id}"),
            input: json!({}),
            ..Question::default()
        },
        code,
        directory: "/home/me/project".into(),
        rule: None,
        why: "no rule matches all of this".to_owned(),
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

/// Approvals with a thread, and the time.
pub(super) struct Scene {
    pub(super) approvals: PendingApprovals<u32>,
    pub(super) thread: ThreadId,
    pub(super) turn: TurnId,
    asks: u32,
    messages: u32,
    /// Since the questions were asked, by all clocks.
    pub(super) passed: Duration,
    is_caught_up: bool,
    pub(super) is_by_token: bool,
    has_times: bool,
}

impl Scene {
    fn new() -> Scene {
        Scene {
            approvals: PendingApprovals::default(),
            thread: ThreadId::new("t"),
            turn: TurnId::new("turn"),
            asks: 0,
            messages: 0,
            passed: Duration::from_secs(1),
            is_caught_up: false,
            is_by_token: false,
            has_times: true,
        }
    }

    /// With `count` questions that are asked and posted.
    pub(super) fn with(count: u32) -> (Scene, Vec<Code>) {
        let mut scene = Scene::new();
        let codes = (0..count).map(|_| scene.ask()).collect::<Vec<_>>();
        for code in &codes {
            scene.stored(*code);
        }
        (scene, codes)
    }

    pub(super) fn now(&self) -> Now {
        Now { running: self.passed, wall: ASKED.plus(self.passed) }
    }

    pub(super) fn next(&mut self) -> ApprovalRequest {
        self.asks += 1;
        let mut request = request(
            "t",
            self.turn.as_str(),
            &format!("q{}", self.asks),
            Code::from_seed(self.asks),
        );
        request.asked_at = self.now().wall;
        request
    }

    pub(super) fn ask(&mut self) -> Code {
        let request = self.next();
        self.put(request)
    }

    pub(super) fn put(&mut self, request: ApprovalRequest) -> Code {
        let code = request.code;
        assert_eq!(self.approvals.ask(request, self.now()), []);
        code
    }

    pub(super) fn ask_choice(&mut self, choices: Vec<Choice>) -> Code {
        let mut request = self.next();
        request.question.choices = choices;
        let code = self.put(request);
        self.stored(code);
        code
    }

    fn key(&self, at: usize, codes: &[Code]) -> Key {
        let question = QuestionId(format!("q{}", at + 1));
        Key { thread: self.thread.clone(), turn: self.turn.clone(), question, code: codes[at] }
    }

    /// The engine has the verdict.
    fn confirm(&mut self, code: Code) {
        let request = self.approvals.open(&self.thread).find(|request| request.code == code);
        let key = Key::of(request.expect("it is open"));
        self.approvals.confirmed(&key).expect("it is answered");
    }

    pub(super) fn server_time(&self) -> Timestamp {
        POSTED.plus(self.passed)
    }

    pub(super) fn stored(&mut self, code: Code) {
        let at = self.has_times.then(|| self.server_time());
        self.approvals.stored(&ClientMsgId::new(format!("post {code}")), at);
        self.passed += Duration::from_secs(1);
    }

    pub(super) fn say(&mut self, text: &str) -> Match {
        let at = self.server_time();
        self.say_at(text, self.has_times.then_some(at))
    }

    pub(super) fn say_at(&mut self, text: &str, written: Option<Timestamp>) -> Match {
        self.messages += 1;
        let id = MessageId::new(format!("m{}", self.messages));
        self.say_as(&id, text, written)
    }

    fn say_as(&mut self, id: &MessageId, text: &str, written: Option<Timestamp>) -> Match {
        let (thread, author, now) = (self.thread.clone(), Some("ann"), self.now());
        let (is_caught_up, is_by_token, id) = (self.is_caught_up, self.is_by_token, Some(id));
        let incoming =
            Incoming { thread: &thread, id, author, text, written, is_caught_up, is_by_token };
        self.approvals.match_message(&incoming, self.messages, now)
    }

    /// Says an answer and has it confirmed.
    #[track_caller]
    pub(super) fn answer(&mut self, text: &str) -> Closed<u32> {
        let Match::Answer(answer) = self.say(text) else { panic!("{text:?} is no answer") };
        let closed = self.approvals.confirmed(&Key::of(&answer.request)).expect("it is pending");
        assert_eq!(closed.answer, Some(self.messages));
        assert_eq!(closed.verdict, Some(answer.verdict));
        closed
    }

    #[track_caller]
    pub(super) fn check(&mut self, text: &str, code: Code, verdict: &Verdict) {
        match self.say(text) {
            Match::Answer(answer) => {
                assert_eq!((answer.request.code, &answer.verdict), (code, verdict), "{text:?}");
            }
            other => panic!("{text:?}: {other:?}"),
        }
    }

    #[track_caller]
    pub(super) fn check_denied(&mut self, text: &str, code: Code, part: &str) {
        match self.say(text) {
            Match::Answer(Decided { request, verdict: Verdict::Deny { reason } }) => {
                assert_eq!(request.code, code, "{text:?}");
                assert!(reason.contains(part), "{text:?}: {reason}");
            }
            other => panic!("{text:?}: {other:?}"),
        }
    }

    #[track_caller]
    pub(super) fn check_explained(&mut self, text: &str, parts: &[&str]) {
        match self.say(text) {
            Match::Explain(reply) => {
                for part in parts {
                    assert!(reply.contains(part), "{text:?}: {reply}");
                }
            }
            other => panic!("{text:?}: {other:?}"),
        }
    }

    #[track_caller]
    pub(super) fn check_ordinary(&mut self, text: &str) {
        assert_eq!(self.say(text), Match::NotAnAnswer, "{text:?}");
    }
}

fn chosen(labels: &[&str]) -> Verdict {
    Verdict::Chosen(labels.iter().map(|label| vec![(*label).to_owned()]).collect())
}

#[test]
fn each_form_answers() {
    for (texts, verdict) in [
        ("approve|Yes|allow.|approve CODE|yes code!", Verdict::Allow),
        ("always|ALWAYS CODE", Verdict::AllowAlways),
    ] {
        for text in texts.split('|') {
            let (mut scene, codes) = Scene::with(1);
            let code = codes[0].to_string();
            let text = text.replace("CODE", &code).replace("code", &code.to_lowercase());
            scene.check(&text, codes[0], &verdict);
        }
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
fn a_bare_word_needs_the_only_open_question() {
    let (mut scene, codes) = Scene::with(3);
    for text in ["approve", "yes", "always", "no", "deny because x", "not like this", "2"] {
        let [first, second, third] = [0, 1, 2].map(|at| format!("`approve {}`", codes[at]));
        scene.check_explained(text, &["3 questions are pending", &first, &second, &third]);
    }
    let closed = scene.answer(&format!("yes {}", codes[0]));
    for part in ["Allowed", "by `ann`", "`echo q1`", "Still open", &codes[1].to_string()] {
        assert!(closed.body.contains(part), "{part}: {}", closed.body);
    }
    assert_eq!(closed.closing, Closing { code: codes[0].to_string(), outcome: Outcome::Allowed });
    let closed = scene.answer(&format!("always {}", codes[2]));
    assert_eq!(closed.closing.outcome, Outcome::Always);
    assert!(closed.body.contains("project (`run(echo*)`)."), "{}", closed.body);
    let closed = scene.answer("not like this");
    assert_eq!((closed.request.code, closed.closing.outcome), (codes[1], Outcome::Denied));
    assert!(!closed.body.contains("Still open"));
}

/// Two were open when it was written. One was answered since, which its writer did not see.
#[test]
fn a_bare_word_older_than_another_s_answer_needs_the_code() {
    let (mut scene, codes) = Scene::with(2);
    let before = scene.server_time();
    scene.passed += Duration::from_secs(1);
    let answered = scene.server_time();
    scene.answer(&format!("approve {}", codes[0]));
    for at in [before, answered] {
        let matched = scene.say_at("yes", Some(at));
        assert!(
            matches!(&matched, Match::Explain(why) if why.contains("Another question ended")),
            "{matched:?}"
        );
    }
    scene.passed += Duration::from_secs(1);
    let untimed = scene.say_at("yes", None);
    assert!(matches!(&untimed, Match::Explain(why) if why.contains("not say when")), "{untimed:?}");
    scene.check("yes", codes[1], &Verdict::Allow);
    // An answer without a time may be older or younger than anything.
    let (mut scene, codes) = Scene::with(2);
    let untimed = scene.say_at(&format!("approve {}", codes[0]), None);
    assert!(matches!(untimed, Match::Answer(_)), "{untimed:?}");
    scene.check_explained("yes", &["Another question ended"]);
}

#[test]
fn repeated_late_and_unknown_answers_are_replied_to() {
    let (mut scene, codes) = Scene::with(2);
    let approve = format!("approve {}", codes[0]);
    scene.check(&approve, codes[0], &Verdict::Allow);
    scene.check_explained(&approve, &["answered already", "`ann`"]);
    let first = codes[0];
    let key = scene.key(0, &codes);
    assert!(scene.approvals.confirmed(&key).is_some());
    assert!(scene.approvals.confirmed(&key).is_none());
    scene.check_explained(&approve, &["is over", "Allowed", "`ann`"]);
    scene.check_explained(&format!("{first} 2"), &["Allowed"]);
    scene.check_explained("approve X9X9", &["No question `X9X9`", &codes[1].to_string()]);
    scene.check_explained("X9X9 whatever", &["No question"]);
    scene.check_explained("approve К7Q2", &["No question `К7Q2`"]);
    scene.passed += LIMIT;
    scene.check_explained(&format!("approve {}", codes[1]), &["expired", "10 minutes"]);
    scene.check_explained("approve", &["expired"]);
    let closed = scene.approvals.expire(scene.now());
    assert_eq!(closed.len(), 1);
    assert!(
        matches!(&closed[0].verdict, Some(Verdict::Deny { reason }) if reason.contains("Nobody"))
    );
    assert_eq!(closed[0].closing.outcome, Outcome::Expired);
    scene.check_explained(&format!("always {}", codes[1]), &["Expired"]);
}

/// After a question people still say its words, but to prose they say `yes` as well.
#[test]
fn bare_words_with_nothing_open() {
    let mut scene = Scene::new();
    scene.check_ordinary("yes");
    scene.check_ordinary("2");
    scene.check_ordinary("approve k0");
    scene.check_ordinary("K7Q2 is a fine board");
    scene.check_explained("approve K7Q2", &["No question `K7Q2`"]);
    scene.check_explained("K7Q2 2", &["No question `K7Q2`"]);
    let (mut scene, _) = Scene::with(1);
    scene.answer("yes");
    scene.check_explained("yes", &["is over", "Allowed"]);
    scene.check_ordinary("and now the README");
    let (thread, turn) = (scene.thread.clone(), scene.turn.clone());
    assert_eq!(scene.approvals.turn_ended(&thread, &turn), []);
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
        let matched = scene.say_at(&text, Some(before));
        assert!(matches!(&matched, Match::Explain(why) if why.contains("before")), "{matched:?}");
    }
    let (mut scene, codes) = Scene::with(1);
    let posted = POSTED.plus(Duration::from_secs(1));
    assert_eq!(scene.say_at("fix the README", Some(posted)), Match::NotAnAnswer);
    assert!(matches!(scene.say_at("approve", Some(posted)), Match::Explain(_)));
    let same = scene.say_at(&format!("approve {}", codes[0]), Some(posted));
    assert!(matches!(same, Match::Answer(_)), "whole seconds: {same:?}");
}

#[test]
fn without_times_only_a_code_allows() {
    let mut scene = Scene { has_times: false, ..Scene::new() };
    let code = scene.ask();
    scene.stored(code);
    for text in ["approve", "always", "yes"] {
        scene.check_explained(text, &["name the question", &format!("`approve {code}`")]);
    }
    scene.check(&format!("approve {code}"), code, &Verdict::Allow);
    let code = scene.ask();
    scene.stored(code);
    scene.check_denied("stop that", code, "stop that");
}

#[test]
fn nothing_is_answered_while_catching_up() {
    let (mut scene, codes) = Scene::with(1);
    scene.is_caught_up = true;
    for text in ["approve", "deny", &format!("always {}", codes[0]), &format!("{} 1", codes[0])] {
        scene.check_explained(text, &["Send it again"]);
    }
    scene.check_ordinary("fix the README");
    scene.is_caught_up = false;
    scene.check("approve", codes[0], &Verdict::Allow);
}

/// Nobody can have seen a question whose post is not stored.
#[test]
fn before_its_post_is_stored_only_the_code_answers() {
    let mut scene = Scene::new();
    let code = scene.ask();
    for text in ["yes", "always", "no"] {
        scene.check_explained(text, &["before the question", &format!("`approve {code}`")]);
    }
    scene.check_ordinary("tabs, please");
    scene.stored(code);
    let early = scene.say_at("yes", Some(POSTED));
    assert!(matches!(early, Match::Explain(_)), "{early:?}");
    scene.check("yes", code, &Verdict::Allow);
    let code = scene.ask();
    scene.check_explained("approve X9X9", &["No question"]);
    scene.check(&format!("approve {code}"), code, &Verdict::Allow);
}

#[test]
fn the_same_message_answers_once() {
    let (mut scene, codes) = Scene::with(2);
    let (id, at) = (MessageId::new("m"), Some(scene.server_time()));
    let text = format!("approve {}", codes[0]);
    assert!(matches!(scene.say_as(&id, &text, at), Match::Answer(_)));
    assert_eq!(scene.say_as(&id, &text, at), Match::Repeated);
    scene.check(&format!("approve {}", codes[1]), codes[1], &Verdict::Allow);
}

/// A human says `approve` to one of two questions in the moment in which it ends.
#[test]
fn a_bare_word_never_goes_over_to_another_question() {
    for ended in [0, 1] {
        let (mut scene, codes) = Scene::with(2);
        let left = codes[1 - ended];
        let key = scene.key(ended, &codes);
        assert!(scene.approvals.withdrawn(&key).is_some());
        scene.check_explained("approve", &["Another question ended", &left.to_string()]);
        scene.check(&format!("approve {left}"), left, &Verdict::Allow);
        scene.confirm(left);
        let code = scene.ask();
        scene.stored(code);
        scene.check("approve", code, &Verdict::Allow);
    }
    // One has expired, and nothing has said so yet.
    let mut scene = Scene::new();
    let short = ApprovalRequest { limit: Duration::from_secs(5), ..scene.next() };
    let short = scene.put(short);
    scene.stored(short);
    let code = scene.ask();
    scene.stored(code);
    scene.passed += Duration::from_secs(10);
    scene.check_explained("approve", &["2 questions are pending"]);
    assert_eq!(scene.approvals.expire(scene.now()).len(), 1);
    scene.check_explained("approve", &["Another question ended"]);
}

/// A machine that slept has not got consent: its monotonic clock stood still.
#[test]
fn any_clock_can_end_a_question() {
    for (running, wall, server) in [(600, 0, 0), (0, 600, 0), (0, 0, 601)] {
        for text in ["approve", "approve CODE", "always", "always CODE"] {
            let mut scene = Scene::new();
            let code = scene.ask();
            scene.stored(code);
            let start = scene.now();
            let now = Now {
                running: start.running + Duration::from_secs(running),
                wall: start.wall.plus(Duration::from_secs(wall)),
            };
            let text = text.replace("CODE", &code.to_string());
            let written = Some(scene.server_time().plus(Duration::from_secs(server)));
            let thread = scene.thread.clone();
            let (thread, text) = (&thread, &text);
            let (id, author, is_caught_up) = (None, None, false);
            let is_by_token = false;
            let incoming =
                Incoming { thread, id, author, text, written, is_caught_up, is_by_token };
            let matched = scene.approvals.match_message(&incoming, 1, now);
            assert!(
                matches!(&matched, Match::Explain(why) if why.contains("expired")),
                "{text}: {matched:?}"
            );
            assert_eq!(scene.approvals.expire(now).len(), usize::from(server == 0));
        }
    }
}

#[test]
fn what_is_due_is_the_first_clock_s() {
    let (scene, _) = Scene::with(1);
    let now = scene.now();
    let left = scene.approvals.due(now).unwrap();
    assert_eq!(left + Duration::from_secs(1), LIMIT);
    let ahead = Now { wall: now.wall.plus(Duration::from_mins(5)), ..now };
    assert_eq!(scene.approvals.due(ahead), left.checked_sub(Duration::from_mins(5)));
    let back = Now { wall: POSTED, ..now };
    assert_eq!(scene.approvals.due(back), Some(left));
    assert_eq!(PendingApprovals::<u32>::default().due(now), None);
}

#[test]
fn an_engine_that_asks_again_under_the_same_id_gets_no_old_answer() {
    let (mut scene, codes) = Scene::with(1);
    let mut again = scene.next();
    again.question.id = QuestionId("q1".to_owned());
    let code = again.code;
    let closed = scene.approvals.ask(again, scene.now());
    assert_eq!((closed.len(), closed[0].closing.outcome), (1, Outcome::Gone));
    scene.stored(code);
    scene.check_explained(&format!("approve {}", codes[0]), &["no longer waits for it"]);
    let Match::Answer(answer) = scene.say(&format!("approve {code}")) else { panic!() };
    let first = Key { code: codes[0], ..Key::of(&answer.request) };
    assert!(scene.approvals.confirmed(&first).is_none());
    // The engine dies; its next turn asks under that id once more.
    let (thread, turn) = (scene.thread.clone(), scene.turn.clone());
    assert_eq!(scene.approvals.turn_ended(&thread, &turn)[0].answer, Some(scene.messages));
    assert!(scene.approvals.confirmed(&Key::of(&answer.request)).is_none());
    scene.turn = TurnId::new("next");
    let mut again = scene.next();
    again.question.id = QuestionId("q1".to_owned());
    let next = scene.put(again);
    scene.stored(next);
    scene.check_explained(&format!("approve {code}"), &["ended with its turn"]);
    scene.check("approve", next, &Verdict::Allow);
}

#[test]
fn what_nobody_waits_for_any_more_was_not_allowed() {
    let (mut scene, codes) = Scene::with(1);
    let Match::Answer(answer) = scene.say("approve") else { panic!() };
    assert_eq!(scene.approvals.expire(Now { running: LIMIT * 2, wall: ASKED }), []);
    let closed = scene.approvals.withdrawn(&Key::of(&answer.request)).unwrap();
    assert_eq!((closed.verdict, closed.closing.outcome), (None, Outcome::Gone));
    assert_eq!(closed.answer, Some(1));
    scene.check_explained(&format!("approve {}", codes[0]), &["nothing was allowed"]);
}

#[test]
fn questions_are_orphaned_with_their_daemon() {
    let mut scene = Scene::new();
    let (thread, code) = (scene.thread.clone(), Code::from_seed(77));
    scene.approvals.orphaned(&thread, &[code]);
    scene.check_explained("approve", &["ended with its turn when the daemon", "`continue`"]);
    scene.check_explained("yes", &["when the daemon was restarted"]);
    scene.is_caught_up = true;
    scene.check_explained("yes", &["when the daemon was restarted"]);
    scene.is_caught_up = false;
    scene.check_explained(&format!("{code} 2"), &["when the daemon was restarted"]);
    scene.check_ordinary("continue");
    scene.check_ordinary("yes");
    scene.check_explained(&format!("approve {code}"), &["when the daemon was restarted"]);
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
        ("maybe", Ok(Verdict::Deny { reason: texts::denied_because("maybe") })),
        ("deny", Ok(Verdict::Deny { reason: texts::denied() })),
        ("deny CODE because of x", Ok(Verdict::Deny { reason: texts::denied_because("of x") })),
        ("3", Err("options 1 to 2")),
        ("CODE 0", Err("options 1 to 2")),
        ("CODE", Err("Say which option")),
        ("approve", Err("stays open")),
        ("approve CODE", Err("stays open")),
        ("always CODE", Err("nothing to allow")),
    ] {
        let mut scene = Scene::new();
        let code = scene.ask_choice(vec![options(&["Yes", "No"])]);
        let text = text.replace("CODE", &code.to_string());
        match expected {
            Ok(verdict) => scene.check(&text, code, &verdict),
            Err(part) => scene.check_explained(&text, &[part, &code.to_string()]),
        }
    }
    let mut scene = Scene::new();
    let code =
        scene.ask_choice(vec![options(&["a", "b"]), Choice { is_open: true, ..options(&["c"]) }]);
    scene.check(&format!("{code}\n2\nsomething else"), code, &chosen(&["b", "something else"]));
    let code = scene.ask_choice(vec![Choice { is_open: true, ..options(&["a"]) }]);
    let closed = scene.answer("deny because x");
    assert_eq!((closed.request.code, closed.closing.outcome), (code, Outcome::Denied));
    let code = scene.ask_choice(vec![options(&["a"])]);
    let closed = scene.answer(&format!("{code} a"));
    assert_eq!(closed.closing.outcome, Outcome::Answered);
}

#[test]
fn a_number_is_for_a_choice_only() {
    let (mut scene, codes) = Scene::with(1);
    scene.check_explained(&format!("{} 2", codes[0]), &["stays open"]);
    let code = scene.ask_choice(vec![options(&["a", "b"])]);
    scene.check_explained("2", &["2 questions are pending", &format!("`{code} 1`")]);
    scene.check(&format!("{code} 2"), code, &chosen(&["b"]));
}

#[test]
fn always_needs_a_rule() {
    let mut scene = Scene::new();
    let code = scene
        .put(ApprovalRequest { always: None, ..request("t", "turn", "q", Code::from_seed(5)) });
    scene.stored(code);
    scene.check_explained("always", &["No rule", "stays open"]);
    scene.check_explained(&format!("always {code}"), &["No rule"]);
    scene
        .check_explained(&format!("{code} approve"), &["stays open", &format!("`approve {code}`")]);
    scene.check("approve", code, &Verdict::Allow);
}
