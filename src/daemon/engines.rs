//! Which engines this machine offers, and what they are started with.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use anyhow::Context;
use crossbeam_channel::{Receiver, bounded};
use rustix::process::Signal;
use sha2::{Digest, Sha256};

use super::Setup;
use crate::{
    agent::{
        Exit,
        detect::{self, Cache, Verdict},
        engines::{self, Engines},
        opencode::server::{self, Command, Process, ServerKeeper, Spawner},
    },
    config::Token,
    ids::{self, Engine},
    proc::{
        self, Child, Event, Plan,
        kill::To,
        sweep::{self, Before, Marked},
    },
    store::{Disk, RealDisk},
    task,
};

/// `claude --version` takes 0.1 s, opencode's 1 s; a busy machine is slower.
const VERSION: Duration = Duration::from_secs(20);

/// More than any version is long.
const OUTPUT_BYTES: usize = 16 * 1024;

/// Lines of opencode's server between two looks of its keeper.
const LINES: usize = 64;

/// How long what opencode's server left behind is hunted.
const SWEEP: Duration = Duration::from_secs(2);

/// An unused opencode server is kept for this long.
const OPENCODE_IDLE: Duration = Duration::from_mins(5);

/// The table of engines: the known ones, and the config's.
pub(super) fn table(setup: &Setup) -> Engines {
    Engines::new(setup.config.agents.clone(), &setup.own_program)
}

/// Tells this state directory's turns from those of other daemons on the machine.
pub(super) fn state_id(dir: &Path) -> String {
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    ids::hex(&Sha256::digest(dir.as_os_str().as_encoded_bytes())[..8])
}

/// The engines that are probably usable, at once, and the verdict on each, later.
/// Asking takes seconds, so what an earlier daemon learned of the same programs is taken for the
/// first connection; a program that was never asked counts as usable if it is there.
pub(super) fn detect(
    setup: &Setup,
    engines: &Engines,
    dir: &Path,
) -> (Vec<Engine>, Receiver<Vec<Verdict>>) {
    let detection = Detection::new(setup, engines, dir);
    let known = detection.present();
    let (answer, answers) = bounded(1);
    let asked = task::spawn("detect", move || {
        answer.send(detection.ask()).ok(); // The daemon may have left.
    });
    if let Err(error) = asked {
        log::error!(error:% = error; "cannot start the task that asks engines for their versions");
    }
    (known, answers)
}

struct Detection {
    /// Names and programs.
    engines: Vec<(Engine, String)>,
    vars: BTreeMap<OsString, OsString>,
    cwd: PathBuf,
    cache_file: PathBuf,
}

impl Detection {
    fn new(setup: &Setup, engines: &Engines, dir: &Path) -> Detection {
        let is_offered = |name: &&Engine| setup.offers_echo || **name != Engine::ECHO;
        let rows = engines.names().filter(is_offered).filter_map(|name| engines.get(name));
        Detection {
            engines: rows.map(|row| (row.name.clone(), row.program[0].clone())).collect(),
            vars: setup.env.vars.clone(),
            cwd: setup.env.cwd.clone(),
            cache_file: dir.join("engines.json"),
        }
    }

    fn path(&self) -> &OsStr {
        self.vars.get(OsStr::new("PATH")).map_or(OsStr::new(""), OsString::as_os_str)
    }

    /// Without starting anything.
    fn present(&self) -> Vec<Engine> {
        let is_there =
            |program: &String| detect::find_program(program, self.path(), &self.cwd).is_some();
        let there = self.engines.iter().filter(|(_, program)| is_there(program));
        there.map(|(engine, _)| engine.clone()).collect()
    }

    /// Asks every program that is there for its version. A configured agent is asked nothing, since
    /// nobody knows what it would do.
    fn ask(&self) -> Vec<Verdict> {
        let bytes = RealDisk.read(&self.cache_file).unwrap_or_default();
        let mut cache: Cache = serde_json::from_slice(&bytes).unwrap_or_default();
        let mut verdicts = Vec::new();
        for (engine, program) in &self.engines {
            let is_known = [Engine::CLAUDE, Engine::CODEX, Engine::OPENCODE].contains(engine);
            if !is_known {
                verdicts.push(detect::look(engine, program, self.path(), &self.cwd));
                continue;
            }
            let mut run = |program: &Path, args: &[&str]| self.run(program, args);
            let verdict =
                detect::detect(engine, program, self.path(), &self.cwd, &mut cache, &mut run);
            report(&verdict);
            verdicts.push(verdict);
        }
        let bytes = serde_json::to_vec(&cache).expect("a cache is plain data");
        if let Err(error) = RealDisk.write_atomic(&self.cache_file, &bytes) {
            log::debug!(error:% = error; "the engines' versions are not remembered");
        }
        verdicts
    }

    fn run(&self, program: &Path, args: &[&str]) -> Result<(Exit, String), String> {
        let plan = Plan {
            program: program.to_owned(),
            args: args.iter().map(OsString::from).collect(),
            dir: self.cwd.clone(),
            env: inherited(&self.vars),
        };
        let output =
            proc::run(&plan, None, VERSION, OUTPUT_BYTES).map_err(|error| error.to_string())?;
        if output.timed_out {
            return Err(format!("no answer in {} s", VERSION.as_secs()));
        }
        let text = format!("{}\n{}", String::from_utf8_lossy(&output.stdout), output.stderr);
        Ok((output.status.map_or(Exit::Unknown, exit), text))
    }
}

fn exit(status: ExitStatus) -> Exit {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, Some(signal)) => Exit::Signal(signal),
        (None, None) => Exit::Unknown,
    }
}

fn report(verdict: &Verdict) {
    let Verdict { engine, program, version, problem, note } = verdict;
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

/// What engines inherit before their own settings: everything but what is ours.
fn inherited(vars: &BTreeMap<OsString, OsString>) -> Vec<(OsString, OsString)> {
    let vars = vars.iter().filter(|(name, _)| !engines::is_ours(name));
    vars.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// The keeper of opencode's server, which is started with the first turn that needs it.
pub(super) fn opencode(
    setup: &Setup,
    engines: &Engines,
    state_id: &str,
) -> anyhow::Result<server::Handle> {
    let row = engines.get(&Engine::OPENCODE).context("opencode is always in the table")?;
    let config = server::Config {
        program: row.program[0].clone().into(),
        cwd: setup.env.home.clone(),
        idle: OPENCODE_IDLE,
        startup: setup.config.startup_timeout,
    };
    let token = setup.config.token.as_ref().map(Token::reveal);
    let spawner = ServerSpawner {
        leading: row.program[1..].iter().map(OsString::from).collect(),
        env: engines::without_token(inherited(&setup.env.vars), token),
        state_id: state_id.to_owned(),
    };
    ServerKeeper::start(config, spawner)
}

/// Starts opencode's server like every other engine: own group, marked, without our secrets.
struct ServerSpawner {
    /// Arguments that the config puts before ours.
    leading: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    state_id: String,
}

impl Spawner for ServerSpawner {
    fn spawn(&mut self, command: &Command) -> anyhow::Result<Box<dyn Process>> {
        let marker = sweep::marker(&self.state_id, &format!("opencode-{}", ids::random_hex()));
        let ours = [(OsString::from(sweep::MARKER), OsString::from(&marker))];
        let plan = Plan {
            program: PathBuf::from(&command.program),
            args: [self.leading.clone(), command.args.clone()].concat(),
            dir: command.cwd.clone(),
            env: [self.env.clone(), command.env.clone(), ours.to_vec()].concat(),
        };
        let child = Child::spawn(&plan)?;
        let (line, lines) = bounded(LINES);
        let (exit, exited) = bounded(1);
        let events = child.events().clone();
        // Ends with the child's output, which the keeper drains.
        task::spawn("opencode-out", move || {
            for event in events {
                match event {
                    Event::Line(text) => {
                        // A keeper that no longer listens is about to end the server.
                        line.send(String::from_utf8_lossy(&text).into_owned()).ok();
                    }
                    Event::LongLine(_) => {}
                    Event::Exit { stderr_tail, .. } => {
                        log::debug!(stderr = stderr_tail.as_str(); "opencode's server ended");
                        exit.send(()).ok();
                        return;
                    }
                }
            }
        })?;
        Ok(Box::new(ServerProcess { child, marker, lines, exited }))
    }
}

struct ServerProcess {
    child: Child,
    marker: String,
    lines: Receiver<String>,
    exited: Receiver<()>,
}

impl Process for ServerProcess {
    fn lines(&self) -> &Receiver<String> {
        &self.lines
    }

    fn exited(&self) -> &Receiver<()> {
        &self.exited
    }

    fn terminate(&mut self) {
        self.child.handle().signal(Signal::TERM, To::Group).ok(); // Gone already is as good.
    }

    fn kill(&mut self) {
        self.child.handle().signal(Signal::KILL, To::Group).ok();
        sweep::sweep(Marked::Turn(&self.marker), &Before::default(), SWEEP);
    }
}
