//! The task of a child: it watches the three pipes and the exit, all at once. It may live for as
//! long as some grandchild holds a pipe, so it is not joined.

use std::{
    io,
    os::fd::OwnedFd,
    process::{self, ExitStatus},
    sync::Arc,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender, TrySendError, after};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

use super::{
    ChildEvent,
    input::InputQueue,
    kill::ChildHandle,
    pipes::{Lines, Next, OutputPipe, Tail},
};

/// While the events have no room, how often that is looked at: at first, and in the long run.
const ROOM: Duration = Duration::from_millis(1);
const ROOM_MAX: Duration = Duration::from_millis(64);

/// How the exit is learned of.
pub(super) enum Exit {
    /// By a descriptor that is readable then; the child is reaped here.
    Held(OwnedFd, process::Child),
    /// By a task that waits for it alone, reaps the child and wakes this one.
    Told(Receiver<Option<ExitStatus>>),
    /// The child has exited; none when the system would not say how.
    Known(Option<ExitStatus>),
}

/// What is watched.
pub(super) struct Watch<T> {
    pub(super) handle: ChildHandle,
    pub(super) exit: Exit,
    pub(super) input: Arc<InputQueue>,
    /// None: it has ended.
    pub(super) out: Option<OutputPipe>,
    pub(super) err: Option<OutputPipe>,
    pub(super) woken: Arc<OwnedFd>,
    pub(super) events: Sender<T>,
    pub(super) convert: fn(ChildEvent) -> Option<T>,
    /// Events so far.
    pub(super) handed: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Woken,
    Exit,
    Input,
    Out,
    Err,
}

impl<T> Watch<T> {
    /// Watches until the child has exited and its output has been handed over.
    pub(super) fn run(mut self, limit: usize) {
        let mut lines = Lines::new(limit);
        let mut tail = Tail::default();
        let mut stuck = None;
        let mut room = ROOM;
        loop {
            let handed = self.handed;
            stuck = self.hand_over(stuck, &mut lines);
            // A reader that reads is not waited for longer each time.
            room = if self.handed > handed { ROOM } else { (room * 2).min(ROOM_MAX) };
            if let Exit::Known(status) = self.exit
                && self.out.is_none()
                && self.err.is_none()
                && stuck.is_none()
            {
                let exit = ChildEvent::Exit { status, stderr_tail: tail.text() };
                if let Some(exit) = (self.convert)(exit) {
                    self.events.send(exit).ok(); // The owner of the child may be gone.
                }
                return;
            }
            let ready = self.wait(stuck.is_some().then_some(room)).unwrap_or_else(|error| {
                log::error!("a child can't be watched, trying again: {error}");
                after(ROOM_MAX).recv().ok();
                Vec::new()
            });
            self.take(&ready, stuck.is_some(), &mut lines, &mut tail);
        }
    }

    /// Hands over all lines. Some: one for which there is no room.
    fn hand_over(&mut self, stuck: Option<T>, lines: &mut Lines) -> Option<T> {
        let mut next = stuck;
        loop {
            let event = next.take().or_else(|| {
                loop {
                    if let Some(event) = (self.convert)(lines.next()?) {
                        return Some(event);
                    }
                }
            })?;
            match self.events.try_send(event) {
                Ok(()) => self.handed += 1,
                Err(TrySendError::Full(event)) => return Some(event),
                Err(TrySendError::Disconnected(_)) => {
                    // Nobody wants the rest.
                    self.out = None;
                    return None;
                }
            }
        }
    }

    /// Waits until something can be done, and says what; `room`: for so long at most, and without
    /// reading more lines.
    fn wait(&self, room: Option<Duration>) -> io::Result<Vec<Source>> {
        let input = self.input.waits_for();
        let out = self.out.as_ref().filter(|_| room.is_none());
        let held = if let Exit::Held(held, _) = &self.exit { Some(held) } else { None };
        let sources = [
            (Some(&*self.woken), Source::Woken, PollFlags::IN),
            (held, Source::Exit, PollFlags::IN),
            (input.as_deref(), Source::Input, PollFlags::OUT),
            (out.map(|it| &it.pipe), Source::Out, PollFlags::IN),
            (self.err.as_ref().map(|it| &it.pipe), Source::Err, PollFlags::IN),
        ];
        let mut fds = Vec::with_capacity(sources.len());
        fds.extend(sources.iter().filter_map(|(fd, _, flags)| Some(PollFd::new((*fd)?, *flags))));
        let now = Instant::now();
        let due = out.into_iter().chain(&self.err).filter_map(|output| output.due(now)).min();
        let wait = due.map(|due| due.saturating_duration_since(now)).into_iter().chain(room).min();
        let wait = wait.map(|wait| Timespec::try_from(wait).expect("it is short"));
        match poll(&mut fds, wait.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let watched = sources.iter().filter(|(fd, ..)| fd.is_some()).map(|(_, source, _)| *source);
        let polled = watched.zip(&fds);
        Ok(polled.filter(|(_, fd)| !fd.revents().is_empty()).map(|(source, _)| source).collect())
    }

    fn take(&mut self, ready: &[Source], is_stuck: bool, lines: &mut Lines, tail: &mut Tail) {
        let is_ready = |source| ready.contains(&source);
        let now = Instant::now();
        if is_ready(Source::Input) {
            self.input.write();
        }
        if !is_stuck && let Some(out) = &mut self.out {
            let has_ended = match out.next(is_ready(Source::Out), now) {
                Next::Read => lines.fill(|buffer| out.read(buffer)).is_none(),
                Next::Wait => false,
                Next::End => true,
            };
            if has_ended {
                self.out = None;
                lines.end();
            }
        }
        if let Some(err) = &mut self.err {
            let mut buffer = [0; 4 << 10];
            let has_ended = match err.next(is_ready(Source::Err), now) {
                Next::Read => {
                    let length = err.read(&mut buffer);
                    tail.push(&buffer[..length.unwrap_or_default()]);
                    length.is_none()
                }
                Next::Wait => false,
                Next::End => true,
            };
            if has_ended {
                self.err = None;
            }
        }
        if is_ready(Source::Woken) {
            // One that takes eight bytes is empty then, and another is looked at again.
            rustix::io::read(&*self.woken, &mut [0; 64]).unwrap_or_default();
        }
        self.look_for_the_exit(is_ready(Source::Exit));
    }

    fn look_for_the_exit(&mut self, is_there: bool) {
        self.exit = match std::mem::replace(&mut self.exit, Exit::Known(None)) {
            Exit::Held(_, child) if is_there => Exit::Known(reap(&self.handle, child)),
            Exit::Told(told) => match told.try_recv() {
                Ok(status) => Exit::Known(status),
                Err(error) if error.is_empty() => Exit::Told(told),
                // Its task panicked.
                Err(_) => Exit::Known(None),
            },
            other => {
                self.exit = other;
                return;
            }
        };
        if matches!(self.exit, Exit::Known(_)) {
            self.input.end();
            let outputs = self.out.as_mut().into_iter().chain(self.err.as_mut());
            outputs.for_each(OutputPipe::child_has_exited);
        }
    }
}

/// Waits for the child's end and reaps it.
pub(super) fn reap(handle: &ChildHandle, child: process::Child) -> Option<ExitStatus> {
    handle.reap(child).inspect_err(|error| log::warn!("wait: {error}")).ok()
}
