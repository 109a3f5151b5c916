//! The two tools that the bridge gives to the model, whatever carries them: Claude Code gets them
//! as an MCP server on its control channel, Codex as dynamic tools. Pure.

use serde_json::Value;

/// A tool call, checked.
#[derive(Clone, Debug, PartialEq)]
pub enum BridgeTool {
    /// `bridge_post`: say something on the thread.
    Post { kind: String, body: String },
    /// `bridge_thread_read`: read earlier messages.
    ThreadRead { limit: u32, before: Option<String> },
}

/// Names, descriptions and input schemas, in the shape of MCP's `tools/list`.
pub fn definitions() -> Vec<Value> {
    Vec::new()
}

/// The same as Codex's dynamic tools.
pub fn dynamic_tools() -> Vec<Value> {
    Vec::new()
}

/// Reads a call. The error is a text for the model.
pub fn parse(name: &str, arguments: &Value) -> Result<BridgeTool, String> {
    let (_, _) = (name, arguments);
    Err("not built yet".to_owned())
}
