//! Slows guessing down. Nobody is made to wait inside: who comes too early is told when to come
//! again, and what they brought is not looked at, be it right or wrong.
//!
//! Limits by address alone would let many addresses guess at one name; limits by name alone would
//! let anybody keep its owner out. So both count, and where somebody has signed in before, only the
//! address does.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    mem,
    net::IpAddr,
    sync::Mutex,
    time::Duration,
};

use anyhow::Result;

use crate::{serve::lock, time::Timestamp};

/// Who failed is remembered so long.
const MEMORY: Duration = Duration::from_hours(1);
/// And so many of them.
const KEYS_MAX: usize = 4096;
/// Addresses from which one name or secret was good, the latest.
const ADDRESSES_MAX: usize = 16;

/// Counts failures by name, by address, or by whatever else they have in common.
#[derive(Debug)]
pub(super) struct Throttle<K> {
    free: u32,
    longest: Duration,
    tries: HashMap<K, Tries>,
}

#[derive(Clone, Copy, Debug)]
struct Tries {
    failed: u32,
    /// What is being tried counts before it is known what comes of it.
    running: u32,
    /// When the last one began that failed.
    last: Timestamp,
}

impl Tries {
    fn is_remembered(&self, now: Timestamp) -> bool {
        0 < self.running || now.since(self.last) < MEMORY
    }
}

impl<K: Clone + Eq + Hash> Throttle<K> {
    /// The first `free` failures cost no time; after that the wait is a second, and with each
    /// further one twice as long, up to `longest`.
    pub(super) fn new(free: u32, longest: Duration) -> Throttle<K> {
        Throttle { free, longest, tries: HashMap::new() }
    }

    /// # Errors
    /// How long to wait.
    fn check(&self, key: &K, now: Timestamp) -> Result<(), Duration> {
        let tries = self.tries.get(key).filter(|it| it.is_remembered(now));
        let Some(Tries { failed, running, last }) = tries.copied() else { return Ok(()) };
        let wait = self.wait(failed.saturating_add(running));
        // Beyond the free ones it is one at a time. The longest wait also bounds what a clock that
        // was set back can do.
        let left = if 0 < running { wait } else { last.plus(wait).since(now).min(self.longest) };
        if left.is_zero() { Ok(()) } else { Err(left) }
    }

    fn begin(&mut self, key: &K, now: Timestamp) {
        if KEYS_MAX <= self.tries.len() && !self.tries.contains_key(key) {
            self.make_room(now);
        }
        let new = Tries { failed: 0, running: 0, last: now };
        let tries = self.tries.entry(key.clone()).or_insert(new);
        if !tries.is_remembered(now) {
            *tries = new;
        }
        tries.running += 1;
    }

    /// `failed`: when it had begun.
    fn end(&mut self, key: &K, failed: Option<Timestamp>) {
        let Some(tries) = self.tries.get_mut(key) else { return };
        tries.running = tries.running.saturating_sub(1);
        if let Some(begun) = failed {
            tries.failed = tries.failed.saturating_add(1);
            tries.last = begun;
        }
        if tries.failed == 0 && tries.running == 0 {
            self.tries.remove(key);
        }
    }

    /// Counts something that costs, whatever comes of it.
    ///
    /// # Errors
    /// How long to wait; then it was not counted.
    pub(super) fn count(&mut self, key: &K, now: Timestamp) -> Result<(), Duration> {
        self.check(key, now)?;
        self.begin(key, now);
        self.end(key, Some(now));
        Ok(())
    }

    fn wait(&self, count: u32) -> Duration {
        match count.checked_sub(self.free) {
            None => Duration::ZERO,
            Some(over) => Duration::from_secs(1 << over.min(20)).min(self.longest),
        }
    }

    /// Forgets who is quiet; or else who failed least, so that many new names can't push out the one
    /// that is being guessed at.
    fn make_room(&mut self, now: Timestamp) {
        self.tries.retain(|_, it| it.is_remembered(now));
        if KEYS_MAX <= self.tries.len() {
            let count = |it: &Tries| (it.failed.saturating_add(it.running), it.last);
            let least = self.tries.iter().min_by_key(|(_, it)| count(it));
            if let Some(key) = least.map(|(key, _)| key.clone()) {
                self.tries.remove(&key);
            }
        }
    }
}

/// From which addresses something was good. Bounded; over that, all are forgotten.
#[derive(Debug)]
struct Known<K>(HashMap<K, VecDeque<IpAddr>>);

impl<K: Eq + Hash> Known<K> {
    fn new() -> Known<K> {
        Known(HashMap::new())
    }

    fn has(&self, key: &K, address: IpAddr) -> bool {
        self.0.get(key).is_some_and(|it| it.contains(&address))
    }

    fn add(&mut self, key: K, address: IpAddr) {
        if KEYS_MAX <= self.0.len() && !self.0.contains_key(&key) {
            self.0.clear();
        }
        let addresses = self.0.entry(key).or_default();
        if !addresses.contains(&address) {
            addresses.truncate(ADDRESSES_MAX - 1);
            addresses.push_front(address);
        }
    }
}

/// A hash of a token or cookie.
pub(super) type SecretHash = [u8; 32];

/// Who may try a password, a link, a token or a cookie now.
#[derive(Debug)]
pub(super) struct SignInLimits {
    state: Mutex<State>,
    /// Held while a secret is looked up that is not known yet.
    turn: Mutex<()>,
}

#[derive(Debug)]
struct State {
    /// Passwords and links, by the address that they come from.
    addresses: Throttle<IpAddr>,
    /// Passwords by name, also of an account that is not there, from where nobody has signed in
    /// under it.
    names: Throttle<String>,
    /// Tokens and cookies by address. They have 256 random bits, so this is no more than a bound on
    /// the work, and apart from the others: a daemon whose token is dead keeps no person out.
    secrets: Throttle<IpAddr>,
    /// Where people have signed in since the start, by their names.
    homes: Known<String>,
    /// Where tokens and cookies were good: whatever else is tried there, they stay so.
    used: Known<SecretHash>,
}

/// What is being tried.
#[derive(Debug)]
enum Kind {
    Link,
    Password { name: String, is_home: bool },
}

impl SignInLimits {
    pub(super) fn new() -> SignInLimits {
        let state = Mutex::new(State {
            addresses: Throttle::new(20, Duration::from_mins(15)),
            names: Throttle::new(100, Duration::from_mins(1)),
            secrets: Throttle::new(100, Duration::from_mins(1)),
            homes: Known::new(),
            used: Known::new(),
        });
        SignInLimits { state, turn: Mutex::default() }
    }

    /// # Errors
    /// How long to wait.
    pub(super) fn link(&self, address: IpAddr, now: Timestamp) -> Result<Try<'_>, Duration> {
        let mut state = lock(&self.state);
        state.addresses.check(&address, now)?;
        state.addresses.begin(&address, now);
        Ok(self.begun(Kind::Link, address, now))
    }

    /// None if `is_right` has said so, which must be quick: whoever sends a password with every
    /// request does so many times at once, and none of them counts.
    ///
    /// # Errors
    /// How long to wait; nothing was asked.
    pub(super) fn password(
        &self,
        name: String,
        address: IpAddr,
        now: Timestamp,
        is_right: impl FnOnce() -> bool,
    ) -> Result<Option<Try<'_>>, Duration> {
        let mut state = lock(&self.state);
        let is_home = state.homes.has(&name, address);
        state.addresses.check(&address, now)?;
        if !is_home {
            state.names.check(&name, now)?;
        }
        if is_right() {
            state.homes.add(name, address);
            return Ok(None);
        }
        state.addresses.begin(&address, now);
        if !is_home {
            state.names.begin(&name, now);
        }
        Ok(Some(self.begun(Kind::Password { name, is_home }, address, now)))
    }

    /// Looks a secret up that is not known to be good at this address, one after another: however
    /// many come at once, no more are looked up than may be, and those that are right do not count.
    ///
    /// # Errors
    /// How long to wait.
    pub(super) fn secret<T>(
        &self,
        hash: SecretHash,
        address: IpAddr,
        now: Timestamp,
        look_up: impl FnOnce() -> Result<Option<T>>,
    ) -> Result<Result<Option<T>>, Duration> {
        let is_known = || lock(&self.state).used.has(&hash, address);
        let turn = (!is_known()).then(|| lock(&self.turn));
        let is_known = is_known();
        let turn = turn.filter(|_| !is_known);
        if !is_known {
            lock(&self.state).secrets.check(&address, now)?;
        }
        let found = look_up();
        let mut state = lock(&self.state);
        match &found {
            Ok(Some(_)) if is_known => {}
            Ok(Some(_)) => state.used.add(hash, address),
            Ok(None) => {
                state.used.0.remove(&hash);
                state.secrets.begin(&address, now);
                state.secrets.end(&address, Some(now));
            }
            // It could not be looked at.
            Err(_) => {}
        }
        drop((state, turn));
        Ok(found)
    }

    fn begun(&self, kind: Kind, address: IpAddr, now: Timestamp) -> Try<'_> {
        Try { limits: self, kind, address, begun: now, outcome: Outcome::Wrong }
    }
}

/// Something that is being tried. It was wrong unless it is said to be something else, so that no
/// way out of a check is free.
#[derive(Debug)]
pub(super) struct Try<'a> {
    limits: &'a SignInLimits,
    kind: Kind,
    address: IpAddr,
    begun: Timestamp,
    outcome: Outcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Wrong,
    Right,
    Untested,
}

impl Try<'_> {
    pub(super) fn right(mut self) {
        self.outcome = Outcome::Right;
    }

    /// It could not be looked at.
    pub(super) fn untested(mut self) {
        self.outcome = Outcome::Untested;
    }
}

impl Drop for Try<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.limits.state);
        let failed = (self.outcome == Outcome::Wrong).then_some(self.begun);
        let is_right = self.outcome == Outcome::Right;
        match mem::replace(&mut self.kind, Kind::Link) {
            Kind::Link => state.addresses.end(&self.address, failed),
            Kind::Password { name, is_home } => {
                state.addresses.end(&self.address, failed);
                if !is_home {
                    state.names.end(&name, failed);
                }
                if is_right {
                    state.homes.add(name, self.address);
                }
            }
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
    fn check(throttle: &mut Throttle<&str>, key: &'static str, secs: u64, expected: u64) {
        let wait = throttle.count(&key, at(secs)).err().unwrap_or_default();
        assert_eq!(wait, Duration::from_secs(expected), "{key} at {secs}");
    }

    #[test]
    fn the_wait_grows_up_to_its_bound_and_is_forgotten() {
        let mut throttle = Throttle::new(2, Duration::from_secs(6));
        check(&mut throttle, "a", 0, 0);
        check(&mut throttle, "a", 0, 0);
        check(&mut throttle, "a", 0, 1);
        check(&mut throttle, "b", 0, 0);
        check(&mut throttle, "a", 1, 0);
        check(&mut throttle, "a", 1, 2);
        // Coming too early makes it no worse.
        check(&mut throttle, "a", 2, 1);
        check(&mut throttle, "a", 3, 0);
        check(&mut throttle, "a", 3, 4);
        check(&mut throttle, "a", 7, 0);
        check(&mut throttle, "a", 7, 6);
        check(&mut throttle, "a", 7 + 3600, 0);
        check(&mut throttle, "a", 7 + 3600, 0);
        check(&mut throttle, "a", 7 + 3600, 1);
    }

    #[test]
    fn a_clock_that_was_set_back_locks_nobody_out_for_long() {
        let mut throttle = Throttle::new(0, Duration::from_mins(1));
        check(&mut throttle, "a", 1_000_000, 0);
        check(&mut throttle, "a", 0, 60);
    }

    #[test]
    fn the_table_is_bounded_and_keeps_who_tries_most() {
        let mut throttle = Throttle::new(2, Duration::from_mins(1));
        let guessed = u32::MAX;
        for _ in 0..2 {
            throttle.count(&guessed, at(0)).unwrap();
        }
        for key in 0..2 * u32::try_from(KEYS_MAX).unwrap() {
            throttle.count(&key, at(0)).unwrap();
        }
        assert_eq!(throttle.tries.len(), KEYS_MAX);
        assert_eq!(throttle.count(&guessed, at(0)), Err(Duration::from_secs(1)));
        let mut known = Known::new();
        for n in 0..2 * u32::try_from(KEYS_MAX).unwrap() {
            known.add(n, address(1));
        }
        (0..99).for_each(|n| known.add(0, address(n)));
        assert!(known.0.len() <= KEYS_MAX && known.0[&0].len() == ADDRESSES_MAX);
        assert!(known.has(&0, address(98)) && !known.has(&0, address(1)));
    }

    fn address(n: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, n])
    }

    /// One password from the address; the wait, or whether it was tested.
    fn guess(limits: &SignInLimits, n: u8, is_right: bool) -> Result<(), u64> {
        let tried = limits.password("ada".to_owned(), address(n), at(0), || false);
        let tried = tried.map_err(|wait| wait.as_secs())?.expect("it is not remembered");
        if is_right {
            tried.right();
        }
        Ok(())
    }

    #[test]
    fn what_is_right_does_not_count_and_frees_nobody_else() {
        let limits = SignInLimits::new();
        for _ in 0..200 {
            guess(&limits, 1, true).unwrap();
        }
        for n in 2..7 {
            for _ in 0..20 {
                guess(&limits, n, false).unwrap();
            }
            assert_eq!(guess(&limits, n, true), Err(1));
        }
        // A hundred: from anywhere else the name has to wait, and where its owner was it has not.
        assert_eq!(guess(&limits, 7, true), Err(1));
        guess(&limits, 1, true).unwrap();
        assert_eq!(guess(&limits, 7, true), Err(1));
    }

    #[test]
    fn what_is_being_tried_counts_already_and_what_was_not_looked_at_does_not() {
        let limits = SignInLimits::new();
        let link = || limits.link(address(1), at(0));
        let running: Vec<_> = (0..20).map(|_| link().unwrap()).collect();
        assert_eq!(link().err(), Some(Duration::from_secs(1)));
        running.into_iter().for_each(Try::untested);
        let mut running: Vec<_> = (0..20).map(|_| link().unwrap()).collect();
        drop(running.split_off(1));
        running.into_iter().for_each(Try::right);
        // One is left, and from there on they go one by one.
        let last = link().unwrap();
        assert_eq!(link().err(), Some(Duration::from_secs(1)));
        drop(last);
        assert_eq!(link().err(), Some(Duration::from_secs(1)));
    }

    #[test]
    fn a_remembered_password_is_asked_about_only_if_it_may_be_tried() {
        let limits = SignInLimits::new();
        for _ in 0..20 {
            drop(limits.link(address(1), at(0)).unwrap());
        }
        let ask = |n| limits.password("ada".to_owned(), address(n), at(0), || n == 2);
        assert_eq!(ask(1).err(), Some(Duration::from_secs(1)));
        let asked = limits.password("ada".to_owned(), address(1), at(0), || unreachable!());
        assert_eq!(asked.err(), Some(Duration::from_secs(1)));
        for _ in 0..200 {
            assert!(ask(2).unwrap().is_none());
        }
    }

    #[test]
    fn a_secret_stays_good_where_it_was_good() {
        let limits = SignInLimits::new();
        let secret = |hash: u8, n, is_right: bool| {
            let looked_up =
                limits.secret([hash; 32], address(n), at(0), || Ok(is_right.then_some(())));
            looked_up.map(|found| found.unwrap().is_some()).map_err(|wait| wait.as_secs())
        };
        assert_eq!(secret(1, 1, true), Ok(true));
        for n in [1, 2] {
            for _ in 0..100 {
                assert_eq!(secret(9, n, false), Ok(false));
            }
            assert_eq!(secret(2, n, true), Err(1));
        }
        assert_eq!(secret(1, 2, true), Err(1));
        assert_eq!(secret(1, 1, true), Ok(true));
        // Once it was no longer good it is like any other.
        assert_eq!(secret(1, 1, false), Ok(false));
        assert_eq!(secret(1, 1, true), Err(2));
    }
}
