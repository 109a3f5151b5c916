//! All parts around the daemon: a scripted model, a home with the engines, our own bridge in the
//! test's process, and the real program between them. A test talks as the human at the page does.
//!
//! ```text
//! test ── say/answer ──> bridge <── HTTP ──> obto-bridge start ──> engine ──> model <── test
//! ```

use crate::{
    daemon::Daemon,
    homes::{Engine, Home},
    http::{Conn, Events, person},
    model::Model,
    patience::Patience,
    process,
};
use obto_bridge::{
    serve::{Options, Server},
    store::{RealDisk, journal},
};
use serde_json::{Map, Value, json};
use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    ops::{Deref, DerefMut},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

/// Enough for a cold start of an engine, two tries of its model and the end. On a busy machine a
/// minute takes longer, see [`Patience`].
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);

/// How often the bridge is asked whether the daemon is there. It has no event for that.
const LOOK: Duration = Duration::from_millis(20);

/// What the first daemon of this run has learned of the engines. To ask them costs more than a turn.
static VERSIONS: OnceLock<Vec<u8>> = OnceLock::new();

/// Where a daemon keeps that.
const VERSIONS_FILE: &str = ".agent-bridge-daemon/engines.json";

/// What the machine is called on the wire.
const MACHINE: &str = "e2e-machine";

/// What an agent or the daemon has said on a thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Post {
    id: String,
    pub(crate) thread: String,
    /// `status`, `question`, `result` or `error`.
    pub(crate) kind: String,
    pub(crate) author: String,
    pub(crate) body: String,
    /// The card of a question; else null.
    pub(crate) card: Value,
    /// Which question has ended, and how; else null.
    pub(crate) closed: Value,
}

impl Post {
    /// Whether the human need not wait for more.
    pub(crate) fn is_last(&self) -> bool {
        self.kind != "status"
    }

    fn read(message: &Value) -> Post {
        let text = |key: &str| message[key].as_str().unwrap_or_default().to_owned();
        Post {
            id: text("messageId"),
            thread: text("threadId"),
            kind: text("kind"),
            author: text("author"),
            body: text("body"),
            card: message["question"].clone(),
            closed: message["questionClosed"].clone(),
        }
    }
}

/// A rig whose daemon does not run yet.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) model: Model,
    pub(crate) home: Home,
    /// The config file, without what is about the bridge.
    pub(crate) config: Value,
}

impl Setup {
    /// No engine is logged in.
    pub(crate) fn logged_out() -> Setup {
        let model = Model::start();
        let home = Home::new(&model);
        let acp = Engine::ALL.into_iter().filter(|it| it.speaks_acp());
        let agents: Map<_, _> =
            acp.map(|it| (it.name().to_owned(), json!({"command": it.command()}))).collect();
        let config = json!({
            "agentId": MACHINE,
            "projectDir": home.project(),
            // How many such lines there are depends on how slow the machine is.
            "progress": false,
            "agents": agents,
        });
        Setup { model, home, config }
    }

    /// All engines are logged in.
    pub(crate) fn logged_in() -> Setup {
        let mut setup = Setup::logged_out();
        for engine in Engine::ALL {
            setup.home.log_in(engine, &setup.model);
        }
        setup
    }

    /// Starts bridge and daemon.
    #[track_caller]
    pub(crate) fn start(mut self) -> Rig {
        let bridge = Bridge::start(&self.home);
        self.config["baseUrl"] = json!(format!("http://{}", bridge.addr));
        self.config["apiToken"] = json!(bridge.token);
        let dir = self.home.path(".obto-bridge");
        fs::create_dir(&dir).unwrap();
        let mut file = fs::File::options();
        let file = file.write(true).create(true).mode(0o600).open(dir.join("config.json")).unwrap();
        serde_json::to_writer(file, &self.config).unwrap();
        if let Some(versions) = VERSIONS.get() {
            let state = self.home.path(".agent-bridge-daemon");
            fs::DirBuilder::new().mode(0o700).create(state).unwrap();
            fs::write(self.home.path(VERSIONS_FILE), versions).unwrap();
        }
        let mut rig = Rig { daemon: None, bridge, model: self.model, home: self.home };
        rig.start_daemon();
        rig
    }
}

/// The daemon and everything around it. It derefs to the bridge, as the human sees it.
#[derive(Debug)]
pub(crate) struct Rig {
    // Drop order matters: the daemon stops before what it talks to, and its home goes last.
    daemon: Option<Daemon>,
    bridge: Bridge,
    pub(crate) model: Model,
    pub(crate) home: Home,
}

impl Rig {
    /// All engines are logged in and the config says nothing special.
    #[track_caller]
    pub(crate) fn start() -> Rig {
        Setup::logged_in().start()
    }

    pub(crate) fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().expect("the daemon runs")
    }

    /// Takes the daemon, to stop or kill it.
    pub(crate) fn take_daemon(&mut self) -> Daemon {
        self.daemon.take().expect("the daemon runs")
    }

    /// Starts the daemon and waits until it listens.
    #[track_caller]
    pub(crate) fn start_daemon(&mut self) {
        assert!(self.daemon.is_none(), "the daemon runs already");
        let before = self.bridge.since();
        let daemon = self.daemon.insert(Daemon::start(&self.home));
        let mut patience = Patience::of(PATIENCE);
        loop {
            let now = self.bridge.since();
            if now.is_some() && now != before {
                return;
            }
            let over = daemon.ended().recv_timeout(LOOK).is_err_and(|it| it.is_disconnected());
            assert!(!over, "the daemon ended as soon as it began");
            assert!(patience.lasts(), "the daemon did not come to the bridge");
        }
    }

    /// Stops the daemon in good order and starts it again.
    #[track_caller]
    pub(crate) fn restart_daemon(&mut self) {
        self.take_daemon().stop();
        self.start_daemon();
    }

    /// What the daemon knows of a thread, from its state.json; null if it knows nothing.
    ///
    /// The file is written a moment after the answer was posted, and surely when the daemon stops.
    pub(crate) fn binding(&self, thread: &str) -> Value {
        let Ok(bytes) = fs::read(self.home.path(".agent-bridge-daemon/state.json")) else {
            return Value::Null;
        };
        let state: Value = serde_json::from_slice(&bytes).expect("state.json is always whole");
        state["bindings"][thread].clone()
    }

    /// Changes the text of state.json while no daemon runs.
    pub(crate) fn edit_state(&self, edit: impl FnOnce(String) -> String) {
        assert!(self.daemon.is_none(), "the daemon would overwrite it");
        let path = self.home.path(".agent-bridge-daemon/state.json");
        fs::write(&path, edit(fs::read_to_string(&path).unwrap())).unwrap();
    }

    /// Waits until the daemon has heard that the bridge has all its posts: before that it takes no
    /// word without a code as the answer to a question.
    #[track_caller]
    pub(crate) fn all_is_posted(&self) {
        let dir = self.home.path(".agent-bridge-daemon");
        let mut patience = Patience::of(PATIENCE);
        loop {
            if journal::look(&RealDisk, &dir).unwrap().contents.unsent().count() == 0 {
                return;
            }
            assert!(patience.lasts(), "the outbox was not empty in {PATIENCE:?}");
            self.daemon().ended().recv_timeout(LOOK).expect_err("nobody sends here");
        }
    }

    /// Waits until an engine that runs its first command has a session that can be resumed: Claude
    /// Code writes it down a moment after the command has begun, the others before.
    #[track_caller]
    pub(crate) fn session_is_on_disk(&self, engine: Engine) {
        let is_written = |file: &fs::DirEntry| {
            fs::read_to_string(file.path()).is_ok_and(|it| it.contains("tool_use"))
        };
        if engine != Engine::Claude {
            return;
        }
        let mut patience = Patience::of(PATIENCE);
        loop {
            let projects = fs::read_dir(self.home.path(".claude/projects"));
            let sessions = projects.into_iter().flatten().flatten();
            let mut files = sessions.filter_map(|it| fs::read_dir(it.path()).ok()).flatten();
            if files.any(|file| file.is_ok_and(|file| is_written(&file))) {
                return;
            }
            assert!(patience.lasts(), "no session was on disk in {PATIENCE:?}");
            self.daemon().ended().recv_timeout(LOOK).expect_err("nobody sends here");
        }
    }

    /// The id of a thread's session with an engine, once the daemon has written one.
    #[track_caller]
    pub(crate) fn session(&self, thread: &str, engine: Engine) -> String {
        let mut patience = Patience::of(PATIENCE);
        loop {
            let id = &self.binding(thread)["sessions"][engine.name()]["sessionId"];
            if let Some(id) = id.as_str() {
                return id.to_owned();
            }
            assert!(patience.lasts(), "{engine:?} got no session in {PATIENCE:?}");
            self.daemon().ended().recv_timeout(LOOK).expect_err("nobody sends here");
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if let Ok(versions) = fs::read(self.home.path(VERSIONS_FILE)) {
            VERSIONS.get_or_init(|| versions);
        }
        if let Some(daemon) = self.daemon.take().filter(|_| !std::thread::panicking()) {
            daemon.stop();
            // What was killed a moment ago may be on its way out.
            let mut patience = Patience::of(PATIENCE);
            loop {
                let left = process::marked(&self.home);
                if left.is_empty() {
                    break;
                }
                assert!(patience.pause(), "this outlived the daemon: {left:#?}");
            }
        }
    }
}

impl Deref for Rig {
    type Target = Bridge;

    fn deref(&self) -> &Bridge {
        &self.bridge
    }
}

impl DerefMut for Rig {
    fn deref_mut(&mut self) -> &mut Bridge {
        &mut self.bridge
    }
}

/// Our bridge with one account, and a browser that listens.
#[derive(Debug)]
pub(crate) struct Bridge {
    addr: SocketAddr,
    token: String,
    /// What the person has in place of a token.
    person: String,
    heard: Arc<Heard>,
    // Both are there until the end; dropping the server ends the browser's stream.
    server: Option<Server>,
    listener: Option<JoinHandle<()>>,
}

/// What the browser has heard.
#[derive(Debug, Default)]
struct Heard {
    posts: Mutex<Vec<Post>>,
    changed: Condvar,
}

impl Heard {
    fn lock(&self) -> MutexGuard<'_, Vec<Post>> {
        self.posts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listen(&self, mut events: Events) {
        // A browser has all day: a daemon that stops may be silent for longer than a test waits.
        while let Some(event) = events.chunk() {
            if event.name == "message" && event.data["role"] == "agent" {
                let post = Post::read(&event.data);
                let mut posts = self.lock();
                // A question comes again when it has been answered.
                match posts.iter_mut().find(|it| it.id == post.id) {
                    Some(known) => *known = post,
                    None => posts.push(post),
                }
                drop(posts);
                self.changed.notify_all();
            }
        }
    }
}

impl Bridge {
    fn start(home: &Home) -> Bridge {
        let mut options = Options::new((Ipv4Addr::LOCALHOST, 0).into(), home.path("bridge"));
        // The browser waits 20 s for a sign of life.
        options.heartbeat = Duration::from_secs(5);
        let server = Server::start(options).unwrap();
        let token = server.create_account("human").unwrap().1.reveal().to_owned();
        let (addr, person) = (server.addr(), person(&server, "human"));
        let heard = Arc::<Heard>::default();
        let events = Events::open(addr, &token, "", None);
        let listener = std::thread::spawn({
            let heard = Arc::clone(&heard);
            move || heard.listen(events)
        });
        Bridge { addr, token, person, heard, server: Some(server), listener: Some(listener) }
    }

    /// The account's token, which the daemon has.
    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    /// Says something on a new thread and returns the thread's id.
    #[track_caller]
    pub(crate) fn begin(&self, engine: Engine, text: &str) -> String {
        self.begin_with(engine.name(), text)
    }

    /// The same with any agent of the config.
    #[track_caller]
    pub(crate) fn begin_with(&self, agent: &str, text: &str) -> String {
        self.reply(&json!({"agent": agent, "body": text}))
    }

    /// Says something on a new thread with a picture, a PNG in base64.
    #[track_caller]
    pub(crate) fn begin_with_picture(&self, engine: Engine, text: &str, picture: &str) -> String {
        let picture = json!({"name": "picture.png", "data": picture});
        let stored = self.call("POST", "/api/bridge/attachment/upload", Some(&picture));
        let ids = [&stored["attachmentId"]];
        self.reply(&json!({"agent": engine.name(), "body": text, "attachmentIds": ids}))
    }

    /// Says something on a thread, to whichever engine had it last.
    #[track_caller]
    pub(crate) fn say(&self, thread: &str, text: &str) {
        self.reply(&json!({"threadId": thread, "body": text}));
    }

    /// Hands a thread to another engine and says something to that.
    #[track_caller]
    pub(crate) fn switch(&self, thread: &str, engine: Engine, text: &str) {
        self.switch_to(thread, engine.name(), text);
    }

    /// The same with any agent of the config.
    #[track_caller]
    pub(crate) fn switch_to(&self, thread: &str, agent: &str, text: &str) {
        let body = json!({"threadId": thread, "agent": agent});
        self.call("POST", "/api/bridge/thread/agent", Some(&body));
        self.say(thread, text);
    }

    fn reply(&self, body: &Value) -> String {
        let answer = self.call("POST", "/api/reply", Some(body));
        answer["threadId"].as_str().unwrap().to_owned()
    }

    /// Waits for the `n`-th answer on a thread, counted from 1: a post that is no status. Returns
    /// the statuses since the one before it, and the answer as the last.
    #[track_caller]
    pub(crate) fn answer(&self, thread: &str, n: usize) -> Vec<Post> {
        let turns = self.wait_for_posts(thread, |posts| {
            let mut turns = posts.split_inclusive(Post::is_last);
            turns.nth(n - 1).filter(|it| it.last().is_some_and(Post::is_last)).map(<[Post]>::to_vec)
        });
        turns.unwrap_or_else(|posts| panic!("no answer {n} in {PATIENCE:?}, only {posts:#?}"))
    }

    /// Waits for the `n`-th answer and wants it to be this result, without a word before it.
    #[track_caller]
    pub(crate) fn expect(&self, thread: &str, n: usize, body: &str) {
        let posts = self.answer(thread, n);
        let said: Vec<_> = posts.iter().map(|it| (it.kind.as_str(), it.body.as_str())).collect();
        assert_eq!(said, [("result", body)]);
    }

    /// Waits until this finds something among the posts on a thread; else these are the error.
    pub(crate) fn wait_for_posts<T>(
        &self,
        thread: &str,
        wanted: impl Fn(&[Post]) -> Option<T>,
    ) -> Result<T, Vec<Post>> {
        let mut patience = Patience::of(PATIENCE);
        let mut all = self.heard.lock();
        loop {
            let posts = of(thread, &all);
            if let Some(found) = wanted(&posts) {
                return Ok(found);
            }
            if !patience.lasts() {
                return Err(posts);
            }
            let changed = self.heard.changed.wait_timeout(all, Patience::SLICE);
            all = changed.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// What agents and the daemon have said on a thread, as the bridge has stored it.
    pub(crate) fn posts(&self, thread: &str) -> Vec<Post> {
        let answer = self.call("GET", &format!("/api/messages?threadId={thread}"), None);
        let messages = answer["messages"].as_array().unwrap().iter();
        messages.filter(|it| it["role"] == "agent").map(Post::read).collect()
    }

    /// The agents that the daemon offers, once it is connected.
    pub(crate) fn offered(&self) -> Vec<String> {
        let names = self.machine().map(|mut it| it["capabilities"].take()).unwrap_or_default();
        names
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|it| it.as_str().map(str::to_owned))
            .collect()
    }

    /// Since when the daemon is connected, if it is.
    fn since(&self) -> Option<Value> {
        self.machine().map(|mut it| it["connectedSince"].take()).filter(|it| !it.is_null())
    }

    fn machine(&self) -> Option<Value> {
        let mut answer = self.call("GET", "/api/bridge/machines", None);
        let machines = answer["machines"].as_array_mut().unwrap();
        machines.iter_mut().find(|it| it["agentId"] == MACHINE).map(Value::take)
    }

    #[track_caller]
    fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        Conn::open(self.addr).request(method, path, &self.person, body).ok()
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        drop(self.server.take());
        if let Some(listener) = self.listener.take() {
            // A panic in there has been printed; a second one here would abort.
            drop(listener.join());
        }
    }
}

fn of(thread: &str, posts: &[Post]) -> Vec<Post> {
    posts.iter().filter(|it| it.thread == thread).cloned().collect()
}

/// Wants these kinds of posts, each with all of these words.
#[track_caller]
pub(crate) fn check(posts: &[Post], expected: &[(&str, &[&str])]) {
    let fits = posts.len() == expected.len()
        && posts.iter().zip(expected).all(|(post, (kind, parts))| {
            post.kind == *kind && parts.iter().all(|part| post.body.contains(part))
        });
    assert!(fits, "{posts:#?}\nare not\n{expected:#?}");
}
