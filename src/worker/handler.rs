//! What a turn does to the world around its engine: stores what must survive, decides permissions,
//! carries out the bridge's tools, and makes the answer durable as soon as it is known.

use std::{
    io, mem,
    time::{Duration, Instant},
};

use crossbeam_channel::Sender;

use crate::{
    agent::{
        Failure, FailureKind, QuestionId, ToolCall, TurnCommand, TurnEnd, TurnEvent, TurnSpec,
        Usage, Verdict, tools::BridgeTool, turn::TurnHandler,
    },
    bridge::{
        Client,
        wire::{Post, PostKind, Reply},
    },
    coordinator::{Event, STOPPED, names, turn_orphaned},
    ids::ThreadId,
    task,
    time::{self, Timestamp},
    worker::{
        Outcome,
        asking::{self, Asking},
        attempt::Attempt,
        is_closed,
        progress::{ProgressPost, ProgressPosts as Does},
        run::{DISK_RETRY, Ending, Last, Run},
        sessions::Session,
        texts,
    },
};

/// An engine's retries are posted to the thread at most this often.
const RETRY_NOTE: Duration = Duration::from_mins(1);

pub(super) struct Handler<'h, 'r> {
    run: &'r Run<'r>,
    attempt: &'h mut Attempt,
    session: &'h mut Session<'r>,
    spec: &'h TurnSpec,
    asking: Asking<'h>,
    /// Whether the model posted something that stands as its answer.
    has_answered: bool,
    /// The last of that.
    posted: String,
    retry_told: Option<Instant>,
    does: Does,
    /// The sum of what the engine reported.
    usage: Usage,
    end: EndStage,
}

/// How far the end of the turn has come.
enum EndStage {
    Unknown,
    /// It is known and not durable yet; the disk is tried again at that time.
    Unwritten {
        ending: Box<Ending>,
        retry: Instant,
        is_logged: bool,
    },
    /// There is nothing more to write: the message is answered, or the daemon stops.
    Written,
    /// The engine's session is gone, which is not the end of the message.
    SessionGone(String),
}

impl<'h, 'r> Handler<'h, 'r> {
    pub(super) fn new(
        run: &'r Run<'r>,
        attempt: &'h mut Attempt,
        session: &'h mut Session<'r>,
        spec: &'h TurnSpec,
    ) -> Handler<'h, 'r> {
        Handler {
            run,
            attempt,
            session,
            spec,
            asking: Asking::new(run, spec.project_dir.as_std_path()),
            has_answered: false,
            posted: String::new(),
            retry_told: None,
            does: Does::new(run.shared.progress, Instant::now()),
            usage: Usage::default(),
            end: EndStage::Unknown,
        }
    }

    /// The engine is gone. Some: its session was, too.
    pub(super) fn left(self) -> Option<String> {
        match self.end {
            EndStage::SessionGone(detail) => return Some(detail),
            EndStage::Unwritten { ending, .. } => self.run.end(*ending),
            EndStage::Unknown | EndStage::Written => {}
        }
        self.session.left();
        None
    }

    fn tool(&mut self, call: ToolCall, commands: &mut Vec<TurnCommand>) {
        match call.tool {
            BridgeTool::Post { kind, body } => {
                let kind = serde_json::from_value(kind.into()).unwrap_or(PostKind::Result);
                let result = if self.post(kind, &body) {
                    self.has_answered |= kind != PostKind::Status;
                    if kind != PostKind::Status {
                        self.posted = body;
                    }
                    Ok("Posted.".to_owned())
                } else {
                    Err("The turn is being stopped; the message was not posted.".to_owned())
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

    fn post(&mut self, kind: PostKind, body: &str) -> bool {
        let post = self.draft(kind);
        self.run.post(post, body)
    }

    /// Reads on a task of its own, so that an interrupt does not wait for the bridge.
    fn read_thread(&self, call: String, limit: u32, before: Option<String>) -> io::Result<()> {
        let client = self.run.shared.client.clone();
        let thread = self.run.thread();
        let late: Sender<TurnCommand> = self.run.late.0.clone();
        task::spawn("tool", move || {
            let result = read(&client, &thread, limit, before);
            late.send(TurnCommand::ToolResult { call, result }).ok(); // The turn may be over.
        })
        .map(drop)
    }

    /// Says on the thread what the engine does, and what the model said on the way.
    fn tell(&mut self, ProgressPost { said, line }: ProgressPost) {
        let line = line.map(|line| texts::does(self.run.engine(), &line));
        let mut post = self.draft(PostKind::Status);
        post.body = said.into_iter().chain(line).collect::<Vec<_>>().join("\n\n");
        // Not tried again: an answer does not wait for it.
        if let Err(error) = self.run.shared.put(&post, None) {
            log::warn!(error:% = error; "what the engine does could not be stored for its thread");
        }
    }

    /// What the model said and the thread does not have: for a turn without an answer, to stand under
    /// what is said of its end.
    fn had_said(&mut self) -> String {
        self.does.take_rest(None).map(|said| texts::had_said(&said)).unwrap_or_default()
    }

    fn retry(&mut self, message: &str, next: Option<Timestamp>) {
        log::info!(threadId = self.run.begin.thread.as_str(), reason = message; "the engine tries its model again");
        if self.retry_told.is_some_and(|told| told.elapsed() < RETRY_NOTE) {
            return;
        }
        self.retry_told = Some(Instant::now());
        let next = next.map(|next| next.since(time::now())).filter(|wait| wait.as_secs() > 0);
        let when =
            next.map(|wait| format!(" (next try in {})", time::age(wait))).unwrap_or_default();
        let text = format!("{}{when}", texts::retrying(self.run.engine(), message));
        self.post(PostKind::Status, &text);
    }

    /// What the end of the turn means for the message. None: the next start goes on with it.
    fn ending(&mut self, end: &TurnEnd) -> Option<Ending> {
        let (run, engine) = (self.run, self.run.engine());
        let usage = texts::usage(&self.usage).filter(|_| run.shared.config.usage);
        let failure = match end {
            // What the model posted is the answer; its last words are for a terminal.
            TurnEnd::Answered { .. } if self.has_answered => {
                let mut progress = self.attempt.progress().clone();
                progress.is_answered = true;
                let note = usage.map(|usage| {
                    let mut note = self.draft(PostKind::Status);
                    note.body = usage;
                    note
                });
                let text = mem::take(&mut self.posted);
                return Some(self.ends(Last::Posted { progress, note }, Outcome::Answered, text));
            }
            TurnEnd::Answered { text } if text.trim().is_empty() => {
                &Failure::new(FailureKind::Protocol, texts::silent(engine), "")
            }
            TurnEnd::Answered { text } => {
                if let Some(said) = self.does.take_rest(Some(text)) {
                    self.tell(ProgressPost { said: Some(said), line: None });
                }
                let usage = usage.map(|usage| format!("\n\n{usage}")).unwrap_or_default();
                let last = self.last(PostKind::Result, format!("{text}{usage}"));
                return Some(self.ends(last, Outcome::Answered, text.clone()));
            }
            // What was asked for can't be answered any more, so a person decides how to go on.
            TurnEnd::Interrupted if is_closed(&run.shared.stop) && self.asking.was_cut_short() => {
                let name = names::died(run.begin.entry);
                let post = run.draft(PostKind::Status, name);
                let body = turn_orphaned(engine);
                return Some(self.ends(
                    Last::Post { post, body: body.clone() },
                    Outcome::Stopped,
                    body,
                ));
            }
            TurnEnd::Interrupted if is_closed(&run.shared.stop) => {
                let body = texts::stopping(engine, run.shared.is_ephemeral) + &self.had_said();
                self.post(PostKind::Status, &body);
                return None;
            }
            TurnEnd::Interrupted => {
                let body = STOPPED.to_owned() + &self.had_said();
                let last = self.last(PostKind::Status, body.clone());
                return Some(self.ends(last, Outcome::Stopped, body));
            }
            TurnEnd::SessionGone { detail } => {
                &Failure::new(FailureKind::Protocol, detail.clone(), "")
            }
            TurnEnd::Failed(failure) => failure,
        };
        log::warn!(
            threadId = run.begin.thread.as_str(), kind:? = failure.kind, reason = failure.message.as_str();
            "turn failed"
        );
        let body = texts::failed(engine, failure) + &self.had_said();
        let last = self.last(PostKind::Error, body.clone());
        Some(self.ends(last, Outcome::Failed(failure.kind), body))
    }

    fn ends(&self, last: Last, outcome: Outcome, text: String) -> Ending {
        let session = self.attempt.progress().session.clone();
        Ending { last, outcome, text, usage: self.usage.clone(), session }
    }

    /// The last post of the message.
    fn last(&mut self, kind: PostKind, body: String) -> Last {
        Last::Post { post: self.draft(kind), body }
    }

    fn draft(&mut self, kind: PostKind) -> Post {
        self.run.draft(kind, self.attempt.next_post())
    }

    /// Tries to make the answer durable. While the disk is full the engine is not kept from leaving.
    fn try_end(&mut self) {
        let EndStage::Unwritten { ending, retry, is_logged } = &mut self.end else { return };
        match self.run.try_end(ending) {
            Ok(()) => self.end = EndStage::Written,
            Err(error) => {
                self.run.disk_failed(&error, is_logged);
                *retry = Instant::now() + DISK_RETRY;
            }
        }
    }
}

impl TurnHandler for Handler<'_, '_> {
    fn on_event(&mut self, event: TurnEvent, commands: &mut Vec<TurnCommand>) {
        let thread = self.run.begin.thread.as_str();
        match event {
            TurnEvent::Session(session) => {
                if self.attempt.progress().session.as_ref() != Some(&session) {
                    let known = Some(session.clone());
                    self.attempt.record(self.run, |progress| progress.session = known);
                }
                self.session.learned(session, &self.spec.project_dir);
            }
            TurnEvent::Progress(line) => {
                log::debug!(threadId = thread, line; "progress");
                self.does.does(&line);
            }
            TurnEvent::Commentary(said) => {
                log::debug!(threadId = thread, bytes = said.len(); "the model said something on the way");
                self.does.says(&said);
            }
            TurnEvent::Question(question) => self.asking.ask(question, self.attempt, commands),
            TurnEvent::QuestionGone(question) => self.asking.withdrawn(question, self.attempt),
            TurnEvent::ToolCall(call) => self.tool(call, commands),
            TurnEvent::Retry { message, next } => self.retry(&message, next),
            TurnEvent::Usage(usage) => self.usage.add(&usage),
        }
    }

    fn on_decided(&mut self, question: &QuestionId, verdict: &Verdict, was_open: bool) {
        if was_open && matches!(verdict, Verdict::Deny { .. }) {
            self.run.was_denied.set(true);
        }
        self.asking.decided(question, verdict, was_open, self.attempt);
    }

    fn on_halt(&mut self) {
        self.run.halted();
    }

    fn on_end(&mut self, end: &TurnEnd) {
        let usage = &self.usage;
        log::info!(
            threadId = self.run.begin.thread.as_str(), entry:% = self.run.begin.entry,
            agent = self.run.engine().as_str(), input = usage.input_tokens,
            output = usage.output_tokens, cost_usd = usage.cost_usd.unwrap_or_default();
            "usage of the turn"
        );
        if let (TurnEnd::SessionGone { detail }, Some(_)) = (end, &self.spec.session) {
            self.end = EndStage::SessionGone(detail.clone());
            return;
        }
        self.session.driven();
        self.end = match self.ending(end) {
            Some(ending) => {
                let ending = Box::new(ending);
                EndStage::Unwritten { ending, retry: Instant::now(), is_logged: false }
            }
            None => EndStage::Written,
        };
        self.attempt.end();
        self.try_end();
    }

    fn due(&self) -> Option<Instant> {
        match &self.end {
            EndStage::Unknown => self.does.due(),
            EndStage::Unwritten { retry, .. } => Some(*retry),
            EndStage::Written | EndStage::SessionGone(_) => None,
        }
    }

    fn on_time(&mut self) {
        if !matches!(self.end, EndStage::Unknown) {
            return self.try_end();
        }
        let now = Instant::now();
        if let Some(line) = self.does.take_shown(now) {
            self.run.report(Event::Doing { thread: self.run.thread(), line });
        }
        let outbox = &self.run.shared.outbox;
        let is_free = || !outbox.has_unsent(&self.run.begin.thread);
        if let Some(post) = self.does.take_posted(now, is_free) {
            self.tell(post);
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
    // The codes in them are for people alone.
    messages.retain(|message| !asking::is_ours(message));
    if messages.is_empty() {
        return Ok("There are no earlier messages.".to_owned());
    }
    Ok(messages.iter().map(line).collect::<Vec<_>>().join("\n\n"))
}

fn line(message: &Reply) -> String {
    let author = message.author.as_deref().unwrap_or("unknown");
    let who = if message.is_human() { "human" } else { author };
    let at = message.created_at.as_deref().unwrap_or("?");
    format!("[{at} | {who}]\n{}", message.body)
}
