//! The daemon's side of questions: every live message of a human is matched against the pending
//! approvals before anything else, and what is decided goes to the worker, to the audit, and as a
//! post to the thread.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::Arc,
    time::Instant,
};

use super::Daemon;
use crate::{
    agent::{QuestionId, TurnCommand, Verdict},
    bridge::{
        outbox::Stored,
        wire::{Closing, Outcome, PostKind, Reply},
    },
    dispatch::control,
    ids::{ClientMsgId, MachineId, ThreadId, TurnId},
    permission::{
        Rule,
        approval_prompt::{self, ApprovalRequest},
        approvals::{Answer, Approvals, Closed, Incoming, Key, Match, Now},
        code::Code,
    },
    store::{
        audit::By,
        entry::{EntryId, Progress, message_key},
    },
    time::{self, Timestamp},
    worker::{self, Subject, may_write},
};

/// Rules of one thread that came from `always`; the oldest goes.
const GRANTS_MAX: usize = 200;

/// A human's message that may be an answer.
#[derive(Clone, Debug)]
pub(super) struct HumanMessage {
    entry: EntryId,
    reply: Arc<Reply>,
}

/// A part of the daemon's state.
#[derive(Debug, Default)]
pub(super) struct Questions {
    approvals: Approvals<HumanMessage>,
    /// The message whose turn asked: the way to its worker.
    asking: HashMap<TurnId, EntryId>,
    /// What is allowed as soon as its thread may write in its directory.
    writers: HashMap<ThreadId, Vec<Writer>>,
}

/// Somebody who waits for a directory.
#[derive(Debug)]
struct Writer {
    entry: EntryId,
    question: QuestionId,
    verdict: Verdict,
}

impl Questions {
    /// One line for each open question of a thread, Markdown.
    pub(super) fn lines(&self, thread: &ThreadId) -> Vec<String> {
        self.open(thread).map(approval_prompt::line).collect()
    }

    /// The open questions of a thread, oldest first.
    fn open(&self, thread: &ThreadId) -> impl Iterator<Item = &ApprovalRequest> {
        self.approvals.open(thread)
    }
}

impl Daemon {
    fn clocks(&self) -> Now {
        Now { running: self.started.elapsed(), wall: time::now() }
    }

    /// When the next question is not answered in time.
    pub(super) fn questions_due(&self) -> Option<Instant> {
        self.questions.approvals.due(self.clocks()).map(|wait| Instant::now() + wait)
    }

    /// An engine waits for the human.
    pub(super) fn asked(&mut self, entry: EntryId, request: ApprovalRequest) {
        self.questions.asking.insert(request.turn.clone(), entry);
        let now = self.clocks();
        for closed in self.questions.approvals.ask(request, now) {
            self.refuse(closed);
        }
    }

    /// The bridge has stored a question.
    pub(super) fn stored(&mut self, Stored { post, at, .. }: &Stored) {
        self.questions.approvals.stored(post, *at);
    }

    /// Whether a message was about a question; then it is dealt with, or will be.
    pub(super) fn answers(
        &mut self,
        entry: EntryId,
        reply: &Arc<Reply>,
        is_caught_up: bool,
    ) -> bool {
        let is_human = reply.role.as_deref().is_none_or(|role| role == "human");
        let is_us = |owner: &MachineId| *owner == self.setup.config.machine;
        let is_ours = reply.machine.as_ref().is_none_or(is_us)
            && self
                .store
                .get(&reply.thread_id)
                .is_some_and(|binding| binding.machine.as_ref().is_none_or(is_us));
        let key = message_key(entry, reply);
        // `/stop` is no reason for a denial.
        let is_word = control::read(&reply.body).is_some();
        if is_word || !is_human || !is_ours || self.seen.contains(&key) {
            return false;
        }
        let incoming = Incoming {
            thread: &reply.thread_id,
            id: reply.message_id.as_ref(),
            author: reply.author.as_deref(),
            text: &reply.body,
            written: reply.created_at.as_deref().and_then(Timestamp::parse),
            is_caught_up,
        };
        let human = HumanMessage { entry, reply: Arc::clone(reply) };
        let now = self.clocks();
        match self.questions.approvals.match_message(&incoming, human.clone(), now) {
            Match::NotAnAnswer => {
                self.forget_died(&reply.thread_id);
                return false;
            }
            Match::Repeated => self.settle(entry, None),
            Match::Explain(text) => self.reply(&human, text),
            Match::Answer(answer) => self.decide(answer, &human),
        }
        self.saw(incoming.written);
        true
    }

    /// Answers what was meant as an answer and is none.
    fn reply(&mut self, HumanMessage { entry, reply }: &HumanMessage, text: String) {
        let name = format!("{entry}.reply");
        self.say(reply.thread_id.clone(), name, Some(*entry), PostKind::Status, text);
        self.settle(*entry, Some(&message_key(*entry, reply)));
    }

    /// Tells the worker. What the thread is told waits until the engine has heard of it.
    fn decide(&mut self, answer: Answer, human: &HumanMessage) {
        let Answer { request, verdict } = answer;
        let key = Key::of(&request);
        let message = message_key(human.entry, &human.reply);
        let by = By::Message { id: &message, author: human.reply.author.as_deref() };
        let is_on_record =
            self.keep_answer(&request, human.entry) && self.audit(&request, &verdict, by);
        if !is_on_record && !matches!(verdict, Verdict::Deny { .. }) {
            // Nothing is allowed that is not on record; it is open again for another try.
            self.questions.approvals.reopen(&key);
            return self.reply(human, NOT_ON_RECORD.to_owned());
        }
        let entry = self.questions.asking.get(&key.turn).copied();
        let is_locking = may_write(request.question.kind) && request.question.choices.is_empty();
        let told = entry.is_some_and(|entry| {
            let writer = Writer { entry, question: key.question.clone(), verdict: verdict.clone() };
            match &verdict {
                Verdict::Allow | Verdict::AllowAlways if is_locking => {
                    self.write_in(request.thread, request.directory, writer);
                    true
                }
                _ => self.tell(&writer),
            }
        });
        if !told {
            self.withdrawn(&key);
        }
    }

    /// Notes that a message is an answer and no prompt; durable before the engine hears of it. False:
    /// it could not be written.
    fn keep_answer(&self, request: &ApprovalRequest, entry: EntryId) -> bool {
        let progress = Progress {
            turn: request.turn.clone(),
            engine: request.engine.clone(),
            session: None,
            attempts: 0,
            asking: Vec::new(),
            answers: Some(request.code.to_string()),
            is_answered: false,
        };
        let kept = self.shared.inbox.started(&entry, &progress);
        if let Err(error) = &kept {
            log::error!(threadId = request.thread.as_str(), error:% = error; "cannot keep an answer");
        }
        kept.is_ok()
    }

    /// False: it could not be written.
    fn audit(&self, request: &ApprovalRequest, verdict: &Verdict, by: By<'_>) -> bool {
        let subject = Subject {
            thread: &request.thread,
            turn: &request.turn,
            engine: &request.engine,
            directory: &request.directory,
            question: &request.question,
        };
        let ruling = match verdict {
            Verdict::Allow => "allow",
            Verdict::AllowAlways => "always",
            Verdict::Chosen(_) => "answer",
            Verdict::Deny { .. } => "deny",
        };
        let written = self.shared.audit.write(&subject.record(ruling, by));
        if let Err(error) = &written {
            log::error!(threadId = request.thread.as_str(), error:% = error; "cannot write the audit");
        }
        written.is_ok()
    }

    /// The engine may do it once its thread has the directory's lock.
    pub(super) fn writes(
        &mut self,
        entry: EntryId,
        thread: ThreadId,
        question: QuestionId,
        directory: PathBuf,
    ) {
        self.write_in(thread, directory, Writer { entry, question, verdict: Verdict::Allow });
    }

    fn write_in(&mut self, thread: ThreadId, directory: PathBuf, writer: Writer) {
        let directory = directory.canonicalize().unwrap_or(directory);
        if self.places.lock(&thread, &directory, Instant::now()) {
            self.tell(&writer);
        } else {
            self.questions.writers.entry(thread).or_default().push(writer);
        }
    }

    /// The thread has its directory's lock.
    pub(super) fn may_write(&mut self, thread: &ThreadId) {
        for writer in self.questions.writers.remove(thread).unwrap_or_default() {
            self.tell(&writer);
        }
    }

    /// False if its turn is over.
    fn tell(&self, Writer { entry, question, verdict }: &Writer) -> bool {
        let command = TurnCommand::Decide { question: question.clone(), verdict: verdict.clone() };
        self.jobs.get(entry).is_some_and(|job| job.commands.send(command).is_ok())
    }

    /// The engine has the verdict.
    pub(super) fn decided(&mut self, key: &Key) {
        if let Some(closed) = self.questions.approvals.confirmed(key) {
            self.close(closed);
        }
    }

    /// The engine no longer waits, and was not given a verdict: a worker that has one to give does
    /// not report this any more. So an answer that is on its way to it comes too late.
    pub(super) fn withdrawn(&mut self, key: &Key) {
        if let Some(closed) = self.questions.approvals.withdrawn(key) {
            self.close(closed);
        }
    }

    /// A turn that asked something is over.
    pub(super) fn ceased(&mut self, thread: &ThreadId, turn: &TurnId) {
        self.questions.asking.remove(turn);
        for closed in self.questions.approvals.turn_ended(thread, turn) {
            self.close(closed);
        }
    }

    /// A thread's turn is over, or its worker panicked in the middle of it.
    pub(super) fn nobody_asks(&mut self, thread: &ThreadId) {
        self.questions.writers.remove(thread);
        let turns: Vec<_> =
            self.questions.open(thread).map(|request| request.turn.clone()).collect();
        for turn in turns {
            self.ceased(thread, &turn);
        }
    }

    pub(super) fn granted(&mut self, thread: &ThreadId, rule: &Rule) {
        let mut binding = self.binding(thread);
        let rule = rule.to_string();
        binding.grants.retain(|known| *known != rule);
        binding.grants.push(rule);
        let surplus = binding.grants.len().saturating_sub(GRANTS_MAX);
        binding.grants.drain(..surplus);
        self.store.set(thread, binding);
    }

    /// Denies what nobody answered in time.
    pub(super) fn expire(&mut self) {
        let now = self.clocks();
        for closed in self.questions.approvals.expire(now) {
            self.audit(&closed.request, &DENIED, By::Timeout);
            self.refuse(closed);
        }
    }

    /// Tells thread and worker of a question that ended without an answer. The thread first: once
    /// the worker has it, nothing on the disk says that this question was ever open.
    fn refuse(&mut self, closed: Closed<HumanMessage>) {
        let entry = self.questions.asking.get(&closed.request.turn).copied();
        let verdict = closed.verdict.clone();
        let question = closed.request.question.id.clone();
        self.close(closed);
        if let (Some(verdict), Some(entry)) = (verdict, entry) {
            self.tell(&Writer { entry, question, verdict });
        }
    }

    /// Tells the thread how a question ended, and is done with the message that did it.
    fn close(&mut self, closed: Closed<HumanMessage>) {
        let Closed { request, closing, body, answer, .. } = closed;
        let name = match &answer {
            Some(answer) => format!("{}.answer", answer.entry),
            None => format!("{}.{}.closed", request.turn, request.code),
        };
        let mut post = self.post(request.thread, PostKind::Status, body, ClientMsgId::new(name));
        let is_grant = closing.outcome == Outcome::Always;
        post.question_closed = Some(closing);
        let finishes = answer.as_ref().map(|answer| answer.entry);
        if is_grant {
            // What it promises is on disk before it is said.
            self.put_once_written(post, finishes);
        } else {
            self.put(post, finishes);
        }
        if let Some(HumanMessage { entry, reply }) = answer {
            self.settle(entry, Some(&message_key(entry, &reply)));
        }
    }

    /// Whether a message of an earlier daemon was in the middle of asking. Its questions died with
    /// that daemon, and so did its turn; the human decides whether it goes on. What was `answered`
    /// did not wait for the human any more.
    pub(super) fn died_asking(
        &mut self,
        entry: EntryId,
        reply: &Reply,
        progress: &Progress,
        answered: &HashSet<(TurnId, String)>,
    ) -> bool {
        let died = |code: &&String| !answered.contains(&(progress.turn.clone(), (*code).clone()));
        let codes = progress.asking.iter().filter(died);
        let codes: Vec<Code> = codes.filter_map(|code| code.parse().ok()).collect();
        if codes.is_empty() {
            return false;
        }
        let thread = &reply.thread_id;
        self.questions.approvals.orphaned(thread, &codes);
        // Should it be the next daemon that hears of an answer.
        let mut binding = self.binding(thread);
        binding.died_asking = codes.iter().map(ToString::to_string).collect();
        self.store.set(thread, binding);
        for code in &codes {
            // Named as the turn would have named it, so that it is said once.
            let name = ClientMsgId::new(format!("{}.{code}.closed", progress.turn));
            let body = format!("Question `{code}` died with the turn that asked it.");
            let mut post = self.post(thread.clone(), PostKind::Status, body, name);
            post.question_closed = Some(Closing { code: code.to_string(), outcome: Outcome::Gone });
            self.put(post, None);
        }
        let text = worker::died_asking(&progress.engine);
        self.say(thread.clone(), format!("{entry}.died"), Some(entry), PostKind::Status, text);
        self.settle(entry, Some(&message_key(entry, reply)));
        true
    }

    /// Takes in what died with earlier daemons, and was not followed by anything else yet.
    pub(super) fn remember_died(&mut self) {
        for (thread, binding) in self.store.bindings() {
            let codes = binding.died_asking.iter().filter_map(|code| code.parse().ok());
            self.questions.approvals.orphaned(thread, &codes.collect::<Vec<Code>>());
        }
    }

    /// The human goes on with something else.
    fn forget_died(&mut self, thread: &ThreadId) {
        if self.store.get(thread).is_some_and(|binding| !binding.died_asking.is_empty()) {
            let mut binding = self.binding(thread);
            binding.died_asking.clear();
            self.store.set(thread, binding);
        }
    }

    /// Whether a message was an answer that an earlier daemon had taken. Whether the engine heard of
    /// it nobody knows; it is said under the name that the question's end would have had.
    pub(super) fn died_answering(
        &mut self,
        entry: EntryId,
        reply: &Reply,
        progress: &Progress,
    ) -> bool {
        let Some(code) = &progress.answers else { return false };
        let body = format!(
            "The daemon was stopped right after your answer to question `{code}`. {} may have acted \
             on it, or not.",
            progress.engine
        );
        let name = ClientMsgId::new(format!("{entry}.answer"));
        let mut post = self.post(reply.thread_id.clone(), PostKind::Status, body, name);
        post.question_closed = Some(Closing { code: code.clone(), outcome: Outcome::Gone });
        self.put(post, Some(entry));
        self.settle(entry, Some(&message_key(entry, reply)));
        true
    }
}

const DENIED: Verdict = Verdict::Deny { reason: String::new() };

const NOT_ON_RECORD: &str = "This was not allowed, because the decision can't be written down \
    (`audit.jsonl` in the daemon's state directory; its log says why). The question is still open: \
    answer again when the disk is all right.";
