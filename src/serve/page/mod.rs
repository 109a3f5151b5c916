//! The page at `GET /api/view`: markup, style and script of this directory in one self-contained
//! response. It holds nothing of anybody, so it needs no credentials; what it shows it asks for
//! later, with the cookie of whoever signed in. Its policy names its own parts by their hashes, so
//! that nothing that is smuggled into it can run.

use std::sync::LazyLock;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use sha2::{Digest, Sha256};

use crate::serve::http::message::Response;

const MARKUP: &str = include_str!("index.html");
const ICON: &str = include_str!("icon.svg");
const MANIFEST: &str = include_str!("manifest.webmanifest");

/// Where style and script go in the markup.
const STYLE_SLOT: &str = "/* style.css */";
const SCRIPT_SLOT: &str = "/* app */";

/// One after the other they are one stylesheet: later rules win.
const STYLE: [&str; 3] = [
    include_str!("style/base.css"),
    include_str!("style/layout.css"),
    include_str!("style/parts.css"),
];

/// One after the other they are one module: each may use what stands above it, and functions of
/// those below it once all are read.
const SCRIPT: [&str; 19] = [
    include_str!("app/dom.js"),
    include_str!("app/time.js"),
    include_str!("app/api.js"),
    include_str!("app/sanitise.js"),
    include_str!("app/store.js"),
    include_str!("app/messages.js"),
    include_str!("app/drafts.js"),
    include_str!("app/live.js"),
    include_str!("app/a11y.js"),
    include_str!("app/threads.js"),
    include_str!("app/cards.js"),
    include_str!("app/conversation.js"),
    include_str!("app/composer.js"),
    include_str!("app/newthread.js"),
    include_str!("app/machines.js"),
    include_str!("app/tokens.js"),
    include_str!("app/external.js"),
    include_str!("app/signin.js"),
    include_str!("app/main.js"),
];

/// The page and its policy, put together once.
static PAGE: LazyLock<Page> = LazyLock::new(|| {
    let (style, script) = (STYLE.concat(), SCRIPT.concat());
    let html = MARKUP.replacen(STYLE_SLOT, &style, 1).replacen(SCRIPT_SLOT, &script, 1);
    Page { html, policy: policy(&style, &script) }
});

struct Page {
    html: String,
    policy: String,
}

pub fn view() -> Response {
    Response::bytes("text/html; charset=utf-8", &*PAGE.html)
        .with("Content-Security-Policy", PAGE.policy.clone())
        .with("Permissions-Policy", "camera=(), geolocation=(), microphone=()")
}

/// What a browser needs to install the page like an app.
pub fn manifest() -> Response {
    Response::bytes("application/manifest+json", MANIFEST)
}

pub fn icon() -> Response {
    Response::bytes("image/svg+xml", ICON)
}

/// Only these very texts run and style. Requests go to us alone; `blob:` and `data:` are previews
/// of pictures that were just picked. The one way from a string to markup is the script's own
/// sanitiser, by the named policy.
fn policy(style: &str, script: &str) -> String {
    format!(
        "default-src 'none'; script-src '{}'; style-src '{}'; connect-src 'self'; \
         img-src 'self' blob: data:; manifest-src 'self'; form-action 'none'; base-uri 'none'; \
         frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types obto-markdown",
        hash(script),
        hash(style)
    )
}

fn hash(text: &str) -> String {
    format!("sha256-{}", BASE64_STANDARD.encode(Sha256::digest(text)))
}

#[cfg(test)]
mod tests;
