//! Turns with real processes.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use obto_bridge::{
    agent::{
        FailureKind, TurnCommand, TurnEnd,
        stdio::{Ladder, LadderStep, StdioTransport},
        transport::{Transport as _, TransportEvent},
    },
    proc::{
        kill::To,
        sweep::{Before, Marked, sweep},
    },
};
use rustix::process::Signal;

use super::{MS, Setup, answered, failure};
use crate::util::{
    fake,
    namespace::{is_alive, isolated},
    patience::{self, check_quick},
};

const MARKER: &str = "state.t1";
const LADDER: Ladder = &[
    (LadderStep::CloseInput, Duration::from_millis(100)),
    (LadderStep::Signal(Signal::INT, To::Process), Duration::from_millis(100)),
    (LadderStep::Kill, Duration::from_secs(5)),
];

fn start(directives: &[&str]) -> StdioTransport {
    StdioTransport::start(&fake::plan(MARKER, directives), MARKER, LADDER).unwrap()
}

/// Runs one turn; nothing with its marker is left, and it did not take long.
fn run(setup: &mut Setup, directives: &[&str]) -> TurnEnd {
    let begin = Instant::now();
    let mut transport = start(directives);
    let end = setup.run(&mut transport);
    drop(transport);
    assert_eq!(
        sweep(Marked::Turn(MARKER), &Before::default(), Duration::ZERO),
        0,
        "{directives:?}"
    );
    check_quick(begin.elapsed(), Duration::from_secs(8));
    end
}

fn next(transport: &StdioTransport) -> TransportEvent {
    patience::recv(transport.incoming()).unwrap()
}

const ANSWER: &str = r#"{"answer":"hi"}"#;

isolated! {
    fn a_turn_from_prompt_to_exit() {
        let mut setup = Setup::new();
        setup.grace.leave = Duration::from_secs(20);
        let script = ["read", "print", "warning: old", "print", "", "raw", r#"{"answer":"#,
            "print", r#""hi"}"#, "wait-eof"];
        assert_eq!(run(&mut setup, &script), answered("hi"));
    }
}

isolated! {
    fn the_last_line_may_be_half_or_late() {
        let mut setup = Setup::new();
        assert_eq!(run(&mut setup, &["read", "raw", ANSWER]), answered("hi"));
        let (kind, message) = failure(run(&mut setup, &["read", "raw", r#"{"answer":"#]));
        assert_eq!(kind, FailureKind::Crashed);
        assert!(message.ends_with(r#"{"answer":"#), "{message}");
    }
}

isolated! {
    fn a_death_at_any_byte_ends_the_turn() {
        let question = r#"{"ask":"q"}"#;
        let len = question.len() + 1 + ANSWER.len();
        for at in 0..=len {
            let at_word = at.to_string();
            let script =
                ["complain", "oh", "die-at", &at_word, "print", question, "print", ANSWER];
            let end = run(&mut Setup::new(), &script);
            if at == len {
                assert_eq!(end, answered("hi"));
            } else {
                let (kind, message) = failure(end);
                assert_eq!(kind, FailureKind::Crashed, "{at}");
                assert!(message.starts_with("toy: exit code 9; oh."), "{at}: {message}");
            }
        }
    }
}

isolated! {
    fn a_deaf_engine_and_its_straggler_are_killed() {
        let mut setup = Setup::new();
        setup.command(TurnCommand::Interrupt);
        assert_eq!(run(&mut setup, &["deaf", "straggler", "hang"]), TurnEnd::Interrupted);
    }
}

isolated! {
    fn the_ladder_is_climbed_no_further_than_needed() {
        let mut transport = start(&["print", "1", "wait-eof", "print", "2", "hang"]);
        assert!(matches!(next(&transport), TransportEvent::Value(one) if one == 1));
        assert_eq!(transport.escalate(), Some(100 * MS));
        assert!(matches!(next(&transport), TransportEvent::Value(two) if two == 2));
        assert_eq!(transport.escalate(), Some(100 * MS));
        let exit = next(&transport);
        let TransportEvent::Exit { exit, .. } = exit else { panic!("{exit:?}") };
        assert_eq!(exit.to_string(), "signal 2");
        assert_eq!(transport.escalate(), Some(Duration::from_secs(5)));
        assert_eq!(transport.escalate(), None);

        let mut transport = start(&["hang"]);
        transport.close_input();
        transport.escalate();
        let exit = next(&transport);
        assert!(matches!(exit, TransportEvent::Exit { .. }), "closing is not done twice: {exit:?}");
    }
}

isolated! {
    fn a_grandchild_that_holds_the_pipe_does_not_hang_a_turn() {
        let script = ["read", "straggler", "print", ANSWER, "wait-eof"];
        assert_eq!(run(&mut Setup::new(), &script), answered("hi"));
        let end = run(&mut Setup::new(), &["straggler", "exit", "7"]);
        assert!(failure(end).1.contains("exit code 7"));
    }
}

isolated! {
    fn limits_hold_whatever_the_engine_writes() {
        let mut setup = Setup::new();
        setup.limits.turn = 300 * MS;
        let (kind, message) = failure(run(&mut setup, &["babble"]));
        assert_eq!(kind, FailureKind::TimedOut);
        assert!(message.contains("longer than 300ms"), "{message}");

        let mut setup = Setup::new();
        setup.limits.startup = 300 * MS;
        assert_eq!(failure(run(&mut setup, &["hang"])).0, FailureKind::TimedOut);
        assert_eq!(failure(run(&mut setup, &["print", "Hello!", "hang"])).0, FailureKind::Protocol);
        assert_eq!(run(&mut Setup::new(), &["spew", "3", "print", ANSWER]), answered("hi"));
    }
}

isolated! {
    fn an_endless_line_is_garbage_and_not_kept() {
        let transport = start(&["endless"]);
        assert!(matches!(next(&transport), TransportEvent::Garbage(start) if start == "x".repeat(200)));
    }
}

isolated! {
    fn a_panic_in_a_protocol_leaves_no_process() {
        let turn = AssertUnwindSafe(|| run(&mut Setup::new(), &["straggler", "print", "\"panic\"", "hang"]));
        assert!(catch_unwind(turn).is_err());
        assert_eq!(sweep(Marked::Turn(MARKER), &Before::default(), Duration::ZERO), 0);
    }
}

isolated! {
    fn what_sheds_its_environment_ends_with_its_turn() {
        let mut plan = fake::plan(MARKER, &[]);
        let script = format!("env -i setsid sh -c 'echo $$; exec sleep 1000' & read prompt; echo '{ANSWER}'");
        plan.program = "/bin/sh".into();
        plan.args = ["-c", &script].map(Into::into).into();
        plan.env.push(("PATH".into(), "/usr/bin:/bin".into()));
        let mut transport = StdioTransport::start(&plan, MARKER, LADDER).unwrap();
        let TransportEvent::Value(escaped) = next(&transport) else { panic!("no pid") };
        let escaped = i32::try_from(escaped.as_i64().unwrap()).unwrap();
        assert!(is_alive(escaped));
        assert_eq!(Setup::new().run(&mut transport), answered("hi"));
        drop(transport);
        assert!(patience::comes_true(|| !is_alive(escaped)));
    }
}
