//! The rules of the dispatcher, one by one. What they make up together is for the simulation.

use super::*;
use crate::ids::{Engine, TurnId};

/// A dispatcher for machine `me` and what it wanted last, as short words.
struct Bench {
    dispatch: Dispatch,
    now: Duration,
    entries: u64,
}

fn entry(sequence: u64) -> EntryId {
    EntryId { sequence, hash: 0 }
}

fn thread(name: &str) -> ThreadId {
    ThreadId::new(name)
}

/// `claim t`, `deliver t 1`, `done 1 Answered`.
fn words(effect: &Effect) -> String {
    match effect {
        Effect::Claim { thread } => format!("claim {thread}"),
        Effect::Bind { thread } => format!("bind {thread}"),
        Effect::StartWorker { thread } => format!("start {thread}"),
        Effect::Deliver { thread, entry, .. } => format!("deliver {thread} {}", entry.sequence),
        Effect::Retire { thread } => format!("retire {thread}"),
        Effect::Interrupt { entry } => format!("interrupt {}", entry.sequence),
        Effect::Control { thread, entry, order, .. } => {
            format!("control {thread} {} {order:?}", entry.sequence)
        }
        Effect::Done { entry, why, .. } => format!("done {} {why:?}", entry.sequence),
        Effect::Say { thread, entry, .. } => format!("say {thread} {}", entry.sequence),
    }
}

impl Bench {
    fn new(ours: &[&str]) -> Bench {
        let ours = ours.iter().map(|name| thread(name));
        let dispatch = Dispatch::new(MachineId::new("me"), ours);
        Bench { dispatch, now: Duration::ZERO, entries: 0 }
    }

    #[track_caller]
    fn check(&mut self, event: Event, expected: &str) {
        let mut effects = Vec::new();
        self.dispatch.step(self.now, event, &mut effects);
        let wanted: Vec<String> = effects.iter().map(words).collect();
        assert_eq!(wanted.join(", "), expected);
    }

    /// A message with the next entry number.
    fn message(&mut self, on: &str, id: &str, owner: Option<&str>) -> Event {
        self.entries += 1;
        let mut reply = Reply::parse(&format!(r#"{{"threadId":"{on}","messageId":"{id}"}}"#))
            .expect("it is a reply");
        reply.machine = owner.map(MachineId::new);
        let entry = entry(self.entries);
        Event::Inbound { entry, reply: Arc::new(reply), progress: None, is_seen: false }
    }

    #[track_caller]
    fn arrives(&mut self, on: &str, id: &str, owner: Option<&str>, expected: &str) {
        let event = self.message(on, id, owner);
        self.check(event, expected);
    }

    /// What a person says on a thread of ours, so many seconds after ten.
    #[track_caller]
    fn says(&mut self, on: &str, body: &str, second: u64, expected: &str) {
        let id = format!("m{}", self.entries);
        let Event::Inbound { entry, reply, progress, is_seen } = self.message(on, &id, None) else {
            unreachable!("it makes nothing else")
        };
        let created_at = Some(format!("2026-11-22T10:00:{second:02}Z"));
        let reply = Reply { body: body.to_owned(), created_at, ..(*reply).clone() };
        self.check(Event::Inbound { entry, reply: Arc::new(reply), progress, is_seen }, expected);
    }

    #[track_caller]
    fn claimed(&mut self, on: &str, outcome: ClaimOutcome, expected: &str) {
        self.check(Event::Claimed { thread: thread(on), outcome }, expected);
    }

    #[track_caller]
    fn finished(&mut self, on: &str, sequence: u64, expected: &str) {
        self.check(Event::Finished { thread: thread(on), entry: entry(sequence) }, expected);
    }

    #[track_caller]
    fn passes(&mut self, seconds: u64, expected: &str) {
        self.now += Duration::from_secs(seconds);
        self.check(Event::Tick, expected);
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
    bench.arrives("ours", "a", None, "start ours, deliver ours 1");
    bench.arrives("new", "b", Some("me"), "bind new, start new, deliver new 2");
    bench.arrives("other", "c", Some("you"), "done 3 NotOurs");
    bench.arrives("nobody's", "d", None, "claim nobody's");
}

#[test]
fn messages_are_held_together_until_the_claim_is_in() {
    let mut bench = Bench::new(&["ours"]);
    bench.arrives("t", "a", None, "claim t");
    bench.arrives("t", "b", None, "");
    bench.arrives("ours", "c", None, "start ours, deliver ours 3");
    bench.claimed("t", ClaimOutcome::Won, "bind t, start t, deliver t 1, deliver t 2");
    bench.arrives("u", "d", None, "claim u");
    bench.claimed("u", lost("you"), "done 4 NotOurs");
    bench.arrives("v", "e", None, "claim v");
    bench.claimed("v", lost("me"), "bind v, start v, deliver v 5");
    assert_eq!(bench.dispatch.outstanding(), 4);
}

#[test]
fn a_failed_claim_is_made_again_later_and_later() {
    let mut bench = Bench::new(&[]);
    bench.arrives("t", "a", None, "claim t");
    for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
        bench.claimed("t", failed(None), "");
        assert_eq!(bench.dispatch.next_deadline(), Some(bench.now + Duration::from_secs(seconds)));
        bench.passes(seconds - 1, "");
        bench.passes(1, "claim t");
    }
    for (asked, expected) in [(90, 90), (3, 60), (1_000_000, 300)] {
        bench.claimed("t", failed(Some(asked)), "");
        bench.passes(expected - 1, "");
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
    bench.passes(1, "");
    bench.claimed("a", lost("you"), "done 1 NotOurs, claim f");
    bench.claimed("b", lost("you"), "done 2 NotOurs, claim c");
}

#[test]
fn an_event_that_names_the_owner_settles_a_claim() {
    let mut bench = Bench::new(&[]);
    bench.arrives("t", "a", None, "claim t");
    bench.arrives("t", "b", Some("me"), "bind t, start t, deliver t 1, deliver t 2");
    bench.claimed("t", lost("you"), "");
    bench.arrives("u", "c", None, "claim u");
    bench.arrives("u", "d", Some("you"), "done 4 NotOurs");
    bench.claimed("u", failed(None), "");
    bench.arrives("u", "e", Some("you"), "done 3 NotOurs, done 5 NotOurs");
    assert_eq!(bench.dispatch.next_deadline(), None);
}

#[test]
fn an_answer_that_is_out_of_date_does_not_settle_a_new_claim() {
    let mut bench = Bench::new(&[]);
    bench.arrives("t", "a", None, "claim t");
    bench.arrives("t", "b", Some("me"), "bind t, start t, deliver t 1, deliver t 2");
    bench.arrives("t", "c", Some("you"), "done 3 NotOurs");
    bench.arrives("t", "d", None, "");
    bench.claimed("t", ClaimOutcome::Won, "claim t");
    bench.claimed("t", lost("you"), "done 4 NotOurs");
}

#[test]
fn a_message_is_driven_once() {
    let mut bench = Bench::new(&["t"]);
    bench.arrives("t", "a", None, "start t, deliver t 1");
    bench.arrives("t", "a", None, "done 2 Duplicate");
    bench.finished("t", 1, "done 1 Answered");
    bench.finished("t", 1, "");
    let Event::Inbound { entry, reply, progress, .. } = bench.message("t", "a", None) else {
        unreachable!("it makes nothing else")
    };
    bench.check(Event::Inbound { entry, reply, progress, is_seen: true }, "done 3 Duplicate");
}

#[test]
fn a_begun_turn_needs_no_claim() {
    let mut bench = Bench::new(&[]);
    let Event::Inbound { entry, reply, is_seen, .. } = bench.message("t", "a", None) else {
        unreachable!("it makes nothing else")
    };
    let progress = Some(Progress {
        turn: TurnId::new("turn"),
        engine: Engine::CLAUDE,
        session: None,
        attempts: 1,
        asking: Vec::new(),
        answers: None,
        is_answered: false,
    });
    let event = Event::Inbound { entry, reply, progress, is_seen };
    bench.check(event, "bind t, start t, deliver t 1");
}

#[test]
fn a_panic_costs_the_turn_and_nothing_else() {
    let mut bench = Bench::new(&["t"]);
    bench.arrives("t", "a", None, "start t, deliver t 1");
    bench.arrives("t", "b", None, "deliver t 2");
    bench.arrives("t", "c", None, "deliver t 3");
    let ended = || Event::WorkerEnded { thread: thread("t") };
    bench.finished("t", 2, "done 2 Answered");
    bench.check(ended(), "say t 1, done 1 Answered, start t, deliver t 3");
    bench.check(ended(), "say t 3, done 3 Answered");
    bench.check(ended(), "");
    bench.arrives("t", "d", None, "start t, deliver t 4");
}

#[test]
fn a_worker_goes_only_when_there_is_nothing_to_do() {
    let mut bench = Bench::new(&["t"]);
    let idle = || Event::Idle { thread: thread("t") };
    bench.arrives("t", "a", None, "start t, deliver t 1");
    bench.check(idle(), "");
    bench.finished("t", 1, "done 1 Answered");
    bench.check(idle(), "retire t");
    bench.arrives("t", "b", None, "");
    bench.check(Event::WorkerEnded { thread: thread("t") }, "start t, deliver t 2");
}

#[test]
fn a_refused_worker_is_started_later_with_all_that_is_for_it() {
    let mut bench = Bench::new(&["t"]);
    bench.arrives("t", "a", None, "start t, deliver t 1");
    bench.check(Event::WorkerRefused { thread: thread("t") }, "");
    bench.arrives("t", "b", None, "");
    bench.passes(1, "start t, deliver t 1, deliver t 2");
    bench.check(Event::WorkerRefused { thread: thread("t") }, "");
    bench.passes(1, "");
    bench.passes(1, "start t, deliver t 1, deliver t 2");
    bench.finished("t", 1, "done 1 Answered");
}

#[test]
fn after_a_stop_nothing_is_begun_and_what_ends_is_noted() {
    let mut bench = Bench::new(&["t"]);
    bench.arrives("t", "a", None, "start t, deliver t 1");
    bench.arrives("t", "b", None, "deliver t 2");
    bench.arrives("u", "c", None, "claim u");
    bench.check(Event::Stop, "");
    bench.arrives("t", "d", None, "");
    bench.claimed("u", ClaimOutcome::Won, "bind u");
    bench.finished("t", 1, "done 1 Answered");
    bench.check(Event::WorkerEnded { thread: thread("t") }, "");
    assert_eq!(bench.dispatch.next_deadline(), None);
}

/// As the debug output of the effect has it.
fn stopped(is_all: bool, had_turn: bool, cleared: usize, waiting: usize) -> String {
    format!("{:?}", Order::Stopped(Stopped { is_all, had_turn, cleared, waiting }))
}

#[test]
fn control_words_go_to_the_daemon_ahead_of_what_waits() {
    let mut bench = Bench::new(&["t"]);
    bench.says("t", "work", 1, "start t, deliver t 1");
    bench.says("t", "more", 2, "deliver t 2");
    bench.says("t", "/Status ", 3, "control t 3 Status");
    bench.says("t", "/queue", 4, "control t 4 Queue");
    bench.says("t", "/new", 5, "control t 5 New");
    bench.says("t", "/help", 6, "control t 6 Help");
    bench.says("t", "/compact", 7, "deliver t 7");
    assert_eq!(bench.dispatch.outstanding(), 7);
    let on = thread("t");
    let waiting = bench.dispatch.queue(&on).map(|(entry, _)| entry.sequence);
    assert_eq!(waiting.collect::<Vec<_>>(), [1, 2, 7]);
    bench.finished("t", 4, "done 4 Answered");
    bench.finished("t", 4, "");
    let Event::Inbound { reply, .. } = bench.message("t", "m2", None) else {
        unreachable!("it makes nothing else")
    };
    let again = Event::Inbound { entry: entry(8), reply, progress: None, is_seen: false };
    bench.check(again, "done 8 Duplicate");
}

#[test]
fn words_on_a_thread_without_an_owner_wait_for_the_claim() {
    let mut bench = Bench::new(&[]);
    bench.says("t", "/help", 1, "claim t");
    bench.says("t", "work", 2, "");
    bench.says("t", "/stop", 3, "");
    let won = "bind t, control t 1 Help, start t, deliver t 2, interrupt 2";
    bench.claimed("t", ClaimOutcome::Won, won);
    bench.says("u", "/stop all", 4, "claim u");
    bench.claimed("u", lost("you"), "done 4 NotOurs");
}

#[test]
fn a_stop_is_over_when_the_turn_is() {
    let mut bench = Bench::new(&["t"]);
    let nothing = format!("control t 1 {}", stopped(false, false, 0, 0));
    bench.says("t", "/stop", 1, &nothing);
    bench.finished("t", 1, "done 1 Answered");
    bench.says("t", "work", 2, "start t, deliver t 2");
    bench.says("t", "/stop", 3, "interrupt 2");
    bench.says("t", "/stop", 4, "interrupt 2");
    bench.finished("t", 2, "done 2 Answered, done 3 Answered, done 4 Answered");
    bench.says("t", "work", 5, "deliver t 5");
    bench.says("t", "more", 6, "deliver t 6");
    bench.says("t", "/stop", 7, "interrupt 5");
    let told = format!("done 5 Answered, control t 7 {}", stopped(false, true, 0, 1));
    bench.finished("t", 5, &told);
    bench.finished("t", 7, "done 7 Answered");
    assert_eq!(bench.dispatch.outstanding(), 1);
}

#[test]
fn a_stop_of_all_forgets_what_waits() {
    let mut bench = Bench::new(&["t"]);
    bench.says("t", "one", 1, "start t, deliver t 1");
    bench.says("t", "two", 2, "deliver t 2");
    bench.says("t", "three", 3, "deliver t 3");
    bench.says("t", "/stop all", 4, "done 2 Cleared, done 3 Cleared, interrupt 1");
    bench.says("t", "four", 5, "deliver t 5");
    let told = format!("done 1 Answered, control t 4 {}", stopped(true, true, 2, 1));
    bench.finished("t", 1, &told);
    bench.finished("t", 2, "");
    bench.says("t", "late", 3, "done 6 Cleared");
    bench.says("u", "elsewhere", 3, "claim u");
}

#[test]
fn a_stop_that_is_read_late_spares_what_is_newer() {
    let mut bench = Bench::new(&["t"]);
    bench.says("t", "new", 5, "start t, deliver t 1");
    bench.says("t", "old", 1, "deliver t 2");
    let spared = format!("control t 3 {}", stopped(false, false, 0, 2));
    bench.says("t", "/stop", 3, &spared);
    let told = format!("done 2 Cleared, control t 4 {}", stopped(true, false, 1, 1));
    bench.says("t", "/stop all", 4, &told);
}

#[test]
fn a_stop_reaches_a_message_that_no_worker_has() {
    let mut bench = Bench::new(&["t"]);
    bench.says("t", "work", 1, "start t, deliver t 1");
    bench.check(Event::WorkerRefused { thread: thread("t") }, "");
    bench.says("t", "/stop", 2, "");
    bench.passes(1, "start t, deliver t 1, interrupt 1");
    bench.finished("t", 1, "done 1 Answered, done 2 Answered");
}

#[test]
fn a_stop_is_over_when_the_worker_panics_or_the_program_ends() {
    let mut bench = Bench::new(&["t"]);
    bench.says("t", "work", 1, "start t, deliver t 1");
    bench.says("t", "more", 2, "deliver t 2");
    bench.says("t", "/stop", 3, "interrupt 1");
    let told = format!(
        "say t 1, done 1 Answered, control t 3 {}, start t, deliver t 2",
        stopped(false, true, 0, 1)
    );
    bench.check(Event::WorkerEnded { thread: thread("t") }, &told);
    bench.says("t", "rest", 4, "deliver t 4");
    bench.says("t", "/stop", 5, "interrupt 2");
    bench.check(Event::Stop, "");
    bench.finished("t", 2, "done 2 Answered, done 5 Answered");
}
