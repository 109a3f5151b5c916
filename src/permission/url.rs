//! Addresses as the policy sees them: one spelling for all that lead to the same place, and a note
//! of what an honest address has no use for. Pure.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::glob::Glob;

/// Longer ones are not looked at.
const URL_MAX: usize = 8 * 1024;

/// Zones of names that are no one's on the Internet.
const LOCAL_ZONES: [&str; 9] =
    ["arpa", "corp", "home", "internal", "intranet", "lan", "local", "localdomain", "localhost"];

/// An address in its one spelling: scheme and host in lower case, no default port, no user, no
/// fragment, no `..`, nothing percent-encoded that need not be.
#[derive(Clone, Debug, PartialEq)]
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
        let host = glob(host.to_lowercase().trim_end_matches('.'))?;
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
            rest: rest.map(|rest| glob(&decode(rest))).transpose()?,
        })
    }

    /// Whether it is an address of the same host and path, whatever its scheme and, if the pattern
    /// names none, its port: hosts answer in several ways.
    pub(super) fn resembles(&self, url: &Url) -> bool {
        self.host.matches(&url.host)
            && (self.port.exact() == Some("") || self.port.matches(&url.port))
            && self.rest.as_ref().is_none_or(|rest| rest.matches(&url.rest))
    }

    /// Whether it is about the host of `url` and no other.
    pub(super) fn names_host(&self, url: &Url) -> bool {
        self.host.exact() == Some(&url.host)
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

    /// The addresses in a text.
    pub(super) fn all_in(text: &str) -> impl Iterator<Item = &str> {
        let is_end = |c: char| c.is_whitespace() || "\"'`<>()[]{}|,".contains(c);
        text.split(is_end).filter(|word| word.contains("://"))
    }

    /// Whether it is, or may be, of this machine or its network, where what answers often asks for no
    /// password; cloud machines get their credentials so. A name that only leads there is not known.
    pub(super) fn is_local(&self) -> bool {
        if !matches!(&self.scheme[..], "http" | "https" | "ws" | "wss" | "ftp") {
            return true;
        }
        let ip = self.host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        if let Some(ip) = ip {
            return ip.parse().map_or(true, is_local_v6);
        }
        if ends_in_number(&self.host) {
            return self.host.parse().map_or(true, is_local_v4);
        }
        let zone = self.host.rsplit('.').next().unwrap_or_default();
        !self.host.contains('.') || LOCAL_ZONES.contains(&zone)
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
    !ends_in_number(name) || name.parse::<Ipv4Addr>().is_ok()
}

/// Whether a host is an IPv4 address: `0x7f.1` and `2130706433` are, too.
fn ends_in_number(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    last.starts_with("0x") || last.chars().all(|c| c.is_ascii_digit())
}

fn is_local_v4(ip: Ipv4Addr) -> bool {
    // That of Azure's own services.
    const WIRE_SERVER: Ipv4Addr = Ipv4Addr::new(168, 63, 129, 16);
    let [a, b, c, _] = ip.octets();
    ip.is_loopback()
        || ip.is_private()
        || ip.is_link_local()
        || ip == WIRE_SERVER
        || matches!(
            (a, b, c),
            (0 | 224.., ..) | (100, 64..=127, _) | (192, 0, 0) | (198, 18 | 19, _)
        )
}

fn is_local_v6(ip: Ipv6Addr) -> bool {
    let segments = ip.segments();
    let embedded = |at: usize| {
        let [a, b] = segments[at].to_be_bytes();
        let [c, d] = segments[at + 1].to_be_bytes();
        is_local_v4(Ipv4Addr::new(a, b, c, d))
    };
    match segments {
        // Loopback, unspecified, and IPv4 in its two spellings.
        [0, 0, 0, 0, 0, 0 | 0xffff, ..] => true,
        // IPv4 behind a translator, and 6to4.
        [0x64, 0xff9b, 0, 0, 0, 0, ..] => embedded(6),
        [0x2002, ..] => embedded(1),
        // Of the network, of the link, of the site, and multicast.
        [first, ..] => matches!(first, 0x64 | 0xfc00..=0xfdff | 0xfe80..=0xffff),
    }
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
    fn what_is_of_this_machine_or_its_network_is_local() {
        let local = [
            "http://localhost:3000/",
            "http://LOCALHOST./",
            "http://a.localhost/",
            "http://localhost.localdomain/",
            "http://127.0.0.1/",
            "http://127.1.2.3:8080/x",
            "http://0.0.0.0/",
            "http://2130706433/",
            "http://0x7f000001/",
            "http://0x7f.1/",
            "http://0177.0.0.1/",
            "http://127.1/",
            "http://169.254.169.254/latest/meta-data/",
            "http://100.100.100.200/",
            "http://192.0.0.192/",
            "http://168.63.129.16/",
            "http://metadata.google.internal/",
            "http://metadata/",
            "http://10.1.2.3/",
            "http://172.31.0.1/",
            "http://192.168.1.1/",
            "http://[::1]/",
            "http://[::]/",
            "http://[fd00:ec2::254]/",
            "http://[fe80::1]/",
            "http://[::ffff:127.0.0.1]/",
            "http://[::ffff:7f00:1]/",
            "http://[::127.0.0.1]/",
            "http://[64:ff9b::7f00:1]/",
            "http://[2002:7f00:1::]/",
            "http://[fe80::1%25eth0]/",
            "http://printer.local/",
            "http://nas/",
            "file://x/etc/passwd",
            "gopher://docs.rs/",
        ];
        for url in local {
            assert!(Url::read(url).unwrap().is_local(), "{url}");
        }
        let public = [
            "https://docs.rs/",
            "http://1.1.1.1/",
            "http://172.32.0.1/",
            "http://[2606:4700::1111]/",
            "http://[64:ff9b::101:101]/",
            "wss://localhost.example/",
        ];
        for url in public {
            assert!(!Url::read(url).unwrap().is_local(), "{url}");
        }
    }

    #[test]
    fn another_spelling_of_a_pattern_is_the_same_pattern() {
        check("https://EVIL.example./a%62*", "https://evil.example/abc", true, false);
        let resembles = |pattern: &str, url: &str| {
            UrlGlob::parse(pattern).unwrap().resembles(&Url::read(url).unwrap())
        };
        let evil = "https://evil.example/*";
        for same in ["http://evil.example/", "wss://evil.example:444/x", "http://u@EVIL.example./"]
        {
            assert!(resembles(evil, same), "{same}");
        }
        assert!(!resembles(evil, "http://evil.example.org/"));
        assert!(!resembles("http://x:3000/*", "http://x:3001/"));
        assert!(!resembles("http://x/a*", "https://x/b"));
    }

    #[test]
    fn what_is_no_address_is_none() {
        let long = format!("https://{}", "a".repeat(10_000));
        for none in ["", "rust serde", "docs.rs/x", "https:", "//x/y", &long] {
            assert!(Url::read(none).is_err(), "{none}");
        }
    }
}
