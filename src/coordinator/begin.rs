//! How turns begin, once they have their slots.

use super::{
    Begin, Change, Context, Coordinator, Effect,
    message::{Arrival, Message},
    names,
    slots::Grant,
    texts,
};
use crate::{
    bridge::wire::PostKind,
    ids::{Engine, ThreadId},
};

impl Coordinator {
    pub(super) fn begin(&mut self, cx: &mut Context<'_>) {
        let now = cx.now.running;
        loop {
            self.turns.line_up(now, |message| cx.view.writes_in(&message.reply));
            let has_room = !self.is_last();
            let Some((grant, message)) = self.turns.next(has_room) else { return };
            match (grant, message) {
                (Grant::Slot { thread, has_directory }, Some(message)) => {
                    self.begin_turn(thread, message, has_directory, cx);
                }
                (Grant::Slot { .. }, None) => unreachable!("only messages wait for slots"),
                (Grant::Directory(thread), _) => {
                    for ruling in self.approvals.may_write(&thread) {
                        self.tell(ruling, cx);
                    }
                }
            }
        }
    }

    fn begin_turn(
        &mut self,
        thread: ThreadId,
        message: Message,
        has_directory: bool,
        cx: &mut Context<'_>,
    ) {
        let engine = cx.view.engine(&message.reply);
        let is_clean = self.is_renewed(&message, &engine, cx);
        if is_clean {
            self.renewals.remove(&(thread.clone(), engine.clone()));
            self.change(&thread, Change::Renewed { engine: engine.clone() }, cx);
        }
        if self.sessions_lost.remove(&thread) {
            let name = names::lost(message.entry);
            let text = texts::SESSION_LOST.to_owned();
            let post = self.post(thread.clone(), PostKind::Status, text, name);
            self.acks.post(post, None, false);
        }
        self.turns.began(&thread, engine, cx.now.wall);
        let Message { entry, reply, progress, .. } = message;
        let begin = Begin { thread, entry, reply, progress, is_clean, has_directory };
        cx.effects.push(Effect::Begin(begin));
    }

    /// Whether `/new` was said before this message and not obeyed since.
    fn is_renewed(&self, message: &Message, engine: &Engine, cx: &Context<'_>) -> bool {
        let Some(binding) = cx.view.binding(message.thread()) else { return false };
        let Some(mark) = binding.fresh_after.get(engine) else { return false };
        let is_of_this_process =
            self.renewals.contains_key(&(message.thread().clone(), engine.clone()));
        // Entries count on from the clock, which may have been set back over a restart.
        let is_later = message.origin != Arrival::Recovered && !is_of_this_process;
        message.progress.is_none() && (is_later || *mark < message.entry)
    }
}
