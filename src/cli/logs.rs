//! What `--log` and `--log-format` and the environment make of the log.

use env_logger::Target;

use crate::{
    config::Env,
    logging::{self, Format},
};

/// Reads `--log-format`.
pub(super) fn format(text: &str) -> Result<Format, String> {
    Format::parse(text).ok_or_else(|| format!("{text:?} is no format; it must be json or text"))
}

/// Logs to standard output, as the reference does: the log is the command's output.
pub(super) fn to_stdout(format: Option<Format>, filter: Option<&str>, env: &Env) {
    let format = format.unwrap_or_else(Format::of_stdout);
    init(format, filter, env, None, Target::Stdout);
}

/// Logs beside the command's output. `quiet` logs problems alone unless asked for more.
#[cfg(feature = "serve")]
pub(super) fn to_stderr(format: Option<Format>, filter: Option<&str>, env: &Env, quiet: bool) {
    use std::io::{self, IsTerminal};

    let default = if io::stderr().is_terminal() { Format::Text } else { Format::Json };
    init(format.unwrap_or(default), filter, env, quiet.then_some("warn"), Target::Stderr);
}

fn init(format: Format, filter: Option<&str>, env: &Env, default: Option<&str>, target: Target) {
    let from_env = env.var("RUST_LOG").and_then(|filter| filter.to_str());
    logging::init(format, filter.or(from_env).or(default), target);
}
