//! An engine that takes its time to come or to leave: the answer does not wait for it, and no name
//! is used for two posts.

use std::{
    hint,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use obto_bridge::task;

use crate::util::{
    fake::{self, ACP_BEGIN, Gate, acp_answer},
    hosted::Hosted,
    namespace::isolated,
};

/// An ACP agent that answers and then stays until it is let go, whatever it is told.
fn lingering(gate: &Gate) -> Vec<String> {
    let path = gate.path();
    let [said, end] = acp_answer("done");
    let steps = ["read", "print", &said, "print", &end, "deaf", "gate", &path];
    fake::command(&[&ACP_BEGIN[..], &steps].concat())
}

isolated! {
    fn an_answer_is_posted_before_the_engine_has_left() {
        let (bridge, gate) = (Hosted::start(), Gate::new());
        let machine = bridge.machine().with_agent("fake", &lingering(&gate));
        let _daemon = machine.connected();
        bridge.say("t", "one");
        let engine = gate.next();
        assert_eq!(bridge.until("t", 1), ["done"]);
        assert!(engine.is_there(), "the answer waited until the engine had left");
        // It still has its slot and the thread.
        bridge.say("t", "two");
        drop(engine);
        assert!(gate.next().prompt().ends_with("two"));
        assert_eq!(bridge.until("t", 2), ["done", "done"]);
    }
}

isolated! {
    fn an_answer_survives_a_crash_while_the_engine_leaves() {
        let (bridge, gate) = (Hosted::start(), Gate::new());
        let machine = bridge.machine().with_agent("fake", &lingering(&gate));
        let daemon = machine.connected();
        bridge.take_posts(false);
        bridge.say("t", "one");
        let engine = gate.next();
        bridge.wait(|bridge| bridge.answered.contains_key("/api/message"));
        assert!(engine.is_there(), "the answer was kept when the engine had left");
        daemon.kill();
        bridge.take_posts(true);
        let _daemon = machine.connected();
        assert_eq!(bridge.until("t", 1), ["done"]);
        // The work is not done twice.
        bridge.say("t", "two");
        assert!(gate.next().prompt().ends_with("two"));
        assert_eq!(bridge.until("t", 2), ["done", "done"]);
    }
}

/// opencode's server is started and does not listen yet when the daemon is stopped. What the thread
/// is told then and what it is told by the next daemon are two posts.
#[test]
fn a_stop_while_an_engine_starts_costs_no_later_post() {
    let (bridge, gate) = (Hosted::start(), Gate::new());
    let path = gate.path();
    let starting = fake::command(&["gate", &path, "hang"]);
    let machine = bridge.machine().with_agent("opencode", &starting).with("drainSeconds", 1);
    let daemon = machine.connected();
    bridge.say("t", "hello");
    let _server = gate.next();
    daemon.stop();
    let machine = machine.with_agent("opencode", &fake::command(&["exit", "3"]));
    let _daemon = machine.connected();
    let is_told = |post: &String| post.contains("could not be started");
    bridge.wait(|bridge| bridge.posts("t").iter().any(is_told) || !bridge.dropped.is_empty());
    assert_eq!(bridge.look(|bridge| bridge.dropped.clone()), [""; 0]);
}

/// Keeps all processors busy until it is dropped.
struct Load(Arc<AtomicBool>);

impl Load {
    fn new() -> Load {
        let is_over: Arc<AtomicBool> = Arc::default();
        for _ in 0..thread::available_parallelism().unwrap().get() * 2 {
            let is_over = Arc::clone(&is_over);
            let spin = move || {
                while !is_over.load(Ordering::Relaxed) {
                    hint::spin_loop();
                }
            };
            drop(task::spawn("load", spin).unwrap());
        }
        Load(is_over)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The line takes longer to be taken apart than a pipe may be quiet after its writer's end.
#[test]
fn what_an_engine_says_right_before_its_end_is_heard_on_a_busy_machine() {
    let bridge = Hosted::start();
    let [said, end] = acp_answer("done");
    let steps = ["read", "spew", "40", "print", &said, "print", &end];
    let agent = fake::command(&[&ACP_BEGIN[..], &steps].concat());
    let machine = bridge.machine().with_agent("fake", &agent);
    let _load = Load::new();
    let mut daemon = machine.start_after("renice -n 19 $$ >&2");
    daemon.log("connected to the bridge");
    bridge.say("t", "hello");
    assert_eq!(bridge.until("t", 1), ["done"]);
}
