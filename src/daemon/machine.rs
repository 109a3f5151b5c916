//! What a bridge with a page shows of this machine: its engines, why others are missing, and where
//! new conversations may work.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::calls::Calls;
use crate::{
    agent::detect::EngineStatus,
    bridge::wire::{EngineInfo, MachineInfo},
    config::Config,
    ids::Engine,
    task::TaskRole,
};

/// The bridge's word for it in `accepts`.
const WORD: &str = "machine";

/// Before the engines were asked.
pub(super) fn info(config: &Config, engines: &[Engine]) -> MachineInfo {
    let dirs = std::iter::once(&config.project_dir).chain(&config.project_dirs);
    let engine = |name: &Engine| EngineInfo { name: name.clone(), version: None, missing: None };
    MachineInfo {
        machine: config.machine.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        engines: engines.iter().map(engine).collect(),
        project_dirs: dirs.map(ToString::to_string).collect(),
    }
}

fn engine(status: &EngineStatus) -> EngineInfo {
    EngineInfo {
        name: status.engine.clone(),
        version: status.version.clone(),
        missing: status.problem.clone(),
    }
}

/// What the bridge is to know. The tasks that send it take turns and send the newest: of two
/// requests at the same time the older one could arrive last, and stay.
#[derive(Debug)]
struct Telling {
    newest: Mutex<MachineInfo>,
    turn: Mutex<()>,
}

impl Telling {
    fn new(info: MachineInfo) -> Telling {
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

/// Tells bridges that want to know.
#[derive(Debug)]
pub(super) struct Announcer {
    machine: Arc<Telling>,
    /// The bridge of this connection wants to know.
    is_wanted: bool,
}

impl Announcer {
    pub(super) fn new(info: MachineInfo) -> Announcer {
        Announcer { machine: Arc::new(Telling::new(info)), is_wanted: false }
    }

    /// The bridge has said what it takes.
    pub(super) fn accepts(&mut self, words: &[String], calls: &Calls) {
        self.is_wanted = words.iter().any(|word| word == WORD);
        self.announce(calls);
    }

    pub(super) fn disconnected(&mut self) {
        self.is_wanted = false;
    }

    /// All engines were asked.
    pub(super) fn detected(&self, statuses: &[EngineStatus], calls: &Calls) {
        self.machine.newest().engines = statuses.iter().map(engine).collect();
        self.announce(calls);
    }

    /// Only for people: after a failure the next connection sends it again.
    fn announce(&self, calls: &Calls) {
        if !self.is_wanted {
            return;
        }
        let (client, machine) = (calls.shared.client.clone(), Arc::clone(&self.machine));
        let started = calls.tasks.spawn("machine", TaskRole::Helper(None), move || {
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
    use crate::{ids::MachineId, task};

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
