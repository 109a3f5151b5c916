//! The transport for opencode's server: values become HTTP requests on loopback, responses and
//! server-sent events become values. Requests are made as HTTP/1.0: the server then answers without
//! chunks and the end of a body, also of the event stream, is the end of the connection, so no HTTP
//! library is needed (opencode 1.18.33).
//!
//! The transport keeps a clone of every socket. A task that waits on one is woken by its shutdown.

#[cfg(test)]
mod tests;

use std::{
    fmt,
    io::{self, BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use crossbeam_channel::{Receiver, Sender, bounded};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use crate::{
    agent::{
        Exit,
        transport::{Transport, TransportEvent},
    },
    ascii, task,
};

/// Values between the sockets and the turn; when full, the server waits.
const INCOMING_MAX: usize = 256;
/// Requests that are open at a time.
const REQUESTS_MAX: usize = 32;
/// A response's head, and a line of the event stream's.
const HEAD_MAX: u64 = 64 << 10;
/// A response's body, and one event.
const BODY_MAX: u64 = 32 << 20;
/// The server is on this machine: it accepts at once or never.
const CONNECT: Duration = Duration::from_secs(2);
/// For every request but the prompt, whose response comes when the turn ends. Long, because a
/// directory's first request makes the server read its config and start its plugins.
const PATIENCE: Duration = Duration::from_mins(2);
/// The server sends a heartbeat every 10 s.
const EVENTS_SILENCE: Duration = Duration::from_secs(45);
/// How long an abort may take to have its effect (measured: 0.1 to 0.35 s).
const ABORT: Duration = Duration::from_secs(5);

/// The password of a server. Does not print.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    pub fn new(password: impl Into<String>) -> Password {
        Password(password.into())
    }

    /// For the server's environment, where it belongs.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

/// Where a server listens, and what opens it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub address: SocketAddr,
    pub password: Password,
}

/// The right to use a server. While one exists, the server is kept.
#[derive(Debug)]
pub struct Lease {
    pub server: Endpoint,
    /// Dropping it gives the lease back.
    returned: Sender<Outdated>,
}

impl Lease {
    /// The other end is the keeper's, which it tells what becomes of the lease.
    pub fn new(server: Endpoint) -> (Lease, Receiver<Outdated>) {
        let (returned, lease) = bounded(1);
        (Lease { server, returned }, lease)
    }

    /// Stops the server as soon as no turn uses it.
    pub fn outdate(&self) {
        // There is room for one; a second one says nothing new.
        self.returned.try_send(Outdated).ok();
    }
}

/// The server knows settings of opencode that the person has been told to change, which it reads
/// once (opencode 1.18.33), or a turn that was cut short may have left processes behind.
#[derive(Debug)]
pub struct Outdated;

/// A request in the words of the protocol.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub method: &'a str,
    /// Already encoded.
    pub path: &'a str,
    /// Which instance of the server it is for; empty for none.
    pub directory: &'a str,
    pub body: Option<&'a Value>,
}

impl<'a> Request<'a> {
    fn read(value: &'a Value) -> io::Result<Request<'a>> {
        let field = |name: &str| value[name].as_str();
        match (field("method"), field("path")) {
            (Some(method), Some(path)) if path.bytes().all(|byte| byte.is_ascii_graphic()) => {
                let directory = field("directory").unwrap_or_default();
                Ok(Request { method, path, directory, body: value.get("body") })
            }
            _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "this is no request")),
        }
    }

    fn encode(&self, server: &Endpoint) -> Vec<u8> {
        let Endpoint { address, password } = server;
        let credentials = STANDARD.encode(format!("opencode:{}", password.0));
        let mut head = format!(
            "{} {} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\
             Authorization: Basic {credentials}\r\n",
            self.method, self.path
        );
        if !self.directory.is_empty() {
            let directory = utf8_percent_encode(self.directory, ESCAPED);
            head = format!("{head}x-opencode-directory: {directory}\r\n");
        }
        let body = self.body.map(Value::to_string).unwrap_or_default();
        let length = body.len();
        format!("{head}Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}")
            .into_bytes()
    }

    /// The one request that is answered only when the turn is over.
    fn is_prompt(&self) -> bool {
        self.method == "POST" && self.path.ends_with("/message")
    }
}

/// All but unreserved characters and `/`.
const ESCAPED: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Makes one request and waits for its response at most `patience`. For callers outside a turn.
///
/// # Errors
/// When the server is not there, is silent, or does not speak HTTP.
pub fn call(
    server: &Endpoint,
    request: Request<'_>,
    patience: Duration,
) -> io::Result<(u16, Value)> {
    let stream = connect(server, Some(patience))?;
    exchange(stream, &request.encode(server))
}

fn connect(server: &Endpoint, patience: Option<Duration>) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&server.address, CONNECT)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(patience)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn exchange(mut stream: TcpStream, request: &[u8]) -> io::Result<(u16, Value)> {
    stream.write_all(request)?;
    let mut reader = BufReader::new(stream);
    let (status, length) = read_head(&mut reader)?;
    let mut body = Vec::new();
    // Without a length the body ends with the connection. With one, that end need not be waited for: it
    // may come much later.
    let most = length.unwrap_or(BODY_MAX + 1).min(BODY_MAX + 1);
    reader.take(most).read_to_end(&mut body)?;
    if body.len() as u64 > BODY_MAX {
        return Err(invalid("the response is too long"));
    }
    if length.is_some_and(|length| length != body.len() as u64) {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the response was cut off"));
    }
    let value = match serde_json::from_slice(&body) {
        Ok(value) => value,
        Err(_) if status >= 400 || body.is_empty() => Value::Null,
        Err(_) => return Err(invalid("the response is no JSON, or was cut off")),
    };
    Ok((status, value))
}

/// The status, and the length of the body if it is told.
fn read_head(reader: &mut impl BufRead) -> io::Result<(u16, Option<u64>)> {
    let mut head = reader.take(HEAD_MAX);
    let mut line = String::new();
    if head.read_line(&mut line)? == 0 {
        let gone = "the server closed the connection without a response";
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, gone));
    }
    let status = line
        .strip_prefix("HTTP/1.")
        .and_then(|rest| ascii::number(rest.get(2..5)?))
        .ok_or_else(|| invalid("the response is no HTTP"))?;
    let mut length = None;
    loop {
        line.clear();
        if head.read_line(&mut line)? == 0 {
            return Err(invalid("the response has no end of its head"));
        }
        match line.trim_end_matches(['\r', '\n']).split_once(':') {
            None => return Ok((status, length)),
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                // Without it the body would end with the connection, which may be much later.
                let told = ascii::number(ascii::trim(value));
                length = Some(told.ok_or_else(|| invalid("the response has no sound length"))?);
            }
            Some(_) => {}
        }
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// A request that has no response yet.
#[derive(Debug)]
struct InFlight {
    task: task::Task,
    socket: TcpStream,
    /// The path and directory with which to abort it, if it is a prompt.
    abort: Option<(String, String)>,
}

/// Whether a value is no request but asks for a fresh server for later turns.
pub fn is_outdate(value: &Value) -> bool {
    value["outdate"] == true
}

/// The way to a server for one turn.
#[derive(Debug)]
pub struct HttpTransport {
    lease: Lease,
    incoming: Receiver<TransportEvent>,
    values: Sender<TransportEvent>,
    events: TcpStream,
    requests: Vec<InFlight>,
    steps: u32,
}

impl HttpTransport {
    /// Connects to the server's event stream. `{"ready":true}` comes in when events flow.
    ///
    /// # Errors
    /// When the server does not accept, or there are no more OS threads.
    pub fn connect(lease: Lease) -> io::Result<HttpTransport> {
        let (values, incoming) = bounded(INCOMING_MAX);
        let mut stream = connect(&lease.server, Some(EVENTS_SILENCE))?;
        let events = stream.try_clone()?;
        let request = Request { method: "GET", path: "/global/event", directory: "", body: None };
        stream.write_all(&request.encode(&lease.server))?;
        let sender = values.clone();
        task::spawn("http-events", move || {
            let error = match read_events(stream, &sender) {
                Ok(()) => "the event stream ended".to_owned(),
                Err(error) => format!("the event stream broke: {error}"),
            };
            let exit = TransportEvent::Exit { exit: Exit::Unknown, stderr_tail: error };
            // Without a receiver the turn is over.
            drop(sender.send(exit));
        })?;
        Ok(HttpTransport { lease, incoming, values, events, requests: Vec::new(), steps: 0 })
    }

    /// Tells the server to stop prompts whose turn is over: it goes on with them
    /// when only the connection ends.
    fn abort_prompts(&mut self) {
        self.requests.retain(|request| !request.task.is_finished());
        for (path, directory) in self.requests.iter_mut().filter_map(|r| r.abort.take()) {
            let server = self.lease.server.clone();
            let abort = task::spawn("http-abort", move || {
                let directory = directory.as_str();
                let request = Request { method: "POST", path: &path, directory, body: None };
                if let Err(error) = call(&server, request, ABORT) {
                    log::warn!(path = path.as_str(); "can't abort a turn of opencode: {error}");
                }
            });
            if let Err(error) = abort {
                log::warn!("no task to abort a turn of opencode: {error}");
            }
        }
    }

    fn close_sockets(&mut self) {
        let sockets = self.requests.iter().map(|request| &request.socket);
        for socket in sockets.chain([&self.events]) {
            // An error means that it is closed already.
            drop(socket.shutdown(Shutdown::Both));
        }
    }
}

impl Transport for HttpTransport {
    fn send(&mut self, value: &Value) -> io::Result<()> {
        if is_outdate(value) {
            self.lease.outdate();
            return Ok(());
        }
        let request = Request::read(value)?;
        self.requests.retain(|request| !request.task.is_finished());
        if self.requests.len() >= REQUESTS_MAX {
            return Err(io::Error::other("too many requests to opencode's server are open"));
        }
        let patience = (!request.is_prompt()).then_some(PATIENCE);
        let id = value["id"].clone();
        let stream = match connect(&self.lease.server, patience) {
            Ok(stream) => stream,
            Err(error) => {
                let lost = json!({ "id": id, "error": error.to_string() });
                return self.values.try_send(TransportEvent::Value(lost)).map_err(io::Error::other);
            }
        };
        let abort = request.is_prompt().then(|| {
            let session = request.path.trim_end_matches("/message");
            (format!("{session}/abort"), request.directory.to_owned())
        });
        let socket = stream.try_clone()?;
        let bytes = request.encode(&self.lease.server);
        let values = self.values.clone();
        let task = task::spawn("http-request", move || {
            let value = match exchange(stream, &bytes) {
                Ok((status, body)) => json!({ "id": id, "status": status, "body": body }),
                Err(error) => json!({ "id": id, "error": error.to_string() }),
            };
            // Without a receiver the turn is over.
            drop(values.send(TransportEvent::Value(value)));
        })?;
        self.requests.push(InFlight { task, socket, abort });
        Ok(())
    }

    fn incoming(&self) -> &Receiver<TransportEvent> {
        &self.incoming
    }

    /// The server is not told to exit: it is everybody's. Only this turn's events end.
    fn close_input(&mut self) {
        self.abort_prompts();
        drop(self.events.shutdown(Shutdown::Both));
    }

    fn escalate(&mut self) -> Option<Duration> {
        self.steps += 1;
        match self.steps {
            1 => {
                self.abort_prompts();
                Some(ABORT)
            }
            2 => {
                self.close_sockets();
                Some(Duration::from_secs(1))
            }
            _ => None,
        }
    }

    fn kill(&mut self) -> bool {
        self.abort_prompts();
        self.close_sockets();
        false
    }
}

impl Drop for HttpTransport {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Reads events until the stream ends. They are one `data:` line each.
fn read_events(stream: TcpStream, values: &Sender<TransportEvent>) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    let (status, _) = read_head(&mut reader)?;
    if status != 200 {
        return Err(invalid(&format!("status {status} instead of events")));
    }
    let mut line = Vec::new();
    loop {
        line.clear();
        (&mut reader).take(BODY_MAX).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Ok(());
        }
        if line.last() != Some(&b'\n') {
            return Err(invalid("an event is too long or was cut off"));
        }
        let Some(data) = line.strip_prefix(b"data:") else { continue };
        let incoming = match serde_json::from_slice::<Value>(data) {
            Ok(event) => match event["payload"]["type"].as_str() {
                Some("server.connected") => TransportEvent::Value(json!({ "ready": true })),
                Some("server.heartbeat" | "sync") => continue,
                _ => TransportEvent::Value(json!({ "event": event })),
            },
            Err(_) => TransportEvent::garbage(data),
        };
        if values.send(incoming).is_err() {
            return Ok(());
        }
    }
}
