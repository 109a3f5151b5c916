//! Parse, configure, run, report.

use obto_bridge::cli::{self, ExitCode};

fn main() -> ExitCode {
    cli::main()
}
