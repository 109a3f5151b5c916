//! Turns, as `worker` drives them: nothing is said under an attempt's name before the attempt is on
//! disk, the answer is durable as soon as it is known, and the engine leaves later.

use std::{path::PathBuf, time::Duration};

use obto_bridge::{
    agent::{ActionKind, Question, QuestionId, Verdict},
    bridge::wire::{Post, PostKind},
    coordinator::{Begin, Event},
    ids::{ClientMsgId, Engine, SessionId, TurnId},
    permission::{
        approval_prompt::{self, ApprovalRequest},
        code::Code,
    },
    store::{
        binding::SessionRecord,
        entry::{EntryId, Progress},
    },
};
use serde_json::Value;

use super::{Task, World, machine::directory};
use crate::parts::{Count, Key, Mutation, Outcome, ensure, thread_id, thread_index};

/// As `worker` has it.
const ATTEMPTS: u32 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The engine is being started.
    Opening,
    /// The attempt is on disk.
    Durable,
    /// The engine has the prompt.
    Working,
    /// The answer is durable.
    Leaving,
}

#[derive(Debug)]
pub(super) struct Turn {
    pub(super) number: u32,
    pub(super) thread: usize,
    pub(super) entry: EntryId,
    pub(super) message: usize,
    pub(super) earlier: Option<Progress>,
    pub(super) attempt: u32,
    pub(super) posts: u32,
    pub(super) phase: Phase,
    pub(super) is_interrupted: bool,
    pub(super) lock: Option<PathBuf>,
    /// What it asked for and a person has.
    open: Vec<(QuestionId, Code)>,
    /// Those of them that the engine no longer waits for.
    gone: Vec<QuestionId>,
    /// What it may do when it has its directory.
    waits: Option<QuestionId>,
    told: Vec<(QuestionId, Verdict)>,
    /// What the engine does before it answers.
    acts: u32,
    /// The engine does not leave unless it is made to.
    stays: bool,
    /// When its answer was known, if the disk takes it.
    known_at: Option<Duration>,
}

impl World {
    pub(super) fn begin(&mut self, machine: usize, begin: Begin) -> Result<Option<Event>, String> {
        let Begin { thread, entry, progress, has_directory, .. } = begin;
        let message = self.message_of(entry);
        self.check_begin(machine, &thread, entry, message, progress.as_ref())?;
        let refuse = self.fault(25);
        let acts = self.rng.u32(0..4);
        let stays = self.fault(6);
        let delay = if self.rng.u32(0..4) == 0 { self.between(0, 6_000) } else { self.moment() };
        let process = self.machines[machine].process.as_mut().expect("it runs");
        if refuse {
            self.counts.count(Count::Refusal);
            process.refused_at = Some(self.now);
            return Ok(Some(Event::NotBegun { thread, entry }));
        }
        process.next += 1;
        let (number, thread) = (process.next, thread_index(&thread));
        process.turns.push(Turn {
            number,
            thread,
            entry,
            message,
            attempt: progress.as_ref().map_or(0, |earlier| earlier.attempts) + 1,
            earlier: progress,
            posts: 0,
            phase: Phase::Opening,
            is_interrupted: false,
            lock: has_directory.then(|| directory(thread)),
            open: Vec::new(),
            gone: Vec::new(),
            waits: None,
            told: Vec::new(),
            acts,
            stays,
            known_at: None,
        });
        self.check_locks(machine)?;
        self.task_after(delay, machine, Task::Turn { number });
        Ok(None)
    }

    pub(super) fn interrupt(&mut self, machine: usize, entry: EntryId) {
        self.counts.count(Count::Interrupted);
        let delay = self.moment();
        if let Some(turn) = self.turn_of(machine, entry) {
            turn.is_interrupted = true;
            turn.stays = false;
            let number = turn.number;
            self.task_after(delay, machine, Task::Turn { number });
        }
    }

    pub(super) fn tell(
        &mut self,
        machine: usize,
        entry: EntryId,
        question: QuestionId,
        verdict: Verdict,
    ) {
        let delay = self.moment();
        if let Some(turn) = self.turn_of(machine, entry) {
            turn.told.push((question, verdict));
            let number = turn.number;
            self.task_after(delay, machine, Task::Turn { number });
        }
    }

    fn turn_of(&mut self, machine: usize, entry: EntryId) -> Option<&mut Turn> {
        let process = self.machines[machine].process.as_mut()?;
        process.turns.iter_mut().find(|turn| turn.entry == entry)
    }

    fn turn_at(&mut self, machine: usize, number: u32) -> Option<&mut Turn> {
        let process = self.machines[machine].process.as_mut()?;
        process.turns.iter_mut().find(|turn| turn.number == number)
    }

    /// The turns whose engines would stay.
    pub(super) fn leaving_turns(&mut self, machine: usize) -> Vec<u32> {
        let Some(process) = &mut self.machines[machine].process else { return Vec::new() };
        process.turns.iter_mut().for_each(|turn| turn.stays = false);
        process.turns.iter().map(|turn| turn.number).collect()
    }

    /// A turn goes on.
    pub(super) fn turn(&mut self, machine: usize, number: u32) -> Outcome {
        let Some(turn) = self.turn_at(machine, number) else { return Ok(()) };
        match turn.phase {
            Phase::Opening => self.open_engine(machine, number),
            Phase::Durable => self.prompt(machine, number),
            Phase::Working => self.work(machine, number),
            Phase::Leaving if turn.stays => Ok(()),
            Phase::Leaving => self.leave(machine, number),
        }
    }

    fn go_on(&mut self, machine: usize, number: u32) {
        let delay = self.moment();
        self.task_after(delay, machine, Task::Turn { number });
    }

    fn open_engine(&mut self, machine: usize, number: u32) -> Outcome {
        let fails = self.fault(25);
        let is_disk_sick = self.disk_fails(machine);
        let turn = self.turn_at(machine, number).expect("it goes on");
        let (thread, entry, message) = (turn.thread, turn.entry, turn.message);
        let id = format!("m{message}.0.1");
        if turn.is_interrupted {
            return self.answer(machine, number, id, "stopped".to_owned());
        }
        if let Some(earlier) = turn.earlier.clone() {
            if turn.attempt > ATTEMPTS {
                return self.answer(machine, number, id, "interrupted again".to_owned());
            }
            if earlier.session.is_none() {
                return self.answer(machine, number, id, "no session to resume".to_owned());
            }
            let name = format!("{entry}.resumed.{}", turn.attempt);
            self.say(machine, thread, name, PostKind::Status, "resumed".to_owned());
        }
        if fails {
            return self.answer(machine, number, id, "it can't be started".to_owned());
        }
        self.go_on(machine, number);
        if is_disk_sick {
            return Ok(());
        }
        let turn = self.turn_at(machine, number).expect("it goes on");
        turn.phase = Phase::Durable;
        let progress = Progress {
            turn: TurnId::new(format!("{entry}.{}", turn.attempt)),
            engine: Engine::CLAUDE,
            session: turn.earlier.as_ref().and_then(|earlier| earlier.session.clone()),
            attempts: turn.attempt,
            asking: Vec::new(),
            answers: None,
            is_answered: false,
        };
        self.progress(machine, entry, |on_disk| *on_disk = Some(progress))
    }

    fn progress(
        &mut self,
        machine: usize,
        entry: EntryId,
        change: impl FnOnce(&mut Option<Progress>),
    ) -> Outcome {
        let on_disk = self.machines[machine].disk.inbox.get_mut(&entry);
        ensure(on_disk.is_some(), || format!("entry {entry} is gone while its turn runs"))?;
        change(&mut on_disk.expect("it is there").progress);
        Ok(())
    }

    /// The engine is given the prompt: from here on the work is done.
    fn prompt(&mut self, machine: usize, number: u32) -> Outcome {
        let turn = self.turn_at(machine, number).expect("it goes on");
        turn.phase = Phase::Working;
        let (entry, thread, number_of, attempt) =
            (turn.entry, turn.thread, turn.message, turn.attempt);
        let message = &mut self.messages[number_of];
        if attempt == 1 {
            message.prompts += 1;
        } else {
            message.resumed += 1;
        }
        let (prompts, finals) = (message.prompts, message.finals_put);
        ensure(prompts <= 1, || format!("message {number_of} is done twice"))?;
        ensure(finals == 0, || format!("message {number_of} is done after it was answered"))?;
        ensure(self.messages[number_of].word().is_none(), || {
            format!("word {number_of} is driven")
        })?;
        self.note(|| format!("{machine} works on message {number_of}, attempt {attempt}"));
        if 1 < attempt {
            self.counts.count(Count::Resumed);
        }
        if self.rng.u32(0..4) != 0 {
            let session = SessionId::new("session");
            self.progress(machine, entry, |on_disk| {
                if let Some(progress) = on_disk {
                    progress.session = Some(session.clone());
                }
            })?;
            let record = Some(SessionRecord::new(session));
            self.go_on(machine, number);
            return self.step(
                machine,
                Event::Session { thread: thread_id(thread), engine: Engine::CLAUDE, record },
            );
        }
        self.go_on(machine, number);
        Ok(())
    }

    fn work(&mut self, machine: usize, number: u32) -> Outcome {
        let panics = self.fault(30);
        let dice = self.rng.u32(0..8);
        let turn = self.turn_at(machine, number).expect("it goes on");
        if let Some((question, verdict)) = turn.told.pop() {
            self.go_on(machine, number);
            return self.decided(machine, number, question, verdict);
        }
        let turn = self.turn_at(machine, number).expect("it goes on");
        if turn.is_interrupted {
            let name = turn.next_post();
            return self.answer(machine, number, name, "stopped".to_owned());
        }
        if panics {
            self.counts.count(Count::Panic);
            return self.leave(machine, number);
        }
        if turn.gone.len() < turn.open.len() || turn.waits.is_some() {
            // The engine waits; now and then it does so no longer.
            if dice == 0 {
                return self.withdraw(machine, number);
            }
            return Ok(());
        }
        if turn.acts == 0 {
            let name = turn.next_post();
            let text = format!("done, attempt {}", turn.attempt);
            return self.answer(machine, number, name, text);
        }
        turn.acts -= 1;
        let thread = turn.thread;
        self.go_on(machine, number);
        match dice {
            0..=1 => self.ask(machine, number),
            2 => {
                let turn = self.turn_at(machine, number).expect("it goes on");
                let name = turn.next_post();
                self.say(machine, thread, name, PostKind::Status, "it goes on".to_owned());
                Ok(())
            }
            3 if !self.is_free => {
                let turn = self.turn_at(machine, number).expect("it goes on");
                let question = QuestionId(format!("lock {number}"));
                turn.waits = Some(question.clone());
                let (entry, directory) = (turn.entry, directory(thread));
                self.step(
                    machine,
                    Event::Writes { thread: thread_id(thread), entry, question, directory },
                )
            }
            4 => self.step(
                machine,
                Event::Doing { thread: thread_id(thread), line: "types".to_owned() },
            ),
            _ => Ok(()),
        }
    }

    /// Puts a post into the outbox; a disk that fails costs a note.
    fn say(&mut self, machine: usize, thread: usize, name: String, kind: PostKind, body: String) {
        let post = Post::new(
            thread_id(thread),
            kind,
            "claude-bridge".to_owned(),
            body,
            ClientMsgId::new(name),
        );
        self.put_out(machine, post, None);
    }

    /// The message's last post.
    fn answer(&mut self, machine: usize, number: u32, name: String, body: String) -> Outcome {
        let running = self.running(machine);
        let is_late = self.mutation == Mutation::AnswerAfterLeaving;
        let turn = self.turn_at(machine, number).expect("it goes on");
        let is_known = turn.known_at.is_some();
        let known_at = *turn.known_at.get_or_insert(running);
        if is_late && !is_known {
            let delay = self.between(1_000, 9_000);
            self.task_after(delay, machine, Task::Turn { number });
            return Ok(());
        }
        if self.disk_fails(machine) {
            let turn = self.turn_at(machine, number).expect("it goes on");
            turn.posts = turn.posts.saturating_sub(1);
            turn.known_at = None;
            self.task_after(Duration::from_millis(500), machine, Task::Turn { number });
            return Ok(());
        }
        ensure(running == known_at, || "an answer waits for its engine".to_owned())?;
        let long = self.between(0, 9_000);
        let short = self.moment();
        let turn = self.turn_at(machine, number).expect("it goes on");
        let is_quick = turn.phase == Phase::Opening;
        turn.phase = Phase::Leaving;
        let (thread, entry) = (turn.thread, turn.entry);
        let post = Post::new(
            thread_id(thread),
            PostKind::Result,
            "claude-bridge".to_owned(),
            body,
            ClientMsgId::new(name),
        );
        self.put_out(machine, post, Some(entry));
        if self.fault(40) {
            self.crash(machine);
            return Ok(());
        }
        self.task_after(if is_quick { short } else { long }, machine, Task::Turn { number });
        self.step(machine, Event::Answered { thread: thread_id(thread), entry })
    }

    fn leave(&mut self, machine: usize, number: u32) -> Outcome {
        let process = self.machines[machine].process.as_mut().expect("it runs");
        let at = process.turns.iter().position(|turn| turn.number == number).expect("it goes on");
        let turn = process.turns.swap_remove(at);
        self.step(machine, Event::Left { thread: thread_id(turn.thread), entry: turn.entry })
    }

    fn ask(&mut self, machine: usize, number: u32) -> Outcome {
        self.counts.count(Count::Asked);
        self.codes = self.codes.wrapping_add(1);
        let code = Code::from_seed(self.codes);
        let limit = self.between(5_000, 200_000);
        let kind = [ActionKind::Read, ActionKind::Run][self.rng.usize(0..2)];
        let asked_at = self.clock(machine).wall;
        let turn = self.turn_at(machine, number).expect("it goes on");
        let (thread, entry, message) = (turn.thread, turn.entry, turn.message);
        let question = QuestionId(format!("{number} {code}"));
        turn.open.push((question.clone(), code));
        let asked = ApprovalRequest {
            thread: thread_id(thread),
            turn: TurnId::new(format!("{entry}.{}", turn.attempt)),
            engine: Engine::CLAUDE,
            question: Question {
                id: question,
                tool: "Bash".to_owned(),
                kind,
                subject: "ls".to_owned(),
                reason: None,
                input: Value::Null,
                ..Question::default()
            },
            code,
            directory: directory(thread),
            rule: None,
            why: "no rule matches all of this".to_owned(),
            always: Some("Bash(ls)".to_owned()),
            post: ClientMsgId::new(turn.next_post()),
            asked_at,
            limit,
            takes_reasons: true,
        };
        self.asked.insert(Key::of(&asked), message);
        self.progress(machine, entry, |on_disk| {
            if let Some(progress) = on_disk {
                progress.asking.push(code.to_string());
            }
        })?;
        let (body, card) = approval_prompt::render(&asked);
        let mut post = Post::new(
            thread_id(thread),
            PostKind::Question,
            "claude-bridge-perm".to_owned(),
            body,
            asked.post.clone(),
        );
        post.question = Some(card);
        if self.mutation == Mutation::AllowUnasked {
            let turn = self.turn_at(machine, number).expect("it goes on");
            turn.told.push((asked.question.id.clone(), Verdict::Allow));
        }
        self.step(machine, Event::Asked { entry, request: Box::new(asked) })?;
        if self.machines[machine].process.is_some() {
            self.put_out(machine, post, None);
        }
        // So that the engine's patience is looked at again.
        let patience = self.between(1_000, 240_000);
        self.task_after(patience, machine, Task::Turn { number });
        Ok(())
    }

    fn key(&mut self, machine: usize, number: u32, at: usize) -> Key {
        let turn = self.turn_at(machine, number).expect("it goes on");
        let (question, code) = turn.open[at].clone();
        let id = TurnId::new(format!("{}.{}", turn.entry, turn.attempt));
        Key { thread: thread_id(turn.thread), turn: id, question, code }
    }

    fn no_longer_asking(&mut self, machine: usize, number: u32, key: &Key) -> Outcome {
        let turn = self.turn_at(machine, number).expect("it goes on");
        turn.open.retain(|(question, _)| *question != key.question);
        turn.gone.retain(|question| *question != key.question);
        let (entry, code) = (turn.entry, key.code.to_string());
        self.progress(machine, entry, |on_disk| {
            if let Some(progress) = on_disk {
                progress.asking.retain(|open| *open != code);
            }
        })
    }

    fn withdraw(&mut self, machine: usize, number: u32) -> Outcome {
        let turn = self.turn_at(machine, number).expect("it goes on");
        let Some(at) = turn.open.iter().position(|(open, _)| !turn.gone.contains(open)) else {
            return Ok(());
        };
        // It stays on record until the turn has its verdict.
        turn.gone.push(turn.open[at].0.clone());
        let key = self.key(machine, number, at);
        if self.mutation == Mutation::GoneOffRecord {
            self.no_longer_asking(machine, number, &key)?;
        }
        self.go_on(machine, number);
        self.step(machine, Event::Withdrawn(key))
    }

    /// A verdict reaches the engine.
    fn decided(
        &mut self,
        machine: usize,
        number: u32,
        question: QuestionId,
        verdict: Verdict,
    ) -> Outcome {
        let turn = self.turn_at(machine, number).expect("it goes on");
        if turn.waits.as_ref() == Some(&question) {
            turn.waits = None;
            turn.lock = Some(directory(turn.thread));
            return self.check_locks(machine);
        }
        let Some(at) = turn.open.iter().position(|(open, _)| *open == question) else {
            return Ok(());
        };
        let key = self.key(machine, number, at);
        let turn = self.turn_at(machine, number).expect("it goes on");
        if turn.gone.contains(&question) {
            self.no_longer_asking(machine, number, &key)?;
            return self.step(machine, Event::Decided { key, was_open: false });
        }
        self.count_denied(&verdict);
        let is_allowed = !matches!(verdict, Verdict::Deny { .. });
        if is_allowed {
            self.check_consent(machine, &key)?;
        }
        self.no_longer_asking(machine, number, &key)?;
        if verdict == Verdict::AllowAlways {
            let rule = "Bash(ls)".to_owned();
            self.step(machine, Event::Granted { thread: key.thread.clone(), rule })?;
            if self.machines[machine].process.is_none() {
                return Ok(());
            }
        }
        self.step(machine, Event::Decided { key, was_open: true })
    }

    /// The time of a stop is over: what runs is cut off.
    pub(super) fn cut_turns(&mut self, machine: usize) -> Outcome {
        while let Some(process) = &mut self.machines[machine].process
            && let Some(turn) = process.turns.first_mut()
        {
            let (number, thread, entry, message) =
                (turn.number, turn.thread, turn.entry, turn.message);
            let is_begun = matches!(turn.phase, Phase::Durable | Phase::Working);
            let was_asking = !turn.open.is_empty();
            let is_opening = turn.phase == Phase::Opening;
            turn.stays = false;
            let next =
                if is_begun { turn.next_post() } else { format!("m{message}.{}.1", turn.attempt) };
            if is_begun && was_asking && !self.disk_fails(machine) {
                self.answer(
                    machine,
                    number,
                    format!("{entry}.died"),
                    "a person was asked".to_owned(),
                )?;
            } else if is_begun || is_opening && self.mutation == Mutation::PostBeforeAttempt {
                self.say(machine, thread, next, PostKind::Status, "stopping".to_owned());
            }
            if self.machines[machine].process.is_some() {
                self.leave(machine, number)?;
            }
        }
        Ok(())
    }
}

impl Turn {
    /// Names a post of an attempt that is on disk.
    fn next_post(&mut self) -> String {
        self.posts += 1;
        format!("m{}.{}.{}", self.message, self.attempt, self.posts)
    }
}
