//! What is on disk, as far as the loop owns it: bindings, the memory of done messages, and the
//! daemon's own posts. It does what the coordinator decides, and shows the coordinator what is there.

use std::{io, path::PathBuf, sync::Arc};

use crate::{
    bridge::wire::Reply,
    coordinator::{Change, Event, View},
    ids::{Engine, MachineId, MessageId, ThreadId},
    permission::code::Code,
    store::{
        binding::Binding,
        entry::EntryId,
        journal::{PostRequest, Stored},
        seen::Seen,
        state::StateStore,
    },
    time::{self, Timestamp},
    worker::{self, Shared},
};

#[derive(Debug)]
pub(super) struct Records {
    pub(super) store: StateStore,
    pub(super) seen: Seen,
    shared: Arc<Shared>,
}

impl Records {
    pub(super) fn new(store: StateStore, seen: Seen, shared: Arc<Shared>) -> Records {
        Records { store, seen, shared }
    }

    fn machine(&self) -> &MachineId {
        &self.shared.config.machine
    }

    fn is_ours(&self, binding: &Binding) -> bool {
        binding.machine.as_ref().is_none_or(|owner| owner == self.machine())
    }

    /// The threads of this machine, each with the questions that ended with an earlier process.
    pub(super) fn ours(&self) -> impl Iterator<Item = (ThreadId, Vec<Code>)> {
        let ours = self.store.bindings().iter().filter(|(_, binding)| self.is_ours(binding));
        ours.map(|(thread, binding)| {
            let codes = binding.orphaned_questions.iter().filter_map(|code| code.parse().ok());
            (thread.clone(), codes.collect())
        })
    }

    /// How many changes are on disk.
    pub(super) fn all_written(&self) -> Event {
        Event::Written { change: self.store.newest_written() }
    }

    pub(super) fn change(&mut self, thread: &ThreadId, change: Change, number: u64) {
        let new = || Binding::new(self.machine().clone(), time::now());
        let mut binding = self.store.get(thread).cloned().unwrap_or_else(new);
        change.apply(&mut binding, self.machine());
        let written = self.store.set(thread, binding);
        debug_assert_eq!(written, number, "the coordinator counts the same changes");
    }

    /// Has a post stored: later [`Records::stored`] says what became of it. Some: it won't be.
    pub(super) fn put(&mut self, request: PostRequest) -> Option<Event> {
        let flushed = if request.is_confirmation { self.seen.flush() } else { Ok(()) };
        let handed_over = match flushed {
            Ok(()) => self.shared.outbox.put_later(request),
            Err(error) => Err((error, request)),
        };
        handed_over.err().map(|(error, request)| not_put(&error, request))
    }

    pub(super) fn stored(&self, Stored { request, result }: Stored) -> Event {
        match result {
            Ok(()) => {
                self.shared.wake();
                Event::Put { thread: request.post.thread_id, finishes: request.finishes }
            }
            Err(error) => not_put(&error, request),
        }
    }

    /// Removes the entries of messages that are done. None if that is on its way.
    pub(super) fn remove(&mut self, entries: Vec<EntryId>) -> Option<Event> {
        self.seen.done(&entries).err().map(|error| {
            complain(&error);
            Event::NotRemoved { entries }
        })
    }
}

impl View for Records {
    fn is_done(&self, message: &MessageId) -> bool {
        self.seen.contains(message)
    }

    fn binding(&self, thread: &ThreadId) -> Option<&Binding> {
        self.store.get(thread)
    }

    fn threads(&self) -> Vec<ThreadId> {
        let ours = self.store.bindings().iter().filter(|(_, binding)| self.is_ours(binding));
        let mut threads: Vec<(Option<Timestamp>, &ThreadId)> = ours
            .map(|(thread, binding)| {
                let used = binding.sessions.values().filter_map(|it| it.last_drive_at).max();
                (used.or(binding.created_at), thread)
            })
            .collect();
        threads.sort_by(|a, b| b.cmp(a));
        threads.into_iter().map(|(_, thread)| thread.clone()).collect()
    }

    fn engine(&self, reply: &Reply) -> Engine {
        self.shared.engine(reply.engine.as_ref()).name.clone()
    }

    fn writes_in(&self, reply: &Reply) -> Option<PathBuf> {
        let binding = self.store.get(&reply.thread_id);
        let session = binding.and_then(|binding| binding.sessions.get(&self.engine(reply)));
        worker::writes(&self.shared, reply, session)
    }
}

fn not_put(error: &io::Error, request: PostRequest) -> Event {
    complain(error);
    let PostRequest { post, finishes, is_confirmation } = request;
    Event::NotPut { post, finishes, is_confirmation }
}

fn complain(error: &io::Error) {
    log::error!(error:% = error; "cannot write to the state directory; trying again");
}
