//! The hub: one bounded queue per subscriber. A subscriber that does not keep up is dropped, never
//! waited for: it comes back with `Last-Event-ID` and reads on from the store.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use crossbeam_channel::{Receiver, Sender, bounded};
use serde_json::Value;

use crate::{
    ids::MachineId,
    serve::{
        http::Hangup,
        presence::{Machine, Presence},
        store::{
            AccountKey, Caller,
            rows::{Change, Event},
        },
        wire,
    },
    time,
};

/// Frames that wait for one subscriber. They are shared between subscribers.
const QUEUE_MAX: usize = 256;
/// And what they may hold of messages, which may be large: memory that a slow reader keeps.
const QUEUE_BYTES: usize = 16 * 1024 * 1024;
/// One event, shared by all subscribers. The first that sends it renders it, not the publisher:
/// rendering takes time, and publishing is done while the store is locked.
pub(super) type Frame = Arc<Words>;

#[derive(Debug)]
pub(super) struct Words {
    /// None: it was written when it was published.
    event: Option<Event>,
    /// Of its message.
    pub(super) bytes: usize,
    for_daemons: OnceLock<String>,
    for_browsers: OnceLock<String>,
}

impl Words {
    fn of(event: Event) -> Words {
        let bytes = match &event.change {
            Change::Message(message) => message.body.len(),
            _ => 0,
        };
        let (for_daemons, for_browsers) = (OnceLock::new(), OnceLock::new());
        Words { event: Some(event), bytes, for_daemons, for_browsers }
    }

    fn transient(name: &str, data: &Value) -> Words {
        let for_browsers = OnceLock::from(frame(None, name, data));
        Words { event: None, bytes: 0, for_daemons: OnceLock::new(), for_browsers }
    }

    pub(super) fn get(&self, daemon: bool, presence: &Presence) -> &str {
        let words = if daemon { &self.for_daemons } else { &self.for_browsers };
        let event = self.event.as_ref();
        words.get_or_init(|| event.map(|it| words_of(it, daemon, presence)).unwrap_or_default())
    }
}

/// An event as it goes over the wire; nothing if it is not for daemons.
pub(super) fn words_of(event: &Event, daemon: bool, presence: &Presence) -> String {
    let data =
        if daemon { wire::for_daemons(event) } else { Some(wire::for_browsers(event, presence)) };
    data.map(|data| frame(Some(event.id()), wire::event_name(event), &data)).unwrap_or_default()
}

/// All open streams.
#[derive(Debug)]
pub struct Hub {
    state: Mutex<State>,
    pub(super) heartbeat: Duration,
    /// The most streams of one account.
    pub(super) per_account: usize,
    dropped: AtomicU64,
    published: AtomicU64,
    pub presence: Presence,
}

/// Figures of the hub.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Streams that are open.
    pub daemons: u64,
    pub browsers: u64,
    /// Machines that have a stream open.
    pub machines: u64,
    /// Streams that did not keep up, since the start.
    pub dropped: u64,
    /// Numbered events, since the start.
    pub published: u64,
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
    /// Bytes in the queue.
    waiting: Arc<AtomicUsize>,
    hangup: Hangup,
}

/// A place in the hub, given up on drop.
pub(super) struct Subscription {
    hub: Arc<Hub>,
    number: u64,
    pub(super) frames: Receiver<Frame>,
    pub(super) waiting: Arc<AtomicUsize>,
}

impl Hub {
    pub fn new(heartbeat: Duration, per_account: usize) -> Hub {
        let (dropped, published) = (AtomicU64::new(0), AtomicU64::new(0));
        let (state, presence) = (Mutex::default(), Presence::default());
        Hub { state, heartbeat, per_account, dropped, published, presence }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues an event of the store for the streams it concerns.
    pub fn publish(&self, event: &Event) {
        self.published.fetch_add(1, Ordering::Relaxed);
        let frame = Arc::new(Words::of(event.clone()));
        self.send(event.account, event.change.is_for_daemons(), &frame);
    }

    /// Sends browsers a transient event, about something that is true only now: not stored, not
    /// numbered.
    pub fn publish_transient(&self, account: AccountKey, name: &str, data: &Value) {
        self.send(account, false, &Arc::new(Words::transient(name, data)));
    }

    fn send(&self, account: AccountKey, to_daemons: bool, frame: &Frame) {
        self.lock().subscribers.retain(|subscriber| {
            let wants = to_daemons || subscriber.machine.is_none();
            if subscriber.caller.account != account || !wants {
                return true;
            }
            let sent = subscriber.send(frame);
            if !sent {
                log::warn!(machine = subscriber.name(); "a stream did not keep up and was dropped");
                self.dropped.fetch_add(1, Ordering::Relaxed);
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

    /// Whether a machine is here with the caller's own token.
    pub fn is_connected(&self, caller: Caller, machine: &MachineId) -> bool {
        self.lock().subscribers.iter().any(|it| {
            it.caller == caller && it.machine.as_ref().is_some_and(|it| it.id == *machine)
        })
    }

    /// Ends every stream of the matching callers, at once.
    pub fn hang_up(&self, is_meant: impl Fn(Caller) -> bool) {
        self.lock().hang_up(|it| is_meant(it.caller));
    }

    /// The callers that have a stream open, each once.
    pub fn callers(&self) -> HashSet<Caller> {
        self.lock().subscribers.iter().map(|it| it.caller).collect()
    }

    pub fn is_stopped(&self) -> bool {
        self.lock().stopped
    }

    pub fn counts(&self) -> Counts {
        let dropped = self.dropped.load(Ordering::Relaxed);
        let published = self.published.load(Ordering::Relaxed);
        let mut counts = Counts { dropped, published, ..Counts::default() };
        let state = self.lock();
        let mut machines = HashSet::new();
        for Subscriber { caller, machine, .. } in &state.subscribers {
            match machine {
                None => counts.browsers += 1,
                Some(machine) => {
                    counts.daemons += 1;
                    counts.machines += u64::from(machines.insert((caller.account, &machine.id)));
                }
            }
        }
        counts
    }

    /// Whether another daemon of this name is connected. Notes that on it.
    pub(super) fn refuses(&self, account: AccountKey, machine: &Machine) -> bool {
        let mut state = self.lock();
        let Some(known) = state.rival(account, machine) else { return false };
        let is_first = known.conflict.replace(time::now()).is_none();
        let level = if is_first { log::Level::Warn } else { log::Level::Debug };
        log::log!(
            level, machine = machine.id.as_str();
            "a second daemon of this name was refused; give one of the two another agentId"
        );
        true
    }

    /// Whether the account may open one stream more.
    pub(super) fn has_room(&self, account: AccountKey) -> bool {
        self.lock().has_room(account, self.per_account)
    }

    /// Ends all streams and takes no more.
    pub fn stop(&self) {
        let mut state = self.lock();
        state.stopped = true;
        state.subscribers.clear();
    }

    /// None: there is no room, or another daemon of this name came first.
    pub(super) fn subscribe(
        self: &Arc<Hub>,
        caller: Caller,
        machine: Option<Machine>,
        hangup: Hangup,
    ) -> Option<Subscription> {
        let mut state = self.lock();
        if let Some(machine) = &machine {
            // A daemon that comes back replaces the stream that it had.
            state.hang_up(|it| {
                it.caller.account == caller.account
                    && it.machine.as_ref().is_some_and(|it| it.is_same(machine))
            });
            if state.rival(caller.account, machine).is_some() {
                return None;
            }
        }
        if state.stopped || !state.has_room(caller.account, self.per_account) {
            return None;
        }
        let (queue, frames) = bounded(QUEUE_MAX);
        let waiting = Arc::<AtomicUsize>::default();
        let number = state.next;
        state.next += 1;
        let subscription =
            Subscription { hub: Arc::clone(self), number, frames, waiting: Arc::clone(&waiting) };
        state.subscribers.push(Subscriber { number, caller, machine, queue, waiting, hangup });
        Some(subscription)
    }
}

impl State {
    fn has_room(&self, account: AccountKey, most: usize) -> bool {
        self.subscribers.iter().filter(|it| it.caller.account == account).count() < most
    }

    fn hang_up(&mut self, is_meant: impl Fn(&Subscriber) -> bool) {
        for subscriber in self.subscribers.extract_if(.., |it| is_meant(it)) {
            subscriber.hangup.hang_up();
        }
    }

    /// Another daemon of this machine's name, if its connection is not over.
    fn rival(&mut self, account: AccountKey, machine: &Machine) -> Option<&mut Machine> {
        self.subscribers
            .iter_mut()
            .filter(|it| it.caller.account == account)
            .filter_map(|it| Some((it.machine.as_mut()?, &it.hangup)))
            .find(|(it, hangup)| it.is_other(machine) && !hangup.is_over())
            .map(|(it, _)| it)
    }
}

impl Subscriber {
    /// False: it does not keep up.
    fn send(&self, frame: &Frame) -> bool {
        let before = self.waiting.fetch_add(frame.bytes, Ordering::Relaxed);
        // One that is alone may be of any length.
        let has_room = before == 0 || before + frame.bytes <= QUEUE_BYTES;
        has_room && self.queue.try_send(Arc::clone(frame)).is_ok()
    }

    fn name(&self) -> &str {
        self.machine.as_ref().map_or("browser", |it| it.id.as_str())
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.hub.lock().subscribers.retain(|it| it.number != self.number);
    }
}

/// JSON has no line breaks of its own, so one `data` line holds it.
pub(super) fn frame(id: Option<String>, name: &str, data: &Value) -> String {
    let id = id.map(|id| format!("id: {id}\n")).unwrap_or_default();
    format!("{id}event: {name}\ndata: {data}\n\n")
}
