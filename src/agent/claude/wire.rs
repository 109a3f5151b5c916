//! Lines of Claude Code's `stream-json` and control protocol (observed with claude 2.1.197). A
//! line that lacks a field or has one of another type still says what the rest of it says, so
//! lines are picked apart field by field instead of deserialised as a whole.

use serde_json::{Value, json};

use crate::{
    agent::{
        Image, Usage,
        text::{text, total},
    },
    time::Timestamp,
};

/// The name of our MCP server: tools are called `mcp__bridge__…`.
pub const SERVER: &str = "bridge";

/// `system/api_retry`, in a sentence.
pub fn retry(value: &Value) -> String {
    let error = match text(value, "/error") {
        "" => "error",
        error => error,
    };
    let status = value["error_status"].as_u64().map(|status| format!(" ({status})"));
    let attempt = value["attempt"].as_u64().zip(value["max_retries"].as_u64());
    let attempt = attempt.map(|(attempt, of)| format!(", retry {attempt} of {of}"));
    let delay = value["retry_delay_ms"].as_f64().filter(|delay| delay.is_finite());
    let delay = delay.map(|delay| format!(" in {:.0} s", (delay / 1000.0).ceil()));
    let part = |part: Option<String>| part.unwrap_or_default();
    format!("{error}{}{}{}", part(status), part(attempt), part(delay))
}

/// The limit of the subscription that is reached, and when it is lifted, from `rate_limit_event`. None
/// while all is well, and for a warning (from the schemas in claude 2.1.197).
pub fn reached_limit(info: &Value) -> Option<(String, Option<Timestamp>)> {
    if text(info, "/status") != "rejected" || info["isUsingOverage"] == true {
        return None;
    }
    let limit = match text(info, "/rateLimitType") {
        "" => "the usage limit".to_owned(),
        kind => format!("the {} limit", kind.replace('_', " ")),
    };
    // Seconds since 1970.
    let resets = info["resetsAt"].as_u64().and_then(|at| at.checked_mul(1000));
    Some((limit, resets.map(Timestamp::from_millis)))
}

/// Of a `result` line.
pub fn usage(value: &Value) -> Usage {
    // What was read from or written to the prompt cache is not in `input_tokens`, but it was input.
    let input = [
        "/usage/input_tokens",
        "/usage/cache_creation_input_tokens",
        "/usage/cache_read_input_tokens",
    ];
    Usage {
        input_tokens: total(value, &input),
        output_tokens: total(value, &["/usage/output_tokens"]),
        cost_usd: value["total_cost_usd"].as_f64(),
    }
}

/// `initialize`. It need not be awaited. Leaving `systemPrompt` out keeps Claude Code's own.
pub fn initialize(id: &str, title: &str) -> Value {
    let request = json!({ "subtype": "initialize", "sdkMcpServers": [SERVER], "title": title });
    json!({ "type": "control_request", "request_id": id, "request": request })
}

/// The prompt. Without a `uuid`: a repeated one is dropped without a word. The text is the last
/// block because Claude Code looks for commands and file names in that one only.
pub fn user(prompt: &str, images: &[Image]) -> Value {
    let mut content: Vec<Value> = images
        .iter()
        .map(|image| {
            let (kind, data) = (&image.media_type, image.base64());
            let source = json!({ "type": "base64", "media_type": kind, "data": data });
            json!({ "type": "image", "source": source })
        })
        .collect();
    content.push(json!({ "type": "text", "text": prompt }));
    let mut value = json!({
        "type": "user",
        "session_id": "",
        "message": { "role": "user" },
        "parent_tool_use_id": null,
    });
    // Moved: `json!` would copy it, and it may be megabytes long.
    value["message"]["content"] = content.into();
    value
}

/// Stops the turn; its result follows. Without a turn it does nothing.
pub fn interrupt(id: &str) -> Value {
    json!({ "type": "control_request", "request_id": id, "request": { "subtype": "interrupt" } })
}

/// A good answer to a control request.
pub fn success(id: &str, response: Value) -> Value {
    let response = json!({ "subtype": "success", "request_id": id, "response": response });
    json!({ "type": "control_response", "response": response })
}

/// The answer to a message to our MCP server.
pub fn mcp_response(id: &str, answer: Value) -> Value {
    success(id, json!({ "mcp_response": answer }))
}

/// An answer to a control request that can't be met. Better than none, which may hang the turn.
pub fn failure(id: &str, error: &str) -> Value {
    let response = json!({ "subtype": "error", "request_id": id, "error": error });
    json!({ "type": "control_response", "response": response })
}

/// Allows a tool. Without the input this is a schema error, which denies (claude 2.1.197).
pub fn allow(id: &str, input: &Value) -> Value {
    success(id, json!({ "behavior": "allow", "updatedInput": object(input) }))
}

/// Denies a tool. Without a message this is a schema error too, and the model reads that instead.
pub fn deny(id: &str, reason: &str) -> Value {
    success(id, json!({ "behavior": "deny", "message": reason }))
}

/// The schema wants an object.
fn object(input: &Value) -> Value {
    if input.is_object() { input.clone() } else { json!({}) }
}
