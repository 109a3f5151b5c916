//! The scripted model of the end-to-end tests as a program of its own, for tests that are not
//! written in Rust. It says where it is on the first line; `open NAME` on its input lets go of the
//! answers that wait at `[[gate:NAME]]`. It ends with its input.

#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]
#![expect(
    clippy::disallowed_methods,
    reason = "it stands outside of the daemon, and must not break with what it tests"
)]

#[expect(dead_code, reason = "the tests in Rust ask it more")]
#[path = "e2e/model/mod.rs"]
mod model;
#[expect(dead_code, reason = "the tests wait")]
#[path = "it/util/patience.rs"]
mod patience;

use std::io::{self, BufRead, Write};

fn main() -> io::Result<()> {
    let model = model::Model::start();
    writeln!(io::stdout(), "The model is at {}", model.url())?;
    for line in io::stdin().lock().lines() {
        if let Some(gate) = line?.strip_prefix("open ") {
            model.open(gate);
        }
    }
    Ok(())
}
