//! Who may work, and who waits for what: a limit on turns in progress, because real engines take
//! hundreds of megabytes each, and a lock for each directory, so that two threads do not write in
//! one at the same time. The loop owns both, so it can say who waits for what. Pure.
//!
//! * A turn whose engine writes without asking has its directory's lock from its beginning to its
//!   end, and waits for it together with its place. All others take the lock when they are about to
//!   be allowed something that may write, and then have it until their turn ends.
//! * A directory and one inside it are the same, as far as locks go: a command that works in the
//!   outer one may write in the inner one.
//! * There is one line for both, first come, first served. Who can't go on lets others overtake, but
//!   nobody who would take the very lock that they wait for. So everybody's turn comes: what was in
//!   the line before is finite.
//! * A turn has one directory. Who waits for a lock and holds a place waits for somebody who holds
//!   both and so gets on; who waits for a place holds nothing and keeps no lock from others. So
//!   nobody waits for each other.

use std::{
    collections::{BTreeMap, VecDeque},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::{ids::ThreadId, store::entry::EntryId};

/// Who waits for longer is told for what.
const TELL_AFTER: Duration = Duration::from_secs(2);

/// Who works, and who waits.
#[derive(Debug)]
pub(super) struct Places {
    max: usize,
    /// Nobody locks anything.
    is_parallel: bool,
    working: BTreeMap<ThreadId, Seat>,
    line: VecDeque<Waiter>,
}

/// A turn in progress.
#[derive(Debug)]
struct Seat {
    entry: EntryId,
    /// The directory that it has the lock of.
    lock: Option<PathBuf>,
}

#[derive(Debug)]
struct Waiter {
    thread: ThreadId,
    entry: EntryId,
    /// It is in its turn and waits for the lock alone.
    has_place: bool,
    /// The directory whose lock it needs.
    dir: Option<PathBuf>,
    since: Instant,
    is_told: bool,
}

/// What somebody waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Grant {
    /// The turn of this message may begin.
    Place(EntryId),
    /// The thread has the lock of its directory now.
    Lock(ThreadId),
}

/// What a thread waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// One of `max` places, behind so many others.
    Place { ahead: usize, max: usize },
    /// A directory. The holder is the thread that has it, or is in the line for it before.
    Directory { dir: PathBuf, holder: ThreadId, ahead: usize },
}

/// A thread to be told that it waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) thread: ThreadId,
    pub(super) entry: EntryId,
    pub(super) wait: Wait,
}

impl Places {
    /// For so many turns at the same time; with `is_parallel` directories don't matter.
    pub(super) fn new(max: usize, is_parallel: bool) -> Places {
        Places { max, is_parallel, working: BTreeMap::new(), line: VecDeque::new() }
    }

    /// A worker has a message at hand. `writes` is the canonical directory that its engine may
    /// write in without asking.
    pub(super) fn want(
        &mut self,
        thread: ThreadId,
        entry: EntryId,
        writes: Option<PathBuf>,
        now: Instant,
    ) {
        let dir = writes.filter(|_| !self.is_parallel);
        self.line.push_back(Waiter {
            thread,
            entry,
            has_place: false,
            dir,
            since: now,
            is_told: false,
        });
    }

    /// A turn in progress is about to be allowed something that may write in `dir`, its project
    /// directory, canonical. True: it has the lock. False: it is in line, and [`Places::next`] says
    /// when it has it.
    pub(super) fn lock(&mut self, thread: &ThreadId, dir: &Path, now: Instant) -> bool {
        let Some(seat) = self.working.get(thread) else { return false };
        if self.is_parallel || seat.lock.is_some() {
            return true;
        }
        let is_waiting = self.line.iter().any(|waiter| waiter.thread == *thread);
        if !is_waiting {
            self.line.push_back(Waiter {
                thread: thread.clone(),
                entry: seat.entry,
                has_place: true,
                dir: Some(dir.to_owned()),
                since: now,
                is_told: false,
            });
            // With nobody in the way it is granted on the spot.
            let last = self.line.len() - 1;
            if self.first_free() == Some(last) {
                return self.grant(last).is_some();
            }
        }
        false
    }

    /// A worker is done, or gone, or does not want any more.
    pub(super) fn release(&mut self, thread: &ThreadId) {
        self.line.retain(|waiter| waiter.thread != *thread);
        self.working.remove(thread);
    }

    /// The next one that may go on.
    pub(super) fn next(&mut self) -> Option<Grant> {
        let at = self.first_free()?;
        self.grant(at)
    }

    /// When [`Places::untold`] has something, if it has not now.
    pub(super) fn due(&self) -> Option<Instant> {
        let untold = self.line.iter().filter(|waiter| !waiter.is_told);
        untold.map(|waiter| waiter.since + TELL_AFTER).min()
    }

    /// Who has waited for a while and was not told. Each is named once.
    pub(super) fn untold(&mut self, now: Instant) -> Vec<Told> {
        let is_due = |waiter: &Waiter| !waiter.is_told && waiter.since + TELL_AFTER <= now;
        let due: Vec<usize> = (0..self.line.len()).filter(|at| is_due(&self.line[*at])).collect();
        due.into_iter()
            .map(|at| {
                self.line[at].is_told = true;
                let Waiter { thread, entry, .. } = &self.line[at];
                Told { thread: thread.clone(), entry: *entry, wait: self.wait_at(at) }
            })
            .collect()
    }

    /// What a thread waits for, if it does.
    pub(super) fn wait(&self, thread: &ThreadId) -> Option<Wait> {
        let at = self.line.iter().position(|waiter| waiter.thread == *thread)?;
        Some(self.wait_at(at))
    }

    /// The first one in the line that nothing keeps from going on.
    fn first_free(&self) -> Option<usize> {
        let has_room = self.working.len() < self.max;
        let mut locks = self.locks();
        let may_go = |waiter: &Waiter| waiter.has_place || has_room;
        // Everybody's lock is looked at, also that of who has no place: they may be in the way.
        self.line.iter().position(|waiter| locks(waiter) && may_go(waiter))
    }

    /// Says of everybody in the line, from the first one on, whether the lock that they need is free:
    /// nobody has it, and nobody before them waits for a lock that is in use and is in the way.
    fn locks<'a>(&'a self) -> impl FnMut(&'a Waiter) -> bool {
        let mut in_use: Vec<&'a Path> =
            self.working.values().filter_map(|seat| seat.lock.as_deref()).collect();
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
        // Each one's answer depends on those before.
        self.line.iter().take(at + 1).fold(true, |_, waiter| locks(waiter))
    }

    fn holder(&self, dir: &Path) -> Option<&ThreadId> {
        let has_it = |seat: &Seat| seat.lock.as_ref().is_some_and(|lock| is_same(dir, lock));
        self.working.iter().find(|(_, seat)| has_it(seat)).map(|(thread, _)| thread)
    }

    fn grant(&mut self, at: usize) -> Option<Grant> {
        let Waiter { thread, entry, has_place, dir, .. } = self.line.remove(at)?;
        let grant = if has_place { Grant::Lock(thread.clone()) } else { Grant::Place(entry) };
        self.working.insert(thread, Seat { entry, lock: dir });
        Some(grant)
    }

    fn wait_at(&self, at: usize) -> Wait {
        let waiter = &self.line[at];
        let before = || self.line.iter().take(at);
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
        Wait::Place { ahead: before().filter(|it| !it.has_place).count(), max: self.max }
    }
}

/// Whether two directories are one, or one is inside the other.
fn is_same(one: &Path, other: &Path) -> bool {
    one.starts_with(other) || other.starts_with(one)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Places, with threads `a`, `b`, … and what they were granted as words.
    struct Bench {
        places: Places,
        now: Instant,
    }

    fn thread(name: &str) -> ThreadId {
        ThreadId::new(name)
    }

    fn entry(name: &str) -> EntryId {
        EntryId { sequence: name.bytes().map(u64::from).sum(), hash: 0 }
    }

    impl Bench {
        fn new(max: usize) -> Bench {
            Bench { places: Places::new(max, false), now: Instant::now() }
        }

        fn want(&mut self, name: &str, dir: Option<&str>) {
            self.places.want(thread(name), entry(name), dir.map(PathBuf::from), self.now);
        }

        fn all_want(&mut self, names: &[&str], dir: Option<&str>) {
            for name in names {
                self.want(name, dir);
            }
        }

        fn lock(&mut self, name: &str, dir: &str) -> bool {
            self.places.lock(&thread(name), Path::new(dir), self.now)
        }

        fn done(&mut self, name: &str) {
            self.places.release(&thread(name));
        }

        /// `a lock:b`.
        #[track_caller]
        fn check(&mut self, expected: &str) {
            let name = |id: EntryId| char::from_u32(u32::try_from(id.sequence).unwrap()).unwrap();
            let mut granted = Vec::new();
            while let Some(grant) = self.places.next() {
                granted.push(match grant {
                    Grant::Place(id) => name(id).to_string(),
                    Grant::Lock(thread) => format!("lock:{thread}"),
                });
            }
            assert_eq!(granted.join(" "), expected);
            let locks: Vec<&Path> =
                self.places.working.values().filter_map(|it| it.lock.as_deref()).collect();
            for (at, one) in locks.iter().enumerate() {
                assert!(!locks[..at].iter().any(|other| is_same(one, other)), "{locks:?}");
            }
            assert!(self.places.working.len() <= self.places.max);
        }
    }

    #[test]
    fn places_are_given_in_order() {
        let mut bench = Bench::new(2);
        bench.all_want(&["a", "b", "c", "d"], None);
        bench.check("a b");
        bench.done("c");
        bench.check("");
        bench.done("a");
        bench.check("d");
        bench.done("nobody");
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
    fn nobody_overtakes_who_waits_for_the_same_lock() {
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

    /// One waits for a place and is the next for the lock, the other holds a place and waits for the
    /// lock: the second one goes first, or neither would.
    #[test]
    fn who_waits_for_a_place_keeps_no_lock_from_others() {
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
    fn in_parallel_nobody_locks_anything() {
        let mut bench = Bench::new(9);
        bench.places = Places::new(9, true);
        bench.all_want(&["a", "b"], Some("/p"));
        bench.check("a b");
        assert!(bench.lock("a", "/p") && bench.lock("b", "/p"));
    }

    #[test]
    fn who_waits_is_told_once_and_for_what() {
        let mut bench = Bench::new(1);
        bench.want("a", Some("/p"));
        bench.check("a");
        bench.want("b", None);
        bench.want("c", Some("/p/inside"));
        assert_eq!(bench.places.due(), Some(bench.now + TELL_AFTER));
        assert_eq!(bench.places.untold(bench.now), []);
        let later = bench.now + TELL_AFTER;
        let told = bench.places.untold(later);
        let place = Wait::Place { ahead: 0, max: 1 };
        let directory = Wait::Directory { dir: "/p/inside".into(), holder: thread("a"), ahead: 0 };
        let expected = [("b", place.clone()), ("c", directory)].map(|(name, wait)| Told {
            thread: thread(name),
            entry: entry(name),
            wait,
        });
        assert_eq!(told, expected);
        assert_eq!((bench.places.untold(later), bench.places.due()), (vec![], None));
        assert_eq!(bench.places.wait(&thread("a")), None);
        bench.done("a");
        bench.check("b");
        // The directory is free by now, and what is missing is a place.
        assert_eq!(bench.places.wait(&thread("c")), Some(place));
    }

    /// However they come and go, everybody's turn comes and no lock is held twice.
    #[test]
    fn everybody_gets_on() {
        for seed in 0..500 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let max = rng.usize(1..4);
            let mut bench = Bench::new(max);
            let dirs = ["/p", "/p/one", "/p/two", "/q"];
            let mut todo: Vec<String> = ('a'..'m').map(String::from).collect();
            let mut steps = 0;
            while !todo.is_empty() || !bench.places.working.is_empty() {
                steps += 1;
                assert!(steps < 5_000, "seed {seed}: {:?}", bench.places);
                while bench.places.next().is_some() {}
                bench.check("");
                if rng.bool()
                    && let Some(name) = todo.pop()
                {
                    let dir = rng.bool().then(|| dirs[rng.usize(0..dirs.len())]);
                    bench.want(&name, dir);
                }
                let working: Vec<ThreadId> = bench.places.working.keys().cloned().collect();
                let Some(thread) = rng.choice(&working) else { continue };
                let waits = bench.places.wait(thread).is_some();
                if rng.u32(0..3) == 0 {
                    bench.places.lock(thread, Path::new(dirs[rng.usize(0..4)]), bench.now);
                } else if !waits {
                    bench.places.release(thread);
                }
            }
        }
    }
}
