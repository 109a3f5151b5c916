//! Wire types of claude.
