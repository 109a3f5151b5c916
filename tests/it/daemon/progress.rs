//! What a thread hears of a turn besides its answer: what the engine does, and what it used. The time
//! between two lines is short here, so the daemon runs in this process.

use std::{sync::Arc, time::Duration};

use crossbeam_channel::{Sender, bounded};
use obto_bridge::{
    bridge::Net,
    config::{Config, Env, Paths},
    daemon::{self, Setup},
    signals::Signal,
    store::RealDisk,
    task::{self, Task},
};
use serde_json::json;

use super::Bridge;
use crate::util::{
    daemon::Machine,
    fake::{self, ACP_BEGIN, Gate, SESSION, acp_answer},
    http::Conn,
};

/// A daemon in this process. Dropping it stops it.
struct Daemon {
    signals: Sender<Signal>,
    task: Option<Task>,
}

impl Daemon {
    /// Starts it and waits until it hears the bridge.
    fn start(bridge: &Bridge, machine: &Machine, progress_every: Duration) -> Daemon {
        let home = machine.home.path().to_owned();
        let paths = Paths::in_home(&home);
        let vars = [("HOME", home.as_os_str()), ("PATH", "/usr/bin:/bin".as_ref())];
        let vars = vars.map(|(name, value)| (name.into(), value.to_owned())).into();
        let env = Env { home: home.clone(), cwd: home.clone(), vars };
        let setup = Setup {
            config: Config::load(&paths, &env).unwrap(),
            paths,
            env,
            net: Net::default(),
            disk: Arc::new(RealDisk),
            progress_every,
            own_program: env!("CARGO_BIN_EXE_obto-bridge").into(),
            offers_echo: false,
            exit_on_auth_failure: true,
            leave: daemon::LeaveRules::default(),
            readiness: daemon::readiness::Settings::default(),
            is_ephemeral: false,
            reports: daemon::Reports::default(),
        };
        let (signals, received) = bounded(1);
        let run = move || {
            daemon::run(setup, &received).unwrap();
        };
        let daemon = Daemon { signals, task: Some(task::spawn("daemon", run).unwrap()) };
        machine.wait_for(|_| {
            let path = "/api/bridge/machines";
            let answer = Conn::open(bridge.addr).request("GET", path, &bridge.token, None).ok();
            !answer["machines"].as_array().unwrap().is_empty()
        });
        daemon
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.signals.send(Signal::StopNow(15)).unwrap();
        self.task.take().map(Task::join).transpose().unwrap();
    }
}

/// An ACP agent that says what it does, stops at the gate, and so on; then it answers.
fn agent(gate: &Gate, lines: &[&str]) -> Vec<String> {
    let mut steps: Vec<String> = ACP_BEGIN.map(str::to_owned).into();
    steps.push("read".to_owned());
    for (at, line) in lines.iter().enumerate() {
        let update = json!({ "sessionUpdate": "tool_call", "toolCallId": format!("call-{at}"), "title": line });
        let params = json!({ "sessionId": SESSION, "update": update });
        let call = json!({ "jsonrpc": "2.0", "method": "session/update", "params": params });
        steps.extend(["print".to_owned(), call.to_string(), "gate".to_owned(), gate.path()]);
    }
    let [said, _] = acp_answer("done");
    let usage = json!({ "inputTokens": 12_345, "outputTokens": 678 });
    let result = json!({ "stopReason": "end_turn", "usage": usage });
    let end = json!({ "jsonrpc": "2.0", "id": 3, "result": result }).to_string();
    let rest = ["print", &said, "print", &end, "wait-eof"].map(str::to_owned);
    steps.extend(rest);
    fake::command(&steps.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn a_thread_hears_what_its_engine_does() {
    let (bridge, gate) = (Bridge::start(), Gate::new());
    let machine = bridge.machine().with_agent("fake", &agent(&gate, &["cargo `test`", "two"]));
    let _daemon = Daemon::start(&bridge, &machine, Duration::from_millis(10));
    let mut ears = bridge.listen();
    bridge.say("t", "work");
    let engine = gate.next();
    assert_eq!(ears.expect("t", "status", "fake: "), "fake: Calling `cargo 'test'`");
    drop(engine);
    let engine = gate.next();
    assert_eq!(ears.expect("t", "status", "fake: "), "fake: Calling `two`");
    drop(engine);
    ears.expect("t", "result", "done");
}

#[test]
fn lines_do_not_pile_up_while_the_bridge_is_down() {
    let (mut bridge, gate) = (Bridge::start(), Gate::new());
    let lines = ["one", "two", "three", "four"];
    let machine = bridge.machine().with_agent("fake", &agent(&gate, &lines));
    let _daemon = Daemon::start(&bridge, &machine, Duration::from_millis(1));
    bridge.say("t", "work");
    let mut engine = Some(gate.next());
    bridge.until(&mut bridge.listen(), "t", 1);
    bridge.down();
    for _ in 1..lines.len() {
        drop(engine.take());
        engine = Some(gate.next());
        assert!(machine.left()[2] <= 1);
    }
    drop(engine);
    machine.wait_for(|machine| machine.left()[1] == 0);
    bridge.up();
    let posts = bridge.until(&mut bridge.listen(), "t", 3);
    assert!(posts.len() == 3 && posts[2] == "done", "one line waited for the bridge: {posts:?}");
}

#[test]
fn what_an_engine_does_can_be_left_unsaid() {
    let (bridge, gate) = (Bridge::start(), Gate::new());
    let machine = bridge.machine().with_agent("fake", &agent(&gate, &["one", "two"]));
    let machine = machine.with("progress", false);
    let _daemon = Daemon::start(&bridge, &machine, Duration::ZERO);
    let mut ears = bridge.listen();
    bridge.say("t", "work");
    drop(gate.next());
    drop(gate.next());
    ears.expect("t", "result", "done");
    assert_eq!(bridge.posts("t"), ["done"]);
}

#[test]
fn usage_is_under_the_answer_if_it_is_asked_for() {
    #[track_caller]
    fn check(in_config: bool, args: &[&str], expected: &str) {
        let (bridge, gate) = (Bridge::start(), Gate::new());
        let machine = bridge.machine().with_agent("fake", &agent(&gate, &["one"]));
        let machine = machine.with("usage", in_config);
        let mut daemon = machine.start_with(args, &[]);
        daemon.log("connected to the bridge");
        let mut ears = bridge.listen();
        bridge.say("t", "work");
        drop(gate.next());
        assert_eq!(ears.expect("t", "result", "done"), expected);
        // A short turn says nothing of what it does.
        assert_eq!(bridge.posts("t").len(), 1);
        let line = daemon.log("usage of the turn");
        assert_eq!(
            (&line["data"]["input"], &line["data"]["output"]),
            (&json!(12_345), &json!(678))
        );
    }
    check(false, &[], "done");
    check(true, &[], "done\n\n*12,345 tokens in, 678 out*");
    check(false, &["--usage"], "done\n\n*12,345 tokens in, 678 out*");
}
