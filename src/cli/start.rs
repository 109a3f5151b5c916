//! `start`: the daemon, in the foreground.

use std::{
    error::Error,
    fs,
    num::NonZeroU64,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use argh::FromArgs;
use crossbeam_channel::{Receiver, bounded};

use crate::{
    cli::{
        CommandError, ExitCode, ExitResult, client, duration,
        ephemeral::{self, Ephemeral},
        logs, ownership, policy,
    },
    config::{Config, ConfigFile, Env, Paths, live::missing_token},
    daemon::{self, End, Finished, LeaveRules, Report, Reports, Setup, readiness},
    logging::{self, Format},
    signals,
    store::{RealDisk, lock::Held},
};

/// run the daemon in the foreground, until INT or TERM
#[derive(FromArgs, Debug)]
#[argh(
    subcommand,
    name = "start",
    note = "A second signal does not wait for running turns; the exit code is 128 plus its number.",
    error_code(1, "Something the daemon can't go on without failed."),
    error_code(
        10,
        "to 15: with --once, what became of the message; `obto-bridge help exit-codes` has them."
    ),
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
    /// answer one message, and end with its exit code
    #[argh(switch)]
    once: bool,
    /// end after so many messages
    #[argh(option)]
    max_messages: Option<NonZeroU64>,
    /// end when there was nothing to do for that long: 90s, 10m, 2h
    #[argh(option, from_str_fn(duration))]
    idle_exit: Option<Duration>,
    /// end after that long, as TERM does
    #[argh(option, from_str_fn(duration))]
    exit_after: Option<Duration>,
    /// end with 0 at once if another daemon uses the state directory: for a line of a crontab
    #[argh(switch)]
    if_not_running: bool,
    /// directory of the state in place of ~/.agent-bridge-daemon
    #[argh(option)]
    state_dir: Option<PathBuf>,
    /// keep the state in a temporary directory, as a machine of a name of its own
    #[argh(switch)]
    ephemeral: bool,
    /// a file that holds the process's id from the first connection to the end
    #[argh(option)]
    ready_file: Option<PathBuf>,
    /// say under each answer what the turn used and cost, as `usage` in the config does
    #[argh(switch)]
    usage: bool,
}

pub(super) fn run(args: Args, env: &Env, paths: Paths) -> ExitResult {
    let paths = paths.with_state_dir(args.state_dir.as_deref(), env);
    ownership::check(&paths)?;
    let (mut config, _) = policy::load(&paths, env)?;
    let token = config.token.as_ref().ok_or_else(|| missing_token(&paths.config_file))?;
    logging::hide(token);
    config.usage |= args.usage;
    logs::to_stdout(args.log_format, args.log.as_deref(), env);
    let ephemeral = args.ephemeral.then(|| Ephemeral::new(env)).transpose()?;
    let (mut env, mut paths) = (env.clone(), paths);
    if let Some(ephemeral) = &ephemeral {
        if args.state_dir.is_some() {
            let why = "--ephemeral and --state-dir exclude each other".to_owned();
            return Err(CommandError { why, code: ExitCode::USAGE });
        }
        ephemeral.path().clone_into(&mut paths.state_dir);
        config.machine = ephemeral::machine(&config.machine, &env);
        env.vars.insert("AGENT_ID".into(), config.machine.as_str().into());
    }
    let (reports, finished) = first_end();
    let (once, if_not_running) = (args.once, args.if_not_running);
    let end = start(args, &env, paths, config, reports);
    match end {
        Err(error) if if_not_running && error.chain().any(<dyn Error>::is::<Held>) => {
            log::info!("another daemon runs, so there is nothing to do");
            Ok(ExitCode::OK)
        }
        end => Ok(match end? {
            End::Left if once => {
                finished.try_recv().map_or(ExitCode::STOPPED, |end| ExitCode::of_message(&end))
            }
            End::Stopped | End::Left => ExitCode::OK,
            End::Killed(signal) => ExitCode::of_signal(signal),
            End::Refused => ExitCode::REFUSED,
        }),
    }
}

/// Reports for the daemon, and the end of the first turn among them.
fn first_end() -> (Reports, Receiver<Finished>) {
    let (tell, told) = bounded(1);
    let listener = move |report| {
        if let Report::Finished(finished) = report {
            // Of further ones there is no need to know.
            tell.try_send(*finished).ok();
        }
    };
    (Reports::to(listener), told)
}

fn start(
    args: Args,
    env: &Env,
    paths: Paths,
    config: Config,
    reports: Reports,
) -> anyhow::Result<End> {
    // From here on a signal is an order to stop, and not the end.
    let signals = signals::watch()?;
    log::info!(
        version = env!("CARGO_PKG_VERSION"), pid = std::process::id(), bridge = config.base_url.as_str(),
        machine = config.machine.as_str(), project = config.project_dir.as_str(),
        config:% = paths.config_file.display(), state:% = paths.state_dir.display(),
        page:% = format_args!("{}/api/view", config.base_url);
        "starting"
    );
    warn(&config, &paths.config_file);
    let most = args.max_messages.map(NonZeroU64::get);
    let setup = Setup {
        net: client::net(&config, env)?,
        disk: Arc::new(RealDisk),
        progress_every: daemon::PROGRESS_EVERY,
        own_program: std::env::current_exe()?,
        offers_echo: false,
        exit_on_auth_failure: args.exit_on_auth_failure,
        leave: LeaveRules {
            messages: if args.once { Some(1) } else { most },
            idle: args.idle_exit,
            after: args.exit_after,
        },
        readiness: readiness::Settings {
            socket: env.var("NOTIFY_SOCKET").map(ToOwned::to_owned),
            watchdog: watchdog(env),
            file: args.ready_file.map(|file| env.cwd.join(file)),
        },
        is_ephemeral: args.ephemeral,
        reports,
        env: env.clone(),
        paths,
        config,
    };
    daemon::run(setup, &signals.rx)
}

/// `WATCHDOG_USEC`, if it is meant for this process (`sd_watchdog_enabled`).
fn watchdog(env: &Env) -> Option<Duration> {
    let number = |name| env.var(name)?.to_str()?.parse::<u64>().ok();
    let is_ours = env.var("WATCHDOG_PID").is_none()
        || number("WATCHDOG_PID") == Some(std::process::id().into());
    number("WATCHDOG_USEC").filter(|_| is_ours).map(Duration::from_micros)
}

/// What a person should know about their settings, at every start.
pub(super) fn warn(config: &Config, file: &Path) {
    if config.allow_all {
        log::warn!(
            "allowAll is set: agents run every command and change every file without asking, \
             and so can everyone who can write on a thread"
        );
    }
    for (key, meant) in ConfigFile::read(file).unwrap_or_default().near_misses() {
        log::warn!(
            file:% = file.display();
            "the config file has {key:?}, which means nothing: {meant:?} is what was meant?"
        );
    }
    if !config.project_dir.is_dir() {
        log::warn!(
            "the project directory {} does not exist: see projectDir in the config",
            config.project_dir
        );
    }
    if let Some(host) = config.base_url.strip_prefix("http://")
        && !is_here(host)
    {
        log::warn!(
            "the token goes to {} without TLS, so everybody on the way can read it: use an \
             https:// address",
            config.base_url
        );
    }
    if is_open_to_others(file) {
        log::warn!(
            file:% = file.display();
            "others on this machine can read the config file and the token in it: chmod 600 it"
        );
    }
}

/// Whether an address without its scheme is of this machine.
fn is_here(address: &str) -> bool {
    let host = address.split('/').next().unwrap_or_default();
    let host = host.rsplit_once(':').map_or(host, |(host, port)| {
        if port.bytes().all(|byte| byte.is_ascii_digit()) { host } else { address }
    });
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

fn is_open_to_others(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|meta| meta.mode() & 0o077 != 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_stays_on_this_machine() {
        for here in ["localhost", "localhost:4780", "127.0.0.1:80/sub", "[::1]:4780", "127.9.9.9"] {
            assert!(is_here(here), "{here}");
        }
        for elsewhere in ["bridge", "bridge:80", "10.0.0.1", "localhost.corp", "[fd00::1]:80", ""] {
            assert!(!is_here(elsewhere), "{elsewhere}");
        }
    }

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
