//! The embedded bridge with many streams, with many writers, and with many messages to search in.

use std::{
    fmt::Write as _,
    io::{ErrorKind, Read as _, Write as _},
    net::TcpStream,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use rusqlite::{Connection as Database, params};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Resource, Rlimit, getrlimit, setrlimit},
};
use serde_json::json;

use super::{pause, serve::Access};
use crate::{
    bridge::Bridge,
    daemon::{Bench, Home, PATIENCE, Program},
    proc::{ms, now},
    stats::{Rounds, Row, figure},
};

const WRITERS: usize = 8;
const WRITING: Duration = Duration::from_secs(4);

const STREAMS: usize = 1000;
/// As many as a build without options for its limits takes.
const FEW_STREAMS: usize = 250;
const MOST_STREAMS: usize = 10_000;
const PACE: Duration = Duration::from_millis(50);
const POSTS: usize = 300;
/// A bar that a person does not notice.
const P99_MS: f64 = 30.0;
/// What streams may add to the time of a post.
const POST_FACTOR: f64 = 1.2;

const MESSAGES: usize = 200_000;
const SEARCH_MS: f64 = 50.0;
/// The index is made in the background, most of the time at rest.
const INDEX_TIME: Duration = Duration::from_mins(3);

type Group = fn(&Bench) -> Result<Vec<Row>>;

const GROUPS: [(&str, Group); 4] = [
    ("serve: 250 streams", |bench| with_streams(bench, FEW_STREAMS)),
    ("serve: 1,000 streams", |bench| with_streams(bench, STREAMS)),
    ("serve: 10,000 streams", most_streams),
    ("serve: search", search),
];

/// Another build may not have the options for one of them; the others are measured all the same.
pub(super) fn rows(bench: &Bench) -> Vec<Row> {
    let rows = |(name, group): (&str, Group)| {
        group(bench).unwrap_or_else(|error| vec![Row::failed(name, &error)])
    };
    GROUPS.into_iter().flat_map(rows).collect()
}

/// A bridge that takes so many streams of one account.
fn start(bench: &Bench, streams: usize) -> Result<(Program, Home, Access)> {
    let home = Home::new(bench, &Bridge::start()?)?;
    let most = (streams + 100).to_string();
    let mut args = vec!["serve", "--listen", "127.0.0.1:0"];
    if FEW_STREAMS < streams {
        let names =
            ["--max-connections", "--max-connections-per-address", "--max-streams-per-account"];
        args.extend(names.into_iter().flat_map(|name| [name, &most]));
    }
    let server = Program::start(&bench.program, &args, &home)?;
    let access = server.explain(Access::of(&server, &home))?;
    Ok((server, home, access))
}

/// Posts a second of one writer and of eight, each on a connection and a thread of its own.
pub(crate) fn writers(bench: &Bench) -> Result<Vec<Row>> {
    let (server, _home, access) = start(bench, 0)?;
    let rate = |writers: usize| {
        let until = Instant::now() + WRITING;
        let write = |n: usize| {
            let mut connection = access.connect()?;
            let body = json!({"threadId": format!("t{n}"), "body": "x".repeat(200)}).to_string();
            let mut count = 0_u32;
            while Instant::now() < until {
                connection.request(&access.head("POST", "/api/reply"), &body)?;
                count += 1;
            }
            anyhow::Ok(count)
        };
        thread::scope(|scope| {
            let writers: Vec<_> = (0..writers).map(|n| scope.spawn(move || write(n))).collect();
            let counts = writers.into_iter().map(|it| it.join().expect("it does not panic"));
            let count = counts.sum::<Result<u32>>()?;
            anyhow::Ok(f64::from(count) / WRITING.as_secs_f64())
        })
    };
    let measured = rate(1).and_then(|one| Ok((one, rate(WRITERS)?)));
    let (one, many) = server.explain(measured)?;
    server.stop()?;
    Ok(vec![
        Row::told(format!("serve: {WRITERS} writers, time for each post"), 1e3 / many, "ms")
            .note(format!("{} posts a second; of one writer {}", figure(many), figure(one))),
    ])
}

/// Streams that are read by this one thread.
struct Fleet {
    sockets: Vec<(TcpStream, Vec<u8>)>,
}

impl Fleet {
    fn open(access: &Access, count: usize) -> Result<Fleet> {
        let limit = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?;
        let mut sockets = Vec::with_capacity(count);
        for n in 0..count {
            // Browsers come last: each hears of every daemon that comes.
            let path = if n < count / 2 {
                format!("/api/bridge/stream?agentId=box{}", n % 50)
            } else {
                "/api/bridge/stream".to_owned()
            };
            let mut connection = access.connect()?;
            connection.socket.write_all(format!("{}\r\n", access.head("GET", &path)).as_bytes())?;
            connection.response_head().with_context(|| format!("stream {n}"))?;
            // Only from its first event on a stream has a place in what is published.
            while !connection.line()?.starts_with("event: hello") {}
            connection.socket.set_nonblocking(true)?;
            let rest = connection.reader.buffer().to_vec();
            sockets.push((connection.socket, rest));
        }
        Ok(Fleet { sockets })
    }

    /// Reads until each stream has had so many posts. How long each took, as it was read.
    fn hear(&mut self, posts: usize) -> Result<Vec<f64>> {
        let mut heard = vec![0; self.sockets.len()];
        let mut delays = Vec::with_capacity(posts * heard.len());
        let (mut buffer, until) = (vec![0; 64 * 1024], Instant::now() + 2 * PATIENCE);
        while heard.iter().any(|it| *it < posts) {
            ensure!(Instant::now() < until, "a stream waits for more");
            let sockets = self.sockets.iter();
            let mut fds: Vec<PollFd<'_>> =
                sockets.map(|(socket, _)| PollFd::new(socket, PollFlags::IN)).collect();
            poll(&mut fds, Some(&Timespec { tv_sec: 1, tv_nsec: 0 }))?;
            let ready: Vec<bool> = fds.iter().map(|it| !it.revents().is_empty()).collect();
            for (n, _) in ready.iter().enumerate().filter(|(_, it)| **it) {
                let (socket, rest) = &mut self.sockets[n];
                match socket.read(&mut buffer) {
                    Ok(0) => bail!("stream {n} ended after {} posts", heard[n]),
                    Ok(count) => rest.extend_from_slice(&buffer[..count]),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                    Err(error) => return Err(error.into()),
                }
                let at = now();
                while let Some(end) = rest.windows(2).position(|it| it == b"\n\n") {
                    let event: Vec<u8> = rest.drain(..end + 2).collect();
                    if let Some((number, sent)) = posted(&event) {
                        ensure!(
                            number == heard[n],
                            "post {number} came where {} was due",
                            heard[n]
                        );
                        heard[n] += 1;
                        delays.push(ms(sent, at));
                    }
                }
            }
        }
        Ok(delays)
    }
}

/// The number and the time in the body of a reply's event.
fn posted(event: &[u8]) -> Option<(usize, u64)> {
    let event = std::str::from_utf8(event).ok().filter(|it| it.contains("event: reply"))?;
    let body = event.split("\"body\":\"").nth(1)?.split('"').next()?;
    let mut words = body.split(' ');
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

/// Posts at a steady pace; how long each took. `word` is in front of each.
fn post(access: &Access, posts: usize, word: &str) -> Result<Vec<f64>> {
    let mut connection = access.connect()?;
    let (begun, mut took) = (Instant::now(), Vec::new());
    for n in 0..posts {
        let due = begun + PACE * u32::try_from(n)?;
        pause(due.saturating_duration_since(Instant::now()));
        let before = now();
        let body =
            json!({"threadId": "t", "body": format!("{word}{n} {before} {}", "x".repeat(200))});
        connection.request(&access.head("POST", "/api/reply"), &body.to_string())?;
        took.push(ms(before, now()));
    }
    Ok(took)
}

fn with_streams(bench: &Bench, streams: usize) -> Result<Vec<Row>> {
    let (server, _home, access) = start(bench, streams)?;
    let measured = || {
        let alone = Rounds::cut(&post(&access, POSTS, "alone ")?, 1);
        let (before, _) = server.process().memory()?;
        let mut fleet = Fleet::open(&access, streams)?;
        let (after, _) = server.process().memory()?;
        let mut hear = || {
            thread::scope(|scope| {
                let poster = scope.spawn(|| post(&access, POSTS, ""));
                let delays = fleet.hear(POSTS)?;
                anyhow::Ok((delays, poster.join().expect("it does not panic")?))
            })
        };
        let (delays, posts) = hear()?;
        anyhow::Ok((alone, Rounds::cut(&delays, 1), Rounds::cut(&posts, 1), after - before))
    };
    let (alone, delays, posts, memory) = server.explain(measured())?;
    server.stop()?;
    #[expect(clippy::cast_precision_loss, reason = "they are few")]
    let each = memory * 1000.0 / streams as f64;
    let what = format!("serve: {streams} streams, 20 posts/s");
    Ok(vec![
        Row::at_most(
            format!("{what}: reply posted → event, p99"),
            delays.percentile(99),
            P99_MS,
            "ms",
        )
        .note(format!("p50 {}", figure(delays.median()))),
        Row::at_most("… a post, p50", posts.median(), alone.median() * POST_FACTOR, "ms")
            .note(format!("without streams {}", figure(alone.median())))
            .note(format!("p99 {}", figure(posts.percentile(99)))),
        Row::told("… memory a stream", each, "KB"),
    ])
}

fn most_streams(bench: &Bench) -> Result<Vec<Row>> {
    const HEARD: usize = 3;
    let (server, _home, access) = start(bench, MOST_STREAMS)?;
    let measured = || {
        let (before, _) = server.process().memory()?;
        let mut fleet = Fleet::open(&access, MOST_STREAMS)?;
        let (after, _) = server.process().memory()?;
        let delays = thread::scope(|scope| {
            let poster = scope.spawn(|| post(&access, HEARD, ""));
            let delays = fleet.hear(HEARD)?;
            poster.join().expect("it does not panic")?;
            anyhow::Ok(delays)
        })?;
        anyhow::Ok((after - before, Rounds::cut(&delays, 1)))
    };
    let (memory, delays) = server.explain(measured())?;
    server.stop()?;
    #[expect(clippy::cast_precision_loss, reason = "they are few")]
    let each = memory * 1000.0 / MOST_STREAMS as f64;
    Ok(vec![
        Row::told(format!("serve: {MOST_STREAMS} streams: memory a stream"), each, "KB")
            .note("each heard every post once"),
        Row::told("… reply posted → event, p99", delays.percentile(99), "ms"),
    ])
}

/// Messages of an older version: put into the database, which has no index then.
fn fill(database: &Path) -> Result<f64> {
    let mut database = Database::open(database)?;
    let tx = database.transaction()?;
    let account: i64 = tx.query_row("SELECT id FROM accounts", (), |row| row.get(0))?;
    {
        let mut thread = tx.prepare(
            "INSERT INTO threads (account, thread_id, title, created, last) VALUES (?, ?, ?, ?, ?)",
        )?;
        let mut message = tx.prepare(
            "INSERT INTO messages (thread, message_id, author, role, body, created)
             VALUES (?, ?, 'a', 'agent', ?, ?)",
        )?;
        let (mut random, mut bytes) = (fastrand::Rng::with_seed(7), 0);
        let words: Vec<String> = (0..5000)
            .map(|_| (0..random.usize(2..9)).map(|_| random.char('a'..='y')).collect())
            .collect();
        let mut key = 0;
        for n in 0..i64::try_from(MESSAGES)? {
            if n % 100 == 0 {
                thread.execute(params![
                    account,
                    format!("old{n}"),
                    format!("thread {n}"),
                    n,
                    n + 99
                ])?;
                key = tx.last_insert_rowid();
            }
            let mut body = String::new();
            while body.len() < 220 {
                // Few words are frequent.
                let word = random.usize(0..words.len()).min(random.usize(0..words.len()));
                write!(body, "{} ", words[word])?;
            }
            message.execute(params![key, format!("old{n}"), body, n])?;
            bytes += body.len();
        }
        tx.execute(
            "INSERT INTO messages (thread, message_id, author, role, body, created)
                    VALUES (?, 'last', 'a', 'agent', 'zzz', 1000000000)",
            [key],
        )?;
        drop((thread, message));
        tx.commit()?;
        #[expect(clippy::cast_precision_loss, reason = "a few MB")]
        Ok(bytes as f64 / 1e6)
    }
}

fn search(bench: &Bench) -> Result<Vec<Row>> {
    let (server, home, _) = start(bench, 0)?;
    server.stop()?;
    let dir = home.token_file().with_file_name("");
    let text = fill(&dir.join("bridge.sqlite"))?;
    // It has the address of before.
    let root = dir.ancestors().nth(2).context("a home is above it")?;
    std::fs::remove_file(root.join("program.log"))?;
    let server = Program::start(&bench.program, &["serve", "--listen", "127.0.0.1:0"], &home)?;
    let access = server.explain(Access::of(&server, &home))?;
    let measured = || {
        let mut connection = access.connect()?;
        // As a page does it: on and on, until there is no more. How long, and how many requests.
        let mut find = |word: &str| {
            let (begun, mut before, mut requests) = (now(), String::new(), 0);
            loop {
                let path = format!("/api/threads?q={word}{before}");
                let answer = connection.ask(&access.head("GET", &path), "")?;
                requests += 1;
                let answer: serde_json::Value = serde_json::from_slice(&answer)?;
                let is_found = answer["threads"].as_array().is_some_and(|it| !it.is_empty());
                match answer["next"].as_str() {
                    Some(next) if !is_found => before = format!("&before={next}"),
                    _ => return anyhow::Ok((ms(begun, now()), requests)),
                }
            }
        };
        let first = find("zabsentz")?;
        let until = Instant::now() + INDEX_TIME;
        let (mut indexed, begun) = (None, now());
        while Instant::now() < until {
            if find("zabsentz")?.1 == 1 {
                indexed = Some(ms(begun, now()) / 1e3);
                break;
            }
            pause(Duration::from_millis(500));
        }
        let mut absent = Vec::new();
        for _ in 0..20 {
            absent.push(find("zabsentz")?.0);
        }
        anyhow::Ok((first, indexed, Rounds::cut(&absent, 4), find("zzz")?.0))
    };
    let (first, indexed, absent, rare) = server.explain(measured())?;
    server.stop()?;
    let size = |name: &str| {
        dir.join(name).metadata().map_or(0.0, |it| {
            #[expect(clippy::cast_precision_loss, reason = "a few MB")]
            let bytes = it.len() as f64;
            bytes / 1e6
        })
    };
    let indexed = indexed.map_or("never".to_owned(), |it| format!("after {} s", figure(it)));
    Ok(vec![
        Row::at_most(
            format!("serve: search of an absent word in {MESSAGES} messages"),
            absent.median(),
            SEARCH_MS,
            "ms",
        )
        .note(format!("before the index {} in {} requests", figure(first.0), first.1))
        .note(format!("indexed {indexed}"))
        .note(format!("a rare word {}", figure(rare))),
        Row::told("… size of the index", size("search.sqlite"), "MB").note(format!(
            "of {} MB of text, database {} MB",
            figure(text),
            figure(size("bridge.sqlite"))
        )),
    ])
}
