//! What waits to be sent, in one lane per bridge thread. Pure. Within a lane strictly one after
//! another, so that answers keep their order; a lane that has to wait does not hold up the others.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use crate::{
    bridge::backoff::{Backoff, Pace},
    ids::ThreadId,
    store::outbox::OutboxId,
};

#[derive(Debug)]
pub(super) struct Lanes {
    by_thread: BTreeMap<ThreadId, Lane>,
    /// Entries that were seen, sent ones too as long as the store has them.
    known: BTreeSet<OutboxId>,
    pace: Pace,
}

#[derive(Debug)]
struct Lane {
    queue: VecDeque<OutboxId>,
    busy: bool,
    backoff: Backoff,
    not_before: Option<Instant>,
}

impl Lanes {
    pub(super) fn new(pace: Pace) -> Lanes {
        Lanes { by_thread: BTreeMap::new(), known: BTreeSet::new(), pace }
    }

    /// Takes in what the store lists: a new entry goes to the end of its lane. One older than one
    /// that waits goes before it: two workers may finish writing in another order than they began.
    /// What the store no longer has is forgotten.
    pub(super) fn refresh(&mut self, listed: Vec<(OutboxId, ThreadId)>) {
        let listed: BTreeMap<OutboxId, ThreadId> = listed.into_iter().collect();
        self.known.retain(|entry| listed.contains_key(entry));
        for (entry, thread) in listed {
            if !self.known.insert(entry) {
                continue;
            }
            let lane = self.by_thread.entry(thread).or_insert_with(|| Lane {
                queue: VecDeque::new(),
                busy: false,
                backoff: Backoff::new(self.pace),
                not_before: None,
            });
            let first_movable = usize::from(lane.busy);
            let at = lane.queue.partition_point(|waiting| *waiting < entry).max(first_movable);
            lane.queue.insert(at.min(lane.queue.len()), entry);
        }
    }

    /// Takes the oldest post whose lane is free and due. The lane is busy until
    /// [`Lanes::done`] or [`Lanes::later`].
    pub(super) fn take(&mut self, now: Instant) -> Option<(ThreadId, OutboxId)> {
        let due = |lane: &&mut Lane| !lane.busy && lane.not_before.is_none_or(|at| at <= now);
        let (thread, lane) = self
            .by_thread
            .iter_mut()
            .filter(|(_, lane)| due(lane) && !lane.queue.is_empty())
            .min_by_key(|(_, lane)| lane.queue[0])?;
        lane.busy = true;
        Some((thread.clone(), lane.queue[0]))
    }

    /// The post that was taken from this lane is done with.
    pub(super) fn done(&mut self, thread: &ThreadId) {
        let Some(lane) = self.by_thread.get_mut(thread) else { return };
        lane.queue.pop_front();
        lane.busy = false;
        lane.not_before = None;
        lane.backoff.good();
        if lane.queue.is_empty() {
            self.by_thread.remove(thread);
        }
    }

    /// The post stays where it is and is due again later; how much is returned.
    pub(super) fn later(
        &mut self,
        thread: &ThreadId,
        now: Instant,
        wait: impl FnOnce(&mut Backoff) -> Duration,
    ) -> Duration {
        let Some(lane) = self.by_thread.get_mut(thread) else { return Duration::ZERO };
        let wait = wait(&mut lane.backoff);
        lane.busy = false;
        lane.not_before = Some(now + wait);
        wait
    }

    /// Every post that waits for its time is due now.
    pub(super) fn hurry(&mut self) {
        for lane in self.by_thread.values_mut() {
            lane.not_before = None;
        }
    }

    /// When [`Lanes::take`] will have something, if nothing else happens before.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let waiting = self.by_thread.values().filter(|lane| !lane.busy);
        waiting.filter_map(|lane| lane.not_before).min()
    }

    /// How many posts wait, those on their way included.
    pub(super) fn len(&self) -> usize {
        self.by_thread.values().map(|lane| lane.queue.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(entries: &[(u64, &str)]) -> Vec<(OutboxId, ThreadId)> {
        let id = |sequence: &u64| OutboxId { sequence: *sequence, hash: 0 };
        entries.iter().map(|(entry, thread)| (id(entry), ThreadId::new(*thread))).collect()
    }

    fn lanes(entries: &[(u64, &str)]) -> Lanes {
        let mut lanes = Lanes::new(Pace::default());
        lanes.refresh(listed(entries));
        lanes
    }

    /// The entries that can be taken at `now`.
    fn takes(lanes: &mut Lanes, now: Instant) -> Vec<u64> {
        std::iter::from_fn(|| lanes.take(now)).map(|(_, entry)| entry.sequence).collect()
    }

    #[test]
    fn one_of_each_thread_at_a_time_oldest_first() {
        let now = Instant::now();
        let mut lanes = lanes(&[(1, "a"), (2, "a"), (3, "b"), (4, "c"), (5, "b")]);
        assert_eq!(takes(&mut lanes, now), [1, 3, 4]);
        lanes.done(&ThreadId::new("b"));
        assert_eq!(takes(&mut lanes, now), [5]);
        lanes.later(&ThreadId::new("a"), now, |backoff| backoff.next(0, None));
        lanes.hurry();
        assert_eq!(takes(&mut lanes, now), [1], "not sent yet, so 2 has to wait");
        assert_eq!(lanes.len(), 4);
    }

    #[test]
    fn a_lane_that_waits_holds_up_no_other() {
        let now = Instant::now();
        let mut lanes = lanes(&[(1, "a"), (2, "b"), (3, "a")]);
        lanes.take(now).unwrap();
        let wait = lanes.later(&ThreadId::new("a"), now, |backoff| backoff.next(u64::MAX, None));
        assert_eq!(wait, Duration::from_secs(1));
        assert_eq!(takes(&mut lanes, now), [2]);
        assert_eq!(lanes.next_due(), Some(now + wait));
        assert_eq!(takes(&mut lanes, now + wait), [1]);
        lanes.later(&ThreadId::new("a"), now, |backoff| backoff.slow(0, None));
        lanes.hurry();
        assert_eq!(takes(&mut lanes, now), [1]);
    }

    #[test]
    fn entries_are_taken_once_and_forgotten_with_the_file() {
        let now = Instant::now();
        let mut lanes = lanes(&[(1, "a")]);
        lanes.refresh(listed(&[(1, "a"), (2, "b")]));
        assert_eq!(takes(&mut lanes, now), [1, 2]);
        lanes.done(&ThreadId::new("a"));
        lanes.done(&ThreadId::new("b"));
        lanes.refresh(listed(&[(1, "a")]));
        assert!(takes(&mut lanes, now).is_empty(), "sent, though it could not be removed");
        lanes.refresh(Vec::new());
        assert_eq!(lanes.len(), 0);
        lanes.refresh(listed(&[(1, "a")]));
        assert_eq!(takes(&mut lanes, now), [1], "gone, so this is another");
    }

    #[test]
    fn a_late_listing_does_not_change_the_order() {
        let now = Instant::now();
        let mut waiting = lanes(&[(3, "a")]);
        waiting.refresh(listed(&[(3, "a"), (2, "a"), (1, "a")]));
        for expected in [1, 2, 3] {
            assert_eq!(takes(&mut waiting, now), [expected]);
            waiting.done(&ThreadId::new("a"));
        }
        let mut on_its_way = lanes(&[(3, "a")]);
        on_its_way.take(now);
        on_its_way.refresh(listed(&[(3, "a"), (2, "a")]));
        on_its_way.done(&ThreadId::new("a"));
        assert_eq!(takes(&mut on_its_way, now), [2], "3 was on its way already");
    }
}
