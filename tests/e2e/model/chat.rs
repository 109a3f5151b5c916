//! The Chat Completions API, as qwen uses it, and opencode through its provider for
//! OpenAI-compatible servers.

use super::{
    answer::{Answer, Offer, Piece, Seen},
    http::Events,
};
use serde_json::{Value, json};
use std::io;

/// Finds what an answer depends on.
pub(crate) fn seen(body: &Value) -> Seen {
    let mut seen = Seen::default();
    for tool in body["tools"].as_array().map(Vec::as_slice).unwrap_or_default() {
        seen.offers.extend(tool["function"]["name"].as_str().map(Offer::plain));
    }
    seen.aside = seen.offers.is_empty();
    for message in body["messages"].as_array().map(Vec::as_slice).unwrap_or_default() {
        let text = text_of(&message["content"]);
        match message["role"].as_str() {
            Some("user") if !text.trim().is_empty() => seen.prompt(&text),
            Some("tool") => seen.result(text),
            _ => {}
        }
    }
    seen
}

fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            parts.iter().filter_map(|it| it["text"].as_str()).collect::<Vec<_>>().join("\n")
        }
        _ => String::new(),
    }
}

/// The answer in one piece.
pub(crate) fn whole(answer: &Answer) -> Value {
    let text: String = answer.pieces.iter().filter_map(|it| it.text()).collect();
    let calls: Vec<Value> = answer.pieces.iter().filter_map(|it| call(it, None)).collect();
    let mut message = json!({"role": "assistant", "content": text});
    if !calls.is_empty() {
        message["tool_calls"] = json!(calls);
    }
    json!({
        "id": format!("chatcmpl-{}", answer.id), "object": "chat.completion", "created": 1, "model": answer.model,
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason(answer)}],
        "usage": usage(answer),
    })
}

/// The answer as events, except for the end.
pub(crate) fn stream(events: &mut Events<'_>, answer: &Answer) -> io::Result<()> {
    chunk(events, answer, &json!({"role": "assistant", "content": ""}), None)?;
    let mut n_calls = 0;
    for piece in &answer.pieces {
        match piece {
            Piece::Text(text) => {
                for word in Answer::words(text) {
                    chunk(events, answer, &json!({"content": word}), None)?;
                    events.pause();
                }
            }
            Piece::Think(text) => chunk(events, answer, &json!({"reasoning_content": text}), None)?,
            Piece::Call { .. } => {
                chunk(events, answer, &json!({"tool_calls": [call(piece, Some(n_calls))]}), None)?;
                n_calls += 1;
            }
        }
    }
    Ok(())
}

/// The end of a good stream.
pub(crate) fn end(events: &mut Events<'_>, answer: &Answer) -> io::Result<()> {
    chunk(events, answer, &json!({}), Some(finish_reason(answer)))?;
    events.bare("[DONE]")
}

/// The end of a stream that fails on the way.
pub(crate) fn fail(events: &mut Events<'_>, code: &str, message: &str) -> io::Result<()> {
    events.bare(&json!({"error": {"message": message, "type": code, "code": code}}).to_string())
}

fn chunk(
    events: &mut Events<'_>,
    answer: &Answer,
    delta: &Value,
    finish: Option<&str>,
) -> io::Result<()> {
    let mut chunk = json!({
        "id": format!("chatcmpl-{}", answer.id), "object": "chat.completion.chunk", "created": 1,
        "model": answer.model, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
    });
    if finish.is_some() {
        chunk["usage"] = usage(answer);
    }
    events.bare(&chunk.to_string())
}

fn call(piece: &Piece, index: Option<usize>) -> Option<Value> {
    let Piece::Call { id, name, input, .. } = piece else { return None };
    let function = json!({"name": name, "arguments": input.to_string()});
    let mut call = json!({"id": format!("call_{id}"), "type": "function", "function": function});
    if let Some(index) = index {
        call["index"] = json!(index);
    }
    Some(call)
}

fn finish_reason(answer: &Answer) -> &str {
    let natural = if answer.calls() { "tool_calls" } else { "stop" };
    answer.stop.as_deref().unwrap_or(natural)
}

fn usage(answer: &Answer) -> Value {
    let (input, output) = answer.usage;
    json!({"prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output})
}
