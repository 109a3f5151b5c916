//! What the tests of all protocols share: a turn, a host that keeps what a protocol does, recorded
//! conversations, and values that no engine would send.

mod answers;

use std::{fs, sync::Arc};

use proptest::prelude::*;
use serde_json::Value;

use super::{
    Actions, Exit, FailureKind, Gate, Login, Protocol, Question, QuestionId, Sandbox, TurnCommand,
    TurnEnd, TurnEvent, TurnSpec, Verdict,
};
use crate::ids::{SessionId, TurnId};

pub(super) const FRESH: &str = "0f0f0f0f-1111-4222-8333-444444444444";

/// A fresh session in the project `/p`.
pub(super) fn spec() -> TurnSpec {
    TurnSpec {
        own_files: Vec::new(),
        has_own_files: false,
        turn: TurnId::new("turn-1"),
        prompt: Arc::new("[Agent Bridge | thread:t-7]\n\nhello".to_owned()),
        images: Vec::new(),
        session: None,
        fresh_session: SessionId::new(FRESH),
        project_dir: "/p".into(),
        title: "t-7: hello".to_owned(),
        gate: Gate::Ask,
        asks_human: false,
        sandbox: Sandbox::default(),
        model: None,
        login: Login::default(),
    }
}

/// The lines of `tests/fixtures/ENGINE/NAME.jsonl`.
#[track_caller]
pub(super) fn recording(engine: &str, name: &str) -> Vec<Value> {
    let path = format!("{}/tests/fixtures/{engine}/{name}.jsonl", env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(&path).expect(&path);
    text.lines().map(|line| serde_json::from_str(line).expect(&path)).collect()
}

/// A protocol and everything it did.
pub(super) struct Host<P> {
    pub(super) protocol: P,
    pub(super) writes: Vec<Value>,
    pub(super) events: Vec<TurnEvent>,
    pub(super) end: Option<TurnEnd>,
    /// The engine goes on talking where the protocol waits until it is quiet.
    pub(super) talks_on: bool,
}

impl<P: Protocol + Default> Host<P> {
    pub(super) fn begun(spec: &TurnSpec) -> Host<P> {
        let mut host = Host {
            protocol: P::default(),
            writes: Vec::new(),
            events: Vec::new(),
            end: None,
            talks_on: false,
        };
        host.run(|protocol, actions| protocol.begin(spec, actions));
        host
    }

    pub(super) fn value(&mut self, value: Value) {
        self.run(|protocol, actions| protocol.on_value(value, actions));
    }

    pub(super) fn command(&mut self, command: TurnCommand) {
        self.run(|protocol, actions| match command {
            TurnCommand::Decide { question, verdict } => {
                protocol.decide(question, verdict, actions);
            }
            TurnCommand::ToolResult { call, result } => {
                protocol.on_tool_result(&call, result, actions);
            }
            TurnCommand::Interrupt => protocol.interrupt(actions),
        });
    }

    pub(super) fn decide(&mut self, question: &str, verdict: Verdict) {
        let question = QuestionId(question.to_owned());
        self.command(TurnCommand::Decide { question, verdict });
    }

    pub(super) fn exit(&mut self, exit: Exit, stderr: &str) {
        self.run(|protocol, actions| protocol.on_exit(exit, stderr, actions));
    }

    pub(super) fn overdue(&mut self) {
        self.run(Protocol::on_overdue);
    }

    pub(super) fn quiet(&mut self) {
        self.run(P::on_quiet);
    }

    /// As the runner does it: after the end nothing is called.
    fn run(&mut self, step: impl FnOnce(&mut P, &mut Actions)) {
        if self.end.is_some() {
            return;
        }
        let mut actions = Actions::default();
        step(&mut self.protocol, &mut actions);
        self.writes.extend(actions.write);
        self.events.extend(actions.events);
        self.end = actions.finished;
        if actions.awaits_quiet && !self.talks_on {
            self.quiet();
        }
    }

    pub(super) fn questions(&self) -> Vec<&Question> {
        let questions = self.events.iter().filter_map(|event| match event {
            TurnEvent::Question(question) => Some(question),
            _ => None,
        });
        questions.collect()
    }

    pub(super) fn commentary(&self) -> Vec<&str> {
        let said = self.events.iter().filter_map(|event| match event {
            TurnEvent::Commentary(said) => Some(&said[..]),
            _ => None,
        });
        said.collect()
    }

    #[track_caller]
    pub(super) fn answered(&self) -> &str {
        match &self.end {
            Some(TurnEnd::Answered { text }) => text,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    pub(super) fn failed(&self) -> (FailureKind, &str, &str) {
        match &self.end {
            Some(TurnEnd::Failed(failure)) => (failure.kind, &failure.message, &failure.advice),
            other => panic!("{other:?}"),
        }
    }
}

/// JSON of any shape, of these words, keys and numbers.
pub(super) fn any_json(
    words: &'static [&'static str],
    keys: &'static [&'static str],
    numbers: &'static [u64],
) -> impl Strategy<Value = Value> + Clone {
    let leaf = prop_oneof![
        1 => Just(Value::Null),
        1 => any::<bool>().prop_map(Value::from),
        1 => any::<i64>().prop_map(Value::from),
        1 => prop::sample::select(numbers).prop_map(Value::from),
        1 => ".{0,8}".prop_map(Value::from),
        2 => prop::sample::select(words).prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 48, 6, move |inner| {
        let key = prop::sample::select(keys).prop_map(str::to_owned);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(key, inner, 0..6).prop_map(Value::from_iter),
        ]
    })
}
