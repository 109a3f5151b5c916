//! The worker's ear during a turn: stores what must survive, decides permissions, carries out the
//! bridge's tools.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use crossbeam_channel::Sender;

use crate::{
    agent::{
        QuestionId, ToolCall, TurnCommand, TurnEvent, Usage, Verdict, tools::BridgeTool,
        turn::TurnHost,
    },
    bridge::{
        Client,
        wire::{Message, Post, PostKind},
    },
    ids::ThreadId,
    store::entry::Progress,
    task,
    time::{self, Timestamp},
    worker::{
        Report, Serving,
        asking::{self, Asking},
        drive::Ride,
        progress::Progress as Does,
        words,
    },
};

/// The thread hears of an engine's retries at most this often.
const RETRY_NOTE: Duration = Duration::from_mins(1);

/// Messages that `bridge_thread_read` returns at most.
const READ_LIMIT: u32 = 100;

pub(super) struct Host<'h, 's, 'r> {
    pub(super) serving: &'h mut Serving<'s>,
    pub(super) ride: &'h mut Ride<'r>,
    pub(super) progress: Progress,
    pub(super) project_dir: PathBuf,
    pub(super) asking: Asking,
    /// For tool calls that take a round trip.
    late: Sender<TurnCommand>,
    /// Whether the model posted something that stands as its answer.
    pub(super) has_answered: bool,
    retry_told: Option<Instant>,
    does: Does,
    /// The sum of what the engine told.
    pub(super) usage: Usage,
}

impl<'h, 's, 'r> Host<'h, 's, 'r> {
    pub(super) fn new(
        serving: &'h mut Serving<'s>,
        ride: &'h mut Ride<'r>,
        progress: Progress,
        project_dir: PathBuf,
        late: Sender<TurnCommand>,
    ) -> Host<'h, 's, 'r> {
        let asking = Asking::new(serving.writes(ride.engine(), &ride.job.reply).is_some());
        let (every, told) = (serving.shared.settings.progress, serving.progress_told);
        Host {
            serving,
            ride,
            progress,
            project_dir,
            asking,
            late,
            has_answered: false,
            retry_told: None,
            does: Does::new(every, told, Instant::now()),
            usage: Usage::default(),
        }
    }

    /// Writes down how far the turn has come.
    pub(super) fn keep_progress(&self) {
        let (entry, progress) = (self.ride.job.entry, &self.progress);
        self.serving.persist(|shared| shared.inbox.started(&entry, progress));
    }

    pub(super) fn report(&self, report: impl FnOnce(&Self) -> Report) {
        self.serving.shared.reports.send(report(self)).ok(); // The dispatcher may be leaving.
    }

    fn tool(&mut self, call: ToolCall, commands: &mut Vec<TurnCommand>) {
        match call.tool {
            BridgeTool::Post { kind, body } => {
                let kind = PostKind::parse(&kind).unwrap_or(PostKind::Result);
                let result = if self.serving.post(self.ride, kind, body, false) {
                    self.has_answered |= kind != PostKind::Status;
                    Ok("Posted.".to_owned())
                } else {
                    Err("The daemon is stopping; the message was not posted.".to_owned())
                };
                commands.push(TurnCommand::ToolResult { call: call.id, result });
            }
            BridgeTool::ThreadRead { limit, before } => {
                let failed = self.read_thread(call.id.clone(), limit, before).err();
                commands.extend(failed.map(|error| TurnCommand::ToolResult {
                    call: call.id,
                    result: Err(format!("The thread could not be read: {error}")),
                }));
            }
        }
    }

    /// Reads beside the turn, so that an interrupt does not wait for the bridge.
    fn read_thread(&self, call: String, limit: u32, before: Option<String>) -> std::io::Result<()> {
        let client = self.serving.shared.client.clone();
        let thread = self.serving.thread.clone();
        let late = self.late.clone();
        task::spawn("tool", move || {
            let result = read(&client, &thread, limit.min(READ_LIMIT), before);
            late.send(TurnCommand::ToolResult { call, result }).ok(); // The turn may be over.
        })
        .map(drop)
    }

    /// Says on the thread what the engine does.
    fn tell(&mut self, line: &str, now: Instant) {
        self.serving.progress_told = Some(now);
        let (thread, engine) = (self.serving.thread.clone(), self.ride.engine());
        let (author, body) = (engine.author(), words::does(engine, line));
        let post = Post::new(thread, PostKind::Status, author, body, self.ride.next_post());
        // Not tried again: nobody misses it.
        if let Err(error) = self.serving.shared.outgoing.put(&post, None) {
            log::debug!(error:% = error; "a line of progress is not told");
        }
    }

    fn retry(&mut self, message: &str, next: Option<Timestamp>) {
        log::info!(threadId = self.serving.thread.as_str(), reason = message; "the engine tries its model again");
        if self.retry_told.is_some_and(|told| told.elapsed() < RETRY_NOTE) {
            return;
        }
        self.retry_told = Some(Instant::now());
        let next = next.map(|next| next.since(time::now())).filter(|wait| wait.as_secs() > 0);
        let when =
            next.map(|wait| format!(" (next try in {})", time::age(wait))).unwrap_or_default();
        let text = format!("{}{when}", words::retrying(self.ride.engine(), message));
        self.serving.post(self.ride, PostKind::Status, text, false);
    }
}

impl TurnHost for Host<'_, '_, '_> {
    fn on_event(&mut self, event: TurnEvent, commands: &mut Vec<TurnCommand>) {
        let thread = self.serving.thread.as_str();
        match event {
            TurnEvent::Session(session) => {
                if self.progress.session.as_ref() != Some(&session) {
                    self.progress.session = Some(session.clone());
                    self.keep_progress();
                }
                self.serving.learned(self.ride.engine(), session, &self.project_dir);
            }
            TurnEvent::Working => log::debug!(threadId = thread; "the engine works on the prompt"),
            TurnEvent::Progress(line) => {
                log::debug!(threadId = thread, line; "progress");
                self.does.does(&line);
            }
            TurnEvent::Question(question) => self.question(question, commands),
            TurnEvent::QuestionGone(question) => self.question_gone(question),
            TurnEvent::ToolCall(call) => self.tool(call, commands),
            TurnEvent::Retry { message, next } => self.retry(&message, next),
            TurnEvent::Usage(usage) => self.usage.add(&usage),
        }
    }

    fn on_decided(&mut self, question: &QuestionId, verdict: &Verdict, was_open: bool) {
        self.question_decided(question, verdict, was_open);
    }

    fn due(&self) -> Option<Instant> {
        self.does.due()
    }

    fn on_time(&mut self) {
        let (now, thread) = (Instant::now(), || self.serving.thread.clone());
        let reports = &self.serving.shared.reports;
        if let Some(line) = self.does.take_shown(now) {
            reports.send(Report::Doing { thread: thread(), line }).ok(); // It may be leaving.
        }
        let outbox = &self.serving.shared.outgoing.outbox;
        let is_free = || !outbox.has_unsent(self.serving.thread);
        if let Some(line) = self.does.take_posted(now, is_free) {
            self.tell(&line, now);
        }
    }
}

fn read(
    client: &Client,
    thread: &ThreadId,
    limit: u32,
    before: Option<String>,
) -> Result<String, String> {
    let before = before.unwrap_or_else(|| time::now().to_string());
    let mut messages = client
        .messages_before(thread, &before, limit)
        .map_err(|error| format!("The thread could not be read: {error}"))?;
    // Their codes are between us and the human.
    messages.retain(|message| !asking::is_ours(message));
    if messages.is_empty() {
        return Ok("There are no earlier messages.".to_owned());
    }
    Ok(messages.iter().map(line).collect::<Vec<_>>().join("\n\n"))
}

fn line(message: &Message) -> String {
    let author = message.author.as_deref().unwrap_or("unknown");
    let who = if message.is_human() { "human" } else { author };
    let at = message.created_at.as_deref().unwrap_or("?");
    format!("[{at} | {who}]\n{}", message.body)
}
