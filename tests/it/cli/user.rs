//! `serve user`, beside a bridge that runs and without one.

use std::{fs, os::unix::fs::MetadataExt};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::util::{
    bin::{Home, Running},
    http::{Conn, Events, Reply},
};

const PASSWORD: &str = "correct horse";

/// A running bridge in the usual place of a home directory.
struct Serve {
    running: Running,
    addr: String,
}

impl Serve {
    fn start(home: &Home) -> Serve {
        let mut running = home.command(&["serve", "--listen", "127.0.0.1:0"]).start();
        let line = running.line("http://");
        let addr = line.split("http://").nth(1).unwrap().to_owned();
        running.line("#welcome=");
        Serve { running, addr }
    }

    fn post(&self, path: &str, body: &Value) -> Reply {
        Conn::open(self.addr.parse().unwrap()).request("POST", path, "", Some(body))
    }

    fn sign_in(&self, name: &str, password: &str) -> Reply {
        self.post("/api/session", &json!({ "username": name, "password": password }))
    }

    fn stop(self) {
        self.running.signal(Signal::TERM);
        self.running.end().expect(0, &[]);
    }
}

/// The code of the link that was printed.
#[track_caller]
fn code(printed: &str, addr: &str) -> String {
    let link = printed.lines().last().unwrap();
    let code = link.strip_prefix(&format!("http://{addr}/api/view#welcome="));
    code.unwrap_or_else(|| panic!("no link: {printed}")).to_owned()
}

#[test]
fn accounts_come_and_go_while_the_bridge_runs() {
    let home = Home::new();
    let serve = Serve::start(&home);
    let added = home.run(&["serve", "user", "add", "bob"]).expect(0, &["24 hours"]);
    let code = code(&added.stdout, &serve.addr);
    let redeem = json!({ "code": code, "password": PASSWORD });
    assert_eq!(serve.post("/api/session/redeem", &redeem).ok()["user"], "bob");
    home.run(&["serve", "user", "add", "bob"]).expect(1, &["taken"]);
    let listed = home.run(&["serve", "user", "list"]).expect(0, &["owner", "bob"]).stdout;
    let bob = listed.lines().find(|line| line.starts_with("bob")).unwrap();
    assert!(bob.contains("  password, 0 threads, 0 tokens"), "{listed}");

    // Somebody who listens is sent away at once, and what was theirs is gone.
    let token = fs::read_to_string(home.path().join(".obto-bridge/serve/token")).unwrap();
    let token = token.trim();
    let addr = serve.addr.parse().unwrap();
    let mut stream = Events::open(addr, token, "?agentId=box", None);
    stream.expect("hello");
    let body = json!({ "threadId": "t", "body": "hello" });
    Conn::open(addr).request("POST", "/api/reply", token, Some(&body)).ok();
    stream.expect("reply");
    let refused = home.run(&["serve", "user", "remove", "owner"]).expect(1, &["--yes"]);
    assert!(refused.stderr.contains("1 threads") && refused.stderr.contains("attachments"));
    Conn::open(addr).request("GET", "/api/threads", token, None).ok();
    home.run(&["serve", "user", "remove", "owner", "--yes"]).expect(0, &["1 threads"]);
    assert_eq!(stream.next(), None);
    assert_eq!(Conn::open(addr).request("GET", "/api/threads", token, None).status, 401);
    home.run(&["serve", "user", "remove", "owner", "--yes"]).expect(1, &["no account"]);
    let listed = home.run(&["serve", "user", "list"]).expect(0, &["bob"]).without("owner");
    assert_eq!(listed.stdout.lines().count(), 1);
    serve.sign_in("bob", PASSWORD).ok();
    serve.stop();
}

#[test]
fn a_password_is_set_by_a_link_or_from_standard_input() {
    let home = Home::new();
    let serve = Serve::start(&home);
    let input = |args: &[&str], text: &str| home.command(args).input(text).run();
    let add = ["serve", "user", "add", "bob", "--password-stdin"];
    input(&add, "short\n").expect(1, &["shorter than 8"]);
    input(&add, "").expect(1, &["shorter than 8"]);
    input(&add, " correct horse \r\n").expect(0, &["is made"]).without("correct");
    assert_eq!(serve.sign_in("bob", PASSWORD).status, 401, "blanks are part of it");
    let signed_in = serve.sign_in("bob", " correct horse ");
    let cookie = signed_in.header("set-cookie").unwrap().split(';').next().unwrap();
    let who = |cookie: &str| {
        let mut conn = Conn::open(serve.addr.parse().unwrap());
        conn.send(format!(
            "GET /api/session HTTP/1.1\r\nHost: localhost\r\nCookie: {cookie}\r\n\r\n"
        ));
        conn.reply().unwrap().status
    };
    assert_eq!(who(cookie), 200);
    let passwd = ["serve", "user", "passwd", "bob", "--password-stdin"];
    input(&passwd, "battery staple").expect(0, &["sign in again"]).without("battery");
    assert_eq!(who(cookie), 401);
    serve.sign_in("bob", "battery staple").ok();

    let linked = home.run(&["serve", "user", "passwd", "bob"]).expect(0, &["once"]);
    serve.sign_in("bob", "battery staple").ok();
    let redeem = json!({ "code": code(&linked.stdout, &serve.addr), "password": "a third one" });
    serve.post("/api/session/redeem", &redeem).ok();
    assert_eq!(serve.post("/api/session/redeem", &redeem).status, 401);
    assert_eq!(serve.sign_in("bob", "battery staple").status, 401);
    home.run(&["serve", "user", "passwd", "eve"]).expect(1, &["no account", "eve"]);
    input(&["serve", "user", "passwd", "eve", "--password-stdin"], "long enough")
        .expect(1, &["no account"]);
    serve.stop();
}

/// A command for the bridge in another directory.
fn at<'a>(args: &[&'a str]) -> Vec<&'a str> {
    [&["serve", "user"], args, &["--data", "d"]].concat()
}

#[test]
fn it_needs_no_running_bridge() {
    let home = Home::new();
    home.run(&at(&["list"])).expect(1, &["no bridge in", "--data"]);
    home.run(&at(&["passwd", "bob"])).expect(1, &["no bridge in"]);
    assert!(!home.path().join("d").exists());
    for bad in ["", " ", "a:b", "a\nb", &"x".repeat(201)] {
        home.run(&at(&["add", bad])).expect(1, &["the name"]);
    }
    let added = home.run(&at(&["add", "bob"])).expect(0, &[]);
    code(&added.stdout, "127.0.0.1:4780");
    home.run(&at(&["list"])).expect(0, &["bob  no password"]);
    // Before or after the command, it is the same directory.
    home.run(&["serve", "--data", "d", "user", "list"]).expect(0, &["bob"]);
    assert_eq!(fs::metadata(home.path().join("d")).unwrap().mode() & 0o777, 0o700);
    home.run(&["serve", "user", "add"]).expect(2, &["name"]);
    home.run(&["serve", "user"]).expect(2, &["add"]);
}

/// Of an older bridge, for which these were two people. The fourth has its name to itself.
#[test]
fn accounts_whose_names_clash_are_told_at_the_start() {
    let home = Home::new();
    home.run(&at(&["add", "ada"])).expect(0, &[]);
    let file = rusqlite::Connection::open(home.path().join("d/bridge.sqlite")).unwrap();
    for name in ["ADA", " ada", "Bob"] {
        let insert =
            "INSERT INTO accounts (account_id, username, created) VALUES ('acc_' || ?1, ?1, 0)";
        file.execute(insert, [name]).unwrap();
    }
    drop(file);
    let log = || {
        let serve = ["serve", "--data", "d", "--listen", "127.0.0.1:0"];
        let mut serve = home.command(&serve).start();
        serve.line("http://");
        serve.signal(Signal::TERM);
        let ran = serve.end().expect(0, &[]);
        let said = ran.stdout + &ran.stderr;
        let lines = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let warned: Vec<Value> = lines.filter(|line| line["level"] == "warn").collect();
        warned.iter().map(|line| line["msg"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let said = log();
    assert_eq!(said.len(), 1, "{said:?}");
    for part in [r#"[" ada", "ADA", "ada"]"#, "exact name alone", "serve user remove"] {
        assert!(said[0].contains(part), "{part:?} is missing: {said:?}");
    }
    for name in ["ADA", " ada"] {
        home.run(&at(&["remove", name, "--yes"])).expect(0, &[]);
    }
    assert_eq!(log(), [""; 0], "what it advises is enough");
}
