//! The browser's side of one conversation: it listens, posts one message, and reports what the
//! agent says to it. A task of its own, because reading a stream blocks.

use std::{
    io::{self, Read},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use serde_json::{Value, json};
use ureq::{Agent, Body, http::Response};

use crate::{
    bridge::sse::{Item, Parser},
    config::Token,
    task::{self, Task},
};

/// The daemon connects within milliseconds; after this long something is wrong.
const DAEMON_IS_THERE: Duration = Duration::from_secs(30);
/// Between two looks whether it is connected. The bridge does not announce it.
const LOOK: Duration = Duration::from_millis(20);
/// Before a stream that ended is opened again.
const REOPEN: Duration = Duration::from_millis(200);
/// The bridge sends a sign of life every 15 s.
const SILENCE: Duration = Duration::from_mins(1);
/// For every other request.
const REQUEST: Duration = Duration::from_secs(30);
/// Messages that wait to be printed.
const QUEUE: usize = 64;

/// What is asked.
#[derive(Debug)]
pub(super) struct LocalPrompt {
    pub(super) text: String,
    /// None leaves it to the daemon.
    pub(super) engine: Option<String>,
    /// A new thread's id.
    pub(super) thread: String,
}

/// What the agent, or the bridge, said.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    Progress(String),
    /// A result, or a question back.
    Answer(String),
    Failure(String),
}

/// The running conversation.
pub(super) struct Ask {
    pub(super) said: Receiver<Said>,
    stop: Sender<()>,
    task: Task,
}

impl Ask {
    pub(super) fn start(url: &str, token: Token, question: LocalPrompt) -> io::Result<Ask> {
        let (say, said) = bounded(QUEUE);
        let (stop, stopped) = bounded(0);
        let talker = Talk { url: url.to_owned(), token, question, say, stopped };
        let task = task::spawn("ask", move || {
            if let Err(error) = talker.talk() {
                talker.say(Said::Failure(format!("{error:#}")));
            }
        })?;
        Ok(Ask { said, stop, task })
    }

    /// Waits for the end. The bridge must have been stopped: that is what wakes a reader.
    pub(super) fn stop(self) {
        drop((self.stop, self.said));
        // A panic is in the log already.
        self.task.join().ok();
    }
}

/// The task's side.
struct Talk {
    url: String,
    token: Token,
    question: LocalPrompt,
    say: Sender<Said>,
    stopped: Receiver<()>,
}

impl Talk {
    /// Whether there still is a receiver.
    fn say(&self, said: Said) -> bool {
        self.say.send(said).is_ok()
    }

    fn talk(&self) -> anyhow::Result<()> {
        let mut position = None;
        let mut stream = self.open(position.as_deref())?;
        if !self.daemon_is_there()? {
            return Ok(());
        }
        self.post()?;
        // The stream may break off when it does not keep up; it goes on where it was.
        while self.listen(stream, &mut position) && !self.wait(REOPEN) {
            stream = self.open(position.as_deref())?;
        }
        Ok(())
    }

    /// Waits; true if the answer is not wanted any more.
    fn wait(&self, time: Duration) -> bool {
        self.stopped.recv_timeout(time) != Err(RecvTimeoutError::Timeout)
    }

    /// An agent without a proxy: the bridge is in this process.
    fn agent(limit: Option<Duration>, per_read: Duration) -> Agent {
        let config = Agent::config_builder()
            .proxy(None)
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_global(limit)
            .timeout_per_read(Some(per_read));
        Agent::new_with_config(config.build())
    }

    fn bearer(&self) -> String {
        format!("Bearer {}", self.token.reveal())
    }

    fn open(&self, position: Option<&str>) -> anyhow::Result<Response<Body>> {
        let mut request = Talk::agent(None, SILENCE)
            .get(format!("{}/api/bridge/stream", self.url))
            .header("Authorization", self.bearer())
            .header("Accept", "text/event-stream");
        if let Some(position) = position {
            request = request.header("Last-Event-ID", position);
        }
        let response = request.call().context("opening the stream of the bridge")?;
        if !response.status().is_success() {
            bail!("opening the stream of the bridge was answered with {}", response.status());
        }
        Ok(response)
    }

    /// Waits for the daemon's stream: a message on a new thread reaches only who is connected.
    fn daemon_is_there(&self) -> anyhow::Result<bool> {
        let agent = Talk::agent(Some(REQUEST), REQUEST);
        let deadline = Instant::now() + DAEMON_IS_THERE;
        while Instant::now() < deadline {
            let request = agent.get(format!("{}/api/bridge/machines", self.url));
            let answer = request.header("Authorization", self.bearer()).call();
            let answer: Value = answer.context("asking for machines")?.body_mut().read_json()?;
            if answer["machines"].as_array().is_some_and(|machines| !machines.is_empty()) {
                return Ok(true);
            }
            if self.wait(LOOK) {
                return Ok(false);
            }
        }
        bail!("the daemon did not connect to the bridge within {} s", DAEMON_IS_THERE.as_secs());
    }

    fn post(&self) -> anyhow::Result<()> {
        let question = &self.question;
        let body = json!({
            "threadId": question.thread,
            "body": question.text,
            "agent": question.engine,
        });
        let mut answer = Talk::agent(Some(REQUEST), REQUEST)
            .post(format!("{}/api/reply", self.url))
            .header("Authorization", self.bearer())
            .send_json(body)
            .context("posting the message")?;
        if !answer.status().is_success() {
            let said = answer.body_mut().read_to_string().unwrap_or_default();
            bail!("posting the message was answered with {}: {said}", answer.status());
        }
        Ok(())
    }

    /// Reports until the stream ends; true if it should be opened again.
    fn listen(&self, stream: Response<Body>, position: &mut Option<String>) -> bool {
        let mut reader = stream.into_body().into_reader();
        let (mut parser, mut items) = (Parser::default(), Vec::new());
        let mut buffer = [0; 16 * 1024];
        loop {
            // Whatever ended it: what was missed comes again.
            let Ok(length @ 1..) = reader.read(&mut buffer) else { return true };
            parser.feed(&buffer[..length], &mut items);
            for item in items.drain(..) {
                let Item::Event(event) = item else { continue };
                if event.event == "message"
                    && let Some(said) = said(&event.data, &self.question.thread)
                {
                    let goes_on = matches!(said, Said::Progress(_));
                    if !self.say(said) || !goes_on {
                        return false;
                    }
                }
            }
            *position = parser.last_event_id().map(str::to_owned).or(position.take());
        }
    }
}

/// What a message of `thread` says.
fn said(data: &str, thread: &str) -> Option<Said> {
    let message: Value = serde_json::from_str(data).ok()?;
    if message["threadId"].as_str() != Some(thread) || message["role"].as_str() != Some("agent") {
        return None;
    }
    let body = message["body"].as_str().unwrap_or_default().to_owned();
    Some(match message["kind"].as_str() {
        Some("result" | "question") => Said::Answer(body),
        Some("error") => Said::Failure(body),
        _ => Said::Progress(body),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(thread: &str, role: &str, kind: Value, expected: Option<Said>) {
        let data = json!({"threadId": thread, "role": role, "kind": kind, "body": "b"});
        assert_eq!(said(&data.to_string(), "t"), expected, "{data}");
    }

    #[test]
    fn the_kind_of_a_message_decides() {
        let body = || "b".to_owned();
        check("t", "agent", json!("status"), Some(Said::Progress(body())));
        check("t", "agent", json!(null), Some(Said::Progress(body())));
        check("t", "agent", json!("result"), Some(Said::Answer(body())));
        check("t", "agent", json!("question"), Some(Said::Answer(body())));
        check("t", "agent", json!("error"), Some(Said::Failure(body())));
        check("t", "human", json!("result"), None);
        check("other", "agent", json!("result"), None);
        assert_eq!(said("no json", "t"), None);
    }
}
