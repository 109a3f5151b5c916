//! Logging in without a person: which of the ways that an agent offers can be taken here. A way that
//! may open a browser or wants a terminal is never taken unless the config names it. Pure.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::agent::{
    Login,
    text::{list, text},
};

/// What the id of a way says that works with what the agent has stored or was given. Grok names its
/// default for this moment, `cached_token`, `xai.api_key` or, which is a browser, `grok.com`.
const STORED: [&str; 4] = ["token", "key", "credential", "cached"];

/// Variables by the provider that a way's `_meta` names (codex-acp 2.6.0, gemini 0.61.0).
const PROVIDERS: [(&str, &[&str]); 3] = [
    ("openai", &["CODEX_API_KEY", "OPENAI_API_KEY"]),
    ("google", &["GEMINI_API_KEY", "GOOGLE_API_KEY"]),
    ("anthropic", &["ANTHROPIC_API_KEY"]),
];

/// The id of the way to take: the configured one, the agent's own default, or the first for which
/// there is a key. `initialized` is the agent's answer to `initialize`.
pub(super) fn choose(initialized: &Value, login: &Login) -> Option<String> {
    let offered = list(initialized, "/authMethods");
    let default = text(initialized, "/_meta/defaultAuthMethodId");
    let keyed = || offered.iter().find(|way| has_key(way, &login.variables));
    login
        .method
        .clone()
        .or_else(|| needs_nobody(offered, default).then(|| default.to_owned()))
        .or_else(|| keyed().map(|way| text(way, "/id").to_owned()))
        .filter(|id| !id.is_empty())
}

/// Whether the agent's default works without a person. It need not be in the list.
fn needs_nobody(offered: &[Value], default: &str) -> bool {
    let id = default.to_lowercase();
    let is_terminal = |way: &Value| text(way, "/id") == default && text(way, "/type") == "terminal";
    STORED.iter().any(|word| id.contains(word)) && !offered.iter().any(is_terminal)
}

/// Whether a way is by an API key that the agent has in its environment.
fn has_key(way: &Value, variables: &BTreeSet<String>) -> bool {
    let has = |name: &str| variables.contains(name);
    if text(way, "/type") == "terminal" {
        return false;
    }
    let wanted = list(way, "/vars");
    if !wanted.is_empty() {
        // Some variables of a way only adjust it.
        let mut needed = wanted.iter().filter(|variable| variable["optional"] != true);
        return needed.all(|variable| has(text(variable, "/name")))
            && wanted.iter().any(|variable| has(text(variable, "/name")));
    }
    let provider = text(way, "/_meta/api-key/provider");
    let by_provider = PROVIDERS.iter().filter(|(name, _)| *name == provider);
    let mut known = by_provider.flat_map(|(_, names)| *names);
    known.any(|name| has(name)) || names(way).any(|name| has(&name))
}

/// The variables that a way's id and description speak of: `gemini-api-key`, `xai.api_key`,
/// ``Requires setting the `OPENAI_API_KEY` environment variable`` (qwen-code 0.15.10).
fn names(way: &Value) -> impl Iterator<Item = String> {
    let id = text(way, "/id").replace(['-', '.'], "_").to_uppercase();
    let words = [text(way, "/name"), text(way, "/description")].map(|said| {
        said.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').map(str::to_owned)
    });
    let is_key = |name: &String| name.ends_with("_API_KEY");
    [id].into_iter().chain(words.into_iter().flatten()).filter(is_key)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(
        initialized: &Value,
        method: Option<&str>,
        variables: &[&str],
        expected: Option<&str>,
    ) {
        let variables = variables.iter().map(|&name| name.to_owned()).collect();
        let login = Login { method: method.map(str::to_owned), variables };
        assert_eq!(choose(initialized, &login).as_deref(), expected, "{login:?} {initialized}");
    }

    #[test]
    fn a_key_in_the_environment_is_used() {
        let codex16 = json!({ "authMethods": [
            { "id": "chatgpt", "name": "Login with ChatGPT" },
            { "id": "codex-api-key", "type": "env_var", "vars": [{ "name": "CODEX_API_KEY" }] },
            { "id": "openai-api-key", "type": "env_var", "vars": [{ "name": "OPENAI_API_KEY" }] },
        ] });
        check(&codex16, None, &["CODEX_API_KEY"], Some("codex-api-key"));
        check(&codex16, None, &["OPENAI_API_KEY", "PATH"], Some("openai-api-key"));
        check(&codex16, None, &["PATH", "GEMINI_API_KEY"], None);
        let codex26 = json!({ "authMethods": [
            { "id": "api-key", "name": "API Key", "_meta": { "api-key": { "provider": "openai" } } },
            { "id": "chat-gpt", "name": "ChatGPT" },
        ] });
        check(&codex26, None, &["OPENAI_API_KEY"], Some("api-key"));
        check(&codex26, None, &["CODEX_API_KEY"], Some("api-key"));
        check(&codex26, None, &["GEMINI_API_KEY"], None);
        let gemini = json!({ "authMethods": [
            { "id": "oauth-personal", "name": "Log in with Google" },
            { "id": "gemini-api-key", "_meta": { "api-key": { "provider": "google" } } },
            { "id": "vertex-ai", "description": "Use an API key with Vertex AI GenAI API" },
        ] });
        check(&gemini, None, &["GEMINI_API_KEY"], Some("gemini-api-key"));
        check(&gemini, None, &["HOME"], None);
        let qwen = json!({ "authMethods": [{ "id": "openai", "name": "Use OpenAI API key",
            "description": "Requires setting the `OPENAI_API_KEY` environment variable",
            "_meta": { "type": "terminal", "args": ["--auth-type=openai"] } }] });
        check(&qwen, None, &["OPENAI_API_KEY"], Some("openai"));
        check(&qwen, None, &[], None);
    }

    #[test]
    fn every_variable_that_is_needed_must_be_there() {
        let azure = json!({ "authMethods": [{ "id": "azure", "type": "env_var", "vars": [
            { "name": "AZURE_KEY" }, { "name": "AZURE_URL" }, { "name": "AZURE_API", "optional": true },
        ] }] });
        check(&azure, None, &["AZURE_KEY", "AZURE_URL"], Some("azure"));
        check(&azure, None, &["AZURE_KEY", "AZURE_API"], None);
        let optional = json!({ "authMethods": [{ "id": "x", "type": "env_var",
            "vars": [{ "name": "X_KEY", "optional": true }] }] });
        check(&optional, None, &["PATH"], None);
        check(&optional, None, &["X_KEY"], Some("x"));
    }

    #[test]
    fn the_agents_own_default_is_taken_if_it_needs_nobody() {
        let grok = |default: &str| {
            json!({ "authMethods": [{ "id": "grok.com" }, { "id": "xai.api_key" }, { "id": "cached_token" }],
                "_meta": { "defaultAuthMethodId": default } })
        };
        check(&grok("cached_token"), None, &[], Some("cached_token"));
        check(&grok("xai.api_key"), None, &[], Some("xai.api_key"));
        check(&grok("grok.com"), None, &[], None);
        check(&grok("grok.com"), None, &["XAI_API_KEY"], Some("xai.api_key"));
        let null = json!({ "authMethods": [{ "id": "grok.com" }], "_meta": { "defaultAuthMethodId": null } });
        check(&null, None, &["PATH"], None);
        // In the terminal it would ask for the token.
        let asks = json!({ "authMethods": [{ "id": "token", "type": "terminal" }],
            "_meta": { "defaultAuthMethodId": "token" } });
        check(&asks, None, &[], None);
    }

    #[test]
    fn a_browser_or_a_terminal_is_never_taken_unasked() {
        for way in [
            json!({ "id": "oauth-personal", "name": "Log in with Google" }),
            json!({ "id": "opencode-login", "description": "Run `opencode auth login`" }),
            json!({ "id": "api-key", "type": "terminal", "vars": [{ "name": "OPENAI_API_KEY" }] }),
            json!({ "id": "login", "name": 7, "vars": "OPENAI_API_KEY" }),
            json!("api-key"),
        ] {
            let all = json!({ "authMethods": [way] });
            check(&all, None, &["OPENAI_API_KEY", "GEMINI_API_KEY"], None);
            check(&all, Some("oauth-personal"), &[], Some("oauth-personal"));
            check(&all, Some(""), &[], None);
        }
    }
}
