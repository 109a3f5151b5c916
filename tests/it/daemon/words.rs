//! What a person is told when something is missing on the machine.

use std::fs;

use serde_json::json;

use super::Bridge;

#[test]
fn a_missing_project_directory_is_told_and_used_once_it_is_there() {
    let bridge = Bridge::start();
    let machine = bridge.machine();
    let project = machine.project();
    fs::remove_dir_all(&project).unwrap();
    let _daemon = machine.connected();
    let mut ears = bridge.listen();
    bridge.say("t", "hello");
    let body =
        ears.expect("t", "error", "does not exist on this machine. Create it, or set another");
    assert!(body.contains(project.to_str().unwrap()) && body.contains("`projectDir`"), "{body}");
    fs::create_dir(&project).unwrap();
    bridge.say("t", "again");
    ears.echo("t", "again");
}

#[test]
fn a_missing_engine_is_told_with_how_to_get_it() {
    let bridge = Bridge::start();
    let missing = |name: &str| vec![format!("/no/such/{name}")];
    let machine = bridge.machine().with_agent("mine", &missing("mine"));
    let machine = machine.with_agent("claude", &missing("claude")).with("agent", "echo");
    let _daemon = machine.connected();
    let mut ears = bridge.listen();
    let ask = |agent: &str| {
        bridge.request("/api/reply", &json!({ "threadId": "t", "body": "hello", "agent": agent }));
        bridge.request("/api/bridge/thread/agent", &json!({ "threadId": "t", "agent": agent }));
    };
    ask("claude");
    let body = ears.expect("t", "error", "`/no/such/claude` was not found on this machine");
    assert!(body.contains("npm install -g @anthropic-ai/claude-code"), "{body}");
    bridge.request("/api/reply", &json!({ "threadId": "u", "body": "hello", "agent": "mine" }));
    ears.expect("u", "error", "or correct its command in the config file");
    bridge.say("v", "still there?");
    ears.echo("v", "still there?");
}

#[test]
fn a_session_that_is_gone_is_told_and_a_fresh_one_is_used() {
    let bridge = Bridge::start();
    let machine = bridge.machine();
    let state = json!({ "bindings": { "t": {
        "agentId": "box", "sessions": { "echo": { "sessionId": "lost-1", "projectDir": machine.project() } },
    } } });
    machine.home.put(".agent-bridge-daemon/state.json", &state.to_string());
    let daemon = machine.connected();
    let mut ears = bridge.listen();
    bridge.say("t", "hello");
    let body = ears.expect("t", "status", "`lost-1`");
    assert!(body.contains("cannot be resumed") && body.contains("A fresh one"), "{body}");
    ears.echo("t", "hello");
    daemon.stop();
    let session = machine.state()["bindings"]["t"]["sessions"]["echo"]["sessionId"].clone();
    assert!(session.as_str().unwrap().starts_with("echo-"), "{session}");
}
