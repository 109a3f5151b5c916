//! A small HTTP/1.1 server: blocking, a task per connection. Written here because the small ones
//! to be had hold an event stream back until it ends. It knows nothing of bridges. A stream that has
//! begun leaves its task and goes on as a [`LiveStream`], which somebody else writes to.
//!
//! Nothing polls: an idle server does not wake. Whoever is blocked is woken by its socket being
//! shut, the accepting task by a connection from ourselves.

mod budget;
mod conn;
mod live;
pub mod message;
mod socket;
pub mod tls;

use std::{
    collections::HashMap,
    convert::Infallible,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded};

use crate::{
    serve::lock,
    task::{self, Task},
};

use budget::Budget;
use conn::Detached;
pub use conn::StreamWriter;
pub use live::{Detach, LiveStream};
use message::{Head, Request, Response};
pub use socket::Hangup;
use tls::Tls;

/// Connections beyond the limit that are still told so; the rest is closed without a word.
const REFUSALS_MAX: usize = 16;
/// How long requests in progress may take to answer when the server stops, and then to leave.
const DRAIN_TIME: Duration = Duration::from_millis(500);

/// What answers requests.
pub trait RequestHandler: Send + Sync + 'static {
    /// What [`RequestHandler::admit`] found out: the route, who is calling.
    type Admitted;

    /// Looks at a request before its body is read, so that a stranger can't make us hold one.
    /// The number is the most bytes that the body may have.
    ///
    /// # Errors
    /// The response for a request that is not let in.
    fn admit(&self, head: &Head) -> Result<(Self::Admitted, usize), Response>;

    fn handle(&self, admitted: Self::Admitted, request: Request) -> Response;
}

/// Bounds of the server; every time is absolute, from the first byte of what it limits.
#[derive(Clone, Debug)]
pub struct Limits {
    pub connections: usize,
    /// Of one address, so that one peer can't take all places; of one network of 64 bits in IPv6.
    pub per_address: usize,
    /// From the first byte to the end of the TLS handshake.
    pub handshake: Duration,
    /// Bytes of the request line and headers.
    pub head_bytes: usize,
    pub head_time: Duration,
    /// All bodies over 1 MB, of requests and answers, that are in memory at the same time.
    pub large_bytes: usize,
    /// The whole request, from its first byte to the last of its body.
    pub body_time: Duration,
    /// Between two requests.
    pub idle: Duration,
    /// One response, or one piece of a stream.
    pub write: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 1024,
            per_address: 512,
            handshake: Duration::from_secs(10),
            head_bytes: 16 * 1024,
            head_time: Duration::from_secs(10),
            large_bytes: 192 * 1024 * 1024,
            body_time: Duration::from_secs(30),
            idle: Duration::from_secs(90),
            write: Duration::from_secs(30),
        }
    }
}

/// What a server is started with.
#[derive(Debug)]
pub struct Setup {
    pub addr: SocketAddr,
    pub limits: Limits,
    /// None: plain HTTP.
    pub tls: Option<Tls>,
    pub counters: Arc<Counters>,
}

/// What happened on the server's connections, for whoever watches it.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections that are open now.
    pub(super) open: AtomicU64,
    /// Connections that got no place.
    pub(super) refused: AtomicU64,
    /// Handshakes that failed.
    pub(super) failed: AtomicU64,
    /// Answers by class: 1xx, 2xx, 3xx, 4xx, 5xx.
    pub(super) answers: [AtomicU64; 5],
}

impl Counters {
    fn answered(&self, status: u16) {
        let class = usize::from(status / 100).wrapping_sub(1);
        if let Some(answers) = self.answers.get(class) {
            answers.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A running server. Dropping it ends it.
#[derive(Debug)]
pub struct HttpServer {
    addr: SocketAddr,
    open: Arc<Mutex<OpenSockets>>,
    /// Closed to stop.
    stop: Option<Sender<Infallible>>,
    /// Closed when the last connection has left.
    left: Receiver<Infallible>,
    accept: Option<Task>,
}

impl HttpServer {
    /// Listens.
    ///
    /// # Errors
    /// When the address can't be had, or the system gives no more threads.
    pub fn start<H: RequestHandler>(setup: Setup, handler: Arc<H>) -> io::Result<HttpServer> {
        let listener = TcpListener::bind(setup.addr)?;
        let addr = listener.local_addr()?;
        let open = Arc::<Mutex<OpenSockets>>::default();
        let (stop, stopped) = bounded(0);
        let (alive, left) = bounded(0);
        let budget = Budget::new(setup.limits.large_bytes);
        let shared = Arc::new(Shared { handler, budget, setup, open: Arc::clone(&open) });
        let accept =
            task::spawn("http-accept", move || accept(&listener, &stopped, &alive, &shared))?;
        Ok(HttpServer { addr, open, stop: Some(stop), left, accept: Some(accept) })
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for HttpServer {
    /// Stops listening, lets requests in progress answer, and waits at most a second for the
    /// connections to end. A handler's own long waits must have been ended before.
    fn drop(&mut self) {
        drop(self.stop.take());
        let Some(accept) = self.accept.take() else { return };
        // The connection only wakes the accepting task; if it fails, that task is awake already.
        if let Err(error) = TcpStream::connect_timeout(&reachable(self.addr), DRAIN_TIME) {
            log::debug!("the listener did not take its wake-up: {error}");
        }
        if accept.join().is_err() {
            log::error!("the accepting task had failed");
        }
        for how in [Shutdown::Read, Shutdown::Both] {
            for (_, socket) in lock(&self.open).sockets.values() {
                socket::shut(socket, how);
            }
            if self.left.recv_timeout(DRAIN_TIME) == Err(RecvTimeoutError::Disconnected) {
                return;
            }
        }
        let count = lock(&self.open).sockets.len();
        log::warn!(count; "connections did not end in time");
    }
}

/// An address under which we reach ourselves: a listener on all addresses has none.
fn reachable(addr: SocketAddr) -> SocketAddr {
    let ip = match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, addr.port())
}

/// What all connections of a server share.
struct Shared<H> {
    handler: Arc<H>,
    budget: Budget,
    setup: Setup,
    open: Arc<Mutex<OpenSockets>>,
}

/// A clone of `alive` goes with every connection.
fn accept<H: RequestHandler>(
    listener: &TcpListener,
    stopped: &Receiver<Infallible>,
    alive: &Sender<Infallible>,
    shared: &Arc<Shared<H>>,
) {
    loop {
        let accepted = listener.accept();
        if stopped.try_recv() == Err(TryRecvError::Disconnected) {
            return;
        }
        let started = accepted
            .and_then(|(socket, peer)| start_connection(socket, peer.ip(), alive.clone(), shared));
        if let Err(error) = started {
            log::warn!("a connection could not be taken: {error}");
            // Out of descriptors or threads: let some connections end instead of spinning.
            let wait = Instant::now() + Duration::from_millis(100);
            if stopped.recv_deadline(wait) == Err(RecvTimeoutError::Disconnected) {
                return;
            }
        }
    }
}

fn start_connection<H: RequestHandler>(
    tcp: TcpStream,
    peer: IpAddr,
    alive: Sender<Infallible>,
    shared: &Arc<Shared<H>>,
) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let tcp = Arc::new(tcp);
    let peer = peer.to_canonical();
    let Setup { limits, counters, .. } = &shared.setup;
    let (place, count, of_address) = ConnectionPermit::take(shared, &tcp, peer);
    let refusal = if limits.connections < count {
        let text = format!("all {} connections are in use; try again", limits.connections);
        Some(Response::error(503, text))
    } else if limits.per_address < of_address {
        let text = format!("{} connections from one address are enough", limits.per_address);
        Some(Response::error(429, text))
    } else {
        None
    };
    if refusal.is_some() {
        counters.refused.fetch_add(1, Ordering::Relaxed);
        let beyond = |limit: usize, count: usize| limit.saturating_add(REFUSALS_MAX) < count;
        if beyond(limits.connections, count) || beyond(limits.per_address, of_address) {
            return Ok(());
        }
    }
    let name = format!("http-conn-{}", place.number % 100_000);
    let task = task::spawn(&name, move || {
        // Drop order matters: whoever waits for `alive` may rely on the handler being let go.
        let place = (place, alive);
        let shared = &*place.0.shared;
        let Some(mut socket) = conn::begin(tcp, &shared.setup) else { return };
        match refusal {
            Some(refusal) => {
                let refusal = refusal.with("Retry-After", "1");
                conn::refuse(&mut socket, &refusal, &shared.setup);
            }
            None => {
                if let Some((socket, Detached { detach, chunked })) =
                    conn::serve(socket, peer, shared)
                {
                    match LiveStream::new(socket, chunked, Box::new(place)) {
                        Ok(stream) => detach(stream),
                        Err(error) => log::warn!("a stream could not go on: {error}"),
                    }
                }
            }
        }
    })?;
    // Detached: it is waited for through `alive`, and its handler's panics are caught inside.
    drop(task);
    Ok(())
}

/// The open sockets, so that they can be shut from outside.
#[derive(Debug, Default)]
struct OpenSockets {
    next: u64,
    /// With the address that each is from, as [`network`] has it.
    sockets: HashMap<u64, (IpAddr, Arc<TcpStream>)>,
}

/// A connection's place among the open ones, given up on drop.
struct ConnectionPermit<H> {
    shared: Arc<Shared<H>>,
    number: u64,
}

impl<H> ConnectionPermit<H> {
    /// How many are open now, this one included, and how many of these are from its address.
    fn take(
        shared: &Arc<Shared<H>>,
        socket: &Arc<TcpStream>,
        peer: IpAddr,
    ) -> (ConnectionPermit<H>, usize, usize) {
        let address = network(peer);
        let mut open = lock(&shared.open);
        let number = open.next;
        open.next += 1;
        open.sockets.insert(number, (address, Arc::clone(socket)));
        let of_address = open.sockets.values().filter(|(it, _)| *it == address).count();
        shared.setup.counters.open.fetch_add(1, Ordering::Relaxed);
        (ConnectionPermit { shared: Arc::clone(shared), number }, open.sockets.len(), of_address)
    }
}

impl<H> Drop for ConnectionPermit<H> {
    fn drop(&mut self) {
        lock(&self.shared.open).sockets.remove(&self.number);
        self.shared.setup.counters.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What one peer has of addresses: in IPv6 every home and server has a network of 64 bits.
pub(super) fn network(peer: IpAddr) -> IpAddr {
    match peer {
        IpAddr::V4(_) => peer,
        IpAddr::V6(it) => IpAddr::from((it.to_bits() & !u128::from(u64::MAX)).to_be_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_a_network_in_ipv6() {
        #[track_caller]
        fn check(peer: &str, expected: &str) {
            assert_eq!(network(peer.parse().unwrap()).to_string(), expected);
        }
        check("192.0.2.7", "192.0.2.7");
        check("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::");
        check("2001:db8:1:2::", "2001:db8:1:2::");
        check("::1", "::");
    }

    #[test]
    fn answers_are_counted_by_class() {
        let counters = Counters::default();
        for status in [200, 204, 404, 503, 100, 0, 999] {
            counters.answered(status);
        }
        assert_eq!(counters.answers.map(AtomicU64::into_inner), [1, 2, 0, 1, 1]);
    }
}
