//! Makes the client of the bridge from the configuration.

use std::sync::Arc;

use crate::{
    bridge::{Access, Client, Net},
    config::{Config, Paths, live::missing_token},
    logging,
};

/// A client with the address and token of `config`.
pub(super) fn of(config: &Config, paths: &Paths) -> anyhow::Result<Client> {
    let token = config.token.clone().ok_or_else(|| missing_token(&paths.config_file))?;
    logging::hide(&token);
    let access = Access {
        base_url: config.base_url.clone(),
        origin_host: config.origin_host.clone(),
        token,
    };
    Client::new(Arc::new(access), &net(config))
}

/// Certificates and time limits from the configuration; the proxy from where everybody looks for it: `HTTPS_PROXY`,
/// `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`.
pub(super) fn net(config: &Config) -> Net {
    let default = Net::default();
    Net {
        ca_file: config.ca_file.clone(),
        proxy: ureq::Proxy::try_from_env(),
        connect: default.connect.min(config.request_timeout),
        request: config.request_timeout,
    }
}
