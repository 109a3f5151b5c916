//! Makes the client of the bridge from the configuration, and exit codes from its errors.

use std::sync::Arc;

use crate::{
    bridge::{Access, Client, Error, Net},
    cli::ExitCode,
    config::{Config, ConfigError, Paths, live::missing_token},
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

/// 1 for a configuration that can't be used, 2 for a bridge that can't be reached, 3 for one that
/// refuses.
pub(super) fn exit_code(error: &Error) -> ExitCode {
    match error {
        Error::Access(_) => ExitCode::Failure(1),
        Error::Network { .. } => ExitCode::Failure(2),
        Error::Status { .. } | Error::BadBody { .. } | Error::TooLarge { .. } => ExitCode::Failure(3),
    }
}

/// The exit code of something that should have run for long.
pub(super) fn exit_code_of(error: &anyhow::Error) -> ExitCode {
    if error.chain().any(<dyn std::error::Error>::is::<crate::store::lock::Held>) {
        ExitCode::InUse
    } else if error.chain().any(<dyn std::error::Error>::is::<ConfigError>) {
        ExitCode::Config
    } else {
        ExitCode::Failure(1)
    }
}
