//! One run: a home, a bridge, a sick network between them, a daemon that is killed and started
//! again, and people who go on writing meanwhile. Then everything calms down.

use std::{collections::BTreeMap, fs, net::SocketAddr, path::PathBuf, time::Duration};

use crossbeam_channel::{Receiver, after, unbounded};
use fastrand::Rng;
use obto_bridge::{
    serve::{Options, Server, password::Cost},
    store::{RealDisk, journal},
    task::{self, Task},
};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::{
    asking,
    check::{self, Tally},
    dice::{Dice, millis},
    proxy::{Mood, Proxy},
};
use crate::util::{
    bin::{Home, Running},
    daemon::left,
    fake,
    http::{Conn, Events, patient_limits, person},
    patience,
};

const THREADS: u32 = 10;
const MESSAGES: u32 = 50;
/// What the daemon takes for a silent stream, on an idle machine. On a busy one it would give up what
/// is only slow, again and again.
pub(super) const IDLE_LIMIT: Duration = Duration::from_millis(1500);

/// What a run, or many, came to.
#[derive(Debug, Default)]
pub(super) struct Figures {
    pub(super) tally: Tally,
    pub(super) counts: BTreeMap<String, u64>,
}

impl Figures {
    pub(super) fn add(&mut self, other: Figures) {
        self.tally.add(other.tally);
        for (kind, count) in other.counts {
            *self.counts.entry(kind).or_default() += count;
        }
    }

    fn count(&mut self, kind: &str) {
        *self.counts.entry(kind.to_owned()).or_default() += 1;
    }
}

fn millis_of(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap()
}

pub(super) fn wait(time: Duration) {
    after(time).recv().expect("a timer fires");
}

/// Everything but the daemon.
pub(super) struct Site {
    // Drop order matters: the network ends before the bridge.
    pub(super) proxy: Proxy,
    token: String,
    person: String,
    pub(super) server: Server,
    pub(super) home: Home,
    /// The bridge seems to be one that replays nothing.
    forgets: bool,
    pub(super) idle_limit: Duration,
}

impl Site {
    pub(super) fn new(dice: Dice, forgets: bool) -> Site {
        let home = Home::new();
        let listen = "127.0.0.1:0".parse().unwrap();
        let mut options = Options::new(listen, home.path().join("bridge"));
        options.heartbeat = Duration::from_millis(300);
        options.password_cost = Cost::CHEAP;
        options.limits = patient_limits();
        let server = Server::start(options).unwrap();
        let token = server.create_account("ada").unwrap().1.reveal().to_owned();
        let person = person(&server, "ada");
        let proxy = Proxy::start(dice, forgets, server.addr());
        let records = home.path().join("records");
        let idle_limit = patience::scaled(IDLE_LIMIT);
        let config = json!({
            "baseUrl": proxy.url(),
            "apiToken": token,
            "agentId": "ours",
            "agent": "fake",
            "agents": { "fake": { "command": [fake::program(), "acp", records] } },
            "projectDir": home.path(),
            "relayPermissions": true,
            "relayTimeoutMs": millis_of(asking::LIMIT),
            "maxTurns": 8,
            "drainSeconds": 1,
            "requestTimeoutMs": millis_of(idle_limit * 2 / 3),
            "streamIdleTimeoutMs": millis_of(idle_limit),
        });
        home.put(".obto-bridge/config.json", &config.to_string());
        Site { proxy, token, person, server, home, forgets, idle_limit }
    }

    /// Starts the daemon; what it logs goes into a file.
    pub(super) fn daemon(&self) -> Running {
        self.proxy.note("the daemon is started");
        let args = ["start", "--log-format", "text", "--log", "debug,ureq=warn,rustls=warn"];
        self.home.command(&args).after("exec >>daemon.log 2>&1").start()
    }

    /// Waits until a stream is open, and the daemon has kept the place where it began.
    pub(super) fn connected(&self) -> Result<(), String> {
        let hello = patience::recv(&self.proxy.hellos);
        hello.map_err(|_| "the daemon does not connect".to_owned())?;
        let has_place = || {
            let cursor = journal::look(&RealDisk, &self.state("")).unwrap().cursor();
            let place = cursor.unwrap_or_default();
            if self.forgets { place.seen_until.is_some() } else { place.last_event_id.is_some() }
        };
        if patience::comes_true(has_place) {
            Ok(())
        } else {
            Err("the daemon does not keep its place in the stream".to_owned())
        }
    }

    fn state(&self, name: &str) -> PathBuf {
        self.home.path().join(".agent-bridge-daemon").join(name)
    }

    /// Waits until nothing is left to do.
    fn settled(&self) -> Result<(), String> {
        let mut last = [0; 3];
        let is_settled = || {
            last = left(&self.state(""));
            last == [0; 3]
        };
        if !patience::comes_true(is_settled) {
            return Err(format!("{last:?} messages, turns and posts are left"));
        }
        match fs::read_dir(self.state("outbox/refused")).unwrap().next() {
            None => Ok(()),
            Some(refused) => Err(format!("{refused:?} was refused")),
        }
    }

    pub(super) fn person(&self) -> Person {
        Person { conn: Conn::open(self.server.addr()), access: self.person.clone() }
    }

    /// One for each post that ends a message.
    pub(super) fn answers(&self) -> Receiver<()> {
        let (answer, answers) = unbounded();
        let (addr, token): (SocketAddr, String) = (self.server.addr(), self.token.clone());
        let mut events = Events::open(addr, &token, "", None);
        let watch = move || {
            while let Some(event) = events.next() {
                if event.name == "message" && check::is_end(&event.data) {
                    answer.send(()).ok(); // The test may be over.
                }
            }
        };
        drop(task::spawn("watch", watch).unwrap());
        answers
    }

    /// What the engine was given and did.
    fn records(&self) -> String {
        fs::read_to_string(self.home.path().join("records")).unwrap_or_default()
    }

    pub(super) fn log(&self) -> String {
        fs::read_to_string(self.home.path().join("daemon.log")).unwrap_or_default()
    }
}

/// Somebody in front of the page, with a sound network.
pub(super) struct Person {
    conn: Conn,
    access: String,
}

impl Person {
    pub(super) fn write(&mut self, thread: &str, body: &str) {
        let body = json!({ "threadId": thread, "body": body });
        self.conn.request("POST", "/api/reply", &self.access, Some(&body)).ok();
    }

    pub(super) fn read(&mut self, thread: &str) -> Vec<Value> {
        let path = format!("/api/messages?threadId={thread}&limit=1000");
        let answer = self.conn.request("GET", &path, &self.access, None);
        match answer.status {
            // Nobody wrote on it.
            404 => Vec::new(),
            _ => answer.ok()["messages"].as_array().unwrap().clone(),
        }
    }
}

fn name(thread: u32) -> String {
    format!("thread-{thread}")
}

/// Writes all messages, at irregular intervals.
fn write_all(dice: Dice, mut person: Person) -> Task {
    let mut rng = dice.rng("people", 0);
    let write = move || {
        for number in 0..MESSAGES {
            wait(millis(&mut rng, 0..160));
            let slow = if rng.bool() { 0 } else { rng.u32(..400) };
            person.write(&name(rng.u32(..THREADS)), &format!("please do job/{number}/{slow}"));
        }
    };
    task::spawn("people", write).unwrap()
}

/// A bridge that forgets has nothing of a thread that nobody knows, so each thread has a message
/// before anything goes wrong.
pub(super) fn make_known(
    site: &Site,
    answers: &Receiver<()>,
    threads: &[String],
) -> Result<usize, String> {
    let mut person = site.person();
    for thread in threads {
        person.write(thread, &format!("please do job/{thread}/0"));
    }
    await_answers(answers, threads.len())?;
    Ok(threads.len())
}

/// Waits for so many answers.
pub(super) fn await_answers(answers: &Receiver<()>, due: usize) -> Result<(), String> {
    for number in 0..due {
        let answer = patience::recv(answers);
        answer.map_err(|_| format!("{number} of {due} messages are answered"))?;
    }
    Ok(())
}

/// Interrupts the daemon now and then, and returns the last one.
fn interrupt(
    site: &Site,
    dice: Dice,
    mut daemon: Running,
    figures: &mut Figures,
) -> Result<Running, String> {
    let mut rng: Rng = dice.rng("interruptions", 0);
    for _ in 0..rng.u32(3..8) {
        if rng.u32(..3) == 0 {
            // While it starts, or catches up.
            wait(millis(&mut rng, 0..250));
            daemon = kill(site, daemon, millis(&mut rng, 0..300), figures);
        }
        wait(millis(&mut rng, 200..1600));
        match rng.u32(..4) {
            0 => site.proxy.refuse_for(millis(&mut rng, 50..500)),
            1 => {
                // A refused token is tried again after half a minute, so a restart has to follow.
                site.proxy.set_mood(Mood::RefusesToken);
                wait(millis(&mut rng, 50..400));
            }
            _ => {}
        }
        if rng.u32(..3) == 0 {
            site.proxy.note("TERM");
            figures.count("TERM");
            stop(daemon)?;
            site.proxy.set_mood(Mood::Faulty);
            wait(millis(&mut rng, 0..300));
            daemon = site.daemon();
        } else {
            site.proxy.set_mood(Mood::Faulty);
            daemon = kill(site, daemon, millis(&mut rng, 0..300), figures);
        }
    }
    Ok(daemon)
}

/// Stops the daemon in order. It can only do that once it handles the signal, which on a busy machine
/// is long after it was started.
fn stop(daemon: Running) -> Result<(), String> {
    let status = format!("/proc/{}/status", daemon.pid());
    let handles_it = || {
        let status = fs::read_to_string(&status).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        let caught = u64::from_str_radix(caught.trim(), 16).unwrap();
        caught & (1 << (Signal::TERM.as_raw() - 1)) != 0
    };
    if !patience::comes_true(handles_it) {
        return Err("the daemon does not come to handle signals".to_owned());
    }
    daemon.signal(Signal::TERM);
    daemon.end().expect(0, &[]);
    Ok(())
}

/// Kills the daemon; returns the next one, which is started after a while.
pub(super) fn kill(
    site: &Site,
    daemon: Running,
    pause: Duration,
    figures: &mut Figures,
) -> Running {
    site.proxy.note("KILL");
    figures.count("KILL");
    daemon.signal(Signal::KILL);
    daemon.end();
    wait(pause);
    site.daemon()
}

pub(super) fn run(seed: u64, forgets: bool) -> Result<Figures, String> {
    let dice = Dice { seed };
    let site = Site::new(dice, forgets);
    let mut figures = Figures::default();
    let result = play(&site, dice, &mut figures);
    finish(&site, figures, result.and_then(|()| judge(&site, dice)))
}

/// With a report of all that happened if it went wrong.
pub(super) fn finish(
    site: &Site,
    mut figures: Figures,
    result: Result<Tally, String>,
) -> Result<Figures, String> {
    figures.tally = result.map_err(|why| {
        let log = site.log();
        let decisions = site.proxy.decisions().join("\n");
        format!("{why}\n\n{decisions}\n\n{log}")
    })?;
    for (kind, count) in site.proxy.counts() {
        *figures.counts.entry(kind).or_default() += count;
    }
    Ok(figures)
}

fn play(site: &Site, dice: Dice, figures: &mut Figures) -> Result<(), String> {
    let answers = site.answers();
    let daemon = site.daemon();
    site.connected()?;
    let all = (0..THREADS).map(name).chain((0..asking::THREADS).map(asking::name));
    let ours: Vec<String> = all.filter(|thread| !dice.is_stolen(thread)).collect();
    let known = if site.forgets { make_known(site, &answers, &ours)? } else { 0 };
    site.proxy.set_mood(Mood::Faulty);
    let people = write_all(dice, site.person());
    let asking = asking::start(dice, || site.person());
    let daemon = interrupt(site, dice, daemon, figures)?;
    people.join()?;
    site.proxy.set_mood(Mood::Calm);
    asking.into_iter().try_for_each(Task::join)?;

    let mut person = site.person();
    let due: usize =
        ours.iter().map(|it| person.read(it).into_iter().filter(check::is_job).count()).sum();
    await_answers(&answers, due - known)?;
    settle(site, daemon)
}

/// A daemon that starts once more has nothing to say.
pub(super) fn settle(site: &Site, daemon: Running) -> Result<(), String> {
    daemon.signal(Signal::KILL);
    daemon.end();
    while site.proxy.hellos.try_recv().is_ok() {}
    let daemon = site.daemon();
    site.connected()?;
    site.settled()?;
    daemon.signal(Signal::TERM);
    daemon.end().expect(0, &[]);
    Ok(())
}

fn judge(site: &Site, dice: Dice) -> Result<Tally, String> {
    let all: Vec<String> = (0..THREADS).map(name).collect();
    let mut tally = judge_threads(site, &all, |thread| dice.is_stolen(thread))?;
    let mut person = site.person();
    tally.allowed = asking::check(&site.records(), |thread| person.read(thread))?;
    let known = all.iter().filter(|thread| site.forgets && !dice.is_stolen(thread)).count();
    if tally.messages != MESSAGES as usize + known {
        return Err(format!("{tally:?}: {MESSAGES} were written, and {known} before"));
    }
    Ok(tally)
}

/// Judges what became of these threads, and what the engine was given.
pub(super) fn judge_threads(
    site: &Site,
    threads: &[String],
    is_stolen: impl Fn(&str) -> bool,
) -> Result<Tally, String> {
    let mut person = site.person();
    let mut tally = Tally::default();
    for thread in threads {
        let messages = person.read(thread);
        let judged = check::thread(&messages, is_stolen(thread));
        tally.add(judged.map_err(|why| format!("{thread}: {why}\n{}", json!(messages)))?);
    }
    tally.warned = check::records(&site.records())?;
    Ok(tally)
}
