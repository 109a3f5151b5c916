//! When a thread hears what the engine does and says on the way: now and then, and never so that it
//! stands in the way of an answer. Of what it does the newest line alone is told; of what it says
//! nothing is dropped without a word. Pure.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::agent::text;

/// Between two posts on the thread.
pub const EVERY: Duration = Duration::from_secs(20);

/// Posts on the thread in one turn; after so many a turn goes on without, and what it says waits for
/// its end.
const POSTS_MAX: u32 = 30;

/// Between two lines for `/status`.
const SHOW_EVERY: Duration = Duration::from_secs(1);

/// Of a line.
const CHARS_MAX: usize = 200;

/// Of what was said and is not posted yet.
const SAID_BYTES: usize = 64 << 10;

/// What an engine does in one turn.
#[derive(Debug)]
pub(super) struct ProgressPosts {
    /// None: nothing is said on the thread.
    every: Option<Duration>,
    posts: u32,
    unposted: PendingLine,
    unshown: PendingLine,
    said: Commentary,
}

/// A post on the way.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ProgressPost {
    /// What the model said, in its own Markdown.
    pub(super) said: Option<String>,
    /// What it does now.
    pub(super) line: Option<String>,
}

/// What the model said on the way and the thread does not have yet.
#[derive(Debug, Default)]
struct Commentary {
    parts: VecDeque<String>,
    /// Bytes that there was no room for.
    left_out: usize,
}

impl Commentary {
    fn push(&mut self, said: &str) {
        // A model that is asked again says it again.
        if self.parts.back().is_some_and(|last| last == said) {
            return;
        }
        self.parts.push_back(said.to_owned());
        let mut surplus = self.bytes().saturating_sub(SAID_BYTES);
        while surplus > 0
            && let Some(oldest) = self.parts.front_mut()
        {
            let cut = oldest.ceil_char_boundary(surplus);
            oldest.drain(..cut);
            self.left_out += cut;
            surplus = surplus.saturating_sub(cut);
            if oldest.is_empty() {
                self.parts.pop_front();
            }
        }
    }

    fn bytes(&self) -> usize {
        self.parts.iter().map(String::len).sum()
    }

    fn take(&mut self) -> Option<String> {
        let Commentary { parts, left_out } = std::mem::take(self);
        let note = format!(
            "[{left_out} bytes that it said before are left out here; its session has them.]"
        );
        let note = (left_out > 0).then_some(note);
        let all: Vec<String> = note.into_iter().chain(parts).collect();
        (!all.is_empty()).then(|| all.join("\n\n"))
    }
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
        ProgressPosts { every, posts: 0, unposted, unshown, said: Commentary::default() }
    }

    /// The model has said something that is not the answer, as far as is known.
    pub(super) fn says(&mut self, said: &str) {
        if self.every.is_none() {
            // Only for a turn that ends without an answer.
            self.said = Commentary::default();
        }
        self.said.push(said);
    }

    /// What was said and is not on the thread, now that the turn has ended with this answer, or
    /// without one. What the answer says as well is not said twice.
    pub(super) fn take_rest(&mut self, answer: Option<&str>) -> Option<String> {
        if let Some(answer) = answer {
            self.every?;
            self.said.parts.retain(|part| !answer.contains(&part[..]));
        }
        self.said.take()
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
        [self.post_due(), self.unshown.due()].into_iter().flatten().min()
    }

    fn post_due(&self) -> Option<Instant> {
        let says = !self.said.parts.is_empty() && self.every.is_some() && self.posts < POSTS_MAX;
        says.then_some(self.unposted.not_before).or_else(|| self.unposted.due())
    }

    /// A line for `/status`.
    pub(super) fn take_shown(&mut self, now: Instant) -> Option<String> {
        self.unshown.take(now, SHOW_EVERY)
    }

    /// A post for the thread, unless something of the thread is still to be sent: then it would only
    /// stand before the answer, and be old. It is tried again after the usual time.
    pub(super) fn take_posted(
        &mut self,
        now: Instant,
        is_free: impl Fn() -> bool,
    ) -> Option<ProgressPost> {
        let every = self.every?;
        self.post_due().filter(|due| *due <= now)?;
        self.unposted.not_before = now + every;
        if !is_free() {
            return None;
        }
        self.posts += 1;
        Some(ProgressPost { said: self.said.take(), line: self.unposted.line.take() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    impl ProgressPosts {
        /// The post as one text.
        fn posted(&mut self, now: Instant, is_free: bool) -> Option<String> {
            let ProgressPost { said, line } = self.take_posted(now, || is_free)?;
            Some([said, line].into_iter().flatten().collect::<Vec<_>>().join(" / "))
        }
    }

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
        assert_eq!(progress.posted(start + 19 * SECOND, true), None, "a short turn says nothing");
        assert_eq!(progress.posted(start + EVERY, true).as_deref(), Some("two"));
        assert_eq!(progress.due(), None);
        progress.does("three");
        assert_eq!(progress.posted(start + EVERY, true), None);
        assert_eq!(progress.posted(start + 2 * EVERY, true).as_deref(), Some("three"));
    }

    #[test]
    fn a_line_waits_for_what_is_to_be_sent_before_it() {
        let start = Instant::now();
        let mut progress = ProgressPosts::new(Some(EVERY), start);
        progress.does("one");
        assert_eq!(progress.posted(start + EVERY, false), None);
        assert_eq!(progress.posted(start + EVERY, true), None, "not at once");
        progress.does("two");
        assert_eq!(progress.posted(start + 2 * EVERY, true).as_deref(), Some("two"));
    }

    #[test]
    fn a_turn_says_thirty_lines_at_most() {
        let start = Instant::now();
        let mut progress = ProgressPosts::new(Some(SECOND), start);
        let told = (1..100).filter(|second| {
            progress.does("again");
            progress.posted(start + *second * SECOND, true).is_some()
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
        assert_eq!(progress.posted(start + 9 * EVERY, true), None);
        assert_eq!(progress.take_shown(start).as_deref(), Some("one"));
        assert_eq!(progress.due(), None);
    }

    #[test]
    fn what_was_said_is_told_with_the_newest_line_and_all_of_it() {
        let start = Instant::now();
        let mut progress = ProgressPosts::new(Some(EVERY), start);
        progress.says("The cause is X.");
        progress.does("one");
        progress.says("I mend it.");
        progress.does("two");
        assert_eq!(progress.posted(start + 19 * SECOND, true), None);
        let all = "The cause is X.\n\nI mend it. / two";
        assert_eq!(progress.posted(start + EVERY, true).as_deref(), Some(all));
        progress.take_shown(start);
        progress.says("Still");
        assert_eq!(progress.due(), Some(start + 2 * EVERY));
        assert_eq!(progress.posted(start + 2 * EVERY, false), None);
        assert_eq!(progress.posted(start + 3 * EVERY, true).as_deref(), Some("Still"));
        assert_eq!(progress.take_rest(Some("done")), None, "it is on the thread");
    }

    #[test]
    fn what_is_left_is_told_at_the_end_but_not_what_the_answer_says() {
        let check = |every, answer, expected| {
            let mut progress = ProgressPosts::new(every, Instant::now());
            progress.says("The cause is X.");
            progress.says("It is done.");
            assert_eq!(progress.take_rest(answer).as_deref(), expected, "{every:?} {answer:?}");
        };
        check(Some(EVERY), Some("It is done. Bye."), Some("The cause is X."));
        check(Some(EVERY), None, Some("The cause is X.\n\nIt is done."));
        check(None, Some("Bye."), None);
        check(None, None, Some("It is done."));
    }

    #[test]
    fn an_endless_commentary_loses_its_beginning_and_says_so() {
        let mut progress = ProgressPosts::new(Some(SECOND), Instant::now());
        progress.says("first");
        progress.says(&"ä".repeat(SAID_BYTES));
        let rest = progress.take_rest(None).unwrap();
        let left_out = 5 + SAID_BYTES;
        assert!(
            rest.starts_with(&format!("[{left_out} bytes that it said before")),
            "{}",
            &rest[..99]
        );
        assert!(rest.len() < SAID_BYTES + 99, "{}", rest.len());
    }

    #[test]
    fn after_thirty_posts_what_is_said_waits_for_the_end() {
        let start = Instant::now();
        let mut progress = ProgressPosts::new(Some(SECOND), start);
        for second in 1..=40 {
            progress.says(&format!("again {second}"));
            progress.take_posted(start + second * SECOND, || true);
        }
        assert_eq!(progress.due(), None);
        assert_eq!(progress.take_rest(Some("")).unwrap().matches("again").count(), 10);
    }
}
