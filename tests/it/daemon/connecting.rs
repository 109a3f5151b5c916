//! From an engine's start to its prompt: agents that want a login, that refuse or forget a session,
//! or that do not get that far.

use std::{
    fs,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::Bridge;
use crate::util::{daemon::Machine, patience::check_quick};

/// An ACP agent in the shell. `offers` is what it says in answer to `initialize`, `cases` what it does
/// about other requests: patterns for `case`, with `reply` and `say` at hand.
fn agent(offers: &str, cases: &str) -> Vec<String> {
    let script = r#"
reply() { printf '{"jsonrpc":"2.0","id":%s,%s}\n' "$id" "$1"; }
refuse() { reply "\"error\":{\"code\":$1,\"message\":\"$2\"}"; }
say() { printf '{"jsonrpc":"2.0","method":"session/update","params":{"sessionId":"s","update":{"sessionUpdate":"agent_message_chunk","content":{"type":"text","text":"%s"}}}}\n' "$1"; }
how=nothing
while read -r line; do
    id=${line#*'"id":'}
    id=${id%%[,\}]*}
    case $line in
    *'"method":"initialize"'*) reply '"result":{"protocolVersion":1,OFFERS}' ;;
    CASES
    *'"method":"session/new"'*) how=new; reply '"result":{"sessionId":"s"}' ;;
    *'"method":"session/prompt"'*) say "$how"; reply '"result":{"stopReason":"end_turn"}' ;;
    esac
done"#;
    let script = script.replace("OFFERS", offers).replace("CASES", cases);
    ["/bin/sh", "-c", &script].map(str::to_owned).into()
}

const BOTH_WAYS: &str =
    r#""agentCapabilities":{"loadSession":true,"sessionCapabilities":{"resume":{}}}"#;

/// Every second message lost what the session knew.
#[test]
fn a_session_that_an_agent_does_not_resume_is_loaded() {
    let bridge = Bridge::start();
    let cases = r#"*'"session/resume"'*) refuse -32601 'Method not found' ;;
        *'"session/load"'*) how=loaded; say 'an old answer'; reply '"result":null' ;;"#;
    let machine = bridge.machine().with_agent("qwen", &agent(BOTH_WAYS, cases));
    let _daemon = machine.connected();
    let mut ears = bridge.listen();
    for how in ["new", "loaded", "loaded"] {
        bridge.say("t", "hello");
        assert_eq!(ears.expect("t", "result", how), how);
    }
}

/// It took `silenceSeconds` for each message, and then there was no answer.
#[test]
fn a_session_that_is_never_loaded_is_replaced() {
    let bridge = Bridge::start();
    let offers = r#""agentCapabilities":{"loadSession":true}"#;
    let machine = bridge
        .machine()
        .with_agent("slow", &agent(offers, r#"*'"session/load"'*) ;;"#))
        .with("startupSeconds", 2);
    let _daemon = machine.connected();
    let mut ears = bridge.listen();
    bridge.say("t", "hello");
    ears.expect("t", "result", "new");
    bridge.say("t", "again");
    let gone = ears.expect("t", "status", "cannot be resumed here");
    assert!(gone.contains("did not answer `session/load` in time"), "{gone}");
    ears.expect("t", "result", "new");
}

const KEYED: &str = r#""authMethods":[{"id":"chatgpt","name":"ChatGPT"},
    {"id":"api-key","name":"API Key","_meta":{"api-key":{"provider":"openai"}}}]"#;

/// Wants the login of this way before it opens a session, and needs a key in its environment for it.
fn wants_login(way: &str) -> Vec<String> {
    let cases = r#"*'"method":"authenticate"'*'"methodId":"WAY"'*)
            if [ "$OPENAI_API_KEY" = s3cret ]; then how=keyed; reply '"result":{}';
            else refuse -32603 'no key'; fi ;;
        *'"method":"authenticate"'*) refuse -32603 'wrong way' ;;
        *'"method":"session/new"'*)
            if [ $how = keyed ]; then reply '"result":{"sessionId":"s"}';
            else refuse -32000 'Authentication required'; fi ;;"#;
    agent(&KEYED.replace('\n', " "), &cases.replace("WAY", way))
}

fn with_entry(bridge: &Bridge, entry: Value) -> Machine {
    bridge.machine().with("agents", json!({ "codex-acp": entry })).with("agent", "codex-acp")
}

#[test]
fn an_agent_with_a_key_in_its_environment_is_logged_in() {
    let bridge = Bridge::start();
    let env = json!({ "OPENAI_API_KEY": "s3cret" });
    let command = wants_login("api-key");
    let machine = with_entry(&bridge, json!({ "command": command, "env": env }));
    let daemon = machine.connected();
    let mut ears = bridge.listen();
    bridge.say("t", "hello");
    assert_eq!(ears.expect("t", "result", "keyed"), "keyed");
    // It is the agent's alone, and nobody else's business.
    let log = daemon.stop();
    let machine_state = machine.state().to_string();
    assert!(log.contains("the agent is told to log in"), "{log}");
    assert!(!log.contains("s3cret") && !machine_state.contains("s3cret"), "{log}");
}

#[test]
fn the_configured_way_to_log_in_comes_first() {
    let bridge = Bridge::start();
    let env = json!({ "OPENAI_API_KEY": "s3cret" });
    let entry = json!({ "command": wants_login("mine"), "env": env, "authMethod": "mine" });
    let _daemon = with_entry(&bridge, entry).connected();
    let mut ears = bridge.listen();
    bridge.say("t", "hello");
    ears.expect("t", "result", "keyed");
}

#[test]
fn an_agent_without_a_key_is_not_told_to_open_a_browser() {
    let bridge = Bridge::start();
    let _daemon = with_entry(&bridge, json!({ "command": wants_login("api-key") })).connected();
    let mut ears = bridge.listen();
    bridge.say("t", "hello");
    let told = ears.expect("t", "error", "Authentication required");
    assert!(told.contains("It offers: ChatGPT, API Key"), "{told}");
    assert!(!told.contains("wrong way"), "{told}");
}

/// A person stops an agent that hangs with one of these requests.
#[track_caller]
fn check_stop(cases: &str) {
    let bridge = Bridge::start();
    let offers = format!("{BOTH_WAYS},{}", KEYED.replace('\n', " "));
    let env = json!({ "OPENAI_API_KEY": "s3cret" });
    let cases = cases.replace("HANG", ": > there");
    let entry = json!({ "command": agent(&offers, &cases), "env": env });
    let machine = with_entry(&bridge, entry);
    let _daemon = machine.connected();
    let mut ears = bridge.listen();
    bridge.say("t", "hello");
    machine.wait_for(|machine| machine.project().join("there").exists());
    let begin = Instant::now();
    bridge.say("t", "/stop");
    ears.expect("t", "status", "Stopped.");
    check_quick(begin.elapsed(), Duration::from_secs(20));
}

#[test]
fn a_stop_is_obeyed_wherever_an_agent_hangs() {
    check_stop(r#"*'"session/new"'*) HANG ;;"#);
    check_stop(
        r#"*'"session/new"'*) refuse -32000 'log in' ;;
        *'"method":"authenticate"'*) HANG ;;"#,
    );
}

const LOADS: &str = r#""agentCapabilities":{"loadSession":true}"#;

/// It was told to create the directory, or to set another one, and told so again.
#[test]
fn a_thread_whose_directory_is_gone_goes_on_in_the_configured_one() {
    let bridge = Bridge::start();
    let cases = r#"*'"session/load"'*) how=loaded; reply '"result":null' ;;
        *'"session/prompt"'*) say "$how in $PWD"; reply '"result":{"stopReason":"end_turn"}' ;;"#;
    let machine = bridge.machine().with_agent("acp", &agent(LOADS, cases));
    let daemon = machine.connected();
    let mut ears = bridge.listen();
    bridge.say("t", "hello");
    ears.expect("t", "result", "/project");
    daemon.stop();
    machine.home.put("other/README", "");
    fs::remove_dir_all(machine.project()).unwrap();

    // Where there is none that could be taken, both ways out are named.
    let daemon = machine.connected();
    bridge.say("t", "and now?");
    let told = ears.expect("t", "error", "does not exist on this machine");
    assert!(told.contains("Create it") && told.contains("`projectDir`"), "{told}");
    daemon.stop();

    let other = machine.home.path().join("other");
    let machine = machine.with("projectDir", other.to_str().unwrap());
    let _daemon = machine.connected();
    bridge.say("t", "again");
    let told = ears.expect("t", "status", "cannot be resumed here");
    assert!(told.contains("/project` does not exist any more"), "{told}");
    assert!(told.contains(&format!("goes on in `{}`", other.display())), "{told}");
    ears.expect("t", "result", &format!("new in {}", other.display()));
    bridge.say("t", "once more");
    ears.expect("t", "result", &format!("loaded in {}", other.display()));
}

#[test]
fn what_is_advised_for_a_session_that_is_full_helps() {
    let bridge = Bridge::start();
    let cases = r#"*'"session/load"'*) how=loaded; reply '"result":null' ;;
        *'"session/prompt"'*) if [ $how = loaded ]; then refuse -32603 'prompt is too long';
            else say "$how"; reply '"result":{"stopReason":"end_turn"}'; fi ;;"#;
    let machine = bridge.machine().with_agent("acp", &agent(LOADS, cases));
    let _daemon = machine.connected();
    let mut ears = bridge.listen();
    bridge.say("t", "hello");
    ears.expect("t", "result", "new");
    bridge.say("t", "more");
    let told = ears.expect("t", "error", "prompt is too long");
    assert!(told.contains("write `/new` and then the message"), "{told}");
    bridge.say("t", "/new");
    ears.expect("t", "status", "new session");
    bridge.say("t", "more");
    ears.expect("t", "result", "new");
}

/// A program that is there and can't run was told as one that is to be installed.
#[test]
fn what_is_advised_for_a_program_that_lacks_another_helps() {
    let bridge = Bridge::start();
    let machine = bridge.machine();
    let broken = machine.home.put_program("broken", "#!/opt/old-venv/bin/python3\n");
    let lacking = machine.home.put_program("lacking", "#!/usr/bin/env my-node\n");
    machine.home.put_program("tools/my-node", &format!("#!/bin/sh\n{}", agent(LOADS, "")[2]));
    let path = format!("{}:/usr/bin:/bin", machine.home.path().join("tools").display());
    let agents = json!({
        "broken": { "command": [broken] },
        "lacking": { "command": [lacking] },
        "cured": { "command": [lacking], "env": { "PATH": path } },
    });
    let machine = machine.with("agents", agents).with("agent", "broken");
    let _daemon = machine.connected();
    let mut ears = bridge.listen();
    let ask = |thread: &str, agent: &str| {
        let body = json!({ "threadId": thread, "body": "hello", "agent": agent });
        bridge.request("/api/reply", &body);
    };
    ask("a", "broken");
    let told = ears.expect("a", "error", "interpreter /opt/old-venv/bin/python3 does not exist");
    assert!(told.contains("What is installed is broken."), "{told}");
    ask("b", "lacking");
    let told = ears.expect("b", "error", "my-node");
    assert!(told.contains("`Environment=PATH=…`") && told.contains("`PATH` in `env`"), "{told}");
    ask("c", "cured");
    ears.expect("c", "result", "new");
}

/// The turns of opencode share a server, which is what lacks the program then.
#[test]
fn what_is_advised_for_a_server_that_lacks_a_program_helps() {
    let bridge = Bridge::start();
    let machine = bridge.machine();
    let lacking = machine.home.put_program("opencode", "#!/usr/bin/env my-node\n");
    let machine = machine.with_agent("opencode", std::slice::from_ref(&lacking));
    let daemon = machine.connected();
    let mut ears = bridge.listen();
    bridge.say("t", "hello");
    let told = ears.expect("t", "error", "opencode's server could not be started");
    assert!(told.contains("my-node") && told.contains("`opencode serve`"), "{told}");
    assert!(told.contains("`Environment=PATH=…`") && told.contains("`PATH` in `env`"), "{told}");
    daemon.stop();

    // It is found now, and has troubles of its own.
    machine.home.put_program("tools/my-node", "#!/bin/sh\necho a port is in use; exit 3\n");
    let path = format!("{}:/usr/bin:/bin", machine.home.path().join("tools").display());
    let entry = json!({ "command": [lacking], "env": { "PATH": path } });
    let machine = machine.with("agents", json!({ "opencode": entry }));
    let daemon = machine.connected();
    bridge.say("t", "again");
    let told = ears.expect("t", "error", "a port is in use");
    assert!(!told.contains("PATH"), "{told}");
    daemon.stop();

    machine.home.put_program("opencode", "#!/opt/old-venv/bin/node\n");
    let _daemon = machine.connected();
    bridge.say("t", "and now?");
    let told = ears.expect("t", "error", "interpreter /opt/old-venv/bin/node does not exist");
    assert!(told.contains("What is installed is broken."), "{told}");
    assert!(told.contains("npm install -g opencode-ai"), "{told}");
}
