//! Requests that are none: the server refuses, or closes, and goes on serving others.

use std::{
    net::Shutdown,
    time::{Duration, Instant},
};

use crate::{
    serve::Bridge,
    util::{http::Conn, patience::check_quick},
};

/// `expected` lists the statuses of all responses until the server closes.
#[track_caller]
fn check(bridge: &Bridge, bytes: &[u8], expected: &[u16]) {
    let mut conn = bridge.conn();
    conn.send(bytes);
    conn.socket.shutdown(Shutdown::Write).unwrap();
    let statuses: Vec<u16> = std::iter::from_fn(|| conn.reply()).map(|it| it.status).collect();
    assert_eq!(statuses, expected, "{}", String::from_utf8_lossy(&bytes[..bytes.len().min(200)]));
}

#[test]
fn broken_requests() {
    let bridge = Bridge::start();
    let many_headers = "a: b\r\n".repeat(100);
    let long_header =
        format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\na: {}", "b".repeat(20_000));
    let long_line = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(20_000));
    let many = format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\n{many_headers}\r\n");
    for (text, expected) in [
        ("", &[] as &[u16]),
        ("\r\n", &[]),
        ("GET", &[]),
        ("GET /healthz HTTP/1.1\r\n", &[]),
        ("GET /healthz HTTP/1.1\r\nHost: localhost\r\n", &[]),
        ("\0\0\0\0\r\n\r\n", &[400]),
        ("\u{16}\u{3}\u{1}\u{2}", &[400]),
        ("nonsense\r\n\r\n", &[400]),
        ("GET\r\n\r\n", &[400]),
        ("GET /healthz\r\n\r\n", &[400]),
        ("GET  /healthz HTTP/1.1\r\n\r\n", &[400]),
        ("GET healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", &[400]),
        ("GET * HTTP/1.1\r\nHost: localhost\r\n\r\n", &[400]),
        ("GET /#a HTTP/1.1\r\nHost: localhost\r\n\r\n", &[400]),
        ("G@T /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", &[400]),
        ("G(T /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", &[400]),
        ("GET /healthz HTTP/3.0\r\n\r\n", &[505]),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[505]),
        ("GET /healthz HTTP/1.1\r\n\r\n", &[400]),
        ("GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", &[400]),
        ("GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: a\nY: b\r\n\r\n", &[400]),
        ("GET /healthz HTTP/1.1\nHost: localhost\n\n", &[400]),
        ("GET /healthz HTTP/1.1\r\nHost: a\r\nOrigin: b\r\nOrigin: c\r\n\r\n", &[400]),
        ("GET /healthz HTTP/1.1\r\nHost : localhost\r\n\r\n", &[400]),
        ("GET /healthz HTTP/1.1\r\nHost: localhost\r\n folded: a\r\n\r\n", &[400]),
        ("GET /healthz HTTP/1.1\r\nHost: localhost\r\na\r\n\r\n", &[400]),
        ("GET /healthz HTTP/1.1\r\nHost: localhost\r\na: \0\r\n\r\n", &[400]),
        ("GET /healthz HTTP/1.1\r\nHost: localhost\r\na: b\rc: d\r\n\r\n", &[400]),
        ("GET /healthz HTTP/1.1\r\nHost: localhost\r\nExpect: more\r\n\r\n", &[417]),
        (&many, &[431]),
        (&long_header, &[431]),
        (&long_line, &[431]),
        ("GET /healthz HTTP/1.0\r\n\r\n", &[200]),
        ("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", &[200]),
        ("\r\n\r\nGET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", &[200]),
        ("GET http://localhost/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", &[200]),
    ] {
        check(&bridge, text.as_bytes(), expected);
    }
    check(&bridge, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\na: \xff\r\n\r\n", &[400]);
    assert_eq!(bridge.get("/healthz").status, 200);
}

/// Bodies whose end two readers could see in different places.
#[test]
fn broken_bodies() {
    let bridge = Bridge::start();
    let ok = "{\"body\":\"hello\"}";
    for (rest, expected) in [
        ("Content-Length: 16\r\n\r\n{\"body\":\"hello\"}", &[200u16] as &[u16]),
        ("Content-Length: 15\r\n\r\n{\"body\":\"hello\"}", &[400, 400]),
        ("Content-Length: 17\r\n\r\n{\"body\":\"hello\"}", &[]),
        ("Content-Length: 16\r\nContent-Length: 16\r\n\r\n", &[400]),
        ("Content-Length: 16, 16\r\n\r\n", &[400]),
        ("Content-Length: -1\r\n\r\n", &[400]),
        ("Content-Length: +16\r\n\r\n", &[400]),
        ("Content-Length: 0x10\r\n\r\n", &[400]),
        ("Content-Length:\r\n\r\n", &[400]),
        ("Content-Length: 99999999999999999999999\r\n\r\n", &[413]),
        ("Content-Length: 9000000\r\n\r\n", &[413]),
        ("Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", &[400]),
        ("Transfer-Encoding: gzip\r\n\r\n", &[501]),
        ("Transfer-Encoding: chunked, gzip\r\n\r\n", &[501]),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", &[501]),
        ("Transfer-Encoding: xchunked\r\n\r\n", &[501]),
        ("Transfer-Encoding: chunked\r\n\r\n10\r\n{\"body\":\"hello\"}\r\n0\r\n\r\n", &[200]),
        (
            "Transfer-Encoding: chunked\r\n\r\n8;a=b\r\n{\"body\":\r\n8\r\n\"hello\"}\r\n0\r\na: b\r\n\r\n",
            &[200],
        ),
        ("Transfer-Encoding: chunked\r\n\r\n10\r\n{\"body\":\"hello\"}X\r\n0\r\n\r\n", &[400]),
        ("Transfer-Encoding: chunked\r\n\r\n-1\r\n", &[400]),
        ("Transfer-Encoding: chunked\r\n\r\n10;a\nb\r\n{\"body\":\"hello\"}\r\n0\r\n\r\n", &[400]),
        ("Transfer-Encoding: chunked\r\n\r\n10\n\r\n{\"body\":\"hello\"}\r\n0\r\n\r\n", &[400]),
        ("Transfer-Encoding: chunked\n\r\n10\r\n{\"body\":\"hello\"}\r\n0\r\n\r\n", &[400]),
        ("Transfer-Encoding: chunked\r\n\r\n10\t ;a\r\n{\"body\":\"hello\"}\r\n0\r\n\r\n", &[200]),
        ("Transfer-Encoding: chunked\r\n\r\n10 \r\n{\"body\":\"hello\"}\r\n0\r\n\r\n", &[400]),
        ("Transfer-Encoding: chunked\r\n\r\n 10\r\n{\"body\":\"hello\"}\r\n0\r\n\r\n", &[400]),
        (
            "Transfer-Encoding: chunked\r\n\r\n10\u{c};a\r\n{\"body\":\"hello\"}\r\n0\r\n\r\n",
            &[400],
        ),
        ("Transfer-Encoding: chunked\r\n\r\n+10\r\n{\"body\":\"hello\"}\r\n0\r\n\r\n", &[400]),
        ("Transfer-Encoding:\u{a0}chunked\r\n\r\n10\r\n{\"body\":\"hello\"}\r\n0\r\n\r\n", &[501]),
        ("Content-Length:\u{2003}16\r\n\r\n{\"body\":\"hello\"}", &[400]),
        ("Transfer-Encoding: chunked\r\n\r\n\r\n", &[400]),
        ("Transfer-Encoding: chunked\r\n\r\nx\r\n", &[400]),
        ("Transfer-Encoding: chunked\r\n\r\nffffffff\r\n", &[413]),
        ("Transfer-Encoding: chunked\r\n\r\nfffffffff\r\n", &[400]),
        ("Transfer-Encoding: chunked\r\n\r\n10\r\n{\"body\":", &[]),
        ("\r\n", &[400]),
    ] {
        let head = "POST /api/reply HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer";
        let request = format!("{head} {}\r\n{rest}", bridge.token);
        check(&bridge, request.as_bytes(), expected);
    }
    let head = "POST /api/reply HTTP/1.0\r\nTransfer-Encoding: chunked\r\nAuthorization: Bearer";
    check(&bridge, format!("{head} {}\r\n\r\n0\r\n\r\n", bridge.token).as_bytes(), &[400]);
    let stored = bridge.get("/api/threads").ok();
    let stored = stored["threads"].as_array().unwrap();
    assert_eq!(stored.len(), 4, "only the good ones: {ok}");
}

#[test]
fn requests_in_one_packet_are_answered_in_order() {
    let bridge = Bridge::start();
    let one = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let mut conn = Conn::open(bridge.server.addr());
    conn.send(one("/healthz") + &one("/nowhere") + &one("/healthz") + "GARBAGE\r\n\r\n");
    let statuses: Vec<u16> = std::iter::from_fn(|| conn.reply()).map(|it| it.status).collect();
    assert_eq!(statuses, [200, 404, 200, 400]);
}

#[test]
fn a_request_in_single_bytes_is_the_same_request() {
    let bridge = Bridge::start();
    let mut conn = bridge.conn();
    let body = "4\r\n{\"bo\r\n4\r\ndy\":\r\n4\r\n\"a\"}\r\n0\r\n\r\n";
    let head = "POST /api/reply HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n";
    let request = format!("{head}Authorization: Bearer {}\r\n\r\n{body}", bridge.token);
    for byte in request.bytes() {
        conn.send([byte]);
    }
    conn.reply().unwrap().ok();
}

/// What is left of a buffer must not be moved for each of them.
#[test]
fn a_body_in_many_small_chunks_takes_no_time_to_speak_of() {
    let bridge = Bridge::start();
    let chunks = "1\r\nx\r\n".repeat(200_000);
    let chunks = format!("9\r\n{{\"body\":\"\r\n{chunks}2\r\n\"}}\r\n");
    let head = "POST /api/reply HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n";
    let begun = Instant::now();
    let mut conn = bridge.conn();
    conn.send(format!("{head}Authorization: Bearer {}\r\n\r\n{chunks}0\r\n\r\n", bridge.token));
    let answer = conn.reply().unwrap().ok();
    assert_eq!(answer["message"]["body"].as_str().unwrap().len(), 200_000);
    check_quick(begun.elapsed(), Duration::from_secs(10));
}
