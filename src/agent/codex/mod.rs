//! Codex: `codex app-server` on standard streams, one process a turn. The server speaks JSON-RPC
//! without the `jsonrpc` field; both sides ask and answer. Written for 0.130.0 and later, recorded
//! with 0.169.0.
//!
//! ```text
//! initialize → initialized, account/read (→ config/read) → thread/start | thread/resume → turn/start
//!   ← item/…, …/requestApproval, item/tool/call … ← turn/completed → end of input
//! ```
//!
//! The process must live as long as the turn, for the end of its input interrupts it; and it must
//! end with the turn, for until then no other program can open the thread.

mod approval;
pub mod description;
mod failure;
mod wire;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::{
    agent::{
        Actions, Exit, Failure, FailureKind, Protocol, QuestionId, ToolCall, ToolResult, TurnEnd,
        TurnEvent, TurnSpec, Usage, Verdict,
        answer::Phase,
        codex::approval::{Changes, Pending},
        ledger::{KNOWN_MAX, Ledger},
        progress::Doing,
        rpc::{BARE, METHOD_NOT_FOUND, Rpc, RpcError, RpcMessage},
        shell,
        text::{list, text},
        tools,
    },
    ids::{SessionId, is_uuid},
    prompt,
    time::Timestamp,
};

#[derive(Debug, Default)]
pub struct Codex {
    rpc: Rpc<Sent, BARE>,
    spec: TurnSpec,
    thread: Option<String>,
    turn: Option<String>,
    session_told: bool,
    /// The thread has nothing to do, so its turn is over.
    is_idle: bool,
    /// Calls are the ids of their requests.
    ledger: Ledger<Pending, Value>,
    changes: Changes,
    /// Reasons of refusals that the model has already.
    reasons_told: BTreeSet<String>,
    /// Tokens of the thread before this turn, and now: updates repeat (0.130.0), and the totals go on
    /// over resumes.
    tokens: Option<(Usage, Usage)>,
    /// When the account's limit that is used up is reset.
    resets: Option<Timestamp>,
    /// The thread gets a profile of permissions.
    wants_profile: bool,
}

/// What a response answers.
#[derive(Clone, Copy, Debug)]
enum Sent {
    Initialize,
    Account,
    Config,
    OpenThread,
    Turn,
    /// Asks how the turn ended.
    Read,
    Interrupt,
    /// The turn goes on whatever comes back.
    Aside,
}

impl Codex {
    fn finish(&mut self, end: impl Into<TurnEnd>, actions: &mut Actions) {
        if let Some((before, now)) = self.tokens.take() {
            actions.event(TurnEvent::Usage(since(&now, &before)));
        }
        self.ledger.finish(end, actions);
    }

    fn on_response(&mut self, tag: Sent, result: Result<Value, RpcError>, actions: &mut Actions) {
        match (tag, result) {
            (Sent::Initialize, Ok(initialized)) => {
                self.wants_profile = wire::wants_profile(&self.spec, &initialized);
                actions.write(self.rpc.notification("initialized", Value::Null));
                let params = json!({ "refreshToken": false });
                self.rpc.request("account/read", params, Sent::Account, actions);
            }
            (Sent::Account, account) => self.on_account(account, actions),
            (Sent::Config, config) => {
                // Without the person's settings the profile is stricter than the mode.
                self.open_thread(Some(&config.unwrap_or_default()), actions);
            }
            (Sent::OpenThread, Ok(result)) => self.start_turn(&result, actions),
            (Sent::Turn, Ok(result)) => {
                // `turn/started` usually tells the same a little later.
                let turn = text(&result, "/turn/id");
                if !turn.is_empty() {
                    self.turn = Some(turn.to_owned());
                }
            }
            (Sent::Initialize | Sent::OpenThread | Sent::Turn, Err(error)) => {
                self.finish(failure::of_refusal(&error, self.spec.session.is_some()), actions);
            }
            (Sent::Read, Ok(result)) => {
                let mut turns = list(&result, "/thread/turns").iter();
                let ours = turns.rfind(|turn| Some(text(turn, "/id")) == self.turn.as_deref());
                if let Some(turn) = ours.filter(|turn| text(turn, "/status") != "inProgress") {
                    self.on_end(turn, actions);
                }
            }
            // There is no turn (any more) that could be stopped.
            (Sent::Interrupt, Err(_)) => self.finish(TurnEnd::Interrupted, actions),
            (Sent::Interrupt, Ok(_)) | (Sent::Read, Err(_)) | (Sent::Aside, _) => {}
        }
    }

    /// An account that can't be read is no reason to stop: the turn itself will tell.
    fn on_account(&mut self, account: Result<Value, RpcError>, actions: &mut Actions) {
        if account.is_ok_and(|account| wire::lacks_account(&account)) {
            return self.finish(failure::not_logged_in(), actions);
        }
        if !self.wants_profile {
            return self.open_thread(None, actions);
        }
        let params = json!({ "cwd": self.spec.project_dir.as_str(), "includeLayers": false });
        self.rpc.request("config/read", params, Sent::Config, actions);
    }

    fn open_thread(&mut self, config: Option<&Value>, actions: &mut Actions) {
        let (method, params) = wire::open_thread(&self.spec, config);
        self.rpc.request(method, params, Sent::OpenThread, actions);
    }

    fn start_turn(&mut self, result: &Value, actions: &mut Actions) {
        let thread = text(result, "/thread/id").to_owned();
        if thread.is_empty() {
            let failure = Failure::new(
                FailureKind::Protocol,
                "Codex opened a thread without saying which.",
                "Update Codex: `npm install -g @openai/codex`.",
            );
            return self.finish(failure, actions);
        }
        let mut params = json!({ "threadId": thread });
        params["input"] = wire::input(&self.spec);
        self.thread = Some(thread);
        self.rpc.request("turn/start", params, Sent::Turn, actions);
    }

    fn on_notification(&mut self, method: &str, params: Value, actions: &mut Actions) {
        match method {
            "turn/started" | "turn/completed" => self.on_turn_note(method, &params, actions),
            "serverRequest/resolved" => self.on_resolved(&params["requestId"], actions),
            "item/started" | "item/completed" => self.on_item(method, &params, actions),
            "item/agentMessage/delta" if self.is_ours(&params) => {
                self.ledger.answer.more(text(&params, "/itemId"), text(&params, "/delta"));
            }
            "thread/status/changed" if self.thread.as_deref() == params["threadId"].as_str() => {
                self.is_idle = self.turn.is_some() && text(&params, "/status/type") == "idle";
                if self.is_idle {
                    // `turn/completed` is the next line, unless it is lost (0.139.0, after it has
                    // condensed the conversation).
                    actions.await_quiet();
                }
            }
            "thread/tokenUsage/updated" if self.is_ours(&params) => {
                let usage = &params["tokenUsage"];
                if usage["total"].is_object() && usage["last"].is_object() {
                    let now = wire::tokens(&usage["total"]);
                    let before = self.tokens.take().map(|(before, _)| before);
                    let before =
                        before.unwrap_or_else(|| since(&now, &wire::tokens(&usage["last"])));
                    self.tokens = Some((before, now));
                }
            }
            "account/rateLimits/updated" => {
                self.resets = wire::limit_resets(&params["rateLimits"]).or(self.resets);
            }
            "error" if params["willRetry"] == true && self.is_ours(&params) => {
                // The stream that is taken up again repeats whole messages.
                self.ledger.answer.end_segment(actions);
                let message = failure::retry_text(&params["error"]);
                actions.event(TurnEvent::Retry { message, next: None });
            }
            // A final `error` is repeated by `turn/completed`. Other notifications are for programs
            // with a screen.
            _ => {}
        }
    }

    fn on_turn_note(&mut self, method: &str, params: &Value, actions: &mut Actions) {
        let id = text(params, "/turn/id");
        if id.is_empty() || self.thread.as_deref() != Some(text(params, "/threadId")) {
            return;
        }
        match (method, self.turn.as_deref()) {
            ("turn/started", None) => self.turn = Some(id.to_owned()),
            ("turn/completed", Some(turn)) if turn == id => self.on_end(&params["turn"], actions),
            _ => {}
        }
    }

    fn on_end(&mut self, turn: &Value, actions: &mut Actions) {
        let end = match text(turn, "/status") {
            "completed" => {
                // The final message on 0.169.0, none on 0.130.0.
                for item in list(turn, "/items") {
                    self.hear(item, actions);
                }
                TurnEnd::Answered { text: self.ledger.answer.text() }
            }
            "interrupted" => TurnEnd::Interrupted,
            _ => TurnEnd::Failed(failure::of_turn(&turn["error"], self.resets)),
        };
        self.finish(end, actions);
    }

    fn hear(&mut self, item: &Value, actions: &mut Actions) {
        if text(item, "/type") == "agentMessage" {
            // Or `partial_answer`, `final_answer`, or, mostly, null.
            let phase = Phase::named(text(item, "/phase"));
            let (id, said) = (text(item, "/id"), text(item, "/text"));
            self.ledger.answer.message(id, said, phase, actions);
        }
    }

    fn on_resolved(&mut self, request: &Value, actions: &mut Actions) {
        let question = approval::question_id(request);
        self.ledger.returned(&question.0);
        // It also comes after an answer of ours; then the question is gone already.
        self.ledger.withdraw(question, actions);
    }

    fn on_item(&mut self, method: &str, params: &Value, actions: &mut Actions) {
        let (item, id) = (&params["item"], text(params, "/item/id"));
        let started = method == "item/started";
        let ours = self.is_ours(params);
        if ours {
            self.tell_session(actions);
        }
        if ours && wire::is_call(text(item, "/type")) {
            self.ledger.answer.call(id, actions);
        }
        if ours && started {
            actions.events.extend(self.progress(item).map(TurnEvent::Progress));
        }
        match text(item, "/type") {
            // Whatever its thread: a helper's patch is asked for like the model's own.
            "fileChange" if started && !id.is_empty() => {
                self.changes.started(id.to_owned(), list(item, "/changes").to_vec());
            }
            "fileChange" => self.changes.completed(id),
            _ if ours => self.hear(item, actions),
            _ => {}
        }
    }

    /// What an item that has just started says about the turn. Our own tools show themselves.
    fn progress(&self, item: &Value) -> Option<String> {
        let line = |doing: Doing<'_>| Some(doing.line(&self.spec.project_dir));
        match text(item, "/type") {
            "commandExecution" => line(Doing::Running(&shell::unwrapped(text(item, "/command")))),
            "fileChange" => {
                let changes = list(item, "/changes").iter();
                let paths: Vec<&str> = changes.filter_map(|it| it["path"].as_str()).collect();
                line(Doing::Editing(&paths))
            }
            "mcpToolCall" => {
                let (server, tool) = (text(item, "/server"), text(item, "/tool"));
                line(Doing::Calling(&format!("{server}:{tool}")))
            }
            "webSearch" => line(Doing::Searching(text(item, "/query"))),
            "imageView" => line(Doing::Reading(text(item, "/path"))),
            // Only starting a subagent, or telling it something, has a prompt.
            "collabAgentToolCall" => line(Doing::Asking(item["prompt"].as_str()?)),
            "contextCompaction" => Some("Condensing the conversation so far".to_owned()),
            _ => None,
        }
    }

    /// A thread without an item is not on disk yet and can't be resumed.
    fn tell_session(&mut self, actions: &mut Actions) {
        let Some(thread) = self.thread.clone().filter(|_| !self.session_told) else { return };
        self.session_told = true;
        if self.spec.session.is_none() && !self.spec.title.is_empty() {
            let params = json!({ "threadId": thread, "name": self.spec.title });
            self.rpc.request("thread/name/set", params, Sent::Aside, actions);
        }
        actions.event(TurnEvent::Session(SessionId::new(thread)));
    }

    /// Whether a notification is about this turn: a resumed thread first repeats things about older
    /// ones, and helpers that the model starts are threads of their own.
    fn is_ours(&self, params: &Value) -> bool {
        let Some(thread) = &self.thread else { return false };
        let Some(turn) = &self.turn else { return false };
        params["threadId"] == thread[..] && params["turnId"] == turn[..]
    }

    /// Every request is answered, now or by a command: an open one halts the turn. Those of helpers'
    /// threads are served like our own.
    fn on_request(&mut self, id: Value, method: &str, params: Value, actions: &mut Actions) {
        if method == "item/tool/call" && self.ledger.takes_calls() {
            return self.on_tool_call(id, &params, actions);
        }
        let is_asked = self.spec.takes_choices() || method != "item/tool/requestUserInput";
        if is_asked
            && self.ledger.takes_questions()
            && let Some((question, pending)) = approval::read(&id, method, params, &self.changes)
        {
            return self.ledger.ask(question, pending, actions);
        }
        actions.write(if method == "mcpServer/elicitation/request" {
            self.rpc.result(&id, approval::elicitation_declined())
        } else {
            log::debug!("codex asked {method:?}, which is not served here");
            self.rpc.error(&id, METHOD_NOT_FOUND, "unsupported")
        });
    }

    fn on_tool_call(&mut self, id: Value, params: &Value, actions: &mut Actions) {
        match tools::parse(text(params, "/tool"), &params["arguments"]) {
            Ok(tool) => {
                self.ledger.call(ToolCall { id: id.to_string(), tool }, id, actions);
            }
            Err(text) => actions.write(self.rpc.result(&id, wire::tool_answer(Err(text)))),
        }
    }

    /// A refusal has no place for its reason: for the model "the user rejected" it, who may never
    /// have seen it (0.169.0). So the reason goes into the running turn as a message of its own,
    /// first, to be there when the model reads of the refusal; and each one once, since a model that
    /// goes on trying would be told the same each time.
    fn tell_reason(&mut self, reason: &str, actions: &mut Actions) {
        let (Some(thread), Some(turn)) = (&self.thread, &self.turn) else { return };
        let is_new = self.reasons_told.len() < KNOWN_MAX && !reason.trim().is_empty();
        if !is_new || !self.reasons_told.insert(reason.to_owned()) {
            return;
        }
        // Unlike `turn/start` this can't begin another turn.
        let params = wire::steer(thread, turn, &prompt::refusal_note(reason));
        self.rpc.request("turn/steer", params, Sent::Aside, actions);
    }
}

impl Protocol for Codex {
    fn begin(&mut self, turn: &TurnSpec, actions: &mut Actions) {
        if let Some(session) = turn.session.as_ref().filter(|id| !is_uuid(id.as_str())) {
            let detail = format!("{session:?} is no id of a Codex session");
            return self.finish(TurnEnd::SessionGone { detail }, actions);
        }
        self.spec = turn.clone();
        self.rpc.request("initialize", wire::initialize(), Sent::Initialize, actions);
    }

    fn on_value(&mut self, value: Value, actions: &mut Actions) {
        match self.rpc.classify(value) {
            RpcMessage::Request { id, method, params } => {
                self.on_request(id, &method, params, actions);
            }
            RpcMessage::Notification { method, params } => {
                self.on_notification(&method, params, actions);
            }
            RpcMessage::Response { tag, result } => self.on_response(tag, result, actions),
            RpcMessage::Junk => log::debug!("codex sent a value that is no message"),
        }
    }

    /// Answers to what is no longer open are dropped: Codex ignores them, too.
    fn decide(&mut self, question: QuestionId, verdict: Verdict, actions: &mut Actions) {
        let Some(pending) = self.ledger.decided(&question) else { return };
        if let Verdict::Deny { reason } = &verdict {
            self.tell_reason(reason, actions);
        }
        let request = pending.request.clone();
        actions.write(self.rpc.result(&request, pending.answer(&verdict)));
    }

    fn on_tool_result(&mut self, call: &str, result: ToolResult, actions: &mut Actions) {
        if let Some(request) = self.ledger.returned(call) {
            actions.write(self.rpc.result(&request, wire::tool_answer(result)));
        }
    }

    fn on_quiet(&mut self, actions: &mut Actions) {
        if self.is_idle {
            let params = json!({ "threadId": self.thread, "includeTurns": true });
            self.rpc.request("thread/read", params, Sent::Read, actions);
        }
    }

    /// The interrupt ends the turn but not a command that it started, so these are ended as well.
    /// It cancels what is asked, too; Codex says so only after the end of the turn.
    fn interrupt(&mut self, actions: &mut Actions) {
        if self.ledger.interrupt(actions).is_none() {
            return;
        }
        let (Some(thread), Some(turn)) = (self.thread.clone(), self.turn.clone()) else {
            return self.finish(TurnEnd::Interrupted, actions);
        };
        let params = json!({ "threadId": thread, "turnId": turn });
        self.rpc.request("turn/interrupt", params, Sent::Interrupt, actions);
        let params = json!({ "threadId": thread });
        self.rpc.request("thread/backgroundTerminals/clean", params, Sent::Aside, actions);
    }

    fn is_opening(&self) -> bool {
        self.thread.is_none()
    }

    fn on_overdue(&mut self, actions: &mut Actions) {
        let mut open = self.rpc.abandon();
        if self.spec.session.is_some() && open.any(|sent| matches!(sent, Sent::OpenThread)) {
            let detail = "Codex did not open it in time".to_owned();
            self.finish(TurnEnd::SessionGone { detail }, actions);
        }
    }

    fn on_exit(&mut self, exit: Exit, stderr_tail: &str, actions: &mut Actions) {
        self.finish(failure::of_crash(exit, stderr_tail), actions);
    }
}

/// What `total` is more than `before`.
fn since(total: &Usage, before: &Usage) -> Usage {
    Usage {
        input_tokens: total.input_tokens.saturating_sub(before.input_tokens),
        output_tokens: total.output_tokens.saturating_sub(before.output_tokens),
        cost_usd: None,
    }
}
