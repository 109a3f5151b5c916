//! A machine comes, stays and goes: what is stored of that, and what browsers are told.

use std::sync::PoisonError;

use crate::{
    ids::MachineId,
    serve::{
        hub::Hub,
        presence::Machine,
        store::{AccountKey, Store},
        wire,
    },
};

/// Tells browsers what is known of a machine now.
pub fn tell(store: &Store, hub: &Hub, account: AccountKey, machine: &MachineId) {
    let presence = &hub.presence;
    let _telling = presence.telling.lock().unwrap_or_else(PoisonError::into_inner);
    let connected = hub.machines(account).into_iter().find(|it| it.id == *machine);
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
    machine: Option<Machine>,
    has_begun: bool,
}

impl Visit<'_> {
    /// `machine` is none for browsers, whose visits are not noted.
    pub fn new<'a>(
        store: &'a Store,
        hub: &'a Hub,
        account: AccountKey,
        machine: Option<Machine>,
    ) -> Visit<'a> {
        Visit { store, hub, account, machine, has_begun: false }
    }

    /// The stream is open.
    pub fn begin(&mut self) {
        self.has_begun = true;
        self.saw();
        self.tell();
    }

    /// The stream is over, and its subscription not yet given up: what comes in from now on counts
    /// as missed.
    pub fn end(&self) {
        if self.has_begun {
            self.saw();
        }
    }

    fn saw(&self) {
        let Some(machine) = &self.machine else { return };
        let seen = self.store.saw_machine(self.account, &machine.id, &machine.capabilities);
        if let Err(error) = seen {
            log::error!("a machine could not be noted: {error:#}");
        }
    }

    fn tell(&self) {
        if let Some(machine) = &self.machine {
            tell(self.store, self.hub, self.account, &machine.id);
        }
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        if self.has_begun {
            self.tell();
        }
    }
}
