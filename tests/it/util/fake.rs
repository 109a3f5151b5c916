//! The engine that misbehaves on demand: `tests/fake-agent.rs`.

use std::{
    env::{self, temp_dir},
    io::{BufRead, BufReader, ErrorKind, Read},
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
};

use crossbeam_channel::{Receiver, Sender, unbounded};
use obto_bridge::{
    proc::{Plan, sweep::MARKER},
    task::{self, Task},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::util::patience;

/// Where cargo puts examples: next to the directory of the test binaries.
pub(crate) fn program() -> PathBuf {
    example("fake-agent")
}

pub(crate) fn example(name: &str) -> PathBuf {
    let binary = env::current_exe().unwrap();
    let examples = binary.parent().and_then(|deps| deps.parent()).unwrap().join("examples");
    let program = examples.join(name);
    assert!(program.exists(), "{} is missing: cargo build --examples", program.display());
    program
}

/// The fake engine with these directives and this marker.
pub(crate) fn plan(marker: &str, directives: &[&str]) -> Plan {
    Plan {
        program: program(),
        args: directives.iter().map(Into::into).collect(),
        dir: temp_dir(),
        env: vec![(MARKER.into(), marker.into())],
    }
}

/// A fake engine's command line with these directives.
pub(crate) fn command(directives: &[&str]) -> Vec<String> {
    let program = program().display().to_string();
    [&program]
        .into_iter()
        .map(String::as_str)
        .chain(directives.iter().copied())
        .map(str::to_owned)
        .collect()
}

/// A place where fake engines stop, tell what they were given, and wait.
pub(crate) struct Gate {
    dir: TempDir,
    arrivals: Receiver<Arrival>,
    accept: Option<Task>,
}

/// An engine at the gate. Dropping it lets the engine go on.
pub(crate) struct Arrival {
    socket: UnixStream,
    report: Value,
}

impl Gate {
    pub(crate) fn new() -> Gate {
        let dir = TempDir::new().unwrap();
        let listener = UnixListener::bind(dir.path().join("gate")).unwrap();
        let (arrived, arrivals) = unbounded();
        let accept = task::spawn("gate", move || accept(&listener, &arrived)).unwrap();
        Gate { dir, arrivals, accept: Some(accept) }
    }

    /// For the directive `gate`.
    pub(crate) fn path(&self) -> String {
        self.dir.path().join("gate").display().to_string()
    }

    /// The next engine.
    #[track_caller]
    pub(crate) fn next(&self) -> Arrival {
        patience::recv(&self.arrivals).expect("an engine comes to the gate")
    }

    /// Whether one waits that was not looked at.
    pub(crate) fn is_empty(&self) -> bool {
        self.arrivals.is_empty()
    }

    /// An ACP agent that stops here with its prompt, and then answers with `text`.
    pub(crate) fn acp(&self, text: &str) -> Vec<String> {
        let path = self.path();
        let [said, end] = acp_answer(text);
        let steps = ["read", "gate", &path, "print", &said, "print", &end, "wait-eof"];
        command(&[&ACP_BEGIN[..], &steps].concat())
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        // Who comes and says nothing ends it.
        drop(UnixStream::connect(self.path()));
        self.accept.take().map(Task::join).transpose().unwrap();
    }
}

fn accept(listener: &UnixListener, arrived: &Sender<Arrival>) {
    for socket in listener.incoming() {
        let socket = socket.unwrap();
        let mut line = String::new();
        // An engine that was killed on the way says nothing, or half of it.
        BufReader::new(&socket).read_line(&mut line).ok();
        if line.is_empty() {
            return;
        }
        if let Ok(report) = serde_json::from_str(&line) {
            drop(arrived.send(Arrival { socket, report }));
        }
    }
}

impl Arrival {
    pub(crate) fn args(&self) -> Vec<&str> {
        self.report["args"].as_array().unwrap().iter().map(|it| it.as_str().unwrap()).collect()
    }

    pub(crate) fn env(&self, name: &str) -> Option<&str> {
        self.report["env"][name].as_str()
    }

    /// Whether the engine still waits.
    pub(crate) fn is_there(&self) -> bool {
        self.socket.set_nonblocking(true).unwrap();
        let read = (&self.socket).read(&mut [0]);
        read.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }

    /// The names of all its variables.
    pub(crate) fn env_names(&self) -> Vec<&str> {
        self.report["env"].as_object().unwrap().keys().map(String::as_str).collect()
    }

    /// The lines that it has read.
    pub(crate) fn heard(&self) -> Vec<Value> {
        let lines = self.report["heard"].as_array().unwrap().iter();
        lines.map(|it| serde_json::from_str(it.as_str().unwrap()).unwrap()).collect()
    }

    /// The text of an ACP agent's prompt.
    pub(crate) fn prompt(&self) -> String {
        let heard = self.heard();
        let prompt = heard.iter().find(|it| it["method"] == "session/prompt").expect("a prompt");
        prompt["params"]["prompt"][0]["text"].as_str().unwrap().to_owned()
    }

    /// `session/new` or `session/resume`, and the session.
    pub(crate) fn session(&self) -> (String, Option<String>) {
        let heard = self.heard();
        let method = heard[1]["method"].as_str().unwrap().to_owned();
        (method, heard[1]["params"]["sessionId"].as_str().map(str::to_owned))
    }
}

/// The session of every fake ACP agent.
pub(crate) const SESSION: &str = "fake-session";

/// Up to the request before the prompt, which is 3. The result for a new session is as good for a
/// resumed one.
pub(crate) const ACP_BEGIN: [&str; 6] = [
    "read",
    "print",
    r#"{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":1,"agentCapabilities":{"sessionCapabilities":{"resume":{}}}}}"#,
    "read",
    "print",
    r#"{"jsonrpc":"2.0","id":2,"result":{"sessionId":"fake-session"}}"#,
];

/// The lines of an ACP agent's answer to the prompt.
pub(crate) fn acp_answer(text: &str) -> [String; 2] {
    let update = json!({ "sessionUpdate": "agent_message_chunk", "content": { "type": "text", "text": text } });
    let params = json!({ "sessionId": SESSION, "update": update });
    let said = json!({ "jsonrpc": "2.0", "method": "session/update", "params": params });
    let end = json!({ "jsonrpc": "2.0", "id": 3, "result": { "stopReason": "end_turn" } });
    [said.to_string(), end.to_string()]
}
