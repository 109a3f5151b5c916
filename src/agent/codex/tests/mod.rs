//! A player that stands in for codex: it hands the protocol what codex would say, keeps what the
//! protocol writes, and turns what it reports into lines.
//!
//! A fixture has what one client wrote (`c2s`) and what codex answered (`s2c`), without the
//! notifications that the protocol opts out of. The player compares the protocol's own requests
//! with the client's by method, gives it the recorded responses under its own ids, turns the
//! client's answers into commands, and expects the protocol to write exactly these answers. The
//! recording client did not call `account/read`; the player answers that by itself.
//!
//! Traps of permissions, interrupts and exits, and the tests that name them. Those of `e2e` are in
//! `tests/e2e`, with the real program.
//!
//! | trap | test |
//! |---|---|
//! | an open request halts the turn for ever | `behaviour::requests_that_are_not_served_are_refused_at_once` |
//! | several requests at once | `recorded::two_questions_are_open_at_once`; e2e `control::codex::two_at_once_…` |
//! | a patch is asked for without its diff | `recorded::a_patch_is_asked_for_with_its_diff`; e2e `control::codex::an_edit_is_put_with_its_diff` |
//! | what asks depends on the sandbox | e2e `control::codex::trap_the_sandbox_decides_what_asks_…` |
//! | `cancel` ends the turn, `decline` does not | `recorded::a_command_is_declined`; e2e `control::codex::what_is_approved_happens_…` |
//! | a refusal has no place for its reason | `behaviour::why_something_is_refused_is_told_once_and_before_the_refusal`; e2e, as the one before |
//! | a message to an active turn joins it, one too late begins another | the same (`expectedTurnId`) |
//! | `acceptForSession` and amendments outlive the thread | `behaviour::trap_nothing_is_stored_for_always`; e2e `control::codex::always_holds_…` |
//! | a tool of a server is asked for by another way | `recorded::an_mcp_tool_asks_by_elicitation`; e2e `control::codex::a_tool_of_a_server_is_asked_for` |
//! | what is granted may hold for the session | `approval::tests::permissions_are_granted_as_asked_or_not_at_all`; e2e `control::codex::a_wider_sandbox_is_asked_for` |
//! | request ids begin anew with each process | e2e `control::codex::an_engine_that_dies_asking_has_to_ask_again` |
//! | `commandActions` leave parts of a command out | `shell::tests::what_is_not_entirely_a_wrapper_stays_whole` |
//! | an interrupt ends no command | `behaviour::trap_an_interrupt_also_ends_commands`; e2e `control::codex::trap_a_command_in_the_background_is_stopped_too`, `…::a_stop_ends_a_command` |
//! | an interrupt's questions are resolved after the end | `behaviour::trap_an_interrupt_takes_every_question_back`; e2e `control::codex::a_stop_while_it_asks_…` |
//! | the end of input interrupts; the process keeps the thread locked | every end (`Player::run`); e2e, the resumes after every stop |
//! | an INT leaves a command behind, a TERM does not | `behaviour::trap_the_ladder_has_no_int`; e2e `leftovers::codex` |
//! | a launcher that is killed leaves codex | e2e `codex::a_launcher_that_is_killed_takes_codex_with_it` |
//! | a resume without directory, sandbox and policy loses them | `behaviour::the_handshake_says_everything`; e2e `control::codex::always_holds_…` |
//! | `untrusted` in the person's config stops the start; trust is written there | `behaviour::the_command_line_overrides_what_would_get_in_the_way`; e2e `control::codex::trap_the_persons_settings_neither_stop_us_nor_change` |
//! | usage is the thread's total | `recorded::a_resumed_thread` |
//!
//! Not tested: that a late tool result is lost after 30 s with models that run scripts. Our own tools
//! are done long before.

mod answers;
mod behaviour;
mod recorded;

use std::{collections::HashMap, ops::Deref, sync::Arc};

use super::*;
use crate::agent::{
    Gate, Sandbox, TurnCommand,
    ledger::OPEN_MAX,
    tests::{self, Host, recording},
};

const SESSION: &str = "01a203c7-2267-77e1-afe0-041b0d6be873";

fn spec() -> TurnSpec {
    TurnSpec {
        prompt: Arc::new("hello".to_owned()),
        project_dir: "/home/me/project".into(),
        title: String::new(),
        ..tests::spec()
    }
}

fn resuming() -> TurnSpec {
    TurnSpec { session: Some(SessionId::new(SESSION)), ..spec() }
}

/// A host whose writes are taken away when they were looked at, and what it reported in lines.
struct Player {
    host: Host<Codex>,
    /// Our id of the request that the recording has under the key.
    ids: HashMap<u64, Value>,
    log: Vec<String>,
    /// How many events are in the log, and whether the end is.
    logged: (usize, bool),
}

impl Deref for Player {
    type Target = Host<Codex>;

    fn deref(&self) -> &Host<Codex> {
        &self.host
    }
}

impl Player {
    fn new(spec: &TurnSpec) -> Player {
        let host = Host::begun(spec);
        let mut player = Player { host, ids: HashMap::new(), log: Vec::new(), logged: (0, false) };
        player.log_news();
        player
    }

    fn log_news(&mut self) {
        let (events, was_over) = self.logged;
        self.log.extend(self.host.events[events..].iter().map(event_text));
        let end = self.host.end.iter().filter(|_| !was_over);
        self.log.extend(end.map(|end| format!("=> {}", end_text(end))));
        self.logged = (self.host.events.len(), self.host.end.is_some());
    }

    fn hear(&mut self, value: Value) {
        self.host.value(value);
        self.log_news();
    }

    fn tell(&mut self, command: TurnCommand) {
        self.host.command(command);
        self.log_news();
    }

    fn exit(&mut self, exit: Exit, stderr: &str) {
        self.host.exit(exit, stderr);
        self.log_news();
    }

    /// Plays a fixture to its end.
    #[track_caller]
    fn play(&mut self, fixture: &str) {
        for mut line in recording("codex", fixture) {
            if line["c2s"].is_object() {
                self.client_wrote(line["c2s"].take());
            } else {
                self.codex_wrote(line["s2c"].take());
            }
        }
    }

    #[track_caller]
    fn client_wrote(&mut self, recorded: Value) {
        let Some(method) = recorded["method"].as_str() else {
            return self.client_answered(&recorded);
        };
        if method == "turn/interrupt" {
            self.tell(TurnCommand::Interrupt);
        }
        let ours = self.next_write();
        let ours = if ours["method"] == "account/read" && method != "account/read" {
            let account = json!({"account": {"type": "apiKey"}, "requiresOpenaiAuth": true});
            self.hear(json!({"id": ours["id"], "result": account}));
            self.next_write()
        } else {
            ours
        };
        assert_eq!(ours["method"], method);
        if let Some(id) = recorded["id"].as_u64() {
            self.ids.insert(id, ours["id"].clone());
        }
    }

    /// `cancel` is the one answer that the protocol never gives: somebody else did.
    #[track_caller]
    fn client_answered(&mut self, recorded: &Value) {
        let result = &recorded["result"];
        let question = QuestionId(recorded["id"].to_string());
        let call = recorded["id"].to_string();
        let deny = Verdict::Deny { reason: "not now".to_owned() };
        let decide = |verdict| TurnCommand::Decide { question, verdict };
        self.tell(match result["decision"].as_str().or(result["action"].as_str()) {
            Some("cancel") => return,
            Some("accept") => decide(Verdict::Allow),
            Some("decline") => decide(deny),
            Some(other) => panic!("no verdict for {other}"),
            None if result["permissions"].is_object() => decide(deny),
            None if result["answers"].is_object() => {
                let chosen = |it: &Value| vec![it["answers"][0].as_str().unwrap().to_owned()];
                let answers = result["answers"].as_object().unwrap().values();
                decide(Verdict::Chosen(answers.map(chosen).collect()))
            }
            None => {
                let text = result["contentItems"][0]["text"].as_str().unwrap().to_owned();
                let success = result["success"] == true;
                let result = if success { Ok(text) } else { Err(text) };
                TurnCommand::ToolResult { call, result }
            }
        });
        if self.writes[0]["method"] == "turn/steer" {
            // The recording client gave no reason.
            assert!(self.next_write().to_string().contains("not now"));
        }
        assert_eq!(self.next_write(), *recorded);
    }

    fn codex_wrote(&mut self, mut value: Value) {
        if value["method"].is_null() {
            let id = value["id"].as_u64().expect("responses have the id of a request");
            value["id"] = self.ids[&id].clone();
        }
        if value["method"] == "item/tool/call" {
            // What a call must look like is the business of `tools`; here it only travels.
            let call = value["id"].to_string();
            let tool = tools::BridgeTool::ThreadRead { limit: 1, before: None };
            let mut ignored = Actions::default();
            let open = ToolCall { id: call.clone(), tool };
            self.host.protocol.ledger.call(open, value["id"].clone(), &mut ignored);
            self.log.push(format!("ToolCall {call} {}", value["params"]["tool"]));
            return;
        }
        self.hear(value);
    }

    #[track_caller]
    fn next_write(&mut self) -> Value {
        assert!(!self.writes.is_empty(), "nothing was written after {:#?}", self.log);
        self.host.writes.remove(0)
    }

    /// Through the handshake, into a running turn `u` of thread `t`.
    fn working(spec: &TurnSpec) -> Player {
        let mut player = Player::new(spec);
        player.hear(json!({"id": 1, "result": {}}));
        player.hear(json!({"id": 2, "result": {"account": {}}}));
        player.hear(json!({"id": 3, "result": {"thread": {"id": "t"}}}));
        player.hear(json!({"id": 4, "result": {"turn": {"id": "u"}}}));
        player.host.writes.clear();
        player.log.clear();
        player
    }

    fn session_known(&mut self) {
        self.note("item/started", json!({"item": {"type": "userMessage"}}));
        self.log.clear();
    }

    fn note(&mut self, method: &str, mut params: Value) {
        params["threadId"] = json!("t");
        params["turnId"] = json!("u");
        self.hear(json!({"method": method, "params": params}));
    }
}

fn event_text(event: &TurnEvent) -> String {
    match event {
        TurnEvent::Question(it) => format!(
            "Question {} {} {:?} {:?} {}{}",
            it.id.0,
            it.tool,
            it.kind,
            it.subject,
            it.input,
            it.reason.as_ref().map(|reason| format!(" because {reason:?}")).unwrap_or_default(),
        ),
        TurnEvent::Usage(usage) => {
            format!("Usage {} in, {} out", usage.input_tokens, usage.output_tokens)
        }
        TurnEvent::Retry { message, .. } => format!("Retry {message:?}"),
        other => format!("{other:?}"),
    }
}

fn end_text(end: &TurnEnd) -> String {
    match end {
        TurnEnd::Failed(it) => format!("{:?}: {}\n   {}", it.kind, it.message, it.advice),
        other => format!("{other:?}"),
    }
}

fn writes(player: &Player) -> String {
    player.writes.iter().map(Value::to_string).collect::<Vec<_>>().join("\n")
}
