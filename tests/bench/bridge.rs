//! The bridge of the benchmark: answers everything at once, or after an artificial round trip, and
//! notes to the microsecond what came when. It sends what a row tells it to.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, never, unbounded};
use obto_bridge::time::{self, Timestamp};
use serde_json::{Value, json};

use crate::proc::now;

/// The machine's name in the daemon's config.
pub(crate) const MACHINE: &str = "bench-machine";
/// As often as the hosted bridge sends them.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// A request, and when it had come whole.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Note {
    pub(crate) at: u64,
    pub(crate) what: What,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum What {
    Stream,
    Claim,
    Working { thread: String },
    Idle { thread: String },
    Post { thread: String, client_msg_id: String, body: String },
    Other(String),
}

#[derive(Debug)]
struct Shared {
    notes: Sender<Note>,
    stream: Mutex<Option<TcpStream>>,
    sockets: Mutex<Vec<TcpStream>>,
    /// The artificial round trip in microseconds.
    round_trip: AtomicU64,
    is_over: AtomicBool,
}

#[derive(Debug)]
pub(crate) struct Bridge {
    addr: SocketAddr,
    pub(crate) notes: Receiver<Note>,
    shared: Arc<Shared>,
    stop: Option<Sender<()>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Bridge {
    pub(crate) fn start() -> Result<Bridge> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let addr = listener.local_addr()?;
        let (sender, notes) = unbounded();
        let shared = Arc::new(Shared {
            notes: sender,
            stream: Mutex::default(),
            sockets: Mutex::default(),
            round_trip: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
        });
        let (stop, stopped) = bounded::<()>(0);
        let tasks = vec![
            thread::spawn({
                let shared = Arc::clone(&shared);
                move || accept(&listener, &shared)
            }),
            thread::spawn({
                let shared = Arc::clone(&shared);
                move || {
                    while stopped.recv_timeout(HEARTBEAT) == Err(RecvTimeoutError::Timeout) {
                        shared.write(b": heartbeat\n\n").ok(); // There may be no stream.
                    }
                }
            }),
        ];
        Ok(Bridge { addr, notes, shared, stop: Some(stop), tasks })
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Every later request but the stream's is answered after this long.
    pub(crate) fn set_round_trip(&self, round_trip: Duration) {
        let micros = u64::try_from(round_trip.as_micros()).unwrap_or(u64::MAX);
        self.shared.round_trip.store(micros, Ordering::SeqCst);
    }

    /// Writes to the stream. Returns when that began.
    pub(crate) fn send(&self, events: &[u8]) -> Result<u64> {
        let at = now();
        self.shared.write(events).context("writing to the daemon's stream")?;
        Ok(at)
    }

    /// Ends the stream. Returns when.
    pub(crate) fn drop_stream(&self) -> Result<u64> {
        let stream = self.shared.stream().take().context("there is no stream")?;
        let at = now();
        stream.shutdown(Shutdown::Both)?;
        Ok(at)
    }

    /// The next note that `wanted` makes something of.
    pub(crate) fn wait<T>(
        &self,
        for_what: &str,
        patience: Duration,
        mut wanted: impl FnMut(Note) -> Option<T>,
    ) -> Result<T> {
        let until = Instant::now() + patience;
        loop {
            match self.notes.recv_deadline(until) {
                Ok(note) => {
                    if let Some(found) = wanted(note) {
                        return Ok(found);
                    }
                }
                Err(_) => bail!("no {for_what} within {} s", patience.as_secs_f64()),
            }
        }
    }

    pub(crate) fn forget_notes(&self) {
        self.notes.try_iter().for_each(drop);
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        drop(self.stop.take());
        drop(TcpStream::connect(self.addr)); // Wakes the accepting task.
        for socket in lock(&self.shared.sockets).iter() {
            socket.shutdown(Shutdown::Both).ok(); // It may be closed already.
        }
        for task in self.tasks.drain(..) {
            task.join().ok(); // A panic was printed.
        }
    }
}

impl Shared {
    fn stream(&self) -> std::sync::MutexGuard<'_, Option<TcpStream>> {
        lock(&self.stream)
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let stream = self.stream().as_ref().map(TcpStream::try_clone);
        stream.ok_or(io::ErrorKind::NotConnected)??.write_all(bytes)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for socket in listener.incoming().map_while(Result::ok) {
        if shared.is_over.load(Ordering::SeqCst) {
            return;
        }
        lock(&shared.sockets).extend(socket.try_clone());
        let shared = Arc::clone(shared);
        thread::spawn(move || serve(socket, &shared));
    }
}

/// As every server with a clock says it (RFC 9110, 6.6.1).
fn http_date(at: Timestamp) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let text = at.to_string();
    let day = DAYS[usize::try_from(at.as_millis() / 86_400_000 % 7).expect("a small number")];
    let month = MONTHS[text[5..7].parse::<usize>().expect("a month") - 1];
    format!("{day}, {} {month} {} {} GMT", &text[8..10], &text[..4], &text[11..19])
}

/// One connection. A client that is gone ends it.
fn serve(socket: TcpStream, shared: &Shared) -> Option<()> {
    socket.set_nodelay(true).ok()?;
    let mut reader = BufReader::with_capacity(64 * 1024, socket.try_clone().ok()?);
    let mut socket = socket;
    loop {
        let request = Request::read(&mut reader)?;
        let at = now();
        let (what, answer) = request.meaning();
        let is_stream = what == What::Stream;
        if is_stream {
            let date = http_date(time::now());
            let head = format!(
                "HTTP/1.1 200 OK\r\nDate: {date}\r\nContent-Type: text/event-stream\r\n\r\n"
            );
            socket
                .write_all(head.as_bytes())
                .and_then(|()| socket.try_clone())
                .map(|stream| *shared.stream() = Some(stream))
                .ok()?;
        }
        shared.notes.send(Note { at, what }).ok()?;
        if is_stream {
            // A stream's client says no more; this ends with it.
            return io::copy(&mut reader, &mut io::sink()).ok().map(drop);
        }
        let round_trip = shared.round_trip.load(Ordering::SeqCst);
        if round_trip > 0 {
            never::<()>().recv_timeout(Duration::from_micros(round_trip)).ok();
        }
        let answer = answer.to_string();
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length";
        socket.write_all(format!("{head}: {}\r\n\r\n{answer}", answer.len()).as_bytes()).ok()?;
    }
}

#[derive(Debug)]
struct Request {
    method: String,
    path: String,
    body: Vec<u8>,
}

impl Request {
    fn read(reader: &mut impl BufRead) -> Option<Request> {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let mut words = line.split(' ');
        let (method, target) = (words.next()?.to_owned(), words.next()?);
        let path = target.split('?').next()?.to_owned();
        let mut length = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            let Some((name, value)) = line.split_once(':') else { break };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().ok()?;
            }
        }
        let mut body = Vec::new();
        reader.take(length).read_to_end(&mut body).ok()?;
        Some(Request { method, path, body })
    }

    /// What it is, and what is answered.
    fn meaning(&self) -> (What, Value) {
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let text = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
        let thread = text("threadId");
        let ok = json!({"ok": true});
        match (&*self.method, &*self.path) {
            ("GET", "/api/bridge/stream") => (What::Stream, ok),
            ("POST", "/api/bridge/thread/claim") => {
                (What::Claim, json!({"ok": true, "won": true, "winner": MACHINE}))
            }
            ("POST", "/api/bridge/agent-activity") if text("state") == "idle" => {
                (What::Idle { thread }, ok)
            }
            ("POST", "/api/bridge/agent-activity") => (What::Working { thread }, ok),
            ("POST", "/api/message") => {
                let client_msg_id = text("clientMsgId");
                let what = What::Post { thread, client_msg_id, body: text("body") };
                (what, json!({"ok": true, "message": {"_id": "x"}}))
            }
            (method, path) => {
                (What::Other(format!("{method} {path}")), json!({"ok": true, "messages": []}))
            }
        }
    }
}

/// A human's message.
#[derive(Clone, Debug)]
pub(crate) struct Event<'a> {
    pub(crate) thread: &'a str,
    pub(crate) message: &'a str,
    pub(crate) body: &'a str,
    /// Whether the bridge says that the thread is the daemon's.
    pub(crate) is_ours: bool,
}

impl Event<'_> {
    /// As it is on the stream.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let data = json!({
            "threadId": self.thread,
            "messageId": self.message,
            "author": "Ann",
            "role": "human",
            "body": self.body,
            "createdAt": time::now().to_string(),
            "agent": "bench",
            "agentId": self.is_ours.then_some(MACHINE),
            "attachmentIds": [],
            "externalAdoption": null,
        });
        format!("id: {}\nevent: reply\ndata: {data}\n\n", self.message).into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    #[test]
    fn a_date_is_written_as_servers_write_it() {
        let at = Timestamp::parse("2026-11-30T22:08:05.123Z").unwrap();
        assert_eq!(http_date(at), "Mon, 30 Nov 2026 22:08:05 GMT");
    }

    #[test]
    fn requests_are_noted_and_events_sent() {
        let bridge = Bridge::start().unwrap();
        let mut stream = TcpStream::connect(bridge.addr).unwrap();
        stream.write_all(b"GET /api/bridge/stream?agentId=a HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        bridge.wait("stream", PATIENCE, |note| (note.what == What::Stream).then_some(())).unwrap();

        let before = now();
        let event = Event { thread: "t", message: "m", body: "b", is_ours: true };
        let written = bridge.send(&event.bytes()).unwrap();
        assert!(written >= before);
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let lines: Vec<String> = reader.by_ref().lines().map_while(Result::ok).take(8).collect();
        assert_eq!(lines[4..6], ["id: m", "event: reply"]);
        let data: Value = serde_json::from_str(lines[6].strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!((&data["threadId"], &data["agentId"]), (&json!("t"), &json!(MACHINE)));

        bridge.set_round_trip(Duration::from_millis(20));
        let mut client = TcpStream::connect(bridge.addr).unwrap();
        let body = r#"{"threadId":"t","clientMsgId":"m.1.1","body":"re m"}"#;
        let head = "POST /api/message HTTP/1.1\r\ncontent-length";
        let asked = Instant::now();
        write!(client, "{head}: {}\r\n\r\n{body}", body.len()).unwrap();
        let mut answer = [0; 15];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200 OK");
        assert!(asked.elapsed() >= Duration::from_millis(20));
        let post = bridge.wait("post", PATIENCE, |note| match note.what {
            What::Post { thread, client_msg_id, body } => Some((thread, client_msg_id, body)),
            _ => None,
        });
        assert_eq!(post.unwrap(), ("t".into(), "m.1.1".into(), "re m".into()));

        bridge.drop_stream().unwrap();
        assert_eq!(reader.read_to_end(&mut Vec::new()).unwrap(), 0, "the stream has ended");
    }
}
