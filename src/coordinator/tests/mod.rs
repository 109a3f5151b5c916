//! The rules of the coordinator, one by one. What they make up together is for the simulation.

mod waiting;

use std::{collections::BTreeMap, sync::Arc};

use super::{catchup::ReadEnd, *};
use crate::{ids::TurnId, store::entry::Progress};

/// A coordinator for the machine `me`, with a disk that always works, and what it wanted last as
/// short words.
struct Bench {
    coordinator: Coordinator,
    disk: Disk,
    now: Duration,
    entries: u64,
    changes: u64,
    /// From when on the last history was to be read.
    reads_since: Option<Timestamp>,
}

#[derive(Default)]
struct Disk {
    done: HashSet<MessageId>,
    bindings: BTreeMap<ThreadId, Binding>,
}

impl View for Disk {
    fn is_done(&self, message: &MessageId) -> bool {
        self.done.contains(message)
    }

    fn binding(&self, thread: &ThreadId) -> Option<&Binding> {
        self.bindings.get(thread)
    }

    fn threads(&self) -> Vec<ThreadId> {
        let me = Some(MachineId::new("me"));
        let ours = self.bindings.iter().filter(|(_, binding)| binding.machine == me);
        ours.map(|(thread, _)| thread.clone()).collect()
    }

    fn engine(&self, _: &Reply) -> Engine {
        Engine::CLAUDE
    }

    fn writes_in(&self, _: &Reply) -> Option<PathBuf> {
        None
    }
}

fn entry(sequence: u64) -> EntryId {
    EntryId { sequence, hash: 0 }
}

fn thread(name: &str) -> ThreadId {
    ThreadId::new(name)
}

/// So many seconds after ten.
fn at(second: u64) -> Timestamp {
    Timestamp::parse("2026-11-22T10:00:00Z").unwrap().plus(Duration::from_secs(second))
}

fn progress() -> Progress {
    Progress {
        turn: TurnId::new("turn"),
        engine: Engine::CLAUDE,
        session: None,
        attempts: 1,
        asking: Vec::new(),
        answers: None,
        is_answered: false,
    }
}

fn words(effect: &Effect) -> Option<String> {
    Some(match effect {
        Effect::Claim { thread } => format!("claim {thread}"),
        Effect::Change { thread, change: Change::Own { .. }, .. } => format!("own {thread}"),
        Effect::Begin(Begin { thread, entry, .. }) => format!("begin {thread} {}", entry.sequence),
        Effect::Interrupt { entry } => format!("interrupt {}", entry.sequence),
        Effect::Put { post, .. } => {
            format!("say {} {:?}", post.thread_id, post.body.lines().next().unwrap())
        }
        Effect::Remember { message } => format!("done {message}"),
        Effect::Remove { entries } => {
            let entries: Vec<_> = entries.iter().map(|it| it.sequence.to_string()).collect();
            format!("remove {}", entries.join("+"))
        }
        Effect::ReadHistory(reading) => format!("read {}", reading.thread),
        Effect::SetAside { entry, is_aside: true } => format!("aside {}", entry.sequence),
        Effect::SetAside { entry, is_aside: false } => format!("back {}", entry.sequence),
        _ => return None,
    })
}

impl Bench {
    /// `ours` are the threads of this machine. It is connected to a bridge that replays, at ten.
    fn new(ours: &[&str]) -> Bench {
        let mut bench = Bench::unconnected(ours);
        bench.connects(Replay::Complete, "");
        bench
    }

    fn unconnected(ours: &[&str]) -> Bench {
        let settings = Settings {
            machine: MachineId::new("me"),
            author: "claude-bridge".to_owned(),
            max_turns: 3,
            parallel_in_directory: false,
            offline_max_age: Duration::from_hours(24),
            project_dir: "/p".to_owned(),
            has_lost_bindings: false,
            leave: LeaveRules::default(),
        };
        let cursor = Cursor { seen_until: Some(at(0)), ..Cursor::default() };
        let mut disk = Disk::default();
        for name in ours {
            disk.bindings.insert(thread(name), Binding::new(MachineId::new("me"), at(0)));
        }
        let bound = ours.iter().map(|name| (thread(name), Vec::new()));
        let coordinator = Coordinator::new(settings, cursor, bound);
        Bench { coordinator, disk, now: Duration::ZERO, entries: 0, changes: 0, reads_since: None }
    }

    #[track_caller]
    fn check(&mut self, event: Event, expected: &str) {
        let mut said = Vec::new();
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            let mut effects = Vec::new();
            let now = Now { running: self.now, wall: at(self.now.as_secs()) };
            self.coordinator.step(now, event, &self.disk, &mut effects);
            said.extend(effects.iter().filter_map(words));
            for effect in effects {
                match effect {
                    Effect::Put { post, finishes, .. } => {
                        events.push(Event::Put { thread: post.thread_id, finishes });
                    }
                    Effect::Remember { message } => drop(self.disk.done.insert(message)),
                    Effect::Change { thread, change, number } => {
                        let me = MachineId::new("me");
                        let new = || Binding::new(me.clone(), at(0));
                        let binding = self.disk.bindings.entry(thread).or_insert_with(new);
                        change.apply(binding, &me);
                        self.changes = number;
                    }
                    Effect::SaveCursor { number, .. } => self.changes = number,
                    Effect::ReadHistory(reading) => self.reads_since = Some(reading.since),
                    _ => {}
                }
            }
            if events.is_empty() && self.changes > 0 {
                events.push(Event::Written { change: std::mem::take(&mut self.changes) });
            }
        }
        assert_eq!(said.join(", "), expected);
    }

    /// A message with the next entry number.
    fn message(&mut self, on: &str, id: &str, body: &str, second: u64) -> (EntryId, Arc<Reply>) {
        self.entries += 1;
        let value = serde_json::json!({
            "threadId": on, "messageId": id, "body": body, "createdAt": at(second).to_string(),
        });
        (entry(self.entries), Arc::new(Reply::parse(&value.to_string()).unwrap()))
    }

    /// A message of which the bridge says who owns its thread.
    #[track_caller]
    fn arrives(&mut self, on: &str, id: &str, owner: Option<&str>, expected: &str) {
        let (entry, reply) = self.message(on, id, "work", 1);
        let machine = owner.map(MachineId::new);
        let reply = Arc::new(Reply { machine, ..(*reply).clone() });
        self.check(Event::Reply { entry, reply, last_event_id: None }, expected);
    }

    /// What a person writes so many seconds after ten. Its id is `m` and the entry's number.
    #[track_caller]
    fn says(&mut self, on: &str, body: &str, second: u64, expected: &str) {
        let id = format!("m{}", self.entries + 1);
        let (entry, reply) = self.message(on, &id, body, second);
        self.check(Event::Reply { entry, reply, last_event_id: None }, expected);
    }

    /// The same, found in a history.
    #[track_caller]
    fn is_found(&mut self, on: &str, number: u64, id: &str, second: u64, expected: &str) {
        let (entry, reply) = self.message(on, id, "work", second);
        self.check(Event::Found { entry, reply, number }, expected);
    }

    #[track_caller]
    fn is_read(&mut self, on: &str, number: u64, end: ReadEnd, expected: &str) {
        self.check(Event::Read { thread: thread(on), number, end }, expected);
    }

    /// What an earlier process left.
    #[track_caller]
    fn recovers(&mut self, on: &str, second: u64, progress: Option<Progress>, expected: &str) {
        self.recovers_with(on, second, progress, false, expected);
    }

    /// `has_answer`: its last post is in the outbox.
    #[track_caller]
    fn recovers_with(
        &mut self,
        on: &str,
        second: u64,
        progress: Option<Progress>,
        has_answer: bool,
        expected: &str,
    ) {
        let id = format!("m{}", self.entries + 1);
        let (entry, reply) = self.message(on, &id, "work", second);
        let recovered = Recovered { entry, reply, progress, has_answer, session: None };
        self.check(Event::Recovered(vec![recovered]), expected);
    }

    #[track_caller]
    fn connects(&mut self, replay: Replay, expected: &str) {
        let server_time = Some(at(self.now.as_secs()));
        self.check(Event::Connected { replay, server_time, last_event_id: None }, expected);
    }

    #[track_caller]
    fn claimed(&mut self, on: &str, outcome: ClaimOutcome, expected: &str) {
        self.check(Event::Claimed { thread: thread(on), outcome }, expected);
    }

    #[track_caller]
    fn answered(&mut self, on: &str, sequence: u64, expected: &str) {
        self.check(Event::Answered { thread: thread(on), entry: entry(sequence) }, expected);
    }

    #[track_caller]
    fn left(&mut self, on: &str, sequence: u64, expected: &str) {
        self.check(Event::Left { thread: thread(on), entry: entry(sequence) }, expected);
    }

    #[track_caller]
    fn passes(&mut self, millis: u64, expected: &str) {
        self.now += Duration::from_millis(millis);
        self.check(Event::Tick, expected);
    }

    fn seen_until(&self) -> Option<Timestamp> {
        self.coordinator.cursor().seen_until
    }
}

fn failed(retry_after: Option<u64>) -> ClaimOutcome {
    ClaimOutcome::Failed { retry_after: retry_after.map(Duration::from_secs) }
}

fn lost(winner: &str) -> ClaimOutcome {
    ClaimOutcome::Lost { winner: Some(MachineId::new(winner)) }
}

#[test]
fn the_owner_decides_who_acts() {
    let mut bench = Bench::new(&["ours"]);
    bench.arrives("ours", "a", None, "begin ours 1");
    bench.arrives("new", "b", Some("me"), "own new, begin new 2");
    bench.arrives("other", "c", Some("you"), "");
    bench.arrives("nobody's", "d", None, "claim nobody's");
    bench.passes(20, "remove 3");
}

#[test]
fn messages_are_held_together_until_the_claim_is_in() {
    let mut bench = Bench::new(&["ours"]);
    bench.arrives("t", "a", None, "claim t");
    bench.arrives("t", "b", None, "");
    bench.arrives("ours", "c", None, "begin ours 3");
    bench.claimed("t", ClaimOutcome::Won, "own t, begin t 1");
    bench.arrives("u", "d", None, "claim u");
    bench.claimed("u", lost("you"), "");
    bench.arrives("v", "e", None, "claim v");
    bench.claimed("v", lost("me"), "own v, begin v 5");
    assert_eq!(bench.coordinator.outstanding(), 4);
}

#[test]
fn a_failed_claim_is_made_again_later_and_later() {
    let mut bench = Bench::new(&[]);
    bench.arrives("t", "a", None, "claim t");
    for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
        bench.claimed("t", failed(None), "");
        bench.passes(seconds * 1_000 - 1, "");
        bench.passes(1, "claim t");
    }
    for (asked, expected) in [(90, 90), (3, 60), (1_000_000, 300)] {
        bench.claimed("t", failed(Some(asked)), "");
        bench.passes(expected * 1_000 - 1, "");
        bench.passes(1, "claim t");
    }
}

#[test]
fn claims_are_few_at_a_time_and_first_come_first_served() {
    let mut bench = Bench::new(&[]);
    for name in ["a", "b", "c", "d"] {
        bench.arrives(name, name, None, &format!("claim {name}"));
    }
    bench.arrives("e", "e", None, "");
    bench.arrives("f", "f", None, "");
    bench.claimed("c", failed(None), "claim e");
    bench.passes(1_000, "");
    bench.claimed("a", lost("you"), "claim f");
    bench.claimed("b", lost("you"), "claim c");
}

#[test]
fn an_event_that_names_the_owner_settles_a_claim() {
    let mut bench = Bench::new(&[]);
    bench.arrives("t", "a", None, "claim t");
    bench.arrives("t", "b", Some("me"), "own t, begin t 1");
    bench.claimed("t", lost("you"), "");
    bench.arrives("u", "c", None, "claim u");
    bench.arrives("u", "d", Some("you"), "");
    bench.claimed("u", failed(None), "");
    bench.arrives("u", "e", Some("you"), "");
    assert_eq!(bench.coordinator.outstanding(), 2);
}

#[test]
fn an_answer_that_is_out_of_date_does_not_settle_a_new_claim() {
    let mut bench = Bench::new(&[]);
    bench.arrives("t", "a", None, "claim t");
    bench.arrives("t", "b", Some("me"), "own t, begin t 1");
    bench.arrives("t", "c", Some("you"), "");
    bench.arrives("t", "d", None, "");
    bench.claimed("t", ClaimOutcome::Won, "claim t");
    bench.claimed("t", lost("you"), "");
}

#[test]
fn a_message_is_driven_once() {
    let mut bench = Bench::new(&["t"]);
    bench.arrives("t", "a", None, "begin t 1");
    bench.arrives("t", "a", None, "");
    bench.answered("t", 1, "done a, remove 2+1");
    bench.answered("t", 1, "");
    bench.left("t", 1, "");
    bench.arrives("t", "a", None, "remove 3");
}

#[test]
fn the_next_turn_of_a_thread_begins_when_the_engine_has_left() {
    let mut bench = Bench::new(&["t"]);
    bench.arrives("t", "a", None, "begin t 1");
    bench.arrives("t", "b", None, "");
    bench.answered("t", 1, "done a");
    bench.passes(20, "remove 1");
    bench.left("t", 1, "begin t 2");
}

#[test]
fn a_begun_turn_needs_neither_claim_nor_connection() {
    let mut bench = Bench::unconnected(&[]);
    bench.recovers("t", 1, Some(progress()), "own t, begin t 1");
}

/// The crash came between the last post of a turn that asked, and the ends of its questions.
#[test]
fn questions_of_an_answered_message_have_an_end() {
    let mut bench = Bench::new(&["t"]);
    let asking = vec!["R3Z5".to_owned(), "K7M2".to_owned()];
    let progress = Some(Progress { asking, ..progress() });
    let [first, second] = ["R3Z5", "K7M2"]
        .map(|code| format!("say t \"Question `{code}` ended with the turn that asked it.\""));
    // The entry goes last: a crash before that says it again under the same names.
    let expected = format!("done m1, read t, {first}, {second}, remove 1");
    bench.recovers_with("t", 1, progress, true, &expected);
}

#[test]
fn a_panic_costs_the_turn_and_nothing_else() {
    let mut bench = Bench::new(&["t"]);
    bench.arrives("t", "a", None, "begin t 1");
    bench.arrives("t", "b", None, "");
    let said = "say t \"The daemon failed while it worked on your message (its log says why). What \
        the agent had done until then stays done. Send the message again if you want another try.\"";
    bench.left("t", 1, &format!("begin t 2, {said}, done a"));
    bench.left("t", 1, "");
    bench.answered("t", 2, "done b, remove 1+2");
}

#[test]
fn a_turn_without_room_begins_later() {
    let mut bench = Bench::new(&["t"]);
    bench.arrives("t", "a", None, "begin t 1");
    let refused = || Event::NotBegun { thread: thread("t"), entry: entry(1) };
    bench.check(refused(), "");
    bench.arrives("t", "b", None, "");
    bench.passes(999, "");
    bench.passes(1, "begin t 1");
    bench.check(refused(), "");
    bench.passes(1_999, "");
    bench.passes(1, "begin t 1");
    bench.answered("t", 1, "done a");
}

#[test]
fn after_a_stop_nothing_is_begun_and_what_ends_is_noted() {
    let mut bench = Bench::new(&["t"]);
    bench.arrives("t", "a", None, "begin t 1");
    bench.arrives("t", "b", None, "");
    bench.arrives("u", "c", None, "claim u");
    bench.check(Event::Stop, "");
    bench.claimed("u", ClaimOutcome::Won, "own u");
    bench.answered("t", 1, "done a, remove 1");
    bench.left("t", 1, "");
    assert_eq!(bench.coordinator.turns(), 0);
}

#[test]
fn a_turn_that_a_stop_of_the_program_cuts_off_is_not_said_to_have_failed() {
    let mut bench = Bench::new(&["t"]);
    bench.arrives("t", "a", None, "begin t 1");
    bench.check(Event::Stop, "");
    bench.left("t", 1, "");
}

#[test]
fn control_words_are_answered_ahead_of_what_waits() {
    let mut bench = Bench::new(&["t"]);
    bench.says("t", "work", 1, "begin t 1");
    bench.says("t", "more", 2, "");
    bench.says("t", "/Status ", 3, "say t \"claude has been running for 0 s.\", done m3");
    bench.says(
        "t",
        "/queue",
        4,
        "say t \"1 message waits on this thread, oldest first:\", done m4",
    );
    bench.says("t", "/compact", 7, "");
    assert_eq!(bench.coordinator.outstanding(), 3);
}

#[test]
fn words_on_a_thread_without_an_owner_wait_for_the_claim() {
    let mut bench = Bench::new(&[]);
    bench.says("t", "/queue", 1, "claim t");
    bench.says("u", "/stop all", 4, "claim u");
    bench.claimed(
        "t",
        ClaimOutcome::Won,
        "own t, say t \"No message waits on this thread.\", done m1",
    );
    bench.claimed("u", lost("you"), "remove 1+2");
}

#[test]
fn a_stop_is_over_when_the_turn_is() {
    let mut bench = Bench::new(&["t"]);
    let nothing = "say t \"Nothing is running on this thread.\", done m1, remove 1";
    bench.says("t", "/stop", 1, nothing);
    bench.says("t", "work", 2, "begin t 2");
    bench.says("t", "/stop", 3, "interrupt 2");
    bench.says("t", "/stop", 4, "interrupt 2");
    bench.answered("t", 2, "done m2, done m3, done m4, remove 2+3+4");
    bench.left("t", 2, "");
    bench.says("t", "work", 5, "begin t 5");
    bench.says("t", "more", 6, "");
    bench.says("t", "/stop", 7, "interrupt 5");
    bench.answered("t", 5, "done m5, say t \"1 message waits; it begins now.\", done m7");
    bench.left("t", 5, "begin t 6");
}

#[test]
fn a_stop_of_all_drops_what_waits() {
    let mut bench = Bench::new(&["t"]);
    bench.says("t", "one", 1, "begin t 1");
    bench.says("t", "two", 2, "");
    bench.says("t", "three", 3, "");
    bench.says("t", "/stop all", 4, "done m2, done m3, interrupt 1");
    bench.says("t", "four", 5, "");
    let told =
        "2 waiting messages are dropped; none of them will run. 1 message waits; it begins now.";
    bench.answered("t", 1, &format!("done m1, say t {told:?}, done m4"));
    bench.says("t", "late", 3, "done m6");
    bench.says("u", "elsewhere", 3, "claim u");
}

#[test]
fn a_stop_that_is_read_late_does_not_affect_newer_messages() {
    let mut bench = Bench::new(&["t"]);
    bench.says("t", "new", 5, "begin t 1");
    bench.says("t", "old", 1, "");
    let said = "Nothing was stopped: what runs here now was written after this stop.";
    bench.says("t", "/stop", 3, &format!("say t {said:?}, done m3"));
}

#[test]
fn a_stop_ends_a_message_whose_turn_has_not_begun() {
    let mut bench = Bench::new(&["t"]);
    bench.says("t", "work", 1, "begin t 1");
    bench.check(Event::NotBegun { thread: thread("t"), entry: entry(1) }, "");
    bench.says("t", "/stop", 2, "say t \"Stopped before it began.\", done m1, done m2, remove 1+2");
    bench.passes(60_000, "");
}
