//! Configuration: file, environment and defaults become one [`Config`]. The environment comes in as
//! a value and wins over the file; a file that can't be read or parsed is an error that names the
//! place, never ignored; keys that are not ours survive a rewrite (protocol section 5).

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fmt, io,
    path::{Path, PathBuf},
    time::Duration,
};

use camino::{Utf8Path, Utf8PathBuf};
use serde_json::{Map, Value};

use crate::ids::{Engine, MachineId};
use agents::Agent;
pub use network::{Header, HeaderSource, Network, Setting};

pub mod agents;
pub mod live;
pub mod near;
mod network;
#[cfg(test)]
mod tests;

const DEFAULT_BASE_URL: &str = "https://agent-bridge.obto.co";
const DEFAULT_ORIGIN_HOST: &str = "agent-bridge.obto.co";

/// An API token. It never prints.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    pub fn new(token: impl Into<String>) -> Token {
        Token(token.into())
    }

    /// The secret itself, for the one header that carries it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// What the process was started with. Read once, in `cli`, and handed down.
#[derive(Clone, Default)]
pub struct Env {
    pub home: PathBuf,
    pub cwd: PathBuf,
    pub vars: BTreeMap<OsString, OsString>,
}

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values of variables are secrets more often than not.
        f.debug_struct("Env").field("home", &self.home).finish_non_exhaustive()
    }
}

impl Env {
    /// A variable's value. An empty one counts as unset, as in the reference.
    pub fn var(&self, name: &str) -> Option<&OsStr> {
        self.vars.get(OsStr::new(name)).map(OsString::as_os_str).filter(|value| !value.is_empty())
    }

    fn text(&self, name: &'static str) -> Result<Option<&str>, ConfigError> {
        let Some(value) = self.var(name) else { return Ok(None) };
        value.to_str().map(Some).ok_or_else(|| {
            ConfigError(format!(
                "the environment variable {name} is not UTF-8; set it to a \
                 value that is"
            ))
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    pub config_file: PathBuf,
    /// Bindings, the journal and the lock.
    pub state_dir: PathBuf,
}

impl Paths {
    /// The reference's places below the home directory.
    pub fn in_home(home: &Path) -> Paths {
        Paths {
            config_file: home.join(".obto-bridge").join("config.json"),
            state_dir: home.join(".agent-bridge-daemon"),
        }
    }

    /// With the state directory that was asked for, or that `OBTO_STATE_DIR` names.
    #[must_use]
    pub fn with_state_dir(mut self, asked: Option<&Path>, env: &Env) -> Paths {
        let asked =
            asked.map(Path::to_owned).or_else(|| env.var("OBTO_STATE_DIR").map(PathBuf::from));
        if let Some(dir) = asked {
            self.state_dir = env.cwd.join(dir);
        }
        self
    }

    /// The files and directories that hold this machine's token, or by which one could speak for the
    /// human: those of the daemon, and those of `local` and `serve` where these have them by
    /// themselves.
    pub fn own(&self, config: &Config, env: &Env) -> Vec<PathBuf> {
        let default = Paths::in_home(&env.home);
        let dir_of = |file: &Path| file.parent().map(Path::to_owned);
        let mut own = vec![self.config_file.clone(), self.state_dir.clone(), default.state_dir];
        own.extend(dir_of(&default.config_file));
        // With `local --data DIR` all of it is in one directory, which may be that of a project.
        let beside = dir_of(&self.config_file);
        let mut projects = config.project_dirs.iter().chain([&config.project_dir]);
        match beside {
            Some(dir) if projects.any(|project| project.as_std_path().starts_with(&dir)) => {
                own.extend(["bridge", "token"].map(|name| dir.join(name)));
            }
            dir => own.extend(dir),
        }
        own.extend(env.var("BRIDGE_API_TOKEN_FILE").map(|file| env.cwd.join(file)));
        own
    }
}

/// What the daemon runs with.
#[derive(Clone, Debug)]
pub struct Config {
    pub base_url: String,
    pub origin_host: String,
    pub account_id: Option<String>,
    pub token: Option<Token>,
    pub machine: MachineId,
    /// Where `~` is in paths.
    pub home: Utf8PathBuf,
    /// Working directory of fresh sessions; absolute.
    pub project_dir: Utf8PathBuf,
    /// The engine of a thread that names none, or one that this machine does not know.
    pub engine: Engine,
    pub codex_sandbox: String,
    pub relay_permissions: bool,
    pub relay_timeout: Duration,
    pub allow_all: bool,
    /// `permissions`, rules as written; `crate::permission` reads them.
    pub permissions: Permissions,
    /// Two threads may write in one directory at the same time.
    pub parallel_in_directory: bool,
    /// Say on the thread now and then what the engine does.
    pub progress: bool,
    /// Say what a turn used and cost under its answer.
    pub usage: bool,
    /// Besides `project_dir`: where fresh sessions may work when a thread asks for it. Absolute.
    pub project_dirs: Vec<Utf8PathBuf>,
    pub live_guard: bool,
    pub live_threshold: Duration,
    pub opencode_provider: Option<String>,
    pub opencode_model: Option<String>,
    /// Engines of the user's own. Known names replace the built-in command.
    pub agents: BTreeMap<Engine, Agent>,
    /// Turns in progress at the same time.
    pub max_turns: usize,
    /// For a whole request to the bridge, but for the stream.
    pub request_timeout: Duration,
    pub stream_idle_timeout: Duration,
    /// How long running turns may go on after the first signal.
    pub drain: Duration,
    /// Messages that are older when they come in are not run by themselves.
    pub offline_max_age: Duration,
    pub network: Network,
    pub startup_timeout: Duration,
    pub silence_timeout: Duration,
    pub turn_timeout: Duration,
}

/// Rules as they stand in the config file; none of a list means the default of that list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    pub allow: Option<Vec<String>>,
    pub ask: Option<Vec<String>>,
    pub deny: Option<Vec<String>>,
}

/// Why there is no usable configuration; shown to the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(pub String);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

/// The config file as it is, ours and foreign keys alike.
#[derive(Clone, Debug, Default)]
pub struct ConfigFile {
    pub path: PathBuf,
    pub object: Map<String, Value>,
}

/// Every key of the file. Others are kept, for programs that share it.
const KEYS: [&str; 36] = [
    "accountId",
    "agent",
    "agentId",
    "agents",
    "allowAll",
    "apiToken",
    "baseUrl",
    "caFile",
    "clientCert",
    "clientKey",
    "codexSandbox",
    "drainSeconds",
    "headers",
    "liveGuard",
    "liveThresholdMs",
    "maxTurns",
    "noProxy",
    "offlineMaxAgeSeconds",
    "opencodeModel",
    "opencodeProvider",
    "originHost",
    "parallelInDirectory",
    "permissions",
    "progress",
    "projectDir",
    "projectDirs",
    "proxy",
    "proxyAuthFile",
    "relayPermissions",
    "relayTimeoutMs",
    "requestTimeoutMs",
    "silenceSeconds",
    "startupSeconds",
    "streamIdleTimeoutMs",
    "turnSeconds",
    "usage",
];

impl ConfigFile {
    /// Keys that are none of ours, but nearly: each with the one that was meant.
    pub fn near_misses(&self) -> Vec<(&str, &'static str)> {
        let unknown = self.object.keys().filter(|key| !KEYS.contains(&key.as_str()));
        // A key that stands there as well was not meant.
        let absent = || KEYS.into_iter().filter(|key| !self.object.contains_key(*key));
        unknown.filter_map(|key| Some((key.as_str(), near::nearest(key, absent())?))).collect()
    }

    /// A missing file is an empty one.
    pub fn read(path: &Path) -> Result<ConfigFile, ConfigError> {
        let name = path.display();
        let bytes = match std::fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => b"{}".to_vec(),
            read => read.map_err(|error| {
                ConfigError(format!("cannot read the config file {name}: {error}"))
            })?,
        };
        match serde_json::from_slice(&bytes) {
            Ok(Value::Object(object)) => Ok(ConfigFile { path: path.to_owned(), object }),
            Ok(_) => Err(ConfigError(format!("the config file {name} holds no JSON object"))),
            Err(error) => Err(ConfigError(format!(
                "the config file {name} is not valid JSON at line {}, column {}; fix it, or run `obto-bridge init`",
                error.line(),
                error.column(),
            ))),
        }
    }

    /// The file's new contents, indented as the reference writes it.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes =
            serde_json::to_vec_pretty(&self.object).expect("a JSON value can be written");
        bytes.push(b'\n');
        bytes
    }

    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.object.insert(key.to_owned(), value.into());
    }
}

impl Config {
    /// Joins environment, file and defaults.
    pub fn load(paths: &Paths, env: &Env) -> Result<Config, ConfigError> {
        Config::from_file(&ConfigFile::read(&paths.config_file)?, env)
    }

    pub fn from_file(file: &ConfigFile, env: &Env) -> Result<Config, ConfigError> {
        let source = Source { file, env };
        Ok(Config {
            base_url: base_url(&source)?,
            origin_host: source
                .text("originHost", "BRIDGE_ORIGIN_HOST")?
                .unwrap_or_else(|| DEFAULT_ORIGIN_HOST.to_owned()),
            account_id: source.text("accountId", "BRIDGE_ACCOUNT_ID")?,
            token: token(&source)?,
            machine: MachineId::new(source.text("agentId", "AGENT_ID")?.unwrap_or_else(host_name)),
            home: home(env)?.to_owned(),
            project_dir: project_dir(&source)?,
            engine: source
                .text("agent", "BRIDGE_AGENT")?
                .map_or(Engine::CLAUDE, |name| Engine::new(&name)),
            codex_sandbox: codex_sandbox(&source)?,
            relay_permissions: source.flag("relayPermissions", "BRIDGE_RELAY_PERMISSIONS")?,
            relay_timeout: source.millis("relayTimeoutMs", "BRIDGE_RELAY_TIMEOUT_MS", 600_000)?,
            allow_all: source.flag("allowAll", "BRIDGE_ALLOW_ALL")?,
            permissions: permissions(&source)?,
            parallel_in_directory: source
                .flag("parallelInDirectory", "BRIDGE_PARALLEL_IN_DIRECTORY")?,
            progress: source.flag_or("progress", "BRIDGE_PROGRESS", true)?,
            usage: source.flag("usage", "BRIDGE_USAGE")?,
            project_dirs: project_dirs(&source)?,
            live_guard: source.flag("liveGuard", "BRIDGE_LIVE_GUARD")?,
            live_threshold: source.millis("liveThresholdMs", "BRIDGE_LIVE_THRESHOLD_MS", 60_000)?,
            opencode_provider: source.text("opencodeProvider", "BRIDGE_OPENCODE_PROVIDER")?,
            opencode_model: source.text("opencodeModel", "BRIDGE_OPENCODE_MODEL")?,
            agents: agents::read(&source)?,
            max_turns: source.count("maxTurns", "BRIDGE_MAX_TURNS", 4)?,
            request_timeout: source.request_timeout()?,
            stream_idle_timeout: source.millis(
                "streamIdleTimeoutMs",
                "BRIDGE_STREAM_IDLE_TIMEOUT_MS",
                75_000,
            )?,
            drain: source.seconds("drainSeconds", "BRIDGE_DRAIN_SECONDS", 20)?,
            offline_max_age: source.seconds(
                "offlineMaxAgeSeconds",
                "BRIDGE_OFFLINE_MAX_AGE_SECONDS",
                86_400,
            )?,
            network: network::read(&source)?,
            startup_timeout: source.seconds("startupSeconds", "BRIDGE_STARTUP_SECONDS", 60)?,
            silence_timeout: source.seconds("silenceSeconds", "BRIDGE_SILENCE_SECONDS", 900)?,
            turn_timeout: source.seconds("turnSeconds", "BRIDGE_TURN_SECONDS", 7_200)?,
        })
    }
}

/// One key from the environment or else from the file; errors name where it stands.
struct Source<'a> {
    file: &'a ConfigFile,
    env: &'a Env,
}

impl<'a> Source<'a> {
    /// A key of the file, as `read` takes it; null is none.
    fn value<T>(
        &self,
        key: &str,
        expected: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        let value = self.file.object.get(key).filter(|value| !value.is_null());
        let read = |value| read(value).ok_or_else(|| self.wrong(key, value, expected));
        value.map(read).transpose()
    }

    fn text(&self, key: &str, var: &'static str) -> Result<Option<String>, ConfigError> {
        if let Some(text) = self.env.text(var)? {
            return Ok(Some(text.to_owned()));
        }
        let text = self.value(key, "a string", Value::as_str)?;
        Ok(text.filter(|text| !text.trim().is_empty()).map(str::to_owned))
    }

    fn path(&self, key: &str, var: &'static str) -> Result<Option<Utf8PathBuf>, ConfigError> {
        self.text(key, var)?.map(|path| self.absolute(key, var, &path)).transpose()
    }

    fn absolute(&self, key: &str, var: &str, path: &str) -> Result<Utf8PathBuf, ConfigError> {
        if let Some(rest) = path.strip_prefix("~/") {
            return Ok(home(self.env)?.join(rest));
        }
        Utf8PathBuf::from_path_buf(self.env.cwd.join(path)).map_err(|path| {
            let place = self.place(key, var);
            ConfigError(format!(
                "{place} is below the current directory, and {} is not UTF-8; make it an \
                 absolute path",
                path.display()
            ))
        })
    }

    fn flag(&self, key: &str, var: &'static str) -> Result<bool, ConfigError> {
        self.flag_or(key, var, false)
    }

    fn flag_or(&self, key: &str, var: &'static str, default: bool) -> Result<bool, ConfigError> {
        if let Some(text) = self.env.text(var)? {
            return match text.trim().to_lowercase().as_str() {
                "1" | "true" | "yes" | "on" => Ok(true),
                "0" | "false" | "no" | "off" => Ok(false),
                _ => Err(ConfigError(format!(
                    "the environment variable {var} is {text:?}; it must be 1 or 0"
                ))),
            };
        }
        Ok(self.value(key, "true or false", Value::as_bool)?.unwrap_or(default))
    }

    fn number(&self, key: &str, var: &'static str) -> Result<Option<u64>, ConfigError> {
        if let Some(text) = self.env.text(var)? {
            return text.trim().parse().map(Some).map_err(|_| {
                ConfigError(format!(
                    "the environment variable {var} is {text:?}; it must be a whole number"
                ))
            });
        }
        self.value(key, "a whole number", Value::as_u64)
    }

    fn millis(&self, key: &str, var: &'static str, default: u64) -> Result<Duration, ConfigError> {
        Ok(bounded(Duration::from_millis(self.number(key, var)?.unwrap_or(default))))
    }

    fn seconds(&self, key: &str, var: &'static str, default: u64) -> Result<Duration, ConfigError> {
        Ok(bounded(Duration::from_secs(self.number(key, var)?.unwrap_or(default))))
    }

    fn count(&self, key: &str, var: &'static str, default: u64) -> Result<usize, ConfigError> {
        let count = self.number(key, var)?.unwrap_or(default);
        if count == 0 {
            let place = self.place(key, var);
            return Err(ConfigError(format!("{place} is 0; it must be at least 1")));
        }
        Ok(usize::try_from(count).unwrap_or(usize::MAX))
    }

    /// Zero would make every request fail, with errors that do not say why.
    fn request_timeout(&self) -> Result<Duration, ConfigError> {
        let millis = self.count("requestTimeoutMs", "BRIDGE_REQUEST_TIMEOUT_MS", 30_000)?;
        Ok(bounded(Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))))
    }

    fn place(&self, key: &str, var: &str) -> String {
        if self.env.var(var).is_some() {
            format!("the environment variable {var}")
        } else {
            format!("{key:?} in {}", self.file.path.display())
        }
    }

    /// What a key's value must be and is not. The value itself is not shown: it may be a secret.
    fn wrong(&self, key: &str, value: &Value, expected: &str) -> ConfigError {
        let kind = match value {
            Value::Null => "null",
            Value::Bool(_) => "a boolean",
            Value::Number(_) => "a number",
            Value::String(_) => "a string",
            Value::Array(_) => "a list",
            Value::Object(_) => "an object",
        };
        let path = self.file.path.display();
        ConfigError(format!("{key:?} in {path} is {kind}; it must be {expected}"))
    }
}

/// A time limit longer than a year is a mistake of units; it would also overflow deadlines.
fn bounded(duration: Duration) -> Duration {
    duration.min(Duration::from_hours(24 * 365))
}

fn base_url(source: &Source<'_>) -> Result<String, ConfigError> {
    let url =
        source.text("baseUrl", "BRIDGE_BASE_URL")?.unwrap_or_else(|| DEFAULT_BASE_URL.to_owned());
    let url = url.trim().trim_end_matches('/').to_owned();
    if url.starts_with("http://") || url.starts_with("https://") {
        return Ok(url);
    }
    let place = source.place("baseUrl", "BRIDGE_BASE_URL");
    Err(ConfigError(format!("{place} is {url:?}; it must begin with https:// or http://")))
}

fn codex_sandbox(source: &Source<'_>) -> Result<String, ConfigError> {
    const ALLOWED: [&str; 3] = ["workspace-write", "read-only", "danger-full-access"];
    let (key, var) = ("codexSandbox", "BRIDGE_CODEX_SANDBOX");
    let value = source.text(key, var)?.unwrap_or_else(|| ALLOWED[0].to_owned());
    if ALLOWED.contains(&value.as_str()) {
        return Ok(value);
    }
    let place = source.place(key, var);
    Err(ConfigError(format!("{place} is {value:?}; it must be one of {}", ALLOWED.join(", "))))
}

fn token(source: &Source<'_>) -> Result<Option<Token>, ConfigError> {
    if source.env.var("BRIDGE_API_TOKEN").is_none()
        && let Some(path) = source.env.text("BRIDGE_API_TOKEN_FILE")?
    {
        let token = std::fs::read_to_string(path).map_err(|error| {
            ConfigError(format!("cannot read {path}, which BRIDGE_API_TOKEN_FILE names: {error}"))
        })?;
        if token.trim().is_empty() {
            return Err(ConfigError(format!(
                "{path}, which BRIDGE_API_TOKEN_FILE names, is empty"
            )));
        }
        return Ok(Some(Token::new(token.trim())));
    }
    let token = source.text("apiToken", "BRIDGE_API_TOKEN")?;
    // A header can't carry these, and the error must not show the token.
    if token.as_ref().is_some_and(|token| token.trim().bytes().any(|byte| !byte.is_ascii_graphic()))
    {
        let place = source.place("apiToken", "BRIDGE_API_TOKEN");
        return Err(ConfigError(format!("{place} holds characters that no token has")));
    }
    Ok(token.map(|token| Token::new(token.trim())))
}

/// None for null; the error is the value if it is no list, or the first of its items that is no
/// string.
fn strings(value: Option<&Value>) -> Result<Option<Vec<String>>, &Value> {
    let Some(value) = value.filter(|value| !value.is_null()) else { return Ok(None) };
    let items = value.as_array().ok_or(value)?.iter();
    items
        .map(|item| item.as_str().map(str::to_owned).ok_or(item))
        .collect::<Result<_, _>>()
        .map(Some)
}

/// `"permissions": {"allow": [RULE, …], "ask": […], "deny": […]}`
fn permissions(source: &Source<'_>) -> Result<Permissions, ConfigError> {
    let mut permissions = Permissions::default();
    let path = source.file.path.display();
    let object = source.value("permissions", "an object of rules", Value::as_object)?;
    for (name, value) in object.into_iter().flatten() {
        let list = match name.as_str() {
            "allow" => &mut permissions.allow,
            "ask" => &mut permissions.ask,
            "deny" => &mut permissions.deny,
            _ => {
                return Err(ConfigError(format!(
                    "\"permissions\" in {path} has {name:?}; it may have allow, ask and deny"
                )));
            }
        };
        let key = format!("permissions.{name}");
        *list =
            strings(Some(value)).map_err(|value| source.wrong(&key, value, "a list of rules"))?;
    }
    Ok(permissions)
}

/// Engines are given paths in JSON and on command lines of their own making, so every path is text.
fn home(env: &Env) -> Result<&Utf8Path, ConfigError> {
    Utf8Path::from_path(&env.home).ok_or_else(|| {
        ConfigError(format!(
            "the home directory {} is not UTF-8; set HOME to a path that is",
            env.home.display()
        ))
    })
}

fn project_dir(source: &Source<'_>) -> Result<Utf8PathBuf, ConfigError> {
    let (key, var) = ("projectDir", "BRIDGE_PROJECT_DIR");
    match source.path(key, var)? {
        Some(dir) => Ok(dir),
        None => Utf8PathBuf::from_path_buf(source.env.cwd.clone()).map_err(|cwd| {
            let file = source.file.path.display();
            ConfigError(format!(
                "the current directory {} is not UTF-8; set {key:?} in {file} or the \
                 environment variable {var} to a path that is",
                cwd.display()
            ))
        }),
    }
}

fn project_dirs(source: &Source<'_>) -> Result<Vec<Utf8PathBuf>, ConfigError> {
    let key = "projectDirs";
    let dirs = strings(source.file.object.get(key))
        .map_err(|value| source.wrong(key, value, "a list of strings"))?;
    dirs.unwrap_or_default().iter().map(|dir| source.absolute(key, key, dir)).collect()
}

/// The name of this computer, the machine's name where none is configured.
pub fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().trim().to_owned();
    if name.is_empty() { "unnamed-agent".to_owned() } else { name }
}
