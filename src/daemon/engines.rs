//! Which engines this machine offers, and what they are started with.

use std::{
    ffi::OsString,
    io::ErrorKind,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use crossbeam_channel::{Receiver, bounded};
use sha2::{Digest, Sha256};

use super::Setup;
use crate::{
    agent::{
        Exit, Model,
        detect::{self, Cache, EngineStatus},
        engines::Engines,
        launch::{self, EngineDef},
        opencode::server,
    },
    config::{Config, Token},
    ids::{self, Engine},
    proc::{self, Plan},
    store::{Disk, RealDisk},
    task::{self, Task},
};

/// `claude --version` takes 0.1 s, opencode's 1 s; a busy machine is slower.
const VERSION: Duration = Duration::from_secs(20);

/// More than any version is long.
const OUTPUT_BYTES: usize = 16 * 1024;

/// The model that opencode gets when the config names a provider or a model alone: the
/// reference's defaults (protocol section 5).
const OPENCODE_PROVIDER: &str = "anthropic";
const OPENCODE_MODEL: &str = "claude-sonnet-4-5";

/// What engines inherit of the daemon's environment.
pub(super) fn inherited(setup: &Setup) -> Vec<(OsString, OsString)> {
    launch::inherited(&setup.env.vars, setup.config.token.as_ref().map(Token::reveal))
}

/// Tells this state directory's turns from those of other daemons on the machine.
pub(super) fn state_id(dir: &Path) -> String {
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    ids::hex(&Sha256::digest(dir.as_os_str().as_encoded_bytes())[..8])
}

/// Finds out which engines are usable. Asking takes seconds, so what is there counts as usable for
/// the first connection.
pub(super) struct Detection {
    engines: Vec<EngineDef>,
    /// What is looked at, and what a program is asked with.
    path: OsString,
    env: Vec<(OsString, OsString)>,
    cwd: PathBuf,
    /// What an earlier daemon learned of the same programs.
    cache_file: PathBuf,
}

impl Detection {
    pub(super) fn new(setup: &Setup, engines: &Engines, dir: &Path) -> Detection {
        let is_offered = |row: &&EngineDef| setup.offers_echo || row.name != Engine::ECHO;
        Detection {
            engines: engines.values().filter(is_offered).cloned().collect(),
            path: setup.env.var("PATH").unwrap_or_default().to_owned(),
            env: inherited(setup),
            cwd: setup.env.cwd.clone(),
            cache_file: dir.join("engines.json"),
        }
    }

    /// Without starting anything.
    pub(super) fn present(&self) -> Vec<Engine> {
        let statuses = self.engines.iter().map(|row| detect::look(row, &self.path, &self.cwd));
        statuses.filter(EngineStatus::is_usable).map(|status| status.engine).collect()
    }

    /// Begins to ask; the status of each engine comes later.
    pub(super) fn start(self) -> Receiver<Vec<EngineStatus>> {
        let (answer, answers) = bounded(1);
        let asked = task::spawn("detect", move || {
            answer.send(self.ask()).ok(); // The loop may have ended.
        });
        if let Err(error) = asked {
            log::error!(error:% = error; "cannot start the task that asks engines for their versions");
        }
        answers
    }

    /// Asks every known program that is there for its version.
    fn ask(&self) -> Vec<EngineStatus> {
        let before = RealDisk.read(&self.cache_file).unwrap_or_default();
        let mut cache: Cache = serde_json::from_slice(&before).unwrap_or_default();
        let mut run = |row: &EngineDef, program: &Path, args: &[&str]| self.run(row, program, args);
        let detect = |row| detect::detect(row, &self.path, &self.cwd, &mut cache, &mut run);
        let statuses: Vec<EngineStatus> = self.engines.iter().map(detect).collect();
        statuses.iter().for_each(report);
        let bytes = serde_json::to_vec(&cache).expect("a cache is texts and numbers");
        if bytes != before
            && let Err(error) = RealDisk.write_atomic(&self.cache_file, &bytes)
        {
            log::debug!(error:% = error; "the engines' versions are not remembered");
        }
        statuses
    }

    fn run(
        &self,
        row: &EngineDef,
        program: &Path,
        args: &[&str],
    ) -> Result<(Exit, String), String> {
        let plan = Plan {
            program: program.to_owned(),
            args: args.iter().map(OsString::from).collect(),
            dir: self.cwd.clone(),
            env: row.environment(&self.env),
        };
        let output =
            proc::run(&plan, VERSION, OUTPUT_BYTES).map_err(|error| match error.kind() {
                // Of the program itself, which is the same when it is started for a turn.
                ErrorKind::InvalidData | ErrorKind::PermissionDenied => {
                    format!("{error}. {}", row.not_started(&error).advice)
                }
                _ => error.to_string(),
            })?;
        if output.timed_out {
            return Err(format!("no answer in {} s", VERSION.as_secs()));
        }
        let text = format!("{}\n{}", String::from_utf8_lossy(&output.stdout), output.stderr);
        Ok((output.status.into(), text))
    }
}

fn report(status: &EngineStatus) {
    let EngineStatus { engine, program, version, problem, note } = status;
    let version = version.as_deref().unwrap_or("unknown");
    match (program, problem) {
        (None, _) => log::info!(agent = engine.as_str(); "agent not installed"),
        (Some(program), Some(problem)) => log::warn!(
            agent = engine.as_str(), program:% = program.display(), problem = problem.as_str();
            "agent does not work here"
        ),
        (Some(program), None) => log::info!(
            agent = engine.as_str(), program:% = program.display(), version,
            note = note.as_deref().unwrap_or_default();
            "agent found"
        ),
    }
}

/// The keeper of opencode's server, which is started with the first turn that needs it.
pub(super) fn opencode(
    setup: &Setup,
    engines: &Engines,
    state_id: &str,
) -> anyhow::Result<(server::ServerHandle, Task)> {
    let row = engines.get(&Engine::OPENCODE).context("opencode is always in the table")?;
    let (home, startup) = (&setup.env.home, setup.config.startup_timeout);
    server::start(row, home, startup, &inherited(setup), state_id)
}

/// None, if neither is configured: then opencode's own default is used.
pub(super) fn opencode_model(config: &Config) -> Option<Model> {
    let Config { opencode_provider, opencode_model, .. } = config;
    if opencode_provider.is_none() && opencode_model.is_none() {
        return None;
    }
    let or =
        |value: &Option<String>, default: &str| value.clone().unwrap_or_else(|| default.to_owned());
    Some(Model {
        provider: or(opencode_provider, OPENCODE_PROVIDER),
        model: or(opencode_model, OPENCODE_MODEL),
    })
}
