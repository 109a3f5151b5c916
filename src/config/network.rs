//! What the config says of the way to the bridge: proxies, certificates, headers.

use std::{fmt, os::unix::fs::MetadataExt, path::PathBuf};

use camino::Utf8PathBuf;
use serde_json::Value;

use super::{ConfigError, Source, Token};

/// A setting's value, and where it stands.
#[derive(Clone, PartialEq, Eq)]
pub struct Setting {
    /// The variable or the key: `HTTPS_PROXY`, `"proxy" in /home/ann/.obto-bridge/config.json`.
    pub place: String,
    pub value: String,
}

impl fmt::Debug for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The value may have a password.
        write!(f, "Setting({})", self.place)
    }
}

/// A header of the user's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub name: String,
    pub source: HeaderSource,
}

/// Where a header's value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderSource {
    /// From the config or a variable. A secret like the token.
    Value(Token),
    /// Read anew for every request.
    File(PathBuf),
}

/// The way to the bridge, as it is configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Network {
    pub proxy: Option<Setting>,
    pub no_proxy: Option<Setting>,
    /// The contents of `proxyAuthFile`: `user:password`.
    pub proxy_auth: Option<Token>,
    /// PEM file of authorities, or single servers, to trust besides the machine's own.
    pub ca_file: Option<PathBuf>,
    /// PEM files: a certificate with its chain, and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
    pub headers: Vec<Header>,
}

/// What the program sets itself, or what would change how a request is read.
const OURS: [&str; 12] = [
    "accept",
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "expect",
    "host",
    "last-event-id",
    "obto-origin-host",
    "proxy-authorization",
    "transfer-encoding",
    "user-agent",
];

pub(super) fn read(source: &Source<'_>) -> Result<Network, ConfigError> {
    let setting = |key, var| {
        let value = source.text(key, var)?;
        Ok(value.map(|value| Setting { place: source.place(key, var), value }))
    };
    let path = |key, var| Ok(source.path(key, var)?.map(Utf8PathBuf::into_std_path_buf));
    let certificate = path("clientCert", "BRIDGE_CLIENT_CERT")?;
    let key = path("clientKey", "BRIDGE_CLIENT_KEY")?;
    let identity = match (certificate, key) {
        (Some(certificate), Some(key)) => {
            private(&key, &source.place("clientKey", "BRIDGE_CLIENT_KEY"))?;
            Some((certificate, key))
        }
        (None, None) => None,
        (Some(_), None) => {
            return Err(ConfigError("clientCert is set, but clientKey is not".to_owned()));
        }
        (None, Some(_)) => {
            return Err(ConfigError("clientKey is set, but clientCert is not".to_owned()));
        }
    };
    Ok(Network {
        proxy: setting("proxy", "BRIDGE_PROXY")?,
        no_proxy: setting("noProxy", "BRIDGE_NO_PROXY")?,
        proxy_auth: proxy_auth(source)?,
        ca_file: path("caFile", "BRIDGE_CA_FILE")?,
        identity,
        headers: headers(source)?,
    })
}

fn proxy_auth(source: &Source<'_>) -> Result<Option<Token>, ConfigError> {
    let (key, var) = ("proxyAuthFile", "BRIDGE_PROXY_AUTH_FILE");
    let Some(file) = source.path(key, var)? else { return Ok(None) };
    let place = source.place(key, var);
    private(file.as_std_path(), &place)?;
    let text = std::fs::read_to_string(&file).map_err(|error| {
        ConfigError(format!("cannot read {file}, which {place} names: {error}"))
    })?;
    match text.lines().next() {
        Some(line) if line.contains(':') => Ok(Some(Token::new(line))),
        _ => Err(ConfigError(format!("{file}, which {place} names, must hold user:password"))),
    }
}

/// Refuses a secret that others on this machine can read. A file that is not there is told of where
/// it is read.
fn private(file: &std::path::Path, place: &str) -> Result<(), ConfigError> {
    let is_open = std::fs::metadata(file).is_ok_and(|meta| meta.mode() & 0o077 != 0);
    if is_open {
        let file = file.display();
        return Err(ConfigError(format!(
            "others on this machine can read {file}, which {place} names: chmod 600 {file}"
        )));
    }
    Ok(())
}

/// `"headers": {"Name": "value", "Name": {"env": "VARIABLE"}, "Name": {"file": "path"}}`
fn headers(source: &Source<'_>) -> Result<Vec<Header>, ConfigError> {
    let object = source.value("headers", "an object of headers by name", Value::as_object)?;
    let headers = object.into_iter().flatten();
    headers.map(|(name, value)| header(source, name, value)).collect()
}

fn header(source: &Source<'_>, name: &str, value: &Value) -> Result<Header, ConfigError> {
    let path = source.file.path.display();
    if OURS.iter().any(|ours| ours.eq_ignore_ascii_case(name)) {
        return Err(ConfigError(format!(
            "\"headers\" in {path} has {name:?}, which the program sets itself"
        )));
    }
    let wrong = || {
        ConfigError(format!(
            "\"headers.{name}\" in {path} must be a string, {{\"env\": \"VARIABLE\"}} or \
             {{\"file\": \"PATH\"}}"
        ))
    };
    let header_source = match value {
        Value::String(value) => HeaderSource::Value(Token::new(value)),
        Value::Object(object) if object.len() == 1 => {
            let (kind, value) = object.iter().next().ok_or_else(wrong)?;
            let value = value.as_str().ok_or_else(wrong)?;
            match kind.as_str() {
                "file" => {
                    let file = source.absolute(name, name, value)?.into_std_path_buf();
                    private(&file, &format!("\"headers.{name}\" in {path}"))?;
                    HeaderSource::File(file)
                }
                "env" => {
                    let found = source.env.var(value).and_then(std::ffi::OsStr::to_str);
                    let found = found.ok_or_else(|| {
                        ConfigError(format!(
                            "the environment variable {value}, which \"headers.{name}\" in {path} \
                             names, is not set"
                        ))
                    })?;
                    HeaderSource::Value(Token::new(found))
                }
                _ => return Err(wrong()),
            }
        }
        _ => return Err(wrong()),
    };
    Ok(Header { name: name.to_owned(), source: header_source })
}
