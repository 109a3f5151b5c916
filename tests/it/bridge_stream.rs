//! The stream task against bridges that behave, break off, fall silent and refuse.

use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use crossbeam_channel::Receiver;
use obto_bridge::{
    bridge::{
        Access, Net,
        backoff::Pace,
        stream::{self, Settings, StreamEvent, StreamHandle},
        wire::Reply,
    },
    config::Token,
    ids::MachineId,
};

use serde_json::json;

use crate::util::{
    patience::{self, Patience, check_quick, scaled},
    sick_bridge::{Conn, Seen, SickBridge},
};

fn reply(id: u32, thread: &str) -> String {
    format!(
        "id: {id}\nevent: reply\ndata: {{\"threadId\":\"{thread}\",\"messageId\":\"m{id}\"}}\n\n"
    )
}

/// Fast enough for tests, and still what the task does with real numbers.
fn settings() -> Settings {
    let ms = Duration::from_millis;
    Settings {
        capabilities: vec!["claude".into(), "a b".into()],
        instance: "c0ffee".into(),
        pace: Pace { base: ms(250), cap: ms(500), slow: ms(600), ..Pace::default() },
        ..Settings::new(MachineId::new("my mac"))
    }
}

/// A running stream on a scripted bridge. The handle goes first, as in the daemon.
struct Rig {
    handle: Option<StreamHandle>,
    events: Receiver<StreamEvent<String>>,
    bridge: SickBridge,
}

fn rig(settings: Settings, script: impl Fn(&Seen, &mut Conn) + Send + Sync + 'static) -> Rig {
    let keep = |reply: &Reply| Ok(format!("kept {}", reply.message_id.as_ref().unwrap()));
    rig_keeping(settings, keep, script)
}

fn rig_keeping(
    settings: Settings,
    keep: impl FnMut(&Reply) -> io::Result<String> + Send + 'static,
    script: impl Fn(&Seen, &mut Conn) + Send + Sync + 'static,
) -> Rig {
    let bridge = SickBridge::start(script);
    let access = Access {
        base_url: bridge.url(),
        origin_host: "origin.example".into(),
        token: Token::new("obto_s3cr3t"),
    };
    let (handle, events) =
        stream::start(Arc::new(access), &Net::default(), settings, keep).unwrap();
    Rig { handle: Some(handle), events, bridge }
}

impl Rig {
    /// The next event, in a short notation.
    #[track_caller]
    fn next(&self) -> String {
        match patience::recv(&self.events).expect("an event comes") {
            StreamEvent::Connected { replay, server_time, last_event_id } => {
                format!("{replay:?} {} {}", dash(server_time), dash(last_event_id))
            }
            StreamEvent::Reply { kept, reply, last_event_id } => {
                format!("{} {kept} {}", reply.thread_id, dash(last_event_id))
            }
            StreamEvent::Begins { server_time, last_event_id } => {
                format!("begins {} {}", dash(server_time), dash(last_event_id))
            }
            StreamEvent::Accepts(words) => format!("accepts {words:?}"),
            StreamEvent::Disconnected { why, next } => {
                assert!(next <= Duration::from_mins(5), "{next:?}");
                format!("lost: {why}")
            }
            StreamEvent::AuthRefused { status, why, .. } => {
                assert!(why.contains("apiToken") && !why.contains("s3cr3t"), "{why}");
                format!("refused {status}")
            }
            StreamEvent::Conflict { why, .. } => format!("conflict: {why}"),
            StreamEvent::Overflow { thread, created_at, last_event_id } => {
                format!("no room {thread} {created_at:?} {}", dash(last_event_id))
            }
        }
    }

    #[track_caller]
    fn expect(&self, expected: &[&str]) {
        for expected in expected {
            let next = self.next();
            assert!(next.starts_with(expected), "{next:?} instead of {expected:?}");
        }
    }

    /// Stops the task, which takes less than a second whatever it is doing.
    #[track_caller]
    fn stop(mut self) {
        let started = Instant::now();
        drop(self.handle.take());
        check_quick(started.elapsed(), Duration::from_secs(1));
    }
}

fn dash(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".to_owned())
}

#[test]
fn it_asks_as_the_protocol_says_and_hands_over_what_was_kept() {
    let rig = rig(settings(), |_, conn| {
        conn.stream();
        conn.raw(": hi\n\nevent: other\ndata: {}\n\n");
        conn.raw(reply(1, "t1"));
        conn.raw("event: reply\ndata: no json\n\nevent: reply\ndata: {\"threadId\":\" \"}\n\n");
        conn.raw("event: reply\ndata: {\"threadId\":\"t\",\"agentId\":\"other\"}\n\n");
        conn.raw(
            "event: reply\ndata: {\"threadId\":\"t2\",\"agentId\":\"my mac\",\"messageId\":2}\n\n",
        );
        conn.hold();
    });
    let seen = rig.bridge.next();
    assert_eq!(seen.method, "GET");
    assert_eq!(
        seen.target,
        "/api/bridge/stream?agentId=my%20mac&capabilities=claude,a%20b&instance=c0ffee"
    );
    assert_eq!(seen.header("accept"), Some("text/event-stream"));
    assert_eq!(seen.header("authorization"), Some("Bearer obto_s3cr3t"));
    assert_eq!(seen.header("obto-origin-host"), Some("origin.example"));
    assert_eq!(seen.header("last-event-id"), None);
    rig.expect(&["Unknown - -", "t1 kept m1 1", "t2 kept 2 1"]);
    rig.stop();
}

#[test]
fn it_comes_back_with_its_position() {
    let rig = rig(settings(), |seen, conn| {
        conn.stream();
        if seen.number == 0 {
            conn.raw(reply(7, "t"));
            // The rest of this frame never comes.
            conn.raw("id: 8\nevent: reply\ndata: {\"threadId\":");
        } else {
            conn.raw("event: hello\ndata: {\"replay\":\"complete\",\"serverTime\":\"now\"}\n\n");
            conn.raw(reply(8, "t"));
            conn.hold();
        }
    });
    rig.expect(&[
        "Unknown",
        "t kept m7 7",
        "lost: the bridge ended",
        "Complete now 7",
        "t kept m8 8",
    ]);
    rig.bridge.next();
    assert_eq!(rig.bridge.next().header("last-event-id"), Some("7"));
    rig.stop();
}

#[test]
fn a_position_from_before_the_restart_is_used() {
    let from_disk = Settings { last_event_id: Some("41".into()), ..settings() };
    let rig = rig(from_disk, |_, conn| {
        conn.stream();
        conn.raw("retry: 300\nevent: hello\ndata: {\"replay\":\"gap\"}\n\n");
        conn.hold();
    });
    rig.expect(&["Gap - 41"]);
    assert_eq!(rig.bridge.next().header("last-event-id"), Some("41"));
    rig.stop();
}

/// Once a daemon that was killed before its first reply began anew, and missed what was written
/// meanwhile on threads that nobody had yet.
#[test]
fn the_place_where_the_first_stream_begins_is_told() {
    let rig = rig(settings(), |_, conn| {
        conn.stream();
        let hello = json!({"replay": "none", "serverTime": "now", "accepts": ["machine", 7]});
        conn.raw(format!("id: 7\nevent: hello\ndata: {hello}\n\n"));
        conn.hold();
    });
    // What was written since the response may be on no stream, and in no history that was read since.
    rig.expect(&["Unknown - -", "Unknown now -", "begins now 7", "accepts [\"machine\"]"]);
    rig.stop();
}

/// Once a late hello was taken for a bridge without a replay, and catching up raced with it.
#[test]
fn a_hello_is_waited_for_once_the_bridge_has_said_it() {
    let settings = Settings { idle: scaled(Duration::from_millis(600)), ..settings() };
    let rig = rig(settings, |seen, conn| {
        conn.stream();
        if seen.number == 1 {
            return conn.hold();
        }
        conn.raw("id: 7\nevent: hello\ndata: {\"replay\":\"complete\"}\n\n");
    });
    // The second one is silent: nothing is known of it, and nothing is said.
    rig.expect(&["Unknown - -", "begins - 7", "lost", "lost: silent", "Complete - 7"]);
    rig.stop();
}

#[test]
fn an_id_that_no_header_can_carry_is_not_sent() {
    let rig = rig(settings(), |seen, conn| {
        conn.stream();
        if seen.number == 0 {
            conn.raw("id: 5\ndata\n\nid: \x01\ndata\n\n");
            conn.raw(format!("id: {}\n\n", "9".repeat(100_000)));
        } else {
            conn.raw("id\n\n");
        }
    });
    rig.expect(&["Unknown", "lost"]);
    rig.bridge.next();
    assert_eq!(rig.bridge.next().header("last-event-id"), Some("5"));
    assert_eq!(rig.bridge.next().header("last-event-id"), None, "the bridge took it back");
}

/// What the stream reports first when every request is answered with `script`.
#[track_caller]
fn check_refusal(script: impl Fn(&mut Conn) + Send + Sync + 'static, expected: &str) {
    let started = Instant::now();
    let rig = rig(settings(), move |_, conn| script(conn));
    let first = rig.next();
    assert!(first.contains(expected), "{first:?} has no {expected:?}");
    rig.next();
    assert!(started.elapsed() >= Duration::from_millis(200), "no hot loop: {expected}");
    rig.stop();
}

/// As the bridge refuses.
const REFUSED: &str = r#"{"ok":false,"error":"no"}"#;

#[test]
fn what_is_no_stream_is_said() {
    check_refusal(|conn| conn.answer(200, "Content-Type: text/html\r\n", "<html>log in"), "log in");
    check_refusal(
        |conn| conn.answer(200, "Content-Type: application/json\r\n", "{}"),
        "status 200",
    );
    check_refusal(|conn| conn.answer(200, "", "data: a\n\n"), "not by the bridge");
    check_refusal(|conn| conn.answer(204, "", ""), "204");
    check_refusal(|conn| conn.answer(401, "", REFUSED), "refused 401");
    check_refusal(|conn| conn.answer(403, "", REFUSED), "refused 403");
    check_refusal(|conn| conn.answer(401, "", "Session expired"), "no verdict on the token");
    check_refusal(|conn| conn.answer(403, "", "<html>blocked"), "no verdict on the token");
    check_refusal(|conn| conn.answer(404, "", "{}"), "status 404");
    check_refusal(|conn| conn.answer(409, "", "host-b has it"), "conflict");
    check_refusal(|conn| conn.answer(409, "", "host-b has it"), "(host-b has it)");
    check_refusal(|conn| conn.answer(409, "", "host-b has it"), "another agentId");
    check_refusal(|conn| conn.answer(409, "", "<html>proxy"), "not by the bridge");
    check_refusal(|conn| conn.answer(500, "", "oops"), "status 500 (oops)");
    check_refusal(
        |conn| conn.answer(302, "Location: http://other/\r\n", ""),
        "redirect to http://other/",
    );
    check_refusal(Conn::close, "no answer");
    check_refusal(
        |conn| {
            conn.raw("garbage\r\n\r\n");
            conn.close();
        },
        "no answer",
    );
}

#[test]
fn a_type_with_parameters_is_a_stream() {
    let rig = rig(settings(), |_, conn| {
        conn.raw(
            "HTTP/1.1 200 OK\r\nContent-Type: Text/Event-Stream; charset=utf-8\r\n\
                  Transfer-Encoding: chunked\r\n\r\n",
        );
        let event = reply(1, "t");
        let (head, tail) = event.split_at(20);
        for part in [head, tail] {
            conn.raw(format!("{:x}\r\n{part}\r\n", part.len()));
        }
        conn.hold();
    });
    rig.expect(&["Unknown", "t kept m1 1"]);
    rig.stop();
}

/// The wait that is announced after the first connection was answered with `script`.
#[track_caller]
fn first_wait(script: impl Fn(&mut Conn) + Send + Sync + 'static) -> Duration {
    let rig = rig(Settings { pace: Pace::default(), ..settings() }, move |_, conn| script(conn));
    loop {
        match patience::recv(&rig.events).unwrap() {
            StreamEvent::Disconnected { next, .. }
            | StreamEvent::AuthRefused { next, .. }
            | StreamEvent::Conflict { next, .. } => {
                rig.stop();
                return next;
            }
            _ => {}
        }
    }
}

#[test]
fn waits_are_what_the_bridge_asks_for_within_bounds() {
    let secs = Duration::from_secs;
    let wait = first_wait(Conn::stream);
    assert!((Duration::from_millis(250)..=secs(1)).contains(&wait), "{wait:?}");
    let wait = first_wait(|conn| {
        conn.stream();
        conn.raw("retry: 7000\n\n");
    });
    assert!((secs(7)..secs(11)).contains(&wait), "{wait:?}");
    assert_eq!(first_wait(|conn| conn.answer(503, "Retry-After: 40\r\n", "")), secs(40));
    assert_eq!(first_wait(|conn| conn.answer(429, "Retry-After: 99999\r\n", "")), secs(300));
    for code in [401, 403, 409, 204] {
        let wait = first_wait(move |conn| conn.answer(code, "", REFUSED));
        assert!(wait >= secs(30), "{code}: {wait:?}");
    }
}

/// A machine behind a balancer that cuts after some seconds was out of reach for a third of the time:
/// the waits doubled with each cut.
#[test]
fn connections_that_live_are_followed_soon_however_often_they_are_cut() {
    let ms = Duration::from_millis;
    let pace = Pace { base: ms(300), steady: ms(380), ..Pace::default() };
    let (cut, cuts) = crossbeam_channel::bounded::<()>(0);
    let rig = rig(Settings { pace, ..settings() }, move |_, conn| {
        conn.stream();
        cuts.recv().ok(); // The test is over.
    });
    let mut lost = None;
    for _ in 0..8 {
        rig.bridge.next();
        if let Some((at, wait)) = lost {
            check_quick(Instant::now().duration_since(at), wait + ms(500));
        }
        rig.expect(&["Unknown"]);
        // That is how long it lives, and the stream knows by now that it does.
        crossbeam_channel::after(ms(400)).recv().unwrap();
        cut.send(()).unwrap();
        let event = patience::recv(&rig.events).unwrap();
        let StreamEvent::Disconnected { next, .. } = event else { panic!("{event:?}") };
        assert!((ms(250)..=ms(375)).contains(&next), "{next:?}");
        lost = Some((Instant::now(), next));
    }
    drop(cut);
    rig.stop();
}

/// When a bridge wrote last, and the longest time for which it wrote nothing.
type Writes = Arc<Mutex<(Instant, Duration)>>;

/// A connection that gets a comment now and then, for much longer than it may be silent, and then
/// nothing more: how many times that silence it lives. None: the machine was too busy for the comments.
fn commented() -> Option<f64> {
    let limit = scaled(Duration::from_millis(300));
    let (tick, ticks) = crossbeam_channel::bounded::<()>(0);
    let writes: Writes = Arc::new(Mutex::new((Instant::now(), Duration::ZERO)));
    let noted = Arc::clone(&writes);
    let rig = rig(Settings { idle: limit, ..settings() }, move |_, conn| {
        conn.stream();
        let until = Instant::now() + 3 * limit;
        while Instant::now() < until {
            conn.raw(":\n");
            let mut noted = noted.lock().unwrap();
            *noted = (Instant::now(), noted.1.max(noted.0.elapsed()));
            drop(noted);
            ticks.recv_timeout(limit / 6).ok();
        }
        conn.hold();
    });
    let (started, first) = (Instant::now(), rig.next());
    let last = rig.next();
    let took = started.elapsed();
    let (wrote, silence) = *writes.lock().unwrap();
    if took < 3 * limit && silence.max(wrote.elapsed()) > limit / 2 {
        return None;
    }
    assert!(first.starts_with("Unknown") && last.starts_with("lost: silent"), "{first}, {last}");
    drop(tick);
    rig.stop();
    Some(took.div_duration_f64(limit))
}

#[test]
fn silence_ends_a_connection_and_comments_are_life() {
    let mut patience = Patience::new();
    loop {
        if let Some(lived) = commented() {
            assert!(lived >= 3.0, "{lived}");
            return;
        }
        assert!(patience.lasts(), "the machine is too busy");
    }
}

#[test]
fn a_bridge_that_sends_no_head_is_given_up() {
    let idle = Settings { idle: Duration::from_millis(200), ..settings() };
    let rig = rig(idle, |_, conn| conn.hold());
    rig.expect(&["lost: GET http://127.0.0.1"]);
    rig.stop();
}

#[test]
fn an_endless_line_costs_one_event() {
    let small = Settings { max_event: 100_000, ..settings() };
    let rig = rig(small, |_, conn| {
        conn.stream();
        conn.raw("id: 1\nevent: reply\ndata: {");
        for _ in 0..500 {
            conn.raw(vec![b'x'; 65_536]);
        }
        conn.raw("\n\n");
        conn.raw(reply(2, "t"));
        conn.hold();
    });
    rig.expect(&["Unknown", "t kept m2 2"]);
    rig.stop();
}

#[test]
fn a_big_event_comes_through() {
    let rig = rig(settings(), |_, conn| {
        let body = "ä".repeat(5_000_000);
        conn.stream();
        conn.raw(format!(
            "event: reply\ndata: {{\"threadId\":\"t\",\"messageId\":\"m\",\"body\":\"{body}\"}}\n\n"
        ));
        conn.hold();
    });
    rig.expect(&["Unknown"]);
    let StreamEvent::Reply { reply, .. } = patience::recv(&rig.events).unwrap() else {
        panic!("a reply was sent");
    };
    assert_eq!(reply.body.len(), 10_000_000);
    rig.stop();
}

#[test]
fn a_full_disk_loses_nothing() {
    let tries = AtomicUsize::new(0);
    let keep = move |reply: &Reply| match tries.fetch_add(1, Ordering::SeqCst) {
        0 | 1 => Err(io::ErrorKind::StorageFull.into()),
        tries => Ok(format!("{} at try {tries}", reply.message_id.as_ref().unwrap())),
    };
    let rig = rig_keeping(settings(), keep, |_, conn| {
        conn.stream();
        conn.raw([reply(1, "t"), reply(2, "t")].concat());
        conn.hold();
    });
    rig.expect(&["Unknown", "t m1 at try 2 1", "t m2 at try 3 2"]);
    rig.stop();
}

#[test]
fn the_position_waits_for_the_disk() {
    // The first daemon can't keep anything and is stopped.
    let (attempt, attempts) = crossbeam_channel::unbounded();
    let keep = move |_: &Reply| {
        attempt.send(()).unwrap();
        Err(io::ErrorKind::StorageFull.into())
    };
    let rig = rig_keeping(settings(), keep, |_, conn| {
        conn.stream();
        conn.raw(reply(1, "t"));
        conn.hold();
    });
    patience::recv(&attempts).unwrap();
    rig.expect(&["Unknown - -"]);
    assert!(rig.events.is_empty(), "nothing is handed over, so nothing is taken as done");
    rig.stop();
}

#[test]
fn a_reply_without_room_is_passed_over() {
    let keep = |reply: &Reply| match reply.message_id.as_ref().unwrap().as_str() {
        "m2" => Err(io::ErrorKind::QuotaExceeded.into()),
        id => Ok(format!("kept {id}")),
    };
    let rig = rig_keeping(settings(), keep, |_, conn| {
        conn.stream();
        let timed =
            json!({"threadId": "t", "messageId": "m2", "createdAt": "1970-01-01T00:00:01Z"});
        conn.raw(format!(
            "{}id: 2\nevent: reply\ndata: {timed}\n\n{}",
            reply(1, "t"),
            reply(3, "t")
        ));
        conn.hold();
    });
    rig.expect(&["Unknown", "t kept m1 1", "no room t Some(Timestamp(1000)) 2", "t kept m3 3"]);
    rig.stop();
}

#[test]
fn new_capabilities_end_a_wait() {
    let slow = Settings { pace: Pace::default(), ..settings() };
    let rig = rig(slow, |_, conn| conn.answer(401, "", REFUSED));
    rig.expect(&["refused 401"]);
    rig.bridge.next();
    rig.handle.as_ref().unwrap().set_capabilities(vec![]);
    assert!(rig.bridge.next().target.contains("&capabilities=&"));
    rig.stop();
}

#[test]
fn it_stops_while_nobody_takes_what_it_has() {
    let (kept, count) = crossbeam_channel::unbounded();
    let keep = move |_: &Reply| {
        kept.send(()).unwrap();
        Ok(String::new())
    };
    let rig = rig_keeping(settings(), keep, |_, conn| {
        conn.stream();
        for id in 0..10_000 {
            conn.raw(reply(id, "t"));
        }
        conn.hold();
    });
    rig.expect(&["Unknown"]);
    // 16 fill the channel, one more waits in front of it.
    for _ in 0..17 {
        patience::recv(&count).unwrap();
    }
    rig.stop();
    assert_eq!(count.try_iter().count(), 0, "what is not taken is not read");
}

#[test]
fn it_stops_while_the_bridge_says_nothing() {
    let rig = rig(settings(), |_, conn| conn.hold());
    rig.bridge.next();
    rig.stop();
}

#[test]
fn it_ends_when_nobody_listens() {
    let Rig { handle, events, bridge } = rig(settings(), |_, conn| {
        conn.stream();
        conn.raw(reply(1, "t"));
    });
    drop(events);
    bridge.next();
    drop(handle);
}
