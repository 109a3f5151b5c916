//! `serve`: a bridge of one's own, without a daemon.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::bail;
use argh::FromArgs;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{
    cli::{ExitCode, ExitResult, account, backup, console::Console, logs, user},
    config::{Env, Paths},
    logging::Format,
    serve::{
        Options, Server,
        http::{Limits, tls},
    },
    signals::{self, Signal},
};

/// Open files that the bridge needs besides a connection's: its database, and the refusals of connections
/// that find no place.
const OWN_FILES: usize = 128;

/// The account of the person who runs the bridge.
const OWNER: &str = "owner";

/// run a bridge of your own, until INT or TERM
#[derive(FromArgs, Debug)]
#[argh(
    subcommand,
    name = "serve",
    error_code(1, "It can't start: the address, the directory or its contents.")
)]
pub(super) struct Args {
    /// address and port; default 127.0.0.1:4780. Port 0 takes a free one
    #[argh(option, default = "SocketAddr::from(([127, 0, 0, 1], 4780))")]
    listen: SocketAddr,
    /// PEM file of the server's certificate and its chain; turns TLS on
    #[argh(option)]
    tls_cert: Option<PathBuf>,
    /// PEM file of the certificate's key, mode 600
    #[argh(option)]
    tls_key: Option<PathBuf>,
    /// allow an address that other machines can reach without TLS
    #[argh(switch)]
    public: bool,
    /// a proxy on this machine hands requests on: believe what it says of a client's address
    #[argh(switch)]
    behind_proxy: bool,
    /// directory of everything the bridge knows; default ~/.obto-bridge/serve
    #[argh(option)]
    data: Option<PathBuf>,
    /// let everybody who can reach the bridge open an account
    #[argh(switch)]
    allow_register: bool,
    /// name by which browsers may call the bridge, besides localhost and addresses; may be repeated
    #[argh(option)]
    host: Vec<String>,
    /// remove messages that are older, but never a thread's newest; default 0, keep all
    #[argh(option, default = "0")]
    keep_days: u32,
    /// connections at the same time; default 1024. Each is an open file
    #[argh(option)]
    max_connections: Option<usize>,
    /// connections from one address (an IPv6 network of 64 bits) at the same time; default 512
    #[argh(option)]
    max_connections_per_address: Option<usize>,
    /// event streams of one account at the same time: its machines and open pages; default 256
    #[argh(option)]
    max_streams_per_account: Option<usize>,
    /// json or text; text if standard error is a terminal
    #[argh(option, from_str_fn(Format::parse))]
    log_format: Option<Format>,
    /// what is logged to standard error, in the form of `RUST_LOG`, which it replaces
    #[argh(option)]
    log: Option<String>,
    #[argh(subcommand)]
    action: Option<ServeAction>,
}

/// What else is done to a bridge.
#[derive(FromArgs, Debug)]
#[argh(subcommand)]
enum ServeAction {
    Backup(backup::Args),
    User(user::Args),
}

pub(super) fn run(args: Args, env: &Env, paths: &Paths, console: &mut Console<'_>) -> ExitResult {
    let data = match &args.data {
        Some(data) => env.cwd.join(data),
        None => paths.config_file.with_file_name("serve"),
    };
    match args.action {
        Some(ServeAction::Backup(action)) => return backup::run(action, data, env, console),
        Some(ServeAction::User(action)) => return user::run(action, data, env, console),
        None => {}
    }
    logs::to_stderr(args.log_format, args.log.as_deref(), env, false);
    serve(args, data, env, console)?;
    Ok(ExitCode::OK)
}

/// Every connection is an open file, and the usual limit leaves room for few: it is raised as far as
/// need be. Gives how many connections there is room for.
fn allow_files(connections: usize) -> usize {
    let limit = getrlimit(Resource::Nofile);
    let wanted = u64::try_from(connections.saturating_add(OWN_FILES)).unwrap_or(u64::MAX);
    let possible = limit.maximum.map_or(wanted, |it| it.min(wanted));
    let mut allowed = limit.current.unwrap_or(u64::MAX);
    if allowed < possible {
        match setrlimit(Resource::Nofile, Rlimit { current: Some(possible), ..limit }) {
            Ok(()) => allowed = possible,
            Err(error) => log::warn!("the limit of open files stays as it is: {error}"),
        }
    }
    let room = usize::try_from(allowed).unwrap_or(usize::MAX).saturating_sub(OWN_FILES);
    connections.min(room)
}

/// The limits that were asked for.
///
/// # Errors
/// One is 0, or the system does not allow so many open files.
fn limit(args: &Args, options: &mut Options) -> anyhow::Result<()> {
    let given = [
        ("--max-connections", args.max_connections),
        ("--max-connections-per-address", args.max_connections_per_address),
        ("--max-streams-per-account", args.max_streams_per_account),
    ];
    if let Some((name, _)) = given.iter().find(|(_, count)| *count == Some(0)) {
        bail!("{name} is 0, which would let nobody in; give 1 or more");
    }
    let Limits { connections, per_address, .. } = &mut options.limits;
    *connections = args.max_connections.unwrap_or(*connections);
    *per_address = args.max_connections_per_address.unwrap_or(*per_address);
    options.account_streams = args.max_streams_per_account.unwrap_or(options.account_streams);
    let room = allow_files(*connections);
    if room < *connections {
        let needed = connections.saturating_add(OWN_FILES);
        let short = format!(
            "{connections} connections need {needed} open files, and the system allows no more than \
             leave room for {room}: raise its limit (`ulimit -Hn {needed}`, or LimitNOFILE={needed} \
             of a systemd service)"
        );
        if args.max_connections.is_some() || room == 0 {
            bail!("{short}, or give a lower --max-connections");
        }
        log::warn!("{short}; only {room} connections are taken");
        *connections = room;
    }
    Ok(())
}

fn serve(args: Args, data: PathBuf, env: &Env, console: &mut Console<'_>) -> anyhow::Result<()> {
    let signals = signals::watch()?;
    let mut options = Options::new(args.listen, data.clone());
    limit(&args, &mut options)?;
    options.tls = match (args.tls_cert, args.tls_key) {
        (Some(cert), Some(key)) => {
            Some(tls::Files { cert: env.cwd.join(cert), key: env.cwd.join(key) })
        }
        (None, None) => None,
        _ => bail!("--tls-cert and --tls-key belong together: give both or neither"),
    };
    let scheme = if options.tls.is_some() { "https" } else { "http" };
    options.public = args.public;
    options.behind_proxy = args.behind_proxy;
    let days = u64::from(args.keep_days);
    options.retention.messages = (0 < days).then(|| Duration::from_hours(24 * days));
    options.allow_register = args.allow_register;
    options.hosts = args.host;
    let host = options.hosts.first().cloned();
    let server = Server::start(options)?;
    let page = match host {
        // The proxy speaks TLS, on the port that needs not be named.
        Some(host) if args.behind_proxy => format!("https://{host}"),
        Some(host) => format!("{scheme}://{host}:{}", server.addr().port()),
        None => format!("{scheme}://{}", account::reachable(server.addr())),
    };
    console.say(format!("The bridge is at {scheme}://{}", server.addr()));
    offer_token(&server, &data, &format!("{scheme}://{}", server.addr()), console)?;
    account::keep_address(&data, &page);
    if let Some(code) = server.welcome(OWNER)? {
        console.say("Sign in for the first time with this link, once and within 24 hours:");
        console.say(account::link(&data, &code));
    } else {
        console.say(format!("Sign in as {OWNER:?} at {page}/api/view"));
    }
    while let Ok(Signal::HangUp) = signals.rx.recv() {
        log::info!("HUP is ignored");
    }
    server.stop();
    Ok(())
}

/// Says how a machine is connected, with a new token if there is no good one and no account.
fn offer_token(
    server: &Server,
    data: &Path,
    address: &str,
    console: &mut Console<'_>,
) -> anyhow::Result<()> {
    let file = account::token_file(data);
    let file = file.display();
    let stored = account::stored(data)?;
    let is_good = match &stored {
        Some(token) => server.takes_token(token.reveal())?,
        None => false,
    };
    if !is_good && server.has_account(OWNER)? {
        if stored.is_some() {
            console.say(format!(
                "The token in {file} was replaced or revoked and is no longer valid. Sign in and \
                 make another under Machines."
            ));
        }
        // The owner may have moved the token elsewhere; the bridge works without the file.
        return Ok(());
    }
    if !is_good {
        if let Err(error) = account::create(server, OWNER, data) {
            log::warn!("no account was made: {error:#}");
            return Ok(());
        }
        if stored.is_some() {
            console.say(format!(
                "The database in {} has no account {OWNER:?}: it is new, or was emptied. So the token \
                 in {file} was no longer valid and was replaced. Machines that still have the old token \
                 are refused: give them the new one. If the database was lost, restore a copy instead.",
                data.display()
            ));
        }
    }
    console.say(format!("The token of its account {OWNER:?} is in {file}"));
    console.say(format!(
        "Connect a machine with: obto-bridge init --base-url {address} --token - < {file}"
    ));
    Ok(())
}
