//! Makes connections: to the bridge, or to a proxy and through it.

use std::{
    io::{self, Read, Write},
    net::IpAddr,
    sync::Arc,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use ureq::{
    Agent, Error,
    config::Config,
    unversioned::transport::{
        ConnectionDetails, Connector, NextTimeout, TcpConnector, Transport, TransportAdapter,
    },
};

use super::{
    one_piece::{Forwarding, Joining},
    proxy::{Credentials, Kind, Proxy, Route, bracketed},
    resolver::{Lookup, look_up},
    trouble::{Trouble, plain},
    ways::{Ways, target},
};
use crate::ascii;

/// The longest answer of a proxy to `CONNECT` that is read, in bytes.
const MAX_HEAD: usize = 16 * 1024;

/// An agent that looks names up by [`Lookup`] and connects by [`Dial`].
pub(super) fn agent(config: Config, ways: Arc<Ways>) -> Agent {
    Agent::with_parts(config, Dial(Arc::clone(&ways)), Lookup(ways))
}

/// Opens a connection, by a proxy where there is one, with TLS where the address has it.
#[derive(Debug)]
struct Dial(Arc<Ways>);

impl Connector<()> for Dial {
    type Out = Joining<Box<dyn Transport>>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        _: Option<()>,
    ) -> Result<Option<Self::Out>, Error> {
        let (host, port) = target(details.uri)?;
        let route = self.0.route(details.uri)?;
        let socket = TcpConnector::default().connect(details, None::<()>);
        let Some(socket) = socket.map_err(|error| match &route {
            Route::Direct(_) => Trouble(format!(
                "connecting to {}:{port}: {}; is the bridge up and baseUrl right?",
                bracketed(host),
                plain(&error)
            )),
            Route::Via(proxy) => {
                Trouble(format!("connecting to the proxy {proxy}: {}", plain(&error)))
            }
        })?
        else {
            return Ok(None);
        };
        let mut connection: Box<dyn Transport> = Box::new(socket);
        let mut forwarding = None;
        if let Route::Via(proxy) = route {
            let wrap = |error: Error| match error {
                Error::Other(inner) => Trouble(format!("the proxy {proxy}: {inner}")),
                other => Trouble(format!("the proxy {proxy}: {}", plain(&other))),
            };
            if proxy.kind == Kind::Https {
                let tls = self.0.tls.wrap(connection, &proxy.host, details).map_err(wrap)?;
                connection = Box::new(tls);
            }
            let mut talk =
                Talk(TransportAdapter::new(connection, Arc::clone(&details.current_time)));
            talk.0.set_timeout(details.timeout);
            match proxy.kind {
                Kind::Http | Kind::Https if !details.needs_tls() => {
                    forwarding = Some(Forwarding {
                        origin: format!("http://{}:{port}", bracketed(host)),
                        credentials: proxy.credentials.as_ref().map(basic),
                    });
                }
                Kind::Http | Kind::Https => talk.connect(host, port, &proxy).map_err(wrap)?,
                Kind::Socks5 | Kind::Socks5h => {
                    talk.socks(host, port, &proxy, details.timeout).map_err(wrap)?;
                }
            }
            connection = talk.0.into_inner();
        }
        if details.needs_tls() {
            connection = Box::new(self.0.tls.wrap(connection, host, details)?);
        }
        Ok(Some(Joining::new(connection, forwarding)))
    }
}

/// The value of `Proxy-Authorization`.
fn basic(credentials: &Credentials) -> String {
    let pair = format!("{}:{}", credentials.user, credentials.password);
    format!("Basic {}", BASE64_STANDARD.encode(pair))
}

/// What is said to a proxy before it is a way.
struct Talk(TransportAdapter);

impl Talk {
    /// Has an HTTP proxy connect to the target.
    fn connect(&mut self, host: &str, port: u16, proxy: &Proxy) -> Result<(), Error> {
        let host = bracketed(host);
        let login = proxy
            .credentials
            .as_ref()
            .map(|credentials| format!("Proxy-Authorization: {}\r\n", basic(credentials)));
        let head = format!(
            "CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\nUser-Agent: {}\r\n{}\r\n",
            super::net::USER_AGENT,
            login.unwrap_or_default()
        );
        self.0.write_all(head.as_bytes())?;
        let answer = self.head()?;
        let status = answer.lines().next().unwrap_or_default();
        let mut words = status.splitn(3, ' ');
        let code = match (words.next(), words.next().map(str::parse::<u16>)) {
            (Some(version), Some(Ok(code))) if version.starts_with("HTTP/1.") => code,
            _ => return Err(Trouble("it does not speak HTTP".to_owned()).into()),
        };
        let reason = words.next().unwrap_or_default().trim();
        match code {
            200..=299 => Ok(()),
            407 => Err(Trouble(refused_without(&answer, proxy.credentials.is_some())).into()),
            _ => Err(Trouble(format!(
                "it does not connect to {host}:{port}: {code} {reason}; its rules may not allow it"
            ))
            .into()),
        }
    }

    /// Reads up to the empty line. What the target says comes after what it was told, so nothing of
    /// that is lost.
    fn head(&mut self) -> Result<String, Error> {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") && !head.ends_with(b"\n\n") {
            if head.len() == MAX_HEAD {
                return Err(Trouble("its answer has no end".to_owned()).into());
            }
            self.0.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        Ok(String::from_utf8_lossy(&head).into_owned())
    }

    /// Has a SOCKS proxy connect to the target (RFC 1928, RFC 1929).
    fn socks(
        &mut self,
        host: &str,
        port: u16,
        proxy: &Proxy,
        timeout: NextTimeout,
    ) -> Result<(), Error> {
        let ways: &[u8] = if proxy.credentials.is_some() { &[5, 2, 0, 2] } else { &[5, 1, 0] };
        self.0.write_all(ways)?;
        let [version, way] = self.bytes()?;
        if version != 5 {
            return Err(Trouble("it does not speak SOCKS 5".to_owned()).into());
        }
        match (way, &proxy.credentials) {
            (0, _) => {}
            (2, Some(credentials)) => self.log_in(credentials)?,
            (0xff, None) => {
                let said = "it wants a user name and a password: write them into its address, as \
                            in socks5h://user:password@host";
                return Err(Trouble(said.to_owned()).into());
            }
            _ => return Err(Trouble("it wants another kind of login".to_owned()).into()),
        }
        let mut request = vec![5, 1, 0];
        let number = match (host.parse(), proxy.kind) {
            (Ok(ip), _) => Some(ip),
            (Err(_), Kind::Socks5h) => None,
            (Err(_), _) => {
                let found = look_up(host, port, timeout)?.next();
                Some(found.ok_or(Error::HostNotFound)?.ip())
            }
        };
        match number {
            Some(IpAddr::V4(ip)) => {
                request.push(1);
                request.extend_from_slice(&ip.octets());
            }
            Some(IpAddr::V6(ip)) => {
                request.push(4);
                request.extend_from_slice(&ip.octets());
            }
            None => {
                request.push(3);
                request.extend_from_slice(&short(host)?);
            }
        }
        request.extend_from_slice(&port.to_be_bytes());
        self.0.write_all(&request)?;
        let [_, code, _, kind] = self.bytes()?;
        let why = match code {
            0 => None,
            1 => Some("a failure of its own"),
            2 => Some("its rules do not allow it"),
            3 => Some("the network can't be reached"),
            4 => Some("the host can't be reached, or its name is not known"),
            5 => Some("the connection was refused"),
            6 => Some("it took too long"),
            _ => Some("it does not say why"),
        };
        if let Some(why) = why {
            let host = bracketed(host);
            return Err(Trouble(format!("it does not connect to {host}:{port}: {why}")).into());
        }
        // The address that it uses itself; nobody needs it.
        let length = match kind {
            1 => 4,
            4 => 16,
            3 => usize::from(self.bytes::<1>()?[0]),
            _ => return Err(Trouble("it does not speak SOCKS 5".to_owned()).into()),
        };
        self.0.read_exact(&mut vec![0; length + 2])?;
        Ok(())
    }

    fn log_in(&mut self, credentials: &Credentials) -> Result<(), Error> {
        let mut request = vec![1];
        request.extend_from_slice(&short(&credentials.user)?);
        request.extend_from_slice(&short(&credentials.password)?);
        self.0.write_all(&request)?;
        match self.bytes()? {
            [_, 0] => Ok(()),
            _ => Err(Trouble("it refuses the user name or the password".to_owned()).into()),
        }
    }

    fn bytes<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.0.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

/// A text with its length in one byte in front.
fn short(text: &str) -> Result<Vec<u8>, Error> {
    let length = u8::try_from(text.len())
        .map_err(|_| Trouble("SOCKS takes no name of more than 255 bytes".to_owned()))?;
    Ok([&[length], text.as_bytes()].concat())
}

/// Why a proxy answered with 407, from its head.
pub(super) fn refused_without(head: &str, had_credentials: bool) -> String {
    let offers = head.lines().filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        let is_offer = ascii::trim(name).eq_ignore_ascii_case("proxy-authenticate");
        is_offer.then(|| ascii::trim(value).split(' ').next().unwrap_or_default())
    });
    let offers: Vec<&str> = offers.collect();
    let takes_basic =
        offers.is_empty() || offers.iter().any(|offer| offer.eq_ignore_ascii_case("basic"));
    if !takes_basic {
        return format!(
            "it wants a login of the kind {}, which is not supported; ask for Basic, or use a \
             local proxy that knows it (cntlm, px)",
            offers.join(", ")
        );
    }
    if had_credentials {
        "407, it refuses the user name or the password".to_owned()
    } else {
        "407, it wants a user name and a password: write them into its address, as in \
         http://user:password@host:port, or into the file of proxyAuthFile"
            .to_owned()
    }
}
