//! The keeper with processes that are channels.

use std::{
    ffi::OsString,
    io,
    net::TcpListener,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use crossbeam_channel::{Receiver, Sender, unbounded};
use serde_json::Value;

use super::{ServerHandle, ServerSetup, keep};
use crate::{
    agent::{
        Exit,
        http::Lease,
        opencode::wire,
        transport::{Transport, TransportEvent},
    },
    proc::Plan,
    task::Task,
};

const SOON: Duration = Duration::from_secs(10);

/// What the keeper did, in order.
#[derive(Debug, PartialEq)]
enum Did {
    Spawn,
    Terminate,
    Kill,
}

struct Fake {
    incoming: Receiver<TransportEvent>,
    says: Sender<TransportEvent>,
    did: Sender<Did>,
    /// Ignores SIGTERM.
    stubborn: bool,
}

fn exit() -> TransportEvent {
    TransportEvent::Exit { exit: Exit::Unknown, stderr_tail: String::new() }
}

impl Transport for Fake {
    fn send(&mut self, _: &Value) -> io::Result<()> {
        panic!("a server is told nothing on this way");
    }

    fn incoming(&self) -> &Receiver<TransportEvent> {
        &self.incoming
    }

    fn close_input(&mut self) {}

    fn escalate(&mut self) -> Option<Duration> {
        self.did.send(Did::Terminate).unwrap();
        if !self.stubborn {
            self.says.send(exit()).unwrap();
        }
        None
    }

    fn kill(&mut self) -> bool {
        self.did.send(Did::Kill).unwrap();
        self.says.send(exit()).unwrap();
        true
    }
}

struct Kept {
    handle: ServerHandle,
    keeper: Task,
    did: Receiver<Did>,
    started: Receiver<(Plan, Sender<TransportEvent>)>,
}

impl Kept {
    /// With a server that prints `line`, if there is one.
    fn start(line: Option<&str>, idle: Duration, stubborn: bool) -> Kept {
        let (did_sender, did) = unbounded();
        let (started_sender, started) = unbounded();
        let line = line.map(str::to_owned);
        let plan = Plan { program: "opencode".into(), args: vec![], dir: "/".into(), env: vec![] };
        let config = ServerSetup { plan, state_id: "state".to_owned(), idle, startup: SOON };
        let spawn = move |plan: &Plan, _: &str| -> Result<Box<dyn Transport>> {
            let did = did_sender.clone();
            did.send(Did::Spawn)?;
            let line = line.clone().ok_or_else(|| anyhow!("no such program"))?;
            let (says, incoming) = unbounded();
            says.send(TransportEvent::Garbage("Warning: something else first".to_owned()))?;
            says.send(TransportEvent::Garbage(line))?;
            started_sender.send((plan.clone(), says.clone()))?;
            Ok(Box::new(Fake { incoming, says, did, stubborn }))
        };
        let (handle, keeper) = keep(config, Box::new(spawn)).unwrap();
        Kept { handle, keeper, did, started }
    }

    fn lease(&self) -> Result<Lease> {
        self.handle.request()?.recv_timeout(SOON)?
    }

    #[track_caller]
    fn check_did(&self, expected: &[Did]) {
        for expected in expected {
            assert_eq!(self.did.recv_timeout(SOON).as_ref(), Ok(expected));
        }
    }
}

/// A line with a port on which nobody answers.
fn listening() -> String {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    format!("opencode server listening on http://127.0.0.1:{port}")
}

#[test]
fn one_server_does_for_all_and_is_told_to_ask() {
    let line = format!("\u{1b}[?25l{}", listening());
    let kept = Kept::start(Some(&line), SOON, false);
    let (one, two) = (kept.lease().unwrap(), kept.lease().unwrap());
    assert_eq!(one.server, two.server);
    assert!(line.ends_with(&one.server.address.to_string()), "{line}");
    kept.check_did(&[Did::Spawn]);
    let (plan, _) = kept.started.try_recv().unwrap();
    assert_eq!(plan.args, ["serve", "--hostname=127.0.0.1", "--port=0"]);
    let variable = |name: &str| {
        let found = plan.env.iter().find(|(key, _)| key == name);
        found.unwrap().1.clone().into_string().unwrap()
    };
    let password = variable("OPENCODE_SERVER_PASSWORD");
    assert_eq!((password.len(), &*password), (32, one.server.password.expose()));
    assert!(!plan.args.contains(&OsString::from(password)));
    let settings: Value = serde_json::from_str(&variable("OPENCODE_CONFIG_CONTENT")).unwrap();
    assert_eq!(settings["autoupdate"], false);
    assert_eq!(settings["experimental"]["continue_loop_on_deny"], true);
    assert_eq!(settings["share"], "disabled");
    assert_eq!(settings["permission"], wire::server_permission());
}

#[test]
fn trap_a_subagent_has_only_the_servers_rules() {
    let permission = wire::server_permission();
    for tool in ["*", "bash", "edit", "task", "webfetch", "read", "glob", "grep", "list", "lsp"] {
        assert_eq!(permission[tool], "ask", "{tool}");
    }
    assert_eq!(permission["skill"], "allow");
    // The last rule that matches counts, so the general one must come first.
    let text = permission.to_string();
    assert!(text.starts_with(r#"{"*":"ask","#), "{text}");
}

#[test]
fn an_unused_server_is_stopped_and_the_next_lease_starts_another() {
    let kept = Kept::start(Some(&listening()), Duration::from_millis(1), false);
    drop(kept.lease().unwrap());
    kept.check_did(&[Did::Spawn, Did::Terminate, Did::Kill]);
    let _lease = kept.lease().unwrap();
    kept.check_did(&[Did::Spawn]);
}

#[test]
fn a_used_server_is_kept_until_the_handle_is_dropped() {
    let kept = Kept::start(Some(&listening()), Duration::ZERO, false);
    let lease = kept.lease().unwrap();
    drop(kept.lease().unwrap());
    let Kept { handle, keeper, did, .. } = kept;
    assert_eq!(did.try_recv(), Ok(Did::Spawn));
    drop(handle);
    assert_eq!(keeper.join(), Ok(()));
    assert_eq!(did.try_recv(), Ok(Did::Terminate));
    assert_eq!(did.try_recv(), Ok(Did::Kill));
    assert!(did.try_recv().is_err());
    drop(lease);
}

#[test]
fn a_server_that_ignores_the_signal_is_killed() {
    let kept = Kept::start(Some(&listening()), Duration::ZERO, true);
    drop(kept.lease().unwrap());
    kept.check_did(&[Did::Spawn, Did::Terminate, Did::Kill]);
}

/// The commands of its tools outlive it.
#[test]
fn a_server_that_died_is_cleaned_up_after_and_replaced() {
    let kept = Kept::start(Some(&listening()), SOON, false);
    let first = kept.lease().unwrap();
    let (_, says) = kept.started.recv_timeout(SOON).unwrap();
    says.send(exit()).unwrap();
    let second = kept.lease().unwrap();
    assert_ne!(first.server.password, second.server.password);
    kept.check_did(&[Did::Spawn, Did::Kill, Did::Spawn]);
}

/// It had read opencode's settings once and for all, so that a person who logged in as they were
/// told was told again.
#[test]
fn an_outdated_server_is_stopped_after_its_last_lease() {
    let kept = Kept::start(Some(&listening()), SOON, false);
    let (one, two) = (kept.lease().unwrap(), kept.lease().unwrap());
    two.outdate();
    two.outdate();
    drop(two);
    let three = kept.lease().unwrap();
    assert_eq!(one.server, three.server);
    drop((one, three));
    kept.check_did(&[Did::Spawn, Did::Terminate, Did::Kill]);
    drop(kept.lease().unwrap());
    kept.check_did(&[Did::Spawn]);
    assert!(kept.did.try_recv().is_err(), "the new one is not outdated");
}

/// The error of a lease when the server prints `line` and ends.
#[track_caller]
fn check_error(line: Option<&str>, expected: &str) {
    let kept = Kept::start(line, SOON, false);
    let error = format!("{:#}", kept.lease().unwrap_err());
    assert!(error.contains(expected), "{error}");
}

#[test]
fn a_start_that_fails_says_why() {
    check_error(None, "can't start `opencode serve`: no such program");
    check_error(
        Some("opencode server listening on http://nowhere"),
        r#"`opencode serve` listens on "nowhere", which is no address"#,
    );
}

#[test]
fn a_server_that_ends_at_once_is_reported_with_its_last_words() {
    let kept = Kept::start(Some("Configuration is invalid"), SOON, false);
    let started = kept.started.clone();
    let ender = crate::task::spawn("ender", move || {
        let (_, says) = started.recv_timeout(SOON).unwrap();
        says.send(exit()).unwrap();
    });
    let error = format!("{:#}", kept.lease().unwrap_err());
    assert_eq!(ender.unwrap().join(), Ok(()));
    assert!(
        error.contains(r#"ended before it listened (an unknown end): "Configuration is invalid""#),
        "{error}"
    );
    kept.check_did(&[Did::Spawn, Did::Kill]);
}

/// The keeper itself held up the daemon's stop.
#[test]
fn a_stop_does_not_wait_for_a_server_that_starts() {
    let kept = Kept::start(Some("not yet"), SOON, false);
    let lease = kept.handle.request().unwrap();
    kept.check_did(&[Did::Spawn]);
    let begun = Instant::now();
    drop(kept.handle);
    assert_eq!(kept.keeper.join(), Ok(()));
    assert!(begun.elapsed() < SOON);
    assert_eq!(kept.did.try_recv(), Ok(Did::Kill));
    assert!(lease.recv_timeout(SOON).is_ok_and(|lease| lease.is_err()));
}

#[test]
fn who_asks_while_a_server_starts_gets_the_same_one() {
    let kept = Kept::start(Some(&listening()), SOON, false);
    let many: Vec<_> = std::thread::scope(|scope| {
        let asking: Vec<_> = (0..4).map(|_| scope.spawn(|| kept.lease().unwrap())).collect();
        asking.into_iter().map(|asked| asked.join().unwrap()).collect()
    });
    assert!(many.iter().all(|lease| lease.server == many[0].server));
    kept.check_did(&[Did::Spawn]);
    assert!(kept.did.try_recv().is_err());
}
