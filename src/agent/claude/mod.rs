//! The claude protocol.

pub mod wire;
