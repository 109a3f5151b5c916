//! How the bridge is reached: trusted roots, proxy, time limits, and the ureq agent made of them.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use ureq::config::Config;

use super::{
    headers::Headers,
    proxy::Settings,
    tls::{Identity, Tls},
    ways::Ways,
};
use crate::config::ConfigError;

pub(super) const USER_AGENT: &str = concat!("obto-bridge/", env!("CARGO_PKG_VERSION"));

/// Where the distributions keep their bundle of trusted roots.
const SYSTEM_BUNDLES: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/ssl/cert.pem",
];

/// The largest bundle that is read. Mozilla's has 220 KB.
const MAX_BUNDLE_BYTES: u64 = 16 * 1024 * 1024;

/// Servers hang up on idle connections by themselves, most after 5 to 75 s; each connection is
/// looked at before it is used again. People answer at a slower pace, so longer pays little.
const MAX_IDLE: Duration = Duration::from_secs(90);

/// Settings of the network, the same for every request.
#[derive(Clone, Debug)]
pub struct Net {
    /// A PEM file of authorities, or single servers, to trust besides the machine's own.
    pub ca_file: Option<PathBuf>,
    /// `SSL_CERT_FILE` or `SSL_CERT_DIR` say what the machine trusts.
    pub has_own_roots: bool,
    /// PEM files by which the machine proves who it is: a certificate with its chain, and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Which way leads to the bridge. The environment is not asked behind the caller's back.
    pub proxies: Settings,
    /// Sent with every request.
    pub headers: Headers,
    /// For a name to be resolved, and again for the connection with its TLS handshake.
    pub connect: Duration,
    /// For a whole request, connection and body included.
    pub request: Duration,
}

impl Default for Net {
    fn default() -> Net {
        Net {
            ca_file: None,
            has_own_roots: false,
            identity: None,
            proxies: Settings::default(),
            headers: Headers::default(),
            connect: Duration::from_secs(10),
            request: Duration::from_secs(30),
        }
    }
}

impl Net {
    /// For requests that are answered and done.
    pub(super) fn request_config(&self) -> Config {
        self.common()
            .timeout_global(Some(self.request))
            // As many as posts are on their way at the same time; catching up takes more for a moment.
            .max_idle_connections(8)
            .max_idle_connections_per_host(4)
            .input_buffer_size(16 * 1024)
            .output_buffer_size(16 * 1024)
            .build()
    }

    /// For a stream: no limit for the whole, but for every single read.
    pub(super) fn stream_config(&self, per_read: Duration) -> Config {
        self.common()
            .timeout_per_read(Some(per_read))
            .timeout_recv_response(Some(self.request))
            .timeout_send_request(Some(self.request))
            .input_buffer_size(64 * 1024)
            .output_buffer_size(4 * 1024)
            .build()
    }

    fn common(&self) -> ureq::config::ConfigBuilder<ureq::typestate::AgentScope> {
        Config::builder()
            .user_agent(USER_AGENT)
            // `Dial` knows the proxies.
            .proxy(None)
            .http_status_as_error(false)
            // A redirect could carry the token to another host.
            .max_redirects(0)
            .max_idle_age(MAX_IDLE)
            .timeout_resolve(Some(self.connect))
            .timeout_connect(Some(self.connect))
            .middleware(self.headers.clone())
    }

    /// The ways to the bridge. Files that are named are read now: what is wrong with them is told at
    /// the start.
    ///
    /// # Errors
    /// A [`ConfigError`] that names the file.
    pub(super) fn ways(&self) -> anyhow::Result<Arc<Ways>> {
        let own = match &self.ca_file {
            Some(file) => certificates(file, "CA file")?,
            None => Vec::new(),
        };
        let identity = match &self.identity {
            Some((certificate, key)) => Some(identity(certificate, key)?),
            None => None,
        };
        // Mozilla's roots are compiled in: a minimal container or a CI runner has none.
        let is_there = || SYSTEM_BUNDLES.iter().any(|bundle| Path::new(bundle).exists());
        let tls = Tls::new(own, identity, self.has_own_roots || is_there());
        Ok(Arc::new(Ways { settings: self.proxies.clone(), tls }))
    }

    /// Looks at everything that a request would need, but sends none.
    ///
    /// # Errors
    /// A [`ConfigError`] that names the file or the setting.
    pub fn check(&self, base_url: &str) -> anyhow::Result<()> {
        self.ways()?;
        self.headers.check()?;
        if let Ok(url) = base_url.parse() {
            self.proxies.route(&url)?;
        }
        Ok(())
    }
}

/// The certificates of a PEM file; what else is in it is skipped.
fn certificates(path: &Path, what: &str) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let name = path.display();
    let pem = read(path, what)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let certificates = certificates
        .map_err(|error| ConfigError(format!("the {what} {name} is no valid PEM: {error}")))?;
    if certificates.is_empty() {
        let why = format!("the {what} {name} holds no certificate in PEM form");
        return Err(ConfigError(why).into());
    }
    for certificate in &certificates {
        rustls::RootCertStore::empty().add(certificate.clone()).map_err(|error| {
            ConfigError(format!("the {what} {name} has a certificate that can't be used: {error}"))
        })?;
    }
    Ok(certificates)
}

fn identity(certificate: &Path, key: &Path) -> anyhow::Result<Identity> {
    let chain = certificates(certificate, "client certificate")?;
    let name = key.display();
    let pem = read(key, "client key")?;
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| {
        ConfigError(format!(
            "the client key {name} holds no private key in PEM form ({error}); an encrypted one \
             can't be used: openssl pkey -in FILE -out FILE"
        ))
    })?;
    rustls::crypto::ring::sign::any_supported_type(&key)
        .map_err(|error| ConfigError(format!("the client key {name} can't be used: {error}")))?;
    Ok((chain, key))
}

fn read(path: &Path, what: &str) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_BUNDLE_BYTES).read_to_end(&mut bytes))
        .map_err(|error| {
            ConfigError(format!("the {what} {} can't be read: {error}", path.display()))
        })
        .context("reading what TLS needs")?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// Builds the settings with `content` as the CA file; the error's text.
    fn check(content: Option<&[u8]>, expected: &str) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        if let Some(content) = content {
            File::create(&path).unwrap().write_all(content).unwrap();
        }
        let net = Net { ca_file: Some(path.clone()), ..Net::default() };
        let error = format!("{:#}", net.ways().unwrap_err());
        assert!(error.contains(expected) && error.contains(path.to_str().unwrap()), "{error}");
    }

    #[test]
    fn a_ca_file_that_is_none_is_named() {
        check(None, "No such file");
        check(Some(b""), "no certificate");
        check(Some(b"hello"), "no certificate");
        check(Some(b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"), "PEM");
    }

    #[test]
    fn neither_proxy_nor_redirects_come_uninvited() {
        let config = Net::default().request_config();
        assert!(config.proxy().is_none());
        assert_eq!(config.max_redirects(), 0);
        assert!(config.max_idle_age() >= Duration::from_mins(1));
    }
}
