//! `status`: what the running daemon says of itself, and what state.json says of the threads.

use std::{
    fs, io,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use argh::FromArgs;
use crossbeam_channel::tick;
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    cli::{
        ExitCode, ExitResult,
        console::{Console, printable},
        duration, short,
    },
    config::{Env, Paths},
    daemon::status::Status,
    ids::{Engine, MachineId, SessionId},
    store::binding::Binding,
    time::{self, Timestamp},
};

/// say whether the daemon runs and is connected, what it does, and which threads it has
#[derive(FromArgs, Debug)]
#[argh(
    subcommand,
    name = "status",
    note = "The exit code is 0 only when a daemon runs and is connected.",
    error_code(1, "The state file can't be read."),
    error_code(69, "No daemon runs, or it is not connected to the bridge.")
)]
pub(super) struct Args {
    /// print a JSON object
    #[argh(switch)]
    json: bool,
    /// wait until the daemon is connected, at most that long: 90s, 10m, 2h
    #[argh(option, from_str_fn(duration))]
    wait: Option<Duration>,
    /// directory of the state in place of ~/.agent-bridge-daemon
    #[argh(option)]
    state_dir: Option<PathBuf>,
}

/// A session, or a thread that has none.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    thread_id: String,
    agent_id: Option<MachineId>,
    agent: Option<Engine>,
    session_id: Option<SessionId>,
    project_dir: Option<String>,
    last_drive_at: Option<Timestamp>,
}

/// Between two looks whether the daemon is connected by now.
const LOOK: Duration = Duration::from_millis(100);

pub(super) fn run(args: Args, env: &Env, paths: &Paths, console: &mut Console<'_>) -> ExitResult {
    let paths = &paths.clone().with_state_dir(args.state_dir.as_deref(), env);
    let is_connected =
        || Status::of_running(&paths.state_dir).is_some_and(|it| it.connected_since.is_some());
    if let Some(end) = args.wait.and_then(|wait| Instant::now().checked_add(wait)) {
        // Nobody sends on it: it is a clock.
        let clock = tick(LOOK);
        while !is_connected() && Instant::now() < end && clock.recv().is_ok() {}
    }
    let file = paths.state_dir.join("state.json");
    let rows = match fs::read(&file) {
        Ok(bytes) => rows(&bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            console
                .note(format!("There are no threads yet: {} does not exist.", short(&file, env)));
            Ok(Vec::new())
        }
        Err(error) => Err(error.into()),
    };
    let rows = rows.with_context(|| format!("reading {}", file.display()))?;
    let daemon = Status::of_running(&paths.state_dir);
    if args.json {
        console.say_json(&json!({ "daemon": daemon, "threads": rows }));
    } else {
        console.say(summary(daemon.as_ref(), time::now()));
        if !rows.is_empty() {
            console.say(format!("\n{}", table(&rows, time::now())));
        }
    }
    let is_connected = daemon.is_some_and(|it| it.connected_since.is_some());
    Ok(if is_connected { ExitCode::OK } else { ExitCode::UNAVAILABLE })
}

/// The daemon in a few lines.
fn summary(daemon: Option<&Status>, now: Timestamp) -> String {
    let Some(status) = daemon else { return "No daemon is running.".to_owned() };
    let ago = |at: Timestamp| time::age(now.since(at));
    let mut lines = vec![format!(
        "Daemon     {} (pid {}), running for {}",
        one_line(status.agent_id.as_str()),
        status.pid,
        ago(status.started_at)
    )];
    lines.push(match (status.connected_since, &status.problem) {
        (Some(since), _) => format!("Bridge     connected for {}", ago(since)),
        (None, Some(problem)) => {
            let next = status.next_try_at.map(|at| time::age(at.since(now))).unwrap_or_default();
            format!("Bridge     not connected: {}; next try in {next}", one_line(problem))
        }
        (None, None) => "Bridge     not connected yet".to_owned(),
    });
    let last = status.last_event_at.map_or("none yet".to_owned(), |at| format!("{} ago", ago(at)));
    lines.push(format!("Message    {last}"));
    lines.push(format!(
        "Waiting    {} to be answered, {} to be sent, {} refused by the bridge",
        status.inbox, status.outbox, status.refused
    ));
    lines.extend(status.turns.iter().map(|turn| {
        let thread = one_line(turn.thread_id.as_str());
        format!("Turn       {thread}: {} for {}", one_line(turn.agent.as_str()), ago(turn.since))
    }));
    lines.join("\n")
}

/// Reads state.json of either version.
fn rows(bytes: &[u8]) -> anyhow::Result<Vec<Row>> {
    let state: Value = serde_json::from_slice(bytes)?;
    let Value::Object(mut state) = state else { bail!("it holds no JSON object") };
    let bindings = match state.remove("bindings") {
        Some(Value::Object(bindings)) => bindings,
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(_) => bail!("\"bindings\" is no JSON object"),
    };
    let rows = bindings.into_iter().flat_map(|(thread, value)| of_binding(&thread, value));
    Ok(rows.collect())
}

fn of_binding(thread: &str, value: Value) -> Vec<Row> {
    let Binding { machine: agent_id, sessions, .. } = Binding::from(value);
    let row = || Row { thread_id: thread.to_owned(), agent_id: agent_id.clone(), ..Row::default() };
    if sessions.is_empty() {
        return vec![row()];
    }
    let sessions = sessions.into_iter().map(|(engine, session)| Row {
        agent: Some(engine),
        session_id: Some(session.session_id),
        project_dir: session.project_dir,
        last_drive_at: session.last_drive_at,
        ..row()
    });
    sessions.collect()
}

fn table(rows: &[Row], now: Timestamp) -> String {
    let head = ["THREAD", "AGENT", "SESSION", "LAST DRIVE"].map(str::to_owned);
    let cells = rows.iter().map(|row| {
        let engine = row.agent.as_ref().map_or("-", Engine::as_str);
        let session = row.session_id.as_ref().map_or("-", SessionId::as_str);
        let age = row.last_drive_at.map_or("-".to_owned(), |at| time::age(now.since(at)) + " ago");
        [one_line(&row.thread_id), one_line(engine), one_line(session), age]
    });
    let lines: Vec<[String; 4]> = std::iter::once(head).chain(cells).collect();
    let width = |column: usize| {
        lines.iter().map(|line| line[column].chars().count()).max().unwrap_or_default()
    };
    let widths = [width(0), width(1), width(2)];
    let lines = lines.iter().map(|[thread, engine, session, age]| {
        let [first, second, third] = widths;
        format!("{thread:first$}  {engine:second$}  {session:third$}  {age}")
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn one_line(text: &str) -> String {
    printable(text).replace(['\n', '\t'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(state: &str, expected: &str) {
        let now = Timestamp::parse("2026-11-22T12:00:00Z").unwrap();
        assert_eq!(table(&rows(state.as_bytes()).unwrap(), now), expected, "{state}");
    }

    #[test]
    fn both_versions_and_odd_values_make_rows() {
        check(
            r#"{"bindings":{"t1":{"sessionId":"s-1","lastDriveAt":"2026-11-22T11:00:00Z"}}}"#,
            "THREAD  AGENT   SESSION  LAST DRIVE\n\
             t1      claude  s-1      60 min ago",
        );
        check(
            r#"{"bindings":{"thread_2":{"sessions":{"codex":{"sessionId":"c"},
                "claude":{"sessionId":"\u001b[2Jä","lastDriveAt":"2026-11-20T12:00:00Z"}}},"x":7}}"#,
            "THREAD    AGENT   SESSION  LAST DRIVE\n\
             thread_2  claude  \u{fffd}[2Jä    2 d ago\n\
             thread_2  codex   c        -\n\
             x         -       -        -",
        );
        check("{}", "THREAD  AGENT  SESSION  LAST DRIVE");
        check(r#"{"bindings":null}"#, "THREAD  AGENT  SESSION  LAST DRIVE");
    }

    #[test]
    fn a_broken_file_is_an_error() {
        for (state, expected) in [
            ("{\"bindings\": {\n}", "line 2"),
            ("[]", "no JSON object"),
            (r#"{"bindings":[]}"#, "bindings"),
        ] {
            let error = format!("{:#}", rows(state.as_bytes()).unwrap_err());
            assert!(error.contains(expected), "{error}");
        }
    }
}
