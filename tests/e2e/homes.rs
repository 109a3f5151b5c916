//! Home directories in which the engines know no model but the scripted one.

use crate::model::Model;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};
use tempfile::TempDir;

/// The engines under test. Those after opencode speak the Agent Client Protocol, and are in the config
/// with their command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    Claude,
    Codex,
    Opencode,
    ClaudeAcp,
    CodexAcp,
    Copilot,
    Gemini,
    Qwen,
}

impl Engine {
    pub(crate) const ALL: [Engine; 8] = [
        Engine::Claude,
        Engine::Codex,
        Engine::Opencode,
        Engine::ClaudeAcp,
        Engine::CodexAcp,
        Engine::Copilot,
        Engine::Gemini,
        Engine::Qwen,
    ];

    /// What it is called on the wire, and its command.
    fn description(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Engine::Claude => ("claude", &["claude"]),
            Engine::Codex => ("codex", &["codex"]),
            Engine::Opencode => ("opencode", &["opencode"]),
            Engine::ClaudeAcp => ("claude-acp", &["claude-code-acp"]),
            Engine::CodexAcp => ("codex-acp", &["codex-acp"]),
            Engine::Copilot => ("copilot", &["copilot", "--acp"]),
            Engine::Gemini => ("gemini", &["gemini", "--acp"]),
            Engine::Qwen => ("qwen", &["qwen", "--acp"]),
        }
    }

    pub(crate) fn name(self) -> &'static str {
        self.description().0
    }

    /// The program and its arguments.
    pub(crate) fn command(self) -> &'static [&'static str] {
        self.description().1
    }

    pub(crate) fn speaks_acp(self) -> bool {
        !matches!(self, Engine::Claude | Engine::Codex | Engine::Opencode)
    }
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
            ("GOOGLE_GEMINI_BASE_URL", url.clone()),
            ("COPILOT_PKG_CACHE_HOME", engines().join("copilot").display().to_string()),
            ("COPILOT_OFFLINE", "true".to_owned()),
            ("COPILOT_PROVIDER_BASE_URL", format!("{url}/v1")),
            ("COPILOT_MODEL", "scripted-1".to_owned()),
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
        home.write(
            ".gemini/settings.json",
            &gemini_config(&json!({}), &json!({"name": GEMINI_MODEL})),
        );
        home.write(".qwen/settings.json", &gemini_config(&json!({}), &json!({})));
        home
    }

    /// A home in which all engines are logged in.
    pub(crate) fn logged_in(model: &Model) -> Home {
        let mut home = Home::new(model);
        for engine in Engine::ALL {
            home.log_in(engine, model);
        }
        home
    }

    /// Gives an engine access to the model.
    pub(crate) fn log_in(&mut self, engine: Engine, model: &Model) {
        let url = model.url();
        match engine {
            Engine::Claude | Engine::ClaudeAcp => {
                self.set("ANTHROPIC_API_KEY", "sk-ant-scripted");
            }
            Engine::Codex | Engine::CodexAcp => {
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
                    "models": {"scripted-1": {
                        "name": "Scripted 1",
                        "limit": {"context": 200_000, "output": 8_000},
                        "attachment": true,
                        "modalities": {"input": ["text", "image"], "output": ["text"]},
                    }},
                });
                let config = opencode_config(&json!({
                    "model": "scripted/scripted-1",
                    "small_model": "scripted/scripted-1",
                    "provider": {"scripted": provider},
                }));
                self.write(".config/opencode/opencode.json", &config);
            }
            Engine::Copilot => self.set("COPILOT_PROVIDER_API_KEY", "sk-scripted"),
            Engine::Gemini => {
                let auth = json!({"selectedType": "gemini-api-key"});
                self.write(
                    ".gemini/settings.json",
                    &gemini_config(&auth, &json!({"name": GEMINI_MODEL})),
                );
                self.write(".gemini/.env", "GEMINI_API_KEY=scripted\n");
            }
            Engine::Qwen => {
                let auth = json!({
                    "selectedType": "openai", "apiKey": "sk-scripted", "baseUrl": format!("{url}/v1"),
                });
                let sees = json!({"modalities": {"image": true}});
                let model = json!({"name": QWEN_MODEL, "generationConfig": sees});
                self.write(".qwen/settings.json", &gemini_config(&auth, &model));
            }
        }
    }

    /// Gives an engine a key in the environment, and nothing in its files.
    pub(crate) fn give_key(&mut self, engine: Engine, model: &Model) {
        match engine {
            Engine::Claude | Engine::ClaudeAcp => self.set("ANTHROPIC_API_KEY", "sk-ant-scripted"),
            Engine::Codex | Engine::CodexAcp => self.set("OPENAI_API_KEY", "sk-scripted"),
            Engine::Copilot => self.set("COPILOT_PROVIDER_API_KEY", "sk-scripted"),
            Engine::Gemini => self.set("GEMINI_API_KEY", "scripted"),
            Engine::Opencode | Engine::Qwen => {
                self.set("OPENAI_API_KEY", "sk-scripted");
                self.set("OPENAI_BASE_URL", &format!("{}/v1", model.url()));
                self.set("OPENAI_MODEL", QWEN_MODEL);
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
        let [program, args @ ..] = engine.command() else { panic!("a command has a program") };
        let mut command = Command::new(bin().join(program));
        command.args(args);
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
fn engines() -> PathBuf {
    env::var_os("OBTO_E2E_ENGINES").expect("scripts/e2e-agents.sh runs these tests").into()
}

/// Where their programs are.
fn bin() -> PathBuf {
    engines().join("node_modules/.bin")
}

/// Its automatic choice of a model asks another one first.
const GEMINI_MODEL: &str = "gemini-2.5-flash";
const QWEN_MODEL: &str = "scripted-1";

/// Qwen has gemini's.
fn gemini_config(auth: &Value, model: &Value) -> String {
    json!({
        "security": {"auth": auth, "folderTrust": {"enabled": false}},
        "privacy": {"usageStatisticsEnabled": false},
        "telemetry": {"enabled": false},
        "general": {"disableAutoUpdate": true, "enableAutoUpdate": false, "disableUpdateNag": true},
        "model": model,
    })
    .to_string()
}

fn codex_config(top: &str, tables: &str) -> String {
    // A model with the classic tools: newer ones write programs that call them.
    format!(
        "model = \"gpt-5.5\"\ncheck_for_update_on_startup = false\n{top}\n\
         [analytics]\nenabled = false\n\n[feedback]\nenabled = false\n\n{tables}"
    )
}

fn opencode_config(more: &Value) -> String {
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
