//! `GET /api/view`: the page. It holds nothing of anybody, so it needs no credentials.

use crate::serve::http::message::Response;

/// Nothing may be loaded, run, framed or submitted.
const POLICY: &str =
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const PAGE: &str = "<!doctype html>\n<html lang=\"en\"><title>Agent Bridge</title>\n\
                    <h1>Agent Bridge</h1>\n<p>Sign in with POST /api/session.</p>\n";

pub fn view() -> Response {
    Response::html(200, PAGE.to_owned()).with("Content-Security-Policy", POLICY)
}
