//! Looks names up. ureq's own resolver panics when the system has no thread left for it, and a panic
//! costs the task that asked; here it is an error like that of any other machine in need.

use std::{
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    sync::Arc,
    vec::IntoIter,
};

use crossbeam_channel::bounded;
use ureq::{
    Error,
    config::Config,
    http::Uri,
    unversioned::{
        resolver::{ResolvedSocketAddrs, Resolver},
        transport::NextTimeout,
    },
};

use super::{
    proxy::Route,
    trouble::{Trouble, plain},
    ways::{Ways, target},
};
use crate::task;

/// As many addresses of one name as ureq tries.
const ADDRESSES: usize = 16;

/// Finds the address of the next hop: the bridge, or the proxy in front of it.
#[derive(Debug)]
pub(super) struct Lookup(pub(super) Arc<Ways>);

impl Resolver for Lookup {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        let found = match self.0.route(uri)? {
            Route::Direct(_) => {
                let (host, port) = target(uri)?;
                look_up(host, port, timeout)?
            }
            Route::Via(proxy) => look_up(&proxy.host, proxy.port, timeout).map_err(|error| {
                Trouble(format!("looking for the proxy {proxy}: {}", plain(&error)))
            })?,
        };
        let mut addresses = self.empty();
        for address in config.ip_family().keep_wanted(found).take(ADDRESSES) {
            addresses.push(address);
        }
        if addresses.is_empty() { Err(Error::HostNotFound) } else { Ok(addresses) }
    }
}

/// The system's lookup has no time limit, so it has a task of its own, which may outlive the wait.
pub(super) fn look_up(
    host: &str,
    port: u16,
    timeout: NextTimeout,
) -> Result<IntoIter<SocketAddr>, Error> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)].into_iter());
    }
    let (tell, told) = bounded(1);
    let name = host.to_owned();
    task::spawn("resolve", move || {
        tell.send((name.as_str(), port).to_socket_addrs()).ok(); // The request may have given up.
    })?;
    let why = match told.recv_timeout(*timeout.after) {
        Ok(Ok(found)) => return Ok(found),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "the name server did not answer in time".to_owned(),
    };
    Err(Trouble(format!("the name {host} can't be looked up: {why}")).into())
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, time::Duration};

    use super::*;
    use crate::bridge::{dial::agent, proxy::Settings, tls::Tls};

    #[track_caller]
    fn check(host: &str, is_reached: bool) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let config =
            Config::builder().timeout_global(Some(Duration::from_millis(300))).proxy(None).build();
        let url = format!("http://{host}:{}/", listener.local_addr().unwrap().port());
        // No answer comes, but a host that was reached has a connection to show.
        let ways =
            Arc::new(Ways { settings: Settings::default(), tls: Tls::new(vec![], None, false) });
        assert!(agent(config, ways).get(&url).call().is_err());
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
