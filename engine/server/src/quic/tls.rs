//! Certificates and TLS: 1.3 only, our ALPN only, no early data.
//!
//! Without given files, a self-signed ECDSA P-256 certificate is made at the first start and kept:
//! ```text
//! DATA_DIR/tls/            0700
//!   key.pem                0600, written first: the fingerprint rests on it alone
//!   certificate.pem        made again from the key if a crash came between the two
//!   reset.key              0600, 32 random bytes: lets a restarted server tell old clients at once that it is new
//! ```
//! Clients pin the fingerprint, so the certificate is good until the key is replaced.
//! Not here: who may connect (`quic::connection`), and checking a pin (the client).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::{digest, hmac, rand};
use millstream_protocol::ALPN;
use quinn::crypto::rustls::QuicServerConfig;
use rustls::crypto::CryptoProvider;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::ServerConfig;
use crate::error::ServeError;
use crate::private_file;

/// The name in a self-signed certificate; clients that pin send it as SNI.
const SERVER_NAME: &str = "millstream";
const RESET_KEY_BYTES: usize = 32;

/// What the server proves itself with.
pub(crate) struct Identity {
    pub crypto: Arc<QuicServerConfig>,
    /// `sha256:` and the SHA-256 of the certificate's SPKI in hexadecimal.
    pub fingerprint: String,
}

impl Identity {
    /// Reads the given files, or the self-signed ones, which are made if missing. Blocks on the disk.
    pub fn load(config: &ServerConfig) -> Result<Self, ServeError> {
        let (certificate, key) = match config.tls_files() {
            Some((certificate, key)) => (certificate.clone(), key.clone()),
            None => self_signed(&config.data_dir)?,
        };
        let chain = read_chain(&certificate)?;
        let fingerprint = fingerprint(&chain[0]).map_err(|reason| bad(&certificate, reason))?;
        let crypto = server_crypto(chain, read_key(&key)?)
            .map_err(|error| bad(&certificate, format!("with the key {}: {error}", key.display())))?;
        Ok(Self { crypto: Arc::new(crypto), fingerprint })
    }
}

fn server_crypto(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<QuicServerConfig, rustls::Error> {
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.ignore_client_order = true;
    // Early data can be replayed by anybody who saw it: a produce twice, a delete later.
    assert_eq!(config.max_early_data_size, 0, "0-RTT must stay off");
    QuicServerConfig::try_from(config).map_err(|error| rustls::Error::General(error.to_string()))
}

/// aws-lc-rs with AES-128-GCM first: the cheapest suite of the three on this path (LIMITS §2).
fn provider() -> CryptoProvider {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    let is_aes128 =
        |suite: &rustls::SupportedCipherSuite| suite.suite() == rustls::CipherSuite::TLS13_AES_128_GCM_SHA256;
    provider.cipher_suites.sort_by_key(|suite| !is_aes128(suite));
    provider
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, ServeError> {
    let text = std::fs::read(path).map_err(|source| ServeError::File { act: "read", path: path.into(), source })?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match chain {
        Ok(chain) if chain.is_empty() => Err(bad(path, "there is no PEM certificate in it")),
        Ok(chain) => Ok(chain),
        Err(error) => Err(bad(path, format!("not PEM: {error}"))),
    }
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, ServeError> {
    let text = std::fs::read(path).map_err(|source| ServeError::File { act: "read", path: path.into(), source })?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| bad(path, format!("no PEM private key in it: {error}")))
}

/// The paths of certificate and key under the data directory, which are made where missing.
fn self_signed(data_dir: &Path) -> Result<(PathBuf, PathBuf), ServeError> {
    let directory = tls_directory(data_dir)?;
    let (certificate, key) = (directory.join("certificate.pem"), directory.join("key.pem"));
    if certificate.exists() && !key.exists() {
        let reason =
            "the key is missing: restore it, or remove the certificate to get a new one, which clients must then pin";
        return Err(bad(&key, reason));
    }
    let made = |path: &Path, error: rcgen::Error| bad(path, error.to_string());
    let write = |path: &PathBuf, text: String| {
        let failed = |source| ServeError::File { act: "write", path: path.clone(), source };
        private_file::write(path, text.as_bytes()).map_err(failed)
    };
    if !key.exists() {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(|e| made(&key, e))?;
        write(&key, pair.serialize_pem())?;
    }
    if !certificate.exists() {
        let text = std::fs::read_to_string(&key);
        let text = text.map_err(|source| ServeError::File { act: "read", path: key.clone(), source })?;
        let pair = rcgen::KeyPair::from_pem(&text).map_err(|e| made(&key, e))?;
        let names = [SERVER_NAME, "localhost", "127.0.0.1", "::1"].map(str::to_owned);
        let mut params = rcgen::CertificateParams::new(names).map_err(|e| made(&certificate, e))?;
        params.distinguished_name.push(rcgen::DnType::CommonName, SERVER_NAME);
        write(&certificate, params.self_signed(&pair).map_err(|e| made(&certificate, e))?.pem())?;
    }
    Ok((certificate, key))
}

fn tls_directory(data_dir: &Path) -> Result<PathBuf, ServeError> {
    let directory = data_dir.join("tls");
    match private_file::make_directory(&directory) {
        Ok(()) => Ok(directory),
        Err(source) => Err(ServeError::File { act: "make", path: directory, source }),
    }
}

/// The key behind stateless resets, read or made. With the same one after a restart, a packet of an old connection is
/// answered by a reset that the client believes, instead of by silence until its idle timeout. Blocks on the disk.
pub(crate) fn reset_key(data_dir: &Path) -> Result<hmac::Key, ServeError> {
    let path = tls_directory(data_dir)?.join("reset.key");
    let failed = |act, source| ServeError::File { act, path: path.clone(), source };
    let kept = match std::fs::read(&path) {
        // A damaged one is only a lost convenience: replaced.
        Ok(bytes) => <[u8; RESET_KEY_BYTES]>::try_from(bytes).ok(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(failed("read", error)),
    };
    let bytes = match kept {
        Some(bytes) => bytes,
        None => {
            let mut bytes = [0; RESET_KEY_BYTES];
            rand::fill(&mut bytes).map_err(|_| failed("fill", io::Error::other("no random bytes")))?;
            private_file::write(&path, &bytes).map_err(|source| failed("write", source))?;
            bytes
        }
    };
    Ok(hmac::Key::new(hmac::HMAC_SHA256, &bytes))
}

fn fingerprint(certificate: &CertificateDer<'_>) -> Result<String, String> {
    let (_, parsed) =
        x509_parser::parse_x509_certificate(certificate).map_err(|error| format!("not a certificate: {error}"))?;
    let hash = digest::digest(&digest::SHA256, parsed.tbs_certificate.subject_pki.raw);
    Ok(hash.as_ref().iter().fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}")))
}

fn bad(path: &Path, reason: impl Into<String>) -> ServeError {
    ServeError::Certificate { path: path.into(), reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn load(data_dir: &Path) -> Result<Identity, ServeError> {
        Identity::load(&ServerConfig { data_dir: data_dir.into(), ..ServerConfig::default() })
    }

    #[test]
    fn the_first_start_makes_a_private_key_that_later_starts_reuse() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = load(dir.path()).expect("made").fingerprint;
        assert_eq!(first.len(), "sha256:".len() + 64);
        assert_eq!(load(dir.path()).expect("reused").fingerprint, first);
        let mode = |name: &str| std::fs::metadata(dir.path().join(name)).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode("tls"), mode("tls/key.pem")), (0o700, 0o600));
        // A crash between the two files: the same key, hence the same fingerprint.
        std::fs::remove_file(dir.path().join("tls/certificate.pem")).expect("removed");
        assert_eq!(load(dir.path()).expect("made again").fingerprint, first);
    }

    #[test]
    fn a_certificate_without_its_key_or_with_another_key_is_refused() {
        let (one, two) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
        load(one.path()).expect("made");
        load(two.path()).expect("made");
        std::fs::copy(two.path().join("tls/key.pem"), one.path().join("tls/key.pem")).expect("copied");
        assert!(matches!(load(one.path()), Err(ServeError::Certificate { .. })));
        std::fs::write(one.path().join("tls/key.pem"), "no key").expect("written");
        assert!(matches!(load(one.path()), Err(ServeError::Certificate { .. })));
        std::fs::remove_file(one.path().join("tls/key.pem")).expect("removed");
        let Err(error) = load(one.path()) else { panic!("a missing key must be refused") };
        assert!(error.to_string().contains("the key is missing"), "{error}");
    }

    #[test]
    fn the_reset_key_survives_a_restart_and_a_damaged_one_is_replaced() {
        let dir = tempfile::tempdir().expect("a directory");
        let sign = || hmac::sign(&reset_key(dir.path()).expect("there"), b"x").as_ref().to_vec();
        let first = sign();
        assert_eq!(sign(), first);
        std::fs::write(dir.path().join("tls/reset.key"), "short").expect("written");
        assert_ne!(sign(), first);
    }
}
