//! Address and credentials of the bridge, read anew before every request.

use std::fmt;

use crate::config::{
    Token,
    live::{Connection, Live},
};

/// Where the bridge is and what it wants to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// `https://host`, a trailing `/` is ignored.
    pub base_url: String,
    /// The `OBTO-ORIGIN-HOST` header, on which the hosted bridge routes.
    pub origin_host: String,
    pub token: Token,
}

/// Asked before every request, so that a rotated token takes effect without a restart.
pub trait AccessSource: Send + Sync + fmt::Debug {
    fn access(&self) -> anyhow::Result<Access>;
}

/// Access that does not change, for example while `init` tries a token.
impl AccessSource for Access {
    fn access(&self) -> anyhow::Result<Access> {
        Ok(self.clone())
    }
}

/// Access that follows the config file, for everything that runs longer than a command.
impl AccessSource for Live {
    fn access(&self) -> anyhow::Result<Access> {
        let Connection { base_url, origin_host, token } = self.connection()?;
        Ok(Access { base_url, origin_host, token })
    }
}
