//! What an engine asks and a human answers, over the real bridge and the real daemon.

use std::fs;

use serde_json::{Value, json};

use super::{Bridge, Ears};
use crate::util::{
    daemon::{Daemon, Machine},
    fake::example,
};

/// A machine whose agent asks before it acts.
pub(super) struct Asker {
    pub(super) bridge: Bridge,
    pub(super) machine: Machine,
}

impl Asker {
    pub(super) fn new() -> Asker {
        let bridge = Bridge::start();
        let machine = with_asker(bridge.machine());
        Asker { bridge, machine }
    }

    pub(super) fn with(mut self, key: &str, value: Value) -> Asker {
        self.machine.set(key, value);
        self
    }

    pub(super) fn start(&self) -> (Daemon, Ears) {
        (self.machine.connected(), self.bridge.listen())
    }

    pub(super) fn say(&self, body: &str) {
        self.bridge.say("t", body);
    }

    /// Says something without a code, which counts once the daemon knows that the question is stored.
    pub(super) fn say_bare(&self, body: &str) {
        self.machine.wait_for(|machine| machine.left()[2] == 0);
        self.say(body);
    }

    /// What was allowed, and done.
    pub(super) fn done(&self) -> Vec<String> {
        done(&self.machine)
    }

    /// The audit's rulings and what they were about.
    pub(super) fn audit(&self) -> Vec<(String, String)> {
        let text = fs::read_to_string(self.machine.state_file("audit.jsonl")).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let word = |line: &Value, key: &str| line[key].as_str().unwrap().to_owned();
        lines.map(|line| (word(&line, "ruling"), word(&line, "subject"))).collect()
    }
}

/// With an agent that asks before it acts.
pub(super) fn with_asker(machine: Machine) -> Machine {
    let records = machine.project().join("done");
    let program = example("asking-agent");
    let command = [program.display().to_string(), records.display().to_string()];
    machine.with_agent("asker", &command).with("relayPermissions", true)
}

/// What that agent was allowed, and did.
pub(super) fn done(machine: &Machine) -> Vec<String> {
    let text = fs::read_to_string(machine.project().join("done")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// The next question about this command: its code.
#[track_caller]
pub(super) fn question(ears: &mut Ears, command: &str) -> String {
    let body = ears.expect("t", "question", command);
    for part in ["asker", "run a command", "`approve ", "`deny ", "10 min"] {
        assert!(body.contains(part), "{part:?}: {body}");
    }
    code(&body)
}

/// The code on a card.
#[track_caller]
pub(super) fn code(body: &str) -> String {
    let code = body.split("Question `").nth(1).expect("a code").split('`').next().unwrap();
    assert_eq!(code.len(), 4, "{body}");
    code.to_owned()
}

/// Posts of these kinds with these words, in whatever order: what became of a question is said beside
/// what the engine says next.
#[track_caller]
pub(super) fn expect_all(ears: &mut Ears, expected: &[(&str, &str)]) {
    let mut posts: Vec<Value> = expected.iter().map(|_| ears.post()).collect();
    for (kind, word) in expected {
        let fits = |post: &Value| {
            post["kind"] == *kind && post["body"].as_str().is_some_and(|body| body.contains(word))
        };
        let at = posts.iter().position(fits);
        posts.remove(at.unwrap_or_else(|| panic!("no {kind} says {word:?}: {posts:#?}")));
    }
}

#[test]
fn an_answer_by_code_or_by_a_bare_word_allows() {
    let asker = Asker::new();
    let (_daemon, mut ears) = asker.start();
    asker.say("ask make\nask-again make install");
    let code = question(&mut ears, "make");
    asker.say(&format!("approve {}", code.to_lowercase()));
    expect_all(&mut ears, &[("status", &code), ("question", "make install")]);
    asker.say_bare(" Yes ");
    expect_all(&mut ears, &[("status", "llowed"), ("result", "did make; did make install")]);
    assert_eq!(asker.done(), ["make", "make install"]);
    let rulings = asker.audit();
    let rulings: Vec<_> = rulings.iter().map(|(ruling, what)| (&**ruling, &**what)).collect();
    assert_eq!(
        rulings,
        [("ask", "make"), ("allow", "make"), ("ask", "make install"), ("allow", "make install")]
    );
}

/// What an agent could read on this machine is the machine's token: with it nothing is allowed, by
/// whatever words, and whatever the body claims.
#[test]
fn a_machine_s_token_approves_nothing() {
    let asker = Asker::new();
    let (_daemon, mut ears) = asker.start();
    asker.say("ask make");
    let code = question(&mut ears, "make");
    asker.machine.wait_for(|machine| machine.left()[2] == 0);
    let by_token = |body: &str| {
        let claims = json!({ "threadId": "t", "body": body, "via": "session", "role": "human",
                             "author": "ada", "agent": "asker" });
        asker.bridge.request("/api/reply", &claims);
    };
    for answer in ["approve", "yes", "always"] {
        for text in [answer.to_owned(), format!("{answer} {code}")] {
            by_token(&text);
            let body = ears.expect("t", "status", "a machine's token");
            assert!(body.contains(&code) && body.contains("stays open"), "{body}");
        }
    }
    assert!(asker.done().is_empty());
    // A person is heard as before, and the token's prompts are prompts.
    asker.say(&format!("approve {code}"));
    expect_all(&mut ears, &[("status", &code), ("result", "did make")]);
    by_token("ask make clean");
    let code = question(&mut ears, "make clean");
    by_token(&format!("deny {code} because it is late"));
    expect_all(&mut ears, &[("status", "Refused"), ("result", "did not make clean")]);
    assert_eq!(asker.done(), ["make"]);
}

#[test]
fn two_at_once_are_answered_in_any_order() {
    let asker = Asker::new();
    let (_daemon, mut ears) = asker.start();
    asker.say("ask first\nask second");
    let (first, second) = (question(&mut ears, "first"), question(&mut ears, "second"));
    assert_ne!(first, second);
    asker.say(&format!("deny {second} because it is late"));
    ears.expect("t", "status", &second);
    asker.say(&format!("approve {first}"));
    expect_all(&mut ears, &[("status", &first), ("result", "did not second; did first")]);
    assert_eq!(asker.done(), ["first"]);
}

/// Nothing is guessed: with two questions open, a text without a code is for neither.
#[test]
fn with_two_open_an_answer_names_its_question() {
    let asker = Asker::new();
    let (_daemon, mut ears) = asker.start();
    asker.say("ask first\nask second");
    let (first, second) = (question(&mut ears, "first"), question(&mut ears, "second"));
    for text in ["yes", "no", "neither of them, please"] {
        asker.say_bare(text);
        let body = ears.expect("t", "status", "2 questions are pending");
        assert!(body.contains(&first) && body.contains(&second), "{body}");
    }
    assert!(asker.done().is_empty());
    asker.say(&format!("yes {second}"));
    ears.expect("t", "status", &second);
    asker.say_bare("yes");
    expect_all(&mut ears, &[("status", &first), ("result", "did second; did first")]);
    assert_eq!(asker.done(), ["second", "first"]);
}

#[test]
fn any_other_text_denies_and_is_no_prompt() {
    let asker = Asker::new();
    let (_daemon, mut ears) = asker.start();
    asker.say("ask rm -rf build");
    question(&mut ears, "rm -rf build");
    asker.say_bare("please do not, the tests still need it");
    expect_all(&mut ears, &[("status", "Refused"), ("result", "did not rm -rf build")]);
    asker.say("hello");
    ears.expect("t", "result", "nothing to ask");
    assert!(asker.done().is_empty());
}

#[test]
fn always_holds_on_the_thread_and_over_a_restart() {
    let asker = Asker::new();
    let (daemon, mut ears) = asker.start();
    asker.say("ask make test");
    let code = question(&mut ears, "make test");
    asker.say(&format!("always {code}"));
    expect_all(&mut ears, &[("status", "make test"), ("result", "did make test")]);
    asker.say("ask make test");
    ears.expect("t", "result", "did make test");
    daemon.stop();
    let _daemon = asker.machine.connected();
    asker.say("ask make test");
    ears.expect("t", "result", "did make test");
    asker.say("ask make test && rm -rf /");
    question(&mut ears, "rm -rf /");
    asker.bridge.say("other", "ask make test");
    ears.expect("other", "question", "make test");
    assert_eq!(asker.done().len(), 3);
}

#[test]
fn nobody_answering_is_no() {
    let asker = Asker::new().with("relayTimeoutMs", json!(300));
    let (_daemon, mut ears) = asker.start();
    asker.say("ask make");
    let body = ears.expect("t", "question", "make");
    let code = body.split("Question `").nth(1).unwrap()[..4].to_owned();
    expect_all(&mut ears, &[("status", &code), ("result", "did not make")]);
    asker.say(&format!("approve {code}"));
    ears.expect("t", "status", &code);
    assert!(asker.done().is_empty());
}

#[test]
fn a_daemon_that_dies_asking_says_so_and_goes_on_when_told() {
    let asker = Asker::new();
    let (daemon, mut ears) = asker.start();
    asker.say("ask make");
    let code = question(&mut ears, "make");
    daemon.kill();
    asker.say("approve");
    let daemon = asker.machine.connected();
    ears.expect("t", "status", &code);
    ears.expect("t", "status", "Reply `continue`");
    ears.expect("t", "status", "continue");
    asker.say(&format!("approve {code}"));
    ears.expect("t", "status", &code);
    // The next daemon knows it as well.
    daemon.stop();
    let daemon = asker.machine.connected();
    asker.say("yes");
    ears.expect("t", "status", "continue");
    asker.say("continue");
    ears.expect("t", "result", "nothing to ask");
    assert!(asker.done().is_empty(), "the answer was to a question that had died");
    // From here on it is a word like any other.
    daemon.stop();
    let _daemon = asker.machine.connected();
    asker.say("yes");
    ears.expect("t", "result", "nothing to ask");
}

#[test]
fn without_relay_rules_decide_alone() {
    let asker = Asker::new().with("relayPermissions", json!(false));
    let asker = asker.with(
        "permissions",
        json!({ "allow": ["run(make *)"], "ask": ["run(make install*)"], "deny": ["run(make all*)"] }),
    );
    let (_daemon, mut ears) = asker.start();
    asker.say("ask make test\nask make install\nask make all\nask touch x\nask make a; touch b");
    let body = ears.expect("t", "result", "did make test");
    for not in ["make install", "make all", "touch x", "make a; touch b"] {
        assert!(body.contains(&format!("did not {not}")), "{not}: {body}");
    }
    assert_eq!(asker.done(), ["make test"]);
    let denied = asker.audit().into_iter().filter(|(ruling, _)| ruling == "deny").count();
    assert_eq!(denied, 4);
}

/// The engine's turn ends while the human thinks.
#[test]
fn an_answer_after_the_turn_is_late() {
    let asker = Asker::new().with("turnSeconds", json!(1));
    let (_daemon, mut ears) = asker.start();
    asker.say("ask make");
    let code = question(&mut ears, "make");
    expect_all(&mut ears, &[("error", "took longer than 1s"), ("status", &code)]);
    asker.say(&format!("approve {code}"));
    ears.expect("t", "status", &code);
    assert!(asker.done().is_empty());
}
