//! The transport against a scripted server on a socket.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    time::Duration,
};

use crossbeam_channel::{Receiver, bounded};
use serde_json::{Value, json};

use super::{Endpoint, HttpTransport, Lease, Password, REQUESTS_MAX, Request, call};
use crate::{
    agent::transport::{Transport, TransportEvent},
    task::{self, Task},
};

const SOON: Duration = Duration::from_secs(10);

/// A request as it came in, with the connection to answer it on.
struct Asked {
    head: String,
    body: String,
    stream: TcpStream,
}

impl Asked {
    fn answer(mut self, response: &str) {
        self.stream.write_all(response.as_bytes()).unwrap();
    }

    fn json(self, status: u16, body: &Value) {
        self.answer(&format!(
            "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n\r\n{body}"
        ));
    }
}

/// A server that hands its requests to the test.
struct Fake {
    server: Endpoint,
    asked: Option<Receiver<Asked>>,
    task: Option<Task>,
}

impl Fake {
    fn start() -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, asked) = bounded(64);
        let task = task::spawn("fake-http", move || {
            while let Ok((stream, _)) = listener.accept() {
                let Some(request) = read(stream) else { return };
                if sender.send(request).is_err() {
                    return;
                }
            }
        });
        let server = Endpoint { address, password: Password::new("secret") };
        Fake { server, asked: Some(asked), task: Some(task.unwrap()) }
    }

    fn next(&self) -> Asked {
        self.asked.as_ref().unwrap().recv_timeout(SOON).expect("a request comes")
    }

    /// A transport whose events flow; the stream is for sending more.
    fn transport(&self) -> (HttpTransport, TcpStream) {
        let transport = HttpTransport::connect(Lease::new(self.server.clone()).0).unwrap();
        let mut events = self.next().stream;
        events.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n").unwrap();
        send_event(&mut events, "server.connected");
        assert_eq!(value(&transport), json!({ "ready": true }));
        (transport, events)
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.asked = None;
        // Wakes the task, which waits for a connection.
        drop(TcpStream::connect(self.server.address));
        drop(self.task.take().map(Task::join));
    }
}

fn read(stream: TcpStream) -> Option<Asked> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        (reader.read_line(&mut head).ok()? > 0).then_some(())?;
    }
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    reader.read_exact(&mut body).ok()?;
    let body = String::from_utf8(body).unwrap();
    Some(Asked { head, body, stream: reader.into_inner() })
}

fn send_event(stream: &mut TcpStream, kind: &str) {
    let event = json!({ "directory": "/p", "payload": { "type": kind } });
    write!(stream, "data: {event}\n\n").unwrap();
}

fn next(transport: &HttpTransport) -> TransportEvent {
    transport.incoming().recv_timeout(SOON).expect("something comes in")
}

#[track_caller]
fn value(transport: &HttpTransport) -> Value {
    match next(transport) {
        TransportEvent::Value(value) => value,
        other => panic!("{other:?}"),
    }
}

fn prompt(id: u64) -> Value {
    json!({ "id": id, "method": "POST", "path": "/session/ses_1/message", "directory": "/p ä",
        "body": { "parts": [] } })
}

#[test]
fn a_value_becomes_a_request_and_its_response_a_value() {
    let fake = Fake::start();
    let (mut transport, _events) = fake.transport();
    transport.send(&prompt(7)).unwrap();
    let asked = fake.next();
    assert!(asked.head.starts_with("POST /session/ses_1/message HTTP/1.0\r\n"), "{}", asked.head);
    assert!(asked.head.contains("\r\nAuthorization: Basic b3BlbmNvZGU6c2VjcmV0\r\n"));
    assert!(asked.head.contains("\r\nx-opencode-directory: /p%20%C3%A4\r\n"), "{}", asked.head);
    assert_eq!(asked.body, r#"{"parts":[]}"#);
    asked.json(200, &json!({ "info": {} }));
    assert_eq!(value(&transport), json!({ "id": 7, "status": 200, "body": { "info": {} } }));
}

#[test]
fn events_come_in_order_and_without_the_servers_own() {
    let fake = Fake::start();
    let (transport, mut events) = fake.transport();
    for kind in ["server.heartbeat", "session.idle", "sync", "session.error"] {
        send_event(&mut events, kind);
    }
    events.write_all(b": comment\ndata: {broken\n").unwrap();
    assert_eq!(value(&transport)["event"]["payload"]["type"], "session.idle");
    assert_eq!(value(&transport)["event"]["payload"]["type"], "session.error");
    assert!(matches!(next(&transport), TransportEvent::Garbage(line) if line == " {broken\n"));
}

/// What a response without JSON, or with half of it, becomes.
#[track_caller]
fn check(response: &str, field: &str, expected: Value) {
    let fake = Fake::start();
    let (mut transport, _events) = fake.transport();
    transport.send(&json!({ "id": 1, "method": "GET", "path": "/config" })).unwrap();
    fake.next().answer(response);
    assert_eq!(value(&transport)[field], expected, "{response}");
}

#[test]
fn a_bad_response_is_an_error_and_never_silence() {
    check("HTTP/1.1 401 Unauthorized\r\n\r\n", "status", json!(401));
    check("HTTP/1.1 204 No Content\r\n\r\n", "body", Value::Null);
    let closed = "the server closed the connection without a response";
    check("", "error", json!(closed));
    check("SSH-2.0\r\n", "error", json!("the response is no HTTP"));
    check(
        "HTTP/1.1 200 OK\r\n\r\n{\"a\":",
        "error",
        json!("the response is no JSON, or was cut off"),
    );
    let cut = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}";
    check(cut, "error", json!("the response was cut off"));
}

#[test]
fn trap_a_connection_may_stay_open_after_the_response() {
    let fake = Fake::start();
    let (mut transport, _events) = fake.transport();
    transport.send(&json!({ "id": 1, "method": "GET", "path": "/config" })).unwrap();
    let mut open = fake.next().stream;
    open.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ntrue").unwrap();
    assert_eq!(value(&transport)["body"], true);
}

#[test]
fn the_end_of_the_events_is_the_end_of_the_engine() {
    let fake = Fake::start();
    let (transport, events) = fake.transport();
    drop(events);
    match next(&transport) {
        TransportEvent::Exit { stderr_tail, .. } => {
            assert_eq!(stderr_tail, "the event stream ended");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn events_that_are_refused_end_it_too() {
    let fake = Fake::start();
    let transport = HttpTransport::connect(Lease::new(fake.server.clone()).0).unwrap();
    fake.next().answer("HTTP/1.1 401 Unauthorized\r\n\r\n");
    match next(&transport) {
        TransportEvent::Exit { stderr_tail, .. } => assert!(stderr_tail.contains("status 401")),
        other => panic!("{other:?}"),
    }
}

#[test]
fn trap_a_prompt_that_nobody_waits_for_goes_on_unless_it_is_aborted() {
    let fake = Fake::start();
    let (mut transport, _events) = fake.transport();
    transport.send(&prompt(1)).unwrap();
    let waiting = fake.next();
    assert!(transport.escalate().is_some());
    let abort = fake.next();
    assert!(abort.head.starts_with("POST /session/ses_1/abort HTTP/1.0\r\n"), "{}", abort.head);
    assert!(abort.head.contains("\r\nx-opencode-directory: /p%20%C3%A4\r\n"), "{}", abort.head);
    abort.json(200, &json!(true));
    waiting.json(200, &json!({}));
    assert_eq!(value(&transport)["status"], 200);
    assert!(transport.escalate().is_some());
    assert!(matches!(next(&transport), TransportEvent::Exit { .. }));
    assert!(transport.escalate().is_none());
}

#[test]
fn a_kill_wakes_everything_that_waits() {
    let fake = Fake::start();
    let (mut transport, _events) = fake.transport();
    transport.send(&prompt(1)).unwrap();
    let _silent = fake.next();
    transport.kill();
    assert!(fake.next().head.contains("/abort"));
    let mut exits = 0;
    let mut errors = 0;
    for _ in 0..2 {
        match next(&transport) {
            TransportEvent::Exit { .. } => exits += 1,
            TransportEvent::Value(value) => errors += u32::from(value["error"].is_string()),
            TransportEvent::Garbage(line) => panic!("{line}"),
        }
    }
    assert_eq!((exits, errors), (1, 1));
}

#[test]
fn a_server_that_is_gone_is_an_error_response() {
    let fake = Fake::start();
    let (mut transport, _events) = fake.transport();
    drop(fake);
    transport.send(&prompt(3)).unwrap();
    let lost = value(&transport);
    assert_eq!(lost["id"], 3);
    assert!(lost["error"].is_string(), "{lost}");
}

#[test]
fn what_is_no_request_is_not_sent() {
    let fake = Fake::start();
    let (mut transport, _events) = fake.transport();
    for bad in [
        json!({ "id": 1 }),
        json!({ "method": "GET", "path": "/a HTTP/1.0\r\nX: y" }),
        json!({ "method": 1, "path": "/a" }),
    ] {
        assert!(transport.send(&bad).is_err(), "{bad}");
    }
}

#[test]
fn open_requests_are_bounded() {
    let fake = Fake::start();
    let (mut transport, _events) = fake.transport();
    let get = json!({ "id": 1, "method": "GET", "path": "/config" });
    for _ in 0..REQUESTS_MAX {
        transport.send(&get).unwrap();
    }
    let error = transport.send(&get).unwrap_err().to_string();
    assert_eq!(error, "too many requests to opencode's server are open");
}

#[test]
fn a_single_call_needs_no_transport_and_the_password_does_not_print() {
    let fake = Fake::start();
    let server = fake.server.clone();
    assert!(!format!("{server:?}").contains("secret"));
    let task = task::spawn("caller", move || {
        let request = Request { method: "GET", path: "/global/health", directory: "", body: None };
        let answer = call(&server, request, SOON).unwrap();
        assert_eq!(answer, (200, json!({ "healthy": true })));
    });
    let asked = fake.next();
    assert!(!asked.head.contains("x-opencode-directory"));
    asked.json(200, &json!({ "healthy": true }));
    assert_eq!(task.unwrap().join(), Ok(()));
}
