//! `start` for wrappers: when it ends by itself, and whom it tells that it is ready.

use std::{
    fs,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
    path::Path,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use super::Bridge;
use crate::util::{
    bin::{Command, Home},
    fake,
    http::Conn,
    patience::comes_true,
};

/// A machine with an agent that answers at once.
fn rig() -> (Home, Bridge) {
    let home = Home::new();
    let bridge = Bridge::start(&home, false);
    let echo = [env!("CARGO_BIN_EXE_obto-bridge"), "echo-agent"];
    let config = json!({"baseUrl": bridge.url(), "apiToken": bridge.token, "agent": "parrot",
        "agents": {"parrot": {"command": echo}}});
    home.put(".obto-bridge/config.json", &config.to_string());
    (home, bridge)
}

fn say(bridge: &Bridge, thread: &str, body: &str) {
    let mut conn = Conn::open(bridge.server.addr());
    let body = json!({"threadId": thread, "body": body});
    conn.request("POST", "/api/reply", &bridge.token, Some(&body)).ok();
}

fn answers(bridge: &Bridge, thread: &str) -> usize {
    let mut conn = Conn::open(bridge.server.addr());
    let path = format!("/api/messages?threadId={thread}");
    let messages = conn.request("GET", &path, &bridge.token, None).json();
    let messages = messages["messages"].as_array().cloned().unwrap_or_default();
    messages.iter().filter(|message| message["kind"] == "result").count()
}

#[test]
fn after_so_many_messages_and_the_rest_is_for_the_next() {
    let (home, bridge) = rig();
    for text in ["one", "two", "three"] {
        say(&bridge, "t", text);
    }
    home.command(&["start", "--max-messages", "2"]).run().expect(0, &["stopped"]);
    assert_eq!(answers(&bridge, "t"), 2);
    home.command(&["start", "--once"]).run().expect(0, &["stopped"]);
    assert_eq!(answers(&bridge, "t"), 3);
    home.run(&["start", "--max-messages", "0"]).expect(2, &["--max-messages"]);
}

#[test]
fn once_ends_with_the_code_of_its_message() {
    let (home, bridge) = rig();
    let config = json!({"baseUrl": bridge.url(), "apiToken": bridge.token, "agent": "broken",
        "agents": {"broken": {"command": ["false"]}}});
    home.put(".obto-bridge/config.json", &config.to_string());
    say(&bridge, "t", "hello");
    home.command(&["start", "--once"]).run().expect(10, &["turn failed"]);
}

#[test]
fn when_there_is_nothing_to_do_or_at_a_time() {
    let (home, bridge) = rig();
    say(&bridge, "t", "hello");
    home.command(&["start", "--idle-exit", "1s"]).run().expect(0, &["stopped"]);
    assert_eq!(answers(&bridge, "t"), 1, "it had something to do at first");
    home.command(&["start", "--exit-after", "1"]).run().expect(0, &["stopped"]);
    home.run(&["start", "--idle-exit", "never"]).expect(2, &["90s, 10m or 2h"]);
}

#[test]
fn a_second_one_is_not_needed() {
    let (home, _bridge) = rig();
    let mut first = home.command(&["start", "--if-not-running"]).start();
    first.line("connected");
    home.run(&["start"]).expect(75, &["another daemon"]);
    home.run(&["start", "--if-not-running"]).expect(0, &["another daemon runs"]);
    first.signal(Signal::TERM);
    first.end().expect(0, &[]);
}

#[test]
fn the_state_is_where_it_is_wanted() {
    let (home, bridge) = rig();
    let mut daemon = home.command(&["start", "--state-dir", "state"]).start();
    daemon.line("connected");
    assert!(home.path().join("state/daemon.lock").exists());
    assert!(!home.path().join(".agent-bridge-daemon").exists());
    home.run(&["status"]).expect(69, &["No daemon"]);
    home.run(&["status", "--state-dir", "state", "--wait", "1m"]).expect(0, &["connected"]);
    home.command(&["status"]).env("OBTO_STATE_DIR", "state").run().expect(0, &["connected"]);
    daemon.signal(Signal::TERM);
    daemon.end().expect(0, &[]);
    // For one process alone: nothing stays, and the machine is a new one.
    say(&bridge, "t", "hello");
    let tmp = home.path().to_str().unwrap().to_owned();
    let ran = home.command(&["start", "--ephemeral", "--once"]).env("TMPDIR", &tmp).run();
    ran.expect(0, &["stopped"]);
    let left = fs::read_dir(home.path()).unwrap();
    let names = left.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(names.into_iter().all(|name| !name.starts_with("obto-bridge-")));
    home.run(&["start", "--ephemeral", "--state-dir", "x"]).expect(2, &["exclude each other"]);
}

#[test]
fn service_managers_and_scripts_are_told() {
    let (home, bridge) = rig();
    let name = format!("obto-bridge-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let manager = UnixDatagram::bind_addr(&address).unwrap();
    manager.set_read_timeout(Some(std::time::Duration::from_mins(1))).unwrap();
    let next = || {
        let mut text = [0; 1024];
        let length = manager.recv(&mut text).expect("the manager is told something");
        String::from_utf8(text[..length].to_vec()).unwrap()
    };
    let gate = fake::Gate::new();
    let config = json!({"baseUrl": bridge.url(), "apiToken": bridge.token, "agent": "slow",
        "agents": {"slow": {"command": gate.acp("done")}}});
    home.put(".obto-bridge/config.json", &config.to_string());
    let daemon = home
        .command(&["start", "--ready-file", "ready"])
        .env("NOTIFY_SOCKET", &format!("@{name}"))
        .env("WATCHDOG_USEC", "400000")
        .start();
    let mut told = String::new();
    while !told.contains("READY=1") || !told.contains("WATCHDOG=1") {
        told += &next();
    }
    assert!(comes_true(|| home.path().join("ready").exists()));
    let pid = fs::read_to_string(home.path().join("ready")).unwrap();
    assert_eq!(pid.trim(), daemon.pid().to_string());
    home.run(&["status", "--wait", "60s"]).expect(0, &["connected"]);
    // What is for the daemon is not for agents.
    say(&bridge, "t", "hello");
    let agent = gate.next();
    assert!(agent.env("NOTIFY_SOCKET").is_none() && agent.env("WATCHDOG_USEC").is_none());
    drop(agent);
    daemon.signal(Signal::TERM);
    while !told.contains("STOPPING=1") || !told.contains("EXTEND_TIMEOUT_USEC=") {
        told += &next();
    }
    daemon.end().expect(0, &[]);
    assert!(!home.path().join("ready").exists(), "it is ready no more");
    home.run(&["status", "--wait", "1s"]).expect(69, &["No daemon"]);
}

const WRAPPER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/examples/restart-wrapper.sh");

/// The wrapper of docs/examples, with this program on its path and nothing else of ours.
fn wrapper(home: &Home, args: &[&str]) -> Command {
    let mut command = home.command(args);
    let bin = Path::new(env!("CARGO_BIN_EXE_obto-bridge")).parent().unwrap().display();
    command = command.env("PATH", &format!("{bin}:/usr/bin:/bin"));
    command.program(WRAPPER)
}

#[test]
fn a_restart_wrapper_can_live_by_the_codes() {
    let (home, bridge) = rig();
    let ready = home.path().join("ready");
    let pid = || fs::read_to_string(&ready).ok()?.trim().parse::<i32>().ok();
    let wrapped = wrapper(&home, &["--ready-file", "ready", "--log", "warn"]).start();
    let mut last = None;
    for turn in 1..=4 {
        assert!(comes_true(|| pid().is_some() && pid() != last), "it runs again");
        last = pid();
        say(&bridge, "t", &format!("message {turn}"));
        assert!(comes_true(|| answers(&bridge, "t") == turn), "it is answered");
        // Killed, it is started again; and never are there two.
        home.run(&["start"]).expect(75, &["another daemon"]);
        if turn < 4 {
            let daemon = Pid::from_raw(last.unwrap()).unwrap();
            kill_process(daemon, Signal::KILL).unwrap();
        }
    }
    wrapped.signal(Signal::TERM);
    wrapped.end().expect(0, &[]);
    assert_eq!(answers(&bridge, "t"), 4, "each once");
    // What a person has to mend ends it.
    let empty = Home::new();
    wrapper(&empty, &[]).run().expect(78, &["no API token"]);
    let config = json!({"baseUrl": bridge.url(), "apiToken": "obto_dead"});
    empty.put(".obto-bridge/config.json", &config.to_string());
    wrapper(&empty, &[]).run().expect(77, &["401"]);
    wrapper(&home, &["--if-not-runing"]).run().expect(2, &["--if-not-running"]);
}

#[test]
fn logout_ends_the_work_of_a_daemon() {
    let (home, bridge) = rig();
    let mut daemon = home
        .command(&["start", "--log-format", "text"])
        .env("BRIDGE_STREAM_IDLE_TIMEOUT_MS", "3000")
        .start();
    daemon.line("connected");
    say(&bridge, "t", "one");
    assert!(comes_true(|| answers(&bridge, "t") == 1));
    let config = fs::read_to_string(home.config()).unwrap();
    home.run(&["logout"]).expect(0, &["A daemon runs", &daemon.pid().to_string()]);
    daemon.line("no API token");
    say(&bridge, "t", "two");
    let is_told = || home.run(&["status"]).stdout.contains("not connected: no API token");
    assert!(comes_true(is_told), "status says so");
    home.run(&["status"]).expect(69, &["no API token"]);
    assert_eq!(answers(&bridge, "t"), 1, "nothing is begun without a login");
    daemon.signal(Signal::TERM);
    daemon.end().expect(0, &[]);
    // After the next one everything goes on.
    home.put(".obto-bridge/config.json", &config);
    home.command(&["start", "--once"]).run().expect(0, &[]);
    assert_eq!(answers(&bridge, "t"), 2);
}
