//! Home directories in which the engines know no model but the scripted one.

use crate::model::Model;
use serde_json::json;
use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};
use tempfile::TempDir;

/// The engines under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    Claude,
    Codex,
    Opencode,
    /// The adapter that speaks the Agent Client Protocol and runs codex.
    Acp,
}

/// A home directory and the environment that belongs to it.
#[derive(Debug)]
pub(crate) struct Home {
    dir: TempDir,
    env: BTreeMap<String, String>,
}

impl Home {
    /// A home in which no engine is logged in, and none can reach a model other
    /// than this one.
    pub(crate) fn new(model: &Model) -> Home {
        // Codex puts no helpers below the system's directory for temporary
        // files, and says so in each run.
        let dir = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let at = |name: &str| dir.path().join(name).into_os_string().into_string().unwrap();
        let url = model.url();
        let env = [
            ("HOME", at("")),
            ("PATH", format!("{}:/usr/local/bin:/usr/bin:/bin", bin().display())),
            ("USER", "e2e".to_owned()),
            ("SHELL", "/bin/bash".to_owned()),
            ("LANG", "C.UTF-8".to_owned()),
            ("TMPDIR", at("tmp")),
            ("ANTHROPIC_BASE_URL", url.clone()),
            ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1".to_owned()),
            ("DISABLE_AUTOUPDATER", "1".to_owned()),
            ("DISABLE_ERROR_REPORTING", "1".to_owned()),
            ("DISABLE_TELEMETRY", "1".to_owned()),
            // Ten tries take three minutes. What they look like shows after one.
            ("CLAUDE_CODE_MAX_RETRIES", "1".to_owned()),
            ("CODEX_HOME", at(".codex")),
            ("NO_BROWSER", "1".to_owned()),
            ("OPENCODE_DISABLE_AUTOUPDATE", "1".to_owned()),
            ("OPENCODE_DISABLE_MODELS_FETCH", "1".to_owned()),
        ];
        let home = Home { env: env.map(|(name, value)| (name.to_owned(), value)).into(), dir };
        for name in ["tmp", "project"] {
            fs::create_dir(home.path(name)).unwrap();
        }
        home.write(
            ".codex/config.toml",
            &codex_config(&format!("openai_base_url = \"{url}/v1\"\n"), ""),
        );
        home.write(".config/opencode/opencode.json", &opencode_config(&json!({})));
        home
    }

    /// A home in which all engines are logged in.
    pub(crate) fn logged_in(model: &Model) -> Home {
        let mut home = Home::new(model);
        for engine in [Engine::Claude, Engine::Codex, Engine::Opencode] {
            home.log_in(engine, model);
        }
        home
    }

    /// Gives an engine access to the model.
    pub(crate) fn log_in(&mut self, engine: Engine, model: &Model) {
        let url = model.url();
        match engine {
            Engine::Claude => {
                self.set("ANTHROPIC_API_KEY", "sk-ant-scripted");
            }
            Engine::Codex | Engine::Acp => {
                let provider = format!(
                    "[model_providers.scripted]\nname = \"scripted\"\nbase_url = \"{url}/v1\"\n\
                     wire_api = \"responses\"\nexperimental_bearer_token = \"sk-scripted\"\n\
                     request_max_retries = 1\nstream_max_retries = 1\n"
                );
                let config = codex_config("model_provider = \"scripted\"\n", &provider);
                self.write(".codex/config.toml", &config);
            }
            Engine::Opencode => {
                let provider = json!({
                    "npm": "@ai-sdk/openai-compatible",
                    "name": "Scripted",
                    "options": {"baseURL": format!("{url}/v1"), "apiKey": "sk-scripted"},
                    "models": {"scripted-1": {"name": "Scripted 1", "limit": {"context": 200_000, "output": 8_000}}},
                });
                let config = opencode_config(&json!({
                    "model": "scripted/scripted-1",
                    "small_model": "scripted/scripted-1",
                    "provider": {"scripted": provider},
                }));
                self.write(".config/opencode/opencode.json", &config);
            }
        }
    }

    /// What a process that runs engines has to be started with, and with
    /// nothing besides.
    pub(crate) fn env(&self) -> &BTreeMap<String, String> {
        &self.env
    }

    /// Changes the environment.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.env.insert(name.to_owned(), value.to_owned());
    }

    /// A path in this home.
    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Where the engines work.
    pub(crate) fn project(&self) -> PathBuf {
        self.path("project")
    }

    /// A command that runs an engine in the project.
    pub(crate) fn command(&self, engine: Engine) -> Command {
        let mut command = Command::new(bin().join(match engine {
            Engine::Claude => "claude",
            Engine::Codex => "codex",
            Engine::Opencode => "opencode",
            Engine::Acp => "codex-acp",
        }));
        command.env_clear().envs(self.env()).current_dir(self.project());
        command
    }

    fn write(&self, name: &str, content: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
}

/// Where the engines are.
fn bin() -> PathBuf {
    let engines = env::var_os("OBTO_E2E_ENGINES").expect("scripts/e2e-agents.sh runs these tests");
    Path::new(&engines).join("node_modules/.bin")
}

fn codex_config(top: &str, tables: &str) -> String {
    // A model with the classic tools: newer ones write programs that call them.
    format!(
        "model = \"gpt-5.5\"\ncheck_for_update_on_startup = false\n{top}\n\
         [analytics]\nenabled = false\n\n[feedback]\nenabled = false\n\n{tables}"
    )
}

fn opencode_config(more: &serde_json::Value) -> String {
    let mut config = json!({
        "$schema": "https://opencode.ai/config.json",
        "autoupdate": false,
        "share": "disabled",
        // Without a provider it would turn to its maker's hosted models.
        "disabled_providers": ["opencode"],
    });
    for (name, value) in more.as_object().expect("settings are an object") {
        config[name] = value.clone();
    }
    config.to_string()
}
