//! Logs on stdout: one JSON object a line, `{"ts","level","msg","data"}` as in the reference, or a
//! readable form for a terminal. `data` holds the key-value pairs of the call. Tokens are taken out
//! of every line, whatever put them in.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal, Write},
    sync::RwLock,
};

use env_logger::{Builder, Target, fmt::Formatter};
use log::{
    Level, LevelFilter, Record,
    kv::{self, Key, VisitSource},
};
use serde_json::{Map, Value, json};

use crate::{config::Token, time, visible::drives_terminal};

/// Calls with this target are written with level `event`, as the reference does for what the bridge
/// sends.
pub const EVENT: &str = "event";

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Json,
    Text,
}

impl Format {
    /// Text for a person at a terminal, JSON for everything else.
    pub fn of(output: &impl IsTerminal) -> Format {
        if output.is_terminal() { Format::Text } else { Format::Json }
    }

    pub fn parse(text: &str) -> Result<Format, String> {
        match text {
            "json" => Ok(Format::Json),
            "text" => Ok(Format::Text),
            _ => Err(format!("{text:?} is no format; it must be json or text")),
        }
    }
}

/// Starts logging to `target`. `filter` is in the form of `RUST_LOG` (`info`,
/// `warn,obto_bridge::bridge=debug`). A second call changes nothing.
pub fn init(format: Format, filter: Option<&str>, target: Target) {
    let mut builder = Builder::new();
    builder.filter_level(LevelFilter::Info);
    // ureq and rustls narrate every byte at debug.
    builder.filter_module("ureq", LevelFilter::Warn).filter_module("rustls", LevelFilter::Warn);
    if let Some(filter) = filter {
        builder.parse_filters(filter);
    }
    builder.target(target).format(move |out, record| write_line(out, format, record));
    builder.try_init().ok(); // A second logger in one process is a test's business.
}

fn write_line(out: &mut Formatter, format: Format, record: &Record<'_>) -> io::Result<()> {
    let line = match format {
        Format::Json => json_line(record),
        Format::Text => text_line(record),
    };
    writeln!(out, "{}", redact(&line))
}

fn level(record: &Record<'_>) -> &'static str {
    match record.level() {
        _ if record.target() == EVENT => "event",
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug | Level::Trace => "debug",
    }
}

fn json_line(record: &Record<'_>) -> String {
    let mut line = json!({
        "ts": time::now(), "level": level(record), "msg": record.args().to_string(),
    });
    let data = data(record);
    if !data.is_empty() {
        line["data"] = data.into();
    }
    line.to_string()
}

fn text_line(record: &Record<'_>) -> String {
    let ts = time::now().to_string();
    // Someone who watches the terminal knows the date.
    let clock = ts.get(11..19).unwrap_or(&ts);
    let mut line = format!("{clock} {:5} {}", level(record), printable(&record.args().to_string()));
    for (key, value) in data(record) {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        write!(line, " {key}={}", printable(&value)).expect("writing to a string works");
    }
    line
}

/// Foreign text in one line, fit for a terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if drives_terminal(c) { '\u{fffd}' } else { c }).collect()
}

fn data(record: &Record<'_>) -> Map<String, Value> {
    let mut data = Data(Map::new());
    record.key_values().visit(&mut data).ok(); // Our visitor never fails.
    data.0
}

struct Data(Map<String, Value>);

impl<'kvs> VisitSource<'kvs> for Data {
    fn visit_pair(&mut self, key: Key<'kvs>, value: kv::Value<'kvs>) -> Result<(), kv::Error> {
        self.0.insert(key.to_string(), as_json(&value));
        Ok(())
    }
}

/// Keeps numbers numbers.
fn as_json(value: &kv::Value<'_>) -> Value {
    let number = value.to_u64().map(Value::from).or_else(|| value.to_i64().map(Value::from));
    number
        .or_else(|| value.to_f64().map(Value::from))
        .or_else(|| value.to_bool().map(Value::from))
        .unwrap_or_else(|| value.to_string().into())
}

/// Tokens that must never be written; they come from the config, from `rotate-token`, from `init`.
static SECRETS: RwLock<Vec<String>> = RwLock::new(Vec::new());

/// From now on `token` is taken out of every line.
pub fn hide(token: &Token) {
    let mut secrets = SECRETS.write().expect("nothing panics while it holds this");
    // Shorter ones would blot out ordinary words.
    if token.reveal().len() >= 6 && !secrets.iter().any(|known| known == token.reveal()) {
        secrets.push(token.reveal().to_owned());
    }
}

/// `text` without the hidden tokens, and without anything in the shape of one (`obto_…`).
pub fn redact(text: &str) -> String {
    let mut text = text.to_owned();
    for secret in SECRETS.read().expect("nothing panics while it holds this").iter() {
        if text.contains(secret.as_str()) {
            text = text.replace(secret.as_str(), "(token)");
        }
    }
    redact_shape(text)
}

fn redact_shape(text: String) -> String {
    const PREFIX: &str = "obto_";
    const SHORTEST: usize = 12;
    if !text.contains(PREFIX) {
        return text;
    }
    let mut clean = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(at) = rest.find(PREFIX) {
        let tail = &rest[at + PREFIX.len()..];
        let length = tail.bytes().take_while(u8::is_ascii_alphanumeric).count();
        clean.push_str(&rest[..at]);
        if length >= SHORTEST && !tail.starts_with(PREFIX) {
            clean.push_str("(token)");
            rest = &tail[length..];
        } else {
            clean.push_str(PREFIX);
            rest = tail;
        }
    }
    clean.push_str(rest);
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(record: &Record<'_>, expected: &str) {
        let mut line: Value = serde_json::from_str(&json_line(record)).unwrap();
        let ts = line.as_object_mut().unwrap().remove("ts").unwrap();
        assert!(time::Timestamp::parse(ts.as_str().unwrap()).is_some(), "{ts}");
        assert_eq!(line.to_string(), expected);
    }

    #[test]
    fn a_line_is_an_object_like_the_reference_s() {
        let pairs: &[(&str, kv::Value<'_>)] =
            &[("threadId", "t\n1".into()), ("n", 3.into()), ("won", true.into())];
        let record = Record::builder()
            .level(Level::Warn)
            .args(format_args!("claimed"))
            .key_values(&pairs)
            .build();
        check(
            &record,
            r#"{"data":{"n":3,"threadId":"t\n1","won":true},"level":"warn","msg":"claimed"}"#,
        );
        check(
            &Record::builder().level(Level::Info).target(EVENT).args(format_args!("reply")).build(),
            r#"{"level":"event","msg":"reply"}"#,
        );
    }

    #[test]
    fn text_cannot_drive_the_terminal() {
        let pairs: &[(&str, kv::Value<'_>)] = &[("thread", "\u{1b}[2J".into())];
        let record = Record::builder()
            .level(Level::Info)
            .args(format_args!("a\rb"))
            .key_values(&pairs)
            .build();
        let line = text_line(&record);
        assert!(!line.contains('\u{1b}') && !line.contains('\r'), "{line:?}");
        assert!(line.ends_with("info  a\u{fffd}b thread=\u{fffd}[2J"), "{line:?}");
    }

    #[test]
    fn tokens_are_taken_out() {
        hide(&Token::new("hunter2hunter2"));
        assert_eq!(redact("Bearer hunter2hunter2!"), "Bearer (token)!");
        assert_eq!(redact("obto_abcdefghijkl012 and obto_short"), "(token) and obto_short");
        assert_eq!(redact("obto_"), "obto_");
        assert_eq!(redact("obto_obto_abcdefghijkl"), "obto_(token)");
    }
}
