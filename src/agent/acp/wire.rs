//! What of ACP v1's messages is read, as functions on JSON values. Agents add fields, update kinds
//! and option kinds all the time, so nothing here fails on what it does not know. Pure.

use serde_json::{Value, json};

use crate::agent::{
    Gate, Image, Model,
    text::{list, text},
};

/// The only version that is asked for. Adapters also speak version 2, in which the answer to
/// `session/prompt` no longer means the end of the turn (claude-agent-acp 0.101.0).
pub const PROTOCOL_VERSION: u64 = 1;

/// Goes on with an earlier session, and replays it as updates.
pub const LOAD: &str = "session/load";

/// The error code for "log in first".
pub const AUTH_REQUIRED: i64 = -32000;

/// Modes in which an agent asks before it acts: claude, gemini and qwen `default`, opencode
/// `build`, codex-acp 2.6.0 `read-only`, copilot 1.0.102 the address. Some adapters start in one in
/// which a model decides.
const ASKING_MODES: [&str; 5] = [
    "default",
    "build",
    "read-only",
    "ask",
    "https://agentclientprotocol.com/protocol/session-modes#agent",
];

/// Modes without any gate, for `allowAll`: codex-acp 2.6.0, claude, and gemini and qwen. Codex's
/// asking mode is also a sandbox, in which much that is allowed still fails.
const FREE_MODES: [&str; 3] = ["agent-full-access", "bypassPermissions", "yolo"];

pub fn initialize() -> Value {
    json!({
        "protocolVersion": PROTOCOL_VERSION,
        "clientCapabilities": {
            "fs": { "readTextFile": false, "writeTextFile": false },
            "terminal": false,
        },
        "clientInfo": {
            "name": "obto-bridge",
            "title": "obto bridge",
            "version": env!("CARGO_PKG_VERSION"),
        },
    })
}

/// What the agent said it can do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// What goes on with an earlier session, in the order in which it is tried: `session/resume`, then
    /// `session/load`, which replays the whole session as updates.
    pub reopens: Vec<&'static str>,
    pub image: bool,
    /// It may say the end of an answer after the end of the turn (opencode).
    pub is_late: bool,
    /// The names of the ways to log in.
    pub logins: Vec<String>,
}

impl Capabilities {
    pub fn read(result: &Value) -> Capabilities {
        let agent = &result["agentCapabilities"];
        let resumes = !agent["sessionCapabilities"]["resume"].is_null();
        let reopens = [("session/resume", resumes), (LOAD, agent["loadSession"] == true)];
        Capabilities {
            reopens: reopens.iter().filter(|(_, offers)| *offers).map(|(way, _)| *way).collect(),
            image: agent["promptCapabilities"]["image"] == true,
            is_late: text(result, "/agentInfo/name") == "OpenCode",
            logins: list(result, "/authMethods")
                .iter()
                .map(|method| text(method, "/name").to_owned())
                .filter(|name| !name.is_empty())
                .take(8)
                .collect(),
        }
    }
}

/// A choice that is made before the prompt, and the request that makes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    pub what: &'static str,
    pub method: &'static str,
    pub params: Value,
    /// What the choice should then be.
    pub wanted: String,
}

/// What an agent offers to choose from, in the result of `session/new`, `load` or `resume`.
struct Offer<'a> {
    /// `mode` or `model`.
    what: &'static str,
    current: &'a str,
    values: Vec<&'a str>,
    /// The id of the option that it is; agents without such options have a method for each choice.
    option: Option<&'a str>,
}

impl<'a> Offer<'a> {
    fn read(what: &'static str, result: &'a Value) -> Offer<'a> {
        if let Some(option) = option_of(result, what) {
            let (current, values) = (text(option, "/currentValue"), values(option));
            return Offer { what, current, values, option: Some(text(option, "/id")) };
        }
        let (current, all, id) = match what {
            "mode" => ("/modes/currentModeId", "/modes/availableModes", "/id"),
            _ => ("/models/currentModelId", "/models/availableModels", "/modelId"),
        };
        let values = list(result, all).iter().map(|value| text(value, id)).collect();
        Offer { what, current: text(result, current), values, option: None }
    }

    fn choose(&self, session: &str, value: &str) -> Setting {
        let (method, mut params) = match (self.option, self.what) {
            (Some(id), _) => {
                ("session/set_config_option", json!({ "configId": id, "value": value }))
            }
            (None, "mode") => ("session/set_mode", json!({ "modeId": value })),
            (None, _) => ("session/set_model", json!({ "modelId": value })),
        };
        params["sessionId"] = json!(session);
        Setting { what: self.what, method, params, wanted: value.to_owned() }
    }
}

/// Looks for a mode that asks, or one that never does; None if the agent has no modes, or is in a
/// fitting one. A mode is not kept over a load (qwen-code 0.24.4 goes back to `auto`), so this is for
/// every session. The error is the mode that the agent is in, if it has modes and none of them is
/// known.
pub fn mode_choice<'a>(
    gate: Gate,
    session: &str,
    result: &'a Value,
) -> Result<Option<Setting>, &'a str> {
    let offer = Offer::read("mode", result);
    let has = |mode: &str| offer.values.contains(&mode);
    // An agent that asks is as good where everything is allowed, if it has no other mode.
    let is_free = gate == Gate::AllowAll && FREE_MODES.iter().any(|mode| has(mode));
    let wanted: &[&str] = if is_free { &FREE_MODES } else { &ASKING_MODES };
    if offer.values.is_empty() || wanted.contains(&offer.current) {
        return Ok(None);
    }
    let mode = wanted.iter().find(|mode| has(mode)).ok_or(offer.current)?;
    Ok(Some(offer.choose(session, mode)))
}

/// The request that chooses the mode in which the agent is anyway; None if it has no modes.
pub fn mode_again(session: &str, result: &Value) -> Option<Setting> {
    let offer = Offer::read("mode", result);
    (!offer.current.is_empty()).then(|| offer.choose(session, offer.current))
}

/// Whether an update is a piece of a conversation, so that a replay consists of such.
pub fn is_of_conversation(update: &Value) -> bool {
    let kind = text(update, "/sessionUpdate");
    kind.ends_with("_chunk") || kind.starts_with("tool_call") || kind == "plan"
}

/// The request that chooses `model`; None if the agent already uses it. The error is for people.
pub fn model_choice(
    session: &str,
    result: &Value,
    model: &Model,
) -> Result<Option<Setting>, String> {
    let offer = Offer::read("model", result);
    let names = [format!("{}/{}", model.provider, model.model), model.model.clone()];
    let name = names.iter().find(|name| offer.values.contains(&name.as_str()));
    let name = name.ok_or_else(|| not_offered(&names[0], &offer.values))?;
    Ok((offer.current != name).then(|| offer.choose(session, name)))
}

fn not_offered(name: &str, offered: &[&str]) -> String {
    if offered.is_empty() {
        return format!("the agent has no way to choose a model, so {name} can't be used");
    }
    let some: Vec<&str> = offered.iter().take(10).copied().collect();
    format!("the agent does not offer the model {name}; it offers {}", some.join(", "))
}

/// What a setting is according to the answer to the request that set it; None if it does not say.
pub fn confirmed<'a>(setting: &Setting, result: &'a Value) -> Option<&'a str> {
    option_of(result, setting.what).map(|option| text(option, "/currentValue"))
}

fn option_of<'a>(result: &'a Value, category: &str) -> Option<&'a Value> {
    list(result, "/configOptions").iter().find(|option| text(option, "/category") == category)
}

/// The values of a select, which may be in groups.
fn values(option: &Value) -> Vec<&str> {
    list(option, "/options")
        .iter()
        .flat_map(|entry| {
            let inner = list(entry, "/options").iter().map(|inner| text(inner, "/value"));
            inner.chain([text(entry, "/value")])
        })
        .filter(|value| !value.is_empty())
        .collect()
}

/// Whether a call, or what is said, is a subagent's (claude-agent-acp 0.101.0).
pub fn is_of_subagent(update: &Value) -> bool {
    update.pointer("/_meta/claudeCode/parentToolUseId").is_some_and(|parent| !parent.is_null())
}

pub fn prompt(session: &str, prompt: &str, images: &[Image]) -> Value {
    let mut blocks = vec![json!({ "type": "text", "text": prompt })];
    blocks.extend(images.iter().map(
        |image| json!({ "type": "image", "mimeType": image.media_type, "data": image.base64() }),
    ));
    let mut params = json!({ "sessionId": session });
    // Moved, as in `Rpc::request`.
    params["prompt"] = blocks.into();
    params
}

/// The options of a permission request that are ever chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PermissionOptions {
    pub allow: Option<String>,
    pub reject: Option<String>,
}

impl PermissionOptions {
    /// Goes by kind: ids differ from agent to agent, and count only where the kind is missing and
    /// the id says it in as many words. `allow_always` is not used, because many agents store it in
    /// the project, without an end.
    pub fn read(params: &Value) -> PermissionOptions {
        let of = |kind: &str| {
            list(params, "/options")
                .iter()
                .find(|option| kind_of(option) == kind && option["optionId"].is_string())
                .map(|option| text(option, "/optionId").to_owned())
        };
        PermissionOptions {
            allow: of("allow_once"),
            reject: of("reject_once").or_else(|| of("reject_always")),
        }
    }
}

/// The kind of an option, or what its id says if it has none.
fn kind_of(option: &Value) -> &str {
    let id = text(option, "/optionId").to_ascii_lowercase().replace('-', "_");
    match (text(option, "/kind"), id.as_str()) {
        ("", "allow_once" | "approve_once" | "proceed_once" | "once") => "allow_once",
        ("", "reject_once" | "reject" | "deny_once" | "deny" | "cancel" | "no") => "reject_once",
        (kind, _) => kind,
    }
}

/// The answer to a permission request; None is `cancelled`.
pub fn outcome(option: Option<&str>) -> Value {
    match option {
        Some(id) => json!({ "outcome": { "outcome": "selected", "optionId": id } }),
        None => json!({ "outcome": { "outcome": "cancelled" } }),
    }
}
