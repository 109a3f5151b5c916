//! A machine comes, stays and goes: what is stored of that, and what browsers are told.

use crate::{
    ids::MachineId,
    serve::{
        hub::Hub,
        lock,
        presence::Machine,
        store::{AccountKey, Store},
        wire,
    },
};

/// Tells browsers what is known of a machine now.
pub fn tell(store: &Store, hub: &Hub, account: AccountKey, machine: &MachineId) {
    let presence = &hub.presence;
    let _telling = lock(&presence.telling);
    let connected = hub.machines(account).remove(machine);
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

/// A daemon's stream, from its beginning to its end.
#[derive(Debug)]
pub struct Visit<'a> {
    store: &'a Store,
    hub: &'a Hub,
    account: AccountKey,
    machine: Machine,
}

impl Visit<'_> {
    pub fn begin<'a>(
        store: &'a Store,
        hub: &'a Hub,
        account: AccountKey,
        machine: Machine,
    ) -> Visit<'a> {
        let visit = Visit { store, hub, account, machine };
        visit.saw();
        visit.tell();
        visit
    }

    /// The machine is here. Noted once more when the stream is over and its subscription not yet
    /// given up: what comes in from then on counts as missed.
    pub fn saw(&self) {
        let Machine { id, capabilities, .. } = &self.machine;
        if let Err(error) = self.store.saw_machine(self.account, id, capabilities) {
            log::error!("a machine could not be noted: {error:#}");
        }
    }

    fn tell(&self) {
        tell(self.store, self.hub, self.account, &self.machine.id);
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        self.tell();
    }
}
