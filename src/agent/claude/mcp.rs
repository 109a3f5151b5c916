//! Our MCP server as Claude Code sees it: JSON-RPC inside control requests. Pure.

use serde_json::{Value, json};

use super::wire::SERVER;
use crate::agent::{ToolResult, text::text, tools};

/// What to do about a message.
#[derive(Debug, PartialEq)]
pub(super) enum Reply {
    /// Answer at once.
    Now(Value),
    /// A tool that the host runs; [`result`] answers it later.
    Call { rpc_id: Value, tool: tools::BridgeTool },
    /// The call of this JSON-RPC id is void; answer the message at once.
    Cancel { rpc_id: Value, acknowledge: Value },
}

pub(super) fn handle(message: &Value) -> Reply {
    let method = text(message, "/method");
    let Some(rpc_id) = message.get("id").filter(|id| !id.is_null()) else {
        // JSON-RPC has no answers to notifications, but Claude Code waits for one without limit.
        let acknowledge = json!({ "jsonrpc": "2.0", "id": 0, "result": {} });
        if method == "notifications/cancelled" {
            let rpc_id = message["params"]["requestId"].clone();
            return Reply::Cancel { rpc_id, acknowledge };
        }
        return Reply::Now(acknowledge);
    };
    let result = match method {
        "initialize" => json!({
            "protocolVersion": protocol_version(message),
            "capabilities": { "tools": {} },
            "serverInfo": { "name": SERVER, "version": env!("CARGO_PKG_VERSION") },
        }),
        "tools/list" => json!({ "tools": tools::mcp_tools() }),
        "tools/call" => {
            let params = &message["params"];
            return match tools::parse(text(params, "/name"), &params["arguments"]) {
                Ok(tool) => Reply::Call { rpc_id: rpc_id.clone(), tool },
                Err(error) => Reply::Now(result(rpc_id, &Err(error))),
            };
        }
        "ping" => json!({}),
        _ => {
            let error = json!({ "code": -32601, "message": "method not found" });
            return Reply::Now(json!({ "jsonrpc": "2.0", "id": rpc_id, "error": error }));
        }
    };
    Reply::Now(json!({ "jsonrpc": "2.0", "id": rpc_id, "result": result }))
}

/// The client's own version; we use nothing that differs between versions.
fn protocol_version(message: &Value) -> &str {
    message["params"]["protocolVersion"].as_str().unwrap_or("2025-11-25")
}

/// The answer to `tools/call`. An error is a text that the model reads.
pub(super) fn result(rpc_id: &Value, result: &ToolResult) -> Value {
    let (Ok(text) | Err(text)) = result;
    let mut answer = json!({ "content": [{ "type": "text", "text": text }] });
    if result.is_err() {
        answer["isError"] = json!(true);
    }
    json!({ "jsonrpc": "2.0", "id": rpc_id, "result": answer })
}
