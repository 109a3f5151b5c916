//! What a bridge with a page is told of this machine: which engines it has, why others are missing,
//! and where new conversations may work.

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
        self.machine.engines = verdicts.iter().map(engine).collect();
        self.tell_machine();
    }

    /// Only for people: what fails is told again at the next connection.
    pub(super) fn tell_machine(&self) {
        if !self.tells_machine {
            return;
        }
        let (client, info) = (self.shared.client.clone(), self.machine.clone());
        let started = task::spawn("machine", move || {
            if let Err(error) = client.machine(&info) {
                log::info!(error:% = error; "the bridge does not know what this machine can do");
            }
        });
        if let Err(error) = started {
            log::debug!(error:% = error; "cannot start a task that tells what this machine can do");
        }
    }
}
