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

use super::{
    Actions, Exit, Gate, Protocol, QuestionId, ToolCall, ToolResult, TurnEnd, TurnEvent, TurnSpec,
    Verdict,
    answer::Phase,
    ledger::{KNOWN_MAX, Ledger},
    text::{list, one_line, text},
    tools,
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
    let disallowed = [if spec.takes_choices() { "" } else { ASK_TOOL }, DISALLOWED].concat();
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
    let settings = settings(spec);
    if let Some(settings) = &settings {
        args.extend(["--settings", settings]);
    }
    match resumable(spec) {
        Some(session) => args.extend(["--resume", session.as_str()]),
        None => args.extend(["--session-id", spec.fresh_session.as_str()]),
    }
    args.into_iter().map(str::to_owned).collect()
}

/// Settings besides the person's own: what is in the project is read without asking, by tools and
/// by commands that only read. Rules for `Read` also hold for searches, and for the files that
/// such a command names, but not for those that it finds by itself (2.1.197).
fn settings(spec: &TurnSpec) -> Option<String> {
    if spec.own_files.is_empty() || spec.gate != Gate::Ask {
        return None;
    }
    let rule = |path: &String| [format!("Read(/{path})"), format!("Read(/{path}/**)")];
    let deny: Vec<String> = spec.own_files.iter().flat_map(rule).collect();
    let ask: &[&str] = if spec.has_own_files { &["Bash", "Glob", "Grep", "Monitor"] } else { &[] };
    Some(json!({ "permissions": { "deny": deny, "ask": ask } }).to_string())
}

/// The session to resume. `--resume` takes what is no UUID for a title, and would open whatever
/// session bears it.
fn resumable(spec: &TurnSpec) -> Option<&SessionId> {
    spec.session.as_ref().filter(|session| is_uuid(session.as_str()))
}

#[derive(Debug, Default)]
pub struct Claude {
    resuming: bool,
    project: Utf8PathBuf,
    session: Option<SessionId>,
    /// Questions are `can_use_tool` requests, and calls the JSON-RPC ids of `tools/call`; both are
    /// named by their control request.
    ledger: Ledger<Value, Value>,
    /// Background agents that still run; they ask and post over our pipe.
    tasks: BTreeSet<String>,
    /// `error` of the latest API failure: `authentication_failed`, `rate_limit` and so on.
    api_error: String,
    /// When the limit that was reached is lifted.
    resets: Option<Timestamp>,
    /// The turn's end, while background agents keep the process busy.
    end: Option<TurnEnd>,
}

impl Claude {
    fn init(&mut self, session: &str, actions: &mut Actions) {
        if is_uuid(session) && self.session.as_ref().is_none_or(|known| known.as_str() != session) {
            let session = SessionId::new(session);
            self.session = Some(session.clone());
            actions.event(TurnEvent::Session(session));
        }
    }

    /// A message, or a block of one, of the main agent or a subagent.
    fn assistant(&mut self, line: &Value, actions: &mut Actions) {
        // On the made-up message of an API failure.
        let error = text(line, "/error");
        if !error.is_empty() {
            error.clone_into(&mut self.api_error);
        }
        let is_made_up = text(line, "/message/model") == "<synthetic>" || !error.is_empty();
        // What is said after the result is in a result of its own.
        let is_ours = line["parent_tool_use_id"].is_null() && !is_made_up && self.end.is_none();
        let answer = &mut self.ledger.answer;
        for block in list(line, "/message/content") {
            match text(block, "/type") {
                "text" if is_ours => {
                    answer.message("", text(block, "/text"), Phase::Unmarked, actions);
                }
                "tool_use" => {
                    if is_ours {
                        answer.call(text(block, "/id"), actions);
                    }
                    let (tool, input) = (text(block, "/name"), &block["input"]);
                    let line = Some(tool).filter(|tool| !BRIDGE_TOOLS.contains(tool));
                    let line = line.and_then(|tool| asking::progress(tool, input, &self.project));
                    actions.events.extend(line.map(TurnEvent::Progress));
                }
                _ => {}
            }
        }
    }

    /// A question to the host, which waits for a control response of the same id.
    fn request(&mut self, line: &Value, actions: &mut Actions) {
        let (id, request) = (text(line, "/request_id"), &line["request"]);
        match text(request, "/subtype") {
            // There is nothing to answer to.
            _ if id.is_empty() => {}
            "can_use_tool" => self.can_use_tool(id, request, actions),
            "mcp_message" if text(request, "/server_name") == wire::SERVER => {
                self.mcp(id, &request["message"], actions);
            }
            "mcp_message" => {
                let server = one_line(text(request, "/server_name"), NAME_CHARS);
                actions.write(wire::failure(id, &format!("no MCP server {server:?} here")));
            }
            subtype => {
                let subtype = one_line(subtype, NAME_CHARS);
                log::warn!("claude asks for {subtype:?}, which this version does not know");
                actions.write(wire::failure(id, &format!("{subtype:?} is not supported")));
            }
        }
    }

    fn can_use_tool(&mut self, id: &str, asked: &Value, actions: &mut Actions) {
        if BRIDGE_TOOLS.contains(&asking::tool(asked)) {
            actions.write(wire::allow(id, &asked["input"]));
        } else if self.ledger.is_interrupted() {
            actions.write(wire::deny(id, "The turn was stopped."));
        } else if !self.ledger.takes_questions() {
            actions.write(wire::deny(id, "too many questions are open; ask fewer at a time"));
        } else {
            self.ledger.ask(asking::question(id, asked), asked.clone(), actions);
        }
    }

    fn mcp(&mut self, id: &str, message: &Value, actions: &mut Actions) {
        let (method, params) = (text(message, "/method"), &message["params"]);
        let rpc_id = &message["id"];
        let answer = match method {
            "notifications/cancelled" if rpc_id.is_null() => {
                self.ledger.retain_calls(|open| *open != params["requestId"]);
                mcp::acknowledgement()
            }
            _ if rpc_id.is_null() => mcp::acknowledgement(),
            "tools/call" => match tools::parse(text(params, "/name"), &params["arguments"]) {
                Ok(tool) if self.ledger.takes_calls() => {
                    let call = ToolCall { id: id.to_owned(), tool };
                    return self.ledger.call(call, rpc_id.clone(), actions);
                }
                Ok(_) => {
                    let refusal = "too many calls are open; wait for their results";
                    mcp::result(rpc_id, &Err(refusal.to_owned()))
                }
                Err(error) => mcp::result(rpc_id, &Err(error)),
            },
            _ => mcp::answer(rpc_id, method, params),
        };
        actions.write(wire::mcp_response(id, answer));
    }

    fn result(&mut self, line: &Value, actions: &mut Actions) {
        // A turn that the CLI began by itself, when a background task ended or was lost.
        if !line["origin"].is_null() {
            if let Some(TurnEnd::Answered { text }) = &mut self.end {
                end::add(text, line);
            }
            return;
        }
        if self.end.is_some() {
            return;
        }
        if line["usage"].is_object() {
            actions.event(TurnEvent::Usage(wire::usage(line)));
        }
        let said = self.ledger.answer.text();
        self.end = Some(end::of_result(line, said, &self.api_error, self.resuming, self.resets));
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
        match (text(&value, "/type"), text(&value, "/subtype")) {
            // At the start of every turn.
            ("system", "init") => self.init(text(&value, "/session_id"), actions),
            ("system", "api_retry") => {
                actions.event(TurnEvent::Retry { message: wire::retry(&value), next: None });
            }
            ("system", "task_started") => {
                let (kind, task) = (text(&value, "/task_type"), text(&value, "/task_id"));
                let is_agent = matches!(kind, "local_agent" | "local_workflow");
                if is_agent && !task.is_empty() && self.tasks.len() < KNOWN_MAX {
                    self.tasks.insert(task.to_owned());
                }
            }
            ("system", "task_updated")
                if !matches!(text(&value, "/patch/status"), "completed" | "failed" | "killed") => {}
            ("system", "task_notification" | "task_updated") => {
                self.tasks.remove(text(&value, "/task_id"));
                self.finish_if_idle(actions);
            }
            ("rate_limit_event", _) => {
                if let Some((limit, resets)) = wire::reached_limit(&value["rate_limit_info"]) {
                    self.resets = resets;
                    let message = format!("{limit} is reached");
                    actions.event(TurnEvent::Retry { message, next: resets });
                }
            }
            ("assistant", _) => self.assistant(&value, actions),
            ("result", _) => self.result(&value, actions),
            ("control_request", _) => self.request(&value, actions),
            ("control_cancel_request", _) => {
                let question = QuestionId(text(&value, "/request_id").to_owned());
                self.ledger.withdraw(question, actions);
            }
            // New kinds of lines come with every version.
            _ => {}
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
            Verdict::Allow | Verdict::AllowAlways => wire::allow(id, &asked["input"]),
        });
    }

    fn on_tool_result(&mut self, call: &str, result: ToolResult, actions: &mut Actions) {
        if let Some(rpc_id) = self.ledger.returned(call) {
            actions.write(wire::mcp_response(call, mcp::result(&rpc_id, &result)));
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
