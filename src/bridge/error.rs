//! What can go wrong with a request, by what the caller can do about it.

use std::{fmt, time::Duration};

use crate::{ascii, time::Timestamp};

/// Error pages and messages are quoted up to this many characters.
const EXCERPT: usize = 200;

/// A request that failed. Says what was tried, on what, and what to do; never holds the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The address or the token is not there or not usable; nothing was sent.
    Access(String),
    /// No answer: name, connection, TLS, time limit.
    Network { request: String, cause: String },
    /// The bridge refused.
    Status { request: String, code: u16, excerpt: String, retry_after: Option<Duration> },
    /// The answer is longer than what is read of one.
    TooLarge { request: String, limit: u64 },
    /// Something answered that is not the bridge, for example a proxy with a login page.
    BadBody {
        request: String,
        code: u16,
        excerpt: String,
        /// What it may be, and what to do.
        wall: &'static str,
        retry_after: Option<Duration>,
    },
}

impl Error {
    /// Whether the same request may work later without a change by a person.
    pub fn is_retryable(&self) -> bool {
        match self {
            Error::Network { .. } | Error::BadBody { .. } | Error::TooLarge { .. } => true,
            Error::Status { code, .. } => matches!(code, 408 | 425 | 429 | 500..),
            Error::Access(_) => false,
        }
    }

    /// Whether the token was refused. A person has to put a new token into the config.
    pub fn is_auth(&self) -> bool {
        matches!(self, Error::Status { code: 401 | 403, .. })
    }

    /// Whether the bridge refused because another machine, daemon or message is in the way.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Error::Status { code: 409, .. })
    }

    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Error::Status { retry_after, .. } | Error::BadBody { retry_after, .. } => *retry_after,
            Error::Access(_) | Error::Network { .. } | Error::TooLarge { .. } => None,
        }
    }

    pub fn status(&self) -> Option<u16> {
        match self {
            Error::Status { code, .. } | Error::BadBody { code, .. } => Some(*code),
            Error::Access(_) | Error::Network { .. } | Error::TooLarge { .. } => None,
        }
    }

    /// An error of ureq's while `request` was on its way.
    pub(super) fn from_ureq(request: String, error: ureq::Error) -> Error {
        match error {
            ureq::Error::Http(_) | ureq::Error::BadUri(_) => Error::Access(format!(
                "{request} can't be sent: {error}; check baseUrl, originHost and apiToken in the \
                 config for stray characters"
            )),
            ureq::Error::BodyExceedsLimit(limit) => Error::TooLarge { request, limit },
            // A hop that failed says itself what to do.
            ureq::Error::Other(error) => Error::Network { request, cause: error.to_string() },
            other => {
                let cause = excerpt(&other.to_string());
                let cause = format!("{cause}; is the bridge up and baseUrl right?");
                Error::Network { request, cause }
            }
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Access(text) => f.write_str(text),
            Error::Network { request, cause } => {
                write!(f, "{request} got no answer: {cause}")
            }
            Error::Status { request, code, excerpt, retry_after } => {
                write!(f, "{request} was answered with status {code}")?;
                if !excerpt.is_empty() {
                    write!(f, " ({excerpt})")?;
                }
                match (code, retry_after) {
                    (401 | 403, _) => {
                        f.write_str("; check apiToken in the config, or run `obto-bridge init`")
                    }
                    (_, Some(wait)) => write!(f, "; it asks to wait {} s", wait.as_secs()),
                    _ => Ok(()),
                }
            }
            Error::TooLarge { request, limit } => {
                write!(f, "{request} was answered with more than {limit} bytes")
            }
            Error::BadBody { request, code, excerpt, wall, .. } => {
                write!(
                    f,
                    "{request} was answered with status {code}, but not by the bridge ({excerpt}); {wall}"
                )
            }
        }
    }
}

impl std::error::Error for Error {}

/// What is known of an answer that is not the bridge's, for what to do about it.
pub(super) fn wall(code: u16, location: Option<&str>, page: &str) -> &'static str {
    let page = page.to_ascii_lowercase();
    let location = location.unwrap_or_default();
    let has = |words: &[&str]| words.iter().any(|word| page.contains(word));
    if location.contains("cloudflareaccess.com") || has(&["cloudflare access"]) {
        return "this is Cloudflare Access: make a service token there, and put CF-Access-Client-Id and \
                CF-Access-Client-Secret into headers in the config";
    }
    match code {
        300..=399 if location.is_empty() => "it is a redirect without an address",
        300..=399 => {
            "redirects are not followed, so that the token stays with its host: if the bridge has \
             moved, put its final address into baseUrl; if this is a login page or the portal of a \
             network, log in there, or see headers in the config"
        }
        400 | 495 | 496 if has(&["ssl certificate", "client certificate"]) => {
            "the server wants a certificate of this machine: see clientCert and clientKey in the \
             config"
        }
        407 => {
            "a proxy wants a user name and a password: write them into its address, as in \
             http://user:password@host:port, or into the file of proxyAuthFile"
        }
        401 | 403 => {
            "it is a filter, a gateway or a login page in front of the bridge, and no verdict on the \
             token: have it let this machine through, or see headers in the config"
        }
        502..=504 => "what stands in front of the bridge does not reach it",
        _ => "is there a proxy or a login page in between, and is baseUrl right?",
    }
}

/// The first characters of a foreign text on one line, fit for a log.
pub(super) fn excerpt(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control());
    let mut out = String::new();
    for word in words.filter(|word| !word.is_empty()) {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(word);
        if out.len() > EXCERPT * 4 {
            break;
        }
    }
    match out.char_indices().nth(EXCERPT) {
        Some((at, _)) => format!("{}…", &out[..at]),
        None => out,
    }
}

/// Reads `Retry-After`: seconds, or a date (RFC 9110, section 10.2.3), which is compared with
/// `now`, best the server's own `Date`.
pub(super) fn parse_retry_after(value: &str, now: Timestamp) -> Option<Duration> {
    let value = ascii::trim(value);
    if ascii::is_digits(value) {
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    parse_date(value).map(|at| at.since(now))
}

/// Reads the one form of date that servers still write: `Sun, 06 Nov 1994 08:49:37 GMT`.
pub(super) fn parse_date(text: &str) -> Option<Timestamp> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (_, date) = ascii::trim(text).strip_suffix(" GMT")?.split_once(", ")?;
    let mut parts = date.split(' ');
    let (day, month, year, time) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let month = MONTHS.iter().position(|name| *name == month)? + 1;
    Timestamp::parse(&format!("{year}-{month:02}-{day}T{time}Z"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATE: &str = "Sun, 22 Nov 2026 16:41:33 GMT";

    #[track_caller]
    fn check(value: &str, expected: Option<u64>) {
        let now = Timestamp::parse("2026-11-22T16:41:03Z").unwrap();
        let wait = parse_retry_after(value, now);
        assert_eq!(wait, expected.map(Duration::from_secs), "{value}");
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        check("0", Some(0));
        check(" 120 ", Some(120));
        check("99999999999999999999999", Some(u64::MAX));
        check(DATE, Some(30));
        check("Sun, 22 Nov 2026 16:41:00 GMT", Some(0));
        check("Mon, 23 Nov 2026 16:41:03 GMT", Some(86_400));
        for bad in
            ["", "-1", "1.5", "soon", "Sun, 22 Foo 2026 16:41:33 GMT", "22 Nov 2026", ", GMT"]
        {
            check(bad, None);
        }
    }

    fn status(code: u16) -> Error {
        let (request, excerpt) = ("POST http://b/api/message".to_owned(), "no".to_owned());
        Error::Status { request, code, excerpt, retry_after: None }
    }

    #[test]
    fn what_may_work_later_is_told_from_what_will_not() {
        for code in [408, 425, 429, 500, 502, 503, 504, 599] {
            assert!(status(code).is_retryable() && !status(code).is_auth(), "{code}");
        }
        for code in [301, 400, 404, 409, 410, 413, 422] {
            assert!(!status(code).is_retryable() && !status(code).is_auth(), "{code}");
        }
        for code in [401, 403] {
            assert!(!status(code).is_retryable() && status(code).is_auth(), "{code}");
        }
        let request = "GET http://b/api/messages".to_owned();
        let network = Error::Network { request: request.clone(), cause: "refused".into() };
        assert!(network.is_retryable());
        let retry_after = Some(Duration::from_secs(9));
        let wall = wall(200, None, "");
        let page =
            Error::BadBody { request, code: 200, excerpt: "<html>".into(), wall, retry_after };
        assert!(page.is_retryable());
        assert_eq!(page.retry_after(), retry_after);
        assert!(!Error::Access("no token".into()).is_retryable());
    }

    #[test]
    fn errors_say_what_to_do() {
        for (error, expected) in [
            (status(401), "check apiToken"),
            (status(404), "POST http://b/api/message was answered with status 404 (no)"),
        ] {
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    #[test]
    fn walls_are_told_apart() {
        for (code, location, page, expected) in [
            (302, Some("https://team.cloudflareaccess.com/cdn-cgi/"), "", "service token"),
            (403, None, "<title>Cloudflare Access</title>", "service token"),
            (302, Some("http://portal.example/"), "", "baseUrl"),
            (302, None, "", "without an address"),
            (400, None, "<h1>No required SSL certificate was sent</h1>", "clientCert"),
            (407, None, "", "proxyAuthFile"),
            (401, None, "Session expired", "no verdict on the token"),
            (403, None, "<html>blocked", "no verdict on the token"),
            (502, None, "<html>", "does not reach it"),
            (200, None, "<html>", "login page in between"),
        ] {
            let said = wall(code, location, page);
            assert!(said.contains(expected), "{code} {page}: {said}");
        }
    }

    #[test]
    fn excerpts_are_short_and_on_one_line() {
        assert_eq!(excerpt("<html>\r\n\t<b>\x1b[31mno\0</b>  "), "<html> <b> [31mno </b>");
        assert_eq!(excerpt(&"ä".repeat(100_000)).chars().count(), EXCERPT + 1);
        assert_eq!(excerpt(""), "");
    }
}
