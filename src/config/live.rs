//! The three settings that every request reads anew, so that `rotate-token` and a corrected address
//! take effect without a restart. The file is read again only when it has changed.

use std::{path::Path, sync::Mutex, time::SystemTime};

use super::{Config, ConfigError, ConfigFile, Env, Token};

/// Where the bridge is and what it wants to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// `https://host`, a trailing `/` is ignored.
    pub base_url: String,
    /// The `OBTO-ORIGIN-HOST` header, on which the hosted bridge routes.
    pub origin_host: String,
    pub token: Token,
}

/// The config file, watched by its metadata.
#[derive(Debug)]
pub struct Live {
    path: std::path::PathBuf,
    env: Env,
    last: Mutex<Option<(Stamp, Access)>>,
}

/// Changes whenever the file is replaced or written.
type Stamp = Option<(SystemTime, u64)>;

impl Live {
    pub fn new(path: &Path, env: &Env) -> Live {
        Live { path: path.to_owned(), env: env.clone(), last: Mutex::new(None) }
    }

    /// The settings of this moment.
    ///
    /// # Errors
    /// When the file is broken now, or names no token.
    pub fn connection(&self) -> Result<Access, ConfigError> {
        let stamp =
            std::fs::metadata(&self.path).and_then(|meta| Ok((meta.modified()?, meta.len()))).ok();
        let mut last = self.last.lock().expect("nothing panics while it holds this");
        if let Some((of, access)) = &*last
            && *of == stamp
            && self.env.var("BRIDGE_API_TOKEN_FILE").is_none()
        {
            return Ok(access.clone());
        }
        let config = Config::from_file(&ConfigFile::read(&self.path)?, &self.env)?;
        let token = config.token.ok_or_else(|| missing_token(&self.path))?;
        let access = Access { base_url: config.base_url, origin_host: config.origin_host, token };
        *last = Some((stamp, access.clone()));
        Ok(access)
    }
}

impl Live {
    /// The file is gone, and no variable has a token.
    pub fn is_logged_out(&self) -> bool {
        let is_gone = |error: std::io::Error| error.kind() == std::io::ErrorKind::NotFound;
        let is_set = |name: &&str| self.env.var(name).is_some();
        std::fs::metadata(&self.path).is_err_and(is_gone)
            && !["BRIDGE_API_TOKEN", "BRIDGE_API_TOKEN_FILE"].iter().any(is_set)
    }
}

/// The error of a configuration without a token.
pub fn missing_token(path: &Path) -> ConfigError {
    ConfigError(format!(
        "no API token: run `obto-bridge init`, set BRIDGE_API_TOKEN, or put \"apiToken\" into {}",
        path.display()
    ))
}
