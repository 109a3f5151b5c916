//! The codex protocol.

pub mod wire;
