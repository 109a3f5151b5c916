//! Addresses as the policy sees them: one spelling for all that lead to the same place, and a note
//! of what an honest address has no use for. Pure.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::glob::Glob;

/// Longer ones are not looked at.
const URL_MAX: usize = 8 * 1024;

/// An address in its one spelling: scheme and host in lower case, no default port, no user, no
/// fragment, no `..`, nothing percent-encoded that need not be.
#[derive(Debug, PartialEq)]
pub(super) struct Url {
    pub(super) scheme: String,
    pub(super) host: String,
    /// Empty for the scheme's own.
    pub(super) port: String,
    /// Path and query.
    rest: String,
    /// Why it may lead somewhere else.
    pub(super) oddity: Option<&'static str>,
}

/// A pattern over addresses; its parts don't reach into each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UrlGlob {
    scheme: Glob,
    host: Glob,
    port: Glob,
    /// None: the whole host.
    rest: Option<Glob>,
}

impl UrlGlob {
    pub(super) fn parse(pattern: &str) -> Result<UrlGlob, &'static str> {
        const SHAPE: &str = "an address is written like https://docs.rs/*";
        let glob = |text: &str| Glob::parse(text, |c| c);
        let (scheme, rest) = pattern.split_once("://").ok_or(SHAPE)?;
        let (authority, rest) = match rest.find('/') {
            Some(at) => (&rest[..at], Some(&rest[at..])),
            None => (rest, None),
        };
        let (host, port) = split_port(authority);
        if scheme.is_empty() || host.is_empty() || authority.contains(['@', '\\', '?', '#']) {
            return Err(SHAPE);
        }
        if !authority.is_ascii() {
            return Err("a host is written in ASCII (`xn--…`)");
        }
        let host = glob(&host.to_lowercase())?;
        if host.is_open() && host.exact().is_none() && !host.matches("") {
            return Err(
                "a host that ends in `*` is also that of `….evil.example`; end it by a `/`",
            );
        }
        let scheme = scheme.to_lowercase();
        let port = if port == default_port(&scheme) { "" } else { port };
        Ok(UrlGlob {
            host,
            port: glob(port)?,
            scheme: glob(&scheme)?,
            rest: rest.map(glob).transpose()?,
        })
    }

    pub(super) fn matches(&self, url: &Url) -> bool {
        self.scheme.matches(&url.scheme)
            && self.host.matches(&url.host)
            && self.port.matches(&url.port)
            && self.rest.as_ref().is_none_or(|rest| rest.matches(&url.rest))
    }
}

impl Url {
    /// Reads an address as browsers do. The error says why it is none.
    pub(super) fn read(text: &str) -> Result<Url, &'static str> {
        const NONE: &str = "it is no address with scheme and host";
        if text.len() > URL_MAX {
            return Err("the address is too long");
        }
        let mut oddity = None;
        let mut odd = |is: bool, why| oddity = oddity.or(is.then_some(why));
        odd(
            text.contains(|c: char| c.is_whitespace() || c.is_control()),
            "the address has blanks or control characters",
        );
        odd(text.contains('\\'), "the address has backslashes");
        let text: String = text
            .chars()
            .filter(|c| !c.is_whitespace() && !c.is_control())
            .map(|c| if c == '\\' { '/' } else { c })
            .collect();
        let (scheme, rest) = text.split_once(':').ok_or(NONE)?;
        let is_of_scheme = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
        if scheme.is_empty() || !scheme.chars().all(is_of_scheme) || !rest.starts_with("//") {
            return Err(NONE);
        }
        let authority = rest.trim_start_matches('/');
        odd(rest.len() != authority.len() + 2, "the address has slashes before its host");
        let end = authority.find(['/', '?', '#']).unwrap_or(authority.len());
        let (authority, rest) = authority.split_at(end);
        odd(authority.contains('@'), "the address has a user name before its host");
        let authority = authority.rsplit('@').next().unwrap_or(authority);
        let (host, port) = split_port(authority);
        let host = host.to_lowercase();
        odd(!is_plain_host(&host), "the host is written in an odd way");
        odd(!port.chars().all(|c| c.is_ascii_digit()), "the port is no number");
        if host.is_empty() {
            return Err(NONE);
        }
        let scheme = scheme.to_lowercase();
        let port = port.trim_start_matches('0');
        let port = if port == default_port(&scheme) { "" } else { port }.to_owned();
        let rest = rest.split('#').next().unwrap_or_default();
        let (path, query) = rest.split_at(rest.find('?').unwrap_or(rest.len()));
        let decoded = decode(path);
        let has_dots = decoded.split('/').any(|segment| matches!(segment, "." | ".."));
        odd(
            has_dots || (decoded.to_lowercase().contains("%2f") && decoded.contains("..")),
            "the path has `..` or `.` in it",
        );
        let rest = without_dots(&decoded) + query;
        let host = host.trim_end_matches('.').to_owned();
        Ok(Url { scheme, host, port, rest, oddity })
    }

    /// Scheme, host and port.
    pub(super) fn origin(&self) -> String {
        let colon = if self.port.is_empty() { "" } else { ":" };
        format!("{}://{}{colon}{}", self.scheme, self.host, self.port)
    }
}

fn split_port(authority: &str) -> (&str, &str) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => (authority, ""),
    }
}

fn default_port(scheme: &str) -> &'static str {
    match scheme {
        "http" | "ws" => "80",
        "https" | "wss" => "443",
        _ => "",
    }
}

/// A name in ASCII, or an address in the one spelling that everybody uses.
fn is_plain_host(host: &str) -> bool {
    if let Some(ip) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        return ip
            .parse::<Ipv6Addr>()
            .is_ok_and(|it| it.to_ipv4_mapped().is_none() && it.to_string() == ip);
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    let is_of_label = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    if !name.split('.').all(|label| !label.is_empty() && label.chars().all(is_of_label)) {
        return false;
    }
    // `0x7f.1` and `2130706433` are addresses, too.
    let last = name.rsplit('.').next().unwrap_or(name);
    let is_number = last.starts_with("0x") || last.chars().all(|c| c.is_ascii_digit());
    !is_number || name.parse::<Ipv4Addr>().is_ok()
}

/// Percent-encoded letters, digits, `-`, `.`, `_` and `~` as themselves: they are the same address.
fn decode(path: &str) -> String {
    let mut parts = path.split('%');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match code.map(char::from) {
            Some(c) if c.is_ascii_alphanumeric() || "-._~".contains(c) => {
                out.push(c);
                out.push_str(&part[2..]);
            }
            _ => {
                out.push('%');
                out.push_str(part);
            }
        }
    }
    out
}

fn without_dots(path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/').skip(1) {
        match segment {
            "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    format!("/{}", segments.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, url: &str, matches: bool, is_odd: bool) {
        let url = Url::read(url).unwrap();
        let is_fit = UrlGlob::parse(pattern).unwrap().matches(&url);
        assert_eq!((is_fit, url.oddity.is_some()), (matches, is_odd), "{pattern} on {url:?}");
    }

    #[test]
    fn one_place_has_one_spelling() {
        let docs = "https://docs.rs/*";
        for same in [
            "https://docs.rs",
            "https://docs.rs/serde?x#y",
            "HTTPS://DOCS.RS:443/a",
            "https://docs.rs./a",
            "https://docs.rs?q",
        ] {
            check(docs, same, true, false);
        }
        for other in [
            "http://docs.rs/a",
            "https://docs.rs:8443/a",
            "https://docs.rs.evil.example/a",
            "https://xdocs.rs/a",
            "https://evil.example/https://docs.rs/",
            "https://evil.example/?https://docs.rs/",
            "https://evil.example#https://docs.rs/",
        ] {
            check(docs, other, false, false);
        }
        check("https://docs.rs/a*", "https://docs.rs/%61b", true, false);
        check("https://docs.rs", "https://docs.rs/any/path", true, false);
        check("http://[::1]:80/*", "http://[::1]/x", true, false);
    }

    #[test]
    fn what_may_lead_elsewhere_is_odd() {
        let docs = "https://docs.rs/*";
        check(docs, "https://docs.rs@evil.example/", false, true);
        check(docs, "https://evil.example\\@docs.rs/", false, true);
        check(docs, "https://user@docs.rs/", true, true);
        check(docs, "https://docs.rs\\.evil.example/", true, true);
        check(docs, "https:///docs.rs/", true, true);
        check(docs, "https://docs.rs/\n", true, true);
        check(docs, "file:///etc/passwd", false, true);
        check(docs, "https://dосs.rs/", false, true);
        check(docs, "https://docs。rs/", false, true);
        check(docs, "https://doc%73.rs/", false, true);
        check(docs, "https://docs.rs:/x", true, false);
        check("https://docs.rs/a/*", "https://docs.rs/a/../b", false, true);
        check("https://docs.rs/a/*", "https://docs.rs/a/%2e%2e/b", false, true);
        check("https://docs.rs/a/*", "https://docs.rs/a/..%2fb", true, true);
        check("http://127.0.0.1/*", "http://127.0.0.1/", true, false);
        check("http://127.0.0.1/*", "http://2130706433/", false, true);
        check("http://127.0.0.1/*", "http://0x7f.1/", false, true);
        check("http://127.0.0.1/*", "http://[::ffff:127.0.0.1]/", false, true);
    }

    /// A star in the host stays in the host.
    #[test]
    fn the_parts_of_a_pattern_stay_apart() {
        check("https://*.rs/*", "https://docs.rs/x", true, false);
        check("https://*.rs/*", "https://evil.example/x.rs/y", false, false);
        check("*://*/*", "ftp://any.example/x", true, false);
        check("https://docs.rs:*/*", "https://docs.rs:81/x", true, false);
        for (bad, why) in [
            ("docs.rs", "https://docs.rs/*"),
            ("https://", "https://docs.rs/*"),
            ("https://docs.rs*", "evil"),
            ("https://a@b/*", "https://docs.rs/*"),
            ("https://dосs.rs/*", "ASCII"),
        ] {
            assert!(UrlGlob::parse(bad).unwrap_err().contains(why), "{bad}");
        }
    }

    #[test]
    fn what_is_no_address_is_none() {
        let long = format!("https://{}", "a".repeat(10_000));
        for none in ["", "rust serde", "docs.rs/x", "https:", "//x/y", &long] {
            assert!(Url::read(none).is_err(), "{none}");
        }
    }
}
