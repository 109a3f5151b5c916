//! The command line: what was typed, and what came of it. The only reader of the environment and of
//! `$HOME`, and the only place that prints.

#[cfg(feature = "serve")]
mod account;
mod args;
#[cfg(feature = "serve")]
mod backup;
mod client;
mod console;
mod ephemeral;
mod exit;
mod init;
mod journal;
#[cfg(feature = "serve")]
mod local;
mod logout;
mod logs;
mod ownership;
mod policy;
mod rotate_token;
mod run;
#[cfg(feature = "serve")]
mod serve;
mod start;
mod status;
#[cfg(feature = "serve")]
mod user;
mod whoami;

use std::{
    error::Error,
    ffi::OsString,
    fmt,
    io::{self, IsTerminal},
    path::{Path, PathBuf},
    time::Duration,
};

use argh::FromArgs;

use self::console::Console;
pub use self::exit::ExitCode;
use crate::{
    agent::echo,
    bridge,
    config::{ConfigError, Env, Paths},
    logging,
    store::lock::Held,
};

/// What the echo engine is started with. It is no command for people, so the help does not name it.
const ECHO_AGENT: &str = "echo-agent";

/// Drive the coding agents on this machine from a web page.
#[derive(FromArgs, Debug)]
#[argh(
    note = "`obto-bridge COMMAND --help` tells more of a command, `obto-bridge help exit-codes` what a wrapper can\nlive by.",
    error_code(2, "The command line was not understood."),
    error_code(74, "The output can't be written, by any command: the disk is full.")
)]
struct Args {
    /// print the version
    #[argh(switch, short = 'V')]
    version: bool,
    #[argh(subcommand)]
    command: Option<Command>,
}

#[derive(FromArgs, Debug)]
#[argh(subcommand)]
enum Command {
    Init(init::Args),
    Start(start::Args),
    Run(run::Args),
    Status(status::Args),
    Whoami(whoami::Args),
    RotateToken(rotate_token::Args),
    Logout(logout::Args),
    Policy(policy::Args),
    Journal(journal::Args),
    #[cfg(feature = "serve")]
    Local(local::Args),
    #[cfg(feature = "serve")]
    Serve(serve::Args),
}

/// How a command ends, or why it failed.
type ExitResult = Result<ExitCode, CommandError>;

/// Why a command failed, for the person who ran it.
struct CommandError {
    why: String,
    code: ExitCode,
}

/// A failure that has no exit code of its own.
fn failed(why: impl fmt::Display) -> CommandError {
    CommandError { why: format!("{why:#}"), code: ExitCode::FAILURE }
}

impl From<anyhow::Error> for CommandError {
    fn from(error: anyhow::Error) -> CommandError {
        let code = if error.chain().any(<dyn Error>::is::<Held>) {
            ExitCode::IN_USE
        } else if error.chain().any(<dyn Error>::is::<ConfigError>) {
            ExitCode::CONFIG
        } else {
            ExitCode::FAILURE
        };
        CommandError { code, ..failed(error) }
    }
}

impl From<ConfigError> for CommandError {
    fn from(error: ConfigError) -> CommandError {
        CommandError { code: ExitCode::CONFIG, ..failed(error) }
    }
}

impl From<bridge::Error> for CommandError {
    fn from(error: bridge::Error) -> CommandError {
        let code = match error {
            bridge::Error::Access(_) => ExitCode::FAILURE,
            bridge::Error::Network { .. } => ExitCode::of_command(2),
            _ => ExitCode::of_command(3),
        };
        CommandError { code, ..failed(error) }
    }
}

/// Runs the program that this process was started as.
pub fn main() -> ExitCode {
    let mut input = io::stdin().lock();
    let interactive = io::stdin().is_terminal() && io::stdout().is_terminal();
    let mut console = Console {
        out: &mut io::stdout(),
        err: &mut io::stderr(),
        input: &mut input,
        interactive,
        is_cut: false,
    };
    match command(&mut console) {
        Ok(_) if console.is_cut => ExitCode::OUTPUT,
        Ok(code) => code,
        Err(CommandError { why, code }) => {
            console.complain(logging::redact(&why));
            code
        }
    }
}

fn command(console: &mut Console<'_>) -> ExitResult {
    let env = &env()?;
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let args: Option<Vec<&str>> = args.iter().map(|arg| arg.to_str()).collect();
    let args = args.ok_or_else(|| CommandError {
        why: "an argument is not UTF-8".to_owned(),
        code: ExitCode::USAGE,
    })?;
    if args == [ECHO_AGENT] {
        let played = echo::run(&mut *console.input, &mut *console.out);
        played.map_err(|error| failed(format!("the echo agent: {error}")))?;
        return Ok(ExitCode::OK);
    }
    if args == ["help", "exit-codes"] {
        console.say(exit::help());
        return Ok(ExitCode::OK);
    }
    let typed = args::usual(&args);
    let typed: Vec<&str> = typed.iter().map(String::as_str).collect();
    let args = match Args::from_args(&["obto-bridge"], &typed) {
        Ok(args) => args,
        Err(early) if early.status.is_ok() => {
            console.say(early.output.trim_end());
            return Ok(ExitCode::OK);
        }
        Err(early) => {
            console.complain(early.output.trim_end());
            console.note(args::advice(&typed, &early.output));
            return Ok(ExitCode::USAGE);
        }
    };
    if args.version {
        console.say(env!("CARGO_PKG_VERSION"));
        return Ok(ExitCode::OK);
    }
    let paths = Paths::in_home(&env.home).with_state_dir(None, env);
    match args.command {
        Some(Command::Init(args)) => init::run(args, env, &paths, console),
        Some(Command::Start(args)) => start::run(args, env, paths),
        Some(Command::Run(args)) => run::run(args, env, &paths, console),
        Some(Command::Status(args)) => status::run(args, env, &paths, console),
        Some(Command::Whoami(args)) => whoami::run(args, env, &paths, console),
        Some(Command::RotateToken(args)) => rotate_token::run(args, env, &paths, console),
        Some(Command::Logout(args)) => logout::run(args, env, &paths, console),
        Some(Command::Policy(args)) => policy::run(args, env, &paths, console),
        Some(Command::Journal(args)) => journal::run(args, &paths, console),
        #[cfg(feature = "serve")]
        Some(Command::Local(args)) => local::run(args, env, &paths, console),
        #[cfg(feature = "serve")]
        Some(Command::Serve(args)) => serve::run(args, env, &paths, console),
        None => {
            let help = Args::from_args(&["obto-bridge"], &["--help"]);
            console.note(help.map_or_else(|early| early.output, |_| String::new()).trim_end());
            Ok(ExitCode::USAGE)
        }
    }
}

/// Reads the process's surroundings, once.
fn env() -> Result<Env, ConfigError> {
    let home = home::home_dir()
        .filter(|home| home.is_absolute())
        .ok_or_else(|| ConfigError("no home directory: set HOME to an absolute path".to_owned()))?;
    // Of one that was deleted there is no name. Whoever needs it says that it is not there.
    let cwd = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/nonexistent"));
    Ok(Env { home, cwd, vars: std::env::vars_os().collect() })
}

/// Reads a time of an option: `90s`, `10m`, `2h`, or seconds alone.
fn duration(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().map(Duration::from_secs).ok();
    let time = seconds.or_else(|| humantime::parse_duration(text).ok());
    time.filter(|time| !time.is_zero())
        .ok_or_else(|| format!("{text:?} is no time such as 90s, 10m or 2h"))
}

/// `path` for messages: the home directory is `~`.
fn short(path: &Path, env: &Env) -> String {
    match path.strip_prefix(&env.home) {
        Ok(rest) => PathBuf::from("~").join(rest).display().to_string(),
        Err(_) => path.display().to_string(),
    }
}
