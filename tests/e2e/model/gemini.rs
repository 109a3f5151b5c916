//! The Gemini API, as gemini uses it. Whether it streams is in the path, not in the body.

use super::{
    answer::{Answer, Offer, Piece, Seen},
    http::Events,
    script,
};
use serde_json::{Value, json};
use std::io;

/// Finds what an answer depends on.
pub(crate) fn seen(body: &Value) -> Seen {
    let mut seen = Seen::default();
    for tool in list(&body["tools"]) {
        let names = list(&tool["functionDeclarations"]).iter().filter_map(|it| it["name"].as_str());
        seen.offers.extend(names.map(Offer::plain));
    }
    seen.aside = seen.offers.is_empty();
    for content in list(&body["contents"]).iter().filter(|it| it["role"] == "user") {
        let parts = list(&content["parts"]);
        let texts: Vec<&str> = parts.iter().filter_map(|it| it["text"].as_str()).collect();
        let prompt = texts.join("\n");
        let results: Vec<&Value> =
            parts.iter().map(|it| &it["functionResponse"]).filter(|it| !it.is_null()).collect();
        // Text beside results is gemini's own.
        if !prompt.trim().is_empty() && (results.is_empty() || prompt.contains(script::HEADER)) {
            seen.prompt(&prompt);
        }
        for result in results {
            let response = &result["response"];
            let text = response["output"].as_str().or(response["error"].as_str());
            seen.result(text.map_or_else(|| response.to_string(), str::to_owned));
        }
    }
    seen
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// What this API says with an error status.
pub(crate) fn error(status: u16) -> Value {
    let (name, message) = match status {
        400 => ("INVALID_ARGUMENT", "scripted: the request is invalid"),
        401 => ("UNAUTHENTICATED", "scripted: API key not valid"),
        403 => ("PERMISSION_DENIED", "scripted: permission denied"),
        404 => ("NOT_FOUND", "scripted: there is no such model"),
        429 => ("RESOURCE_EXHAUSTED", "scripted: the quota is used up"),
        _ => ("INTERNAL", "scripted: an internal error"),
    };
    json!({"error": {"code": status, "message": message, "status": name}})
}

/// The answer in one piece.
pub(crate) fn whole(answer: &Answer) -> Value {
    let parts: Vec<Value> = answer.pieces.iter().map(part).collect();
    chunk(answer, &json!(parts), Some(finish_reason(answer)))
}

/// The answer as events, except for the end.
pub(crate) fn stream(events: &mut Events<'_>, answer: &Answer) -> io::Result<()> {
    for piece in &answer.pieces {
        let parts: Vec<Value> = match piece {
            Piece::Text(text) => Answer::words(text).map(|it| json!({"text": it})).collect(),
            other => vec![part(other)],
        };
        for part in parts {
            events.bare(&chunk(answer, &json!([part]), None).to_string())?;
            events.pause();
        }
    }
    Ok(())
}

/// The end of a good stream.
pub(crate) fn end(events: &mut Events<'_>, answer: &Answer) -> io::Result<()> {
    let last = chunk(answer, &json!([{"text": ""}]), Some(finish_reason(answer)));
    events.bare(&last.to_string())
}

/// The end of a stream that fails on the way.
pub(crate) fn fail(events: &mut Events<'_>, code: &str, message: &str) -> io::Result<()> {
    let error = json!({"code": 500, "message": message, "status": code});
    events.bare(&json!({ "error": error }).to_string())
}

fn chunk(answer: &Answer, parts: &Value, finish: Option<&str>) -> Value {
    let mut candidate = json!({"index": 0, "content": {"role": "model", "parts": parts}});
    if let Some(finish) = finish {
        candidate["finishReason"] = json!(finish);
    }
    let (input, output) = answer.usage;
    let usage = json!({
        "promptTokenCount": input, "candidatesTokenCount": output, "totalTokenCount": input + output,
    });
    json!({
        "responseId": answer.id, "modelVersion": answer.model,
        "candidates": [candidate], "usageMetadata": usage,
    })
}

fn part(piece: &Piece) -> Value {
    match piece {
        Piece::Text(text) => json!({"text": text}),
        Piece::Think(text) => json!({"text": text, "thought": true}),
        Piece::Call { id, name, input, .. } => {
            json!({"functionCall": {"id": format!("call_{id}"), "name": name, "args": input}})
        }
    }
}

fn finish_reason(answer: &Answer) -> &str {
    answer.stop.as_deref().unwrap_or("STOP")
}
