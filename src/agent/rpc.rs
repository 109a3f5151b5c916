//! JSON-RPC 2.0 as codex and ACP agents speak it: ids and pending requests. Pure.
