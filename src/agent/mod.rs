//! Engines: the words that the rest of the program shares with them. Seen from outside every
//! engine is the same thing: a peer that exchanges JSON values, asks permission by a request that
//! waits for its answer, and takes an interrupt as a message. A [`Protocol`] is one engine's side
//! of that, a pure state machine; [`turn::run_turn`] is the only code that joins it with processes,
//! sockets, clocks and channels. Nothing here knows the bridge.

pub mod acp;
pub mod answer;
pub mod asking;
pub mod claude;
pub mod codex;
pub mod description;
pub mod detect;
pub mod diff;
pub mod echo;
pub mod engines;
pub mod garbage;
pub mod http;
pub mod launch;
pub mod ledger;
pub mod limit;
pub mod opencode;
pub mod progress;
pub mod rpc;
pub mod shell;
pub mod stdio;
#[cfg(test)]
mod tests;
pub mod text;
pub mod tools;
pub mod transport;
pub mod turn;

use std::{
    collections::BTreeSet, fmt, os::unix::process::ExitStatusExt as _, process::ExitStatus,
    sync::Arc, time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use camino::Utf8PathBuf;
use serde_json::Value;

use crate::{
    ids::{SessionId, TurnId},
    time::Timestamp,
};

/// One engine's side of a turn. Pure: no clocks, no pipes, no threads.
///
/// The caller makes one for each turn, calls [`Protocol::begin`] once, then hands in every value
/// that the engine sends, until the engine is gone. Once `finished` is set nothing is called any
/// more. Foreign values of any shape must not panic: what is not understood is skipped, an unknown
/// request is answered with an error.
pub trait Protocol: Send {
    fn begin(&mut self, turn: &TurnSpec, actions: &mut Actions);
    fn on_value(&mut self, value: Value, actions: &mut Actions);
    /// What was decided about a [`TurnEvent::Question`].
    fn decide(&mut self, question: QuestionId, verdict: Verdict, actions: &mut Actions);
    /// What a [`TurnEvent::ToolCall`] came to. Not every engine gets our tools.
    fn on_tool_result(&mut self, _call: &str, _: ToolResult, _: &mut Actions) {}
    /// The engine has said nothing for a moment, which was asked for by [`Actions::await_quiet`].
    fn on_quiet(&mut self, _: &mut Actions) {}
    /// The turn is to end. Called once at most.
    fn interrupt(&mut self, actions: &mut Actions);
    /// Whether the prompt is still to come. Until then the engine must answer each request within
    /// its time to start, not within the longer silence that a model is granted.
    fn is_opening(&self) -> bool {
        false
    }
    /// It did not answer in time. Unless this sets `finished`, the turn ends with that limit.
    fn on_overdue(&mut self, _: &mut Actions) {}
    /// The engine is gone. This must set `finished`.
    fn on_exit(&mut self, exit: Exit, stderr_tail: &str, actions: &mut Actions);
}

/// What a protocol wants done, in this order: write, report, finish.
#[derive(Debug, Default)]
pub struct Actions {
    /// Values for the engine; on stdio one line each.
    pub write: Vec<Value>,
    pub events: Vec<TurnEvent>,
    /// The turn's end. No more input follows, which on stdio asks the engine to exit; what comes
    /// afterwards is only the process leaving.
    pub finished: Option<TurnEnd>,
    /// [`Protocol::on_quiet`] is to be called, soon.
    pub awaits_quiet: bool,
}

impl Actions {
    pub fn write(&mut self, value: Value) {
        self.write.push(value);
    }

    pub fn event(&mut self, event: TurnEvent) {
        self.events.push(event);
    }

    /// The turn is over, but the engine may still have something to say of it.
    pub fn await_quiet(&mut self) {
        self.awaits_quiet = true;
    }

    /// The turn is over and the engine may go.
    pub fn finish(&mut self, end: TurnEnd) {
        self.finished.get_or_insert(end);
    }
}

/// Everything an engine needs to know for one turn. The default is what a protocol has before it
/// begins.
#[derive(Clone, Debug, Default)]
pub struct TurnSpec {
    pub turn: TurnId,
    /// The whole text: history, envelope, bootstrap. Never begins with `/`. Shared, since it may be
    /// megabytes long.
    pub prompt: Arc<String>,
    pub images: Vec<Image>,
    /// The session to resume; none starts a fresh one.
    pub session: Option<SessionId>,
    /// A UUID for a fresh session, for engines that let the caller choose (claude).
    pub fresh_session: SessionId,
    /// Absolute and existing. It is sent to engines in JSON or TOML, which cannot hold a path that
    /// is not UTF-8.
    pub project_dir: Utf8PathBuf,
    /// A short name for a fresh session, so that it is recognised in the engine's own list.
    pub title: String,
    pub gate: Gate,
    /// Questions reach a human, so the engine may also ask its own ([`Question::choices`]).
    pub asks_human: bool,
    pub sandbox: Sandbox,
    /// `provider` and `model`, where the engine must be told (opencode). None leaves the choice to it.
    pub model: Option<Model>,
    pub login: Login,
    /// The bridge's own files and directories, absolute: engines must keep from what they would read
    /// of them without asking.
    pub own_files: Vec<String>,
    /// Some of them are in the project, where engines ask for less.
    pub has_own_files: bool,
}

/// What an engine can be told to log in with, should it say that it has to (ACP).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Login {
    /// The configured way, by the engine's own name for it.
    pub method: Option<String>,
    /// The names of the variables that the engine has; some may be keys.
    pub variables: BTreeSet<String>,
}

impl TurnSpec {
    /// A person can answer the model's own questions.
    pub fn takes_choices(&self) -> bool {
        self.asks_human && self.gate == Gate::Ask
    }
}

/// An attachment that the engine is to see.
#[derive(Clone, PartialEq, Eq)]
pub struct Image {
    pub media_type: String,
    pub bytes: Vec<u8>,
}

impl Image {
    pub fn base64(&self) -> String {
        STANDARD.encode(&self.bytes)
    }

    pub fn data_url(&self) -> String {
        format!("data:{};base64,{}", self.media_type, self.base64())
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Image({}, {} bytes)", self.media_type, self.bytes.len())
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    pub provider: String,
    pub model: String,
}

/// Whether the engine asks before it acts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gate {
    /// Every tool that the engine would ask for becomes a [`TurnEvent::Question`].
    #[default]
    Ask,
    /// `allowAll`: the engine's own bypass. Loud wherever it is used.
    AllowAll,
}

/// Codex's sandbox (`codexSandbox`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sandbox {
    ReadOnly,
    #[default]
    WorkspaceWrite,
    DangerFullAccess,
}

impl Sandbox {
    /// The spelling of the config file and of Codex's `thread/start`.
    pub fn as_str(self) -> &'static str {
        match self {
            Sandbox::ReadOnly => "read-only",
            Sandbox::WorkspaceWrite => "workspace-write",
            Sandbox::DangerFullAccess => "danger-full-access",
        }
    }

    pub fn parse(text: &str) -> Option<Sandbox> {
        [Sandbox::ReadOnly, Sandbox::WorkspaceWrite, Sandbox::DangerFullAccess]
            .into_iter()
            .find(|sandbox| sandbox.as_str() == text)
    }
}

/// What a turn reports while it runs.
#[derive(Clone, Debug, PartialEq)]
pub enum TurnEvent {
    /// The engine's session, as soon as it is sure to be resumable by this id.
    Session(SessionId),
    /// One line of Markdown about what it is doing now; what is not our own stands in backticks.
    Progress(String),
    /// What the model said on the way ([`answer`]), in its own Markdown. It is not the answer, or not
    /// all of it, unless the model says nothing else.
    Commentary(String),
    /// The engine waits for a decision: answer with [`TurnCommand::Decide`].
    Question(Question),
    /// The engine no longer waits for this one.
    QuestionGone(QuestionId),
    /// The model calls one of our tools: answer with [`TurnCommand::ToolResult`].
    ToolCall(ToolCall),
    /// The engine will try its model again by itself.
    Retry {
        message: String,
        next: Option<Timestamp>,
    },
    Usage(Usage),
}

/// What the worker sends to a turn while it runs.
#[derive(Clone, Debug, PartialEq)]
pub enum TurnCommand {
    Decide { question: QuestionId, verdict: Verdict },
    ToolResult { call: String, result: ToolResult },
    Interrupt,
}

/// The engine's name for an open question, unique among those that are open. From
/// [`turn::run_turn`] on it is one that no other question has or had.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QuestionId(pub String);

/// A tool that needs permission, in words that are the same for all engines.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Question {
    pub id: QuestionId,
    /// The engine's own name of the tool, for example `Bash` or `commandExecution`.
    pub tool: String,
    pub kind: ActionKind,
    /// The command line, path or URL, as the policy matches it; empty if there is none.
    pub subject: String,
    /// The engine's reason, if it gives one.
    pub reason: Option<String>,
    /// The tool's whole input.
    pub input: Value,
    /// What of the input the subject, the edits and the choices say already, as JSON pointers. All
    /// else in it is shown beside them, so that nothing is left out that nobody thought of.
    pub shown: Vec<String>,
    /// What an edit would change, file by file; empty if the engine does not tell.
    pub edits: Vec<Edit>,
    /// What an edit does whose files are not told; of the others each file says it.
    pub change: Change,
    /// Why the engine could not act on a yes, if that is so: nobody is asked then, and it is denied.
    pub cannot_allow: Option<&'static str>,
    /// The engine does not ask for permission but for words: these are its own questions. Answer
    /// with [`Verdict::Chosen`], or deny.
    pub choices: Vec<Choice>,
}

/// One file of an edit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edit {
    /// As the engine names it; relative ones are inside the project.
    pub path: String,
    /// What changes, as lines that begin with `+`, `-` or a blank; the whole new text behind `+`
    /// if the engine does not say what it replaces.
    pub diff: String,
    pub change: Change,
}

/// What becomes of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Change {
    #[default]
    Modify,
    /// It is made, or all that is in it is replaced.
    Write,
    Delete,
    /// It gets another path; where that is told, it is the [`Change::MoveTarget`] that follows.
    Move,
    MoveTarget,
}

/// A question of the engine's own with options to choose from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    pub question: String,
    pub options: Vec<ChoiceOption>,
    /// More than one may be chosen.
    pub is_multiple: bool,
    /// Words of one's own are an answer too.
    pub is_open: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChoiceOption {
    /// What is sent back when it is chosen.
    pub label: String,
    /// Empty if there is none.
    pub description: String,
}

/// Engine-neutral kinds of actions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ActionKind {
    Read,
    Edit,
    Run,
    Fetch,
    Mcp,
    #[default]
    Other,
}

impl ActionKind {
    /// Whether it may change files, so that two threads could get in each other's way.
    pub fn may_write(self) -> bool {
        matches!(self, ActionKind::Edit | ActionKind::Run)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Allow,
    /// Allow, and everything like it on this thread. To an engine this is [`Verdict::Allow`]: what it
    /// stores by itself would outlive the thread.
    AllowAlways,
    /// Answers to [`Question::choices`], in their order: what was chosen of each.
    Chosen(Vec<Vec<String>>),
    /// The reason is handed to the agent where the engine has a place for it.
    Deny {
        reason: String,
    },
}

/// A call of `bridge_post` or `bridge_thread_read` by the model.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolCall {
    /// The protocol's name for the call, unique within the turn.
    pub id: String,
    pub tool: tools::BridgeTool,
}

/// What a call came to. The error is a text that the model reads.
pub type ToolResult = Result<String, String>;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Usage {
    pub input_tokens: u64,
    pub output_tokens: u64,
    pub cost_usd: Option<f64>,
}

impl Usage {
    pub fn add(&mut self, more: &Usage) {
        self.input_tokens = self.input_tokens.saturating_add(more.input_tokens);
        self.output_tokens = self.output_tokens.saturating_add(more.output_tokens);
        if let Some(cost) = more.cost_usd {
            *self.cost_usd.get_or_insert_default() += cost;
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TurnEnd {
    /// The engine finished. The text is its final answer and may be empty.
    Answered {
        text: String,
    },
    /// Stopped by [`TurnCommand::Interrupt`] or by the daemon's stop.
    Interrupted,
    /// The session to resume does not exist here; nothing was done. A fresh one may be started.
    SessionGone {
        detail: String,
    },
    Failed(Failure),
}

impl From<Failure> for TurnEnd {
    fn from(failure: Failure) -> TurnEnd {
        TurnEnd::Failed(failure)
    }
}

/// Why a turn failed, for the person who reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub kind: FailureKind,
    /// What happened, in the engine's words where it has any.
    pub message: String,
    pub advice: String,
}

impl Failure {
    pub fn new(
        kind: FailureKind,
        message: impl Into<String>,
        advice: impl Into<String>,
    ) -> Failure {
        Failure { kind, message: message.into(), advice: advice.into() }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The program is not there or can't be started.
    NotInstalled,
    NotLoggedIn,
    RateLimited,
    /// The model's service answered with an error.
    Model,
    /// The engine's process ended before the turn did.
    Crashed,
    /// The start-up, silence or turn limit was reached.
    TimedOut,
    /// The session is open in another process.
    Busy,
    /// Refused before anything was sent (for example a provider that was not chosen).
    Refused,
    /// The engine said something that the protocol has no place for.
    Protocol,
}

/// How an engine's process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Code(i32),
    Signal(i32),
    /// Not known: the wait failed, or there is no process of the turn's own.
    Unknown,
}

impl Exit {
    /// How a shell, and `env`, say that they did not find a program.
    pub const NOT_FOUND: Exit = Exit::Code(127);
}

/// What to do when an engine's own program ended with [`Exit::NOT_FOUND`].
pub const NOT_ON_PATH: &str = "A program that it needs is not on the daemon's `PATH`, which for a service is another one than in \
     your shell. Set it, as `Environment=PATH=…` in the service or as `PATH` in `env` of the agent's entry \
     in the config file, and restart the daemon.";

impl From<Option<ExitStatus>> for Exit {
    fn from(status: Option<ExitStatus>) -> Exit {
        let Some(status) = status else { return Exit::Unknown };
        let code = status.code().map(Exit::Code);
        code.or_else(|| status.signal().map(Exit::Signal)).unwrap_or(Exit::Unknown)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "exit code {code}"),
            Exit::Signal(signal) => write!(f, "signal {signal}"),
            Exit::Unknown => f.write_str("an unknown end"),
        }
    }
}

/// Time limits of a turn.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From the spawn to the engine's first value, and to each further one before the prompt.
    pub startup: Duration,
    /// Without any value from the engine. Paused while a question or a tool call is open.
    pub silence: Duration,
    /// The whole turn.
    pub turn: Duration,
}
