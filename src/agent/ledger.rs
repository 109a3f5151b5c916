//! What every protocol keeps of its turn: the questions and tool calls that wait for an answer, what
//! the model has said, and whether the turn was interrupted. One set of bounds and one rule for how a
//! turn ends, so that these are the same for all engines. Pure.

use std::{collections::BTreeMap, mem};

use super::{Actions, Question, QuestionId, ToolCall, TurnEnd, TurnEvent, answer::Answer};

/// Questions that are open at a time, and calls of our tools, each; more are refused. Engines were
/// seen to open three.
pub const OPEN_MAX: usize = 64;

/// Of everything that is only remembered: an engine's own tool calls, messages, subagents, requests
/// of ours. What is beyond goes by without its details.
pub const KNOWN_MAX: usize = 512;

/// `Q` is what a protocol needs to answer a question, `C` the same of a call of one of our tools.
#[derive(Debug)]
pub struct Ledger<Q, C = ()> {
    questions: BTreeMap<QuestionId, Q>,
    calls: BTreeMap<String, C>,
    pub answer: Answer,
    is_interrupted: bool,
    /// The interrupt took questions back, so no answer can have been complete.
    has_taken_back: bool,
}

impl<Q, C> Default for Ledger<Q, C> {
    fn default() -> Self {
        Ledger {
            questions: BTreeMap::new(),
            calls: BTreeMap::new(),
            answer: Answer::default(),
            is_interrupted: false,
            has_taken_back: false,
        }
    }
}

impl<Q, C> Ledger<Q, C> {
    pub fn is_interrupted(&self) -> bool {
        self.is_interrupted
    }

    /// Whether one more question can be asked. After an interrupt none is.
    pub fn takes_questions(&self) -> bool {
        !self.is_interrupted && self.questions.len() < OPEN_MAX
    }

    pub fn ask(&mut self, question: Question, pending: Q, actions: &mut Actions) {
        self.questions.insert(question.id.clone(), pending);
        actions.event(TurnEvent::Question(question));
    }

    /// A question that was decided. None if it is not open any more.
    pub fn decided(&mut self, question: &QuestionId) -> Option<Q> {
        self.questions.remove(question)
    }

    /// The engine no longer waits for this one.
    pub fn withdraw(&mut self, question: QuestionId, actions: &mut Actions) -> Option<Q> {
        let pending = self.questions.remove(&question)?;
        actions.event(TurnEvent::QuestionGone(question));
        Some(pending)
    }

    /// The same for all that are open.
    pub fn withdraw_all(&mut self, actions: &mut Actions) -> BTreeMap<QuestionId, Q> {
        let gone = mem::take(&mut self.questions);
        actions.events.extend(gone.keys().cloned().map(TurnEvent::QuestionGone));
        gone
    }

    /// Questions that are open.
    pub fn questions(&self) -> impl Iterator<Item = (&QuestionId, &Q)> {
        self.questions.iter()
    }

    /// Whether one more call of our tools can be open.
    pub fn takes_calls(&self) -> bool {
        self.calls.len() < OPEN_MAX
    }

    pub fn call(&mut self, call: ToolCall, pending: C, actions: &mut Actions) {
        self.calls.insert(call.id.clone(), pending);
        actions.event(TurnEvent::ToolCall(call));
    }

    /// A call that has its result, or whose result the engine no longer wants. None if it is not
    /// open any more.
    pub fn returned(&mut self, call: &str) -> Option<C> {
        self.calls.remove(call)
    }

    /// Forgets the calls that are not to be kept.
    pub fn retain_calls(&mut self, mut keep: impl FnMut(&C) -> bool) {
        self.calls.retain(|_, pending| keep(pending));
    }

    /// The person stops the turn: nothing is asked from now on, and the questions that were open
    /// are gone. None if it was stopped before.
    pub fn interrupt(&mut self, actions: &mut Actions) -> Option<BTreeMap<QuestionId, Q>> {
        if mem::replace(&mut self.is_interrupted, true) {
            return None;
        }
        let gone = self.withdraw_all(actions);
        self.has_taken_back = !gone.is_empty();
        Some(gone)
    }

    /// Ends the turn. After an interrupt an answer still counts if the engine had completed
    /// it by then; every other end is the interrupt's. What was said and is not in an answer is
    /// reported first.
    pub fn finish(&mut self, end: impl Into<TurnEnd>, actions: &mut Actions) {
        let end = end.into();
        self.withdraw_all(actions);
        let is_answer = matches!(end, TurnEnd::Answered { .. });
        let stands = !self.is_interrupted || (is_answer && !self.has_taken_back);
        self.answer.tell_rest(is_answer && stands, actions);
        actions.finish(if stands { end } else { TurnEnd::Interrupted });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::{ActionKind, Failure, FailureKind, tools::BridgeTool};

    fn question(id: usize) -> Question {
        Question {
            id: QuestionId(id.to_string()),
            tool: "Bash".to_owned(),
            kind: ActionKind::Run,
            subject: "ls".to_owned(),
            reason: None,
            ..Question::default()
        }
    }

    fn answered() -> TurnEnd {
        TurnEnd::Answered { text: "done".to_owned() }
    }

    fn failed() -> TurnEnd {
        TurnEnd::Failed(Failure::new(FailureKind::Model, "no", ""))
    }

    #[track_caller]
    fn check(asks: bool, interrupts: bool, end: TurnEnd, expected: &TurnEnd) {
        let (mut ledger, mut actions) = (Ledger::<()>::default(), Actions::default());
        if asks {
            ledger.ask(question(1), (), &mut actions);
        }
        if interrupts {
            ledger.interrupt(&mut actions);
        }
        ledger.finish(end, &mut actions);
        ledger.finish(failed(), &mut actions);
        assert_eq!(actions.finished.as_ref(), Some(expected));
        let gone = TurnEvent::QuestionGone(QuestionId("1".to_owned()));
        assert_eq!(
            actions.events.iter().filter(|event| **event == gone).count(),
            usize::from(asks)
        );
    }

    #[test]
    fn after_an_interrupt_only_a_complete_answer_counts() {
        let gone = || TurnEnd::SessionGone { detail: String::new() };
        check(false, false, answered(), &answered());
        check(true, false, failed(), &failed());
        check(false, false, gone(), &gone());
        check(false, true, answered(), &answered());
        check(true, true, answered(), &TurnEnd::Interrupted);
        check(false, true, failed(), &TurnEnd::Interrupted);
        check(false, true, gone(), &TurnEnd::Interrupted);
    }

    #[test]
    fn a_question_is_answered_or_withdrawn_once_and_none_is_asked_after_an_interrupt() {
        let (mut ledger, mut actions) = (Ledger::<usize>::default(), Actions::default());
        let id = |id: usize| QuestionId(id.to_string());
        for n in 0..OPEN_MAX {
            assert!(ledger.takes_questions());
            ledger.ask(question(n), n, &mut actions);
        }
        assert!(!ledger.takes_questions());
        assert_eq!((ledger.decided(&id(7)), ledger.decided(&id(7))), (Some(7), None));
        assert_eq!(ledger.withdraw(id(8), &mut actions), Some(8));
        assert_eq!(ledger.withdraw(id(8), &mut actions), None);
        assert!(ledger.takes_questions());
        assert_eq!(ledger.interrupt(&mut actions).map(|gone| gone.len()), Some(OPEN_MAX - 2));
        assert_eq!(ledger.interrupt(&mut actions), None);
        assert!(!ledger.takes_questions());
        assert_eq!(actions.events.len(), OPEN_MAX + 1 + OPEN_MAX - 2);
    }

    #[test]
    fn a_call_has_one_result_at_most() {
        let (mut ledger, mut actions) = (Ledger::<(), usize>::default(), Actions::default());
        let tool = || BridgeTool::ThreadRead { limit: 1, before: None };
        for n in 0..OPEN_MAX {
            assert!(ledger.takes_calls());
            ledger.call(ToolCall { id: n.to_string(), tool: tool() }, n, &mut actions);
        }
        assert!(!ledger.takes_calls());
        assert_eq!((ledger.returned("3"), ledger.returned("3")), (Some(3), None));
        ledger.retain_calls(|call| *call != 4);
        assert_eq!(ledger.returned("4"), None);
    }
}
