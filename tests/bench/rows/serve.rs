//! The embedded bridge, `obto-bridge serve`, over real sockets.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    thread,
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use crossbeam_channel::{Receiver, unbounded};
use serde_json::json;

#[cfg(feature = "serve")]
use super::fleet;
use super::pause;
use crate::{
    bridge::Bridge,
    daemon::{Bench, GLANCE, Home, PATIENCE, Program},
    proc::{ms, now},
    stats::{Rounds, Row, figure},
};

const SAMPLES: usize = 300;
const ROUNDS: usize = 5;

pub(crate) fn serve(bench: &Bench) -> Result<Vec<Row>> {
    // A home has a config, which needs some bridge's address.
    let home = Home::new(bench, &Bridge::start()?)?;
    let args = ["serve", "--listen", "127.0.0.1:0"];
    let server = Program::start(&bench.program, &args, &home)?;
    let rows = server.explain(Access::of(&server, &home).and_then(|access| measure(&access)))?;
    let (resident, _) = server.process().memory()?;
    server.stop()?;
    let memory = Row::told("… resident memory", resident, "MB");
    let rows = rows.into_iter().chain([memory]);
    #[cfg(feature = "serve")]
    let rows = rows.chain(fleet::rows(bench));
    Ok(rows.collect())
}

fn measure(access: &Access) -> Result<Vec<Row>> {
    let mut connection = access.connect()?;
    let mut trips = Vec::new();
    for _ in 0..SAMPLES {
        let before = now();
        connection.request(&access.head("GET", "/api/bridge/whoami"), "")?;
        trips.push(ms(before, now()));
    }
    let events = access.listen()?;
    let mut deliveries = Vec::new();
    for number in 0..SAMPLES {
        let text = format!("message {number} of the benchmark");
        let body = json!({"threadId": "t", "body": text}).to_string();
        let before = now();
        connection.request(&access.head("POST", "/api/reply"), &body)?;
        loop {
            let (at, data) = events.recv_timeout(PATIENCE).context("no event after a reply")?;
            if data.contains(&text) {
                deliveries.push(ms(before, at));
                break;
            }
        }
    }
    let (trips, deliveries) = (Rounds::cut(&trips, ROUNDS), Rounds::cut(&deliveries, ROUNDS));
    let p99 = |rounds: &Rounds| format!("p99 {}", figure(rounds.percentile(99)));
    Ok(vec![
        Row::told("serve: keep-alive round trip: p50", trips.median(), "ms")
            .note(p99(&trips))
            .note(&trips),
        Row::told("serve: reply posted → event on the stream: p50", deliveries.median(), "ms")
            .note(p99(&deliveries))
            .note(&deliveries),
    ])
}

/// Where the server is, and the token of its account.
pub(super) struct Access {
    addr: String,
    token: String,
}

impl Access {
    /// As soon as the server says so.
    pub(super) fn of(server: &Program, home: &Home) -> Result<Access> {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            let token = fs::read_to_string(home.token_file()).unwrap_or_default();
            let output = server.output();
            let addr = output.split("http://").nth(1).and_then(|it| it.split_whitespace().next());
            if let (Some(addr), false) = (addr, token.is_empty()) {
                return Ok(Access { addr: addr.to_owned(), token: token.trim().to_owned() });
            }
            pause(GLANCE);
        }
        bail!("the server did not say where it is");
    }

    pub(super) fn head(&self, method: &str, path: &str) -> String {
        let Access { addr, token } = self;
        format!("{method} {path} HTTP/1.1\r\nHost: {addr}\r\nAuthorization: Bearer {token}\r\n")
    }

    pub(super) fn connect(&self) -> Result<Connection> {
        let socket = TcpStream::connect(&self.addr)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Connection { reader: BufReader::new(socket.try_clone()?), socket })
    }

    /// Opens a stream. Its lines of data come with the time at which they were read.
    fn listen(&self) -> Result<Receiver<(u64, String)>> {
        let mut connection = self.connect()?;
        let head = self.head("GET", "/api/bridge/stream?agentId=bench-machine");
        connection.socket.write_all(format!("{head}\r\n").as_bytes())?;
        connection.response_head()?;
        let (sender, events) = unbounded();
        // It ends with the server.
        thread::spawn(move || {
            for line in connection.reader.lines().map_while(Result::ok) {
                if line.starts_with("data:") && sender.send((now(), line)).is_err() {
                    break;
                }
            }
        });
        Ok(events)
    }
}

pub(super) struct Connection {
    pub(super) socket: TcpStream,
    pub(super) reader: BufReader<TcpStream>,
}

impl Connection {
    /// Asks, and reads the answer whole.
    pub(super) fn request(&mut self, head: &str, body: &str) -> Result<()> {
        self.ask(head, body).map(drop)
    }

    /// Asks, and gives the answer's body.
    pub(super) fn ask(&mut self, head: &str, body: &str) -> Result<Vec<u8>> {
        let length = body.len();
        let rest = format!("Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n");
        self.socket.write_all(format!("{head}{rest}{body}").as_bytes())?;
        let length = self.response_head()?.context("an answer without a length")?;
        let mut answer = Vec::new();
        self.reader.by_ref().take(length).read_to_end(&mut answer)?;
        Ok(answer)
    }

    /// The next line of a stream.
    pub(super) fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            bail!("the stream ended");
        }
        Ok(line)
    }

    /// The length of the body that follows, where it is told.
    pub(super) fn response_head(&mut self) -> Result<Option<u64>> {
        let (mut first, mut length) = (String::new(), None);
        self.reader.read_line(&mut first)?;
        if !first.starts_with("HTTP/1.1 200") {
            bail!("the server answered {:?}", first.trim());
        }
        loop {
            let mut line = String::new();
            self.reader.read_line(&mut line)?;
            let Some((name, value)) = line.split_once(':') else { return Ok(length) };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().ok();
            }
        }
    }
}
