//! Which way leads to the bridge: directly, or through which proxy. **Pure.** The rules are those of
//! curl and of Go's programs: a proxy for each scheme, loopback is never proxied, `NO_PROXY` has names,
//! suffixes, networks and ports. What can't be used is an error, never a direct connection.

use std::{
    fmt::{self, Write as _},
    net::IpAddr,
};

use percent_encoding::percent_decode_str;
use ureq::http::Uri;

use crate::config::{ConfigError, Env, Setting};

/// What says how the bridge is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The config's `proxy`. It is above the environment, and loopback goes through it as well.
    pub proxy: Option<Setting>,
    /// The config's `noProxy`, in the place of `NO_PROXY`.
    pub no_proxy: Option<Setting>,
    /// `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`.
    pub env: EnvSettings,
    /// User name and password from a file, in the place of those in the address.
    pub credentials: Option<Credentials>,
}

/// The variables that every program obeys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EnvSettings {
    pub http: Option<Setting>,
    pub https: Option<Setting>,
    pub all: Option<Setting>,
    pub none: Option<Setting>,
}

impl EnvSettings {
    /// Reads them, in capitals first.
    ///
    /// # Errors
    /// When one of them is not UTF-8.
    pub fn read(env: &Env) -> Result<EnvSettings, ConfigError> {
        let read = |names: [&str; 2]| {
            let found = names.into_iter().find_map(|name| Some((name, env.var(name)?)));
            let Some((name, value)) = found else { return Ok(None) };
            let value = value.to_str().ok_or_else(|| {
                ConfigError(format!("the environment variable {name} is not UTF-8"))
            })?;
            Ok(Some(Setting { place: name.to_owned(), value: value.to_owned() }))
        };
        // A web server gives its scripts a request's header `Proxy` under this name.
        let is_cgi = env.var("REQUEST_METHOD").is_some();
        Ok(EnvSettings {
            http: read([if is_cgi { "http_proxy" } else { "HTTP_PROXY" }, "http_proxy"])?,
            https: read(["HTTPS_PROXY", "https_proxy"])?,
            all: read(["ALL_PROXY", "all_proxy"])?,
            none: read(["NO_PROXY", "no_proxy"])?,
        })
    }
}

/// What a proxy wants to see. It never prints.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub user: String,
    pub password: String,
}

impl Credentials {
    /// Reads `user:password`, the first line of a file.
    pub fn parse(text: &str) -> Option<Credentials> {
        let (user, password) = text.lines().next()?.split_once(':')?;
        Some(Credentials { user: user.to_owned(), password: password.to_owned() })
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(…)")
    }
}

/// How a proxy is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Http,
    /// HTTP over TLS.
    Https,
    /// SOCKS 5; this machine looks the bridge's name up.
    Socks5,
    /// SOCKS 5; the proxy does.
    Socks5h,
}

impl Kind {
    fn scheme(self) -> &'static str {
        match self {
            Kind::Http => "http",
            Kind::Https => "https",
            Kind::Socks5 => "socks5",
            Kind::Socks5h => "socks5h",
        }
    }

    fn default_port(self) -> u16 {
        match self {
            Kind::Http => 80,
            Kind::Https => 443,
            Kind::Socks5 | Kind::Socks5h => 1080,
        }
    }
}

/// A proxy that can be connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    pub kind: Kind,
    /// A name or a number; IPv6 without brackets.
    pub host: String,
    pub port: u16,
    pub credentials: Option<Credentials>,
    /// Where it is set.
    pub place: String,
}

impl fmt::Display for Proxy {
    /// For people: never the credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = bracketed(&self.host);
        write!(f, "{}://{host}:{} ({})", self.kind.scheme(), self.port, self.place)
    }
}

/// The way to an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// Without a proxy, and why.
    Direct(String),
    Via(Proxy),
}

impl Settings {
    /// The way to `url`.
    ///
    /// # Errors
    /// When the proxy that counts for it, or the list of exceptions, can't be used: says where it is
    /// set and what is wrong with it, without its value.
    pub fn route(&self, url: &Uri) -> Result<Route, ConfigError> {
        let host = bare(url.host().unwrap_or_default()).to_ascii_lowercase();
        let is_https = url.scheme_str() == Some("https");
        let port = url.port_u16().unwrap_or(if is_https { 443 } else { 80 });
        let (setting, asked_for) = match (&self.proxy, is_https) {
            (Some(setting), _) => (Some(setting), true),
            (None, true) => (self.env.https.as_ref().or(self.env.all.as_ref()), false),
            (None, false) => (self.env.http.as_ref().or(self.env.all.as_ref()), false),
        };
        let Some(setting) = setting else {
            let names = if is_https { "HTTPS_PROXY" } else { "HTTP_PROXY" };
            return Ok(Route::Direct(format!(
                "neither \"proxy\" nor {names} nor ALL_PROXY is set"
            )));
        };
        if setting.value.trim() == "direct" && asked_for {
            return Ok(Route::Direct(format!("{} says so", setting.place)));
        }
        // Also if it is not used for this address: it is a mistake in any case.
        let mut proxy = read_proxy(setting)?;
        if is_loopback(&host) && !asked_for {
            return Ok(Route::Direct(format!("{host} is this machine itself")));
        }
        if let Some(exceptions) = self.no_proxy.as_ref().or(self.env.none.as_ref())
            && let Some(entry) = exception(&exceptions.value, &host, port)
        {
            return Ok(Route::Direct(format!("{} has {entry:?}", exceptions.place)));
        }
        if let Some(credentials) = &self.credentials {
            proxy.credentials = Some(credentials.clone());
        }
        Ok(Route::Via(proxy))
    }
}

/// `host` as it is in an address.
pub(super) fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

/// An IPv6 number without its brackets.
pub(super) fn bare(host: &str) -> &str {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

fn is_loopback(host: &str) -> bool {
    host.trim_end_matches('.') == "localhost"
        || host.parse().is_ok_and(|ip: IpAddr| ip.to_canonical().is_loopback())
}

fn read_proxy(setting: &Setting) -> Result<Proxy, ConfigError> {
    parse_proxy(&setting.value, &setting.place).map_err(|why| {
        ConfigError(format!(
            "{} is no usable address of a proxy: {why}. It has the form \
             http://user:password@host:port, and nothing is connected to without it",
            setting.place
        ))
    })
}

fn parse_proxy(value: &str, place: &str) -> Result<Proxy, String> {
    let value = value.trim();
    let (kind, rest) = match value.split_once("://") {
        None => (Kind::Http, value),
        Some((scheme, rest)) => match scheme.to_ascii_lowercase().as_str() {
            "http" => (Kind::Http, rest),
            "https" => (Kind::Https, rest),
            "socks5" => (Kind::Socks5, rest),
            "socks5h" => (Kind::Socks5h, rest),
            other if other.chars().all(|c| c.is_ascii_alphanumeric()) => {
                return Err(format!(
                    "proxies of the kind {other}:// are not known; http, https, socks5 and socks5h are"
                ));
            }
            _ => return Err("it has no scheme that is known".to_owned()),
        },
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if let Some(c) = rest.chars().find(|c| "#/?\\\"<>^`{|}".contains(*c) || !c.is_ascii_graphic()) {
        let mut encoded = String::new();
        for byte in c.to_string().bytes() {
            write!(encoded, "%{byte:02X}").expect("a string takes everything");
        }
        // In front of the last `@` it is in the user name or password, whose letters are not shown.
        let (is_secret, shown) = match rest.rsplit_once('@') {
            Some((secret, _)) if secret.contains(c) => (true, String::new()),
            _ => (false, format!("{c:?} ")),
        };
        return Err(if is_secret {
            format!(
                "its user name or password has a character that must be written as {encoded}, with a \
                 percent sign"
            )
        } else {
            format!(
                "{shown}can't stand there; in a user name or password it is written as {encoded}"
            )
        });
    }
    let (credentials, address) = match rest.rsplit_once('@') {
        None => (None, rest),
        Some((user_info, address)) => (Some(read_credentials(user_info)?), address),
    };
    let (host, port) = match address.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or("a bracket is not closed")?;
            host.parse::<std::net::Ipv6Addr>()
                .map_err(|_| format!("[{host}] is no IPv6 address"))?;
            (host, after.strip_prefix(':').or(after.is_empty().then_some("")))
        }
        None => match address.rsplit_once(':') {
            Some((host, _)) if host.contains(':') => {
                return Err("an IPv6 address must be in brackets".to_owned());
            }
            Some((host, port)) => (host, Some(port)),
            None => (address, Some("")),
        },
    };
    let port = match port.ok_or("after the bracket there must be :PORT, or nothing")? {
        "" => kind.default_port(),
        port => port
            .parse()
            .ok()
            .filter(|port| *port != 0)
            .ok_or_else(|| format!("{port:?} is no port"))?,
    };
    let is_name = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
    if host.is_empty() || !host.chars().all(is_name) {
        return Err("it names no host".to_owned());
    }
    let host = host.to_ascii_lowercase();
    Ok(Proxy { kind, host, port, credentials, place: place.to_owned() })
}

fn read_credentials(user_info: &str) -> Result<Credentials, String> {
    if user_info.contains('@') {
        return Err("an @ in its user name or password must be written as %40".to_owned());
    }
    let decode = |text: &str| {
        let bytes = text.as_bytes();
        let is_hex = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_hexdigit);
        let mut signs = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'%');
        if signs.any(|(at, _)| !is_hex(at + 1) || !is_hex(at + 2)) {
            return Err("a % in its user name or password must be written as %25".to_owned());
        }
        let text = percent_decode_str(text).decode_utf8();
        text.map(Into::into).map_err(|_| "its user name or password is not UTF-8".to_owned())
    };
    let (user, password) = user_info.split_once(':').unwrap_or((user_info, ""));
    Ok(Credentials { user: decode(user)?, password: decode(password)? })
}

/// The entry of a list such as `NO_PROXY` that is about the host.
fn exception<'a>(list: &'a str, host: &str, port: u16) -> Option<&'a str> {
    let entries = list.split([',', ' ', '\t', '\n', '\r']).filter(|entry| !entry.is_empty());
    let ip = host.parse().ok().map(|ip: IpAddr| ip.to_canonical());
    entries.into_iter().find(|entry| is_about(&entry.to_ascii_lowercase(), host, ip, port))
}

fn is_about(entry: &str, host: &str, ip: Option<IpAddr>, port: u16) -> bool {
    if entry == "*" {
        return true;
    }
    if let Some((network, bits)) = entry.split_once('/') {
        let network = bare(network).parse().ok().map(|ip: IpAddr| ip.to_canonical());
        let bits = bits.parse().ok();
        return matches!((network, bits, ip), (Some(network), Some(bits), Some(ip))
            if is_in(ip, network, bits));
    }
    // A number of IPv6 has colons of its own.
    let (name, only) = match entry.rsplit_once(':') {
        Some((name, digits)) if !name.contains(':') || name.ends_with(']') => {
            (name, digits.parse::<u16>().ok())
        }
        _ => (entry, None),
    };
    if only.is_some_and(|only| only != port) {
        return false;
    }
    let name = bare(name);
    if let Ok(number) = name.parse::<IpAddr>() {
        return ip == Some(number.to_canonical());
    }
    let name = name.strip_prefix('*').unwrap_or(name);
    let name = name.strip_prefix('.').unwrap_or(name).trim_end_matches('.');
    let host = host.trim_end_matches('.');
    !name.is_empty()
        && host.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

fn is_in(ip: IpAddr, network: IpAddr, bits: u32) -> bool {
    let same = |ip: u128, network: u128, width: u32| {
        bits <= width && (bits == 0 || (ip ^ network) >> (width - bits) == 0)
    };
    match (ip, network) {
        (IpAddr::V4(ip), IpAddr::V4(network)) => {
            same(ip.to_bits().into(), network.to_bits().into(), 32)
        }
        (IpAddr::V6(ip), IpAddr::V6(network)) => same(ip.to_bits(), network.to_bits(), 128),
        _ => false,
    }
}

#[cfg(test)]
#[path = "proxy_tests.rs"]
mod tests;
