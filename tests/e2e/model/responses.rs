//! The OpenAI Responses API, as codex uses it. Codex always streams.

use super::{
    answer::{Answer, Offer, Piece, Seen},
    http::Events,
};
use serde_json::{Value, json};
use std::io;

/// Beginnings of user messages that codex itself puts in, or our daemon besides the human's.
const NOISE: [&str; 9] = [
    "<environment_context",
    "<user_instructions",
    "<turn_aborted",
    "<skill",
    "<recommended",
    "<subagent",
    "<user_shell",
    "# AGENTS.md",
    "Agent Bridge, on",
];

/// Beginnings of what codex asks for itself. Such a request offers tools, too,
/// and quotes the human, whose script isn't meant for it.
const ASIDE: [&str; 2] =
    ["Your task is to generate a very short title", "The following is the Codex agent history"];

/// Finds what an answer depends on.
pub(crate) fn seen(body: &Value) -> Seen {
    let mut seen = Seen::default();
    offers(&body["tools"], None, &mut seen.offers);
    if let Some(text) = body["input"].as_str() {
        seen.prompt(text);
    }
    for item in body["input"].as_array().map(Vec::as_slice).unwrap_or_default() {
        match item["type"].as_str().unwrap_or("message") {
            "message" if item["role"] == "user" => {
                let text = text_of(&item["content"]);
                seen.aside |= ASIDE.iter().any(|it| text.trim_start().starts_with(it));
                if !text.trim().is_empty()
                    && !NOISE.iter().any(|it| text.trim_start().starts_with(it))
                {
                    seen.prompt(&text);
                }
            }
            "additional_tools" => offers(&item["tools"], None, &mut seen.offers),
            kind if kind.ends_with("_call_output") => seen.result(text_of(&item["output"])),
            _ => {}
        }
    }
    seen.aside |= seen.offers.is_empty();
    seen
}

fn offers(tools: &Value, namespace: Option<&str>, offers_out: &mut Vec<Offer>) {
    for tool in tools.as_array().map(Vec::as_slice).unwrap_or_default() {
        let name = tool["name"].as_str().or(tool["type"].as_str()).unwrap_or_default();
        if tool["type"] == "namespace" {
            offers(&tool["tools"], (name != "functions").then_some(name), offers_out);
        } else {
            offers_out.push(Offer {
                name: name.to_owned(),
                namespace: namespace.map(ToOwned::to_owned),
                freeform: tool["type"] == "custom",
            });
        }
    }
}

fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            parts.iter().filter_map(|it| it["text"].as_str()).collect::<Vec<_>>().join("\n")
        }
        Value::Object(fields) => fields.get("content").map(text_of).unwrap_or_default(),
        _ => String::new(),
    }
}

/// What this API and that of chat completions say with an error status.
pub(crate) fn error(status: u16) -> Value {
    let (kind, code, message) = match status {
        401 => ("invalid_request_error", "invalid_api_key", "scripted: Incorrect API key provided"),
        403 => (
            "invalid_request_error",
            "forbidden",
            "scripted: Country, region, or territory not supported",
        ),
        404 => ("invalid_request_error", "model_not_found", "scripted: The model does not exist"),
        429 => ("requests", "rate_limit_exceeded", "scripted: Rate limit reached for requests"),
        400..500 => {
            ("invalid_request_error", "invalid_request", "scripted: The request is invalid")
        }
        _ => ("server_error", "server_error", "scripted: The server had an error"),
    };
    json!({"error": {"message": message, "type": kind, "param": null, "code": code}})
}

/// The answer as events, except for the end.
pub(crate) fn stream(events: &mut Events<'_>, answer: &Answer) -> io::Result<()> {
    events.typed(
        &json!({"type": "response.created", "response": {"id": format!("resp_{}", answer.id)}}),
    )?;
    for (index, piece) in answer.pieces.iter().enumerate() {
        let item = item(piece, answer, index);
        let mut start = item.clone();
        if let Piece::Text(_) = piece {
            start["content"] = json!([]);
        }
        events.typed(
            &json!({"type": "response.output_item.added", "output_index": index, "item": start}),
        )?;
        if let Piece::Text(text) = piece {
            for word in Answer::words(text) {
                events.typed(&json!({
                    "type": "response.output_text.delta", "item_id": item["id"], "output_index": index,
                    "content_index": 0, "delta": word,
                }))?;
                events.pause();
            }
        }
        events.typed(
            &json!({"type": "response.output_item.done", "output_index": index, "item": item}),
        )?;
    }
    Ok(())
}

/// The end of a good stream.
pub(crate) fn end(events: &mut Events<'_>, answer: &Answer) -> io::Result<()> {
    let (input, output) = answer.usage;
    let usage = json!({
        "input_tokens": input, "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": output, "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": input + output,
    });
    let response = json!({"id": format!("resp_{}", answer.id), "usage": usage});
    events.typed(&json!({"type": "response.completed", "response": response}))
}

/// The end of a stream that fails on the way.
pub(crate) fn fail(events: &mut Events<'_>, code: &str, message: &str) -> io::Result<()> {
    let error = json!({"code": code, "message": message});
    let response = json!({"id": "resp_scripted", "status": "failed", "error": error});
    events.typed(&json!({"type": "response.failed", "response": response}))
}

fn item(piece: &Piece, answer: &Answer, index: usize) -> Value {
    let id = &answer.id;
    match piece {
        Piece::Text(text) => json!({
            "type": "message", "role": "assistant", "id": format!("msg_{id}_{index}"),
            "content": [{"type": "output_text", "text": text, "annotations": []}],
        }),
        Piece::Think(text) => json!({
            "type": "reasoning", "id": format!("rs_{id}_{index}"), "content": null, "encrypted_content": "c2NyaXB0ZWQ=",
            "summary": [{"type": "summary_text", "text": text}],
        }),
        // A tool without a schema takes plain text, which the script gives as a JSON string.
        Piece::Call { id, name, input: Value::String(input), .. } => json!({
            "type": "custom_tool_call", "id": format!("ctc_{id}"), "call_id": format!("call_{id}"),
            "name": name, "input": input,
        }),
        Piece::Call { id, name, namespace, input } => {
            let mut item = json!({
                "type": "function_call", "id": format!("fc_{id}"), "call_id": format!("call_{id}"),
                "name": name, "arguments": input.to_string(),
            });
            if let Some(namespace) = namespace {
                item["namespace"] = json!(namespace);
            }
            item
        }
    }
}
