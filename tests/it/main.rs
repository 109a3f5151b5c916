//! Everything that is tested from outside, in one binary: modules by subject.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

#[cfg(feature = "serve")]
mod serve;
mod util;
