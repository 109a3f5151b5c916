//! The ways to the bridge: by which proxy, and with which TLS. The same for all connections of a client.

use ureq::{Error, http::Uri};

use super::{
    proxy::{Route, Settings, bare},
    tls::Tls,
    trouble::Trouble,
};

#[derive(Debug)]
pub(super) struct Ways {
    pub(super) settings: Settings,
    pub(super) tls: Tls,
}

impl Ways {
    pub(super) fn route(&self, url: &Uri) -> Result<Route, Error> {
        self.settings.route(url).map_err(|error| Trouble(error.to_string()).into())
    }
}

/// Host, without brackets, and port of an address.
pub(super) fn target(uri: &Uri) -> Result<(&str, u16), Error> {
    let host = uri.host().ok_or_else(|| Error::BadUri(uri.to_string()))?;
    let default = if uri.scheme_str() == Some("https") { 443 } else { 80 };
    Ok((bare(host), uri.port_u16().unwrap_or(default)))
}
