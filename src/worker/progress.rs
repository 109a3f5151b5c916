//! When a line about what the engine does is posted: now and then, the newest alone, and never so that
//! it stands in the way of an answer. Pure.

use std::time::{Duration, Instant};

use crate::agent::text;

/// Between two lines on the thread.
pub const EVERY: Duration = Duration::from_secs(20);

/// Lines on the thread in one turn; after so many a turn goes on without.
const POSTS_MAX: u32 = 30;

/// Between two lines for `/status`.
const SHOW_EVERY: Duration = Duration::from_secs(1);

/// Of a line.
const CHARS_MAX: usize = 200;

/// What an engine does in one turn.
#[derive(Debug)]
pub(super) struct ProgressPosts {
    /// None: nothing is said on the thread.
    every: Option<Duration>,
    posts: u32,
    unposted: PendingLine,
    unshown: PendingLine,
}

/// The newest line, and when it may go.
#[derive(Debug)]
struct PendingLine {
    line: Option<String>,
    not_before: Instant,
}

impl PendingLine {
    fn due(&self) -> Option<Instant> {
        self.line.as_ref().map(|_| self.not_before)
    }

    fn take(&mut self, now: Instant, every: Duration) -> Option<String> {
        let line = self.line.take_if(|_| self.not_before <= now)?;
        self.not_before = now + every;
        Some(line)
    }
}

impl ProgressPosts {
    /// A turn begins, and says nothing on the thread for the usual time.
    pub(super) fn new(every: Option<Duration>, now: Instant) -> ProgressPosts {
        let unposted = PendingLine { line: None, not_before: now + every.unwrap_or_default() };
        let unshown = PendingLine { line: None, not_before: now };
        ProgressPosts { every, posts: 0, unposted, unshown }
    }

    /// The engine does something else.
    pub(super) fn does(&mut self, line: &str) {
        let line = text::one_line(line, CHARS_MAX);
        if line.is_empty() {
            return;
        }
        if self.every.is_some() && self.posts < POSTS_MAX {
            self.unposted.line = Some(line.clone());
        }
        self.unshown.line = Some(line);
    }

    /// When there is something to take.
    pub(super) fn due(&self) -> Option<Instant> {
        [self.unposted.due(), self.unshown.due()].into_iter().flatten().min()
    }

    /// A line for `/status`.
    pub(super) fn take_shown(&mut self, now: Instant) -> Option<String> {
        self.unshown.take(now, SHOW_EVERY)
    }

    /// A line for the thread, unless something of the thread is still to be sent: then the line would
    /// only stand before the answer, and be old. The newest is tried again after the usual time.
    pub(super) fn take_posted(
        &mut self,
        now: Instant,
        is_free: impl Fn() -> bool,
    ) -> Option<String> {
        let every = self.every?;
        if self.unposted.due().is_some_and(|due| due <= now) && !is_free() {
            self.unposted.not_before = now + every;
            return None;
        }
        let line = self.unposted.take(now, every)?;
        self.posts += 1;
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_newest_line_is_told_and_not_too_often() {
        let start = Instant::now();
        let mut progress = ProgressPosts::new(Some(EVERY), start);
        assert_eq!(progress.due(), None);
        progress.does("one");
        assert_eq!(progress.take_shown(start).as_deref(), Some("one"));
        progress.does("two");
        assert_eq!(progress.take_shown(start), None);
        assert_eq!(progress.due(), Some(start + SHOW_EVERY));
        assert_eq!(progress.take_shown(start + SECOND).as_deref(), Some("two"));
        assert_eq!(progress.due(), Some(start + EVERY));
        assert_eq!(
            progress.take_posted(start + 19 * SECOND, || true),
            None,
            "a short turn says nothing"
        );
        assert_eq!(progress.take_posted(start + EVERY, || true).as_deref(), Some("two"));
        assert_eq!(progress.due(), None);
        progress.does("three");
        assert_eq!(progress.take_posted(start + EVERY, || true), None);
        assert_eq!(progress.take_posted(start + 2 * EVERY, || true).as_deref(), Some("three"));
    }

    #[test]
    fn a_line_waits_for_what_is_to_be_sent_before_it() {
        let start = Instant::now();
        let mut progress = ProgressPosts::new(Some(EVERY), start);
        progress.does("one");
        assert_eq!(progress.take_posted(start + EVERY, || false), None);
        assert_eq!(progress.take_posted(start + EVERY, || true), None, "not at once");
        progress.does("two");
        assert_eq!(progress.take_posted(start + 2 * EVERY, || true).as_deref(), Some("two"));
    }

    #[test]
    fn a_turn_says_thirty_lines_at_most() {
        let start = Instant::now();
        let mut progress = ProgressPosts::new(Some(SECOND), start);
        let told = (1..100).filter(|second| {
            progress.does("again");
            progress.take_posted(start + *second * SECOND, || true).is_some()
        });
        assert_eq!(told.count(), 30);
        progress.take_shown(start + 200 * SECOND);
        assert_eq!(progress.due(), None);
    }

    #[test]
    fn switched_off_it_is_only_shown() {
        let start = Instant::now();
        let mut progress = ProgressPosts::new(None, start);
        progress.does("one");
        assert_eq!(progress.take_posted(start + 9 * EVERY, || true), None);
        assert_eq!(progress.take_shown(start).as_deref(), Some("one"));
        assert_eq!(progress.due(), None);
    }
}
