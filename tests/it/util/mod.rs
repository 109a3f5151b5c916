//! What several subjects need.

pub(crate) mod fake;
pub(crate) mod namespace;
