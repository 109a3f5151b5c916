//! Who gets in where: every route, asked by everybody who must not get what it has, and by whom it
//! is for. A route that is added fails here until it has a row.

use std::time::Duration;

use obto_bridge::serve::api;
use serde_json::{Value, json};

use crate::{
    serve::{
        Bridge, account,
        browser::{Browser, Hands, PASSWORD, ask},
    },
    util::http::Reply,
};

/// What is needed to be let in.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Needs {
    /// Nothing: it has nothing of anybody.
    Nothing,
    /// A token or a cookie.
    Account,
    /// A cookie.
    Person,
}
use Needs::{Account, Nothing, Person};

/// Method, path, query, body, what it needs, and the statuses for its owner and for another account
/// that names the owner's things.
type Row = (&'static str, &'static str, &'static str, Value, Needs, u16, u16);

/// `thread` and `token` are ids of the owner's.
fn rows(thread: &str, token: &Value) -> Vec<Row> {
    let none = Value::Null;
    let password = json!({ "old": PASSWORD, "new": PASSWORD });
    let sign_in = json!({ "username": "ada", "password": PASSWORD });
    let redeem = json!({ "code": "guess", "password": PASSWORD });
    let message = json!({ "threadId": thread, "body": "x", "kind": "result", "author": "a" });
    let agent = json!({ "threadId": thread, "agent": "codex" });
    let activity = json!({ "threadId": thread, "state": "idle" });
    let claim = json!({ "threadId": thread, "agentId": "box" });
    let reply = json!({ "threadId": "new", "body": "x" });
    vec![
        ("GET", "/", "", none.clone(), Nothing, 302, 302),
        ("GET", "/healthz", "", none.clone(), Nothing, 200, 200),
        ("GET", "/api/view", "", none.clone(), Nothing, 200, 200),
        ("POST", "/api/session", "", sign_in, Nothing, 200, 200),
        ("GET", "/api/session", "", none.clone(), Person, 200, 200),
        ("POST", "/api/session/redeem", "", redeem, Nothing, 401, 401),
        ("POST", "/api/session/end", "", json!({}), Person, 200, 200),
        ("POST", "/api/account/password", "", password, Person, 200, 200),
        ("GET", "/api/tokens", "", none.clone(), Person, 200, 200),
        ("POST", "/api/tokens", "", json!({}), Person, 200, 200),
        ("POST", "/api/tokens/revoke", "", json!({ "id": token }), Person, 200, 404),
        ("POST", "/api/bridge/register", "", none.clone(), Nothing, 403, 403),
        ("GET", "/api/bridge/stream", "", none.clone(), Account, 200, 200),
        ("POST", "/api/bridge/thread/claim", "", claim, Account, 200, 404),
        ("POST", "/api/bridge/thread/agent", "", agent, Account, 200, 404),
        ("POST", "/api/bridge/agent-activity", "", activity, Account, 200, 404),
        ("GET", "/api/bridge/whoami", "", none.clone(), Account, 200, 200),
        // It replaces the token that it is called with, and a cookie is none.
        ("POST", "/api/bridge/rotate-token", "", json!({}), Account, 400, 400),
        ("GET", "/api/bridge/machines", "", none.clone(), Account, 200, 200),
        ("POST", "/api/message", "", message, Account, 200, 404),
        ("POST", "/api/reply", "", reply, Account, 200, 200),
        ("GET", "/api/messages", "?threadId=of-ada", none.clone(), Account, 200, 404),
        ("GET", "/api/threads", "", none.clone(), Account, 200, 200),
        ("GET", "/api/bridge/attachment/:id", "", none.clone(), Account, 501, 501),
        ("POST", "/api/bridge/attachment/upload", "", json!({}), Account, 501, 501),
        ("POST", "/api/bridge/external/sync", "", json!({}), Account, 501, 501),
        ("POST", "/api/bridge/external/backfill", "", json!({}), Account, 501, 501),
    ]
}

/// What is written on the owner's thread, and in no answer to anybody else.
const SECRET: &str = "what-only-ada-may-read";
const THREAD: &str = "of-ada";

struct World {
    bridge: Bridge,
    revoked: String,
    /// Expired, with the right CSRF token.
    expired: Browser,
    /// The id of a good token of the owner's.
    token: Value,
}

impl World {
    fn new() -> World {
        let hands = Hands::new();
        let bridge = Bridge::with(|options| hands.hold(options));
        let expired = Browser::welcome(&bridge, "ada");
        hands.advance(Duration::from_hours(8 * 24));
        let ada = Browser::sign_in(&bridge, "ada");
        let add = || ada.post("/api/tokens", &json!({})).ok();
        let (revoked, token) = (add(), add()["id"].take());
        ada.post("/api/tokens/revoke", &json!({ "id": revoked["id"] })).ok();
        let revoked = revoked["token"].as_str().unwrap().to_owned();
        bridge.reply(THREAD, SECRET);
        account(&bridge.server, "bob");
        Browser::welcome(&bridge, "bob");
        World { bridge, revoked, expired, token }
    }

    /// Everything of the owner's that others could have changed.
    fn belongings(&self) -> [Value; 3] {
        let ada = Browser::sign_in(&self.bridge, "ada");
        let mut tokens = ada.get("/api/tokens").ok();
        for token in tokens["tokens"].as_array_mut().unwrap() {
            token["lastUsedAt"].take();
        }
        let messages = ada.get(&format!("/api/messages?threadId={THREAD}")).ok();
        [ada.get("/api/threads").ok(), messages, tokens]
    }

    /// Sends a row's request; the answer must be of that status and tell nothing of the owner.
    fn check(&self, row: &Row, who: &str, lines: &str, expected: u16) {
        let reply = self.send(row, lines);
        assert_eq!(reply.status, expected, "{} {} with {who}: {reply:?}", row.0, row.1);
        let told = String::from_utf8_lossy(&reply.body);
        for secret in [SECRET, THREAD, &self.bridge.token[..10]] {
            assert!(!told.contains(secret), "{} {} with {who}: {told}", row.0, row.1);
        }
        if 400 <= reply.status {
            let answer = reply.json();
            assert_eq!(answer["ok"], false);
            assert!(answer["error"].is_string(), "{answer}");
        }
    }

    fn send(&self, (method, path, query, body, ..): &Row, lines: &str) -> Reply {
        let target = format!("{}{query}", path.replace(":id", "1"));
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let mut conn = ask(self.bridge.server.addr(), method, &target, lines, &body);
        // A stream has no end to wait for.
        let is_stream = *path == "/api/bridge/stream";
        let head = conn.reply_head().unwrap();
        if is_stream && head.status == 200 {
            return head;
        }
        conn.body_of(head)
    }

    /// The answers to everybody who is not the owner.
    fn check_strangers(&self, row: &Row) {
        let &(method, _, _, _, needs, own, other) = row;
        let bob = Browser::sign_in(&self.bridge, "bob");
        let ada = Browser::sign_in(&self.bridge, "ada");
        let json = "Content-Type: application/json\r\n";
        let bearer = |token: &str| format!("Authorization: Bearer {token}\r\n{json}");
        let shut = if needs == Nothing { own } else { 401 };
        self.check(row, "no credentials", json, shut);
        self.check(row, "nonsense", &bearer("obto_nonsense"), shut);
        self.check(row, "a revoked token", &bearer(&self.revoked), shut);
        self.check(row, "an expired cookie", &self.expired.lines(), shut);
        if needs == Person {
            self.check(row, "a token", &bearer(&self.bridge.token), 403);
        }
        let lines = ada.lines();
        if method == "POST" && needs != Nothing {
            let wrong = lines.replace(&ada.csrf, &bob.csrf);
            self.check(row, "another session's CSRF token", &wrong, 403);
            let missing = lines.replace("X-CSRF-Token", "X-Nothing");
            self.check(row, "no CSRF token", &missing, 403);
        }
        let foreign = lines.replace("Origin: http://localhost", "Origin: http://evil.example");
        self.check(row, "a foreign Origin", &foreign, 403);
        self.check(row, "a foreign Host", &format!("Host: evil.example\r\n{lines}"), 403);
        if needs != Nothing {
            self.check(row, "the cookie of another account", &bob.lines(), other);
        }
        if needs == Account && row.1 != "/api/bridge/rotate-token" {
            let bob = Browser::sign_in(&self.bridge, "bob");
            let token = bob.post("/api/tokens", &json!({})).ok()["token"].take();
            let bearer = bearer(token.as_str().unwrap());
            self.check(row, "the token of another account", &bearer, other);
        }
    }
}

#[test]
fn every_route_has_a_row() {
    let rows = rows(THREAD, &Value::Null);
    let mut rows: Vec<(&str, &str)> = rows.iter().map(|row| (row.0, row.1)).collect();
    let mut routes: Vec<(&str, &str)> = api::routes().collect();
    rows.sort_unstable();
    routes.sort_unstable();
    assert_eq!(rows, routes);
}

#[test]
fn nobody_gets_what_is_not_theirs() {
    let world = World::new();
    let rows = rows(THREAD, &world.token);
    let before = world.belongings();
    for row in &rows {
        world.check_strangers(row);
    }
    assert_eq!(world.belongings(), before, "somebody else has changed it");
    // The same requests are good when their owner makes them, so nothing was refused by mistake.
    for row in &rows {
        let ada = Browser::sign_in(&world.bridge, "ada");
        let reply = world.send(row, &ada.lines());
        assert_eq!(reply.status, row.5, "{} {}: {reply:?}", row.0, row.1);
    }
}
