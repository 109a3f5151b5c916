//! The approvals against a witness who only keeps a list of what happened, whatever happens in
//! which order: nothing is ever allowed but by the rules.

use proptest::prelude::*;

use super::{
    tests::{options, request},
    *,
};
use crate::agent::QuestionId;

const THREADS: [&str; 2] = ["one", "two"];

/// The local and the server's clock at the start; they have nothing to do with each other.
const WALL: u64 = 1_800_000_000_000;
const SERVER: u64 = 1_700_000_000_000;

/// What people say. `CODE` and `code` are replaced; the other codes are nobody's or look right.
const TEXTS: &str = "\
    approve|yes|Allow|always|approve CODE|approve CODE|approve CODE|yes code|ALLOW CODE!|\
    always CODE|deny|no|deny CODE|deny CODE because approve CODE|CODE 1|CODE 2|CODE beta|\
    CODE|CODE approve|CODE yes|1|2|3|alpha| beta |CODE 3|approve X9X9|approve К7Q2|аpprove|\
    аpprove CODE|approve it|please approve CODE|approve CODE please|approve\u{a0}CODE|\
    approve\u{200b}|CODE: approve|`approve`|approve?|/approve|yes and no||continue|\
    fix the README|approve\nCODE|1, 2|approve CODE CODE";

#[derive(Clone, Debug)]
enum Step {
    Ask(Ask),
    /// The post of one of the questions is stored, at the bridge's time or at none.
    Stored(usize, bool),
    Say(Say),
    /// Seconds that the machine is awake, that its clock is set on by, and that pass on the bridge.
    Pass(u64, i64, u64),
    Expire,
    /// The engine takes an answer, or comes to nothing of it.
    Confirm(bool),
    Gone(usize),
    TurnEnds(usize),
    /// A turn ends, and the next one asks one question, which is stored.
    Alone(usize),
    Restart,
}

#[derive(Clone, Copy, Debug)]
struct Ask {
    thread: usize,
    id: u8,
    is_choice: bool,
    has_rule: bool,
    limit: u64,
}

#[derive(Clone, Copy, Debug)]
struct Say {
    thread: usize,
    text: usize,
    which: usize,
    written: Written,
    is_live: bool,
    repeats: bool,
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
    let text = prop_oneof![0..10_usize, 0..TEXTS.split('|').count()];
    let say = (0..2_usize, text, 0..6_usize, written, 0..8_u8, 0..10_u8).prop_map(
        |(thread, text, which, written, live, repeats)| Say {
            thread,
            text,
            which,
            written,
            is_live: live > 0,
            repeats: repeats == 0,
        },
    );
    let ask = (0..2_usize, 0..3_u8, 0..4_u8, any::<bool>(), 20..120_u64).prop_map(
        |(thread, id, choice, has_rule, limit)| Ask {
            thread,
            id,
            is_choice: choice == 0,
            has_rule,
            limit,
        },
    );
    prop_oneof![
        5 => ask.prop_map(Step::Ask),
        6 => (0..6_usize, 0..6_u8).prop_map(|(which, time)| Step::Stored(which, time > 0)),
        14 => say.prop_map(Step::Say),
        3 => (0..25_u64, -10..25_i64, 0..25_u64).prop_map(|(run, wall, bridge)| Step::Pass(run, wall, bridge)),
        1 => Just(Step::Expire),
        4 => (0..5_u8).prop_map(|taken| Step::Confirm(taken > 0)),
        1 => (0..6_usize).prop_map(Step::Gone),
        2 => (0..2_usize).prop_map(Step::Alone),
        1 => (0..2_usize).prop_map(Step::TurnEnds),
        1 => Just(Step::Restart),
    ]
}

/// What the witness wrote down about a question.
#[derive(Clone, Copy, Debug)]
struct Noted {
    ask: Ask,
    turn: u32,
    code: Code,
    /// Seconds, by the two local clocks.
    running: u64,
    wall: u64,
    is_posted: bool,
    /// By the bridge's clock, if it said so.
    posted: Option<u64>,
    is_open: bool,
    /// Another one ended while this was open, without an answer or by one without a time.
    is_unclear: bool,
    /// When its answer was written.
    answered: Option<u64>,
}

#[derive(Clone, Debug)]
struct Message {
    thread: usize,
    id: String,
    text: String,
    written: Option<u64>,
    is_live: bool,
}

/// The whole scene: the approvals, the clocks in milliseconds, and the witness's notes.
#[derive(Default)]
struct World {
    approvals: PendingApprovals<Message>,
    running: u64,
    wall: u64,
    server: u64,
    turns: [u32; 2],
    notes: Vec<Noted>,
    said: Vec<Message>,
    used: Vec<String>,
    /// Those of earlier daemons: they are remembered as done, so they are not matched again.
    settled: Vec<String>,
    waiting: Vec<Decided>,
    allowed: usize,
    /// Of these by a word without a code.
    allowed_bare: usize,
}

impl World {
    fn new() -> World {
        World { wall: WALL, server: SERVER, turns: [0, 1], ..World::default() }
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
            let at = self.notes.iter().position(|note| note.code == closed.request.code);
            let at = at.expect("it was asked");
            if closed.answer.is_none() {
                self.blur(at);
            }
            self.notes[at].is_open = false;
        }
    }

    /// It is unclear from now on whether a word is meant for this question or for one of the others.
    fn blur(&mut self, at: usize) {
        let thread = self.notes[at].ask.thread;
        let others = self.notes.iter_mut().filter(|note| note.ask.thread == thread && note.is_open);
        others.for_each(|note| note.is_unclear = true);
    }

    fn take(&mut self, step: Step) {
        // Things take a moment.
        self.running += 10;
        self.wall += 10;
        self.server += 10;
        match step {
            Step::Ask(ask) => self.ask(ask),
            Step::Stored(which, has_time) => self.store(which, has_time),
            Step::Say(say) => self.say(say),
            Step::Pass(running, wall, server) => {
                self.running += running * 1_000;
                self.wall = self.wall.saturating_add_signed(wall * 1_000);
                self.server += server * 1_000;
            }
            Step::Expire => {
                let closed = self.approvals.expire(self.now());
                let is_denied =
                    |it: &Closed<Message>| matches!(it.verdict, Some(Verdict::Deny { .. }));
                assert!(closed.iter().all(is_denied));
                self.close(&closed);
                assert!(self.approvals.due(self.now()).is_none_or(|due| !due.is_zero()));
            }
            Step::Confirm(taken) => {
                if let Some(Decided { request, verdict }) = self.waiting.pop() {
                    let key = Key::of(&request);
                    let closed = if taken {
                        self.approvals.confirmed(&key)
                    } else {
                        self.approvals.withdrawn(&key)
                    };
                    let verdict = Some(verdict).filter(|_| taken);
                    assert!(closed.as_ref().is_none_or(|closed| closed.verdict == verdict));
                    self.close(closed.as_slice());
                }
            }
            Step::Gone(which) => {
                if let Some(at) = self.pick(which) {
                    let Noted { ask, turn, code, .. } = self.notes[at];
                    let (thread, turn) = (id_of(ask.thread), turn_of(turn));
                    let question = QuestionId(ask.id.to_string());
                    let closed = self.approvals.withdrawn(&Key { thread, turn, question, code });
                    self.close(closed.as_slice());
                }
            }
            Step::TurnEnds(thread) => self.end_turn(thread),
            Step::Alone(thread) => {
                self.end_turn(thread);
                self.ask(Ask { thread, id: 0, is_choice: false, has_rule: true, limit: 60 });
                self.store(0, true);
            }
            Step::Restart => self.restart(),
        }
    }

    fn store(&mut self, which: usize, has_time: bool) {
        let Some(at) = self.pick(which) else { return };
        let server = self.server;
        let note = &mut self.notes[at];
        if !note.is_posted {
            note.is_posted = true;
            note.posted = has_time.then_some(server);
        }
        let post = ClientMsgId::new(format!("post {}", note.code));
        self.approvals.stored(&post, has_time.then(|| Timestamp::from_millis(server)));
    }

    fn end_turn(&mut self, thread: usize) {
        let closed = self.approvals.turn_ended(&id_of(thread), &turn_of(self.turns[thread]));
        self.close(&closed);
        self.turns[thread] += 2;
    }

    fn ask(&mut self, ask: Ask) {
        let code = Code::from_seed(u32::try_from(self.notes.len()).unwrap());
        let turn = self.turns[ask.thread];
        let mut request =
            request(THREADS[ask.thread], turn_of(turn).as_str(), &ask.id.to_string(), code);
        request.always = ask.has_rule.then(|| "run(echo*)".to_owned());
        request.asked_at = Timestamp::from_millis(self.wall);
        request.limit = Duration::from_secs(ask.limit);
        if ask.is_choice {
            request.question.choices = vec![options(&["alpha", "beta"])];
        }
        let (running, wall) = (self.running, self.wall);
        let (is_posted, posted, is_open) = (false, None, true);
        let (is_unclear, answered) = (false, None);
        self.notes.push(Noted {
            ask,
            turn,
            code,
            running,
            wall,
            is_posted,
            posted,
            is_open,
            is_unclear,
            answered,
        });
        let closed = self.approvals.ask(request, self.now());
        self.close(&closed);
    }

    fn say(&mut self, Say { thread, text, which, written, is_live, repeats }: Say) {
        if repeats && let Some(message) = self.said.last().cloned() {
            self.match_message(message);
            return;
        }
        let meant = self.pick(which).map(|at| self.notes[at]);
        let code = meant.map_or("B2B2".to_owned(), |note| note.code.to_string());
        // Mostly on the thread of the question that is meant.
        let thread = meant.map(|it| it.ask.thread).filter(|_| text % 8 != 3).unwrap_or(thread);
        let text = TEXTS.split('|').nth(text).unwrap();
        let text = text.replace("CODE", &code).replace("code", &code.to_lowercase());
        let written = match written {
            Written::Unknown => None,
            Written::Now => Some(self.server),
            Written::AtPost => meant.and_then(|note| note.posted),
            Written::Off(secs) => Some(self.server.saturating_add_signed(secs * 1_000)),
        };
        let id = format!("m{}", self.said.len());
        let message = Message { thread, id, text, written, is_live };
        self.said.push(message.clone());
        self.match_message(message);
    }

    /// The daemon starts anew: what is open is lost, what was said is found in the inbox.
    fn restart(&mut self) {
        self.approvals = PendingApprovals::default();
        self.settled.clone_from(&self.used);
        self.waiting.clear();
        for (thread, name) in THREADS.iter().enumerate() {
            let lost = self.notes.iter().filter(|note| note.is_open && note.ask.thread == thread);
            let codes: Vec<Code> = lost.map(|note| note.code).collect();
            self.approvals.orphaned(&ThreadId::new(*name), &codes);
        }
        for note in &mut self.notes {
            note.is_open = false;
            // Older than any question to come.
            note.answered = None;
        }
        for message in self.said.iter().rev().take(3).cloned().collect::<Vec<_>>() {
            self.match_message(Message { is_live: false, ..message });
        }
    }

    fn match_message(&mut self, message: Message) {
        if self.settled.contains(&message.id) {
            return;
        }
        let (thread, id) = (id_of(message.thread), MessageId::new(message.id.as_str()));
        let incoming = Incoming {
            thread: &thread,
            id: Some(&id),
            author: Some("ann"),
            text: &message.text,
            written: message.written.map(Timestamp::from_millis),
            is_caught_up: !message.is_live,
            is_by_token: false,
        };
        let must = self.must_allow(&message);
        let now = self.now();
        match self.approvals.match_message(&incoming, message.clone(), now) {
            Match::Answer(answer) => {
                assert!(
                    must.is_none_or(|code| code == answer.request.code),
                    "{message:?}: {answer:?}"
                );
                self.judge(&message, &answer);
                let at =
                    self.notes.iter().position(|note| note.code == answer.request.code).unwrap();
                if message.written.is_none() {
                    self.blur(at);
                }
                self.notes[at].is_open = false;
                self.notes[at].answered = message.written;
                self.used.push(message.id);
                self.waiting.push(answer);
            }
            other => assert_eq!(must, None, "{message:?} must be taken, not: {other:?}"),
        }
    }

    /// A question that must be allowed now, so that approvals that never allow anything do not pass.
    fn must_allow(&self, message: &Message) -> Option<Code> {
        let mut open = self.notes.iter().enumerate().filter(|(_, note)| note.is_open);
        let at = match message.text.strip_prefix("approve ") {
            Some(name) => open.find(|(_, note)| note.code.to_string() == name)?.0,
            None if message.text == "yes" => {
                let at = open.find(|(_, note)| note.ask.thread == message.thread)?.0;
                (self.is_clear(at, message) && self.notes[at].posted.is_some()).then_some(at)?
            }
            None => return None,
        };
        let note = &self.notes[at];
        let is_in_time = self.is_open(at)
            && message.written == Some(self.server)
            && note.posted.is_none_or(|at| self.server <= at + note.ask.limit * 1_000);
        // The last one may have been said before and got a reply.
        let is_new = message.id == format!("m{}", self.said.len() - 1)
            && !self.used.contains(&message.id)
            && !self.is_known(message);
        let is_fine = note.ask.thread == message.thread && !note.ask.is_choice && message.is_live;
        (is_fine && is_in_time && is_new).then_some(note.code)
    }

    fn is_known(&self, message: &Message) -> bool {
        let memory = self.approvals.threads.get(&id_of(message.thread));
        memory.is_some_and(|memory| memory.matched.contains(&MessageId::new(message.id.as_str())))
    }

    /// Whether a word without a code can be meant for this question alone.
    fn is_clear(&self, at: usize, message: &Message) -> bool {
        let note = &self.notes[at];
        let mut others =
            self.notes.iter().filter(|it| it.ask.thread == note.ask.thread && it.code != note.code);
        !note.is_unclear && others.all(|it| !it.is_open && it.answered < message.written)
    }

    fn is_open(&self, at: usize) -> bool {
        let note = &self.notes[at];
        let limit = note.ask.limit * 1_000;
        note.is_open && self.running < note.running + limit && self.wall < note.wall + limit
    }

    /// What the witness says to a decision.
    fn judge(&mut self, message: &Message, decision: &Decided) {
        let Some(at) = self.notes.iter().position(|note| note.code == decision.request.code) else {
            panic!("{decision:?} is of no question");
        };
        let note = &self.notes[at];
        assert!(message.is_live, "while catching up: {message:?}");
        assert_eq!(message.thread, note.ask.thread, "another thread's: {message:?}");
        assert_eq!(decision.request.turn, turn_of(note.turn));
        assert_eq!(decision.request.question.id.0, note.ask.id.to_string());
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
                assert!(
                    written <= posted + note.ask.limit * 1_000,
                    "too late: {message:?} {note:?}"
                );
            }
            _ => assert!(is_named, "nothing proves when: {message:?} {note:?}"),
        }
        if !is_named {
            assert!(self.is_clear(at, message), "which one is meant? {message:?} {note:?}");
            self.allowed_bare += 1;
        }
        self.allowed += 1;
    }

    /// Whether the text is one of those that allow this; whether it names the question.
    fn judge_form(message: &Message, note: &Noted, verdict: &Verdict) -> bool {
        let code = note.code.to_string();
        let said = message.text.trim_matches([' ', '\n']).to_ascii_uppercase();
        let said = said.trim_end_matches('!');
        let (is_named, words) = if note.ask.is_choice {
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
            "1" | "ALPHA" if note.ask.is_choice => Verdict::Chosen(vec![vec!["alpha".to_owned()]]),
            "2" | "BETA" if note.ask.is_choice => Verdict::Chosen(vec![vec!["beta".to_owned()]]),
            "APPROVE" | "YES" | "ALLOW" if !note.ask.is_choice => Verdict::Allow,
            "ALWAYS" if !note.ask.is_choice && note.ask.has_rule => Verdict::AllowAlways,
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
        let mut approvals = PendingApprovals::default();
        let request = request("one", "turn", "1", code);
        let (thread, wall) = (request.thread.clone(), request.asked_at);
        let (post, now) = (request.post.clone(), Now { running: Duration::ZERO, wall });
        approvals.ask(request, now);
        approvals.stored(&post, Some(wall));
        let written = Some(wall.plus(Duration::from_secs(1)));
        let (id, author, is_caught_up, is_by_token) = (None, None, false, false);
        let incoming =
            Incoming { thread: &thread, id, author, text: &text, written, is_caught_up, is_by_token };
        let matched = approvals.match_message(&incoming, (), now);
        let bare = text.trim_matches([' ', '\t', '\n', '\r', '\u{c}']).to_ascii_lowercase();
        let bare = bare.strip_suffix(['.', '!']).unwrap_or(&bare);
        let words: Vec<&str> = bare.split([' ', '\t']).filter(|word| !word.is_empty()).collect();
        let allows = match words[..] {
            [word] | [word, "k7q2"] => ["approve", "yes", "allow", "always"].contains(&word),
            _ => false,
        };
        let allowed = matches!(&matched, Match::Answer(it) if !matches!(it.verdict, Verdict::Deny { .. }));
        prop_assert_eq!(allowed, allows, "{:?}: {:?}", text, matched);
    }
}

/// The sequences are worth something: many of them come to an approval.
#[test]
fn sequences_come_to_approvals() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let (mut allowed, mut allowed_bare) = (0, 0);
    for _ in 0..200 {
        let steps = prop::collection::vec(step(), 60).new_tree(&mut runner).unwrap().current();
        let mut world = World::new();
        for step in steps {
            world.take(step);
        }
        allowed += world.allowed;
        allowed_bare += world.allowed_bare;
    }
    assert!(allowed > 100 && allowed_bare > 20, "only {allowed}, {allowed_bare} without a code");
}
