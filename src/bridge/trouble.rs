//! Why no connection came about, in words: which hop it was, by which setting it was on the way, and
//! what to do. ureq carries it as an error of its own kind.

use std::{error::Error, fmt, io};

use rustls::{AlertDescription, CertificateError, pki_types::UnixTime};

use crate::time::Timestamp;

/// A hop that failed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Trouble(pub(super) String);

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Trouble {}

impl From<Trouble> for ureq::Error {
    fn from(trouble: Trouble) -> ureq::Error {
        ureq::Error::Other(Box::new(trouble))
    }
}

/// An error of the system or of ureq's without ureq's word in front.
pub(super) fn plain(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Io(error) => plain_io(error),
        ureq::Error::Timeout(_) => "it took too long".to_owned(),
        other => other.to_string(),
    }
}

fn plain_io(error: &io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<ureq::Error>()) {
        Some(inner) => plain(inner),
        None if error.kind() == io::ErrorKind::UnexpectedEof => "it hung up".to_owned(),
        None => error.to_string(),
    }
}

/// A TLS handshake with `host` that failed.
pub(super) fn tls(host: &str, error: &io::Error) -> Trouble {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let why = match inner {
        Some(rustls::Error::InvalidCertificate(error)) => certificate(error),
        Some(rustls::Error::AlertReceived(
            alert @ (AlertDescription::CertificateRequired
            | AlertDescription::AccessDenied
            | AlertDescription::BadCertificate
            | AlertDescription::UnknownCA),
        )) => format!(
            "it wants a certificate of this machine ({alert:?}): see clientCert and clientKey in \
             the config"
        ),
        Some(rustls::Error::InvalidMessage(_)) => {
            "it does not speak TLS: is it an http:// address?".to_owned()
        }
        Some(other) => other.to_string(),
        None => plain_io(error),
    };
    Trouble(format!("TLS with {host} failed: {why}"))
}

fn certificate(error: &CertificateError) -> String {
    let date =
        |at: &UnixTime| Timestamp::from_millis(at.as_secs().saturating_mul(1000)).to_string();
    match error {
        CertificateError::UnknownIssuer => "its certificate is from an authority that this \
             machine does not trust. If it is your company's, put its certificate, PEM, into a \
             file and name that as caFile in the config (BRIDGE_CA_FILE)"
            .to_owned(),
        CertificateError::ExpiredContext { time, not_after } => format!(
            "its certificate was good until {}, and the clock of this machine says {}",
            date(not_after),
            date(time)
        ),
        CertificateError::NotValidYetContext { time, not_before } => format!(
            "its certificate is good from {} on, and the clock of this machine says {}",
            date(not_before),
            date(time)
        ),
        CertificateError::NotValidForNameContext { expected, presented } => format!(
            "its certificate is not for {}, but for {}",
            expected.to_str(),
            presented.join(", ")
        ),
        other => format!("its certificate can't be used: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[track_caller]
    fn check(error: rustls::Error, expected: &str) {
        let said = tls("bridge", &io::Error::new(io::ErrorKind::InvalidData, error)).to_string();
        assert!(said.contains(expected) && said.contains("TLS with bridge"), "{said}");
    }

    #[test]
    fn certificates_are_told_in_dates_and_names() {
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let (time, then) = (at(1_764_600_000), at(1_700_000_000));
        let expired = CertificateError::ExpiredContext { time, not_after: then };
        check(expired.into(), "good until 2023-11-14T22:13:20");
        let early = CertificateError::NotValidYetContext { time: then, not_before: time };
        check(early.into(), "good from 2025-12-01T14:40:00");
        let presented = vec!["DnsName(\"a\")".to_owned()];
        let expected = "bridge".try_into().unwrap();
        let other = CertificateError::NotValidForNameContext { expected, presented };
        check(other.into(), "not for bridge, but for DnsName(\"a\")");
        check(CertificateError::UnknownIssuer.into(), "caFile");
        check(rustls::Error::AlertReceived(AlertDescription::CertificateRequired), "clientCert");
    }
}
