//! The desk against a witness who only keeps a list of what happened, whatever happens in which
//! order: nothing is ever allowed but by the rules.

use proptest::prelude::*;

use super::{
    tests::{asked, options},
    *,
};
use crate::agent::QuestionId;

const THREADS: [&str; 2] = ["one", "two"];

/// The local and the server's clock at the start; they have nothing to do with each other.
const WALL: u64 = 1_800_000_000_000;
const SERVER: u64 = 1_700_000_000_000;

/// What people say. `CODE` and `code` are replaced; the other codes are nobody's or look right.
const TEXTS: [&str; 46] = [
    "approve",
    "yes",
    "Allow",
    "always",
    "approve CODE",
    "approve CODE",
    "approve CODE",
    "yes code",
    "ALLOW CODE!",
    "always CODE",
    "deny",
    "no",
    "deny CODE",
    "deny CODE because approve CODE",
    "CODE 1",
    "CODE 2",
    "CODE beta",
    "CODE",
    "CODE approve",
    "CODE yes",
    "1",
    "2",
    "3",
    "alpha",
    " beta ",
    "CODE 3",
    "approve X9X9",
    "approve К7Q2",
    "аpprove",
    "аpprove CODE",
    "approve it",
    "please approve CODE",
    "approve CODE please",
    "approve\u{a0}CODE",
    "approve\u{200b}",
    "CODE: approve",
    "`approve`",
    "approve?",
    "/approve",
    "yes and no",
    "",
    "continue",
    "fix the README",
    "approve\nCODE",
    "1, 2",
    "approve CODE CODE",
];

#[derive(Clone, Debug)]
enum Step {
    Ask {
        thread: usize,
        id: u8,
        is_choice: bool,
        has_rule: bool,
        limit: u64,
    },
    /// The post of one of the questions is stored, at the server's time or at none.
    Posted {
        which: usize,
        has_time: bool,
    },
    Say {
        thread: usize,
        text: usize,
        which: usize,
        written: Written,
        is_live: bool,
        repeats: bool,
    },
    /// Seconds that the machine is awake, that its clock is set on by, and that pass on the server.
    Pass {
        running: u64,
        wall: i64,
        server: u64,
    },
    Expire,
    Confirm {
        taken: bool,
    },
    Gone {
        which: usize,
    },
    TurnEnds {
        thread: usize,
    },
    Restart,
}

/// When a message was written by the server's clock.
#[derive(Clone, Copy, Debug)]
enum Written {
    Unknown,
    Now,
    /// Seconds ago, or to come.
    Off(i64),
    /// In the same moment as the post of the question that is meant.
    AtPost,
}

fn step() -> impl Strategy<Value = Step> {
    let written = prop_oneof![
        1 => Just(Written::Unknown),
        6 => Just(Written::Now),
        2 => (-90..120_i64).prop_map(Written::Off),
        1 => Just(Written::AtPost),
    ];
    let text = prop_oneof![0..10_usize, 0..TEXTS.len()];
    let say = (0..2_usize, text, 0..6_usize, written, 0..8_u8, 0..10_u8).prop_map(
        |(thread, text, which, written, live, repeats)| Step::Say {
            thread,
            text,
            which,
            written,
            is_live: live > 0,
            repeats: repeats == 0,
        },
    );
    let ask = (0..2_usize, 0..3_u8, 0..4_u8, any::<bool>(), 20..120_u64).prop_map(
        |(thread, id, choice, has_rule, limit)| Step::Ask {
            thread,
            id,
            is_choice: choice == 0,
            has_rule,
            limit,
        },
    );
    prop_oneof![
        5 => ask,
        6 => (0..6_usize, 0..6_u8).prop_map(|(which, time)| Step::Posted { which, has_time: time > 0 }),
        14 => say,
        3 => (0..25_u64, -10..25_i64, 0..25_u64)
            .prop_map(|(running, wall, server)| Step::Pass { running, wall, server }),
        1 => Just(Step::Expire),
        4 => (0..5_u8).prop_map(|taken| Step::Confirm { taken: taken > 0 }),
        1 => (0..6_usize).prop_map(|which| Step::Gone { which }),
        1 => (0..2_usize).prop_map(|thread| Step::TurnEnds { thread }),
        1 => Just(Step::Restart),
    ]
}

/// What the witness wrote down about a question.
#[derive(Clone, Debug)]
struct Noted {
    thread: usize,
    turn: u32,
    id: u8,
    code: Code,
    is_choice: bool,
    has_rule: bool,
    limit: u64,
    /// Seconds, by the two local clocks.
    running: u64,
    wall: u64,
    is_posted: bool,
    /// By the server's clock, if it said so.
    posted: Option<u64>,
    is_open: bool,
    /// An older one ended while this was open, and nobody had answered it.
    is_unclear: bool,
}

#[derive(Clone, Debug)]
struct Message {
    thread: usize,
    id: String,
    text: String,
    written: Option<u64>,
    is_live: bool,
}

/// The whole scene: the desk, the clocks in milliseconds, and the witness's notes.
struct World {
    desk: Desk<Message>,
    running: u64,
    wall: u64,
    server: u64,
    turns: [u32; 2],
    notes: Vec<Noted>,
    said: Vec<Message>,
    used: Vec<String>,
    /// Those of earlier daemons: their journal of done messages has them, so no desk hears them again.
    settled: Vec<String>,
    waiting: Vec<Decision>,
    allowed: usize,
}

impl World {
    fn new() -> World {
        World {
            desk: Desk::default(),
            running: 0,
            wall: WALL,
            server: SERVER,
            turns: [0, 1],
            notes: Vec::new(),
            said: Vec::new(),
            used: Vec::new(),
            settled: Vec::new(),
            waiting: Vec::new(),
            allowed: 0,
        }
    }

    fn now(&self) -> Now {
        Now {
            running: Duration::from_millis(self.running),
            wall: Timestamp::from_millis(self.wall),
        }
    }

    /// The latest questions, so that most codes are of use.
    fn pick(&self, which: usize) -> Option<usize> {
        self.notes.len().checked_sub(1 + which)
    }

    fn close(&mut self, closed: &[Closed<Message>]) {
        for closed in closed {
            let at = self.notes.iter().position(|note| note.code == closed.asked.code);
            let at = at.expect("it was asked");
            self.notes[at].is_open = false;
            let thread = self.notes[at].thread;
            if closed.answer.is_none() {
                for younger in &mut self.notes[at + 1..] {
                    younger.is_unclear |= younger.thread == thread;
                }
            }
        }
    }

    fn take(&mut self, step: Step) {
        // Things take a moment.
        self.running += 10;
        self.wall += 10;
        self.server += 10;
        match step {
            Step::Ask { thread, id, is_choice, has_rule, limit } => {
                self.ask(thread, id, is_choice, has_rule, limit);
            }
            Step::Posted { which, has_time } => {
                if let Some(at) = self.pick(which) {
                    let server = self.server;
                    let note = &mut self.notes[at];
                    if !note.is_posted {
                        note.is_posted = true;
                        note.posted = has_time.then_some(server);
                    }
                    let post = ClientMsgId::new(format!("post {}", note.code));
                    let at = has_time.then(|| Timestamp::from_millis(server));
                    self.desk.posted(&post, at);
                }
            }
            Step::Say { thread, text, which, written, is_live, repeats } => {
                self.say(thread, text, which, written, is_live, repeats);
            }
            Step::Pass { running, wall, server } => {
                self.running += running * 1_000;
                self.wall = self.wall.saturating_add_signed(wall * 1_000);
                self.server += server * 1_000;
            }
            Step::Expire => {
                let closed = self.desk.expire(self.now());
                for closed in &closed {
                    assert!(matches!(closed.verdict, Some(Verdict::Deny { .. })));
                }
                self.close(&closed);
                assert!(self.desk.due(self.now()).is_none_or(|due| !due.is_zero()));
            }
            Step::Confirm { taken } => {
                if let Some(decision) = self.waiting.pop() {
                    let closed = self.desk.confirmed(&decision.key, taken);
                    if let Some(closed) = &closed {
                        assert_eq!(closed.verdict, taken.then_some(decision.verdict));
                    }
                    self.close(closed.as_slice());
                }
            }
            Step::Gone { which } => {
                if let Some(at) = self.pick(which) {
                    let note = &self.notes[at];
                    let (thread, turn) = (id_of(note.thread), turn_of(note.turn));
                    let id = QuestionId(note.id.to_string());
                    let closed = self.desk.gone(&thread, &turn, &id);
                    self.close(closed.as_slice());
                }
            }
            Step::TurnEnds { thread } => {
                let closed = self.desk.turn_ended(&id_of(thread), &turn_of(self.turns[thread]));
                self.close(&closed);
                self.turns[thread] += 2;
            }
            Step::Restart => self.restart(),
        }
        self.hear_released();
    }

    fn ask(&mut self, thread: usize, id: u8, is_choice: bool, has_rule: bool, limit: u64) {
        let code = Code::from_seed(u32::try_from(self.notes.len()).unwrap());
        let turn = self.turns[thread];
        let mut asked = asked(THREADS[thread], turn_of(turn).as_str(), &id.to_string(), code);
        asked.always = has_rule.then(|| "run(echo*)".to_owned());
        asked.asked_at = Timestamp::from_millis(self.wall);
        asked.limit = Duration::from_secs(limit);
        if is_choice {
            asked.question.choices = vec![options(&["alpha", "beta"])];
        }
        let closed = self.desk.ask(asked, self.now());
        self.close(&closed);
        let (running, wall) = (self.running, self.wall);
        self.notes.push(Noted {
            thread,
            turn,
            id,
            code,
            is_choice,
            has_rule,
            limit,
            running,
            wall,
            is_posted: false,
            posted: None,
            is_open: true,
            is_unclear: false,
        });
    }

    fn say(
        &mut self,
        thread: usize,
        text: usize,
        which: usize,
        written: Written,
        is_live: bool,
        repeats: bool,
    ) {
        if repeats && let Some(message) = self.said.last().cloned() {
            self.hear(message);
            return;
        }
        let code = self.pick(which).map_or("B2B2".to_owned(), |at| self.notes[at].code.to_string());
        // Mostly on the thread of the question that is meant.
        let meant = self.pick(which).map(|at| self.notes[at].thread);
        let thread = meant.filter(|_| text % 8 != 3).unwrap_or(thread);
        let text = TEXTS[text].replace("CODE", &code).replace("code", &code.to_lowercase());
        let written = match written {
            Written::Unknown => None,
            Written::Now => Some(self.server),
            Written::AtPost => self.pick(which).and_then(|at| self.notes[at].posted),
            Written::Off(secs) => Some(self.server.saturating_add_signed(secs * 1_000)),
        };
        let message =
            Message { thread, id: format!("m{}", self.said.len()), text, written, is_live };
        self.said.push(message.clone());
        self.hear(message);
    }

    fn hear_released(&mut self) {
        for _ in 0..3 {
            for message in self.desk.released(self.now()) {
                self.hear(message);
            }
        }
    }

    /// The daemon starts anew: what is open is lost, what was said is found in the inbox.
    fn restart(&mut self) {
        self.desk = Desk::default();
        self.settled.clone_from(&self.used);
        self.waiting.clear();
        for (thread, name) in THREADS.iter().enumerate() {
            let lost = self.notes.iter().filter(|note| note.is_open && note.thread == thread);
            let codes: Vec<Code> = lost.map(|note| note.code).collect();
            self.desk.died(&ThreadId::new(*name), &codes);
        }
        self.notes.iter_mut().for_each(|note| note.is_open = false);
        for message in self.said.iter().rev().take(3).cloned().collect::<Vec<_>>() {
            self.hear(Message { is_live: false, ..message });
        }
    }

    fn hear(&mut self, message: Message) {
        if self.settled.contains(&message.id) {
            return;
        }
        let (thread, id) = (id_of(message.thread), MessageId::new(message.id.as_str()));
        let heard = Heard {
            thread: &thread,
            id: Some(&id),
            author: Some("ann"),
            text: &message.text,
            written: message.written.map(Timestamp::from_millis),
            how: if message.is_live { How::Live } else { How::CaughtUp },
        };
        let must = self.must_allow(&message);
        match self.desk.hear(&heard, &message, self.now()) {
            Hearing::Decide(decision) => {
                assert!(
                    must.is_none_or(|code| code == decision.key.code),
                    "{message:?}: {decision:?}"
                );
                self.judge(&message, &decision);
                let note = self.notes.iter_mut().find(|note| note.code == decision.key.code);
                note.unwrap().is_open = false;
                self.used.push(message.id);
                self.waiting.push(decision);
            }
            other => assert_eq!(must, None, "{message:?} must be taken, not: {other:?}"),
        }
    }

    /// A code that must be allowed now, so that a desk that never allows does not pass.
    fn must_allow(&self, message: &Message) -> Option<Code> {
        let name = message.text.strip_prefix("approve ")?;
        let at = self.notes.iter().position(|note| note.code.to_string() == name)?;
        let note = &self.notes[at];
        let is_fine = note.thread == message.thread
            && !note.is_choice
            && message.is_live
            && !self.used.contains(&message.id)
            && message.id == format!("m{}", self.said.len() - 1)
            && self.is_open(at)
            && message.written == Some(self.server)
            && note.posted.is_none_or(|at| self.server <= at + note.limit * 1_000);
        // The last one may have been said before and got a reply.
        let is_new = self.said.iter().filter(|said| said.id == message.id).count() == 1
            && !self.desk_has_heard(message);
        (is_fine && is_new).then_some(note.code)
    }

    fn desk_has_heard(&self, message: &Message) -> bool {
        let id = MessageId::new(message.id.as_str());
        let thread = self.desk.threads.get(&id_of(message.thread));
        thread.is_some_and(|thread| thread.is_repeated(&id))
    }

    fn is_open(&self, at: usize) -> bool {
        let note = &self.notes[at];
        let limit = note.limit * 1_000;
        note.is_open && self.running < note.running + limit && self.wall < note.wall + limit
    }

    /// What the witness says to a decision.
    fn judge(&mut self, message: &Message, decision: &Decision) {
        let Some(at) = self.notes.iter().position(|note| note.code == decision.key.code) else {
            panic!("{decision:?} is of no question");
        };
        let note = &self.notes[at];
        assert!(message.is_live, "while catching up: {message:?}");
        assert_eq!(message.thread, note.thread, "another thread's: {message:?}");
        assert_eq!(decision.key.turn, turn_of(note.turn));
        assert_eq!(decision.key.question.0, note.id.to_string());
        assert!(self.is_open(at), "{message:?} for {note:?} at {} {}", self.running, self.wall);
        assert!(!self.used.contains(&message.id), "once more: {message:?}");
        if matches!(decision.verdict, Verdict::Deny { .. }) {
            return;
        }
        let is_named = Self::judge_form(message, note, &decision.verdict);
        let times = (message.written, note.posted);
        match times {
            (Some(written), Some(posted)) => {
                assert!(
                    posted < written || (is_named && posted == written),
                    "before: {message:?} {note:?}"
                );
                assert!(written <= posted + note.limit * 1_000, "too late: {message:?} {note:?}");
            }
            _ => assert!(is_named, "nothing proves when: {message:?} {note:?}"),
        }
        if !is_named {
            assert!(!note.is_unclear, "which one is meant? {message:?} {note:?}");
            let older = (0..at).filter(|older| self.notes[*older].thread == note.thread);
            let open: Vec<_> = older.filter(|older| self.is_open(*older)).collect();
            assert_eq!(open, Vec::<usize>::new(), "not the oldest: {message:?} {note:?}");
        }
        self.allowed += 1;
    }

    /// Whether the text is one of those that allow this; whether it names the question.
    fn judge_form(message: &Message, note: &Noted, verdict: &Verdict) -> bool {
        let code = note.code.to_string();
        let said = message.text.trim_matches([' ', '\n']).to_ascii_uppercase();
        let said = said.trim_end_matches('!');
        let (is_named, words) = if note.is_choice {
            match said.strip_prefix(&format!("{code} ")) {
                Some(words) => (true, words),
                None => (false, said),
            }
        } else {
            match said.strip_suffix(&format!(" {code}")) {
                Some(words) => (true, words),
                None => (false, said),
            }
        };
        let expected = match words {
            "1" | "ALPHA" if note.is_choice => Verdict::Chosen(vec![vec!["alpha".to_owned()]]),
            "2" | "BETA" if note.is_choice => Verdict::Chosen(vec![vec!["beta".to_owned()]]),
            "APPROVE" | "YES" | "ALLOW" if !note.is_choice => Verdict::Allow,
            "ALWAYS" if !note.is_choice && note.has_rule => Verdict::AllowAlways,
            other => panic!("{other:?} allows nothing: {message:?} {note:?}"),
        };
        assert_eq!(*verdict, expected, "{message:?} {note:?}");
        is_named
    }
}

fn id_of(thread: usize) -> ThreadId {
    ThreadId::new(THREADS[thread])
}

fn turn_of(turn: u32) -> TurnId {
    TurnId::new(format!("turn {turn}"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn nothing_is_allowed_but_by_the_rules(steps in prop::collection::vec(step(), 1..60)) {
        let mut world = World::new();
        for step in steps {
            world.take(step);
        }
    }

    /// While a question is open nothing but the approving forms allows it, whatever the text.
    #[test]
    fn no_other_text_allows(text in prop_oneof![
        any::<String>(),
        "[ \\t\\n]{0,2}(approve|yes|always|Allow|no|deny|.)[ \\t\\n\u{a0}\u{200b}.!?,]{0,2}([KkКＫ]7[QqＱ]2|K7Q|2|.{0,3})[ \\n.!]{0,2}",
    ]) {
        let code: Code = "K7Q2".parse().unwrap();
        let mut desk = Desk::default();
        let asked = asked("one", "turn", "1", code);
        let (thread, wall) = (asked.thread.clone(), asked.asked_at);
        let (post, now) = (asked.post.clone(), Now { running: Duration::ZERO, wall });
        desk.ask(asked, now);
        desk.posted(&post, Some(wall));
        let written = Some(wall.plus(Duration::from_secs(1)));
        let heard = Heard { thread: &thread, id: None, author: None, text: &text, written, how: How::Live };
        let hearing = desk.hear(&heard, &(), now);
        let bare = text.trim_matches([' ', '\t', '\n', '\r', '\u{c}']).to_ascii_lowercase();
        let bare = bare.strip_suffix(['.', '!']).unwrap_or(&bare);
        let words: Vec<&str> = bare.split([' ', '\t']).filter(|word| !word.is_empty()).collect();
        let allows = match words[..] {
            [word] | [word, "k7q2"] => ["approve", "yes", "allow", "always"].contains(&word),
            _ => false,
        };
        let allowed = matches!(&hearing, Hearing::Decide(it) if !matches!(it.verdict, Verdict::Deny { .. }));
        prop_assert_eq!(allowed, allows, "{:?}: {:?}", text, hearing);
    }
}

/// The sequences are worth something: many of them come to an approval.
#[test]
fn sequences_come_to_approvals() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let mut allowed = 0;
    for _ in 0..200 {
        let steps = prop::collection::vec(step(), 60).new_tree(&mut runner).unwrap().current();
        let mut world = World::new();
        for step in steps {
            world.take(step);
        }
        allowed += world.allowed;
    }
    assert!(allowed > 100, "only {allowed}");
}
