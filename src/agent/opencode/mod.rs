//! opencode, by the REST API of its `serve` command: the only one of its faces on which a
//! subagent's permission requests arrive, a refusal can carry a reason, and waiting for a sick
//! provider can be seen. One server does for all threads.
//!
//! The values here are requests, `{"id":1,"method":"POST","path":"/session","directory":"/p",
//! "body":{}}`, and what the carrier makes of the answers: `{"id":1,"status":200,"body":{}}`,
//! `{"id":1,"error":"…"}`, `{"event":{"directory":"/p","payload":{}}}`, and `{"ready":true}` once
//! events flow. `{"outdate":true}` asks for a fresh server for later turns: a server reads opencode's
//! settings once, and what a command has put into a session of its own ends with the server alone.
//! Pure, but for `server`.

pub mod server;
#[cfg(test)]
mod tests;
pub mod wire;

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
};

use serde_json::{Value, json};

use crate::{
    agent::{
        Actions, Exit, Failure, FailureKind, Gate, Model, Protocol, QuestionId, TurnCommand,
        TurnEnd, TurnEvent, TurnSpec, Verdict,
    },
    ids::SessionId,
    time::Timestamp,
};
use wire::text;

/// Sessions and tool calls that are remembered, and requests that are open, at a time.
const KNOWN_MAX: usize = 512;

/// Subagents of subagents.
const DEPTH_MAX: usize = 8;

/// What one of our requests was for.
#[derive(Debug)]
enum Asked {
    OldSession,
    Rules,
    Config,
    Providers,
    NewSession,
    Prompt,
    /// The reason of a failure comes as an event, which may be later than the response. This
    /// request is asked to give it time.
    Reason,
    /// Whose child the session `of` is, because of a permission that it asks.
    /// `depth` sessions were asked already.
    Parent {
        of: String,
        depth: usize,
        asked: Value,
    },
    Reply(QuestionId),
    /// Nothing depends on it.
    Aside,
}

/// One turn with opencode.
#[derive(Debug, Default)]
pub struct Opencode {
    turn: Option<TurnSpec>,
    ready: bool,
    next_id: u64,
    open: BTreeMap<u64, Asked>,
    session: String,
    /// The session's own directory: what is asked with another one is answered for the wrong
    /// instance.
    directory: String,
    model: Option<Model>,
    prompted: bool,
    /// Our session and those of its subagents.
    family: BTreeSet<String>,
    strangers: BTreeSet<String>,
    /// Open questions, with the directory in which they must be answered.
    questions: BTreeMap<QuestionId, String>,
    calls: BTreeSet<String>,
    last_error: Option<Value>,
    interrupted: bool,
}

impl Opencode {
    pub fn new() -> Opencode {
        Opencode::default()
    }

    fn ask(&mut self, method: &str, path: &str, body: Value, asked: Asked, actions: &mut Actions) {
        let directory = self.directory.clone();
        self.ask_in(&directory, method, path, body, asked, actions);
    }

    fn ask_in(
        &mut self,
        directory: &str,
        method: &str,
        path: &str,
        body: Value,
        asked: Asked,
        actions: &mut Actions,
    ) {
        self.next_id += 1;
        let (id, mut request) = (self.next_id, json!({ "method": method, "path": path }));
        request["id"] = json!(id);
        request["directory"] = json!(directory);
        if !body.is_null() {
            request["body"] = body;
        }
        self.open.insert(id, asked);
        actions.write(request);
    }

    /// Ends the turn with what opencode, or its settings, made impossible. What the person is told
    /// to set up, a running server would not see.
    fn fail(failure: Failure, actions: &mut Actions) {
        if matches!(failure.kind, FailureKind::NotLoggedIn | FailureKind::Refused) {
            actions.write(json!({ "outdate": true }));
        }
        actions.finish(TurnEnd::Failed(failure));
    }

    fn session_path(&self, rest: &str) -> String {
        format!("/session/{}{rest}", wire::segment(&self.session))
    }

    fn start(&mut self, actions: &mut Actions) {
        match self.turn.as_ref().and_then(|turn| turn.session.clone()) {
            Some(session) => {
                session.as_str().clone_into(&mut self.session);
                let path = self.session_path("");
                self.ask("GET", &path, Value::Null, Asked::OldSession, actions);
            }
            None => self.choose_model(actions),
        }
    }

    fn on_response(&mut self, asked: Asked, response: &Value, actions: &mut Actions) {
        let status = response["status"].as_u64().unwrap_or(0);
        let body = &response["body"];
        let fine = (200..300).contains(&status);
        match asked {
            Asked::Reply(question) if !fine => {
                actions.event(TurnEvent::QuestionGone(question));
            }
            Asked::Reply(_) | Asked::Aside => {}
            Asked::Parent { of, depth, asked } => {
                self.on_parent(&of, depth, &asked, body, actions);
            }
            Asked::Prompt => self.on_answer(status, response, actions),
            Asked::Reason => {
                let error = self.last_error.take().unwrap_or_default();
                Self::fail(wire::failure(&error), actions);
            }
            Asked::OldSession if status == 404 => {
                let detail = text(body, "/data/message").to_owned();
                actions.finish(TurnEnd::SessionGone { detail });
            }
            _ if !fine => actions.finish(TurnEnd::Failed(unexpected(response))),
            Asked::OldSession => self.on_old_session(body, actions),
            Asked::Rules => self.choose_model(actions),
            Asked::Config => {
                if let Some(model) = wire::configured_model(body) {
                    return self.with_model(model, actions);
                }
                let path = "/config/providers";
                self.ask("GET", path, Value::Null, Asked::Providers, actions);
            }
            Asked::Providers => match wire::provider_model(body) {
                Some(model) => self.with_model(model, actions),
                None => Self::fail(wire::no_provider(), actions),
            },
            Asked::NewSession => {
                text(body, "/id").clone_into(&mut self.session);
                if self.session.is_empty() {
                    return actions.finish(TurnEnd::Failed(unexpected(response)));
                }
                self.prompt(actions);
            }
        }
    }

    fn on_old_session(&mut self, body: &Value, actions: &mut Actions) {
        let directory = text(body, "/directory");
        if !directory.is_empty() {
            directory.clone_into(&mut self.directory);
        }
        let Some(turn) = &self.turn else { return };
        let rules = wire::session_rules(turn.gate);
        if wire::ends_with_rules(body, &rules) {
            return self.choose_model(actions);
        }
        let path = self.session_path("");
        self.ask("PATCH", &path, json!({ "permission": rules }), Asked::Rules, actions);
    }

    fn choose_model(&mut self, actions: &mut Actions) {
        match self.turn.as_ref().and_then(|turn| turn.model.clone()) {
            Some(model) => self.with_model(model, actions),
            None => self.ask("GET", "/config", Value::Null, Asked::Config, actions),
        }
    }

    fn with_model(&mut self, model: Model, actions: &mut Actions) {
        self.model = Some(model);
        if !self.session.is_empty() {
            return self.prompt(actions);
        }
        let Some(turn) = &self.turn else { return };
        let rules = wire::session_rules(turn.gate);
        // Without a title, opencode asks a model for one.
        let body = json!({ "title": turn.title, "permission": rules });
        self.ask("POST", "/session", body, Asked::NewSession, actions);
    }

    fn prompt(&mut self, actions: &mut Actions) {
        let (Some(turn), Some(model)) = (&self.turn, &self.model) else { return };
        let body = wire::prompt(&turn.prompt, &turn.images, model);
        self.family.insert(self.session.clone());
        self.prompted = true;
        let path = self.session_path("/message");
        self.ask("POST", &path, body, Asked::Prompt, actions);
        actions.event(TurnEvent::Session(SessionId::new(&*self.session)));
        actions.event(TurnEvent::Working);
    }

    /// The response to the prompt, which comes when the turn is over.
    fn on_answer(&mut self, status: u64, response: &Value, actions: &mut Actions) {
        let (body, info) = (&response["body"], &response["body"]["info"]);
        if self.interrupted {
            return actions.finish(TurnEnd::Interrupted);
        }
        match status {
            200..300 => {}
            404 => {
                let detail = text(body, "/data/message").to_owned();
                return actions.finish(TurnEnd::SessionGone { detail });
            }
            500.. => {
                if let Some(error) = self.last_error.take() {
                    return Self::fail(wire::failure(&error), actions);
                }
                let path = self.session_path("");
                return self.ask("GET", &path, Value::Null, Asked::Reason, actions);
            }
            _ => return actions.finish(TurnEnd::Failed(unexpected(response))),
        }
        actions.event(TurnEvent::Usage(wire::usage(info)));
        let mut answer = wire::answer(body);
        let mut note = |note: &str| {
            let paragraph = if answer.is_empty() { "" } else { "\n\n" };
            answer += &[paragraph, "(", note, ")"].concat();
        };
        match text(info, "/error/name") {
            "" => {}
            "MessageOutputLengthError" => note("The model's output limit was reached."),
            "MessageAbortedError" => {
                return actions.finish(TurnEnd::Failed(Failure::new(
                    FailureKind::Model,
                    "the turn was aborted by another program that uses opencode's server",
                    "Send the message again.",
                )));
            }
            _ => return Self::fail(wire::failure(&info["error"]), actions),
        }
        match text(info, "/finish") {
            "tool-calls" => note("opencode ended the turn because a tool was refused."),
            "length" => note("The model's output limit was reached."),
            _ => {}
        }
        actions.finish(TurnEnd::Answered { text: answer });
    }

    fn on_event(&mut self, event: &Value, actions: &mut Actions) {
        let payload = &event["payload"];
        let properties = &payload["properties"];
        let session = text(properties, "/sessionID");
        let kind = text(payload, "/type");
        if kind == "session.created" {
            let (info, room) = (&properties["info"], self.family.len() < KNOWN_MAX);
            if room && self.family.contains(text(info, "/parentID")) {
                self.family.insert(text(info, "/id").to_owned());
            }
            return;
        }
        if !self.prompted || session.is_empty() {
            return;
        }
        if !self.family.contains(session) {
            // A subagent of an earlier turn may be used again, so it was created unseen.
            if kind == "permission.asked" && text(event, "/directory") == self.directory {
                self.look_up(session, session, 0, event, actions);
            }
            return;
        }
        match kind {
            "permission.asked" => self.on_permission(event, actions),
            "permission.replied" => {
                let question = QuestionId(text(properties, "/requestID").to_owned());
                if self.questions.remove(&question).is_some() {
                    actions.event(TurnEvent::QuestionGone(question));
                }
            }
            "question.asked" => {
                let path = format!("/question/{}/reject", wire::segment(text(properties, "/id")));
                self.ask("POST", &path, json!({}), Asked::Aside, actions);
                let asks = text(properties, "/questions/0/question");
                actions.event(TurnEvent::Progress(format!(
                    "It wanted to ask: {asks} (It was told to ask in its answer.)"
                )));
            }
            "session.error" => self.last_error = Some(properties["error"].clone()),
            "session.status" if text(properties, "/status/type") == "retry" => {
                let status = &properties["status"];
                actions.event(TurnEvent::Retry {
                    message: text(status, "/message").to_owned(),
                    next: status["next"].as_u64().map(Timestamp::from_millis),
                });
            }
            "message.part.updated" => self.on_part(&properties["part"], actions),
            _ => {}
        }
    }

    fn on_part(&mut self, part: &Value, actions: &mut Actions) {
        let running = text(part, "/type") == "tool" && text(part, "/state/status") == "running";
        if running
            && self.calls.len() < KNOWN_MAX
            && self.calls.insert(text(part, "/callID").to_owned())
        {
            actions.event(TurnEvent::Progress(wire::progress(part)));
        }
    }

    /// Finds out whether `session` descends from ours; `of` is the one that asks permission.
    fn look_up(
        &mut self,
        session: &str,
        of: &str,
        depth: usize,
        event: &Value,
        actions: &mut Actions,
    ) {
        if self.strangers.contains(session) || self.open.len() >= KNOWN_MAX {
            return;
        }
        let path = format!("/session/{}", wire::segment(session));
        let asked = Asked::Parent { of: of.to_owned(), depth: depth + 1, asked: event.clone() };
        self.ask("GET", &path, Value::Null, asked, actions);
    }

    fn on_parent(
        &mut self,
        of: &str,
        depth: usize,
        event: &Value,
        body: &Value,
        actions: &mut Actions,
    ) {
        let parent = text(body, "/parentID");
        if self.family.contains(parent) {
            self.family.insert(of.to_owned());
            self.on_permission(event, actions);
        } else if parent.is_empty() || depth >= DEPTH_MAX {
            if self.strangers.len() >= KNOWN_MAX {
                self.strangers.clear();
            }
            self.strangers.insert(of.to_owned());
        } else {
            self.look_up(parent, of, depth, event, actions);
        }
    }

    fn on_permission(&mut self, event: &Value, actions: &mut Actions) {
        let question = wire::question(&event["payload"]["properties"]);
        let directory = match text(event, "/directory") {
            "" => &self.directory,
            directory => directory,
        }
        .to_owned();
        let gate = self.turn.as_ref().map_or(Gate::Ask, |turn| turn.gate);
        let id = question.id.clone();
        if self.interrupted || self.questions.len() >= KNOWN_MAX {
            let reply = json!({ "reply": "reject" });
            self.reply(&directory, id, reply, actions);
        } else if gate == Gate::AllowAll {
            self.reply(&directory, id, json!({ "reply": "once" }), actions);
        } else {
            self.questions.insert(id, directory);
            actions.event(TurnEvent::Question(question));
        }
    }

    fn reply(&mut self, directory: &str, id: QuestionId, body: Value, actions: &mut Actions) {
        let path = format!("/permission/{}/reply", wire::segment(&id.0));
        self.ask_in(directory, "POST", &path, body, Asked::Reply(id), actions);
    }

    fn decide(&mut self, question: QuestionId, verdict: Verdict, actions: &mut Actions) {
        let Some(directory) = self.questions.remove(&question) else { return };
        let body = match verdict {
            Verdict::Allow => json!({ "reply": "once" }),
            Verdict::AllowAlways => json!({ "reply": "always" }),
            // Without a message, opencode ends the turn instead of telling the model.
            Verdict::Chosen(_) => {
                json!({ "reply": "reject", "message": "It asked for permission." })
            }
            Verdict::Deny { reason } if reason.trim().is_empty() => {
                json!({ "reply": "reject", "message": "This was refused." })
            }
            Verdict::Deny { reason } => json!({ "reply": "reject", "message": reason }),
        };
        self.reply(&directory, question, body, actions);
    }

    fn interrupt(&mut self, actions: &mut Actions) {
        self.interrupted = true;
        if !self.prompted {
            return actions.finish(TurnEnd::Interrupted);
        }
        let path = self.session_path("/abort");
        self.ask("POST", &path, Value::Null, Asked::Aside, actions);
        // It ends the shell of a running command, but nothing that the command has detached.
        actions.write(json!({ "outdate": true }));
        for question in mem::take(&mut self.questions).into_keys() {
            actions.event(TurnEvent::QuestionGone(question));
        }
    }
}

impl Protocol for Opencode {
    fn begin(&mut self, turn: &TurnSpec, _: &mut Actions) {
        self.directory = turn.project_dir.to_string_lossy().into_owned();
        self.turn = Some(turn.clone());
    }

    fn on_value(&mut self, value: Value, actions: &mut Actions) {
        if value["ready"] == true {
            if !mem::replace(&mut self.ready, true) {
                self.start(actions);
            }
        } else if let Some(event) = value.get("event") {
            self.on_event(event, actions);
        } else if let Some(asked) = value["id"].as_u64().and_then(|id| self.open.remove(&id)) {
            self.on_response(asked, &value, actions);
        }
    }

    fn on_command(&mut self, command: TurnCommand, actions: &mut Actions) {
        match command {
            TurnCommand::Decide { question, verdict } => self.decide(question, verdict, actions),
            TurnCommand::Interrupt => self.interrupt(actions),
            // opencode gets no tools of ours.
            TurnCommand::ToolResult { .. } => {}
        }
    }

    fn on_exit(&mut self, exit: Exit, stderr_tail: &str, actions: &mut Actions) {
        actions.finish(if self.interrupted {
            TurnEnd::Interrupted
        } else {
            let tail = stderr_tail.trim();
            TurnEnd::Failed(Failure::new(
                FailureKind::Crashed,
                format!("the connection to opencode's server was lost ({exit}) {tail}").trim_end(),
                "Send the message again; a new server is started for it.",
            ))
        });
    }
}

/// Whether a value is no request but asks for a fresh server.
pub fn is_outdate(value: &Value) -> bool {
    value["outdate"] == true
}

/// A response that the API does not have in this place, or none at all.
fn unexpected(response: &Value) -> Failure {
    if let Some(error) = response["error"].as_str() {
        return Failure::new(
            FailureKind::Crashed,
            format!("opencode's server did not answer: {error}"),
            "Send the message again; a new server is started for it.",
        );
    }
    let said = text(response, "/body/data/message").lines().next().unwrap_or_default();
    Failure::new(
        FailureKind::Protocol,
        format!("opencode's server answered with status {} {said}", response["status"]).trim_end(),
        "Update opencode; this program was made for version 1.18.",
    )
}
