//! One message from the inbox to its answer in the outbox.

use std::{mem, path::PathBuf, time::Duration};

use crossbeam_channel::{after, bounded, select_biased};

use crate::{
    agent::{
        Failure, FailureKind, Gate, TurnEnd, TurnSpec, Usage,
        carrier::Carrier,
        launch::EngineDef,
        turn::{Control, Grace, run_turn},
    },
    bridge::wire::{Activity, Post, PostKind, Reply},
    ids::{self, ClientMsgId, Engine, SessionId, TurnId},
    prompt::{self, Header},
    store::{
        binding::SessionRecord,
        entry::{EntryId, Progress},
    },
    time,
    worker::{
        Job, Report, Serving, Settings, Shared, carriers,
        history::{self, Gathered},
        host::Host,
        is_closed, sessions, words,
    },
};

/// After this many interruptions a message is not tried again by itself (ARCHITECTURE.md: crashes).
const ATTEMPTS: u32 = 2;

/// How long a post waits before it tries the disk again.
const DISK_RETRY: Duration = Duration::from_secs(1);

/// A message on its way through.
pub(super) struct Ride<'a> {
    pub(super) job: &'a Job,
    pub(super) def: &'a EngineDef,
    /// Counts from 1 over all interruptions.
    pub(super) attempt: u32,
    /// Posts made in this attempt.
    pub(super) posts: u32,
    /// Its turn waited for the human at its end.
    died_asking: bool,
    /// The way to the engine of the turn before. Closing it ends what is left of the turn, which
    /// takes longer than the human should wait for the answer.
    leaving: Option<Box<dyn Carrier>>,
    /// By all turns of this message.
    usage: Usage,
}

impl Ride<'_> {
    /// Names the next post, the same way whenever this very post is made again: by message, attempt
    /// and place. The attempt is durable before its first post, so no two posts share a name.
    pub(super) fn next_post(&mut self) -> ClientMsgId {
        self.posts += 1;
        let entry = || self.job.entry.to_string();
        let message = self.job.reply.message_id.as_ref().map_or_else(entry, ToString::to_string);
        ClientMsgId::new(format!("{message}.{}.{}", self.attempt, self.posts))
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.def.name
    }
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// The human has an answer.
    Done,
    /// The daemon stops; the next start goes on with it.
    Left,
}

impl<'a> Serving<'a> {
    /// Drives one message to its end.
    pub(super) fn drive(&mut self, job: &Job) {
        let mut ride = self.ride(job);
        let (def, attempt) = (ride.def, ride.attempt);
        log::info!(
            threadId = self.thread.as_str(), entry:% = job.entry, agent = def.name.as_str(), attempt;
            "turn starts"
        );
        let outcome = self.outcome(&mut ride);
        log::info!(
            threadId = self.thread.as_str(), entry:% = job.entry, outcome:? = outcome;
            "turn ended"
        );
        if outcome == Outcome::Done {
            let report = Report::Finished { thread: self.thread.clone(), entry: job.entry };
            self.shared.reports.send(report).ok(); // The dispatcher may be leaving.
        }
        self.activity(Activity::Idle);
        drop(ride.leaving);
    }

    /// The human stopped it before it began.
    pub(super) fn stopped_early(&mut self, job: &Job) {
        let mut ride = self.ride(job);
        if self.end_with(&mut ride, PostKind::Status, words::interrupted()) == Outcome::Done {
            let report = Report::Finished { thread: self.thread.clone(), entry: job.entry };
            self.shared.reports.send(report).ok(); // The dispatcher may be leaving.
        }
    }

    fn ride<'j>(&self, job: &'j Job) -> Ride<'j>
    where
        'a: 'j,
    {
        let def = self.shared.engine(job.reply.engine.as_ref());
        let attempt = job.progress.as_ref().map_or(0, |progress| progress.attempts) + 1;
        let usage = Usage::default();
        Ride { job, def, attempt, posts: 0, died_asking: false, leaving: None, usage }
    }

    fn outcome(&mut self, ride: &mut Ride<'_>) -> Outcome {
        if let Some(asked) = &ride.job.reply.engine
            && asked != ride.engine()
            && !self.sessions.contains_key(ride.engine())
            && ride.job.progress.is_none()
        {
            let text = words::unknown_engine(asked, ride.engine());
            self.say(ride, PostKind::Status, text);
        }
        let record = match &ride.job.progress {
            None => self.sessions.get(ride.engine()).cloned(),
            Some(progress) => match self.interrupted(ride, progress) {
                Ok(record) => Some(record),
                Err(text) => return self.end_with(ride, PostKind::Status, text),
            },
        };
        let Some(record) = record else { return self.fresh(ride) };
        if self.is_live_elsewhere(ride.engine(), &record) {
            let text = words::live_elsewhere(ride.engine());
            return self.end_with(ride, PostKind::Error, text);
        }
        match self.turn(ride, Some(&record)) {
            TurnEnd::SessionGone { detail } => {
                self.sessions.remove(ride.engine());
                self.report_session(ride.engine());
                if ride.job.progress.is_some() {
                    // It had begun, so a fresh session might do it twice.
                    let text = words::interrupted_without_session(ride.engine());
                    return self.end_with(ride, PostKind::Status, text);
                }
                let text = words::session_gone(ride.engine(), &record.session_id, &detail);
                self.say(ride, PostKind::Status, text);
                self.fresh(ride)
            }
            end => self.conclude(ride, end),
        }
    }

    /// What to resume after an earlier daemon was stopped in the middle of this message, or what to
    /// tell the human (ARCHITECTURE.md: crashes).
    fn interrupted(
        &mut self,
        ride: &mut Ride<'_>,
        progress: &Progress,
    ) -> Result<SessionRecord, String> {
        if ride.attempt > ATTEMPTS {
            return Err(words::interrupted_again(ride.engine()));
        }
        let Some(session) = progress.session.as_ref().filter(|_| progress.engine == *ride.engine())
        else {
            return Err(words::interrupted_without_session(ride.engine()));
        };
        let text = words::resumed_after_interruption(ride.engine());
        self.say(ride, PostKind::Status, text);
        let known = self.sessions.get(ride.engine()).filter(|known| known.session_id == *session);
        Ok(known.cloned().unwrap_or_else(|| {
            sessions::record(session.clone(), &self.shared.settings.project_dir)
        }))
    }

    fn fresh(&mut self, ride: &mut Ride<'_>) -> Outcome {
        let end = self.turn(ride, None);
        self.conclude(ride, end)
    }

    /// Runs the engine once.
    fn turn(&mut self, ride: &mut Ride<'_>, record: Option<&SessionRecord>) -> TurnEnd {
        ride.leaving = None;
        let spec = match self.spec(ride, record) {
            Ok(spec) => spec,
            Err(failure) => return TurnEnd::Failed(failure),
        };
        let progress = Progress {
            turn: spec.turn.clone(),
            engine: ride.engine().clone(),
            session: spec.session.clone(),
            attempts: ride.attempt,
            asking: Vec::new(),
            answers: None,
            is_answered: false,
        };
        let mut carrier = match carriers::open(self.shared, ride.def, &spec, &ride.job.commands) {
            Ok(carrier) => carrier,
            // It was waited for until the daemon stopped, and the next start tries again; or until
            // the human did not want it any more.
            Err(_) if is_closed(&self.shared.stop) || !ride.job.commands.is_empty() => {
                return TurnEnd::Interrupted;
            }
            Err(failure) => return TurnEnd::Failed(failure),
        };
        // There is nothing yet that the human could say but that they do not want it any more.
        if !ride.job.commands.is_empty() {
            return TurnEnd::Interrupted;
        }
        // The engine is starting meanwhile, but has no prompt before this is on disk.
        if !self.persist(|shared| shared.inbox.started(&ride.job.entry, &progress)) {
            return TurnEnd::Interrupted;
        }
        let mut protocol = (ride.def.description.protocol)();
        let (late_results, late) = bounded(16);
        let job = ride.job;
        let mut host = Host::new(self, ride, progress, spec.project_dir.clone(), late_results);
        let control = Control {
            commands: &job.commands,
            late: &late,
            stop: &host.serving.shared.stop.clone(),
            grace: Grace::default(),
        };
        let limits = &host.serving.shared.settings.limits;
        let end = run_turn(protocol.as_mut(), carrier.as_mut(), &spec, limits, &control, &mut host);
        if host.asking.has_asked {
            host.report(|host| Report::Ceased {
                thread: host.serving.thread.clone(),
                turn: host.progress.turn.clone(),
            });
        }
        let died_asking = host.died_asking();
        let (has_answered, progress, usage) = (host.has_answered, host.progress, host.usage);
        ride.died_asking = died_asking;
        self.used(ride, &usage);
        self.driven(ride.engine());
        ride.leaving = Some(carrier);
        match end {
            // What the model posted is the answer; its last words are for a terminal. Since no post
            // of ours ends the message, the inbox is told.
            TurnEnd::Answered { .. } if has_answered => {
                let progress = Progress { is_answered: true, ..progress };
                self.persist(|shared| shared.inbox.started(&ride.job.entry, &progress));
                TurnEnd::Answered { text: String::new() }
            }
            TurnEnd::Answered { text } if text.trim().is_empty() => TurnEnd::Failed(Failure::new(
                FailureKind::Protocol,
                words::silent(ride.engine()),
                "",
            )),
            end => end,
        }
    }

    fn used(&self, ride: &mut Ride<'_>, usage: &Usage) {
        log::info!(
            threadId = self.thread.as_str(), entry:% = ride.job.entry,
            agent = ride.engine().as_str(), input = usage.input_tokens,
            output = usage.output_tokens, cost_usd = usage.cost_usd.unwrap_or_default();
            "usage of the turn"
        );
        ride.usage.add(usage);
    }

    fn spec(
        &mut self,
        ride: &mut Ride<'_>,
        record: Option<&SessionRecord>,
    ) -> Result<TurnSpec, Failure> {
        let Settings { allow_all, sandbox, opencode_model, .. } = &self.shared.settings;
        let project_dir = self
            .directory(&ride.job.reply, record)
            .map_err(|text| Failure::new(FailureKind::Refused, text, ""))?;
        let Gathered { images, note } = history::images(self.shared, &ride.job.reply);
        if *allow_all {
            log::warn!(threadId = self.thread.as_str(); "allowAll: this turn runs without any permission gate");
        }
        Ok(TurnSpec {
            turn: TurnId::new(ids::random_hex()),
            thread: self.thread.clone(),
            prompt: self.prompt(ride, record.is_some(), &note),
            images,
            session: record.map(|record| record.session_id.clone()),
            fresh_session: SessionId::new(ids::random_uuid()),
            project_dir,
            title: history::title(&ride.job.reply),
            gate: if *allow_all { Gate::AllowAll } else { Gate::Ask },
            asks_human: self.shared.settings.relay.is_some(),
            sandbox: *sandbox,
            model: opencode_model.clone(),
        })
    }

    /// Where the turn works: where its session does, or where the thread asked to begin, if that is
    /// one of the places that this machine offers. The error is for the human.
    pub(super) fn directory(
        &self,
        reply: &Reply,
        record: Option<&SessionRecord>,
    ) -> Result<PathBuf, String> {
        let Settings { project_dir, project_dirs, .. } = &self.shared.settings;
        let known = record.and_then(|record| record.project_dir.as_ref()).map(PathBuf::from);
        let dir = match (known, &reply.project_dir) {
            (Some(dir), _) => dir,
            (None, None) => project_dir.clone(),
            (None, Some(asked)) => {
                let asked = PathBuf::from(asked);
                if asked != *project_dir && !project_dirs.contains(&asked) {
                    return Err(words::directory_not_offered(&asked));
                }
                asked
            }
        };
        if dir.is_dir() { Ok(dir) } else { Err(words::no_directory(&dir)) }
    }

    fn prompt(&mut self, ride: &Ride<'_>, is_resume: bool, note: &str) -> String {
        let reply = &ride.job.reply;
        let now = time::now().to_string();
        let header = Header {
            thread: self.thread.as_str(),
            author: reply.author.as_deref().unwrap_or_default(),
            role: reply.role.as_deref().unwrap_or_default(),
            ts: reply.created_at.as_deref().unwrap_or(&now),
            message_id: reply.message_id.as_ref().map(ids::MessageId::as_str),
        };
        let body = format!("{}{note}", reply.body);
        let is_clean = mem::take(&mut self.is_clean);
        let envelope = prompt::envelope(&header, &body);
        if is_resume {
            return match ride.attempt {
                1 => envelope,
                _ => format!("{}\n\n{envelope}", prompt::interrupted_note()),
            };
        }
        let early = self.early.take();
        let history =
            if is_clean { None } else { history::block(self.shared, self.thread, reply, early) };
        let bootstrap =
            prompt::bootstrap(self.thread.as_str(), ride.def.description.has_bridge_tools);
        prompt::first_touch(history.as_deref(), &envelope, &bootstrap)
    }

    /// Turns an end into the post that the human reads.
    fn conclude(&mut self, ride: &mut Ride<'_>, end: TurnEnd) -> Outcome {
        match end {
            TurnEnd::Answered { text } => {
                let usage = words::usage(&ride.usage).filter(|_| self.shared.settings.usage);
                match (text.is_empty(), usage) {
                    (true, None) => Outcome::Done,
                    (true, Some(usage)) => {
                        self.say(ride, PostKind::Status, usage);
                        Outcome::Done
                    }
                    (false, None) => self.end_with(ride, PostKind::Result, text),
                    (false, Some(usage)) => {
                        self.end_with(ride, PostKind::Result, format!("{text}\n\n{usage}"))
                    }
                }
            }
            // What was asked for can't be answered any more, so it is the human who goes on.
            TurnEnd::Interrupted if is_closed(&self.shared.stop) && ride.died_asking => {
                let entry = ride.job.entry;
                let name = ClientMsgId::new(format!("{entry}.died"));
                let post = self.draft(PostKind::Status, ride.engine().author(), name);
                let text = words::died_asking(ride.engine());
                if self.store(post, &text, Some(entry)) { Outcome::Done } else { Outcome::Left }
            }
            TurnEnd::Interrupted if is_closed(&self.shared.stop) => {
                let text = words::stopping(ride.engine());
                self.say(ride, PostKind::Status, text);
                Outcome::Left
            }
            TurnEnd::Interrupted => self.end_with(ride, PostKind::Status, words::interrupted()),
            TurnEnd::SessionGone { detail } => {
                let failure = Failure::new(FailureKind::Protocol, detail, "");
                let text = words::failed(ride.engine(), &failure);
                self.end_with(ride, PostKind::Error, text)
            }
            TurnEnd::Failed(failure) => {
                log::warn!(
                    threadId = self.thread.as_str(), kind:? = failure.kind, reason = failure.message.as_str();
                    "turn failed"
                );
                let text = words::failed(ride.engine(), &failure);
                self.end_with(ride, PostKind::Error, text)
            }
        }
    }

    /// The last post of a message.
    fn end_with(&self, ride: &mut Ride<'_>, kind: PostKind, body: String) -> Outcome {
        if self.post(ride, kind, body, true) { Outcome::Done } else { Outcome::Left }
    }

    /// A post on the way.
    fn say(&self, ride: &mut Ride<'_>, kind: PostKind, body: String) {
        self.post(ride, kind, body, false);
    }

    /// Makes a post durable. False when the daemon stops before that was possible.
    pub(super) fn post(
        &self,
        ride: &mut Ride<'_>,
        kind: PostKind,
        body: String,
        is_last: bool,
    ) -> bool {
        let post = self.draft(kind, ride.engine().author(), ride.next_post());
        self.store(post, &body, is_last.then_some(ride.job.entry))
    }

    pub(super) fn draft(&self, kind: PostKind, author: String, name: ClientMsgId) -> Post {
        Post::new(self.thread.clone(), kind, author, String::new(), name)
    }

    /// Gives a post its text, as far as a bridge takes it, and makes it durable.
    pub(super) fn store(&self, mut post: Post, body: &str, finishes: Option<EntryId>) -> bool {
        let mut fitting = None;
        let fits = self.persist(|shared| {
            fitting = Some(shared.answers.fit(body, &post.client_msg_id)?);
            Ok(())
        });
        let Some(body) = fitting.filter(|_| fits) else { return false };
        post.body = body;
        self.persist(|shared| shared.outgoing.put(&post, finishes))
    }

    /// Tries until the disk has taken it; a full disk is said once. When the daemon stops it is
    /// tried a last time. False when that failed too.
    pub(super) fn persist(&self, mut write: impl FnMut(&Shared) -> std::io::Result<()>) -> bool {
        let mut is_said = false;
        loop {
            let Err(error) = write(self.shared) else { return true };
            if !is_said {
                log::error!(
                    threadId = self.thread.as_str(), error:% = error;
                    "cannot write to the state directory; trying again every second"
                );
                is_said = true;
            }
            select_biased! {
                recv(self.shared.stop) -> _ => return write(self.shared).is_ok(),
                recv(after(DISK_RETRY)) -> _ => {}
            }
        }
    }
}
