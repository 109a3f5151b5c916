//! What routes read in the same way: ids, times and limits in queries, and how long bodies may be.

use crate::{
    ascii,
    ids::ThreadId,
    serve::{
        http::message::{Head, Response},
        store::Caller,
        wire::{self, Fields, NAME_CHARS},
    },
    time::Timestamp,
};

/// Of what one answer lists.
pub(super) const LIMIT_MAX: u32 = 1000;
/// A picture in base64 with its fields.
const UPLOAD_BYTES: usize = 36 * 1024 * 1024;
/// A thousand turns of a session.
const BACKFILL_BYTES: usize = 32 * 1024 * 1024;
/// What a machine says of itself. All of it is in every list of machines.
const MACHINE_BYTES: usize = 256 * 1024;
/// A few ids and names. Nobody has been asked for a token yet where a form is sent.
const FORM_BYTES: usize = 16 * 1024;

/// The most bytes of a route's body; `usual` is that of those that carry what people and agents say.
pub(super) fn body_bytes(path: &str, usual: usize) -> usize {
    match path {
        "/api/bridge/attachment/upload" => UPLOAD_BYTES.max(usual),
        "/api/bridge/external/backfill" => BACKFILL_BYTES.max(usual),
        "/api/message" | "/api/reply" | "/api/bridge/external/sync" => usual,
        "/api/bridge/machine" => MACHINE_BYTES.min(usual),
        _ => FORM_BYTES.min(usual),
    }
}

pub(super) fn thread_id(fields: &Fields) -> Result<ThreadId, Response> {
    fields.name("threadId").map(ThreadId::new)
}

/// The same answer for what is not there and for what belongs to others.
pub(super) fn no_thread() -> Response {
    Response::error(404, "there is no such thread on this account")
}

/// Refuses a browser where only a daemon has something to say.
pub(super) fn daemon_only(caller: Caller) -> Result<(), Response> {
    if caller.token().is_none() {
        return Err(Response::error(403, "only a daemon may do this, with its token"));
    }
    Ok(())
}

pub(super) fn name_param(head: &Head, name: &str) -> Result<String, Response> {
    checked_name(name, head.param(name).unwrap_or_default())
}

/// An id or name that did not come as JSON.
pub(super) fn checked_name(name: &str, text: String) -> Result<String, Response> {
    if text.trim().is_empty() {
        return Err(wire::bad_field(400, name, "is missing"));
    }
    if NAME_CHARS < text.chars().count() || text.contains(char::is_control) {
        return Err(wire::bad_field(400, name, "is too long or has control characters"));
    }
    Ok(text)
}

pub(super) fn time_param(head: &Head, name: &str) -> Result<Option<Timestamp>, Response> {
    let Some(text) = head.param(name).filter(|it| !it.is_empty()) else { return Ok(None) };
    let time = Timestamp::parse(&text);
    time.map(Some).ok_or_else(|| wire::bad_field(400, name, "is no RFC 3339 time"))
}

/// As many as that at most, and never more than a thousand.
pub(super) fn limit_param(head: &Head) -> Result<Option<u32>, Response> {
    let Some(text) = head.param("limit").filter(|it| !it.is_empty()) else { return Ok(None) };
    // What has more digits than fit is more than the most, too.
    match ascii::is_digits(&text).then(|| text.parse().unwrap_or(u32::MAX)) {
        Some(limit @ 1..) => Ok(Some(LIMIT_MAX.min(limit))),
        _ => Err(wire::bad_field(400, "limit", "is no positive number")),
    }
}
