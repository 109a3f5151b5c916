//! Bounds: what holds a place too long, or takes too much, is told so and goes.

use std::{
    io::Write,
    sync::Arc,
    time::{Duration, Instant},
};

use obto_bridge::serve::{
    Options, Server,
    http::{
        self, Limits, RequestHandler,
        message::{Head, Request, Response},
    },
};
use rustix::{net::sockopt::set_socket_recv_buffer_size, process::Signal};
use serde_json::json;
use tempfile::TempDir;

use crate::{
    serve::{Bridge, account, address, prepared},
    util::{
        bin::{Home, Running},
        http::{Conn, Events},
        patience::{Patience, check_quick},
    },
};

const HEALTH: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";

fn short() -> Limits {
    let tenth = Duration::from_millis(100);
    Limits { head_time: tenth, body_time: tenth, idle: tenth, ..Limits::default() }
}

#[test]
fn a_trickling_head_or_body_is_cut_off() {
    let bridge = Bridge::with(|options| options.limits = short());
    let token = &bridge.token;
    for beginning in [
        "GET /healthz HTTP/1.1\r\n".to_owned(),
        format!(
            "POST /api/reply HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\
             Content-Length: 100000\r\n\r\n"
        ),
    ] {
        let mut conn = bridge.conn();
        conn.send(&beginning);
        let mut patience = Patience::new();
        // A byte now and then must not earn it any time; the peek is the pause between two.
        conn.socket.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
        while conn.socket.peek(&mut [0]).is_err() {
            // It may be closed in between.
            conn.socket.write_all(b"x").ok();
            assert!(patience.lasts(), "it is never cut off");
        }
        assert_eq!(conn.reply().unwrap().status, 408);
    }
}

#[test]
fn idle_connections_are_closed_without_a_word() {
    let bridge = Bridge::with(|options| options.limits = short());
    assert!(bridge.conn().is_closed());
    let mut patience = Patience::new();
    let mut used = bridge.conn();
    // On a busy machine it may be idle for too long before it asks.
    while used.try_send(HEALTH).is_err() || used.reply().is_none_or(|it| it.status != 200) {
        assert!(patience.lasts(), "it is never answered");
        used = bridge.conn();
    }
    assert!(used.is_closed());
}

#[test]
fn connections_over_the_limit_are_told_to_come_back() {
    let bridge = Bridge::with(|options| options.limits.connections = 3);
    let mut conns: Vec<Conn> = (0..3).map(|_| bridge.conn()).collect();
    for conn in &mut conns {
        assert_eq!(conn.request("GET", "/healthz", "", None).status, 200);
    }
    let mut refused = bridge.conn();
    let reply = refused.reply().unwrap();
    assert_eq!((reply.status, reply.header("retry-after")), (503, Some("1")));
    assert!(refused.is_closed());
    for conn in &mut conns {
        assert_eq!(conn.request("GET", "/healthz", "", None).status, 200);
    }
    // A place that is given up can be taken.
    drop(conns);
    wait_for_a_place(&bridge);
}

fn wait_for_a_place(bridge: &Bridge) {
    let mut patience = Patience::new();
    loop {
        let mut conn = bridge.conn();
        if conn.try_send(HEALTH).is_ok() && conn.reply().is_some_and(|it| it.status == 200) {
            break;
        }
        assert!(patience.lasts(), "no place becomes free");
    }
}

#[test]
fn one_address_can_not_take_all_places() {
    let bridge = Bridge::with(|options| options.limits.per_address = 3);
    let mut conns: Vec<Conn> = (0..3).map(|_| bridge.conn()).collect();
    for conn in &mut conns {
        assert_eq!(conn.request("GET", "/healthz", "", None).status, 200);
    }
    let mut refused = bridge.conn();
    let reply = refused.reply().unwrap();
    assert_eq!((reply.status, reply.header("retry-after")), (429, Some("1")));
    assert!(refused.is_closed());
    drop(conns);
    wait_for_a_place(&bridge);
    // Behind a proxy all come from one address.
    let bridge = Bridge::with(|options| {
        options.limits.per_address = 3;
        options.behind_proxy = true;
    });
    let mut conns: Vec<Conn> = (0..10).map(|_| bridge.conn()).collect();
    for conn in &mut conns {
        assert_eq!(conn.request("GET", "/healthz", "", None).status, 200);
    }
}

/// A thousand at once: those that find no place are told or closed, and all places come back.
#[test]
fn a_thousand_connections_are_borne() {
    let bridge = Bridge::with(|options| options.limits.connections = 50);
    for _ in 0..5 {
        let mut conns: Vec<Conn> = (0..200).map(|_| bridge.conn()).collect();
        let mut served = 0;
        for conn in &mut conns {
            // One that was turned away may be closed before it has asked.
            if conn.try_send(HEALTH).is_ok()
                && let Some(reply) = conn.reply()
            {
                assert!([200, 503].contains(&reply.status), "{}", reply.status);
                served += usize::from(reply.status == 200);
            }
        }
        assert!((1..=50).contains(&served), "{served} of 50 places were given");
    }
    wait_for_a_place(&bridge);
}

#[test]
fn an_account_has_so_many_streams_and_another_its_own() {
    let bridge = Bridge::with(|options| options.account_streams = 2);
    let other = account(&bridge.server, "bob");
    let mut streams: Vec<Events> = (0..2).map(|_| bridge.events("", None)).collect();
    for stream in &mut streams {
        stream.expect("hello");
    }
    let reply = bridge.get("/api/bridge/stream");
    assert_eq!((reply.status, reply.header("retry-after")), (429, Some("30")));
    Events::open(bridge.server.addr(), &other, "", None).expect("hello");
}

/// Nothing is sent on these streams, so no write can show who left.
#[test]
fn a_stream_that_is_closed_gives_its_place_up_at_once() {
    let bridge = Bridge::with(|options| {
        options.account_streams = 20;
        options.heartbeat = Duration::from_hours(1);
    });
    for query in ["?agentId=box", ""] {
        let mut streams: Vec<Events> = (0..20).map(|_| bridge.events(query, None)).collect();
        for stream in &mut streams {
            stream.expect("hello");
        }
        assert_eq!(bridge.get("/api/bridge/stream").status, 429);
        drop(streams);
        let mut patience = Patience::new();
        while !metrics(&bridge).contains("obto_bridge_streams{kind=\"browser\"} 0\n")
            || !metrics(&bridge).contains("obto_bridge_streams{kind=\"daemon\"} 0\n")
        {
            assert!(patience.pause(), "their places are still taken");
        }
    }
    // The connections are over as well, but for the one that asks.
    let mut patience = Patience::new();
    while !metrics(&bridge).contains("obto_bridge_connections 1\n") {
        assert!(patience.pause(), "their connections are still open");
    }
}

fn metrics(bridge: &Bridge) -> String {
    String::from_utf8(bridge.get("/metrics").body).unwrap()
}

/// The real command with these options, and what it says of its address.
fn serve(home: &Home, script: &str, options: &[&str]) -> Running {
    let args = ["serve", "--listen", "127.0.0.1:0", "--data", "bridge"];
    home.command(&[&args, options].concat()).after(script).start()
}

#[test]
fn limits_are_options() {
    let home = Home::new();
    let token = prepared(&home.path().join("bridge"));
    let options = ["--max-connections", "4", "--max-streams-per-account", "2"];
    let mut running = serve(&home, "true", &options);
    let addr = address(&running.line("The bridge is at"));
    let mut streams: Vec<Events> = (0..2).map(|_| Events::open(addr, &token, "", None)).collect();
    for stream in &mut streams {
        stream.expect("hello");
    }
    let mut third = Conn::open(addr);
    let answer = third.request("GET", "/api/bridge/stream", &token, None);
    assert_eq!(answer.status, 429);
    assert!(answer.json()["error"].as_str().unwrap().contains("2 streams"));
    let mut fourth = Conn::open(addr);
    assert_eq!(fourth.request("GET", "/healthz", "", None).status, 200);
    let answer = Conn::open(addr).reply().unwrap();
    assert_eq!(answer.status, 503);
    assert!(answer.json()["error"].as_str().unwrap().contains("all 4 connections"));
    running.signal(Signal::TERM);
    running.end().expect(0, &[]);

    let options = ["--max-connections-per-address", "1"];
    let mut running = serve(&home, "true", &options);
    let addr = address(&running.line("The bridge is at"));
    let mut first = Conn::open(addr);
    assert_eq!(first.request("GET", "/healthz", "", None).status, 200);
    assert_eq!(Conn::open(addr).reply().unwrap().status, 429);
    running.signal(Signal::TERM);
    running.end().expect(0, &[]);
    home.run(&["serve", "--max-connections", "0"]).expect(1, &["--max-connections is 0"]);
}

#[test]
fn connections_that_the_system_has_no_files_for_are_refused_or_left_out() {
    let home = Home::new();
    prepared(&home.path().join("bridge"));
    let asked = ["serve", "--data", "bridge", "--max-connections", "1000"];
    let words = ["1000 connections need 1128 open files", "ulimit -Hn 1128", "--max-connections"];
    home.command(&asked).after("ulimit -n 300").run().expect(1, &words);
    // Nobody asked for the usual number: it takes what it gets.
    let mut running = serve(&home, "ulimit -n 300", &["--log-format", "text"]);
    running.line("The bridge is at");
    running.signal(Signal::TERM);
    running.end().expect(0, &["only 172 connections are taken"]);
    // A soft limit is raised.
    let mut running = serve(&home, "ulimit -Sn 100", &["--max-connections", "400"]);
    running.line("The bridge is at");
    running.signal(Signal::TERM);
    running.end().expect(0, &[]);
}

#[test]
fn an_answer_that_nobody_reads_is_given_up() {
    let bridge = Bridge::with(|options| {
        options.limits.connections = 1;
        options.limits.write = Duration::from_millis(100);
    });
    let body = "x".repeat(1024 * 1024);
    let mut deaf = bridge.conn();
    // Some systems would take all the answers into a buffer of tens of megabytes.
    set_socket_recv_buffer_size(&deaf.socket, 64 * 1024).unwrap();
    for _ in 0..9 {
        let reply = json!({ "threadId": "t", "body": body });
        deaf.request("POST", "/api/reply", &bridge.token, Some(&reply)).ok();
    }
    let one = format!(
        "GET /api/messages?threadId=t HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\r\n",
        bridge.token
    );
    deaf.send(one.repeat(2));
    wait_for_a_place(&bridge);
}

struct Faulty;

impl RequestHandler for Faulty {
    type Admitted = ();

    fn admit(&self, _: &Head) -> Result<((), usize), Response> {
        Ok(((), 10))
    }

    fn handle(&self, (): (), request: Request) -> Response {
        assert_ne!(request.head.path, "/panic", "on purpose");
        Response::json(200, &json!(request.body.len()))
    }
}

#[test]
fn a_panic_costs_one_request() {
    let addr = "127.0.0.1:0".parse().unwrap();
    let limits = Limits::default();
    let setup = http::Setup { addr, limits, tls: None, counters: Arc::default() };
    let server = http::HttpServer::start(setup, Arc::new(Faulty)).unwrap();
    let mut conn = Conn::open(server.addr());
    assert_eq!(conn.request("GET", "/panic", "", None).status, 500);
    assert!(conn.is_closed());
    let mut conn = Conn::open(server.addr());
    assert_eq!(conn.request("POST", "/", "", Some(&json!("12345678"))).ok(), 10);
    assert_eq!(conn.request("POST", "/", "", Some(&json!("123456789"))).status, 413);
}

#[test]
fn a_body_is_asked_for_only_from_who_may_send_it() {
    let bridge = Bridge::start();
    let head = |token: &str, length: usize| {
        format!(
            "POST /api/reply HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\
             Expect: 100-continue\r\nContent-Length: {length}\r\n\r\n"
        )
    };
    let mut conn = bridge.conn();
    conn.send(head(&bridge.token, 12));
    assert_eq!(conn.reply_head().unwrap().status, 100);
    conn.send("{\"body\":\"a\"}");
    conn.reply().unwrap().ok();
    for (token, length, status) in [("wrong", 12, 401), (&bridge.token, 9_000_000, 413)] {
        let mut conn = bridge.conn();
        conn.send(head(token, length));
        assert_eq!(conn.reply().unwrap().status, status);
        assert!(conn.is_closed());
    }
}

#[test]
fn a_refusal_reaches_a_client_that_is_still_sending() {
    let bridge = Bridge::with(|options| options.body_bytes = 1000);
    let mut conn = bridge.conn();
    let token = &bridge.token;
    conn.send(format!(
        "POST /api/reply HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\
         Content-Length: 500000\r\n\r\n"
    ));
    conn.send(vec![b'x'; 500_000]);
    let reply = conn.reply().unwrap();
    assert_eq!(reply.status, 413);
    assert_eq!(reply.json()["error"], "the request body is over 1000 bytes");
}

#[test]
fn connections_are_kept_and_quick() {
    let bridge = Bridge::start();
    let mut conn = bridge.conn();
    let mut times: Vec<Duration> = (0..300)
        .map(|_| {
            let begun = Instant::now();
            conn.request("GET", "/healthz", "", None).ok();
            begun.elapsed()
        })
        .collect();
    times.sort();
    // The target is well under 1 ms; a Nagle delay would be 40 ms.
    check_quick(times[150], Duration::from_millis(10));
}

#[test]
fn other_machines_reach_it_only_on_purpose() {
    let dir = TempDir::new().unwrap();
    let mut options = Options::new("0.0.0.0:0".parse().unwrap(), dir.path().join("data"));
    let error = Server::start(options.clone()).unwrap_err().to_string();
    assert!(error.contains("--public"), "{error}");
    options.public = true;
    Server::start(options).unwrap().stop();
}

#[test]
fn a_stop_is_quick_whoever_is_connected() {
    let bridge = Bridge::start();
    let mut idle = bridge.conn();
    idle.request("GET", "/healthz", "", None).ok();
    let mut half = bridge.conn();
    half.send("GET /healthz HTT");
    let mut stream = bridge.events("", None);
    stream.expect("hello");
    let begun = Instant::now();
    bridge.server.stop();
    check_quick(begun.elapsed(), Duration::from_secs(2));
    assert_eq!(stream.next(), None);
    assert!(idle.is_closed());
    assert!(half.is_closed());
}

#[test]
fn a_common_client_understands_it() {
    let bridge = Bridge::start();
    let url = format!("http://{}", bridge.server.addr());
    let auth = format!("Bearer {}", bridge.token);
    let agent = ureq::Agent::new_with_defaults();
    for n in 0..3 {
        let mut response = agent
            .post(format!("{url}/api/reply"))
            .header("Authorization", &auth)
            .send_json(json!({ "threadId": "t", "body": n.to_string() }))
            .unwrap();
        let answer: serde_json::Value = response.body_mut().read_json().unwrap();
        assert_eq!(answer["ok"], true);
    }
    let error = agent.get(format!("{url}/api/threads")).call().unwrap_err();
    assert!(matches!(error, ureq::Error::StatusCode(401)), "{error}");
}
