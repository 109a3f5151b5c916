//! The acp protocol.

pub mod wire;
