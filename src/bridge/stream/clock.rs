//! Noticing that the machine slept: the wall clock went on and the monotonic clock did not.

use std::time::{Duration, Instant};

use crate::time::{self, Timestamp};

/// A jump below this is a clock being adjusted.
const JUMP: Duration = Duration::from_secs(10);

/// Both clocks at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clocks {
    wall: Timestamp,
    steady: Instant,
}

impl Clocks {
    pub(super) fn now() -> Clocks {
        Clocks { wall: time::now(), steady: Instant::now() }
    }

    /// Whether the machine slept, or its clock was set forward, between `self` and `now`; either
    /// way connections are not to be trusted. `self` becomes `now`.
    pub(super) fn slept_until(&mut self, now: Clocks) -> bool {
        let before = std::mem::replace(self, now);
        let wall = now.wall.since(before.wall);
        wall > now.steady.saturating_duration_since(before.steady) + JUMP
    }

    /// Whether the machine slept since the last look.
    pub(super) fn slept(&mut self) -> bool {
        self.slept_until(Clocks::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(wall_secs: i64, steady_secs: u64, expected: bool) {
        let start = Clocks { wall: Timestamp::from_millis(1_000_000_000), steady: Instant::now() };
        let wall = 1_000_000_000_i64 + wall_secs * 1_000;
        let now = Clocks {
            wall: Timestamp::from_millis(u64::try_from(wall).unwrap()),
            steady: start.steady + Duration::from_secs(steady_secs),
        };
        let mut clocks = start;
        assert_eq!(clocks.slept_until(now), expected, "{wall_secs} {steady_secs}");
        assert!(!clocks.slept_until(now), "reported once");
    }

    #[test]
    fn sleep_is_told_from_time_passing() {
        check(0, 0, false);
        check(15, 15, false);
        check(3_600, 3_600, false);
        check(18, 15, false);
        check(60, 15, true);
        check(3_600, 0, true);
        check(-3_600, 15, false);
    }
}
