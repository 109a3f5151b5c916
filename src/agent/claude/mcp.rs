//! Our MCP server as Claude Code sees it: JSON-RPC inside control requests. Pure.

use serde_json::{Value, json};

use super::wire::SERVER;
use crate::agent::{ToolResult, rpc::METHOD_NOT_FOUND, tools};

/// JSON-RPC has no answers to notifications, but Claude Code waits for one without limit.
pub(super) fn acknowledgement() -> Value {
    json!({ "jsonrpc": "2.0", "id": 0, "result": {} })
}

/// The answer to a request that is not `tools/call`.
pub(super) fn answer(rpc_id: &Value, method: &str, params: &Value) -> Value {
    let result = match method {
        "initialize" => json!({
            // The client's own version; we use nothing that differs between versions.
            "protocolVersion": params["protocolVersion"].as_str().unwrap_or("2025-11-25"),
            "capabilities": { "tools": {} },
            "serverInfo": { "name": SERVER, "version": env!("CARGO_PKG_VERSION") },
        }),
        "tools/list" => json!({ "tools": tools::mcp_tools() }),
        "ping" => json!({}),
        _ => {
            let error = json!({ "code": METHOD_NOT_FOUND, "message": "method not found" });
            return json!({ "jsonrpc": "2.0", "id": rpc_id, "error": error });
        }
    };
    json!({ "jsonrpc": "2.0", "id": rpc_id, "result": result })
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
