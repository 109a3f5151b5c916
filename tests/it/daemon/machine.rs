//! What the page is told of a machine, and where a new thread may work on it.

use std::fs;

use serde_json::{Value, json};

use super::Bridge;
use crate::util::{daemon::MACHINE, fake::Gate, http::Conn};

/// The machine as the page lists it, as soon as it is so.
#[track_caller]
fn known_when(bridge: &Bridge, is_so: impl Fn(&Value) -> bool) -> Value {
    let mut ears = bridge.listen();
    loop {
        let path = "/api/bridge/machines";
        let answer = Conn::open(bridge.addr).request("GET", path, &bridge.token, None).ok();
        let machine = &answer["machines"][0];
        if machine.is_object() && is_so(machine) {
            return machine.clone();
        }
        ears.event("machine");
    }
}

/// The engine of this name on a listed machine.
#[track_caller]
fn engine<'a>(machine: &'a Value, name: &str) -> &'a Value {
    let engines = machine["engines"].as_array().unwrap();
    engines.iter().find(|it| it["name"] == name).unwrap_or_else(|| panic!("{name}: {machine:#}"))
}

/// Whether the engines were asked.
fn is_detected(machine: &Value) -> bool {
    let engines = machine["engines"].as_array().unwrap();
    engines.iter().any(|it| it["missing"].is_string())
}

#[test]
fn the_page_is_told_what_a_machine_has_and_told_again_by_a_bridge_that_was_away() {
    let mut bridge = Bridge::start();
    let other = tempfile::TempDir::new().unwrap();
    let machine = bridge.machine().with("projectDirs", json!([other.path()]));
    let mut daemon = machine.connected();
    let known = known_when(&bridge, is_detected);
    assert_eq!((&known["agentId"], &known["connected"]), (&json!(MACHINE), &json!(true)));
    assert_eq!(known["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(known["projectDirs"], json!([machine.project(), other.path()]));
    // There is none in an empty home, and the page says why.
    let missing = engine(&known, "claude")["missing"].as_str().unwrap();
    assert!(missing.contains("claude"), "{missing}");
    assert!(known["capabilities"].as_array().unwrap().iter().all(|it| it != "claude"), "{known:#}");
    // Whatever the bridge believes when it comes back, it is told how it is.
    let lie = json!({ "agentId": MACHINE, "version": "0", "engines": [], "projectDirs": [] });
    bridge.request("/api/bridge/machine", &lie);
    bridge.down();
    bridge.up();
    daemon.log("connected to the bridge");
    let again = known_when(&bridge, is_detected);
    for part in ["version", "engines", "projectDirs"] {
        assert_eq!(again[part], known[part], "{part}");
    }
}

/// Engines are asked for their versions when the daemon starts, long before anybody needs them.
#[test]
fn the_page_is_told_what_an_installed_engine_lacks() {
    let bridge = Bridge::start();
    let machine = bridge.machine();
    let lacking = machine.home.put_program("lacking", "#!/usr/bin/env my-node\n");
    let broken = machine.home.put_program("broken", "#!/opt/old-venv/bin/python3\n");
    machine.home.put_program("tools/my-node", "#!/bin/sh\necho 1.18.33\n");
    let path = format!("{}:/usr/bin:/bin", machine.home.path().join("tools").display());
    let agents = json!({
        "claude": { "command": [lacking] },
        "codex": { "command": [broken] },
        "opencode": { "command": [lacking], "env": { "PATH": path } },
    });
    let machine = machine.with("agents", agents);
    let _daemon = machine.connected();
    let known = known_when(&bridge, is_detected);
    let check = |name: &str, words: &[&str]| {
        let missing = engine(&known, name)["missing"].as_str().unwrap();
        assert!(words.iter().all(|word| missing.contains(word)), "{words:?}: {missing}");
    };
    check("claude", &["my-node", "`Environment=PATH=…`", "`PATH` in `env`"]);
    let gone = "interpreter /opt/old-venv/bin/python3 does not exist. What is installed is broken.";
    check("codex", &[gone, "npm install -g @openai/codex"]);
    assert_eq!(engine(&known, "opencode")["version"], "1.18.33", "{known:#}");
}

#[test]
fn a_new_thread_works_in_an_offered_directory() {
    let (bridge, gate) = (Bridge::start(), Gate::new());
    let other = tempfile::TempDir::new().unwrap();
    let machine = bridge.machine().with_agent("fake", &gate.acp("done"));
    let machine = machine.with("projectDirs", json!([other.path()]));
    let _daemon = machine.connected();
    known_when(&bridge, |it| it["projectDirs"].as_array().is_some_and(|it| !it.is_empty()));
    let mut ears = bridge.listen();
    let begin = |dir: Value| {
        let reply = json!({ "body": "work", "agentId": MACHINE, "projectDir": dir });
        bridge.request("/api/reply", &reply)["threadId"].as_str().unwrap().to_owned()
    };
    for (dir, expected) in [
        (json!(other.path()), other.path().to_owned()),
        (json!(machine.project()), machine.project()),
        (Value::Null, machine.project()),
    ] {
        let thread = begin(dir);
        let arrival = gate.next();
        assert_eq!(arrival.heard()[1]["params"]["cwd"], json!(expected));
        drop(arrival);
        ears.expect(&thread, "result", "done");
    }
    // One that was removed since is no place to work in.
    let gone = other.path().to_owned();
    fs::remove_dir(&gone).unwrap();
    let thread = begin(json!(gone));
    ears.expect(&thread, "error", "does not exist on this machine");
}

/// The bridge refuses it; and if the bridge were fooled, the machine does.
#[test]
fn a_directory_that_is_not_offered_is_refused() {
    let bridge = Bridge::start();
    let machine = bridge.machine();
    let _daemon = machine.connected();
    known_when(&bridge, is_detected);
    let reply = json!({ "body": "work", "agentId": MACHINE, "projectDir": "/" });
    let refuse = |reply: &Value, field: &str| {
        let answer =
            Conn::open(bridge.addr).request("POST", "/api/reply", &bridge.token, Some(reply));
        assert_eq!((answer.status, &answer.json()["field"]), (400, &json!(field)));
    };
    refuse(&reply, "projectDir");
    refuse(&json!({ "body": "work", "agentId": "nobody", "projectDir": "/" }), "agentId");
    let lie = json!({ "agentId": MACHINE, "version": "0", "engines": [], "projectDirs": ["/"] });
    let mut ears = bridge.listen();
    // The machine may still say how it is, after the lie: it does so with each connection.
    let accepted = (0..20).find_map(|_| {
        bridge.request("/api/bridge/machine", &lie);
        let mut conn = Conn::open(bridge.addr);
        let answer = conn.request("POST", "/api/reply", &bridge.token, Some(&reply));
        (answer.status == 200).then(|| answer.json())
    });
    let thread = accepted.expect("the bridge believes it")["threadId"].take();
    ears.expect(thread.as_str().unwrap(), "error", "does not offer the directory `/`");
}
