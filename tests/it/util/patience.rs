//! How long tests wait: until nothing has moved for longer than any machine needs. The busier the
//! machine is, the slower the time runs that is counted, so a test does not fail for being one of
//! many; and how quick something has to be is measured against how quick anything is right now.

use std::{
    fs,
    sync::atomic::{AtomicU64, Ordering},
    thread::available_parallelism,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, RecvTimeoutError, after};

/// On an idle machine everything that is waited for takes a small part of this.
const PATIENCE: Duration = Duration::from_mins(1);

/// Between two looks at what nobody reports.
const POLL: Duration = Duration::from_millis(10);

/// No machine is taken to be busier than this many times over, so every wait has an end.
const SLOWEST: f64 = 20.0;

/// The work of [`slowness`].
const SAMPLE: Duration = Duration::from_millis(30);

/// Waits that have begun or seen something move, in the whole process.
static STEPS: AtomicU64 = AtomicU64::new(0);

/// How often this process has begun to wait, or has seen what it waits for move. A process in which
/// the number stands still is stuck.
pub(crate) fn steps() -> u64 {
    STEPS.load(Ordering::Relaxed)
}

/// Says that a test that does not wait goes on.
pub(crate) fn step() {
    STEPS.fetch_add(1, Ordering::Relaxed);
}

/// One wait.
#[derive(Debug)]
pub(crate) struct Patience {
    left: Duration,
    looked: Instant,
}

impl Patience {
    /// How long to block at most before the next [`Patience::lasts`].
    pub(crate) const SLICE: Duration = Duration::from_millis(200);

    pub(crate) fn new() -> Patience {
        Patience::of(PATIENCE)
    }

    /// For a wait that takes longer by itself.
    pub(crate) fn of(left: Duration) -> Patience {
        step();
        Patience { left, looked: Instant::now() }
    }

    /// Something moved: the wait begins anew.
    pub(crate) fn renew(&mut self) {
        *self = Patience::new();
    }

    /// Whether to go on waiting.
    pub(crate) fn lasts(&mut self) -> bool {
        let now = Instant::now();
        // Nobody who looks is away for longer, unless the whole machine was.
        let passed = now.duration_since(self.looked).min(2 * Patience::SLICE);
        self.looked = now;
        self.left = self.left.saturating_sub(passed.div_f64(crowd()));
        !self.left.is_zero()
    }

    /// Looks again a little later. False: it has waited long enough.
    pub(crate) fn pause(&mut self) -> bool {
        after(POLL).recv().expect("a timer fires");
        self.lasts()
    }

    /// Waits for something out of a channel.
    pub(crate) fn recv<T>(&mut self, from: &Receiver<T>) -> Result<T, RecvTimeoutError> {
        loop {
            match from.recv_timeout(Patience::SLICE) {
                Err(RecvTimeoutError::Timeout) if self.lasts() => {}
                // What comes all the time, and is not what is waited for, must not go on for ever.
                Ok(_) if !self.lasts() => return Err(RecvTimeoutError::Timeout),
                result => {
                    step();
                    return result;
                }
            }
        }
    }
}

/// Waits for something out of a channel.
pub(crate) fn recv<T>(from: &Receiver<T>) -> Result<T, RecvTimeoutError> {
    Patience::new().recv(from)
}

/// Looks again and again until it is so. False: it never was.
pub(crate) fn comes_true(mut is_so: impl FnMut() -> bool) -> bool {
    let mut patience = Patience::new();
    loop {
        if is_so() {
            step();
            return true;
        }
        if !patience.pause() {
            return false;
        }
    }
}

/// How many want each processor now.
fn crowd() -> f64 {
    let running = || {
        let text = fs::read_to_string("/proc/loadavg").ok()?;
        text.split(' ').nth(3)?.split('/').next()?.parse::<u32>().ok()
    };
    let cores = available_parallelism().map_or(1, |it| u32::try_from(it.get()).unwrap_or(1));
    (f64::from(running().unwrap_or(1)) / f64::from(cores)).clamp(1.0, SLOWEST)
}

/// How many times longer than on an idle machine anything takes now.
fn slowness() -> f64 {
    // The time that this thread had a processor for, in nanoseconds.
    let used = || {
        let text = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
        text.split(' ').next()?.parse().ok().map(Duration::from_nanos)
    };
    let (begun, before) = (Instant::now(), used());
    let mut measured = 1.0;
    while let (Some(before), Some(now)) = (before, used()) {
        let had = now.saturating_sub(before);
        if had >= SAMPLE {
            measured = begun.elapsed().div_duration_f64(had);
            break;
        }
    }
    crowd().max(measured).min(SLOWEST)
}

/// A limit of what is tested, for a test in which only silence is to reach it.
pub(crate) fn scaled(limit: Duration) -> Duration {
    limit.mul_f64(slowness())
}

/// Whether something that took so long was quicker than `limit`, as an idle machine counts.
pub(crate) fn is_quick(took: Duration, limit: Duration) -> bool {
    took < limit || took < scaled(limit)
}

/// Checks that something that took so long was quicker than `limit`, as an idle machine counts.
#[track_caller]
pub(crate) fn check_quick(took: Duration, limit: Duration) {
    assert!(is_quick(took, limit), "it took {took:?}, and should take less than {limit:?}");
}

/// Checks that something is done within `limit` in one of a few tries: what waits for the wrong
/// thing does so every time.
#[track_caller]
pub(crate) fn check_quick_once(limit: Duration, mut take: impl FnMut() -> Duration) {
    let mut times = Vec::new();
    for _ in 0..5 {
        let took = take();
        if is_quick(took, limit) {
            return;
        }
        times.push(took);
    }
    panic!("it never took less than {limit:?}: {times:?}");
}

#[test]
fn a_wait_ends_and_what_moves_renews_it() {
    let mut patience = Patience::of(2 * POLL);
    while patience.pause() {}
    patience.renew();
    assert!(patience.pause(), "it begins anew");
    let (_never, nothing) = crossbeam_channel::bounded::<()>(0);
    assert_eq!(Patience::of(POLL).recv(&nothing), Err(RecvTimeoutError::Timeout));
}

#[test]
fn what_takes_much_too_long_is_not_quick_on_any_machine() {
    assert!(is_quick(POLL, 2 * POLL));
    assert!(!is_quick(POLL.mul_f64(SLOWEST + 1.0), POLL));
    let slow = || check_quick_once(POLL, || POLL.mul_f64(SLOWEST + 1.0));
    assert!(obto_bridge::task::catch(slow).is_err());
}
