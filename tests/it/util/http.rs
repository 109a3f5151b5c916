//! A raw HTTP client: it sends the bytes it is given, right or wrong, and every wait has a deadline.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
};

use serde_json::Value;

use super::patience::Patience;

/// The person whose account this is, who could not sign in so far: what to send in place of a token.
/// What comes with a token approves nothing.
#[cfg(feature = "serve")]
#[track_caller]
pub(crate) fn person(server: &obto_bridge::serve::Server, name: &str) -> String {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    const PASSWORD: &str = "correct horse";
    let code = server.welcome(name).unwrap().expect("nobody can sign in yet");
    let body = serde_json::json!({ "code": code.reveal(), "password": PASSWORD });
    let mut conn = Conn::open(server.addr());
    conn.request("POST", "/api/session/redeem", "", Some(&body)).ok();
    format!("Basic {}", BASE64_STANDARD.encode(format!("{name}:{PASSWORD}")))
}

/// The bounds of a bridge that cuts nobody off for being slow.
#[cfg(feature = "serve")]
pub(crate) fn patient_limits() -> obto_bridge::serve::http::Limits {
    let time = std::time::Duration::from_mins(20);
    obto_bridge::serve::http::Limits {
        handshake: time,
        head_time: time,
        body_time: time,
        idle: time,
        write: time,
        ..Default::default()
    }
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) socket: TcpStream,
    #[cfg(feature = "serve")]
    tls: Option<Box<rustls::ClientConnection>>,
    buffer: Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        let text = String::from_utf8_lossy(&self.body);
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// The body of an answer that must be a success.
    #[track_caller]
    pub(crate) fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", String::from_utf8_lossy(&self.body));
        self.json()
    }
}

impl Conn {
    pub(crate) fn open(addr: SocketAddr) -> Conn {
        Conn::of(TcpStream::connect(addr).unwrap())
    }

    /// A connection that comes from this address of the loopback network.
    #[cfg(target_os = "linux")]
    pub(crate) fn open_from(source: [u8; 4], addr: SocketAddr) -> Conn {
        use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        bind(&socket, &SocketAddr::from((source, 0))).unwrap();
        connect(&socket, &addr).unwrap();
        Conn::of(TcpStream::from(socket))
    }

    fn of(socket: TcpStream) -> Conn {
        socket.set_nodelay(true).unwrap();
        Conn {
            socket,
            #[cfg(feature = "serve")]
            tls: None,
            buffer: Vec::new(),
        }
    }

    /// A connection under TLS; the handshake comes with the first bytes.
    #[cfg(feature = "serve")]
    pub(crate) fn secure(addr: SocketAddr, tls: rustls::ClientConnection) -> Conn {
        Conn { tls: Some(Box::new(tls)), ..Conn::open(addr) }
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes.as_ref()).unwrap();
    }

    pub(crate) fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let (mut rest, mut patience) = (bytes, Patience::new());
        self.socket.set_write_timeout(Some(Patience::SLICE))?;
        self.socket.set_read_timeout(Some(Patience::SLICE))?;
        loop {
            match self.write(rest) {
                Ok(_) if rest.is_empty() => return Ok(()),
                Ok(count) => {
                    rest = &rest[count..];
                    patience.renew();
                }
                Err(error) if is_pause(&error) && patience.lasts() => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends some of the bytes, or flushes if there are none.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        #[cfg(feature = "serve")]
        if let Some(tls) = &mut self.tls {
            let mut stream = rustls::Stream::new(&mut **tls, &mut self.socket);
            return if bytes.is_empty() { stream.flush().map(|()| 0) } else { stream.write(bytes) };
        }
        self.socket.write(bytes)
    }

    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        #[cfg(feature = "serve")]
        if let Some(tls) = &mut self.tls {
            return rustls::Stream::new(&mut **tls, &mut self.socket).read(into);
        }
        self.socket.read(into)
    }

    /// Says farewell under TLS, and leaves the connection open.
    #[cfg(feature = "serve")]
    pub(crate) fn say_farewell(&mut self) {
        let tls = self.tls.as_mut().expect("a connection under TLS");
        tls.send_close_notify();
        tls.write_tls(&mut self.socket).unwrap();
    }

    /// Sends a JSON request, or one without a body. The token of a program, or what [`person`] gave.
    pub(crate) fn request(
        &mut self,
        method: &str,
        path: &str,
        token: &str,
        body: Option<&Value>,
    ) -> Reply {
        let body = body.map(Value::to_string).unwrap_or_default();
        let access = if token.contains(' ') { token.to_owned() } else { format!("Bearer {token}") };
        self.send(format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {access}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ));
        self.reply().expect("the server answers")
    }

    /// The next response to anything but HEAD. None: the server has closed.
    pub(crate) fn reply(&mut self) -> Option<Reply> {
        let head = self.reply_head()?;
        Some(self.body_of(head))
    }

    /// The rest of a response that has begun.
    pub(crate) fn body_of(&mut self, mut reply: Reply) -> Reply {
        let length = reply.header("content-length").expect("the length is told").parse().unwrap();
        while self.buffer.len() < length {
            assert!(self.fill(), "the body is cut off");
        }
        reply.body = self.buffer.drain(..length).collect();
        reply
    }

    /// The next response up to its empty line.
    pub(crate) fn reply_head(&mut self) -> Option<Reply> {
        loop {
            if let Some(end) = self.buffer.windows(4).position(|it| it == b"\r\n\r\n") {
                let head: Vec<u8> = self.buffer.drain(..end + 4).collect();
                let head = String::from_utf8(head).unwrap();
                let status = head.split(' ').nth(1).unwrap().parse().unwrap();
                return Some(Reply { status, head, body: Vec::new() });
            }
            if !self.fill() {
                assert!(self.buffer.is_empty(), "the head is cut off");
                return None;
            }
        }
    }

    /// Whether the server closes without another byte.
    pub(crate) fn is_closed(&mut self) -> bool {
        self.buffer.is_empty() && !self.fill()
    }

    fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(String::from_utf8(line).unwrap().trim_end().to_owned());
            }
            if !self.fill() {
                return None;
            }
        }
    }

    /// Reads some more. False: the end, or a reset, which is one.
    #[track_caller]
    fn fill(&mut self) -> bool {
        let mut patience = Patience::new();
        self.socket.set_read_timeout(Some(Patience::SLICE)).unwrap();
        let mut piece = [0; 16 * 1024];
        loop {
            match self.read(&mut piece) {
                Ok(count) => {
                    self.buffer.extend_from_slice(&piece[..count]);
                    return count > 0;
                }
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof
                    ) =>
                {
                    return false;
                }
                Err(error) if is_pause(&error) && patience.lasts() => {}
                Err(error) => panic!("nothing came in time: {error}"),
            }
        }
    }
}

/// Nothing moved for a moment, which is no error yet.
fn is_pause(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

/// One event of a stream.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Event {
    pub(crate) id: Option<String>,
    pub(crate) name: String,
    pub(crate) data: Value,
}

/// An open event stream. The server sends each event, and each heartbeat, as one chunk.
#[derive(Debug)]
pub(crate) struct Events {
    pub(crate) conn: Conn,
    pub(crate) head: Reply,
}

impl Events {
    /// `query` is for example `?agentId=box`.
    #[track_caller]
    pub(crate) fn open(addr: SocketAddr, token: &str, query: &str, last: Option<String>) -> Events {
        Events::on(Conn::open(addr), token, query, last)
    }

    #[track_caller]
    pub(crate) fn on(mut conn: Conn, token: &str, query: &str, last: Option<String>) -> Events {
        let last = last.map(|it| format!("Last-Event-ID: {it}\r\n")).unwrap_or_default();
        conn.send(format!(
            "GET /api/bridge/stream{query} HTTP/1.1\r\nHost: localhost\r\n\
             Authorization: Bearer {token}\r\nAccept: text/event-stream\r\n{last}\r\n"
        ));
        let head = conn.reply_head().expect("the server answers");
        assert_eq!(head.status, 200);
        Events { conn, head }
    }

    /// The next event. None: the stream has ended.
    #[track_caller]
    pub(crate) fn next(&mut self) -> Option<Event> {
        let mut patience = Patience::new();
        loop {
            let event = self.chunk()?;
            if !event.name.is_empty() {
                return Some(event);
            }
            // Heartbeats go on for ever.
            assert!(patience.lasts(), "no event came in time");
        }
    }

    /// Waits for a heartbeat, which has to be what comes next.
    #[track_caller]
    pub(crate) fn wait_for_heartbeat(&mut self) {
        assert_eq!(self.chunk().expect("the stream goes on").name, "");
    }

    /// The next event, or one without a name for a heartbeat.
    pub(crate) fn chunk(&mut self) -> Option<Event> {
        let size = usize::from_str_radix(&self.conn.line()?, 16).unwrap();
        if size == 0 {
            return None;
        }
        let mut event = Event { id: None, name: String::new(), data: Value::Null };
        loop {
            let line = self.conn.line()?;
            match line.split_once(':') {
                Some(("id", it)) => event.id = Some(it.trim().to_owned()),
                Some(("event", it)) => it.trim().clone_into(&mut event.name),
                Some(("data", it)) => event.data = serde_json::from_str(it).unwrap(),
                Some(("", _)) => (),
                Some(("retry", it)) => assert_eq!(it.trim(), "1000"),
                _ if line.is_empty() => break,
                _ => panic!("an unknown line: {line}"),
            }
        }
        assert_eq!(self.conn.line().as_deref(), Some(""), "the chunk's end");
        Some(event)
    }

    #[track_caller]
    pub(crate) fn expect(&mut self, name: &str) -> Event {
        let event = self.next().expect("the stream goes on");
        assert_eq!(event.name, name, "{event:?}");
        event
    }
}
