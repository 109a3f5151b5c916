//! `local` and `serve`: a bridge of one's own.

use std::{
    fs::{self, Permissions},
    net::TcpListener,
    os::unix::fs::{MetadataExt, PermissionsExt},
};

use rustix::process::Signal;
use serde_json::json;

use obto_bridge::task;

use crate::util::{
    bin::{Home, Running},
    fake::Gate,
    http::Conn,
    patience::check_quick,
};

/// Waits for the address and returns it without the scheme.
fn addr(running: &mut Running) -> String {
    let line = running.line("http://");
    let addr = line.split("http://").nth(1).unwrap();
    addr.split([',', ' ']).next().unwrap().to_owned()
}

#[test]
fn serve_makes_an_account_once_and_never_shows_its_token() {
    let home = Home::new();
    let file = home.path().join(".obto-bridge/serve/token");
    let serve = || home.command(&["serve", "--listen", "127.0.0.1:0"]).start();
    let mut first = serve();
    let addr = addr(&mut first);
    first.line("obto-bridge init --base-url");
    let link = first.line("/api/view#welcome=");
    let token = fs::read_to_string(&file).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    let mut conn = Conn::open(addr.parse().unwrap());
    let who = conn.request("GET", "/api/bridge/whoami", token.trim(), None).ok();
    assert_eq!(who["account"]["basicAuthUser"], "owner");
    first.signal(Signal::TERM);
    first.end().expect(0, &[]).without(token.trim());

    let mut second = serve();
    second.line("obto-bridge init --base-url");
    let unused = second.line("/api/view#welcome=");
    assert_ne!(unused, link, "nobody has signed in yet, so there is another link");
    assert_eq!(fs::read_to_string(&file).unwrap(), token);
    second.signal(Signal::INT);
    second.end().expect(0, &[]);
}

/// Runs `serve` until it says where to sign in; what it printed.
fn serve_once(home: &Home) -> String {
    let mut serve = home.command(&["serve", "--listen", "127.0.0.1:0"]).start();
    serve.line("/api/view");
    serve.signal(Signal::TERM);
    let ran = serve.end().expect(0, &[]);
    ran.stdout + &ran.stderr
}

#[test]
fn a_token_of_a_lost_database_is_replaced_and_serve_says_so() {
    let home = Home::new();
    let data = home.path().join(".obto-bridge/serve");
    assert!(!serve_once(&home).contains("replaced"));
    let old = fs::read_to_string(data.join("token")).unwrap();
    for name in ["bridge.sqlite", "bridge.sqlite-wal", "bridge.sqlite-shm"] {
        fs::remove_file(data.join(name)).ok(); // The log may be gone already.
    }
    let said = serve_once(&home);
    assert!(said.contains("was replaced") && said.contains("restore a copy"), "{said}");
    assert!(said.contains("obto-bridge init"), "{said}");
    let new = fs::read_to_string(data.join("token")).unwrap();
    assert_ne!(new, old);
    // The new one is good.
    let mut serve = home.command(&["serve", "--listen", "127.0.0.1:0"]).start();
    let addr = addr(&mut serve);
    let mut conn = Conn::open(addr.parse().unwrap());
    conn.request("GET", "/api/bridge/whoami", new.trim(), None).ok();
    // One that was rotated is not replaced unasked: whoever rotated it has the one that is good.
    conn.request("POST", "/api/bridge/rotate-token", new.trim(), Some(&json!({}))).ok();
    serve.signal(Signal::TERM);
    serve.end().expect(0, &[]);
    let said = serve_once(&home);
    assert!(said.contains("no longer valid") && !said.contains("obto-bridge init"), "{said}");
    assert_eq!(fs::read_to_string(data.join("token")).unwrap(), new);
}

#[test]
fn serve_starts_without_the_file_of_its_address() {
    let home = Home::new();
    // As on a full disk, it can't be written.
    home.put(".obto-bridge/serve/address/in-the-way", "");
    fs::set_permissions(home.path().join(".obto-bridge/serve"), Permissions::from_mode(0o700))
        .unwrap();
    let said = serve_once(&home);
    assert!(said.contains("address was not written"), "{said}");
}

#[test]
#[expect(clippy::disallowed_methods, reason = "it is the disk that does the damage")]
fn a_damaged_database_is_found_before_the_port_opens() {
    let home = Home::new();
    serve_once(&home);
    let file = home.path().join(".obto-bridge/serve/bridge.sqlite");
    let mut bytes = fs::read(&file).unwrap();
    for byte in &mut bytes[4096 + 2000..][..2096] {
        *byte ^= 0x55;
    }
    fs::write(&file, bytes).unwrap();
    let words = ["is damaged", "bridge.sqlite", "serve backup", "chmod 600"];
    let listen = home.run(&["serve", "--listen", "127.0.0.1:0"]).expect(1, &words);
    listen.without("The bridge is at");
    fs::write(&file, "no database ".repeat(1000)).unwrap();
    home.run(&["serve", "--listen", "127.0.0.1:0"]).expect(1, &words);
    home.run(&["serve", "user", "list"]).expect(1, &words);
}

#[test]
fn serve_refuses_what_others_can_reach() {
    let home = Home::new();
    home.run(&["serve", "--listen", "0.0.0.0:0"]).expect(1, &["--public"]);
    home.run(&["serve", "--listen", "localhost"]).expect(2, &["listen"]);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    home.run(&["serve", "--listen", &listen]).expect(1, &[&listen]);
}

#[test]
fn without_an_agent_it_says_what_to_install() {
    let home = Home::new();
    // No engine is there, wherever this runs.
    let send = home.command(&["local", "--send", "hello"]).env("PATH", "/nonexistent").run();
    let words = ["`claude`", "`codex`", "`opencode`", "npm install", "--agent echo"];
    let send = send.expect(1, &words);
    assert_eq!(send.stdout, "");
    assert!(!home.path().join(".agent-bridge-daemon/local").exists(), "nothing was begun");
    home.run(&["local", "--send", "x", "--agent", "nobody"]).expect(1, &["no agent nobody"]);
    let args = ["local", "--send", "x", "--agent", "echo", "--project", "missing"];
    home.run(&args).expect(1, &["missing does not exist"]);
}

#[test]
fn local_says_where_it_is_and_keeps_its_token() {
    let home = Home::new();
    let file = home.path().join("data/token");
    let local = || {
        let args = ["local", "--data", "data", "--agent", "echo", "--listen", "127.0.0.1:0"];
        home.command(&args).start()
    };
    let mut first = local();
    let addr = addr(&mut first);
    let link = first.line("/api/view#welcome=");
    assert!(link.starts_with(&format!("http://{addr}/")), "{link}");
    let token = fs::read_to_string(&file).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    let code = link.split("#welcome=").nth(1).unwrap();
    let body = json!({ "code": code, "password": "long enough" });
    let mut conn = Conn::open(addr.parse().unwrap());
    let signed_in = conn.request("POST", "/api/session/redeem", "", Some(&body)).ok();
    assert_eq!(signed_in["user"], "local");
    first.signal(Signal::TERM);
    first.end().expect(0, &[]).without(token.trim());

    let mut second = local();
    second.line("Sign in as \"local\"");
    second.line("serve user passwd local --data");
    assert_eq!(fs::read_to_string(&file).unwrap(), token);
    second.signal(Signal::INT);
    second.end().expect(0, &[]);
}

#[test]
fn a_lost_token_is_replaced() {
    let home = Home::new();
    let local = || {
        let args = ["local", "--data", "data", "--agent", "echo", "--listen", "127.0.0.1:0"];
        let mut local = home.command(&args).start();
        local.line("/api/view");
        local.signal(Signal::TERM);
        local.end().expect(0, &[]);
    };
    local();
    fs::remove_file(home.path().join("data/token")).unwrap();
    local();
    home.put("data/token", "obto_nobodyknowsthis");
    local();
    let token = fs::read_to_string(home.path().join("data/token")).unwrap();
    assert_ne!(token.trim(), "obto_nobodyknowsthis");
}

#[test]
fn a_question_gets_its_answer_on_standard_output() {
    let home = Home::new();
    let ran = home.run(&["local", "--send", "hello there", "--agent", "echo"]).expect(0, &[]);
    assert!(ran.stdout.contains("You said: hello there"), "{ran:?}");
    assert_eq!(ran.stdout.lines().count(), 1, "{ran:?}");
    // The second conversation of the same bridge.
    home.run(&["local", "--send", "again", "--agent", "echo"]).expect(0, &["You said: again"]);
}

/// What an agent says is shown as it is, but it does nothing to the terminal.
#[test]
fn an_answer_does_not_turn_the_text_beside_it() {
    let home = Home::new();
    let text = "evil\u{202e}txt.exe\u{2066} \u{200b}\u{9b}2J";
    let ran = home.run(&["local", "--send", text, "--agent", "echo"]).expect(0, &[]);
    let clean = "evil\u{fffd}txt.exe\u{fffd} \u{fffd}\u{fffd}2J";
    assert!(ran.stdout.contains(clean), "{ran:?}");
}

#[test]
fn a_broken_config_in_its_directory_is_78() {
    let home = Home::new();
    home.put("data/config.json", "{\n\n!");
    home.run(&["local", "--data", "data", "--agent", "echo"]).expect(78, &["line 3"]);
}

/// An agent that never says a word.
const MUTE: &str = r#"{"agents":{"mute":{"command":["sleep","600"]}},"drainSeconds":0}"#;

#[test]
fn no_answer_in_time_is_11() {
    let home = Home::new();
    home.put("data/config.json", MUTE);
    let args = ["local", "--data", "data", "--send", "x", "--agent", "mute", "--timeout", "1"];
    let ran = home.run(&args).expect(11, &["--timeout"]);
    assert_eq!(ran.stdout, "");
}

#[test]
fn an_interrupted_question_is_130() {
    let home = Home::new();
    home.put("data/config.json", MUTE);
    let args = ["local", "--data", "data", "--send", "x", "--agent", "mute"];
    // With its log on standard output, where it can be waited for.
    let asking = [&args[..], &["--log", "info"]].concat();
    let mut asking = home.command(&asking).after("exec 2>&1").start();
    asking.line("the bridge listens");
    asking.signal(Signal::INT);
    asking.end().expect(130, &["interrupted"]);
}

#[test]
fn an_agent_that_fails_is_10_with_its_reason() {
    let home = Home::new();
    home.put("data/config.json", r#"{"agents":{"broken":{"command":["false"]}}}"#);
    let args = ["local", "--data", "data", "--send", "x", "--agent", "broken"];
    let ran = home.run(&args).expect(10, &["broken"]);
    assert_eq!(ran.stdout, "");
}

#[test]
fn several_questions_at_once_do_not_meet() {
    let home = Home::new();
    let jobs = ["one", "two", "three"].map(|word| {
        let job = home.command(&["local", "--send", word, "--agent", "echo"]);
        let said = format!("You said: {word}");
        task::spawn("send", move || drop(job.run().expect(0, &[&said]))).unwrap()
    });
    for job in jobs {
        job.join().unwrap();
    }
    // Also while a bridge runs there.
    let mut local = home.command(&["local", "--listen", "127.0.0.1:0"]).start();
    local.line("The bridge is at");
    home.command(&["local", "--send", "-", "--agent", "echo"])
        .input("four")
        .run()
        .expect(0, &["You said: four"]);
    home.run(&["local", "--listen", "127.0.0.1:0"]).expect(75, &["another daemon"]);
    local.signal(Signal::TERM);
    local.end().expect(0, &[]);
}

#[test]
fn a_question_ends_with_a_code_and_soon() {
    let home = Home::new();
    let gate = Gate::new();
    let config = json!({"agents": {"slow": {"command": gate.acp("late")}, "broken": {"command": ["false"]}}});
    home.put(".agent-bridge-daemon/local/config.json", &config.to_string());
    fs::set_permissions(home.path().join(".agent-bridge-daemon"), Permissions::from_mode(0o700))
        .unwrap();
    let ran = home.run(&["local", "--send", "x", "--agent", "broken", "--json"]).expect(10, &[]);
    let object: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((&object["outcome"], &object["agent"]), (&json!("agent failed"), &json!("broken")));
    let started = std::time::Instant::now();
    let ran = home.command(&["local", "--send", "x", "--agent", "slow", "--timeout", "1"]).run();
    ran.expect(11, &["--timeout"]);
    check_quick(started.elapsed(), std::time::Duration::from_secs(6));
    drop(gate.next());
    let asked = home.command(&["local", "--send", "x", "--agent", "slow"]).start();
    let held = gate.next();
    asked.signal(Signal::INT);
    asked.end().expect(130, &["interrupted"]);
    drop(held);
}
