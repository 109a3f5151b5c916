//! The task `stream`: what people say, from the bridge to the dispatcher, over connections that
//! come and go. A reply is kept on disk before it is handed over, and only then does the position
//! in the stream (`Last-Event-ID`) move past it.

mod clock;
mod connect;
mod handle;

use std::{
    io::{self, Read},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender, bounded, select};
use ureq::{Body, config::Config};

pub use self::handle::Handle;

use self::{
    clock::Clocks,
    connect::{Ask, Opened},
    handle::{Line, LineState},
};
use super::{
    AccessSource, Error, Net,
    backoff::{Backoff, Pace},
    resolver,
    sse::{self, Event, Item, Parser},
    wire::{NoReply, Reply, text},
};
use crate::{
    ids::{MachineId, ThreadId},
    task,
};

/// A silent connection is looked at this often within the idle limit: the machine may have slept.
/// Every read has that much time, those of the response's head too: 15 s by default.
const GLANCES: u32 = 5;
/// How often a wait between two connections looks whether the machine slept.
const WAIT_GLANCE: Duration = Duration::from_secs(5);
/// How often a refused token is complained about in the log.
const COMPLAIN_EVERY: Duration = Duration::from_mins(1);
const BUFFER: usize = 64 * 1024;
/// Events between this task and the dispatcher. When it is full, TCP pushes back.
const EVENTS: usize = 64;
/// A longer id would not fit into the head of a request.
const MAX_ID: usize = 1024;

/// What a stream is started with.
#[derive(Clone, Debug)]
pub struct Settings {
    pub machine: MachineId,
    /// Engines that work on this machine.
    pub capabilities: Vec<String>,
    /// The position to go on from, as the last [`StreamEvent::Reply`] gave it.
    pub last_event_id: Option<String>,
    /// A connection that is silent for longer is dead. Comments are life, too.
    pub idle: Duration,
    /// The longest event that is read, in bytes.
    pub max_event: usize,
    pub pace: Pace,
}

impl Settings {
    pub fn new(machine: MachineId) -> Settings {
        Settings {
            machine,
            capabilities: Vec::new(),
            last_event_id: None,
            idle: Duration::from_secs(75),
            max_event: sse::MAX_BYTES,
            pace: Pace::default(),
        }
    }
}

/// What the stream reports. `T` is what keeping a reply returned.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "almost every event is a reply")]
pub enum StreamEvent<T> {
    /// Once for each connection, before its replies. With a position to go on from it waits for the
    /// bridge's first event, which may say what was replayed, or for a fifth of the idle limit if
    /// this bridge has not said hello before.
    Connected {
        replay: Replay,
        /// The server's time, as it wrote it.
        server_time: Option<String>,
        last_event_id: Option<String>,
    },
    Reply {
        kept: T,
        reply: Reply,
        /// The position after this reply; to be stored, and given back at the next start.
        last_event_id: Option<String>,
    },
    /// The bridge named the place where the stream begins after [`StreamEvent::Connected`] was told.
    /// Whoever starts again before the first reply goes on from there.
    Begins {
        server_time: Option<String>,
        last_event_id: Option<String>,
    },
    /// What this bridge takes besides the protocol of the reference, by its own word. Once for each
    /// connection, if it is anything.
    Accepts(Vec<String>),
    Disconnected {
        why: String,
        next: Duration,
    },
    /// The token was refused. Tried again slowly, with the token that is in the config by then.
    AuthRefused {
        status: u16,
        why: String,
        next: Duration,
    },
}

/// Whether the bridge sent again what we missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    /// It did; nothing needs to be caught up.
    Complete,
    /// Not all of it.
    Gap,
    /// It says nothing about it, as the hosted bridge, or had no position to start from.
    Unknown,
}

/// Starts the stream. `keep` makes a reply durable; what it returns goes along with the reply.
/// A `keep` that fails is tried again until it works: the reply is not lost, and neither is the
/// place in the stream.
///
/// # Errors
/// When the CA file can't be read, or the system gives no thread.
pub fn start<T, K>(
    access: Arc<dyn AccessSource>,
    net: &Net,
    settings: Settings,
    keep: K,
) -> anyhow::Result<(Handle, Receiver<StreamEvent<T>>)>
where
    T: Send + 'static,
    K: FnMut(&Reply) -> io::Result<T> + Send + 'static,
{
    let glance = (settings.idle / GLANCES).max(Duration::from_millis(1));
    let config = net.stream_config(glance)?;
    let (stop_sender, stop) = bounded(0);
    let (poke_sender, poke) = bounded(1);
    let (sender, events) = bounded(EVENTS);
    let Settings { machine, capabilities, last_event_id, idle, max_event, pace } = settings;
    let line = Arc::new(Line(Mutex::new(LineState { agent: None, capabilities })));
    let stream = Stream {
        access,
        config,
        machine,
        idle,
        max_event,
        line: Arc::clone(&line),
        stop,
        poke,
        events: sender,
        keep,
        backoff: Backoff::new(pace),
        position: last_event_id.filter(|id| usable(id)),
        says_hello: false,
        complained: None,
    };
    let task = task::spawn("stream", move || stream.run())?;
    let handle = Handle { stop: Some(stop_sender), poke: poke_sender, line, task: Some(task) };
    Ok((handle, events))
}

/// The stop channel is closed, or nobody listens any more.
struct Stopped;

/// How a connection, or the attempt at one, ended.
enum End {
    /// The handle cut it because the capabilities changed, or the machine slept: go on at once.
    Renew(&'static str),
    /// 204.
    NoContent,
    Refused(Error),
    Lost(String),
}

struct Stream<T, K> {
    access: Arc<dyn AccessSource>,
    config: Config,
    machine: MachineId,
    idle: Duration,
    max_event: usize,
    line: Arc<Line>,
    stop: Receiver<()>,
    poke: Receiver<()>,
    events: Sender<StreamEvent<T>>,
    keep: K,
    backoff: Backoff,
    /// What a reconnect sends as `Last-Event-ID`.
    position: Option<String>,
    /// Whether this bridge opens its streams with a `hello` event.
    says_hello: bool,
    /// When a refused token was last complained about.
    complained: Option<Instant>,
}

impl<T, K: FnMut(&Reply) -> io::Result<T>> Stream<T, K> {
    fn run(mut self) {
        while let Ok(end) = self.connection() {
            let wait = self.report(end).and_then(|next| self.wait(next));
            if wait.is_err() {
                break;
            }
        }
        log::debug!("stream: stopped");
    }

    /// One connection from its beginning to its end.
    fn connection(&mut self) -> Result<End, Stopped> {
        // The capabilities that a poke was about are read below.
        self.poke.try_iter().for_each(drop);
        let (agent, capabilities) = {
            let mut line = self.line.lock();
            let agent =
                line.agent.get_or_insert_with(|| resolver::agent(self.config.clone())).clone();
            (agent, line.capabilities.clone())
        };
        // Whoever stops us closes the channel before cutting the line. So either we see it here,
        // or the agent that is in the line by now will be shut down.
        self.still_wanted()?;
        let ask = Ask {
            machine: &self.machine,
            capabilities: &capabilities,
            last_event_id: self.position.as_deref().filter(|id| !id.is_empty()),
        };
        let opened = self
            .access
            .access()
            .map_err(|error| Error::Access(format!("{error:#}")))
            .and_then(|access| connect::open(&agent, access, &ask));
        let started = Instant::now();
        let end = match opened {
            Ok(Opened::Stream(body)) => self.read(body)?,
            Ok(Opened::NoContent) => End::NoContent,
            Err(error) => End::Refused(error),
        };
        self.still_wanted()?;
        self.backoff.ended_after(started.elapsed());
        let was_cut = self.line.lock().agent.is_none();
        Ok(if was_cut { End::Renew("the engines of this machine changed") } else { end })
    }

    /// Reads an open stream until it ends.
    fn read(&mut self, body: Body) -> Result<End, Stopped> {
        let mut connection = Connection {
            parser: Parser::new(self.max_event),
            announced: false,
            clocks: Clocks::now(),
        };
        // With a position there is a replay to hear about, or at least one that happens; without
        // one nothing is known, and catching up need not wait for the first byte.
        if self.position.is_none() && !self.says_hello {
            self.announce(&mut connection, Replay::Unknown, None)?;
        }
        let mut reader = body.into_reader();
        let mut buffer = vec![0; BUFFER];
        let mut items = Vec::new();
        let mut heard = Instant::now();
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => return Ok(End::Lost("the bridge ended the stream".to_owned())),
                Ok(length) => {
                    heard = Instant::now();
                    connection.parser.feed(&buffer[..length], &mut items);
                    for item in items.drain(..) {
                        self.item(&mut connection, item)?;
                    }
                    // An id can come without an event.
                    if let Some(id) = connection.parser.last_event_id() {
                        self.move_to(id);
                    }
                    connection.clocks = Clocks::now();
                }
                Err(error) if is_glance(&error) => {
                    // A bridge that says hello does so before anything else, however late.
                    if !connection.announced && !self.says_hello {
                        self.announce(&mut connection, Replay::Unknown, None)?;
                    }
                    if connection.clocks.slept() {
                        return Ok(End::Renew("the machine slept"));
                    }
                    if heard.elapsed() >= self.idle {
                        return Ok(End::Lost(format!("silent for {:?}", self.idle)));
                    }
                }
                Err(error) => return Ok(End::Lost(format!("reading failed: {error}"))),
            }
        }
    }

    fn item(&mut self, connection: &mut Connection, item: Item) -> Result<(), Stopped> {
        match item {
            Item::Retry(wait) => self.backoff.set_base(wait),
            Item::Oversized { limit } => {
                log::error!("stream: dropped an event of more than {limit} bytes");
            }
            Item::Event(event) if event.event == "hello" => {
                self.says_hello = true;
                let Hello { replay, server_time, accepts } = read_hello(&event.data);
                if !connection.announced {
                    self.announce(connection, replay, server_time)?;
                    self.pass(event.id.as_deref());
                } else if let Some(id) = &event.id {
                    self.move_to(id);
                    let last_event_id = self.position.clone();
                    self.tell(StreamEvent::Begins { server_time, last_event_id })?;
                }
                if !accepts.is_empty() {
                    self.tell(StreamEvent::Accepts(accepts))?;
                }
            }
            Item::Event(event) => {
                if !connection.announced {
                    self.announce(connection, Replay::Unknown, None)?;
                }
                if event.event == "reply" {
                    self.reply(&event)?;
                }
                self.pass(event.id.as_deref());
            }
        }
        Ok(())
    }

    /// Keeps a reply and hands it over. What is no reply, or another machine's, is dropped.
    fn reply(&mut self, event: &Event) -> Result<(), Stopped> {
        let reply = match Reply::parse(&event.data) {
            Ok(reply) => reply,
            Err(NoReply::NoThread) => {
                log::warn!("stream: dropped a reply without a threadId");
                return Ok(());
            }
            Err(NoReply::NotAnObject) => {
                log::error!(
                    "stream: dropped a reply of {} bytes that is no JSON object",
                    event.data.len()
                );
                return Ok(());
            }
        };
        if reply.machine.as_ref().is_some_and(|owner| *owner != self.machine) {
            log::debug!(thread:% = reply.thread_id; "stream: skipped another machine's reply");
            return Ok(());
        }
        let kept = self.keep(&reply)?;
        self.backoff.good();
        self.pass(event.id.as_deref());
        let last_event_id = self.position.clone();
        self.tell(StreamEvent::Reply { kept, reply, last_event_id })
    }

    /// Makes a reply durable, however long that takes: a full disk is emptied some day, a reply
    /// that was dropped does not come back.
    fn keep(&mut self, reply: &Reply) -> Result<T, Stopped> {
        let mut backoff = Backoff::new(Pace::default());
        let mut said = false;
        loop {
            match (self.keep)(reply) {
                Ok(kept) => {
                    if said {
                        log::info!("stream: the disk takes replies again");
                    }
                    return Ok(kept);
                }
                Err(error) => {
                    if !said {
                        complain_about_disk(&reply.thread_id, &error);
                    }
                    said = true;
                }
            }
            self.wait(backoff.next(fastrand::u64(..), None))?;
        }
    }

    fn announce(
        &mut self,
        connection: &mut Connection,
        replay: Replay,
        server_time: Option<String>,
    ) -> Result<(), Stopped> {
        connection.announced = true;
        log::debug!("stream: connected, replay {replay:?}");
        let last_event_id = self.position.clone();
        self.tell(StreamEvent::Connected { replay, server_time, last_event_id })
    }

    /// Moves the position, if the event had one.
    fn pass(&mut self, id: Option<&str>) {
        if let Some(id) = id {
            self.move_to(id);
        }
    }

    fn move_to(&mut self, id: &str) {
        if self.position.as_deref() != Some(id) && usable(id) {
            self.position = Some(id.to_owned());
        }
    }

    /// Says how a connection ended, and how long to wait before the next.
    fn report(&mut self, end: End) -> Result<Duration, Stopped> {
        let random = fastrand::u64(..);
        let (why, next) = match end {
            End::Renew(why) => (why.to_owned(), Duration::ZERO),
            End::NoContent => {
                ("status 204, there is nothing to come".to_owned(), self.backoff.slow(random, None))
            }
            End::Refused(error) if error.is_auth() => {
                let next = self.backoff.slow(random, error.retry_after());
                if self.complained.is_none_or(|at| at.elapsed() >= COMPLAIN_EVERY) {
                    self.complained = Some(Instant::now());
                    log::error!("stream: {error}; next try in {} s", next.as_secs());
                }
                let (status, why) = (error.status().unwrap_or_default(), error.to_string());
                self.tell(StreamEvent::AuthRefused { status, why, next })?;
                return Ok(next);
            }
            End::Refused(error) => {
                let next = self.backoff.next(random, error.retry_after());
                (error.to_string(), next)
            }
            End::Lost(why) => (why, self.backoff.next(random, None)),
        };
        self.tell(StreamEvent::Disconnected { why, next })?;
        Ok(next)
    }

    fn tell(&self, event: StreamEvent<T>) -> Result<(), Stopped> {
        select! {
            send(self.events, event) -> sent => sent.map_err(|_| Stopped),
            recv(self.stop) -> _ => Err(Stopped),
        }
    }

    /// Waits, but not through the machine's sleep, nor when new capabilities are to be announced.
    fn wait(&self, duration: Duration) -> Result<(), Stopped> {
        let until = Instant::now() + duration;
        let mut clocks = Clocks::now();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || clocks.slept() {
                return self.still_wanted();
            }
            select! {
                recv(self.stop) -> _ => return Err(Stopped),
                recv(self.poke) -> _ => return self.still_wanted(),
                default(left.min(WAIT_GLANCE)) => {}
            }
        }
    }

    fn still_wanted(&self) -> Result<(), Stopped> {
        match self.stop.try_recv() {
            Err(crossbeam_channel::TryRecvError::Empty) => Ok(()),
            _ => Err(Stopped),
        }
    }
}

/// What belongs to one connection.
struct Connection {
    parser: Parser,
    /// [`StreamEvent::Connected`] was sent.
    announced: bool,
    clocks: Clocks,
}

fn complain_about_disk(thread: &ThreadId, error: &io::Error) {
    log::error!(
        thread:% = thread;
        "stream: can't store a reply: {error}; nothing is received until it can be, so make room \
         or repair the state directory"
    );
}

/// Whether the position can be sent back in a header.
fn usable(id: &str) -> bool {
    id.len() <= MAX_ID && !id.chars().any(char::is_control)
}

/// What a bridge says first.
struct Hello {
    replay: Replay,
    server_time: Option<String>,
    accepts: Vec<String>,
}

/// The data of a `hello` event:
/// `{"replay":"complete"|"gap"|"none","serverTime":"…","accepts":["machine"]}`.
fn read_hello(data: &str) -> Hello {
    let Ok(serde_json::Value::Object(hello)) = serde_json::from_str(data) else {
        return Hello { replay: Replay::Unknown, server_time: None, accepts: Vec::new() };
    };
    let replay = match text(&hello, "replay").as_deref() {
        Some("complete") => Replay::Complete,
        Some("gap") => Replay::Gap,
        _ => Replay::Unknown,
    };
    let accepts = hello.get("accepts").and_then(serde_json::Value::as_array);
    let accepts = accepts.into_iter().flatten().filter_map(|it| it.as_str().map(str::to_owned));
    Hello { replay, server_time: text(&hello, "serverTime"), accepts: accepts.collect() }
}

/// Whether a read ended only because its time was up; the connection can be read on.
fn is_glance(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<ureq::Error>());
    matches!(inner, Some(ureq::Error::Timeout(ureq::Timeout::PerRead)))
}
