//! `init`: an account or a token, the machine's name, the project: everything that `start` needs.
//! At a terminal it asks for what no flag gives.

use std::{ffi::OsStr, io, sync::Arc};

use argh::FromArgs;
use camino::Utf8PathBuf;

use crate::{
    bridge::{Access, Client, Error, wire::Whoami},
    cli::{CommandError, ExitCode, ExitResult, client, console::Console, failed, short},
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

/// How often a person is asked the same.
const ASKED_MAX: usize = 10;

/// Reading an answer is all that fails with one.
impl From<io::Error> for CommandError {
    fn from(error: io::Error) -> CommandError {
        failed(format!("cannot read the answer: {error}"))
    }
}

pub(super) fn run(args: Args, env: &Env, paths: &Paths, console: &mut Console<'_>) -> ExitResult {
    console.interactive &= !args.yes;
    if args.token.is_some() && args.email.is_some() {
        let why =
            "--token takes an account that is there, --email makes a new one: give one of them";
        return Err(CommandError { why: why.to_owned(), code: ExitCode::USAGE });
    }
    let file = ConfigFile::read(&paths.config_file).map_err(failed)?;
    let mut init = Init { env: &flags_win(&args, env), args: &args, file, console };
    // Everything that can be wrong is looked at before the bridge makes an account.
    init.address();
    init.settings()?;
    Init::check_place(paths)?;
    let known = init.credentials()?;
    init.write(paths, known)?;
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

/// The file as it will be, and where its contents come from.
struct Init<'a, 'c> {
    args: &'a Args,
    env: &'a Env,
    file: ConfigFile,
    console: &'a mut Console<'c>,
}

impl Init<'_, '_> {
    /// What the file says by now, with the environment and the defaults.
    fn config(&self) -> Result<Config, CommandError> {
        Config::from_file(&self.file, self.env).map_err(failed)
    }

    fn address(&mut self) {
        let host = self.args.origin_host.as_deref();
        if let Some(url) = &self.args.base_url {
            self.file.set("baseUrl", url.trim_end_matches('/'));
            // The hosted bridge is routed by name; another one by its address alone.
            let uri = url.parse::<ureq::http::Uri>().ok();
            let own = uri.as_ref().and_then(|uri| uri.host()).unwrap_or_default();
            self.file.set("originHost", host.unwrap_or(own));
        } else if let Some(host) = host {
            self.file.set("originHost", host);
        }
    }

    /// Some: the bridge has said that it knows the token, and whose it is.
    fn credentials(&mut self) -> Result<Option<Whoami>, CommandError> {
        let token = match self.args.token.as_deref() {
            Some("-") => Some(self.console.read_line()?.trim().to_owned()),
            token => token.map(str::to_owned),
        };
        if let Some(token) = &token {
            check_shape(token, "obto_", "token")?;
        }
        if let Some(account) = &self.args.account {
            check_shape(account, "acc_", "account")?;
            self.file.set("accountId", account.clone());
        }
        if let Some(token) = token {
            return self.take_token(token);
        }
        let has_token = self.config()?.token.is_some();
        if has_token && self.args.email.is_none() {
            self.console.say("Keeping the token that is configured.");
            return Ok(None);
        }
        let question = "E-mail address for a new account, or a token (obto_…)";
        let email = self.answer(self.args.email.as_ref(), question, "")?;
        if email.starts_with("obto_") {
            check_shape(&email, "obto_", "token")?;
            return self.take_token(email);
        }
        self.register(&email)?;
        Ok(None)
    }

    /// A token that the bridge refuses takes the place of no other.
    fn take_token(&mut self, token: String) -> Result<Option<Whoami>, CommandError> {
        crate::logging::hide(&Token::new(&token));
        let access = self.access(Token::new(&token))?;
        self.file.set("apiToken", token);
        let net = client::net(&self.config()?, self.env).map_err(failed)?;
        match Client::new(Arc::new(access), &net).map_err(failed)?.whoami() {
            Err(error) if error.is_auth() => Err(refused(error)),
            answer => Ok(answer.ok()),
        }
    }

    fn access(&self, token: Token) -> Result<Access, CommandError> {
        let config = self.config()?;
        Ok(Access { base_url: config.base_url, origin_host: config.origin_host, token })
    }

    /// Whether the file can be written, before there is something to write.
    fn check_place(paths: &Paths) -> Result<(), CommandError> {
        let dir = paths.config_file.parent().expect("the config file is in a directory");
        let probe = dir.join(format!("config.json.{}", ids::random_hex()));
        RealDisk
            .create_dir(dir)
            .and_then(|()| RealDisk.write_atomic(&probe, b""))
            .and_then(|()| RealDisk.remove(&probe))
            .map_err(|error| failed(format!("cannot write in {}: {error}", dir.display())))
    }

    fn register(&mut self, email: &str) -> Result<(), CommandError> {
        let args = self.args;
        if email.is_empty() {
            return Err(failed(
                "there is no token yet: give --token TOKEN, or --email ADDRESS to register",
            ));
        }
        let parts = email.split_once('@').filter(|(local, domain)| {
            !local.is_empty() && !domain.is_empty() && !email.contains(char::is_whitespace)
        });
        let (local, _) = parts.ok_or_else(|| failed(format!("{email:?} is no e-mail address")))?;
        let username = args.username.clone().unwrap_or_else(|| local.to_owned());
        let password = args.password.clone().unwrap_or_else(|| ids::random_hex()[..12].to_owned());
        let config = self.config()?;
        let access = self.access(Token::new(""))?;
        let account =
            Client::new(Arc::new(access), &client::net(&config, self.env).map_err(failed)?)
                .map_err(failed)?
                .register(email, &username, &password)
                .map_err(refused)?;
        crate::logging::hide(&account.token);
        let user = account.user.unwrap_or(username);
        self.console.say(format!("Registered {email} as {user}."));
        if args.password.is_none() {
            self.console.say(format!("Password for the web page, shown only now: {password}"));
        }
        if let Some(account_id) = account.account_id {
            self.file.set("accountId", account_id);
        }
        self.file.set("apiToken", account.token.reveal());
        Ok(())
    }

    fn settings(&mut self) -> Result<(), CommandError> {
        let (args, now) = (self.args, self.config()?);
        let is_named = self.file.object.contains_key("agentId");
        let machine = if is_named { now.machine.to_string() } else { host_name() };
        let machine = self.answer(args.machine.as_ref(), "Name of this machine", &machine)?;
        let project = self.project(now.project_dir.as_str())?;
        let agent = now.engine.as_str();
        let agent = self.answer(args.agent.as_ref(), "Agent of threads that name none", agent)?;
        let relay = self.relay(now.relay_permissions)?;
        self.file.set("baseUrl", now.base_url);
        self.file.set("originHost", now.origin_host);
        self.file.set("agentId", machine.trim());
        self.file.set("projectDir", project.as_str());
        self.file.set("agent", agent.trim().to_lowercase());
        self.file.set("relayPermissions", relay);
        Ok(())
    }

    fn project(&mut self, default: &str) -> Result<Utf8PathBuf, CommandError> {
        let (flag, env) = (self.args.project.clone(), self.env);
        self.until_right(flag.as_ref(), "Project directory", default, |answer| {
            let path = match answer.strip_prefix("~") {
                Some(rest) if rest.is_empty() || rest.starts_with('/') => {
                    env.home.join(rest.trim_start_matches('/'))
                }
                _ => env.cwd.join(answer),
            };
            let path = camino::absolute_utf8(path)
                .map_err(|error| format!("the project directory {answer:?}: {error}"))?;
            let is_there = path.is_dir();
            is_there
                .then_some(path)
                .ok_or_else(|| format!("the project directory {answer} does not exist"))
        })
    }

    fn relay(&mut self, now: bool) -> Result<bool, CommandError> {
        let is_off = self.file.object.contains_key("relayPermissions") && !now;
        let default = if is_off { "no" } else { "yes" };
        let question = "Ask you before a tool runs (yes or no)";
        let flag = self.args.relay.clone();
        self.until_right(flag.as_ref(), question, default, |answer| {
            match answer.trim().to_lowercase().as_str() {
                "y" | "yes" | "1" | "true" => Ok(true),
                "n" | "no" | "0" | "false" => Ok(false),
                _ => Err(format!("{answer:?} is no answer; it must be yes or no (--relay)")),
            }
        })
    }

    /// A person is asked again; a flag or a default can't be.
    fn until_right<T>(
        &mut self,
        flag: Option<&String>,
        question: &str,
        default: &str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, CommandError> {
        for _ in 0..ASKED_MAX {
            let answer = self.answer(flag, question, default)?;
            match read(&answer) {
                Err(why) if flag.is_none() && self.console.interactive => {
                    self.console.complain(why);
                }
                read => return read.map_err(failed),
            }
        }
        Err(failed(format!("no answer to {question:?}")))
    }

    /// What the flag says, or else the person who is there, or else the default.
    fn answer(
        &mut self,
        flag: Option<&String>,
        question: &str,
        default: &str,
    ) -> io::Result<String> {
        flag.cloned().map_or_else(|| self.console.ask(question, default), Ok)
    }

    fn write(self, paths: &Paths, known: Option<Whoami>) -> Result<(), CommandError> {
        let config = self.config()?;
        let dir = paths.config_file.parent().expect("the config file is in a directory");
        RealDisk
            .create_dir(dir)
            .and_then(|()| RealDisk.write_atomic(&paths.config_file, &self.file.to_bytes()))
            .map_err(|error| {
                failed(format!("cannot write {}: {error}", paths.config_file.display()))
            })?;
        self.console.say(format!("Wrote {}.", short(&paths.config_file, self.env)));
        if let Some(whoami) = known {
            say_known(whoami, self.console);
            return Ok(());
        }
        verify(&config, paths, self.env, self.console)
    }
}

/// Tokens are `obto_[a-z0-9]+`, accounts `acc_[a-z0-9]+`, any case (protocol section 11).
fn check_shape(value: &str, prefix: &str, what: &str) -> Result<(), CommandError> {
    let fits = value.to_lowercase().strip_prefix(prefix).is_some_and(|rest| {
        !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_alphanumeric())
    });
    fits.then_some(())
        .ok_or_else(|| failed(format!("that is no {what}: it must look like {prefix}…")))
}

fn refused(error: Error) -> CommandError {
    CommandError { code: ExitCode::of_command(2), ..failed(error) }
}

fn say_known(whoami: Whoami, console: &mut Console<'_>) {
    let account = whoami.account_id.unwrap_or_else(|| "the account".to_owned());
    console.say(format!("The bridge knows {account}. Start with: obto-bridge start"));
}

fn verify(
    config: &Config,
    paths: &Paths,
    env: &Env,
    console: &mut Console<'_>,
) -> Result<(), CommandError> {
    let client = client::of(config, paths, env).map_err(failed)?;
    match client.whoami() {
        Ok(whoami) => {
            say_known(whoami, console);
        }
        Err(error @ Error::Network { .. }) => {
            console.complain(format!("warning: not verified: {error}"));
            console.say("Start with: obto-bridge start");
        }
        Err(error) => return Err(refused(error)),
    }
    Ok(())
}
