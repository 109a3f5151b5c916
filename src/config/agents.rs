//! `agents`: engines that the user adds, or starts in another way than by their name.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fmt,
};

use serde_json::{Map, Value};

use super::{ConfigError, Source, strings, token};
use crate::ids::Engine;

/// An engine of the config file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Agent {
    /// The program and the arguments that always come first. Never empty.
    pub command: Vec<String>,
    pub env: Vars,
    /// How an ACP agent is told to log in, by its own name for it.
    pub auth_method: Option<String>,
}

/// Environment variables of one engine. Their values are secrets, so that only the names print.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Vars(BTreeMap<String, String>);

impl Vars {
    pub fn get(&self, name: &str) -> Option<&OsStr> {
        self.0.get(name).map(OsStr::new)
    }

    /// The variables themselves, for the environment of a process.
    pub fn reveal(&self) -> impl Iterator<Item = (OsString, OsString)> {
        self.0.iter().map(|(name, value)| (name.into(), value.into()))
    }
}

impl fmt::Debug for Vars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Whether a variable is this program's own, or of the one that it replaces.
pub fn is_ours(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    // What a service manager tells the daemon is for nobody else.
    let is_managers = matches!(name, b"NOTIFY_SOCKET" | b"WATCHDOG_USEC" | b"WATCHDOG_PID");
    name.starts_with(b"BRIDGE_") || name.starts_with(b"OBTO_") || name == b"AGENT_ID" || is_managers
}

const KEYS: [&str; 3] = ["command", "env", "authMethod"];

/// `"agents": {"NAME": {"command": ["program", "argument"], "env": {"VARIABLE": "value"},
/// "authMethod": "id"}}`
pub(super) fn read(source: &Source<'_>) -> Result<BTreeMap<Engine, Agent>, ConfigError> {
    let agents = source.value("agents", "an object of agents by name", Value::as_object)?;
    let agents = agents.into_iter().flatten();
    agents.map(|(name, entry)| Ok((engine(source, name)?, agent(source, name, entry)?))).collect()
}

fn engine(source: &Source<'_>, name: &str) -> Result<Engine, ConfigError> {
    let engine = Engine::new(name);
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if (1..=40).contains(&engine.as_str().len()) && engine.as_str().chars().all(plain) {
        return Ok(engine);
    }
    let path = source.file.path.display();
    Err(ConfigError(format!(
        "the agent {name:?} in {path} must be named by at most 40 letters, digits, '-', '_' or '.'"
    )))
}

fn agent(source: &Source<'_>, name: &str, entry: &Value) -> Result<Agent, ConfigError> {
    let path = source.file.path.display();
    let command = match strings(entry.get("command")) {
        Ok(Some(command)) if command.first().is_some_and(|program| !program.is_empty()) => command,
        _ => {
            return Err(ConfigError(format!(
                "the agent {name:?} in {path} needs a command, a list of strings: \
                 {{\"command\": [\"program\", \"argument\"]}}"
            )));
        }
    };
    // A key that does nothing looks to its author as if it did.
    let entry = entry.as_object().into_iter().flatten();
    if let Some((key, _)) = entry.clone().find(|(key, _)| !KEYS.contains(&key.as_str())) {
        return Err(ConfigError(format!(
            "the agent {name:?} in {path} has {key:?}; it may have {}",
            KEYS.join(", ")
        )));
    }
    let (mut env, mut auth_method) = (Vars::default(), None);
    for (key, value) in entry.filter(|(_, value)| !value.is_null()) {
        let wrong = |what| source.wrong(&format!("agents.{name}.{key}"), value, what);
        match key.as_str() {
            "env" => {
                let vars = value.as_object().ok_or_else(|| wrong("an object of strings"))?;
                env = variables(source, name, vars)?;
            }
            "authMethod" => {
                auth_method = Some(value.as_str().ok_or_else(|| wrong("a string"))?.to_owned());
            }
            _ => {}
        }
    }
    Ok(Agent { command, env, auth_method })
}

fn variables(
    source: &Source<'_>,
    agent: &str,
    vars: &Map<String, Value>,
) -> Result<Vars, ConfigError> {
    let token = token(source)?;
    let holds_token =
        |value: &str| token.as_ref().is_some_and(|token| value.contains(token.reveal()));
    let path = source.file.path.display();
    let read = |(name, value): (&String, &Value)| {
        let place = format!("agents.{agent}.env.{name}");
        let text = value.as_str().ok_or_else(|| source.wrong(&place, value, "a string"))?;
        let why = if name.is_empty() || name.contains(['=', '\0']) || text.contains('\0') {
            "is no variable that a process can have"
        } else if is_ours(OsStr::new(name)) {
            "is a variable of obto-bridge itself, which agents don't get"
        } else if holds_token(text) {
            "holds the token, which agents don't get"
        } else {
            return Ok((name.clone(), text.to_owned()));
        };
        Err(ConfigError(format!("{place:?} in {path} {why}")))
    };
    vars.iter().map(read).collect::<Result<_, _>>().map(Vars)
}
