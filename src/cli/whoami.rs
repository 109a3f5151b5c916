//! `whoami`: checks the token and the way to the bridge.

use argh::FromArgs;

use crate::{
    cli::{ExitCode, ExitResult, client, console::Console, failed, short},
    config::{Config, Env, Paths},
};

/// check the token and the way to the bridge
#[derive(FromArgs, Debug)]
#[argh(
    subcommand,
    name = "whoami",
    error_code(1, "There is no usable configuration."),
    error_code(2, "The bridge can't be reached."),
    error_code(3, "The bridge refuses.")
)]
pub(super) struct Args {}

pub(super) fn run(_args: Args, env: &Env, paths: &Paths, console: &mut Console<'_>) -> ExitResult {
    let config = Config::load(paths, env).map_err(failed)?;
    let whoami = client::of(&config, paths, env).map_err(failed)?.whoami()?;
    let unknown = || "(not told)".to_owned();
    let account = whoami.account_id.or(config.account_id);
    let rows = [
        ("Bridge", config.base_url),
        ("Account", account.unwrap_or_else(unknown)),
        ("User", whoami.user.unwrap_or_else(unknown)),
        ("E-mail", whoami.email.unwrap_or_else(unknown)),
        ("Status", whoami.status.unwrap_or_else(unknown)),
        ("Token", whoami.token_prefix.map_or_else(unknown, |prefix| format!("{prefix}…"))),
        ("Machine", config.machine.to_string()),
        ("Project", config.project_dir.to_string()),
        ("Config", short(&paths.config_file, env)),
        ("Server time", whoami.server_time.unwrap_or_else(unknown)),
    ];
    for (name, value) in rows {
        console.say(format!("{name:<12} {value}"));
    }
    Ok(ExitCode::OK)
}
