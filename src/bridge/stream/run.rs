//! The stream's own task: it opens connections, makes one follow on another, and turns what they
//! bring into events.
//!
//! Make before break: for a reconnection of our own wish, because of new engines, a rotated token,
//! another address or a machine that slept, the next connection is opened beside the current one.
//! So a bridge that does not replay has an open stream to write to at every moment. The next one is
//! read only when the current one has nothing more to bring, so that messages keep their order; what
//! both brought is recognised further on, by its message's id.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender, never, select};
use ureq::config::Config;

use super::{
    clock::Clocks,
    event::{Replay, StreamEvent},
    hello::Hello,
    link::{Disconnect, Link, News},
    settings::Settings,
};
use crate::{
    bridge::{
        AccessSource, Net,
        backoff::{Backoff, Pace},
        sse::{Item, SseEvent},
        ways::Ways,
        wire::{ID_BYTES, NoReply, Reply},
    },
    time::Timestamp,
};

/// A silent connection is looked at this often within the idle limit, and so is the config. Every
/// read has that much time, those of the response's head too: 15 s by default.
const GLANCES: u32 = 5;
/// How often a wait between two connections looks whether the machine slept.
const WAIT_GLANCE: Duration = Duration::from_secs(5);
/// Once the next connection is open, the current one is closed when it brings nothing for this long:
/// what was sent before the next one was open has arrived by then.
const QUIET: Duration = Duration::from_secs(1);
/// And one that never falls quiet is closed after this long.
const OVERLAP_MAX: Duration = Duration::from_secs(5);
/// How often a refused connection is complained about in the log.
const COMPLAIN_EVERY: Duration = Duration::from_mins(1);
/// A longer id would not fit into the head of a request.
const MAX_ID: usize = 1024;

/// The task's ends of what connects it with its handle and its receiver.
pub(super) struct Ends<T> {
    pub(super) stop: Receiver<()>,
    pub(super) wanted: Receiver<Vec<String>>,
    pub(super) events: Sender<StreamEvent<T>>,
}

/// The stop channel is closed, or the events are not received any more.
pub(super) struct Stopped;

pub(super) struct Stream<T, K> {
    access: Arc<dyn AccessSource>,
    config: Config,
    ways: Arc<Ways>,
    settings: Settings,
    glance: Duration,
    ends: Ends<T>,
    keep: K,
    backoff: Backoff,
    /// The address of the bridge, if it opens its streams with a `hello` event.
    says_hello: Option<String>,
    /// When a refused connection was last complained about.
    complained: Option<Instant>,
    /// The open connection that is read.
    current: Option<Link>,
    /// The attempt at one, or the open one that follows on the current one.
    next: Option<Link>,
    /// When the next attempt begins; none while nothing asks for one.
    try_at: Option<Instant>,
    /// When the config was last compared with what the connection uses.
    looked: Instant,
    clocks: Clocks,
}

impl<T, K: FnMut(&Reply) -> io::Result<T>> Stream<T, K> {
    pub(super) fn new(
        access: Arc<dyn AccessSource>,
        net: &Net,
        mut settings: Settings,
        ends: Ends<T>,
        keep: K,
    ) -> anyhow::Result<Stream<T, K>> {
        let glance = (settings.idle / GLANCES).max(Duration::from_millis(1));
        settings.last_event_id = settings.last_event_id.filter(|id| usable(id));
        Ok(Stream {
            access,
            config: net.stream_config(glance),
            ways: net.ways()?,
            glance,
            ends,
            keep,
            backoff: Backoff::new(settings.pace),
            settings,
            says_hello: None,
            complained: None,
            current: None,
            next: None,
            try_at: Some(Instant::now()),
            looked: Instant::now(),
            clocks: Clocks::now(),
        })
    }

    pub(super) fn run(mut self) {
        while self.step().is_ok() {}
        for link in [self.current.take(), self.next.take()].into_iter().flatten() {
            link.close();
        }
        log::debug!("stream: stopped");
    }

    /// Does what is due, then waits for what comes next and deals with it.
    fn step(&mut self) -> Result<(), Stopped> {
        if self.clocks.slept() {
            self.renew("the machine slept");
        }
        self.announce_late()?;
        self.cut_the_current();
        self.look_at_the_config()?;
        if self.try_at.is_some_and(|at| at <= Instant::now()) && self.next.is_none() {
            self.open()?;
        }
        let current = self.current.as_ref().map_or_else(never, |link| link.news.clone());
        // Once it is open it waits for its turn; then TCP pushes back.
        let attempt = self.next.as_ref().filter(|link| link.opened.is_none());
        let attempt = attempt.map_or_else(never, |link| link.news.clone());
        select! {
            recv(self.ends.stop) -> _ => Err(Stopped),
            recv(self.ends.wanted) -> wanted => {
                self.settings.capabilities = wanted.map_err(|_| Stopped)?;
                self.announce_anew();
                Ok(())
            }
            recv(current) -> news => self.news(news.unwrap_or_else(News::from)),
            recv(attempt) -> news => match news.unwrap_or_else(News::from) {
                News::Ended(end) => self.attempt_failed(end),
                News::Opened { date } => self.opened(date),
                News::Read { .. } => self.opened(None),
            },
            default(self.patience()) => Ok(()),
        }
    }

    /// How long until something is due.
    fn patience(&self) -> Duration {
        let periodic = if self.current.is_some() { self.glance } else { WAIT_GLANCE };
        let attempt = self.try_at.filter(|_| self.next.is_none());
        let until = [attempt, self.announce_at(), self.cut_at()].into_iter().flatten().min();
        let left = until.map(|at| at.saturating_duration_since(Instant::now()));
        left.map_or(periodic, |left| left.min(periodic))
    }

    /// There are new capabilities, perhaps. A wait between two attempts ends.
    fn announce_anew(&mut self) {
        if self.try_at.is_some() {
            self.try_at = Some(Instant::now());
        }
        let current = self.current.as_ref();
        if current.is_some_and(|link| link.capabilities != self.settings.capabilities) {
            self.renew("the engines of this machine changed");
        }
    }

    /// Whether `rotate-token` or a person has changed where the stream should come from.
    fn look_at_the_config(&mut self) -> Result<(), Stopped> {
        let Some(current) = self.current.as_ref() else { return Ok(()) };
        if self.try_at.is_some() || self.next.is_some() || self.looked.elapsed() < self.glance {
            return Ok(());
        }
        self.looked = Instant::now();
        match self.access.access() {
            Ok(access) if access != current.access => {
                self.renew("the config names another token or address");
            }
            Err(error) if self.access.is_logged_out() => {
                let link = self.current.take();
                self.close(link);
                return self.report(Disconnect::Refused(error));
            }
            // A config that is broken now says nothing about the connection.
            Ok(_) | Err(_) => {}
        }
        Ok(())
    }

    /// Begins an attempt at once, beside the connection that there may be.
    fn renew(&mut self, why: &str) {
        if self.current.is_some() {
            log::info!("stream: connecting anew, since {why}");
        }
        self.try_at = Some(Instant::now());
    }

    /// Begins an attempt.
    pub(super) fn open(&mut self) -> Result<(), Stopped> {
        self.try_at = None;
        self.looked = Instant::now();
        let access = match self.access.access() {
            Ok(access) => access,
            Err(error) => return self.attempt_failed(Disconnect::Refused(error)),
        };
        match Link::start(
            self.config.clone(),
            Arc::clone(&self.ways),
            access,
            self.settings.clone(),
        ) {
            Ok(link) => {
                self.next = Some(link);
                Ok(())
            }
            Err(error) => self.attempt_failed(Disconnect::Lost(format!("no task for it: {error}"))),
        }
    }

    /// The attempt became a connection.
    fn opened(&mut self, date: Option<Timestamp>) -> Result<(), Stopped> {
        if let Some(next) = self.next.as_mut() {
            next.opened = Some(Instant::now());
            next.date = date;
        }
        if self.current.is_none() { self.promote() } else { Ok(()) }
    }

    /// From here on the next connection is read.
    fn promote(&mut self) -> Result<(), Stopped> {
        let Some(mut link) = self.next.take() else { return Ok(()) };
        link.heard = Instant::now();
        let says_hello = self.says_hello.as_ref() == Some(&link.access.base_url);
        self.current = Some(link);
        // What changed while it was being opened.
        self.try_at = None;
        self.announce_anew();
        // With a position there is a replay to hear about, or at least one that happens; without
        // one nothing is known, and catching up need not wait for the first byte.
        if self.settings.last_event_id.is_none() && !says_hello {
            return self.announce(Replay::Unknown, None);
        }
        Ok(())
    }

    /// When the current connection is cut.
    fn cut_at(&self) -> Option<Instant> {
        let current = self.current.as_ref().filter(|link| !link.is_cut)?;
        let opened = self.next.as_ref()?.opened?;
        Some((current.heard.max(opened) + QUIET).min(opened + OVERLAP_MAX))
    }

    fn cut_the_current(&mut self) {
        if self.cut_at().is_some_and(|at| at <= Instant::now())
            && let Some(current) = &mut self.current
            && current.news.is_empty()
        {
            current.cut();
        }
    }

    /// Takes in what the current connection reports.
    fn news(&mut self, news: News) -> Result<(), Stopped> {
        match news {
            News::Opened { .. } => Ok(()),
            News::Read { items, last_event_id } => {
                if let Some(link) = &mut self.current {
                    link.heard = Instant::now();
                }
                for item in items {
                    self.item(item)?;
                }
                self.pass(last_event_id);
                Ok(())
            }
            News::Ended(end) => self.lost(end),
        }
    }

    fn lost(&mut self, end: Disconnect) -> Result<(), Stopped> {
        let link = self.current.take();
        self.close(link);
        match &self.next {
            Some(next) if next.opened.is_some() => self.promote(),
            // The next attempt is under way.
            Some(_) => {
                let (why, next) = (end.to_string(), Duration::ZERO);
                self.tell(StreamEvent::Disconnected { why, next })
            }
            None => self.report(end),
        }
    }

    /// No connection came of it. As long as there is one, the daemon need not know.
    fn attempt_failed(&mut self, end: Disconnect) -> Result<(), Stopped> {
        let link = self.next.take();
        self.close(link);
        if self.current.is_none() {
            return self.report(end);
        }
        let wait = self.wait_after(&end);
        log::warn!(
            "stream: can't connect anew ({end}); the old connection stays, next try in {:.1} s",
            wait.as_secs_f64()
        );
        Ok(())
    }

    fn close(&mut self, link: Option<Link>) {
        let Some(link) = link else { return };
        if let Some(opened) = link.opened {
            self.backoff.ended_after(opened.elapsed());
        }
        link.close();
    }

    fn item(&mut self, item: Item) -> Result<(), Stopped> {
        match item {
            Item::Retry(wait) => self.backoff.set_base(wait),
            Item::Oversized { limit } => {
                log::error!("stream: dropped an event of more than {limit} bytes");
            }
            Item::Event(event) if event.event == "hello" => self.hello(event)?,
            Item::Event(event) => {
                if !self.is_announced() {
                    self.announce(Replay::Unknown, None)?;
                }
                if event.event == "reply" {
                    return self.reply(event.data, event.id);
                }
                self.pass(event.id);
            }
        }
        Ok(())
    }

    fn hello(&mut self, event: SseEvent) -> Result<(), Stopped> {
        self.says_hello = self.current.as_ref().map(|link| link.access.base_url.clone());
        let Hello { replay, server_time, accepts, waiting } = Hello::read(&event.data);
        if let Some(messages @ 1..) = waiting {
            log::info!(messages; "the bridge hands out messages that waited for a machine");
        }
        let (is_late, begins) = (self.is_announced(), event.id.is_some() || server_time.is_some());
        // If the stream begins no earlier than this, what was written since the response is on no
        // stream, and a history that was read since then lacks it.
        if !is_late || replay != Replay::Complete {
            self.announce(replay, server_time.clone())?;
        }
        self.pass(event.id);
        if is_late && begins {
            let last_event_id = self.settings.last_event_id.clone();
            self.tell(StreamEvent::Begins { server_time, last_event_id })?;
        }
        if accepts.is_empty() { Ok(()) } else { self.tell(StreamEvent::Accepts(accepts)) }
    }

    /// Keeps a reply and hands it over. Data that is not a reply, or one of another machine, is dropped.
    fn reply(&mut self, data: String, id: Option<String>) -> Result<(), Stopped> {
        let bytes = data.len();
        let reply = Reply::parse(&data);
        // It may be megabytes long, and is in the reply.
        drop(data);
        let wanted = match reply {
            Ok(reply) if reply.machine.as_ref().is_none_or(|it| *it == self.settings.machine) => {
                Some(reply)
            }
            Ok(reply) => {
                log::debug!(thread:% = reply.thread_id; "stream: skipped another machine's reply");
                None
            }
            Err(NoReply::NoThread) => {
                log::warn!("stream: dropped a reply without a threadId");
                None
            }
            Err(NoReply::LongThread) => {
                log::warn!("stream: dropped a reply whose threadId is over {ID_BYTES} bytes");
                None
            }
            Err(NoReply::NotAnObject) => {
                log::error!("stream: dropped a reply of {bytes} bytes that is no JSON object");
                None
            }
        };
        let Some(reply) = wanted else {
            self.pass(id);
            return Ok(());
        };
        let kept = self.keep(&reply)?;
        self.backoff.good();
        self.pass(id);
        let last_event_id = self.settings.last_event_id.clone();
        self.tell(match kept {
            Some(kept) => StreamEvent::Reply { kept, reply, last_event_id },
            None => StreamEvent::Overflow {
                created_at: reply.created_at.as_deref().and_then(Timestamp::parse),
                thread: reply.thread_id,
                last_event_id,
            },
        })
    }

    /// Makes a reply durable, however long that takes: a full disk is emptied some day, a reply
    /// that was dropped does not come back. None if there is no room for one more.
    fn keep(&mut self, reply: &Reply) -> Result<Option<T>, Stopped> {
        let mut backoff = Backoff::new(Pace::default());
        let mut said = false;
        loop {
            match (self.keep)(reply) {
                Ok(kept) => {
                    if said {
                        log::info!("stream: the disk takes replies again");
                    }
                    return Ok(Some(kept));
                }
                Err(error) if error.kind() == io::ErrorKind::QuotaExceeded => return Ok(None),
                Err(error) => {
                    if !said {
                        log::error!(
                            thread:% = reply.thread_id;
                            "stream: can't store a reply: {error}; nothing is received until it \
                             can be, so make room or repair the state directory"
                        );
                    }
                    said = true;
                }
            }
            select! {
                recv(self.ends.stop) -> _ => return Err(Stopped),
                default(backoff.next(fastrand::u64(..), None)) => {}
            }
        }
    }

    /// When the current connection is announced without a hello. A bridge that says hello does so
    /// before anything else, however late; any other one may be silent for long.
    fn announce_at(&self) -> Option<Instant> {
        let current = self.current.as_ref().filter(|link| !link.announced)?;
        let says_hello = self.says_hello.as_ref() == Some(&current.access.base_url);
        (!says_hello).then(|| current.heard + self.glance)
    }

    fn announce_late(&mut self) -> Result<(), Stopped> {
        if self.announce_at().is_some_and(|at| at <= Instant::now()) {
            return self.announce(Replay::Unknown, None);
        }
        Ok(())
    }

    fn is_announced(&self) -> bool {
        self.current.as_ref().is_some_and(|link| link.announced)
    }

    fn announce(&mut self, replay: Replay, server_time: Option<String>) -> Result<(), Stopped> {
        if let Some(link) = &mut self.current {
            link.announced = true;
        }
        let date = self.current.as_ref().and_then(|link| link.date).map(|date| date.to_string());
        let server_time = server_time.or(date);
        log::debug!("stream: connected, replay {replay:?}");
        let last_event_id = self.settings.last_event_id.clone();
        self.tell(StreamEvent::Connected { replay, server_time, last_event_id })
    }

    /// Moves the position, if there is one and it can be sent back in a header.
    fn pass(&mut self, id: Option<String>) {
        if id.as_ref().is_some_and(|id| usable(id)) {
            self.settings.last_event_id = id;
        }
    }

    /// Reports that there is no connection, and why.
    fn report(&mut self, end: Disconnect) -> Result<(), Stopped> {
        let next = self.wait_after(&end);
        let why = end.to_string();
        let event = match end {
            Disconnect::Refused(error) if error.is_auth() => {
                self.complain(&why, next);
                StreamEvent::AuthRefused { status: error.status().unwrap_or_default(), why, next }
            }
            Disconnect::Refused(error) if error.is_conflict() => {
                let why = format!(
                    "{why}; another daemon of this name is connected: give one of them another \
                     agentId"
                );
                self.complain(&why, next);
                StreamEvent::Conflict { why, next }
            }
            _ => StreamEvent::Disconnected { why, next },
        };
        self.tell(event)
    }

    /// Sets the time of the next attempt; the wait until then.
    fn wait_after(&mut self, end: &Disconnect) -> Duration {
        let random = fastrand::u64(..);
        let wait = match end {
            Disconnect::NoContent => self.backoff.slow(random, None),
            // Only a person can help, unless the bridge knows when to ask again.
            Disconnect::Refused(error) if error.is_conflict() && error.retry_after().is_none() => {
                self.backoff.slow(random, None)
            }
            Disconnect::Refused(error) => self.backoff.after(error, random),
            Disconnect::Lost(_) => self.backoff.next(random, None),
        };
        self.try_at = Some(Instant::now() + wait);
        wait
    }

    fn complain(&mut self, why: &str, next: Duration) {
        if self.complained.is_none_or(|at| at.elapsed() >= COMPLAIN_EVERY) {
            self.complained = Some(Instant::now());
            log::error!("stream: {why}; next try in {} s", next.as_secs());
        }
    }

    fn tell(&self, event: StreamEvent<T>) -> Result<(), Stopped> {
        select! {
            send(self.ends.events, event) -> sent => sent.map_err(|_| Stopped),
            recv(self.ends.stop) -> _ => Err(Stopped),
        }
    }
}

/// Whether the position can be sent back in a header.
fn usable(id: &str) -> bool {
    id.len() <= MAX_ID && !id.chars().any(char::is_control)
}
