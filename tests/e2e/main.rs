//! The real engines against a scripted model, without a network.
//!
//! `scripts/e2e-agents.sh` installs the engines and runs this; plain `cargo
//! test` leaves it out.

#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]
#![expect(
    clippy::disallowed_methods,
    reason = "the helpers stand outside of the daemon, and must not break with what they test"
)]

mod acp;
mod answers;
mod claude;
mod codex;
mod control;
mod daemon;
mod homes;
#[expect(dead_code, reason = "it serves other tests, which need all of it")]
#[path = "../it/util/http.rs"]
mod http;
mod jobs;
mod leftovers;
mod model;
mod opencode;
#[expect(dead_code, reason = "it serves other tests, which need all of it")]
#[path = "../it/util/patience.rs"]
mod patience;
mod process;
mod rig;
mod run;
mod scenarios;
mod smoke;
mod support;
mod switch;
