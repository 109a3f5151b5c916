//! The embedded bridge under the load of a team: many streams, steady posts, and one listener that
//! does not read. An event that is lost, doubled or out of order fails the whole row.

use std::{
    io::{BufRead as _, Write as _},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use crossbeam_channel::{Receiver, bounded};
use serde_json::json;

use super::{
    pause,
    serve::{Access, Connection},
};
use crate::{
    bridge::Bridge,
    daemon::{Bench, Home, PATIENCE, Program},
    proc::{ms, now},
    stats::{Rounds, Row, figure},
};

const STREAMS: usize = 200;
const POSTS: usize = 50 * 60;
/// A message is a few lines, and the deaf one's buffers get full.
const BODY_BYTES: usize = 2000;
const PACE: Duration = Duration::from_millis(20);
/// A bar that a person does not notice.
const P99_MS: f64 = 100.0;
const ROUNDS: usize = 6;

pub(crate) fn load(bench: &Bench) -> Result<Vec<Row>> {
    let home = Home::new(bench, &Bridge::start()?)?;
    let server = Program::start(&bench.program, &["serve", "--listen", "127.0.0.1:0"], &home)?;
    let measured = Access::of(&server, &home).and_then(|access| measure(&access));
    let (deliveries, behind) = server.explain(measured)?;
    let (resident, peak) = server.process().memory()?;
    server.stop()?;
    let p99 = deliveries.percentile(99);
    let what = format!("serve: {STREAMS} streams, 50 posts/s for a minute");
    Ok(vec![
        Row::at_most(format!("{what}: reply posted → event, p99"), p99, P99_MS, "ms")
            .note(format!("p50 {}", figure(deliveries.median())))
            .note(format!("longest {}", figure(deliveries.percentile(100))))
            .note(format!("posts at most {} ms late", figure(behind)))
            .note("nothing lost, nothing doubled, one listener deaf"),
        Row::told("… resident memory", resident, "MB").note(format!("peak {}", figure(peak))),
    ])
}

/// How long deliveries took, and how much the posts were late at worst, in milliseconds.
fn measure(access: &Access) -> Result<(Rounds, f64)> {
    // It reads neither its head nor anything else.
    let mut deaf = access.connect()?;
    let head = access.head("GET", "/api/bridge/stream?agentId=deaf");
    deaf.socket.write_all(format!("{head}\r\n").as_bytes())?;
    let mut listeners = Vec::new();
    for n in 0..STREAMS {
        listeners.push(listen(access, (n % 2 == 0).then(|| format!("?agentId=box{n}")))?);
    }
    let mut poster = access.connect()?;
    let text = "x".repeat(BODY_BYTES);
    let (begun, mut behind) = (Instant::now(), Duration::ZERO);
    for n in 0..POSTS {
        let due = begun + PACE * u32::try_from(n)?;
        pause(due.saturating_duration_since(Instant::now()));
        behind = behind.max(due.elapsed());
        let body =
            json!({"threadId": format!("t{}", n % 20), "body": format!("{n} {} {text}", now())});
        poster.request(&access.head("POST", "/api/reply"), &body.to_string())?;
    }
    let mut all = Vec::new();
    for (n, listener) in listeners.iter().enumerate() {
        let delays = listener.recv_timeout(PATIENCE).context("a listener waits for more")?;
        all.push(delays.with_context(|| format!("stream {n}"))?);
    }
    // By the time of the posts, so that the rounds show whether it gets slower.
    let samples: Vec<f64> = (0..POSTS).flat_map(|n| all.iter().map(move |it| it[n])).collect();
    Ok((Rounds::cut(&samples, ROUNDS), behind.as_secs_f64() * 1e3))
}

/// Listens until the last post; what comes is how long each took.
fn listen(access: &Access, machine: Option<String>) -> Result<Receiver<Result<Vec<f64>>>> {
    let mut connection = access.connect()?;
    let path = format!("/api/bridge/stream{}", machine.unwrap_or_default());
    connection.socket.write_all(format!("{}\r\n", access.head("GET", &path)).as_bytes())?;
    connection.response_head()?;
    // Only from its first event on a stream has a place in what is published.
    while !connection.line()?.starts_with("event: hello") {}
    let (sender, heard) = bounded(1);
    thread::Builder::new().stack_size(256 * 1024).spawn(move || {
        // Nobody waits any more if the run has failed elsewhere.
        sender.send(hear(connection)).ok();
    })?;
    Ok(heard)
}

fn hear(connection: Connection) -> Result<Vec<f64>> {
    let (mut took, mut reply) = (Vec::with_capacity(POSTS), false);
    for line in connection.reader.lines() {
        let line = line?;
        if let Some(name) = line.strip_prefix("event: ") {
            reply = name == "reply";
        }
        let Some(data) = line.strip_prefix("data: ").filter(|_| reply) else { continue };
        let at = now();
        let body = data.split("\"body\":\"").nth(1).and_then(|it| it.split('"').next());
        let mut words = body.unwrap_or_default().split(' ');
        let (Some(n), Some(sent)) = (words.next(), words.next()) else { bail!("no body") };
        if n.parse() != Ok(took.len()) {
            bail!("post {n} came where {} was due", took.len());
        }
        took.push(ms(sent.parse()?, at));
        if took.len() == POSTS {
            return Ok(took);
        }
    }
    Err(anyhow!("the stream ended after {} posts", took.len()))
}
