//! The daemon: the real binary with `start`, in a home directory of its own. What it logs is read
//! all the time, checked line by line, and shown when a test fails. Every wait has a deadline, and
//! nothing outlives its test.

use std::{
    fs,
    path::{Path, PathBuf},
    rc::Rc,
    thread,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender, after, unbounded};
use obto_bridge::{
    proc::{Child, ChildEvent, kill::To},
    store::{
        RealDisk,
        journal::{self, Contents, Looked, Place},
    },
    task,
};
use rustix::process::Signal;
use serde_json::{Map, Value, json};

use crate::util::{
    bin::{Command, Home},
    patience::{self, Patience},
    sick_bridge::{Conn, Seen, SickBridge},
};

/// The name of the machine on every bridge.
pub(crate) const MACHINE: &str = "box";

/// A home directory with a config file.
pub(crate) struct Machine {
    pub(crate) home: Rc<Home>,
    config: Map<String, Value>,
}

impl Machine {
    /// With the built-in echo engine.
    pub(crate) fn new(url: &str, token: &str) -> Machine {
        let home = Rc::new(Home::new());
        home.put("project/README", "");
        let project = home.path().join("project");
        let config = json!({
            "baseUrl": url, "apiToken": token, "agentId": MACHINE, "agent": "echo",
            "projectDir": project,
        });
        let Value::Object(config) = config else { unreachable!("it is written as an object") };
        let machine = Machine { home, config };
        machine.configure();
        machine
    }

    fn configure(&self) {
        let config = Value::Object(self.config.clone()).to_string();
        self.home.put(".obto-bridge/config.json", &config);
    }

    /// A setting in the config file. A running daemon looks at the connection's settings alone.
    pub(crate) fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.config.insert(key.to_owned(), value.into());
        self.configure();
    }

    /// An agent that speaks ACP, or a known one under another command; it is the default engine.
    pub(crate) fn with_agent(mut self, name: &str, command: &[String]) -> Machine {
        let agents = self.config.entry("agents").or_insert_with(|| json!({}));
        agents[name] = json!({ "command": command });
        self.set("agent", name);
        self
    }

    pub(crate) fn with(mut self, key: &str, value: impl Into<Value>) -> Machine {
        self.set(key, value);
        self
    }

    pub(crate) fn project(&self) -> PathBuf {
        self.home.path().join("project")
    }

    /// A file in the state directory.
    pub(crate) fn state_file(&self, name: &str) -> PathBuf {
        self.home.path().join(".agent-bridge-daemon").join(name)
    }

    /// state.json, as it is now; null before it was written.
    #[track_caller]
    pub(crate) fn state(&self) -> Value {
        let bytes = fs::read(self.state_file("state.json"));
        bytes.map_or(Value::Null, |bytes| serde_json::from_slice(&bytes).unwrap())
    }

    /// The state as soon as it is so: it is written a moment after it has changed.
    #[track_caller]
    pub(crate) fn state_when(&self, is_so: impl Fn(&Value) -> bool) -> Value {
        let mut patience = Patience::new();
        loop {
            let state = self.state();
            if is_so(&state) {
                return state;
            }
            assert!(patience.pause(), "{state:#}");
        }
    }

    /// Waits until it is so.
    #[track_caller]
    pub(crate) fn wait_for(&self, is_so: impl Fn(&Machine) -> bool) {
        assert!(patience::comes_true(|| is_so(self)), "it never comes true");
    }

    /// How many messages, turns that began, and posts the journal has.
    pub(crate) fn left(&self) -> [usize; 3] {
        left(&self.state_file(""))
    }

    pub(crate) fn start(&self) -> Daemon {
        self.start_with(&[], &[])
    }

    /// Starts it and waits until it hears the bridge.
    #[track_caller]
    pub(crate) fn connected(&self) -> Daemon {
        let mut daemon = self.start();
        daemon.log("connected to the bridge");
        daemon
    }

    pub(crate) fn start_with(&self, args: &[&str], env: &[(&str, &str)]) -> Daemon {
        let command = self.home.command(&[&["start"], args].concat());
        self.spawn(env.iter().fold(command, |command, (name, value)| command.env(name, value)))
    }

    /// Starts it from a shell, after `script`.
    pub(crate) fn start_after(&self, script: &str) -> Daemon {
        self.spawn(self.home.command(&["start"]).after(script))
    }

    fn spawn(&self, command: Command) -> Daemon {
        let child = Child::spawn(&command.plan()).unwrap();
        let (line, lines) = unbounded();
        let events = child.events().clone();
        // Unbounded, so that a test that looks elsewhere does not stop the daemon. Ends with it.
        drop(
            task::spawn("daemon-log", move || {
                events.iter().for_each(|event| drop(line.send(event)));
            })
            .unwrap(),
        );
        let token = self.config["apiToken"].as_str().unwrap().to_owned();
        Daemon { child, lines, log: Vec::new(), token, _home: Rc::clone(&self.home) }
    }
}

/// A running daemon. Dropping it kills it.
pub(crate) struct Daemon {
    child: Child,
    lines: Receiver<ChildEvent>,
    /// What was read so far.
    log: Vec<String>,
    token: String,
    /// Goes after the daemon.
    _home: Rc<Home>,
}

impl Daemon {
    /// The next line of the log with `word` in it.
    #[track_caller]
    pub(crate) fn log(&mut self, word: &str) -> Value {
        let mut patience = Patience::new();
        loop {
            match patience.recv(&self.lines) {
                Ok(ChildEvent::Line(line)) => {
                    let line = self.note(&line);
                    if line.to_string().contains(word) {
                        return line;
                    }
                }
                other => panic!("{word:?} is not logged: {other:?}"),
            }
        }
    }

    /// Checks a line, and keeps it.
    #[track_caller]
    fn note(&mut self, line: &[u8]) -> Value {
        let text = String::from_utf8(line.to_vec()).unwrap();
        self.log.push(text.clone());
        assert!(!text.contains(&self.token), "the token is logged: {text}");
        let line: Value = serde_json::from_str(&text).expect("a line of the log is JSON");
        assert!(["ts", "level", "msg"].iter().all(|key| line[key].is_string()), "{text}");
        let keys = line.as_object().unwrap().keys();
        assert!(
            keys.into_iter().all(|key| ["ts", "level", "msg", "data"].contains(&&**key)),
            "{text}"
        );
        line
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.handle().id()
    }

    /// The processor time that it uses within this time.
    #[cfg(target_os = "linux")]
    pub(crate) fn busy_for(&self, time: Duration) -> Duration {
        let used = || {
            let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
            let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
            let ticks: u64 = fields[11..13].iter().map(|it| it.parse::<u64>().unwrap()).sum();
            Duration::from_millis(ticks * 10)
        };
        let before = used();
        after(time).recv().unwrap();
        used().saturating_sub(before)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.child.handle().signal(signal, To::Process).unwrap();
    }

    /// Waits for its end. The exit code; none after a signal.
    #[track_caller]
    pub(crate) fn end(&mut self) -> Option<i32> {
        let mut patience = Patience::new();
        loop {
            match patience.recv(&self.lines) {
                Ok(ChildEvent::Line(line)) => drop(self.note(&line)),
                Ok(ChildEvent::Exit { status, stderr_tail }) => {
                    self.log.push(format!("standard error: {stderr_tail}"));
                    assert!(!stderr_tail.contains(&self.token), "{stderr_tail}");
                    return status.unwrap().code();
                }
                other => panic!("the daemon does not end: {other:?}"),
            }
        }
    }

    /// Ends it in order, as `TERM` does.
    #[track_caller]
    pub(crate) fn stop(mut self) -> String {
        self.signal(Signal::TERM);
        assert_eq!(self.end(), Some(0));
        self.log.join("\n")
    }

    /// Ends it at once, as a loss of power would, but for what the kernel still writes.
    #[track_caller]
    pub(crate) fn kill(mut self) {
        self.signal(Signal::KILL);
        assert_eq!(self.end(), None);
    }

    /// How long the end takes after a signal, and the exit code.
    #[track_caller]
    pub(crate) fn time_to_stop(&mut self, signal: Signal) -> (Duration, Option<i32>) {
        let begin = Instant::now();
        self.signal(signal);
        let code = self.end();
        (begin.elapsed(), code)
    }

    /// All that was logged so far.
    pub(crate) fn logged(&mut self) -> String {
        self.log.join("\n")
    }
}

impl Drop for Daemon {
    #[expect(clippy::print_stdout, reason = "what a failed test shows")]
    fn drop(&mut self) {
        if thread::panicking() {
            println!("--- the daemon's log:\n{}", self.log.join("\n"));
            for line in self.lines.try_iter() {
                match line {
                    ChildEvent::Line(line) => println!("{}", String::from_utf8_lossy(&line)),
                    other => println!("{other:?}"),
                }
            }
        }
    }
}

/// A bridge that answers as it should but where the test has other plans, with streams on which
/// the test says every byte.
pub(crate) struct Stage {
    pub(crate) bridge: SickBridge,
    streams: Receiver<Line>,
}

/// An open event stream, as the bridge sees it. Dropping it ends the stream.
pub(crate) struct Line {
    bytes: Sender<Vec<u8>>,
    /// The request.
    pub(crate) seen: Seen,
}

impl Stage {
    /// `special` is asked first, and says whether it has answered.
    pub(crate) fn new(special: impl Fn(&Seen, &mut Conn) -> bool + Send + Sync + 'static) -> Stage {
        let (opened, streams) = unbounded();
        let bridge = SickBridge::start(move |seen, conn| {
            if !special(seen, conn) {
                behave(seen, conn, &opened);
            }
        });
        Stage { bridge, streams }
    }

    pub(crate) fn machine(&self) -> Machine {
        Machine::new(&self.bridge.url(), "obto_0123456789abcdef")
    }

    /// The next stream.
    #[track_caller]
    pub(crate) fn stream(&self) -> Line {
        patience::recv(&self.streams).expect("a stream is opened")
    }

    /// The next request for this path.
    #[track_caller]
    pub(crate) fn request(&self, path: &str) -> Seen {
        loop {
            let seen = self.bridge.next();
            if is_for(&seen, path) {
                return seen;
            }
        }
    }

    /// The next post of the daemon.
    #[track_caller]
    pub(crate) fn post(&self) -> Value {
        self.request("/api/message").json()
    }

    /// The next post of a kind that says so.
    #[track_caller]
    pub(crate) fn expect(&self, thread: &str, kind: &str, word: &str) -> Value {
        let post = self.post();
        assert_eq!((&post["threadId"], &post["kind"]), (&json!(thread), &json!(kind)), "{post}");
        assert!(post["body"].as_str().unwrap().contains(word), "{word:?}: {post}");
        post
    }
}

/// Whether a request is for this path.
pub(crate) fn is_for(seen: &Seen, path: &str) -> bool {
    seen.target.split('?').next() == Some(path)
}

fn behave(seen: &Seen, conn: &mut Conn, opened: &Sender<Line>) {
    match seen.target.split('?').next().unwrap() {
        "/api/bridge/stream" => {
            conn.stream();
            let (bytes, said) = unbounded::<Vec<u8>>();
            drop(opened.send(Line { bytes, seen: seen.clone() }));
            said.iter().for_each(|bytes| conn.raw(bytes));
        }
        "/api/bridge/thread/claim" => {
            conn.json(200, json!({"ok": true, "won": true, "winner": MACHINE}));
        }
        "/api/messages" => conn.json(200, json!({"ok": true, "messages": []})),
        _ => conn.json(200, json!({"ok": true})),
    }
}

impl Line {
    pub(crate) fn raw(&self, bytes: impl Into<Vec<u8>>) {
        drop(self.bytes.send(bytes.into()));
    }

    pub(crate) fn event(&self, name: &str, data: &str) {
        self.raw(format!("event: {name}\ndata: {data}\n\n"));
    }

    /// A person's message on a thread that belongs to the machine.
    pub(crate) fn reply(&self, thread: &str, message: &str, body: &str) {
        let reply = json!({
            "threadId": thread, "messageId": message, "author": "ada", "role": "human",
            "body": body, "agentId": MACHINE,
        });
        self.event("reply", &reply.to_string());
    }
}

/// How many messages, turns that began, and posts the journal of a state directory has.
pub(crate) fn left(state_dir: &Path) -> [usize; 3] {
    let looked = journal::look(&RealDisk, state_dir).unwrap();
    let Contents { entries, posts, .. } = &looked.contents;
    let begun = entries.values().filter(|entry| entry.progress.is_some()).count();
    [entries.len(), begun, posts.len()]
}

/// Whether the journal of a state directory has a session for a message on this thread, which the
/// next start resumes.
pub(crate) fn can_resume(state_dir: &Path, thread: &str) -> bool {
    let Looked { contents, bytes } = journal::look(&RealDisk, state_dir).unwrap();
    let text = |it: Place| {
        String::from_utf8_lossy(journal::part(&bytes, it.offset, it.bytes as usize)).into_owned()
    };
    let on_thread = format!("\"threadId\":\"{thread}\"");
    contents.entries.values().any(|entry| {
        text(entry.message).contains(&on_thread)
            && entry.progress.is_some_and(|it| text(it).contains("\"session\":\""))
    })
}
