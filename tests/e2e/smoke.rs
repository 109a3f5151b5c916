//! Each engine by itself: it starts, finds the scripted model and says what
//! that was told to say.
//!
//! If one of these fails, the tests that drive the engines by the daemon have
//! nothing to say.

use crate::{
    homes::{Engine, Home},
    model::{Api, Model},
    run::{Finished, Run},
};
use serde_json::{Value, json};
use std::{process::Command, time::Duration};

/// Enough for a cold start on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);

fn run(command: &mut Command, input: &str) -> Finished {
    let mut run = Run::start(command);
    run.write(input);
    run.finish(PATIENCE)
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines().filter_map(|it| serde_json::from_str(it).ok()).collect()
}

#[test]
fn claude_says_what_the_script_says() {
    let model = Model::start();
    let home = Home::logged_in(&model);
    let mut command = home.command(Engine::Claude);
    let finished =
        run(command.args(["-p", "--output-format", "json"]), "hi [[text:from the script]]");
    assert!(finished.status.success(), "{finished:?}");
    let result: Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!(result["result"], "from the script");
    let request = model.wait_for(|it| it.is_turn, PATIENCE);
    assert_eq!((request.api, request.human()), (Api::Anthropic, "hi [[text:from the script]]"));
    assert!(request.authorized && request.tools.iter().any(|it| it == "Bash"), "{request:?}");
}

#[test]
fn claude_runs_tools_for_the_script() {
    let model = Model::start();
    let home = Home::logged_in(&model);
    let mut command = home.command(Engine::Claude);
    let prompt = "[[text:first]][[shell:echo one]][[shell+:echo two]] [[think:hm]][[text:saw ${last_tool_result}]]";
    let finished = run(command.args(["-p", "--output-format", "json"]), prompt);
    assert!(finished.status.success(), "{finished:?}");
    let result: Value = serde_json::from_str(&finished.stdout).unwrap();
    let request = model.wait_for(|it| it.results.len() == 2, PATIENCE);
    // Commands that only read run side by side, and end in any order.
    assert_eq!(result["result"], format!("saw {}", request.results[1]));
    assert!(
        ["one", "two"].iter().all(|it| request.results.iter().any(|result| result == it)),
        "{request:?}"
    );
}

#[test]
fn claude_resumes_with_what_was_said() {
    let model = Model::start();
    let home = Home::logged_in(&model);
    let id = "6f9619ff-8b86-4d01-b42d-00c04fc964ff";
    let first =
        run(home.command(Engine::Claude).args(["-p", "--session-id", id]), "the word is quince");
    assert!(first.status.success(), "{first:?}");
    let second = run(home.command(Engine::Claude).args(["-p", "--resume", id]), "[[text:again]]");
    assert_eq!(second.stdout.trim(), "again", "{second:?}");
    let request = model.wait_for(|it| it.human() == "[[text:again]]", PATIENCE);
    assert!(request.mentions("the word is quince") && request.mentions("echo: the word is quince"));
}

#[test]
fn claude_tries_again_when_it_was_told_to() {
    let model = Model::start();
    let mut home = Home::logged_in(&model);
    home.set("CLAUDE_CODE_MAX_RETRIES", "5");
    model.set_status_with_retry_after(429, 1);
    let mut claude = Run::start(home.command(Engine::Claude).arg("-p"));
    claude.write("[[error:500x1]][[text:at last]]");
    claude.close();
    model.wait_for(|it| it.status == Some(429), PATIENCE);
    model.recover();
    model.wait_for(|it| it.status == Some(500), PATIENCE);
    let finished = claude.finish(PATIENCE);
    assert_eq!(finished.stdout.trim(), "at last", "{finished:?}");
}

#[test]
fn a_killed_engine_hangs_up() {
    let model = Model::start();
    let home = Home::logged_in(&model);
    let mut claude = Run::start(home.command(Engine::Claude).arg("-p"));
    claude.write("[[text:begun]][[hang:600]]");
    claude.close();
    model.wait_for(|it| it.is_turn && it.status == Some(200), PATIENCE);
    drop(claude);
    model.wait_for(|it| it.abandoned, PATIENCE);
}

#[test]
fn claude_without_a_key_asks_no_model() {
    let model = Model::start();
    let home = Home::new(&model);
    let mut command = home.command(Engine::Claude);
    let finished = run(command.args(["-p", "--output-format", "json"]), "hi");
    assert!(finished.stdout.contains("Not logged in"), "{finished:?}");
    assert_eq!(model.turns().len(), 0);
}

#[test]
fn codex_says_what_the_script_says() {
    let model = Model::start();
    let home = Home::logged_in(&model);
    let finished = run(codex_exec(&mut home.command(Engine::Codex)), "hi [[text:from the script]]");
    assert!(finished.status.success(), "{finished:?}");
    assert_eq!(codex_answer(&finished), "from the script");
    let request = model.wait_for(|it| it.is_turn, PATIENCE);
    assert_eq!((request.api, request.human()), (Api::Responses, "hi [[text:from the script]]"));
    assert!(request.authorized);
}

#[test]
fn codex_runs_tools_for_the_script() {
    let model = Model::start();
    let home = Home::logged_in(&model);
    let prompt = "[[shell:echo one]][[shell+:echo two]] [[write:a.txt|written]] [[text:over]]";
    let finished = run(codex_exec(&mut home.command(Engine::Codex)), prompt);
    assert!(finished.status.success(), "{finished:?}");
    assert_eq!(codex_answer(&finished), "over");
    let request = model.wait_for(|it| it.results.len() == 3, PATIENCE);
    assert!(
        request.results[0].contains("one") && request.results[1].contains("two"),
        "{:?}",
        request.results
    );
    assert_eq!(std::fs::read_to_string(home.project().join("a.txt")).unwrap(), "written\n");
}

#[test]
fn codex_without_a_login_is_unauthorized() {
    let model = Model::start();
    let home = Home::new(&model);
    let mut command = home.command(Engine::Codex);
    let finished = run(command.args(["login", "status"]), "");
    assert!(finished.stderr.contains("Not logged in"), "{finished:?}");
    assert_eq!(model.requests().len(), 0);
}

#[test]
fn opencode_says_what_the_script_says() {
    let model = Model::start();
    let home = Home::logged_in(&model);
    let mut command = home.command(Engine::Opencode);
    let finished = run(
        command.args(["run", "--format", "json"]),
        "hi [[shell:echo one]][[text:from the script]]",
    );
    assert!(finished.status.success(), "{finished:?}");
    let lines = json_lines(&finished.stdout);
    let texts: Vec<&Value> =
        lines.iter().filter(|it| it["type"] == "text").map(|it| &it["part"]["text"]).collect();
    assert_eq!(texts, ["from the script"]);
    let request = model.wait_for(|it| it.results.len() == 1, PATIENCE);
    assert_eq!((request.api, request.results[0].trim()), (Api::Chat, "one"));
    assert!(request.authorized);
}

#[test]
fn opencode_reports_a_refusal() {
    let model = Model::start();
    let home = Home::logged_in(&model);
    model.set_status(401);
    let finished = run(home.command(Engine::Opencode).args(["run", "--format", "json"]), "hi");
    assert!(!finished.status.success(), "{finished:?}");
    assert!(finished.stdout.contains("Incorrect API key"), "{finished:?}");
}

#[test]
fn opencode_without_a_provider_asks_no_model() {
    let model = Model::start();
    let home = Home::new(&model);
    let mut command = home.command(Engine::Opencode);
    let finished = run(command.args(["run", "--format", "json"]), "hi");
    assert!(!finished.status.success(), "{finished:?}");
    assert_eq!(model.requests().len(), 0);
}

#[test]
fn the_acp_agent_says_what_the_script_says() {
    let model = Model::start();
    let home = Home::logged_in(&model);
    let mut agent = Agent::start(&home);
    let session = agent.call("session/new", &json!({"cwd": home.project(), "mcpServers": []}));
    let session = session["result"]["sessionId"].clone();
    let prompt = json!([{"type": "text", "text": "hi [[gate:seen]][[text:from the script]]"}]);
    agent.send("session/prompt", &json!({"sessionId": session, "prompt": prompt}));
    let request = model.wait_for(|it| it.is_turn, PATIENCE);
    assert_eq!((request.api, request.status), (Api::Responses, None));
    model.open("seen");
    let said =
        agent.run.wait_for(|it| it["params"]["update"]["content"]["text"].is_string(), PATIENCE);
    assert_eq!(said["params"]["update"]["sessionUpdate"], "agent_message_chunk");
    let over = agent.run.wait_for(|it| it["id"] == agent.id, PATIENCE);
    assert_eq!(over["result"]["stopReason"], "end_turn");
    assert!(agent.run.finish(PATIENCE).status.success());
}

#[test]
fn the_acp_agent_without_a_login_opens_no_session() {
    let model = Model::start();
    let home = Home::new(&model);
    let mut agent = Agent::start(&home);
    let session = agent.call("session/new", &json!({"cwd": home.project(), "mcpServers": []}));
    assert_eq!(session["error"]["code"], -32_000, "{session}");
    assert_eq!(model.turns().len(), 0);
}

fn codex_exec(command: &mut Command) -> &mut Command {
    let sandbox = ["--sandbox", "danger-full-access", "-c", "approval_policy=\"never\""];
    command.args(["exec", "--json", "--skip-git-repo-check"]).args(sandbox).arg("-")
}

fn codex_answer(finished: &Finished) -> String {
    let lines = json_lines(&finished.stdout);
    let answers = lines.iter().filter(|it| it["item"]["type"] == "agent_message");
    answers.filter_map(|it| it["item"]["text"].as_str()).next_back().unwrap_or_default().to_owned()
}

/// An agent that has been greeted.
struct Agent {
    run: Run,
    /// The id of the last request.
    id: u32,
}

impl Agent {
    fn start(home: &Home) -> Agent {
        let mut agent = Agent { run: Run::start(&mut home.command(Engine::CodexAcp)), id: 0 };
        let files = json!({"readTextFile": false, "writeTextFile": false});
        let hello =
            json!({"protocolVersion": 1, "clientCapabilities": {"fs": files, "terminal": false}});
        assert_eq!(agent.call("initialize", &hello)["result"]["protocolVersion"], 1);
        agent
    }

    fn send(&mut self, method: &str, params: &Value) {
        self.id += 1;
        let request = json!({"jsonrpc": "2.0", "id": self.id, "method": method, "params": params});
        self.run.write(&format!("{request}\n"));
    }

    fn call(&mut self, method: &str, params: &Value) -> Value {
        self.send(method, params);
        self.run.wait_for(|it| it["id"] == self.id && it["method"].is_null(), PATIENCE)
    }
}
