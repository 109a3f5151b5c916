//! What a start makes of what an earlier process left in the inbox.

use std::{collections::HashSet, sync::Arc};

use super::{
    Change, Context, Coordinator, DoneReason, approvals,
    message::{Arrival, Message},
};
use crate::{
    bridge::wire::Reply,
    ids::{MessageId, TurnId},
    store::{
        binding::SessionRecord,
        entry::{EntryId, Progress, message_key},
    },
};

/// A message that was in the inbox at the start.
#[derive(Clone, Debug, PartialEq)]
pub struct Recovered {
    pub entry: EntryId,
    pub reply: Arc<Reply>,
    /// How far its turn came.
    pub progress: Option<Progress>,
    /// Its answer is in the outbox.
    pub has_answer: bool,
    /// The session of its turn, in case no binding has it: the crash came between the two.
    pub session: Option<SessionRecord>,
}

impl Coordinator {
    pub(super) fn recover(&mut self, entries: Vec<Recovered>, cx: &mut Context<'_>) {
        if !entries.is_empty() {
            log::info!(messages = entries.len(); "going on with messages that an earlier daemon left");
        }
        // Questions with an answer in the inbox did not wait for a person any more.
        let answered: HashSet<(TurnId, String)> = entries
            .iter()
            .filter_map(|entry| {
                let progress = entry.progress.as_ref()?;
                Some((progress.turn.clone(), progress.answers.clone()?))
            })
            .collect();
        // A message that came in twice is known by the entry that its turn was begun for.
        let is_begun = |entry: &Recovered| entry.progress.is_some() || entry.has_answer;
        let key = |entry: &Recovered| message_key(entry.entry, &entry.reply);
        let begun: HashSet<MessageId> = entries.iter().filter(|it| is_begun(it)).map(key).collect();
        for entry in entries {
            if !is_begun(&entry) && begun.contains(&key(&entry)) {
                self.acks.remove(&entry.reply.thread_id, entry.entry);
                continue;
            }
            self.recover_one(entry, &answered, cx);
        }
    }

    fn recover_one(
        &mut self,
        recovered: Recovered,
        answered: &HashSet<(TurnId, String)>,
        cx: &mut Context<'_>,
    ) {
        let Recovered { entry, reply, progress, has_answer, session } = recovered;
        let message = Message { entry, reply, progress, origin: Arrival::Recovered };
        let is_answered = has_answer
            || message.progress.as_ref().is_some_and(|it| it.is_answered)
            || cx.is_done(&message.key());
        let is_bound = cx.view.binding(message.thread()).is_some();
        if is_answered || message.progress.is_some() && !is_bound {
            let thread = message.thread();
            if !is_bound {
                // It was ours, and the crash came before that was written.
                self.own(thread, None, cx);
            }
            // So may have been what the earlier process knew to be missing.
            let since = self.catchup.since(message.written());
            if let Some(since) = since.filter(|_| self.ours.contains(thread)) {
                self.is_missing(thread, since, cx);
            }
        }
        let Some(progress) = message.progress.clone() else {
            if is_answered {
                return self.done(&message, DoneReason::Answered, cx);
            }
            return self.arrived(message, cx);
        };
        self.restore_session(&message, &progress, session, cx);
        let codes = approvals::open_codes(&progress, answered);
        let mut steps = Vec::new();
        // Also of a message that has its last post: the crash came before its questions had theirs.
        if !codes.is_empty() {
            self.approvals.orphan(message.thread(), &progress.turn, &codes, &mut steps);
        }
        if is_answered {
            self.perform(steps, cx);
            return self.done(&message, DoneReason::Answered, cx);
        }
        if let Some(code) = &progress.answers {
            steps.push(self.approvals.interrupted_answer(message.clone(), code));
        } else if codes.is_empty() {
            return self.arrived(message, cx);
        } else {
            steps.push(self.approvals.orphaned_turn(message.clone(), &progress.engine));
        }
        self.outstanding.insert(message.key());
        self.perform(steps, cx);
    }

    fn restore_session(
        &mut self,
        message: &Message,
        progress: &Progress,
        session: Option<SessionRecord>,
        cx: &mut Context<'_>,
    ) {
        let binding = cx.view.binding(message.thread());
        let is_known = binding.is_some_and(|it| it.sessions.contains_key(&progress.engine));
        if let Some(record) = session.filter(|_| !is_known) {
            let (engine, record) = (progress.engine.clone(), Some(record));
            self.change(message.thread(), Change::Session { engine, record }, cx);
        }
    }
}
