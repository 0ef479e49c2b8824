//! Two QUIC endpoints on loopback, with the transport that the product ships: nothing else of it.
//!
//! The figures are those of a connection that produces and consumes, whose windows have grown to the full.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{Endpoint, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, TokioRuntime, TransportConfig, VarInt};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use socket2::{Domain, Protocol, Socket, Type};

/// Any failure of a ceiling: it ends the bench.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

const ALPN: &[u8] = b"ceiling";
const NAME: &str = "ceiling";
/// The largest datagram tried: the product's default.
pub const DATAGRAM_BYTES_MAX: u16 = 6_500;
/// The largest that an Ethernet path carries.
pub const DATAGRAM_BYTES_ETHERNET: u16 = 1_452;
/// The product's default.
pub const SOCKET_BUFFER: usize = 4 << 20;
const STREAM_WINDOW: u32 = 1 << 20;
const RECEIVE_WINDOW: u32 = 4 << 20;
const SEND_WINDOW_CLIENT: u64 = 4 << 20;
const SEND_WINDOW_SERVER: u64 = 16 << 20;

/// A self-signed certificate of this run.
pub struct Certificate {
    chain: CertificateDer<'static>,
    key: PrivatePkcs8KeyDer<'static>,
}

impl Certificate {
    /// ECDSA P-256, as the product's.
    ///
    /// # Errors
    /// None that should happen.
    pub fn new() -> Result<Self, Error> {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let chain = rcgen::CertificateParams::new([NAME.to_owned()])?.self_signed(&key)?;
        Ok(Self { chain: chain.der().clone(), key: PrivatePkcs8KeyDer::from(key.serialize_der()) })
    }

    /// What a client must be given, DER.
    pub fn der(&self) -> &[u8] {
        &self.chain
    }
}

/// A server's endpoint on a port of the system's choice, for datagrams up to `datagram_bytes` both ways. Call it inside the
/// server's runtime.
///
/// # Errors
/// No socket.
pub fn server(certificate: &Certificate, datagram_bytes: u16, socket_buffer: usize) -> Result<Endpoint, Error> {
    let mut tls = rustls::ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.chain.clone()], certificate.key.clone_key().into())?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    config.transport_config(Arc::new(transport(SEND_WINDOW_SERVER, datagram_bytes)?));
    endpoint(Some(config), datagram_bytes, socket_buffer)
}

/// A client's endpoint, and its connection to `address`. Call it inside the client's runtime.
///
/// # Errors
/// No socket; no connection.
pub async fn connect(address: SocketAddr, certificate: &[u8]) -> Result<(Endpoint, quinn::Connection), Error> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate.into())?;
    let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    config.transport_config(Arc::new(transport(SEND_WINDOW_CLIENT, DATAGRAM_BYTES_MAX)?));
    let endpoint = endpoint(None, DATAGRAM_BYTES_MAX, SOCKET_BUFFER)?;
    let connection = endpoint.connect_with(config, address, NAME)?.await?;
    Ok((endpoint, connection))
}

fn endpoint(server: Option<quinn::ServerConfig>, datagram_bytes: u16, socket_buffer: usize) -> Result<Endpoint, Error> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    if rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, socket_buffer).is_err() {
        socket.set_recv_buffer_size(socket_buffer)?;
    }
    socket.set_send_buffer_size(socket_buffer)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    let mut config = EndpointConfig::default();
    config.max_udp_payload_size(datagram_bytes)?;
    Ok(Endpoint::new(config, server, socket.into(), Arc::new(TokioRuntime))?)
}

fn transport(send_window: u64, datagram_bytes: u16) -> Result<TransportConfig, Error> {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(datagram_bytes);
    let mut transport = TransportConfig::default();
    transport
        .mtu_discovery_config(Some(mtu))
        .max_idle_timeout(Some(IdleTimeout::try_from(Duration::from_secs(30))?))
        .keep_alive_interval(Some(Duration::from_secs(10)))
        .max_concurrent_bidi_streams(VarInt::from_u32(64))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(RECEIVE_WINDOW))
        .send_window(send_window)
        .allow_spin(false);
    Ok(transport)
}

fn provider() -> CryptoProvider {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    let is_aes128 =
        |suite: &rustls::SupportedCipherSuite| suite.suite() == rustls::CipherSuite::TLS13_AES_128_GCM_SHA256;
    provider.cipher_suites.sort_by_key(|suite| !is_aes128(suite));
    provider
}
