//! What several subjects need.

pub(crate) mod fake;
pub(crate) mod namespace;
pub(crate) mod sick_bridge;
