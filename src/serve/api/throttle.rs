//! Slows guessing down. Nobody is made to wait inside: who comes too early is told when to come
//! again, and costs nothing until then.

use std::{collections::HashMap, hash::Hash, sync::Mutex, time::Duration};

use crate::{serve::lock, time::Timestamp};

/// Who tried is remembered so long.
const MEMORY: Duration = Duration::from_hours(1);
/// And so many of them.
const KEYS_MAX: usize = 4096;

/// Counts tries by name, by address, or by whatever else they have in common.
#[derive(Debug)]
pub(super) struct Throttle<K> {
    free: u32,
    longest: Duration,
    tries: Mutex<HashMap<K, Tries>>,
}

#[derive(Clone, Copy, Debug)]
struct Tries {
    count: u32,
    last: Timestamp,
}

impl<K: Clone + Eq + Hash> Throttle<K> {
    /// The first `free` tries cost no time; after each further one the wait doubles, from a second
    /// up to `longest`.
    pub(super) fn new(free: u32, longest: Duration) -> Throttle<K> {
        Throttle { free, longest, tries: Mutex::default() }
    }

    /// Counts a try, before it is known what comes of it: tries at the same time count, too.
    ///
    /// # Errors
    /// How long to wait; then it was not counted.
    pub(super) fn enter(&self, key: &K, now: Timestamp) -> Result<(), Duration> {
        let mut all = lock(&self.tries);
        let tries = all.get(key).filter(|it| now.since(it.last) < MEMORY);
        let count = tries.map_or(0, |it| it.count);
        if let Some(tries) = tries {
            let until = tries.last.plus(self.wait(count));
            // The longest wait also bounds what a clock that was set back can do.
            let left = until.since(now).min(self.longest);
            if !left.is_zero() {
                return Err(left);
            }
        }
        if tries.is_none() && KEYS_MAX <= all.len() {
            make_room(&mut all, now);
        }
        all.insert(key.clone(), Tries { count: count.saturating_add(1), last: now });
        Ok(())
    }

    /// The try was a good one and does not count.
    pub(super) fn take_back(&self, key: &K) {
        let mut all = lock(&self.tries);
        if let Some(tries) = all.get_mut(key) {
            tries.count -= 1;
            if tries.count == 0 {
                all.remove(key);
            }
        }
    }

    /// The key is beyond suspicion.
    pub(super) fn forget(&self, key: &K) {
        lock(&self.tries).remove(key);
    }

    fn wait(&self, count: u32) -> Duration {
        match count.checked_sub(self.free) {
            None | Some(0) => Duration::ZERO,
            Some(over) => Duration::from_secs(1 << (over - 1).min(20)).min(self.longest),
        }
    }
}

/// Forgets who is quiet; or else who tried least, so that many new names can't push out the one that
/// is being guessed at.
fn make_room<K: Clone + Eq + Hash>(all: &mut HashMap<K, Tries>, now: Timestamp) {
    all.retain(|_, it| now.since(it.last) < MEMORY);
    if KEYS_MAX <= all.len() {
        let least = all.iter().min_by_key(|(_, it)| (it.count, it.last));
        if let Some(key) = least.map(|(key, _)| key.clone()) {
            all.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Timestamp {
        Timestamp::from_millis(1_000_000_000 + secs * 1000)
    }

    #[track_caller]
    fn check(throttle: &Throttle<&str>, key: &'static str, secs: u64, expected: u64) {
        let wait = throttle.enter(&key, at(secs)).err().unwrap_or_default();
        assert_eq!(wait, Duration::from_secs(expected), "{key} at {secs}");
    }

    #[test]
    fn the_wait_grows_up_to_its_bound_and_is_forgotten() {
        let throttle = Throttle::new(2, Duration::from_secs(6));
        check(&throttle, "a", 0, 0);
        check(&throttle, "a", 0, 0);
        check(&throttle, "a", 0, 0);
        check(&throttle, "a", 0, 1);
        check(&throttle, "b", 0, 0);
        check(&throttle, "a", 1, 0);
        check(&throttle, "a", 1, 2);
        // Coming too early makes it no worse.
        check(&throttle, "a", 2, 1);
        check(&throttle, "a", 3, 0);
        check(&throttle, "a", 3, 4);
        check(&throttle, "a", 7, 0);
        check(&throttle, "a", 7, 6);
        check(&throttle, "a", 7 + 3600, 0);
        check(&throttle, "a", 7 + 3600, 0);
    }

    #[test]
    fn good_tries_do_not_count() {
        let throttle = Throttle::new(1, Duration::from_mins(1));
        for _ in 0..9 {
            check(&throttle, "a", 0, 0);
            throttle.take_back(&"a");
        }
        check(&throttle, "a", 0, 0);
        check(&throttle, "a", 0, 0);
        check(&throttle, "a", 0, 1);
        throttle.forget(&"a");
        check(&throttle, "a", 0, 0);
        throttle.take_back(&"nobody");
    }

    #[test]
    fn a_clock_that_was_set_back_locks_nobody_out_for_long() {
        let throttle = Throttle::new(0, Duration::from_mins(1));
        check(&throttle, "a", 1_000_000, 0);
        check(&throttle, "a", 0, 60);
    }

    #[test]
    fn the_table_is_bounded_and_keeps_who_tries_most() {
        let throttle = Throttle::new(1, Duration::from_mins(1));
        let guessed = u32::MAX;
        for _ in 0..2 {
            throttle.enter(&guessed, at(0)).unwrap();
        }
        for key in 0..2 * u32::try_from(KEYS_MAX).unwrap() {
            throttle.enter(&key, at(0)).unwrap();
        }
        assert_eq!(throttle.tries.lock().unwrap().len(), KEYS_MAX);
        assert_eq!(throttle.enter(&guessed, at(0)), Err(Duration::from_secs(1)));
    }
}
