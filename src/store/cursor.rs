//! Up to where everything was read, apart from the disk that holds it, so that the coordinator can speak
//! of it. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{ids::ThreadId, time::Timestamp};

/// How far the stream was read. Everything before it is in the inbox or was done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Cursor {
    /// For `Last-Event-ID`.
    pub last_event_id: Option<String>,
    /// Up to when every thread was read: the server's time, never ours.
    pub seen_until: Option<Timestamp>,
    /// Threads that were read only up to an earlier time.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub behind: BTreeMap<ThreadId, Timestamp>,
}
