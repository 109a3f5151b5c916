//! `policy test`: what the rules of this machine say of an action, and why.

use std::path::{Path, PathBuf};

use argh::FromArgs;
use serde_json::Value;

use crate::{
    agent::{ActionKind, engines},
    cli::{
        ExitCode, Failure, Outcome,
        console::{Console, printable},
    },
    config::{Config, ConfigError, Env, Paths},
    ids::Engine,
    permission::{Action, Decision, Policy, RealPlaces, Ruling, kind_of},
};

/// see what agents may do on this machine
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "policy")]
pub(super) struct Args {
    #[argh(subcommand)]
    command: Command,
}

#[derive(FromArgs, Debug)]
#[argh(subcommand)]
enum Command {
    Test(Test),
}

/// say whether an action is allowed, asked or denied, by which rule, and why
#[derive(FromArgs, Debug)]
#[argh(
    subcommand,
    name = "test",
    example = "obto-bridge policy test claude run 'git status && git push'",
    note = "Nothing is run, read or changed. The first word of the output is allow, ask or deny.",
    error_code(2, "There is no such kind or agent."),
    error_code(78, "There is no usable configuration.")
)]
struct Test {
    /// the agent, for example claude
    #[argh(positional)]
    engine: String,
    /// read, edit, run, fetch, mcp or other
    #[argh(positional)]
    kind: String,
    /// the command line, path, address, server:tool or tool
    #[argh(positional)]
    value: String,
    /// directory in which the agent works; the configured one if not given
    #[argh(option)]
    project: Option<PathBuf>,
    /// the agent's own name of the tool, where it matters: `WebSearch`
    #[argh(option)]
    tool: Option<String>,
}

pub(super) fn run(args: Args, env: &Env, paths: &Paths, console: &mut Console<'_>) -> Outcome {
    let Command::Test(test) = args.command;
    let config = Config::load(paths, env)?;
    let policy = of(&config, paths)?;
    let usage = |why| Failure { why, code: ExitCode::Usage };
    let engine = Engine::new(&test.engine);
    let engines = engines::table(config.agents.clone(), Path::new(""));
    if !engines.contains_key(&engine) {
        let names: Vec<&str> = engines.keys().map(Engine::as_str).collect();
        return Err(usage(format!(
            "there is no agent {:?}: {}, or one that you add to \"agents\" in {}",
            test.engine,
            names.join(", "),
            paths.config_file.display()
        )));
    }
    let kind = kind_of(&test.kind).ok_or_else(|| {
        usage(format!("{:?} is no kind of action: read, edit, run, fetch, mcp or other", test.kind))
    })?;
    console.say(printable(&sentence(&test.decide(&policy, &config, &engine, kind, env))));
    if config.allow_all {
        console.note("But allowAll is set: agents are not held to any rule.");
    }
    Ok(ExitCode::Ok)
}

/// The rules of a configuration.
pub(super) fn of(config: &Config, paths: &Paths) -> Result<Policy, ConfigError> {
    Policy::new(&config.permissions)
        .map_err(|bad| ConfigError(format!("in {} {bad}", paths.config_file.display())))
}

impl Test {
    fn decide(
        &self,
        policy: &Policy,
        config: &Config,
        engine: &Engine,
        kind: ActionKind,
        env: &Env,
    ) -> Decision {
        let project = self.project.as_deref().unwrap_or(config.project_dir.as_std_path());
        let tool = self.tool.clone().unwrap_or_else(|| tool(engine, kind, &self.value));
        let action = Action {
            engine,
            kind,
            tool: &tool,
            subject: &self.value,
            edits: &[],
            input: &Value::Null,
            directory: &env.cwd.join(project),
            home: &env.home,
            places: &RealPlaces,
        };
        policy.decide(&action, &[])
    }
}

/// The name that the engine would have for the tool.
fn tool(engine: &Engine, kind: ActionKind, value: &str) -> String {
    match (kind, value.split_once(':')) {
        (ActionKind::Mcp, Some((server, tool))) => {
            (engines::describe(engine).mcp_names.name)(server, tool)
        }
        (ActionKind::Mcp | ActionKind::Other, _) => value.to_owned(),
        _ => String::new(),
    }
}

fn sentence(decision: &Decision) -> String {
    let ruling = decision.ruling.as_str();
    match (&decision.rule, decision.ruling) {
        (Some(rule), Ruling::Ask) => {
            format!("{ruling} because of the rule {rule}: {}", decision.why)
        }
        (Some(rule), _) => format!("{ruling} by the rule {rule}: {}", decision.why),
        (None, _) => format!("{ruling} because {}", decision.why),
    }
}
