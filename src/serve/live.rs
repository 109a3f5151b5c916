//! The task `streams`: it hands what happens to the streams, and writes to those that have begun. It waits
//! for nobody: a peer that does not read has a queue, and one that has left is seen at once. One task for
//! all, because waking one for each stream takes longer than writing to it.

use std::{
    convert::Infallible,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded, unbounded};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::{
    serve::{
        hub::{Begun, Hub, Item, Next, Subscription},
        presence::Visit,
        store::Store,
        visit,
    },
    task::{self, Joined},
};

/// Frames that are written together have about so many bytes.
const BATCH_BYTES: usize = 64 * 1024;
/// Items that are handed on before the streams are written to.
const ITEMS_MAX: usize = 256;
/// A heartbeat comes earlier by up to this part of its time, so that many streams get theirs together.
const EARLY_PART: u32 = 16;
/// Daemons whose leaving is noted by one write.
const LEFT_MAX: usize = 64;

/// A stream after its beginning.
#[derive(Debug)]
struct Live {
    begun: Begun,
    /// When something was last sent.
    sent: Instant,
    /// Since when its peer does not take what was sent.
    stuck: Option<Instant>,
}

impl Live {
    /// Sends what there is and what the peer takes. Whether the stream goes on.
    fn step(
        &mut self,
        ready: PollFlags,
        now: Instant,
        writing: &mut Writing<'_>,
    ) -> io::Result<bool> {
        self.begun.stream.hear(ready)?;
        if ready.contains(PollFlags::OUT) {
            self.begun.stream.flush()?;
        }
        while self.begun.stream.is_flushed() {
            self.stuck = None;
            writing.batch.clear();
            let is_open = self.fill(writing);
            let silence = now.saturating_duration_since(self.sent);
            if writing.batch.is_empty() && !is_open {
                return Ok(false);
            }
            if writing.batch.is_empty() {
                if silence < early(writing.hub.heartbeat) {
                    return Ok(true);
                }
                self.begun.stream.add(b":\n\n", &mut writing.batch);
            }
            self.begun.stream.send(&writing.batch)?;
            self.sent = now;
        }
        let stuck = *self.stuck.get_or_insert(now);
        if writing.patience < now.saturating_duration_since(stuck) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(true)
    }

    /// Puts frames into the batch. False: there are no more, and none will come.
    fn fill(&self, writing: &mut Writing<'_>) -> bool {
        while writing.batch.len() < BATCH_BYTES {
            match self.begun.subscription.next() {
                Next::Frame(frame) => {
                    let words = frame.get(self.begun.visit.is_some(), &writing.hub.presence);
                    self.begun.stream.add(words.as_bytes(), &mut writing.batch);
                }
                Next::Nothing => return true,
                Next::Closed => return false,
            }
        }
        true
    }

    /// When something is due, though nothing happens.
    fn due(&self, writing: &Writing<'_>) -> Instant {
        match self.stuck {
            Some(stuck) => stuck + writing.patience,
            None => self.sent + writing.hub.heartbeat,
        }
    }
}

fn early(heartbeat: Duration) -> Duration {
    heartbeat.saturating_sub(heartbeat / EARLY_PART)
}

/// What all steps share.
struct Writing<'a> {
    hub: &'a Hub,
    /// How long a peer may take for what was sent.
    patience: Duration,
    batch: Vec<u8>,
}

/// A daemon's stream that is over.
type Left = (Visit, Subscription);

/// The tasks behind the streams. Dropping this ends them.
#[derive(Debug)]
pub(super) struct Streams {
    hub: Arc<Hub>,
    stop: Option<Sender<Infallible>>,
    // Drop order matters: the second task ends when the first has.
    tasks: Option<[Joined; 2]>,
}

impl Streams {
    /// # Errors
    /// When the system gives no more threads.
    pub(super) fn start(
        hub: &Arc<Hub>,
        store: &Arc<Store>,
        patience: Duration,
    ) -> io::Result<Streams> {
        let (stop, stopped) = bounded(0);
        // It holds at most as many as there are streams. Were it full, the streams would wait for a
        // write of the store, which may wait for them.
        let (leave, left) = unbounded();
        let (noting, store) = (Arc::clone(hub), Arc::clone(store));
        let note = task::spawn("stream-ends", move || note(&store, &noting, &left))?;
        let writing = Arc::clone(hub);
        let write = task::spawn("streams", move || {
            while !is_stopped(&stopped) {
                let run = || run(&writing, patience, &leave, &stopped);
                if let Err(panic) = task::catch(run) {
                    log::error!("all streams ended, because their task panicked: {panic}");
                }
            }
            // What comes now is ended unseen.
            writing.items().for_each(drop);
        })?;
        Ok(Streams {
            hub: Arc::clone(hub),
            stop: Some(stop),
            tasks: Some([write.into(), note.into()]),
        })
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.hub.waker.wake();
        drop(self.tasks.take());
    }
}

fn is_stopped(stopped: &Receiver<Infallible>) -> bool {
    stopped.try_recv() == Err(TryRecvError::Disconnected)
}

fn run(hub: &Hub, patience: Duration, leave: &Sender<Left>, stopped: &Receiver<Infallible>) {
    let mut streams = Vec::<Live>::new();
    let mut writing = Writing { hub, patience, batch: Vec::new() };
    while !is_stopped(stopped) {
        let ready = wait(&streams, &writing);
        hub.waker.reset();
        for item in hub.items().take(ITEMS_MAX) {
            match item {
                Item::Frame(frame) => hub.hand_out(&frame),
                Item::Stream(begun) => {
                    streams.push(Live { begun: *begun, sent: Instant::now(), stuck: None });
                }
            }
        }
        let now = Instant::now();
        // Backwards, so that the one that takes a place has had its turn.
        for n in (0..streams.len()).rev() {
            let ready = ready.get(n).copied().unwrap_or(PollFlags::empty());
            match task::catch(|| streams[n].step(ready, now, &mut writing)) {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) => end(streams.swap_remove(n), true, leave),
                Ok(Err(error)) => {
                    log::debug!("a stream's client is gone: {error}");
                    end(streams.swap_remove(n), false, leave);
                }
                Err(panic) => {
                    log::error!("an event stream panicked: {panic}");
                    end(streams.swap_remove(n), false, leave);
                }
            }
        }
        writing.batch.shrink_to(BATCH_BYTES);
    }
}

/// Waits until a socket is ready, something happens or something is due. What each socket is ready for.
fn wait(streams: &[Live], writing: &Writing<'_>) -> Vec<PollFlags> {
    let hub = writing.hub;
    let mut fds = Vec::with_capacity(1 + streams.len());
    fds.push(PollFd::new(&hub.waker, PollFlags::IN));
    fds.extend(streams.iter().map(|it| PollFd::new(&it.begun.stream, it.begun.stream.interest())));
    let due = streams.iter().map(|it| it.due(writing)).min();
    let patience = due.map(|due| {
        let left = due.saturating_duration_since(Instant::now());
        left.max(hub.heartbeat / EARLY_PART)
    });
    let patience = if hub.has_items() { Some(Duration::ZERO) } else { patience };
    let patience = patience.and_then(|it| Timespec::try_from(it).ok());
    match poll(&mut fds, patience.as_ref()) {
        Ok(_) => fds[1..].iter().map(PollFd::revents).collect(),
        // A signal; the next wait tells the rest.
        Err(_) => Vec::new(),
    }
}

fn end(live: Live, is_whole: bool, leave: &Sender<Left>) {
    let Begun { stream, subscription, visit } = live.begun;
    if is_whole {
        stream.end();
    }
    // Without a visit its place is free now; else when that is noted.
    if let Some(visit) = visit {
        leave.send((visit, subscription)).ok(); // The server stops.
    }
}

/// Notes which daemons have left: this task may wait for the store.
fn note(store: &Store, hub: &Hub, left: &Receiver<Left>) {
    while let Ok(first) = left.recv() {
        let all = [first].into_iter().chain(left.try_iter().take(LEFT_MAX)).collect();
        if let Err(panic) = task::catch(|| visit::end(store, hub, all)) {
            log::error!("noting who left panicked: {panic}");
        }
    }
}
