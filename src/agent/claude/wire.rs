//! Lines of Claude Code's `stream-json` and control protocol (observed with claude 2.1.197). A
//! line that lacks a field or has one of another type still says what the rest of it says, so
//! lines are picked apart field by field instead of deserialised as a whole.

use serde_json::{Value, json};

use crate::{
    agent::{
        Image, Usage,
        text::{list, text, total},
    },
    time::Timestamp,
};

/// The name of our MCP server: tools are called `mcp__bridge__…`.
pub const SERVER: &str = "bridge";

/// What Claude Code says.
#[derive(Clone, Debug, PartialEq)]
pub enum Line {
    /// `system/init`, at the start of every turn.
    Init {
        session: Option<String>,
    },
    /// `system/api_retry`: a sentence about it.
    Retry(String),
    /// A limit of the subscription is reached, and when it is lifted.
    RateLimited {
        limit: String,
        resets: Option<Timestamp>,
    },
    /// `system/task_started` of a background agent or workflow.
    TaskStarted(String),
    /// `system/task_notification`, or `system/task_updated` with a final status.
    TaskEnded(String),
    Assistant(Assistant),
    Result(Box<Outcome>),
    /// A question to the host, which waits for a control response of the same id.
    Request {
        id: String,
        request: Request,
    },
    /// The question of this id is void.
    Cancelled(String),
    /// Anything else; new kinds of lines come with every version.
    Other,
}

/// A message, or a block of one, of the main agent or a subagent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Assistant {
    /// `authentication_failed`, `rate_limit` and so on, on the made-up message of an API failure.
    pub error: Option<String>,
    pub tool_uses: Vec<ToolUse>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ToolUse {
    pub name: String,
    pub input: Value,
}

/// A control request.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    CanUseTool(CanUseTool),
    Mcp { server: String, message: Value },
    Unknown { subtype: String },
}

#[derive(Clone, Debug, PartialEq)]
pub struct CanUseTool {
    pub tool: String,
    pub input: Value,
    pub reason: Option<String>,
}

/// A `result` line.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    pub subtype: String,
    pub is_error: bool,
    pub text: String,
    pub errors: Vec<String>,
    pub api_status: Option<u64>,
    pub terminal_reason: String,
    /// The CLI started this turn by itself, for example because a background task ended.
    pub foreign: bool,
    pub usage: Option<Usage>,
}

impl Line {
    /// Takes any value; what it does not know is [`Line::Other`].
    pub fn read(value: &Value) -> Line {
        match text(value, "/type") {
            "system" => read_system(value),
            "assistant" => Line::Assistant(read_assistant(value)),
            "result" => Line::Result(Box::new(read_outcome(value))),
            "control_request" => read_request(value),
            "rate_limit_event" => read_rate_limit(&value["rate_limit_info"]),
            "control_cancel_request" => named(value, "/request_id", Line::Cancelled),
            _ => Line::Other,
        }
    }
}

fn read_system(value: &Value) -> Line {
    match text(value, "/subtype") {
        "init" => Line::Init { session: full(value, "/session_id") },
        "api_retry" => Line::Retry(retry(value)),
        "task_started" if matches!(text(value, "/task_type"), "local_agent" | "local_workflow") => {
            named(value, "/task_id", Line::TaskStarted)
        }
        "task_notification" => named(value, "/task_id", Line::TaskEnded),
        "task_updated"
            if matches!(text(value, "/patch/status"), "completed" | "failed" | "killed") =>
        {
            named(value, "/task_id", Line::TaskEnded)
        }
        _ => Line::Other,
    }
}

/// A line that means nothing without its id.
fn named(value: &Value, at: &str, line: impl FnOnce(String) -> Line) -> Line {
    full(value, at).map_or(Line::Other, line)
}

fn retry(value: &Value) -> String {
    let error = full(value, "/error").unwrap_or_else(|| "error".to_owned());
    let status = value["error_status"].as_u64().map(|status| format!(" ({status})"));
    let attempt = value["attempt"].as_u64().zip(value["max_retries"].as_u64());
    let attempt = attempt.map(|(attempt, of)| format!(", retry {attempt} of {of}"));
    let delay = value["retry_delay_ms"].as_f64().filter(|delay| delay.is_finite());
    let delay = delay.map(|delay| format!(" in {:.0} s", (delay / 1000.0).ceil()));
    let part = |part: Option<String>| part.unwrap_or_default();
    format!("{error}{}{}{}", part(status), part(attempt), part(delay))
}

/// Also comes while all is well, and as a warning (from the schemas in claude 2.1.197).
fn read_rate_limit(info: &Value) -> Line {
    if text(info, "/status") != "rejected" || info["isUsingOverage"] == true {
        return Line::Other;
    }
    let limit = match text(info, "/rateLimitType") {
        "" => "the usage limit".to_owned(),
        kind => format!("the {} limit", kind.replace('_', " ")),
    };
    // Seconds since 1970.
    let resets = info["resetsAt"].as_u64().and_then(|at| at.checked_mul(1000));
    let resets = resets.map(Timestamp::from_millis);
    Line::RateLimited { limit, resets }
}

fn read_assistant(value: &Value) -> Assistant {
    let tool_uses = list(value, "/message/content")
        .iter()
        .filter(|block| text(block, "/type") == "tool_use")
        .map(|block| ToolUse {
            name: text(block, "/name").to_owned(),
            input: block["input"].clone(),
        })
        .collect();
    Assistant { error: full(value, "/error"), tool_uses }
}

fn read_outcome(value: &Value) -> Outcome {
    let errors = list(value, "/errors").iter();
    Outcome {
        subtype: text(value, "/subtype").to_owned(),
        is_error: value["is_error"].as_bool().unwrap_or(false),
        text: text(value, "/result").to_owned(),
        errors: errors.filter_map(Value::as_str).map(str::to_owned).collect(),
        api_status: value["api_error_status"].as_u64(),
        terminal_reason: text(value, "/terminal_reason").to_owned(),
        foreign: !value["origin"].is_null(),
        usage: value["usage"].is_object().then(|| read_usage(value)),
    }
}

fn read_usage(value: &Value) -> Usage {
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

fn read_request(value: &Value) -> Line {
    // Without an id there is nothing to answer to.
    let Some(id) = full(value, "/request_id") else { return Line::Other };
    let body = &value["request"];
    let request = match text(body, "/subtype") {
        "can_use_tool" => Request::CanUseTool(CanUseTool {
            tool: text(body, "/tool_name").to_owned(),
            input: body["input"].clone(),
            reason: full(body, "/decision_reason").or_else(|| full(body, "/description")),
        }),
        "mcp_message" => Request::Mcp {
            server: text(body, "/server_name").to_owned(),
            message: body["message"].clone(),
        },
        subtype => Request::Unknown { subtype: subtype.to_owned() },
    };
    Line::Request { id, request }
}

fn full(value: &Value, at: &str) -> Option<String> {
    Some(text(value, at)).filter(|text| !text.is_empty()).map(str::to_owned)
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
    json!({
        "type": "user",
        "session_id": "",
        "message": { "role": "user", "content": content },
        "parent_tool_use_id": null,
    })
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
