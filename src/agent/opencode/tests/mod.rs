//! Plays recorded turns of opencode 1.18.33's server to the protocol.
//!
//! Traps of permissions, interrupts and exits, and the tests that name them:
//!
//! | trap | test |
//! |---|---|
//! | 5 replies need the session's directory | `a_permission_is_asked_and_granted`, `trap_an_old_session_is_used_in_its_own_directory` |
//! | 6 a stale `session.idle` | `trap_a_stale_idle_ends_nothing` |
//! | 8 bash and edit are allowed by default | `a_fresh_session_asks_before_it_acts` |
//! | 8 a subagent has only the server's rules | `server::tests::trap_a_subagent_has_only_the_servers_rules` |
//! | 10 commands are in sessions of their own | `an_interrupt_aborts_and_waits_for_the_end`; with the process `a_stop_ends_a_command` in `tests/e2e/control`, `tests/e2e/leftovers.rs` |
//! | 11 the server outlives the daemon | with the process in `tests/e2e/opencode.rs` |
//! | 12 the password is in the commands' environment | not to be helped: it guards against other users |
//! | 15 `always` counts for every session in the directory | `questions::trap_nothing_is_stored_for_always`, with the server `trap_its_own_always_is_never_said` in `tests/e2e/control` |
//! | 16 a refusal without a reason ends the turn | `trap_a_refusal_without_a_reason_would_end_the_turn` |
//! | 16 a refusal refuses all that its session waits for | `questions::trap_a_refusal_would_take_the_others_of_its_session_with_it`, with the server `trap_a_refusal_does_not_take_the_others_with_it` |
//! | 16 so does the refusal of the model's own question | `questions::trap_the_refusal_of_a_question_carries_its_reason_as_an_answer`, with the server `trap_a_question_of_its_own_is_refused_with_the_reason` |
//! | a subagent asks under its own session | `trap_a_subagent_asks_under_its_own_session`, with the server `trap_a_refusal_does_not_take_the_others_with_it` |
//! | a subagent of an earlier turn was created unseen | `a_subagent_of_an_earlier_turn_is_recognised_by_its_parents` |
//! | an abort leaves its questions in the list | `questions::trap_an_interrupt_refuses_what_is_open` |
//! | an abort in one server leaves other turns alone | with the server `a_stop_of_one_thread_leaves_the_others_alone` |
//! | a server that dies takes its questions along | with the server `an_engine_that_dies_asking_has_to_ask_again` |
//! | who hangs up does not stop the turn | `http::tests::trap_a_prompt_that_nobody_waits_for_goes_on_unless_it_is_aborted` |
//! | paths count from the repository, not from the project | `questions::permissions_have_kinds_and_subjects` |

mod answers;
mod questions;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::Opencode;
use crate::{
    agent::{
        ActionKind, Exit, FailureKind, Gate, Image, Model, Question, QuestionId, TurnCommand,
        TurnEnd, TurnEvent, TurnSpec, Verdict,
        http::is_outdate,
        tests::{self, Host, recording},
    },
    ids::SessionId,
    time::Timestamp,
};

fn spec() -> TurnSpec {
    let model = Model { provider: "mock".to_owned(), model: "mock-1".to_owned() };
    TurnSpec { model: Some(model), ..tests::spec() }
}

type Played = Host<Opencode>;

impl Played {
    /// A protocol whose event stream is connected.
    fn new(spec: &TurnSpec) -> Played {
        let mut played = Played::begun(spec);
        assert!(played.writes.is_empty(), "events must flow before anything is asked");
        played.value(json!({ "ready": true }));
        played
    }

    fn last(&self) -> &Value {
        self.writes.last().expect("something was asked")
    }

    #[track_caller]
    fn asked(&self, method: &str, path: &str) -> &Value {
        let asked = |value: &&Value| value["method"] == method && value["path"] == path;
        self.writes
            .iter()
            .find(asked)
            .unwrap_or_else(|| panic!("{method} {path} is missing: {:?}", self.writes))
    }

    /// The answer to the last request, which must be this one.
    #[track_caller]
    fn respond(&mut self, method: &str, path: &str, status: u16, body: Value) {
        let last = self.last();
        assert_eq!((last["method"].as_str(), last["path"].as_str()), (Some(method), Some(path)));
        let id = last["id"].clone();
        self.value(json!({ "id": id, "status": status, "body": body }));
    }

    fn event(&mut self, kind: &str, properties: Value) {
        let payload = json!({ "type": kind, "properties": properties });
        self.value(json!({ "event": { "directory": "/p", "payload": payload } }));
    }

    /// The prompt is sent in the session `ses_1`.
    fn prompted(spec: &TurnSpec) -> Played {
        let mut played = Played::new(spec);
        played.respond("POST", "/session", 200, json!({ "id": "ses_1" }));
        assert_eq!(played.last()["path"], "/session/ses_1/message");
        played
    }

    fn answer(&mut self, status: u16, body: Value) {
        let prompt = self.writes.iter().find(|v| v["path"].as_str().unwrap().ends_with("/message"));
        let id = prompt.expect("the prompt was sent")["id"].clone();
        self.value(json!({ "id": id, "status": status, "body": body }));
    }

    #[track_caller]
    fn check_failed(&self, kind: FailureKind, says: &str) {
        let (failed, message, _) = self.failed();
        assert_eq!(failed, kind, "{message}");
        assert!(message.contains(says), "{message}");
        // What the person sets up then, a running server would not see.
        let settings = matches!(kind, FailureKind::NotLoggedIn | FailureKind::Refused);
        assert_eq!(self.writes.iter().any(is_outdate), settings, "{message}");
    }

    #[track_caller]
    fn check_answered(&self, expected: &str) {
        assert_eq!(self.answered(), expected);
    }
}

/// Plays a recording; questions are answered with `verdict`.
fn play(name: &str, verdict: &Verdict) -> Played {
    let lines = recording("opencode", name);
    let session = lines.iter().find_map(|line| {
        line.pointer("/answer/body/info/sessionID").and_then(Value::as_str).map(str::to_owned)
    });
    let mut played = Played::new(&spec());
    played.respond("POST", "/session", 200, json!({ "id": session.unwrap() }));
    for line in lines {
        let asked = played.questions().len();
        if line["answer"].is_object() {
            let body = line["answer"]["body"].clone();
            played.answer(200, body);
        } else {
            played.value(line);
        }
        let news = played.questions().split_off(asked);
        for id in news.into_iter().map(|question| question.id.0.clone()).collect::<Vec<_>>() {
            played.decide(&id, verdict.clone());
        }
    }
    played
}

fn replies(played: &Played) -> Vec<&Value> {
    let reply = |v: &&Value| v["path"].as_str().is_some_and(|path| path.ends_with("/reply"));
    played.writes.iter().filter(reply).map(|v| &v["body"]).collect()
}

#[test]
fn a_permission_is_asked_and_granted() {
    let played = play("permission-once", &Verdict::Allow);
    let questions = played.questions();
    let [question] = &questions[..] else { panic!("{:?}", played.events) };
    assert_eq!((&*question.tool, question.kind), ("bash", ActionKind::Run));
    assert_eq!(question.subject, "touch sp_once.txt");
    assert_eq!(replies(&played), [&json!({ "reply": "once" })]);
    // A reply with another directory than the session's is answered with 404.
    let path = format!("/permission/{}/reply", question.id.0);
    assert_eq!(played.asked("POST", &path)["directory"], "/home/dev/projs/opencode");
    assert!(played.events.contains(&TurnEvent::Progress("Running `touch sp_once.txt`".to_owned())));
    played.check_answered("after.");
}

#[test]
fn trap_a_refusal_without_a_reason_would_end_the_turn() {
    let deny = |reason: &str| Verdict::Deny { reason: reason.to_owned() };
    let played = play("permission-reject-message", &deny("use another way please"));
    let reply = json!({ "reply": "reject", "message": "use another way please" });
    assert_eq!(replies(&played), [&reply]);
    played.check_answered("after.");
    let played = play("permission-reject", &deny(" "));
    assert_eq!(replies(&played)[0]["message"], "This was refused.");
    played.check_answered("before.\n\n(opencode ended the turn because a tool was refused.)");
}

#[test]
fn trap_a_subagent_asks_under_its_own_session() {
    let played = play("subagent", &Verdict::AllowAlways);
    assert_eq!(played.questions().len(), 1);
    assert_eq!(played.questions()[0].subject, "mkdir -p subx");
    assert_eq!(replies(&played), [&json!({ "reply": "once" })]);
    played.check_answered("parent done");
}

fn asked(session: &str) -> Value {
    json!({ "id": "per_1", "sessionID": session, "permission": "edit", "patterns": ["a"],
        "metadata": { "filepath": "/p/a", "diff": "@@ -1 +1 @@\n-a\n+b\n" } })
}

#[test]
fn a_subagent_of_an_earlier_turn_is_recognised_by_its_parents() {
    let mut played = Played::prompted(&spec());
    played.event("permission.asked", asked("ses_3"));
    played.respond("GET", "/session/ses_3", 200, json!({ "id": "ses_3", "parentID": "ses_2" }));
    played.respond("GET", "/session/ses_2", 200, json!({ "id": "ses_2", "parentID": "ses_1" }));
    assert_eq!(played.questions()[0].subject, "/p/a");
    assert_eq!(played.questions()[0].kind, ActionKind::Edit);
}

#[test]
fn another_threads_question_is_left_alone() {
    let mut played = Played::prompted(&spec());
    played.event("permission.asked", asked("ses_9"));
    played.respond("GET", "/session/ses_9", 200, json!({ "id": "ses_9" }));
    let requests = played.writes.len();
    played.event("permission.asked", asked("ses_9"));
    assert_eq!((played.questions().len(), played.writes.len()), (0, requests));
}

#[test]
fn with_allow_all_a_subagent_is_allowed_too() {
    let spec = TurnSpec { gate: Gate::AllowAll, ..spec() };
    let mut played = Played::prompted(&spec);
    assert_eq!(played.asked("POST", "/session")["body"]["permission"][0]["action"], "allow");
    played.event("permission.asked", asked("ses_1"));
    assert_eq!(replies(&played), [&json!({ "reply": "once" })]);
    assert!(played.questions().is_empty());
}

#[test]
fn a_question_that_is_answered_elsewhere_is_gone() {
    let mut played = Played::prompted(&spec());
    played.event("permission.asked", asked("ses_1"));
    played.event("permission.replied", json!({ "sessionID": "ses_1", "requestID": "per_1" }));
    let gone = TurnEvent::QuestionGone(QuestionId("per_1".to_owned()));
    assert_eq!(played.events.last(), Some(&gone));
    played.decide("per_1", Verdict::Allow);
    assert!(replies(&played).is_empty());
}

#[test]
fn the_models_own_question_is_sent_back_to_it() {
    let played = play("question", &Verdict::Allow);
    let rejected = |v: &&Value| v["path"].as_str().is_some_and(|p| p.ends_with("/reject"));
    assert_eq!(played.writes.iter().filter(rejected).count(), 1);
    let told = |event: &TurnEvent| matches!(event, TurnEvent::Progress(line) if line.contains("Which colour?"));
    assert!(played.events.iter().any(told), "{:?}", played.events);
}

#[test]
fn a_sick_provider_is_seen_and_then_reported() {
    let played = play("retry-429", &Verdict::Allow);
    let retries: Vec<_> = played
        .events
        .iter()
        .filter_map(|event| match event {
            TurnEvent::Retry { message, next } => Some((&**message, *next)),
            _ => None,
        })
        .collect();
    assert_eq!(retries.len(), 5);
    assert_eq!(retries[0], ("mock 429", Some(Timestamp::from_millis(1_795_361_119_267))));
    played.check_failed(FailureKind::RateLimited, "mock 429");
    play("error-401", &Verdict::Allow).check_failed(FailureKind::NotLoggedIn, "mock 401");
    play("no-key", &Verdict::Allow).check_failed(FailureKind::NotLoggedIn, "API key is missing");
}

/// As the server has it: of a prompt that its compaction does not help with, of an image that a
/// provider refuses, and of a prompt that a provider refuses in the middle of its stream.
#[test]
fn a_session_that_the_model_refuses_is_left_by_new() {
    let advice = |error: Value| {
        let mut played = Played::prompted(&spec());
        let info = json!({ "role": "assistant", "error": error, "id": "msg_1" });
        played.answer(200, json!({ "info": info, "parts": [] }));
        let (_, message, advice) = played.failed();
        assert!(!message.is_empty());
        advice.to_owned()
    };
    let overflow = "Session too large to compact - context exceeds model limit even after \
                    stripping media";
    let streamed = r#"{"message":"prompt is too long: 210000 tokens > 200000 maximum","code":"x"}"#;
    for error in [
        json!({ "name": "ContextOverflowError", "data": { "message": overflow } }),
        json!({ "name": "APIError", "data": { "message": "Invalid image data", "statusCode": 400,
            "isRetryable": false } }),
        json!({ "name": "UnknownError", "data": { "message": streamed } }),
    ] {
        assert!(advice(error.clone()).contains("`/new`"), "{error}");
    }
    let other = json!({ "name": "UnknownError", "data": { "message": "socket hang up" } });
    assert!(!advice(other).contains("`/new`"));
}

#[test]
fn trap_without_a_provider_the_prompt_would_go_to_the_makers_hosted_model() {
    let mut played = Played::new(&TurnSpec { model: None, ..spec() });
    played.respond("GET", "/config", 200, json!({ "username": "me" }));
    let hosted = json!({ "providers": [{ "id": "opencode" }], "default": { "opencode": "free" } });
    played.respond("GET", "/config/providers", 200, hosted);
    played.check_failed(FailureKind::Refused, "hosted model");
    let sent = |v: &Value| v["method"] == "POST";
    assert!(!played.writes.iter().any(sent), "{:?}", played.writes);
}

/// The model that is sent, given the config and the providers.
#[track_caller]
fn check_model(config: Value, providers: Value, expected: [&str; 2]) {
    let mut played = Played::new(&TurnSpec { model: None, ..spec() });
    played.respond("GET", "/config", 200, config);
    if played.last()["path"] == "/config/providers" {
        played.respond("GET", "/config/providers", 200, providers);
    }
    played.respond("POST", "/session", 200, json!({ "id": "ses_1" }));
    let model = &played.last()["body"]["model"];
    assert_eq!(*model, json!({ "providerID": expected[0], "modelID": expected[1] }));
}

#[test]
fn trap_a_model_is_always_sent() {
    let providers = json!({ "providers": [{ "id": "opencode" }, { "id": "a" }, { "id": "b" }],
        "default": { "opencode": "free", "b": "b-1" } });
    check_model(json!({ "model": "mock/org/m" }), json!({}), ["mock", "org/m"]);
    check_model(json!({ "model": "nonsense" }), providers.clone(), ["b", "b-1"]);
    check_model(json!({}), providers, ["b", "b-1"]);
    // Named in the config, the hosted one is the person's choice.
    let model = Model { provider: "opencode".to_owned(), model: "big-pickle".to_owned() };
    let played = Played::prompted(&TurnSpec { model: Some(model), ..spec() });
    assert_eq!(played.last()["body"]["model"]["providerID"], "opencode");
}

#[test]
fn a_fresh_session_asks_before_it_acts() {
    let played = Played::prompted(&spec());
    let create = played.asked("POST", "/session");
    assert_eq!(
        (&create["directory"], &create["body"]["title"]),
        (&json!("/p"), &json!("t-7: hello"))
    );
    let rules = create["body"]["permission"].as_array().unwrap();
    assert_eq!(rules[0], json!({ "permission": "*", "pattern": "*", "action": "ask" }));
    let allowed =
        |tool: &str| rules.iter().any(|r| r["permission"] == tool && r["action"] == "allow");
    assert!(allowed("todowrite"));
    for tool in ["bash", "edit", "webfetch", "task", "external_directory", "glob", "read"] {
        assert!(!allowed(tool), "{tool}");
    }
    let begun = [TurnEvent::Session(SessionId::new("ses_1"))];
    assert_eq!(played.events, begun);
}

#[test]
fn trap_an_old_session_is_used_in_its_own_directory() {
    let spec = TurnSpec { session: Some(SessionId::new("ses_1")), ..spec() };
    let mut played = Played::new(&spec);
    played.respond("GET", "/session/ses_1", 200, json!({ "id": "ses_1", "directory": "/own" }));
    let rules = played.asked("PATCH", "/session/ses_1")["body"]["permission"].clone();
    played.respond("PATCH", "/session/ses_1", 200, json!({}));
    assert_eq!(played.last()["path"], "/session/ses_1/message");
    assert_eq!(played.last()["directory"], "/own");
    // A PATCH appends, so rules that are there are not added again.
    let mut again = Played::new(&spec);
    again.respond("GET", "/session/ses_1", 200, json!({ "permission": rules }));
    assert_eq!(again.last()["path"], "/session/ses_1/message");
}

#[test]
fn an_unknown_session_is_gone_and_its_id_is_no_path() {
    let spec = TurnSpec { session: Some(SessionId::new("ses/../x y")), ..spec() };
    let mut played = Played::new(&spec);
    let error = json!({ "name": "NotFoundError", "data": { "message": "Session not found: x" } });
    played.respond("GET", "/session/ses%2F%2E%2E%2Fx%20y", 404, error);
    let detail = "Session not found: x".to_owned();
    assert_eq!(played.end, Some(TurnEnd::SessionGone { detail }));
}

#[test]
fn trap_the_reason_of_a_500_comes_as_an_event_before_or_after_it() {
    let error = json!({ "sessionID": "ses_1", "error": { "name": "UnknownError",
        "data": { "message": "Model not found: mock/nope.\n at x" } } });
    let mut before = Played::prompted(&spec());
    before.event("session.error", error.clone());
    before.answer(500, json!({ "name": "UnknownError" }));
    before.check_failed(FailureKind::Refused, "Model not found: mock/nope.");
    let mut after = Played::prompted(&spec());
    after.answer(500, json!({ "name": "UnknownError" }));
    assert_eq!(after.end, None);
    after.event("session.error", error);
    after.respond("GET", "/session/ses_1", 200, json!({}));
    after.check_failed(FailureKind::Refused, "Model not found: mock/nope.");
}

#[test]
fn an_interrupt_aborts_and_waits_for_the_end() {
    let mut played = Played::prompted(&spec());
    played.event("permission.asked", asked("ses_1"));
    played.command(TurnCommand::Interrupt);
    played.asked("POST", "/session/ses_1/abort");
    assert!(played.writes.iter().any(is_outdate), "its commands may have left something");
    assert!(matches!(played.events.last(), Some(TurnEvent::QuestionGone(_))));
    assert_eq!(played.end, None);
    played.answer(200, json!({ "info": { "error": { "name": "MessageAbortedError" } } }));
    assert_eq!(played.end, Some(TurnEnd::Interrupted));
    let mut early = Played::new(&spec());
    early.command(TurnCommand::Interrupt);
    assert_eq!(early.end, Some(TurnEnd::Interrupted));
    assert!(!early.writes.iter().any(is_outdate), "it has run nothing");
}

#[test]
fn an_answer_that_was_complete_before_the_interrupt_counts() {
    let stopped = |status, body| {
        let mut played = Played::prompted(&spec());
        played.command(TurnCommand::Interrupt);
        played.answer(status, body);
        played.end
    };
    let text = json!([{ "type": "text", "text": "done" }]);
    let complete = json!({ "info": { "finish": "stop" }, "parts": text });
    assert_eq!(stopped(200, complete), Some(TurnEnd::Answered { text: "done".to_owned() }));
    for (status, body) in [
        (200, json!({ "info": { "finish": "stop" }, "parts": [] })),
        (200, json!({ "info": { "error": { "name": "MessageAbortedError" } }, "parts": text })),
        (404, json!({})),
        (500, json!({})),
    ] {
        assert_eq!(stopped(status, body.clone()), Some(TurnEnd::Interrupted), "{status} {body}");
    }
}

#[test]
fn what_the_model_did_not_say_is_no_answer() {
    let mut played = Played::prompted(&spec());
    played.answer(
        200,
        json!({ "info": { "finish": "stop" }, "parts": [
        { "type": "text", "text": "Called the Read tool", "synthetic": true },
        { "type": "text", "text": "old", "ignored": true },
        { "type": "reasoning", "text": "hm" },
        { "type": "text", "text": "one" }, { "type": "text", "text": "two\n" },
    ] }),
    );
    played.check_answered("one\n\ntwo");
}

#[test]
fn trap_a_stale_idle_ends_nothing() {
    let mut played = Played::prompted(&spec());
    played.event("session.idle", json!({ "sessionID": "ses_1" }));
    assert_eq!(played.end, None);
}

#[test]
fn images_go_along_as_data_urls() {
    let image = Image { media_type: "image/png".to_owned(), bytes: vec![1, 2, 3] };
    let played = Played::prompted(&TurnSpec { images: vec![image], ..spec() });
    let part = &played.last()["body"]["parts"][1];
    assert_eq!(part["url"], "data:image/png;base64,AQID");
    assert_eq!(
        (&part["filename"], &part["mime"]),
        (&json!("attachment-1.png"), &json!("image/png"))
    );
}

#[test]
fn a_lost_server_is_a_failed_turn() {
    let mut played = Played::prompted(&spec());
    let id = played.last()["id"].clone();
    played.value(json!({ "id": id, "error": "connection reset" }));
    played.check_failed(FailureKind::Crashed, "connection reset");
    let mut played = Played::prompted(&spec());
    played.exit(Exit::Unknown, "the event stream ended");
    played.check_failed(FailureKind::Crashed, "the event stream ended");
}

fn any_json() -> impl Strategy<Value = Value> {
    let keys = &[
        "id",
        "status",
        "body",
        "error",
        "event",
        "payload",
        "properties",
        "type",
        "sessionID",
        "parentID",
        "info",
        "parts",
        "permission",
        "default",
        "providers",
        "data",
        "ready",
    ];
    let words = &[
        "permission.asked",
        "session.created",
        "session.status",
        "message.part.updated",
        "retry",
        "ses_1",
        "tool",
        "text",
        "ä",
    ];
    tests::any_json(words, keys, &[0, 1, 2, 3, 200, 404, 500])
}

proptest! {
    #[test]
    fn no_json_makes_it_panic(values in prop::collection::vec(any_json(), 1..12), prompted: bool) {
        let spec = spec();
        let mut played = if prompted { Played::prompted(&spec) } else { Played::new(&spec) };
        for value in values {
            played.value(value);
        }
        played.command(TurnCommand::Interrupt);
    }
}
