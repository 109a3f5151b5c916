//! Guessing at passwords, links, tokens and cookies, as often as `OBTO_GUESSES` says. The time stands
//! still, so nothing but the free tries is ever looked at.

use std::{env, net::SocketAddr};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use obto_bridge::serve::store::Store;
use serde_json::json;

use crate::{
    serve::{
        Bridge,
        browser::{Browser, Hands, PASSWORD},
    },
    util::http::{Conn, Reply},
};

/// Where the owner is, who guesses, and where the owner has never been.
const HOME: [u8; 4] = [127, 0, 0, 2];
const STRANGER: [u8; 4] = [127, 0, 0, 3];
const ELSEWHERE: [u8; 4] = [127, 0, 0, 4];
/// Requests that are sent before the first answer is read.
const BATCH: usize = 50;

/// Tries a password: the request for it, with more header lines.
type Scheme = fn(&str, &str) -> String;
/// Tries a secret: the request for it.
type Ask<'a> = dyn Fn(&str) -> String + 'a;

#[expect(clippy::disallowed_methods, reason = "a test has no other way to be told")]
fn guesses() -> usize {
    env::var("OBTO_GUESSES").map_or(400, |it| it.parse().expect("a number"))
}

fn request(method: &str, target: &str, lines: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "{method} {target} HTTP/1.1\r\nHost: localhost\r\n{lines}Content-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
}

fn basic(password: &str, lines: &str) -> String {
    let secret = BASE64_STANDARD.encode(format!("ada:{password}"));
    request("GET", "/api/threads", &format!("Authorization: Basic {secret}\r\n{lines}"), "")
}

fn session(password: &str, lines: &str) -> String {
    let body = json!({ "username": "ada", "password": password }).to_string();
    request("POST", "/api/session", lines, &body)
}

fn from(source: [u8; 4], addr: SocketAddr, request: &str) -> Reply {
    let mut conn = Conn::open_from(source, addr);
    conn.send(request);
    conn.reply().unwrap()
}

/// How many guesses were looked at. The right one is among those that must not be, again and again.
fn guess(addr: SocketAddr, tries: usize, ask: &dyn Fn(usize) -> String) -> usize {
    let (mut conn, mut tested) = (Conn::open_from(STRANGER, addr), 0);
    for begin in (0..tries).step_by(BATCH) {
        let batch: Vec<String> = (begin..tries.min(begin + BATCH)).map(ask).collect();
        conn.send(batch.concat());
        for n in begin..begin + batch.len() {
            let reply = conn.reply().expect("the connection stays");
            match reply.status {
                401 | 403 => tested += 1,
                429 => assert!(reply.header("retry-after").is_some()),
                other => panic!("guess {n} got {other}"),
            }
        }
    }
    tested
}

/// Somebody guesses at what is right, from one address, beyond `free` tries.
#[track_caller]
fn check(bridge: &Bridge, right: &str, free: usize, ask: &Ask<'_>) {
    let addr = bridge.server.addr();
    let guessed = |n: usize| match n {
        n if n < free || n % 7 != 0 => ask(&format!("guess number {n}")),
        _ => ask(right),
    };
    assert_eq!(guess(addr, guesses(), &guessed), free);
    assert_eq!(from(STRANGER, addr, &ask(right)).status, 429);
    for source in [HOME, ELSEWHERE] {
        let reply = from(source, addr, &ask(right));
        assert_eq!(reply.status, 200, "{source:?}: {reply:?}");
    }
    assert_eq!(from(STRANGER, addr, &ask(right)).status, 429, "nor is it free afterwards");
}

/// A bridge whose owner has signed in in every way, each of which is remembered.
fn bridge() -> (Bridge, Browser) {
    let hands = Hands::new();
    let bridge = Bridge::with(|options| {
        hands.hold(options);
        options.behind_proxy = true;
    });
    let ada = Browser::welcome(&bridge, "ada");
    let addr = bridge.server.addr();
    for source in [HOME, ELSEWHERE] {
        from(source, addr, &basic(PASSWORD, "")).ok();
    }
    bridge.get("/api/threads").ok();
    (bridge, ada)
}

#[test]
fn a_password_that_comes_with_every_request() {
    let (bridge, _) = bridge();
    check(&bridge, PASSWORD, 20, &|it| basic(it, ""));
}

#[test]
fn a_password_that_comes_once() {
    let (bridge, _) = bridge();
    check(&bridge, PASSWORD, 20, &|it| session(it, ""));
}

#[test]
fn the_old_password_of_whoever_has_a_cookie() {
    let (bridge, ada) = bridge();
    let lines = ada.lines().replace("Content-Type: application/json\r\n", "");
    check(&bridge, PASSWORD, 20, &|it| {
        let body = json!({ "old": it, "new": PASSWORD }).to_string();
        request("POST", "/api/account/password", &lines, &body)
    });
}

#[test]
fn a_link() {
    let (bridge, _) = bridge();
    let addr = bridge.server.addr();
    let beside = Store::open_beside(&bridge.dir.path().join("data")).unwrap();
    let code = || beside.welcome("ada", obto_bridge::time::now()).unwrap().unwrap();
    let ask = |code: &str| {
        let body = json!({ "code": code, "password": PASSWORD }).to_string();
        request("POST", "/api/session/redeem", "", &body)
    };
    let right = code();
    let guessed = |n: usize| match n {
        n if n < 20 || n % 7 != 0 => ask(&format!("guess number {n}")),
        _ => ask(right.reveal()),
    };
    assert_eq!(guess(addr, guesses(), &guessed), 20);
    from(HOME, addr, &ask(right.reveal())).ok();
    from(ELSEWHERE, addr, &ask(code().reveal())).ok();
    // Links and passwords are one limit.
    assert_eq!(from(STRANGER, addr, &basic(PASSWORD, "")).status, 429);
    assert_eq!(from(STRANGER, addr, &session(PASSWORD, "")).status, 429);
    // And what has a token of its own goes on from the same address.
    let token = format!("Authorization: Bearer {}\r\n", bridge.token);
    from(STRANGER, addr, &request("GET", "/api/threads", &token, "")).ok();
}

#[test]
fn a_token() {
    let (bridge, _) = bridge();
    check(&bridge, &bridge.token, 100, &|it| {
        request("GET", "/api/threads", &format!("Authorization: Bearer {it}\r\n"), "")
    });
    // Who guesses there keeps nobody away who is there: 127.0.0.1 has used it.
    let addr = bridge.server.addr();
    let home = |token: &str| {
        let lines = format!("Authorization: Bearer {token}\r\n");
        from(HOME, addr, &request("GET", "/api/threads", &lines, "")).status
    };
    let statuses: Vec<u16> = (0..102).map(|n| home(&format!("obto_{n}"))).collect();
    assert_eq!((statuses[99], statuses[100]), (401, 429));
    assert_eq!(home(&bridge.token), 200);
}

#[test]
fn a_cookie() {
    let (bridge, ada) = bridge();
    let value = ada.cookie.split_once('=').unwrap().1;
    check(&bridge, value, 100, &|it| {
        request("GET", "/api/session", &format!("Cookie: obto_session={it}\r\n"), "")
    });
}

/// From a new address each time: then it is the name that has to wait, but not where its owner is,
/// and a link always lets them in.
#[test]
fn one_name_from_many_addresses() {
    let (bridge, _) = bridge();
    let addr = bridge.server.addr();
    let schemes: [(Scheme, usize); 2] = [(basic, 100), (session, 0)];
    for (scheme, free) in schemes {
        let guessed = |n: usize| {
            let [.., b, c, d] = (u32::try_from(n).unwrap() / 3).to_be_bytes();
            let word = if n < 100 { "a guess" } else { PASSWORD };
            scheme(word, &format!("X-Forwarded-For: 10.{b}.{c}.{d}\r\n"))
        };
        assert_eq!(guess(addr, guesses(), &guessed), free);
        // All of them are one network of 64 bits.
        let network = |n: usize| {
            scheme(&format!("guess {n}"), &format!("X-Forwarded-For: 2001:db8::{n:x}\r\n"))
        };
        assert_eq!(guess(addr, 60, &network), 0);
        for forwarded in ["", "X-Forwarded-For: 127.0.0.4\r\n"] {
            from(HOME, addr, &scheme(PASSWORD, forwarded)).ok();
        }
    }
    let beside = Store::open_beside(&bridge.dir.path().join("data")).unwrap();
    let code = beside.welcome("ada", obto_bridge::time::now()).unwrap().unwrap();
    let body = json!({ "code": code.reveal(), "password": PASSWORD }).to_string();
    let forwarded = "X-Forwarded-For: 198.51.100.1\r\n";
    from(HOME, addr, &request("POST", "/api/session/redeem", forwarded, &body)).ok();
}

/// Many at once get no more than one by one.
#[test]
fn guesses_at_the_same_time_count_as_well() {
    let (bridge, _) = bridge();
    let addr = bridge.server.addr();
    let mut conns: Vec<Conn> = (0..64).map(|_| Conn::open_from(STRANGER, addr)).collect();
    for (n, conn) in conns.iter_mut().enumerate() {
        conn.send(basic(&format!("guess {n}"), ""));
    }
    let statuses: Vec<u16> = conns.iter_mut().map(|it| it.reply().unwrap().status).collect();
    assert_eq!(statuses.iter().filter(|it| **it == 401).count(), 20, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|it| **it == 429).count(), 44, "{statuses:?}");
    // And whoever is right is so many times at once.
    let mut conns: Vec<Conn> = (0..64).map(|_| Conn::open_from(HOME, addr)).collect();
    for conn in &mut conns {
        conn.send(basic(PASSWORD, ""));
    }
    for conn in &mut conns {
        conn.reply().unwrap().ok();
    }
}
