//! Reconnections of the daemon's own wish, on a bridge without replay: the new stream is open before
//! the old one is closed, so that no message falls in between.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use obto_bridge::{
    bridge::{
        Access, AccessSource, Error, Net,
        backoff::Pace,
        stream::{self, Settings, StreamEvent, StreamHandle},
    },
    config::Token,
    ids::MachineId,
};

use crate::util::{
    patience,
    sick_bridge::{Conn, Seen, SickBridge},
};

/// What a bridge without replay knows of its open streams: a message goes to those that are open
/// when it is posted, and to no other.
#[derive(Clone)]
struct Streams {
    open: Arc<Mutex<Vec<Sender<String>>>>,
    /// Speaks once for each stream, when it is among them.
    opened: (Sender<()>, Receiver<()>),
}

impl Streams {
    /// Posts a message; the number of streams that got it.
    fn post(&self, id: &str) -> usize {
        let data = format!("{{\"threadId\":\"t\",\"messageId\":\"{id}\"}}");
        let mut open = self.open.lock().unwrap();
        open.retain(|stream| stream.send(format!("event: reply\ndata: {data}\n\n")).is_ok());
        open.len()
    }

    /// Serves a stream until the client is gone or [`Streams::end`].
    fn serve(&self, conn: &mut Conn) {
        let (stream, events) = unbounded();
        self.open.lock().unwrap().push(stream);
        self.opened.0.send(()).unwrap();
        conn.stream();
        events.iter().for_each(|event| conn.raw(event));
    }

    fn end(&self) {
        self.open.lock().unwrap().clear();
    }
}

/// Access that changes, as a config file does.
#[derive(Debug)]
struct Config(Mutex<Access>);

impl AccessSource for Config {
    fn access(&self) -> Result<Access, Error> {
        Ok(self.0.lock().unwrap().clone())
    }
}

struct Rig {
    handle: Option<StreamHandle>,
    events: Receiver<StreamEvent<()>>,
    config: Arc<Config>,
    streams: Streams,
    bridge: SickBridge,
}

/// A stream on a bridge whose requests but for the first one are answered with `script`.
fn rig(script: impl Fn(&Streams, &Seen, &mut Conn) + Send + Sync + 'static) -> Rig {
    let streams = Streams { open: Arc::default(), opened: unbounded() };
    let of_bridge = streams.clone();
    let bridge = SickBridge::start(move |seen, conn| match seen.number {
        0 => of_bridge.serve(conn),
        _ => script(&of_bridge, seen, conn),
    });
    let access =
        Access { base_url: bridge.url(), origin_host: "h".into(), token: Token::new("obto_old") };
    let config = Arc::new(Config(Mutex::new(access)));
    let ms = Duration::from_millis;
    let settings = Settings {
        // The config is looked at five times as often.
        idle: ms(2_000),
        pace: Pace { base: ms(250), cap: ms(250), slow: ms(250), ..Pace::default() },
        ..Settings::new(MachineId::new("mac"))
    };
    let source: Arc<dyn AccessSource> = Arc::<Config>::clone(&config);
    let (handle, events) = stream::start(source, &Net::default(), settings, |_| Ok(())).unwrap();
    let rig = Rig { handle: Some(handle), events, config, streams, bridge };
    rig.bridge.next();
    rig.expect(&["connected"]);
    rig
}

impl Rig {
    #[track_caller]
    fn expect(&self, expected: &[&str]) {
        for expected in expected {
            let next = match patience::recv(&self.events).expect("an event comes") {
                StreamEvent::Connected { .. } => "connected".to_owned(),
                StreamEvent::Reply { reply, .. } => reply.message_id.unwrap().to_string(),
                other => format!("{other:?}"),
            };
            assert!(next.starts_with(expected), "{next:?} instead of {expected:?}");
        }
    }

    fn set_capabilities(&self, capabilities: &[&str]) {
        let capabilities = capabilities.iter().map(|&name| name.to_owned()).collect();
        self.handle.as_ref().unwrap().set_capabilities(capabilities);
    }

    /// Stops the task, which takes less than a second whatever it is doing.
    #[track_caller]
    fn stop(mut self) {
        let started = Instant::now();
        drop(self.handle.take());
        assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // Else the bridge would wait for its streams.
        self.streams.end();
    }
}

/// Once the old stream was closed first, and a new thread's message that was posted before the new
/// one was open was lost, at every start that found other engines than the last one.
#[test]
fn nothing_falls_between_two_connections() {
    let rig = rig(|streams, _, conn| {
        assert_eq!(streams.post("gap"), 1, "only the old stream is open");
        streams.serve(conn);
    });
    rig.set_capabilities(&[]);
    assert!(rig.bridge.seen.is_empty(), "nothing is new");
    rig.set_capabilities(&["codex"]);
    let seen = rig.bridge.seen.recv_timeout(Duration::from_millis(500)).expect("it does not wait");
    assert!(seen.target.ends_with("&capabilities=codex"), "{}", seen.target);
    // On the old one, and then, without a break, on the new one.
    rig.expect(&["gap", "connected"]);
    assert!(rig.streams.post("after") >= 1);
    rig.expect(&["after"]);
    rig.stop();
}

#[test]
fn what_both_streams_bring_is_handed_over_in_order() {
    let rig = rig(|streams, _, conn| streams.serve(conn));
    rig.set_capabilities(&["codex"]);
    for _ in 0..2 {
        patience::recv(&rig.streams.opened.1).unwrap();
    }
    for id in ["one", "two"] {
        assert_eq!(rig.streams.post(id), 2);
    }
    let mut ids = Vec::new();
    while ids.iter().filter(|id| *id == "two").count() < 2 {
        match patience::recv(&rig.events).expect("both streams are handed over") {
            StreamEvent::Reply { reply, .. } => ids.push(reply.message_id.unwrap().to_string()),
            StreamEvent::Connected { .. } => ids.push("connected".to_owned()),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(ids, ["one", "two", "connected", "one", "two"]);
    rig.stop();
}

#[test]
fn the_old_stream_stays_until_a_new_one_can_be_opened() {
    let (open, opened) = bounded(1);
    let rig = rig(move |streams, seen, conn| match seen.number {
        1 => conn.answer(500, "", "restarting"),
        2 => conn.answer(401, "", ""),
        3 => conn.answer(409, "", ""),
        _ => {
            opened.recv().expect("the old stream was looked at");
            streams.serve(conn);
        }
    });
    rig.set_capabilities(&["codex"]);
    for failure in ["one", "two", "three"] {
        rig.bridge.next();
        assert_eq!(rig.streams.post(failure), 1);
        rig.expect(&[failure]);
    }
    open.send(()).unwrap();
    rig.bridge.next();
    rig.expect(&["connected"]);
    rig.stop();
}

#[test]
fn a_stream_that_ends_during_the_attempt_is_missed_until_it_succeeds() {
    let (end, ended) = unbounded::<()>();
    let rig = rig(move |streams, _, conn| {
        streams.end();
        ended.recv().ok();
        streams.serve(conn);
    });
    rig.set_capabilities(&["codex"]);
    rig.expect(&["Disconnected"]);
    drop(end);
    rig.expect(&["connected"]);
    rig.stop();
}

#[test]
fn a_rotated_token_is_used_without_a_break() {
    let rig = rig(|streams, _, conn| {
        streams.post("gap");
        streams.serve(conn);
    });
    rig.config.0.lock().unwrap().token = Token::new("obto_new");
    assert_eq!(rig.bridge.next().header("authorization"), Some("Bearer obto_new"));
    rig.expect(&["gap", "connected"]);
    rig.stop();
}

#[test]
fn a_new_address_is_used_without_a_break() {
    let rig = rig(|_, _, conn| conn.answer(500, "", "the old bridge is not asked again"));
    let streams = rig.streams.clone();
    let other = SickBridge::start(move |_, conn| {
        streams.post("gap");
        streams.serve(conn);
    });
    rig.config.0.lock().unwrap().base_url = other.url();
    other.next();
    rig.expect(&["gap", "connected"]);
    rig.stop();
}

#[test]
fn it_stops_while_two_connections_are_open() {
    let rig = rig(|streams, _, conn| streams.serve(conn));
    rig.set_capabilities(&["codex"]);
    rig.bridge.next();
    rig.stop();
}
