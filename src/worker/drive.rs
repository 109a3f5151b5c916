//! One message from the inbox to its answer in the outbox.

use std::path::PathBuf;

use camino::Utf8PathBuf;

use crate::{
    agent::{
        Failure, FailureKind, Gate, TurnSpec,
        turn::{Control, Grace, run_turn},
    },
    bridge::wire::{Activity, PostKind, Reply},
    coordinator::{STOPPED, names},
    ids::{self, ClientMsgId, SessionId, TurnId},
    prompt::{self, Header},
    store::{
        binding::SessionRecord,
        entry::{Progress, message_key},
    },
    time,
    worker::{
        Job, Settings,
        attempt::Attempt,
        handler::Handler,
        history::{self, Gathered},
        run::{Ending, Run, Unstarted},
        sessions::{self, Session},
        texts, transports,
    },
};

/// A message that was interrupted this often is not retried (ARCHITECTURE.md: crashes).
const ATTEMPTS: u32 = 2;

/// Drives the message to its end, or until the daemon stops.
pub(super) fn drive(run: &Run<'_>) {
    let job = run.job;
    let earlier = job.progress.as_ref().map_or(0, |progress| progress.attempts);
    let session = Session { run, record: job.session.clone() };
    let mut drive = Drive { run, number: earlier + 1, attempt: None, session };
    log::info!(
        threadId = job.thread.as_str(), entry:% = job.entry, agent = run.engine().as_str(),
        attempt = drive.number;
        "turn starts"
    );
    run.activity(Activity::Working);
    match drive.answer() {
        Ok(()) => {}
        Err(Unstarted::DaemonStops) => log::info!(entry:% = job.entry; "the turn did not begin"),
        Err(Unstarted::Stopped) => drive.end_with(PostKind::Status, STOPPED.to_owned()),
        Err(Unstarted::Failed(failure)) => {
            log::warn!(
                threadId = job.thread.as_str(), kind:? = failure.kind, reason = failure.message.as_str();
                "no turn could begin"
            );
            drive.end_with(PostKind::Error, texts::failed(run.engine(), &failure));
        }
    }
    log::info!(threadId = job.thread.as_str(), entry:% = job.entry; "turn ended");
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
        let (run, job) = (self.run, self.run.job);
        run.check()?;
        if let Some(asked) = &job.reply.engine
            && asked != run.engine()
            && job.session.is_none()
            && job.progress.is_none()
        {
            // A name of its own, since there is no attempt yet; said again, it is the same post.
            let name = ClientMsgId::new(format!("{}.engine", job.entry));
            run.say(name, &texts::unknown_engine(asked, run.engine()));
        }
        let record = match &job.progress {
            None => job.session.clone(),
            Some(progress) => match self.interrupted(progress) {
                Ok(record) => Some(record),
                Err(text) => {
                    self.end_with(PostKind::Status, text);
                    return Ok(());
                }
            },
        };
        let Some(record) = record else { return self.turn(None).map(drop) };
        if sessions::is_live_elsewhere(run, &record) {
            self.end_with(PostKind::Error, texts::live_elsewhere(run.engine()));
            return Ok(());
        }
        let Some(detail) = self.turn(Some(&record))? else { return Ok(()) };
        run.check()?;
        self.session.forget();
        if job.progress.is_some() {
            // It had begun, so a fresh session might do it twice.
            self.end_with(PostKind::Status, texts::interrupted_without_session(run.engine()));
            return Ok(());
        }
        let text = texts::session_gone(run.engine(), &record.session_id, &detail);
        if let Some(attempt) = &mut self.attempt {
            run.say(attempt.next_post(), &text);
        }
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
        // This attempt is not on disk yet. Made again, the post has the same name and text.
        let name = format!("{}.resumed.{}", self.run.job.entry, self.number);
        self.run.say(ClientMsgId::new(name), &texts::resumed_after_interruption(engine));
        let known = self.run.job.session.as_ref().filter(|known| known.session_id == *session);
        Ok(known.cloned().unwrap_or_else(|| {
            sessions::record(session.clone(), &self.run.shared.settings.project_dir)
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
        let limits = &shared.settings.limits;
        run_turn(protocol.as_mut(), transport.as_mut(), &spec, limits, &control, &mut handler);
        Ok(handler.left())
    }

    fn spec(&self, record: Option<&SessionRecord>) -> Result<TurnSpec, Unstarted> {
        let (run, job) = (self.run, self.run.job);
        let settings = &run.shared.settings;
        let Settings { allow_all, sandbox, opencode_model, .. } = settings;
        let project_dir = directory(settings, &job.reply, record)
            .and_then(|dir| Utf8PathBuf::from_path_buf(dir).map_err(|dir| texts::no_utf_8(&dir)))
            .map_err(|text| Failure::new(FailureKind::Refused, text, ""))?;
        let Gathered { images, note } = history::images(run)?;
        if *allow_all {
            log::warn!(threadId = job.thread.as_str(); "allowAll: this turn runs without any permission gate");
        }
        Ok(TurnSpec {
            turn: TurnId::new(ids::random_hex()),
            prompt: self.prompt(record.is_some(), &note)?,
            images,
            session: record.map(|record| record.session_id.clone()),
            fresh_session: SessionId::new(ids::random_uuid()),
            project_dir,
            title: history::title(&job.reply),
            gate: if *allow_all { Gate::AllowAll } else { Gate::Ask },
            asks_human: settings.relay.is_some(),
            sandbox: *sandbox,
            model: opencode_model.clone(),
        })
    }

    fn prompt(&self, is_resume: bool, note: &str) -> Result<String, Unstarted> {
        let job = self.run.job;
        let reply = &job.reply;
        let now = time::now().to_string();
        let header = Header {
            thread: job.thread.as_str(),
            author: reply.author.as_deref().unwrap_or_default(),
            role: reply.role.as_deref().unwrap_or_default(),
            ts: reply.created_at.as_deref().unwrap_or(&now),
            message_id: reply.message_id.as_ref().map(ids::MessageId::as_str),
        };
        let envelope = prompt::envelope(&header, &format!("{}{note}", reply.body));
        if is_resume {
            return Ok(match self.number {
                1 => envelope,
                _ => format!("{}\n\n{envelope}", prompt::interrupted_note()),
            });
        }
        let history = if job.is_clean { None } else { history::block(self.run)? };
        let has_tools = self.run.def.description.has_bridge_tools;
        let bootstrap = prompt::bootstrap(job.thread.as_str(), has_tools);
        Ok(prompt::first_touch(history.as_deref(), &envelope, &bootstrap))
    }

    /// Ends the message with a post of the daemon's own. Before there is an attempt the post has a
    /// name of its own: it is the last one, so nothing can follow under that name.
    fn end_with(&mut self, kind: PostKind, body: String) {
        let Job { entry, reply, .. } = self.run.job;
        let name = self.attempt.as_mut().map(Attempt::next_post);
        let name = name.unwrap_or_else(|| names::end(&message_key(*entry, reply)));
        let post = self.run.draft(kind, self.run.engine().author(), name);
        self.run.end(Ending::Post { post, body });
    }
}

/// Makes the attempt durable, or another turn of it.
fn begin<'a>(
    run: &Run<'_>,
    attempt: &'a mut Option<Attempt>,
    number: u32,
    spec: &TurnSpec,
) -> Result<&'a mut Attempt, Unstarted> {
    let job = run.job;
    let progress = Progress {
        session: spec.session.clone(),
        attempts: number,
        ..Progress::new(spec.turn.clone(), run.engine().clone())
    };
    let begun = run.persist(|shared| {
        let (inbox, progress) = (&shared.inbox, progress.clone());
        match attempt {
            Some(attempt) => attempt.begin_again(inbox, progress),
            None => Attempt::begin(inbox, job.entry, &job.reply, progress)
                .map(|begun| *attempt = Some(begun)),
        }
    });
    // A stop or an interrupt has ended the wait for the disk.
    let unstarted = || run.check().err().unwrap_or(Unstarted::Stopped);
    begun.and(attempt.as_mut()).ok_or_else(unstarted)
}

/// Where the turn works: where its session does, or where the thread asked to begin, if that is
/// one of the places that this machine offers. The error is for people.
pub(super) fn directory(
    settings: &Settings,
    reply: &Reply,
    record: Option<&SessionRecord>,
) -> Result<PathBuf, String> {
    let Settings { project_dir, project_dirs, .. } = settings;
    let known = record.and_then(|record| record.project_dir.as_ref()).map(PathBuf::from);
    let dir = match (known, &reply.project_dir) {
        (Some(dir), _) => dir,
        (None, None) => project_dir.clone(),
        (None, Some(asked)) => {
            let asked = PathBuf::from(asked);
            if asked != *project_dir && !project_dirs.contains(&asked) {
                return Err(texts::directory_not_offered(&asked));
            }
            asked
        }
    };
    if dir.is_dir() { Ok(dir) } else { Err(texts::no_directory(&dir)) }
}
