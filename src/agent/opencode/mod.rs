//! The opencode protocol.

pub mod wire;
