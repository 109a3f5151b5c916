//! `start`: the daemon, in the foreground.

use std::{fs, os::unix::fs::MetadataExt, path::Path, sync::Arc};

use argh::FromArgs;

use crate::{
    cli::{ExitCode, ExitResult, client, logs, ownership, policy},
    config::{Config, Env, Paths, live::missing_token},
    daemon::{self, End, Setup},
    logging::{self, Format},
    signals,
    store::RealDisk,
};

/// run the daemon in the foreground, until INT or TERM
#[derive(FromArgs, Debug)]
#[argh(
    subcommand,
    name = "start",
    note = "A second signal does not wait for running turns; the exit code is 128 plus its number.",
    error_code(1, "Something the daemon can't go on without failed."),
    error_code(75, "Another daemon uses the state directory."),
    error_code(77, "The bridge refuses the token, and --exit-on-auth-failure is given."),
    error_code(78, "There is no usable configuration.")
)]
pub(super) struct Args {
    /// json or text; text if the output is a terminal
    #[argh(option, from_str_fn(Format::parse))]
    log_format: Option<Format>,
    /// what is logged, in the form of `RUST_LOG`, which it replaces: `debug`, or
    /// `warn,obto_bridge::bridge=debug`
    #[argh(option)]
    log: Option<String>,
    /// end when the bridge refuses the token, instead of trying again slowly
    #[argh(switch)]
    exit_on_auth_failure: bool,
    /// say under each answer what the turn used and cost, as `usage` in the config does
    #[argh(switch)]
    usage: bool,
}

pub(super) fn run(args: Args, env: &Env, paths: Paths) -> ExitResult {
    ownership::check(&paths)?;
    let (mut config, _) = policy::load(&paths, env)?;
    let token = config.token.as_ref().ok_or_else(|| missing_token(&paths.config_file))?;
    logging::hide(token);
    config.usage |= args.usage;
    logs::to_stdout(args.log_format, args.log.as_deref(), env);
    Ok(match start(args, env, paths, config)? {
        End::Stopped => ExitCode::OK,
        End::Killed(signal) => ExitCode::of_signal(signal),
        End::Refused => ExitCode::REFUSED,
    })
}

fn start(args: Args, env: &Env, paths: Paths, config: Config) -> anyhow::Result<End> {
    // From here on a signal is an order to stop, and not the end.
    let signals = signals::watch()?;
    warn(&config, &paths.config_file);
    let setup = Setup {
        paths,
        env: env.clone(),
        net: client::net(&config, env)?,
        disk: Arc::new(RealDisk),
        progress_every: daemon::PROGRESS_EVERY,
        config,
        own_program: std::env::current_exe()?,
        offers_echo: false,
        exit_on_auth_failure: args.exit_on_auth_failure,
        is_ephemeral: false,
        reports: daemon::Reports::default(),
    };
    daemon::run(setup, &signals.rx)
}

/// What a person should know about their settings, at every start.
pub(super) fn warn(config: &Config, file: &Path) {
    if config.allow_all {
        log::warn!(
            "allowAll is set: agents run every command and change every file without asking, \
             and so can everyone who can write on a thread"
        );
    }
    if is_open_to_others(file) {
        log::warn!(
            file:% = file.display();
            "others on this machine can read the config file and the token in it: chmod 600 it"
        );
    }
}

fn is_open_to_others(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|meta| meta.mode() & 0o077 != 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_open_if_anyone_else_may_do_anything() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.json");
        assert!(!is_open_to_others(&file), "not there");
        fs::File::create(&file).unwrap();
        for (mode, open) in [(0o600, false), (0o400, false), (0o640, true), (0o602, true)] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(is_open_to_others(&file), open, "{mode:o}");
        }
    }
}
