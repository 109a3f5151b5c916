//! What a bridge says first on a stream. Pure.

use serde_json::{Map, Value};

use super::event::Replay;
use crate::bridge::wire::text;

pub(super) struct Hello {
    pub(super) replay: Replay,
    pub(super) server_time: Option<String>,
    pub(super) accepts: Vec<String>,
    /// Messages that waited for this machine and follow now.
    pub(super) waiting: Option<u64>,
}

impl Hello {
    /// The data of a `hello` event:
    /// `{"replay":"complete"|"gap"|"none","serverTime":"…","accepts":["machine"],"waiting":0}`.
    pub(super) fn read(data: &str) -> Hello {
        let hello: Map<String, Value> = serde_json::from_str(data).unwrap_or_default();
        let replay = match text(&hello, "replay").as_deref() {
            Some("complete") => Replay::Complete,
            Some("gap") => Replay::Gap,
            _ => Replay::Unknown,
        };
        let accepts = hello.get("accepts").and_then(Value::as_array);
        let accepts = accepts.into_iter().flatten().filter_map(|it| it.as_str().map(str::to_owned));
        Hello {
            replay,
            server_time: text(&hello, "serverTime"),
            accepts: accepts.collect(),
            waiting: hello.get("waiting").and_then(Value::as_u64),
        }
    }
}
