//! What a thread hears of what an engine said: the whole answer, what was said on the way, and the last
//! words of a turn that ended badly.

use serde_json::{Value, json};

use super::Bridge;
use crate::util::{
    fake::{self, ACP_BEGIN, Gate, SESSION},
    namespace::isolated,
};

/// Directives that print these lines.
fn print(lines: &[Value]) -> Vec<String> {
    lines.iter().flat_map(|line| ["print".to_owned(), line.to_string()]).collect()
}

fn command(begin: &[&str], lines: &[Value], end: &[&str]) -> Vec<String> {
    let lines = print(lines);
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    fake::command(&[begin, &lines, end].concat())
}

/// An ACP agent that is sent its prompt, does this, and ends so.
fn acp(updates: &[Value], end: &[&str]) -> Vec<String> {
    let update = |update: &Value| {
        let params = json!({ "sessionId": SESSION, "update": update });
        json!({ "jsonrpc": "2.0", "method": "session/update", "params": params })
    };
    let lines: Vec<Value> = updates.iter().map(update).collect();
    command(&[&ACP_BEGIN[..], &["read"]].concat(), &lines, end)
}

fn says(text: &str) -> Value {
    let content = json!({ "type": "text", "text": text });
    json!({ "sessionUpdate": "agent_message_chunk", "content": content })
}

fn calls() -> Value {
    json!({ "sessionUpdate": "tool_call", "toolCallId": "c", "title": "cargo test" })
}

/// News of a call that is known.
fn goes_on() -> Value {
    json!({ "sessionUpdate": "tool_call_update", "toolCallId": "c", "status": "completed" })
}

fn thinks() -> Value {
    let content = json!({ "type": "text", "text": "hm" });
    json!({ "sessionUpdate": "agent_thought_chunk", "content": content })
}

fn stop(reason: &str) -> String {
    json!({ "jsonrpc": "2.0", "id": 3, "result": { "stopReason": reason } }).to_string()
}

/// What the thread hears: progress, and a post of the kind `last`.
#[track_caller]
fn check(name: &str, agent: &[String], last: &str, expected: &[&str]) {
    let bridge = Bridge::start();
    let machine = bridge.machine().with_agent(name, agent).with("silenceSeconds", 2);
    let _daemon = machine.connected();
    let mut ears = bridge.listen();
    bridge.say("t", "work");
    for _ in 1..expected.len() {
        ears.expect("t", "status", "");
    }
    ears.expect("t", last, "");
    let posts = bridge.posts("t");
    assert_eq!(posts.len(), expected.len(), "{posts:?}");
    for (post, expected) in posts.iter().zip(expected) {
        let fits = expected.strip_prefix('…').map_or(post == expected, |end| post.ends_with(end));
        assert!(fits, "{posts:?}");
    }
}

#[test]
fn an_answer_before_the_last_call_is_the_answer() {
    let end = stop("end_turn");
    let end = ["print", &end, "wait-eof"];
    check("fake", &acp(&[says("THE-ANSWER"), calls(), goes_on()], &end), "result", &["THE-ANSWER"]);
    let whole = [calls(), says("ONE "), goes_on(), says("TWO "), thinks(), says("THREE")];
    check("fake", &acp(&whole, &end), "result", &["ONE TWO THREE"]);
}

#[test]
fn what_was_said_on_the_way_is_told_before_the_answer() {
    let end = stop("end_turn");
    let end = ["print", &end, "wait-eof"];
    let updates = [says("The cause is X."), calls(), says("Mended."), goes_on()];
    check("fake", &acp(&updates, &end), "result", &["The cause is X.", "Mended."]);
    let updates = [says("The cause is X."), calls(), goes_on(), says("I mend it."), calls()];
    let mut other = calls();
    other["toolCallId"] = json!("d");
    let updates = [&updates[..], &[other, says("Mended.")]].concat();
    let said = "The cause is X.\n\nI mend it.";
    check("fake", &acp(&updates, &end), "result", &[said, "Mended."]);
}

/// opencode's acp ends the turn before it has written the end of the answer.
#[test]
fn the_end_of_an_answer_may_come_after_the_end_of_the_turn() {
    let end = stop("end_turn");
    let late = acp(&[], &["print", &end]);
    let rest = acp(&[says("late")], &["wait-eof"]);
    let updates = late.len() - 2;
    let nothing_yet = [&late[..], &rest[updates..]].concat();
    check("fake", &nothing_yet, "result", &["late"]);
    let begun = acp(&[says("The end is ")], &["print", &end]);
    let mut opencode = [&begun[..], &rest[updates..]].concat();
    for step in &mut opencode {
        let info = r#""protocolVersion":1,"agentInfo":{"name":"OpenCode"}"#;
        *step = step.replace(r#""protocolVersion":1"#, info);
    }
    check("fake", &opencode, "result", &["The end is late"]);
}

const CLAUDE: [&str; 2] = ["read", "read"];

fn claude(block: &Value) -> Value {
    let message = json!({ "id": "msg_1", "model": "m", "content": [block] });
    json!({ "type": "assistant", "message": message, "parent_tool_use_id": null })
}

#[test]
fn claude_ends_with_a_call_or_without_its_result() {
    let text = claude(&json!({ "type": "text", "text": "THE-ANSWER is 42" }));
    let call = claude(&json!({ "type": "tool_use", "id": "t", "name": "Bash", "input": {} }));
    let result = json!({ "type": "result", "subtype": "success", "is_error": false, "result": "" });
    let lines = [text.clone(), call, result];
    check("claude", &command(&CLAUDE, &lines, &["wait-eof"]), "result", &["THE-ANSWER is 42"]);
    let said = "…\n\nIt had said:\n\nTHE-ANSWER is 42";
    check("claude", &command(&CLAUDE, &[text], &["exit", "0"]), "error", &[said]);
}

#[test]
fn codex_says_two_messages_and_dies() {
    let mut steps = Vec::new();
    for (id, result) in [
        (1, json!({})),
        (2, json!({ "account": {} })),
        (3, json!({ "thread": { "id": "t" } })),
        (4, json!({ "turn": { "id": "u" } })),
    ] {
        steps.push("read".to_owned());
        if id == 2 {
            // The notification that the handshake is over.
            steps.push("read".to_owned());
        }
        steps.extend(print(&[json!({ "id": id, "result": result })]));
    }
    let item = |id: &str, text: &str| {
        let item = json!({ "type": "agentMessage", "id": id, "text": text });
        let params = json!({ "threadId": "t", "turnId": "u", "item": item });
        json!({ "method": "item/completed", "params": params })
    };
    steps.extend(print(&[item("1", "PART-A"), item("2", "PART-B")]));
    let steps: Vec<&str> = steps.iter().map(String::as_str).collect();
    let dies = fake::command(&[&steps[..], &["exit", "1"]].concat());
    check("codex", &dies, "error", &["…\n\nIt had said:\n\nPART-A\n\nPART-B"]);
    let turn = json!({ "id": "u", "status": "completed", "items": [] });
    let params = json!({ "threadId": "t", "turn": turn });
    let end = json!({ "method": "turn/completed", "params": params }).to_string();
    let ends = fake::command(&[&steps[..], &["print", &end, "wait-eof"]].concat());
    check("codex", &ends, "result", &["PART-A\n\nPART-B"]);
}

#[test]
fn what_was_said_before_a_bad_end_is_told_with_it() {
    let said = [says("The cause is X."), calls(), says("I mend"), thinks(), says(" it.")];
    let told = "…\n\nIt had said:\n\nThe cause is X.\n\nI mend it.";
    check("fake", &acp(&said, &["exit", "3"]), "error", &[told]);
    check("fake", &acp(&said, &["hang"]), "error", &[told]);
    let refusal = stop("refusal");
    let refuses = acp(&said[2..], &["print", &refusal, "wait-eof"]);
    check("fake", &refuses, "error", &["…new thread.\n\nIt had said:\n\nI mend it."]);
}

isolated! {
    fn what_was_said_before_a_stop_is_told_with_it() {
        let (bridge, gate) = (Bridge::start(), Gate::new());
        let (path, cancelled) = (gate.path(), stop("cancelled"));
        let end = ["gate", &path, "read", "print", &cancelled, "wait-eof"];
        let agent = acp(&[says("I look."), calls()], &end);
        let machine = bridge.machine().with_agent("fake", &agent);
        let _daemon = machine.connected();
        let mut ears = bridge.listen();
        bridge.say("t", "work");
        drop(gate.next());
        bridge.say("t", "/stop");
        ears.expect("t", "status", "Stopped.");
        assert_eq!(bridge.posts("t"), ["Stopped.\n\nIt had said:\n\nI look."]);
    }
}
