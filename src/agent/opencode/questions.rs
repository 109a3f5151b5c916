//! Questions of an opencode turn: whose they are, how they are put, and how they are answered.

use serde_json::{Value, json};

use super::{DEPTH_MAX, Opencode, Pending, Refusal, Sent, asking, wire};
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

    fn directory_of(&self, event: &Value) -> String {
        match text(event, "/directory") {
            "" => self.directory.clone(),
            directory => directory.to_owned(),
        }
    }

    pub(super) fn on_permission(&mut self, event: &Value, actions: &mut Actions) {
        let asked = &event["payload"]["properties"];
        let (directory, session) = (self.directory_of(event), text(asked, "/sessionID").to_owned());
        let id = QuestionId(text(asked, "/id").to_owned());
        if !self.ledger.takes_questions() || self.refusals.len() >= OPEN_MAX {
            return self.reject(&directory, &id, actions);
        }
        if self.turn.gate == Gate::AllowAll {
            return self.reply(&directory, &id, session, json!({ "reply": "once" }), actions);
        }
        if self.servers.is_none() && asking::is_foreign(asked) && self.sent.len() < KNOWN_MAX {
            let asked = Sent::Servers { asked: event.clone() };
            return self.ask_in(&directory, "GET", "/mcp", Value::Null, asked, actions);
        }
        let call = text(asked, "/tool/callID");
        let known = self.calls.get(call).and_then(Option::as_ref);
        let question = asking::question(asked, known, self.servers.as_deref().unwrap_or_default());
        let is_command = question.kind == ActionKind::Run && !call.is_empty();
        if is_command && self.allowed_outside.get(call) == Some(&question.subject) {
            return self.reply(&directory, &id, session, json!({ "reply": "once" }), actions);
        }
        let is_outside = is_command && question.tool == asking::OUTSIDE;
        let outside = is_outside.then(|| (call.to_owned(), question.subject.clone()));
        self.ledger.ask(question, Pending { directory, session, outside, words: None }, actions);
    }

    /// Without a human, the model learns that it gets no answer, and the thread what it wanted to
    /// ask.
    fn on_own_question(&mut self, event: &Value, actions: &mut Actions) {
        let asked = &event["payload"]["properties"];
        let directory = self.directory_of(event);
        let question = asking::own_question(asked);
        let takes_choices = self.turn.takes_choices() && !question.choices.is_empty();
        if takes_choices && self.ledger.takes_questions() {
            let words = Some(question.choices.len());
            let session = text(asked, "/sessionID").to_owned();
            return self.ledger.ask(
                question,
                Pending { directory, session, outside: None, words },
                actions,
            );
        }
        self.dismiss(&directory, &question.id, actions);
        let asks = quotable(text(asked, "/questions/0/question"), MESSAGE_CHARS);
        actions.event(TurnEvent::Progress(format!(
            "It wanted to ask `{asks}` and was told to ask in its answer."
        )));
    }

    /// Refuses a question of the model's own.
    pub(super) fn dismiss(&mut self, directory: &str, id: &QuestionId, actions: &mut Actions) {
        let path = format!("/question/{}/reject", wire::segment(&id.0));
        self.ask_in(directory, "POST", &path, json!({}), Sent::Aside, actions);
    }

    fn reply(
        &mut self,
        directory: &str,
        id: &QuestionId,
        session: String,
        body: Value,
        actions: &mut Actions,
    ) {
        let path = format!("/permission/{}/reply", wire::segment(&id.0));
        self.ask_in(directory, "POST", &path, body, Sent::Permission(session), actions);
    }

    /// Refuses a permission without waiting for the outcome.
    pub(super) fn reject(&mut self, directory: &str, id: &QuestionId, actions: &mut Actions) {
        let path = format!("/permission/{}/reply", wire::segment(&id.0));
        let body = json!({ "reply": "reject" });
        self.ask_in(directory, "POST", &path, body, Sent::Aside, actions);
    }

    pub(super) fn decided(
        &mut self,
        question: QuestionId,
        verdict: Verdict,
        actions: &mut Actions,
    ) {
        let Some(Pending { directory, session, outside, words }) = self.ledger.decided(&question)
        else {
            return;
        };
        if let Some(count) = words {
            return self.answer(&directory, &question, count, verdict, actions);
        }
        // Without a message, opencode tells the model nothing but that it was refused.
        let reason = match verdict {
            // Opencode's own `always` would count for every session in this directory.
            Verdict::Allow | Verdict::AllowAlways => {
                self.allowed_outside.extend(outside);
                let body = json!({ "reply": "once" });
                return self.reply(&directory, &question, session, body, actions);
            }
            Verdict::Chosen(_) => "It asked for permission.".to_owned(),
            Verdict::Deny { reason } if reason.trim().is_empty() => "This was refused.".to_owned(),
            Verdict::Deny { reason } => reason,
        };
        self.refusals.push(Refusal { question, directory, session: session.clone(), reason });
        self.refuse(&session, actions);
    }

    /// Tells opencode of what was refused in a session, once nothing else is open there: with one
    /// permission it refuses all that its session waits for, and gives those no reason. No tool's
    /// result goes to the model before all are there, so this delays nothing.
    pub(super) fn refuse(&mut self, session: &str, actions: &mut Actions) {
        let is_open =
            self.ledger.questions().any(|(_, it)| it.words.is_none() && it.session == session);
        let is_told = |it: &Sent| matches!(it, Sent::Permission(of) if of == session);
        if is_open || self.sent.values().any(is_told) {
            return;
        }
        let ours = self.refusals.iter().filter(|it| it.session == session);
        let mut reasons: Vec<&str> = ours.map(|it| &it.reason[..]).collect();
        reasons.dedup();
        // The reasons of the others would be lost.
        let message = reasons.join("\n");
        let Some(at) = self.refusals.iter().position(|it| it.session == session) else { return };
        // The others follow one by one, in case that they are open all the same.
        let Refusal { question, directory, session, .. } = self.refusals.remove(at);
        let body = json!({ "reply": "reject", "message": message });
        self.reply(&directory, &question, session, body, actions);
    }

    /// Answers a question of the model's own. A refusal of it ends the turn without telling the
    /// model why; so a reason is sent as the answer.
    fn answer(
        &mut self,
        directory: &str,
        question: &QuestionId,
        count: usize,
        verdict: Verdict,
        actions: &mut Actions,
    ) {
        let answers = match verdict {
            Verdict::Chosen(chosen) if chosen.len() == count => chosen,
            Verdict::Deny { reason } if !reason.trim().is_empty() => {
                vec![vec![format!("(No answer was given: {reason})")]; count]
            }
            _ => return self.dismiss(directory, question, actions),
        };
        let path = format!("/question/{}/reply", wire::segment(&question.0));
        let body = json!({ "answers": answers });
        self.ask_in(directory, "POST", &path, body, Sent::Aside, actions);
    }
}
