//! quinn's and the socket's settings, measured; and a probe that finds a dead port at once.
//!
//! - Datagrams up to 6,500 bytes where the path carries them: quinn sends ten segments per call, and
//!   10 × 6,551 no longer fits a UDP datagram (the error is swallowed and the path falls back to 1,200 bytes).
//! - Windows no larger than the socket's buffers, so that no packet is lost on a fast path; a WAN wants
//!   bandwidth × delay instead.
//! - `initial_mtu` stays at quinn's 1,200: above the first congestion window the handshake would hang.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use quinn::{Endpoint, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, TokioRuntime, TransportConfig, VarInt};
use socket2::{Domain, Protocol, Socket, Type};

const UDP_PAYLOAD_BYTES_MAX: u16 = 6_500;
const SOCKET_BUFFER_BYTES: usize = 4 << 20;
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
const KEEP_ALIVE: Duration = Duration::from_secs(10);
const IDLE_TIMEOUT_MS: u32 = 30_000;

/// What every connection uses.
pub(crate) fn config() -> Arc<TransportConfig> {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(UDP_PAYLOAD_BYTES_MAX);
    let mut config = TransportConfig::default();
    config
        .mtu_discovery_config(Some(mtu))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW_BYTES))
        .send_window(u64::from(CONNECTION_WINDOW_BYTES))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_TIMEOUT_MS))))
        // Every stream is opened by the client.
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .allow_spin(false);
    Arc::new(config)
}

/// An endpoint on a port of the OS's choice that can reach `remote`.
pub(crate) fn endpoint(remote: SocketAddr) -> io::Result<Endpoint> {
    let (domain, local) = local_of(remote);
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
    // The kernel clips silently to net.core.rmem_max and wmem_max.
    let (receive, send) = (socket.recv_buffer_size()?, socket.send_buffer_size()?);
    if receive < SOCKET_BUFFER_BYTES || send < SOCKET_BUFFER_BYTES {
        tracing::debug!(receive, send, wanted = SOCKET_BUFFER_BYTES, "the kernel clipped the socket's buffers");
    }
    socket.bind(&local.into())?;
    let mut config = EndpointConfig::default();
    config.max_udp_payload_size(UDP_PAYLOAD_BYTES_MAX).map_err(io::Error::other)?;
    Endpoint::new(config, None, socket.into(), Arc::new(TokioRuntime))
}

fn local_of(remote: SocketAddr) -> (Domain, SocketAddr) {
    match remote {
        SocketAddr::V4(_) => (Domain::IPV4, (Ipv4Addr::UNSPECIFIED, 0).into()),
        SocketAddr::V6(_) => (Domain::IPV6, (Ipv6Addr::UNSPECIFIED, 0).into()),
    }
}

/// Resolves when the host says that nothing listens at `remote`; never otherwise.
///
/// quinn's socket is not connected, so it never hears of a closed port and would wait for its timeout. A
/// connected socket that sends an empty datagram (which a QUIC server drops) does hear of it.
pub(crate) async fn port_is_closed(remote: SocketAddr) -> io::Error {
    let probe = async {
        let socket = tokio::net::UdpSocket::bind(local_of(remote).1).await?;
        socket.connect(remote).await?;
        socket.send(&[]).await?;
        socket.recv(&mut [0; 1]).await
    };
    match probe.await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => error,
        _ => std::future::pending().await,
    }
}
