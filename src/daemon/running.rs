//! The turns in progress: how they begin, and the way to them.

use std::{collections::HashMap, sync::Arc};

use crossbeam_channel::{Sender, unbounded};

use crate::{
    agent::TurnCommand,
    bridge::Client,
    coordinator::{Begin, Event, View},
    ids::ThreadId,
    permission::Rule,
    store::entry::EntryId,
    task::TaskRole,
    worker::{self, PrefetchedHistory, TurnJob},
};

use super::{calls::Calls, records::Records};

#[derive(Debug, Default)]
pub(super) struct RunningTurns {
    commands: HashMap<EntryId, Sender<TurnCommand>>,
    /// Of threads that are being claimed.
    prefetched: HashMap<ThreadId, PrefetchedHistory>,
    begun: u64,
}

impl RunningTurns {
    /// Asks for the history of a thread while it is being claimed: two round trips at the same time.
    pub(super) fn prefetch(&mut self, client: &Client, thread: &ThreadId) {
        if let Some(history) = worker::prefetch_history(client, thread) {
            self.prefetched.insert(thread.clone(), history);
        }
    }

    pub(super) fn forget_history(&mut self, thread: &ThreadId) {
        self.prefetched.remove(thread);
    }

    /// Starts a turn. When there is no room for it, that is the event.
    pub(super) fn begin(
        &mut self,
        begin: Begin,
        records: &Records,
        calls: &Calls,
    ) -> Option<Event> {
        let (thread, entry) = (begin.thread.clone(), begin.entry);
        let binding = records.binding(&thread);
        let engine = records.engine(&begin.reply);
        // Unbounded: a verdict for each open question, and these have a bound, or a stop, which is
        // in the inbox.
        let (commands, orders) = unbounded();
        let job = TurnJob {
            session: binding.and_then(|binding| binding.sessions.get(&engine)).cloned(),
            grants: binding.map_or_else(Vec::new, |binding| {
                binding.grants.iter().filter_map(|rule| Rule::parse(rule).ok()).collect()
            }),
            prefetched: self.prefetched.remove(&thread),
            commands: orders,
            begin,
        };
        self.begun += 1;
        // Linux keeps 15 bytes of a name.
        let name = format!("turn-{}", self.begun % 1_000_000_000);
        let shared = Arc::clone(&calls.shared);
        let run = move || worker::turn(&shared, job);
        match calls.tasks.spawn(&name, TaskRole::Helper(None), run) {
            Ok(_) => {
                self.commands.insert(entry, commands);
                None
            }
            Err(error) => {
                log::error!(threadId = thread.as_str(), error:% = error; "cannot start a turn; trying again");
                Some(Event::NotBegun { thread, entry })
            }
        }
    }

    pub(super) fn command(&self, entry: EntryId, command: TurnCommand) {
        if let Some(commands) = self.commands.get(&entry) {
            commands.send(command).ok(); // Its turn may be over.
        }
    }

    /// The turn has sent its last report.
    pub(super) fn left(&mut self, entry: EntryId) {
        self.commands.remove(&entry);
    }
}
