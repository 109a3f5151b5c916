//! From a request to an open event stream, or the reason why there is none.

use ureq::{Agent, Body, http::header};

use super::settings::Settings;
use crate::{
    ascii,
    bridge::{
        Access, Error,
        http::{Answer, Target, percent, with_access},
    },
    time::Timestamp,
};

/// Asks for the stream; with it comes the bridge's time. Only status 200 with the type of an event
/// stream is one. None is status 204: there is nothing to come, do not ask again soon (WHATWG HTML
/// 9.2.3).
pub(super) fn open(
    agent: &Agent,
    access: &Access,
    settings: &Settings,
) -> Result<Option<(Body, Option<Timestamp>)>, Error> {
    let target = Target::new(access, "/api/bridge/stream")?;
    let request = target.name("GET");
    let capabilities = settings.capabilities.iter().map(|name| percent(name).to_string());
    let mut url = format!(
        "{}?agentId={}&capabilities={}",
        target.url,
        percent(settings.machine.as_str()),
        capabilities.collect::<Vec<_>>().join(",")
    );
    if !settings.instance.is_empty() {
        url = format!("{url}&instance={}", percent(&settings.instance));
    }
    let mut builder = with_access(agent.get(url), access)
        .header(header::ACCEPT, "text/event-stream")
        .header(header::CACHE_CONTROL, "no-store");
    if let Some(id) = settings.last_event_id.as_deref().filter(|id| !id.is_empty()) {
        builder = builder.header("Last-Event-ID", id.as_bytes());
    }
    let response = builder.call().map_err(|error| Error::from_ureq(request.clone(), error))?;
    let token = access.token.clone();
    let mut answer = Answer { request, response, token }.checked()?;
    if answer.code() == 204 {
        return Ok(None);
    }
    let kind = answer.header(&header::CONTENT_TYPE).unwrap_or_default();
    let kind = ascii::trim(kind.split(';').next().unwrap_or_default());
    if answer.code() == 200 && kind.eq_ignore_ascii_case("text/event-stream") {
        let date = answer.date();
        return Ok(Some((answer.response.into_body(), date)));
    }
    let page = answer.page();
    Err(answer.not_the_bridge(&page))
}
