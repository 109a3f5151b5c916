//! A tiny ACP agent in this very binary: it repeats what it is sent. With it a daemon, a
//! bridge and a page can be tried without any coding agent, account or network.

use std::io::{self, BufRead, Read, Write};

use serde_json::{Value, json};

use crate::{
    agent::rpc::{METHOD_NOT_FOUND, Rpc, RpcMessage},
    ids::random_hex,
    prompt,
};

/// What every session of this agent is named with.
const PREFIX: &str = "echo-";
/// What every answer begins with, so that nobody takes it for a model's.
const LABEL: &str = "Echo agent (no model): ";
/// A prompt with images is the longest line.
const LINE_MAX: u64 = 64 << 20;
/// The code for parameters that make no sense.
const INVALID_PARAMS: i64 = -32602;

/// Serves ACP on `input` and `output` until the input ends.
///
/// # Errors
/// When the input can't be read, a line of it is too long, or the output can't be written.
pub fn run(mut input: impl BufRead, mut output: impl Write) -> io::Result<()> {
    let mut rpc: Rpc<()> = Rpc::default();
    let mut line = Vec::new();
    loop {
        line.clear();
        Read::take(&mut input, LINE_MAX).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Ok(());
        }
        if line.len() as u64 == LINE_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a line is too long"));
        }
        // Like all agents, it skips lines that are no JSON.
        let Ok(value) = serde_json::from_slice(&line) else { continue };
        // `session/cancel` is a notification, and there is never anything to cancel.
        let RpcMessage::Request { id, method, params } = rpc.classify(value) else { continue };
        for message in answer(&rpc, &id, &method, &params) {
            writeln!(output, "{message}")?;
        }
        output.flush()?;
    }
}

fn answer(rpc: &Rpc<()>, id: &Value, method: &str, params: &Value) -> Vec<Value> {
    let session = params["sessionId"].as_str().filter(|session| session.starts_with(PREFIX));
    match (method, session) {
        ("initialize", _) => vec![rpc.result(id, capabilities())],
        ("session/new", _) => {
            vec![rpc.result(id, json!({ "sessionId": format!("{PREFIX}{}", random_hex()) }))]
        }
        ("session/resume", Some(_)) => vec![rpc.result(id, json!({}))],
        ("session/prompt", Some(session)) => {
            let said = format!("{LABEL}You said: {}", human_text(&text_of(params)));
            let update = json!({
                "sessionUpdate": "agent_message_chunk",
                "content": { "type": "text", "text": said },
            });
            let params = json!({ "sessionId": session, "update": update });
            vec![
                rpc.notification("session/update", params),
                rpc.result(id, json!({ "stopReason": "end_turn" })),
            ]
        }
        ("session/resume" | "session/prompt", None) => {
            vec![rpc.error(id, INVALID_PARAMS, "unknown session")]
        }
        _ => vec![rpc.error(id, METHOD_NOT_FOUND, "the echo agent has no such method")],
    }
}

fn capabilities() -> Value {
    json!({
        "protocolVersion": 1,
        "agentInfo": { "name": "echo", "version": env!("CARGO_PKG_VERSION") },
        "agentCapabilities": {
            "sessionCapabilities": { "resume": {} },
            "promptCapabilities": { "image": true },
        },
        "authMethods": [],
    })
}

fn text_of(params: &Value) -> String {
    let blocks = params["prompt"].as_array().map_or(&[][..], Vec::as_slice);
    blocks.iter().filter_map(|block| block["text"].as_str()).collect::<Vec<_>>().join("\n")
}

/// What the person wrote: the text after the last envelope's header and its blank line.
fn human_text(prompt: &str) -> &str {
    let envelope = prompt.rfind("[Agent Bridge |").map_or(prompt, |at| &prompt[at..]);
    let body = envelope.split_once("\n\n").map_or(envelope, |(_, body)| body);
    // The person's own text may have a rule in it; ours comes last.
    body.rfind(prompt::BOOTSTRAP_OPENING).map_or(body, |at| &body[..at]).trim()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        agent::{Actions, Gate, Login, Protocol, Sandbox, TurnEnd, TurnEvent, TurnSpec, acp::Acp},
        ids::{SessionId, TurnId},
    };

    fn talk(lines: &[Value]) -> Vec<Value> {
        let lines: Vec<String> = lines.iter().map(Value::to_string).collect();
        let input = lines.join("\n");
        let mut output = Vec::new();
        run(input.as_bytes(), &mut output).unwrap();
        let text = String::from_utf8(output).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn request(method: &str, params: Value) -> Value {
        json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params })
    }

    #[track_caller]
    fn check(prompt: &str, expected: &str) {
        let params =
            json!({ "sessionId": "echo-1", "prompt": [{ "type": "text", "text": prompt }] });
        let said = talk(&[request("session/prompt", params)]);
        let chunk = &said[0]["params"]["update"];
        assert_eq!(chunk["content"]["text"], expected);
        assert_eq!(said[1]["result"]["stopReason"], "end_turn");
    }

    #[test]
    fn it_says_what_the_person_said_and_that_it_is_no_model() {
        let envelope = "[Agent Bridge | thread=t1 | from=me]";
        let bootstrap = prompt::bootstrap("t1", false);
        let prompt = prompt::first_touch(
            None,
            &[envelope, "\n\nhello\n\n---\n\nyou"].map(Into::into),
            &bootstrap,
        );
        check(&prompt, "Echo agent (no model): You said: hello\n\n---\n\nyou");
        check(
            &format!("history\n{envelope}\n\nold\n\n{envelope}\n\nhello\n\nthere\n"),
            "Echo agent (no model): You said: hello\n\nthere",
        );
        check("plain", "Echo agent (no model): You said: plain");
        check("", "Echo agent (no model): You said: ");
    }

    #[test]
    fn it_resumes_its_own_sessions_only() {
        let new = talk(&[request("session/new", json!({ "cwd": "/", "mcpServers": [] }))]);
        let id = new[0]["result"]["sessionId"].as_str().unwrap();
        assert!(id.starts_with("echo-"), "{id}");
        let resume = |id: &str| talk(&[request("session/resume", json!({ "sessionId": id }))]);
        assert_eq!(resume(id)[0]["result"], json!({}));
        assert_eq!(resume("ses_1")[0]["error"]["code"], INVALID_PARAMS);
    }

    #[test]
    fn it_speaks_version_one_and_refuses_the_rest() {
        let said = talk(&[
            request("initialize", json!({ "protocolVersion": 1 })),
            json!("no message"),
            json!({ "method": "session/cancel", "params": {} }),
            request("session/fork", json!({})),
        ]);
        assert_eq!(said.len(), 2);
        assert_eq!(said[0]["result"]["protocolVersion"], 1);
        assert_eq!(said[1]["error"]["code"], METHOD_NOT_FOUND);
    }

    #[test]
    fn the_host_for_acp_agents_gets_its_answer_from_it() {
        let turn = TurnSpec {
            own_files: Vec::new(),
            has_own_files: false,
            turn: TurnId::new("t"),
            prompt: Arc::new("[Agent Bridge | thread=th]\n\nhello".to_owned()),
            images: Vec::new(),
            session: None,
            fresh_session: SessionId::new("f"),
            project_dir: "/p".into(),
            title: "title".to_owned(),
            gate: Gate::Ask,
            asks_human: false,
            sandbox: Sandbox::default(),
            model: None,
            login: Login::default(),
        };
        let (mut host, mut actions) = (Acp::default(), Actions::default());
        host.begin(&turn, &mut actions);
        while actions.finished.is_none() {
            assert!(!actions.write.is_empty(), "neither side has anything to say");
            for value in talk(&std::mem::take(&mut actions.write)) {
                host.on_value(value, &mut actions);
            }
        }
        let text = "Echo agent (no model): You said: hello".to_owned();
        assert_eq!(actions.finished, Some(TurnEnd::Answered { text }));
        let resumable = |event: &TurnEvent| matches!(event, TurnEvent::Session(id) if id.as_str().starts_with(PREFIX));
        assert!(actions.events.iter().any(resumable), "{:?}", actions.events);
    }

    #[test]
    fn a_line_that_is_no_json_is_skipped() {
        let mut output = Vec::new();
        run(&b"{garbage\n\xff\n"[..], &mut output).unwrap();
        assert!(output.is_empty());
    }
}
