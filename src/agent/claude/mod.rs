//! Claude Code: one process per turn, `stream-json` lines with a control protocol in between, our
//! tools as an MCP server inside that. Facts are those of claude 2.1.197.

mod asking;
pub mod description;
mod end;
pub mod files;
mod mcp;
pub mod wire;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use camino::Utf8PathBuf;
use serde_json::{Value, json};

use self::wire::{CanUseTool, Line, Outcome, Request};
use super::{
    Actions, Exit, Gate, Protocol, QuestionId, ToolCall, ToolResult, TurnEnd, TurnEvent, TurnSpec,
    Verdict,
    ledger::{KNOWN_MAX, Ledger},
    text::one_line,
};
use crate::{
    ids::{SessionId, is_uuid},
    time::Timestamp,
};

/// What the process gets on top of its cleaned environment: no background tasks, so that one
/// prompt has one result and nothing outlives it; and `@path` in a message, which anyone may have
/// written, attaches no file.
pub const ENV: &[(&str, &str)] =
    &[("CLAUDE_CODE_DISABLE_BACKGROUND_TASKS", "1"), ("CLAUDE_CODE_DISABLE_ATTACHMENTS", "1")];

/// What the process must not inherit: these change Node programs and make them chatty. The
/// vendor's own launcher removes them too.
pub const ENV_REMOVE: &[&str] = &["NODE_OPTIONS", "DEBUG"];

/// Waits for a person, whom a turn may have or not.
const ASK_TOOL: &str = "AskUserQuestion,";

/// Tools that wait for a person at the terminal, or outlive the turn.
const DISALLOWED: &str = "EnterPlanMode,ExitPlanMode,EnterWorktree,ExitWorktree,\
                          CronCreate,CronDelete,CronList,ScheduleWakeup,Workflow";

/// Allowed without a question: they are the way to ask one.
const BRIDGE_TOOLS: [&str; 2] = ["mcp__bridge__bridge_post", "mcp__bridge__bridge_thread_read"];

/// Characters of a name that is repeated in an error or the log.
const NAME_CHARS: usize = 160;

/// The arguments after the program's name.
///
/// With [`Gate::AllowAll`] nothing is asked. As root Claude Code then refuses to start unless
/// `IS_SANDBOX=1` is set, which is for the user to say.
pub fn args(spec: &TurnSpec) -> Vec<String> {
    let asks_human = spec.asks_human && spec.gate == Gate::Ask;
    let disallowed = [if asks_human { "" } else { ASK_TOOL }, DISALLOWED].concat();
    let mut args = vec!["--output-format", "stream-json", "--verbose"];
    args.extend(["--input-format", "stream-json"]);
    match spec.gate {
        Gate::Ask => {
            // The mode is given because the user's settings may have another default.
            args.extend(["--permission-prompt-tool", "stdio", "--permission-mode", "default"]);
        }
        Gate::AllowAll => args.extend(["--permission-mode", "bypassPermissions"]),
    }
    // The project's `.mcp.json` would start programs of a directory that was not trusted.
    args.push("--strict-mcp-config");
    args.extend(["--disallowedTools", disallowed.as_str()]);
    match resumable(spec) {
        Some(session) => args.extend(["--resume", session.as_str()]),
        None => args.extend(["--session-id", spec.fresh_session.as_str()]),
    }
    args.into_iter().map(str::to_owned).collect()
}

/// The session to resume. `--resume` takes what is no UUID for a title, and would open whatever
/// session bears it.
fn resumable(spec: &TurnSpec) -> Option<&SessionId> {
    spec.session.as_ref().filter(|session| is_uuid(session.as_str()))
}

/// One turn of Claude Code.
#[derive(Debug, Default)]
pub struct Claude {
    resuming: bool,
    project: Utf8PathBuf,
    session: Option<SessionId>,
    working: bool,
    /// Questions are `can_use_tool` requests, and calls the JSON-RPC ids of `tools/call`; both are
    /// named by their control request.
    ledger: Ledger<CanUseTool, Value>,
    /// Background agents that still run; they ask and post over our pipe.
    tasks: BTreeSet<String>,
    /// `error` of the latest API failure.
    api_error: Option<String>,
    /// When the limit that was reached is lifted.
    resets: Option<Timestamp>,
    /// The turn's end, while background agents keep the process busy.
    end: Option<TurnEnd>,
}

impl Claude {
    fn started(&mut self, actions: &mut Actions) {
        if !self.working {
            self.working = true;
            actions.event(TurnEvent::Working);
        }
    }

    fn init(&mut self, session: Option<String>, actions: &mut Actions) {
        let session = session.filter(|session| is_uuid(session)).map(SessionId::new);
        if let Some(session) = session
            && self.session.as_ref() != Some(&session)
        {
            self.session = Some(session.clone());
            actions.event(TurnEvent::Session(session));
        }
        self.started(actions);
    }

    fn assistant(&mut self, line: wire::Assistant, actions: &mut Actions) {
        self.started(actions);
        if line.error.is_some() {
            self.api_error = line.error;
        }
        for tool in line.tool_uses {
            if BRIDGE_TOOLS.contains(&tool.name.as_str()) {
                continue;
            }
            let line = asking::progress(&tool.name, &tool.input, &self.project);
            actions.events.extend(line.map(TurnEvent::Progress));
        }
    }

    fn request(&mut self, id: String, request: Request, actions: &mut Actions) {
        match request {
            Request::CanUseTool(question) if BRIDGE_TOOLS.contains(&question.tool.as_str()) => {
                actions.write(wire::allow(&id, &question.input));
            }
            Request::CanUseTool(_) if self.ledger.is_interrupted() => {
                actions.write(wire::deny(&id, "The turn was stopped."));
            }
            Request::CanUseTool(_) if !self.ledger.takes_questions() => {
                actions.write(wire::deny(&id, "too many questions are open; ask fewer at a time"));
            }
            Request::CanUseTool(asked) => {
                self.ledger.ask(asking::question(&id, &asked), asked, actions);
            }
            Request::Mcp { server, message } if server == wire::SERVER => {
                self.mcp(id, &message, actions);
            }
            Request::Mcp { server, .. } => {
                let server = one_line(&server, NAME_CHARS);
                actions.write(wire::failure(&id, &format!("no MCP server {server:?} here")));
            }
            Request::Unknown { subtype } => {
                let subtype = one_line(&subtype, NAME_CHARS);
                log::warn!("claude asks for {subtype:?}, which this version does not know");
                actions.write(wire::failure(&id, &format!("{subtype:?} is not supported")));
            }
        }
    }

    fn mcp(&mut self, id: String, message: &Value, actions: &mut Actions) {
        let answer = |id: &str, value: Value| wire::success(id, json!({ "mcp_response": value }));
        match mcp::handle(message) {
            mcp::Reply::Now(value) => actions.write(answer(&id, value)),
            mcp::Reply::Cancel { rpc_id, acknowledge } => {
                self.ledger.retain_calls(|open| *open != rpc_id);
                actions.write(answer(&id, acknowledge));
            }
            mcp::Reply::Call { rpc_id, .. } if !self.ledger.takes_calls() => {
                let refusal = Err("too many calls are open; wait for their results".to_owned());
                actions.write(answer(&id, mcp::result(&rpc_id, &refusal)));
            }
            mcp::Reply::Call { rpc_id, tool } => {
                self.ledger.call(ToolCall { id, tool }, rpc_id, actions);
            }
        }
    }

    fn result(&mut self, outcome: Outcome, actions: &mut Actions) {
        // A turn that the CLI began by itself, when a background task ended or was lost.
        if outcome.foreign || self.end.is_some() {
            return;
        }
        if let Some(usage) = outcome.usage.clone() {
            actions.event(TurnEvent::Usage(usage));
        }
        let api_error = self.api_error.as_deref();
        self.end = Some(end::of_result(outcome, api_error, self.resuming, self.resets));
        self.finish_if_idle(actions);
    }

    /// Ends the turn once there is a result and no background agent needs us any more: without our
    /// end of the pipe all its questions and posts fail silently. An interrupt does not wait for
    /// them.
    fn finish_if_idle(&mut self, actions: &mut Actions) {
        if (self.tasks.is_empty() || self.ledger.is_interrupted())
            && let Some(end) = self.end.take()
        {
            self.ledger.finish(end, actions);
        }
    }
}

impl Protocol for Claude {
    fn begin(&mut self, turn: &TurnSpec, actions: &mut Actions) {
        if let Some(session) = &turn.session
            && !is_uuid(session.as_str())
        {
            let detail = format!("{session} is no session id of Claude Code");
            return self.ledger.finish(TurnEnd::SessionGone { detail }, actions);
        }
        self.resuming = turn.session.is_some();
        self.project.clone_from(&turn.project_dir);
        actions.write(wire::initialize("initialize", &turn.title));
        actions.write(wire::user(&turn.prompt, &turn.images));
    }

    fn on_value(&mut self, value: Value, actions: &mut Actions) {
        match Line::read(&value) {
            Line::Init { session } => self.init(session, actions),
            Line::Retry(message) => actions.event(TurnEvent::Retry { message, next: None }),
            Line::RateLimited { limit, resets } => {
                self.resets = resets;
                let message = format!("{limit} is reached");
                actions.event(TurnEvent::Retry { message, next: resets });
            }
            Line::TaskStarted(task) => {
                if self.tasks.len() < KNOWN_MAX {
                    self.tasks.insert(task);
                }
            }
            Line::TaskEnded(task) => {
                self.tasks.remove(&task);
                self.finish_if_idle(actions);
            }
            Line::Assistant(line) => self.assistant(line, actions),
            Line::Result(outcome) => self.result(*outcome, actions),
            Line::Request { id, request } => self.request(id, request, actions),
            Line::Cancelled(id) => {
                self.ledger.withdraw(QuestionId(id), actions);
            }
            Line::Other => {}
        }
    }

    fn decide(&mut self, question: QuestionId, verdict: Verdict, actions: &mut Actions) {
        // Cancelled in the meantime, or decided before.
        let Some(asked) = self.ledger.decided(&question) else { return };
        let id = &question.0[..];
        actions.write(match verdict {
            Verdict::Deny { reason } => wire::deny(id, &reason),
            Verdict::Chosen(chosen) => match asking::answered(&asked, &chosen) {
                Some(input) => wire::allow(id, &input),
                None => wire::deny(id, "The answer does not fit what was asked."),
            },
            Verdict::Allow | Verdict::AllowAlways if asking::wants_words(&asked) => {
                wire::deny(id, "Nobody chose an answer. Ask in your final answer instead.")
            }
            // Without the rules that were suggested: in the person's settings they would outlive
            // the thread.
            Verdict::Allow | Verdict::AllowAlways => wire::allow(id, &asked.input),
        });
    }

    fn on_tool_result(&mut self, call: &str, result: ToolResult, actions: &mut Actions) {
        if let Some(rpc_id) = self.ledger.returned(call) {
            let response = json!({ "mcp_response": mcp::result(&rpc_id, &result) });
            actions.write(wire::success(call, response));
        }
    }

    fn interrupt(&mut self, actions: &mut Actions) {
        if let Some(end) = self.end.take() {
            // The answer is there. Interrupting does not stop background agents; the end of the
            // process does.
            self.ledger.finish(end, actions);
        } else if self.ledger.interrupt(actions).is_some() {
            // Claude Code cancels what it asked, and must not get an answer to it any more.
            actions.write(wire::interrupt("interrupt"));
        }
    }

    fn on_exit(&mut self, exit: Exit, stderr_tail: &str, actions: &mut Actions) {
        let end = self.end.take();
        let end = end.unwrap_or_else(|| end::of_exit(exit, stderr_tail, self.resuming));
        self.ledger.finish(end, actions);
    }
}
