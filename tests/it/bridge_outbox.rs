//! The outbox task: order, refusals, patience, and leaving.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender};
use obto_bridge::{
    bridge::{
        Access, Client, Net,
        backoff::Pace,
        outbox::{self, Notice, OutboxHandle, Settings},
        wire::{Activity, Card, Post, PostKind},
    },
    config::Token,
    ids::{ClientMsgId, Engine, ThreadId},
    store::{
        Disk,
        journal::{self},
        messages::{self, Opened},
        outbox::Outbox,
    },
    task::Task,
    time::Timestamp,
};
use serde_json::{Value, json};

use crate::{
    store::disk::MemoryDisk,
    util::{
        patience::{self, check_quick},
        sick_bridge::{Conn, Seen, SickBridge},
    },
};

/// The state directory.
const DIR: &str = "/d";

/// The outbox on a disk in memory, which can fail.
#[derive(Clone)]
struct Store {
    outbox: Outbox,
    disk: Arc<MemoryDisk>,
}

fn post(entry: u32, thread: &str) -> Post {
    Post::new(
        ThreadId::new(thread),
        PostKind::Result,
        "claude-bridge".into(),
        format!("{entry}"),
        ClientMsgId::new(format!("m.1.{entry}")),
    )
}

impl Store {
    fn new(posts: &[(u32, &str)]) -> Store {
        let disk: Arc<MemoryDisk> = Arc::default();
        let dir: Arc<dyn Disk> = Arc::<MemoryDisk>::clone(&disk);
        let Opened { outbox, .. } = messages::open(dir, Path::new(DIR)).unwrap();
        let store = Store { outbox, disk };
        for (entry, thread) in posts {
            store.put(*entry, thread);
        }
        store
    }

    /// How many posts the next start would find.
    fn on_disk(&self) -> usize {
        journal::look(&*self.disk, Path::new(DIR)).unwrap().contents.posts.len()
    }

    fn put(&self, entry: u32, thread: &str) {
        self.outbox.put(&post(entry, thread), None).unwrap();
    }

    /// Those that the bridge does not have.
    fn entries(&self) -> Vec<u32> {
        let posts = self.outbox.list().into_iter();
        let posts = posts.filter_map(|(id, _)| self.outbox.read(id).unwrap());
        posts.map(|post| post.body.parse().unwrap()).collect()
    }

    /// Those that it will never take, with the reasons.
    fn refused(&self) -> Vec<(u32, String)> {
        let files = self.disk.list(&Path::new(DIR).join("outbox/refused")).unwrap();
        let refused = files.iter().map(|path| {
            let file: Value = serde_json::from_slice(&self.disk.read(path).unwrap()).unwrap();
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            let content = &file["content"];
            (text(&content["post"]["body"]).parse().unwrap(), text(&content["reason"]))
        });
        refused.collect()
    }

    /// Waits until the store looks as expected.
    #[track_caller]
    fn until(&self, what: impl Fn(&Store) -> bool) {
        let came = patience::comes_true(|| what(self));
        assert!(came, "{:?} {:?}", self.entries(), self.refused());
    }

    #[track_caller]
    fn until_empty(&self) {
        self.until(|store| store.outbox.count() == 0);
    }
}

struct Rig {
    bridge: SickBridge,
    store: Store,
    wake: Sender<()>,
    activity: Sender<(ThreadId, Activity)>,
    notices: Receiver<Notice>,
    task: Task,
}

/// Starts the task on a store that holds `posts`.
fn rig(posts: &[(u32, &str)], script: impl Fn(&Seen, &mut Conn) + Send + Sync + 'static) -> Rig {
    rig_on(Store::new(posts), script)
}

fn rig_on(store: Store, script: impl Fn(&Seen, &mut Conn) + Send + Sync + 'static) -> Rig {
    rig_leaving(Duration::from_millis(700), store, script)
}

/// One that may take so long for leaving.
fn rig_leaving(
    drain: Duration,
    store: Store,
    script: impl Fn(&Seen, &mut Conn) + Send + Sync + 'static,
) -> Rig {
    let ms = Duration::from_millis;
    let pace = Pace { base: ms(250), cap: ms(300), slow: ms(500), ..Pace::default() };
    let settings = Settings { pace, drain };
    let bridge = SickBridge::start(script);
    let access = Access {
        base_url: bridge.url(),
        origin_host: "origin.example".into(),
        token: Token::new("obto_s3cr3t"),
    };
    let client = Client::new(Arc::new(access), &Net::default()).unwrap();
    let OutboxHandle { task, wake, activity, notices } =
        outbox::start(client, store.outbox.clone(), settings).unwrap();
    Rig { bridge, store, wake, activity, notices, task }
}

impl Rig {
    /// Stops the task; how long that took, and what the bridge was sent and not told before.
    #[track_caller]
    fn stop(self) -> (Duration, Vec<Seen>) {
        let started = Instant::now();
        drop((self.wake, self.activity));
        self.task.join().unwrap();
        (started.elapsed(), self.bridge.seen.try_iter().collect())
    }
}

fn ok(conn: &mut Conn) {
    conn.json(200, json!({"ok": true}));
}

fn body(seen: &Seen) -> u32 {
    seen.json()["body"].as_str().unwrap().parse().unwrap()
}

fn thread(seen: &Seen) -> String {
    seen.json()["threadId"].as_str().unwrap().to_owned()
}

#[test]
fn posts_of_a_thread_keep_their_order_and_go_once() {
    let posts: Vec<(u32, String)> = (0..300).map(|n| (n, format!("t{}", n % 7))).collect();
    let posts: Vec<(u32, &str)> = posts.iter().map(|(n, thread)| (*n, thread.as_str())).collect();
    let rig = rig(&posts, |_, conn| ok(conn));
    rig.store.until_empty();
    for entry in 300..320 {
        rig.store.put(entry, "t0");
        rig.wake.try_send(()).ok();
    }
    rig.store.until_empty();
    let (_, seen) = rig.stop();
    let mut by_thread: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for seen in &seen {
        by_thread.entry(thread(seen)).or_default().push(body(seen));
    }
    assert!(by_thread.values().all(|entries| entries.is_sorted()), "{by_thread:?}");
    assert_eq!(seen.len(), 320);
    assert_eq!(seen.iter().map(body).collect::<BTreeSet<_>>().len(), 320);
}

/// Once two daemons of one name did all work twice, and only one knew nothing of it.
#[test]
fn the_post_of_another_daemon_under_our_name_is_reported() {
    let rig = rig(&[(1, "t"), (2, "t"), (3, "t")], |seen, conn| {
        let stored = if body(seen) == 2 { "theirs".into() } else { seen.json()["body"].clone() };
        conn.json(200, json!({"ok": true, "message": {"_id": "m", "body": stored}}));
    });
    rig.store.until_empty();
    let expected = Notice::Conflict { thread: ThreadId::new("t"), post: ClientMsgId::new("m.1.2") };
    assert_eq!(rig.notices.try_iter().collect::<Vec<_>>(), [expected]);
    let refused = rig.store.refused();
    assert_eq!(refused.len(), 1, "what people do not see is kept aside");
    assert!(refused[0].1.contains("another daemon"), "{refused:?}");
    rig.stop();
}

#[test]
fn a_question_s_time_is_told_once_the_bridge_has_stored_it() {
    let store = Store::new(&[(1, "t")]);
    let at = "2026-11-22T12:00:00.123Z";
    let mut question = post(2, "t");
    question.question = Some(Card {
        code: "K7Q2".into(),
        engine: Engine::CLAUDE,
        kind: "run".into(),
        tool: "Bash".into(),
        asks: "asks to run a command".into(),
        subject: "make".into(),
        diff: String::new(),
        details: Vec::new(),
        whole: Vec::new(),
        directory: "/p".into(),
        project: None,
        reason: None,
        rule: None,
        why: String::new(),
        always: None,
        grant: None,
        choices: Vec::new(),
        expires_at: at.into(),
    });
    store.outbox.put(&question, None).unwrap();
    // And when the last part of its whole is.
    let mut shown = post(3, "t");
    shown.question_shown = Some("K7Q2".into());
    store.outbox.put(&shown, None).unwrap();
    let rig = rig_on(store, move |seen, conn| match body(seen) {
        2 | 3 => conn.json(200, json!({"ok": true, "message": {"createdAt": at}})),
        _ => ok(conn),
    });
    rig.store.until_empty();
    let expected = ["m.1.2", "m.1.3"]
        .map(|post| Notice::Asked { post: ClientMsgId::new(post), at: Timestamp::parse(at) });
    assert_eq!(rig.notices.try_iter().collect::<Vec<_>>(), expected);
    rig.stop();
}

#[test]
fn a_post_is_sent_when_it_is_written_and_not_at_the_next_tick() {
    let rig = rig(&[], |_, conn| ok(conn));
    let mut best = Duration::MAX;
    for entry in 0..20 {
        let started = Instant::now();
        rig.store.put(entry, "t");
        rig.wake.try_send(()).ok();
        rig.bridge.next();
        best = best.min(started.elapsed());
    }
    check_quick(best, Duration::from_millis(20));
    rig.stop();
}

#[test]
fn a_refused_post_is_kept_aside_and_holds_up_nothing() {
    let rig = rig(&[(1, "a"), (2, "a"), (3, "b"), (4, "c")], |seen, conn| match body(seen) {
        1 => conn.json(404, json!({"ok": false, "error": "no such thread"})),
        3 => conn.json(413, json!({"ok": false, "error": "too large"})),
        _ => ok(conn),
    });
    rig.store.until_empty();
    let mut refused = rig.store.refused();
    refused.sort();
    assert_eq!(refused.iter().map(|(entry, _)| *entry).collect::<Vec<_>>(), [1, 3]);
    assert!(
        refused[0].1.contains("404 (no such thread)") || refused[0].1.contains("no such"),
        "{refused:?}"
    );
    let (_, seen) = rig.stop();
    assert_eq!(seen.len(), 4, "each was tried once");
}

/// Post 1 of thread a is answered with `status` twice; what is sent until all is accepted.
#[track_caller]
fn check_patience(status: u16, headers: &'static str, text: &'static str) -> Duration {
    let failures = AtomicUsize::new(0);
    let started = Instant::now();
    let rig = rig(&[(1, "a"), (2, "a"), (3, "b")], move |seen, conn| {
        if body(seen) == 1 && failures.fetch_add(1, Ordering::SeqCst) < 2 {
            conn.answer(status, headers, text);
        } else {
            ok(conn);
        }
    });
    rig.store.until_empty();
    let took = started.elapsed();
    assert!(rig.store.refused().is_empty(), "{status}");
    let (_, seen) = rig.stop();
    let of_a: Vec<u32> = seen.iter().filter(|seen| thread(seen) == "a").map(body).collect();
    assert_eq!(of_a, [1, 1, 1, 2], "{status}: in order, whatever the tries");
    let ids: BTreeSet<String> = seen
        .iter()
        .filter(|seen| body(seen) == 1)
        .map(|seen| seen.json()["clientMsgId"].to_string())
        .collect();
    assert_eq!(ids.len(), 1, "every try has the same id");
    took
}

#[test]
fn what_may_work_later_is_tried_again() {
    for status in [408, 425, 429, 500, 502, 503, 302] {
        let took = check_patience(status, "", "");
        assert!(took >= Duration::from_millis(500), "{status}: two waits: {took:?}");
    }
}

#[test]
fn a_page_that_is_not_the_bridges_is_waited_out() {
    check_patience(200, "Content-Type: text/html\r\n", "<html>please log in</html>");
    check_patience(404, "", "<html>no such site</html>");
    check_patience(403, "", "<html>blocked by the filter</html>");
    check_patience(302, "Location: http://portal.example/\r\n", "");
}

#[test]
fn a_refused_token_and_an_asked_for_wait_are_slow() {
    for status in [401, 403] {
        let took = check_patience(status, "", r#"{"error":"no such token"}"#);
        assert!(took >= Duration::from_millis(500), "{status}: slowly: {took:?}");
    }
    let took = check_patience(503, "Retry-After: 1\r\n", "");
    assert!(took >= Duration::from_secs(2), "as long as the bridge asked for: {took:?}");
}

#[test]
fn a_thread_that_waits_holds_up_no_other() {
    let store = Store::new(&[(1, "a"), (2, "b"), (3, "b"), (4, "c")]);
    let late = AtomicUsize::new(0);
    let drain = Duration::from_mins(10);
    let rig = rig_leaving(drain, store, move |seen, conn| match thread(seen).as_str() {
        "a" => conn.answer(503, "Retry-After: 300\r\n", ""),
        _ if body(seen) < 5 => ok(conn),
        // Four are all that are on their way at once, so the answer for `a` has been read.
        _ => {
            late.fetch_add(1, Ordering::SeqCst);
            if patience::comes_true(|| late.load(Ordering::SeqCst) == 4) {
                ok(conn);
            }
        }
    });
    rig.store.until(|store| store.entries().len() == 1);
    for (entry, thread) in [(5, "b"), (6, "c"), (7, "d"), (8, "e")] {
        rig.store.put(entry, thread);
    }
    rig.wake.try_send(()).ok();
    rig.store.until(|store| store.entries() == [1]);
    let (_, seen) = rig.stop();
    assert_eq!(seen.iter().filter(|seen| thread(seen) == "a").count(), 2, "the last when leaving");
}

#[test]
fn a_post_that_hangs_holds_up_no_other() {
    let rig = rig(&[(1, "a"), (2, "b"), (3, "c")], |seen, conn| match thread(seen).as_str() {
        "a" => conn.hold(),
        _ => ok(conn),
    });
    rig.store.until(|store| store.entries() == [1]);
    let (took, _) = rig.stop();
    // And not the stop either.
    check_quick(took, Duration::from_secs(2));
}

#[test]
fn posts_go_side_by_side_on_a_far_bridge() {
    let waiting = AtomicUsize::new(0);
    let posts: Vec<(u32, String)> = (0..40).map(|n| (n, format!("t{n}"))).collect();
    let posts: Vec<(u32, &str)> = posts.iter().map(|(n, thread)| (*n, thread.as_str())).collect();
    let rig = rig(&posts, move |_, conn| {
        // None of the first four is answered before the last of them is there.
        waiting.fetch_add(1, Ordering::SeqCst);
        if patience::comes_true(|| waiting.load(Ordering::SeqCst) >= 4) {
            ok(conn);
        }
    });
    rig.store.until_empty();
    let (_, seen) = rig.stop();
    assert_eq!(seen.len(), posts.len(), "each was sent once");
}

#[test]
fn a_bridge_that_is_away_is_waited_for() {
    let up = Arc::new(AtomicUsize::new(0));
    let is_up = Arc::clone(&up);
    let posts: Vec<(u32, String)> = (0..50).map(|n| (n, format!("t{n}"))).collect();
    let posts: Vec<(u32, &str)> = posts.iter().map(|(n, thread)| (*n, thread.as_str())).collect();
    let rig = rig(&posts, move |_, conn| match is_up.load(Ordering::SeqCst) {
        0 => conn.close(),
        _ => ok(conn),
    });
    rig.bridge.next();
    let second = patience::recv(&rig.bridge.seen).unwrap();
    up.store(1, Ordering::SeqCst);
    rig.store.until_empty();
    let (_, seen) = rig.stop();
    assert!(seen.len() < 50 + 40, "not every thread asks for itself: {} {second:?}", seen.len());
}

#[test]
fn leaving_tries_what_there_is_and_keeps_the_rest() {
    let drain = Duration::from_mins(10);
    let rig = rig_leaving(drain, Store::new(&[]), |seen, conn| match thread(seen).as_str() {
        "dead" => conn.answer(503, "Retry-After: 300\r\n", ""),
        _ => ok(conn),
    });
    rig.store.put(1, "dead");
    rig.store.put(2, "fine");
    let store = rig.store.clone();
    let (took, seen) = rig.stop();
    // The one may have been tried before as well.
    let tried = |name: &str| seen.iter().filter(|seen| thread(seen) == name).count();
    assert_eq!((store.entries(), tried("fine")), (vec![1], 1), "not even woken, and still tried");
    assert!(matches!(tried("dead"), 1 | 2));
    assert!(took < drain / 2, "there was nothing to wait for: {took:?}");
}

#[test]
fn leaving_takes_no_longer_than_it_may() {
    let rig = rig(&[(1, "a"), (2, "b"), (3, "c"), (4, "d"), (5, "e")], |_, conn| conn.hold());
    for _ in 0..4 {
        rig.bridge.next();
    }
    let store = rig.store.clone();
    let (took, _) = rig.stop();
    assert_eq!(store.entries().len(), 5);
    assert!(took >= Duration::from_millis(600), "{took:?}");
    check_quick(took, Duration::from_secs(3));
}

#[test]
fn a_disk_that_cant_remove_does_not_make_posts_repeat() {
    let store = Store::new(&[]);
    let disk = Arc::clone(&store.disk);
    // The disk breaks while the first post is on its way, and works again before the second.
    let rig = rig_on(store, move |seen, conn| {
        disk.fail(body(seen) == 1);
        ok(conn);
    });
    rig.store.put(1, "a");
    let before = rig.store.disk.operations();
    rig.wake.try_send(()).ok();
    rig.bridge.next();
    rig.store.until(|store| store.disk.operations() > before);
    rig.store.disk.fail(false);
    rig.store.put(2, "a");
    rig.wake.try_send(()).ok();
    assert_eq!(body(&rig.bridge.next()), 2);
    // Both go when the disk can, and 1 is not sent again for it.
    rig.store.until(|store| store.on_disk() == 0);
    let (_, seen) = rig.stop();
    assert!(seen.is_empty());
}

#[test]
fn a_post_that_cant_be_read_is_read_again() {
    let store = Store::new(&[(1, "a"), (2, "b")]);
    let disk = Arc::clone(&store.disk);
    let flip = || disk.flip(&journal::path(Path::new(DIR)), b"\"body\":\"1\"");
    flip();
    let rig = rig_on(store, |_, conn| ok(conn));
    assert_eq!(body(&rig.bridge.next()), 2, "the oldest one was tried before");
    flip();
    rig.store.until_empty();
    let (_, seen) = rig.stop();
    assert_eq!(seen.iter().map(body).collect::<Vec<_>>(), [1]);
}

#[test]
fn activity_is_shown_in_order_and_lost_when_it_must() {
    let rig = rig(&[], |_, conn| ok(conn));
    for state in [Activity::Working, Activity::Idle, Activity::Working, Activity::Idle] {
        rig.activity.send((ThreadId::new("t"), state)).unwrap();
    }
    let (_, seen) = rig.stop();
    let states: Vec<String> = seen.iter().map(|seen| seen.json()["state"].to_string()).collect();
    assert_eq!(states, ["\"working\"", "\"idle\"", "\"working\"", "\"idle\""]);
    assert!(seen.iter().all(|seen| seen.target == "/api/bridge/agent-activity"));
}

#[test]
fn activity_that_fails_holds_up_no_post() {
    let rig = rig(&[], |seen, conn| match seen.target.as_str() {
        "/api/message" => ok(conn),
        _ => conn.hold(),
    });
    for _ in 0..16 {
        rig.activity.try_send((ThreadId::new("t"), Activity::Working)).ok();
    }
    for entry in 0..10 {
        rig.store.put(entry, "t");
    }
    rig.wake.try_send(()).ok();
    rig.store.until_empty();
    rig.stop();
}
