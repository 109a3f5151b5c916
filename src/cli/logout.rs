//! `logout`: forgets the token and the other settings; the bindings stay.

use std::io;

use argh::FromArgs;

use crate::{
    cli::{ExitCode, ExitResult, console::Console, failed, short},
    config::{Env, Paths},
    daemon::status::Status,
};

/// remove the configuration with its token
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "logout", note = "The threads and their sessions are kept.")]
pub(super) struct Args {}

pub(super) fn run(_args: Args, env: &Env, paths: &Paths, console: &mut Console<'_>) -> ExitResult {
    let file = short(&paths.config_file, env);
    match std::fs::remove_file(&paths.config_file) {
        Ok(()) => {
            console.say(format!("Logged out: {file} is removed. The state is kept."));
            if let Some(daemon) = Status::of_running(&paths.state_dir) {
                console.say(format!(
                    "A daemon runs (pid {}). It disconnects and begins nothing more; what it still has to post \
                     waits on disk for the next login. Stop it with: kill {}",
                    daemon.pid, daemon.pid
                ));
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            console.say(format!("There is no configuration at {file}."));
        }
        Err(error) => return Err(failed(format!("cannot remove {file}: {error}"))),
    }
    Ok(ExitCode::OK)
}
