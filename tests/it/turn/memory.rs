//! The clocks of a turn and the order of things, without a process.

use std::{
    io, thread,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender, unbounded};
use obto_bridge::{
    agent::{
        Exit, FailureKind, QuestionId, TurnCommand, TurnEnd, TurnEvent, Verdict,
        transport::{Transport, TransportEvent},
    },
    task,
};
use serde_json::{Value, json};

use super::{MS, Setup, answered, failure};
use crate::util::patience::check_quick;

/// What an engine does in answer to an entry of the log.
type React = fn(&str) -> Vec<TransportEvent>;

/// An engine in memory: writes down what is done to it, and reacts.
struct Memory {
    react: React,
    log: Vec<String>,
    /// Steps of its exit ladder.
    steps: usize,
    /// Its process has ended when it is killed, and says nothing of that.
    has_ended: bool,
    refuse: Option<io::ErrorKind>,
    tx: Option<Sender<TransportEvent>>,
    rx: Receiver<TransportEvent>,
}

impl Memory {
    fn new(react: React) -> Memory {
        let (tx, rx) = unbounded();
        Memory {
            react,
            log: Vec::new(),
            steps: 2,
            has_ended: false,
            refuse: None,
            tx: Some(tx),
            rx,
        }
    }

    fn note(&mut self, entry: String) {
        for incoming in (self.react)(&entry) {
            self.tx.as_ref().unwrap().send(incoming).unwrap();
        }
        self.log.push(entry);
    }
}

impl Transport for Memory {
    fn send(&mut self, value: &Value) -> io::Result<()> {
        self.note(value.to_string());
        self.refuse.map_or(Ok(()), |kind| Err(kind.into()))
    }

    fn incoming(&self) -> &Receiver<TransportEvent> {
        &self.rx
    }

    fn close_input(&mut self) {
        self.note("close".to_owned());
    }

    fn escalate(&mut self) -> Option<Duration> {
        self.steps = self.steps.checked_sub(1)?;
        self.note("step".to_owned());
        Some(30 * MS)
    }

    fn kill(&mut self) -> bool {
        self.note("kill".to_owned());
        self.has_ended
    }
}

const PROMPT: &str = r#"{"prompt":"hello"}"#;
const INTERRUPT: &str = r#""interrupt""#;

fn value(value: Value) -> TransportEvent {
    TransportEvent::Value(value)
}

fn garbage(text: &str) -> TransportEvent {
    TransportEvent::Garbage(text.to_owned())
}

fn exit() -> TransportEvent {
    TransportEvent::Exit { exit: Exit::Code(0), stderr_tail: "tail".to_owned() }
}

/// Runs and checks what was done to the engine, in order.
#[track_caller]
fn check(setup: &mut Setup, react: React, log: &[&str]) -> TurnEnd {
    let mut memory = Memory::new(react);
    let end = setup.run(&mut memory);
    assert_eq!(memory.log, log, "{end:?}");
    end
}

#[test]
fn an_answer_closes_the_input_and_the_engine_leaves() {
    let react: React = |entry| match entry {
        PROMPT => vec![value(json!({"answer": "hi"})), value(json!({"answer": "too late"}))],
        "close" => vec![exit()],
        _ => vec![],
    };
    assert_eq!(check(&mut Setup::new(), react, &[PROMPT, "close"]), answered("hi"));
}

#[test]
fn an_engine_that_does_not_leave_is_ended_and_its_answer_counts() {
    let react: React = |entry| match entry {
        PROMPT => vec![value(json!({"answer": "hi"}))],
        _ => vec![],
    };
    let log = [PROMPT, "close", "step", "step", "kill"];
    assert_eq!(check(&mut Setup::new(), react, &log), answered("hi"));
}

/// Engines need seconds to leave; the answer does not wait for them.
#[test]
fn the_end_is_known_before_the_engine_has_left() {
    let react: React = |entry| match entry {
        PROMPT => vec![value(json!({"answer": "hi"}))],
        "step" => vec![exit()],
        _ => vec![],
    };
    let mut setup = Setup::new();
    setup.grace.leave = 300 * MS;
    assert_eq!(check(&mut setup, react, &[PROMPT, "close", "step"]), answered("hi"));
    let (_, known) = setup.handler.ended.unwrap();
    assert!(known.elapsed() >= 250 * MS, "{:?}", known.elapsed());
}

/// The answer stays what it is, and the engine is not waited for. The loop has no more use for the
/// channel of commands then, and closing it is no interrupt.
#[test]
fn an_interrupt_after_the_end_only_makes_the_engine_leave() {
    let react: React = |entry| match entry {
        PROMPT => vec![value(json!({"answer": "hi"}))],
        "step" => vec![exit()],
        _ => vec![],
    };
    let mut setup = Setup::new();
    setup.grace.leave = Duration::from_hours(1);
    let commands = setup.commands.0.clone().unwrap();
    setup.handler.after_end = Some((commands, TurnCommand::Interrupt));
    assert_eq!(check(&mut setup, react, &[PROMPT, "close", "step"]), answered("hi"));
    assert_eq!(setup.handler.halts, 0);

    let mut setup = Setup::new();
    setup.grace.leave = 300 * MS;
    let commands = setup.commands.0.take().unwrap();
    let late = TurnCommand::ToolResult { call: "c".to_owned(), result: Ok(String::new()) };
    setup.handler.after_end = Some((commands, late));
    assert_eq!(check(&mut setup, react, &[PROMPT, "close", "step"]), answered("hi"));
    let (_, known) = setup.handler.ended.unwrap();
    assert!(known.elapsed() >= 250 * MS, "{:?}", known.elapsed());
}

#[test]
fn commands_come_from_the_handler_the_loop_and_late_work() {
    let react: React = |entry| match entry {
        PROMPT => vec![value(json!({"ask": "q1"})), value(json!({"call": "c1"}))],
        r#"{"result":"c1"}"# => vec![value(json!({"answer": "hi"}))],
        "close" => vec![exit()],
        _ => vec![],
    };
    let mut setup = Setup::new();
    setup.handler.decides = true;
    setup.command(TurnCommand::ToolResult { call: "c0".to_owned(), result: Ok(String::new()) });
    let late = TurnCommand::ToolResult { call: "c1".to_owned(), result: Ok(String::new()) };
    setup.late.0.take().unwrap().send(late).unwrap();
    let mut memory = Memory::new(react);
    assert_eq!(setup.run(&mut memory), answered("hi"));
    // The two senders do not know of each other; the loop comes first.
    assert_eq!(memory.log[..3], [PROMPT, r#"{"result":"c0"}"#, r#"{"result":"c1"}"#]);
    assert!(memory.log.contains(&r#"{"decided":"q1"}"#.to_owned()), "{:?}", memory.log);
    assert!(matches!(setup.handler.events[..], [TurnEvent::Question(_), TurnEvent::ToolCall(_)]));
}

/// An engine asks again under the same id, for something else, while the verdict is on its way.
#[test]
fn a_verdict_is_never_taken_for_the_next_question_of_the_same_name() {
    let react: React = |entry| match entry {
        PROMPT => ["ask", "ask", "answer"].map(|what| value(json!({what: "q1"}))).into(),
        "close" => vec![exit()],
        _ => vec![],
    };
    let mut setup = Setup::new();
    setup.handler.is_late = true;
    let mut memory = Memory::new(react);
    assert_eq!(setup.run(&mut memory), answered("q1"));
    assert_eq!(memory.log, [PROMPT, "close"], "nothing was decided for the second");
    let [TurnEvent::Question(first), TurnEvent::QuestionGone(gone), TurnEvent::Question(second)] =
        &setup.handler.events[..]
    else {
        panic!("{:?}", setup.handler.events)
    };
    assert!(first.id == *gone && first.id != second.id);
    assert_eq!(setup.handler.decided, [(first.id.clone(), false)]);
}

#[test]
fn the_handler_learns_whether_a_verdict_was_waited_for() {
    let react: React = |entry| match entry {
        PROMPT => vec![value(json!({"ask": "q1"})), value(json!({"ask": "q2"}))],
        r#"{"decided":"q1"}"# => vec![value(json!({"gone": "q2"})), value(json!({"ask": "q3"}))],
        r#"{"decided":"q3"}"# => vec![value(json!({"answer": "hi"}))],
        "close" => vec![exit()],
        _ => vec![],
    };
    let mut setup = Setup::new();
    setup.handler.decides = true;
    let stale = QuestionId("q0".into());
    setup.command(TurnCommand::Decide { question: stale, verdict: Verdict::Allow });
    assert_eq!(setup.run(&mut Memory::new(react)), answered("hi"));
    // The runner puts a name of its own in front of the engine's.
    let decided =
        |id: &str| setup.handler.decided.iter().find(|(it, _)| it.0.ends_with(id)).unwrap().1;
    assert!(!decided("q0"), "nobody asked this");
    assert!(decided("q1") && decided("q2") && decided("q3"));

    // It was taken back before the verdict came.
    let react: React = |entry| match entry {
        PROMPT => vec![
            value(json!({"ask": "q1"})),
            value(json!({"gone": "q1"})),
            value(json!({"call": "c"})),
        ],
        r#"{"result":"c"}"# => vec![value(json!({"answer": "hi"}))],
        "close" => vec![exit()],
        _ => vec![],
    };
    let mut setup = Setup::new();
    let late = setup.late.0.take().unwrap();
    setup.handler.on_call = Some(Box::new(move || {
        let question = QuestionId("q1".into());
        late.send(TurnCommand::Decide { question, verdict: Verdict::Allow }).unwrap();
        late.send(TurnCommand::ToolResult { call: "c".to_owned(), result: Ok(String::new()) })
            .unwrap();
    }));
    let mut memory = Memory::new(react);
    assert_eq!(setup.run(&mut memory), answered("hi"));
    assert_eq!(setup.handler.decided, [(QuestionId("q1".into()), false)]);
    assert!(!memory.log.iter().any(|it| it.contains("decided")), "{:?}", memory.log);
}

#[test]
fn the_handler_is_called_when_it_wants_to_be() {
    let react: React = |entry| match entry {
        PROMPT => vec![value(json!("working"))],
        INTERRUPT => vec![value(json!("stopped"))],
        "close" => vec![exit()],
        _ => vec![],
    };
    let mut setup = Setup::new();
    setup.limits.silence = 60 * MS;
    let due = Instant::now() + 20 * MS;
    setup.handler.due = Some(due);
    let (kind, _) = failure(setup.run(&mut Memory::new(react)));
    assert_eq!(kind, FailureKind::TimedOut, "it is no word of the engine");
    let called = &setup.handler.called;
    assert!(called.len() == 1 && due <= called[0], "{called:?}");

    // What is due already does not wait for an engine that never stops talking.
    let chatty: React = |entry| match entry {
        PROMPT => (0..1_000).map(|_| value(json!("working"))).chain([exit()]).collect(),
        _ => vec![],
    };
    let mut setup = Setup::new();
    setup.handler.due = Some(Instant::now());
    setup.run(&mut Memory::new(chatty));
    assert_eq!((setup.handler.called.len(), setup.handler.due), (1, None));
}

#[test]
fn a_start_up_without_a_value_has_its_limit() {
    let mut setup = Setup::new();
    setup.limits.startup = 30 * MS;
    let react: React = |entry| match entry {
        INTERRUPT => vec![value(json!("stopped"))],
        "close" => vec![exit()],
        _ => vec![],
    };
    let (kind, message) = failure(check(&mut setup, react, &[PROMPT, INTERRUPT, "close"]));
    assert_eq!(kind, FailureKind::TimedOut);
    assert!(
        message.contains("said nothing for 30ms") && message.contains("It stopped"),
        "{message}"
    );
}

#[test]
fn silence_has_its_limit_but_not_while_the_engine_waits_for_us() {
    #[track_caller]
    fn check(decides: bool, first: React, expected: &str) {
        let mut setup = Setup::new();
        setup.handler.decides = decides;
        setup.limits.silence = 40 * MS;
        setup.limits.turn = 150 * MS;
        let (kind, message) = failure(setup.run(&mut Memory::new(first)));
        assert_eq!(kind, FailureKind::TimedOut);
        assert!(message.contains(expected), "{message}");
    }
    let silent = "silent for 40ms";
    let whole = "longer than 150ms";
    check(false, |e| if e == PROMPT { vec![value(json!("working"))] } else { vec![] }, silent);
    check(false, |e| if e == PROMPT { vec![value(json!({"ask": "q"}))] } else { vec![] }, whole);
    check(false, |e| if e == PROMPT { vec![value(json!({"call": "c"}))] } else { vec![] }, whole);
    check(true, |e| if e == PROMPT { vec![value(json!({"ask": "q"}))] } else { vec![] }, silent);
    check(
        false,
        |e| match e {
            PROMPT => vec![value(json!({"ask": "q"})), value(json!({"gone": "q"}))],
            _ => vec![],
        },
        silent,
    );
}

#[test]
fn limits_may_be_longer_than_clocks_count() {
    let mut setup = Setup::new();
    setup.limits.silence = Duration::MAX;
    setup.limits.turn = Duration::MAX;
    setup.limits.startup = Duration::MAX;
    let react: React = |entry| match entry {
        PROMPT => vec![value(json!("working")), exit()],
        _ => vec![],
    };
    assert_eq!(failure(setup.run(&mut Memory::new(react))).0, FailureKind::Crashed);
}

#[test]
fn an_engine_that_ignores_a_limit_is_ended() {
    let mut setup = Setup::new();
    setup.limits.startup = 10 * MS;
    let react: React = |entry| if entry == "step" { vec![exit()] } else { vec![] };
    let (_, message) = failure(check(&mut setup, react, &[PROMPT, INTERRUPT, "step", "close"]));
    assert!(message.ends_with("and its process was ended."), "{message}");

    let log = [PROMPT, INTERRUPT, "step", "step", "kill"];
    let (_, message) = failure(check(&mut setup, |_| vec![], &log));
    assert!(message.ends_with("could not be ended in time."), "{message}");

    // Its end stands behind so much output that it is not read in time.
    let mut transport = Memory { has_ended: true, ..Memory::new(|_| vec![]) };
    let (_, message) = failure(setup.run(&mut transport));
    assert!(message.ends_with("and its process was ended."), "{message}");
}

#[test]
fn an_interrupt_goes_to_the_protocol_once_then_up_the_ladder() {
    let mut setup = Setup::new();
    setup.command(TurnCommand::Interrupt);
    setup.command(TurnCommand::Interrupt);
    let polite: React = |entry| match entry {
        INTERRUPT => vec![value(json!("stopped"))],
        "close" => vec![exit()],
        _ => vec![],
    };
    let end = check(&mut setup, polite, &[PROMPT, INTERRUPT, "close"]);
    assert_eq!(end, TurnEnd::Interrupted);

    let mut setup = Setup::new();
    setup.command(TurnCommand::Interrupt);
    let end = check(&mut setup, |_| vec![], &[PROMPT, INTERRUPT, "step", "step", "kill"]);
    assert_eq!(end, TurnEnd::Interrupted);
}

#[test]
fn an_answer_that_crosses_an_interrupt_counts() {
    let mut setup = Setup::new();
    setup.command(TurnCommand::Interrupt);
    let react: React = |entry| match entry {
        INTERRUPT => vec![value(json!({"answer": "done"}))],
        "close" => vec![exit()],
        _ => vec![],
    };
    assert_eq!(check(&mut setup, react, &[PROMPT, INTERRUPT, "close"]), answered("done"));
}

#[test]
fn a_closed_command_channel_stops_the_turn_and_a_closed_late_channel_does_not() {
    let mut setup = Setup::new();
    setup.commands.0 = None;
    let log = [PROMPT, INTERRUPT, "step", "step", "kill"];
    assert_eq!(check(&mut setup, |_| vec![], &log), TurnEnd::Interrupted);

    let mut setup = Setup::new();
    setup.late.0 = None;
    let react: React = |entry| if entry == PROMPT { vec![exit()] } else { vec![] };
    assert_eq!(failure(setup.run(&mut Memory::new(react))).1, "toy: exit code 0; tail.");
}

#[test]
fn a_stop_is_in_a_hurry() {
    let mut setup = Setup::new();
    setup.grace.interrupt = Duration::from_mins(1);
    setup.grace.leave = Duration::from_mins(1);
    setup.handler.stop = setup.stop.0.take();
    let react: React = |e| if e == PROMPT { vec![value(json!({"ask": "q"}))] } else { vec![] };
    let log = [PROMPT, INTERRUPT, "step", "step", "kill"];
    let begin = Instant::now();
    assert_eq!(check(&mut setup, react, &log), TurnEnd::Interrupted);
    check_quick(begin.elapsed(), Duration::from_secs(10));
}

#[test]
fn a_turn_that_is_stopped_before_it_begins_says_nothing_to_the_engine() {
    let mut setup = Setup::new();
    setup.stop.0 = None;
    assert_eq!(check(&mut setup, |_| vec![], &[]), TurnEnd::Interrupted);
}

#[test]
fn garbage_is_skipped_and_named_when_there_is_nothing_else() {
    let mixed: React = |entry| match entry {
        PROMPT => vec![garbage("npm warn"), value(json!({"answer": "hi"})), garbage("bye")],
        "close" => vec![exit()],
        _ => vec![],
    };
    assert_eq!(check(&mut Setup::new(), mixed, &[PROMPT, "close"]), answered("hi"));

    let mut setup = Setup::new();
    setup.limits.startup = 20 * MS;
    let only: React = |entry| match entry {
        PROMPT => vec![garbage("Welcome!"), garbage("Choose:")],
        _ => vec![],
    };
    let (kind, message) = failure(setup.run(&mut Memory::new(only)));
    assert_eq!(kind, FailureKind::Protocol);
    assert!(message.ends_with("Welcome!"), "{message}");

    let and_gone: React = |entry| match entry {
        PROMPT => vec![garbage("usage: x"), exit()],
        _ => vec![],
    };
    let (kind, message) = failure(Setup::new().run(&mut Memory::new(and_gone)));
    assert_eq!(kind, FailureKind::Crashed);
    assert!(message.starts_with("toy: ") && message.ends_with("usage: x"), "{message}");
}

#[test]
fn a_dead_input_is_no_error_but_a_full_one_is() {
    let mut memory = Memory::new(|entry| if entry == PROMPT { vec![exit()] } else { vec![] });
    memory.refuse = Some(io::ErrorKind::BrokenPipe);
    assert_eq!(failure(Setup::new().run(&mut memory)).1, "toy: exit code 0; tail.");

    let mut memory = Memory::new(|entry| if entry == "step" { vec![exit()] } else { vec![] });
    memory.refuse = Some(io::ErrorKind::QuotaExceeded);
    let (kind, message) = failure(Setup::new().run(&mut memory));
    assert_eq!(kind, FailureKind::Protocol);
    assert!(message.contains("can't be written to"), "{message}");
}

#[test]
fn a_transport_that_vanishes_is_an_exit() {
    let mut memory = Memory::new(|_| vec![]);
    memory.tx = None;
    let (kind, message) = failure(Setup::new().run(&mut memory));
    assert_eq!((kind, message.as_str()), (FailureKind::Crashed, "toy: an unknown end; ."));
}

/// What is late is heard, and an engine that never stops talking does not keep its answer.
#[test]
fn an_engine_that_may_be_late_is_given_a_moment() {
    let react: React = |entry| match entry {
        PROMPT => vec![value(json!("over")), value(json!({"ask": "late"})), value(json!("news"))],
        "close" => vec![exit()],
        _ => vec![],
    };
    let mut setup = Setup::new();
    let begin = Instant::now();
    assert_eq!(check(&mut setup, react, &[PROMPT, "close"]), answered("quiet"));
    assert!(begin.elapsed() >= 150 * MS, "{:?}", begin.elapsed());
    assert_eq!(setup.handler.events.len(), 1);

    let mut memory = Memory::new(|entry| match entry {
        PROMPT => vec![value(json!("over"))],
        "close" => vec![exit()],
        _ => vec![],
    });
    let tx = memory.tx.clone().unwrap();
    let babble = task::spawn("babble", move || {
        // Until the turn is over, and its receiver gone.
        while tx.send(value(json!("news"))).is_ok() {
            thread::park_timeout(MS);
        }
    });
    let begin = Instant::now();
    assert_eq!(Setup::new().run(&mut memory), answered("quiet"));
    check_quick(begin.elapsed(), 300 * MS);
    drop(memory);
    babble.unwrap().join().unwrap();
}
