//! One connection of the stream: a task that opens it and reads it to its end. It decides nothing;
//! what it reads, and how it ended, it reports to the stream's own task.

use std::{
    fmt,
    io::{self, Read},
    mem,
    sync::Arc,
    time::Instant,
};

use crossbeam_channel::{Receiver, RecvError, Sender, bounded};
use ureq::{Agent, Body, config::Config};

use super::{connect, settings::Settings};
use crate::{
    bridge::{
        Access, Error, dial,
        sse::{Item, Parser},
        ways::Ways,
    },
    task::{self, Task},
    time::Timestamp,
};

const BUFFER: usize = 64 * 1024;
/// Reports between the connection and the stream. When it is full, TCP pushes back.
const NEWS: usize = 1;

/// What a connection reports, [`News::Ended`] last.
pub(super) enum News {
    /// With the `Date` of the response.
    Opened {
        date: Option<Timestamp>,
    },
    Read {
        items: Vec<Item>,
        /// The position after them; an id can come without an event.
        last_event_id: Option<String>,
    },
    Ended(Disconnect),
}

/// How a connection, or the attempt at one, ended.
pub(super) enum Disconnect {
    /// 204.
    NoContent,
    Refused(Error),
    Lost(String),
}

impl From<RecvError> for News {
    /// A connection's task reports its end, unless it panics.
    fn from(_: RecvError) -> News {
        News::Ended(Disconnect::Lost("its task panicked".to_owned()))
    }
}

impl fmt::Display for Disconnect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Disconnect::NoContent => f.write_str("status 204, there is nothing to come"),
            Disconnect::Refused(error) => error.fmt(f),
            Disconnect::Lost(why) => f.write_str(why),
        }
    }
}

/// A connection, and what the stream knows of it.
pub(super) struct Link {
    pub(super) access: Access,
    /// What it announced.
    pub(super) capabilities: Vec<String>,
    pub(super) news: Receiver<News>,
    /// The bridge's time when it answered, by the `Date` of its response.
    pub(super) date: Option<Timestamp>,
    /// Since when it is open.
    pub(super) opened: Option<Instant>,
    /// When it last brought something.
    pub(super) heard: Instant,
    /// [`super::event::StreamEvent::Connected`] was sent for it.
    pub(super) announced: bool,
    /// The next one follows when what this one still has is taken in.
    pub(super) is_cut: bool,
    agent: Agent,
    task: Task,
}

impl Link {
    /// # Errors
    /// When the system gives no thread.
    pub(super) fn start(
        config: Config,
        ways: Arc<Ways>,
        access: Access,
        settings: Settings,
    ) -> io::Result<Link> {
        let agent = dial::agent(config, ways);
        let (report, news) = bounded(NEWS);
        let capabilities = settings.capabilities.clone();
        let (asked, used) = (access.clone(), agent.clone());
        let task = task::spawn("stream-in", move || {
            let end = match connect::open(&used, &asked, &settings) {
                Ok(Some((body, date))) => read(body, date, &settings, &report),
                Ok(None) => Some(Disconnect::NoContent),
                Err(error) => Some(Disconnect::Refused(error)),
            };
            if let Some(end) = end {
                report.send(News::Ended(end)).ok(); // The stream may have stopped.
            }
        })?;
        Ok(Link {
            access,
            capabilities,
            news,
            date: None,
            opened: None,
            heard: Instant::now(),
            announced: false,
            is_cut: false,
            agent,
            task,
        })
    }

    /// Ends the connection. What it had read before is still reported.
    pub(super) fn cut(&mut self) {
        self.is_cut = true;
        self.agent.clone().shutdown();
    }

    /// Ends the connection and waits for its task.
    pub(super) fn close(self) {
        self.agent.shutdown();
        drop(self.news);
        // A panic is in the log already.
        drop(self.task.join());
    }
}

/// Reads an open stream until it ends. None when the reports are not received any more.
fn read(
    body: Body,
    date: Option<Timestamp>,
    settings: &Settings,
    report: &Sender<News>,
) -> Option<Disconnect> {
    report.send(News::Opened { date }).ok()?;
    let mut parser = Parser::new(settings.max_event);
    let mut reader = body.into_reader();
    let mut buffer = vec![0; BUFFER];
    let mut items = Vec::new();
    let mut heard = Instant::now();
    let mut reported: Option<String> = None;
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Some(Disconnect::Lost("the bridge ended the stream".to_owned())),
            Ok(length) => {
                parser.feed(&buffer[..length], &mut items);
                if !items.is_empty() || parser.last_event_id() != reported.as_deref() {
                    reported = parser.last_event_id().map(str::to_owned);
                    let last_event_id = reported.clone();
                    report.send(News::Read { items: mem::take(&mut items), last_event_id }).ok()?;
                }
                heard = Instant::now();
            }
            Err(error) if is_glance(&error) => {
                if heard.elapsed() >= settings.idle {
                    return Some(Disconnect::Lost(format!("silent for {:?}", settings.idle)));
                }
            }
            Err(error) => return Some(Disconnect::Lost(format!("reading failed: {error}"))),
        }
    }
}

/// Whether a read ended only because its time was up; the connection can be read on.
fn is_glance(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<ureq::Error>());
    matches!(inner, Some(ureq::Error::Timeout(ureq::Timeout::PerRead)))
}
