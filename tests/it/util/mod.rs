//! What several subjects need.

pub(crate) mod bin;
#[cfg(feature = "serve")]
pub(crate) mod daemon;
pub(crate) mod fake;
#[cfg(feature = "serve")]
pub(crate) mod hosted;
#[cfg(feature = "serve")]
pub(crate) mod http;
pub(crate) mod namespace;
pub(crate) mod patience;
pub(crate) mod sick_bridge;
