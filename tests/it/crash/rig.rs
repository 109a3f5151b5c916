//! A machine around our own bridge: a home directory, an engine that writes down what it is asked,
//! and the daemon, in this process or as the real binary.

use std::{
    cell::RefCell,
    env::current_exe,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use crossbeam_channel::{Receiver, Sender, bounded};
use obto_bridge::{
    bridge::Net,
    config::{Config, Env, Paths},
    daemon::{self, End, Setup},
    serve::{Options, Server, password::Cost},
    signals::Signal,
    store::Disk,
    task::{self, Task},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::util::{
    bin::Home,
    daemon::left,
    http::{Conn, Reply, patient_limits, person},
    patience,
};

/// The name of the machine.
const MACHINE: &str = "box";

/// A bridge with an account for everybody who asks.
pub(crate) struct Bridge {
    pub(crate) server: Server,
    _dir: TempDir,
}

impl Bridge {
    pub(crate) fn start() -> Arc<Bridge> {
        let dir = TempDir::new().unwrap();
        let mut options = Options::new("127.0.0.1:0".parse().unwrap(), dir.path().join("bridge"));
        options.limits = patient_limits();
        options.password_cost = Cost::CHEAP;
        options.limits.connections = 2_000;
        options.limits.per_address = 2_000;
        let server = Server::start(options).unwrap();
        Arc::new(Bridge { server, _dir: dir })
    }
}

/// One machine with an account of its own.
pub(crate) struct Machine {
    bridge: Arc<Bridge>,
    token: String,
    /// What the person has in place of a token.
    person: String,
    pub(crate) home: Home,
    /// Kept open, for there is much to be asked.
    conn: RefCell<Option<Conn>>,
}

impl Machine {
    /// `name` is the account's, used once.
    pub(crate) fn new(bridge: &Arc<Bridge>, name: &str) -> Machine {
        let token = bridge.server.create_account(name).unwrap().1.reveal().to_owned();
        let machine = Machine {
            bridge: Arc::clone(bridge),
            token,
            person: person(&bridge.server, name),
            home: Home::new(),
            conn: RefCell::default(),
        };
        machine.configure(json!({}));
        machine
    }

    /// Writes the config file: the usual, and `more`.
    pub(crate) fn configure(&self, more: Value) {
        let journal = self.path("journal");
        let agent = |protocol: &str| json!({ "command": [program(), protocol, journal] });
        let mut config = json!({
            "baseUrl": format!("http://{}", self.bridge.server.addr()),
            "originHost": "127.0.0.1",
            "apiToken": self.token,
            "agentId": MACHINE,
            "projectDir": self.home.path(),
            "agent": "worker",
            "agents": { "worker": agent("acp"), "forgetful": agent("forgetful") },
            "drainSeconds": 0,
        });
        // Only where it is wanted: it is asked for its version at every start.
        if more.get("withClaude").is_some() {
            config["agents"]["claude"] = agent("claude");
        }
        if more.get("withOpencode").is_some() {
            config["agents"]["opencode"] = agent("opening");
        }
        let fields = config.as_object_mut().unwrap();
        fields.extend(more.as_object().unwrap().clone());
        self.home.put(".obto-bridge/config.json", &config.to_string());
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// The state directory.
    pub(crate) fn state(&self, name: &str) -> PathBuf {
        self.path(".agent-bridge-daemon").join(name)
    }

    fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        self.ask(method, path, body).ok()
    }

    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Reply {
        let mut conn = self.conn.borrow_mut();
        let conn = conn.get_or_insert_with(|| Conn::open(self.bridge.server.addr()));
        conn.request(method, path, &self.person, body)
    }

    /// A human writes. Returns the message as the bridge has it.
    pub(crate) fn say(&self, thread: &str, token: &str, verb: &str, agent: Option<&str>) -> Value {
        let body = format!("Please. token={token} do={verb}");
        let body = json!({ "threadId": thread, "body": body, "agent": agent });
        self.request("POST", "/api/reply", Some(&body))["message"].take()
    }

    /// A human writes just this.
    pub(crate) fn write(&self, thread: &str, body: &str) {
        self.request("POST", "/api/reply", Some(&json!({ "threadId": thread, "body": body })));
    }

    /// All messages of a thread that may not be there.
    pub(crate) fn messages_if_any(&self, thread: &str) -> Vec<Value> {
        let path = format!("/api/messages?threadId={thread}&limit=200");
        let reply = self.ask("GET", &path, None);
        if reply.status == 404 {
            return Vec::new();
        }
        reply.ok()["messages"].as_array().unwrap().clone()
    }

    /// Another machine takes the thread.
    pub(crate) fn give_away(&self, thread: &str) {
        let body = json!({ "threadId": thread, "agentId": "another" });
        self.request("POST", "/api/bridge/thread/claim", Some(&body));
    }

    /// What agents said on the thread.
    pub(crate) fn said(&self, thread: &str) -> Vec<String> {
        let path = format!("/api/messages?threadId={thread}&limit=200");
        said(self.request("GET", &path, None)["messages"].as_array().unwrap())
    }

    /// The same, of a thread that may not be there.
    pub(crate) fn said_if_any(&self, thread: &str) -> Vec<String> {
        said(&self.messages_if_any(thread))
    }

    /// Whether its daemon has its stream.
    pub(crate) fn is_connected(&self) -> bool {
        let machines = self.request("GET", "/api/bridge/machines", None);
        machines["machines"].as_array().is_some_and(|it| !it.is_empty())
    }

    /// Which prompts the engine was given for this message: `first` or `again`.
    pub(crate) fn prompts(&self, token: &str) -> Vec<String> {
        let journal = fs::read_to_string(self.path("journal")).unwrap_or_default();
        let lines = journal.lines().filter_map(|line| line.split_once(' '));
        lines.filter(|(of, _)| *of == token).map(|(_, how)| how.to_owned()).collect()
    }

    /// Whether every message is done with and every post is with the bridge.
    pub(crate) fn is_settled(&self) -> bool {
        self.left().iter().all(|left| *left == 0)
    }

    /// How many messages, turns that began, and posts the journal has.
    pub(crate) fn left(&self) -> [usize; 3] {
        left(&self.state(""))
    }

    /// Starts a daemon in this process.
    pub(crate) fn start(&self, disk: Arc<dyn Disk>) -> Daemon {
        let paths = Paths::in_home(self.home.path());
        let vars = [("HOME", self.home.path().as_os_str()), ("PATH", "/usr/bin:/bin".as_ref())];
        let env = Env {
            home: self.home.path().to_owned(),
            cwd: self.home.path().to_owned(),
            vars: vars.map(|(name, value)| (name.into(), value.to_owned())).into(),
        };
        let setup = Setup {
            config: Config::load(&paths, &env).unwrap(),
            paths,
            env,
            net: Net::default(),
            disk,
            progress_every: daemon::PROGRESS_EVERY,
            own_program: env!("CARGO_BIN_EXE_obto-bridge").into(),
            offers_echo: false,
            exit_on_auth_failure: true,
            leave: daemon::LeaveRules::default(),
            readiness: daemon::readiness::Settings::default(),
            is_ephemeral: false,
            reports: daemon::Reports::default(),
        };
        let (signals, received) = bounded(16);
        let (tell, end) = bounded(1);
        let task = task::spawn("daemon", move || {
            tell.send(daemon::run(setup, &received)).ok();
        });
        Daemon { signals, end, task: task.unwrap() }
    }
}

/// A daemon in this process.
pub(crate) struct Daemon {
    signals: Sender<Signal>,
    pub(crate) end: Receiver<anyhow::Result<End>>,
    task: Task,
}

impl Daemon {
    pub(crate) fn signal(&self, signal: Signal) {
        self.signals.try_send(signal).unwrap();
    }

    /// Waits until it is gone.
    #[track_caller]
    pub(crate) fn join(self) -> anyhow::Result<End> {
        let end = patience::recv(&self.end).expect("the daemon ends");
        self.task.join().unwrap();
        end
    }

    /// Stops it the way a person does.
    #[track_caller]
    pub(crate) fn stop(self) -> anyhow::Result<End> {
        // It may have ended by itself.
        self.signals.try_send(Signal::Stop(15)).ok();
        self.join()
    }
}

/// What agents said.
fn said(messages: &[Value]) -> Vec<String> {
    let posts = messages.iter().filter(|it| it["role"] == "agent");
    posts.map(|it| it["body"].as_str().unwrap_or_default().to_owned()).collect()
}

/// The engine.
pub(crate) fn program() -> PathBuf {
    let binary = current_exe().unwrap();
    let target = binary.parent().and_then(Path::parent).unwrap();
    let program = target.join("examples/journal-agent");
    assert!(program.exists(), "{} is missing: cargo build --examples", program.display());
    program
}
