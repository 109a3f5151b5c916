//! `rotate-token`: a new token for the old one. From the moment the bridge has answered, the old
//! one is dead, so nothing after that may lose the new one.

use argh::FromArgs;

use crate::{
    cli::{ExitCode, ExitResult, client, console::Console, failed, short},
    config::{Config, ConfigFile, Env, Paths},
    store::{Disk, RealDisk},
    time,
};

/// exchange the token for a new one
#[derive(FromArgs, Debug)]
#[argh(
    subcommand,
    name = "rotate-token",
    note = "A daemon that is running takes the new token by itself.",
    error_code(1, "There is no usable configuration."),
    error_code(2, "The bridge can't be reached."),
    error_code(3, "The bridge refuses."),
    error_code(4, "The new token could not be stored. It is printed, since the old one is dead.")
)]
pub(super) struct Args {}

pub(super) fn run(_args: Args, env: &Env, paths: &Paths, console: &mut Console<'_>) -> ExitResult {
    let mut file = ConfigFile::read(&paths.config_file).map_err(failed)?;
    let config = Config::from_file(&file, env).map_err(failed)?;
    if env.var("BRIDGE_API_TOKEN").is_some() || env.var("BRIDGE_API_TOKEN_FILE").is_some() {
        return Err(failed(
            "the token comes from BRIDGE_API_TOKEN or BRIDGE_API_TOKEN_FILE, which can't be \
             rewritten from here; unset it to rotate the token of the config file",
        ));
    }
    let token = client::of(&config, paths, env).map_err(failed)?.rotate_token()?;
    let backup = paths
        .config_file
        .with_file_name(format!("config.json.bak.{}", time::now().as_millis() / 1000));
    let kept = RealDisk.write_atomic(&backup, &file.to_bytes());
    file.set("apiToken", token.reveal());
    if let Err(error) = RealDisk.write_atomic(&paths.config_file, &file.to_bytes()) {
        console.complain(format!("cannot write {}: {error}", paths.config_file.display()));
        console.complain("the old token is dead; put this one into the file as \"apiToken\":");
        console.say(token.reveal());
        return Ok(ExitCode::of_command(4));
    }
    console.say(format!(
        "The token is replaced; the old one no longer works. {} is rewritten.",
        short(&paths.config_file, env)
    ));
    match kept {
        Ok(()) => console.say(format!("The old file is {}.", short(&backup, env))),
        Err(error) => console.complain(format!("no copy of the old file was kept: {error}")),
    }
    Ok(ExitCode::OK)
}
