//! The account that a bridge of one's own has from its first start on. Its token is in a file that
//! only its owner can read, in the form that `BRIDGE_API_TOKEN_FILE` wants.

use std::{
    io,
    path::{Path, PathBuf},
};

use anyhow::Context;

use crate::{
    config::Token,
    logging,
    serve::Server,
    store::{Disk, RealDisk},
};

/// Where the token is.
pub(super) fn token_file(data: &Path) -> PathBuf {
    data.join("token")
}

/// The token of an earlier start.
pub(super) fn stored(data: &Path) -> anyhow::Result<Option<Token>> {
    let file = token_file(data);
    let text = match RealDisk.read(&file) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).trim().to_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("reading {}", file.display())),
    };
    let token = Token::new(text);
    logging::hide(&token);
    Ok(Some(token).filter(|token| !token.reveal().is_empty()))
}

/// Makes an account and keeps its token.
///
/// # Errors
/// When the name is taken, or a file can't be written.
pub(super) fn create(server: &Server, name: &str, data: &Path) -> anyhow::Result<Token> {
    let (_, token) = server.create_account(name)?;
    let token = Token::new(token.reveal());
    logging::hide(&token);
    let file = token_file(data);
    RealDisk
        .create_dir(data)
        .and_then(|()| RealDisk.write_atomic(&file, format!("{}\n", token.reveal()).as_bytes()))
        .with_context(|| format!("writing {}", file.display()))?;
    Ok(token)
}
