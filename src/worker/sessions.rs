//! The thread's session of the engine that answers, during a turn.

use std::time::SystemTime;

use camino::Utf8Path;
use serde_json::Number;

use crate::{
    agent::engines,
    coordinator::Event,
    ids::SessionId,
    store::binding::SessionRecord,
    time::{self, Timestamp},
    worker::run::Run,
};

/// A session that is known from now on.
pub fn record(session: SessionId, project_dir: &Utf8Path) -> SessionRecord {
    let mut record = SessionRecord::new(session);
    record.project_dir = Some(project_dir.to_string());
    record.created_at = Some(time::now());
    record
}

/// The thread's session of the engine that answers. Every change is reported to the loop.
pub(super) struct Session<'a> {
    pub(super) run: &'a Run<'a>,
    pub(super) record: Option<SessionRecord>,
}

impl Session<'_> {
    /// The engine has named its session.
    pub(super) fn learned(&mut self, session: SessionId, project_dir: &Utf8Path) {
        if self.record.as_ref().is_some_and(|known| known.session_id == session) {
            return;
        }
        let mut record = record(session, project_dir);
        if let Some(session_file) = engines::describe(self.run.engine()).session_file {
            let env = self.run.def.environment(&self.run.shared.env);
            let file = session_file(&env, project_dir.as_std_path(), &record.session_id);
            record.jsonl_path = file.map(|file| file.display().to_string());
        }
        self.record = Some(record);
        self.report();
    }

    /// A turn is over: remembers when, and how the session's file looks now.
    pub(super) fn driven(&mut self) {
        let Some(record) = &mut self.record else { return };
        record.last_drive_at = Some(time::now());
        if let Some(modified) = record.jsonl_path.as_deref().and_then(modified) {
            record.last_jsonl_mtime_ms = Some(Number::from(modified.as_millis()));
        }
        self.report();
    }

    /// The engine is gone: it may have written to the session's file until then.
    pub(super) fn left(&mut self) {
        if self.record.as_ref().is_some_and(|record| record.jsonl_path.is_some()) {
            self.driven();
        }
    }

    /// The engine does not have it any more.
    pub(super) fn forget(&mut self) {
        self.record = None;
        self.report();
    }

    fn report(&self) {
        self.run.report(Event::Session {
            thread: self.run.thread(),
            engine: self.run.engine().clone(),
            record: self.record.clone(),
        });
    }
}

/// Whether another program has written to the session since we drove it (`liveGuard`). Only
/// Claude Code keeps its sessions in files that tell; it locks nothing itself (2.1.197).
pub(super) fn is_live_elsewhere(run: &Run<'_>, record: &SessionRecord) -> bool {
    let config = &run.shared.config;
    if !config.live_guard || engines::describe(run.engine()).session_file.is_none() {
        return false;
    }
    let Some(modified) = record.jsonl_path.as_deref().and_then(modified) else { return false };
    match record.last_jsonl_mtime_ms.as_ref().and_then(whole) {
        // One millisecond is the fraction that was cut off, no other writer.
        Some(baseline) => baseline + 1 < modified.as_millis(),
        None => time::now().since(modified) < config.live_threshold,
    }
}

/// Node wrote fractions of milliseconds.
fn whole(millis: &Number) -> Option<u64> {
    millis.to_string().split('.').next()?.parse().ok()
}

fn modified(path: &str) -> Option<Timestamp> {
    let modified: SystemTime = std::fs::metadata(path).ok()?.modified().ok()?;
    Some(Timestamp::from_system(modified))
}
