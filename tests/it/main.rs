//! The integration tests, in one binary: one link, and helpers that are used by somebody.

mod sim;
mod store;
