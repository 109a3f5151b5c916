//! A sick network between the daemon and a healthy bridge. It does to each request and each event
//! of the stream what the dice say. It can also hide that the bridge remembers what a stream has
//! missed, as if it were the hosted one.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    io::{BufReader, ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use obto_bridge::task::{self, Task};
use serde_json::{Value, json};

use super::{
    dice::{Dice, Fault, FrameFault, kind},
    wire::{Message, as_chunk, ask, chunk, response},
};
use crate::util::patience::Patience;

/// What the network is like at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mood {
    Calm,
    Faulty,
    /// Every request is answered with 401.
    RefusesToken,
}

pub(super) struct Proxy {
    inner: Arc<Inner>,
    /// One for each stream whose first event was let through.
    pub(super) hellos: Receiver<()>,
    stop: Option<Sender<Infallible>>,
    accept: Option<Task>,
}

struct Inner {
    addr: SocketAddr,
    upstream: SocketAddr,
    dice: Dice,
    /// The daemon has to find in the histories what it missed.
    forgets: bool,
    mood: Mutex<Mood>,
    /// The next connection is refused, and every one for this long.
    outage: Mutex<Option<Duration>>,
    /// Connections that are older than this swallow everything.
    hole: AtomicUsize,
    /// How many requests of a route, or frames, there were.
    sequences: Mutex<BTreeMap<&'static str, u64>>,
    decisions: Mutex<Vec<String>>,
    counts: Mutex<BTreeMap<String, u64>>,
    /// A handle more would keep a connection open that is to be closed.
    sockets: Mutex<Vec<Weak<TcpStream>>>,
    started: Instant,
    hello: Sender<()>,
    /// Closed: the test is over.
    stop: Receiver<Infallible>,
    is_stopped: AtomicBool,
}

impl Proxy {
    pub(super) fn start(dice: Dice, forgets: bool, upstream: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (hello, hellos) = unbounded();
        let (stop_now, stop) = bounded(0);
        let inner = Arc::new(Inner {
            addr: listener.local_addr().unwrap(),
            upstream,
            dice,
            forgets,
            mood: Mutex::new(Mood::Calm),
            outage: Mutex::default(),
            hole: AtomicUsize::new(0),
            sequences: Mutex::default(),
            decisions: Mutex::default(),
            counts: Mutex::default(),
            sockets: Mutex::default(),
            started: Instant::now(),
            hello,
            stop,
            is_stopped: AtomicBool::new(false),
        });
        let shared = Arc::clone(&inner);
        let accept = task::spawn("proxy", move || accept(listener, &shared)).unwrap();
        Proxy { inner, hellos, stop: Some(stop_now), accept: Some(accept) }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.inner.addr)
    }

    pub(super) fn set_mood(&self, mood: Mood) {
        self.inner.note(&format!("the network: {mood:?}"));
        *self.inner.mood.lock().unwrap() = mood;
    }

    /// Refuses connections for a while; those that are open stay so.
    pub(super) fn refuse_for(&self, outage: Duration) {
        self.inner.note(&format!("connections are refused for {outage:?}"));
        self.inner.count("Refused".to_owned());
        *self.inner.outage.lock().unwrap() = Some(outage);
        drop(TcpStream::connect(self.inner.addr));
    }

    /// From now on, nothing passes on the connections that are open, in either direction, and
    /// nobody is told.
    pub(super) fn black_hole(&self) {
        self.inner.hole.fetch_add(1, Ordering::SeqCst);
    }

    /// Adds a line to what is shown when a run fails.
    pub(super) fn note(&self, what: &str) {
        self.inner.note(what);
    }

    pub(super) fn decisions(&self) -> Vec<String> {
        self.inner.decisions.lock().unwrap().clone()
    }

    pub(super) fn counts(&self) -> BTreeMap<String, u64> {
        self.inner.counts.lock().unwrap().clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.inner.is_stopped.store(true, Ordering::SeqCst);
        self.stop = None;
        drop(TcpStream::connect(self.inner.addr));
        for socket in self.inner.sockets.lock().unwrap().iter().filter_map(Weak::upgrade) {
            socket.shutdown(Shutdown::Both).ok();
        }
        if let Some(accept) = self.accept.take() {
            accept.join().unwrap();
        }
    }
}

fn accept(mut listener: TcpListener, inner: &Arc<Inner>) {
    loop {
        let Ok((socket, _)) = listener.accept() else { return };
        if inner.is_stopped.load(Ordering::SeqCst) {
            return;
        }
        let outage = inner.outage.lock().unwrap().take();
        if let Some(outage) = outage {
            drop((socket, listener));
            inner.wait(outage);
            listener = rebind(inner);
            continue;
        }
        let socket = Arc::new(socket);
        inner.sockets.lock().unwrap().push(Arc::downgrade(&socket));
        let inner = Arc::clone(inner);
        drop(task::spawn("proxy-conn", move || inner.serve(&socket)).unwrap());
    }
}

fn rebind(inner: &Inner) -> TcpListener {
    let mut patience = Patience::new();
    loop {
        match TcpListener::bind(inner.addr) {
            Ok(listener) => return listener,
            Err(error) => assert!(
                error.kind() == ErrorKind::AddrInUse && patience.lasts(),
                "the port is gone: {error}"
            ),
        }
        inner.wait(Duration::from_millis(10));
    }
}

impl Inner {
    fn wait(&self, time: Duration) {
        self.stop.recv_timeout(time).expect_err("nothing is ever sent");
    }

    fn note(&self, what: &str) {
        let at = self.started.elapsed().as_millis();
        self.decisions.lock().unwrap().push(format!("{at:>6} ms {what}"));
    }

    fn count(&self, kind: String) {
        *self.counts.lock().unwrap().entry(kind).or_default() += 1;
    }

    fn next(&self, what: &'static str) -> u64 {
        let mut sequences = self.sequences.lock().unwrap();
        let next = sequences.entry(what).or_default();
        *next += 1;
        *next
    }

    fn fault(&self, route: &'static str) -> Option<Fault> {
        let number = self.next(route);
        let fault = match *self.mood.lock().unwrap() {
            Mood::Calm => None,
            Mood::Faulty => self.dice.fault(route, number),
            Mood::RefusesToken => Some(Fault::Status(401)),
        }?;
        self.note(&format!("{route} {number}: {fault:?}"));
        self.count(kind(fault));
        Some(fault)
    }

    fn frame_fault(&self, frame: &str) -> Option<FrameFault> {
        let number = self.next("frame");
        if *self.mood.lock().unwrap() != Mood::Faulty {
            return None;
        }
        let fault = self.dice.frame_fault(number)?;
        let id = frame.lines().find(|line| line.starts_with("id:")).unwrap_or_default();
        self.note(&format!("frame {number} ({id}): {fault:?}"));
        self.count(format!("event {}", kind(fault)));
        Some(fault)
    }

    /// One connection of the daemon's.
    fn serve(&self, socket: &TcpStream) {
        let born = self.hole.load(Ordering::SeqCst);
        let mut reader = BufReader::new(socket);
        // What is looked at and not read turns the close into a reset.
        while let Some(route) = route(socket) {
            if self.hole.load(Ordering::SeqCst) != born {
                return swallow(socket);
            }
            let fault = self.fault(route);
            if fault == Some(Fault::Reset) {
                return;
            }
            let Some(request) = Message::read(&mut reader) else { return };
            let answer = match fault {
                Some(Fault::HangUp) => return,
                Some(Fault::BlackHole) => return swallow(socket),
                Some(Fault::Status(code)) => {
                    let body = json!({ "ok": false, "error": "a fault" }).to_string();
                    response(code, "application/json", &body)
                }
                Some(Fault::Page) => response(200, "text/html", "<html>Please log in</html>"),
                _ => {
                    if let Some(Fault::Delay(time)) = fault {
                        self.wait(time);
                    }
                    if route == "stream" {
                        return self.stream(&request, socket, born);
                    }
                    let Some(answer) = self.ask(route, &request) else { return };
                    answer.bytes()
                }
            };
            let answer = match fault {
                Some(Fault::LostReply) => return,
                Some(Fault::SilentReply) => return swallow(socket),
                Some(Fault::CutReply) => &answer[..answer.len() / 2],
                _ => &answer,
            };
            let mut writer = socket;
            if writer.write_all(answer).is_err() || fault == Some(Fault::CutReply) {
                return;
            }
        }
    }

    fn ask(&self, route: &str, request: &Message) -> Option<Message> {
        if route == "claim" {
            self.steal(request);
        }
        Message::read(&mut ask(self.upstream, request)?)
    }

    /// Another machine claims the thread a moment before ours.
    fn steal(&self, request: &Message) {
        let mut claim = request.json();
        if !self.dice.is_stolen(claim["threadId"].as_str().unwrap_or_default()) {
            return;
        }
        claim["agentId"] = "another".into();
        let mut request = request.clone();
        request.set_json(&claim);
        let answer = ask(self.upstream, &request).and_then(|mut it| Message::read(&mut it));
        assert_eq!(answer.unwrap().json()["winner"], "another", "it is the first to claim");
    }

    /// Hands the events on, until one side has enough or a fault ends it.
    fn stream(&self, request: &Message, mut client: &TcpStream, born: usize) {
        let mut request = request.clone();
        if self.forgets {
            request = request.without("last-event-id");
        }
        let Some(mut upstream) = ask(self.upstream, &request) else { return };
        let Some(head) = Message::read_head(&mut upstream) else { return };
        let head = format!(
            "{}\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
            head.first
        );
        if client.write_all(head.as_bytes()).is_err() {
            return;
        }
        let mut line = Line::default();
        while let Some(frame) = chunk(&mut upstream) {
            // The daemon waits a second between connections, as it is told; tests can't.
            let frame = frame.replace("retry: 1000\n", "retry: 250\n");
            let is_hello = frame.contains("event: hello\n");
            let frame = if self.forgets { forget(&frame) } else { frame };
            let is_event = frame.contains("event: ");
            let fault =
                if is_event && line.held.is_none() { self.frame_fault(&frame) } else { None };
            if fault == Some(FrameFault::BlackHole) || self.hole.load(Ordering::SeqCst) != born {
                return swallow(client);
            }
            if let Some(FrameFault::Delay(time)) = fault {
                self.wait(time);
            }
            let bytes = line.pass(frame, fault);
            if client.write_all(bytes.as_bytes()).is_err() || fault == Some(FrameFault::Cut) {
                return;
            }
            if is_hello {
                self.hello.send(()).ok(); // The test may be over.
            }
        }
    }
}

/// An event without its number, and a `hello` that says no more than the time. What was written before
/// that is left out: it has no number. (By its time it can't be told: a message has its time a moment
/// before a history shows it.)
fn forget(frame: &str) -> String {
    let has = |what: &str| frame.lines().any(|line| line.starts_with(what));
    if has("event: reply") && !has("id: ") {
        return ": left out\n\n".to_owned();
    }
    let is_hello = has("event: hello");
    let lines = frame.lines().filter(|line| !line.starts_with("id: "));
    let lines = lines.map(|line| match line.strip_prefix("data: ").filter(|_| is_hello) {
        Some(data) => {
            let data: Value = serde_json::from_str(data).unwrap();
            format!("data: {}\n", json!({ "serverTime": data["serverTime"] }))
        }
        None => format!("{line}\n"),
    });
    lines.collect()
}

/// What is remembered of a stream, to mix its events up.
#[derive(Default)]
struct Line {
    /// Changes places with the next one.
    held: Option<String>,
    last: Option<String>,
}

impl Line {
    /// The bytes to send for this event.
    fn pass(&mut self, frame: String, fault: Option<FrameFault>) -> String {
        let thread = thread(&frame);
        if let Some(held) = self.held.take() {
            // Events of one thread have an order, and those without a thread are no replies. Both
            // go in one piece: a bridge that loses an event with a smaller id has lost it.
            let frames = match &thread {
                Some(_) if thread != self::thread(&held) => [frame, held],
                _ => [held, frame],
            };
            return frames.map(|frame| as_chunk(&frame)).concat();
        }
        match fault {
            Some(FrameFault::Swap) if thread.is_some() => {
                self.held = Some(frame);
                String::new()
            }
            Some(FrameFault::Cut) => {
                let chunk = as_chunk(&frame);
                chunk[..chunk.len() / 2].to_owned()
            }
            Some(FrameFault::Twice) => as_chunk(&frame).repeat(2),
            Some(FrameFault::Old) => {
                let old = self.last.replace(frame.clone()).unwrap_or_default();
                as_chunk(&frame) + &if old.is_empty() { old } else { as_chunk(&old) }
            }
            _ => {
                let bytes = as_chunk(&frame);
                if thread.is_some() {
                    self.last = Some(frame);
                }
                bytes
            }
        }
    }
}

/// The thread of a reply.
fn thread(frame: &str) -> Option<String> {
    let data = frame.lines().find_map(|line| line.strip_prefix("data: "))?;
    let data: Value = serde_json::from_str(data).ok()?;
    data["threadId"].as_str().map(str::to_owned)
}

/// What the next request is about, by a look at its first line. None when the daemon hangs up.
fn route(socket: &TcpStream) -> Option<&'static str> {
    let mut start = [0; 512];
    let length = socket.peek(&mut start).ok().filter(|length| *length > 0)?;
    let line = String::from_utf8_lossy(&start[..length]).into_owned();
    let path = line.split(' ').nth(1).unwrap_or_default();
    Some(match path.split('?').next().unwrap_or_default() {
        "/api/bridge/stream" => "stream",
        "/api/bridge/thread/claim" => "claim",
        "/api/bridge/agent-activity" => "activity",
        "/api/message" => "post",
        "/api/messages" => "history",
        _ => "other",
    })
}

/// Takes what comes and says nothing, until the peer gives up.
fn swallow(mut socket: &TcpStream) {
    let mut bytes = [0; 4096];
    while matches!(socket.read(&mut bytes), Ok(1..)) {}
}
