//! The table of engines: command line, environment, protocol, exit ladder. An agent that speaks ACP
//! is one row, or an entry in the user's config.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::process::Signal;

use crate::{
    agent::{
        Protocol, TurnSpec, acp, claude, codex, opencode,
        stdio::{Ladder, Step},
    },
    ids::Engine,
    proc::{Plan, kill::To, sweep::MARKER},
};

/// Which protocol an engine speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineKind {
    Claude,
    Codex,
    /// Over HTTP to a server that is kept; see [`opencode`].
    Opencode,
    Acp,
}

/// The kernel's part of the end: nothing catches a KILL.
const KILL: (Step, Duration) = (Step::Kill, Duration::from_secs(2));

/// After the interrupt. A TERM would leave Claude's running command behind, an INT does not
/// (claude 2.1.197).
const CLAUDE_LADDER: Ladder = &[
    (Step::CloseInput, Duration::from_secs(5)),
    (Step::Signal(Signal::INT, To::Process), Duration::from_secs(5)),
    KILL,
];

/// The other way round than Claude: here an INT leaves the command behind (codex 0.169.0). The
/// launcher of the npm package hands the signal on.
const CODEX_LADDER: Ladder = &[
    (Step::CloseInput, Duration::from_secs(5)),
    (Step::Signal(Signal::TERM, To::Process), Duration::from_secs(2)),
    KILL,
];

/// To the group, since the configured command may be a script around the agent.
const ACP_LADDER: Ladder = &[
    (Step::CloseInput, Duration::from_secs(3)),
    (Step::Signal(Signal::TERM, To::Group), Duration::from_secs(2)),
    KILL,
];

impl EngineKind {
    /// A fresh protocol for one turn.
    pub fn protocol(self) -> Box<dyn Protocol> {
        match self {
            EngineKind::Claude => Box::<claude::Claude>::default(),
            EngineKind::Codex => Box::<codex::Codex>::default(),
            EngineKind::Opencode => Box::<opencode::Opencode>::default(),
            EngineKind::Acp => Box::<acp::Acp>::default(),
        }
    }

    /// Whether the model can use `bridge_post` and `bridge_thread_read`.
    pub fn has_bridge_tools(self) -> bool {
        matches!(self, EngineKind::Claude | EngineKind::Codex)
    }

    /// Whether the model can be told why something was refused.
    pub fn takes_reasons(self) -> bool {
        self != EngineKind::Acp
    }

    /// How a process of this kind is made to leave.
    pub fn ladder(self) -> Ladder {
        match self {
            EngineKind::Claude => CLAUDE_LADDER,
            EngineKind::Codex => CODEX_LADDER,
            EngineKind::Opencode | EngineKind::Acp => ACP_LADDER,
        }
    }

    /// What follows the program on the command line.
    fn args(self, spec: &TurnSpec) -> Vec<String> {
        match self {
            EngineKind::Claude => claude::args(spec),
            EngineKind::Codex => codex::args(spec),
            EngineKind::Opencode | EngineKind::Acp => Vec::new(),
        }
    }

    /// Variables that the engine is given.
    fn env(self) -> &'static [(&'static str, &'static str)] {
        match self {
            EngineKind::Claude => claude::ENV,
            EngineKind::Codex | EngineKind::Opencode | EngineKind::Acp => &[],
        }
    }

    /// Variables that would change what the engine does.
    fn env_remove(self) -> &'static [&'static str] {
        match self {
            EngineKind::Claude => claude::ENV_REMOVE,
            EngineKind::Codex | EngineKind::Opencode | EngineKind::Acp => &[],
        }
    }
}

/// One row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineDef {
    pub name: Engine,
    /// The program, from `PATH` or the config, and the arguments that always come first. Never
    /// empty.
    pub program: Vec<String>,
    pub kind: EngineKind,
}

impl EngineDef {
    /// How to start the engine for a turn. `marker` is the turn's; see [`crate::proc::sweep`].
    /// `base_env` is the daemon's own environment, of which nothing that is ours is handed on, and
    /// nothing that holds `token`, whatever its name.
    pub fn plan(
        &self,
        spec: &TurnSpec,
        base_env: &[(OsString, OsString)],
        token: Option<&str>,
        marker: &str,
    ) -> Plan {
        let (program, leading) = self.program.split_first().expect("rows without one aren't made");
        let args = leading.iter().cloned().chain(self.kind.args(spec)).map(OsString::from);
        let own = self.kind.env().iter().copied().chain([(MARKER, marker)]);
        let dropped = |name: &OsStr| self.kind.env_remove().iter().any(|removed| name == *removed);
        let mut env: BTreeMap<OsString, OsString> = base_env
            .iter()
            .filter(|(name, value)| !is_ours(name) && !dropped(name) && !holds(value, token))
            .cloned()
            .collect();
        env.extend(own.map(|(name, value)| (name.into(), value.into())));
        Plan {
            program: PathBuf::from(program),
            args: args.collect(),
            dir: spec.project_dir.clone(),
            env: env.into_iter().collect(),
        }
    }
}

/// Variables of this program and of the one that it replaces.
pub fn is_ours(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    name.starts_with(b"BRIDGE_") || name.starts_with(b"OBTO_") || name == b"AGENT_ID"
}

/// `env` without the variables that hold `token`, whatever their names.
pub fn without_token(
    mut env: Vec<(OsString, OsString)>,
    token: Option<&str>,
) -> Vec<(OsString, OsString)> {
    env.retain(|(_, value)| !holds(value, token));
    env
}

/// Whether `token` is in `value`, alone or as a part, as in a URL.
fn holds(value: &OsStr, token: Option<&str>) -> bool {
    let token = token.unwrap_or_default().as_bytes();
    !token.is_empty() && value.as_encoded_bytes().windows(token.len()).any(|window| window == token)
}

/// All engines that may be asked for. Whether they work here is `detect`'s business.
#[derive(Clone, Debug)]
pub struct Engines {
    rows: BTreeMap<Engine, EngineDef>,
}

impl Engines {
    /// `configured` are the config's commands: of agents that speak ACP, and of known engines that
    /// are not in `PATH`, which keep their protocol. An empty command counts as none. `own_program`
    /// is this executable, which plays the echo engine.
    pub fn new(configured: BTreeMap<Engine, Vec<String>>, own_program: &Path) -> Engines {
        let echo = vec![own_program.display().to_string(), "echo-agent".to_owned()];
        let known = [
            (Engine::CLAUDE, vec!["claude".to_owned()], EngineKind::Claude),
            (Engine::CODEX, vec!["codex".to_owned()], EngineKind::Codex),
            (Engine::OPENCODE, vec!["opencode".to_owned()], EngineKind::Opencode),
            (Engine::ECHO, echo, EngineKind::Acp),
        ];
        let row = |name: Engine, program, kind| (name.clone(), EngineDef { name, program, kind });
        let mut rows: BTreeMap<_, _> =
            known.into_iter().map(|(name, program, kind)| row(name, program, kind)).collect();
        for (name, program) in configured {
            if !program.is_empty() {
                let kind = rows.get(&name).map_or(EngineKind::Acp, |known| known.kind);
                rows.extend([row(name, program, kind)]);
            }
        }
        Engines { rows }
    }

    pub fn get(&self, name: &Engine) -> Option<&EngineDef> {
        self.rows.get(name)
    }

    pub fn names(&self) -> impl Iterator<Item = &Engine> {
        self.rows.keys()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        agent::{Gate, Sandbox},
        ids::{SessionId, ThreadId, TurnId, random_uuid},
    };

    fn spec() -> TurnSpec {
        TurnSpec {
            turn: TurnId::new("t1"),
            thread: ThreadId::new("thread"),
            prompt: "hello".to_owned(),
            images: Vec::new(),
            session: None,
            fresh_session: SessionId::new(random_uuid()),
            project_dir: PathBuf::from("/project"),
            title: "hello".to_owned(),
            gate: Gate::Ask,
            asks_human: false,
            sandbox: Sandbox::default(),
            model: None,
        }
    }

    fn engines(configured: &[(&str, &[&str])]) -> Engines {
        let configured = configured.iter().map(|(name, command)| {
            (Engine::new(name), command.iter().map(|&word| word.to_owned()).collect())
        });
        Engines::new(configured.collect(), Path::new("/opt/obto-bridge"))
    }

    #[track_caller]
    fn check(engines: &Engines, name: &str, program: &[&str], kind: EngineKind) {
        let row = engines.get(&Engine::new(name)).expect(name);
        assert_eq!((row.program.join(" "), row.kind), (program.join(" "), kind), "{name}");
    }

    #[test]
    fn the_config_adds_agents_and_moves_known_ones() {
        let engines = engines(&[
            ("gemini", &["gemini", "--acp"]),
            ("claude", &["/opt/claude", "--debug"]),
            ("codex", &[]),
            ("nothing", &[]),
        ]);
        check(&engines, "gemini", &["gemini", "--acp"], EngineKind::Acp);
        check(&engines, "claude", &["/opt/claude", "--debug"], EngineKind::Claude);
        check(&engines, "codex", &["codex"], EngineKind::Codex);
        check(&engines, "opencode", &["opencode"], EngineKind::Opencode);
        check(&engines, "echo", &["/opt/obto-bridge", "echo-agent"], EngineKind::Acp);
        let names: Vec<&str> = engines.names().map(Engine::as_str).collect();
        assert_eq!(names, ["claude", "codex", "echo", "gemini", "opencode"]);
    }

    #[test]
    fn nothing_of_ours_reaches_an_engine_but_the_marker() {
        let base: Vec<(OsString, OsString)> = [
            ("PATH", "/bin"),
            ("HOME", "/home/x"),
            ("ANTHROPIC_API_KEY", "key"),
            ("BRIDGE_TOKEN", "s3cret"),
            ("BRIDGE_URL", "https://bridge"),
            ("AGENT_ID", "laptop"),
            ("OBTO_BRIDGE_TURN", "other.turn"),
            ("OBTO_ANYTHING", "x"),
            ("COPY", "s3cret"),
            ("WEBHOOK", "https://x/?t=s3cret&u=1"),
        ]
        .map(|(name, value)| (name.into(), value.into()))
        .to_vec();
        let names = |engine: &str, token| -> Vec<String> {
            let plan = engines(&[("gemini", &["gemini", "--acp"])])
                .get(&Engine::new(engine))
                .unwrap()
                .plan(&spec(), &base, token, "state.t1");
            assert_eq!(plan.dir, Path::new("/project"));
            let marker = (OsString::from(MARKER), OsString::from("state.t1"));
            assert_eq!(
                plan.env.iter().filter(|(name, _)| name == MARKER).collect::<Vec<_>>(),
                [&marker]
            );
            plan.env.into_iter().map(|(name, _)| name.into_string().unwrap()).collect()
        };
        let clean = ["ANTHROPIC_API_KEY", "HOME", "OBTO_BRIDGE_TURN", "PATH"];
        assert_eq!(names("gemini", Some("s3cret")), clean);
        for engine in ["claude", "codex", "opencode", "echo"] {
            let names = names(engine, Some("s3cret"));
            for secret in ["BRIDGE_TOKEN", "BRIDGE_URL", "AGENT_ID", "COPY", "WEBHOOK"] {
                assert!(!names.iter().any(|name| name == secret), "{engine} {secret}");
            }
        }
        assert!(names("gemini", None).contains(&"COPY".to_owned()));
        assert!(names("gemini", Some("")).contains(&"COPY".to_owned()));
    }

    #[test]
    fn leading_arguments_stay_in_front() {
        let engines = engines(&[("gemini", &["gemini", "--acp", "-x"])]);
        let plan = engines.get(&Engine::new("gemini")).unwrap().plan(&spec(), &[], None, "s.t");
        assert_eq!(
            (plan.program, plan.args),
            ("gemini".into(), vec![OsString::from("--acp"), OsString::from("-x")])
        );
    }

    #[test]
    fn every_ladder_ends_with_a_kill() {
        for kind in [EngineKind::Claude, EngineKind::Codex, EngineKind::Opencode, EngineKind::Acp] {
            assert_eq!(kind.ladder().last().map(|step| step.0), Some(Step::Kill), "{kind:?}");
        }
    }
}
