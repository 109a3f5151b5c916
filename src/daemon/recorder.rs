//! Writes down what people decide, one decision after another: in the audit, and that the message is
//! an answer and no prompt. A task of its own: turns write the audit as well, and the loop does not
//! wait for their disk.

use std::{io, sync::Arc};

use anyhow::Context as _;
use crossbeam_channel::{Receiver, Sender, bounded};

use super::calls::Owed;
use crate::{
    agent::Verdict,
    coordinator::{DecidedBy, Event},
    permission::{approval_prompt::ApprovalRequest, approvals::Key},
    store::{
        audit::By,
        entry::{EntryId, Progress},
    },
    task::{Registry, TaskRole},
    worker::{Shared, Subject},
};

/// Decisions that wait to be written; one more can't be.
const DECISIONS: usize = 1_000;

#[derive(Debug)]
pub(super) struct DecisionRecord {
    pub(super) request: Box<ApprovalRequest>,
    pub(super) verdict: Verdict,
    pub(super) by: DecidedBy,
}

/// Starts the task, which ends when the channel is closed. Of each decision it says
/// [`Event::Recorded`].
///
/// # Errors
/// When the system gives no more threads.
pub(super) fn start(
    shared: Arc<Shared>,
    tasks: &Registry<Owed>,
) -> anyhow::Result<Sender<Box<DecisionRecord>>> {
    // Boxed, since a bounded channel takes the space for all of them at its start.
    let (decisions, waiting) = bounded(DECISIONS);
    tasks
        .spawn("recorder", TaskRole::Essential, move || run(&shared, &waiting))
        .context("starting the task that writes decisions down")?;
    Ok(decisions)
}

fn run(shared: &Shared, decisions: &Receiver<Box<DecisionRecord>>) {
    for decision in decisions {
        let DecisionRecord { request, verdict, by } = *decision;
        let is_written = write(shared, &request, &verdict, &by);
        if shared.events.send(Event::Recorded { key: Key::of(&request), is_written }).is_err() {
            return;
        }
    }
}

/// False: it could not be written.
fn write(shared: &Shared, request: &ApprovalRequest, verdict: &Verdict, by: &DecidedBy) -> bool {
    let by = match by {
        DecidedBy::Message { entry, id, author } => {
            if let Err(error) = keep_answer(shared, request, *entry) {
                log::error!(threadId = request.thread.as_str(), error:% = error; "cannot keep an answer");
                return false;
            }
            By::Message { id, author: author.as_deref() }
        }
        DecidedBy::Timeout => By::Timeout,
    };
    let subject = Subject {
        thread: &request.thread,
        turn: &request.turn,
        engine: &request.engine,
        directory: &request.directory,
        question: &request.question,
    };
    let ruling = match verdict {
        Verdict::Allow => "allow",
        Verdict::AllowAlways => "always",
        Verdict::Chosen(_) => "answer",
        Verdict::Deny { .. } => "deny",
    };
    let written = shared.audit.write(&subject.record(ruling, by));
    if let Err(error) = &written {
        log::error!(threadId = request.thread.as_str(), error:% = error; "cannot write the audit");
    }
    written.is_ok()
}

/// Notes that a message is an answer, so that no later start takes it for a prompt.
fn keep_answer(shared: &Shared, request: &ApprovalRequest, entry: EntryId) -> io::Result<()> {
    let progress = Progress {
        answers: Some(request.code.to_string()),
        ..Progress::new(request.turn.clone(), request.engine.clone())
    };
    shared.inbox.progressed(&entry, &progress)
}
