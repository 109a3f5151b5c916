//! When a daemon ends by itself: after so many messages, when nothing was to do for long enough, or at a
//! time. Pure.

use std::time::Duration;

use super::Coordinator;
use crate::permission::approvals::Now;

/// What was asked for; the default is a daemon that stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeaveRules {
    /// So many turns, and no further one begins.
    pub messages: Option<u64>,
    /// Nothing was to do for that long.
    pub idle: Option<Duration>,
    /// So long after the start.
    pub after: Option<Duration>,
}

/// Counts, for the rules.
#[derive(Debug)]
pub(super) struct Leave {
    rules: LeaveRules,
    /// Turns that have ended.
    ended: u64,
    /// Since when nothing is to do, by the running time; none while something is.
    idle_since: Option<Duration>,
}

impl Leave {
    pub(super) fn new(rules: LeaveRules) -> Leave {
        Leave { rules, ended: 0, idle_since: None }
    }

    pub(super) fn turn_ended(&mut self) {
        self.ended += 1;
    }

    /// Whether a turn more may begin besides those in progress.
    pub(super) fn has_room(&self, in_progress: usize) -> bool {
        let begun = self.ended.saturating_add(in_progress as u64);
        self.rules.messages.is_none_or(|most| begun < most)
    }

    /// Whether there is anything to do, now.
    pub(super) fn looked(&mut self, is_idle: bool, now: Duration) {
        self.idle_since = is_idle.then(|| self.idle_since.unwrap_or(now));
    }

    /// Whether it is time to leave.
    pub(super) fn is_due(&self, in_progress: usize, now: Duration) -> bool {
        let has_had_all = in_progress == 0 && !self.has_room(0);
        has_had_all || self.due().is_some_and(|at| at <= now)
    }

    /// When it is time, if nothing happens before.
    pub(super) fn due(&self) -> Option<Duration> {
        let idle =
            self.rules.idle.zip(self.idle_since).map(|(idle, since)| since.saturating_add(idle));
        [idle, self.rules.after].into_iter().flatten().min()
    }
}

impl Coordinator {
    /// Whether no turn begins after those in progress, with which the daemon ends.
    pub fn is_last(&self) -> bool {
        !self.leave.has_room(self.turns.in_progress())
    }

    /// Whether the daemon is to end by itself, now.
    pub fn is_over(&self, now: Now) -> bool {
        !self.is_stopping && self.leave.is_due(self.turns.in_progress(), now.running)
    }

    /// Notes whether there is anything to do.
    pub(super) fn look_at_leave(&mut self, now: Now) {
        // What waits for a person may do so for long.
        let is_held = self.quarantine.len() < self.held();
        let is_idle = !is_held && self.turns.in_progress() == 0 && self.has_stored_all();
        self.leave.looked(is_idle, now.running);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn so_many_messages() {
        let mut leave = Leave::new(LeaveRules { messages: Some(2), ..LeaveRules::default() });
        assert!(leave.has_room(1) && !leave.has_room(2) && !leave.is_due(0, at(9)));
        leave.turn_ended();
        assert!(leave.has_room(0) && !leave.has_room(1));
        leave.turn_ended();
        assert!(!leave.has_room(0) && leave.is_due(0, at(9)));
        assert!(!leave.is_due(1, at(9)), "one that runs is waited for");
    }

    #[test]
    fn nothing_to_do_for_long_enough() {
        let mut leave = Leave::new(LeaveRules { idle: Some(at(10)), ..LeaveRules::default() });
        assert_eq!(leave.due(), None);
        leave.looked(true, at(5));
        leave.looked(true, at(8));
        assert!(leave.due() == Some(at(15)) && !leave.is_due(0, at(14)) && leave.is_due(0, at(15)));
        leave.looked(false, at(14));
        assert!(leave.due().is_none() && !leave.is_due(0, at(99)));
        leave.looked(true, at(20));
        assert_eq!(leave.due(), Some(at(30)));
    }

    #[test]
    fn a_time() {
        let leave = Leave::new(LeaveRules { after: Some(at(7)), ..LeaveRules::default() });
        assert!(!leave.is_due(3, at(6)) && leave.is_due(3, at(7)));
    }
}
