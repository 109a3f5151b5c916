//! What the tests share.

pub(crate) mod sick_bridge;
