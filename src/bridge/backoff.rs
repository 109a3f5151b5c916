//! How long to wait before the next try. Pure: the caller brings the randomness and the clock.

use std::time::Duration;

use super::Error;

/// No wait is shorter, whatever the server asks for: `retry: 0` must not make a hot loop.
pub const FLOOR: Duration = Duration::from_millis(250);
/// No server makes us wait longer.
pub const LONGEST: Duration = Duration::from_mins(5);
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The longest first wait. It doubles with each failure.
    pub base: Duration,
    /// Where the doubling ends.
    pub cap: Duration,
    /// The wait when trying soon is pointless, for example with a refused token; half of it is
    /// the shortest.
    pub slow: Duration,
    /// A connection that lived this long, and longer than the wait before it, was healthy.
    pub steady: Duration,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace {
            base: Duration::from_secs(1),
            cap: Duration::from_mins(1),
            slow: Duration::from_mins(1),
            steady: Duration::from_secs(5),
        }
    }
}

/// Exponential waits with full jitter, so that machines which lost the same bridge do not come back
/// at the same moment.
#[derive(Clone, Debug)]
pub struct Backoff {
    pace: Pace,
    /// What the server asked for by `retry:`. It is the shortest wait then.
    server: Option<Duration>,
    failures: u32,
    /// The wait before the attempt that is under way.
    waited: Duration,
}

impl Backoff {
    pub fn new(pace: Pace) -> Backoff {
        Backoff { pace, server: None, failures: 0, waited: Duration::ZERO }
    }

    /// The wait after one more failure. `random` is uniform over all values; `retry_after` is what
    /// the server asked for in this answer, and is obeyed up to [`LONGEST`].
    pub fn next(&mut self, random: u64, retry_after: Option<Duration>) -> Duration {
        let base = self.server.unwrap_or(self.pace.base);
        let doubled = base.saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX));
        self.failures = self.failures.saturating_add(1).min(31);
        let low = self.server.unwrap_or(FLOOR);
        // A server that names its own time still gets its clients spread out.
        let high = doubled.min(self.pace.cap).max(low + low / 2);
        self.wait(low, high, random, retry_after)
    }

    /// The wait when only a person can help, or the server said that there is nothing to come.
    pub fn slow(&mut self, random: u64, retry_after: Option<Duration>) -> Duration {
        self.wait(self.pace.slow / 2, self.pace.slow, random, retry_after)
    }

    fn wait(
        &mut self,
        low: Duration,
        high: Duration,
        random: u64,
        retry_after: Option<Duration>,
    ) -> Duration {
        let wait = between(low, high, random);
        self.waited = wait.max(retry_after.unwrap_or_default().min(LONGEST));
        self.waited
    }

    /// The wait after a request that failed: slow when the token was refused.
    pub fn after(&mut self, error: &Error, random: u64) -> Duration {
        if error.is_auth() {
            self.slow(random, error.retry_after())
        } else {
            self.next(random, error.retry_after())
        }
    }

    /// The server's `retry:`, from now on.
    pub fn set_base(&mut self, retry: Duration) {
        self.server = Some(retry.clamp(FLOOR, LONGEST));
    }

    /// Something worked for certain: a message came, a request was answered.
    pub fn good(&mut self) {
        self.failures = 0;
    }

    /// A connection ended after `lived`. Having connected proves nothing: a bridge that accepts and
    /// hangs up must not be hammered. One that a balancer cuts after half a minute was healthy,
    /// though, and doubling its waits would leave the machine out of reach for longer than connected.
    pub fn ended_after(&mut self, lived: Duration) {
        if lived >= self.pace.steady && lived > self.waited {
            self.failures = 0;
        }
    }
}

fn between(low: Duration, high: Duration, random: u64) -> Duration {
    let span = u64::try_from(high.saturating_sub(low).as_millis()).unwrap_or(u64::MAX);
    // The upper half of the product is uniform over the span.
    let share = (u128::from(random) * (u128::from(span) + 1)) >> 64;
    low + Duration::from_millis(u64::try_from(share).unwrap_or(span))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// The longest and the shortest wait after `failures` earlier failures.
    #[track_caller]
    fn check(failures: u32, expected: (u64, u64)) {
        let wait = |random| {
            let mut backoff = Backoff::new(Pace::default());
            for _ in 0..failures {
                backoff.next(random, None);
            }
            backoff.next(random, None)
        };
        assert_eq!((wait(0), wait(u64::MAX)), (ms(expected.0), ms(expected.1)), "{failures}");
    }

    #[test]
    fn waits_double_up_to_a_minute_over_a_floor() {
        check(0, (250, 1_000));
        check(1, (250, 2_000));
        check(2, (250, 4_000));
        check(5, (250, 32_000));
        check(6, (250, 60_000));
        check(1_000, (250, 60_000));
    }

    #[test]
    fn the_jitter_is_uniform() {
        let mut backoff = Backoff::new(Pace::default());
        assert_eq!(backoff.next(u64::MAX / 2, None), ms(625), "the middle of 250 and 1000");
    }

    #[test]
    fn only_proof_of_health_resets() {
        let mut backoff = Backoff::new(Pace::default());
        let worst = |backoff: &mut Backoff| backoff.next(u64::MAX, None);
        worst(&mut backoff);
        backoff.ended_after(ms(4_999));
        assert_eq!(worst(&mut backoff), ms(2_000), "it connected, and was gone again");
        backoff.ended_after(ms(5_000));
        assert_eq!(worst(&mut backoff), ms(1_000));
        assert_eq!(worst(&mut backoff), ms(2_000));
        backoff.good();
        assert_eq!(worst(&mut backoff), ms(1_000));
    }

    #[test]
    fn a_life_shorter_than_the_wait_before_it_proves_nothing() {
        let mut backoff = Backoff::new(Pace::default());
        for _ in 0..5 {
            backoff.next(0, None);
        }
        assert_eq!(backoff.next(u64::MAX, None), ms(32_000));
        backoff.ended_after(ms(32_000));
        assert_eq!(backoff.next(u64::MAX, None), ms(60_000));
        backoff.ended_after(ms(60_001));
        assert_eq!(backoff.next(u64::MAX, None), ms(1_000));
        backoff.next(0, Some(ms(40_000)));
        backoff.ended_after(ms(30_000));
        assert_eq!(backoff.next(u64::MAX, None), ms(4_000), "the bridge had asked for that wait");
    }

    #[test]
    fn the_servers_retry_is_a_base_within_bounds() {
        for (retry, low, high) in [
            (0, 250, 375),
            (10, 250, 375),
            (1_000, 1_000, 1_500),
            (3_000, 3_000, 4_500),
            (300_000, 300_000, 450_000),
            (u64::MAX, 300_000, 450_000),
        ] {
            let mut backoff = Backoff::new(Pace::default());
            backoff.set_base(ms(retry));
            assert_eq!(backoff.clone().next(0, None), ms(low), "{retry}");
            assert_eq!(backoff.next(u64::MAX, None), ms(high), "{retry}");
        }
        let mut backoff = Backoff::new(Pace::default());
        backoff.set_base(ms(3_000));
        backoff.next(0, None);
        assert_eq!(backoff.next(u64::MAX, None), ms(6_000), "it doubles too");
    }

    #[test]
    fn retry_after_is_obeyed_up_to_five_minutes() {
        let mut backoff = Backoff::new(Pace::default());
        assert_eq!(backoff.next(0, Some(ms(20_000))), ms(20_000));
        assert_eq!(backoff.next(0, Some(Duration::MAX)), LONGEST);
        assert_eq!(backoff.next(0, Some(Duration::ZERO)), FLOOR, "zero does not make a hot loop");
        assert_eq!(backoff.slow(0, Some(ms(100_000))), ms(100_000));
    }

    #[test]
    fn the_slow_wait_stays_slow() {
        let mut backoff = Backoff::new(Pace::default());
        assert_eq!((backoff.slow(0, None), backoff.slow(u64::MAX, None)), (ms(30_000), ms(60_000)));
    }

    #[test]
    fn a_refused_token_is_tried_again_slowly() {
        let after = |code| {
            let (request, excerpt) = ("POST http://b".to_owned(), String::new());
            let error = Error::Status { request, code, excerpt, retry_after: None };
            Backoff::new(Pace::default()).after(&error, 0)
        };
        assert_eq!((after(401), after(503)), (ms(30_000), FLOOR));
    }

    proptest! {
        #[test]
        fn no_wait_leaves_the_bounds(
            steps in prop::collection::vec((any::<u64>(), any::<Option<u64>>(), any::<u8>()), 1..80)
        ) {
            let mut backoff = Backoff::new(Pace::default());
            for (random, millis, what) in steps {
                match what % 4 {
                    0 => backoff.set_base(ms(millis.unwrap_or(0))),
                    1 => backoff.good(),
                    2 => backoff.ended_after(ms(random % 100_000)),
                    _ => {}
                }
                let wait = backoff.next(random, millis.map(ms));
                prop_assert!((FLOOR..=LONGEST * 3 / 2).contains(&wait), "{wait:?}");
            }
        }
    }

    /// What a bridge sees of very many daemons, which don't influence one another.
    struct Crowd {
        /// Requests in each tenth of a second.
        requests: Vec<u32>,
        /// The time for which they were connected, of the whole time of all.
        connected: f64,
    }

    const DAEMONS: u32 = 1_000_000;

    /// Daemons whose connections all end at time 0. Requests are refused while the bridge is `away`;
    /// a connection that begins at any other time lives until `cut`. The bridge may have said `retry:`.
    fn crowd(
        seconds: u64,
        retry: Option<Duration>,
        away: impl Fn(Duration) -> bool,
        cut: impl Fn(Duration) -> Duration,
    ) -> Crowd {
        let end = Duration::from_secs(seconds);
        let mut requests = vec![0; usize::try_from(seconds * 10).unwrap()];
        let mut connected = Duration::ZERO;
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..DAEMONS {
            let mut backoff = Backoff::new(Pace::default());
            if let Some(retry) = retry {
                backoff.set_base(retry);
            }
            let mut now = Duration::ZERO;
            loop {
                now += backoff.next(random.u64(..), None);
                if now >= end {
                    break;
                }
                requests[usize::try_from(now.as_millis() / 100).unwrap()] += 1;
                if !away(now) {
                    let lives = cut(now).min(end).saturating_sub(now);
                    backoff.ended_after(lives);
                    connected += lives;
                    now += lives;
                }
            }
        }
        Crowd { requests, connected: connected.div_duration_f64(end * DAEMONS) }
    }

    impl Crowd {
        /// The most requests in a second, from the second `from` on.
        fn peak(&self, from: usize) -> u32 {
            self.requests[from * 10..].windows(10).map(|it| it.iter().sum()).max().unwrap()
        }
    }

    const RETRY_OF_OUR_BRIDGE: Duration = Duration::from_secs(1);

    #[test]
    fn a_million_daemons_spread_while_a_balancer_is_away() {
        let never_cut = |_| Duration::MAX;
        for retry in [None, Some(RETRY_OF_OUR_BRIDGE)] {
            let restart = crowd(120, retry, |now| now < Duration::from_secs(30), never_cut);
            // Everyone tries once within 1.5 s; who is refused comes later and later.
            assert!(restart.peak(5) < DAEMONS * 2 / 5, "{}", restart.peak(5));
            assert!(restart.peak(15) < DAEMONS / 8, "{}", restart.peak(15));
            // What the balancer has to take when it is back.
            assert!(restart.peak(30) < DAEMONS / 16, "{}", restart.peak(30));
            assert!(restart.connected > 0.55, "{}", restart.connected);
            let all: u32 = restart.requests.iter().sum();
            assert!(all < DAEMONS * 9, "{all}");
        }
    }

    #[test]
    fn a_million_connections_cut_at_once_come_back_spread_over_the_jitter() {
        let every = |seconds: u64| {
            move |now: Duration| Duration::from_secs((now.as_secs() / seconds + 1) * seconds)
        };
        for retry in [None, Some(RETRY_OF_OUR_BRIDGE)] {
            let cut = crowd(200, retry, |_| false, every(20));
            let crest = cut.requests.iter().copied().max().unwrap();
            assert!(crest < DAEMONS / 4, "{crest} in a tenth of a second");
            // One request for each cut: nobody asks twice, nobody stays away.
            assert_eq!(cut.requests.iter().sum::<u32>(), DAEMONS * 10);
            assert!(cut.requests.chunks(200).all(|it| it[16..].iter().all(|it| *it == 0)));
        }
        // Lives too short to prove anything: nobody hammers, and the waits spread.
        let flapping = crowd(200, None, |_| false, every(2));
        assert!(flapping.peak(60) < DAEMONS / 8, "{}", flapping.peak(60));
    }
}
