//! The client against bridges that answer well, badly and not at all.

use std::{
    net::TcpListener,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use obto_bridge::{
    bridge::{
        Access, AccessSource, Client, Error, Net,
        proxy::Settings,
        wire::{Activity, Post, PostKind},
    },
    config::{Setting, Token},
    ids::{ClientMsgId, MachineId, ThreadId},
    task,
};
use serde_json::json;

use crate::util::{
    patience::check_quick,
    sick_bridge::{Conn, Seen, SickBridge},
};

const SECRET: &str = "obto_s3cr3t";

fn access(base_url: String) -> Access {
    Access { base_url, origin_host: "origin.example".into(), token: Token::new(SECRET) }
}

fn client(bridge: &SickBridge, net: &Net) -> Client {
    Client::new(Arc::new(access(bridge.url())), net).unwrap()
}

fn bridge_and_client(
    script: impl Fn(&Seen, &mut Conn) + Send + Sync + 'static,
) -> (SickBridge, Client) {
    let bridge = SickBridge::start(script);
    let client = client(&bridge, &Net::default());
    (bridge, client)
}

fn thread() -> ThreadId {
    ThreadId::new("t 1&x")
}

fn post(body: &str) -> Post {
    Post::new(
        thread(),
        PostKind::Result,
        "claude-bridge".into(),
        body.into(),
        ClientMsgId::new("m1-1"),
    )
}

#[test]
fn every_endpoint_says_what_the_protocol_says() {
    let (bridge, client) = bridge_and_client(|seen, conn| {
        conn.json(200, match seen.target.split('?').next().unwrap() {
            "/api/bridge/thread/claim" => json!({"ok": true, "won": false, "winner": "other"}),
            "/api/messages" => json!({"messages": [
                {"_id": "m", "role": "human", "body": "hi", "createdAt": "2026-11-22T00:00:00Z"}, 7
            ]}),
            "/api/bridge/whoami" => json!({"ok": true, "server": {"time": "now"}, "account": {
                "accountId": "acc_1", "email": "a@b", "basicAuthUser": "ann", "status": "active"}}),
            "/api/bridge/rotate-token" => json!({"ok": true, "apiToken": "obto_new"}),
            "/api/bridge/register" => json!({"ok": true, "apiToken": "obto_1", "accountId": "acc"}),
            _ => json!({"ok": true}),
        });
    });
    let claim = client.claim(&thread(), &MachineId::new("mac")).unwrap();
    assert_eq!((claim.won, claim.winner), (false, Some(MachineId::new("other"))));
    let seen = bridge.next();
    assert_eq!((seen.method.as_str(), seen.target.as_str()), ("POST", "/api/bridge/thread/claim"));
    assert_eq!(seen.json(), json!({"threadId": "t 1&x", "agentId": "mac"}));
    assert_eq!(seen.header("authorization"), Some("Bearer obto_s3cr3t"));
    assert_eq!(seen.header("obto-origin-host"), Some("origin.example"));
    assert_eq!(seen.header("content-type"), Some("application/json"));

    client.activity(&thread(), Activity::Working).unwrap();
    assert_eq!(bridge.next().json(), json!({"threadId": "t 1&x", "state": "working"}));

    client.post(&post("done")).unwrap();
    let expected = json!({"threadId": "t 1&x", "body": "done", "kind": "result",
        "author": "claude-bridge", "role": "agent", "clientMsgId": "m1-1"});
    assert_eq!(bridge.next().json(), expected);

    let messages = client.messages_since(&thread(), "2026-11-22T00:00:00.000Z").unwrap();
    assert_eq!((messages.len(), messages[0].is_human()), (1, true));
    assert_eq!(messages[0].thread_id, thread());
    let seen = bridge.next();
    assert_eq!(seen.target, "/api/messages?threadId=t%201%26x&since=2026-11-22T00%3A00%3A00.000Z");
    assert_eq!(seen.header("authorization"), Some("Bearer obto_s3cr3t"));
    client.messages_before(&thread(), "2026", 40).unwrap();
    assert!(bridge.next().target.ends_with("&before=2026&limit=40"));

    let whoami = client.whoami().unwrap();
    assert_eq!(
        (whoami.account_id.as_deref(), whoami.user.as_deref()),
        (Some("acc_1"), Some("ann"))
    );
    assert_eq!(whoami.server_time.as_deref(), Some("now"));
    assert_eq!(client.rotate_token().unwrap(), Token::new("obto_new"));

    let nobody = Access { token: Token::new(""), ..access(bridge.url()) };
    let nobody = Client::new(Arc::new(nobody), &Net::default()).unwrap();
    let account = nobody.register("a+b@c", "ann", "p w").unwrap();
    assert_eq!((account.token, account.account_id.as_deref()), (Token::new("obto_1"), Some("acc")));
    let seen = bridge.seen.try_iter().last().unwrap();
    assert_eq!(seen.body, b"email=a%2Bb%40c&username=ann&password=p%20w");
    assert_eq!(seen.header("authorization"), None);
    assert_eq!(seen.connection, 1, "the first client needed one connection for everything");
}

#[test]
fn attachments_come_with_their_type() {
    let (bridge, client) =
        bridge_and_client(|_, conn| conn.answer(200, "Content-Type: image/png\r\n", b"\x89PNG\0"));
    let (media_type, bytes) = client.attachment("a/../b?c").unwrap();
    assert_eq!((media_type.as_str(), &bytes[..]), ("image/png", &b"\x89PNG\0"[..]));
    assert_eq!(bridge.next().target, "/api/bridge/attachment/a%2F..%2Fb%3Fc");
}

/// What kind of error `status`, `headers` and `body` make of a post.
#[track_caller]
fn check(status: u16, headers: &'static str, body: &'static str, expected: &str) -> Error {
    let (_bridge, client) = bridge_and_client(move |_, conn| conn.answer(status, headers, body));
    let error = client.post(&post("x")).unwrap_err();
    let kind = match (&error, error.is_auth(), error.is_retryable()) {
        (Error::BadBody { .. }, false, true) => "not the bridge",
        (_, true, false) => "auth",
        (_, false, true) => "later",
        (_, false, false) => "never",
        (_, true, true) => "confused",
    };
    assert_eq!(kind, expected, "{status} {body:?}: {error}");
    assert_eq!(error.status(), Some(status));
    assert!(!error.to_string().contains(SECRET), "{error}");
    error
}

#[test]
fn errors_are_told_apart() {
    for code in [400, 404, 409, 413, 422] {
        check(code, "", r#"{"ok":false,"error":"no"}"#, "never");
    }
    for code in [401, 403] {
        check(code, "", r#"{"ok":false,"error":"no"}"#, "auth");
        check(code, "", r#"{"message":"Forbidden"}"#, "not the bridge");
        check(code, "", "<html>login</html>", "not the bridge");
        check(code, "", "", "not the bridge");
    }
    for code in [408, 425, 429, 500, 502, 503, 504] {
        check(code, "", "", "later");
    }
    check(404, "", "", "never");
    check(413, "", "<html>too large</html>", "never");
    check(404, "", "<html>no such site</html>", "not the bridge");
    check(200, "Content-Type: text/html\r\n", "<html>please log in</html>", "not the bridge");
    check(200, "", "", "not the bridge");
    check(200, "", "[]", "not the bridge");
    check(200, "", r#"{"ok":false,"error":"busy"}"#, "not the bridge");
    let error = check(400, "", "the token obto_s3cr3t is odd", "never");
    assert!(error.to_string().contains("the token … is odd"), "{error}");
}

#[test]
fn retry_after_is_read_as_seconds_and_as_a_date() {
    let wait = |headers| check(503, headers, "", "later").retry_after().map(|wait| wait.as_secs());
    assert_eq!(wait("Retry-After: 7\r\n"), Some(7));
    assert_eq!(
        wait(
            "Date: Sun, 22 Nov 2026 16:41:33 GMT\r\nRetry-After: Sun, 22 Nov 2026 16:41:44 GMT\r\n"
        ),
        Some(11),
        "by the server's clock"
    );
    assert_eq!(wait(""), None);
}

#[test]
fn a_redirect_does_not_carry_the_token_away() {
    let other = SickBridge::start(|_, conn| conn.json(200, json!({"ok": true})));
    let location = format!("Location: {}/x?secret=1\r\n", other.url());
    let (_bridge, client) = bridge_and_client(move |_, conn| conn.answer(307, &location, ""));
    for error in [client.post(&post("x")).unwrap_err(), client.whoami().unwrap_err()] {
        let text = error.to_string();
        assert!(error.is_retryable() && text.contains("baseUrl"), "{text}");
        assert!(text.contains(&other.url()) && !text.contains("secret"), "{text}");
    }
    assert!(other.seen.is_empty());
}

#[test]
fn no_answer_is_a_network_error() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let refused =
        Client::new(Arc::new(access(format!("http://{nobody}"))), &Net::default()).unwrap();
    let text = refused.whoami().unwrap_err();
    assert!(matches!(text, Error::Network { .. }) && text.is_retryable(), "{text}");

    let bridge = SickBridge::start(|_, conn| conn.hold());
    let net = Net { request: Duration::from_millis(300), ..Net::default() };
    let error = client(&bridge, &net).whoami().unwrap_err();
    assert!(matches!(&error, Error::Network { cause, .. } if cause.contains("timeout")), "{error}");

    let (_bridge, client) = bridge_and_client(|_, conn| {
        conn.raw("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"ok\":");
        conn.close();
    });
    let error = client.post(&post("x")).unwrap_err();
    assert!(matches!(error, Error::Network { .. }), "cut in the body: {error}");
    let (_bridge, client) = bridge_and_client(|_, conn| {
        conn.raw("SSH-2.0-OpenSSH_9.2\r\n\r\n");
        conn.close();
    });
    assert!(client.post(&post("x")).unwrap_err().is_retryable(), "no HTTP at all");
}

#[test]
fn tls_that_is_none_is_said() {
    let bridge = SickBridge::start(|_, conn| conn.close());
    let url = bridge.url().replace("http://", "https://");
    // The bridge waits for the end of a line, and TLS has none.
    let net = Net { connect: Duration::from_millis(500), ..Net::default() };
    let client = Client::new(Arc::new(access(url)), &net).unwrap();
    let error = client.post(&post("x")).unwrap_err();
    assert!(matches!(error, Error::Network { .. }) && error.is_retryable(), "{error}");
}

#[test]
fn an_endless_answer_is_not_read_to_its_end() {
    let (_bridge, client) = bridge_and_client(|_, conn| {
        conn.raw("HTTP/1.1 200 OK\r\n\r\n");
        for _ in 0..40 * 16 {
            conn.raw(vec![b' '; 65_536]);
        }
        conn.close();
    });
    let error = client.whoami().unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
}

#[test]
fn a_connection_that_died_meanwhile_costs_no_error() {
    // The first connection answers once and hangs up when the second request is there.
    let (bridge, client) = bridge_and_client(|seen, conn| {
        if (seen.connection, seen.number) == (0, 0) || seen.connection > 0 {
            conn.json(200, json!({"ok": true, "apiToken": "obto_x"}));
        } else {
            conn.close();
        }
    });
    client.post(&post("1")).unwrap();
    client.post(&post("2")).unwrap();
    let connections: Vec<usize> = bridge.seen.try_iter().map(|seen| seen.connection).collect();
    assert_eq!(connections, [0, 0, 1], "asked once more on a fresh connection");
}

#[test]
fn a_token_is_not_rotated_twice() {
    let (bridge, client) = bridge_and_client(|seen, conn| {
        if seen.number == 0 {
            conn.json(200, json!({"ok": true}));
        } else {
            conn.close();
        }
    });
    client.post(&post("warm")).unwrap();
    assert!(matches!(client.rotate_token(), Err(Error::Network { .. })));
    assert_eq!(bridge.seen.try_iter().count(), 2);
}

/// Access that changes under the client's hands.
#[derive(Debug)]
struct Changing(Mutex<Result<Access, String>>);

impl AccessSource for Changing {
    fn access(&self) -> Result<Access, Error> {
        self.0.lock().unwrap().clone().map_err(Error::Access)
    }
}

#[test]
fn access_is_asked_for_every_time() {
    let bridge = SickBridge::start(|_, conn| conn.json(200, json!({"ok": true})));
    let source = Arc::new(Changing(Mutex::new(Ok(access(bridge.url())))));
    let client =
        Client::new(Arc::clone(&source) as Arc<dyn AccessSource>, &Net::default()).unwrap();
    client.post(&post("x")).unwrap();
    source.0.lock().unwrap().as_mut().unwrap().token = Token::new("obto_new");
    client.post(&post("x")).unwrap();
    bridge.next();
    assert_eq!(bridge.next().header("authorization"), Some("Bearer obto_new"));

    source.0.lock().unwrap().as_mut().unwrap().token = Token::new("line\nbreak");
    let error = client.post(&post("x")).unwrap_err();
    assert!(matches!(&error, Error::Access(text) if !text.contains("break")), "{error}");
    *source.0.lock().unwrap() = Err("config.json is no JSON".into());
    assert_eq!(client.post(&post("x")), Err(Error::Access("config.json is no JSON".into())));
}

#[test]
fn shutdown_wakes_a_blocked_request() {
    let (bridge, client) = bridge_and_client(|_, conn| conn.hold());
    let clone = client.clone();
    let task = task::spawn("asker", move || assert!(clone.whoami().is_err())).unwrap();
    bridge.next();
    let started = Instant::now();
    client.shutdown();
    task.join().unwrap();
    check_quick(started.elapsed(), Duration::from_secs(1));
    assert!(client.whoami().is_err(), "and it stays shut");
}

#[test]
fn a_proxy_is_used_when_it_is_given() {
    let proxy = SickBridge::start(|_, conn| conn.json(200, json!({"ok": true})));
    let value = format!("http://ann:s3cr3t@{}", proxy.addr);
    let setting = Setting { place: "proxy".to_owned(), value };
    let proxies = Settings { proxy: Some(setting), ..Settings::default() };
    let net = Net { proxies, ..Net::default() };
    let access = access("http://bridge.example".to_owned());
    let client = Client::new(Arc::new(access), &net).unwrap();
    for _ in 0..2 {
        client.post(&post("x")).unwrap();
        let seen = proxy.next();
        assert_eq!(seen.target, "http://bridge.example:80/api/message");
        assert_eq!(seen.header("proxy-authorization"), Some("Basic YW5uOnMzY3IzdA=="));
        assert_eq!(seen.header("host"), Some("bridge.example"));
    }
    assert!(!format!("{net:?}").contains("s3cr3t"), "{net:?}");
}
