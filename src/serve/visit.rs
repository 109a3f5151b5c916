//! A machine comes, stays and goes: what is stored of that, and what browsers are told.

use crate::{
    ids::MachineId,
    serve::{
        hub::{Hub, Subscription},
        lock,
        presence::{Machine, Visit},
        store::{AccountKey, Store},
        wire,
    },
};

/// Tells browsers what is known of a machine now.
pub fn tell(store: &Store, hub: &Hub, account: AccountKey, machine: &MachineId) {
    let presence = &hub.presence;
    let _telling = lock(&presence.telling);
    let connected = hub.machine(account, machine);
    for (thread, since) in presence.turn(account, machine, connected.is_some()) {
        hub.publish_transient(account, "activity", &wire::activity(&thread, since));
    }
    match store.machine(account, machine) {
        Ok(Some(known)) => {
            hub.publish_transient(account, "machine", &wire::machine(&known, connected.as_ref()));
        }
        // It has made room for others.
        Ok(None) => {}
        Err(error) => log::error!("a machine could not be looked up: {error:#}"),
    }
}

/// A daemon's stream has begun.
pub(super) fn begin(store: &Store, hub: &Hub, account: AccountKey, machine: Machine) -> Visit {
    let visit = Visit { account, machine };
    saw(store, [&visit]);
    tell(store, hub, account, &visit.machine.id);
    visit
}

/// These streams are over. Their machines were here until now: that is noted before their subscriptions
/// are given up, and what comes in from then on counts as missed.
pub(super) fn end(store: &Store, hub: &Hub, all: Vec<(Visit, Subscription)>) {
    saw(store, all.iter().map(|(visit, _)| visit));
    if hub.is_stopped() {
        // Nobody is left who could be told.
        return;
    }
    for (visit, subscription) in all {
        drop(subscription);
        tell(store, hub, visit.account, &visit.machine.id);
    }
}

/// These machines are here.
fn saw<'a>(store: &Store, visits: impl IntoIterator<Item = &'a Visit>) {
    let seen = visits.into_iter().map(|it| (it.account, &it.machine.id, &*it.machine.capabilities));
    if let Err(error) = store.saw_machines(seen) {
        log::error!("machines could not be noted: {error:#}");
    }
}
