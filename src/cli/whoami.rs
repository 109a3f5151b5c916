//! `whoami`: checks the token and the way to the bridge.

use argh::FromArgs;

use crate::{
    bridge::wire::Whoami,
    cli::{
        ExitCode, client,
        console::{Console, printable},
        short,
    },
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

pub(super) fn run(_args: Args, env: &Env, paths: &Paths, console: &mut Console<'_>) -> ExitCode {
    let prepared = Config::load(paths, env)
        .map_err(anyhow::Error::from)
        .and_then(|config| Ok((client::of(&config, paths)?, config)));
    let (client, config) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            console.complain(format!("{error:#}"));
            return ExitCode::Failure(1);
        }
    };
    match client.whoami() {
        Ok(whoami) => {
            print(&config, &whoami, env, paths, console);
            ExitCode::Ok
        }
        Err(error) => {
            console.complain(error.to_string());
            client::exit_code(&error)
        }
    }
}

fn print(config: &Config, whoami: &Whoami, env: &Env, paths: &Paths, console: &mut Console<'_>) {
    let unknown = || "(not told)".to_owned();
    let account = whoami.account_id.clone().or_else(|| config.account_id.clone());
    let rows = [
        ("Bridge", config.base_url.clone()),
        ("Account", account.unwrap_or_else(unknown)),
        ("User", whoami.user.clone().unwrap_or_else(unknown)),
        ("E-mail", whoami.email.clone().unwrap_or_else(unknown)),
        ("Status", whoami.status.clone().unwrap_or_else(unknown)),
        ("Token", whoami.token_prefix.as_ref().map_or_else(unknown, |prefix| format!("{prefix}…"))),
        ("Machine", config.machine.to_string()),
        ("Project", config.project_dir.to_string()),
        ("Config", short(&paths.config_file, env)),
        ("Server time", whoami.server_time.clone().unwrap_or_else(unknown)),
    ];
    for (name, value) in rows {
        console.say(format!("{name:<12} {}", printable(&value)));
    }
}
