//! One message from the inbox to its answer in the outbox.

use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};

use crate::{
    agent::{
        Failure, FailureKind, Gate, Limits, TurnSpec, Usage,
        turn::{Control, Grace, run_turn},
    },
    bridge::wire::{Activity, PostKind, Reply},
    config::Config,
    coordinator::{Begin, STOPPED, names},
    ids::{self, ClientMsgId, SessionId, TurnId},
    permission::RealPlaces,
    prompt::{self, Header},
    store::{
        binding::SessionRecord,
        entry::{Progress, message_key},
    },
    time,
    worker::{
        Outcome, Shared,
        attempt::Attempt,
        handler::Handler,
        history,
        run::{Ending, Last, Run, Unstarted},
        sessions::{self, Session},
        texts, transports,
    },
};

/// A message that was interrupted this often is not retried (ARCHITECTURE.md: crashes).
const ATTEMPTS: u32 = 2;

/// Drives the message to its end, or until the daemon stops.
pub(super) fn drive(run: &Run<'_>) {
    let begin = run.begin;
    let earlier = begin.progress.as_ref().map_or(0, |progress| progress.attempts);
    let session = Session { run, record: run.job.session.clone() };
    let mut drive = Drive { run, number: earlier + 1, attempt: None, session };
    log::info!(
        threadId = begin.thread.as_str(), entry:% = begin.entry, agent = run.engine().as_str(),
        attempt = drive.number;
        "turn starts"
    );
    run.activity(Activity::Working);
    match drive.answer() {
        Ok(()) => {}
        Err(Unstarted::DaemonStops) => log::info!(entry:% = begin.entry; "the turn did not begin"),
        Err(Unstarted::Stopped) => drive.end_with(Outcome::Stopped, STOPPED.to_owned()),
        Err(Unstarted::Failed(failure)) => {
            log::warn!(
                threadId = begin.thread.as_str(), kind:? = failure.kind, reason = failure.message.as_str();
                "no turn could begin"
            );
            drive.end_with(Outcome::Failed(failure.kind), texts::failed(run.engine(), &failure));
        }
    }
    log::info!(threadId = begin.thread.as_str(), entry:% = begin.entry; "turn ended");
}

struct Drive<'a> {
    run: &'a Run<'a>,
    /// Which attempt this is, or will be; counts from 1 over all interruptions.
    number: u32,
    attempt: Option<Attempt>,
    session: Session<'a>,
}

impl Drive<'_> {
    /// Runs the turn, or two when the session of the first one is gone.
    fn answer(&mut self) -> Result<(), Unstarted> {
        let Run { begin, job, .. } = self.run;
        let run = self.run;
        run.check()?;
        if let Some(asked) = &begin.reply.engine
            && asked != run.engine()
            && job.session.is_none()
            && begin.progress.is_none()
        {
            // A name of its own, since there is no attempt yet; said again, it is the same post.
            let name = ClientMsgId::new(format!("{}.engine", begin.entry));
            run.say(name, &texts::unknown_engine(asked, run.engine()));
        }
        let record = match &begin.progress {
            None => job.session.clone(),
            Some(progress) => match self.interrupted(progress) {
                Ok(record) => Some(record),
                Err(text) => {
                    self.end_with(Outcome::Stopped, text);
                    return Ok(());
                }
            },
        };
        let Some(record) = record else { return self.turn(None).map(drop) };
        if sessions::is_live_elsewhere(run, &record) {
            let text = texts::live_elsewhere(run.engine());
            self.end_with(Outcome::Failed(FailureKind::Busy), text);
            return Ok(());
        }
        let detail = match lost_directory(&record) {
            Some(lost) => {
                let now = directory(&run.shared.config, &begin.reply, Some(&record));
                texts::directory_lost(lost, &now.map_err(refused)?)
            }
            None => match self.turn(Some(&record))? {
                Some(detail) => detail,
                None => return Ok(()),
            },
        };
        run.check()?;
        self.session.forget();
        if begin.progress.is_some() {
            // It had begun, so a fresh session might do it twice.
            let text = texts::interrupted_without_session(run.engine());
            self.end_with(Outcome::Stopped, text);
            return Ok(());
        }
        let text = texts::session_gone(run.engine(), &record.session_id, &detail);
        // A name of its own, if there is no attempt yet; said again, it is the same post.
        let name = self.attempt.as_mut().map(Attempt::next_post);
        run.say(name.unwrap_or_else(|| ClientMsgId::new(format!("{}.gone", begin.entry))), &text);
        self.turn(None).map(drop)
    }

    /// What to resume after an earlier daemon was stopped in the middle of this message, or what to
    /// say to the person (ARCHITECTURE.md: crashes).
    fn interrupted(&self, progress: &Progress) -> Result<SessionRecord, String> {
        let engine = self.run.engine();
        if self.number > ATTEMPTS {
            return Err(texts::interrupted_again(engine));
        }
        let Some(session) = progress.session.as_ref().filter(|_| progress.engine == *engine) else {
            return Err(texts::interrupted_without_session(engine));
        };
        let known = self.run.job.session.as_ref().filter(|known| known.session_id == *session);
        if known.is_some_and(|known| lost_directory(known).is_some()) {
            return Err(texts::interrupted_without_session(engine));
        }
        // This attempt is not on disk yet. Made again, the post has the same name and text.
        let name = format!("{}.resumed.{}", self.run.begin.entry, self.number);
        self.run.say(ClientMsgId::new(name), &texts::resumed_after_interruption(engine));
        Ok(known.cloned().unwrap_or_else(|| {
            sessions::record(session.clone(), &self.run.shared.config.project_dir)
        }))
    }

    /// Runs the engine once, until it is gone. Some: `record`'s session is gone, with what the
    /// engine said about it.
    fn turn(&mut self, record: Option<&SessionRecord>) -> Result<Option<String>, Unstarted> {
        let run = self.run;
        let shared = run.shared;
        let spec = self.spec(record)?;
        let mut transport = transports::open(run, &spec)?;
        run.check()?;
        // The engine is starting meanwhile, but has no prompt before this is on disk.
        let attempt = begin(run, &mut self.attempt, self.number, &spec)?;
        // The disk may have been waited for until then.
        run.check()?;
        run.turn_begins();
        let mut protocol = (run.def.description.protocol)();
        let mut handler = Handler::new(run, attempt, &mut self.session, &spec);
        let control = Control {
            commands: &run.job.commands,
            late: &run.late.1,
            stop: &shared.stop,
            grace: Grace::default(),
        };
        let limits = Limits {
            startup: shared.config.startup_timeout,
            silence: shared.config.silence_timeout,
            turn: shared.config.turn_timeout,
        };
        run_turn(protocol.as_mut(), transport.as_mut(), &spec, &limits, &control, &mut handler);
        Ok(handler.left())
    }

    fn spec(&self, record: Option<&SessionRecord>) -> Result<TurnSpec, Unstarted> {
        let (run, begin) = (self.run, self.run.begin);
        let Shared { config, sandbox, opencode_model, .. } = run.shared;
        let project_dir = directory(config, &begin.reply, record).map_err(refused)?;
        let (images, note) = history::images(run)?;
        if config.allow_all {
            log::warn!(threadId = begin.thread.as_str(); "allowAll: this turn runs without any permission gate");
        }
        let own = run.shared.policy.own_files();
        Ok(TurnSpec {
            own_files: own.paths(&RealPlaces),
            has_own_files: own.are_in(project_dir.as_std_path(), &RealPlaces),
            turn: TurnId::new(ids::random_hex()),
            prompt: Arc::new(self.prompt(record.is_some(), &note)?),
            images,
            session: record.map(|record| record.session_id.clone()),
            fresh_session: SessionId::new(ids::random_uuid()),
            project_dir,
            title: history::title(&begin.reply),
            gate: if config.allow_all { Gate::AllowAll } else { Gate::Ask },
            asks_human: config.relay_permissions,
            sandbox: *sandbox,
            model: opencode_model.clone(),
            login: run.def.login(&run.shared.env),
        })
    }

    fn prompt(&self, is_resume: bool, note: &str) -> Result<String, Unstarted> {
        let begin = self.run.begin;
        let reply = &begin.reply;
        let now = time::now().to_string();
        let header = Header {
            thread: begin.thread.as_str(),
            author: reply.author.as_deref().unwrap_or_default(),
            role: reply.role.as_deref().unwrap_or_default(),
            ts: reply.created_at.as_deref().unwrap_or(&now),
            message_id: reply.message_id.as_ref().map(ids::MessageId::as_str),
        };
        let envelope = prompt::envelope(&header, &reply.body, note);
        if is_resume {
            let again: &[&str] = match self.number {
                1 => &[],
                _ => &[prompt::interrupted_note(), "\n\n"],
            };
            let parts = again.iter().copied().chain(envelope.iter().map(|part| &**part));
            return Ok(parts.collect::<Vec<_>>().concat());
        }
        let history = if begin.is_clean { None } else { history::block(self.run)? };
        let has_tools = self.run.def.description.has_bridge_tools;
        let bootstrap = prompt::bootstrap(begin.thread.as_str(), has_tools);
        Ok(prompt::first_touch(history.as_deref(), &envelope, &bootstrap))
    }

    /// Ends the message with a post of the daemon's own. Before there is an attempt the post has a
    /// name of its own: it is the last one, so nothing can follow under that name.
    fn end_with(&mut self, outcome: Outcome, body: String) {
        let Begin { entry, reply, .. } = self.run.begin;
        let name = self.attempt.as_mut().map(Attempt::next_post);
        let name = name.unwrap_or_else(|| names::end(&message_key(*entry, reply)));
        let kind = match outcome {
            Outcome::Failed(_) => PostKind::Error,
            Outcome::Answered | Outcome::Stopped => PostKind::Status,
        };
        let last = Last::Post { post: self.run.draft(kind, name), body: body.clone() };
        let (usage, session) = (Usage::default(), None);
        self.run.end(Ending { last, outcome, text: body, usage, session });
    }
}

/// Makes the attempt durable, or another turn of it.
fn begin<'a>(
    run: &Run<'_>,
    attempt: &'a mut Option<Attempt>,
    number: u32,
    spec: &TurnSpec,
) -> Result<&'a mut Attempt, Unstarted> {
    let progress = Progress {
        session: spec.session.clone(),
        attempts: number,
        ..Progress::new(spec.turn.clone(), run.engine().clone())
    };
    let posts = attempt.as_ref().map_or(0, |earlier| earlier.posts);
    let begun = run.persist(|shared| {
        Attempt::begin(&shared.inbox, run.begin.entry, &run.begin.reply, progress.clone(), posts)
    });
    // A stop or an interrupt has ended the wait for the disk.
    let unstarted = || run.check().err().unwrap_or(Unstarted::Stopped);
    Ok(attempt.insert(begun.ok_or_else(unstarted)?))
}

fn refused(text: String) -> Failure {
    Failure::new(FailureKind::Refused, text, "")
}

/// The directory of a session, if it is not there any more: no engine can go on in it.
fn lost_directory(record: &SessionRecord) -> Option<&Utf8Path> {
    record.project_dir.as_deref().map(Utf8Path::new).filter(|dir| !dir.is_dir())
}

/// Where the turn works: where its session does, or else where the thread asked to begin, if that
/// is one of the places that this machine offers. The error is for people.
pub(super) fn directory(
    config: &Config,
    reply: &Reply,
    record: Option<&SessionRecord>,
) -> Result<Utf8PathBuf, String> {
    let Config { project_dir, project_dirs, .. } = config;
    let known = record.filter(|record| lost_directory(record).is_none());
    if let Some(dir) = known.and_then(|record| record.project_dir.as_ref()) {
        return Ok(dir.into());
    }
    let dir = reply.project_dir.as_ref().map_or_else(|| project_dir.clone(), Utf8PathBuf::from);
    if dir != *project_dir && !project_dirs.contains(&dir) {
        return Err(texts::directory_not_offered(&dir));
    }
    if dir.is_dir() { Ok(dir) } else { Err(texts::no_directory(&dir)) }
}
