//! What is true only now: which machines are here, and which threads are being worked on. Kept in
//! memory; a daemon tells it again when it or we start anew.

use std::{collections::HashMap, sync::Mutex, time::Duration};

use crate::{
    ids::{MachineId, ThreadId},
    serve::{lock, store::AccountKey},
    time::{self, Timestamp},
};

/// A daemon that is connected.
#[derive(Clone, Debug)]
pub struct Machine {
    pub id: MachineId,
    /// Tells this daemon from another one of the same name. None: it does not say, as the reference
    /// does not.
    pub instance: Option<String>,
    pub capabilities: Vec<String>,
    pub since: Timestamp,
    /// When another daemon of the same name was last refused.
    pub conflict: Option<Timestamp>,
}

impl Machine {
    /// Whether two daemons of one name are two, as far as they say.
    pub(super) fn is_other(&self, machine: &Machine) -> bool {
        let instances = self.instance.as_ref().zip(machine.instance.as_ref());
        self.id == machine.id && instances.is_some_and(|(one, other)| one != other)
    }

    pub(super) fn is_same(&self, machine: &Machine) -> bool {
        self.id == machine.id && self.instance.is_some() && self.instance == machine.instance
    }
}

/// A daemon's stream.
#[derive(Debug)]
pub(super) struct Visit {
    pub(super) account: AccountKey,
    pub(super) machine: Machine,
}

/// A machine that comes back within this time is taken to have gone on with its work.
const AWAY_TIME: Duration = Duration::from_mins(3);
/// Threads of an account that are worked on at the same time; more are not shown.
const WORKING_MAX: usize = 1000;

/// The threads that are being worked on.
#[derive(Debug, Default)]
pub struct Presence {
    working: Mutex<HashMap<(AccountKey, ThreadId), Work>>,
    /// Held while a machine's state is looked up and told, so that the last word is the newest.
    pub(super) telling: Mutex<()>,
}

#[derive(Debug)]
struct Work {
    since: Timestamp,
    /// None if the thread was not bound.
    machine: Option<MachineId>,
    /// Its machine is not connected since then.
    away: Option<Timestamp>,
}

impl Presence {
    /// Work has begun, or goes on. Since when.
    pub fn begin(
        &self,
        account: AccountKey,
        thread: &ThreadId,
        machine: Option<MachineId>,
    ) -> Timestamp {
        let mut working = lock(&self.working);
        let now = time::now();
        let since = match working.get(&(account, thread.clone())) {
            Some(work) if work.away.is_none() && work.machine == machine => work.since,
            Some(_) => now,
            None if working.keys().filter(|it| it.0 == account).count() < WORKING_MAX => now,
            None => return now,
        };
        working.insert((account, thread.clone()), Work { since, machine, away: None });
        since
    }

    pub fn end(&self, account: AccountKey, thread: &ThreadId) {
        lock(&self.working).remove(&(account, thread.clone()));
    }

    /// Since when a thread is being worked on; None if it is not, or its machine is away.
    pub fn since(&self, account: AccountKey, thread: &ThreadId) -> Option<Timestamp> {
        let working = lock(&self.working);
        let work = working.get(&(account, thread.clone()))?;
        work.away.is_none().then_some(work.since)
    }

    /// Notes that a machine has gone or come back. The threads whose state that changes, with the
    /// time since when they are worked on now.
    pub(super) fn turn(
        &self,
        account: AccountKey,
        machine: &MachineId,
        is_here: bool,
    ) -> Vec<(ThreadId, Option<Timestamp>)> {
        let now = time::now();
        let mut changed = Vec::new();
        lock(&self.working).retain(|(owner, thread), work| {
            if *owner != account || work.machine.as_ref() != Some(machine) {
                return true;
            }
            match (work.away, is_here) {
                (None, false) => {
                    work.away = Some(now);
                    changed.push((thread.clone(), None));
                    true
                }
                (Some(away), true) if now.since(away) <= AWAY_TIME => {
                    work.away = None;
                    changed.push((thread.clone(), Some(work.since)));
                    true
                }
                (Some(_), true) => false,
                (None, true) | (Some(_), false) => true,
            }
        });
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_shown_while_its_machine_is_here() {
        let presence = Presence::default();
        let (account, other) = (AccountKey::test(1), AccountKey::test(2));
        let (thread, machine) = (ThreadId::new("t"), MachineId::new("box"));
        let since = presence.begin(account, &thread, Some(machine.clone()));
        assert_eq!(presence.begin(account, &thread, Some(machine.clone())), since);
        assert_eq!(presence.since(account, &thread), Some(since));
        assert_eq!(presence.since(other, &thread), None);
        assert_eq!(presence.turn(other, &machine, false), []);
        assert_eq!(presence.turn(account, &machine, false), [(thread.clone(), None)]);
        assert_eq!(presence.since(account, &thread), None);
        assert_eq!(presence.turn(account, &machine, true), [(thread.clone(), Some(since))]);
        assert_eq!(presence.turn(account, &machine, true), []);
        presence.turn(account, &machine, false);
        for work in lock(&presence.working).values_mut() {
            work.away = Some(Timestamp::default());
        }
        assert_eq!(presence.turn(account, &machine, true), []);
        assert_eq!(presence.since(account, &thread), None);
    }

    #[test]
    fn there_is_a_bound_for_each_account() {
        let presence = Presence::default();
        let (account, other) = (AccountKey::test(1), AccountKey::test(2));
        for n in 0..=WORKING_MAX {
            presence.begin(account, &ThreadId::new(n.to_string()), None);
        }
        assert_eq!(lock(&presence.working).len(), WORKING_MAX);
        let thread = ThreadId::new("t");
        presence.begin(other, &thread, None);
        assert!(presence.since(other, &thread).is_some());
        presence.end(other, &thread);
        assert!(presence.since(other, &thread).is_none());
    }
}
