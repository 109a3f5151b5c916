//! The account that a bridge of one's own has from its first start on. Its token is in a file that
//! only its owner can read, in the form that `BRIDGE_API_TOKEN_FILE` wants.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::Context;

use crate::{
    config::Token,
    logging,
    serve::{Server, store::accounts::Secret},
    store::{Disk, RealDisk},
};

/// Where the token is.
pub(super) fn token_file(data: &Path) -> PathBuf {
    data.join("token")
}

/// Where the address of the page is, for the links of `serve user`.
fn address_file(data: &Path) -> PathBuf {
    data.join("address")
}

/// Writes down where the bridge of this directory is, without a path. The bridge works without it.
pub(super) fn keep_address(data: &Path, address: &str) {
    let file = address_file(data);
    if let Err(error) = RealDisk.write_atomic(&file, format!("{address}\n").as_bytes()) {
        log::warn!(
            "{} was not written, so links of `serve user` may have another address: {error}",
            file.display()
        );
    }
}

/// The one-time link with this code. The part after `#` is sent to no server and kept in no log.
pub(super) fn link(data: &Path, code: &Secret) -> String {
    // A bridge that was never started will most likely be where they all are.
    let address = RealDisk.read(&address_file(data)).ok();
    let address = address.and_then(|it| String::from_utf8(it).ok());
    let address = address.as_deref().map_or("http://127.0.0.1:4780", str::trim);
    format!("{address}/api/view#welcome={}", code.reveal())
}

/// An address that a browser on this machine can open: a listener on all addresses has none.
pub(super) fn reachable(addr: SocketAddr) -> String {
    if addr.ip().is_unspecified() { format!("localhost:{}", addr.port()) } else { addr.to_string() }
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
