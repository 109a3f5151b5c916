//! What `--log` and `--log-format` and the environment make of the log.

use std::io;

use env_logger::Target;

use crate::{
    config::Env,
    logging::{self, Format},
};

/// Logs to standard output, as the reference does: the log is the command's output.
pub(super) fn to_stdout(format: Option<Format>, filter: Option<&str>, env: &Env) {
    let format = format.unwrap_or_else(|| Format::of(&io::stdout()));
    init(format, filter, env, None, Target::Stdout);
}

/// Logs beside the command's output. `quiet` logs problems alone unless asked for more.
pub(super) fn to_stderr(format: Option<Format>, filter: Option<&str>, env: &Env, quiet: bool) {
    let format = format.unwrap_or_else(|| Format::of(&io::stderr()));
    init(format, filter, env, quiet.then_some("warn"), Target::Stderr);
}

fn init(format: Format, filter: Option<&str>, env: &Env, default: Option<&str>, target: Target) {
    let from_env = env.var("RUST_LOG").and_then(|filter| filter.to_str());
    logging::init(format, filter.or(from_env).or(default), target);
}
