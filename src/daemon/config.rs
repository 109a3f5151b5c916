//! From the configuration to what turns need.

use super::Setup;
use crate::{
    agent::{Limits, Model, Sandbox},
    config::Config,
    permission::Policy,
    worker::Settings,
};

/// The model that opencode gets when the config names a provider or a model alone: the
/// reference's defaults (protocol section 5).
const OPENCODE_PROVIDER: &str = "anthropic";
const OPENCODE_MODEL: &str = "claude-sonnet-4-5";

/// # Errors
/// A rule of `permissions` can't be read.
pub(super) fn settings(setup: &Setup) -> anyhow::Result<Settings> {
    let config = &setup.config;
    let policy = Policy::new(&config.permissions).map_err(anyhow::Error::msg)?;
    Ok(Settings {
        project_dir: config.project_dir.clone().into(),
        project_dirs: config.project_dirs.iter().map(Into::into).collect(),
        engine: config.engine.clone(),
        // `Config` has refused other words.
        sandbox: Sandbox::parse(&config.codex_sandbox).unwrap_or_default(),
        allow_all: config.allow_all,
        live_guard: config.live_guard,
        live_threshold: config.live_threshold,
        opencode_model: opencode_model(config),
        progress: config.progress.then_some(setup.progress_every),
        usage: config.usage,
        limits: Limits {
            startup: config.startup_timeout,
            silence: config.silence_timeout,
            turn: config.turn_timeout,
        },
        policy,
        relay: config.relay_permissions.then_some(config.relay_timeout),
        home: config.home.clone().into(),
    })
}

/// None, if neither is configured: then opencode's own default is used.
fn opencode_model(config: &Config) -> Option<Model> {
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
