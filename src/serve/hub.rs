//! The hub: one bounded queue per subscriber. A subscriber that does not keep up is dropped, never
//! waited for: it comes back with `Last-Event-ID` and reads on from the store.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, OnceLock,
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
        lock,
        presence::{Machine, Presence},
        store::{
            AccountKey, Caller,
            rows::{AccountChange, AccountEvent},
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
    event: Option<AccountEvent>,
    /// Of its message.
    pub(super) bytes: usize,
    for_daemons: OnceLock<String>,
    for_browsers: OnceLock<String>,
}

impl Words {
    fn of(event: AccountEvent) -> Words {
        let bytes = match &event.change {
            AccountChange::Message(message) => message.body.len(),
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

/// An event as it goes over the wire; nothing if it is not for daemons: one would take what an agent
/// said for a person's message.
pub(super) fn words_of(event: &AccountEvent, daemon: bool, presence: &Presence) -> String {
    let data = match &event.change {
        _ if daemon && !event.change.is_for_daemons() => return String::new(),
        AccountChange::Message(message) if daemon => wire::reply(message),
        _ => wire::for_browsers(event, presence),
    };
    let name = match &event.change {
        AccountChange::Thread { .. } => "thread",
        change => change.kind(),
    };
    frame(Some(event.id()), name, &data)
}

#[derive(Debug)]
pub struct Hub {
    state: Mutex<State>,
    pub(super) heartbeat: Duration,
    /// The most streams of one account.
    pub(super) per_account: usize,
    /// Streams that did not keep up, since the start.
    pub(super) dropped: AtomicU64,
    /// Numbered events, since the start.
    pub(super) published: AtomicU64,
    pub presence: Presence,
}

#[derive(Clone, Copy, Debug)]
pub struct Counts {
    pub daemons: usize,
    pub browsers: usize,
    /// Machines that have a stream open.
    pub machines: usize,
}

#[derive(Debug, Default)]
struct State {
    stopped: bool,
    subscribers: Vec<Subscriber>,
}

#[derive(Debug)]
struct Subscriber {
    caller: Caller,
    /// None for browsers.
    machine: Option<Machine>,
    queue: Sender<Frame>,
    /// Bytes in the queue. Shared with the subscription, which it is recognised by.
    waiting: Arc<AtomicUsize>,
    hangup: Hangup,
}

/// A place in the hub, given up on drop.
pub(super) struct Subscription {
    hub: Arc<Hub>,
    pub(super) frames: Receiver<Frame>,
    pub(super) waiting: Arc<AtomicUsize>,
}

impl Hub {
    pub fn new(heartbeat: Duration, per_account: usize) -> Hub {
        let (dropped, published) = (AtomicU64::new(0), AtomicU64::new(0));
        let (state, presence) = (Mutex::default(), Presence::default());
        Hub { state, heartbeat, per_account, dropped, published, presence }
    }

    /// Queues an event of the store for the streams it concerns.
    pub fn publish(&self, event: AccountEvent) {
        self.published.fetch_add(1, Ordering::Relaxed);
        let (account, to_daemons) = (event.account, event.change.is_for_daemons());
        self.send(account, to_daemons, &Arc::new(Words::of(event)));
    }

    /// Sends browsers a transient event, about something that is true only now: not stored, not
    /// numbered.
    pub fn publish_transient(&self, account: AccountKey, name: &str, data: &Value) {
        self.send(account, false, &Arc::new(Words::transient(name, data)));
    }

    fn send(&self, account: AccountKey, to_daemons: bool, frame: &Frame) {
        lock(&self.state).subscribers.retain(|subscriber| {
            let wants = to_daemons || subscriber.machine.is_none();
            if subscriber.caller.account != account || !wants {
                return true;
            }
            let sent = subscriber.send(frame);
            if !sent {
                let machine = subscriber.id().map_or("browser", MachineId::as_str);
                log::warn!(machine; "a stream did not keep up and was dropped");
                self.dropped.fetch_add(1, Ordering::Relaxed);
                subscriber.hangup.hang_up();
            }
            sent
        });
    }

    /// The daemons of an account. One that came back while its old stream is not yet seen to be
    /// dead is one machine.
    pub fn machines(&self, account: AccountKey) -> HashMap<MachineId, Machine> {
        let state = lock(&self.state);
        let subscribers = state.subscribers.iter().filter(|it| it.caller.account == account);
        let machines = subscribers.filter_map(|it| it.machine.clone());
        machines.map(|it| (it.id.clone(), it)).collect()
    }

    /// Whether a machine is here with the caller's own token.
    pub fn is_connected(&self, caller: Caller, machine: &MachineId) -> bool {
        lock(&self.state)
            .subscribers
            .iter()
            .any(|it| it.caller == caller && it.id() == Some(machine))
    }

    /// Ends every stream of the matching callers, at once.
    pub fn hang_up(&self, is_meant: impl Fn(Caller) -> bool) {
        lock(&self.state).hang_up(|it| is_meant(it.caller));
    }

    /// The callers that have a stream open, each once.
    pub fn callers(&self) -> HashSet<Caller> {
        lock(&self.state).subscribers.iter().map(|it| it.caller).collect()
    }

    pub fn is_stopped(&self) -> bool {
        lock(&self.state).stopped
    }

    pub fn counts(&self) -> Counts {
        let subscribers = &lock(&self.state).subscribers;
        let names = subscribers.iter().filter_map(|it| Some((it.caller.account, it.id()?)));
        let daemons = names.clone().count();
        let machines = names.collect::<HashSet<_>>().len();
        Counts { daemons, browsers: subscribers.len() - daemons, machines }
    }

    /// Whether another daemon of this name is connected. Notes that on it.
    pub(super) fn refuses(&self, account: AccountKey, machine: &Machine) -> bool {
        let mut state = lock(&self.state);
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
        lock(&self.state).has_room(account, self.per_account)
    }

    /// Ends all streams and takes no more.
    pub fn stop(&self) {
        let mut state = lock(&self.state);
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
        let mut state = lock(&self.state);
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
        let subscription =
            Subscription { hub: Arc::clone(self), frames, waiting: Arc::clone(&waiting) };
        state.subscribers.push(Subscriber { caller, machine, queue, waiting, hangup });
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

    fn id(&self) -> Option<&MachineId> {
        self.machine.as_ref().map(|it| &it.id)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut state = lock(&self.hub.state);
        state.subscribers.retain(|it| !Arc::ptr_eq(&it.waiting, &self.waiting));
    }
}

/// JSON has no line breaks of its own, so one `data` line holds it.
pub(super) fn frame(id: Option<String>, name: &str, data: &Value) -> String {
    let id = id.map(|id| format!("id: {id}\n")).unwrap_or_default();
    format!("{id}event: {name}\ndata: {data}\n\n")
}
