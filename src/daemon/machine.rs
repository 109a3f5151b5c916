//! What a bridge with a page is told of this machine: which engines it has, why others are missing,
//! and where new conversations may work.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossbeam_channel::never;

use super::Daemon;
use crate::{
    agent::detect::Verdict,
    bridge::wire::{EngineInfo, MachineInfo},
    config::Config,
    ids::Engine,
    task,
};

/// What a bridge calls it that wants to know.
pub(super) const WORD: &str = "machine";

/// Before the engines were asked.
pub(super) fn info(config: &Config, engines: &[Engine]) -> MachineInfo {
    let dirs = std::iter::once(&config.project_dir).chain(&config.project_dirs);
    let engine = |name: &Engine| EngineInfo { name: name.clone(), version: None, missing: None };
    MachineInfo {
        machine: config.machine.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        engines: engines.iter().map(engine).collect(),
        project_dirs: dirs.map(|dir| dir.display().to_string()).collect(),
    }
}

fn engine(verdict: &Verdict) -> EngineInfo {
    EngineInfo {
        name: verdict.engine.clone(),
        version: verdict.version.clone(),
        missing: verdict.problem.clone(),
    }
}

/// What the bridge is to know. It is told by tasks, which take turns and tell the newest: of two
/// that go at the same time the older one could arrive last, and stay.
#[derive(Debug)]
pub(super) struct Telling {
    newest: Mutex<MachineInfo>,
    turn: Mutex<()>,
}

impl Telling {
    pub(super) fn new(info: MachineInfo) -> Telling {
        Telling { newest: Mutex::new(info), turn: Mutex::default() }
    }

    fn newest(&self) -> MutexGuard<'_, MachineInfo> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, tell: impl FnOnce(&MachineInfo)) {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let info = self.newest().clone();
        tell(&info);
    }
}

impl Daemon {
    /// All engines were asked.
    pub(super) fn detected(&mut self, verdicts: &[Verdict]) {
        // That is done once for each start.
        self.capabilities = never();
        let usable = verdicts.iter().filter(|verdict| verdict.usable());
        let names = usable.map(|verdict| verdict.engine.to_string()).collect();
        if let Some(stream) = &self.stream {
            stream.set_capabilities(names);
        }
        self.machine.newest().engines = verdicts.iter().map(engine).collect();
        self.tell_machine();
    }

    /// Only for people: what fails is told again at the next connection.
    pub(super) fn tell_machine(&self) {
        if !self.tells_machine {
            return;
        }
        let (client, machine) = (self.shared.client.clone(), Arc::clone(&self.machine));
        let started = task::spawn("machine", move || {
            machine.tell(|info| {
                if let Err(error) = client.machine(info) {
                    log::info!(error:% = error; "the bridge does not know what this machine can do");
                }
            });
        });
        if let Err(error) = started {
            log::debug!(error:% = error; "cannot start a task that tells what this machine can do");
        }
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::{bounded, unbounded};

    use super::*;
    use crate::ids::MachineId;

    #[test]
    fn who_waited_for_a_turn_tells_the_newest() {
        let info = MachineInfo {
            machine: MachineId::new("box"),
            version: "1".to_owned(),
            engines: Vec::new(),
            project_dirs: Vec::new(),
        };
        let machine = Arc::new(Telling::new(info));
        let ((begun, has_begun), (go_on, may_go_on)) = (bounded(1), bounded::<()>(0));
        let (told, all) = unbounded();
        let (first, first_told) = (Arc::clone(&machine), told.clone());
        let first = task::spawn("first", move || {
            first.tell(|info| {
                begun.send(()).unwrap();
                may_go_on.recv().unwrap();
                first_told.send(info.version.clone()).unwrap();
            });
        });
        has_begun.recv().unwrap();
        let second = Arc::clone(&machine);
        let second = task::spawn("second", move || {
            second.tell(|info| told.send(info.version.clone()).unwrap());
        });
        machine.newest().version = "2".to_owned();
        go_on.send(()).unwrap();
        first.unwrap().join().unwrap();
        second.unwrap().join().unwrap();
        assert_eq!(all.iter().collect::<Vec<_>>(), ["1", "2"]);
    }
}
