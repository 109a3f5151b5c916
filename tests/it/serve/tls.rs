//! TLS: what works without it works under it, what is broken is refused at the start, and who does
//! not finish a handshake holds a place for a moment only.

use std::{
    fs,
    io::{self, Write},
    net::Shutdown,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use obto_bridge::{
    bridge::{
        Access, Client, Net,
        stream::{self, Settings, StreamEvent},
    },
    config::Token,
    ids::MachineId,
    serve::{Options, Server, http::tls},
};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    serve::{Bridge, options},
    util::{
        http::{Conn, Events, Reply},
        patience::{self, Patience, check_quick},
    },
};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tls").join(name)
}

/// A copy that only its owner can use; the repository's is everybody's.
fn private(dir: &Path, name: &str) -> PathBuf {
    let copy = dir.join(name);
    fs::copy(fixture(name), &copy).unwrap();
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o600)).unwrap();
    copy
}

fn secured(change: impl FnOnce(&mut Options)) -> (Bridge, TempDir) {
    let keys = TempDir::new().unwrap();
    let bridge = Bridge::with(|options| {
        options.tls =
            Some(tls::Files { cert: fixture("one.pem"), key: private(keys.path(), "one.key") });
        change(options);
    });
    (bridge, keys)
}

fn client(alpn: &[&str]) -> ClientConnection {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(fixture("ca.pem")).unwrap()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|it| it.as_bytes().to_vec()).collect();
    let name = ServerName::try_from("localhost").unwrap();
    ClientConnection::new(Arc::new(config), name).unwrap()
}

fn conn(bridge: &Bridge) -> Conn {
    Conn::secure(bridge.server.addr(), client(&["http/1.1"]))
}

fn events(bridge: &Bridge, query: &str, last: Option<String>) -> Events {
    Events::on(conn(bridge), &bridge.token, query, last)
}

#[test]
fn requests_and_streams_work_as_without_it() {
    let (bridge, _keys) = secured(|_| ());
    let mut stream = events(&bridge, "?agentId=box", None);
    let start = stream.expect("hello").id;
    let mut conn = conn(&bridge);
    // More than TLS takes in one piece, in both directions, on a connection that is kept.
    let bodies: Vec<String> = (0..4).map(|n| format!("{n} {}", "x".repeat(300_000))).collect();
    for body in &bodies {
        let reply = json!({ "threadId": "t", "body": body });
        conn.request("POST", "/api/reply", &bridge.token, Some(&reply)).ok();
        assert_eq!(stream.expect("reply").data["body"], *body);
    }
    let answer = conn.request("GET", "/api/messages?threadId=t", &bridge.token, None).ok();
    assert_eq!(crate::serve::bodies(&answer), bodies);
    assert_eq!(conn.request("GET", "/healthz", "", None).status, 200);
    let mut again = events(&bridge, "?agentId=box", start);
    assert_eq!(again.expect("hello").data["replay"], "complete");
    for body in &bodies {
        assert_eq!(again.expect("reply").data["body"], *body);
    }
}

#[test]
fn a_daemon_connects_with_the_roots_of_its_ca_file() {
    let (bridge, _keys) = secured(|_| ());
    let access = Access {
        base_url: format!("https://localhost:{}", bridge.server.addr().port()),
        origin_host: "localhost".into(),
        token: Token::new(bridge.token.clone()),
    };
    let net = Net { ca_file: Some(fixture("ca.pem")), ..Net::default() };
    Client::new(Arc::new(access.clone()), &net).unwrap().whoami().unwrap();
    let settings = Settings::new(MachineId::new("box"));
    let (handle, heard) =
        stream::start(Arc::new(access), &net, settings, |reply| Ok(reply.body.clone())).unwrap();
    let connected = patience::recv(&heard).unwrap();
    assert!(matches!(connected, StreamEvent::Connected { .. }), "{connected:?}");
    let reply = json!({ "threadId": "t", "body": "over TLS" });
    conn(&bridge).request("POST", "/api/reply", &bridge.token, Some(&reply)).ok();
    let mut patience = Patience::new();
    loop {
        match patience.recv(&heard).unwrap() {
            StreamEvent::Reply { kept, .. } => break assert_eq!(kept, "over TLS"),
            StreamEvent::Connected { .. }
            | StreamEvent::Begins { .. }
            | StreamEvent::Accepts(_) => {}
            other => panic!("{other:?}"),
        }
    }
    drop(handle);
}

#[test]
fn a_stop_and_a_dropped_stream_reach_clients_under_tls() {
    let (bridge, _keys) = secured(|options| options.heartbeat = Duration::from_millis(10));
    // One that says farewell and keeps the connection open has left all the same.
    let mut gone = events(&bridge, "?agentId=gone", None);
    gone.expect("hello");
    gone.conn.say_farewell();
    let mut broken = events(&bridge, "?agentId=broken", None);
    broken.expect("hello");
    broken.conn.socket.shutdown(Shutdown::Both).unwrap();
    let mut stream = events(&bridge, "?agentId=box", None);
    stream.expect("hello");
    // What it says meanwhile is no farewell.
    stream.conn.send("GET / HTTP/1.1\r\n\r\n".repeat(3000));
    let mut patience = Patience::new();
    loop {
        let machines = conn(&bridge).request("GET", "/api/bridge/machines", &bridge.token, None);
        let machines = machines.ok()["machines"].take();
        let connected = |it: &&Value| it["connected"] == true;
        if machines.as_array().unwrap().iter().filter(connected).count() == 1 {
            break;
        }
        assert!(patience.lasts(), "they are listed for ever: {machines}");
    }
    stream.wait_for_heartbeat();
    let begun = Instant::now();
    bridge.server.stop();
    check_quick(begun.elapsed(), Duration::from_secs(2));
    while let Some(event) = stream.chunk() {
        assert_eq!(event.name, "");
    }
}

#[test]
fn who_does_not_read_under_tls_is_dropped_and_delays_nobody() {
    let (bridge, _keys) = secured(|_| ());
    let mut slow = events(&bridge, "?agentId=slow", None);
    slow.expect("hello");
    let mut quick = events(&bridge, "?agentId=quick", None);
    quick.expect("hello");
    let mut poster = conn(&bridge);
    let body = "x".repeat(100_000);
    for n in 0..400 {
        let begun = Instant::now();
        let reply = json!({ "threadId": "t", "body": format!("{n} {body}") });
        poster.request("POST", "/api/reply", &bridge.token, Some(&reply)).ok();
        check_quick(begun.elapsed(), Duration::from_secs(5));
        assert!(quick.expect("reply").data["body"].as_str().unwrap().starts_with(&n.to_string()));
    }
    let machines = poster.request("GET", "/api/bridge/machines", &bridge.token, None).ok();
    let machines = machines["machines"].as_array().unwrap();
    let slow_one = machines.iter().find(|it| it["agentId"] == "slow").unwrap();
    assert_eq!(slow_one["connected"], false, "{machines:?}");
}

/// Asks again until the server has heard all of it within its limits, which are short here.
#[track_caller]
fn in_time(mut ask: impl FnMut() -> Option<Reply>) -> Reply {
    let mut patience = Patience::new();
    loop {
        if let Some(reply) = ask() {
            return reply;
        }
        assert!(patience.lasts(), "never in time");
    }
}

#[test]
fn a_handshake_that_does_not_end_is_cut_off() {
    let (bridge, _keys) = secured(|options| {
        options.limits.handshake = Duration::from_millis(100);
        options.limits.connections = 4;
    });
    let addr = bridge.server.addr();
    // Nothing at all, half a record, bytes that trickle, and no TLS.
    let mut silent = Conn::open(addr);
    let mut half = Conn::open(addr);
    half.send([0x16, 3, 1, 2, 0, 1]);
    assert!(silent.is_closed());
    assert!(half.is_closed());
    let mut trickle = Conn::open(addr);
    trickle.send([0x16, 3, 1, 64, 0]);
    trickle.socket.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
    let mut patience = Patience::new();
    while trickle.socket.peek(&mut [0]).is_err() {
        assert!(patience.lasts(), "it is never cut off");
        if trickle.socket.write_all(&[1]).is_err() {
            break;
        }
    }
    let mut nonsense = Conn::open(addr);
    nonsense.send([0x99; 100]);
    nonsense.socket.set_read_timeout(None).unwrap();
    // The alert that says so, then the end or a reset.
    let told = io::copy(&mut nonsense.socket, &mut io::sink());
    assert!(told.is_ok_and(|count| count < 100));
    // What is meant for the places that are left comes in time if the machine lets it.
    let reply = in_time(|| {
        let mut plain = Conn::open(addr);
        let sent = plain.try_send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
        sent.ok().and_then(|()| plain.reply())
    });
    assert_eq!(reply.status, 400);
    assert!(reply.json()["error"].as_str().unwrap().contains("https://"));
    // All places are free again.
    let reply = in_time(|| {
        let mut conn = conn(&bridge);
        let sent = conn.try_send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
        sent.ok().and_then(|()| conn.reply())
    });
    assert_eq!(reply.status, 200);
}

#[test]
fn bounds_hold_under_tls() {
    let tenth = Duration::from_millis(100);
    let (bridge, _keys) = secured(|options| {
        (options.limits.head_time, options.limits.body_time) = (tenth, tenth);
        options.body_bytes = 1000;
    });
    let token = &bridge.token;
    let mut head = conn(&bridge);
    head.send("GET /healthz HTTP/1.1\r\n");
    assert_eq!(head.reply().unwrap().status, 408);
    let post =
        format!("POST /api/reply HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n");
    let mut body = conn(&bridge);
    body.send(format!("{post}Content-Length: 100\r\n\r\n{{"));
    assert_eq!(body.reply().unwrap().status, 408);
    let (bridge, _keys) = secured(|options| options.body_bytes = 1000);
    let mut chunks = conn(&bridge);
    let post = post.replace(token, &bridge.token);
    chunks.send(format!("{post}Transfer-Encoding: chunked\r\n\r\n"));
    let mut sent = 0;
    while chunks.try_send(format!("100\r\n{}\r\n", "x".repeat(256)).as_bytes()).is_ok() {
        sent += 1;
        if sent == 100 {
            break;
        }
    }
    assert_eq!(chunks.reply().unwrap().status, 413);
    // A client that speaks HTTP/2 alone is told so by TLS.
    let mut other = Conn::secure(bridge.server.addr(), client(&["h2"]));
    assert!(other.try_send(b"PRI * HTTP/2.0\r\n\r\n").is_err());
}

#[test]
fn other_machines_may_reach_it_under_tls() {
    let keys = TempDir::new().unwrap();
    let mut options = options(&keys.path().join("data"));
    options.listen = "0.0.0.0:0".parse().unwrap();
    options.tls =
        Some(tls::Files { cert: fixture("one.pem"), key: private(keys.path(), "one.key") });
    Server::start(options).unwrap().stop();
}

#[test]
fn files_that_can_not_be_used_are_named_at_the_start() {
    let dir = TempDir::new().unwrap();
    let key = private(dir.path(), "one.key");
    let other = private(dir.path(), "two.key");
    let open = dir.path().join("open.key");
    fs::copy(&key, &open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o644)).unwrap();
    let nowhere = dir.path().join("nowhere.pem");
    let cert = fixture("one.pem");
    let check = |cert: &Path, key: &Path, expected: &str, named: &Path| {
        let mut options = options(&dir.path().join("data"));
        options.tls = Some(tls::Files { cert: cert.to_owned(), key: key.to_owned() });
        let error = format!("{:#}", Server::start(options).unwrap_err());
        assert!(error.contains(expected), "{error}");
        assert!(error.contains(named.to_str().unwrap()), "{error}");
    };
    check(&nowhere, &key, "No such file", &nowhere);
    check(&cert, &nowhere, "No such file", &nowhere);
    check(&key, &key, "no certificate", &key);
    check(&cert, &cert, "chmod 600", &cert);
    check(&cert, &open, "chmod 600", &open);
    check(&cert, &other, "KeyMismatch", &other);
    check(dir.path(), &key, "directory", dir.path());
    let chain = private(dir.path(), "one.pem");
    check(&cert, &chain, "no private key", &chain);
    // A good pair after all that.
    let mut options = options(&dir.path().join("data"));
    options.tls = Some(tls::Files { cert, key });
    Server::start(options).unwrap().stop();
}
