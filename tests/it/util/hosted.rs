//! A bridge like the hosted one: it stores what it is given, each `clientMsgId` once (a second post
//! under the same one is dropped in silence), gives histories, and replays nothing. A thread's
//! history can be slow, held, broken, too large or silent; the bridge has a clock of its own.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Condvar, Mutex, MutexGuard},
    time::Duration,
};

use crossbeam_channel::{Sender, after, unbounded};
use obto_bridge::time::{self, Timestamp};
use serde_json::{Value, json};

use crate::util::{
    daemon::{MACHINE, Machine},
    patience::Patience,
    sick_bridge::{Conn, Seen, SickBridge},
};

/// What reading a thread's history comes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum History {
    #[default]
    Sound,
    /// It takes this long.
    Slow(Duration),
    /// It is answered when this is set to something else, with what there is then.
    Held,
    /// 500.
    Fails,
    /// More than any client takes.
    TooLarge,
    /// No answer.
    Hangs,
}

/// More than the client reads of an answer.
const TOO_LARGE: usize = 100 << 20;

/// The echo engine's answer.
pub(crate) fn echo(text: &str) -> String {
    format!("Echo agent (no model): You said: {text}")
}

pub(crate) struct Hosted {
    world: Arc<World>,
    // Drop order matters: what waits in the world ends with the bridge's connections.
    bridge: SickBridge,
}

#[derive(Default)]
struct World {
    inside: Mutex<Inside>,
    changed: Condvar,
}

#[derive(Default)]
pub(crate) struct Inside {
    /// Messages by thread, oldest first.
    threads: BTreeMap<String, Vec<Value>>,
    owners: BTreeMap<String, String>,
    /// Every `clientMsgId` so far.
    names: HashSet<String>,
    /// Posts under a name that was used for another text.
    pub(crate) dropped: Vec<String>,
    streams: Vec<Sender<Vec<u8>>>,
    /// Streams that were opened so far.
    pub(crate) opened: usize,
    /// Requests that were answered so far, by path.
    pub(crate) answered: BTreeMap<String, usize>,
    histories: BTreeMap<String, History>,
    /// Threads that somebody began to catch up with.
    pub(crate) asked: HashSet<String>,
    /// Catch-up's reads that were answered: thread and `since`.
    pub(crate) reads: Vec<(String, String)>,
    /// Streams are refused.
    is_down: bool,
    /// Posts are refused.
    takes_no_posts: bool,
    /// Milliseconds that the bridge's clock is behind.
    behind: u64,
    /// It says the time when a stream begins.
    says_time: bool,
    /// Said to whoever listens when the stream of this number is asked for.
    at_stream: Option<(usize, String)>,
    /// The next stream begins when this thread's history was read.
    late: Option<String>,
    newest: u64,
    is_over: bool,
}

impl Hosted {
    pub(crate) fn start() -> Hosted {
        let world: Arc<World> = Arc::default();
        let shared = Arc::clone(&world);
        let bridge = SickBridge::start(move |seen, conn| shared.answer(seen, conn));
        Hosted { world, bridge }
    }

    /// Its clock is so much behind.
    pub(crate) fn behind(self, time: Duration) -> Hosted {
        self.set_behind(time);
        self
    }

    pub(crate) fn set_behind(&self, time: Duration) {
        self.world.lock().behind = u64::try_from(time.as_millis()).unwrap();
    }

    /// Says its time when a stream begins.
    pub(crate) fn that_says_its_time(self) -> Hosted {
        self.world.lock().says_time = true;
        self
    }

    pub(crate) fn machine(&self) -> Machine {
        Machine::new(&self.bridge.url(), "obto_0123456789abcdef")
    }

    /// A person writes.
    pub(crate) fn say(&self, thread: &str, body: &str) {
        self.say_to(thread, body, None);
    }

    /// A person writes to an engine.
    pub(crate) fn say_to(&self, thread: &str, body: &str, agent: Option<&str>) {
        self.world.lock().say(thread, body, agent);
    }

    /// Has threads answered by the echo engine, one after the other, so that the machine knows them.
    #[track_caller]
    pub(crate) fn make_known(&self, machine: &Machine, threads: &[&str]) {
        let daemon = machine.connected();
        for thread in threads {
            self.say(thread, "hello");
            self.until(thread, 1);
        }
        daemon.stop();
    }

    /// From now on.
    pub(crate) fn set_history(&self, thread: &str, history: History) {
        self.world.lock().histories.insert(thread.to_owned(), history);
        self.world.changed.notify_all();
    }

    /// Ends all streams and refuses new ones.
    pub(crate) fn down(&self) {
        let mut inside = self.world.lock();
        inside.is_down = true;
        inside.streams.clear();
    }

    pub(crate) fn up(&self) {
        self.world.lock().is_down = false;
    }

    /// Whether posts are stored.
    pub(crate) fn take_posts(&self, does: bool) {
        self.world.lock().takes_no_posts = !does;
    }

    /// When the stream of this number (the first is 0) is asked for, somebody writes this on a new
    /// thread of that name, and those who listen then hear it.
    pub(crate) fn say_at_stream(&self, number: usize, thread: &str) {
        self.world.lock().at_stream = Some((number, thread.to_owned()));
    }

    /// The next stream begins some time after its response: when the history of this thread was read,
    /// somebody writes "early" on it, which nobody hears.
    pub(crate) fn begin_late(&self, thread: &str) {
        self.world.lock().late = Some(thread.to_owned());
    }

    pub(crate) fn posts(&self, thread: &str) -> Vec<String> {
        self.world.lock().posts(thread)
    }

    /// Waits until agents have said so much on a thread.
    #[track_caller]
    pub(crate) fn until(&self, thread: &str, count: usize) -> Vec<String> {
        self.wait(|inside| inside.posts(thread).len() >= count);
        self.posts(thread)
    }

    /// Waits until it is so.
    #[track_caller]
    pub(crate) fn wait(&self, is_so: impl Fn(&Inside) -> bool) {
        let (mut inside, mut patience) = (self.world.lock(), Patience::new());
        while !is_so(&inside) {
            assert!(patience.lasts(), "it never comes true: {:#?}", inside.threads);
            inside = self.world.changed.wait_timeout(inside, Patience::SLICE).unwrap().0;
        }
    }

    /// Looks at what there is.
    pub(crate) fn look<T>(&self, at: impl FnOnce(&Inside) -> T) -> T {
        at(&self.world.lock())
    }
}

impl Drop for Hosted {
    fn drop(&mut self) {
        if let Ok(mut inside) = self.world.inside.lock() {
            inside.is_over = true;
            inside.streams.clear();
        }
        self.world.changed.notify_all();
    }
}

impl Inside {
    /// No two messages have the same time.
    fn now(&mut self) -> String {
        let now = time::now().as_millis() - self.behind;
        self.newest = now.max(self.newest + 1);
        Timestamp::from_millis(self.newest).to_string()
    }

    fn say(&mut self, thread: &str, body: &str, agent: Option<&str>) {
        let created = self.now();
        let number = self.threads.values().map(Vec::len).sum::<usize>();
        let message = json!({
            "messageId": format!("m{number}"), "threadId": thread, "author": "ada", "role": "human",
            "body": body, "createdAt": created, "agent": agent,
        });
        self.threads.entry(thread.to_owned()).or_default().push(message.clone());
        let mut event = message;
        event["agentId"] = self.owners.get(thread).cloned().into();
        let bytes = format!("event: reply\ndata: {event}\n\n").into_bytes();
        self.streams.retain(|stream| stream.send(bytes.clone()).is_ok());
    }

    /// What agents have said on a thread.
    pub(crate) fn posts(&self, thread: &str) -> Vec<String> {
        let messages = self.threads.get(thread).into_iter().flatten();
        let posts = messages.filter(|message| message["role"] == "agent");
        posts.map(|post| post["body"].as_str().unwrap().to_owned()).collect()
    }

    /// Whether catch-up has read a thread, after so many reads.
    pub(crate) fn is_read(&self, thread: &str, after: usize) -> bool {
        self.reads[after..].iter().any(|(read, _)| read == thread)
    }

    fn post(&mut self, mut post: Value) {
        let name = post["clientMsgId"].as_str().unwrap().to_owned();
        let thread = post["threadId"].as_str().unwrap().to_owned();
        if !self.names.insert(name) {
            let is_known = self.threads[&thread]
                .iter()
                .any(|it| it["clientMsgId"] == post["clientMsgId"] && it["body"] == post["body"]);
            if !is_known {
                self.dropped.push(post.to_string());
            }
            return;
        }
        post["createdAt"] = self.now().into();
        let messages = self.threads.entry(thread).or_default();
        post["messageId"] = format!("p{}", self.names.len()).into();
        messages.push(post);
    }
}

impl World {
    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap()
    }

    fn answer(&self, seen: &Seen, conn: &mut Conn) {
        let (path, query) = seen.target.split_once('?').unwrap_or((&seen.target, ""));
        match path {
            "/api/bridge/stream" => return self.stream(conn),
            "/api/messages" => self.history(query, conn),
            "/api/bridge/thread/claim" => {
                let mut inside = self.lock();
                let thread = seen.json()["threadId"].as_str().unwrap().to_owned();
                inside.owners.insert(thread, MACHINE.to_owned());
                conn.json(200, json!({ "ok": true, "won": true, "winner": MACHINE }));
            }
            "/api/bridge/whoami" => {
                let now = self.lock().now();
                conn.json(200, json!({ "ok": true, "account": {}, "server": { "time": now } }));
            }
            "/api/message" if self.lock().takes_no_posts => conn.answer(503, "", "not now"),
            "/api/message" => {
                self.lock().post(seen.json());
                conn.json(200, json!({ "ok": true, "message": {} }));
            }
            _ => conn.json(200, json!({ "ok": true })),
        }
        *self.lock().answered.entry(path.to_owned()).or_default() += 1;
        self.changed.notify_all();
    }

    fn stream(&self, conn: &mut Conn) {
        let mut inside = self.lock();
        if inside.is_down {
            return conn.answer(503, "", "not now");
        }
        if let Some((number, thread)) = inside.at_stream.clone()
            && number == inside.opened
        {
            inside.say(&thread, "hello", None);
        }
        inside.opened += 1;
        conn.stream();
        if let Some(thread) = inside.late.take() {
            let before = inside.reads.len();
            // One page with what the daemon knows, and an empty one.
            let is_waiting = |inside: &mut Inside| {
                let reads = inside.reads[before..].iter().filter(|(read, _)| *read == thread);
                reads.count() < 2 && !inside.is_over
            };
            inside = self.changed.wait_while(inside, is_waiting).unwrap();
            inside.say(&thread, "early", None);
        }
        if inside.says_time {
            let hello = json!({ "serverTime": inside.now() });
            conn.raw(format!("event: hello\ndata: {hello}\n\n"));
        }
        let (bytes, said) = unbounded::<Vec<u8>>();
        inside.streams.push(bytes);
        drop(inside);
        self.changed.notify_all();
        said.iter().for_each(|bytes| conn.raw(bytes));
    }

    fn history(&self, query: &str, conn: &mut Conn) {
        let get = |name: &str| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.find(|(key, _)| *key == name).map(|(_, value)| value.replace("%3A", ":"))
        };
        let thread = get("threadId").unwrap();
        let (since, before) = (get("since"), get("before"));
        if since.is_some() {
            self.lock().asked.insert(thread.clone());
            self.changed.notify_all();
        }
        let of = |inside: &Inside| inside.histories.get(&thread).copied().unwrap_or_default();
        // Not held over a wait.
        let history = of(&self.lock());
        match history {
            History::Slow(time) => drop(after(time).recv()),
            History::Fails => return conn.json(500, json!({ "error": "a broken history" })),
            History::TooLarge => return conn.answer(200, "", vec![b' '; TOO_LARGE]),
            History::Hangs => return conn.hold(),
            History::Sound | History::Held => {}
        }
        let mut inside = self.lock();
        while of(&inside) == History::Held && !inside.is_over {
            inside = self.changed.wait(inside).unwrap();
        }
        let is_wanted = |message: &&Value| {
            let time = message["createdAt"].as_str().unwrap();
            since.as_deref().is_none_or(|since| time > since)
                && before.as_deref().is_none_or(|before| time < before)
        };
        let messages: Vec<Value> =
            inside.threads.get(&thread).into_iter().flatten().filter(is_wanted).cloned().collect();
        if let Some(since) = since {
            inside.reads.push((thread, since));
        }
        drop(inside);
        conn.json(200, json!({ "ok": true, "messages": messages }));
    }
}
