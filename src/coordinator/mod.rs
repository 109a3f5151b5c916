//! What the daemon decides: who acts on a message, when, and what is said. Pure: events in, effects
//! out; time and what is on disk come with the event. `daemon` carries the effects out and turns
//! every result, also failure, into an event; a seeded simulation (`tests/sim`) carries them out
//! on a model of bridge, disk, engines and people.
//!
//! A message of a person goes through these:
//!
//! 1. Is it known already, or another machine's? (`routing`)
//! 2. Whose is its thread? `claims` asks the bridge.
//! 3. Is it a control word? [`control`]: obeyed at once.
//! 4. Does it answer a question of an engine? `approvals`
//! 5. Was something missed on its thread that comes before it? [`catchup`]: it waits.
//! 6. Is it stale? `quarantine`: it waits for a person.
//! 7. `turns`: it is the last in its thread's queue, and begins when it has one of the `slots`.
//! 8. `acks`: its answer is durable, so it is done, and its entry goes.
//!
//! * A message is *outstanding* from its arrival until it is done; the same one arriving meanwhile, or
//!   later, is a duplicate. Every entry is done exactly once, and until then it is in the inbox:
//!   nothing here needs to be saved but the cursor, and the next start takes in what waits when the
//!   program ends (`recovery`).
//! * The messages of a thread stay in order. No thread waits for the trouble of another.
//! * A panicking turn costs its own message: what it had begun must not be blindly repeated.
//! * An event may say that a thread moved to another machine. What came in before is ours and is
//!   finished.
//! * After [`Event::Stop`] nothing begins; what ends is still noted.
//!
//! Memory is bounded by the inbox, which holds every message that is held here.

mod acks;
mod approvals;
mod begin;
pub mod catchup;
mod claims;
pub mod control;
mod effect;
mod event;
mod leave;
mod message;
pub mod names;
mod quarantine;
mod recovery;
mod routing;
mod slots;
#[cfg(test)]
mod tests;
mod texts;
mod turns;
mod words;

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    time::Duration,
};

pub use self::{
    approvals::DecidedBy,
    effect::{Begin, Change, Effect},
    event::{ClaimOutcome, Event},
    leave::LeaveRules,
    recovery::Recovered,
    texts::{STOPPED, turn_orphaned},
};

use self::{
    acks::Acks,
    approvals::{Approvals, Step, TurnVerdict},
    catchup::CatchUp,
    claims::Claims,
    control::Stops,
    leave::Leave,
    message::{Arrival, Message},
    quarantine::Quarantine,
    slots::Slots,
    turns::Turns,
};
use crate::{
    agent::Verdict,
    bridge::{
        stream::Replay,
        wire::{Post, PostKind, Reply},
    },
    ids::{ClientMsgId, Engine, MachineId, MessageId, ThreadId},
    permission::{approvals::Now, code::Code},
    store::{binding::Binding, cursor::Cursor, entry::EntryId},
    time::Timestamp,
};

/// Calls on the bridge at the same time.
pub const CLAIMS_MAX: usize = 4;

/// After a failure this passes, then twice as much, up to the maximum.
const DELAY_MIN: Duration = Duration::from_secs(1);
const DELAY_MAX: Duration = Duration::from_mins(1);

/// A bridge that asks for more patience than this gets this much.
const RETRY_AFTER_MAX: Duration = Duration::from_mins(5);

/// What a coordinator is started with.
#[derive(Clone, Debug)]
pub struct Settings {
    pub machine: MachineId,
    /// Of posts of the daemon's own.
    pub author: String,
    pub max_turns: usize,
    /// Directories are not locked.
    pub parallel_in_directory: bool,
    /// Older messages are run only when a person says so.
    pub offline_max_age: Duration,
    /// Where sessions begin, for people.
    pub project_dir: String,
    /// state.json was broken: threads that the bridge says are ours have lost their sessions.
    pub has_lost_bindings: bool,
    pub leave: LeaveRules,
}

/// What the coordinator may look at. The loop owns it.
pub trait View {
    /// Whether the message is remembered as done.
    fn is_done(&self, message: &MessageId) -> bool;

    fn binding(&self, thread: &ThreadId) -> Option<&Binding>;

    /// The threads that are bound to this machine, the most recently used first.
    fn threads(&self) -> Vec<ThreadId>;

    /// The engine that would answer this message.
    fn engine(&self, reply: &Reply) -> Engine;

    /// The canonical directory that this engine may write in without asking, if it may.
    fn writes_in(&self, reply: &Reply) -> Option<PathBuf>;
}

/// Why an entry is done with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DoneReason {
    Answered,
    /// A person did not want it any more.
    Cleared,
    /// The same message was received before.
    Duplicate,
    /// Another machine has the thread.
    NotOurs,
}

/// What comes with an event.
struct Context<'a> {
    now: Now,
    view: &'a dyn View,
    effects: &'a mut Vec<Effect>,
    /// Messages that are done by this event; the journal has them once the effects are carried out.
    done: HashSet<MessageId>,
}

impl Context<'_> {
    fn is_done(&self, message: &MessageId) -> bool {
        self.done.contains(message) || self.view.is_done(message)
    }
}

/// What is known of all threads. Threads that are at rest take no space but their name, if they are
/// ours.
#[derive(Debug)]
pub struct Coordinator {
    settings: Settings,
    ours: HashSet<ThreadId>,
    claims: Claims,
    approvals: Approvals,
    stops: Stops,
    catchup: CatchUp,
    quarantine: Quarantine,
    turns: Turns,
    acks: Acks,
    /// The keys of the messages that are not done.
    outstanding: HashSet<MessageId>,
    /// Threads whose session is lost and that have no post about it yet.
    sessions_lost: HashSet<ThreadId>,
    /// The newest `/new` of this process, by thread and engine.
    renewals: HashMap<(ThreadId, Engine), EntryId>,
    conflict: Option<Conflict>,
    leave: Leave,
    is_stopping: bool,
}

/// Another daemon of this name does the work.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Conflict {
    /// Until there is a connection.
    Refused,
    /// It has answered what is ours.
    Final,
}

impl Coordinator {
    /// `ours` are the threads that are bound to this machine already, each with the questions that
    /// ended with an earlier process.
    pub fn new(
        settings: Settings,
        cursor: Cursor,
        ours: impl IntoIterator<Item = (ThreadId, Vec<Code>)>,
    ) -> Coordinator {
        let mut approvals = Approvals::new(settings.author.clone());
        let ours = ours.into_iter().map(|(thread, orphaned)| {
            approvals.orphaned(&thread, &orphaned);
            thread
        });
        Coordinator {
            ours: ours.collect(),
            claims: Claims::default(),
            stops: Stops::default(),
            catchup: CatchUp::new(cursor),
            quarantine: Quarantine::new(settings.offline_max_age),
            turns: Turns::new(Slots::new(settings.max_turns, settings.parallel_in_directory)),
            acks: Acks::default(),
            outstanding: HashSet::new(),
            sessions_lost: HashSet::new(),
            renewals: HashMap::new(),
            conflict: None,
            leave: Leave::new(settings.leave),
            is_stopping: false,
            approvals,
            settings,
        }
    }

    /// Takes one event in. `now.running` never runs backwards. Effects are appended, to be carried
    /// out in order before the next event.
    pub fn step(&mut self, now: Now, event: Event, view: &dyn View, effects: &mut Vec<Effect>) {
        let mut cx = Context { now, view, effects, done: HashSet::new() };
        self.take(event, &mut cx);
        self.go_on(&mut cx);
        self.look_at_leave(now);
    }

    /// When to hand in an [`Event::Tick`] if nothing else happens before.
    pub fn next_deadline(&self, now: Now) -> Option<Duration> {
        let deadlines = [self.approvals.due(now), self.acks.next_deadline()];
        let beginning = [self.claims.next_deadline(), self.turns.next_deadline()];
        let beginning = beginning.into_iter().filter(|_| self.may_begin());
        let waiting = [
            self.turns.tell_due().filter(|_| !self.is_last()),
            self.catchup.next_deadline(),
            self.quarantine.due(),
            self.leave.due(),
        ];
        let waiting = waiting.into_iter().filter(|_| !self.is_stopping);
        deadlines.into_iter().chain(beginning).chain(waiting).flatten().min()
    }

    fn may_begin(&self) -> bool {
        !self.is_stopping && self.conflict.is_none()
    }

    /// How many turns have not ended.
    pub fn turns(&self) -> usize {
        self.turns.in_progress()
    }

    /// Whether a post waits until changes of state.json are on disk, and a person for the post.
    pub fn awaits_written(&self) -> bool {
        self.acks.awaits_written()
    }

    /// Whether no post waits for the disk.
    pub fn has_stored_all(&self) -> bool {
        !self.acks.has_posts()
    }

    /// Messages that are not done, wherever they wait.
    pub fn outstanding(&self) -> usize {
        self.outstanding.len()
    }

    /// How many messages the parts hold; each is outstanding.
    pub fn held(&self) -> usize {
        self.claims.len()
            + self.stops.len()
            + self.catchup.len()
            + self.quarantine.len()
            + self.turns.len()
            + self.acks.len()
    }

    /// How far everything was read.
    pub fn cursor(&self) -> &Cursor {
        self.catchup.cursor()
    }

    /// How many messages more than usual the inbox takes if this is the next one: what is for the
    /// daemon, or about something that waits already, always has room.
    pub fn extra_room(reply: &Reply) -> usize {
        /// No answer that a person types in a hurry is longer.
        const SHORT: usize = 64;
        let body = reply.body.trim();
        let is_word = control::read(body).is_some() || body.eq_ignore_ascii_case(quarantine::WORD);
        match body.len() {
            _ if is_word => 2_000,
            ..=SHORT => 1_000,
            _ => 0,
        }
    }

    fn take(&mut self, event: Event, cx: &mut Context<'_>) {
        let now = cx.now.running;
        match event {
            Event::Recovered(entries) => self.recover(entries, cx),
            Event::Connected { replay, server_time, last_event_id } => {
                self.connected(replay, server_time, cx);
                self.catchup.moved_on(now, last_event_id);
            }
            Event::Begins { server_time, last_event_id } => {
                self.catchup.begins(now, server_time);
                self.catchup.moved_on(now, last_event_id);
            }
            Event::Disconnected => {
                self.claims.have_missed();
                self.catchup.disconnected();
            }
            Event::Conflict { is_final } => {
                let conflict = if is_final { Conflict::Final } else { Conflict::Refused };
                self.conflict =
                    self.conflict.filter(|it| *it == Conflict::Final).or(Some(conflict));
            }
            Event::Reply { entry, reply, last_event_id } => {
                self.catchup.saw(now, message::written(&reply));
                self.catchup.moved_on(now, last_event_id);
                let message = Message { entry, reply, progress: None, origin: Arrival::Live };
                self.arrived(message, cx);
            }
            Event::Overflow { thread, written, last_event_id } => {
                let since = self.catchup.since(written).unwrap_or_default();
                self.is_missing(&thread, since, cx);
                self.catchup.moved_on(now, last_event_id);
            }
            Event::Time(time) => {
                self.catchup.time_told(now, time);
                let fresh = time.map_or_else(Vec::new, |time| self.quarantine.reconsider(time));
                self.run_held(fresh, cx);
            }
            Event::Found { entry, reply, number } => {
                let message = Message { entry, reply, progress: None, origin: Arrival::CaughtUp };
                if self.catchup.is_reading(message.thread(), number) {
                    self.arrived(message, cx);
                } else {
                    // The thread was another machine's meanwhile, and that one has answered it.
                    self.drop_entry(&message, DoneReason::NotOurs);
                }
            }
            Event::Read { thread, number, end } => self.catchup.ended(now, &thread, number, end),
            Event::Claimed { thread, outcome } => self.claimed(&thread, outcome, cx),
            Event::Put { thread, finishes } => {
                let (message, then) = self.acks.stored(&thread, finishes);
                if let Some(then) = then {
                    self.tell(then, cx);
                }
                if let Some(message) = message {
                    self.finished(message, cx);
                }
            }
            Event::NotPut { post, finishes, is_confirmation } => {
                self.acks.not_stored(now, post, finishes, is_confirmation);
            }
            Event::NotRemoved { entries } => self.acks.not_removed(now, entries),
            Event::Written { change } => self.acks.written(change),
            Event::Tick => {}
            Event::Stop => self.is_stopping = true,
            event => self.take_from_turn(event, cx),
        }
    }

    fn connected(&mut self, replay: Replay, server_time: Option<Timestamp>, cx: &Context<'_>) {
        self.conflict = self.conflict.filter(|it| *it == Conflict::Final);
        if replay != Replay::Complete {
            // The connection before this one may have been dead, and nobody had noticed.
            self.claims.have_missed();
        }
        let since = |thread: &ThreadId| cx.view.binding(thread).and_then(|it| it.ours_since);
        let threads = match replay {
            Replay::Complete => self.catchup.ahead_of_replay(),
            _ => cx.view.threads(),
        };
        let threads = threads.into_iter().map(|it| (since(&it), it));
        self.catchup.connected(cx.now.running, replay, server_time, threads);
    }

    /// What turns report, and what is decided for them.
    fn take_from_turn(&mut self, event: Event, cx: &mut Context<'_>) {
        let now = cx.now;
        let mut steps = Vec::new();
        match event {
            Event::NotBegun { thread, entry } => self.turns.refused(now.running, &thread, entry),
            Event::Session { thread, engine, record } => {
                self.change(&thread, Change::Session { engine, record }, cx);
            }
            Event::Doing { thread, line } => self.turns.does(&thread, line),
            Event::Granted { thread, rule } => self.change(&thread, Change::Grant { rule }, cx),
            Event::Asked { entry, request } => {
                self.approvals.asked(now, entry, *request, &mut steps);
            }
            Event::Posted { post, at } => self.approvals.posted(&post, at),
            Event::Withdrawn(key) => self.approvals.withdrawn(&key, &mut steps),
            Event::Decided { key, was_open } => {
                self.approvals.decided(&key, was_open, &mut steps);
            }
            Event::Recorded { key, is_written } => {
                self.approvals.recorded(&key, is_written, &mut steps);
            }
            Event::Writes { thread, entry, question, directory } => {
                let ruling = TurnVerdict { thread, entry, question, verdict: Verdict::Allow };
                steps.push(Step::Lock { directory, ruling });
            }
            Event::Answered { thread, entry } => {
                let message = self.turns.answered(&thread, entry);
                self.approvals.turn_ended(&thread, &mut steps);
                // Its entry waits for what is said about its questions.
                self.perform(std::mem::take(&mut steps), cx);
                if let Some(message) = message {
                    self.finished(message, cx);
                }
            }
            Event::Left { thread, entry } => {
                let before = self.turns.in_progress();
                let unanswered = self.turns.left(&thread, entry);
                if self.turns.in_progress() < before {
                    self.leave.turn_ended();
                }
                self.approvals.turn_ended(&thread, &mut steps);
                // What a stop cut off goes on with the next start.
                if let Some(message) = unanswered.filter(|_| !self.is_stopping) {
                    self.finish(message, PostKind::Error, texts::TURN_FAILED.to_owned());
                }
            }
            _ => unreachable!("the other events are taken above"),
        }
        self.perform(steps, cx);
    }

    /// What follows from everything that is known now.
    fn go_on(&mut self, cx: &mut Context<'_>) {
        let now = cx.now.running;
        let mut steps = Vec::new();
        self.approvals.expire(cx.now, &mut steps);
        self.perform(steps, cx);
        if !self.is_stopping {
            for message in self.catchup.released(now) {
                self.admit(message, cx);
            }
            if self.may_begin() {
                self.begin(cx);
                self.claims.wake(now);
                self.claims.start(cx.effects);
            }
            while let Some(reading) = self.catchup.next(now) {
                cx.effects.push(Effect::ReadHistory(reading));
            }
            if self.catchup.asks_time(now) {
                cx.effects.push(Effect::AskTime);
            }
            self.tell_held(cx);
            self.tell_waiting(now);
            self.save_cursor(cx);
        }
        let is_busy = self.turns.len() + self.claims.len() > 0 && !self.is_stopping;
        self.acks.emit(now, is_busy, cx.effects);
    }

    fn perform(&mut self, steps: Vec<Step>, cx: &mut Context<'_>) {
        for step in steps {
            match step {
                Step::Post { post, finishes, is_confirmation, then } => {
                    if let Some(then) = self.acks.post_then(post, finishes, is_confirmation, then) {
                        self.tell(then, cx);
                    }
                }
                Step::Record { request, verdict, by } => {
                    cx.effects.push(Effect::Record { request, verdict, by });
                }
                Step::Lock { directory, ruling } => {
                    if self.turns.lock(&ruling.thread, &directory, cx.now.running) {
                        self.tell(ruling, cx);
                    } else {
                        self.approvals.wait(ruling);
                    }
                }
                Step::Tell(ruling) => self.tell(ruling, cx),
                Step::Repeated(message) => self.done(&message, DoneReason::Duplicate, cx),
                Step::Orphaned { thread, codes } => {
                    self.change(&thread, Change::Orphaned { codes }, cx);
                }
            }
        }
    }

    /// A turn that is over has no open questions any more.
    fn tell(&self, ruling: TurnVerdict, cx: &mut Context<'_>) {
        let TurnVerdict { thread, entry, question, verdict } = ruling;
        if self.turns.is_running(&thread, entry) {
            cx.effects.push(Effect::Tell { entry, question, verdict });
        }
    }

    fn change(&mut self, thread: &ThreadId, change: Change, cx: &mut Context<'_>) {
        let number = self.acks.changed();
        cx.effects.push(Effect::Change { thread: thread.clone(), change, number });
    }

    /// Has the cursor written if that is due.
    fn save_cursor(&mut self, cx: &mut Context<'_>) {
        if let Some(cursor) = self.catchup.take_cursor(cx.now.running) {
            let number = self.acks.changed();
            cx.effects.push(Effect::SaveCursor { cursor, number });
        }
    }

    /// A message of this thread is stored by the bridge and not here. On disk before the thread is
    /// ours, and before what tells of it leaves the inbox.
    fn is_missing(&mut self, thread: &ThreadId, since: Timestamp, cx: &mut Context<'_>) {
        self.catchup.is_missing(thread, since);
        self.save_cursor(cx);
    }

    /// Ends a message with a post; it is done when that is stored.
    fn finish(&mut self, message: Message, kind: PostKind, body: String) {
        let name = names::end(&message.key());
        let post = self.post(message.thread().clone(), kind, body, name);
        self.acks.post(post, Some(message), false);
    }

    fn post(&self, thread: ThreadId, kind: PostKind, body: String, name: ClientMsgId) -> Box<Post> {
        Box::new(Post::new(thread, kind, self.settings.author.clone(), body, name))
    }

    /// A message is answered, and so are the stops that waited for its end.
    fn finished(&mut self, message: Message, cx: &mut Context<'_>) {
        self.done(&message, DoneReason::Answered, cx);
        self.stops_are_over(&message, cx);
    }

    fn done(&mut self, message: &Message, why: DoneReason, cx: &mut Context<'_>) {
        let key = message.key();
        self.outstanding.remove(&key);
        if matches!(why, DoneReason::Answered | DoneReason::Cleared) {
            cx.done.insert(key.clone());
            cx.effects.push(Effect::Remember { message: key });
        }
        self.drop_entry(message, why);
    }

    fn drop_entry(&mut self, message: &Message, why: DoneReason) {
        log::debug!(entry:% = message.entry, why:? = why; "done with a message");
        self.acks.remove(message.thread(), message.entry);
    }
}

/// How long to wait after so many failures in a row.
fn delay(failures: u32) -> Duration {
    DELAY_MIN.saturating_mul(1 << failures.saturating_sub(1).min(6)).min(DELAY_MAX)
}
