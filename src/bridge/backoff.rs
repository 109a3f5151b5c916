//! How long to wait before the next try. Pure: the caller brings the randomness and the clock.

use std::time::Duration;

use super::Error;

/// No wait is shorter, whatever the server asks for: `retry: 0` must not make a hot loop.
pub const FLOOR: Duration = Duration::from_millis(250);
/// No server makes us wait longer.
pub const LONGEST: Duration = Duration::from_mins(5);
/// A connection that lived this long was healthy.
pub const STEADY: Duration = Duration::from_mins(1);

#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The longest first wait. It doubles with each failure.
    pub base: Duration,
    /// Where the doubling ends.
    pub cap: Duration,
    /// The wait when trying soon is pointless, for example with a refused token; half of it is
    /// the shortest.
    pub slow: Duration,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace {
            base: Duration::from_secs(1),
            cap: Duration::from_mins(1),
            slow: Duration::from_mins(1),
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
}

impl Backoff {
    pub fn new(pace: Pace) -> Backoff {
        Backoff { pace, server: None, failures: 0 }
    }

    /// The wait after one more failure. `random` is uniform over all values; `retry_after` is what
    /// the server asked for in this answer, and is obeyed up to [`LONGEST`].
    pub fn next(&mut self, random: u64, retry_after: Option<Duration>) -> Duration {
        let base = self.server.unwrap_or(self.pace.base);
        let doubled = base.saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX));
        self.failures = self.failures.saturating_add(1).min(31);
        let low = self.server.unwrap_or(FLOOR);
        // A server that names its own time still gets its clients spread out.
        let high = doubled.min(self.pace.cap).max(low + low / 4);
        let wait = between(low, high, random);
        wait.max(retry_after.unwrap_or_default().min(LONGEST))
    }

    /// The wait when only a person can help, or the server said that there is nothing to come.
    pub fn slow(&mut self, random: u64, retry_after: Option<Duration>) -> Duration {
        let wait = between(self.pace.slow / 2, self.pace.slow, random);
        wait.max(retry_after.unwrap_or_default().min(LONGEST))
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

    /// A connection ended after `lived`. Having connected proves nothing: a bridge that
    /// accepts and hangs up must not be hammered.
    pub fn ended_after(&mut self, lived: Duration) {
        if lived >= STEADY {
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
        backoff.ended_after(ms(59_999));
        assert_eq!(worst(&mut backoff), ms(2_000), "it connected, and was gone again");
        backoff.ended_after(STEADY);
        assert_eq!(worst(&mut backoff), ms(1_000));
        assert_eq!(worst(&mut backoff), ms(2_000));
        backoff.good();
        assert_eq!(worst(&mut backoff), ms(1_000));
    }

    #[test]
    fn the_servers_retry_is_a_base_within_bounds() {
        for (retry, low, high) in [
            (0, 250, 312),
            (10, 250, 312),
            (3_000, 3_000, 3_750),
            (300_000, 300_000, 375_000),
            (u64::MAX, 300_000, 375_000),
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
                    _ => {}
                }
                let wait = backoff.next(random, millis.map(ms));
                prop_assert!((FLOOR..=LONGEST * 5 / 4).contains(&wait), "{wait:?}");
            }
        }
    }
}
