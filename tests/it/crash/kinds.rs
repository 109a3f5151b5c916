//! The kinds of turns, how each begins, and what may stand on the thread at its end.

use std::sync::Arc;

use obto_bridge::{
    bridge::wire::Reply,
    ids::{Engine, TurnId},
    store::{
        RealDisk,
        cursor::Cursor,
        entry::Progress,
        messages::{self, Opened},
        state::StateStore,
    },
};
use serde_json::{Value, json};

use super::{human, rig::Machine};
use crate::util::patience::comes_true;

/// The message that a case is about, and its thread.
pub(super) const TOKEN: &str = "now";
pub(super) const THREAD: &str = "thread";

/// The message that was answered before the case began, on whatever thread.
pub(super) const BEFORE: &str = "before";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The first message of a thread: claimed, and answered in a fresh session.
    Fresh,
    Resumed,
    /// Answered by the model's own post.
    Posted,
    /// The engine does not know the session any more.
    Gone,
    /// The engine dies.
    Failed,
    /// The daemon is stopped in the middle, and started again.
    Stopped,
    /// Received again after it was answered, with a new message behind it.
    Duplicate,
    /// Another machine wins the claim.
    NotOurs,
    UnknownEngine,
    /// An earlier daemon had begun, and nobody knows a session.
    Begun,
    /// The engine has answered, and leaves later.
    Leaving,
    /// An earlier daemon had received it, and the bridge sends it again.
    Left,
    /// Written while no stream was open, on a bridge that replays nothing.
    Missed,
    /// The daemon is stopped while the engine starts; started again, it fails.
    StoppedOpening,
    /// The engine asks for permission, and the human allows it.
    Allowed,
    /// For good, on this thread.
    Always,
    Denied,
    /// Nobody answers.
    Expired,
    /// Both are allowed, the younger one first.
    TwoAtOnce,
    /// The daemon is stopped while the human is asked.
    StoppedAsking,
}

/// How a message may end for the human who wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Answer,
    Post,
    Failure,
    /// Told that it was interrupted and is not repeated.
    Told,
    /// Told that the turn died while the human was asked.
    DiedAsking,
}

impl Kind {
    pub(super) const ALL: [Kind; 14] = [
        Kind::Fresh,
        Kind::Resumed,
        Kind::Posted,
        Kind::Gone,
        Kind::Failed,
        Kind::Stopped,
        Kind::Duplicate,
        Kind::NotOurs,
        Kind::UnknownEngine,
        Kind::Begun,
        Kind::Leaving,
        Kind::Left,
        Kind::Missed,
        Kind::StoppedOpening,
    ];

    /// Those in which the engine asks.
    pub(super) const ASKING: [Kind; 6] = [
        Kind::Allowed,
        Kind::Always,
        Kind::Denied,
        Kind::Expired,
        Kind::TwoAtOnce,
        Kind::StoppedAsking,
    ];

    pub(super) fn asks(self) -> bool {
        Kind::ASKING.contains(&self)
    }

    /// It is stopped in the middle.
    pub(super) fn is_stopped(self) -> bool {
        matches!(self, Kind::Stopped | Kind::StoppedAsking | Kind::StoppedOpening)
    }

    fn verb(self) -> &'static str {
        match self {
            Kind::TwoAtOnce => "asks",
            _ if self.asks() => "ask",
            Kind::Posted => "post",
            Kind::Failed => "die",
            Kind::Stopped => "hang",
            Kind::Leaving => "stay",
            _ => "answer",
        }
    }

    fn agent(self) -> Option<&'static str> {
        match self {
            Kind::Posted => Some("claude"),
            Kind::Gone => Some("forgetful"),
            Kind::UnknownEngine => Some("nobody"),
            Kind::StoppedOpening => Some("opencode"),
            _ => None,
        }
    }

    fn is_on_the_thread_of_before(self) -> bool {
        matches!(self, Kind::Resumed | Kind::Gone | Kind::Duplicate | Kind::Missed)
    }

    /// What stands on the thread if nothing goes wrong.
    pub(super) fn ends(self) -> Vec<End> {
        match self {
            Kind::Posted => vec![End::Post],
            Kind::Failed | Kind::StoppedOpening => vec![End::Failure],
            Kind::Begun => vec![End::Told],
            Kind::StoppedAsking => vec![End::DiedAsking],
            Kind::NotOurs => vec![],
            _ => vec![End::Answer],
        }
    }

    /// What the engine is given if nothing goes wrong.
    pub(super) fn prompts(self) -> Vec<&'static str> {
        match self {
            Kind::Stopped => vec!["first", "again"],
            Kind::NotOurs | Kind::Begun | Kind::StoppedOpening => vec![],
            _ => vec!["first"],
        }
    }
}

/// Brings the machine to where the case begins: the daemon is not running, and the message waits.
pub(super) fn prepare(kind: Kind, machine: &Machine) {
    if kind == Kind::StoppedOpening {
        machine.configure(json!({ "withOpencode": true }));
    }
    if kind == Kind::Posted {
        machine.configure(json!({ "withClaude": true }));
    }
    if kind.asks() {
        let limit = if kind == Kind::Expired { 300 } else { 600_000 };
        machine.configure(json!({ "relayPermissions": true, "relayTimeoutMs": limit }));
    }
    let daemon = machine.start(Arc::new(RealDisk));
    assert!(comes_true(|| machine.is_connected()), "{kind:?} never connected");
    let thread = if kind.is_on_the_thread_of_before() { THREAD } else { "another" };
    let agent = kind.agent().filter(|_| kind == Kind::Gone);
    machine.say(thread, BEFORE, "answer", agent);
    let answered = || !machine.said(thread).is_empty() && machine.is_settled();
    assert!(comes_true(answered), "{kind:?} was never prepared");
    daemon.stop().unwrap();

    match kind {
        // `EPOCH-NUMBER`: from the first event of this bridge's on.
        Kind::Duplicate => change_cursor(machine, |cursor| {
            let epoch = cursor.last_event_id.as_ref().unwrap().split('-').next().unwrap();
            *cursor = Cursor { last_event_id: Some(format!("{epoch}-0")), ..Cursor::default() };
        }),
        Kind::Missed => change_cursor(machine, |cursor| {
            assert!(cursor.seen_until.is_some(), "{cursor:?}");
            *cursor = Cursor { seen_until: cursor.seen_until, ..Cursor::default() };
        }),
        _ => {}
    }
    let message = machine.say(THREAD, TOKEN, kind.verb(), kind.agent());
    match kind {
        Kind::NotOurs => {
            machine.give_away(THREAD);
            let waiting = json!({ "messageId": message["messageId"], "threadId": THREAD,
                "body": message["body"], "role": "human" });
            receive(machine, &waiting, None);
        }
        Kind::Left => receive(machine, &message, None),
        Kind::Begun => {
            let progress = Progress {
                turn: TurnId::new("t"),
                engine: Engine::new("worker"),
                session: None,
                attempts: 1,
                asking: Vec::new(),
                answers: None,
                is_answered: false,
            };
            receive(machine, &message, Some(progress));
        }
        _ => {}
    }
}

fn change_cursor(machine: &Machine, change: fn(&mut Cursor)) {
    let dir = machine.state("");
    let mut opened = messages::open(Arc::new(RealDisk), &dir).unwrap();
    let mut store = StateStore::open(Arc::new(RealDisk), opened.journal.clone(), &dir).unwrap();
    change(&mut opened.cursor);
    store.set_cursor(&opened.cursor);
}

/// Puts a message into the inbox, as an earlier daemon did.
fn receive(machine: &Machine, message: &Value, progress: Option<Progress>) {
    let reply = Reply::parse(&message.to_string()).unwrap();
    let Opened { inbox, .. } = messages::open(Arc::new(RealDisk), &machine.state("")).unwrap();
    let entry = inbox.put(&reply, 0).unwrap();
    if let Some(progress) = progress {
        inbox.progressed(&entry, &progress).unwrap();
    }
}

/// Whether the message has come to an end, and nothing is left to be done.
pub(super) fn is_done(kind: Kind, machine: &Machine) -> bool {
    // What costs least comes first.
    machine.is_settled() && (kind == Kind::NotOurs || !Ends::of(machine).of_message.is_empty())
}

/// What stands on the thread.
#[derive(Debug)]
pub(super) struct Ends {
    pub(super) of_message: Vec<End>,
    /// Answers to the earlier message.
    pub(super) before: usize,
    /// What nobody expects there, or stands there twice.
    pub(super) strange: Vec<String>,
}

/// What the daemon may say on the way, once each.
const NOTES: [&str; 4] = [
    "The session is resumed",
    "When it runs again it resumes",
    "knows no agent called",
    "cannot be resumed here",
];

impl Ends {
    pub(super) fn of(machine: &Machine) -> Ends {
        let mut ends = Ends { of_message: Vec::new(), before: 0, strange: Vec::new() };
        let mut notes = [0; NOTES.len()];
        let said = [THREAD, "another"].map(|thread| machine.said_if_any(thread));
        for post in said.into_iter().flatten() {
            let body = post.as_str();
            let note = NOTES.iter().position(|note| body.contains(note));
            if body == format!("answer: {BEFORE}") {
                ends.before += 1;
            } else if body == format!("answer: {TOKEN}") {
                ends.of_message.push(End::Answer);
            } else if body == format!("posted: {TOKEN}") {
                ends.of_message.push(End::Post);
            } else if body.contains("could not answer") {
                ends.of_message.push(End::Failure);
            } else if body.contains("Reply `continue` to resume") {
                ends.of_message.push(End::DiedAsking);
            } else if body.contains("by itself") {
                ends.of_message.push(End::Told);
            } else if let Some(note) = note {
                notes[note] += 1;
                if notes[note] > 1 {
                    ends.strange.push(post);
                }
            } else if !human::is_about_a_question(body) {
                ends.strange.push(post);
            }
        }
        ends
    }

    /// The table: as if nothing had happened, or resumed with a note, or told.
    pub(super) fn check_after_crash(&self, kind: Kind, prompts: &[String]) -> Result<(), String> {
        let was_told_twice = prompts.iter().any(|how| how == "again");
        let is_fine = match self.of_message.as_slice() {
            ends if ends == kind.ends() => true,
            // What was posted stays; what the engine says when it is asked to go on is the answer.
            [End::Post, End::Answer] => kind == Kind::Posted && was_told_twice,
            [End::Answer] => was_told_twice,
            [End::Post, End::Told] => kind == Kind::Posted,
            [End::Told] => kind != Kind::NotOurs,
            [End::DiedAsking] => kind.asks(),
            _ => false,
        };
        if is_fine { Ok(()) } else { Err(format!("ended with {:?}", self.of_message)) }
    }
}
