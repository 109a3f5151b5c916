//! The embedded bridge, over real sockets.

mod access;
mod accounts;
mod attachments;
mod browser;
mod durability;
mod external;
mod fuzz;
#[cfg(target_os = "linux")]
mod guessing;
mod hosting;
mod instances;
mod limits;
#[cfg(target_os = "linux")]
mod load;
mod machines;
mod malformed;
mod markdown;
mod memory;
mod routes;
mod sessions;
mod streams;
mod threads;
mod tls;
mod waiting;

use std::{net::SocketAddr, path::Path};

use obto_bridge::serve::{Options, Server, password::Cost};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::util::http::{Conn, Events, Reply, patient_limits};

/// A bridge in a directory of its own, with one account.
struct Bridge {
    server: Server,
    token: String,
    dir: TempDir,
}

fn options(data: &Path) -> Options {
    let mut options = Options::new("127.0.0.1:0".parse().unwrap(), data.to_owned());
    options.password_cost = Cost::CHEAP;
    options.limits = patient_limits();
    options
}

impl Bridge {
    fn start() -> Bridge {
        Bridge::with(|_| ())
    }

    fn with(change: impl FnOnce(&mut Options)) -> Bridge {
        let dir = TempDir::new().unwrap();
        let mut options = options(&dir.path().join("data"));
        change(&mut options);
        let server = Server::start(options).unwrap();
        let token = account(&server, "ada");
        Bridge { server, token, dir }
    }

    fn conn(&self) -> Conn {
        Conn::open(self.server.addr())
    }

    fn post(&self, path: &str, body: &Value) -> Reply {
        self.conn().request("POST", path, &self.token, Some(body))
    }

    fn get(&self, path: &str) -> Reply {
        self.conn().request("GET", path, &self.token, None)
    }

    #[track_caller]
    fn reply(&self, thread: &str, body: &str) -> Value {
        self.post("/api/reply", &json!({ "threadId": thread, "body": body })).ok()["message"].take()
    }

    #[track_caller]
    fn events(&self, query: &str, last: Option<String>) -> Events {
        Events::open(self.server.addr(), &self.token, query, last)
    }
}

fn account(server: &Server, name: &str) -> String {
    server.create_account(name).unwrap().1.reveal().to_owned()
}

/// A data directory with an account, whose token this is, for the real command.
fn prepared(data: &Path) -> String {
    let server = Server::start(options(data)).unwrap();
    let token = account(&server, "ada");
    server.stop();
    token
}

/// Where `serve` says that it is.
fn address(line: &str) -> SocketAddr {
    line.rsplit('/').next().unwrap().parse().unwrap()
}

/// The bodies of `{messages: […]}`.
fn bodies(answer: &Value) -> Vec<&str> {
    let messages = answer["messages"].as_array().unwrap();
    messages.iter().map(|it| it["body"].as_str().unwrap()).collect()
}
