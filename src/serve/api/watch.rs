//! The routes that monitoring asks: whether it can work, and its figures.

use serde_json::json;

use crate::serve::{
    api::{Answer, Api},
    http::message::{Head, Request, Response},
};

/// What a proxy adds to a request that it hands on.
const FORWARDED: &[&str] =
    &["forwarded", "via", "x-forwarded-for", "x-forwarded-proto", "x-real-ip"];

pub(super) fn ready(api: &Api, _: &Request) -> Answer {
    match api.metrics.ready() {
        Ok(()) => Ok(Response::ok(json!({}))),
        Err(why) => Err(Response::error(503, why).with("Retry-After", "5")),
    }
}

/// The figures name nobody, so this machine may have them without a token, and nobody else at all.
pub(super) fn metrics(api: &Api, request: &Request) -> Answer {
    if !is_local(&request.head) {
        return Err(Response::error(403, "metrics are for this machine alone: ask over loopback"));
    }
    Ok(Response::bytes("text/plain; version=0.0.4; charset=utf-8", api.metrics.text()))
}

/// A proxy on this machine asks over loopback, too, for somebody else.
fn is_local(head: &Head) -> bool {
    head.from.peer.is_loopback() && FORWARDED.iter().all(|name| head.header(name).is_none())
}
