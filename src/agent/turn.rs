//! Runs one turn: joins a protocol with a transport, clocks and channels. The same for all engines,
//! and the only place that decides when an engine has had its time.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    convert::Infallible,
    io, mem,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, TryRecvError, never, select_biased};

use crate::{
    agent::{
        Actions, Exit, Failure, FailureKind, Limits, NOT_ON_PATH, Protocol, Question, QuestionId,
        TurnCommand, TurnEnd, TurnEvent, TurnSpec, Verdict,
        garbage::Garbage,
        limit::Limit,
        transport::{Transport, TransportEvent},
    },
    ids::TurnId,
};

/// Handles what happens in a turn. While one of these runs the engine is not listened to, so none
/// may wait for anything without watching [`Control`]'s channels and the limits itself.
pub trait TurnHandler {
    /// What it pushes to `commands` the protocol is given at once. Questions carry names that the
    /// runner made, and no name is used twice: engines reuse theirs, and a verdict that is still on
    /// its way must never be taken for one about the next question.
    fn on_event(&mut self, event: TurnEvent, commands: &mut Vec<TurnCommand>);

    /// The engine was given a verdict, or, if it did not wait for one any more, was not.
    fn on_decided(&mut self, question: &QuestionId, verdict: &Verdict, was_open: bool);

    /// The turn is being ended before its time: from here on nothing is worth waiting for.
    fn on_halt(&mut self);

    /// How the turn ends is known, and nothing changes it any more; the engine may take a while to
    /// leave. Called exactly once, with what [`run_turn`] returns when the engine is gone.
    fn on_end(&mut self, end: &TurnEnd);

    /// When [`TurnHandler::on_time`] is to be called if nothing else happens before.
    fn due(&self) -> Option<Instant>;

    fn on_time(&mut self);
}

/// How a turn is reached while it runs.
#[derive(Debug)]
pub struct Control<'a> {
    /// From the loop. Closed means: stop this turn. Once its end is known, an interrupt makes the
    /// engine leave at once, and closed means nothing.
    pub commands: &'a Receiver<TurnCommand>,
    /// Results of work that the handler has other tasks do. Closed means nothing.
    pub late: &'a Receiver<TurnCommand>,
    /// Closed means: stop now.
    pub stop: &'a Receiver<Infallible>,
    pub grace: Grace,
}

/// How long an engine is given to do what it was asked to.
#[derive(Clone, Copy, Debug)]
pub struct Grace {
    /// To end the turn after an interrupt. Claude Code 2.1.197 needs up to 2 s.
    pub interrupt: Duration,
    /// To leave after the turn's end and the end of its input. Claude Code 2.1.197 waits 5 s for its
    /// background commands, codex 0.130 without network needs 5 s.
    pub leave: Duration,
    /// For each of these, and for each step of the exit ladder, once the daemon stops.
    pub hurry: Duration,
}

impl Default for Grace {
    fn default() -> Grace {
        Grace {
            interrupt: Duration::from_secs(5),
            leave: Duration::from_secs(10),
            hurry: Duration::from_secs(1),
        }
    }
}

/// How long an engine is quiet that has nothing more to say of its turn. opencode's acp was seen to
/// write the end of an answer right after the response that ends the turn.
const QUIET: Duration = Duration::from_millis(150);

/// It is waited for no longer than this: an answer is to be there within 300 ms of its end.
const QUIET_WITHIN: Duration = Duration::from_millis(250);

/// Runs a turn to its end: until the engine is gone, or nothing more can be done about it. Never
/// fails otherwise than by the [`TurnEnd`]; never takes longer than the limits, the graces and the
/// exit ladder together.
pub fn run_turn(
    protocol: &mut dyn Protocol,
    transport: &mut dyn Transport,
    spec: &TurnSpec,
    limits: &Limits,
    control: &Control<'_>,
    handler: &mut dyn TurnHandler,
) -> TurnEnd {
    if control.stop.try_recv() == Err(TryRecvError::Disconnected) {
        handler.on_end(&TurnEnd::Interrupted);
        return TurnEnd::Interrupted;
    }
    let incoming = transport.incoming().clone();
    let (mut stop, mut commands) = (control.stop.clone(), control.commands.clone());
    let mut late = control.late.clone();
    let mut turn = Turn {
        id: &spec.turn,
        protocol,
        transport,
        handler,
        limits: *limits,
        grace: control.grace,
        started: Instant::now(),
        alive: Instant::now(),
        heard: false,
        names: HashMap::new(),
        calls: HashSet::new(),
        has_session: false,
        asked: 0,
        garbage: Garbage::default(),
        exit: None,
        pending: VecDeque::new(),
        phase: Phase::Working,
        quiet: None,
        hurry: false,
        why: None,
        told: None,
        end: None,
        steps: 0,
        has_ended: false,
    };
    turn.act(|protocol, actions| protocol.begin(spec, actions));
    loop {
        turn.settle();
        // Looked at every time: an engine that never stops talking must not outlive its limits.
        turn.check(Instant::now());
        turn.check_quiet(Instant::now());
        turn.serve_handler(Instant::now());
        if matches!(turn.phase, Phase::Gone | Phase::GivenUp) {
            return turn.end.expect("an engine that is gone or given up has been judged");
        }
        select_biased! {
            recv(stop) -> _ => {
                stop = never();
                turn.hurry();
                turn.halt(Why::Interrupted);
            }
            recv(commands) -> command => if let Ok(command) = command {
                turn.pending.push_back(command);
            } else {
                commands = never();
                // The loop drops its end of it when the message is answered.
                if turn.told.is_none() {
                    turn.halt(Why::Interrupted);
                }
            },
            recv(late) -> command => match command {
                Ok(command) => turn.pending.push_back(command),
                Err(_) => late = never(),
            },
            recv(incoming) -> item => turn.incoming(item.ok()),
            default(turn.wake().saturating_duration_since(Instant::now())) => {}
        }
    }
}

/// Where a turn is. The instant is when patience ends.
#[derive(Clone, Copy, Debug)]
enum Phase {
    /// The engine works; its limits count.
    Working,
    /// The engine was asked to stop by its own means.
    Stopping(Instant),
    /// The turn has ended and the engine is expected to leave.
    Leaving(Instant),
    /// On the exit ladder.
    Escalating(Instant),
    /// It did not go, and there is nothing left to try.
    GivenUp,
    Gone,
}

/// Why we end a turn that did not end by itself.
#[derive(Clone, Debug)]
enum Why {
    Interrupted,
    Limit(Limit),
    /// Its input is full.
    Deaf(String),
}

struct Turn<'a> {
    id: &'a TurnId,
    protocol: &'a mut dyn Protocol,
    transport: &'a mut dyn Transport,
    handler: &'a mut dyn TurnHandler,
    limits: Limits,
    grace: Grace,
    started: Instant,
    /// When the engine, or someone it waits for, last said something.
    alive: Instant,
    /// It has sent a value.
    heard: bool,
    /// The runner's names of open questions, by the engine's. While there is any, or a call, the
    /// engine waits for us, and the clock of its silence stands still.
    names: HashMap<QuestionId, QuestionId>,
    /// Open calls of our tools.
    calls: HashSet<String>,
    /// The engine has named a session that can be resumed.
    has_session: bool,
    /// Questions so far.
    asked: u64,
    garbage: Garbage,
    exit: Option<Exit>,
    /// Commands that the protocol has not been given yet.
    pending: VecDeque<TurnCommand>,
    phase: Phase,
    /// The protocol waits until the engine is quiet: when it was so long enough, and the latest.
    quiet: Option<(Instant, Instant)>,
    hurry: bool,
    why: Option<Why>,
    /// The protocol is finished with the turn, and gets nothing more to handle.
    told: Option<TurnEnd>,
    /// What the turn comes to. Final once it is there, and known to the handler.
    end: Option<TurnEnd>,
    /// Steps of the exit ladder that were taken.
    steps: u32,
    /// It was given up with its process ended: not all that it had written was read.
    has_ended: bool,
}

impl Turn<'_> {
    /// Lets the protocol take a step and carries out what it wants. Once the protocol is finished
    /// there is only the process leaving.
    fn act(&mut self, step: impl FnOnce(&mut dyn Protocol, &mut Actions)) {
        if self.told.is_some() {
            return;
        }
        let mut actions = Actions::default();
        step(self.protocol, &mut actions);
        // Each is dropped once it is on its way: a prompt may be megabytes long.
        for value in mem::take(&mut actions.write) {
            match self.transport.send(&value) {
                Ok(()) => {}
                // Its exit follows, and says more.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                    log::debug!("the engine takes no more input");
                }
                Err(error) => {
                    self.why.get_or_insert(Why::Deaf(error.to_string()));
                    self.phase = Phase::Stopping(Instant::now());
                    break;
                }
            }
        }
        for event in mem::take(&mut actions.events) {
            self.report(event);
        }
        if actions.awaits_quiet {
            self.talks(Instant::now() + QUIET_WITHIN);
        }
        if let Some(end) = actions.finished {
            let is_answer = matches!(end, TurnEnd::Answered { .. });
            self.told = Some(end);
            // What we ended ourselves comes to what had to be done about the engine.
            if is_answer || matches!(self.why, None | Some(Why::Interrupted)) {
                self.ends();
            }
            // The answer is on its way before the engine's leave takes a processor.
            self.transport.close_input();
            if matches!(self.phase, Phase::Working | Phase::Stopping(_)) {
                self.phase = Phase::Leaving(self.patience(self.grace.leave));
            }
        }
    }

    /// Nothing can change any more what the turn comes to.
    fn ends(&mut self) {
        if self.end.is_none() {
            let end = self.judge();
            self.handler.on_end(&end);
            self.end = Some(end);
        }
    }

    fn report(&mut self, event: TurnEvent) {
        let event = match event {
            TurnEvent::Question(question) => self.asks(question),
            TurnEvent::QuestionGone(id) => {
                // One that is decided already has no name any more.
                let Some(name) = self.names.remove(&id) else { return };
                TurnEvent::QuestionGone(name)
            }
            TurnEvent::Session(session) => {
                self.has_session = true;
                TurnEvent::Session(session)
            }
            TurnEvent::ToolCall(call) => {
                self.calls.insert(call.id.clone());
                TurnEvent::ToolCall(call)
            }
            other => other,
        };
        self.tell_handler(event);
    }

    fn tell_handler(&mut self, event: TurnEvent) {
        let mut commands = Vec::new();
        self.handler.on_event(event, &mut commands);
        // It may have waited for a disk, which is not the engine's silence.
        self.alive = Instant::now();
        self.pending.extend(commands);
    }

    /// Gives a question a name of its own. One that is open under the engine's name is gone with
    /// that: an answer could be for either of them.
    fn asks(&mut self, question: Question) -> TurnEvent {
        if let Some(earlier) = self.names.remove(&question.id) {
            self.tell_handler(TurnEvent::QuestionGone(earlier));
        }
        self.asked += 1;
        let name = QuestionId(format!("{}.{}:{}", self.id, self.asked, question.id.0));
        self.names.insert(question.id.clone(), name.clone());
        TurnEvent::Question(Question { id: name, ..question })
    }

    /// Gives the protocol the commands that wait. A command may lead to events, and these to
    /// commands.
    fn settle(&mut self) {
        while let Some(command) = self.pending.pop_front() {
            match command {
                TurnCommand::Decide { question, verdict } => self.decide(question, verdict),
                TurnCommand::ToolResult { call, result } => {
                    self.alive = Instant::now();
                    self.calls.remove(&call);
                    self.act(|protocol, actions| protocol.on_tool_result(&call, result, actions));
                }
                TurnCommand::Interrupt => self.halt(Why::Interrupted),
            }
        }
    }

    fn decide(&mut self, question: QuestionId, verdict: Verdict) {
        self.alive = Instant::now();
        let open = self.names.extract_if(|_, name| *name == question).next();
        let was_open = open.is_some() && self.told.is_none();
        if let Some((id, _)) = open {
            let verdict = verdict.clone();
            self.act(|protocol, actions| protocol.decide(id, verdict, actions));
        }
        self.handler.on_decided(&question, &verdict, was_open);
    }

    /// None: the transport is gone without a word.
    fn incoming(&mut self, item: Option<TransportEvent>) {
        match item {
            Some(TransportEvent::Value(value)) => {
                self.heard = true;
                self.alive = Instant::now();
                if let Some((_, latest)) = self.quiet {
                    self.talks(latest);
                }
                self.act(|protocol, actions| protocol.on_value(value, actions));
            }
            Some(TransportEvent::Garbage(text)) => self.garbage.add(text),
            Some(TransportEvent::Exit { exit, stderr_tail }) => self.gone(exit, &stderr_tail),
            None => self.gone(Exit::Unknown, ""),
        }
    }

    fn gone(&mut self, exit: Exit, stderr_tail: &str) {
        log::debug!("the engine is gone: {exit}");
        self.exit = Some(exit);
        self.act(|protocol, actions| protocol.on_exit(exit, stderr_tail, actions));
        if self.told.is_none() {
            self.told = Some(TurnEnd::Failed(Failure::new(
                FailureKind::Crashed,
                format!("The engine ended with {exit} before the turn did."),
                "Send the message again.",
            )));
        }
        self.ends();
        self.phase = Phase::Gone;
    }

    /// Begins to end the turn, by the engine's own means first. The first reason is the one that
    /// counts.
    fn halt(&mut self, why: Why) {
        if let Phase::Leaving(until) = &mut self.phase {
            // There is nothing left to interrupt but the engine's leave.
            *until = Instant::now();
        }
        if self.why.is_some() || self.told.is_some() {
            return;
        }
        log::debug!("ending a turn: {why:?}");
        self.handler.on_halt();
        self.why = Some(why);
        self.phase = Phase::Stopping(self.patience(self.grace.interrupt));
        self.act(|protocol, actions| protocol.interrupt(actions));
    }

    /// The daemon stops: every wait, also the one that runs, is a short one now.
    fn hurry(&mut self) {
        self.hurry = true;
        let soon = Instant::now() + self.grace.hurry;
        if let Phase::Stopping(until) | Phase::Leaving(until) | Phase::Escalating(until) =
            &mut self.phase
        {
            *until = soon.min(*until);
        }
    }

    fn patience(&self, wait: Duration) -> Instant {
        later(Instant::now(), if self.hurry { wait.min(self.grace.hurry) } else { wait })
    }

    /// The next limit, and when it is reached.
    fn limit(&self) -> (Instant, Limit) {
        let whole = (later(self.started, self.limits.turn), Limit::Turn);
        let startup = (later(self.started, self.limits.startup), Limit::Startup);
        let silence = if self.protocol.is_opening() {
            (later(self.alive, self.limits.startup), Limit::Opening)
        } else {
            (later(self.alive, self.limits.silence), Limit::Silence)
        };
        let waits_for_us = !self.names.is_empty() || !self.calls.is_empty();
        let next = match (self.heard, waits_for_us) {
            (false, _) => startup,
            (true, false) => silence,
            (true, true) => whole,
        };
        if next.0 < whole.0 { next } else { whole }
    }

    fn deadline(&self) -> Instant {
        match self.phase {
            Phase::Working => self.limit().0,
            Phase::Stopping(until) | Phase::Leaving(until) | Phase::Escalating(until) => until,
            Phase::GivenUp | Phase::Gone => self.started,
        }
    }

    /// The deadline, or what is to be done before.
    fn wake(&self) -> Instant {
        let quiet = self.quiet.map(|(due, _)| due);
        [quiet, self.handler.due()].into_iter().flatten().fold(self.deadline(), Instant::min)
    }

    /// The engine is not quiet yet.
    fn talks(&mut self, latest: Instant) {
        self.quiet = Some((latest.min(Instant::now() + QUIET), latest));
    }

    /// What is there already and was not read was not said too late.
    fn check_quiet(&mut self, now: Instant) {
        let is_quiet = |(due, latest): &mut (Instant, Instant)| {
            *due <= now && (*latest <= now || self.transport.incoming().is_empty())
        };
        if self.quiet.take_if(is_quiet).is_some() {
            self.act(|protocol, actions| protocol.on_quiet(actions));
        }
    }

    fn serve_handler(&mut self, now: Instant) {
        if self.handler.due().is_some_and(|due| due <= now) {
            self.handler.on_time();
        }
    }

    fn check(&mut self, now: Instant) {
        if now < self.deadline() {
            return;
        }
        match self.phase {
            Phase::Working => {
                let limit = self.limit().1;
                if limit == Limit::Opening {
                    self.act(|protocol, actions| protocol.on_overdue(actions));
                }
                if matches!(self.phase, Phase::Working) {
                    self.halt(Why::Limit(limit));
                }
            }
            Phase::Stopping(_) | Phase::Leaving(_) | Phase::Escalating(_) => self.escalate(),
            Phase::GivenUp | Phase::Gone => {}
        }
    }

    fn escalate(&mut self) {
        self.steps += 1;
        self.phase = if let Some(wait) = self.transport.escalate() {
            log::info!("the engine does not stop: step {} of its exit ladder", self.steps);
            Phase::Escalating(self.patience(wait))
        } else {
            self.has_ended = self.transport.kill();
            if self.has_ended {
                log::warn!("the engine has ended, and what it had written is not read to its end");
            } else {
                log::warn!("the engine could not be ended in time");
            }
            Phase::GivenUp
        };
        if matches!(self.phase, Phase::GivenUp) {
            self.ends();
        }
    }

    /// How the turn ends. An answer counts even if it came while the turn was being stopped: the
    /// work is done.
    fn judge(&self) -> TurnEnd {
        let what_was_done = match (self.steps, self.phase) {
            (0, _) => "It stopped when it was asked to.",
            (_, Phase::GivenUp) if !self.has_ended => {
                "It did not stop, and its process could not be ended in time."
            }
            _ => "It did not stop when it was asked to, and its process was ended.",
        };
        match (&self.why, self.told.clone()) {
            (_, Some(end @ TurnEnd::Answered { .. })) => end,
            (Some(Why::Interrupted), _) => TurnEnd::Interrupted,
            (Some(Why::Limit(Limit::Startup)), _) if self.garbage.count > 0 => {
                TurnEnd::Failed(self.garbage.failure())
            }
            (Some(Why::Limit(limit)), _) => {
                TurnEnd::Failed(limit.failure(&self.limits, self.has_session, what_was_done))
            }
            (Some(Why::Deaf(error)), _) => TurnEnd::Failed(Failure::new(
                FailureKind::Protocol,
                format!("The engine can't be written to: {error}. {what_was_done}"),
                "Send the message again.",
            )),
            (None, Some(TurnEnd::Failed(mut failure)))
                if failure.kind == FailureKind::Crashed && !self.heard =>
            {
                if self.garbage.count > 0 {
                    let said = &self.garbage.first;
                    failure.message =
                        [&failure.message, " All it wrote began with: ", said].concat();
                }
                if self.exit == Some(Exit::NOT_FOUND) {
                    NOT_ON_PATH.clone_into(&mut failure.advice);
                }
                TurnEnd::Failed(failure)
            }
            (None, Some(end)) => end,
            (None, None) => unreachable!("a turn ends with an end, or for a reason"),
        }
    }
}

/// A limit may be configured away with a duration that no clock can count.
fn later(from: Instant, wait: Duration) -> Instant {
    from.checked_add(wait).unwrap_or(from + Duration::from_hours(24 * 365))
}
