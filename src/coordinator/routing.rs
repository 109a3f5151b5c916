//! The way of a message from the inbox to its thread's queue, step by step, and whose the threads are.

use super::{
    Change, ClaimOutcome, Context, Coordinator, DoneReason, Effect, approvals::Matched, control,
    message::Message, texts,
};
use crate::{bridge::wire::PostKind, ids::ThreadId, time::Timestamp};

impl Coordinator {
    /// A message is in the inbox.
    pub(super) fn arrived(&mut self, message: Message, cx: &mut Context<'_>) {
        let thread = message.thread().clone();
        match &message.reply.machine {
            Some(machine) if *machine != self.settings.machine => {
                if self.ours.contains(&thread) {
                    // Or a later start would take it for ours.
                    self.change(&thread, Change::Moved { to: machine.clone() }, cx);
                }
                self.disown(&thread, cx);
                return self.drop_entry(&message, DoneReason::NotOurs);
            }
            Some(_) => {
                self.was_ours(&thread);
                // Somebody may have moved it here; what is held for it is of our own claim.
                let since = message.written().filter(|_| !self.claims.holds(&thread));
                self.own(&thread, since, cx);
            }
            // A turn is begun only on a thread that is ours; the binding may not have been written.
            None if message.progress.is_some() => self.own(&thread, None, cx),
            None => {}
        }
        let key = message.key();
        if cx.is_done(&key) || !self.outstanding.insert(key) {
            return self.drop_entry(&message, DoneReason::Duplicate);
        }
        if self.ours.contains(&thread) {
            self.accept(message, cx);
        } else {
            let seen_until = self.catchup.cursor().seen_until;
            self.claims.hold(&thread, message, seen_until);
        }
    }

    /// A message on a thread of ours.
    pub(super) fn accept(&mut self, message: Message, cx: &mut Context<'_>) {
        match control::read(&message.reply.body) {
            Some(word) => self.obey(word, message, cx),
            None if self.stops.is_cleared(&message) => self.done(&message, DoneReason::Cleared, cx),
            None if message.progress.is_some() => self.turns.push(message),
            None => self.match_approval(message, cx),
        }
    }

    /// Only a person answers questions; what an agent writes is a message like any other.
    pub(super) fn match_approval(&mut self, message: Message, cx: &mut Context<'_>) {
        if message.reply.role.as_deref().is_some_and(|role| role != "human") {
            return self.order(message, cx);
        }
        let mut steps = Vec::new();
        let matched = self.approvals.match_message(cx.now, message, &mut steps);
        self.perform(steps, cx);
        if let Matched::No(message) = matched {
            self.order(message, cx);
        }
    }

    /// A message for an engine: what was missed on its thread comes before it.
    pub(super) fn order(&mut self, message: Message, cx: &mut Context<'_>) {
        if self.quarantine.is_release(&message) {
            return self.release(message, cx);
        }
        if message.progress.is_none() && self.catchup.must_wait(&message) {
            return self.catchup.park(cx.now.running, message);
        }
        self.admit(message, cx);
    }

    /// A message whose turn has come, unless it is stale.
    pub(super) fn admit(&mut self, message: Message, cx: &mut Context<'_>) {
        let released = cx.view.binding(message.thread()).and_then(|binding| binding.released);
        let now = self.catchup.bridge_time(cx.now.running).unwrap_or(cx.now.wall);
        if !self.quarantine.is_stale(&message, now, released) {
            return self.turns.push(message);
        }
        if !self.quarantine.has_room(&message) {
            return self.finish(message, PostKind::Error, texts::QUARANTINE_FULL.to_owned());
        }
        log::info!(
            threadId = message.thread().as_str(), entry:% = message.entry;
            "a stale message waits for a person"
        );
        cx.effects.push(Effect::SetAside { entry: message.entry, is_aside: true });
        self.quarantine.hold(cx.now.running, message);
    }

    /// `run`: stale messages run after all.
    pub(super) fn release(&mut self, word: Message, cx: &mut Context<'_>) {
        let thread = word.thread().clone();
        let messages = self.quarantine.release(&thread);
        log::info!(
            threadId = thread.as_str(), messages = messages.len();
            "a person has released stale messages"
        );
        // On disk before the entry of `run` goes: after a crash the messages must not wait again.
        if let Some(entry) = messages.iter().map(|message| message.entry).max() {
            self.change(&thread, Change::Released { entry }, cx);
        }
        self.run_held(messages, cx);
        self.done(&word, DoneReason::Answered, cx);
    }

    /// Messages leave the quarantine.
    pub(super) fn run_held(&mut self, messages: Vec<Message>, cx: &mut Context<'_>) {
        for message in messages {
            cx.effects.push(Effect::SetAside { entry: message.entry, is_aside: false });
            self.turns.insert(message);
        }
    }

    pub(super) fn claimed(
        &mut self,
        thread: &ThreadId,
        outcome: ClaimOutcome,
        cx: &mut Context<'_>,
    ) {
        let is_current = self.claims.landed(thread);
        let is_won = match &outcome {
            ClaimOutcome::Won => true,
            ClaimOutcome::Lost { winner } => winner.as_ref() == Some(&self.settings.machine),
            ClaimOutcome::Failed { .. } => false,
        };
        if !is_current {
            return;
        }
        match outcome {
            // What was held is in the inbox, and the next start takes it in.
            _ if is_won && self.is_stopping => self.bind(thread, None, cx),
            ClaimOutcome::Lost { .. } if is_won => {
                self.was_ours(thread);
                self.own(thread, None, cx);
            }
            _ if is_won => self.own(thread, None, cx),
            ClaimOutcome::Failed { retry_after } => {
                self.claims.failed(cx.now.running, thread, retry_after);
            }
            ClaimOutcome::Won | ClaimOutcome::Lost { .. } => self.disown(thread, cx),
        }
    }

    /// The bridge says that the thread was ours before.
    pub(super) fn was_ours(&mut self, thread: &ThreadId) {
        if self.settings.has_lost_bindings && !self.ours.contains(thread) {
            self.sessions_lost.insert(thread.clone());
        }
    }

    /// The thread is ours. What was written before `since` is not.
    fn bind(&mut self, thread: &ThreadId, since: Option<Timestamp>, cx: &mut Context<'_>) {
        // It was not among the threads that were read after the connection.
        if let Some(since) = self.claims.missing_since(thread) {
            self.is_missing(thread, since, cx);
        }
        if self.ours.insert(thread.clone()) {
            self.change(thread, Change::Own { since }, cx);
        }
    }

    /// The thread is ours, and so is what was held for it.
    pub(super) fn own(
        &mut self,
        thread: &ThreadId,
        since: Option<Timestamp>,
        cx: &mut Context<'_>,
    ) {
        self.bind(thread, since, cx);
        for message in self.claims.resolve(thread) {
            self.accept(message, cx);
        }
    }

    /// The thread is another machine's, and so is what was held for it; but not if a claim is in
    /// flight, because its answer knows better.
    pub(super) fn disown(&mut self, thread: &ThreadId, cx: &mut Context<'_>) {
        self.ours.remove(thread);
        self.catchup.is_read(thread);
        if self.claims.is_in_flight(thread) {
            return;
        }
        for message in self.claims.resolve(thread) {
            self.done(&message, DoneReason::NotOurs, cx);
        }
    }
}
