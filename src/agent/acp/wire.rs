//! Wire types of acp.
