//! Address and credentials of the bridge, read anew before every request.

use std::fmt;

use super::Error;
pub use crate::config::live::Access;
use crate::config::live::Live;

/// Asked before every request, so that a rotated token takes effect without a restart.
pub trait AccessSource: Send + Sync + fmt::Debug {
    fn access(&self) -> Result<Access, Error>;

    /// Somebody has taken the token away for good, as `logout` does.
    fn is_logged_out(&self) -> bool {
        false
    }
}

/// Access that does not change, for example while `init` tries a token.
impl AccessSource for Access {
    fn access(&self) -> Result<Access, Error> {
        Ok(self.clone())
    }
}

/// Access that follows the config file, for everything that runs longer than a command.
impl AccessSource for Live {
    fn access(&self) -> Result<Access, Error> {
        self.connection().map_err(|error| Error::Access(error.to_string()))
    }

    fn is_logged_out(&self) -> bool {
        Live::is_logged_out(self)
    }
}
