//! The hub: who publishes puts events into one queue, in their order, and waits for no subscriber. The
//! task `streams` hands them on, to one bounded queue per subscriber. A subscriber that does not keep
//! up is dropped, never waited for: it comes back with `Last-Event-ID` and reads on from the store.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    io,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crossbeam_channel::{Receiver, Sender, bounded};
use serde_json::Value;

use crate::{
    ids::MachineId,
    serve::{
        http::{Hangup, LiveStream},
        lock,
        presence::{Machine, Presence, Visit},
        store::{
            AccountKey, Caller,
            rows::{AccountChange, AccountEvent},
        },
        waker::Waker,
        wire,
    },
    time,
};

/// Frames that wait for one subscriber. They are shared between subscribers.
const QUEUE_MAX: usize = 256;
/// And what they may hold of messages, which may be large: memory that a slow reader keeps.
const QUEUE_BYTES: usize = 16 * 1024 * 1024;
/// What is published and not handed on yet. Over that, who publishes waits.
const ITEMS_MAX: usize = 256;

/// One event, shared by all subscribers. The first to which it is sent has it rendered, not the
/// publisher: rendering takes time, and publishing is done while the store is locked.
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

/// What comes to the task `streams`.
#[derive(Debug)]
pub(super) enum Item {
    Frame(Published),
    Stream(Box<Begun>),
}

/// A stream that has begun and goes on.
#[derive(Debug)]
pub(super) struct Begun {
    pub(super) stream: LiveStream,
    pub(super) subscription: Subscription,
    /// None for browsers, whose visits are not noted.
    pub(super) visit: Option<Visit>,
}

#[derive(Debug)]
pub(super) struct Published {
    /// Counts what was published.
    number: u64,
    account: AccountKey,
    to_daemons: bool,
    frame: Frame,
}

#[derive(Debug)]
pub struct Hub {
    state: Mutex<State>,
    /// The number of the last item, held while one is added.
    last: Mutex<u64>,
    items: (Sender<Item>, Receiver<Item>),
    pub(super) waker: Waker,
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
    /// It came after this item.
    after: u64,
    /// Shared with the subscription, which it is recognised by.
    queue: Arc<Queue>,
    hangup: Hangup,
}

/// A place in the hub, given up on drop.
#[derive(Debug)]
pub(super) struct Subscription {
    hub: Arc<Hub>,
    queue: Arc<Queue>,
}

/// The frames that wait for one subscriber.
#[derive(Debug, Default)]
struct Queue(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    frames: VecDeque<Frame>,
    bytes: usize,
    closed: bool,
}

/// What a subscriber gets next.
pub(super) enum Next {
    Frame(Frame),
    Nothing,
    /// Nothing, and nothing will come.
    Closed,
}

impl Hub {
    /// # Errors
    /// When the system gives no more descriptors.
    pub fn new(heartbeat: Duration, per_account: usize) -> io::Result<Hub> {
        Ok(Hub {
            state: Mutex::default(),
            last: Mutex::default(),
            items: bounded(ITEMS_MAX),
            waker: Waker::new()?,
            heartbeat,
            per_account,
            dropped: AtomicU64::new(0),
            published: AtomicU64::new(0),
            presence: Presence::default(),
        })
    }

    /// Queues an event of the store for the streams it concerns.
    pub fn publish(&self, event: AccountEvent) {
        self.published.fetch_add(1, Ordering::Relaxed);
        let (account, to_daemons) = (event.account, event.change.is_for_daemons());
        self.add(account, to_daemons, Words::of(event));
    }

    /// Queues a transient event for browsers, about something that is true only now: not stored, not
    /// numbered.
    pub fn publish_transient(&self, account: AccountKey, name: &str, data: &Value) {
        self.add(account, false, Words::transient(name, data));
    }

    fn add(&self, account: AccountKey, to_daemons: bool, words: Words) {
        let mut last = lock(&self.last);
        *last += 1;
        let published = Published { number: *last, account, to_daemons, frame: Arc::new(words) };
        self.items.0.send(Item::Frame(published)).expect("the hub has the other end");
        drop(last);
        self.waker.wake();
    }

    /// Has a stream that has begun go on.
    pub(super) fn go_on(&self, begun: Begun) {
        self.items.0.send(Item::Stream(Box::new(begun))).expect("the hub has the other end");
        self.waker.wake();
    }

    /// What has come, for the task `streams`.
    pub(super) fn items(&self) -> impl Iterator<Item = Item> {
        self.items.1.try_iter()
    }

    pub(super) fn has_items(&self) -> bool {
        !self.items.1.is_empty()
    }

    /// Hands something on to the subscribers that it concerns.
    pub(super) fn hand_out(&self, published: &Published) {
        let Published { number, account, to_daemons, frame } = published;
        lock(&self.state).subscribers.retain(|subscriber| {
            let wants = *to_daemons || subscriber.machine.is_none();
            let is_new = subscriber.after < *number;
            if subscriber.caller.account != *account || !wants || !is_new {
                return true;
            }
            let sent = subscriber.queue.push(frame);
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

    /// One of them.
    pub(super) fn machine(&self, account: AccountKey, id: &MachineId) -> Option<Machine> {
        let state = lock(&self.state);
        let subscribers = state.subscribers.iter().filter(|it| it.caller.account == account);
        subscribers.filter_map(|it| it.machine.as_ref()).rfind(|it| it.id == *id).cloned()
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
        drop(state);
        self.waker.wake();
    }

    /// What is published from now on goes to the subscription, and nothing before. None: there is no
    /// room, or another daemon of this name came first.
    pub(super) fn subscribe(
        self: &Arc<Hub>,
        caller: Caller,
        machine: Option<Machine>,
        hangup: Hangup,
    ) -> Option<Subscription> {
        // Not while the state is locked: who publishes may wait for the task that hands out.
        let after = *lock(&self.last);
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
        let queue = Arc::<Queue>::default();
        let subscription = Subscription { hub: Arc::clone(self), queue: Arc::clone(&queue) };
        state.subscribers.push(Subscriber { caller, machine, after, queue, hangup });
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

impl Queue {
    /// False: its subscriber does not keep up.
    fn push(&self, frame: &Frame) -> bool {
        let mut waiting = lock(&self.0);
        let bytes = waiting.bytes + frame.bytes;
        // One that is alone may be of any length.
        let has_room = waiting.bytes == 0 || bytes <= QUEUE_BYTES;
        if !has_room || QUEUE_MAX <= waiting.frames.len() {
            return false;
        }
        waiting.bytes = bytes;
        waiting.frames.push_back(Arc::clone(frame));
        true
    }
}

impl Subscription {
    pub(super) fn next(&self) -> Next {
        let mut waiting = lock(&self.queue.0);
        let Some(frame) = waiting.frames.pop_front() else {
            // There may be thousands of quiet ones.
            waiting.frames.shrink_to(4);
            return if waiting.closed { Next::Closed } else { Next::Nothing };
        };
        waiting.bytes -= frame.bytes;
        Next::Frame(frame)
    }
}

impl Subscriber {
    fn id(&self) -> Option<&MachineId> {
        self.machine.as_ref().map(|it| &it.id)
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        lock(&self.queue.0).closed = true;
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut state = lock(&self.hub.state);
        state.subscribers.retain(|it| !Arc::ptr_eq(&it.queue, &self.queue));
    }
}

/// JSON has no line breaks of its own, so one `data` line holds it.
pub(super) fn frame(id: Option<String>, name: &str, data: &Value) -> String {
    let id = id.map(|id| format!("id: {id}\n")).unwrap_or_default();
    format!("{id}event: {name}\ndata: {data}\n\n")
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use serde_json::json;

    use super::*;
    use crate::serve::store::{Credential, TokenKey};

    fn hub() -> Arc<Hub> {
        Arc::new(Hub::new(Duration::from_secs(1), 9).unwrap())
    }

    fn subscribe(hub: &Arc<Hub>, account: i64) -> Subscription {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let access = Credential::Token(TokenKey::parse("1").unwrap());
        let caller = Caller { account: AccountKey::test(account), access };
        hub.subscribe(caller, None, Hangup::test(socket)).expect("there is room")
    }

    fn publish(hub: &Hub, text: &str) {
        hub.publish_transient(AccountKey::test(1), text, &json!(0));
    }

    /// What the task `streams` does with what has come.
    fn hand_out(hub: &Hub) {
        for item in hub.items() {
            let Item::Frame(frame) = item else { panic!("no stream has begun") };
            hub.hand_out(&frame);
        }
    }

    fn heard(hub: &Hub, subscription: &Subscription) -> Vec<String> {
        let next = || match subscription.next() {
            Next::Frame(frame) => Some(frame.get(false, &hub.presence).to_owned()),
            Next::Nothing | Next::Closed => None,
        };
        let name = |frame: String| frame["event: ".len()..].lines().next().unwrap().to_owned();
        std::iter::from_fn(next).map(name).collect()
    }

    #[test]
    fn who_publishes_waits_for_no_subscriber() {
        let hub = hub();
        let (one, other) = (subscribe(&hub, 1), subscribe(&hub, 2));
        let texts: Vec<String> = (0..100).map(|n| n.to_string()).collect();
        for text in &texts {
            publish(&hub, text);
        }
        assert_eq!(heard(&hub, &one), [""; 0], "nobody has handed it out yet");
        hand_out(&hub);
        assert_eq!((heard(&hub, &one), heard(&hub, &other)), (texts, vec![]));
    }

    /// The store tells a subscriber how far it is when it comes; what is still under way is before that.
    #[test]
    fn a_subscriber_gets_nothing_that_was_published_before_it_came() {
        let hub = hub();
        publish(&hub, "before");
        let subscription = subscribe(&hub, 1);
        publish(&hub, "after");
        hand_out(&hub);
        assert_eq!(heard(&hub, &subscription), ["after"]);
    }

    #[test]
    fn a_subscriber_that_lags_gives_up_its_place_and_keeps_nobody_else() {
        let hub = hub();
        let (slow, quick) = (subscribe(&hub, 1), subscribe(&hub, 1));
        for n in 0..=QUEUE_MAX {
            publish(&hub, &n.to_string());
            hand_out(&hub);
            assert_eq!(heard(&hub, &quick), [n.to_string()]);
        }
        assert_eq!((hub.counts().browsers, hub.dropped.load(Ordering::Relaxed)), (1, 1));
        // What it has got before the gap, and no more.
        assert_eq!(heard(&hub, &slow).len(), QUEUE_MAX);
        assert!(matches!(slow.next(), Next::Closed));
        assert!(matches!(quick.next(), Next::Nothing));
    }
}
