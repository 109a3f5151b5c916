//! `journal show`: what the journal of messages and posts says, record by record, also of one that is
//! damaged, and while a daemon runs. It only reads.

use std::{fs, io::ErrorKind, path::PathBuf};

use anyhow::Context;
use argh::FromArgs;

use crate::{
    cli::{
        ExitCode, ExitResult,
        console::{Console, printable},
        failed,
    },
    config::Paths,
    logging::redact,
    store::journal::{self, Contents, Fact, Header, Piece, Place, Record, What},
};

/// see what waits on this machine, and what became of it
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "journal")]
pub(super) struct Args {
    #[argh(subcommand)]
    show: Show,
}

/// print the records of messages and posts that the daemon keeps, oldest first
#[derive(FromArgs, Debug)]
#[argh(
    subcommand,
    name = "show",
    note = "It only reads, also while a daemon runs.",
    error_code(1, "The file can't be read, is of a later version, or is damaged somewhere.")
)]
struct Show {
    /// print what people and agents wrote, too
    #[argh(switch)]
    bodies: bool,
    /// another file than that of this machine's daemon
    #[argh(positional)]
    file: Option<PathBuf>,
}

pub(super) fn run(args: Args, paths: &Paths, console: &mut Console<'_>) -> ExitResult {
    let Show { bodies, file } = args.show;
    let file = file.unwrap_or_else(|| journal::path(&paths.state_dir));
    let bytes = match fs::read(&file) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(failed(format!(
                "there is no {}: no daemon has begun one there; another one, such as DIR/daemon/journal \
                 of `local --data DIR`, has to be named",
                file.display()
            )));
        }
        bytes => bytes.with_context(|| format!("reading {}", file.display()))?,
    };
    let mut contents = Contents::default();
    let mut damaged = 0;
    console.say("TIME                      KIND            BYTES  WHAT");
    let read = |offset, length| Ok(journal::part(&bytes, offset, length).to_vec());
    let header = journal::scan(read, |piece| {
        damaged += usize::from(matches!(piece.what, What::Damage));
        if let What::Record(record) = &piece.what {
            let bytes = u32::try_from(piece.bytes.len()).unwrap_or(u32::MAX);
            contents.apply(&record.fact, Place { offset: piece.offset, bytes });
        }
        console.say(line(piece));
        if let (What::Record(record), true) = (&piece.what, bodies)
            && let Some(body) = body(record)
        {
            console.say(format!("    {}", printable(&redact(body))));
        }
        Ok(())
    });
    let header = header.with_context(|| format!("reading {}", file.display()))?;
    if let Header::Other(version) = header {
        let file = file.display();
        return Err(failed(format!("{file} is of version {version}, from a later obto-bridge")));
    }
    console.say(summary(&contents));
    damaged += usize::from(header == Header::Broken);
    if damaged > 0 {
        console.note(format!("damaged parts of {}: {damaged}", file.display()));
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::OK)
}

fn line(piece: &Piece<'_>) -> String {
    let (at, kind, what) = match &piece.what {
        What::Record(record) => {
            let (kind, what) = describe(&record.fact);
            (record.at.to_string(), kind, what)
        }
        What::Damage => (String::new(), "damaged", format!("at byte {}", piece.offset)),
        What::Torn => (String::new(), "unfinished", format!("at byte {}", piece.offset)),
    };
    format!("{at:<24}  {kind:<10} {:>10}  {what}", piece.bytes.len())
}

fn describe(fact: &Fact<'_>) -> (&'static str, String) {
    match fact {
        Fact::Message { entry, .. } => ("message", entry.to_string()),
        Fact::Progress { entry, .. } => ("progress", entry.to_string()),
        Fact::Post { id, finishes: None, .. } => ("post", id.to_string()),
        Fact::Post { id, finishes: Some(entry), .. } => ("post", format!("{id} answers {entry}")),
        Fact::Sent { id } => ("sent", id.to_string()),
        Fact::Done { entries, messages } => {
            let entries: Vec<String> = entries.iter().map(ToString::to_string).collect();
            let what = match messages.len() {
                0 => String::new(),
                count => format!(" ({count} remembered)"),
            };
            ("done", format!("{}{what}", entries.join(" ")).trim_start().to_owned())
        }
        Fact::Cursor { .. } => ("cursor", String::new()),
    }
}

fn body<'a>(record: &Record<'a>) -> Option<&'a str> {
    match record.fact {
        Fact::Message { reply: body, .. }
        | Fact::Progress { progress: body, .. }
        | Fact::Post { post: body, .. }
        | Fact::Cursor { cursor: body } => Some(body),
        Fact::Sent { .. } | Fact::Done { .. } => None,
    }
}

/// What comes of all records.
fn summary(contents: &Contents) -> String {
    let entries = contents.entries.values();
    let begun = entries.filter(|entry| entry.progress.is_some()).count();
    format!(
        "Messages to be answered: {}, begun: {begun}. Posts to be sent: {}. Messages remembered as \
         done: {}.",
        contents.entries.len(),
        contents.unsent().count(),
        contents.remembered().len()
    )
}
