//! A bridge that does what a test tells it to: any status, header and byte, at any time, or
//! nothing at all. It notes every request.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use crossbeam_channel::{Receiver, Sender, unbounded};
use obto_bridge::task::{self, Task};
use serde_json::Value;

use crate::util::patience;

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Counts connections from 0.
    pub(crate) connection: usize,
    /// Counts requests from 0, over all connections.
    pub(crate) number: usize,
}

impl Seen {
    /// The first header of that name, in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// The bridge's side of a connection, for the script.
pub(crate) struct Conn {
    socket: TcpStream,
    open: bool,
}

impl Conn {
    /// A whole response; the connection stays.
    pub(crate) fn answer(&mut self, status: u16, headers: &str, body: impl AsRef<[u8]>) {
        let body = body.as_ref();
        let head =
            format!("HTTP/1.1 {status} x\r\n{headers}Content-Length: {}\r\n\r\n", body.len());
        self.raw([head.as_bytes(), body].concat());
    }

    pub(crate) fn json(&mut self, status: u16, body: Value) {
        self.answer(status, "Content-Type: application/json\r\n", body.to_string());
    }

    /// The head of an event stream; what follows is sent with [`Conn::raw`].
    pub(crate) fn stream(&mut self) {
        self.raw("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n");
        self.open = false;
    }

    /// A client that is gone does not matter.
    pub(crate) fn raw(&mut self, bytes: impl AsRef<[u8]>) {
        drop(self.socket.write_all(bytes.as_ref()).and_then(|()| self.socket.flush()));
    }

    /// Closes the connection after this request.
    pub(crate) fn close(&mut self) {
        self.open = false;
    }

    /// Says no more, and keeps the connection until the client or the test is done.
    pub(crate) fn hold(&mut self) {
        self.open = false;
        let mut rest = [0; 1024];
        while matches!(self.socket.read(&mut rest), Ok(1..)) {}
    }
}

type Script = dyn Fn(&Seen, &mut Conn) + Send + Sync;

struct Inner {
    script: Box<Script>,
    seen: Sender<Seen>,
    requests: AtomicUsize,
    sockets: Mutex<Vec<TcpStream>>,
    stopped: AtomicBool,
}

pub(crate) struct SickBridge {
    pub(crate) addr: SocketAddr,
    /// Every request, when it is complete.
    pub(crate) seen: Receiver<Seen>,
    inner: Arc<Inner>,
    accept: Option<Task>,
}

impl SickBridge {
    /// `script` is run for every request on its connection's own thread.
    pub(crate) fn start(script: impl Fn(&Seen, &mut Conn) + Send + Sync + 'static) -> SickBridge {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let (sender, seen) = unbounded();
        let inner = Arc::new(Inner {
            script: Box::new(script),
            seen: sender,
            requests: AtomicUsize::new(0),
            sockets: Mutex::default(),
            stopped: AtomicBool::new(false),
        });
        let shared = Arc::clone(&inner);
        let accept = task::spawn("sick-accept", move || accept(&listener, &shared)).unwrap();
        SickBridge { addr, seen, inner, accept: Some(accept) }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// The next request.
    #[track_caller]
    pub(crate) fn next(&self) -> Seen {
        patience::recv(&self.seen).expect("a request comes")
    }
}

impl Drop for SickBridge {
    fn drop(&mut self) {
        self.inner.stopped.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.addr));
        for socket in self.inner.sockets.lock().unwrap().iter() {
            drop(socket.shutdown(Shutdown::Both));
        }
        if let Some(accept) = self.accept.take() {
            accept.join().unwrap();
        }
    }
}

fn accept(listener: &TcpListener, inner: &Arc<Inner>) {
    for (number, socket) in listener.incoming().map_while(Result::ok).enumerate() {
        if inner.stopped.load(Ordering::SeqCst) {
            return;
        }
        inner.sockets.lock().unwrap().push(socket.try_clone().unwrap());
        let inner = Arc::clone(inner);
        drop(task::spawn("sick-conn", move || serve(socket, number, &inner)).unwrap());
    }
}

fn serve(socket: TcpStream, connection: usize, inner: &Inner) {
    let mut reader = BufReader::new(socket.try_clone().unwrap());
    let mut conn = Conn { socket, open: true };
    while conn.open {
        let Some(mut seen) = read_request(&mut reader) else { break };
        seen.connection = connection;
        seen.number = inner.requests.fetch_add(1, Ordering::SeqCst);
        drop(inner.seen.send(seen.clone()));
        (inner.script)(&seen, &mut conn);
    }
    drop(conn.socket.shutdown(Shutdown::Both));
}

fn read_request(reader: &mut impl BufRead) -> Option<Seen> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        match line.trim_end() {
            "" if lines.is_empty() => {}
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let mut first = lines[0].split(' ');
    let (method, target) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers: Vec<(String, String)> = lines[1..]
        .iter()
        .filter_map(|line| line.split_once(':'))
        .map(|(key, value)| (key.to_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers.iter().find(|(key, _)| key == "content-length");
    let mut body = vec![0; length.map_or(0, |(_, length)| length.parse().unwrap())];
    reader.read_exact(&mut body).ok()?;
    Some(Seen { method, target, headers, body, connection: 0, number: 0 })
}
