//! The daemon, by the real binary: against the embedded bridge, and against one that misbehaves.

mod answers;
mod bad_bridge;
mod bad_engine;
mod beginning;
mod catchup;
mod claims;
mod clocks;
mod connecting;
mod control;
mod crash;
mod handed_out;
#[cfg(target_os = "linux")]
mod held_up;
mod hostile_answers;
mod leaving;
mod machine;
mod outage;
mod progress;
mod questions;
mod recovered;
mod sick_history;
mod state;
mod stop;
mod talk;
mod two_daemons;
mod unread;
mod waiting;
mod whole;
mod words;

use std::{collections::HashSet, net::SocketAddr, time::Duration};

use obto_bridge::serve::{Options, Server, password::Cost};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::util::{
    daemon::Machine,
    http::{Conn, Event, Events, patient_limits, person},
    patience::Patience,
};

/// The embedded bridge with one account. It can go away, and come back at the same address.
struct Bridge {
    server: Option<Server>,
    addr: SocketAddr,
    token: String,
    /// What the person has in place of a token.
    person: String,
    dir: TempDir,
}

impl Bridge {
    fn start() -> Bridge {
        let dir = TempDir::new().unwrap();
        let server = server("127.0.0.1:0".parse().unwrap(), &dir);
        let token = server.create_account("ada").unwrap().1.reveal().to_owned();
        let person = person(&server, "ada");
        Bridge { addr: server.addr(), server: Some(server), token, person, dir }
    }

    fn down(&mut self) {
        self.server.take().expect("it is up").stop();
    }

    fn up(&mut self) {
        self.server = Some(server(self.addr, &self.dir));
    }

    fn machine(&self) -> Machine {
        Machine::new(&format!("http://{}", self.addr), &self.token)
    }

    #[track_caller]
    fn request(&self, path: &str, body: &Value) -> Value {
        Conn::open(self.addr).request("POST", path, &self.token, Some(body)).ok()
    }

    /// A person says something.
    #[track_caller]
    fn say(&self, thread: &str, body: &str) {
        let message = json!({ "threadId": thread, "body": body });
        Conn::open(self.addr).request("POST", "/api/reply", &self.person, Some(&message)).ok();
    }

    /// The bodies of what agents have said on a thread.
    #[track_caller]
    fn posts(&self, thread: &str) -> Vec<String> {
        let path = format!("/api/messages?threadId={thread}");
        let answer = Conn::open(self.addr).request("GET", &path, &self.token, None).ok();
        let messages = answer["messages"].as_array().unwrap().iter();
        let posts = messages.filter(|message| message["role"] == "agent");
        posts.map(|post| post["body"].as_str().unwrap().to_owned()).collect()
    }

    /// Waits until agents have said so much on a thread. Who asks again and again does not care
    /// whether it was said before there were ears.
    #[track_caller]
    fn until(&self, ears: &mut Ears, thread: &str, count: usize) -> Vec<String> {
        loop {
            let posts = self.posts(thread);
            if count <= posts.len() {
                return posts;
            }
            ears.event("message");
        }
    }

    /// What a browser hears from now on.
    fn listen(&self) -> Ears {
        let mut events = Events::open(self.addr, &self.token, "", None);
        events.expect("hello");
        Ears { events, told: HashSet::new() }
    }
}

fn server(listen: SocketAddr, dir: &TempDir) -> Server {
    let mut options = Options::new(listen, dir.path().join("data"));
    options.password_cost = Cost::CHEAP;
    options.limits = patient_limits();
    // A listener in vain is to see that its time is up.
    options.heartbeat = Duration::from_secs(1);
    Server::start(options).unwrap()
}

/// A browser.
struct Ears {
    events: Events,
    /// Messages that were told; a question is told again when it has ended.
    told: HashSet<String>,
}

impl Ears {
    #[track_caller]
    fn event(&mut self, name: &str) -> Event {
        let mut patience = Patience::new();
        loop {
            assert!(patience.lasts(), "no {name} came in time");
            let event = self.events.next().expect("the stream goes on");
            if event.name == name {
                return event;
            }
        }
    }

    /// The next post of an agent.
    #[track_caller]
    fn post(&mut self) -> Value {
        loop {
            let post = self.event("message").data;
            if self.told.insert(post["messageId"].to_string()) {
                return post;
            }
        }
    }

    /// The next post, which has to be of this kind and say so.
    #[track_caller]
    fn expect(&mut self, thread: &str, kind: &str, word: &str) -> String {
        let post = self.post();
        assert_eq!((&post["threadId"], &post["kind"]), (&json!(thread), &json!(kind)), "{post}");
        let body = post["body"].as_str().unwrap().to_owned();
        assert!(body.contains(word), "{word:?}: {body}");
        body
    }

    /// The echo agent's answer.
    #[track_caller]
    fn echo(&mut self, thread: &str, said: &str) {
        let body = self.expect(thread, "result", "Echo agent");
        assert_eq!(body, format!("Echo agent (no model): You said: {said}"));
    }
}
