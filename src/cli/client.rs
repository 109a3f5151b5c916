//! Makes the client of the bridge from the configuration.

use std::sync::Arc;

use crate::{
    bridge::{
        Access, Client, Headers, Net,
        proxy::{Credentials, EnvSettings, Settings},
    },
    config::{Config, ConfigError, Env, HeaderSource, Paths, Token, live::missing_token},
    logging,
};

/// A client with the address and token of `config`.
pub(super) fn of(config: &Config, paths: &Paths, env: &Env) -> anyhow::Result<Client> {
    let token = config.token.clone().ok_or_else(|| missing_token(&paths.config_file))?;
    logging::hide(&token);
    let access = Access {
        base_url: config.base_url.clone(),
        origin_host: config.origin_host.clone(),
        token,
    };
    Client::new(Arc::new(access), &net(config, env)?)
}

/// Certificates, headers and time limits from the configuration; proxies from there, or from where
/// everybody looks for them: `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`.
///
/// # Errors
/// A [`ConfigError`] that names the file, the key or the variable that can't be used.
pub(super) fn net(config: &Config, env: &Env) -> anyhow::Result<Net> {
    let default = Net::default();
    let network = &config.network;
    for header in &network.headers {
        if let HeaderSource::Value(value) = &header.source {
            logging::hide(value);
        }
    }
    let credentials = network.proxy_auth.as_ref().map(|line| {
        logging::hide(line);
        let credentials = Credentials::parse(line.reveal());
        if let Some(Credentials { password, .. }) = &credentials {
            logging::hide(&Token::new(password));
        }
        credentials
    });
    let net = Net {
        ca_file: network.ca_file.clone(),
        has_own_roots: has_own_roots(env)?,
        identity: network.identity.clone(),
        proxies: Settings {
            proxy: network.proxy.clone(),
            no_proxy: network.no_proxy.clone(),
            env: EnvSettings::read(env)?,
            credentials: credentials.flatten(),
        },
        headers: Headers::new(&network.headers)?,
        connect: default.connect.min(config.request_timeout),
        request: config.request_timeout,
    };
    net.check(&config.base_url)?;
    Ok(net)
}

/// Whether the environment says what this machine trusts, as OpenSSL's programs have it.
fn has_own_roots(env: &Env) -> Result<bool, ConfigError> {
    let mut has = false;
    for (name, is_dir) in [("SSL_CERT_FILE", false), ("SSL_CERT_DIR", true)] {
        let Some(value) = env.var(name) else { continue };
        has = true;
        let paths = std::env::split_paths(value);
        let is_there =
            |path: std::path::PathBuf| if is_dir { path.is_dir() } else { path.is_file() };
        if !paths.into_iter().any(is_there) {
            let value = std::path::Path::new(value).display();
            return Err(ConfigError(format!(
                "the environment variable {name} names {value}, which is not there"
            )));
        }
    }
    Ok(has)
}
