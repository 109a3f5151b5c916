//! One request and its answer, below the endpoints: the address, the headers that every request
//! carries, and what the answer's status and body mean.

use std::{
    io::{self, Read},
    time::Duration,
};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};
use ureq::{
    Agent, Body,
    http::{Response, Uri, header},
};

use super::{
    access::Access,
    error::{Error, excerpt, parse_date, parse_retry_after, wall},
};
use crate::{
    config::Token,
    time::{self, Timestamp},
};

/// What is read of an error page, in bytes.
const MAX_ERROR_PAGE: usize = 8 * 1024;

pub(super) const JSON: &str = "application/json";

/// One request, not yet tied to a bridge.
#[derive(Clone, Copy, Default)]
pub(super) struct Request<'a> {
    pub(super) path: &'a str,
    pub(super) query: &'a [(&'a str, &'a str)],
    /// Of a POST: its type and its bytes. None: a GET.
    pub(super) body: Option<(&'a str, &'a [u8])>,
    /// Asking twice does what asking once does, so a connection that turns out to be dead is no
    /// reason to fail.
    pub(super) repeatable: bool,
}

/// A full address, without what must not be shown.
pub(super) struct Target {
    pub(super) url: String,
    pub(super) shown: String,
}

impl Target {
    pub(super) fn new(access: &Access, path: &str) -> Result<Target, Error> {
        let url = format!("{}{path}", access.base_url.trim().trim_end_matches('/'));
        let uri = url.parse::<Uri>().ok();
        let host = uri.as_ref().and_then(|uri| {
            let scheme = uri.scheme_str().filter(|scheme| matches!(*scheme, "http" | "https"))?;
            // A user name or password in front of the host is not for the log.
            let host = uri.authority()?.as_str().rsplit('@').next()?;
            Some(format!("{scheme}://{host}"))
        });
        match (host, uri) {
            (Some(host), Some(uri)) => Ok(Target { shown: host + uri.path(), url }),
            _ => Err(Error::Access(
                "baseUrl in the config is not an address: it must begin with https:// or http:// and \
                 name a host"
                    .to_owned(),
            )),
        }
    }

    pub(super) fn name(&self, method: &str) -> String {
        format!("{method} {}", self.shown)
    }
}

pub(super) fn send_once(
    agent: &Agent,
    access: &Access,
    target: &Target,
    request: Request<'_>,
) -> Result<Response<Body>, ureq::Error> {
    match request.body {
        None => {
            let query = request.query.iter().copied();
            with_access(agent.get(&target.url), access).query_pairs(query).call()
        }
        Some((content_type, body)) => with_access(agent.post(&target.url), access)
            .header(header::ACCEPT, JSON)
            .content_type(content_type)
            .send(body),
    }
}

/// The headers that every request carries (protocol section 2).
pub(super) fn with_access<B>(
    builder: ureq::RequestBuilder<B>,
    access: &Access,
) -> ureq::RequestBuilder<B> {
    let builder = builder.header("OBTO-ORIGIN-HOST", &access.origin_host);
    match access.token.reveal() {
        "" => builder,
        token => builder.header(header::AUTHORIZATION, format!("Bearer {token}")),
    }
}

/// Whether a connection that was kept turned out to be dead: the server hung up between our look
/// at it and our request.
pub(super) fn is_stale(error: &ureq::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    let ureq::Error::Io(error) = error else { return false };
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

/// A response, with the name of its request for errors.
pub(super) struct Answer {
    pub(super) request: String,
    pub(super) response: Response<Body>,
    /// What the request carried: an error page may repeat it.
    pub(super) token: Token,
}

impl Answer {
    pub(super) fn header(&self, name: &header::HeaderName) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    /// The server's time, to the second.
    pub(super) fn date(&self) -> Option<Timestamp> {
        self.header(&header::DATE).and_then(parse_date)
    }

    pub(super) fn code(&self) -> u16 {
        self.response.status().as_u16()
    }

    /// Turns every status but 2xx into an error.
    pub(super) fn checked(mut self) -> Result<Answer, Error> {
        if self.response.status().is_success() {
            return Ok(self);
        }
        let page = self.page();
        Err(self.refused(&page))
    }

    /// The beginning of an error page. At most eight reads, so that a server that trickles does not hold us up.
    pub(super) fn page(&mut self) -> Vec<u8> {
        let mut page = Vec::new();
        let mut part = [0; MAX_ERROR_PAGE / 8];
        let mut body = self.response.body_mut().as_reader();
        for _ in 0..8 {
            match body.read(&mut part) {
                Ok(length @ 1..) => page.extend_from_slice(&part[..length]),
                Ok(0) | Err(_) => break,
            }
        }
        page
    }

    pub(super) fn read(&mut self, limit: u64) -> Result<Vec<u8>, Error> {
        let body = self.response.body_mut().with_config().limit(limit);
        body.read_to_vec().map_err(|error| Error::from_ureq(self.request.clone(), error))
    }

    pub(super) fn retry_after(&self) -> Option<Duration> {
        let now = self.date().unwrap_or_else(time::now);
        parse_retry_after(self.header(&header::RETRY_AFTER)?, now)
    }

    pub(super) fn excerpt(&self, body: &[u8]) -> String {
        let mut shown =
            String::from_utf8_lossy(&body[..body.len().min(MAX_ERROR_PAGE)]).into_owned();
        if !self.token.reveal().is_empty() {
            shown = shown.replace(self.token.reveal(), "…");
        }
        excerpt(&shown)
    }

    /// The error for an unsuccessful status. What the bridge says of a token, and of what it does not
    /// find or take, is a JSON object of its own kind; everything else was written by something in front of it,
    /// which may be gone in a minute. Only "too large" is as final from there.
    pub(super) fn refused(&self, page: &[u8]) -> Error {
        let code = self.code();
        let is_verdict = match code {
            300..=399 | 407 => false,
            401 | 403 => is_of_bridge(page),
            400 | 404 | 405 | 406 | 409 | 410 | 421 => !page.trim_ascii_start().starts_with(b"<"),
            _ => true,
        };
        if !is_verdict {
            return self.not_the_bridge(page);
        }
        let (request, excerpt) = (self.request.clone(), self.excerpt(page));
        Error::Status { request, code, excerpt, retry_after: self.retry_after() }
    }

    /// The error for an answer that the bridge would not send.
    pub(super) fn not_the_bridge(&self, body: &[u8]) -> Error {
        let code = self.code();
        let location = self.header(&header::LOCATION).filter(|_| code / 100 == 3);
        let excerpt = match location.map(without_query) {
            Some(location) => format!("redirect to {}", excerpt(location)),
            None => Some(self.excerpt(body))
                .filter(|it| !it.is_empty())
                .unwrap_or_else(|| "an empty body".to_owned()),
        };
        let head = String::from_utf8_lossy(&body[..body.len().min(MAX_ERROR_PAGE)]);
        let wall = wall(code, location, &head);
        let (request, retry_after) = (self.request.clone(), self.retry_after());
        Error::BadBody { request, code, excerpt, wall, retry_after }
    }
}

/// Whether a page is one by which a bridge refuses: an object with `error`, or at least `ok`.
fn is_of_bridge(page: &[u8]) -> bool {
    let object = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(page);
    object.is_ok_and(|object| object.contains_key("error") || object.contains_key("ok"))
}

pub(super) fn without_query(location: &str) -> &str {
    location.split(['?', '#']).next().unwrap_or_default()
}

/// The unreserved characters of RFC 3986 stand for themselves.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// `text` as a part of an address, or of a form.
pub(super) fn percent(text: &str) -> PercentEncode<'_> {
    utf8_percent_encode(text, RESERVED)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(base_url: &str) -> Access {
        Access {
            base_url: base_url.to_owned(),
            origin_host: "h".to_owned(),
            token: Token::new("obto_secret"),
        }
    }

    #[test]
    fn addresses_are_joined_and_shown_without_secrets() {
        for (base, expected) in [
            ("http://h", "GET http://h/api/x"),
            ("https://h:81///", "GET https://h:81/api/x"),
            (" https://h/sub/ ", "GET https://h/sub/api/x"),
            ("https://ann:pass@h", "GET https://h/api/x"),
        ] {
            assert_eq!(Target::new(&access(base), "/api/x").unwrap().name("GET"), expected);
        }
        for bad in ["", "h", "ftp://h", "https://", "h:80", "http://a b"] {
            assert!(matches!(Target::new(&access(bad), "/x"), Err(Error::Access(_))), "{bad}");
        }
    }

    #[test]
    fn percent_encoding() {
        assert_eq!(percent("a-1._~ ä&=/%\n").to_string(), "a-1._~%20%C3%A4%26%3D%2F%25%0A");
    }
}
