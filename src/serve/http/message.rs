//! HTTP/1.1 messages as values: bytes to a request head, a response to bytes. No sockets in here.
//! Strict where leniency lets two readers of the same bytes disagree about where a request ends.

use std::{fmt, io, net::IpAddr};

use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use ureq::http::StatusCode;

use crate::{
    ascii,
    serve::http::{Detach, StreamWriter},
};

/// On every response that does not say otherwise: it is no page, and nobody else's business.
const DEFAULT_HEADERS: [(&str, &str); 6] = [
    ("Cache-Control", "no-store"),
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'; sandbox"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
];
/// More header lines than any client sends.
const HEADERS_MAX: usize = 64;
/// Who looks at the first of two and who looks at the last would see different requests.
const ONLY_ONCE: [&str; 8] = [
    "authorization",
    "content-type",
    "expect",
    "host",
    "last-event-id",
    "origin",
    "sec-fetch-site",
    "x-csrf-token",
];

/// Who sent a request, as far as the connection tells. Behind a proxy that is the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// An IPv4 address is never in its IPv6 form.
    pub peer: IpAddr,
    pub tls: bool,
}

/// A request up to its empty line.
pub struct Head {
    pub from: Origin,
    pub method: String,
    pub path: String,
    query: String,
    /// Names in lower case.
    headers: Vec<(String, String)>,
    pub(super) http11: bool,
    pub(super) framing: Framing,
    pub(super) expects_continue: bool,
}

/// How a request says where its body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Length(usize),
    Chunked,
}

pub struct Request {
    pub head: Head,
    pub body: Vec<u8>,
}

/// Headers hold tokens, bodies passwords and prompts: neither is printed.
impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} ({} bytes)", self.head, self.body.len())
    }
}

impl Head {
    /// Reads a head from the start of `bytes`; the number is its length. None: more bytes are needed.
    ///
    /// # Errors
    /// The response that refuses it. The connection can't be used further.
    pub(in crate::serve) fn parse(
        bytes: &[u8],
        from: Origin,
    ) -> Result<Option<(Head, usize)>, Response> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut headers);
        let length = match request.parse(bytes) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(httparse::Error::TooManyHeaders) => {
                return Err(Response::error(431, format!("more than {HEADERS_MAX} header lines")));
            }
            Err(httparse::Error::Version) => {
                return Err(Response::error(505, "only HTTP/1.1 and HTTP/1.0 are spoken here"));
            }
            Err(error) => return Err(Response::error(400, format!("no HTTP request: {error}"))),
        };
        // The parser takes a bare line feed for a line's end; a proxy in front may not.
        let mut before = 0;
        let is_bare = |byte: &u8| std::mem::replace(&mut before, *byte) != b'\r' && *byte == b'\n';
        if bytes[..length].iter().any(is_bare) {
            return Err(Response::error(400, "a line of the head does not end in CR LF"));
        }
        let mut headers = Vec::with_capacity(request.headers.len());
        for header in request.headers.iter() {
            let Ok(value) = str::from_utf8(header.value) else {
                return Err(Response::error(400, "a header value is not UTF-8"));
            };
            headers.push((header.name.to_ascii_lowercase(), ascii::trim(value).to_owned()));
        }
        // All of the request line is there: the head is complete.
        let (path, query) = split_target(request.path.unwrap_or_default())?;
        let mut head = Head {
            from,
            method: request.method.unwrap_or_default().to_owned(),
            path: path.to_owned(),
            query: query.to_owned(),
            headers,
            http11: request.version == Some(1),
            framing: Framing::Length(0),
            expects_continue: false,
        };
        head.framing = head.read_framing()?;
        head.expects_continue = head.http11 && head.read_expectation()?;
        if head.http11 && head.header("host").is_none() {
            return Err(Response::error(400, "the Host header is missing"));
        }
        match ONLY_ONCE.iter().find(|name| 1 < head.all(name).count()) {
            Some(name) => Err(Response::error(400, format!("more than one {name} header"))),
            None => Ok(Some((head, length))),
        }
    }

    /// The first header of this name, which is given in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// The last header of this name, which is given in lower case: what the nearest proxy wrote, if
    /// it added a line to those that a client sent.
    pub fn last_header(&self, name: &str) -> Option<&str> {
        self.all(name).next_back()
    }

    fn all(&self, name: &str) -> impl DoubleEndedIterator<Item = &str> {
        self.headers.iter().filter(move |(it, _)| it == name).map(|(_, value)| value.as_str())
    }

    /// The first query parameter of this name, decoded.
    pub fn param(&self, name: &str) -> Option<String> {
        form_field(&self.query, name)
    }

    pub(super) fn keeps_alive(&self) -> bool {
        let says = |option: &str| {
            let mut options = self.all("connection").flat_map(|value| value.split(','));
            options.any(|it| ascii::trim(it).eq_ignore_ascii_case(option))
        };
        !says("close") && (self.http11 || says("keep-alive"))
    }

    /// RFC 9112 section 6.3, with everything ambiguous refused.
    fn read_framing(&self) -> Result<Framing, Response> {
        let bad = |text: &str| Err(Response::error(400, text));
        let mut lengths = self.all("content-length");
        let mut encodings = self.all("transfer-encoding");
        match (lengths.next(), encodings.next()) {
            (None, None) => Ok(Framing::Length(0)),
            (Some(_), Some(_)) => bad("both Content-Length and Transfer-Encoding"),
            (None, Some(_)) if !self.http11 => bad("Transfer-Encoding in HTTP/1.0"),
            (None, Some(encoding)) => {
                if encoding.eq_ignore_ascii_case("chunked") && encodings.next().is_none() {
                    Ok(Framing::Chunked)
                } else {
                    Err(Response::error(501, "only chunked is a known Transfer-Encoding"))
                }
            }
            (Some(_), None) if lengths.next().is_some() => bad("more than one Content-Length"),
            (Some(length), None) => {
                if !ascii::is_digits(length) {
                    return bad("Content-Length is no number");
                }
                // What does not fit the type is over every limit, too.
                Ok(Framing::Length(length.parse().unwrap_or(usize::MAX)))
            }
        }
    }

    fn read_expectation(&self) -> Result<bool, Response> {
        match self.header("expect") {
            None => Ok(false),
            Some(it) if it.eq_ignore_ascii_case("100-continue") => Ok(true),
            Some(_) => Err(Response::error(417, "the only known expectation is 100-continue")),
        }
    }
}

/// Path and query of a request target; a proxy may send the absolute form.
fn split_target(target: &str) -> Result<(&str, &str), Response> {
    let origin = match target.strip_prefix("http://").or_else(|| target.strip_prefix("https://")) {
        Some(rest) => rest.find('/').map_or("/", |at| &rest[at..]),
        None => target,
    };
    if !origin.starts_with('/') || origin.contains('#') {
        return Err(Response::error(400, "the request target is no path"));
    }
    Ok(origin.split_once('?').unwrap_or((origin, "")))
}

/// The first value of `name` in `a=b&c=d`, decoded as the URL standard says:
/// `+` is a blank, a broken escape stands for itself.
pub fn form_field(form: &str, name: &str) -> Option<String> {
    form.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(key) == name).then(|| decode(value))
    })
}

fn decode(text: &str) -> String {
    let text = text.replace('+', " ");
    percent_decode_str(&text).decode_utf8_lossy().into_owned()
}

/// What a handler answers.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    headers: Vec<(&'static str, String)>,
    pub(super) body: Body,
}

pub(super) enum Body {
    Bytes(Vec<u8>),
    /// Written piece by piece until the function returns, and from then on by who takes it over.
    Stream(StreamBody),
}

pub(super) type StreamBody =
    Box<dyn FnOnce(&mut StreamWriter<'_>) -> io::Result<Option<Detach>> + Send>;

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Body::Bytes(bytes) => write!(f, "Bytes({})", bytes.len()),
            Body::Stream(_) => f.write_str("Stream"),
        }
    }
}

impl Response {
    fn new(status: u16, content_type: &str, body: Body) -> Response {
        Response { status, headers: vec![("Content-Type", content_type.to_owned())], body }
    }

    pub fn json(status: u16, value: &Value) -> Response {
        Response::new(status, "application/json", Body::Bytes(value.to_string().into_bytes()))
    }

    /// `{"ok":true,…}`, the protocol's form of every other answer, with these fields.
    pub fn ok(mut fields: Value) -> Response {
        fields["ok"] = json!(true);
        Response::json(200, &fields)
    }

    /// `{"ok":false,"error":…}`, the protocol's form of every refusal.
    pub fn error(status: u16, text: impl Into<String>) -> Response {
        Response::json(status, &json!({ "ok": false, "error": text.into() }))
    }

    /// Text or bytes of any type.
    pub fn bytes(content_type: &str, bytes: impl Into<Vec<u8>>) -> Response {
        Response::new(200, content_type, Body::Bytes(bytes.into()))
    }

    /// A body without an end of its own. `run` returns who takes the stream over; none if it is over.
    /// Its errors are those of the socket.
    pub fn stream(
        content_type: &str,
        run: impl FnOnce(&mut StreamWriter<'_>) -> io::Result<Option<Detach>> + Send + 'static,
    ) -> Response {
        Response::new(200, content_type, Body::Stream(Box::new(run)))
    }

    /// Adds a header line, in the place of the usual one of that name if there is one. Both parts are
    /// our own words: nothing from outside gets here.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Response {
        self.headers.push((name, value.into()));
        self
    }

    /// The bytes up to the empty line.
    pub(super) fn head_bytes(&self, keep: bool, chunked: bool) -> Vec<u8> {
        use std::fmt::Write;
        let status = StatusCode::from_u16(self.status).expect("it is one of ours");
        let mut head = format!("HTTP/1.1 {status}\r\n");
        let is_set = |name: &str| self.headers.iter().any(|(it, _)| *it == name);
        let usual = DEFAULT_HEADERS.iter().filter(|(name, _)| !is_set(name)).copied();
        let own = self.headers.iter().map(|(name, value)| (*name, value.as_str()));
        for (name, value) in own.chain(usual) {
            write!(head, "{name}: {value}\r\n").expect("writing to a string works");
        }
        match &self.body {
            Body::Bytes(bytes) => write!(head, "Content-Length: {}\r\n", bytes.len())
                .expect("writing to a string works"),
            Body::Stream(_) if chunked => head.push_str("Transfer-Encoding: chunked\r\n"),
            Body::Stream(_) => (),
        }
        let connection = if keep { "keep-alive" } else { "close" };
        write!(head, "Connection: {connection}\r\n\r\n").expect("writing to a string works");
        head.into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(bytes: &[u8]) -> Result<Option<(Head, usize)>, Response> {
        Head::parse(bytes, Origin { peer: IpAddr::from([127, 0, 0, 1]), tls: false })
    }

    /// `expected` is `method path framing alive`, or the status that refuses.
    #[track_caller]
    fn check(lines: &str, expected: &str) {
        let text = format!("{}\r\n\r\n", lines.replace('\n', "\r\n"));
        let seen = match parse(text.as_bytes()) {
            Ok(Some((head, length))) => {
                assert_eq!(length, text.len());
                let Head { method, path, framing, .. } = &head;
                format!("{method} {path} {framing:?} {}", head.keeps_alive())
            }
            Ok(None) => "incomplete".to_owned(),
            Err(response) => response.status.to_string(),
        };
        assert_eq!(seen, expected, "{lines}");
    }

    #[test]
    fn heads_are_read_or_refused() {
        check("GET / HTTP/1.1\nHost: a", "GET / Length(0) true");
        check("GET /a?b=c HTTP/1.1\nhOST: a\nConnection: x, Close", "GET /a Length(0) false");
        check("GET http://a.b/c?d HTTP/1.1\nHost: a", "GET /c Length(0) true");
        check("GET http://a.b HTTP/1.1\nHost: a", "GET / Length(0) true");
        check("GET / HTTP/1.0", "GET / Length(0) false");
        check("GET / HTTP/1.0\nConnection: keep-alive", "GET / Length(0) true");
        check("POST / HTTP/1.1\nHost: a\nContent-Length: 12", "POST / Length(12) true");
        check("POST / HTTP/1.1\nHost: a\nTransfer-Encoding: Chunked", "POST / Chunked true");
        check("POST / HTTP/1.1\nHost: a\nTransfer-Encoding: gzip, chunked", "501");
        check("POST / HTTP/1.1\nHost: a\nContent-Length: 1\nContent-Length: 1", "400");
        check("POST / HTTP/1.1\nHost: a\nContent-Length: 1, 1", "400");
        check("POST / HTTP/1.1\nHost: a\nContent-Length: +1", "400");
        check("POST / HTTP/1.1\nHost: a\nContent-Length:\t12 \t", "POST / Length(12) true");
        // Who trims these sees a body, or an end, where another reader sees none.
        for blank in ["\u{a0}", "\u{2003}", "\u{85}", "\u{feff}", "\u{3000}"] {
            check(&format!("POST / HTTP/1.1\nHost: a\nContent-Length:{blank}2"), "400");
            check(&format!("POST / HTTP/1.1\nHost: a\nContent-Length: 2{blank}"), "400");
            check(&format!("POST / HTTP/1.1\nHost: a\nTransfer-Encoding: {blank}chunked"), "501");
            check(&format!("POST / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked{blank}"), "501");
            check(
                &format!("GET / HTTP/1.1\nHost: a\nConnection: {blank}close"),
                "GET / Length(0) true",
            );
            check(&format!("GET / HTTP/1.1\nHost: a\nExpect: {blank}100-continue"), "417");
        }
        check("POST / HTTP/1.1\nHost: a\nTransfer-Encoding: \u{212a}chunked", "501");
        check("GET / HTTP/1.1", "400");
        check("GET / HTTP/1.1\nHost: a\nHost: a", "400");
        check("GET / HTTP/1.1\nHost: a\nOrigin: b\norigin: b", "400");
        check("GET / HTTP/1.1\nHost: a\nAuthorization: b\nAuthorization: b", "400");
        check("GET / HTTP/1.1\nHost: a\nCookie: b\nCookie: c", "GET / Length(0) true");
        check("GET / HTTP/1.1\nHost: a\n folded: b", "400");
        check("GET / HTTP/1.1\nHost : a", "400");
        check("GET / HTTP/2.0\nHost: a", "505");
        check("OPTIONS * HTTP/1.1\nHost: a", "400");
    }

    /// A proxy that does not take it for a line's end has read another request.
    #[test]
    fn a_bare_line_feed_ends_no_line() {
        for text in [
            "GET / HTTP/1.1\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\n",
            "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n",
        ] {
            assert_eq!(parse(text.as_bytes()).unwrap_err().status, 400, "{text:?}");
        }
        assert!(parse(b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap().is_some());
    }

    #[test]
    fn a_head_in_pieces_waits_for_the_rest() {
        let whole = b"GET /a HTTP/1.1\r\nHost: b\r\n\r\n";
        for end in 0..whole.len() {
            assert!(matches!(parse(&whole[..end]), Ok(None)), "{end}");
        }
    }

    proptest::proptest! {
        /// Whatever comes, and wherever it is cut: no panic, and a length within what was given.
        #[test]
        fn any_bytes_are_read_or_refused(
            start in "(GET|POST|[A-Z]{0,3}) /[a-z?#%&=]{0,8} HTTP/1\\.[019]\r\n",
            rest in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..80),
        ) {
            let bytes = [start.as_bytes(), &rest, b"\r\n\r\n"].concat();
            for end in 0..=bytes.len() {
                if let Ok(Some((head, length))) = parse(&bytes[..end]) {
                    assert!(length <= end && head.path.starts_with('/'));
                    head.param("a");
                }
            }
        }
    }

    #[test]
    fn form_fields_are_decoded() {
        #[track_caller]
        fn check(form: &str, name: &str, expected: Option<&str>) {
            assert_eq!(form_field(form, name).as_deref(), expected, "{form}");
        }
        check("a=1&b=x+y%2Bz&b=2", "b", Some("x y+z"));
        check("a", "a", Some(""));
        check("a=%zz%4", "a", Some("%zz%4"));
        check("a=%C3%A4", "a", Some("ä"));
        check("a=%ff", "a", Some("\u{fffd}"));
        check("", "a", None);
    }
}
