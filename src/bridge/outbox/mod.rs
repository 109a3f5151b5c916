//! The task `outbox`: what engines say, from the disk to the bridge. A post stays on the disk until
//! the bridge has accepted it; sent twice after a crash, it is stored once (`clientMsgId`). Posts of
//! one thread go strictly one after another, those of several threads side by side.

mod lanes;

use std::{
    fmt, io,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender, at, bounded, never, select, unbounded};

use self::lanes::Lanes;
use super::{
    Client, Error,
    backoff::{Backoff, Pace},
    wire::{Activity, Post, Posted},
};
use crate::{
    ids::{ClientMsgId, ThreadId},
    store::outbox::{Outbox, OutboxId},
    task::{self, Task},
    time::Timestamp,
};

/// Requests on their way at the same time. One would do on a near bridge; over a round trip of
/// 50 ms a thousand answers took 50 s.
const REQUESTS: usize = 4;
/// How often a refused token is complained about in the log.
const COMPLAIN_EVERY: Duration = Duration::from_mins(1);

/// Indicators that wait; more are dropped.
const ACTIVITIES: usize = 16;

/// What the daemon has to know of a post that the bridge has answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// People can see this question from now on. Told before the post leaves the store.
    Asked {
        post: ClientMsgId,
        /// When it was stored, by the bridge's clock; none if it did not say.
        at: Option<Timestamp>,
    },
    /// The bridge has another message under this post's name, so another daemon of this machine's
    /// name does the same work. Told before the post is kept aside, for people will not see it.
    Conflict { thread: ThreadId, post: ClientMsgId },
}

/// The running task, and the ways to it. It leaves when `wake` is closed.
#[derive(Debug)]
pub struct OutboxHandle {
    pub task: Task,
    /// Says that there is a new post.
    pub wake: Sender<()>,
    /// What is shown and forgotten.
    pub activity: Sender<(ThreadId, Activity)>,
    pub notices: Receiver<Notice>,
}

#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub pace: Pace,
    /// How long the task goes on when it is to stop.
    pub drain: Duration,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { pace: Pace::default(), drain: Duration::from_secs(3) }
    }
}

/// Starts the task. It looks into the store at once, and again whenever it is woken; when `wake` is
/// closed it tries what it has for [`Settings::drain`] and leaves. The client is shut down at the
/// end, so it is not to be shared.
///
/// # Errors
/// When the system gives no threads.
pub fn start(client: Client, store: Outbox, settings: Settings) -> io::Result<OutboxHandle> {
    let (wake, woken) = bounded(1);
    let (activity, activities) = bounded(ACTIVITIES);
    // Unbounded: one for each open question, and these have a bound; or one for each post, and the
    // loop empties it.
    let (notify, notices) = unbounded();
    // As many as can be on their way: reporting never blocks.
    let (report, done) = bounded(REQUESTS);
    let sending = Sending {
        client,
        lanes: Lanes::new(settings.pace),
        store,
        drain: settings.drain,
        wake: woken,
        activity: activities,
        notify,
        report,
        done,
        on_their_way: 0,
        showing: false,
        gate: BridgeGate { backoff: Backoff::new(settings.pace), until: None, complained: None },
        leave_at: None,
    };
    let task = task::spawn("outbox", move || sending.run())?;
    Ok(OutboxHandle { task, wake, activity, notices })
}

enum Done {
    Post { entry: OutboxId, post: Box<Post>, result: Result<Posted, Error> },
    Shown,
}

/// A request without a result: no task could be started for it, or its task panicked, of which the
/// log has the message.
fn not_made(cause: impl fmt::Display) -> Error {
    Error::Network { request: "a request".to_owned(), cause: cause.to_string() }
}

/// Closed while the whole bridge is out of reach: it would not help to ask for each thread.
struct BridgeGate {
    backoff: Backoff,
    until: Option<Instant>,
    complained: Option<Instant>,
}

struct Sending {
    client: Client,
    store: Outbox,
    lanes: Lanes,
    drain: Duration,
    wake: Receiver<()>,
    activity: Receiver<(ThreadId, Activity)>,
    notify: Sender<Notice>,
    report: Sender<Done>,
    done: Receiver<Done>,
    on_their_way: usize,
    /// An activity is on its way. One at a time, so that they keep their order.
    showing: bool,
    gate: BridgeGate,
    /// Set when the task is to stop.
    leave_at: Option<Instant>,
}

impl Sending {
    fn run(mut self) {
        self.refresh();
        loop {
            self.fill();
            let nothing_left = self.on_their_way == 0 && self.activity.is_empty();
            if self.leave_at.is_some_and(|at| nothing_left || at <= Instant::now()) {
                break;
            }
            self.wait();
        }
        if self.lanes.len() > 0 {
            log::info!("outbox: {} posts are left for the next start", self.lanes.len());
        }
        self.client.shutdown();
        // Without its client no request goes on. What had been accepted is sent once more.
        for _ in 0..self.on_their_way {
            drop(self.done.recv());
        }
    }

    /// Waits for whatever comes first and deals with it.
    fn wait(&mut self) {
        let room = self.on_their_way < REQUESTS && !self.showing;
        let activity = if room { self.activity.clone() } else { never() };
        let alarm = self.alarm().map_or_else(never, at);
        select! {
            recv(self.done) -> done => self.settle(done.expect("the other end is ours")),
            recv(self.wake) -> woken => {
                if woken.is_err() {
                    self.start_to_leave();
                }
                self.refresh();
            }
            recv(activity) -> shown => match shown {
                Ok((thread, state)) => self.show(thread, state),
                Err(_) => self.activity = never(),
            },
            recv(alarm) -> _ => {}
        }
    }

    /// When there is something to do though no event comes.
    fn alarm(&self) -> Option<Instant> {
        let now = Instant::now();
        let due =
            self.lanes.next_due().map(|due| self.gate.until.map_or(due, |open| due.max(open)));
        let gate = self.gate.until.filter(|open| *open > now && self.lanes.len() > 0);
        // While as many as may be are on their way, nothing that becomes due can be sent.
        let sendable = due.into_iter().chain(gate).filter(|_| self.on_their_way < REQUESTS).min();
        sendable.into_iter().chain(self.leave_at).min()
    }

    /// Everything is due once more, and what fails now is left for the next start.
    fn start_to_leave(&mut self) {
        self.wake = never();
        self.leave_at = Some(Instant::now() + self.drain);
        self.gate.until = None;
        self.lanes.hurry();
    }

    /// Looks for new posts.
    fn refresh(&mut self) {
        self.lanes.refresh(self.store.list());
    }

    /// Sends what is due.
    fn fill(&mut self) {
        while self.on_their_way < REQUESTS && self.gate.until.is_none_or(|at| at <= Instant::now())
        {
            let Some((thread, entry)) = self.lanes.take(Instant::now()) else { return };
            match self.store.read(entry) {
                Ok(Some(post)) => self.send(&thread, entry, Box::new(post)),
                Ok(None) => self.lanes.done(&thread),
                Err(error) => {
                    log::error!(
                        thread:% = thread;
                        "outbox: reading a post failed: {error}; is the state directory all right?"
                    );
                    let wait = |backoff: &mut Backoff| backoff.next(fastrand::u64(..), None);
                    self.lanes.later(&thread, Instant::now(), wait);
                }
            }
        }
    }

    fn send(&mut self, thread: &ThreadId, entry: OutboxId, post: Box<Post>) {
        let (client, report) = (self.client.clone(), self.report.clone());
        let sent = task::spawn("post", move || {
            let mut result = Err(not_made("it panicked"));
            // Without a report the thread's later posts would wait for this one forever.
            drop(task::catch(|| result = client.post(&post)));
            report.send(Done::Post { entry, post, result }).ok(); // Nobody if the outbox panicked.
        });
        match sent {
            Ok(_) => self.on_their_way += 1,
            Err(error) => self.failed(thread, entry, &not_made(error)),
        }
    }

    fn show(&mut self, thread: ThreadId, state: Activity) {
        // Only an indicator: when the bridge is out of reach it is dropped.
        if self.gate.until.is_some_and(|at| at > Instant::now()) {
            return;
        }
        let (client, report) = (self.client.clone(), self.report.clone());
        let sent = task::spawn("activity", move || {
            let mut result = Err(not_made("it panicked"));
            drop(task::catch(|| result = client.activity(&thread, state)));
            if let Err(error) = result {
                log::debug!(thread:% = thread; "outbox: activity not shown: {error}");
            }
            report.send(Done::Shown).ok();
        });
        if sent.is_ok() {
            self.on_their_way += 1;
            self.showing = true;
        }
    }

    fn settle(&mut self, done: Done) {
        self.on_their_way -= 1;
        match done {
            Done::Shown => self.showing = false,
            Done::Post { entry, post, result: Ok(posted) } => {
                self.gate.open();
                self.accepted(entry, *post, posted);
            }
            Done::Post { entry, post, result: Err(error) } => {
                self.failed(&post.thread_id, entry, &error);
            }
        }
    }

    fn accepted(&mut self, entry: OutboxId, post: Post, posted: Posted) {
        let is_awaited = post.question.is_some() || post.question_shown.is_some();
        let Post { thread_id: thread, client_msg_id: post, .. } = post;
        if posted.is_ours {
            if is_awaited {
                self.notify(Notice::Asked { post, at: posted.at });
            }
            self.store.remove(entry);
        } else {
            self.notify(Notice::Conflict { thread: thread.clone(), post });
            self.refuse(&thread, entry, "the bridge has the post of another daemon of this name");
        }
        self.lanes.done(&thread);
    }

    fn notify(&self, notice: Notice) {
        self.notify.send(notice).ok(); // The daemon may have left.
    }

    fn failed(&mut self, thread: &ThreadId, entry: OutboxId, error: &Error) {
        // A redirect is a wrong baseUrl, not an answer to this post.
        let everywhere = matches!(error, Error::Network { .. } | Error::Access(_))
            || matches!(error.status(), Some(300..=399 | 401 | 429));
        if everywhere || error.is_retryable() || error.is_auth() {
            // The thread waits for itself in any case: when the others do get through, it was
            // about this post. That may even be so with 403, a firewall's opinion of its text.
            let wait = |backoff: &mut Backoff| backoff.after(error, fastrand::u64(..));
            let wait = self.lanes.later(thread, Instant::now(), wait);
            if everywhere {
                self.gate.close(error);
            } else {
                let secs = wait.as_secs_f64();
                log::warn!(thread:% = thread; "outbox: {error}; next try in {secs:.1} s");
            }
            if everywhere && self.leave_at.is_some() {
                self.leave_at = Some(Instant::now());
            }
        } else {
            self.refuse(thread, entry, &error.to_string());
            self.lanes.done(thread);
        }
    }

    fn refuse(&mut self, thread: &ThreadId, entry: OutboxId, reason: &str) {
        log::error!(thread:% = thread; "outbox: {reason}; the post is kept aside, the next one goes on");
        if let Err(problem) = self.store.refuse(entry, reason) {
            log::error!(thread:% = thread; "outbox: keeping a refused post aside failed: {problem}");
        }
    }
}

impl BridgeGate {
    /// A request went through.
    fn open(&mut self) {
        self.backoff.good();
        self.until = None;
    }

    /// The bridge is out of reach. Requests that were on their way together count as one try.
    fn close(&mut self, error: &Error) {
        let now = Instant::now();
        if self.until.is_some_and(|at| at > now) {
            return;
        }
        let wait = self.backoff.after(error, fastrand::u64(..));
        self.until = Some(now + wait);
        if self.complained.is_none_or(|at| now.duration_since(at) >= COMPLAIN_EVERY) {
            self.complained = Some(now);
            log::warn!(
                "outbox: {error}; posts wait on disk, next try in {:.1} s",
                wait.as_secs_f64()
            );
        }
    }
}
