//! What of opencode's REST API is written and read (opencode 1.18.33), as functions on JSON
//! values. Pure.

use camino::Utf8Path;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use crate::agent::{
    Failure, FailureKind, Gate, Image, Model, Usage,
    progress::Doing,
    text::{NEW_SESSION, is_too_long, list, text, total},
};

/// The provider that opencode falls back to when none is configured: its maker's own service.
pub const HOSTED: &str = "opencode";

/// What does nothing outside of the session. Everything not named here asks, tools of MCP servers
/// too; also what reads, which opencode would do in the whole repository and behind links. The
/// policy allows it in the project.
const HARMLESS: [&str; 4] = ["question", "skill", "todoread", "todowrite"];
/// Named although `*` covers them, so that they win over the person's own `allow`.
const ASKING: [&str; 10] =
    ["bash", "edit", "glob", "grep", "list", "lsp", "read", "task", "webfetch", "websearch"];
/// What is escaped in a segment of a path.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'_').remove(b'-');

/// An id as one segment of a path.
pub fn segment(id: &str) -> String {
    utf8_percent_encode(id, SEGMENT).to_string()
}

/// A session's permission rules; the last one that matches counts. By default bash, edit and
/// write are allowed without asking.
pub fn session_rules(gate: Gate) -> Value {
    let rule = |permission: &str, action: &str| json!({ "permission": permission, "pattern": "*", "action": action });
    if gate == Gate::AllowAll {
        return json!([rule("*", "allow")]);
    }
    let harmless = HARMLESS.map(|tool| rule(tool, "allow"));
    [rule("*", "ask")].into_iter().chain(harmless).collect()
}

/// The same for the whole server. A session's rules are not handed on to those of its subagents,
/// which without this run commands unasked.
pub fn server_permission() -> Value {
    let asking = ["*"].into_iter().chain(ASKING).map(|tool| (tool, Value::from("ask")));
    asking.chain(HARMLESS.map(|tool| (tool, Value::from("allow")))).collect()
}

/// Whether the session has these rules already. A PATCH appends, so it is not repeated.
pub fn ends_with_rules(session: &Value, rules: &Value) -> bool {
    match (session["permission"].as_array(), rules.as_array()) {
        (Some(has), Some(wanted)) => has.ends_with(wanted),
        _ => false,
    }
}

/// The model that the person chose in opencode's own config (`GET /config`).
pub fn configured_model(config: &Value) -> Option<Model> {
    let (provider, model) = text(config, "/model").split_once('/')?;
    (!provider.is_empty() && !model.is_empty())
        .then(|| Model { provider: provider.to_owned(), model: model.to_owned() })
}

/// The default model of the first provider that the person set up (`GET /config/providers`).
pub fn provider_model(body: &Value) -> Option<Model> {
    let default = |provider: &str| body["default"][provider].as_str().map(str::to_owned);
    list(body, "/providers").iter().map(|provider| text(provider, "/id")).find_map(|provider| {
        let model = default(provider).filter(|_| provider != HOSTED && !provider.is_empty())?;
        Some(Model { provider: provider.to_owned(), model })
    })
}

/// The refusal to send a prompt to a service that nobody chose.
pub fn no_provider() -> Failure {
    Failure::new(
        FailureKind::Refused,
        "no model provider is set up for opencode on this machine, so it would send the prompt to \
         its maker's hosted model",
        "Run `opencode auth login` there, or name provider and model in the config (`opencode` as \
         the provider allows the hosted one). Nothing was sent.",
    )
}

/// The body of `POST /session/:id/message`. Without a model, opencode would use the session's
/// last one, even one that does not exist.
pub fn prompt(prompt: &str, images: &[Image], model: &Model) -> Value {
    let mut parts = vec![json!({ "type": "text", "text": prompt })];
    parts.extend(images.iter().enumerate().map(|(i, image)| {
        let extension = image.media_type.rsplit('/').next().unwrap_or("bin");
        json!({
            "type": "file",
            "mime": image.media_type,
            "filename": format!("attachment-{}.{extension}", i + 1),
            "url": image.data_url(),
        })
    }));
    let mut body = json!({ "model": { "providerID": model.provider, "modelID": model.model } });
    // Moved: `json!` would copy it, and it may be megabytes long.
    body["parts"] = parts.into();
    body
}

/// Whether a part is the model's words: opencode marks as synthetic or ignored what it did not say.
pub fn is_said(part: &Value) -> bool {
    text(part, "/type") == "text" && part["synthetic"] != true && part["ignored"] != true
}

/// Whether a message says anything.
pub fn has_words(message: &Value) -> bool {
    list(message, "/parts")
        .iter()
        .any(|part| is_said(part) && !text(part, "/text").trim().is_empty())
}

/// Of one message; a turn has one for each request to the model.
pub fn usage(info: &Value) -> Usage {
    Usage {
        input_tokens: total(info, &["/tokens/input", "/tokens/cache/read", "/tokens/cache/write"]),
        output_tokens: total(info, &["/tokens/output"]),
        cost_usd: info["cost"].as_f64(),
    }
}

/// What a running tool does, in one line. Tools that only
/// manage the session itself, or ask, have none.
pub fn progress(part: &Value, project: &Utf8Path) -> Option<String> {
    let input = &part["state"]["input"];
    let path = || text(input, "/filePath");
    let doing = match text(part, "/tool") {
        "bash" => Doing::Running(text(input, "/command")),
        "edit" | "write" | "multiedit" | "patch" | "apply_patch" => {
            let paths = Some(path()).filter(|path| !path.is_empty());
            return Some(Doing::Editing(paths.as_slice()).line(project));
        }
        "read" | "lsp" => Doing::Reading(path()),
        "list" => Doing::Reading(text(input, "/path")),
        "glob" | "grep" => Doing::Searching(text(input, "/pattern")),
        "websearch" | "codesearch" => Doing::Searching(text(input, "/query")),
        "webfetch" => Doing::Fetching(text(input, "/url")),
        "task" => Doing::Asking(text(input, "/description")),
        "todoread" | "todowrite" | "question" | "invalid" => return None,
        tool => Doing::Calling(tool),
    };
    Some(doing.line(project))
}

/// An error of a message or of `session.error`, in words for people.
pub fn failure(error: &Value) -> Failure {
    let name = text(error, "/name");
    let said = text(error, "/data/message").lines().next().unwrap_or_default();
    let message = if said.is_empty() { name } else { said };
    let status = error.pointer("/data/statusCode").and_then(Value::as_u64).unwrap_or(0);
    let (kind, advice) = match (name, status) {
        ("ProviderAuthError", _) | (_, 401) => {
            (FailureKind::NotLoggedIn, "Run `opencode auth login` on this machine.")
        }
        (_, 429 | 529) => (FailureKind::RateLimited, "Try again later."),
        ("ContextOverflowError", _) => (FailureKind::Model, NEW_SESSION),
        // In the middle of a stream it comes without a name and a status (1.18.33).
        _ if is_too_long(message) => (FailureKind::Model, NEW_SESSION),
        _ if message.contains("odel not found") => (
            FailureKind::Refused,
            "Name another provider and model in the config; `opencode models` lists them.",
        ),
        (_, 400 | 413) => (FailureKind::Model, NEW_SESSION),
        _ => (FailureKind::Model, "Try again; opencode's log on this machine says more."),
    };
    let message =
        if message.is_empty() { "opencode reported an error without a text" } else { message };
    Failure::new(kind, message, advice)
}
