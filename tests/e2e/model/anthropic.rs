//! The Anthropic Messages API, as claude uses it.

use super::{
    answer::{Answer, Offer, Piece, Seen},
    http::Events,
    script,
};
use serde_json::{Value, json};
use std::io;

/// Text that claude itself puts among that of the user.
const NOISE: [&str; 4] = [
    "<system-reminder>",
    "[Request interrupted by user",
    "[Image: original",
    "[Image could not be",
];

/// Finds what an answer depends on.
pub(crate) fn seen(body: &Value) -> Seen {
    let empty = Vec::new();
    let messages = body["messages"].as_array().unwrap_or(&empty);
    let offers = offers(body);
    let mut seen = Seen { aside: offers.is_empty(), offers, ..Seen::default() };
    for message in messages.iter().filter(|it| it["role"] == "user") {
        let blocks = match &message["content"] {
            Value::Array(blocks) => blocks.clone(),
            text => vec![json!({"type": "text", "text": text})],
        };
        let texts: Vec<&str> = blocks
            .iter()
            .filter_map(|it| it["text"].as_str())
            .filter(|it| {
                !it.trim().is_empty()
                    && !NOISE.iter().any(|noise| it.trim_start().starts_with(noise))
            })
            .collect();
        let results: Vec<String> = blocks
            .iter()
            .filter(|it| it["type"] == "tool_result")
            .map(|it| text_of(&it["content"]))
            .collect();
        // Text beside results is claude's own, unless a turn was killed: then
        // the next prompt comes in one message with what became of the tool.
        let prompt = texts.join("\n");
        let is_prompt =
            results.is_empty() || prompt.contains("[[") || prompt.contains(script::HEADER);
        for result in results {
            seen.result(result);
        }
        if is_prompt && !prompt.is_empty() {
            seen.prompt(&prompt);
        }
    }
    seen
}

fn offers(body: &Value) -> Vec<Offer> {
    let tools = body["tools"].as_array().map(Vec::as_slice).unwrap_or_default();
    tools.iter().filter_map(|it| it["name"].as_str()).map(Offer::plain).collect()
}

fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(blocks) => {
            blocks.iter().filter_map(|it| it["text"].as_str()).collect::<Vec<_>>().join("\n")
        }
        _ => String::new(),
    }
}

/// What this API says with an error status.
pub(crate) fn error(status: u16) -> Value {
    let kind = match status {
        400 => "invalid_request_error",
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        529 => "overloaded_error",
        _ => "api_error",
    };
    json!({
        "type": "error",
        "error": {"type": kind, "message": format!("scripted {kind}")},
        "request_id": "req_scripted",
    })
}

/// The answer in one piece.
pub(crate) fn whole(answer: &Answer) -> Value {
    let content: Vec<Value> = answer.pieces.iter().map(block).collect();
    let mut message = envelope(answer);
    message["content"] = json!(content);
    message["stop_reason"] = json!(stop_reason(answer));
    message
}

/// The answer as events, except for the end.
pub(crate) fn stream(events: &mut Events<'_>, answer: &Answer) -> io::Result<()> {
    events.typed(&json!({"type": "message_start", "message": envelope(answer)}))?;
    for (index, piece) in answer.pieces.iter().enumerate() {
        let (start, deltas) = match piece {
            Piece::Text(text) => {
                let deltas = Answer::words(text)
                    .map(|it| json!({"type": "text_delta", "text": it}))
                    .collect();
                (json!({"type": "text", "text": ""}), deltas)
            }
            Piece::Think(text) => {
                let deltas = vec![
                    json!({"type": "thinking_delta", "thinking": text}),
                    json!({"type": "signature_delta", "signature": "c2NyaXB0ZWQ="}),
                ];
                (json!({"type": "thinking", "thinking": "", "signature": ""}), deltas)
            }
            Piece::Call { input, .. } => {
                let mut start = block(piece);
                start["input"] = json!({});
                (
                    start,
                    vec![json!({"type": "input_json_delta", "partial_json": input.to_string()})],
                )
            }
        };
        events.typed(
            &json!({"type": "content_block_start", "index": index, "content_block": start}),
        )?;
        for delta in deltas {
            events
                .typed(&json!({"type": "content_block_delta", "index": index, "delta": delta}))?;
            events.pause();
        }
        events.typed(&json!({"type": "content_block_stop", "index": index}))?;
    }
    Ok(())
}

/// The end of a good stream.
pub(crate) fn end(events: &mut Events<'_>, answer: &Answer) -> io::Result<()> {
    let delta = json!({"stop_reason": stop_reason(answer), "stop_sequence": null});
    let usage = json!({"output_tokens": answer.usage.1});
    events.typed(&json!({"type": "message_delta", "delta": delta, "usage": usage}))?;
    events.typed(&json!({"type": "message_stop"}))
}

/// The end of a stream that fails on the way.
pub(crate) fn fail(events: &mut Events<'_>, code: &str, message: &str) -> io::Result<()> {
    events.typed(&json!({"type": "error", "error": {"type": code, "message": message}}))
}

fn envelope(answer: &Answer) -> Value {
    json!({
        "id": format!("msg_{}", answer.id), "type": "message", "role": "assistant", "model": answer.model,
        "content": [], "stop_reason": null, "stop_sequence": null,
        "usage": {"input_tokens": answer.usage.0, "output_tokens": answer.usage.1,
            "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0},
    })
}

fn stop_reason(answer: &Answer) -> &str {
    let natural = if answer.calls() { "tool_use" } else { "end_turn" };
    answer.stop.as_deref().unwrap_or(natural)
}

fn block(piece: &Piece) -> Value {
    match piece {
        Piece::Text(text) => json!({"type": "text", "text": text}),
        Piece::Think(text) => {
            json!({"type": "thinking", "thinking": text, "signature": "c2NyaXB0ZWQ="})
        }
        Piece::Call { id, name, input, .. } => {
            json!({"type": "tool_use", "id": format!("toolu_{id}"), "name": name, "input": input})
        }
    }
}
