//! Through what a request came: under which name, from which page, over which connection. It keeps
//! foreign pages out, which act in the name of whoever looks at them.

use std::net::IpAddr;

use crate::{
    ascii,
    serve::{
        Options,
        http::{
            message::{Head, Response},
            network,
        },
    },
};

/// Browsers send the name they were led to; a foreign name means a foreign page.
pub(super) fn refuse_foreign_host(options: &Options, head: &Head) -> Result<(), Response> {
    let Some(host) = head.header("host") else { return Ok(()) };
    let anything_goes = options.public && options.hosts.is_empty();
    let name = host_name(host);
    let known = name.parse::<IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || options.hosts.iter().any(|it| it.eq_ignore_ascii_case(name));
    if anything_goes || known {
        return Ok(());
    }
    Err(Response::error(403, "this bridge is not known under that Host name"))
}

/// Browsers also say which page asks. Other programs say nothing.
pub(super) fn refuse_foreign_page(options: &Options, head: &Head) -> Result<(), Response> {
    let foreign = match (head.header("origin"), head.header("sec-fetch-site")) {
        (Some(origin), _) => !is_ours(origin, head, is_secure(options, head)),
        // Somebody followed a link to the page; what needs credentials is not for links.
        (None, Some("cross-site" | "same-site")) => {
            head.path.starts_with("/api/") && head.path != "/api/view"
        }
        (None, _) => false,
    };
    if foreign {
        return Err(Response::error(403, "a page of another origin may not do this"));
    }
    Ok(())
}

/// What changes something in the name of a browser's cookie must come from our own page, for sure.
pub(super) fn refuse_unknown_page(head: &Head) -> Result<(), Response> {
    // A foreign origin has been refused before.
    if head.header("origin").is_some() || head.header("sec-fetch-site") == Some("same-origin") {
        return Ok(());
    }
    Err(Response::error(403, "with a cookie, the Origin header must name this bridge"))
}

/// A browser asks before it lets a foreign page send JSON (and is never allowed to); other types it
/// does not ask about.
pub(super) fn require_json(head: &Head) -> Result<(), Response> {
    let content_type = head.header("content-type").unwrap_or_default();
    let media_type = ascii::trim(content_type.split(';').next().unwrap_or_default());
    if media_type.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(Response::error(415, "Content-Type must be application/json"))
}

/// Whether the browser's own connection is secured: by us, or by the proxy that speaks for it.
pub(super) fn is_secure(options: &Options, head: &Head) -> bool {
    let scheme = || forwarded(options, head, "x-forwarded-proto");
    head.from.tls || scheme().is_some_and(|it| it.eq_ignore_ascii_case("https"))
}

/// Whether a browser is to come back over a secured connection alone. A name that every program of
/// the machine shares is not ours to say so of: other ports of it speak no TLS.
pub(super) fn is_pinned(options: &Options, head: &Head) -> bool {
    let name = head.header("host").map(host_name).unwrap_or_default();
    is_secure(options, head) && !name.eq_ignore_ascii_case("localhost")
}

/// Who is slowed down for guessing: an IPv4 address, or an IPv6 network, of which everybody has a
/// whole one.
pub(super) fn client(options: &Options, head: &Head) -> IpAddr {
    let address = forwarded(options, head, "x-forwarded-for");
    let address: Option<IpAddr> = address.and_then(|it| host_name(it).parse().ok());
    network(address.unwrap_or(head.from.peer).to_canonical())
}

/// What the proxy says in this header, if one hands requests on. A client may write the first parts
/// of it itself; the last one is the proxy's.
fn forwarded<'a>(options: &Options, head: &'a Head, name: &str) -> Option<&'a str> {
    let is_from_proxy = options.behind_proxy && head.from.peer.is_loopback();
    let list = head.last_header(name).filter(|_| is_from_proxy)?;
    list.rsplit(',').next().map(ascii::trim)
}

fn is_ours(origin: &str, head: &Head, secure: bool) -> bool {
    let Some((scheme, host)) = origin.split_once("://") else { return false };
    let scheme_fits = if secure { scheme == "https" } else { ["http", "https"].contains(&scheme) };
    scheme_fits && head.header("host").is_some_and(|it| it.eq_ignore_ascii_case(host))
}

/// `Host` without its port, and an IPv6 address without its brackets.
fn host_name(host: &str) -> &str {
    match host.strip_prefix('[').and_then(|it| it.split_once(']')) {
        Some((address, port)) if port.is_empty() || port.starts_with(':') => address,
        Some(_) => host,
        // More than one colon and no brackets: an address, as proxies write it.
        None if 1 < host.bytes().filter(|it| *it == b':').count() => host,
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::http::message::Origin;

    fn head(peer: &str, tls: bool, lines: &str) -> Head {
        let from = Origin { peer: peer.parse().unwrap(), tls };
        let text = format!("GET /api/threads HTTP/1.1\r\n{}\r\n\r\n", lines.replace('\n', "\r\n"));
        let parsed = Head::parse(text.as_bytes(), from);
        parsed.unwrap_or_else(|refusal| panic!("{refusal:?}")).unwrap().0
    }

    fn options(behind_proxy: bool) -> Options {
        let mut options = Options::new(([127, 0, 0, 1], 0).into(), "/nowhere".into());
        options.behind_proxy = behind_proxy;
        options
    }

    #[test]
    fn hosts_are_told_from_ports() {
        #[track_caller]
        fn check(host: &str, expected: &str) {
            assert_eq!(host_name(host), expected);
        }
        check("localhost", "localhost");
        check("localhost:80", "localhost");
        check("[::1]:80", "::1");
        check("[::1]", "::1");
        check("2001:db8::1", "2001:db8::1");
        check("[::1].example.org", "[::1].example.org");
        check("", "");
    }

    #[test]
    fn a_proxy_on_this_machine_is_believed_and_nobody_else() {
        #[track_caller]
        fn check(behind_proxy: bool, peer: &str, lines: &str, expected: (&str, bool)) {
            let (options, head) = (options(behind_proxy), head(peer, false, lines));
            let seen = (client(&options, &head).to_string(), is_secure(&options, &head));
            assert_eq!(seen, (expected.0.to_owned(), expected.1), "{peer} {lines}");
        }
        let told = "Host: a\nX-Forwarded-For: 10.0.0.1, 192.0.2.7\nX-Forwarded-Proto: https";
        check(true, "127.0.0.1", told, ("192.0.2.7", true));
        check(true, "::1", told, ("192.0.2.7", true));
        check(true, "192.0.2.9", told, ("192.0.2.9", false));
        check(false, "127.0.0.1", told, ("127.0.0.1", false));
        check(true, "127.0.0.1", "Host: a", ("127.0.0.1", false));
        let odd = "Host: a\nX-Forwarded-For: 192.0.2.7\u{a0}\nX-Forwarded-Proto: \u{2003}https";
        check(true, "127.0.0.1", odd, ("127.0.0.1", false));
        check(true, "127.0.0.1", "Host: a\nX-Forwarded-For: x", ("127.0.0.1", false));
        check(true, "127.0.0.1", "Host: a\nX-Forwarded-For: 192.0.2.7,", ("127.0.0.1", false));
        check(true, "127.0.0.1", "Host: a\nX-Forwarded-Proto: https, http", ("127.0.0.1", false));
        // Some proxies add a line of their own after those of the client.
        let lied = "Host: a\nX-Forwarded-For: 10.0.0.1\nX-Forwarded-For: 192.0.2.7\n\
                    X-Forwarded-Proto: https\nX-Forwarded-Proto: http";
        check(true, "127.0.0.1", lied, ("192.0.2.7", false));
        // Everybody has a whole network in IPv6, but for those who are IPv4 in disguise.
        check(false, "2001:db8:1:2:3:4:5:6", "Host: a", ("2001:db8:1:2::", false));
        check(true, "::1", "Host: a\nX-Forwarded-For: ::ffff:192.0.2.7", ("192.0.2.7", false));
        assert!(is_secure(&options(false), &head("192.0.2.1", true, "Host: a")));
        assert!(is_pinned(&options(false), &head("192.0.2.1", true, "Host: a:1")));
        assert!(!is_pinned(&options(false), &head("127.0.0.1", true, "Host: localhost:1")));
    }

    #[test]
    fn pages_are_ours_or_foreign() {
        #[track_caller]
        fn check(tls: bool, lines: &str, expected: bool) {
            let head = head("127.0.0.1", tls, lines);
            let let_in = refuse_foreign_page(&options(false), &head).is_ok();
            assert_eq!(let_in, expected, "{lines}");
        }
        check(false, "Host: a:1", true);
        check(false, "Host: a:1\nOrigin: http://a:1", true);
        check(false, "Host: a:1\nOrigin: http://a:2", false);
        check(false, "Host: a:1\nOrigin: http://a", false);
        check(false, "Host: a\nOrigin: ftp://a", false);
        check(false, "Host: a\nOrigin: null", false);
        // A proxy that does not tell of its TLS must not lock everybody out.
        check(false, "Host: a\nOrigin: https://a", true);
        check(true, "Host: a\nOrigin: https://A", true);
        check(true, "Host: a\nOrigin: http://a", false);
        check(false, "Host: a\nSec-Fetch-Site: same-origin", true);
        check(false, "Host: a\nSec-Fetch-Site: same-site", false);
        // Where both are, the Origin is more exact.
        check(false, "Host: a\nOrigin: http://a\nSec-Fetch-Site: same-origin", true);
        check(false, "Host: a\nOrigin: http://b\nSec-Fetch-Site: same-origin", false);
    }
}
