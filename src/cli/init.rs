//! `init`: an account or a token, the machine's name, the project: everything that `start` needs.
//! At a terminal it asks for what no flag gives.

use std::{ffi::OsStr, io, sync::Arc};

use argh::FromArgs;

use crate::{
    bridge::{Access, Client, Error},
    cli::{ExitCode, Failure, Outcome, client, console::Console, failed, short},
    config::{Config, ConfigFile, Env, Paths, Token, host_name},
    ids,
    store::{Disk, RealDisk},
};

/// write the configuration: an account or a token, this machine's name, its project
#[derive(FromArgs, Debug)]
#[argh(
    subcommand,
    name = "init",
    note = "Asks for what no flag gives, if input and output are a terminal.",
    error_code(1, "The input is wrong, or the file can't be written."),
    error_code(2, "The bridge refuses. One that can't be reached is only warned of.")
)]
pub(super) struct Args {
    /// take this token instead of registering (obto_…); with - it is read from the input, where no
    /// list of processes shows it
    #[argh(option)]
    token: Option<String>,
    /// the token's account (acc_…)
    #[argh(option)]
    account: Option<String>,
    /// register with this e-mail address
    #[argh(option)]
    email: Option<String>,
    /// user name of the new account; the address's local part if not given
    #[argh(option)]
    username: Option<String>,
    /// password of the new account; made up and shown once if not given
    #[argh(option)]
    password: Option<String>,
    /// address of the bridge
    #[argh(option)]
    base_url: Option<String>,
    /// host that the bridge is routed by
    #[argh(option)]
    origin_host: Option<String>,
    /// name of this machine on the account
    #[argh(option)]
    machine: Option<String>,
    /// directory in which new conversations work
    #[argh(option)]
    project: Option<String>,
    /// agent of threads that name none
    #[argh(option)]
    agent: Option<String>,
    /// ask the human before a tool runs: yes or no
    #[argh(option)]
    relay: Option<String>,
    /// ask nothing; take defaults for what no flag gives
    #[argh(switch, short = 'y')]
    yes: bool,
}

/// Reading an answer is all that fails with one.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        failed(format!("cannot read the answer: {error}"))
    }
}

pub(super) fn run(args: Args, env: &Env, paths: &Paths, console: &mut Console<'_>) -> Outcome {
    console.interactive &= !args.yes;
    init(&args, &flags_win(&args, env), paths, console)?;
    Ok(ExitCode::OK)
}

/// The environment without what a flag replaces: it wins over the file, but not over the person who
/// is typing.
fn flags_win(args: &Args, env: &Env) -> Env {
    let names_account = args.token.is_some() || args.email.is_some();
    let replaced = [
        ("BRIDGE_BASE_URL", args.base_url.is_some()),
        ("BRIDGE_ORIGIN_HOST", args.origin_host.is_some() || args.base_url.is_some()),
        ("BRIDGE_API_TOKEN", names_account),
        ("BRIDGE_API_TOKEN_FILE", names_account),
        ("AGENT_ID", args.machine.is_some()),
        ("BRIDGE_PROJECT_DIR", args.project.is_some()),
        ("BRIDGE_AGENT", args.agent.is_some()),
    ];
    let mut env = env.clone();
    for (name, is_replaced) in replaced {
        if is_replaced {
            env.vars.remove(OsStr::new(name));
        }
    }
    env
}

fn init(args: &Args, env: &Env, paths: &Paths, console: &mut Console<'_>) -> Result<(), Failure> {
    let mut file = ConfigFile::read(&paths.config_file).map_err(failed)?;
    if let Some(url) = &args.base_url {
        file.set("baseUrl", url.trim_end_matches('/'));
        // The hosted bridge is routed by name; another one by its address alone.
        let uri = url.parse::<ureq::http::Uri>().ok();
        let host = uri.as_ref().and_then(|uri| uri.host()).unwrap_or_default();
        file.set("originHost", args.origin_host.as_deref().unwrap_or(host));
    } else if let Some(host) = &args.origin_host {
        file.set("originHost", host.clone());
    }
    credentials(args, env, &mut file, console)?;
    settings(args, env, &mut file, console)?;

    let config = Config::from_file(&file, env).map_err(failed)?;
    let disk = RealDisk;
    let dir = paths.config_file.parent().expect("the config file is in a directory");
    disk.create_dir(dir)
        .and_then(|()| disk.write_atomic(&paths.config_file, &file.to_bytes()))
        .map_err(|error| {
            failed(format!("cannot write {}: {error}", paths.config_file.display()))
        })?;
    console.say(format!("Wrote {}.", short(&paths.config_file, env)));
    verify(&config, paths, console)
}

fn credentials(
    args: &Args,
    env: &Env,
    file: &mut ConfigFile,
    console: &mut Console<'_>,
) -> Result<(), Failure> {
    if let Some(token) = &args.token {
        let token = if token == "-" { console.read_line()? } else { token.clone() };
        check_shape(&token, "obto_", "token")?;
        if let Some(account) = &args.account {
            check_shape(account, "acc_", "account")?;
            file.set("accountId", account.clone());
        }
        file.set("apiToken", token);
        return Ok(());
    }
    if let Some(account) = &args.account {
        check_shape(account, "acc_", "account")?;
        file.set("accountId", account.clone());
    }
    let configured = Config::from_file(file, env).map_err(failed)?;
    let has_token = configured.token.is_some();
    if has_token && args.email.is_none() {
        console.say("Keeping the token that is configured.");
        return Ok(());
    }
    register(args, env, file, console)
}

fn register(
    args: &Args,
    env: &Env,
    file: &mut ConfigFile,
    console: &mut Console<'_>,
) -> Result<(), Failure> {
    let email = answer(args.email.as_ref(), "E-mail address for a new account", "", console)?;
    if email.is_empty() {
        return Err(failed(
            "there is no token yet: give --token TOKEN, or --email ADDRESS to register",
        ));
    }
    let Some((local, domain)) = email.split_once('@') else {
        return Err(failed(format!("{email:?} is no e-mail address")));
    };
    if local.is_empty() || domain.is_empty() || email.contains(char::is_whitespace) {
        return Err(failed(format!("{email:?} is no e-mail address")));
    }
    let username = args.username.clone().unwrap_or_else(|| local.to_owned());
    let password = args.password.clone().unwrap_or_else(|| ids::random_hex()[..12].to_owned());
    let config = Config::from_file(file, env).map_err(failed)?;
    let access = Access {
        base_url: config.base_url.clone(),
        origin_host: config.origin_host.clone(),
        token: Token::new(""),
    };
    let account = Client::new(Arc::new(access), &client::net(&config))
        .map_err(failed)?
        .register(&email, &username, &password)
        .map_err(refused)?;
    crate::logging::hide(&account.token);
    let user = account.user.unwrap_or(username);
    console.say(format!("Registered {email} as {user}."));
    if args.password.is_none() {
        console.say(format!("Password for the web page, shown only now: {password}"));
    }
    if let Some(account_id) = account.account_id {
        file.set("accountId", account_id);
    }
    file.set("apiToken", account.token.reveal());
    Ok(())
}

fn settings(
    args: &Args,
    env: &Env,
    file: &mut ConfigFile,
    console: &mut Console<'_>,
) -> Result<(), Failure> {
    let now = Config::from_file(file, env).map_err(failed)?;
    let is_named = file.object.contains_key("agentId");
    let machine = if is_named { now.machine.to_string() } else { host_name() };
    let machine = answer(args.machine.as_ref(), "Name of this machine", &machine, console)?;
    let project =
        answer(args.project.as_ref(), "Project directory", now.project_dir.as_str(), console)?;
    let project = camino::absolute_utf8(env.cwd.join(&project))
        .map_err(|error| failed(format!("the project directory {project:?}: {error}")))?;
    if !project.is_dir() {
        return Err(failed(format!("the project directory {project} does not exist")));
    }
    let agent = answer(
        args.agent.as_ref(),
        "Agent of threads that name none",
        now.engine.as_str(),
        console,
    )?;
    let relay = relay(args, file, now.relay_permissions, console)?;
    file.set("baseUrl", now.base_url);
    file.set("originHost", now.origin_host);
    file.set("agentId", machine.trim());
    file.set("projectDir", project.as_str());
    file.set("agent", agent.trim().to_lowercase());
    file.set("relayPermissions", relay);
    Ok(())
}

/// What the flag says, or else the person who is there, or else the default.
fn answer(
    flag: Option<&String>,
    question: &str,
    default: &str,
    console: &mut Console<'_>,
) -> io::Result<String> {
    flag.cloned().map_or_else(|| console.ask(question, default), Ok)
}

fn relay(
    args: &Args,
    file: &ConfigFile,
    now: bool,
    console: &mut Console<'_>,
) -> Result<bool, Failure> {
    let is_off = file.object.contains_key("relayPermissions") && !now;
    let default = if is_off { "no" } else { "yes" };
    let relay =
        answer(args.relay.as_ref(), "Ask you before a tool runs (yes or no)", default, console)?;
    match relay.trim().to_lowercase().as_str() {
        "y" | "yes" | "1" | "true" => Ok(true),
        "n" | "no" | "0" | "false" => Ok(false),
        _ => Err(failed(format!("--relay is {relay:?}; it must be yes or no"))),
    }
}

/// Tokens are `obto_[a-z0-9]+`, accounts `acc_[a-z0-9]+`, any case (protocol section 11).
fn check_shape(value: &str, prefix: &str, what: &str) -> Result<(), Failure> {
    let fits = value.to_lowercase().strip_prefix(prefix).is_some_and(|rest| {
        !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_alphanumeric())
    });
    if fits {
        Ok(())
    } else {
        Err(failed(format!("that is no {what}: it must look like {prefix}…")))
    }
}

fn refused(error: Error) -> Failure {
    Failure { code: ExitCode(2), ..failed(error) }
}

fn verify(config: &Config, paths: &Paths, console: &mut Console<'_>) -> Result<(), Failure> {
    let client = client::of(config, paths).map_err(failed)?;
    match client.whoami() {
        Ok(whoami) => {
            let account = whoami.account_id.unwrap_or_else(|| "the account".to_owned());
            console.say(format!("The bridge knows {account}. Start with: obto-bridge start"));
            Ok(())
        }
        Err(error @ Error::Network { .. }) => {
            console.complain(format!("warning: not verified: {error}"));
            console.say("Start with: obto-bridge start");
            Ok(())
        }
        Err(error) => Err(refused(error)),
    }
}
