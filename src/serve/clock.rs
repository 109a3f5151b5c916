//! The time for what ends by itself: sessions, links, the waits of who guesses. Tests bring a clock
//! of their own instead of waiting for days.

use std::{fmt, sync::Arc};

use crate::time::{self, Timestamp};

#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl Clock {
    pub fn new(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Clock {
        Clock(Arc::new(now))
    }

    pub fn now(&self) -> Timestamp {
        (self.0)()
    }
}

/// The time of day.
impl Default for Clock {
    fn default() -> Clock {
        Clock::new(time::now)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clock({})", self.now())
    }
}
