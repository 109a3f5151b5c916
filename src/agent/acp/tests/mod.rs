//! Plays recorded conversations of seven ACP agents to the host, and what none of them would say.
//!
//! Traps of permissions, interrupts and exits, and the tests that name them:
//!
//! | trap | test |
//! |---|---|
//! | 1 opencode: a subagent's permission hangs | not here: opencode is driven by its server (`opencode::tests`) |
//! | 13 new adapters start in a mode in which a model decides | `trap_new_adapters_start_in_a_mode_in_which_a_model_decides` |
//! | 14 version 2 ends turns in another way | `only_version_one_is_spoken` |
//! | 15 `allow_always` may be for ever | `questions::trap_nothing_is_stored_for_always`, with codex-acp `always_holds_for_the_same_and_for_nothing_else` in `tests/e2e/control` |
//! | 16 a refusal may end the turn | `trap_a_refusal_may_end_the_turn_and_says_so_differently`, with codex-acp `trap_a_refusal_ends_the_turn_and_what_else_is_open` |
//! | 16 a refusal has no place for its reason | the same: the human is told what was refused |
//! | 17 permissions are answered on cancel | `trap_an_interrupt_answers_every_open_permission`, `questions::trap_what_is_asked_after_the_interrupt_is_cancelled`, with codex-acp `a_stop_while_it_asks_ends_turn_and_question` |
//! | 18 unknown requests are answered | `edits_and_foreign_tools_are_told_apart`, `questions::trap_other_requests_are_refused_at_once` |
//! | 20 a replay is not new output | `trap_a_replay_is_no_answer` |
//! | 21 a mode is not kept over a load | `trap_new_adapters_start_in_a_mode_in_which_a_model_decides` |
//! | a call may be told after its permission, or never | `seven_agents_ask_and_answer_each_in_its_own_way` (claude 0.23.1, gemini) |
//! | kinds are guesses at a command's purpose | `questions::trap_a_command_is_run_whatever_it_is_called` |
//! | a title may read like anything | `questions::trap_a_command_that_reads_like_a_tool` |
//! | a JSON-RPC error to a permission may fail the prompt | no permission is answered so (`Acp::settle`) |
//! | cost goes on over a resume | `questions::cost_is_that_of_the_turn` |
//!
//! What survives the end of an agent (shells in sessions of their own, adapters that ignore the end
//! of input, codex-acp's late processes) is tested with the process, in `tests/e2e/leftovers.rs` and by
//! `a_stop_ends_a_command` in `tests/e2e/control`.

mod ends;
mod opening;
mod questions;

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Acp, wire};
use crate::{
    agent::{
        ActionKind, Exit, FailureKind, Gate, Image, Model, Question, QuestionId, TurnCommand,
        TurnEnd, TurnEvent, TurnSpec, Verdict,
        tests::{self, Host, recording, spec},
    },
    ids::SessionId,
};

type Played = Host<Acp>;

impl Played {
    fn new(spec: &TurnSpec) -> Played {
        Host::begun(spec)
    }

    fn written(&self, method: &str) -> Vec<&Value> {
        self.writes.iter().filter(|value| value["method"] == method).collect()
    }

    /// Answers the last request of `method`.
    fn respond(&mut self, method: &str, mut response: Value) {
        let id = self.written(method).last().expect("it was asked")["id"].clone();
        response["id"] = id;
        response["jsonrpc"] = json!("2.0");
        self.value(response);
    }

    fn result(&mut self, method: &str, result: Value) {
        self.respond(method, json!({ "result": result }));
    }

    /// A host that has sent its prompt in the session `s`.
    fn prompted(spec: &TurnSpec) -> Played {
        let mut played = Played::new(spec);
        played.result("initialize", json!({ "protocolVersion": 1 }));
        played.result("session/new", json!({ "sessionId": "s" }));
        assert_eq!(played.written("session/prompt").len(), 1);
        played
    }

    fn update(&mut self, update: Value) {
        let params = json!({ "sessionId": "s", "update": update });
        self.value(json!({ "method": "session/update", "params": params }));
    }

    fn permission(&mut self, id: u64, call: Value, options: Value) {
        let params = json!({ "sessionId": "s", "toolCall": call, "options": options });
        self.value(json!({ "id": id, "method": "session/request_permission", "params": params }));
    }

    fn outcome(&self, id: u64) -> Option<&Value> {
        self.writes
            .iter()
            .find(|v| v["id"] == id && v["method"].is_null())
            .map(|v| &v["result"]["outcome"])
    }
}

/// Plays the agent's side of a recording; responses get the ids of our requests. Every question
/// is answered with `verdict`; none interrupts instead.
fn play(name: &str, verdict: Option<&Verdict>) -> Played {
    let lines = recording("acp", name);
    let mut spec = spec();
    let old = lines
        .iter()
        .map(|line| &line["msg"])
        .find(|m| matches!(m["method"].as_str(), Some("session/load" | "session/resume")));
    spec.session = old.map(|m| SessionId::new(m["params"]["sessionId"].as_str().unwrap()));
    let mut played = Played::new(&spec);
    let mut methods = BTreeMap::new();
    for line in lines {
        if played.end.is_some() {
            break;
        }
        let mut message = line["msg"].clone();
        if line["dir"] == "->" {
            methods.insert(message["id"].to_string(), message["method"].clone());
            continue;
        }
        if message["method"].is_null() {
            let method = methods[&message["id"].to_string()].as_str().unwrap().to_owned();
            if method.starts_with("session/set_") {
                continue;
            }
            let ours = played.writes.iter().rev().find(|v| same_request(&v["method"], &method));
            message["id"] = ours.unwrap_or_else(|| panic!("{method} was not sent"))["id"].clone();
        }
        let asked = played.questions().len();
        let written = played.writes.len();
        played.value(message);
        agree_to_settings(&mut played, written);
        refuse_the_other_way(&mut played, &line["msg"]["error"]);
        let new: Vec<_> = played.questions()[asked..].iter().map(|q| q.id.clone()).collect();
        for question in new {
            played.command(match verdict.cloned() {
                Some(verdict) => TurnCommand::Decide { question, verdict },
                None => TurnCommand::Interrupt,
            });
        }
    }
    played
}

fn same_request(ours: &Value, recorded: &str) -> bool {
    ours == recorded || (ours == "session/resume" && recorded == "session/load")
}

/// The recordings have no answers to the settings that we make before the prompt.
fn agree_to_settings(played: &mut Played, mut from: usize) {
    while let Some(value) = played.writes.get(from).cloned() {
        if value["method"].as_str().is_some_and(|method| method.starts_with("session/set_")) {
            let agreed = json!({ "jsonrpc": "2.0", "id": value["id"], "result": {} });
            played.value(agreed);
        }
        from += 1;
    }
}

/// Nor of a second way to an old session; it gets the error of the first.
fn refuse_the_other_way(played: &mut Played, error: &Value) {
    let asked = played.writes.last().filter(|last| last["method"] == "session/load").cloned();
    if let Some(asked) = asked
        && error.is_object()
    {
        played.value(json!({ "jsonrpc": "2.0", "id": asked["id"], "error": error }));
    }
}

#[track_caller]
fn check_permission(recording: &str, verdict: &Verdict, tool: &str, option: &str, answer: &str) {
    let played = play(recording, Some(verdict));
    let [question] = played.questions()[..] else { panic!("{:?}", played.events) };
    assert_eq!(question.tool, tool, "{recording}");
    assert_eq!(question.kind, ActionKind::Run, "{recording}");
    assert!(question.subject.starts_with("echo hi > perm_"), "{recording}: {}", question.subject);
    assert!(!question.subject.contains("(run)"), "{recording}: {}", question.subject);
    let chosen: Vec<&Value> =
        played.writes.iter().filter_map(|v| v.pointer("/result/outcome/optionId")).collect();
    assert_eq!(chosen, [option], "{recording}");
    assert_eq!(played.answered(), answer, "{recording}");
}

fn deny() -> Verdict {
    Verdict::Deny { reason: "no".to_owned() }
}

#[test]
fn seven_agents_ask_and_answer_each_in_its_own_way() {
    let allow = Verdict::Allow;
    check_permission("opencode-perm-allow-once", &allow, "execute", "once", "after.");
    check_permission("claude-perm-allow-once", &allow, "execute", "allow", "after.");
    check_permission("codex-perm-allow-once", &allow, "execute", "approved", "after.");
    check_permission("gemini-perm-allow-once", &allow, "execute", "proceed_once", "after.");
    check_permission("qwen-perm-allow-once", &allow, "run_shell_command", "proceed_once", "after.");
}

#[test]
fn trap_a_refusal_may_end_the_turn_and_says_so_differently() {
    let ended = "before.\n\n(The agent ended its turn because this was refused: `echo hi > perm_reject_once.txt`)";
    check_permission("opencode-perm-reject-once", &deny(), "execute", "reject", ended);
    check_permission("claude101-perm-reject-once", &deny(), "Bash", "reject", "after.");
    // Codex says `cancelled`, which is no interrupt.
    check_permission("codex26-perm-reject-once", &deny(), "execute", "cancel", ended);
    check_permission("qwen-perm-reject-once", &deny(), "run_shell_command", "cancel", ended);
}

#[track_caller]
fn check_edit(recording: &str, kind: ActionKind, subject: &str) -> Played {
    let played = play(recording, Some(&Verdict::Allow));
    let question = played.questions()[0];
    assert_eq!((question.kind, &*question.subject), (kind, subject), "{recording}");
    played
}

#[test]
fn edits_and_foreign_tools_are_told_apart() {
    check_edit("gemini-edit", ActionKind::Edit, "/home/dev/projs/gemini/edit.txt");
    check_edit("gemini-mcp", ActionKind::Mcp, "bridge:bridge_post");
    let opencode =
        check_edit("opencode-edit", ActionKind::Edit, "/home/dev/projs/opencode/edit.txt");
    // It asks the client to write the file although the client said that it can't.
    let refused = opencode.writes.iter().any(|v| v["error"]["code"] == -32601);
    assert!(refused, "{:?}", opencode.writes);
}

#[test]
fn trap_new_adapters_start_in_a_mode_in_which_a_model_decides() {
    for (recording, mode) in [
        ("claude101-perm-reject-once", "default"),
        ("codex26-perm-reject-once", "read-only"),
        ("qwen-perm-allow-once", "default"),
        // A mode is not kept over a load.
        ("qwen-resume-load", "default"),
    ] {
        let played = play(recording, Some(&deny()));
        let set = played.written("session/set_config_option");
        assert_eq!(set.len(), 1, "{recording}");
        assert_eq!(set[0]["params"]["configId"], "mode");
        assert_eq!(set[0]["params"]["value"], mode, "{recording}");
    }
    for recording in ["opencode-perm-allow-once", "gemini-perm-allow-once"] {
        assert!(play(recording, Some(&deny())).written("session/set_config_option").is_empty());
    }
}

#[test]
fn trap_a_replay_is_no_answer() {
    let played = play("qwen-resume-load", None);
    assert_eq!(played.answered(), "continued");
    let progress = played.events.iter().any(|event| matches!(event, TurnEvent::Progress(_)));
    assert!(!progress, "{:?}", played.events);
}

#[test]
fn errors_say_what_to_do() {
    let (kind, message, advice) = play("gemini-noauth", None).failed_owned();
    assert_eq!(kind, FailureKind::NotLoggedIn);
    assert_eq!(message, "Gemini API key is missing or not configured.");
    assert!(advice.contains("Log in with Google, Gemini API key"), "{advice}");
    assert_eq!(play("qwen-noauth", None).failed().0, FailureKind::NotLoggedIn);
    let (kind, message, _) = play("codex-err-429", None).failed_owned();
    assert_eq!(kind, FailureKind::RateLimited);
    assert!(message.contains("429 Too Many Requests"), "{message}");
    let (kind, message, _) = play("opencode-err-401", None).failed_owned();
    assert_eq!((kind, &*message), (FailureKind::NotLoggedIn, "Internal error: mock 401"));
}

impl Played {
    fn failed_owned(&self) -> (FailureKind, String, String) {
        let (kind, message, advice) = self.failed();
        (kind, message.to_owned(), advice.to_owned())
    }
}

#[test]
fn trap_an_interrupt_answers_every_open_permission() {
    let played = play("gemini-cancel-perm-answer", None);
    assert_eq!(played.end, Some(TurnEnd::Interrupted));
    assert_eq!(played.written("session/cancel").len(), 1);
    assert_eq!(played.outcome(0).unwrap()["outcome"], "cancelled");
    assert!(
        matches!(played.events.last(), Some(TurnEvent::QuestionGone(_))),
        "{:?}",
        played.events
    );
}

/// All agents end a turn that was stopped with `cancelled`.
#[test]
fn an_answer_that_was_complete_before_the_interrupt_counts() {
    let stopped = |said: &str, reason: &str, asks: bool| {
        let mut played = Played::prompted(&spec());
        let content = json!({ "type": "text", "text": said });
        played.update(json!({ "sessionUpdate": "agent_message_chunk", "content": content }));
        if asks {
            played.permission(1, json!({ "kind": "execute" }), json!([]));
        }
        played.command(TurnCommand::Interrupt);
        played.command(TurnCommand::Interrupt);
        assert_eq!(played.written("session/cancel").len(), 1);
        played.result("session/prompt", json!({ "stopReason": reason }));
        played.end
    };
    let answered = Some(TurnEnd::Answered { text: "done".to_owned() });
    assert_eq!(stopped("done", "end_turn", false), answered);
    for end in [
        stopped("", "end_turn", false),
        stopped("half", "cancelled", false),
        stopped("half", "max_tokens", false),
        stopped("half", "end_turn", true),
    ] {
        assert_eq!(end, Some(TurnEnd::Interrupted));
    }
}

#[test]
fn an_interrupt_before_the_prompt_ends_at_once() {
    let mut played = Played::new(&spec());
    played.command(TurnCommand::Interrupt);
    assert_eq!(played.end, Some(TurnEnd::Interrupted));
}

#[test]
fn only_version_one_is_spoken() {
    let mut played = Played::new(&spec());
    assert_eq!(played.writes[0]["params"]["protocolVersion"], 1);
    played.result("initialize", json!({ "protocolVersion": 2 }));
    assert_eq!(played.failed().0, FailureKind::Protocol);
}

#[test]
fn images_are_sent_only_where_they_are_taken() {
    let mut spec = spec();
    spec.images = vec![Image { media_type: "image/png".to_owned(), bytes: vec![1, 2, 3] }];
    let blind = Played::prompted(&spec);
    let prompt = &blind.written("session/prompt")[0]["params"]["prompt"];
    assert_eq!(prompt.as_array().unwrap().len(), 1);
    assert!(prompt[0]["text"].as_str().unwrap().contains("1 image(s) were attached"));
    assert!(
        blind
            .events
            .contains(&TurnEvent::Progress("This agent takes no images: 1 left out.".to_owned()))
    );
    let mut seeing = Played::new(&spec);
    let capabilities = json!({ "promptCapabilities": { "image": true } });
    seeing.result("initialize", json!({ "protocolVersion": 1, "agentCapabilities": capabilities }));
    seeing.result("session/new", json!({ "sessionId": "s" }));
    let prompt = &seeing.written("session/prompt")[0]["params"]["prompt"];
    assert_eq!(prompt[1], json!({ "type": "image", "mimeType": "image/png", "data": "AQID" }));
}

/// What `session/new` offers, and what is then asked for, or refused.
#[track_caller]
fn check_model(offer: Value, expected: Result<Option<(&str, &str)>, &str>) {
    let model = Model { provider: "mock".to_owned(), model: "m1".to_owned() };
    let choice = wire::model_choice("s", &offer, &model);
    let choice = choice.as_ref().map(|s| s.as_ref().map(|s| (s.method, &*s.wanted)));
    assert_eq!(choice.map_err(String::as_str), expected);
}

#[test]
fn a_model_is_chosen_or_refused_but_never_ignored() {
    let option = |current: &str, values: &[&str]| {
        let values: Vec<_> = values.iter().map(|value| json!({ "value": value })).collect();
        json!({ "configOptions": [{ "id": "model", "category": "model", "currentValue": current,
            "options": values }] })
    };
    let set = "session/set_config_option";
    check_model(option("other", &["other", "mock/m1"]), Ok(Some((set, "mock/m1"))));
    check_model(option("other", &["other", "m1"]), Ok(Some((set, "m1"))));
    check_model(option("m1", &["m1"]), Ok(None));
    let grouped = json!({ "configOptions": [{ "id": "x", "category": "model",
        "options": [{ "group": "g", "options": [{ "value": "m1" }] }] }] });
    check_model(grouped, Ok(Some((set, "m1"))));
    let gemini = json!({ "models": { "availableModels": [{ "modelId": "m1" }] } });
    check_model(gemini, Ok(Some(("session/set_model", "m1"))));
    check_model(
        option("a", &["a", "b"]),
        Err("the agent does not offer the model mock/m1; it offers a, b"),
    );
    check_model(json!({}), Err("the agent has no way to choose a model, so mock/m1 can't be used"));
}

#[test]
fn a_mode_that_is_not_taken_keeps_the_prompt_back() {
    let modes = json!({ "currentModeId": "yolo",
        "availableModes": [{ "id": "yolo" }, { "id": "default" }] });
    let mut played = Played::new(&spec());
    played.result("initialize", json!({ "protocolVersion": 1 }));
    played.result("session/new", json!({ "sessionId": "s", "modes": modes }));
    assert_eq!(played.written("session/set_mode")[0]["params"]["modeId"], "default");
    played.respond("session/set_mode", json!({ "error": { "code": -32602, "message": "no" } }));
    assert_eq!(played.failed().0, FailureKind::Refused);
    assert!(played.written("session/prompt").is_empty());
}

#[test]
fn with_allow_all_nobody_is_asked() {
    let mut spec = spec();
    spec.gate = Gate::AllowAll;
    let mut played = Played::prompted(&spec);
    played.permission(1, json!({}), json!([{ "optionId": "y", "kind": "allow_once" }]));
    assert_eq!(played.outcome(1).unwrap()["optionId"], "y");
    assert!(played.questions().is_empty());
}

/// The mode that is set, given those that are offered; the agent starts in the first.
#[track_caller]
fn check_mode(gate: Gate, offered: &[&str], expected: Option<&str>) {
    let modes: Vec<Value> = offered.iter().map(|id| json!({ "id": id })).collect();
    let result = json!({ "modes": { "currentModeId": offered.first(), "availableModes": modes } });
    let wanted = wire::mode_choice(gate, "s", &result).ok().flatten().map(|it| it.wanted);
    assert_eq!(wanted.as_deref(), expected, "{gate:?} {offered:?}");
}

/// Codex's asking mode is also a sandbox, in which what was allowed failed.
#[test]
fn trap_with_allow_all_the_asking_mode_would_be_in_the_way() {
    let codex = ["agent", "read-only", "agent-full-access"];
    check_mode(Gate::Ask, &codex, Some("read-only"));
    check_mode(Gate::AllowAll, &codex, Some("agent-full-access"));
    check_mode(Gate::AllowAll, &["yolo", "default"], None);
    check_mode(Gate::Ask, &["yolo", "default"], Some("default"));
    check_mode(Gate::AllowAll, &["plan", "build"], Some("build"));
    check_mode(Gate::AllowAll, &["build", "plan"], None);
    check_mode(Gate::AllowAll, &[], None);
    let copilot = ["autopilot", "plan", "agent"]
        .map(|mode| format!("https://agentclientprotocol.com/protocol/session-modes#{mode}"));
    let copilot = copilot.each_ref().map(String::as_str);
    check_mode(Gate::Ask, &copilot, Some(copilot[2]));
    // Claude Code takes no such mode from root.
    let mut spec = spec();
    spec.gate = Gate::AllowAll;
    let mut played = Played::new(&spec);
    played.result("initialize", json!({ "protocolVersion": 1 }));
    let modes =
        json!({ "currentModeId": "auto", "availableModes": [{ "id": "bypassPermissions" }] });
    played.result("session/new", json!({ "sessionId": "s", "modes": modes }));
    played.respond("session/set_mode", json!({ "error": { "code": -32603, "message": "root" } }));
    assert_eq!(played.written("session/prompt").len(), 1);
}

#[test]
fn another_sessions_words_and_wishes_are_not_ours() {
    let mut played = Played::prompted(&spec());
    let update =
        json!({ "sessionUpdate": "agent_message_chunk", "content": { "text": "foreign" } });
    let params = json!({ "sessionId": "other", "update": update });
    played.value(json!({ "method": "session/update", "params": params }));
    let params =
        json!({ "sessionId": "other", "options": [{ "optionId": "y", "kind": "allow_once" }] });
    played.value(json!({ "id": 1, "method": "session/request_permission", "params": params }));
    assert_eq!(played.outcome(1).unwrap()["outcome"], "cancelled");
    played.update(json!({ "sessionUpdate": "something_new" }));
    played.result("session/prompt", json!({ "stopReason": "end_turn" }));
    assert_eq!(played.answered(), "");
}

#[track_caller]
fn check_stop(reason: &str, expected: Result<&str, FailureKind>) {
    let mut played = Played::prompted(&spec());
    played.update(json!({ "sessionUpdate": "agent_message_chunk", "content": { "text": "hm" } }));
    played.result("session/prompt", json!({ "stopReason": reason }));
    match expected {
        Ok(text) => assert_eq!(played.answered(), text),
        Err(kind) => assert_eq!(played.failed().0, kind),
    }
}

#[test]
fn every_stop_reason_ends_the_turn() {
    check_stop("end_turn", Ok("hm"));
    check_stop("a_new_one", Ok("hm"));
    check_stop(
        "max_tokens",
        Ok("hm\n\n(The agent stopped at a limit of its own; it may not be done.)"),
    );
    check_stop("refusal", Err(FailureKind::Model));
    check_stop("cancelled", Err(FailureKind::Model));
}

#[test]
fn an_agent_that_leaves_is_a_failed_turn() {
    let mut played = Played::prompted(&spec());
    played.exit(Exit::Code(1), "out of memory\n");
    let (kind, message, _) = played.failed();
    assert_eq!(kind, FailureKind::Crashed);
    assert!(message.ends_with("(exit code 1): out of memory"), "{message}");
}

fn any_json() -> impl Strategy<Value = Value> {
    let keys = &[
        "id",
        "method",
        "params",
        "result",
        "error",
        "sessionId",
        "update",
        "sessionUpdate",
        "toolCall",
        "options",
        "configOptions",
        "modes",
        "models",
        "category",
        "kind",
        "rawInput",
        "command",
        "content",
        "code",
        "stopReason",
        "protocolVersion",
    ];
    let words = &[
        "session/update",
        "session/request_permission",
        "s",
        "agent_message_chunk",
        "tool_call",
        "mode",
        "model",
        "execute",
        "allow_once",
        "ä",
    ];
    tests::any_json(words, keys, &[0, 1, 2, 3, 4, 5, 6, 7, 8])
}

proptest! {
    #[test]
    fn no_json_makes_it_panic(values in prop::collection::vec(any_json(), 1..12), prompted: bool) {
        let spec = spec();
        let mut played = if prompted { Played::prompted(&spec) } else { Played::new(&spec) };
        for value in values {
            played.value(value);
        }
        played.command(TurnCommand::Decide {
            question: QuestionId("1".to_owned()),
            verdict: Verdict::Allow,
        });
        played.command(TurnCommand::Interrupt);
    }
}
