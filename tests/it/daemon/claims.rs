//! A claim waits for the bridge, and nobody else does.

use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use serde_json::json;

use crate::util::{
    daemon::{Line, Stage},
    patience::{self, is_quick},
};

/// What a slow claim may add to the answer on another thread.
const DELAY: Duration = Duration::from_millis(50);

/// Each of a message without and one with a claim on its way.
const PAIRS: usize = 7;

/// The whole machine may be busy with something else for a moment; a daemon that waits for a claim
/// waits in every round.
const ROUNDS: usize = 3;

/// From the event to the answer's arrival.
fn time(stage: &Stage, line: &Line, message: &str) -> Duration {
    let begin = Instant::now();
    line.reply("ours", message, message);
    stage.expect("ours", "result", message);
    begin.elapsed()
}

#[test]
fn a_slow_claim_delays_no_other_thread() {
    let (answer, answers) = bounded::<()>(1);
    let stage = Stage::new(move |seen, conn| {
        let is_claim = seen.target.ends_with("/claim");
        if is_claim {
            // Until the test says so, which the daemon's own limit of 30 s is far from.
            patience::recv(&answers).unwrap();
            conn.json(200, json!({ "ok": true, "won": true }));
        }
        is_claim
    });
    let _daemon = stage.machine().start();
    let line = stage.stream();
    time(&stage, &line, "warm");
    let mut medians = Vec::new();
    for round in 0..ROUNDS {
        let mut delays: Vec<Duration> = (0..PAIRS)
            .map(|pair| {
                let name = format!("{round}-{pair}");
                let alone = time(&stage, &line, &format!("alone-{name}"));
                let slow =
                    json!({ "threadId": format!("slow-{name}"), "messageId": name, "body": "x" });
                line.event("reply", &slow.to_string());
                stage.request("/api/bridge/thread/claim");
                let beside = time(&stage, &line, &format!("beside-{name}"));
                answer.try_send(()).unwrap();
                stage.expect(&format!("slow-{name}"), "result", "said: x");
                beside.saturating_sub(alone)
            })
            .collect();
        delays.sort_unstable();
        println!("round {round}: {delays:?}");
        let median = delays[PAIRS / 2];
        if is_quick(median, DELAY) {
            return;
        }
        medians.push(median);
    }
    panic!("a claim delays others by {medians:?}");
}
