//! The thread's sessions: kept here while the worker lives, told to the dispatcher on every change.

use std::{path::Path, time::SystemTime};

use serde_json::Number;

use crate::{
    agent::engines,
    ids::{Engine, SessionId},
    store::binding::SessionRecord,
    time::{self, Timestamp},
    worker::{Job, Report, Serving},
};

/// A session that is known from now on.
pub fn record(session: SessionId, project_dir: &Path) -> SessionRecord {
    let mut record = SessionRecord::new(session);
    record.project_dir = Some(project_dir.display().to_string());
    record.created_at = Some(time::now());
    record
}

impl Serving<'_> {
    /// Forgets the engine's session, if the human wanted a new one from this message on.
    pub(super) fn renew(&mut self, engine: &Engine, job: &Job) {
        let Some(mark) = job.fresh else { return };
        if self.renewed.insert(engine.clone(), mark) == Some(mark) {
            return;
        }
        self.sessions.remove(engine);
        self.is_clean = true;
        let (thread, engine) = (self.thread.clone(), engine.clone());
        // The dispatcher may be leaving.
        self.shared.reports.send(Report::Renewed { thread, engine, mark }).ok();
    }

    /// The engine told its session.
    pub(super) fn learned(&mut self, engine: &Engine, session: SessionId, project_dir: &Path) {
        if self.sessions.get(engine).is_some_and(|known| known.session_id == session) {
            return;
        }
        let mut record = record(session, project_dir);
        if let Some(session_file) = engines::describe(engine).session_file {
            let file = session_file(&self.shared.env, project_dir, &record.session_id);
            record.jsonl_path = file.map(|file| file.display().to_string());
        }
        self.sessions.insert(engine.clone(), record);
        self.report_session(engine);
    }

    /// A turn is over: remembers when, and how the session's file looks now.
    pub(super) fn driven(&mut self, engine: &Engine) {
        let Some(record) = self.sessions.get_mut(engine) else { return };
        record.last_drive_at = Some(time::now());
        if let Some(modified) = record.jsonl_path.as_deref().and_then(modified) {
            record.last_jsonl_mtime_ms = Some(Number::from(modified.as_millis()));
        }
        self.report_session(engine);
    }

    pub(super) fn report_session(&self, engine: &Engine) {
        let report = Report::Session {
            thread: self.thread.clone(),
            engine: engine.clone(),
            record: self.sessions.get(engine).cloned(),
        };
        self.shared.reports.send(report).ok(); // The dispatcher may be leaving.
    }

    /// Whether somebody else has written to the session since we drove it (`liveGuard`),
    /// for engines whose sessions are files that tell.
    pub(super) fn is_live_elsewhere(&self, engine: &Engine, record: &SessionRecord) -> bool {
        let settings = &self.shared.settings;
        if !settings.live_guard || engines::describe(engine).session_file.is_none() {
            return false;
        }
        let Some(modified) = record.jsonl_path.as_deref().and_then(modified) else { return false };
        match record.last_jsonl_mtime_ms.as_ref().and_then(whole) {
            // One millisecond is the fraction that was cut off, no other writer.
            Some(baseline) => baseline + 1 < modified.as_millis(),
            None => time::now().since(modified) < settings.live_threshold,
        }
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
