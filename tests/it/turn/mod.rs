//! Turns: with a transport in memory, for the clocks and the order of things, and with processes, for
//! what only those do.

mod memory;
mod process;

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender, unbounded};
use obto_bridge::{
    agent::{
        ActionKind, Actions, Exit, Failure, FailureKind, Gate, Limits, Login, Protocol, Question,
        QuestionId, Sandbox, ToolCall, ToolResult, TurnCommand, TurnEnd, TurnEvent, TurnSpec,
        Verdict,
        tools::BridgeTool,
        transport::Transport,
        turn::{Control, Grace, TurnHandler, run_turn},
    },
    ids::{SessionId, TurnId, random_uuid},
};
use serde_json::{Value, json};

const MS: Duration = Duration::from_millis(1);

/// A protocol with one word for each thing that a turn can meet.
struct Toy;

impl Protocol for Toy {
    fn begin(&mut self, turn: &TurnSpec, actions: &mut Actions) {
        actions.write(json!({"prompt": turn.prompt}));
    }

    fn on_value(&mut self, value: Value, actions: &mut Actions) {
        let text = |key: &str| value[key].as_str().map(str::to_owned);
        if let Some(text) = text("answer") {
            actions.finish(TurnEnd::Answered { text });
        } else if value == "over" {
            actions.await_quiet();
        } else if let Some(id) = text("ask") {
            actions.event(TurnEvent::Question(question(id)));
        } else if let Some(id) = text("gone") {
            actions.event(TurnEvent::QuestionGone(QuestionId(id)));
        } else if let Some(id) = text("call") {
            let tool = BridgeTool::ThreadRead { limit: 1, before: None };
            actions.event(TurnEvent::ToolCall(ToolCall { id, tool }));
        } else if value == "stopped" {
            actions.finish(TurnEnd::Interrupted);
        } else if value == "panic" {
            panic!("on purpose");
        }
    }

    fn decide(&mut self, question: QuestionId, _: Verdict, actions: &mut Actions) {
        actions.write(json!({"decided": question.0}));
    }

    fn on_tool_result(&mut self, call: &str, _: ToolResult, actions: &mut Actions) {
        actions.write(json!({"result": call}));
    }

    fn on_quiet(&mut self, actions: &mut Actions) {
        actions.finish(answered("quiet"));
    }

    fn interrupt(&mut self, actions: &mut Actions) {
        actions.write(json!("interrupt"));
    }

    fn on_exit(&mut self, exit: Exit, stderr_tail: &str, actions: &mut Actions) {
        let message = format!("toy: {exit}; {stderr_tail}.");
        actions.finish(TurnEnd::Failed(Failure::new(FailureKind::Crashed, message, "")));
    }
}

fn question(id: String) -> Question {
    Question {
        id: QuestionId(id),
        tool: "Bash".to_owned(),
        kind: ActionKind::Run,
        subject: String::new(),
        reason: None,
        input: Value::Null,
        ..Question::default()
    }
}

fn spec() -> TurnSpec {
    TurnSpec {
        own_files: Vec::new(),
        has_own_files: false,
        turn: TurnId::new("t1"),
        prompt: Arc::new("hello".to_owned()),
        images: Vec::new(),
        session: None,
        fresh_session: SessionId::new(random_uuid()),
        project_dir: "/".into(),
        title: "hello".to_owned(),
        gate: Gate::Ask,
        asks_human: false,
        sandbox: Sandbox::default(),
        model: None,
        login: Login::default(),
    }
}

/// Decides every question at once, if it is to.
#[derive(Default)]
struct Handler {
    decides: bool,
    /// Done at the first call of a tool.
    on_call: Option<Box<dyn FnOnce()>>,
    /// Decides each question when the next one comes.
    is_late: bool,
    /// Dropped at the first event.
    stop: Option<Sender<Infallible>>,
    events: Vec<TurnEvent>,
    decided: Vec<(QuestionId, bool)>,
    /// When it wants to be called, and each time that it was.
    due: Option<Instant>,
    called: Vec<Instant>,
    halts: u32,
    /// The end, and when it was known.
    ended: Option<(TurnEnd, Instant)>,
    /// Sent to the turn as soon as its end is known.
    after_end: Option<(Sender<TurnCommand>, TurnCommand)>,
}

impl TurnHandler for Handler {
    fn on_event(&mut self, event: TurnEvent, commands: &mut Vec<TurnCommand>) {
        if let (TurnEvent::Question(question), true) = (&event, self.decides) {
            let question = question.id.clone();
            commands.push(TurnCommand::Decide { question, verdict: Verdict::Allow });
        }
        if let TurnEvent::ToolCall(_) = &event
            && let Some(act) = self.on_call.take()
        {
            act();
        }
        if let (TurnEvent::Question(_), true) = (&event, self.is_late) {
            let asked = self.events.iter().rev().find_map(|event| match event {
                TurnEvent::Question(question) => Some(question.id.clone()),
                _ => None,
            });
            let allow = |question| TurnCommand::Decide { question, verdict: Verdict::Allow };
            commands.extend(asked.map(allow));
        }
        self.events.push(event);
        self.stop = None;
    }

    fn on_decided(&mut self, question: &QuestionId, _: &Verdict, was_open: bool) {
        self.decided.push((question.clone(), was_open));
    }

    fn on_halt(&mut self) {
        self.halts += 1;
    }

    fn on_end(&mut self, end: &TurnEnd) {
        let earlier = self.ended.replace((end.clone(), Instant::now()));
        assert_eq!(earlier, None, "a turn ends once");
        if let Some((commands, command)) = self.after_end.take() {
            commands.send(command).unwrap();
        }
    }

    fn due(&self) -> Option<Instant> {
        self.due
    }

    fn on_time(&mut self) {
        self.due = None;
        self.called.push(Instant::now());
    }
}

/// A turn's circumstances. The senders are dropped to close the channels.
struct Setup {
    limits: Limits,
    grace: Grace,
    handler: Handler,
    commands: (Option<Sender<TurnCommand>>, Receiver<TurnCommand>),
    late: (Option<Sender<TurnCommand>>, Receiver<TurnCommand>),
    stop: (Option<Sender<Infallible>>, Receiver<Infallible>),
}

impl Setup {
    /// Limits that no test reaches by accident, and short graces.
    fn new() -> Setup {
        fn channel<T>() -> (Option<Sender<T>>, Receiver<T>) {
            let (sender, receiver) = unbounded();
            (Some(sender), receiver)
        }
        let long = Duration::from_secs(30);
        Setup {
            limits: Limits { startup: long, silence: long, turn: long },
            grace: Grace { interrupt: 50 * MS, leave: 50 * MS, hurry: 20 * MS },
            handler: Handler::default(),
            commands: channel(),
            late: channel(),
            stop: channel(),
        }
    }

    fn command(&self, command: TurnCommand) {
        self.commands.0.as_ref().unwrap().send(command).unwrap();
    }

    fn run(&mut self, transport: &mut dyn Transport) -> TurnEnd {
        self.handler.ended = None;
        let control = Control {
            commands: &self.commands.1,
            late: &self.late.1,
            stop: &self.stop.1,
            grace: self.grace,
        };
        let end = run_turn(&mut Toy, transport, &spec(), &self.limits, &control, &mut self.handler);
        let told = self.handler.ended.as_ref().map(|(end, _)| end);
        assert_eq!(told, Some(&end), "the handler knows what the caller is told");
        end
    }
}

fn answered(text: &str) -> TurnEnd {
    TurnEnd::Answered { text: text.to_owned() }
}

#[track_caller]
fn failure(end: TurnEnd) -> (FailureKind, String) {
    match end {
        TurnEnd::Failed(failure) => (failure.kind, failure.message),
        other => panic!("{other:?}"),
    }
}
