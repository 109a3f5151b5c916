//! `policy test`: what the rules of this machine say of an action, and why.

use std::path::{Path, PathBuf};

use argh::FromArgs;

use crate::{
    agent::{ActionKind, Question, engines},
    cli::{CommandError, ExitCode, ExitResult, console::Console},
    config::{Config, ConfigError, Env, Paths},
    ids::Engine,
    permission::{Action, Decision, OwnFiles, Policy, RealPlaces, Ruling, kind_of},
};

/// see what agents may do on this machine
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "policy")]
pub(super) struct Args {
    #[argh(subcommand)]
    test: Test,
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

pub(super) fn run(args: Args, env: &Env, paths: &Paths, console: &mut Console<'_>) -> ExitResult {
    let Args { test } = args;
    let (config, policy) = load(paths, env)?;
    let usage = |why| CommandError { why, code: ExitCode::USAGE };
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
    let question = Question {
        tool: test.tool.unwrap_or_else(|| tool(&engine, kind, &test.value)),
        kind,
        subject: test.value,
        ..Question::default()
    };
    let def = &engines[&engine];
    let inherited: Vec<_> = env.vars.clone().into_iter().collect();
    let action = Action {
        question: &question,
        engine: &engine,
        directory: &env.cwd.join(test.project.unwrap_or(config.project_dir.into())),
        home: &env.home,
        places: &RealPlaces,
        shell: (def.description.shell)(&def.environment(&inherited)),
    };
    console.say(sentence(&policy.decide(&action, &[])));
    if config.allow_all {
        console.note("But allowAll is set: agents are not held to any rule.");
    }
    Ok(ExitCode::OK)
}

pub(super) fn load(paths: &Paths, env: &Env) -> Result<(Config, Policy), ConfigError> {
    let config = Config::load(paths, env)?;
    let own = OwnFiles::new(paths.own(&config, env));
    let policy = Policy::new(&config.permissions, own)
        .map_err(|bad| ConfigError(format!("in {} {bad}", paths.config_file.display())))?;
    Ok((config, policy))
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
    let Decision { ruling, rule, why } = decision;
    let by = if *ruling == Ruling::Ask { "because of" } else { "by" };
    match rule {
        Some(rule) => format!("{} {by} the rule {rule}: {why}", ruling.as_str()),
        None => format!("{} because {why}", ruling.as_str()),
    }
}
