//! `serve backup`: a copy of the bridge's database while it runs.

use std::path::PathBuf;

use argh::FromArgs;

use crate::{
    cli::{ExitCode, ExitResult, console::Console, short},
    config::Env,
    serve::backup,
};

/// copy the database to a new file, also while the bridge runs
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "backup")]
pub(super) struct Args {
    /// directory of the bridge, if it is not that of `serve`
    #[argh(option)]
    pub(super) data: Option<PathBuf>,
    /// the file to be made; it must not exist
    #[argh(positional)]
    file: PathBuf,
}

/// `data` is the directory where it is not told with the arguments.
pub(super) fn run(args: Args, data: PathBuf, env: &Env, console: &mut Console<'_>) -> ExitResult {
    let data = args.data.map_or(data, |it| env.cwd.join(it));
    let file = env.cwd.join(args.file);
    backup::backup(&data, &file)?;
    console.say(format!("The bridge in {} is copied to {}", short(&data, env), file.display()));
    Ok(ExitCode::OK)
}
