//! What is acknowledged stays: across a restart, a kill, and a power cut in the middle of a write.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use obto_bridge::serve::Server;
use serde_json::json;
use tempfile::TempDir;

use crate::{
    serve::{Bridge, bodies, options},
    util::http::{Conn, Events},
};

#[test]
fn a_restart_keeps_everything() {
    let bridge = Bridge::start();
    let stream = bridge.events("?agentId=box", None).expect("hello").id;
    bridge.post("/api/reply", &json!({ "threadId": "t", "body": "a", "clientMsgId": "1" })).ok();
    bridge.post("/api/bridge/thread/claim", &json!({ "threadId": "t", "agentId": "box" })).ok();
    let before = bridge.get("/api/threads").ok();
    let Bridge { server, token, dir } = bridge;
    server.stop();

    let server = Server::start(options(&dir.path().join("data"))).unwrap();
    let bridge = Bridge { server, token, dir };
    assert_eq!(bridge.get("/api/threads").ok(), before);
    bridge.post("/api/reply", &json!({ "threadId": "t", "body": "b", "clientMsgId": "1" })).ok();
    bridge.reply("t", "c");
    assert_eq!(bodies(&bridge.get("/api/messages?threadId=t").ok()), ["a", "c"]);
    let mut stream = bridge.events("?agentId=box", stream);
    assert_eq!(stream.expect("hello").data["replay"], "complete");
    assert_eq!(stream.expect("reply").data["body"], "a");
    assert_eq!(stream.expect("reply").data["body"], "c");
}

/// What a kill leaves is the files as they are at that moment; a power cut may also tear the end
/// of the log. `keep` is how much of the log is left.
fn image(data: &Path, to: &Path, keep: impl Fn(usize) -> usize) {
    fs::create_dir(to).unwrap();
    fs::set_permissions(to, fs::Permissions::from_mode(0o700)).unwrap();
    for name in ["bridge.sqlite", "bridge.sqlite-wal"] {
        fs::copy(data.join(name), to.join(name)).unwrap();
    }
    let log = fs::OpenOptions::new().write(true).open(to.join("bridge.sqlite-wal")).unwrap();
    let length = usize::try_from(log.metadata().unwrap().len()).unwrap();
    log.set_len(keep(length) as u64).unwrap();
}

#[test]
fn a_kill_loses_nothing_that_was_acknowledged() {
    let bridge = Bridge::start();
    let start = bridge.events("?agentId=box", None).expect("hello").id;
    let data = bridge.dir.path().join("data");
    let mut sent = Vec::new();
    for n in 0..10 {
        sent.push(n.to_string());
        bridge.reply("t", &sent[n]);
        let copy = bridge.dir.path().join(format!("copy{n}"));
        image(&data, &copy, |length| length);
        let revived = Server::start(options(&copy)).unwrap();
        let mut conn = Conn::open(revived.addr());
        let answer = conn.request("GET", "/api/messages?threadId=t", &bridge.token, None).ok();
        assert_eq!(bodies(&answer), sent);
        let mut stream = Events::open(revived.addr(), &bridge.token, "?agentId=box", start.clone());
        stream.expect("hello");
        for body in &sent {
            assert_eq!(stream.expect("reply").data["body"], *body);
        }
    }
}

#[test]
fn a_torn_log_leaves_a_beginning_of_what_was_sent() {
    let bridge = Bridge::start();
    let data = bridge.dir.path().join("data");
    let sent: Vec<String> = (0..20).map(|n| n.to_string()).collect();
    for body in &sent {
        bridge.reply("t", body);
    }
    let mut random = fastrand::Rng::with_seed(7);
    for n in 0..20 {
        let copy = bridge.dir.path().join(format!("torn{n}"));
        // The first half has the account, without which there is nobody to ask.
        let part = random.usize(500..1000);
        image(&data, &copy, |length| length * part / 1000);
        let revived = Server::start(options(&copy)).unwrap();
        let mut conn = Conn::open(revived.addr());
        let answer = conn.request("GET", "/api/messages?threadId=t", &bridge.token, None).ok();
        let left = bodies(&answer);
        assert!(left.iter().eq(sent.iter().take(left.len())), "{part} of 1000: {left:?}");
    }
}

#[test]
fn the_directory_belongs_to_one_server_and_to_nobody_else() {
    let bridge = Bridge::start();
    let data = bridge.dir.path().join("data");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&data), 0o700);
    for entry in fs::read_dir(&data).unwrap() {
        assert_eq!(mode(&entry.unwrap().path()), 0o600);
    }
    let error = format!("{:#}", Server::start(options(&data)).unwrap_err());
    assert!(error.contains("another server"), "{error}");
    bridge.server.stop();
    Server::start(options(&data)).unwrap().stop();

    fs::set_permissions(&data, fs::Permissions::from_mode(0o750)).unwrap();
    let error = format!("{:#}", Server::start(options(&data)).unwrap_err());
    assert!(error.contains("chmod 700"), "{error}");
}

#[test]
#[expect(clippy::disallowed_methods, reason = "it is somebody else who writes")]
fn a_file_that_is_none_of_ours_is_not_touched() {
    let dir = TempDir::new().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let path = dir.path().join("bridge.sqlite");
    let text = "no database, but somebody's notes: ".repeat(100);
    fs::write(&path, &text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let error = format!("{:#}", Server::start(options(dir.path())).unwrap_err());
    assert!(error.contains("bridge.sqlite"), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
}
