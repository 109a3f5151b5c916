//! Questions of an opencode turn: whose they are, how they are put, and how they are answered.

use serde_json::{Value, json};

use super::{Asked, DEPTH_MAX, KNOWN_MAX, MESSAGE_CHARS, Open, Opencode, asking, wire};
use crate::agent::{
    ActionKind, Actions, Gate, Question, QuestionId, TurnEvent, Verdict, progress::one_line,
};
use wire::text;

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
        if self.strangers.contains(session) || self.open.len() >= KNOWN_MAX {
            return;
        }
        let path = format!("/session/{}", wire::segment(session));
        let asked = Asked::Parent { of: of.to_owned(), depth: depth + 1, asked: event.clone() };
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

    fn gate(&self) -> Gate {
        self.turn.as_ref().map_or(Gate::Ask, |turn| turn.gate)
    }

    pub(super) fn on_permission(&mut self, event: &Value, actions: &mut Actions) {
        let asked = &event["payload"]["properties"];
        let directory = self.directory_of(event);
        let id = QuestionId(text(asked, "/id").to_owned());
        if self.interrupted || self.questions.len() >= KNOWN_MAX {
            return self.reply(&directory, id, json!({ "reply": "reject" }), actions);
        }
        if self.gate() == Gate::AllowAll {
            return self.reply(&directory, id, json!({ "reply": "once" }), actions);
        }
        if self.servers.is_none() && asking::is_foreign(asked) && self.open.len() < KNOWN_MAX {
            let asked = Asked::Servers { asked: event.clone() };
            return self.ask_in(&directory, "GET", "/mcp", Value::Null, asked, actions);
        }
        let call = text(asked, "/tool/callID");
        let known = self.calls.get(call).and_then(Option::as_ref);
        let question = asking::question(asked, known, self.servers.as_deref().unwrap_or_default());
        let is_command = question.kind == ActionKind::Run && !call.is_empty();
        if is_command && self.allowed_outside.get(call) == Some(&question.subject) {
            return self.reply(&directory, id, json!({ "reply": "once" }), actions);
        }
        let is_outside = is_command && question.tool == asking::OUTSIDE;
        let outside = is_outside.then(|| (call.to_owned(), question.subject.clone()));
        self.put(question, Open { directory, outside, words: None }, actions);
    }

    fn put(&mut self, question: Question, open: Open, actions: &mut Actions) {
        self.questions.insert(question.id.clone(), open);
        actions.event(TurnEvent::Question(question));
    }

    /// Without a human, the model is told that nobody answers, and the human what it wanted to ask.
    fn on_own_question(&mut self, event: &Value, actions: &mut Actions) {
        let asked = &event["payload"]["properties"];
        let directory = self.directory_of(event);
        let question = asking::own_question(asked);
        let asks_human = self.gate() == Gate::Ask
            && self.turn.as_ref().is_some_and(|turn| turn.asks_human)
            && !question.choices.is_empty();
        if asks_human && !self.interrupted && self.questions.len() < KNOWN_MAX {
            let words = Some(question.choices.len());
            return self.put(question, Open { directory, outside: None, words }, actions);
        }
        self.dismiss(&directory, &question.id, actions);
        let asks = one_line(text(asked, "/questions/0/question"), MESSAGE_CHARS);
        actions.event(TurnEvent::Progress(format!(
            "It wanted to ask `{}` and was told to ask in its answer.",
            asks.replace('`', "'")
        )));
    }

    /// Refuses a question of the model's own.
    pub(super) fn dismiss(&mut self, directory: &str, id: &QuestionId, actions: &mut Actions) {
        let path = format!("/question/{}/reject", wire::segment(&id.0));
        self.ask_in(directory, "POST", &path, json!({}), Asked::Aside, actions);
    }

    fn reply(&mut self, directory: &str, id: QuestionId, body: Value, actions: &mut Actions) {
        let path = format!("/permission/{}/reply", wire::segment(&id.0));
        self.ask_in(directory, "POST", &path, body, Asked::Reply(id), actions);
    }

    pub(super) fn decide(&mut self, question: QuestionId, verdict: Verdict, actions: &mut Actions) {
        let Some(open) = self.questions.remove(&question) else { return };
        if let Some(count) = open.words {
            return self.answer(&open.directory, &question, count, verdict, actions);
        }
        let body = match verdict {
            // Opencode's own `always` would count for every session in this directory.
            Verdict::Allow | Verdict::AllowAlways => {
                self.allowed_outside.extend(open.outside);
                json!({ "reply": "once" })
            }
            // Without a message, opencode ends the turn instead of telling the model.
            Verdict::Chosen(_) => {
                json!({ "reply": "reject", "message": "It asked for permission." })
            }
            Verdict::Deny { reason } if reason.trim().is_empty() => {
                json!({ "reply": "reject", "message": "This was refused." })
            }
            Verdict::Deny { reason } => json!({ "reply": "reject", "message": reason }),
        };
        self.reply(&open.directory, question, body, actions);
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
        self.ask_in(directory, "POST", &path, body, Asked::Reply(question.clone()), actions);
    }
}
