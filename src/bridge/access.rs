//! Address and credentials of the bridge, read anew before every request.

use std::fmt;

pub use crate::config::live::Access;
use crate::config::live::Live;

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
        Ok(self.connection()?)
    }
}
