//! The one integration binary: modules by subject.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails, here and in its helpers")]

mod proc;
mod turn;
mod util;
