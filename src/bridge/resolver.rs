//! Looks names up. ureq's own resolver panics when the system has no thread left for it, and a panic
//! costs the task that asked; here it is an error like that of any other machine in need.

use std::{
    net::{SocketAddr, ToSocketAddrs},
    vec::IntoIter,
};

use crossbeam_channel::bounded;
use ureq::{
    Agent, Error,
    config::Config,
    http::Uri,
    unversioned::{
        resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver},
        transport::{Connector as _, DefaultConnector, NextTimeout},
    },
};

use super::one_piece::OnePiece;
use crate::task;

/// As many addresses of one name as ureq tries.
const ADDRESSES: usize = 16;

/// An agent that looks names up by [`Lookup`] and sends each request in one piece.
pub(super) fn agent(config: Config) -> Agent {
    Agent::with_parts(config, DefaultConnector::default().chain(OnePiece), Lookup)
}

#[derive(Debug)]
struct Lookup;

impl Resolver for Lookup {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) else {
            return Err(Error::BadUri(uri.to_string()));
        };
        let host = DefaultResolver::host_and_port(scheme, authority).ok_or(Error::HostNotFound)?;
        let found = match host.parse::<SocketAddr>() {
            Ok(address) => vec![address].into_iter(),
            Err(_) => look_up(host, timeout)?,
        };
        let mut addresses = self.empty();
        for address in config.ip_family().keep_wanted(found).take(ADDRESSES) {
            addresses.push(address);
        }
        if addresses.is_empty() { Err(Error::HostNotFound) } else { Ok(addresses) }
    }
}

/// The system's lookup has no time limit, so it has a task of its own, which may outlive the wait.
fn look_up(host: String, timeout: NextTimeout) -> Result<IntoIter<SocketAddr>, Error> {
    let (tell, told) = bounded(1);
    task::spawn("resolve", move || {
        tell.send(host.to_socket_addrs()).ok(); // The request may have given up.
    })?;
    told.recv_timeout(*timeout.after)
        .map_err(|_| Error::Timeout(timeout.reason))?
        .map_err(Error::Io)
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, time::Duration};

    use super::*;

    #[track_caller]
    fn check(host: &str, is_reached: bool) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let config =
            Config::builder().timeout_global(Some(Duration::from_millis(300))).proxy(None).build();
        let url = format!("http://{host}:{}/", listener.local_addr().unwrap().port());
        // No answer comes, but a host that was reached has a connection to show.
        assert!(agent(config).get(&url).call().is_err());
        listener.set_nonblocking(true).unwrap();
        assert_eq!(listener.accept().is_ok(), is_reached, "{host}");
    }

    #[test]
    fn numbers_and_names_lead_to_the_host() {
        check("127.0.0.1", true);
        check("localhost", true);
        check("no-such-host.invalid", false);
    }
}
