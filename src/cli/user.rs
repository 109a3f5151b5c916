//! `serve user`: the accounts of a bridge of one's own, also while it runs. A password is never on a
//! command line: its owner chooses it in a browser, by a link that is good once, or it comes in on
//! standard input.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use argh::FromArgs;

use crate::{
    cli::{ExitCode, ExitResult, account, console::Console},
    config::Env,
    serve::{
        password::{self, Cost},
        store::{Store, accounts},
    },
    time,
};

/// accounts of the bridge, also while it runs
#[derive(FromArgs, Debug)]
#[argh(
    subcommand,
    name = "user",
    error_code(1, "There is no such account, the name is taken, or the directory can't be used.")
)]
pub(super) struct Args {
    #[argh(subcommand)]
    what: What,
}

#[derive(FromArgs, Debug)]
#[argh(subcommand)]
enum What {
    Add(Add),
    Passwd(Passwd),
    Remove(Remove),
    List(List),
}

/// make an account, and a link by which its owner signs in for the first time
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "add")]
struct Add {
    /// what its owner signs in as
    #[argh(positional)]
    name: String,
    /// read the password from standard input, instead of making a link
    #[argh(switch)]
    password_stdin: bool,
    /// directory of the bridge; default ~/.obto-bridge/serve
    #[argh(option)]
    data: Option<PathBuf>,
}

/// make a link by which the owner of an account sets another password
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "passwd", note = "The old password is good until the link is used.")]
struct Passwd {
    /// whose password
    #[argh(positional)]
    name: String,
    /// read the password from standard input, instead of making a link
    #[argh(switch)]
    password_stdin: bool,
    /// directory of the bridge; default ~/.obto-bridge/serve
    #[argh(option)]
    data: Option<PathBuf>,
}

/// remove an account with all that is its own; without --yes only say what that is
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "remove")]
struct Remove {
    /// which one
    #[argh(positional)]
    name: String,
    /// do it
    #[argh(switch)]
    yes: bool,
    /// directory of the bridge; default ~/.obto-bridge/serve
    #[argh(option)]
    data: Option<PathBuf>,
}

/// list the accounts
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "list")]
struct List {
    /// directory of the bridge; default ~/.obto-bridge/serve
    #[argh(option)]
    data: Option<PathBuf>,
}

/// `data` is the directory unless the command names one.
pub(super) fn run(args: Args, data: PathBuf, env: &Env, console: &mut Console<'_>) -> ExitResult {
    let dir = |own: &Option<PathBuf>| own.as_ref().map_or(data, |own| env.cwd.join(own));
    match args.what {
        What::Add(args) => add(&args, &dir(&args.data), console),
        What::Passwd(args) => passwd(&args, &dir(&args.data), console),
        What::Remove(args) => remove(&args, &dir(&args.data), console),
        What::List(args) => list(&dir(&args.data), console),
    }?;
    Ok(ExitCode::OK)
}

fn add(args: &Add, data: &Path, console: &mut Console<'_>) -> anyhow::Result<()> {
    let name = &accounts::canonical(&args.name);
    if let Some(problem) = accounts::name_problem(name) {
        bail!("the name {name:?} {problem}");
    }
    // Before anything is made, so that a bad one leaves nothing behind.
    let password = args.password_stdin.then(|| read_password(console)).transpose()?;
    let store = Store::open_beside(data)?;
    if !store.add_user(name)? {
        bail!("the account name {name:?} is taken; another password is set with: passwd");
    }
    console.say(format!("The account {name:?} is made."));
    finish(&store, name, password, data, console)
}

fn passwd(args: &Passwd, data: &Path, console: &mut Console<'_>) -> anyhow::Result<()> {
    let password = args.password_stdin.then(|| read_password(console)).transpose()?;
    finish(&existing(data)?, &args.name, password, data, console)
}

/// Sets the password, or makes a link for it.
fn finish(
    store: &Store,
    name: &str,
    password: Option<String>,
    data: &Path,
    console: &mut Console<'_>,
) -> anyhow::Result<()> {
    if let Some(hash) = password {
        if !store.set_password_of(name, &hash)? {
            return Err(unknown(name));
        }
        console.say("Its password is set, and its sessions are ended: sign in again.");
        return Ok(());
    }
    let code = store.welcome(name, time::now())?.with_context(|| unknown(name))?;
    console.say("Its owner sets a password with this link, once and within 24 hours:");
    console.say(account::link(data, &code));
    Ok(())
}

fn remove(args: &Remove, data: &Path, console: &mut Console<'_>) -> anyhow::Result<()> {
    let (store, users) = (existing(data)?, existing(data)?.users()?);
    let named = |name: &str| users.iter().find(|it| it.username == name);
    let user = named(&args.name).or_else(|| named(&accounts::canonical(&args.name)));
    let user = user.with_context(|| unknown(&args.name))?;
    let name = &user.username;
    let goes = format!(
        "its {} threads with all messages and attachments, its {} tokens, and who is signed in",
        user.threads, user.tokens
    );
    if !args.yes {
        bail!("with the account {name:?} goes all that is its own: {goes}. To do it, add --yes");
    }
    if !store.remove_user(name)? {
        return Err(unknown(name));
    }
    console.say(format!("The account {name:?} is removed, with {goes}."));
    Ok(())
}

fn list(data: &Path, console: &mut Console<'_>) -> anyhow::Result<()> {
    let users = existing(data)?.users()?;
    let width = users.iter().map(|it| it.username.chars().count()).max().unwrap_or_default();
    for user in users {
        let password = if user.has_password { "password" } else { "no password" };
        let seen = user.seen.map_or("never".to_owned(), |it| it.to_string());
        console.say(format!(
            "{:width$}  {password}, {} threads, {} tokens, made {}, browser last seen {seen}",
            user.username, user.threads, user.tokens, user.created
        ));
    }
    Ok(())
}

/// The bridge of a directory that has one.
fn existing(data: &Path) -> anyhow::Result<Store> {
    if !data.join("bridge.sqlite").exists() {
        bail!("there is no bridge in {}; name its directory with --data", data.display());
    }
    Store::open_beside(data)
}

fn unknown(name: &str) -> anyhow::Error {
    anyhow::anyhow!("there is no account {name:?}; the accounts are shown with: serve user list")
}

/// The hash of the password that is the next line of the input.
fn read_password(console: &mut Console<'_>) -> anyhow::Result<String> {
    let line = console.read_line().context("reading the password from standard input")?;
    let password = line.trim_end_matches(['\r', '\n']);
    if let Some(problem) = password::problem(password) {
        bail!("the password on standard input {problem}");
    }
    password::hash(password, Cost::default())
}
