//! What somebody who runs a bridge for others needs: is it alive, how busy is it, a copy of it, and
//! the options of the real command.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use obto_bridge::serve::{Server, backup::backup, store::Retention};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    serve::{Bridge, address, bodies, options, prepared},
    util::{
        bin::Home,
        http::{Conn, Events, Reply},
        patience::Patience,
    },
};

fn ask(bridge: &Bridge, path: &str, headers: &str) -> Reply {
    let mut conn = bridge.conn();
    conn.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n"));
    conn.reply().unwrap()
}

/// The figure of a metric, by its name with its labels.
#[track_caller]
fn figure(bridge: &Bridge, name: &str) -> u64 {
    let reply = ask(bridge, "/metrics", "");
    assert_eq!(reply.status, 200);
    let text = String::from_utf8(reply.body).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse().unwrap()
}

#[test]
fn it_says_that_it_lives_and_can_work() {
    let bridge = Bridge::start();
    assert_eq!(ask(&bridge, "/healthz", "").ok(), json!({ "ok": true }));
    assert_eq!(ask(&bridge, "/readyz", "").ok(), json!({ "ok": true }));
}

#[test]
fn figures_follow_what_happens() {
    let bridge = Bridge::start();
    let mut daemon = bridge.events("?agentId=box", None);
    daemon.expect("hello");
    bridge.events("?agentId=box", None).expect("hello");
    let mut browser = bridge.events("", None);
    browser.expect("hello");
    bridge.reply("secret-thread", "one");
    daemon.expect("reply");
    let refused = bridge.conn().request("GET", "/api/threads", "nobody", None);
    assert_eq!(refused.status, 401);
    for (name, least, most) in [
        (concat!("obto_bridge_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"}"), 1, 1),
        ("obto_bridge_uptime_seconds", 0, 100),
        ("obto_bridge_connections", 3, 20),
        ("obto_bridge_connections_refused_total", 0, 0),
        ("obto_bridge_streams{kind=\"browser\"}", 1, 1),
        // The one that left may not have been noticed yet.
        ("obto_bridge_streams{kind=\"daemon\"}", 1, 2),
        ("obto_bridge_machines", 1, 1),
        ("obto_bridge_streams_dropped_total", 0, 0),
        ("obto_bridge_messages_stored_total", 1, 1),
        ("obto_bridge_events_published_total", 2, 2),
        ("obto_bridge_responses_total{class=\"2xx\"}", 4, 100),
        ("obto_bridge_responses_total{class=\"4xx\"}", 1, 1),
        ("obto_bridge_responses_total{class=\"5xx\"}", 0, 0),
        ("obto_bridge_database_bytes", 4096, 100_000_000),
        ("obto_bridge_search_index_bytes", 4096, 100_000_000),
    ] {
        let value = figure(&bridge, name);
        assert!((least..=most).contains(&value), "{name} is {value}");
    }
    let reply = ask(&bridge, "/metrics", "");
    assert!(reply.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"));
    let text = String::from_utf8(reply.body).unwrap();
    for name in ["ada", "box", "secret-thread"] {
        assert!(!text.contains(name), "{name} is nobody's business:\n{text}");
    }
    // Every line is a comment or a figure, and every figure has its type before it.
    for line in text.lines() {
        let name = line.split([' ', '{']).next().unwrap();
        assert!(line.starts_with("# ") || text.contains(&format!("# TYPE {name} ")), "{line}");
    }
}

/// A question is told of again when it ends; that is no message more.
#[test]
fn a_question_that_ends_is_no_new_message() {
    let bridge = Bridge::start();
    bridge.reply("t", "one");
    let say = |more: Value| {
        let mut message =
            json!({ "threadId": "t", "author": "a", "kind": "question", "body": "b" });
        message.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        bridge.post("/api/message", &message).ok();
    };
    say(json!({ "question": {
        "code": "K7", "agent": "a", "kind": "run", "tool": "Bash", "subject": "ls",
        "directory": "/p", "expiresAt": "2100-01-01T00:00:00Z",
    } }));
    say(json!({ "questionClosed": { "code": "K7", "outcome": "denied" }, "clientMsgId": "1" }));
    say(json!({ "questionClosed": { "code": "K7", "outcome": "denied" }, "clientMsgId": "1" }));
    assert_eq!(bridge.get("/api/messages?threadId=t").ok()["messages"][1]["closed"], "denied");
    assert_eq!(figure(&bridge, "obto_bridge_messages_stored_total"), 3);
    // The thread, three messages, and the question once more.
    assert_eq!(figure(&bridge, "obto_bridge_events_published_total"), 5);
}

#[test]
fn figures_are_for_this_machine_alone() {
    let bridge = Bridge::with(|options| options.behind_proxy = true);
    assert_eq!(ask(&bridge, "/metrics", "").status, 200);
    for header in ["X-Forwarded-For: 192.0.2.1", "Forwarded: for=192.0.2.1", "Via: 1.1 proxy"] {
        let reply = ask(&bridge, "/metrics", &format!("{header}\r\n"));
        assert_eq!(reply.status, 403, "{header}");
        assert_eq!(ask(&bridge, "/healthz", &format!("{header}\r\n")).status, 200);
    }
}

/// Starts a bridge from a copy, as a person who restores one does.
fn restored(dir: &TempDir, name: &str, copy: &Path) -> Server {
    let data = dir.path().join(name);
    fs::create_dir(&data).unwrap();
    fs::set_permissions(&data, fs::Permissions::from_mode(0o700)).unwrap();
    fs::copy(copy, data.join("bridge.sqlite")).unwrap();
    Server::start(options(&data)).unwrap()
}

#[test]
fn a_copy_in_the_middle_of_a_load_has_everything_that_was_acknowledged_before() {
    const POSTERS: usize = 3;
    let bridge = Bridge::start();
    let last = bridge.events("?agentId=box", None).expect("hello").id;
    let data = bridge.dir.path().join("data");
    let stop = AtomicBool::new(false);
    let copies: Vec<_> = (0..4).map(|n| bridge.dir.path().join(format!("copy{n}"))).collect();
    let mut acknowledged: Vec<Vec<usize>> = Vec::new();
    let counts: Vec<_> = (0..POSTERS).map(|_| std::sync::atomic::AtomicUsize::new(0)).collect();
    thread::scope(|scope| {
        for (poster, count) in counts.iter().enumerate() {
            let (bridge, stop) = (&bridge, &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    let n = count.load(Ordering::SeqCst);
                    bridge.reply(&format!("t{poster}"), &format!("{n} {}", "x".repeat(2000)));
                    count.store(n + 1, Ordering::SeqCst);
                }
            });
        }
        for copy in &copies {
            // Something new before each copy.
            let before: Vec<_> = counts.iter().map(|it| it.load(Ordering::SeqCst)).collect();
            while counts.iter().zip(&before).any(|(it, old)| it.load(Ordering::SeqCst) < old + 3) {
                thread::yield_now();
            }
            acknowledged.push(counts.iter().map(|it| it.load(Ordering::SeqCst)).collect());
            backup(&data, copy).unwrap();
        }
        stop.store(true, Ordering::SeqCst);
    });
    for (n, (copy, acknowledged)) in copies.iter().zip(acknowledged).enumerate() {
        assert_eq!(fs::metadata(copy).unwrap().permissions().mode() & 0o777, 0o600);
        let server = restored(&bridge.dir, &format!("restored{n}"), copy);
        for (poster, count) in acknowledged.into_iter().enumerate() {
            let path = format!("/api/messages?threadId=t{poster}&limit=1000");
            let mut conn = Conn::open(server.addr());
            let answer = conn.request("GET", &path, &bridge.token, None).ok();
            let left = bodies(&answer);
            assert!(count <= left.len(), "{count} were acknowledged, {} are there", left.len());
            for (n, body) in left.iter().enumerate() {
                assert!(body.starts_with(&format!("{n} ")), "{n}: {}", &body[..10]);
            }
        }
        // What the original gave out later may be something else here.
        let mut stream = Events::open(server.addr(), &bridge.token, "?agentId=box", last.clone());
        assert_eq!(stream.expect("hello").data["replay"], "gap");
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "it is somebody else who writes")]
fn a_copy_replaces_nothing_and_leaves_nothing_behind() {
    let bridge = Bridge::start();
    bridge.reply("t", "one");
    let data = bridge.dir.path().join("data");
    let out = TempDir::new().unwrap();
    let existing = out.path().join("notes");
    fs::write(&existing, "mine").unwrap();
    let check = |data: &Path, to: &Path, expected: &str| {
        let error = format!("{:#}", backup(data, to).unwrap_err());
        assert!(error.contains(expected), "{error}");
    };
    check(&data, &existing, "exists already");
    check(&data, out.path(), "exists already");
    check(out.path(), &out.path().join("a"), "holds no bridge");
    check(&data, &out.path().join("no/such/dir"), "no/such/dir");
    std::os::unix::fs::symlink("nowhere", out.path().join("link")).unwrap();
    check(&data, &out.path().join("link"), "exists already");
    fs::write(out.path().join("bridge.sqlite"), "no database, but notes".repeat(100)).unwrap();
    check(out.path(), &out.path().join("a"), "not a database");
    assert_eq!(fs::read_to_string(&existing).unwrap(), "mine");
    let mut left: Vec<_> =
        fs::read_dir(out.path()).unwrap().map(|it| it.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["bridge.sqlite", "link", "notes"]);
}

#[test]
fn the_command_copies_a_bridge_that_runs_and_one_that_does_not() {
    let home = Home::new();
    let token = prepared(&home.path().join("bridge"));
    let mut serve = home.command(&["serve", "--listen", "127.0.0.1:0", "--data", "bridge"]).start();
    let addr = address(&serve.line("The bridge is at"));
    let mut conn = Conn::open(addr);
    let reply = json!({ "threadId": "t", "body": "kept" });
    conn.request("POST", "/api/reply", &token, Some(&reply)).ok();
    let copied = ["is copied to"];
    home.run(&["serve", "--data", "bridge", "backup", "one"]).expect(0, &copied);
    home.run(&["serve", "backup", "one", "--data", "bridge"]).expect(1, &["exists already"]);
    serve.signal(Signal::TERM);
    serve.end().expect(0, &[]);
    home.run(&["serve", "backup", "two", "--data", "bridge"]).expect(0, &copied);
    home.run(&["serve", "backup", "three"]).expect(1, &["holds no bridge"]);
    home.run(&["serve", "backup"]).expect(2, &["file"]);
    for copy in ["one", "two"] {
        let dir = TempDir::new().unwrap();
        let server = restored(&dir, "data", &home.path().join(copy));
        let mut conn = Conn::open(server.addr());
        let answer = conn.request("GET", "/api/messages?threadId=t", &token, None).ok();
        assert_eq!(bodies(&answer), ["kept"]);
    }
}

#[test]
fn the_command_speaks_tls_and_names_what_is_wrong() {
    let home = Home::new();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tls");
    let text = |name: &str| fs::read_to_string(fixtures.join(name)).unwrap();
    home.put("key", &text("one.key"));
    home.put("other", &text("two.key"));
    home.put("cert", &text("one.pem"));
    let listen = ["serve", "--listen", "127.0.0.1:0", "--data", "bridge"];
    let with = |options: &[&str]| home.command(&[&listen, options].concat());
    with(&["--tls-cert", "cert"]).run().expect(1, &["--tls-key"]);
    with(&["--tls-cert", "cert", "--tls-key", "other"]).run().expect(1, &["KeyMismatch", "other"]);
    with(&["--tls-cert", "nowhere", "--tls-key", "key"]).run().expect(1, &["nowhere"]);
    let mut serve = with(&["--tls-cert", "cert", "--tls-key", "key", "--keep-days", "30"]).start();
    let line = serve.line("The bridge is at");
    assert!(line.contains("https://127.0.0.1:"), "{line}");
    let reply = Conn::open(address(&line)).request("GET", "/healthz", "", None);
    assert_eq!(reply.status, 400, "plain HTTP is told");
    serve.signal(Signal::TERM);
    serve.end().expect(0, &[]);
}

#[test]
fn messages_that_are_too_old_go_by_themselves() {
    let keep = |age| Retention { messages: Some(age), ..Retention::default() };
    let bridge = Bridge::with(|options| options.retention = keep(Duration::from_hours(24)));
    for n in 0..3 {
        bridge.reply("t", &n.to_string());
    }
    let Bridge { server, token, dir } = bridge;
    server.stop();
    let mut options = options(&dir.path().join("data"));
    // Everything is older than no time at all.
    options.retention = keep(Duration::ZERO);
    let server = Server::start(options).unwrap();
    let mut conn = Conn::open(server.addr());
    let mut patience = Patience::new();
    loop {
        let answer: Value = conn.request("GET", "/api/messages?threadId=t", &token, None).ok();
        if bodies(&answer) == ["2"] {
            break;
        }
        assert!(patience.lasts(), "they stay: {answer}");
    }
    server.stop();
}
