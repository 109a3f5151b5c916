//! What engines ask for and people decide: every live message of a person is matched against the
//! open questions before anything else. A decision is on disk before the engine gets it, and
//! what may write waits for its directory. Pure.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    time::Duration,
};

use super::{
    control::Wanted,
    message::{Arrival, Message},
    names, texts,
};
use crate::{
    agent::{QuestionId, Verdict},
    bridge::wire::{Closing, Outcome, Post, PostKind},
    ids::{ClientMsgId, Engine, MessageId, ThreadId, TurnId},
    permission::{
        approval_prompt::{self, ApprovalRequest},
        approvals::{self, Closed, Decided, Incoming, Key, Match, Now},
        code::Code,
    },
    store::entry::{EntryId, Progress},
    time::Timestamp,
};

/// What is to be done about approvals, in this order.
#[derive(Debug)]
pub(super) enum Step {
    /// Say this; `finishes` is done by it, and the turn is told `then`.
    Post {
        post: Box<Post>,
        finishes: Option<Message>,
        is_confirmation: bool,
        then: Option<TurnVerdict>,
    },
    /// Write a decision down, then [`Approvals::recorded`].
    Record { request: Box<ApprovalRequest>, verdict: Verdict, by: DecidedBy },
    /// Tell the turn as soon as its thread has this directory.
    Lock { directory: PathBuf, ruling: TurnVerdict },
    /// Tell the turn.
    Tell(TurnVerdict),
    /// It was an answer that came before.
    Repeated(Message),
    /// The thread's orphaned questions are these from now on.
    Orphaned { thread: ThreadId, codes: Vec<String> },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DecidedBy {
    /// A person's message; it is kept as an answer, so that no later start takes it for a prompt.
    Message { entry: EntryId, id: MessageId, author: Option<String> },
    /// No answer came in time.
    Timeout,
}

/// The verdict on a question, for its turn.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct TurnVerdict {
    pub(super) thread: ThreadId,
    pub(super) entry: EntryId,
    pub(super) question: QuestionId,
    pub(super) verdict: Verdict,
}

/// What a message is to the open questions.
pub(super) enum Matched {
    /// A message like any other.
    No(Message),
    /// It is dealt with, or will be.
    Yes,
}

#[derive(Debug, Default)]
pub(super) struct Approvals {
    pending: approvals::PendingApprovals<Message>,
    /// The author of posts that say how a question ended.
    author: String,
    /// The message whose turn asked.
    asking: HashMap<TurnId, EntryId>,
    /// Decisions that are being written down.
    recording: HashMap<Key, (Decided, Message)>,
    /// Verdicts that wait until their thread has its directory.
    waiting: HashMap<ThreadId, Vec<TurnVerdict>>,
    /// Threads with questions that an earlier process left behind.
    orphaned: HashSet<ThreadId>,
}

impl Approvals {
    pub(super) fn new(author: String) -> Approvals {
        Approvals { author, ..Approvals::default() }
    }

    /// One line for each open question of a thread, Markdown.
    pub(super) fn lines(&self, thread: &ThreadId) -> Vec<String> {
        self.pending.open(thread).map(approval_prompt::line).collect()
    }

    /// These were open when an earlier process ended, and nothing was said since.
    pub(super) fn orphaned(&mut self, thread: &ThreadId, codes: &[Code]) {
        if !codes.is_empty() {
            self.orphaned.insert(thread.clone());
            self.pending.orphaned(thread, codes);
        }
    }

    /// When the next question expires.
    pub(super) fn due(&self, now: Now) -> Option<Duration> {
        self.pending.due(now).map(|wait| now.running + wait)
    }

    /// An engine waits for a person.
    pub(super) fn asked(
        &mut self,
        now: Now,
        entry: EntryId,
        request: ApprovalRequest,
        steps: &mut Vec<Step>,
    ) {
        self.asking.insert(request.turn.clone(), entry);
        for closed in self.pending.ask(request, now) {
            self.refuse(closed, steps);
        }
    }

    /// The bridge has stored the post that asks.
    pub(super) fn posted(&mut self, post: &ClientMsgId, at: Option<Timestamp>) {
        self.pending.stored(post, at);
    }

    /// Matches a person's message on a thread of ours against the open questions.
    pub(super) fn match_message(
        &mut self,
        now: Now,
        message: Message,
        steps: &mut Vec<Step>,
    ) -> Matched {
        let thread = message.thread().clone();
        let id = message.reply.message_id.clone();
        let incoming = Incoming {
            thread: &thread,
            id: id.as_ref(),
            author: message.reply.author.as_deref(),
            text: &message.reply.body,
            written: message.written(),
            is_caught_up: message.origin != Arrival::Live,
            is_by_token: message.reply.is_by_token,
        };
        match self.pending.match_message(&incoming, message.clone(), now) {
            Match::NotAnAnswer => {
                if self.orphaned.remove(&thread) {
                    steps.push(Step::Orphaned { thread, codes: Vec::new() });
                }
                return Matched::No(message);
            }
            Match::Repeated => steps.push(Step::Repeated(message)),
            Match::Explain(text) => steps.push(self.reply(message, text)),
            Match::Answer(answer) => self.decide(answer, message, steps),
        }
        Matched::Yes
    }

    /// `/show`: posts the whole of a question.
    pub(super) fn show(&mut self, message: Message, wanted: Wanted, steps: &mut Vec<Step>) {
        let thread = message.thread().clone();
        let request = match wanted {
            Wanted::Any => self.pending.to_show(&thread, None),
            Wanted::Code(code) => self.pending.to_show(&thread, Some(code)),
            Wanted::Mistyped => Err(self.pending.nothing_to_show(&thread)),
        };
        let (key, whole) = match request {
            Ok(request) => (Key::of(request), approval_prompt::whole(request)),
            Err(text) => return steps.push(self.reply(message, text)),
        };
        let count = whole.len();
        for (at, body) in whole.into_iter().enumerate() {
            let is_last = at + 1 == count;
            let mut post = self.post(thread.clone(), body, names::show(message.entry, at + 1));
            if is_last {
                // Nothing is allowed by what is written before this post is there.
                self.pending.showing(&key, post.client_msg_id.clone());
                post.question_shown = Some(key.code.to_string());
            }
            let finishes = is_last.then(|| message.clone());
            steps.push(said(post, finishes));
        }
    }

    /// Answers what was meant as an answer and is none.
    fn reply(&self, message: Message, text: String) -> Step {
        let name = names::reply(message.entry);
        let post = self.post(message.thread().clone(), text, name);
        said(post, Some(message))
    }

    fn decide(&mut self, answer: Decided, message: Message, steps: &mut Vec<Step>) {
        let by = DecidedBy::Message {
            entry: message.entry,
            id: message.key(),
            author: message.reply.author.clone(),
        };
        let (request, verdict) = (answer.request.clone(), answer.verdict.clone());
        steps.push(Step::Record { request, verdict, by });
        self.recording.insert(Key::of(&answer.request), (answer, message));
    }

    /// A decision is on disk, or could not be written: nothing is allowed that is not on record.
    pub(super) fn recorded(&mut self, key: &Key, is_written: bool, steps: &mut Vec<Step>) {
        let Some((answer, message)) = self.recording.remove(key) else { return };
        // Its turn may be over by now, and the question with it.
        if !self.pending.open(&key.thread).any(|request| Key::of(request) == *key) {
            return;
        }
        let Decided { request, verdict } = answer;
        if !is_written && matches!(verdict, Verdict::Deny { .. }) {
            // Nothing else keeps a later start from taking the answer for a prompt.
            if let Some(closed) = self.pending.confirmed(key) {
                self.close_for_turn(closed, verdict, steps);
            }
            return;
        }
        if !is_written {
            // It is open again for another try.
            self.pending.reopen(key);
            steps.push(self.reply(message, texts::NOT_ON_RECORD.to_owned()));
            return;
        }
        let Some(entry) = self.asking.get(&key.turn).copied() else {
            return self.withdrawn(key, steps);
        };
        let may_write = request.question.kind.may_write() && request.question.choices.is_empty();
        let is_allowed = matches!(verdict, Verdict::Allow | Verdict::AllowAlways);
        let (thread, question) = (key.thread.clone(), key.question.clone());
        let ruling = TurnVerdict { thread, entry, question, verdict };
        steps.push(if may_write && is_allowed {
            Step::Lock { directory: request.directory, ruling }
        } else {
            Step::Tell(ruling)
        });
    }

    /// What this ruling allows waits for its thread's directory.
    pub(super) fn wait(&mut self, ruling: TurnVerdict) {
        self.waiting.entry(ruling.thread.clone()).or_default().push(ruling);
    }

    /// The thread has its directory.
    pub(super) fn may_write(&mut self, thread: &ThreadId) -> Vec<TurnVerdict> {
        self.waiting.remove(thread).unwrap_or_default()
    }

    /// The engine has the verdict, or did not wait for it any more.
    pub(super) fn decided(&mut self, key: &Key, was_open: bool, steps: &mut Vec<Step>) {
        if !was_open {
            return self.withdrawn(key, steps);
        }
        let closed = self.pending.confirmed(key);
        steps.extend(closed.map(|closed| self.close(closed, None)));
    }

    /// The engine no longer waits, and was not given a verdict: an answer that is on its way to it
    /// comes too late.
    pub(super) fn withdrawn(&mut self, key: &Key, steps: &mut Vec<Step>) {
        if let Some(closed) = self.pending.withdrawn(key) {
            let reason = "the question is gone".to_owned();
            self.close_for_turn(closed, Verdict::Deny { reason }, steps);
        }
    }

    /// A thread's turn is over, and with it all that it asked.
    pub(super) fn turn_ended(&mut self, thread: &ThreadId, steps: &mut Vec<Step>) {
        self.waiting.remove(thread);
        let turns: HashSet<_> = self.pending.open(thread).map(|it| it.turn.clone()).collect();
        for turn in turns {
            self.asking.remove(&turn);
            for closed in self.pending.turn_ended(thread, &turn) {
                steps.push(self.close(closed, None));
            }
        }
    }

    /// Denies what was not answered in time.
    pub(super) fn expire(&mut self, now: Now, steps: &mut Vec<Step>) {
        for closed in self.pending.expire(now) {
            let verdict = Verdict::Deny { reason: String::new() };
            let request = Box::new(closed.request.clone());
            steps.push(Step::Record { request, verdict, by: DecidedBy::Timeout });
            self.refuse(closed, steps);
        }
    }

    /// Ends a question without an answer.
    fn refuse(&mut self, closed: Closed<Message>, steps: &mut Vec<Step>) {
        match closed.verdict.clone() {
            Some(verdict) => self.close_for_turn(closed, verdict, steps),
            None => steps.push(self.close(closed, None)),
        }
    }

    /// Ends a question with a post first and then for its turn: once the turn has the verdict, nothing
    /// on the disk says that this question was ever open.
    fn close_for_turn(&self, closed: Closed<Message>, verdict: Verdict, steps: &mut Vec<Step>) {
        let ApprovalRequest { turn, thread, question, .. } = &closed.request;
        let (thread, question) = (thread.clone(), question.id.clone());
        let entry = self.asking.get(turn).copied();
        let then = entry.map(|entry| TurnVerdict { thread, entry, question, verdict });
        steps.push(self.close(closed, then));
    }

    /// Says how a question ended; the message that ended it is done.
    fn close(&self, closed: Closed<Message>, then: Option<TurnVerdict>) -> Step {
        let Closed { request, closing, body, answer, .. } = closed;
        let name = match &answer {
            Some(answer) => names::answer(answer.entry),
            None => names::closed(&request.turn, request.code),
        };
        // What `always` promises is on disk before it is said.
        let is_confirmation = closing.outcome == Outcome::Always;
        let mut post = self.post(request.thread, body, name);
        post.question_closed = Some(closing);
        Step::Post { post: Box::new(post), finishes: answer, is_confirmation, then }
    }

    fn post(&self, thread: ThreadId, body: String, name: ClientMsgId) -> Post {
        Post::new(thread, PostKind::Status, self.author.clone(), body, name)
    }

    /// The post about a message that an earlier process had taken as an answer: whether the engine
    /// got it is not known. It has the name that the question's end would have had.
    pub(super) fn interrupted_answer(&self, message: Message, code: &str) -> Step {
        let engine = &message.progress.as_ref().expect("answers are kept as progress").engine;
        let body = texts::interrupted_answer(code, engine);
        let mut post = self.post(message.thread().clone(), body, names::answer(message.entry));
        post.question_closed = Some(Closing { code: code.to_owned(), outcome: Outcome::Gone });
        said(post, Some(message))
    }

    /// Questions that were open when an earlier process ended: they ended with their turn.
    pub(super) fn orphan(
        &mut self,
        thread: &ThreadId,
        turn: &TurnId,
        codes: &[Code],
        steps: &mut Vec<Step>,
    ) {
        self.orphaned(thread, codes);
        // In case it is the next process that gets an answer.
        let texts = codes.iter().map(ToString::to_string).collect();
        steps.push(Step::Orphaned { thread: thread.clone(), codes: texts });
        for code in codes {
            // Named as the turn would have named it, so that it is said once.
            let body = texts::orphaned(*code);
            let mut post = self.post(thread.clone(), body, names::closed(turn, *code));
            post.question_closed = Some(Closing { code: code.to_string(), outcome: Outcome::Gone });
            steps.push(said(post, None));
        }
    }

    /// The last post of a message whose turn waited for people when an earlier process ended: a person
    /// decides whether it goes on.
    pub(super) fn orphaned_turn(&self, message: Message, engine: &Engine) -> Step {
        let (thread, name) = (message.thread().clone(), names::died(message.entry));
        let post = self.post(thread, texts::turn_orphaned(engine), name);
        said(post, Some(message))
    }
}

/// Says something that no turn waits for.
fn said(post: Post, finishes: Option<Message>) -> Step {
    Step::Post { post: Box::new(post), finishes, is_confirmation: false, then: None }
}

/// The codes of the questions that were open when an earlier process ended, and were not answered.
pub(super) fn open_codes(progress: &Progress, answered: &HashSet<(TurnId, String)>) -> Vec<Code> {
    let is_open = |code: &&String| !answered.contains(&(progress.turn.clone(), (*code).clone()));
    progress.asking.iter().filter(is_open).filter_map(|code| code.parse().ok()).collect()
}
