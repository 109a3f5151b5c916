//! Wire types of opencode.
