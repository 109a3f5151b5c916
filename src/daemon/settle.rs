//! The end of a message: remembered in the journal, its binding on disk, its entry gone, in this order.
//! What must not be said before something is on disk waits in the same line.

use std::{
    io,
    time::{Duration, Instant},
};

use super::Daemon;
use crate::{
    bridge::wire::{Post, PostKind},
    dispatch::Event,
    ids::{ClientMsgId, MessageId, ThreadId},
    store::entry::EntryId,
};

/// A disk that failed is tried again after this long.
const DISK_RETRY: Duration = Duration::from_secs(1);

/// While other messages wait, what is done is written together, this long after the first of it: the
/// loop does not wait for a disk then, and everybody else less for the loop.
const TOGETHER: Duration = Duration::from_millis(20);

/// Posts that wait for the disk; one more is not said.
const UNSAID_MAX: usize = 1_000;

/// Something that is done as soon as the change of this generation is on disk.
#[derive(Debug)]
pub(super) struct Settling {
    generation: u64,
    step: Step,
}

#[derive(Debug)]
enum Step {
    /// The message is done with.
    Remove(EntryId),
    /// A post, and the message that it finishes.
    Say { post: Box<Post>, finishes: Option<EntryId> },
    /// The answer to a control word.
    Answer { thread: ThreadId, entry: EntryId, body: String },
}

impl Daemon {
    /// The message is done with; its entry goes as soon as nothing relies on it any more. A
    /// `remembered` one is so from now on, and on disk before its entry goes.
    pub(super) fn settle(&mut self, entry: EntryId, remembered: Option<&MessageId>) {
        if let Some(message) = remembered {
            self.seen.remember(message);
        }
        let generation = self.store.generation();
        self.settling.push_back(Settling { generation, step: Step::Remove(entry) });
    }

    /// Answers a control word. When it `confirms` something, that is on disk before it is said.
    pub(super) fn answer(
        &mut self,
        thread: ThreadId,
        entry: EntryId,
        body: String,
        confirms: bool,
    ) {
        let step = Step::Answer { thread, entry, body };
        if confirms {
            let generation = self.store.generation();
            self.settling.push_back(Settling { generation, step });
        } else {
            self.settling.push_front(Settling { generation: 0, step });
        }
    }

    /// Stores a post as soon as all that has changed so far is on disk.
    pub(super) fn put_once_written(&mut self, post: Post, finishes: Option<EntryId>) {
        let generation = self.store.generation();
        let step = Step::Say { post: Box::new(post), finishes };
        self.settling.push_back(Settling { generation, step });
    }

    /// Stores a post when the disk is all right again.
    pub(super) fn put_later(&mut self, post: Post, finishes: Option<EntryId>, error: &io::Error) {
        let waiting = self.settling.iter().filter(|it| matches!(it.step, Step::Say { .. }));
        if waiting.count() >= UNSAID_MAX {
            log::error!(error:% = error; "cannot store a post in the outbox; the thread is not told");
            return;
        }
        self.disk_failed(error);
        let step = Step::Say { post: Box::new(post), finishes };
        self.settling.push_back(Settling { generation: 0, step });
    }

    /// Takes the steps whose time has come: at once, but those that nobody waits for while others do.
    pub(super) fn settle_soon(&mut self) {
        let is_removal = |settling: &Settling| matches!(settling.step, Step::Remove(_));
        let now = Instant::now();
        if self.dispatch.outstanding() > 0 && self.settling.iter().all(is_removal) {
            if self.settling.is_empty() {
                return;
            }
            let due = *self.settle_due.get_or_insert(now + TOGETHER);
            if now < due {
                return;
            }
        }
        self.settle_due = None;
        self.settle_all();
    }

    /// Takes the steps that can be taken: persist before you act.
    pub(super) fn settle_all(&mut self) {
        self.disk_due = None;
        let written = |settling: &Settling| self.store.is_written(settling.generation);
        if !self.settling.front().is_some_and(written) {
            return;
        }
        if let Err(error) = self.seen.flush() {
            return self.disk_failed(&error);
        }
        while let Some(Settling { step, .. }) = self.settling.pop_front_if(|it| written(it)) {
            if let Err(error) = self.take_step(&step) {
                self.settling.push_front(Settling { generation: 0, step });
                return self.disk_failed(&error);
            }
            if let Step::Answer { thread, entry, .. } = step {
                self.events.push_back(Event::Finished { thread, entry });
            }
            self.board.changed();
        }
    }

    fn take_step(&self, step: &Step) -> io::Result<()> {
        match step {
            Step::Remove(entry) => {
                self.shared.inbox.done(entry)?;
                self.shared.outgoing.outbox.settled(*entry)
            }
            Step::Say { post, finishes } => self.shared.outgoing.put(post, *finishes),
            Step::Answer { thread, entry, body } => {
                let author = self.setup.config.engine.author();
                let name = ClientMsgId::new(format!("{entry}.say"));
                let (thread, body) = (thread.clone(), body.clone());
                let post = Post::new(thread, PostKind::Status, author, body, name);
                self.shared.outgoing.put(&post, Some(*entry))
            }
        }
    }

    fn disk_failed(&mut self, error: &io::Error) {
        log::error!(error:% = error; "cannot write to the state directory; trying again");
        self.disk_due = Some(Instant::now() + DISK_RETRY);
    }
}
