//! Files of the reference are used as they are, and what we do not know in them stays.

use serde_json::{Value, json};

use super::Bridge;
use crate::util::fake::{self, Gate};

const THREAD: &str = "t-1732270000000-ab12";
const SESSION: &str = "5b0d7c2e-0d6f-4f0e-9d60-0c4f5f6f0a11";

/// Starts a daemon on a state file of the reference with a Claude Code that shows what it was
/// given. Returns state.json as it is afterwards.
fn drive(state: &str) -> Value {
    let (bridge, gate) = (Bridge::start(), Gate::new());
    let init = json!({ "type": "system", "subtype": "init", "session_id": SESSION });
    let result = json!({
        "type": "result", "subtype": "success", "is_error": false, "result": "as before",
        "session_id": SESSION,
    });
    let claude = fake::command(&[
        "read",
        "read",
        "gate",
        &gate.path(),
        "print",
        &init.to_string(),
        "print",
        &result.to_string(),
        "wait-eof",
        "end",
    ]);
    // As the reference writes it, with a key of its own and one of nobody's.
    let machine = bridge.machine().with_agent("claude", &claude).with("agentId", "anns-laptop");
    let machine = machine.with("basicAuthUser", "ann").with("theme", "dark");
    let project = machine.project().display().to_string();
    let state = state.replace("/home/ann/shop", &project);
    machine.home.put(".agent-bridge-daemon/state.json", &state);
    let config = machine.home.read_config();

    let daemon = machine.connected();
    let mut ears = bridge.listen();
    bridge.say(THREAD, "go on");
    let engine = gate.next();
    let args = engine.args();
    let resume = args.iter().position(|arg| *arg == "--resume").expect("it is resumed");
    assert_eq!(args[resume + 1], SESSION);
    let prompt = engine.heard()[1]["message"]["content"].to_string();
    assert!(prompt.contains("go on") && !prompt.contains("About this session"), "{prompt}");
    drop(engine);
    ears.expect(THREAD, "result", "as before");
    daemon.stop();
    machine.home.run(&["status"]).expect(69, &["No daemon is running", THREAD, SESSION]);

    assert_eq!(machine.home.read_config(), config, "nobody writes the config file");
    machine.state()
}

#[test]
fn version_1_flat() {
    let state = drive(include_str!("../../fixtures/state/v1-flat.json"));
    let binding = &state["bindings"][THREAD];
    assert_eq!(binding["agentId"], "anns-laptop");
    assert_eq!(binding["createdAt"], "2026-03-01T08:00:00.000Z");
    let session = &binding["sessions"]["claude"];
    assert_eq!(session["sessionId"], SESSION);
    let driven = session["lastDriveAt"].as_str().unwrap();
    assert!("2026-03-02T09:30:15.250Z" < driven, "{driven}");
    let others = state["bindings"].as_object().unwrap().keys();
    assert!(
        others.clone().any(|it| it == "t-never-driven")
            && others.clone().any(|it| it == "t-broken")
    );
}

#[test]
fn version_1_1_with_foreign_keys() {
    let fixture = include_str!("../../fixtures/state/v1.1.json");
    let state = drive(fixture);
    let before: Value = serde_json::from_str(fixture).unwrap();
    for key in ["lastScan", "schema"] {
        assert_eq!(state[key], before[key]);
    }
    let binding = &state["bindings"][THREAD];
    assert_eq!(binding["pinned"], true);
    assert_eq!(binding["sessions"]["claude"]["colour"], "green");
    assert_eq!(
        binding["sessions"]["codex"]["sessionId"],
        before["bindings"][THREAD]["sessions"]["codex"]["sessionId"]
    );
    assert!(binding["sessions"]["gemini"]["projectDir"].is_string(), "{binding}");
    let unclaimed = "t-unclaimed \"quoted\" ünï";
    assert_eq!(state["bindings"][unclaimed], before["bindings"][unclaimed]);
}
