//! Which threads may run a turn, and what the others wait for: a limit on turns in progress, because real engines take
//! hundreds of megabytes each, and a lock for each directory, so that two threads do not write in
//! one at the same time. Pure.
//!
//! * A turn whose engine writes without asking has its directory's lock from its beginning to its
//!   end, and waits for it together with its slot. All others take the lock when they are about to
//!   be allowed something that may write, and keep it until their turn ends.
//! * A directory and one inside it are the same, as far as locks go: a command that works in the
//!   outer one may write in the inner one.
//! * There is one queue for both, first come, first served. A waiter that cannot go on lets others
//!   overtake, but none that would take the very lock it waits for. So everyone's turn comes: what
//!   was in the queue before is finite.
//! * A turn has one directory. A turn that waits for a lock waits for one that has both slot and
//!   lock and so gets on; a message that waits for a slot holds nothing and keeps no lock from
//!   others. So there is no deadlock.

use std::{
    collections::{BTreeMap, VecDeque},
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{ids::ThreadId, store::entry::EntryId};

/// A thread that waits for longer gets a post that says what it waits for.
const TELL_AFTER: Duration = Duration::from_secs(2);

/// The turns in progress, and the queue.
#[derive(Debug)]
pub(super) struct Slots {
    max: usize,
    /// Directories are not locked.
    is_parallel: bool,
    turns: BTreeMap<ThreadId, SlotHolder>,
    queue: VecDeque<Waiter>,
}

#[derive(Debug)]
struct SlotHolder {
    entry: EntryId,
    /// The directory that it has the lock of.
    lock: Option<PathBuf>,
}

#[derive(Debug)]
struct Waiter {
    thread: ThreadId,
    entry: EntryId,
    /// Its turn runs and waits for the lock alone.
    has_slot: bool,
    /// The directory whose lock it needs.
    dir: Option<PathBuf>,
    since: Duration,
    is_told: bool,
}

/// What a thread waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Grant {
    /// The turn of the thread's oldest message may begin, with its directory's lock or without.
    Slot { thread: ThreadId, has_directory: bool },
    /// The thread's turn has the lock of its directory now.
    Directory(ThreadId),
}

/// What a thread waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// One of `max` slots, behind so many others.
    Slot { ahead: usize, max: usize },
    /// A directory. The holder is the thread that has it, or is in the queue for it before.
    Directory { dir: PathBuf, holder: ThreadId, ahead: usize },
}

/// A thread that is to get a post about its wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WaitNotice {
    pub(super) thread: ThreadId,
    pub(super) entry: EntryId,
    pub(super) wait: Wait,
}

impl Slots {
    /// For at most `max` turns at the same time; with `is_parallel` directories are not locked.
    pub(super) fn new(max: usize, is_parallel: bool) -> Slots {
        Slots { max, is_parallel, turns: BTreeMap::new(), queue: VecDeque::new() }
    }

    /// A thread has a message at hand. `writes` is the canonical directory that its engine may
    /// write in without asking.
    pub(super) fn want(
        &mut self,
        thread: ThreadId,
        entry: EntryId,
        writes: Option<PathBuf>,
        now: Duration,
    ) {
        let dir = writes.filter(|_| !self.is_parallel);
        self.queue.push_back(Waiter {
            thread,
            entry,
            has_slot: false,
            dir,
            since: now,
            is_told: false,
        });
    }

    /// A turn in progress is about to be allowed something that may write in `dir`, its project
    /// directory, canonical. True: it has the lock. False: it is in the queue, and [`Slots::next`] says
    /// when it has it.
    pub(super) fn lock(&mut self, thread: &ThreadId, dir: &Path, now: Duration) -> bool {
        let Some(turn) = self.turns.get(thread) else { return false };
        if self.is_parallel || turn.lock.is_some() {
            return true;
        }
        let is_waiting = self.queue.iter().any(|waiter| waiter.thread == *thread);
        if !is_waiting {
            self.queue.push_back(Waiter {
                thread: thread.clone(),
                entry: turn.entry,
                has_slot: true,
                dir: Some(dir.to_owned()),
                since: now,
                is_told: false,
            });
            // With nothing in the way it is granted on the spot.
            let last = self.queue.len() - 1;
            if self.first_free(true) == Some(last) {
                return self.grant(last).is_some();
            }
        }
        false
    }

    /// The thread's turn is over, or its message is not wanted any more.
    pub(super) fn release(&mut self, thread: &ThreadId) {
        self.queue.retain(|waiter| waiter.thread != *thread);
        self.turns.remove(thread);
    }

    /// The next thread that may go on.
    pub(super) fn next(&mut self, has_room: bool) -> Option<Grant> {
        let at = self.first_free(has_room)?;
        self.grant(at)
    }

    /// When [`Slots::untold`] has something, if it has not now.
    pub(super) fn due(&self) -> Option<Duration> {
        let untold = self.queue.iter().filter(|waiter| !waiter.is_told);
        untold.map(|waiter| waiter.since + TELL_AFTER).min()
    }

    /// The threads that have waited for a while and have no post about it. Each is named once a message.
    pub(super) fn untold(&mut self, now: Duration) -> Vec<WaitNotice> {
        let is_due = |waiter: &Waiter| !waiter.is_told && waiter.since + TELL_AFTER <= now;
        let due: Vec<usize> = (0..self.queue.len()).filter(|at| is_due(&self.queue[*at])).collect();
        due.into_iter()
            .map(|at| {
                self.queue[at].is_told = true;
                let Waiter { thread, entry, .. } = &self.queue[at];
                WaitNotice { thread: thread.clone(), entry: *entry, wait: self.wait_at(at) }
            })
            .collect()
    }

    /// What a thread waits for, if it does.
    pub(super) fn wait(&self, thread: &ThreadId) -> Option<Wait> {
        let at = self.queue.iter().position(|waiter| waiter.thread == *thread)?;
        Some(self.wait_at(at))
    }

    /// The first one in the queue that nothing keeps from going on.
    fn first_free(&self, has_room: bool) -> Option<usize> {
        let has_room = has_room && self.turns.len() < self.max;
        let mut locks = self.locks();
        let may_go = |waiter: &Waiter| waiter.has_slot || has_room;
        // Every waiter's lock is looked at, also without a slot: it may be in the way.
        self.queue.iter().position(|waiter| locks(waiter) && may_go(waiter))
    }

    /// Says of each waiter, from the first one on, whether the lock that it needs is free: no turn has
    /// it, and no waiter before it waits for a lock that is in use and is in the way.
    fn locks<'a>(&'a self) -> impl FnMut(&'a Waiter) -> bool {
        let mut in_use: Vec<&'a Path> =
            self.turns.values().filter_map(|turn| turn.lock.as_deref()).collect();
        move |waiter| {
            let Some(dir) = waiter.dir.as_deref() else { return true };
            let is_free = !in_use.iter().any(|other| is_same(dir, other));
            if !is_free && !in_use.contains(&dir) {
                in_use.push(dir);
            }
            is_free
        }
    }

    fn is_lock_free(&self, at: usize) -> bool {
        let mut locks = self.locks();
        // Each answer depends on those before.
        self.queue.iter().take(at + 1).fold(true, |_, waiter| locks(waiter))
    }

    fn holder(&self, dir: &Path) -> Option<&ThreadId> {
        let has_it = |turn: &SlotHolder| turn.lock.as_ref().is_some_and(|lock| is_same(dir, lock));
        self.turns.iter().find(|(_, turn)| has_it(turn)).map(|(thread, _)| thread)
    }

    fn grant(&mut self, at: usize) -> Option<Grant> {
        let Waiter { thread, entry, has_slot, dir, .. } = self.queue.remove(at)?;
        let grant = if has_slot {
            Grant::Directory(thread.clone())
        } else {
            Grant::Slot { thread: thread.clone(), has_directory: dir.is_some() }
        };
        self.turns.insert(thread, SlotHolder { entry, lock: dir });
        Some(grant)
    }

    fn wait_at(&self, at: usize) -> Wait {
        let waiter = &self.queue[at];
        let before = || self.queue.iter().take(at);
        if let Some(dir) = &waiter.dir
            && !self.is_lock_free(at)
        {
            let rivals =
                || before().filter(|it| it.dir.as_ref().is_some_and(|other| is_same(dir, other)));
            let holder = self.holder(dir).or_else(|| rivals().next().map(|it| &it.thread));
            if let Some(holder) = holder {
                let (dir, holder) = (dir.clone(), holder.clone());
                return Wait::Directory { dir, holder, ahead: rivals().count() };
            }
        }
        Wait::Slot { ahead: before().filter(|it| !it.has_slot).count(), max: self.max }
    }
}

/// Whether two directories are one, or one is inside the other.
fn is_same(one: &Path, other: &Path) -> bool {
    one.starts_with(other) || other.starts_with(one)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Slots with threads `a`, `b`, … and what they were granted in words.
    struct Bench {
        slots: Slots,
        now: Duration,
    }

    fn thread(name: &str) -> ThreadId {
        ThreadId::new(name)
    }

    fn entry(name: &str) -> EntryId {
        EntryId { sequence: name.bytes().map(u64::from).sum(), hash: 0 }
    }

    impl Bench {
        fn new(max: usize) -> Bench {
            Bench { slots: Slots::new(max, false), now: Duration::ZERO }
        }

        fn want(&mut self, name: &str, dir: Option<&str>) {
            self.slots.want(thread(name), entry(name), dir.map(PathBuf::from), self.now);
        }

        fn all_want(&mut self, names: &[&str], dir: Option<&str>) {
            for name in names {
                self.want(name, dir);
            }
        }

        fn lock(&mut self, name: &str, dir: &str) -> bool {
            self.slots.lock(&thread(name), Path::new(dir), self.now)
        }

        fn done(&mut self, name: &str) {
            self.slots.release(&thread(name));
        }

        /// `a lock:b`.
        #[track_caller]
        fn check(&mut self, expected: &str) {
            let mut granted = Vec::new();
            while let Some(grant) = self.slots.next(true) {
                granted.push(match grant {
                    Grant::Slot { thread, .. } => thread.to_string(),
                    Grant::Directory(thread) => format!("lock:{thread}"),
                });
            }
            assert_eq!(granted.join(" "), expected);
            let locks: Vec<&Path> =
                self.slots.turns.values().filter_map(|it| it.lock.as_deref()).collect();
            for (at, one) in locks.iter().enumerate() {
                assert!(!locks[..at].iter().any(|other| is_same(one, other)), "{locks:?}");
            }
            assert!(self.slots.turns.len() <= self.slots.max);
        }
    }

    #[test]
    fn slots_are_given_in_order() {
        let mut bench = Bench::new(2);
        bench.all_want(&["a", "b", "c", "d"], None);
        bench.check("a b");
        bench.done("c");
        bench.check("");
        bench.done("a");
        bench.check("d");
        bench.done("gone");
        bench.check("");
    }

    #[test]
    fn two_that_write_in_one_directory_take_turns_and_others_overtake() {
        let mut bench = Bench::new(3);
        bench.want("a", Some("/p"));
        bench.want("b", Some("/p"));
        bench.want("c", Some("/q"));
        bench.want("d", None);
        bench.want("e", Some("/p"));
        bench.check("a c d");
        bench.done("c");
        bench.check("");
        bench.done("a");
        bench.check("b");
        bench.done("b");
        bench.check("e");
    }

    #[test]
    fn a_directory_and_one_inside_it_are_the_same() {
        #[track_caller]
        fn check(one: &str, other: &str, is_shared: bool) {
            let mut bench = Bench::new(2);
            bench.want("a", Some(one));
            bench.want("b", Some(other));
            bench.check(if is_shared { "a" } else { "a b" });
        }
        check("/p", "/p", true);
        check("/p", "/p/inside", true);
        check("/p/inside", "/p", true);
        check("/p", "/pp", false);
        check("/p/one", "/p/other", false);
        check("/", "/p", true);
    }

    /// The outer directory's turn comes, however many work in the inner ones.
    #[test]
    fn none_overtakes_a_waiter_for_the_same_lock() {
        let mut bench = Bench::new(9);
        bench.want("a", Some("/p/one"));
        bench.want("b", Some("/p"));
        bench.want("c", Some("/p/two"));
        bench.check("a");
        bench.want("d", Some("/p/one"));
        bench.done("a");
        bench.check("b");
        bench.done("b");
        bench.check("c d");
    }

    #[test]
    fn a_lock_that_is_taken_late_is_kept_to_the_end_of_the_turn() {
        let mut bench = Bench::new(9);
        bench.all_want(&["a", "b", "c"], None);
        bench.check("a b c");
        assert!(bench.lock("a", "/p") && bench.lock("a", "/p"));
        assert!(!bench.lock("b", "/p") && !bench.lock("b", "/p"));
        assert!(!bench.lock("c", "/p/inside"));
        bench.want("d", Some("/p"));
        bench.check("");
        bench.done("a");
        bench.check("lock:b");
        assert!(bench.lock("b", "/p"));
        bench.done("c");
        bench.done("b");
        bench.check("d");
        assert!(!bench.lock("gone", "/p"), "without a turn there is nothing to lock");
        bench.check("");
    }

    /// One waits for a slot and is the next for the lock, the other holds a slot and waits for the
    /// lock: the second one goes first, or neither would.
    #[test]
    fn a_waiter_for_a_slot_keeps_no_lock_from_others() {
        let mut bench = Bench::new(2);
        bench.want("a", Some("/p"));
        bench.want("b", None);
        bench.check("a b");
        bench.want("x", None);
        bench.want("w", Some("/p"));
        assert!(!bench.lock("b", "/p"));
        bench.done("a");
        bench.check("x lock:b");
        assert!(!bench.lock("x", "/p"));
        bench.done("b");
        bench.check("w");
        bench.done("w");
        bench.check("lock:x");
    }

    #[test]
    fn in_parallel_nothing_is_locked() {
        let mut bench = Bench::new(9);
        bench.slots = Slots::new(9, true);
        bench.all_want(&["a", "b"], Some("/p"));
        bench.check("a b");
        assert!(bench.lock("a", "/p") && bench.lock("b", "/p"));
    }

    #[test]
    fn a_waiter_is_told_once_what_it_waits_for() {
        let mut bench = Bench::new(1);
        bench.want("a", Some("/p"));
        bench.check("a");
        bench.want("b", None);
        bench.want("c", Some("/p/inside"));
        assert_eq!(bench.slots.due(), Some(bench.now + TELL_AFTER));
        assert_eq!(bench.slots.untold(bench.now), []);
        let later = bench.now + TELL_AFTER;
        let told = bench.slots.untold(later);
        let slot = Wait::Slot { ahead: 0, max: 1 };
        let directory = Wait::Directory { dir: "/p/inside".into(), holder: thread("a"), ahead: 0 };
        let expected = [("b", slot.clone()), ("c", directory)].map(|(name, wait)| WaitNotice {
            thread: thread(name),
            entry: entry(name),
            wait,
        });
        assert_eq!(told, expected);
        assert_eq!((bench.slots.untold(later), bench.slots.due()), (vec![], None));
        assert_eq!(bench.slots.wait(&thread("a")), None);
        bench.done("a");
        bench.check("b");
        // The directory is free by now, and what is missing is a slot.
        assert_eq!(bench.slots.wait(&thread("c")), Some(slot));
    }

    /// However they come and go, every turn comes and no lock is held twice.
    #[test]
    fn every_turn_comes() {
        for seed in 0..500 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let max = rng.usize(1..4);
            let mut bench = Bench::new(max);
            let dirs = ["/p", "/p/one", "/p/two", "/q"];
            let mut todo: Vec<String> = ('a'..'m').map(String::from).collect();
            let mut steps = 0;
            while !todo.is_empty() || !bench.slots.turns.is_empty() {
                steps += 1;
                assert!(steps < 5_000, "seed {seed}: {:?}", bench.slots);
                while bench.slots.next(true).is_some() {}
                bench.check("");
                if rng.bool()
                    && let Some(name) = todo.pop()
                {
                    let dir = rng.bool().then(|| dirs[rng.usize(0..dirs.len())]);
                    bench.want(&name, dir);
                }
                let working: Vec<ThreadId> = bench.slots.turns.keys().cloned().collect();
                let Some(thread) = rng.choice(&working) else { continue };
                let waits = bench.slots.wait(thread).is_some();
                if rng.u32(0..3) == 0 {
                    bench.slots.lock(thread, Path::new(dirs[rng.usize(0..4)]), bench.now);
                } else if !waits {
                    bench.slots.release(thread);
                }
            }
        }
    }
}
