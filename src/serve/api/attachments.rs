//! Pictures: taken by what their bytes are, and given back only to their account, in a form in which
//! a browser can do nothing but show them.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::json;

use crate::serve::{
    api::{Answer, Api},
    http::message::{Request, Response},
    image,
    store::{Caller, attachments::Upload},
    wire::{Fields, NAME_CHARS},
};

/// The route of one picture, up to its id.
pub(super) const PREFIX: &str = "/api/bridge/attachment/";

const FILE_BYTES: usize = 25 * 1024 * 1024;
/// What an opened picture may do: nothing.
const POLICY: &str = "sandbox; default-src 'none'";

pub(super) fn upload(api: &Api, caller: Caller, request: &Request) -> Answer {
    let fields = Fields::parse(&request.body)?;
    // It may be wrong, so nothing relies on it.
    fields.optional_text("mediaType", NAME_CHARS)?;
    let name = file_name(fields.str("name")?.unwrap_or_default());
    let data = fields.str("data")?.ok_or_else(|| fields.bad(400, "data", "is missing"))?;
    let too_long = || fields.bad(413, "data", "is over 25 MB");
    // Four characters are three bytes; what is longer need not be decoded to be refused.
    if FILE_BYTES.div_ceil(3) * 4 < data.len() {
        return Err(too_long());
    }
    let data = BASE64_STANDARD.decode(data).map_err(|_| fields.bad(400, "data", "is no base64"))?;
    if FILE_BYTES < data.len() {
        return Err(too_long());
    }
    let image = image::sniff(&data)
        .ok_or_else(|| fields.bad(415, "data", "is no PNG, JPEG, GIF or WebP picture"))?;
    let upload = Upload { name, media_type: image.media_type, size: image.size, data };
    let quota = api.options.attachment_bytes;
    let stored = api.store.upload(caller.account, &upload, quota)?;
    let Some(file) = stored else {
        let text = format!(
            "the pictures of this account would be over {quota} bytes; delete threads that have some"
        );
        return Err(Response::error(507, text));
    };
    let mut answer = json!(file);
    answer["attachmentId"] = json!(file.id);
    Ok(Response::ok(answer))
}

/// A name for people: one line, and nothing of a path but its end.
fn file_name(name: &str) -> String {
    let name = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let name: String = name.chars().filter(|c| !c.is_control()).take(NAME_CHARS).collect();
    let name = name.trim();
    if name.is_empty() { "image".to_owned() } else { name.to_owned() }
}

pub(super) fn fetch(api: &Api, caller: Caller, request: &Request) -> Answer {
    let id = request.head.path.strip_prefix(PREFIX).unwrap_or_default();
    let found = api.store.attachment(caller.account, id)?;
    let (media_type, data) =
        found.ok_or_else(|| Response::error(404, "there is no such attachment on this account"))?;
    // Nor does a browser keep it: whoever comes after its person has signed out must find nothing.
    Ok(Response::bytes(&media_type, data)
        .with("Content-Security-Policy", POLICY)
        .with("Cross-Origin-Resource-Policy", "same-origin"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_are_one_line_and_no_path() {
        #[track_caller]
        fn check(name: &str, expected: &str) {
            assert_eq!(file_name(name), expected);
        }
        check("a b.png", "a b.png");
        check("../../etc/passwd", "passwd");
        check("C:\\x\\y.gif", "y.gif");
        check("a\r\nb\0.png", "ab.png");
        check(" \u{7}", "image");
        check("a/", "image");
        check(&"x".repeat(300), &"x".repeat(200));
    }
}
