//! Integration tests: the library on real threads, sockets and files, in-process.

#![expect(clippy::unwrap_used, reason = "a test that can't go on panics")]

mod bridge_client;
mod bridge_outbox;
mod bridge_stream;
mod util;
