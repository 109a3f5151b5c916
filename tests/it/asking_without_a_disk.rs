//! The disk fails while an engine asks or a human answers: nothing is allowed that is not on record,
//! the thread is told, and it goes on when the disk is back.

use std::fs;

use obto_bridge::store::{Disk as _, RealDisk};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    crash::rig::{Bridge, Machine},
    leftovers::start,
    limits::{empty, fill, freeze, small_disk, thaw},
    util::{bin::Running, namespace::isolated, patience::comes_true},
};

/// A machine whose state is on a disk of its own, with a daemon and an engine that asks.
struct Scene {
    // Drop order matters: the daemon ends before its home is gone.
    daemon: Running,
    machine: Machine,
    state: String,
}

impl Scene {
    fn new(more: Value) -> Scene {
        let bridge = Bridge::start();
        let machine = Machine::new(&bridge, "ada");
        let mut config = json!({ "relayPermissions": true });
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        machine.configure(config);
        let state = small_disk(&machine);
        let daemon = start(&machine);
        Scene { daemon, machine, state }
    }

    /// Waits for a post with these words.
    #[track_caller]
    fn hear(&self, words: &str) -> String {
        let mut found = None;
        let is_said = || {
            found = self.machine.said_if_any("t").into_iter().find(|post| post.contains(words));
            found.is_some()
        };
        assert!(comes_true(is_said), "{words:?}: {:?}", self.machine.said_if_any("t"));
        found.unwrap()
    }

    /// Waits for the card, and returns its code.
    #[track_caller]
    fn question(&self) -> String {
        let card = self.hear("How to answer");
        card.split("Question `").nth(1).unwrap()[..4].to_owned()
    }

    /// What the engine did, and whether that was on record.
    fn done(&self) -> Vec<String> {
        let journal = fs::read_to_string(self.machine.path("journal")).unwrap_or_default();
        journal.lines().filter(|line| line.starts_with("act-")).map(str::to_owned).collect()
    }

    /// It has done this, everything is settled, and the daemon leaves as it should.
    #[track_caller]
    fn ends(self, done: &[&str]) {
        self.hear("answer: m");
        assert_eq!(self.done(), done);
        assert!(comes_true(|| self.machine.is_settled()), "{:?}", self.machine.left());
        assert_eq!(self.machine.prompts("none"), [""; 0], "an answer is no prompt");
        self.daemon.signal(Signal::TERM);
        self.daemon.end().expect(0, &[]);
        let audit = fs::read_to_string(self.machine.state("audit.jsonl")).unwrap();
        for line in audit.lines() {
            serde_json::from_str::<Value>(line).expect(line);
        }
    }
}

const DONE: &str = "act-m-0 recorded";

fn an_answer(breaks: fn(&Machine, &str), mends: fn(&Machine, &str)) {
    let mut scene = Scene::new(json!({}));
    scene.machine.say("t", "m", "ask", None);
    let code = scene.question();
    breaks(&scene.machine, &scene.state);
    // It does not fit into what is left of the last block of a file, and the answer is behind it.
    scene.machine.say("another", &"x".repeat(5_000), "answer", None);
    scene.machine.write("t", &format!("approve {code}"));
    scene.daemon.line("can't store a reply");
    assert_eq!(scene.done(), [""; 0]);
    mends(&scene.machine, &scene.state);
    scene.hear("**Allowed**");
    scene.ends(&[DONE]);
}

isolated! {
    fn an_answer_on_a_full_disk_counts_when_it_is_kept() {
        an_answer(fill, empty);
    }
}

isolated! {
    fn an_answer_on_a_read_only_disk_counts_when_it_is_kept() {
        an_answer(freeze, thaw);
    }
}

isolated! {
    fn what_can_t_be_put_on_record_is_not_allowed() {
        let scene = Scene::new(json!({}));
        scene.machine.say("t", "m", "ask", None);
        let code = scene.question();
        let audit = format!("{}/audit.jsonl", scene.state);
        freeze(&scene.machine, &audit);
        let complaints = || {
            let said = scene.machine.said_if_any("t");
            said.iter().filter(|post| post.contains("can't be written down")).count()
        };
        // An answer that is being written down holds off the next one.
        for (before, word) in ["approve", "always"].into_iter().enumerate() {
            scene.machine.write("t", &format!("{word} {code}"));
            assert!(comes_true(|| before < complaints()), "{:?}", scene.machine.said_if_any("t"));
        }
        assert_eq!(scene.done(), [""; 0]);
        thaw(&scene.machine, &audit);
        scene.machine.write("t", &format!("approve {code}"));
        scene.hear("**Allowed**");
        scene.ends(&[DONE]);
    }
}

isolated! {
    /// A denial needs no record.
    fn a_refusal_counts_without_a_record() {
        let scene = Scene::new(json!({}));
        scene.machine.say("t", "m", "ask", None);
        scene.question();
        let audit = format!("{}/audit.jsonl", scene.state);
        freeze(&scene.machine, &audit);
        scene.machine.write("t", "no, it would break the build");
        scene.hear("**Refused**");
        thaw(&scene.machine, &audit);
        scene.ends(&[]);
    }
}

/// The engine asks, or acts by a rule, while nothing can be written.
fn a_question(more: Value, breaks: fn(&Machine, &str), mends: fn(&Machine, &str)) {
    let is_asked = more.get("permissions").is_none();
    let mut scene = Scene::new(more);
    scene.machine.say("t", "m", "waitask", None);
    assert!(comes_true(|| !scene.machine.prompts("m").is_empty()));
    breaks(&scene.machine, &scene.state);
    scene.machine.home.put("go", "");
    scene.daemon.line("cannot write to the state directory");
    assert_eq!(scene.machine.said_if_any("t"), [""; 0]);
    assert_eq!(scene.done(), [""; 0]);
    mends(&scene.machine, &scene.state);
    if is_asked {
        let code = scene.question();
        scene.machine.write("t", &format!("approve {code}"));
        scene.hear("**Allowed**");
    }
    scene.ends(&[DONE]);
}

isolated! {
    fn a_question_on_a_full_disk_is_put_when_it_is_kept() {
        a_question(json!({}), fill, empty);
    }
}

isolated! {
    fn what_a_rule_allows_waits_until_it_is_on_record() {
        a_question(json!({ "permissions": { "allow": ["run(act *)"] } }), freeze, thaw);
    }
}

isolated! {
    /// A turn that waited for the disk did not obey a person, nor its own limits.
    fn a_stop_does_not_wait_for_the_disk() {
        let mut scene = Scene::new(json!({ "permissions": { "allow": ["run(act *)"] } }));
        scene.machine.say("t", "m", "waitask", None);
        assert!(comes_true(|| !scene.machine.prompts("m").is_empty()));
        let audit = format!("{}/audit.jsonl", scene.state);
        RealDisk.write_atomic(audit.as_ref(), b"").unwrap();
        freeze(&scene.machine, &audit);
        scene.machine.home.put("go", "");
        scene.daemon.line("cannot write to the state directory");
        scene.machine.write("t", "/stop");
        scene.hear("Stopped.");
        thaw(&scene.machine, &audit);
        assert_eq!(scene.done(), [""; 0]);
        assert!(comes_true(|| scene.machine.is_settled()), "{:?}", scene.machine.left());
        scene.daemon.signal(Signal::TERM);
        scene.daemon.end().expect(0, &[]);
    }
}

isolated! {
    fn a_question_that_expires_without_a_disk_is_told_afterwards() {
        let mut scene = Scene::new(json!({ "relayTimeoutMs": 1000 }));
        scene.machine.say("t", "m", "ask", None);
        scene.question();
        freeze(&scene.machine, &scene.state);
        scene.daemon.line("cannot write to the state directory");
        thaw(&scene.machine, &scene.state);
        scene.hear("**Expired**");
        scene.ends(&[]);
    }
}
