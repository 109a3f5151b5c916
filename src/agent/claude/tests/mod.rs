//! Recorded conversations with claude 2.1.197 are played to the protocol: `out` lines are what the
//! program said, `in` lines what a host answered and the program was content with.
//!
//! Traps of permissions, interrupts and exits, and the tests that name them. Those of `e2e` are in
//! `tests/e2e`, with the real program.
//!
//! | trap | test |
//! |---|---|
//! | 1 `success` can be a failure | `turns::trap_1_and_15_not_authorised`; e2e `claude::a_refused_key_is_told` |
//! | 2 the exit code does not tell | `ends::trap_2_the_exit_code_does_not_tell` |
//! | 3 the process never exits by itself | every play (`Play::carry_out`) |
//! | 4 an early end of input breaks permissions unseen | `turns::trap_4_the_pipe_stays_open_for_a_background_agent`; e2e `control::claude::two_at_once_…` |
//! | 5 notifications need an answer | `turns::trap_5_bridge_tools_with_their_handshake` |
//! | 6 allow needs the input, deny a message | `turns::trap_6_a_permission_echoes_the_input`, `…_a_refusal_has_a_message`; e2e `control::claude::what_is_approved_happens_…` |
//! | 12 a project's settings run programs | `shapes::the_command_line`; e2e `control::claude::trap_a_projects_servers_are_not_started` |
//! | 13 TERM and KILL orphan a command | `ends::trap_13_…`; e2e `leftovers::claude`, `control::claude::a_stop_ends_a_command` |
//! | 18 root and bypass | `ends::trap_18_root_and_bypass`; e2e `claude::claude_does_not_start_for_root_without_its_gate` |
//! | several questions at once | `turns::several_questions_are_open_at_once`; e2e `control::claude::two_at_once_…` |
//! | a cancelled question must not be answered | `questions::trap_an_interrupt_takes_every_question_back`; e2e `control::claude::a_stop_while_it_asks_…` |
//! | suggested rules are written into settings | `questions::trap_nothing_is_stored_for_always`; e2e `control::claude::always_holds_…` |
//! | the user's default mode may not ask | `shapes::the_command_line`; e2e `control::claude::trap_the_persons_own_rules_answer_before_we_do` |
//! | rules in the person's settings answer before the host does | e2e, the same |
//! | tools that wait for a terminal | `shapes::the_command_line`, `questions::trap_words_are_no_permission`; e2e `control::claude::trap_what_would_wait_or_outlive_the_turn_is_not_offered` |
//! | background work outlives the result | `shapes::trap_background_tasks_are_off`, `ends::an_interrupted_turn_does_not_wait_for_background_agents`; e2e, as the one before |
//! | an interrupt's errors are diagnostics | `turns::an_interrupt_while_a_command_runs`; e2e `control::claude::a_stop_ends_a_command` |
//! | an interrupt in a request to the model | e2e `control::claude::a_stop_ends_the_wait_for_a_model` |

mod ends;
mod questions;
mod shapes;
mod turns;

use std::{collections::BTreeMap, fmt::Write, ops::Deref};

use serde_json::{Value, json};

use super::*;
use crate::agent::{
    Image, Question, TurnCommand,
    tests::{self, FRESH, Host, recording},
    tools::BridgeTool,
};

const SESSION: &str = "151c1199-4cec-44db-9db4-01f25c85f0f9";

fn spec(session: Option<&str>) -> TurnSpec {
    TurnSpec { session: session.map(SessionId::new), project_dir: "/w".into(), ..tests::spec() }
}

/// The host's side of a conversation, and a log of what was seen.
struct Play {
    host: Host<Claude>,
    verdict: Verdict,
    tool_result: Result<String, String>,
    /// Answers by request id that wait until the recorded host gave them.
    held: BTreeMap<String, TurnCommand>,
    /// Not a recording: answer questions and calls at once.
    at_once: bool,
    log: String,
    /// How many writes and events are in the log.
    logged: (usize, usize),
    logged_end: bool,
}

impl Deref for Play {
    type Target = Host<Claude>;

    fn deref(&self) -> &Host<Claude> {
        &self.host
    }
}

impl Play {
    fn new(session: Option<&str>) -> Play {
        let mut host = Host::begun(&spec(session));
        // What `begin` writes has tests of its own.
        host.writes.clear();
        Play {
            host,
            verdict: Verdict::Allow,
            tool_result: Ok("posted".to_owned()),
            held: BTreeMap::new(),
            at_once: true,
            log: String::new(),
            logged: (0, 0),
            logged_end: false,
        }
    }

    fn verdict(mut self, verdict: Verdict) -> Play {
        self.verdict = verdict;
        self
    }

    /// Plays a recording to its end. What its host did, we do at the same moment.
    fn run(mut self, name: &str) -> Play {
        self.at_once = false;
        let mut stderr = String::new();
        for line in recording("claude", name) {
            let value = &line["line"];
            match line["dir"].as_str().unwrap() {
                "out" => self.value(value.clone()),
                "in" if value["request"]["subtype"] == "interrupt" => {
                    self.command(TurnCommand::Interrupt);
                }
                "in" => {
                    let id = value["response"]["request_id"].as_str().unwrap_or_default();
                    if let Some(answer) = self.held.remove(id) {
                        self.command(answer);
                    }
                }
                "err" => {
                    stderr.push_str(value.as_str().unwrap());
                    stderr.push('\n');
                }
                "exit" => {
                    let code = value["code"].as_i64().and_then(|code| i32::try_from(code).ok());
                    self.exit(code.map_or(Exit::Unknown, Exit::Code), &stderr);
                }
                _ => {}
            }
        }
        self
    }

    fn value(&mut self, value: Value) {
        self.host.value(value);
        self.carry_out();
    }

    fn command(&mut self, command: TurnCommand) {
        self.host.command(command);
        self.carry_out();
    }

    fn exit(&mut self, exit: Exit, stderr: &str) {
        self.host.exit(exit, stderr);
        self.carry_out();
    }

    fn carry_out(&mut self) {
        let (writes, events) = self.logged;
        let was_over = self.logged_end;
        self.logged = (self.host.writes.len(), self.host.events.len());
        for value in &self.host.writes[writes..] {
            writeln!(self.log, "write {value}").unwrap();
        }
        for event in &self.host.events[events..] {
            writeln!(self.log, "{}", shown(event)).unwrap();
            match event {
                TurnEvent::Question(Question { id: question, .. }) => {
                    let (question, verdict) = (question.clone(), self.verdict.clone());
                    self.held.insert(question.0.clone(), TurnCommand::Decide { question, verdict });
                }
                TurnEvent::ToolCall(ToolCall { id: call, .. }) => {
                    let (call, result) = (call.clone(), self.tool_result.clone());
                    self.held.insert(call.clone(), TurnCommand::ToolResult { call, result });
                }
                _ => {}
            }
        }
        self.logged_end = self.host.end.is_some();
        if let Some(end) = self.host.end.as_ref().filter(|_| !was_over) {
            writeln!(self.log, "{end:?}").unwrap();
        }
        while self.at_once
            && let Some((_, answer)) = self.held.pop_first()
        {
            self.command(answer);
        }
    }

    /// Our answers to control requests must be those that the recorded host gave.
    #[track_caller]
    fn answers_as_recorded(&self, name: &str) {
        let response = |value: &Value| value["type"] == "control_response";
        let recorded: Vec<Value> = recording("claude", name)
            .into_iter()
            .filter(|line| line["dir"] == "in" && response(&line["line"]))
            .map(|mut line| line["line"].take())
            .collect();
        let ours: Vec<Value> =
            self.writes.iter().filter(|value| response(value)).cloned().collect();
        assert_eq!(ours, recorded);
    }
}

/// An event in a line.
fn shown(event: &TurnEvent) -> String {
    match event {
        TurnEvent::Question(question) => format!(
            "Question {:?} {:?} {:?} because {:?}",
            question.tool, question.kind, question.subject, question.reason
        ),
        TurnEvent::ToolCall(call) => format!("ToolCall {:?}", call.tool),
        TurnEvent::Usage(usage) => format!(
            "Usage {} in, {} out, {:?}",
            usage.input_tokens, usage.output_tokens, usage.cost_usd
        ),
        _ => format!("{event:?}"),
    }
}

/// A play in the middle of a turn.
fn started() -> Play {
    let mut play = Play::new(None);
    play.value(json!({ "type": "system", "subtype": "init", "session_id": SESSION }));
    play.log.clear();
    play
}

fn can_use_tool(id: &str, tool: &str, input: Value) -> Value {
    let request = json!({ "subtype": "can_use_tool", "tool_name": tool, "input": input });
    json!({ "type": "control_request", "request_id": id, "request": request })
}

fn mcp(id: &str, message: Value) -> Value {
    let request = json!({ "subtype": "mcp_message", "server_name": "bridge", "message": message });
    json!({ "type": "control_request", "request_id": id, "request": request })
}

fn post_call(id: &str, rpc_id: u64) -> Value {
    let params = json!({ "name": "bridge_post", "arguments": { "body": "hi" } });
    let message =
        json!({ "jsonrpc": "2.0", "id": rpc_id, "method": "tools/call", "params": params });
    mcp(id, message)
}
