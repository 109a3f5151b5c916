//! The server's certificate and key: read at the start, and again when their files change, so that a
//! renewed certificate needs no restart.

use std::{
    fmt, fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustls::{
    ServerConfig, ServerConnection,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use crate::serve::lock;

/// The files are looked at this often at most, by a connection that comes.
const LOOK_EVERY: Duration = Duration::from_mins(1);
/// A chain has a few KB.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Where certificate and key are, both in PEM form.
#[derive(Clone, Debug)]
pub struct Files {
    /// The server's certificate, and after it those that lead to its root.
    pub cert: PathBuf,
    /// Must not be readable by everybody.
    pub key: PathBuf,
}

/// What connections are secured with.
pub struct Tls {
    files: Files,
    current: Mutex<Current>,
}

struct Current {
    config: Arc<ServerConfig>,
    stamp: Stamp,
    looked: Instant,
}

/// Time of change, size and number of each file: what differs after a renewal.
type Stamp = [(i64, i64, u64, u64); 2];

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Tls {
    /// # Errors
    /// A file can't be read or holds no certificate or key; the key is readable by everybody, or
    /// is that of another certificate.
    pub fn load(files: Files) -> Result<Tls> {
        let stamp = files.stamp()?;
        let config = files.read()?;
        let current = Current { config, stamp, looked: Instant::now() };
        Ok(Tls { files, current: Mutex::new(current) })
    }

    /// The server's side of a new connection.
    pub(super) fn accept(&self) -> Result<Box<ServerConnection>> {
        Ok(Box::new(ServerConnection::new(self.config(Instant::now()))?))
    }

    /// The newest configuration that is good. Renewed files that do not fit together yet are tried
    /// again a minute later.
    fn config(&self, now: Instant) -> Arc<ServerConfig> {
        let mut current = lock(&self.current);
        if LOOK_EVERY <= now.saturating_duration_since(current.looked) {
            current.looked = now;
            match self.files.renewed(current.stamp) {
                Ok(None) => {}
                Ok(Some((stamp, config))) => {
                    log::info!(file:% = self.files.cert.display(); "the certificate was read again");
                    (current.stamp, current.config) = (stamp, config);
                }
                Err(error) => {
                    log::warn!(
                        "the certificate changed and the one before stays in use: {error:#}"
                    );
                }
            }
        }
        Arc::clone(&current.config)
    }
}

impl Files {
    fn stamp(&self) -> Result<Stamp> {
        let stamp = |path: &Path| {
            let meta = fs::metadata(path).with_context(|| format!("reading {}", path.display()))?;
            anyhow::Ok((meta.mtime(), meta.mtime_nsec(), meta.size(), meta.ino()))
        };
        Ok([stamp(&self.cert)?, stamp(&self.key)?])
    }

    fn renewed(&self, known: Stamp) -> Result<Option<(Stamp, Arc<ServerConfig>)>> {
        let stamp = self.stamp()?;
        if stamp == known {
            return Ok(None);
        }
        Ok(Some((stamp, self.read()?)))
    }

    fn read(&self) -> Result<Arc<ServerConfig>> {
        let Files { cert, key } = self;
        let chain = CertificateDer::pem_slice_iter(&read_file(cert)?)
            .collect::<Result<Vec<_>, _>>()
            .with_context(|| format!("parsing the certificate {}", cert.display()))?;
        if chain.is_empty() {
            bail!("{} holds no certificate in PEM form", cert.display());
        }
        refuse_if_public(key)?;
        // The parser's own words might quote the file.
        let Ok(secret) = PrivateKeyDer::from_pem_slice(&read_file(key)?) else {
            bail!("{} holds no private key in PEM form that is not encrypted", key.display());
        };
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, secret)
            .with_context(|| format!("using {} with the key {}", cert.display(), key.display()))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

fn read_file(path: &Path) -> Result<Vec<u8>> {
    let read = || {
        let mut bytes = Vec::new();
        let mut file = io::Read::take(fs::File::open(path)?, FILE_BYTES_MAX);
        io::Read::read_to_end(&mut file, &mut bytes).map(|_| bytes)
    };
    read().with_context(|| format!("reading {}", path.display()))
}

/// A group may read it: that is how distributions share keys with servers that are not root.
fn refuse_if_public(key: &Path) -> Result<()> {
    let meta = fs::metadata(key).with_context(|| format!("reading {}", key.display()))?;
    let mode = meta.mode() & 0o777;
    if mode & 0o027 != 0 {
        let key = key.display();
        bail!("the key {key} can be used by others (mode {mode:o}); run: chmod 600 {key}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use tempfile::TempDir;

    use super::*;

    /// Puts a pair in place like a renewal would: by names that change their files.
    fn put(dir: &Path, cert: &str, key: &str) {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tls");
        for (from, to) in [(cert, "cert"), (key, "key")] {
            let new = dir.join("new");
            fs::copy(fixtures.join(from), &new).unwrap();
            fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();
            fs::rename(new, dir.join(to)).unwrap();
        }
    }

    #[test]
    fn a_renewed_certificate_is_taken_when_it_is_whole() {
        let dir = TempDir::new().unwrap();
        put(dir.path(), "one.pem", "one.key");
        let files = Files { cert: dir.path().join("cert"), key: dir.path().join("key") };
        let tls = Tls::load(files).unwrap();
        let start = Instant::now();
        let minutes = |count: u32| start + (LOOK_EVERY + Duration::from_secs(1)) * count;
        let first = tls.config(minutes(0));
        assert!(Arc::ptr_eq(&first, &tls.config(minutes(1))), "nothing changed");
        // Half of a renewal: the certificate is there, its key is not.
        put(dir.path(), "two.pem", "one.key");
        assert!(Arc::ptr_eq(&first, &tls.config(minutes(1))), "it was looked at just now");
        assert!(Arc::ptr_eq(&first, &tls.config(minutes(2))), "the old one stays");
        put(dir.path(), "two.pem", "two.key");
        let second = tls.config(minutes(3));
        assert!(!Arc::ptr_eq(&first, &second), "the new one is used");
        fs::remove_file(dir.path().join("key")).unwrap();
        assert!(Arc::ptr_eq(&second, &tls.config(minutes(4))), "and stays");
    }
}
