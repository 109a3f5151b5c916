//! Somebody at a browser: a cookie, a CSRF token, and the headers that a browser sends by itself.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use obto_bridge::{
    serve::{Options, clock::Clock},
    time::{self, Timestamp},
};
use serde_json::{Value, json};

use crate::{
    serve::Bridge,
    util::http::{Conn, Events, Reply},
};

pub(super) const PASSWORD: &str = "correct horse";

/// Sends one request with these header lines on a connection of its own.
pub(super) fn ask(addr: SocketAddr, method: &str, target: &str, lines: &str, body: &str) -> Conn {
    let mut conn = Conn::open(addr);
    let host = if lines.contains("Host: ") { "" } else { "Host: localhost\r\n" };
    let length = body.len();
    conn.send(format!(
        "{method} {target} HTTP/1.1\r\n{host}{lines}Content-Length: {length}\r\n\r\n{body}"
    ));
    conn
}

/// Somebody who has signed in.
#[derive(Clone, Debug)]
pub(super) struct Browser {
    addr: SocketAddr,
    /// `name=value`.
    pub(super) cookie: String,
    pub(super) csrf: String,
}

impl Browser {
    /// Uses a one-time link up.
    #[track_caller]
    pub(super) fn welcome(bridge: &Bridge, name: &str) -> Browser {
        let code = bridge.server.welcome(name).unwrap().expect("nobody can sign in yet");
        let body = json!({ "code": code.reveal(), "password": PASSWORD });
        Browser::of(bridge, &anonymous(bridge, "/api/session/redeem", &body))
    }

    #[track_caller]
    pub(super) fn sign_in(bridge: &Bridge, name: &str) -> Browser {
        Browser::of(bridge, &sign_in(bridge, name, PASSWORD))
    }

    #[track_caller]
    fn of(bridge: &Bridge, reply: &Reply) -> Browser {
        let answer = reply.ok();
        let cookie = reply.header("set-cookie").unwrap().split(';').next().unwrap();
        let csrf = answer["csrf"].as_str().unwrap().to_owned();
        Browser { addr: bridge.server.addr(), cookie: cookie.to_owned(), csrf }
    }

    /// What it sends with every request.
    pub(super) fn lines(&self) -> String {
        format!(
            "Cookie: other=1; {}\r\nOrigin: http://localhost\r\nSec-Fetch-Site: same-origin\r\n\
             X-CSRF-Token: {}\r\nContent-Type: application/json\r\n",
            self.cookie, self.csrf
        )
    }

    pub(super) fn post(&self, path: &str, body: &Value) -> Reply {
        ask(self.addr, "POST", path, &self.lines(), &body.to_string()).reply().unwrap()
    }

    pub(super) fn get(&self, target: &str) -> Reply {
        ask(self.addr, "GET", target, &self.lines(), "").reply().unwrap()
    }

    #[track_caller]
    pub(super) fn events(&self) -> Events {
        let mut conn = ask(self.addr, "GET", "/api/bridge/stream", &self.lines(), "");
        let head = conn.reply_head().unwrap();
        assert_eq!(head.status, 200);
        let mut events = Events { conn, head };
        events.expect("hello");
        events
    }
}

/// A post of somebody who has no cookie.
pub(super) fn anonymous(bridge: &Bridge, path: &str, body: &Value) -> Reply {
    let lines = "Origin: http://localhost\r\nContent-Type: application/json\r\n";
    ask(bridge.server.addr(), "POST", path, lines, &body.to_string()).reply().unwrap()
}

pub(super) fn sign_in(bridge: &Bridge, name: &str, password: &str) -> Reply {
    anonymous(bridge, "/api/session", &json!({ "username": name, "password": password }))
}

/// A clock that goes on only when it is told to.
#[derive(Clone, Debug)]
pub(super) struct Hands(Arc<AtomicU64>);

impl Hands {
    /// Puts the clock into a bridge's options.
    pub(super) fn new() -> Hands {
        Hands(Arc::new(AtomicU64::new(time::now().as_millis())))
    }

    pub(super) fn hold(&self, options: &mut Options) {
        let hands = Arc::clone(&self.0);
        options.clock = Clock::new(move || Timestamp::from_millis(hands.load(Ordering::SeqCst)));
    }

    pub(super) fn advance(&self, by: Duration) {
        self.0.fetch_add(u64::try_from(by.as_millis()).unwrap(), Ordering::SeqCst);
    }
}
