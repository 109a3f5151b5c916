//! A small HTTP/1.1 server: blocking, a task per connection. Written here because the small ones
//! to be had hold an event stream back until it ends. It knows nothing of bridges.
//!
//! Nothing polls: an idle server does not wake. Whoever is blocked is woken by its socket being
//! shut, the accepting task by a connection from ourselves.

mod conn;
pub mod message;

use std::{
    collections::HashMap,
    convert::Infallible,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded};

use crate::task::{self, Task};

pub use conn::{Hangup, StreamWriter};
use message::{Head, Request, Response};

/// Connections beyond the limit that are still told so; the rest is closed without a word.
const REFUSALS_MAX: usize = 16;
/// How long requests in progress may take to answer when the server stops, and then to leave.
const DRAIN_TIME: Duration = Duration::from_millis(500);

/// What answers requests.
pub trait Handler: Send + Sync + 'static {
    /// What [`Handler::admit`] found out: the route, who is calling.
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
    /// Bytes of the request line and headers.
    pub head_bytes: usize,
    pub head_time: Duration,
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
            connections: 512,
            head_bytes: 16 * 1024,
            head_time: Duration::from_secs(10),
            body_time: Duration::from_secs(30),
            idle: Duration::from_secs(90),
            write: Duration::from_secs(30),
        }
    }
}

/// A running server. [`Server::stop`] or dropping it ends it.
#[derive(Debug)]
pub struct Server {
    addr: SocketAddr,
    connections: Arc<Connections>,
    /// Closed to stop.
    stop: Option<Sender<Infallible>>,
    /// Closed when the last connection has left.
    left: Receiver<Infallible>,
    accept: Option<Task>,
}

impl Server {
    /// Listens on `addr`.
    ///
    /// # Errors
    /// When the address can't be had, or the system gives no more threads.
    pub fn start<H: Handler>(
        addr: SocketAddr,
        handler: Arc<H>,
        limits: Limits,
    ) -> io::Result<Server> {
        let listener = TcpListener::bind(addr)?;
        let addr = listener.local_addr()?;
        let connections = Arc::new(Connections::default());
        let (stop, stopped) = bounded(0);
        let (alive, left) = bounded(0);
        let shared = Shared { handler, limits, alive, connections: Arc::clone(&connections) };
        let accept = task::spawn("http-accept", move || accept(&listener, &stopped, shared))?;
        Ok(Server { addr, connections, stop: Some(stop), left, accept: Some(accept) })
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Stops listening, lets requests in progress answer, and waits at most a second for the
    /// connections to end. A handler's own long waits must have been ended before.
    pub fn stop(&mut self) {
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
            self.connections.shut(how);
            if self.left.recv_timeout(DRAIN_TIME) == Err(RecvTimeoutError::Disconnected) {
                return;
            }
        }
        let count = self.connections.lock().open.len();
        log::warn!(count; "connections did not end in time");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
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

struct Shared<H> {
    handler: Arc<H>,
    limits: Limits,
    alive: Sender<Infallible>,
    connections: Arc<Connections>,
}

fn accept<H: Handler>(listener: &TcpListener, stopped: &Receiver<Infallible>, shared: Shared<H>) {
    loop {
        let accepted = listener.accept();
        if stopped.try_recv() == Err(TryRecvError::Disconnected) {
            return;
        }
        let started = accepted.and_then(|(socket, _)| start_connection(socket, &shared));
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

fn start_connection<H: Handler>(socket: TcpStream, shared: &Shared<H>) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let socket = Arc::new(socket);
    let place = shared.connections.enter(&socket);
    if shared.limits.connections + REFUSALS_MAX < place.count {
        return Ok(());
    }
    let (handler, limits) = (Arc::clone(&shared.handler), shared.limits.clone());
    let alive = shared.alive.clone();
    let name = format!("http-conn-{}", place.number % 100_000);
    let task = task::spawn(&name, move || {
        // Drop order matters: whoever waits for `alive` may rely on the handler being let go.
        let _alive = alive;
        let (handler, socket, place) = (handler, socket, place);
        if limits.connections < place.count {
            let text = format!("all {} connections are in use; try again", limits.connections);
            return conn::refuse(
                &socket,
                &Response::error(503, text).with("Retry-After", "1"),
                &limits,
            );
        }
        conn::serve(&socket, &*handler, &limits);
    })?;
    // Detached: it is waited for through `alive`, and its handler's panics are caught inside.
    drop(task);
    Ok(())
}

/// The open sockets, so that they can be shut from outside.
#[derive(Debug, Default)]
struct Connections(Mutex<Open>);

#[derive(Debug, Default)]
struct Open {
    next: u64,
    open: HashMap<u64, Arc<TcpStream>>,
}

/// A connection's place among the open ones, given up on drop.
struct Place {
    connections: Arc<Connections>,
    number: u64,
    /// How many were open when it came, itself included.
    count: usize,
}

impl Connections {
    fn lock(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(self: &Arc<Connections>, socket: &Arc<TcpStream>) -> Place {
        let mut open = self.lock();
        let number = open.next;
        open.next += 1;
        open.open.insert(number, Arc::clone(socket));
        Place { connections: Arc::clone(self), number, count: open.open.len() }
    }

    fn shut(&self, how: Shutdown) {
        for socket in self.lock().open.values() {
            conn::shut(socket, how);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.lock().open.remove(&self.number);
    }
}
