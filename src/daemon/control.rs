//! Carries out what people say to the daemon itself.

use super::{
    Daemon, held,
    words::{self, Facts, Waiting},
};
use crate::{
    bridge::wire::Reply,
    dispatch::control::{Order, Stopped},
    ids::ThreadId,
    store::entry::EntryId,
    time,
};

impl Daemon {
    /// Carries out a control word. What the answer confirms is on disk before it is said.
    pub(super) fn control(
        &mut self,
        thread: ThreadId,
        entry: EntryId,
        reply: &Reply,
        order: Order,
    ) {
        log::info!(threadId = thread.as_str(), entry:% = entry, order:? = order; "a control word");
        let (body, confirms) = match order {
            Order::Status => (words::status(&self.facts(&thread, reply)), false),
            Order::Queue => (words::queue(&self.waiting(&thread)), false),
            Order::Help => (words::help(), false),
            Order::New => (self.renew(&thread, entry, reply), true),
            Order::Stopped(stopped) => {
                let held = if stopped.is_all { self.drop_held(&thread, entry, reply) } else { 0 };
                let cleared = stopped.cleared + held;
                (words::stopped(Stopped { cleared, ..stopped }), true)
            }
        };
        self.answer(thread, entry, body, confirms);
    }

    /// `/new`: from this entry on the thread's session is not taken any more. A message that came
    /// in before still belongs to it, so it is not removed yet.
    fn renew(&mut self, thread: &ThreadId, entry: EntryId, reply: &Reply) -> String {
        let engine = self.shared.engine(reply.engine.as_ref()).name.clone();
        let mut binding = self.binding(thread);
        let old = binding.sessions.get(&engine).cloned();
        let is_busy = self.dispatch.queue(thread).next().is_some();
        if is_busy || old.is_some() {
            binding.fresh_after.insert(engine.clone(), entry);
            self.store.set(thread, binding);
        }
        words::renewed(&engine, old.as_ref(), is_busy)
    }

    /// The mark of the last `/new`, if the message came in after it and nobody obeyed it yet.
    pub(super) fn fresh_mark(
        &self,
        thread: &ThreadId,
        entry: EntryId,
        reply: &Reply,
    ) -> Option<EntryId> {
        let engine = &self.shared.engine(reply.engine.as_ref()).name;
        let mark = *self.store.get(thread)?.fresh_after.get(engine)?;
        (mark < entry).then_some(mark)
    }

    fn facts(&self, thread: &ThreadId, reply: &Reply) -> Facts {
        let turn = self.board.turn(thread);
        let asked = || self.shared.engine(reply.engine.as_ref()).name.clone();
        let engine = turn.map_or_else(asked, |turn| turn.engine.clone());
        let binding = self.store.get(thread);
        let session = binding.and_then(|binding| binding.sessions.get(&engine));
        let dir = session.and_then(|session| session.project_dir.clone());
        Facts {
            dir: dir.unwrap_or_else(|| self.setup.config.project_dir.display().to_string()),
            session: session.map(|session| session.session_id.clone()),
            machine: self.setup.config.machine.clone(),
            running: turn.map(|turn| time::now().since(turn.since)),
            doing: turn.and_then(|turn| turn.doing.clone()),
            wait: self.places.wait(thread),
            questions: self.questions.lines(thread),
            waiting: self.waiting(thread).messages.len(),
            engine,
        }
    }

    /// The messages that have not begun.
    fn waiting(&self, thread: &ThreadId) -> Waiting {
        let is_running = self.board.turn(thread).is_some();
        let queue = self.dispatch.queue(thread).skip(usize::from(is_running));
        let now = time::now();
        Waiting {
            messages: queue.map(|(_, reply)| held::quote(reply, now)).collect(),
            held: self.held.count(thread),
            wait: self.places.wait(thread),
        }
    }
}
