//! Who may do what.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use crate::{
    serve::{Bridge, account, bodies},
    util::http::{Conn, Reply},
};

#[test]
fn nothing_is_told_to_strangers() {
    let bridge = Bridge::start();
    for token in ["", "obto_nonsense", &format!("{}0", bridge.token), &bridge.token.to_uppercase()]
    {
        for (method, path) in [
            ("GET", "/api/bridge/stream"),
            ("GET", "/api/threads"),
            ("GET", "/api/bridge/whoami"),
            ("POST", "/api/reply"),
            ("POST", "/api/bridge/rotate-token"),
            ("GET", "/api/bridge/attachment/1"),
        ] {
            let reply = bridge.conn().request(method, path, token, None);
            assert_eq!(reply.status, 401, "{method} {path}");
            assert_eq!(reply.json()["ok"], false);
            assert!(reply.header("www-authenticate").unwrap().starts_with("Bearer"));
        }
    }
}

#[test]
fn accounts_do_not_see_each_other() {
    let bridge = Bridge::start();
    bridge.reply("t", "mine");
    let other = account(&bridge.server, "bob");
    let mut conn = bridge.conn();
    let mut other =
        |method: &str, path: &str, body: Value| conn.request(method, path, &other, Some(&body));
    assert_eq!(other("GET", "/api/threads", Value::Null).ok()["threads"], json!([]));
    assert_eq!(other("GET", "/api/messages?threadId=t", Value::Null).status, 404);
    let post = json!({ "threadId": "t", "body": "b", "kind": "result", "author": "a" });
    assert_eq!(other("POST", "/api/message", post).status, 404);
    let claim = json!({ "threadId": "t", "agentId": "box" });
    assert_eq!(other("POST", "/api/bridge/thread/claim", claim).status, 404);
    let agent = json!({ "threadId": "t", "agent": "codex" });
    assert_eq!(other("POST", "/api/bridge/thread/agent", agent).status, 404);
    let activity = json!({ "threadId": "t", "state": "idle" });
    assert_eq!(other("POST", "/api/bridge/agent-activity", activity).status, 404);
    // The same id is another thread there, and a client's id of a post another post.
    let reply = json!({ "threadId": "t", "body": "theirs", "clientMsgId": "1" });
    other("POST", "/api/reply", reply).ok();
    let reply = json!({ "threadId": "t", "body": "mine, too", "clientMsgId": "1" });
    bridge.post("/api/reply", &reply).ok();
    assert_eq!(bodies(&bridge.get("/api/messages?threadId=t").ok()), ["mine", "mine, too"]);
}

#[test]
fn a_replaced_token_is_dead_at_once_and_so_are_its_streams() {
    let bridge = Bridge::start();
    let mut stream = bridge.events("?agentId=box", None);
    stream.expect("hello");
    let answer = bridge.post("/api/bridge/rotate-token", &json!({})).ok();
    let token = answer["apiToken"].as_str().unwrap();
    assert!(token.strip_prefix("obto_").unwrap().bytes().all(|it| it.is_ascii_alphanumeric()));
    assert_eq!(stream.next(), None);
    assert_eq!(bridge.get("/api/bridge/whoami").status, 401);
    let whoami = bridge.conn().request("GET", "/api/bridge/whoami", token, None).ok();
    let account = &whoami["account"];
    assert!(token.starts_with(account["apiTokenPrefix"].as_str().unwrap()));
    assert_eq!(account["basicAuthUser"], "ada");
    assert!(account["accountId"].as_str().unwrap().starts_with("acc_"));
    assert!(whoami["server"]["time"].is_string());
}

fn register(bridge: &Bridge, form: &str) -> Reply {
    let mut conn = bridge.conn();
    conn.send(format!(
        "POST /api/bridge/register HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{form}",
        form.len()
    ));
    conn.reply().unwrap()
}

const FORM: &str = "email=eve%40example.org&username=+Eve.L+&password=p%26ss+w%C3%B6rd";

#[test]
fn registration_is_closed_unless_opened() {
    assert_eq!(register(&Bridge::start(), FORM).status, 403);
    let bridge = Bridge::with(|options| options.allow_register = true);
    let answer = register(&bridge, FORM).ok();
    assert_eq!(
        (&answer["basicAuthUser"], &answer["plan"]),
        (&json!("eve.l"), &json!("self-hosted"))
    );
    let token = answer["apiToken"].as_str().unwrap();
    let whoami = bridge.conn().request("GET", "/api/bridge/whoami", token, None).ok();
    assert_eq!(whoami["account"]["accountId"], answer["accountId"]);
    assert_eq!(whoami["account"]["email"], "eve@example.org");

    let check = |form: &str, status: u16, field: &str| {
        let reply = register(&bridge, form);
        assert_eq!((reply.status, reply.json()["field"].as_str()), (status, Some(field)), "{form}");
    };
    check(FORM, 409, "username");
    check("", 400, "email");
    check("email=x&username=u&password=long+enough", 400, "email");
    check("email=a@b&username=EVE.l&password=long+enough", 409, "username");
    for bad in
        ["a:b", "+", "a+b", "%C3%A4da", "%D0%B0da", "-ada", "a%2Fb", "ada%C2%A0b", "a%E2%80%AEb"]
    {
        check(&format!("email=a@b&username={bad}&password=long+enough"), 400, "username");
    }
    check("email=a@b&username=%00&password=long+enough", 400, "username");
    check("email=a@b&username=u&password=short", 400, "password");
    assert_eq!(register(&bridge, &"x".repeat(17 * 1024)).status, 413);
}

#[test]
fn a_password_is_good_without_a_session_but_not_for_foreign_pages() {
    let bridge = Bridge::with(|options| options.allow_register = true);
    register(&bridge, FORM).ok();
    let ask = |password: &str, request: &str| {
        let secret = BASE64_STANDARD.encode(format!("Eve.L:{password}"));
        let mut conn = bridge.conn();
        let (line, rest) = request.split_once('\n').unwrap_or((request, ""));
        let rest = rest.replace('\n', "\r\n");
        conn.send(format!(
            "{line} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic {secret}\r\n{rest}\r\n"
        ));
        conn.reply().unwrap().status
    };
    let good = "p&ss wörd";
    assert_eq!(ask(good, "GET /api/threads"), 200);
    assert_eq!(ask(good, "GET /api/threads"), 200);
    assert_eq!(ask("wrong", "GET /api/threads"), 401);
    assert_eq!(ask("", "GET /api/threads"), 401);
    let post = |headers: &str| ask(good, &format!("POST /api/bridge/thread/claim\n{headers}"));
    assert_eq!(post("Content-Type: text/plain\n"), 415);
    assert_eq!(post("Content-Type: application/json\nOrigin: https://evil.example\n"), 403);
    assert_eq!(post("Content-Type: application/json\nOrigin: null\n"), 403);
    assert_eq!(post("Content-Type: application/json\nOrigin: http://localhost\n"), 400);
}

#[test]
fn a_foreign_host_name_is_refused() {
    let status = |bridge: &Bridge, host: &str| {
        let mut conn = Conn::open(bridge.server.addr());
        conn.send(format!("GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        conn.reply().unwrap().status
    };
    let bridge = Bridge::with(|options| options.hosts.push("bridge.example".to_owned()));
    for (host, expected) in [
        ("localhost", 200),
        ("127.0.0.1:8080", 200),
        ("[::1]:8080", 200),
        ("Bridge.Example", 200),
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("", 403),
    ] {
        assert_eq!(status(&bridge, host), expected, "{host}");
    }
    let public = Bridge::with(|options| options.public = true);
    assert_eq!(status(&public, "any.example"), 200);
}
