//! Event streams: a hub with one bounded queue per subscriber, and the task's side that writes
//! `text/event-stream`. A subscriber that does not keep up is dropped, never waited for: it comes
//! back with `Last-Event-ID` and reads on from the store.

use std::{
    collections::HashSet,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use serde_json::{Value, json};

use crate::{
    ids::MachineId,
    serve::{
        http::{Hangup, StreamWriter, message::Response},
        store::{
            AccountKey, Caller, Store,
            events::{Event, Resume},
        },
        wire,
    },
    time::{self, Timestamp},
};

/// Frames that wait for one subscriber. They are shared between subscribers.
const QUEUE_MAX: usize = 256;
/// What clients are told to wait before they come back.
const RETRY: &str = "retry: 1000\n";

/// One event as it goes over the wire.
type Frame = Arc<str>;

/// Everybody who listens.
#[derive(Debug)]
pub struct Hub {
    state: Mutex<State>,
    heartbeat: Duration,
}

#[derive(Debug, Default)]
struct State {
    stopped: bool,
    next: u64,
    subscribers: Vec<Subscriber>,
}

#[derive(Debug)]
struct Subscriber {
    number: u64,
    caller: Caller,
    /// None for browsers.
    machine: Option<Machine>,
    queue: Sender<Frame>,
    hangup: Hangup,
}

/// A daemon that is connected.
#[derive(Clone, Debug)]
pub struct Machine {
    pub id: MachineId,
    pub capabilities: Vec<String>,
    pub since: Timestamp,
}

/// A place in the hub, given up on drop.
struct Subscription {
    hub: Arc<Hub>,
    number: u64,
    frames: Receiver<Frame>,
}

impl Hub {
    pub fn new(heartbeat: Duration) -> Hub {
        Hub { state: Mutex::default(), heartbeat }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands an event of the store to those whom it is for.
    pub fn publish(&self, event: &Event) {
        let frame = frame(Some(event.seq), wire::event_name(event), &wire::event_data(event));
        self.send(event.account, event.change.is_for_daemons(), &frame);
    }

    /// Tells browsers something that is true only now: not stored, not numbered.
    pub fn publish_passing(&self, account: AccountKey, name: &str, data: &Value) {
        self.send(account, false, &frame(None, name, data));
    }

    fn send(&self, account: AccountKey, to_daemons: bool, frame: &Frame) {
        self.lock().subscribers.retain(|subscriber| {
            let wants = to_daemons || subscriber.machine.is_none();
            if subscriber.caller.account != account || !wants {
                return true;
            }
            let sent = subscriber.queue.try_send(Arc::clone(frame)).is_ok();
            if !sent {
                log::warn!(machine = subscriber.name(); "a stream did not keep up and was dropped");
                subscriber.hangup.hang_up();
            }
            sent
        });
    }

    /// The daemons of an account. One that came back while its old stream is not yet seen to be
    /// dead is one machine.
    pub fn machines(&self, account: AccountKey) -> Vec<Machine> {
        let mut machines: Vec<Machine> = Vec::new();
        for subscriber in &self.lock().subscribers {
            let Some(machine) = &subscriber.machine else { continue };
            if subscriber.caller.account == account {
                machines.retain(|it| it.id != machine.id);
                machines.push(machine.clone());
            }
        }
        machines
    }

    /// Ends every stream of those who are meant, at once.
    pub fn hang_up(&self, is_meant: impl Fn(Caller) -> bool) {
        self.lock().subscribers.retain(|subscriber| {
            let keep = !is_meant(subscriber.caller);
            if !keep {
                subscriber.hangup.hang_up();
            }
            keep
        });
    }

    /// Everybody who listens, once.
    pub fn callers(&self) -> HashSet<Caller> {
        self.lock().subscribers.iter().map(|it| it.caller).collect()
    }

    /// Ends all streams and takes no more.
    pub fn stop(&self) {
        let mut state = self.lock();
        state.stopped = true;
        state.subscribers.clear();
    }

    fn subscribe(
        self: &Arc<Hub>,
        caller: Caller,
        machine: Option<Machine>,
        hangup: Hangup,
    ) -> Subscription {
        let (queue, frames) = bounded(QUEUE_MAX);
        let mut state = self.lock();
        let number = state.next;
        state.next += 1;
        // Without a place the queue is closed already, and the stream ends as soon as it begins.
        if !state.stopped {
            state.subscribers.push(Subscriber { number, caller, machine, queue, hangup });
        }
        Subscription { hub: Arc::clone(self), number, frames }
    }
}

impl Subscriber {
    fn name(&self) -> &str {
        self.machine.as_ref().map_or("browser", |it| it.id.as_str())
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.hub.lock().subscribers.retain(|it| it.number != self.number);
    }
}

/// The response to a request for the stream. A daemon names its machine and gets only `reply`
/// events; a browser gets all.
pub fn respond(
    store: Arc<Store>,
    hub: Arc<Hub>,
    caller: Caller,
    machine: Option<Machine>,
    last: Option<String>,
) -> Response {
    let run = move |writer: &mut StreamWriter<'_>| {
        run(&store, &hub, caller, machine, last.as_deref(), writer)
    };
    Response::stream("text/event-stream", run).with("X-Accel-Buffering", "no")
}

fn run(
    store: &Store,
    hub: &Arc<Hub>,
    caller: Caller,
    machine: Option<Machine>,
    last: Option<&str>,
    writer: &mut StreamWriter<'_>,
) -> io::Result<()> {
    let daemon = machine.is_some();
    let hangup = writer.hangup();
    let resumed = store
        .resume(caller, last, || hub.subscribe(caller, machine, hangup))
        .map_err(|error| store_failed(&error))?;
    // Shut out between the look at the token and now.
    let Some((resume, subscription)) = resumed else { return Ok(()) };
    let hello = json!({ "replay": resume.kind.as_str(), "serverTime": time::now() });
    let hello = format!("{RETRY}{}", frame(Some(resume.after), "hello", &hello));
    writer.send(hello.as_bytes())?;
    replay(store, caller, resume, daemon, writer)?;
    loop {
        match subscription.frames.recv_timeout(hub.heartbeat) {
            Ok(frame) => writer.send(frame.as_bytes())?,
            Err(RecvTimeoutError::Timeout) if writer.peer_is_gone() => return Ok(()),
            Err(RecvTimeoutError::Timeout) => writer.send(b":\n\n")?,
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
}

fn replay(
    store: &Store,
    caller: Caller,
    resume: Resume,
    daemon: bool,
    writer: &mut StreamWriter<'_>,
) -> io::Result<()> {
    let mut after = resume.after;
    loop {
        let page = store
            .events(caller.account, after, resume.head, daemon)
            .map_err(|error| store_failed(&error))?;
        let Some(last) = page.last() else { return Ok(()) };
        after = last.seq;
        for event in page {
            let frame = frame(Some(event.seq), wire::event_name(&event), &wire::event_data(&event));
            writer.send(frame.as_bytes())?;
        }
    }
}

/// The client sees its stream end, and comes back.
fn store_failed(error: &anyhow::Error) -> io::Error {
    log::error!("a stream could not read the store: {error:#}");
    io::Error::other("the store failed")
}

/// JSON has no line breaks of its own, so one `data` line holds it.
fn frame(seq: Option<i64>, name: &str, data: &Value) -> Frame {
    let id = seq.map(|seq| format!("id: {seq}\n")).unwrap_or_default();
    format!("{id}event: {name}\ndata: {data}\n\n").into()
}
