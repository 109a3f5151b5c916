//! Writes down what people decide, one decision after another: in the audit, and that the message is
//! an answer and no prompt. A task of its own: turns write the audit as well, and the loop does not
//! wait for their disk.

use std::{io, sync::Arc};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::calls::Helper;
use crate::{
    agent::Verdict,
    coordinator::{DecidedBy, Event},
    permission::{card::Asked, desk::Key},
    store::{
        audit::By,
        entry::{EntryId, Progress},
    },
    task::{Registry, Role},
    worker::{Shared, Subject},
};

/// Decisions that wait to be written; one more can't be.
const DECISIONS: usize = 1_000;

/// A decision about a question.
#[derive(Debug)]
pub(super) struct Decision {
    pub(super) asked: Box<Asked>,
    pub(super) verdict: Verdict,
    pub(super) by: DecidedBy,
}

/// The way to the task. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Recorder {
    decisions: Sender<Decision>,
}

impl Recorder {
    /// # Errors
    /// When the system gives no more threads.
    pub(super) fn start(
        shared: Arc<Shared>,
        tasks: &Registry<Helper>,
        events: Sender<Event>,
    ) -> io::Result<Recorder> {
        let (decisions, waiting) = bounded(DECISIONS);
        let writer = Writer { shared };
        tasks.spawn("recorder", Role::Essential, move || writer.run(&waiting, &events))?;
        Ok(Recorder { decisions })
    }

    /// Has a decision written: [`Event::Recorded`]. When too many wait, that is the event.
    pub(super) fn record(&self, decision: Decision) -> Option<Event> {
        let full = self.decisions.try_send(decision).err()?.into_inner();
        Some(Event::Recorded { key: Key::of(&full.asked), is_written: false })
    }
}

struct Writer {
    shared: Arc<Shared>,
}

impl Writer {
    fn run(&self, decisions: &Receiver<Decision>, events: &Sender<Event>) {
        for Decision { asked, verdict, by } in decisions {
            let is_written = self.write(&asked, &verdict, &by);
            if events.send(Event::Recorded { key: Key::of(&asked), is_written }).is_err() {
                return;
            }
        }
    }

    /// False: it could not be written.
    fn write(&self, asked: &Asked, verdict: &Verdict, by: &DecidedBy) -> bool {
        let by = match by {
            DecidedBy::Message { entry, id, author } => {
                if let Err(error) = self.keep_answer(asked, *entry) {
                    log::error!(threadId = asked.thread.as_str(), error:% = error; "cannot keep an answer");
                    return false;
                }
                By::Message { id, author: author.as_deref() }
            }
            DecidedBy::Timeout => By::Timeout,
        };
        let subject = Subject {
            thread: &asked.thread,
            turn: &asked.turn,
            engine: &asked.engine,
            directory: &asked.directory,
            question: &asked.question,
        };
        let ruling = match verdict {
            Verdict::Allow => "allow",
            Verdict::AllowAlways => "always",
            Verdict::Chosen(_) => "answer",
            Verdict::Deny { .. } => "deny",
        };
        let written = self.shared.audit.write(&subject.record(ruling, by));
        if let Err(error) = &written {
            log::error!(threadId = asked.thread.as_str(), error:% = error; "cannot write the audit");
        }
        written.is_ok()
    }

    /// Notes that a message is an answer, so that no later start takes it for a prompt.
    fn keep_answer(&self, asked: &Asked, entry: EntryId) -> io::Result<()> {
        let progress = Progress {
            turn: asked.turn.clone(),
            engine: asked.engine.clone(),
            session: None,
            attempts: 0,
            asking: Vec::new(),
            answers: Some(asked.code.to_string()),
            is_answered: false,
        };
        self.shared.inbox.started(&entry, &progress)
    }
}
