//! Many streams and steady posts: nobody misses an event or hears one twice, whoever else is slow,
//! and also when the server is killed in the middle of it.

use std::{
    collections::BTreeSet,
    io::{self, BufRead, BufReader, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender, never, unbounded};
use obto_bridge::{
    bridge::{
        Access, Net,
        backoff::Pace,
        stream::{self, Settings, StreamEvent},
    },
    config::Token,
    ids::MachineId,
    task,
};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    serve::{Bridge, address, bodies, prepared},
    util::{
        bin::Home,
        http::Conn,
        namespace::isolated,
        patience::{self, Patience},
    },
};

/// A stream has a heartbeat far more often.
const SILENCE: Duration = Duration::from_mins(2);

fn wait(time: Duration) {
    never::<()>().recv_timeout(time).unwrap_err();
}

/// Follows a stream like a page: what it hears, in order, and on from `last` at the next call.
/// Ends with the connection, or once `hear` has had enough.
fn follow(
    addr: SocketAddr,
    token: &str,
    query: &str,
    last: &mut Option<String>,
    hear: &mut dyn FnMut(&str, &Value) -> bool,
) -> io::Result<()> {
    let mut socket = TcpStream::connect(addr)?;
    socket.set_read_timeout(Some(SILENCE))?;
    let resume = last.as_ref().map(|it| format!("Last-Event-ID: {it}\r\n")).unwrap_or_default();
    write!(
        socket,
        "GET /api/bridge/stream{query} HTTP/1.1\r\nHost: localhost\r\n\
         Authorization: Bearer {token}\r\n{resume}\r\n"
    )?;
    let (mut id, mut name, mut patience) = (None, String::new(), Patience::new());
    // An event is one chunk, so that no line of it is cut by a chunk's frame.
    for line in BufReader::new(socket).lines() {
        // Heartbeats keep it going for ever.
        if !patience.lasts() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match line?.split_once(": ") {
            Some(("id", it)) => id = Some(it.to_owned()),
            Some(("event", it)) => it.clone_into(&mut name),
            Some(("data", it)) => {
                // What a kill cut off is no JSON, and comes again.
                let Ok(data) = serde_json::from_str(it) else { break };
                *last = id.take().or(last.take());
                if !hear(&name, &data) {
                    return Ok(());
                }
                patience.renew();
            }
            _ => {}
        }
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}

/// The figures of a real load are in the benchmark; this is the same in small.
#[test]
fn nobody_misses_or_doubles_anything_under_load() {
    const POSTS: usize = 150;
    const EACH_KIND: usize = 30;
    let bridge = Bridge::start();
    let (addr, token) = (bridge.server.addr(), bridge.token.as_str());
    let connected = AtomicUsize::new(0);
    let mut slow = bridge.events("?agentId=slow", None);
    slow.expect("hello");
    thread::scope(|scope| {
        for n in 0..2 * EACH_KIND {
            let connected = &connected;
            scope.spawn(move || {
                let daemon = n < EACH_KIND;
                let query = if daemon { format!("?agentId=box{n}") } else { String::new() };
                let mut heard = Vec::new();
                let mut hear = |name: &str, data: &Value| {
                    match name {
                        "hello" => _ = connected.fetch_add(1, Ordering::SeqCst),
                        "reply" => heard.push(data["body"].as_str().unwrap().parse().unwrap()),
                        other => {
                            assert!(!daemon && ["machine", "thread"].contains(&other), "{other}");
                        }
                    }
                    // The last one twice is not seen, but it would be the first.
                    heard.last() != Some(&POSTS)
                };
                follow(addr, token, &query, &mut None, &mut hear).unwrap();
                assert_eq!(heard, (0..=POSTS).collect::<Vec<usize>>());
            });
        }
        let all = || connected.load(Ordering::SeqCst) == 2 * EACH_KIND;
        assert!(patience::comes_true(all), "not all streams begin");
        let begun = Instant::now();
        let mut conn = Conn::open(addr);
        for n in 0..=POSTS {
            let due = begun + Duration::from_millis(20) * u32::try_from(n).unwrap();
            wait(due.saturating_duration_since(Instant::now()));
            let reply = json!({ "threadId": "t", "body": n.to_string() });
            conn.request("POST", "/api/reply", token, Some(&reply)).ok();
        }
    });
    // The slow one has it all as well, once it reads.
    for n in 0..=POSTS {
        assert_eq!(slow.expect("reply").data["body"], n.to_string());
    }
}

/// What one listener heard: bodies of replies.
type Heard = Arc<Mutex<Vec<String>>>;

/// A page that comes back by itself until it has heard `count` replies.
fn page(addr: SocketAddr, token: &str, count: usize, heard: &Heard, connected: &Sender<()>) {
    let (mut last, mut patience, mut before) = (None, Patience::new(), 0);
    loop {
        let now = heard.lock().unwrap().len();
        if now >= count {
            return;
        }
        assert!(patience.lasts(), "a page heard {now}");
        if now != before {
            patience.renew();
        }
        before = now;
        let resumed = last.is_some();
        let mut hear = |name: &str, data: &Value| {
            let mut heard = heard.lock().unwrap();
            match name {
                "hello" if resumed => assert_eq!(data["replay"], "complete"),
                "hello" => connected.send(()).unwrap(),
                "reply" => heard.push(data["body"].as_str().unwrap().to_owned()),
                _ => {}
            }
            heard.len() < count
        };
        if follow(addr, token, "", &mut last, &mut hear).is_err() {
            wait(Duration::from_millis(20));
        }
    }
}

/// A daemon's stream, with the client that daemons have.
fn daemon(addr: SocketAddr, token: &str, name: &str, heard: &Heard) -> stream::StreamHandle {
    let access = Access {
        base_url: format!("http://{addr}"),
        origin_host: "localhost".into(),
        token: Token::new(token.to_owned()),
    };
    let ms = Duration::from_millis;
    let settings = Settings {
        pace: Pace { base: ms(20), cap: ms(100), slow: ms(100), ..Pace::default() },
        ..Settings::new(MachineId::new(name))
    };
    let heard = Arc::clone(heard);
    let keep = move |reply: &obto_bridge::bridge::wire::Reply| {
        heard.lock().unwrap().push(reply.body.clone());
        Ok(())
    };
    let (handle, events) =
        stream::start(Arc::new(access), &Net::default(), settings, keep).unwrap();
    wait_for_connection(&events);
    // Nobody else reads what it reports, and it must not wait for a reader.
    drop(task::spawn("reports", move || events.into_iter().for_each(drop)).unwrap());
    handle
}

fn wait_for_connection(events: &Receiver<StreamEvent<()>>) {
    let event = patience::recv(events).unwrap();
    assert!(matches!(event, StreamEvent::Connected { .. }), "{event:?}");
}

/// Posts until the server has said that it has the message, under the same id.
fn post(agent: &ureq::Agent, addr: SocketAddr, token: &str, body: &str) {
    let mut patience = Patience::new();
    let reply = json!({ "threadId": "t", "body": body, "clientMsgId": format!("id {body}") });
    loop {
        let sent = agent
            .post(format!("http://{addr}/api/reply"))
            .header("Authorization", format!("Bearer {token}"))
            .send_json(&reply);
        match sent {
            Ok(_) => return,
            Err(error) => assert!(patience.pause(), "{body} is never taken: {error}"),
        }
    }
}

isolated! {
    fn a_kill_in_the_middle_of_it_loses_and_doubles_nothing() {
        const POSTERS: usize = 4;
        const EACH: usize = 60;
        const LISTENERS: usize = 5;
        let home = Home::new();
        let token = prepared(&home.path().join("bridge"));
        let serve = |listen: &str| {
            let args = ["serve", "--listen", listen, "--data", "bridge", "--log", "error"];
            let mut serve = home.command(&args).start();
            let addr = address(&serve.line("The bridge is at"));
            (serve, addr)
        };
        let (mut running, addr) = serve("127.0.0.1:0");
        let heard: Vec<Heard> = (0..2 * LISTENERS).map(|_| Heard::default()).collect();
        let (pages, daemons) = heard.split_at(LISTENERS);
        let daemon = |(n, heard)| daemon(addr, &token, &format!("box{n}"), heard);
        let handles: Vec<_> = daemons.iter().enumerate().map(daemon).collect();
        let (acknowledge, acknowledged) = unbounded();
        let running = thread::scope(|scope| {
            let token = &token;
            let (connect, connected) = unbounded();
            for heard in pages {
                let connect = connect.clone();
                scope.spawn(move || page(addr, token, POSTERS * EACH, heard, &connect));
            }
            // What was said before a page first came is none of its stream's business.
            for _ in pages {
                patience::recv(&connected).unwrap();
            }
            for poster in 0..POSTERS {
                let acknowledge = acknowledge.clone();
                scope.spawn(move || {
                    let timeout = Some(Duration::from_secs(20));
                    let config = ureq::Agent::config_builder().timeout_global(timeout).build();
                    let agent = ureq::Agent::new_with_config(config);
                    for n in 0..EACH {
                        let body = format!("{poster}-{n}");
                        post(&agent, addr, token, &body);
                        acknowledge.send(body).unwrap();
                    }
                });
            }
            drop(acknowledge);
            let mut sure = BTreeSet::new();
            for _ in 0..3 {
                for _ in 0..POSTERS * EACH / 4 {
                    sure.insert(patience::recv(&acknowledged).unwrap());
                }
                running.signal(Signal::KILL);
                drop(running.end());
                // It is the same server for everybody only at the same address.
                running = serve(&addr.to_string()).0;
                // What was acknowledged before the kill is there before anybody sends it again.
                let path = "/api/messages?threadId=t&limit=1000";
                let answer = Conn::open(addr).request("GET", path, token, None).ok();
                let there = bodies(&answer);
                assert!(sure.iter().all(|it| there.contains(&it.as_str())), "{sure:?} {there:?}");
            }
            running
        });
        let all = (0..POSTERS).flat_map(|poster| (0..EACH).map(move |n| format!("{poster}-{n}")));
        let all: BTreeSet<String> = all.collect();
        let answer = Conn::open(addr)
            .request("GET", "/api/messages?threadId=t&limit=1000", &token, None)
            .ok();
        let stored = bodies(&answer);
        assert_eq!(stored.len(), all.len(), "each is stored once");
        assert!(stored.iter().all(|it| all.contains(*it)));
        for (n, heard) in heard.iter().enumerate() {
            let has_all = || heard.lock().unwrap().len() >= all.len();
            assert!(patience::comes_true(has_all), "listener {n} does not catch up");
            // In the order in which they are stored, each once.
            assert_eq!(*heard.lock().unwrap(), stored, "listener {n}");
        }
        drop(handles);
        running.signal(Signal::TERM);
        running.end().expect(0, &[]);
    }
}
