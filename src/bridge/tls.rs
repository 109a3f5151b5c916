//! TLS to the bridge and to proxies: whom this machine trusts, and what it shows of itself.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme,
    StreamOwned,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime},
    server::ParsedCertificate,
};
use ureq::{
    Error,
    unversioned::transport::{
        Buffers, ConnectionDetails, LazyBuffers, NextTimeout, Transport, TransportAdapter,
    },
};

use super::trouble::{self, Trouble};

/// What a server asks of this machine.
pub(super) type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// Made when the first connection needs it: reading the machine's roots takes its time.
pub(super) struct Tls {
    /// Trusted besides the machine's own, or Mozilla's: authorities, and single servers.
    own: Vec<CertificateDer<'static>>,
    identity: Option<Identity>,
    /// Whether this machine has roots of its own.
    has_roots: bool,
    config: OnceLock<Arc<ClientConfig>>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls(…)")
    }
}

impl Tls {
    pub(super) fn new(
        own: Vec<CertificateDer<'static>>,
        identity: Option<Identity>,
        has_roots: bool,
    ) -> Tls {
        Tls { own, identity, has_roots, config: OnceLock::new() }
    }

    /// Speaks TLS with `host` on a connection.
    pub(super) fn wrap(
        &self,
        connection: Box<dyn Transport>,
        host: &str,
        details: &ConnectionDetails<'_>,
    ) -> Result<TlsTransport, Error> {
        let cannot = |error| Trouble(format!("TLS can't be used: {error}"));
        let config = if let Some(config) = self.config.get() {
            Arc::clone(config)
        } else {
            let made = self.client_config().map_err(cannot)?;
            Arc::clone(self.config.get_or_init(|| Arc::new(made)))
        };
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| Trouble(format!("{host} is no name that a certificate could have")))?;
        let mut tls = ClientConnection::new(config, name).map_err(cannot)?;
        let mut socket = TransportAdapter::new(connection, Arc::clone(&details.current_time));
        socket.set_timeout(details.timeout);
        tls.complete_io(&mut socket).map_err(|error| trouble::tls(host, &error))?;
        let buffers = LazyBuffers::new(
            details.config.input_buffer_size(),
            details.config.output_buffer_size(),
        );
        Ok(TlsTransport { buffers, stream: StreamOwned::new(tls, socket) })
    }

    fn client_config(&self) -> Result<ClientConfig, rustls::Error> {
        let provider = Arc::new(ring::default_provider());
        let inner: Arc<dyn ServerCertVerifier> = if self.has_roots {
            Arc::new(rustls_platform_verifier::Verifier::new_with_extra_roots(
                self.own.iter().cloned(),
                Arc::clone(&provider),
            )?)
        } else {
            let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
            for certificate in &self.own {
                roots.add(certificate.clone())?;
            }
            WebPkiServerVerifier::builder_with_provider(roots.into(), Arc::clone(&provider))
                .build()
                .map_err(|error| rustls::Error::General(error.to_string()))?
        };
        let verifier = Arc::new(Verifier { inner, own: self.own.clone() });
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        match &self.identity {
            None => Ok(builder.with_no_client_auth()),
            Some((chain, key)) => builder.with_client_auth_cert(chain.clone(), key.clone_key()),
        }
    }
}

/// The usual rules, and besides them: a certificate that a person trusts by name may be that of a server,
/// also if it says that it is one of an authority, as `openssl req -x509` makes them.
#[derive(Debug)]
struct Verifier {
    inner: Arc<dyn ServerCertVerifier>,
    own: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.inner.verify_server_cert(end_entity, intermediates, name, ocsp, now) {
            // This error comes after the dates were looked at, and in the place of all that would
            // follow. The signature of the handshake is verified below.
            Err(error)
                if format!("{error:?}").contains("CaUsedAsEndEntity")
                    && self.own.iter().any(|own| own.as_ref() == end_entity.as_ref()) =>
            {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// A connection that speaks TLS.
pub(super) struct TlsTransport {
    buffers: LazyBuffers,
    stream: StreamOwned<ClientConnection, TransportAdapter>,
}

impl fmt::Debug for TlsTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsTransport")
    }
}

impl Transport for TlsTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.stream.sock.set_timeout(timeout);
        let output = &self.buffers.output()[..amount];
        std::io::Write::write_all(&mut self.stream, output)?;
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.stream.sock.set_timeout(timeout);
        let input = self.buffers.input_append_buf();
        let amount = std::io::Read::read(&mut self.stream, input)?;
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.sock.get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}
