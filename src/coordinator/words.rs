//! Obeys control words, and posts what threads wait for. A confirmation is posted only when what it
//! confirms is on disk.

use std::time::Duration;

use super::{
    Change, Context, Coordinator, DoneReason, Effect,
    control::{StopOutcome, Word},
    message::Message,
    names, quarantine,
    slots::WaitNotice,
    texts::{self, QueueStatus, ThreadStatus},
    turns::StopTarget,
};
use crate::{bridge::wire::PostKind, ids::ThreadId, time::Timestamp};

impl Coordinator {
    pub(super) fn obey(&mut self, word: Word, message: Message, cx: &mut Context<'_>) {
        log::info!(
            threadId = message.thread().as_str(), entry:% = message.entry, word:? = word;
            "a control word"
        );
        match word {
            Word::Stop | Word::StopAll => self.stop(message, word == Word::StopAll, cx),
            Word::Status => {
                let text = texts::status(&self.facts(&message, cx));
                self.answer(message, text, false);
            }
            Word::Queue => {
                let text = texts::queue(&self.queue(message.thread(), cx.now.wall));
                self.answer(message, text, false);
            }
            Word::New => self.renew(message, cx),
            Word::Show(wanted) => {
                let mut steps = Vec::new();
                self.approvals.show(message, wanted, &mut steps);
                self.perform(steps, cx);
            }
            Word::Help => self.answer(message, texts::help(), false),
        }
    }

    fn answer(&mut self, message: Message, body: String, is_confirmation: bool) {
        let name = names::say(message.entry);
        let post = self.post(message.thread().clone(), PostKind::Status, body, name);
        self.acks.post(post, Some(message), is_confirmation);
    }

    fn stop(&mut self, stop: Message, is_all: bool, cx: &mut Context<'_>) {
        let mut cleared = 0;
        if is_all {
            self.stops.clear(&stop);
            let dropped =
                [self.turns.clear(&stop), self.catchup.clear(&stop), self.quarantine.clear(&stop)];
            for message in dropped.iter().flatten() {
                cleared += 1;
                self.done(message, DoneReason::Cleared, cx);
            }
        }
        match self.turns.stop(&stop) {
            StopTarget::Running(entry) => {
                log::info!(entry:% = entry; "stopping a turn, as a person asked");
                cx.effects.push(Effect::Interrupt { entry });
                self.stops.open(entry, stop, cleared);
            }
            StopTarget::Waiting(message) => self.stop_early(message, stop, cleared),
            StopTarget::Nothing => {
                if let Some(message) = self.catchup.stop(&stop) {
                    return self.stop_early(message, stop, cleared);
                }
                let waiting = self.turns.queue(stop.thread()).count();
                let stopped = StopOutcome { is_all, had_turn: false, cleared, waiting };
                self.answer(stop, texts::stopped(stopped), true);
            }
        }
    }

    /// A message is stopped that waits for its turn, or for its turn to be resumed.
    fn stop_early(&mut self, message: Message, stop: Message, cleared: usize) {
        let has_begun = message.progress.is_some();
        let text = if has_begun { texts::STOPPED } else { texts::STOPPED_EARLY };
        self.stops.open(message.entry, stop, cleared);
        self.finish(message, PostKind::Status, text.to_owned());
    }

    /// The turn of a message is over, and so are the stops that waited for it. What the turn said is
    /// answer enough, unless there is more to tell.
    pub(super) fn stops_are_over(&mut self, message: &Message, cx: &mut Context<'_>) {
        for (stop, cleared) in self.stops.over(message.entry) {
            // After a stop of the program nothing begins now.
            let waiting = self.turns.queue(message.thread()).count();
            let waiting = if self.is_stopping { 0 } else { waiting };
            let is_all = super::control::read(&stop.reply.body) == Some(Word::StopAll);
            if !is_all && waiting == 0 {
                self.done(&stop, DoneReason::Answered, cx);
            } else {
                let stopped = StopOutcome { is_all, had_turn: true, cleared, waiting };
                self.answer(stop, texts::stopped(stopped), true);
            }
        }
    }

    /// `/new`: from this entry on the thread's session is not taken any more. A message that came in
    /// before still belongs to it, so it is not removed yet.
    fn renew(&mut self, message: Message, cx: &mut Context<'_>) {
        let thread = message.thread().clone();
        let engine = cx.view.engine(&message.reply);
        let old = cx.view.binding(&thread).and_then(|it| it.sessions.get(&engine)).cloned();
        let is_busy = self.turns.queue(&thread).next().is_some()
            || self.catchup.waiting(&thread).next().is_some();
        if is_busy || old.is_some() {
            self.renewals.insert((thread.clone(), engine.clone()), message.entry);
            let change = Change::FreshAfter { engine: engine.clone(), entry: message.entry };
            self.change(&thread, change, cx);
        }
        self.answer(message, texts::renewed(&engine, old.as_ref(), is_busy), true);
    }

    fn facts(&self, message: &Message, cx: &Context<'_>) -> ThreadStatus {
        let thread = message.thread();
        let running = self.turns.running(thread);
        let engine = running.map_or_else(|| cx.view.engine(&message.reply), |it| it.engine.clone());
        let session = cx.view.binding(thread).and_then(|binding| binding.sessions.get(&engine));
        let dir = session.and_then(|session| session.project_dir.clone());
        ThreadStatus {
            dir: dir.unwrap_or_else(|| self.settings.project_dir.clone()),
            session: session.map(|session| session.session_id.clone()),
            machine: self.settings.machine.clone(),
            running: running.map(|running| cx.now.wall.since(running.since)),
            doing: running.and_then(|running| running.doing.clone()),
            wait: self.turns.wait(thread),
            questions: self.approvals.lines(thread),
            waiting: self.turns.waiting(thread).count() + self.catchup.waiting(thread).count(),
            engine,
        }
    }

    /// The messages of a thread that have not begun.
    fn queue(&self, thread: &ThreadId, now: Timestamp) -> QueueStatus {
        let messages = self.turns.waiting(thread).chain(self.catchup.waiting(thread));
        QueueStatus {
            messages: messages.map(|message| texts::quote(&message.reply, now)).collect(),
            held: self.quarantine.count(thread),
            wait: self.turns.wait(thread),
        }
    }

    /// Tells the threads whose stale messages have all come in.
    pub(super) fn tell_held(&mut self, cx: &Context<'_>) {
        let now = self.catchup.bridge_time(cx.now.running).unwrap_or(cx.now.wall);
        for (thread, messages) in self.quarantine.untold(cx.now.running) {
            let Some(first) = messages.first() else { continue };
            // Named after the messages, so that a restart does not say it twice.
            let name = names::held(first.entry, messages.iter().map(|message| message.entry));
            let replies: Vec<_> = messages.iter().map(|message| &*message.reply).collect();
            let body = texts::held(&replies, now, quarantine::WORD);
            let post = self.post(thread, PostKind::Status, body, name);
            self.acks.post(post, None, false);
        }
    }

    /// Tells the threads that have waited for a while what they wait for, each once a message.
    pub(super) fn tell_waiting(&mut self, now: Duration) {
        // What waits for the next daemon waits for no turn of this one.
        if self.is_last() {
            return;
        }
        for WaitNotice { thread, entry, wait } in self.turns.untold(now) {
            log::info!(threadId = thread.as_str(), entry:% = entry; "waits for its turn");
            // Named after the message, so that a restart does not say it twice.
            let name = names::wait(entry);
            let post = self.post(thread, PostKind::Status, texts::waits(&wait), name);
            self.acks.post(post, None, false);
        }
    }
}
