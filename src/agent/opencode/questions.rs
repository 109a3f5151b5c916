//! Questions of an opencode turn: whose they are, how they are put, and how they are answered.

use serde_json::{Value, json};

use super::{Asked, DEPTH_MAX, Opencode, Pending, RefusedPermission, Sent, asking, wire};
use crate::agent::{
    ActionKind, Actions, Gate, QuestionId, TurnEvent, Verdict,
    ledger::{KNOWN_MAX, OPEN_MAX},
    text::{MESSAGE_CHARS, quotable, text},
};

impl Opencode {
    /// Finds out whether `session` descends from ours; `of` is the one that asks permission.
    pub(super) fn look_up(
        &mut self,
        session: &str,
        of: &str,
        depth: usize,
        event: &Value,
        actions: &mut Actions,
    ) {
        if self.strangers.contains(session) || self.sent.len() >= KNOWN_MAX {
            return;
        }
        let path = format!("/session/{}", wire::segment(session));
        let asked = Sent::Parent { of: of.to_owned(), depth: depth + 1, asked: event.clone() };
        self.ask("GET", &path, Value::Null, asked, actions);
    }

    pub(super) fn on_parent(
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
            self.on_asked(event, actions);
        } else if parent.is_empty() || depth >= DEPTH_MAX {
            if self.strangers.len() >= KNOWN_MAX {
                self.strangers.clear();
            }
            self.strangers.insert(of.to_owned());
        } else {
            self.look_up(parent, of, depth, event, actions);
        }
    }

    pub(super) fn on_asked(&mut self, event: &Value, actions: &mut Actions) {
        if text(event, "/payload/type") == "question.asked" {
            self.on_own_question(event, actions);
        } else {
            self.on_permission(event, actions);
        }
    }

    fn asked(&self, event: &Value) -> Asked {
        let directory = match text(event, "/directory") {
            "" => &self.directory,
            directory => directory,
        };
        let properties = &event["payload"]["properties"];
        Asked {
            id: QuestionId(text(properties, "/id").to_owned()),
            directory: directory.to_owned(),
            session: text(properties, "/sessionID").to_owned(),
        }
    }

    pub(super) fn on_permission(&mut self, event: &Value, actions: &mut Actions) {
        let (asked, properties) = (self.asked(event), &event["payload"]["properties"]);
        if !self.ledger.takes_questions() || self.refusals.len() >= OPEN_MAX {
            return self.reject(&asked, actions);
        }
        if self.turn.gate == Gate::AllowAll {
            return self.reply(asked, json!({ "reply": "once" }), actions);
        }
        if self.servers.is_none() && asking::is_foreign(properties) && self.sent.len() < KNOWN_MAX {
            let sent = Sent::Servers { asked: event.clone() };
            return self.ask_in(&asked.directory, "GET", "/mcp", Value::Null, sent, actions);
        }
        let call = text(properties, "/tool/callID");
        let known = self.calls.get(call).and_then(Option::as_ref);
        let servers = self.servers.as_deref().unwrap_or_default();
        let question = asking::question(properties, known, servers);
        let is_command = question.kind == ActionKind::Run && !call.is_empty();
        if is_command && self.allowed_outside.get(call) == Some(&question.subject) {
            return self.reply(asked, json!({ "reply": "once" }), actions);
        }
        let is_outside = is_command && question.tool == asking::OUTSIDE;
        let outside = is_outside.then(|| (call.to_owned(), question.subject.clone()));
        self.ledger.ask(question, Pending { asked, outside, words: None }, actions);
    }

    /// Without a human, the model learns that it gets no answer, and the thread what it wanted to
    /// ask.
    fn on_own_question(&mut self, event: &Value, actions: &mut Actions) {
        let (asked, properties) = (self.asked(event), &event["payload"]["properties"]);
        let question = asking::own_question(properties);
        let takes_choices = self.turn.takes_choices() && !question.choices.is_empty();
        if takes_choices && self.ledger.takes_questions() {
            let words = Some(question.choices.len());
            return self.ledger.ask(question, Pending { asked, outside: None, words }, actions);
        }
        self.dismiss(&asked, actions);
        let asks = quotable(text(properties, "/questions/0/question"), MESSAGE_CHARS);
        actions.event(TurnEvent::Progress(format!(
            "It wanted to ask `{asks}` and was told to ask in its answer."
        )));
    }

    /// Refuses a question of the model's own.
    pub(super) fn dismiss(&mut self, asked: &Asked, actions: &mut Actions) {
        let path = format!("/question/{}/reject", wire::segment(&asked.id.0));
        self.ask_in(&asked.directory, "POST", &path, json!({}), Sent::Aside, actions);
    }

    fn reply(&mut self, asked: Asked, body: Value, actions: &mut Actions) {
        let path = format!("/permission/{}/reply", wire::segment(&asked.id.0));
        let sent = Sent::Permission(asked.session);
        self.ask_in(&asked.directory, "POST", &path, body, sent, actions);
    }

    /// Refuses a permission without waiting for the outcome.
    pub(super) fn reject(&mut self, asked: &Asked, actions: &mut Actions) {
        let path = format!("/permission/{}/reply", wire::segment(&asked.id.0));
        let body = json!({ "reply": "reject" });
        self.ask_in(&asked.directory, "POST", &path, body, Sent::Aside, actions);
    }

    pub(super) fn decided(
        &mut self,
        question: QuestionId,
        verdict: Verdict,
        actions: &mut Actions,
    ) {
        let Some(pending) = self.ledger.decided(&question) else { return };
        let Pending { asked, outside, words } = pending;
        if let Some(count) = words {
            return self.answer(&asked, count, verdict, actions);
        }
        // Without a message, opencode tells the model nothing but that it was refused.
        let reason = match verdict {
            // Opencode's own `always` would count for every session in this directory.
            Verdict::Allow | Verdict::AllowAlways => {
                self.allowed_outside.extend(outside);
                return self.reply(asked, json!({ "reply": "once" }), actions);
            }
            Verdict::Chosen(_) => "It asked for permission.".to_owned(),
            Verdict::Deny { reason } if reason.trim().is_empty() => "This was refused.".to_owned(),
            Verdict::Deny { reason } => reason,
        };
        let session = asked.session.clone();
        self.refusals.push(RefusedPermission { asked, reason });
        self.refuse(&session, actions);
    }

    /// Tells opencode of what was refused in a session, once nothing else is open there: with one
    /// permission it refuses all that its session waits for, and gives those no reason. No tool's
    /// result goes to the model before all are there, so this delays nothing.
    pub(super) fn refuse(&mut self, session: &str, actions: &mut Actions) {
        let is_open = self
            .ledger
            .questions()
            .any(|(_, it)| it.words.is_none() && it.asked.session == session);
        let is_told = |it: &Sent| matches!(it, Sent::Permission(of) if of == session);
        if is_open || self.sent.values().any(is_told) {
            return;
        }
        let ours = self.refusals.iter().filter(|it| it.asked.session == session);
        let mut reasons: Vec<&str> = ours.map(|it| &it.reason[..]).collect();
        reasons.dedup();
        // The reasons of the others would be lost.
        let message = reasons.join("\n");
        let Some(at) = self.refusals.iter().position(|it| it.asked.session == session) else {
            return;
        };
        // The others follow one by one, in case that they are open all the same.
        let RefusedPermission { asked, .. } = self.refusals.remove(at);
        self.reply(asked, json!({ "reply": "reject", "message": message }), actions);
    }

    /// Answers a question of the model's own. A refusal of it ends the turn without telling the
    /// model why; so a reason is sent as the answer.
    fn answer(&mut self, asked: &Asked, count: usize, verdict: Verdict, actions: &mut Actions) {
        let answers = match verdict {
            Verdict::Chosen(chosen) if chosen.len() == count => chosen,
            Verdict::Deny { reason } if !reason.trim().is_empty() => {
                vec![vec![format!("(No answer was given: {reason})")]; count]
            }
            _ => return self.dismiss(asked, actions),
        };
        let path = format!("/question/{}/reply", wire::segment(&asked.id.0));
        let body = json!({ "answers": answers });
        self.ask_in(&asked.directory, "POST", &path, body, Sent::Aside, actions);
    }
}
