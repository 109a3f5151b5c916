//! `start` up to the daemon, and how it ends.

use std::{fs, os::unix::fs::PermissionsExt};

use obto_bridge::store::lock::Lock;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::util::{bin::Home, sick_bridge::SickBridge};

const CONFIG: &str = ".obto-bridge/config.json";

#[test]
fn a_configuration_that_cannot_be_used_is_78() {
    let home = Home::new();
    home.run(&["start"]).expect(78, &["no API token", "obto-bridge init"]);
    home.put(CONFIG, "{\n  \"apiToken\": obto_x\n}");
    home.run(&["start"]).expect(78, &["config.json", "line 2"]);
    home.put(CONFIG, r#"{"apiToken":"obto_x","maxTurns":0}"#);
    home.run(&["start"]).expect(78, &["maxTurns"]);
    home.put(CONFIG, r#"{"apiToken":"obto_x","permissions":{"deny":["Bash(rm *)"]}}"#);
    home.run(&["start"]).expect(78, &["config.json", "permissions.deny", "Bash(rm *)", "run"]);
    home.put(CONFIG, r#"{"apiToken":"obto_x"}"#);
    let broken = home.command(&["start"]).env("BRIDGE_ALLOW_ALL", "maybe").run();
    broken.expect(78, &["BRIDGE_ALLOW_ALL"]);
}

/// Once an engine's task panicked over such a path when a turn began.
#[test]
fn a_path_that_is_no_text_is_78() {
    let home = Home::new();
    home.put(CONFIG, r#"{"apiToken":"obto_x"}"#);
    let go = r#"odd="$PWD/$(printf 'caf\351')"; mkdir -p "$odd/.obto-bridge""#;
    let away = format!("{go}; cd \"$odd\"");
    let expected = ["current directory", "UTF-8", "config.json", "BRIDGE_PROJECT_DIR"];
    home.command(&["start"]).after(&away).run().expect(78, &expected);
    let relative = format!("{away}; export BRIDGE_PROJECT_DIR=sub");
    let expected = ["BRIDGE_PROJECT_DIR", "UTF-8", "absolute"];
    home.command(&["start"]).after(&relative).run().expect(78, &expected);
    let itself = format!("{go}; export BRIDGE_PROJECT_DIR=\"$odd\"");
    home.command(&["start"]).after(&itself).run().expect(78, &["BRIDGE_PROJECT_DIR", "UTF-8"]);
    let moved = format!("{go}; export HOME=\"$odd\"");
    home.command(&["start"]).after(&moved).run().expect(78, &["home directory", "UTF-8", "HOME"]);
    #[cfg(feature = "serve")]
    home.command(&["local", "--send", "hi", "--agent", "echo"])
        .after(&away)
        .run()
        .expect(78, &["current directory", "UTF-8", "config.json"]);
    // What runs no engine works anywhere.
    home.command(&["status"]).after(&moved).run().expect(69, &["No daemon"]);
    let set = format!("{away}; export BRIDGE_PROJECT_DIR=/");
    home.command(&["whoami"])
        .after(&set)
        .env("BRIDGE_BASE_URL", "http://127.0.0.1:1")
        .run()
        .expect(2, &[]);
}

/// Never answers, so that the daemon is busy with connecting.
fn silent() -> SickBridge {
    SickBridge::start(|_, conn| conn.hold())
}

#[test]
fn a_second_daemon_is_75_and_names_the_first() {
    let (home, bridge) = (Home::new(), silent());
    home.put(CONFIG, r#"{"apiToken":"obto_x"}"#);
    let _lock = Lock::acquire(&home.path().join(".agent-bridge-daemon")).unwrap();
    let second = home.command(&["start"]).env("BRIDGE_BASE_URL", &bridge.url()).run();
    second.expect(75, &["another daemon", &format!("pid {}", std::process::id())]);
}

#[test]
fn it_warns_at_every_start_and_ends_when_asked() {
    let (home, bridge) = (Home::new(), silent());
    home.put(CONFIG, r#"{"apiToken":"obto_abcdefghijklmnop","allowAll":true}"#);
    fs::set_permissions(home.config(), fs::Permissions::from_mode(0o644)).unwrap();
    let command = home.command(&["start", "--log", "warn"]);
    let mut daemon = command.env("BRIDGE_BASE_URL", &bridge.url()).start();
    let line: Value = serde_json::from_str(&daemon.line("allowAll")).expect("JSON lines");
    assert_eq!(line["level"], "warn");
    daemon.line("chmod 600");
    daemon.signal(Signal::HUP);
    daemon.signal(Signal::TERM);
    daemon.end().expect(0, &[]).without("obto_abcdefghijklmnop");
}

/// With the config anybody can have commands run; with the state directory, say what somebody wants.
/// What the refusal advises is enough.
#[test]
fn what_others_can_write_is_not_obeyed() {
    let home = Home::new();
    home.put(CONFIG, r#"{"apiToken":"obto_x"}"#);
    home.put(".agent-bridge-daemon/state.json", "{}");
    home.put("elsewhere/config.json", r#"{"apiToken":"obto_x"}"#);
    let mode = |name: &str, mode: u32| {
        fs::set_permissions(home.path().join(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    let start = || home.command(&["start", "--exit-on-auth-failure"]);
    let good = || {
        let bridge = SickBridge::start(|_, conn| conn.json(401, json!({"error": "no"})));
        start().env("BRIDGE_BASE_URL", &bridge.url()).run().expect(77, &[])
    };
    let (config, state) = (".obto-bridge/config.json", ".agent-bridge-daemon");
    for (name, bad, after) in [
        (config, 0o666, 0o644),
        (config, 0o602, 0o600),
        (".obto-bridge", 0o777, 0o755),
        (".obto-bridge", 0o703, 0o701),
        (state, 0o777, 0o755),
        (state, 0o1777, 0o1755),
    ] {
        mode(name, bad);
        let path = home.path().join(name);
        let refused = start().run().expect(78, &["everybody", &path.display().to_string()]);
        let advice = refused.stderr.split("run: ").nth(1).expect("it says what to run");
        home.command(&["--version"]).after(advice.trim()).run().expect(0, &[]);
        let now = fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(now, after, "{advice}");
        good();
    }
    // Nobody replaces what is another's in such a directory.
    mode(".obto-bridge", 0o1777);
    good();
    mode(".obto-bridge", 0o700);
    fs::remove_file(home.config()).unwrap();
    std::os::unix::fs::symlink("../elsewhere/config.json", home.config()).unwrap();
    good();
    mode("elsewhere", 0o777);
    start().run().expect(78, &["everybody", "elsewhere"]);
    home.put("data/config.json", "{}");
    mode("data", 0o777);
    home.run(&["local", "--data", "data", "--agent", "echo"]).expect(78, &["data", "chmod go-w"]);
}

#[test]
fn the_log_is_text_if_wanted() {
    let (home, bridge) = (Home::new(), silent());
    home.put(CONFIG, r#"{"apiToken":"obto_x","allowAll":true}"#);
    let command = home.command(&["start", "--log-format", "text"]);
    let mut daemon = command.env("BRIDGE_BASE_URL", &bridge.url()).start();
    assert!(daemon.line("allowAll").contains(" warn  allowAll is set"));
    daemon.signal(Signal::INT);
    daemon.end().expect(0, &[]);
}

#[test]
fn a_refused_token_is_77_if_wanted() {
    let (home, bridge) =
        (Home::new(), SickBridge::start(|_, conn| conn.json(401, json!({"error": "no"}))));
    home.put(CONFIG, r#"{"apiToken":"obto_x"}"#);
    let command = home.command(&["start", "--exit-on-auth-failure"]);
    command.env("BRIDGE_BASE_URL", &bridge.url()).run().expect(77, &["401"]);
}
