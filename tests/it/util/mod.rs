//! Helpers that several subjects use.

#[cfg(feature = "serve")]
pub(crate) mod http;
