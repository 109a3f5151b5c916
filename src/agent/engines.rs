//! The table of engines. An agent that speaks ACP needs no row: it is an entry in the user's config.

use std::{collections::BTreeMap, path::Path};

use crate::{
    agent::{acp, claude, codex, description::Description, launch::EngineDef, opencode},
    config::agents::Agent,
    ids::Engine,
};

/// The engines with a protocol of their own.
static KNOWN: [(&str, &Description); 3] = [
    ("claude", &claude::description::DESCRIPTION),
    ("codex", &codex::description::DESCRIPTION),
    ("opencode", &opencode::description::DESCRIPTION),
];

/// What is known of `engine`. Every name that is not in the table is an agent that speaks ACP.
pub fn describe(engine: &Engine) -> &'static Description {
    let known = KNOWN.iter().find(|(name, _)| *name == engine.as_str());
    known.map_or(&acp::description::DESCRIPTION, |(_, description)| description)
}

/// All engines that may be asked for. Whether they work here is `detect`'s business.
pub type Engines = BTreeMap<Engine, EngineDef>;

/// `configured` are the config's: agents that speak ACP, and known engines that are not in `PATH`,
/// which keep their protocol. An empty command counts as none. `own_program` is this executable,
/// which plays the echo engine.
pub fn table(configured: BTreeMap<Engine, Agent>, own_program: &Path) -> Engines {
    let plain = |command| Agent { command, ..Agent::default() };
    let echo = plain(vec![own_program.display().to_string(), "echo-agent".to_owned()]);
    let known = KNOWN.iter().map(|(name, _)| (Engine::new(name), plain(vec![(*name).to_owned()])));
    let configured = configured.into_iter().filter(|(_, agent)| !agent.command.is_empty());
    let rows = known.chain([(Engine::ECHO, echo)]).chain(configured).map(|(name, agent)| {
        let Agent { command, env, auth_method } = agent;
        let description = describe(&name);
        (name.clone(), EngineDef { name, command, description, env, auth_method })
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, ffi::OsString, ptr, sync::Arc};

    use super::*;
    use crate::{
        agent::{
            Gate, Login, Sandbox, TurnSpec,
            description::{Launch, McpReadings},
            launch::inherited,
            stdio::LadderStep,
        },
        ids::{SessionId, TurnId, random_uuid},
        proc::{Plan, sweep::MARKER},
    };

    fn plan(engines: &Engines, name: &str, env: &[(OsString, OsString)]) -> Option<Plan> {
        let row = &engines[&Engine::new(name)];
        match &row.description.launch {
            Launch::Process(process) => Some(row.plan(process, &spec(), env, "state.t1")),
            Launch::SharedServer => None,
        }
    }

    fn spec() -> TurnSpec {
        TurnSpec {
            own_files: Vec::new(),
            has_own_files: false,
            turn: TurnId::new("t1"),
            prompt: Arc::new("hello".to_owned()),
            images: Vec::new(),
            session: None,
            fresh_session: SessionId::new(random_uuid()),
            project_dir: "/project".into(),
            title: "hello".to_owned(),
            gate: Gate::Ask,
            asks_human: false,
            sandbox: Sandbox::default(),
            model: None,
            login: Login::default(),
        }
    }

    fn engines(configured: &[(&str, &[&str])]) -> Engines {
        let configured = configured.iter().map(|(name, command)| {
            let command = command.iter().map(|&word| word.to_owned()).collect();
            (Engine::new(name), Agent { command, ..Agent::default() })
        });
        table(configured.collect(), Path::new("/opt/obto-bridge"))
    }

    #[track_caller]
    fn check(engines: &Engines, name: &str, command: &[&str], description: &Description) {
        let row = engines.get(&Engine::new(name)).expect(name);
        assert_eq!(row.command.join(" "), command.join(" "), "{name}");
        assert!(ptr::eq(row.description, description), "{name}");
    }

    #[test]
    fn the_config_adds_agents_and_moves_known_ones() {
        let engines = engines(&[
            ("gemini", &["gemini", "--acp"]),
            ("claude", &["/opt/claude", "--debug"]),
            ("codex", &[]),
            ("nothing", &[]),
        ]);
        check(&engines, "gemini", &["gemini", "--acp"], &acp::description::DESCRIPTION);
        check(&engines, "claude", &["/opt/claude", "--debug"], &claude::description::DESCRIPTION);
        check(&engines, "codex", &["codex"], &codex::description::DESCRIPTION);
        check(&engines, "opencode", &["opencode"], &opencode::description::DESCRIPTION);
        check(
            &engines,
            "echo",
            &["/opt/obto-bridge", "echo-agent"],
            &acp::description::DESCRIPTION,
        );
        let names: Vec<&str> = engines.keys().map(Engine::as_str).collect();
        assert_eq!(names, ["claude", "codex", "echo", "gemini", "opencode"]);
    }

    #[test]
    fn nothing_of_ours_reaches_an_engine_but_the_marker() {
        let base: BTreeMap<OsString, OsString> = [
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
        .into();
        let names = |engine: &str, token| -> Vec<String> {
            let engines = engines(&[("gemini", &["gemini", "--acp"])]);
            let plan = plan(&engines, engine, &inherited(&base, token)).unwrap();
            assert_eq!(plan.dir, Path::new("/project"));
            let marker = (OsString::from(MARKER), OsString::from("state.t1"));
            assert_eq!(
                plan.env.iter().filter(|(name, _)| name == MARKER).collect::<Vec<_>>(),
                [&marker]
            );
            let names = plan.env.into_iter().map(|(name, _)| name.into_string().unwrap());
            names.collect::<BTreeSet<_>>().into_iter().collect()
        };
        let clean = ["ANTHROPIC_API_KEY", "HOME", "OBTO_BRIDGE_TURN", "PATH"];
        assert_eq!(names("gemini", Some("s3cret")), clean);
        for engine in ["claude", "codex", "echo"] {
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
        let plan = plan(&engines, "gemini", &[]).unwrap();
        assert_eq!(
            (plan.program, plan.args),
            ("gemini".into(), vec![OsString::from("--acp"), OsString::from("-x")])
        );
    }

    #[test]
    fn every_ladder_ends_with_a_kill() {
        for row in engines(&[]).values() {
            if let Launch::Process(process) = &row.description.launch {
                assert_eq!(
                    process.ladder.last().map(|step| step.0),
                    Some(LadderStep::Kill),
                    "{row:?}"
                );
            }
        }
    }

    #[track_caller]
    fn check_mcp(engine: &str, name: &str, readings: &[&str]) {
        let names = &describe(&Engine::new(engine)).mcp_names;
        let McpReadings { names: read, .. } = (names.read)(name);
        assert_eq!(read, readings, "{engine} {name}");
        let composed = (names.name)("my_server", "get__it");
        let read = (names.read)(&composed).names;
        assert!(read.contains(&"my_server:get__it".to_owned()), "{composed}: {read:?}");
    }

    #[test]
    fn each_engine_has_its_own_names_for_mcp_tools() {
        check_mcp("claude", "mcp__git__push", &["git:push"]);
        check_mcp("codex", "mcp__a__b__c", &["a:b__c", "a__b:c"]);
        check_mcp("claude", "push (git MCP Server)", &[]);
        check_mcp("opencode", "git_push_it", &["git:push_it", "git_push:it"]);
        check_mcp("opencode", "git", &[]);
        check_mcp("gemini", "push (git MCP Server)", &["git:push"]);
        check_mcp("gemini", "push (x) (git MCP Server)", &[]);
        check_mcp("gemini", "mcp__git__push", &["git:push"]);
        check_mcp("gemini", "mcp__a__b (git MCP Server)", &["a:b (git MCP Server)"]);
        check_mcp("gemini", "Something", &[]);
    }
}
