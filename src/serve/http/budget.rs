//! A bound for the memory of all large bodies together, of requests as well as of answers. Without
//! one, every connection could hold as much as the largest body has.

use std::sync::atomic::{AtomicUsize, Ordering};

/// A body up to here costs nothing: there are at most as many as connections.
pub(super) const SMALL_BYTES: usize = 1024 * 1024;
/// Shares grow by so much, so that they need not be asked for with every read.
const STEP: usize = 256 * 1024;

/// What is left for large bodies.
#[derive(Debug)]
pub(super) struct Budget(AtomicUsize);

/// What one body has of it, given back on drop.
#[derive(Debug)]
pub(super) struct Share<'a> {
    budget: &'a Budget,
    taken: usize,
    /// Bytes of the body that are there already.
    kept: usize,
}

impl Budget {
    pub(super) fn new(bytes: usize) -> Budget {
        Budget(AtomicUsize::new(bytes))
    }

    pub(super) fn share(&self) -> Share<'_> {
        Share { budget: self, taken: 0, kept: 0 }
    }
}

impl Share<'_> {
    /// So many bytes of the body are there, and more may follow.
    pub(super) fn keep(&mut self, bytes: usize) {
        self.kept += bytes;
    }

    /// Whether there is room for so many bytes besides those that are kept.
    pub(super) fn hold(&mut self, bytes: usize) -> bool {
        let wanted = self.kept.saturating_add(bytes).saturating_sub(SMALL_BYTES);
        let more = wanted.saturating_sub(self.taken);
        if more == 0 {
            return true;
        }
        let more = more.div_ceil(STEP).saturating_mul(STEP);
        let Budget(left) = self.budget;
        let take = |left: usize| left.checked_sub(more);
        let has_room = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok();
        if has_room {
            self.taken += more;
        }
        has_room
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        self.budget.0.fetch_add(self.taken, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_large_shares_a_budget_and_gives_it_back() {
        let budget = Budget::new(4 * STEP);
        let (mut a, mut b, mut c) = (budget.share(), budget.share(), budget.share());
        assert!(a.hold(SMALL_BYTES) && b.hold(SMALL_BYTES), "small ones cost nothing");
        assert!(a.hold(SMALL_BYTES + 1) && a.hold(SMALL_BYTES + STEP), "it is paid for already");
        a.keep(SMALL_BYTES + STEP);
        assert!(a.hold(2 * STEP));
        assert!(!b.hold(SMALL_BYTES + 2 * STEP) && b.hold(SMALL_BYTES + STEP));
        assert!(!c.hold(usize::MAX) && !c.hold(SMALL_BYTES + 1));
        drop(b);
        assert!(c.hold(SMALL_BYTES + 1));
        drop((a, c));
        assert_eq!(budget.0.load(Ordering::Relaxed), 4 * STEP);
    }
}
