//! Signing in, staying signed in, and no longer being so.

use std::time::Duration;

use obto_bridge::serve::{Options, Server};
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::{
    serve::{
        Bridge,
        browser::{Browser, Hands, PASSWORD, anonymous, ask, sign_in},
        options,
    },
    util::http::Events,
};

const DAY: Duration = Duration::from_hours(24);

/// A bridge whose time stands still, and somebody who has signed in to it.
fn signed_in() -> (Bridge, Hands, Browser) {
    let hands = Hands::new();
    let bridge = Bridge::with(|options| hands.hold(options));
    let ada = Browser::welcome(&bridge, "ada");
    (bridge, hands, ada)
}

#[test]
fn a_link_is_good_once_and_for_a_day() {
    let hands = Hands::new();
    let bridge = Bridge::with(|options| hands.hold(options));
    let redeem = |code: &str, password: &str| {
        let body = json!({ "code": code, "password": password });
        anonymous(&bridge, "/api/session/redeem", &body)
    };
    let code = || bridge.server.welcome("ada").unwrap().unwrap();
    assert!(bridge.server.welcome("nobody").unwrap().is_none());
    let replaced = code();
    let late = code();
    assert_eq!(redeem(replaced.reveal(), PASSWORD).status, 401);
    hands.advance(DAY);
    assert_eq!(redeem(late.reveal(), PASSWORD).status, 401);
    let good = code();
    hands.advance(Duration::from_secs(24 * 3600 - 1));
    let short = redeem(good.reveal(), "short");
    assert_eq!((short.status, short.json()["field"].as_str()), (400, Some("password")));
    assert_eq!(redeem(good.reveal(), &"x".repeat(1001)).status, 413);
    let answer = redeem(good.reveal(), PASSWORD).ok();
    assert_eq!(answer["user"], "ada");
    assert!(answer["accountId"].as_str().unwrap().starts_with("acc_"));
    let again = redeem(good.reveal(), "another one");
    assert_eq!(again.status, 401);
    assert!(again.json()["error"].as_str().unwrap().contains("serve user passwd"));
    // Who can sign in gets no link by a mere start.
    assert!(bridge.server.welcome("ada").unwrap().is_none());
    assert_eq!(format!("{good:?}"), "Secret(…)");
    Browser::sign_in(&bridge, "ada");
}

#[test]
fn a_cookie_is_for_our_own_page_alone() {
    let (bridge, _, _) = signed_in();
    let reply = sign_in(&bridge, "ada", PASSWORD);
    let (name_value, rest) = reply.header("set-cookie").unwrap().split_once("; ").unwrap();
    assert_eq!(rest, "Path=/; Max-Age=2592000; HttpOnly; SameSite=Strict");
    let (name, value) = name_value.split_once('=').unwrap();
    assert_eq!((name, value.len()), ("obto_session", 64));
    assert!(!String::from_utf8_lossy(&reply.body).contains(value));
}

#[test]
fn signing_in_and_out() {
    let (bridge, _, ada) = signed_in();
    for (name, password) in
        [("ada", "wrong"), ("ada", ""), ("bob", PASSWORD), ("nobody", PASSWORD), ("a da", PASSWORD)]
    {
        let reply = sign_in(&bridge, name, password);
        assert_eq!(reply.status, 401, "{name}");
        assert_eq!(reply.json()["error"], "the user name or the password is wrong");
        assert_eq!(reply.header("set-cookie"), None);
    }
    for name in ["ADA", "Ada ", "\u{a0}ada"] {
        assert_eq!(sign_in(&bridge, name, PASSWORD).ok()["user"], "ada", "{name:?}");
    }
    let shown = ada.get("/api/session").ok();
    assert_eq!((&shown["user"], shown["csrf"].as_str()), (&json!("ada"), Some(&*ada.csrf)));

    let other = Browser::sign_in(&bridge, "ada");
    assert!(other.cookie != ada.cookie && other.csrf != ada.csrf);
    let (mut mine, mut others) = (ada.events(), other.events());
    let out = ada.post("/api/session/end", &json!({}));
    assert!(out.header("set-cookie").unwrap().starts_with("obto_session=; Path=/; Max-Age=0"));
    assert_eq!(out.ok(), json!({ "ok": true }));
    assert_eq!(mine.next(), None);
    assert_eq!(ada.get("/api/session").status, 401);
    bridge.reply("t", "hello");
    others.expect("thread");
    assert_eq!(other.get("/api/threads").ok()["threads"].as_array().unwrap().len(), 1);
}

#[test]
fn the_page_works_with_a_cookie() {
    let (_bridge, _, ada) = signed_in();
    let mut stream = ada.events();
    ada.post("/api/reply", &json!({ "threadId": "t", "body": "hello" })).ok();
    stream.expect("thread");
    assert_eq!(stream.expect("reply").data["author"], "ada");
    assert_eq!(ada.get("/api/messages?threadId=t").ok()["messages"][0]["body"], "hello");
}

#[test]
fn a_session_ends_when_it_is_idle_or_old() {
    let (bridge, hands, ada) = signed_in();
    let idle = Browser::sign_in(&bridge, "ada");
    let mut streams: Vec<Events> = [&idle, &ada].map(Browser::events).into();
    for _ in 0..4 {
        hands.advance(6 * DAY);
        ada.get("/api/session").ok();
    }
    assert_eq!(idle.get("/api/session").status, 401);
    assert_eq!(streams.remove(0).next(), None);
    hands.advance(Duration::from_secs(6 * 24 * 3600 - 1));
    ada.get("/api/session").ok();
    hands.advance(Duration::from_secs(1));
    assert_eq!(ada.get("/api/session").status, 401);
    assert_eq!(ada.post("/api/reply", &json!({ "body": "hello" })).status, 401);
    assert_eq!(streams.remove(0).next(), None);
}

#[test]
fn a_changed_password_ends_the_other_sessions() {
    let (bridge, _, ada) = signed_in();
    let other = Browser::sign_in(&bridge, "ada");
    let (mut mine, mut others) = (ada.events(), other.events());
    let mut daemon = bridge.events("?agentId=box", None);
    daemon.expect("hello");
    mine.expect("machine");
    others.expect("machine");
    let change = |old: &str, new: &str| {
        ada.post("/api/account/password", &json!({ "old": old, "new": new }))
    };
    let wrong = change("wrong", "battery staple");
    assert_eq!((wrong.status, wrong.json()["field"].as_str()), (403, Some("old")));
    let short = change(PASSWORD, "short");
    assert_eq!((short.status, short.json()["field"].as_str()), (400, Some("new")));
    other.get("/api/session").ok();
    change(PASSWORD, "battery staple").ok();
    assert_eq!(others.next(), None);
    assert_eq!(other.get("/api/session").status, 401);
    assert_eq!(sign_in(&bridge, "ada", PASSWORD).status, 401);
    sign_in(&bridge, "ada", "battery staple").ok();
    bridge.reply("t", "hello");
    mine.expect("thread");
    daemon.expect("reply");
}

#[test]
fn what_changes_something_must_come_from_our_page() {
    let (bridge, _, ada) = signed_in();
    let (cookie, csrf) = (&ada.cookie, &ada.csrf);
    let other = Browser::sign_in(&bridge, "ada").csrf;
    let json = "Content-Type: application/json\n";
    let ours = "Origin: http://localhost\n";
    let check = |method: &str, lines: &[&str], expected: u16| {
        let lines = lines.concat().replace('\n', "\r\n");
        let (target, body) = match method {
            "GET" => ("/api/threads", ""),
            _ => ("/api/reply", "{\"body\":\"x\"}"),
        };
        let cookie = format!("Cookie: {cookie}\r\n{lines}");
        let reply = ask(bridge.server.addr(), method, target, &cookie, body).reply().unwrap();
        assert_eq!(reply.status, expected, "{method} {lines}");
    };
    let token = &*format!("X-CSRF-Token: {csrf}\n");
    check("POST", &[token, ours, json], 200);
    check("POST", &[token, "Sec-Fetch-Site: same-origin\n", json], 200);
    check("POST", &[token, "Origin: http://LocalHost\nContent-Type: Application/JSON; a=b\n"], 200);
    check("POST", &[token, json], 403);
    check("POST", &[ours, json], 403);
    check("POST", &[&format!("X-CSRF-Token: {other}\n"), ours, json], 403);
    check("POST", &[&token.replace(csrf, &csrf[1..]), ours, json], 403);
    check("POST", &["X-CSRF-Token:\n", ours, json], 403);
    check("POST", &[token, ours], 415);
    check("POST", &[token, ours, "Content-Type: text/plain\n"], 415);
    for origin in ["null", "", "localhost", "http://localhost:1", "http://localhost.evil.example"] {
        check("POST", &[token, &format!("Origin: {origin}\n"), json], 403);
        check("GET", &[&format!("Origin: {origin}\n")], 403);
    }
    check("POST", &[token, "Sec-Fetch-Site: same-site\n", json], 403);
    check("POST", &[token, "Sec-Fetch-Site: none\n", json], 403);
    check("GET", &[], 200);
    check("GET", &["Sec-Fetch-Site: none\n"], 200);
    check("GET", &["Sec-Fetch-Site: cross-site\n"], 403);
    check("GET", &["Sec-Fetch-Site: same-site\n"], 403);
    check("GET", &[&format!("Cookie: {cookie}x\n")], 200);
}

#[test]
fn signing_in_is_not_for_foreign_pages_either() {
    let (bridge, _, _) = signed_in();
    let body = json!({ "username": "ada", "password": PASSWORD }).to_string();
    for (lines, expected) in [
        ("Content-Type: application/json\r\n", 200),
        ("Content-Type: text/plain\r\n", 415),
        ("", 415),
        ("Content-Type: application/json\r\nOrigin: http://evil.example\r\n", 403),
        ("Content-Type: application/json\r\nSec-Fetch-Site: cross-site\r\n", 403),
    ] {
        let reply = ask(bridge.server.addr(), "POST", "/api/session", lines, &body).reply();
        assert_eq!(reply.unwrap().status, expected, "{lines}");
    }
    let link = "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\n";
    for (path, expected) in [("/", 302), ("/api/view", 200)] {
        let reply = ask(bridge.server.addr(), "GET", path, link, "").reply().unwrap();
        assert_eq!(reply.status, expected, "a link to {path}");
    }
}

#[test]
fn behind_a_proxy_with_tls_the_cookie_is_secured() {
    let secure = "X-Forwarded-Proto: https\r\nHost: bridge.example\r\n\
                  Origin: https://bridge.example\r\nContent-Type: application/json\r\n";
    let sign_in = |bridge: &Bridge, lines: &str| {
        let body = json!({ "username": "ada", "password": PASSWORD }).to_string();
        ask(bridge.server.addr(), "POST", "/api/session", lines, &body).reply().unwrap()
    };
    let named = |options: &mut Options| options.hosts.push("bridge.example".to_owned());
    let bridge = Bridge::with(|options| {
        named(options);
        options.behind_proxy = true;
    });
    Browser::welcome(&bridge, "ada");
    let reply = sign_in(&bridge, secure);
    let cookie = reply.header("set-cookie").unwrap();
    assert!(cookie.starts_with("__Host-obto_session="), "{cookie}");
    assert!(cookie.ends_with("; HttpOnly; SameSite=Strict; Secure"), "{cookie}");
    assert!(reply.header("strict-transport-security").unwrap().starts_with("max-age="));
    let cookie = cookie.split(';').next().unwrap();
    let session = |lines: &str| {
        let conn = ask(bridge.server.addr(), "GET", "/api/session", lines, "").reply();
        conn.unwrap().status
    };
    assert_eq!(session(&format!("Cookie: {cookie}\r\n{secure}")), 200);
    // The same without TLS: neither is the cookie believed, nor is a page without TLS ours.
    assert_eq!(session(&format!("Cookie: {cookie}\r\n")), 401);
    let plain_page = secure.replace("Origin: https", "Origin: http");
    assert_eq!(session(&format!("Cookie: {cookie}\r\n{plain_page}")), 403);

    // Anybody can write such a header.
    let bridge = Bridge::with(named);
    Browser::welcome(&bridge, "ada");
    let reply = sign_in(&bridge, secure);
    assert!(reply.header("set-cookie").unwrap().starts_with("obto_session="));
    assert_eq!(reply.header("strict-transport-security"), None);
}

#[test]
fn guessing_becomes_slow() {
    let (bridge, hands, _) = signed_in();
    for n in 0..20 {
        let name = if n % 2 == 0 { "ada" } else { "nobody" };
        assert_eq!(sign_in(&bridge, name, "guess").status, 401, "{name}");
    }
    for secs in [1, 2, 4] {
        // The right password does not help.
        for password in ["guess", PASSWORD] {
            let refused = sign_in(&bridge, "ada", password);
            let wait = secs.to_string();
            assert_eq!((refused.status, refused.header("retry-after")), (429, Some(&*wait)));
            assert_eq!(refused.json()["ok"], false);
        }
        hands.advance(Duration::from_secs(secs));
        assert_eq!(sign_in(&bridge, "ada", "guess").status, 401);
    }
    // Links count as well.
    let redeem = || {
        let body = json!({ "code": "guess", "password": PASSWORD });
        anonymous(&bridge, "/api/session/redeem", &body).status
    };
    assert_eq!(redeem(), 429);
    hands.advance(Duration::from_secs(8));
    assert_eq!([redeem(), redeem()], [401, 429]);
    assert_eq!(sign_in(&bridge, "ada", PASSWORD).header("retry-after"), Some("16"));
    hands.advance(Duration::from_secs(16));
    for _ in 0..9 {
        sign_in(&bridge, "ada", PASSWORD).ok();
    }
    // After an hour without a wrong one all is forgotten.
    hands.advance(Duration::from_hours(1));
    let statuses: Vec<u16> = (0..21).map(|_| sign_in(&bridge, "ada", "guess").status).collect();
    assert_eq!((statuses[19], statuses[20]), (401, 429));
}

#[test]
fn accounts_are_not_made_in_masses() {
    let hands = Hands::new();
    let bridge = Bridge::with(|options| {
        hands.hold(options);
        options.allow_register = true;
    });
    let register = |n: usize| {
        let form = format!("email=a@b&username=user{n}&password=long+enough");
        ask(bridge.server.addr(), "POST", "/api/bridge/register", "", &form).reply().unwrap().status
    };
    let statuses: Vec<u16> = (0..8).map(register).collect();
    assert_eq!(statuses, [200, 200, 200, 200, 200, 429, 429, 429]);
    hands.advance(Duration::from_secs(1));
    assert_eq!(register(8), 200);
}

#[test]
fn a_proxy_tells_who_guesses() {
    let guess = |bridge: &Bridge, n: usize, forwarded: &str| {
        let body = json!({ "username": format!("user{n}"), "password": "guess" }).to_string();
        let lines = format!("Content-Type: application/json\r\nX-Forwarded-For: {forwarded}\r\n");
        ask(bridge.server.addr(), "POST", "/api/session", &lines, &body).reply().unwrap().status
    };
    let hands = Hands::new();
    let bridge = Bridge::with(|options| {
        hands.hold(options);
        options.behind_proxy = true;
    });
    for n in 0..20 {
        assert_eq!(guess(&bridge, n, &format!("10.0.0.{n}, 192.0.2.1")), 401);
    }
    assert_eq!(guess(&bridge, 21, "192.0.2.1"), 429);
    assert_eq!(guess(&bridge, 21, "192.0.2.1:4711"), 429);
    assert_eq!(guess(&bridge, 21, "192.0.2.2"), 401);
    for n in 0..20 {
        assert_eq!(guess(&bridge, 100 + n, &format!("2001:db8::{n}")), 401);
    }
    assert_eq!(guess(&bridge, 99, "[2001:db8:0:0:ffff::]:1"), 429, "it is the same network");
    assert_eq!(guess(&bridge, 99, "2001:db8:0:1::"), 401);
    // Without a proxy the header is anybody's.
    let bridge = Bridge::with(|options| hands.hold(options));
    let statuses: Vec<u16> = (0..21).map(|n| guess(&bridge, n, &format!("192.0.2.{n}"))).collect();
    assert_eq!((statuses[19], statuses[20]), (401, 429));
}

#[test]
fn a_token_for_each_machine() {
    let (bridge, _, ada) = signed_in();
    let made = ada.post("/api/tokens", &json!({})).ok();
    let (id, token) = (made["id"].clone(), made["token"].as_str().unwrap());
    let mut stream = Events::open(bridge.server.addr(), token, "?agentId=box", None);
    stream.expect("hello");
    let listed = ada.get("/api/tokens").ok();
    let listed = listed["tokens"].as_array().unwrap();
    assert_eq!(listed.len(), 2, "{listed:?}");
    let new = listed.iter().find(|it| it["id"] == id).unwrap();
    assert_eq!(new["machine"], "box");
    assert!(token.starts_with(new["prefix"].as_str().unwrap()) && token.len() == 69);
    assert!(new["createdAt"].is_string() && new["lastUsedAt"].is_string());
    let text = String::from_utf8(ada.get("/api/tokens").body).unwrap();
    assert!(!text.contains(token) && !text.contains(&bridge.token));

    ada.post("/api/tokens/revoke", &json!({ "id": id })).ok();
    assert_eq!(stream.next(), None);
    let whoami = bridge.conn().request("GET", "/api/bridge/whoami", token, None);
    assert_eq!(whoami.status, 401);
    bridge.get("/api/bridge/whoami").ok();
    for id in [id, json!("0"), json!("x"), json!(-1), Value::Null] {
        let status = ada.post("/api/tokens/revoke", &json!({ "id": id })).status;
        assert!(matches!(status, 404 | 400), "{id}: {status}");
    }
}

#[test]
fn a_password_whose_hash_costs_too_little_gets_a_better_one() {
    let (bridge, _, _) = signed_in();
    let Bridge { server, dir, .. } = bridge;
    server.stop();
    let data = dir.path().join("data");
    let mut options = options(&data);
    options.password_cost.passes += 1;
    let better =
        format!("argon2id${}${}$", options.password_cost.memory_kib, options.password_cost.passes);
    let server = Server::start(options).unwrap();
    let bridge = Bridge { server, token: String::new(), dir };
    let file = Connection::open(data.join("bridge.sqlite")).unwrap();
    let stored = || -> String {
        file.query_row("SELECT password FROM accounts", (), |row| row.get(0)).unwrap()
    };
    assert_eq!(sign_in(&bridge, "ada", "another").status, 401);
    assert!(!stored().starts_with(&better));
    for _ in 0..2 {
        sign_in(&bridge, "ada", PASSWORD).ok();
        assert!(stored().starts_with(&better), "{}", stored());
    }
}

#[test]
fn every_response_says_that_it_is_nobody_elses_business() {
    let (bridge, _, ada) = signed_in();
    for reply in [
        ada.get("/api/threads"),
        ada.get("/healthz"),
        ada.get("/nowhere"),
        ada.post("/api/threads", &json!({})),
        bridge.get("/api/session"),
        ask(bridge.server.addr(), "GET", "/api/threads", "", "").reply().unwrap(),
        ask(bridge.server.addr(), "GET", "/api/threads", "Host: evil\r\n", "").reply().unwrap(),
        ask(bridge.server.addr(), "GET", "*", "", "").reply().unwrap(),
        ada.events().head,
    ] {
        for (name, expected) in [
            ("cache-control", "no-store"),
            ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
            ("cross-origin-opener-policy", "same-origin"),
            ("cross-origin-resource-policy", "same-origin"),
            ("referrer-policy", "no-referrer"),
            ("x-content-type-options", "nosniff"),
        ] {
            let value = reply.header(name).unwrap_or_default();
            assert!(value.starts_with(expected), "{name}: {value:?} of {reply:?}");
        }
    }
}
