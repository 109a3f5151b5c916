//! Any agent that speaks the Agent Client Protocol, version 1: opencode, gemini, qwen and the
//! adapters for Claude Code and Codex. They differ in nearly everything that the protocol leaves
//! open; what is done here is what works with all of them. Pure.

mod asking;
pub mod description;
mod failure;
mod login;
#[cfg(test)]
mod tests;
pub mod wire;

use std::{
    borrow::Cow,
    collections::{BTreeMap, VecDeque},
};

use serde_json::{Value, json};

use crate::{
    agent::{
        Actions, Exit, Failure, FailureKind, Gate, Protocol, Question, QuestionId, TurnEnd,
        TurnEvent, TurnSpec, Usage, Verdict,
        answer::Phase,
        ledger::{KNOWN_MAX, Ledger},
        rpc::{METHOD_NOT_FOUND, Rpc, RpcError, RpcMessage},
        text::{self, ANSWER_BYTES, first_text, quotable, text},
    },
    ids::SessionId,
};
use asking::KnownCall;
use wire::{Capabilities, PermissionOptions, Setting};

/// Characters of a refused command or path that are repeated.
const REFUSED_CHARS: usize = 200;

/// Why a permission can't be given: what agents store for always often has no end.
const NO_SINGLE_YES: &str = "the agent offers no way to allow it just this once";

/// What one of our requests was for.
#[derive(Debug)]
enum Sent {
    Initialize,
    /// `session/resume` or `session/load`.
    OldSession(&'static str),
    NewSession,
    Set(Setting),
    /// The mode once more, to see whether the replay of an old session is over.
    Again,
    Prompt,
    /// By this way, since the request was refused that is then made again.
    LogIn(String, Box<Sent>),
}

/// A permission request of the agent that has no answer yet.
#[derive(Debug)]
struct Pending {
    request: Value,
    options: PermissionOptions,
    /// What is asked for, in words for people.
    what: String,
}

/// The ACP host for one turn.
#[derive(Debug, Default)]
pub struct Acp {
    rpc: Rpc<Sent>,
    turn: TurnSpec,
    capabilities: Capabilities,
    session: String,
    /// How to log in without a person, once.
    login: Option<String>,
    /// Ways to go on with an earlier session that were not tried yet.
    ways: VecDeque<&'static str>,
    /// Choices to be made before the prompt, one after the other.
    settings: VecDeque<Setting>,
    /// Before the prompt is sent, updates are the replay of an old session.
    prompted: bool,
    /// The mode that a loaded session is in.
    mode: Option<Setting>,
    /// Something was replayed since the last request: there may be more to come.
    replays: bool,
    calls: BTreeMap<String, KnownCall>,
    ledger: Ledger<Pending>,
    /// What was refused last, in words for people.
    denied: Option<String>,
    /// The agent said something after the refusal, so it did not end the turn.
    has_gone_on: bool,
    /// Something of this turn has come: the session is there.
    heard: bool,
    /// Codex-acp 2.6.0 says what failed as if the model did, and ends the turn in good order.
    failure: Option<String>,
    /// The response to the prompt, while chunks may come that are late.
    stop: Option<Value>,
    /// What the session has cost, and what it had before this turn.
    cost: Option<f64>,
    cost_before: Option<f64>,
}

impl Acp {
    fn on_response(&mut self, asked: Sent, result: Result<Value, RpcError>, actions: &mut Actions) {
        match (asked, result) {
            (Sent::Prompt, Ok(result)) => self.on_stop(result, actions),
            (Sent::Prompt, Err(error)) if self.is_gone(&error) => {
                let detail = failure::describe(&error);
                self.ledger.finish(TurnEnd::SessionGone { detail }, actions);
            }
            (Sent::Initialize, Ok(result)) => self.on_initialized(&result, actions),
            (Sent::OldSession(way), Ok(result)) => {
                if way == wire::LOAD {
                    self.mode = wire::mode_again(&self.session, &result);
                    self.replays = true;
                }
                self.on_session(&result, actions);
            }
            (Sent::NewSession, Ok(result)) => self.on_session(&result, actions),
            // Whatever comes of it, it is an answer.
            (Sent::Again, _) => self.go_on(actions),
            (Sent::Set(setting), Ok(result)) => self.on_set(&setting, &result, actions),
            (Sent::LogIn(_, refused), Ok(_)) => self.send(*refused, actions),
            (Sent::LogIn(way, _), Err(error)) => {
                let failure = failure::no_login(&way, &error, &self.capabilities.logins);
                self.ledger.finish(failure, actions);
            }
            (refused, Err(error)) if error.code == wire::AUTH_REQUIRED => {
                self.on_auth_required(refused, &error, actions);
            }
            // Each agent has an error of its own for an unknown session. Nothing was done yet, so
            // whatever it is, another way may be tried, and at last a fresh one.
            (Sent::OldSession(_), Err(error)) => self.reopen(failure::describe(&error), actions),
            // Claude Code takes no such mode from root. Then what it asks is allowed.
            (Sent::Set(setting), Err(_)) if self.is_free(&setting) => self.go_on(actions),
            (Sent::Set(setting), Err(error)) => {
                self.refuse(&setting, &failure::describe(&error), actions);
            }
            (Sent::Initialize | Sent::NewSession | Sent::Prompt, Err(error)) => {
                self.ledger.finish(failure::of_error(&error), actions);
            }
        }
    }

    fn on_auth_required(&mut self, refused: Sent, error: &RpcError, actions: &mut Actions) {
        // What was begun with is not asked for again.
        let is_wanted = !self.heard && !self.ledger.is_interrupted();
        if let Some(way) = self.login.take().filter(|_| is_wanted) {
            self.prompted = false;
            return self.send(Sent::LogIn(way, Box::new(refused)), actions);
        }
        let failure = failure::not_logged_in(error, &self.capabilities.logins);
        self.ledger.finish(failure, actions);
    }

    /// Makes a request.
    fn send(&mut self, what: Sent, actions: &mut Actions) {
        let place = || json!({ "cwd": self.turn.project_dir.as_str(), "mcpServers": [] });
        let (method, params) = match &what {
            Sent::Initialize => ("initialize", wire::initialize()),
            Sent::NewSession => ("session/new", place()),
            Sent::OldSession(way) => {
                let mut params = place();
                params["sessionId"] = json!(self.session);
                (*way, params)
            }
            Sent::Set(setting) => (setting.method, setting.params.clone()),
            Sent::Again => match &self.mode {
                Some(mode) => (mode.method, mode.params.clone()),
                None => return self.go_on(actions),
            },
            Sent::Prompt => return self.prompt(actions),
            Sent::LogIn(way, _) => {
                log::info!(method = way.as_str(); "the agent is told to log in");
                ("authenticate", json!({ "methodId": way }))
            }
        };
        self.rpc.request(method, params, what, actions);
    }

    fn on_initialized(&mut self, result: &Value, actions: &mut Actions) {
        let version = &result["protocolVersion"];
        if version.as_u64() != Some(wire::PROTOCOL_VERSION) {
            let failure = Failure::new(
                FailureKind::Protocol,
                format!("the agent speaks version {version} of the Agent Client Protocol, not 1"),
                "Use a version of the agent that still speaks ACP 1.",
            );
            return self.ledger.finish(failure, actions);
        }
        self.capabilities = Capabilities::read(result);
        self.login = login::choose(result, &self.turn.login);
        self.ways = self.capabilities.reopens.clone().into();
        let Some(session) = &self.turn.session else {
            return self.send(Sent::NewSession, actions);
        };
        session.as_str().clone_into(&mut self.session);
        self.reopen("this agent can't go on with an earlier session".to_owned(), actions);
    }

    /// Tries the next way to go on with the earlier session. Agents offer ways that they do not have
    /// (qwen-code 0.15.10 `session/resume`). `detail` is why there is none left.
    fn reopen(&mut self, detail: String, actions: &mut Actions) {
        match self.ways.pop_front() {
            Some(way) => self.send(Sent::OldSession(way), actions),
            None => self.ledger.finish(TurnEnd::SessionGone { detail }, actions),
        }
    }

    fn on_session(&mut self, result: &Value, actions: &mut Actions) {
        let turn = &self.turn;
        if turn.session.is_none() {
            text(result, "/sessionId").clone_into(&mut self.session);
            self.cost_before = Some(0.0);
        }
        if self.session.is_empty() {
            return self.ledger.finish(failure::no_session(), actions);
        }
        match wire::mode_choice(turn.gate, &self.session, result) {
            Ok(Some(setting)) => {
                self.mode = self.mode.is_some().then(|| setting.clone());
                self.settings.push_back(setting);
            }
            Err(mode) if turn.gate == Gate::Ask => {
                let mode = text::message(mode);
                actions.event(TurnEvent::Progress(format!(
                    "This agent has no mode that is known to ask before it acts; it runs in {mode:?}."
                )));
            }
            Ok(None) | Err(_) => {}
        }
        if let Some(model) = &turn.model {
            match wire::model_choice(&self.session, result, model) {
                Ok(setting) => self.settings.extend(setting),
                Err(reason) => return self.ledger.finish(wrong_model(reason), actions),
            }
        }
        self.go_on(actions);
    }

    fn on_set(&mut self, setting: &Setting, result: &Value, actions: &mut Actions) {
        match wire::confirmed(setting, result) {
            Some(now) if now != setting.wanted && !self.is_free(setting) => {
                let detail = format!("it says that it now uses {now:?}");
                self.refuse(setting, &detail, actions);
            }
            _ => self.go_on(actions),
        }
    }

    /// Whether the agent may well be in another mode.
    fn is_free(&self, setting: &Setting) -> bool {
        setting.what == "mode" && self.turn.gate == Gate::AllowAll
    }

    /// The next setting; after the last one, the prompt. Gemini 0.61.0 answers `session/load` in the middle
    /// of the replay, of which the rest would be taken for the answer: it is over when nothing of it came
    /// while a further request was answered.
    fn go_on(&mut self, actions: &mut Actions) {
        if let Some(setting) = self.settings.pop_front() {
            return self.send(Sent::Set(setting), actions);
        }
        let replays = std::mem::take(&mut self.replays);
        if replays && self.mode.is_some() {
            self.send(Sent::Again, actions);
        } else {
            self.prompt(actions);
        }
    }

    fn prompt(&mut self, actions: &mut Actions) {
        let mut prompt = Cow::from(self.turn.prompt.as_str());
        let mut images = self.turn.images.as_slice();
        if !self.capabilities.image && !images.is_empty() {
            let count = images.len();
            let note = format!("This agent takes no images: {count} left out.");
            actions.event(TurnEvent::Progress(note));
            let note = format!("\n\n({count} image(s) were attached that you can't be shown.)");
            prompt.to_mut().push_str(&note);
            images = &[];
        }
        let params = wire::prompt(&self.session, &prompt, images);
        self.rpc.request("session/prompt", params, Sent::Prompt, actions);
        self.prompted = true;
        if !self.capabilities.reopens.is_empty() {
            actions.event(TurnEvent::Session(SessionId::new(&*self.session)));
        }
    }

    /// Whether the error says that there is no such session after all: codex-acp 2.6.0 resumes one
    /// whose file is gone, and knows nothing of it when the prompt comes.
    fn is_gone(&self, error: &RpcError) -> bool {
        let detail = failure::describe(error);
        self.turn.session.is_some()
            && !self.heard
            && detail.contains("not found")
            && detail.contains(&self.session)
    }

    fn on_update(&mut self, params: &Value, actions: &mut Actions) {
        if text(params, "/sessionId") != self.session {
            return;
        }
        let update = &params["update"];
        if !self.prompted {
            if text(update, "/sessionUpdate") == "usage_update" {
                self.cost_before = cost(update).or(self.cost_before);
            }
            self.replays |= wire::is_of_conversation(update);
            return;
        }
        match text(update, "/sessionUpdate") {
            "agent_message_chunk" => self.on_chunk(update, actions),
            "tool_call" | "tool_call_update" => self.on_tool_call(update, actions),
            "session_info_update" => self.on_status(&update["_meta"]["codex"], actions),
            "usage_update" => self.cost = cost(update).or(self.cost),
            _ => {}
        }
    }

    fn on_chunk(&mut self, update: &Value, actions: &mut Actions) {
        let chunk = text(update, "/content/text");
        if let Some(failure) = &mut self.failure {
            let room = ANSWER_BYTES.saturating_sub(failure.len());
            return failure.push_str(&chunk[..chunk.floor_char_boundary(room)]);
        }
        if wire::is_of_subagent(update) {
            return;
        }
        self.has_gone_on |= !chunk.is_empty();
        self.heard |= !chunk.is_empty();
        // In codex-acp since July 2026.
        let phase = Phase::named(text(update, "/_meta/codex/phase"));
        self.ledger.answer.chunk(text(update, "/messageId"), chunk, phase, actions);
    }

    /// What codex-acp 2.6.0 adds to ACP about the state of its model.
    fn on_status(&mut self, codex: &Value, actions: &mut Actions) {
        match text(codex, "/threadStatus/type") {
            "systemError" => {
                self.failure.get_or_insert_default();
            }
            "active" => {
                if let Some(said) = self.failure.take() {
                    self.ledger.answer.chunk("", &said, Phase::Commentary, actions);
                }
            }
            _ => {}
        }
        if codex["error"]["willRetry"] == true {
            self.ledger.answer.end_segment(actions);
            let said = first_text(codex, &["/error/additionalDetails", "/error/message"]);
            let message = text::message(said);
            actions.event(TurnEvent::Retry { message, next: None });
        }
    }

    fn on_tool_call(&mut self, update: &Value, actions: &mut Actions) {
        self.heard = true;
        let id = text(update, "/toolCallId");
        let begins = text(update, "/sessionUpdate") == "tool_call";
        if !wire::is_of_subagent(update) && (begins || !id.is_empty()) {
            self.ledger.answer.call(id, actions);
            // Claude 0.23.1 asks for permission first, then sends what was said before.
            if begins {
                self.ledger.answer.call(&format!("{id} begins"), actions);
            }
        }
        if matches!(text(update, "/status"), "completed" | "failed") {
            self.calls.remove(id);
            return;
        }
        if self.calls.len() >= KNOWN_MAX && !self.calls.contains_key(id) {
            return;
        }
        let call = self.calls.entry(id.to_owned()).or_default();
        call.merge(update);
        let line = call.progress(text(update, "/status"), &self.turn.project_dir);
        actions.events.extend(line.map(TurnEvent::Progress));
    }

    fn on_request(&mut self, id: Value, method: &str, params: &Value, actions: &mut Actions) {
        // Agents ask for files and terminals though they were told that there are none, and have
        // methods of their own (qwen: craft/drainMidTurnQueue). Unanswered, they hang.
        if method != "session/request_permission" {
            let error = self.rpc.error(&id, METHOD_NOT_FOUND, "this client has no such method");
            return actions.write(error);
        }
        let options = PermissionOptions::read(params);
        let call = &params["toolCall"];
        let mut known = self.calls.get(text(call, "/toolCallId")).cloned().unwrap_or_default();
        known.merge(call);
        let question = QuestionId(id.to_string());
        // An agent that asks again under a number that is open takes the next answer for the newer
        // request, so the older one must not get any.
        self.ledger.withdraw(question.clone(), actions);
        let mut question = known.question(question, call);
        question.cannot_allow = options.allow.is_none().then_some(NO_SINGLE_YES);
        let Question { tool, subject, .. } = &question;
        let what = if subject.is_empty() { tool } else { subject };
        let pending = Pending { request: id, options, what: quotable(what, REFUSED_CHARS) };
        let ours = text(params, "/sessionId") == self.session && self.prompted;
        // Gemini 0.61.0 tells of a call by nothing else.
        if ours && !wire::is_of_subagent(call) {
            self.ledger.answer.call(text(call, "/toolCallId"), actions);
        }
        if !ours || !self.ledger.takes_questions() {
            actions.write(self.rpc.result(&pending.request, wire::outcome(None)));
        } else if self.turn.gate == Gate::AllowAll && pending.options.allow.is_some() {
            self.settle(&pending, true, actions);
        } else {
            self.ledger.ask(question, pending, actions);
        }
    }

    /// Answers a permission request.
    fn settle(&self, pending: &Pending, allow: bool, actions: &mut Actions) {
        let options = &pending.options;
        let option = if allow { &options.allow } else { &options.reject };
        actions.write(self.rpc.result(&pending.request, wire::outcome(option.as_deref())));
    }

    /// Gemini 0.61.0 never ends the turn while one of these is unanswered.
    fn cancelled(&self, gone: BTreeMap<QuestionId, Pending>, actions: &mut Actions) {
        for pending in gone.into_values() {
            actions.write(self.rpc.result(&pending.request, wire::outcome(None)));
        }
    }

    /// The prompt has its response: the turn is over. The end of the answer may come after it with
    /// opencode 1.18.33, and with whatever agent has said nothing yet, where waiting costs nobody's time.
    fn on_stop(&mut self, result: Value, actions: &mut Actions) {
        self.stop = Some(result);
        let is_late = self.capabilities.is_late || !self.ledger.answer.has_last_words();
        if is_late && !self.ledger.is_interrupted() {
            actions.await_quiet();
        } else {
            self.on_quiet(actions);
        }
    }

    fn end(&mut self, result: &Value, actions: &mut Actions) {
        let gone = self.ledger.withdraw_all(actions);
        self.cancelled(gone, actions);
        let cost = self.cost.zip(self.cost_before).map(|(cost, before)| (cost - before).max(0.0));
        if let Some(usage) = usage(result, cost) {
            actions.event(TurnEvent::Usage(usage));
        }
        let mut text = self.ledger.answer.text();
        // Many agents end the turn at a refusal and say nothing of it: opencode, qwen, and codex,
        // which calls it `cancelled`.
        if let Some(what) = self.denied.as_ref().filter(|_| !self.has_gone_on) {
            let note = format!("(The agent ended its turn because this was refused: `{what}`)");
            let paragraph = if text.is_empty() { "" } else { "\n\n" };
            text += &[paragraph, &note].concat();
        }
        let end = match result["stopReason"].as_str().unwrap_or_default() {
            // All agents say `cancelled` after an interrupt, unless they were done before.
            stop if self.ledger.is_interrupted() && (stop != "end_turn" || text.is_empty()) => {
                TurnEnd::Interrupted
            }
            _ if self.failure.is_some() => {
                let words = self.failure.take().unwrap_or_default();
                TurnEnd::Failed(failure::of_words(words.trim().to_owned()))
            }
            "cancelled" if self.denied.is_some() => TurnEnd::Answered { text },
            "cancelled" => TurnEnd::Failed(Failure::new(
                FailureKind::Model,
                "the agent cancelled the turn by itself",
                "Send the message again.",
            )),
            "refusal" => TurnEnd::Failed(Failure::new(
                FailureKind::Model,
                "the model refused to go on",
                "Say it in another way, or in a new thread.",
            )),
            "max_tokens" | "max_turn_requests" => {
                text += "\n\n(The agent stopped at a limit of its own; it may not be done.)";
                TurnEnd::Answered { text: text.trim_start().to_owned() }
            }
            _ => TurnEnd::Answered { text },
        };
        self.ledger.finish(end, actions);
    }

    /// A mode or model that was wanted and is not in use: the prompt must not be sent.
    fn refuse(&mut self, setting: &Setting, detail: &str, actions: &mut Actions) {
        let Setting { what, wanted, .. } = setting;
        let failure = match *what {
            "model" => {
                wrong_model(format!("the agent did not take the model {wanted:?}: {detail}"))
            }
            _ => Failure::new(
                FailureKind::Refused,
                format!("the agent did not take the {what} {wanted:?}, in which it asks: {detail}"),
                "Nothing was sent. Update the agent, or allow everything for it in the config.",
            ),
        };
        self.ledger.finish(failure, actions);
    }
}

impl Protocol for Acp {
    fn begin(&mut self, turn: &TurnSpec, actions: &mut Actions) {
        self.turn = turn.clone();
        self.send(Sent::Initialize, actions);
    }

    fn on_value(&mut self, value: Value, actions: &mut Actions) {
        match self.rpc.classify(value) {
            RpcMessage::Request { id, method, params } => {
                self.on_request(id, &method, &params, actions);
            }
            RpcMessage::Notification { method, params } if method == "session/update" => {
                self.on_update(&params, actions);
            }
            RpcMessage::Response { tag, result } => self.on_response(tag, result, actions),
            RpcMessage::Notification { .. } | RpcMessage::Junk => {}
        }
    }

    fn decide(&mut self, question: QuestionId, verdict: Verdict, actions: &mut Actions) {
        let Some(pending) = self.ledger.decided(&question) else { return };
        // Only options for this once are chosen: what agents store often has no end. And ACP
        // has no place for a reason.
        let allow = matches!(verdict, Verdict::Allow | Verdict::AllowAlways);
        if !allow {
            self.denied = Some(pending.what.clone());
            self.has_gone_on = false;
        }
        self.settle(&pending, allow, actions);
    }

    fn on_quiet(&mut self, actions: &mut Actions) {
        if let Some(result) = self.stop.take() {
            self.end(&result, actions);
        }
    }

    fn interrupt(&mut self, actions: &mut Actions) {
        if self.stop.is_some() {
            return self.on_quiet(actions);
        }
        let Some(gone) = self.ledger.interrupt(actions) else { return };
        if !self.prompted {
            return self.ledger.finish(TurnEnd::Interrupted, actions);
        }
        let cancel = json!({ "sessionId": self.session });
        actions.write(self.rpc.notification("session/cancel", cancel));
        self.cancelled(gone, actions);
    }

    fn is_opening(&self) -> bool {
        !self.prompted
    }

    fn on_overdue(&mut self, actions: &mut Actions) {
        for sent in self.rpc.abandon() {
            match sent {
                Sent::OldSession(way) => {
                    let detail = format!("the agent did not answer `{way}` in time");
                    self.ledger.finish(TurnEnd::SessionGone { detail }, actions);
                }
                Sent::LogIn(way, _) => {
                    let failure = failure::slow_login(&way, &self.capabilities.logins);
                    self.ledger.finish(failure, actions);
                }
                _ => {}
            }
        }
    }

    fn on_exit(&mut self, exit: Exit, stderr_tail: &str, actions: &mut Actions) {
        self.on_quiet(actions);
        self.ledger.finish(failure::crashed(exit, stderr_tail), actions);
    }
}

/// What the session has cost since its beginning, also before a resume (claude-agent-acp 0.101.0).
fn cost(update: &Value) -> Option<f64> {
    update.pointer("/cost/amount").and_then(Value::as_f64)
}

/// Token counts, which start with the process, are in the response (opencode, claude, qwen) or in `_meta` (gemini 0.61.0).
fn usage(result: &Value, cost_usd: Option<f64>) -> Option<Usage> {
    let tokens =
        |at: &[&str]| at.iter().find_map(|pointer| result.pointer(pointer).and_then(Value::as_u64));
    let input = tokens(&["/usage/inputTokens", "/_meta/quota/token_count/input_tokens"]);
    let output = tokens(&["/usage/outputTokens", "/_meta/quota/token_count/output_tokens"]);
    (input.is_some() || output.is_some() || cost_usd.is_some()).then(|| Usage {
        input_tokens: input.unwrap_or(0),
        output_tokens: output.unwrap_or(0),
        cost_usd,
    })
}

fn wrong_model(reason: String) -> Failure {
    Failure::new(
        FailureKind::Refused,
        reason,
        "Nothing was sent. Name another model in the config.",
    )
}
