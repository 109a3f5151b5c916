//! How the bridge is reached: trusted roots, proxy, time limits, and the ureq agent made of them.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};
use ureq::{
    config::Config,
    tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem},
};

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
    /// A PEM file of roots to trust besides the machine's own.
    pub ca_file: Option<PathBuf>,
    /// The proxy, with its exceptions. The environment is not asked behind the caller's back.
    pub proxy: Option<ureq::Proxy>,
    /// For a name to be resolved, and again for the connection with its TLS handshake.
    pub connect: Duration,
    /// For a whole request, connection and body included.
    pub request: Duration,
}

impl Default for Net {
    fn default() -> Net {
        Net {
            ca_file: None,
            proxy: None,
            connect: Duration::from_secs(10),
            request: Duration::from_secs(30),
        }
    }
}

impl Net {
    /// For requests that are answered and done.
    pub(super) fn request_config(&self) -> anyhow::Result<Config> {
        Ok(self
            .common()?
            .timeout_global(Some(self.request))
            // As many as posts are on their way at the same time; catching up takes more for a moment.
            .max_idle_connections(8)
            .max_idle_connections_per_host(4)
            .input_buffer_size(16 * 1024)
            .output_buffer_size(16 * 1024)
            .build())
    }

    /// For a stream: no limit for the whole, but for every single read.
    pub(super) fn stream_config(&self, per_read: Duration) -> anyhow::Result<Config> {
        Ok(self
            .common()?
            .timeout_per_read(Some(per_read))
            .timeout_recv_response(Some(self.request))
            .timeout_send_request(Some(self.request))
            .input_buffer_size(64 * 1024)
            .output_buffer_size(4 * 1024)
            .build())
    }

    fn common(&self) -> anyhow::Result<ureq::config::ConfigBuilder<ureq::typestate::AgentScope>> {
        Ok(Config::builder()
            .user_agent(concat!("obto-bridge/", env!("CARGO_PKG_VERSION")))
            .proxy(self.proxy.clone())
            .http_status_as_error(false)
            // A redirect could carry the token to another host.
            .max_redirects(0)
            .max_idle_age(MAX_IDLE)
            .timeout_resolve(Some(self.connect))
            .timeout_connect(Some(self.connect))
            .tls_config(TlsConfig::builder().root_certs(self.roots()?).build()))
    }

    /// The machine's own roots where it has any, else Mozilla's, which are compiled in: a minimal
    /// container or a CI runner has none. A CA file adds to the machine's.
    fn roots(&self) -> anyhow::Result<RootCerts> {
        let system = SYSTEM_BUNDLES.iter().map(Path::new).find(|bundle| bundle.exists());
        let Some(ca_file) = &self.ca_file else {
            return Ok(if system.is_some() {
                RootCerts::PlatformVerifier
            } else {
                RootCerts::WebPki
            });
        };
        let mut roots = read_bundle(ca_file)?;
        if roots.is_empty() {
            bail!("the CA file {} holds no certificate in PEM form", ca_file.display());
        }
        match system.map(read_bundle) {
            Some(Ok(more)) => roots.extend(more),
            Some(Err(error)) => log::warn!("only the CA file is trusted: {error:#}"),
            None => {}
        }
        Ok(RootCerts::from(roots))
    }
}

/// The certificates of a PEM file; what else is in it is skipped.
fn read_bundle(path: &Path) -> anyhow::Result<Vec<Certificate<'static>>> {
    let mut pem = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_BUNDLE_BYTES).read_to_end(&mut pem))
        .with_context(|| format!("reading the CA file {}", path.display()))?;
    let mut certificates = Vec::new();
    for item in parse_pem(&pem) {
        let item = item.with_context(|| format!("parsing the CA file {}", path.display()))?;
        if let PemItem::Certificate(certificate) = item {
            certificates.push(certificate);
        }
    }
    Ok(certificates)
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
        let error = format!("{:#}", net.request_config().unwrap_err());
        assert!(error.contains(expected) && error.contains(path.to_str().unwrap()), "{error}");
    }

    #[test]
    fn a_ca_file_that_is_none_is_named() {
        check(None, "No such file");
        check(Some(b""), "no certificate");
        check(Some(b"hello"), "no certificate");
        check(Some(b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"), "parsing");
    }

    #[test]
    fn neither_proxy_nor_redirects_come_uninvited() {
        let config = Net::default().request_config().unwrap();
        assert!(config.proxy().is_none());
        assert_eq!(config.max_redirects(), 0);
        assert!(config.max_idle_age() >= Duration::from_mins(1));
    }
}
