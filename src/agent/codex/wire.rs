//! Wire types of codex.
