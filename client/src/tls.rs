//! Who the server must be: the holder of a pinned key, or of a certificate that an authority signed.
//!
//! A pin is the SHA-256 of the certificate's public key (SPKI, DER). It replaces the chain, the name and the dates,
//! not the proof: the handshake's signature is verified against the pinned key, so a copied certificate is worth
//! nothing without its private key. There is no mode that verifies nothing.
//! Proof: `tests/trust.rs` (another key, and the right certificate with the wrong key).

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use millstream_protocol::{ALPN, Code};
use parking_lot::Mutex;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs as provider, verify_tls13_signature};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, PeerIncompatible, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::error::{Error, Result};

/// The name asked for where a pin decides; the server may show it in its certificate, nobody compares it.
pub(crate) const PINNED_NAME: &str = "millstream";

const PREFIX: &str = "sha256:";

/// A server's identity: the SHA-256 of its public key. Written and read as `sha256:` and 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Of a certificate, DER.
    ///
    /// # Errors
    /// [`Code::IllegalSetting`] if it is not a certificate.
    pub fn of_certificate(der: &[u8]) -> Result<Self> {
        of_certificate(der).ok_or_else(|| Error::local(Code::IllegalSetting, "this is not an X.509 certificate in DER"))
    }
}

fn of_certificate(der: &[u8]) -> Option<Fingerprint> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let hash = digest(&SHA256, certificate.public_key().raw);
    hash.as_ref().try_into().ok().map(Fingerprint)
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Fingerprint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let illegal = || {
            let text =
                format!("{text:?} is not a fingerprint: write sha256: and 64 hex digits, as the server prints it");
            Error::local(Code::IllegalSetting, text)
        };
        let hex = text.trim().strip_prefix(PREFIX).unwrap_or(text.trim());
        if hex.len() != 64 || !hex.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(illegal());
        }
        let mut bytes = [0; 32];
        for (byte, at) in bytes.iter_mut().zip((0..64).step_by(2)) {
            *byte = u8::from_str_radix(&hex[at..at + 2], 16).map_err(|_| illegal())?;
        }
        Ok(Self(bytes))
    }
}

/// How the server proves who it is.
#[derive(Clone)]
pub(crate) enum Trust {
    Pin(Fingerprint),
    Authorities(Arc<RootCertStore>),
}

impl Trust {
    pub fn from_ca_file(path: &Path) -> Result<Self> {
        let failed = |why: &dyn fmt::Display| {
            let text = format!("cannot use the CA file {}: {why}; give a PEM file of certificates", path.display());
            Error::local(Code::IllegalSetting, text)
        };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(path).map_err(|error| failed(&error))? {
            roots.add(certificate.map_err(|error| failed(&error))?).map_err(|error| failed(&error))?;
        }
        if roots.is_empty() {
            return Err(failed(&"there is no certificate in it"));
        }
        Ok(Self::Authorities(Arc::new(roots)))
    }

    /// The TLS settings of one connection attempt.
    pub fn tls(&self) -> Result<Tls, rustls::Error> {
        let provider = Arc::new(crypto_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?;
        let shown = Arc::new(Mutex::new(None));
        let mut config = match self {
            Trust::Pin(pin) => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(PinVerifier {
                    pin: *pin,
                    shown: Arc::clone(&shown),
                    provider,
                }))
                .with_no_client_auth(),
            Trust::Authorities(roots) => builder.with_root_certificates(Arc::clone(roots)).with_no_client_auth(),
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        // A session resumed skips the certificate; at one connection per client there is nothing to gain.
        config.resumption = rustls::client::Resumption::disabled();
        config.enable_early_data = false;
        Ok(Tls { config, shown })
    }
}

/// TLS settings, and what the server showed where it was not the pinned one.
pub(crate) struct Tls {
    pub config: ClientConfig,
    pub shown: Arc<Mutex<Option<Fingerprint>>>,
}

/// AES-128-GCM first: it is never slower here, and ChaCha20 takes 1.3 to 2 times the CPU.
fn crypto_provider() -> CryptoProvider {
    let suites = provider::cipher_suite::TLS13_AES_128_GCM_SHA256;
    let mut provider = provider::default_provider();
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != suites.suite());
    provider
}

#[derive(Debug)]
struct PinVerifier {
    pin: Fingerprint,
    shown: Arc<Mutex<Option<Fingerprint>>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let shown = of_certificate(end_entity).ok_or(CertificateError::BadEncoding)?;
        if shown == self.pin {
            return Ok(ServerCertVerified::assertion());
        }
        *self.shown.lock() = Some(shown);
        Err(CertificateError::ApplicationVerificationFailure.into())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_read_as_they_are_written() {
        let text = format!("sha256:{}", "0aF".repeat(22).chars().take(64).collect::<String>());
        let pin: Fingerprint = text.parse().expect("64 hex digits");
        assert_eq!(pin.to_string(), text.to_lowercase());
        assert_eq!(pin.to_string().parse::<Fingerprint>().expect("its own text"), pin);
        for bad in ["", "sha256:", "sha256:00", &"g".repeat(64), &format!("sha512:{}", "0".repeat(64)), &"ä".repeat(32)]
        {
            assert_eq!(bad.parse::<Fingerprint>().expect_err("not a pin").code(), Code::IllegalSetting, "{bad:?}");
        }
    }

    #[test]
    fn the_fastest_suite_is_offered_first() {
        let suites = crypto_provider().cipher_suites;
        assert_eq!(suites[0].suite(), rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    }
}
