//! The client side of the bridge.

pub mod backoff;
pub mod outbox;
pub mod sse;
pub mod stream;
pub mod wire;
