//! Which agent answers, and what to say when none can.

use std::path::Path;

use crate::{
    agent::{detect, engines, launch::EngineDef},
    config::{Config, Env},
    ids::Engine,
};

/// The agent of threads that name none: the wanted one, the configured one, or any that is
/// installed. The error says why no agent can answer.
pub(super) fn choose(
    wanted: Option<&str>,
    config: &Config,
    env: &Env,
    own_program: &Path,
) -> Result<Engine, String> {
    let engines = engines::table(config.agents.clone(), own_program);
    let path = env.var("PATH").unwrap_or_default();
    let is_there = |row: &EngineDef| detect::look(row, path, &env.cwd).is_usable();
    if let Some(wanted) = wanted.map(Engine::new) {
        let Some(row) = engines.get(&wanted) else {
            let names: Vec<&str> = engines.keys().map(Engine::as_str).collect();
            return Err(format!(
                "there is no agent {wanted}; there are {}, and those that the config file adds",
                names.join(", ")
            ));
        };
        if is_there(row) {
            return Ok(wanted);
        }
        return Err(format!(
            "the agent {wanted} is not installed: there is no `{}` on the PATH. {}",
            row.program(),
            row.how_to_install()
        ));
    }
    let others: Vec<&EngineDef> = engines.values().filter(|row| row.name != Engine::ECHO).collect();
    let mut rows = engines.get(&config.engine).into_iter().chain(others.iter().copied());
    rows.find(|row| is_there(row)).map(|row| row.name.clone()).ok_or_else(|| {
        let line = |row: &&EngineDef| {
            format!("\n  {} (`{}`): {}", row.name, row.program(), row.how_to_install())
        };
        format!(
            "no coding agent is installed. These were looked for on the PATH:{}\n\
             To see the way working without one, add --agent echo: the built-in echo agent has no \
             model and only repeats what it gets.",
            others.iter().map(line).collect::<Vec<_>>().concat()
        )
    })
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsString, fs, os::unix::fs::PermissionsExt};

    use super::*;
    use crate::config::ConfigFile;

    #[track_caller]
    fn check(
        installed: &[&str],
        config: &str,
        wanted: Option<&str>,
        expected: Result<&str, &[&str]>,
    ) {
        let dir = tempfile::tempdir().unwrap();
        for name in installed {
            let file = fs::File::create(dir.path().join(name)).unwrap();
            file.set_permissions(fs::Permissions::from_mode(0o755)).unwrap();
        }
        let env = Env {
            home: dir.path().to_owned(),
            cwd: dir.path().to_owned(),
            vars: [(OsString::from("PATH"), dir.path().into())].into(),
        };
        let object = serde_json::from_str(config).unwrap();
        let file = ConfigFile { object, ..ConfigFile::default() };
        let config = Config::from_file(&file, &env).unwrap();
        // A program of our own that is certainly there.
        let own = std::env::current_exe().unwrap();
        match (choose(wanted, &config, &env, &own), expected) {
            (Ok(engine), Ok(expected)) => assert_eq!(engine.as_str(), expected),
            (Err(text), Err(words)) => {
                for word in words {
                    assert!(text.contains(word), "{text:?} lacks {word:?}");
                }
            }
            (result, expected) => panic!("{result:?} is not {expected:?}"),
        }
    }

    #[test]
    fn the_wanted_one_or_the_configured_one_or_any() {
        check(&["claude", "codex"], "{}", None, Ok("claude"));
        check(&["codex"], "{}", None, Ok("codex"));
        check(&["claude", "codex"], r#"{"agent":"codex"}"#, None, Ok("codex"));
        check(&["claude", "codex"], "{}", Some("Codex"), Ok("codex"));
        check(&["gem"], r#"{"agents":{"gem":{"command":["gem"]}}}"#, None, Ok("gem"));
        check(&[], "{}", Some("echo"), Ok("echo"));
    }

    #[test]
    fn who_can_t_answer_is_named_with_what_to_do() {
        check(&["claude"], "{}", Some("nobody"), Err(&["no agent nobody", "claude, codex, echo"]));
        check(&["claude"], "{}", Some("codex"), Err(&["`codex`", "npm install"]));
        check(
            &[],
            r#"{"agents":{"gem":{"command":["gem-cli"]}}}"#,
            None,
            Err(&["claude", "codex", "opencode", "`gem-cli`", "npm install", "--agent echo"]),
        );
    }

    #[test]
    fn echo_never_answers_unasked() {
        check(&[], r#"{"agent":"unknown"}"#, None, Err(&["no coding agent"]));
    }
}
