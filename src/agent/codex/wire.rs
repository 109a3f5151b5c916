//! What travels between us and `codex app-server`, field for field and no more than the protocol
//! uses: a field that Codex adds, drops or retypes elsewhere must not cost a turn. Seen in codex
//! 0.130.0 and 0.169.0 unless noted.

use camino::Utf8Path;
use serde_json::{Map, Value, json};

use crate::{
    agent::{
        Gate, Image, Sandbox, ToolResult, TurnSpec, Usage,
        text::{list, text, total},
        tools,
    },
    time::Timestamp,
};

/// Notifications that would only cost time: diffs come whole with their item. What stays on although
/// unused is a sign of life (`outputDelta`, for one).
const OPT_OUT: [&str; 3] = ["turn/diff/updated", "thread/started", "remoteControl/status/changed"];

/// Moves a field out; null if `value` has none or is no object, where `value[key]` would panic.
pub(super) fn take(value: &mut Value, key: &str) -> Value {
    value.get_mut(key).map(Value::take).unwrap_or_default()
}

/// Params of `initialize`. `experimentalApi` is needed for dynamic tools and for
/// `thread/backgroundTerminals/clean`.
pub(super) fn initialize() -> Value {
    json!({
        "clientInfo": {
            "name": "obto-bridge",
            "title": "obto-bridge",
            "version": env!("CARGO_PKG_VERSION"),
        },
        "capabilities": {
            "experimentalApi": true,
            "requestAttestation": false,
            "optOutNotificationMethods": OPT_OUT,
        },
    })
}

/// The name of our profile of permissions.
const PROFILE: &str = "obto-bridge";
/// The first version that is known to take one for a thread.
const WITH_PROFILES: (u32, u32) = (0, 169);

/// Whether the thread gets a profile in place of a mode of the sandbox: only a profile keeps commands
/// from reading files. `initialized` is the result of `initialize`.
pub(super) fn wants_profile(spec: &TurnSpec, initialized: &Value) -> bool {
    let version = || {
        let version = text(initialized, "/userAgent").split_once('/')?.1;
        let mut numbers = version.split('.').map(|number| number.parse::<u32>().ok());
        Some((numbers.next()??, numbers.next()??))
    };
    sandbox(spec) != Sandbox::DangerFullAccess
        && !spec.own_files.is_empty()
        && version().is_some_and(|version| version >= WITH_PROFILES)
}

/// The mode of the sandbox as a profile, without the bridge's own files. A profile knows nothing of
/// the person's settings for the mode (`sandbox_workspace_write`), so they are said again. `config` is
/// the result of `config/read` (0.169.0).
fn profile(spec: &TurnSpec, config: &Value) -> Value {
    let of_mode = &config["config"]["sandbox_workspace_write"];
    let mut files = Map::new();
    let mut network = false;
    let base = if sandbox(spec) == Sandbox::ReadOnly {
        ":read-only"
    } else {
        let roots = list(of_mode, "/writable_roots").iter().filter_map(Value::as_str);
        files.extend(roots.map(|root| (root.to_owned(), json!("write"))));
        let temporary =
            [("exclude_slash_tmp", ":slash_tmp"), ("exclude_tmpdir_env_var", ":tmpdir")];
        let excluded = temporary.into_iter().filter(|(key, _)| of_mode[*key] == true);
        files.extend(excluded.map(|(_, place)| (place.to_owned(), json!("read"))));
        network = of_mode["network_access"] == true;
        ":workspace"
    };
    files.extend(spec.own_files.iter().map(|path| (path.clone(), json!("deny"))));
    let mut profile = json!({ "extends": base, "filesystem": files });
    if network {
        profile["network"] = json!({ "enabled": true });
    }
    json!({ "permissions": { PROFILE: profile } })
}

/// Method and params that open the thread, with a profile if there is a result of `config/read`. Directory, sandbox and policy go with both: a resume
/// without them comes back with the sandbox of an untrusted directory. Tools are taken on start
/// only; a resumed thread has them from then.
pub(super) fn open_thread(spec: &TurnSpec, config: Option<&Value>) -> (&'static str, Value) {
    let mut params = json!({
        "cwd": spec.project_dir.as_str(),
        "approvalPolicy": approval_policy(spec),
    });
    match config {
        None => params["sandbox"] = json!(sandbox(spec).as_str()),
        Some(config) => {
            params["permissions"] = json!(PROFILE);
            params["config"] = profile(spec, config);
        }
    }
    if let Some(session) = &spec.session {
        params["threadId"] = json!(session);
        params["excludeTurns"] = json!(true);
        ("thread/resume", params)
    } else {
        params["dynamicTools"] = json!(tools::dynamic_tools());
        ("thread/start", params)
    }
}

/// `input` of `turn/start`. Images travel as data URLs: http URLs are refused, and a path would
/// have to outlive the turn.
pub(super) fn input(spec: &TurnSpec) -> Value {
    let text = json!({ "type": "text", "text": spec.prompt });
    let image = |image: &Image| json!({ "type": "image", "url": image.data_url() });
    spec.images.iter().map(image).chain([text]).collect()
}

/// Params of `turn/steer`: a text for a turn that runs. It is refused when that is over.
pub(super) fn steer(thread: &str, turn: &str, text: &str) -> Value {
    let input = json!([{ "type": "text", "text": text }]);
    json!({ "threadId": thread, "expectedTurnId": turn, "input": input })
}

/// `allowAll` is Codex's own bypass, as in the reference: it asks nothing and is not confined.
fn sandbox(spec: &TurnSpec) -> Sandbox {
    match spec.gate {
        Gate::Ask => spec.sandbox,
        Gate::AllowAll => Sandbox::DangerFullAccess,
    }
}

fn approval_policy(spec: &TurnSpec) -> &'static str {
    match spec.gate {
        Gate::Ask => "on-request",
        Gate::AllowAll => "never",
    }
}

/// The arguments for `codex`. They override the user's configuration where it would keep a turn
/// from working or be written to.
pub(super) fn args(spec: &TurnSpec) -> Vec<String> {
    let mut settings = vec![
        // Also overrides a value in the user's file that newer versions refuse to start with
        // (`untrusted`, from 0.149).
        format!("approval_policy={}", toml_string(approval_policy(spec))),
        // Without a network Codex would never give up. As `--disable` it would be fatal to versions
        // that don't know it; as a setting it is skipped by them.
        "features.unbounded_connection_retries=false".to_owned(),
    ];
    if spec.takes_choices() {
        // Else the model's tool for questions works in the plan mode only (0.169.0). It is called
        // unfinished, which would be told with every turn.
        settings.push("features.default_mode_request_user_input=true".to_owned());
        settings.push("suppress_unstable_features_warning=true".to_owned());
    }
    if sandbox(spec) != Sandbox::ReadOnly {
        settings.push(trust(&spec.project_dir));
    }
    let settings = settings.into_iter().flat_map(|setting| ["-c".to_owned(), setting]);
    ["app-server".to_owned()].into_iter().chain(settings).collect()
}

/// Opening a thread with a writable sandbox in a git repository makes Codex note in the user's
/// config.toml that the directory is trusted, unless it already is.
fn trust(dir: &Utf8Path) -> String {
    format!("projects={{{}={{trust_level=\"trusted\"}}}}", toml_string(dir.as_str()))
}

/// A TOML basic string, which is what JSON has but for one character.
fn toml_string(text: &str) -> String {
    Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

/// Whether an item is a call of a tool. Others are what was said, thought or noted; a new kind ends
/// nothing that was said, so that nothing is taken from an answer.
pub(super) fn is_call(kind: &str) -> bool {
    matches!(
        kind,
        "commandExecution"
            | "fileChange"
            | "mcpToolCall"
            | "dynamicToolCall"
            | "collabAgentToolCall"
            | "webSearch"
            | "imageView"
            | "imageGeneration"
    )
}

/// Whether the result of `account/read` says that there is none. A provider of the user's own needs
/// no account.
pub(super) fn lacks_account(result: &Value) -> bool {
    result["account"].is_null() && result["requiresOpenaiAuth"] == true
}

/// `total` or `last` of `tokenUsage` in `thread/tokenUsage/updated`: the thread's since its beginning,
/// or what the latest request added to it.
pub(super) fn tokens(tokens: &Value) -> Usage {
    Usage {
        input_tokens: total(tokens, &["/inputTokens"]),
        output_tokens: total(tokens, &["/outputTokens"]),
        cost_usd: None,
    }
}

/// When the limit of the account that is used up is reset: the later one if both are. Times are
/// seconds since 1970 (0.169.0, from its generated schema).
pub(super) fn limit_resets(limits: &Value) -> Option<Timestamp> {
    ["primary", "secondary"]
        .into_iter()
        .map(|window| &limits[window])
        .filter(|window| window["usedPercent"].as_i64().is_some_and(|used| used >= 100))
        .filter_map(|window| window["resetsAt"].as_u64()?.checked_mul(1000))
        .max()
        .map(Timestamp::from_millis)
}

/// The answer to `item/tool/call`. A failed one is a text for the model; the turn goes on.
pub(super) fn tool_answer(result: ToolResult) -> Value {
    let success = result.is_ok();
    let text = result.unwrap_or_else(|error| error);
    json!({ "contentItems": [{ "type": "inputText", "text": text }], "success": success })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        assert_eq!(toml_string(text), expected);
    }

    #[test]
    fn paths_cannot_leave_their_toml_string() {
        check("/home/me/project", r#""/home/me/project""#);
        check("/a b/ü'#=", r#""/a b/ü'#=""#);
        check(r#"/a"={}}\b"#, r#""/a\"={}}\\b""#);
        check("/a\nb\t\u{1}\u{7f}", r#""/a\nb\t\u0001\u007f""#);
    }

    #[test]
    fn an_account_is_missing_only_where_one_is_needed() {
        let missing = |value: Value| lacks_account(&value);
        assert!(missing(json!({"account": null, "requiresOpenaiAuth": true})));
        assert!(!missing(json!({"account": null, "requiresOpenaiAuth": false})));
        assert!(!missing(json!({"account": {"type": "chatgpt"}, "requiresOpenaiAuth": true})));
        assert!(!missing(json!({})));
    }
}
