//! opencode, by the REST API of its `serve` command: the only one of its faces on which a
//! subagent's permission requests arrive, a refusal can carry a reason, and waiting for a sick
//! provider can be seen. One server does for all threads.
//!
//! The values here are requests, `{"id":1,"method":"POST","path":"/session","directory":"/p",
//! "body":{}}`, and what the transport makes of the answers: `{"id":1,"status":200,"body":{}}`,
//! `{"id":1,"error":"…"}`, `{"event":{"directory":"/p","payload":{}}}`, and `{"ready":true}` once
//! events flow. `{"outdate":true}` asks for a fresh server for later turns: a server reads opencode's
//! settings once, and what a command has put into a session of its own ends with the server alone.
//! Pure, but for `server`.

mod asking;
pub mod description;
mod questions;
pub mod server;
#[cfg(test)]
mod tests;
pub mod wire;

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
};

use camino::Utf8Path;
use serde_json::{Value, json};

use crate::{
    agent::{
        Actions, Exit, Failure, FailureKind, Protocol, QuestionId, TurnEnd, TurnEvent, TurnSpec,
        Usage, Verdict,
        answer::Phase,
        ledger::{KNOWN_MAX, Ledger},
        text::{self, last_words, list, text},
    },
    ids::SessionId,
    time::Timestamp,
};
use asking::Call;

/// Subagents of subagents.
const DEPTH_MAX: usize = 8;

/// What one of our requests was for.
#[derive(Debug)]
enum Sent {
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
    /// The names of the MCP servers, because of a permission that may be for one's tool.
    Servers {
        asked: Value,
    },
    /// An answer to a permission of this session.
    Permission(String),
    /// Nothing depends on it.
    Aside,
}

/// What opencode waits for an answer to.
#[derive(Debug)]
struct Asked {
    id: QuestionId,
    /// In which it must be answered.
    directory: String,
    /// Whose it is: ours, or that of a subagent.
    session: String,
}

#[derive(Debug)]
struct Pending {
    asked: Asked,
    /// A permission to leave the project for this command, and the tool call that it is for.
    outside: Option<(String, String)>,
    /// How many questions of the model's own it is, if it is no permission.
    words: Option<usize>,
}

/// A permission that was refused, which opencode is not told yet.
#[derive(Debug)]
struct RefusedPermission {
    asked: Asked,
    reason: String,
}

#[derive(Debug, Default)]
pub struct Opencode {
    turn: TurnSpec,
    next_id: u64,
    /// Our requests without a response.
    sent: BTreeMap<u64, Sent>,
    session: String,
    /// The session's own directory: what is asked with another one is answered for the wrong
    /// instance.
    directory: String,
    prompted: bool,
    /// Our session and those of its subagents.
    family: BTreeSet<String>,
    strangers: BTreeSet<String>,
    ledger: Ledger<Pending>,
    refusals: Vec<RefusedPermission>,
    /// Tool calls that were seen; none once they have ended.
    calls: BTreeMap<String, Option<Call>>,
    /// Commands that were allowed outside of the project, by tool call: the permission to run is
    /// asked next, for the same command.
    allowed_outside: BTreeMap<String, String>,
    /// The MCP servers, known once a permission may be for a tool of theirs.
    servers: Option<Vec<String>>,
    /// What each message took, and which one it answers.
    usage: BTreeMap<String, (String, Usage)>,
    /// Messages of the model in our session. Others are the person's, or the summary of a session
    /// that had become too long.
    speaks: BTreeSet<String>,
    last_error: Option<Value>,
}

impl Opencode {
    fn ask(&mut self, method: &str, path: &str, body: Value, asked: Sent, actions: &mut Actions) {
        let directory = self.directory.clone();
        self.ask_in(&directory, method, path, body, asked, actions);
    }

    fn ask_in(
        &mut self,
        directory: &str,
        method: &str,
        path: &str,
        body: Value,
        asked: Sent,
        actions: &mut Actions,
    ) {
        self.next_id += 1;
        let id = self.next_id;
        let mut request =
            json!({ "id": id, "method": method, "path": path, "directory": directory });
        if !body.is_null() {
            request["body"] = body;
        }
        self.sent.insert(id, asked);
        actions.write(request);
    }

    /// Ends the turn with what opencode, or its settings, made impossible. A running server would
    /// not see the settings that the person then changes.
    fn fail(&mut self, failure: Failure, actions: &mut Actions) {
        if matches!(failure.kind, FailureKind::NotLoggedIn | FailureKind::Refused) {
            actions.write(json!({ "outdate": true }));
        }
        self.ledger.finish(failure, actions);
    }

    fn session_path(&self, rest: &str) -> String {
        format!("/session/{}{rest}", wire::segment(&self.session))
    }

    fn start(&mut self, actions: &mut Actions) {
        match &self.turn.session {
            Some(session) => {
                session.as_str().clone_into(&mut self.session);
                self.ask("GET", &self.session_path(""), Value::Null, Sent::OldSession, actions);
            }
            None => self.open(actions),
        }
    }

    fn on_response(&mut self, asked: Sent, response: &Value, actions: &mut Actions) {
        let status = response["status"].as_u64().unwrap_or(0);
        let body = &response["body"];
        let fine = (200..300).contains(&status);
        match asked {
            Sent::Permission(session) => self.refuse(&session, actions),
            Sent::Aside => {}
            Sent::Parent { of, depth, asked } => {
                self.on_parent(&of, depth, &asked, body, actions);
            }
            Sent::Servers { asked } => {
                self.servers = Some(if fine { asking::servers(body) } else { Vec::new() });
                self.on_permission(&asked, actions);
            }
            Sent::Prompt => self.on_answer(status, response, actions),
            Sent::Reason => {
                let error = self.last_error.take().unwrap_or_default();
                self.fail(wire::failure(&error), actions);
            }
            Sent::OldSession if status == 404 => {
                let detail = text(body, "/data/message").to_owned();
                self.ledger.finish(TurnEnd::SessionGone { detail }, actions);
            }
            _ if !fine => self.ledger.finish(unexpected(response), actions),
            Sent::OldSession => self.on_old_session(body, actions),
            Sent::Rules => self.open(actions),
            Sent::Config => {
                self.turn.model = wire::configured_model(body);
                if self.turn.model.is_some() {
                    return self.open(actions);
                }
                self.ask("GET", "/config/providers", Value::Null, Sent::Providers, actions);
            }
            Sent::Providers => {
                self.turn.model = wire::provider_model(body);
                if self.turn.model.is_none() {
                    return self.fail(wire::no_provider(), actions);
                }
                self.open(actions);
            }
            Sent::NewSession => {
                text(body, "/id").clone_into(&mut self.session);
                if self.session.is_empty() {
                    return self.ledger.finish(unexpected(response), actions);
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
        let rules = wire::session_rules(self.turn.gate);
        if wire::ends_with_rules(body, &rules) {
            return self.open(actions);
        }
        let path = self.session_path("");
        self.ask("PATCH", &path, json!({ "permission": rules }), Sent::Rules, actions);
    }

    /// Sends the prompt once there are a model and a session, and asks for what is missing.
    fn open(&mut self, actions: &mut Actions) {
        if self.turn.model.is_none() {
            return self.ask("GET", "/config", Value::Null, Sent::Config, actions);
        }
        if !self.session.is_empty() {
            return self.prompt(actions);
        }
        let rules = wire::session_rules(self.turn.gate);
        // Without a title, opencode asks a model for one.
        let body = json!({ "title": self.turn.title, "permission": rules });
        self.ask("POST", "/session", body, Sent::NewSession, actions);
    }

    fn prompt(&mut self, actions: &mut Actions) {
        let Some(model) = &self.turn.model else { return };
        let body = wire::prompt(&self.turn.prompt, &self.turn.images, model);
        self.family.insert(self.session.clone());
        self.prompted = true;
        self.ask("POST", &self.session_path("/message"), body, Sent::Prompt, actions);
        actions.event(TurnEvent::Session(SessionId::new(&*self.session)));
    }

    /// The response to the prompt, which comes when the turn is over.
    fn on_answer(&mut self, status: u64, response: &Value, actions: &mut Actions) {
        let (body, info) = (&response["body"], &response["body"]["info"]);
        match status {
            200..300 => {}
            _ if self.ledger.is_interrupted() => {
                return self.ledger.finish(TurnEnd::Interrupted, actions);
            }
            404 => {
                let detail = text(body, "/data/message").to_owned();
                return self.ledger.finish(TurnEnd::SessionGone { detail }, actions);
            }
            500.. => {
                if let Some(error) = self.last_error.take() {
                    return self.fail(wire::failure(&error), actions);
                }
                return self.ask("GET", &self.session_path(""), Value::Null, Sent::Reason, actions);
            }
            _ => return self.ledger.finish(unexpected(response), actions),
        }
        actions.event(TurnEvent::Usage(self.used(info)));
        for part in list(body, "/parts") {
            self.hear(part, actions);
        }
        let mut answer = self.ledger.answer.text();
        // It was done before the interrupt, if it said anything then.
        let is_cut = self.ledger.is_interrupted() && !wire::has_words(body);
        let mut note = |note: &str| {
            let paragraph = if answer.is_empty() { "" } else { "\n\n" };
            answer += &[paragraph, "(", note, ")"].concat();
        };
        match text(info, "/error/name") {
            "" => {}
            "MessageOutputLengthError" => note("The model's output limit was reached."),
            "MessageAbortedError" => {
                let message = "the turn was aborted by another program that uses opencode's server";
                let failure = Failure::new(FailureKind::Model, message, "Send the message again.");
                return self.ledger.finish(failure, actions);
            }
            _ => return self.fail(wire::failure(&info["error"]), actions),
        }
        match text(info, "/finish") {
            "tool-calls" => note("opencode ended the turn because a tool was refused."),
            "length" => note("The model's output limit was reached."),
            _ => {}
        }
        let end = if is_cut { TurnEnd::Interrupted } else { TurnEnd::Answered { text: answer } };
        self.ledger.finish(end, actions);
    }

    /// Of the whole turn: its requests to the model are a message each, and so are those of its
    /// subagents. `last` is the last one.
    fn used(&mut self, last: &Value) -> Usage {
        let turn = text(last, "/parentID").to_owned();
        self.note_usage("", last);
        let mut sum = Usage::default();
        for (parent, usage) in self.usage.values() {
            // An empty one is a subagent's.
            if parent.is_empty() || *parent == turn {
                sum.add(usage);
            }
        }
        sum
    }

    fn note_usage(&mut self, session: &str, info: &Value) {
        let id = text(info, "/id");
        let is_ours = session.is_empty() || session == self.session;
        let parent = if is_ours { text(info, "/parentID") } else { "" };
        if self.usage.len() < KNOWN_MAX || self.usage.contains_key(id) {
            self.usage.insert(id.to_owned(), (parent.to_owned(), wire::usage(info)));
        }
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
            if matches!(kind, "permission.asked" | "question.asked")
                && text(event, "/directory") == self.directory
            {
                self.look_up(session, session, 0, event, actions);
            }
            return;
        }
        match kind {
            "permission.asked" | "question.asked" => self.on_asked(event, actions),
            "permission.replied" | "question.replied" | "question.rejected" => {
                let question = QuestionId(text(properties, "/requestID").to_owned());
                self.refusals.retain(|refusal| refusal.asked.id != question);
                if self.ledger.withdraw(question, actions).is_some() {
                    self.refuse(session, actions);
                }
            }
            "message.updated" if text(properties, "/info/role") == "assistant" => {
                let info = &properties["info"];
                let is_ours = session == self.session && info["summary"] != true;
                if is_ours && self.speaks.len() < KNOWN_MAX {
                    self.speaks.insert(text(info, "/id").to_owned());
                }
                self.note_usage(session, info);
            }
            "session.error" => self.last_error = Some(properties["error"].clone()),
            "session.status" if text(properties, "/status/type") == "retry" => {
                let status = &properties["status"];
                actions.event(TurnEvent::Retry {
                    message: text::message(text(status, "/message")),
                    next: status["next"].as_u64().map(Timestamp::from_millis),
                });
            }
            "message.part.updated" => {
                let part = &properties["part"];
                if self.speaks.contains(text(part, "/messageID")) {
                    self.hear(part, actions);
                }
                self.on_part(part, actions);
            }
            "message.part.delta" if text(properties, "/field") == "text" => {
                let (part, more) = (text(properties, "/partID"), text(properties, "/delta"));
                self.ledger.answer.more(part, more);
            }
            _ => {}
        }
    }

    /// What the model says in our session, and what it calls. A part is there before it has its words.
    fn hear(&mut self, part: &Value, actions: &mut Actions) {
        match text(part, "/type") {
            "text" if wire::is_said(part) => {
                let (id, said) = (text(part, "/id"), text(part, "/text"));
                self.ledger.answer.message(id, said, Phase::Unmarked, actions);
            }
            "tool" => self.ledger.answer.call(text(part, "/callID"), actions),
            _ => {}
        }
    }

    /// A part comes again with each state. The permission for a tool may come before the state
    /// that has its input, but not before its name.
    fn on_part(&mut self, part: &Value, actions: &mut Actions) {
        let id = text(part, "/callID");
        let known = self.calls.get(id);
        if text(part, "/type") != "tool" || (known.is_none() && self.calls.len() >= KNOWN_MAX) {
            return;
        }
        let tool = text(part, "/tool").to_owned();
        match (text(part, "/state/status"), known) {
            ("pending", None) => {
                self.calls.insert(id.to_owned(), Some(Call { tool, input: Value::Null }));
            }
            ("running", None | Some(Some(Call { input: Value::Null, .. }))) => {
                let input = part["state"]["input"].clone();
                self.calls.insert(id.to_owned(), Some(Call { tool, input }));
                let line = wire::progress(part, Utf8Path::new(&self.directory));
                actions.events.extend(line.map(TurnEvent::Progress));
            }
            ("completed" | "error", _) => {
                self.calls.insert(id.to_owned(), None);
                self.allowed_outside.remove(id);
            }
            _ => {}
        }
    }
}

impl Protocol for Opencode {
    fn begin(&mut self, turn: &TurnSpec, _: &mut Actions) {
        turn.project_dir.as_str().clone_into(&mut self.directory);
        self.turn = turn.clone();
    }

    fn on_value(&mut self, value: Value, actions: &mut Actions) {
        if value["ready"] == true {
            // Not when it comes again.
            if self.next_id == 0 {
                self.start(actions);
            }
        } else if let Some(event) = value.get("event") {
            self.on_event(event, actions);
        } else if let Some(asked) = value["id"].as_u64().and_then(|id| self.sent.remove(&id)) {
            self.on_response(asked, &value, actions);
        }
    }

    fn decide(&mut self, question: QuestionId, verdict: Verdict, actions: &mut Actions) {
        self.decided(question, verdict, actions);
    }

    fn interrupt(&mut self, actions: &mut Actions) {
        let Some(gone) = self.ledger.interrupt(actions) else { return };
        if !self.prompted {
            return self.ledger.finish(TurnEnd::Interrupted, actions);
        }
        self.ask("POST", &self.session_path("/abort"), Value::Null, Sent::Aside, actions);
        // It ends the shell of a running command, but nothing that the command has detached.
        actions.write(json!({ "outdate": true }));
        // The abort leaves them in the server's list.
        for refusal in mem::take(&mut self.refusals) {
            self.reject(&refusal.asked, actions);
        }
        for Pending { asked, words, .. } in gone.into_values() {
            if words.is_some() {
                self.dismiss(&asked, actions);
            } else {
                self.reject(&asked, actions);
            }
        }
    }

    fn on_exit(&mut self, exit: Exit, stderr_tail: &str, actions: &mut Actions) {
        let said = last_words(stderr_tail);
        let failure = Failure::new(
            FailureKind::Crashed,
            format!("the connection to opencode's server was lost ({exit}) {said}").trim_end(),
            "Send the message again; a new server is started for it.",
        );
        self.ledger.finish(failure, actions);
    }
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
