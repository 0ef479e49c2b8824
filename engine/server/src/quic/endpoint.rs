//! The UDP socket, and the door: which connection attempts come in.
//!
//! | limit | at the limit |
//! | --- | --- |
//! | [`HALF_OPEN_RETRY`] attempts not through their hello | the next must prove its address first (QUIC Retry) |
//! | [`INCOMING_MAX`] attempts not looked at yet | quinn drops their packets |
//! | `connections_max`, `connections_per_address_max` | refused |

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aws_lc_rs::{hmac, rand};
use parking_lot::Mutex;
use quinn::{ConnectionId, ConnectionIdGenerator, Endpoint, EndpointConfig, Incoming, TokioRuntime};
use socket2::{Domain, Protocol, Socket, Type};
use tokio_util::task::TaskTracker;

use super::tls::Identity;
use super::{connection, transport};
use crate::config::ServerConfig;
use crate::error::ServeError;
use crate::shared::Shared;

/// Attempts that are not through their hello from which on an address must be proven.
const HALF_OPEN_RETRY: usize = 256;
/// Attempts that wait to be looked at.
const INCOMING_MAX: usize = 1_024;
/// What quinn keeps of an attempt that waits, and of all of them.
const INCOMING_BYTES: u64 = 64 << 10;
const INCOMING_BYTES_TOTAL: u64 = 8 << 20;
const CONNECTION_ID_BYTES: usize = 8;

/// Binds the UDP socket with buffers as large as the windows, so that a burst is not lost. With `CAP_NET_ADMIN` the receive
/// buffer is as large as asked for, else at most `net.core.rmem_max`.
pub(crate) fn bind(config: &ServerConfig) -> Result<UdpSocket, ServeError> {
    let address = config.listen;
    let failed = |source| ServeError::listen("QUIC", "listen", address, source);
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP)).map_err(failed)?;
    let wanted = config.socket_buffer.as_usize();
    #[cfg(target_os = "linux")]
    let is_forced = rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, wanted).is_ok();
    #[cfg(not(target_os = "linux"))]
    let is_forced = false;
    if !is_forced {
        socket.set_recv_buffer_size(wanted).map_err(failed)?;
    }
    socket.set_send_buffer_size(wanted).map_err(failed)?;
    socket.bind(&address.into()).map_err(failed)?;
    // The system clips silently, and reports twice what it granted.
    let granted = socket.recv_buffer_size().map_err(failed)? / 2;
    if granted < wanted {
        tracing::info!(
            wanted,
            granted,
            "the UDP receive buffer is smaller than asked for: raise net.core.rmem_max, or give the server CAP_NET_ADMIN"
        );
    }
    Ok(socket.into())
}

/// Makes the endpoint on a bound socket. Must run inside a tokio runtime.
pub(crate) fn open(
    socket: UdpSocket,
    config: &ServerConfig,
    identity: &Identity,
    reset_key: hmac::Key,
) -> Result<Endpoint, ServeError> {
    let mut endpoint = EndpointConfig::new(Arc::new(reset_key));
    endpoint.cid_generator(|| Box::new(RandomIds));
    let payload = endpoint.max_udp_payload_size(config.datagram_bytes_max);
    payload.map_err(|error| ServeError::Internal(format!("datagram_bytes_max: {error}")))?;

    let mut server = quinn::ServerConfig::with_crypto(identity.crypto.clone());
    server
        .transport_config(transport::transport(config)?)
        .max_incoming(INCOMING_MAX)
        .incoming_buffer_size(INCOMING_BYTES)
        .incoming_buffer_size_total(INCOMING_BYTES_TOTAL);
    Endpoint::new(endpoint, Some(server), socket, Arc::new(TokioRuntime))
        .map_err(|source| ServeError::listen("QUIC", "listen", config.listen, source))
}

/// Connection ids without meaning. quinn's own carry a mark of this process, by which it drops packets of the one
/// before it in silence; these are answered by a stateless reset, at most one every 20 ms.
struct RandomIds;

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = [0; CONNECTION_ID_BYTES];
        rand::fill(&mut id).expect("the system gives random numbers");
        ConnectionId::new(&id)
    }

    fn cid_len(&self) -> usize {
        CONNECTION_ID_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// Lets connections in until the server stops or the endpoint is closed. Each runs as its own task.
pub(crate) async fn accept(endpoint: Endpoint, shared: Arc<Shared>, connections: TaskTracker) {
    let door = Arc::new(Door::default());
    loop {
        let incoming = tokio::select! {
            () = shared.stopping.cancelled() => break,
            incoming = endpoint.accept() => incoming,
        };
        let Some(incoming) = incoming else { break };
        let address = incoming.remote_address();
        match door.judge(&incoming, &shared.config) {
            Judgement::Prove => {
                shared.metrics.connections_retried.add(1);
                // Fails only for an address that is proven already, which was asked just before.
                let _ = incoming.retry();
            }
            Judgement::Full => {
                shared.metrics.connections_refused.add(1);
                tracing::debug!(%address, "connection refused: the limit of connections is reached");
                incoming.refuse();
            }
            Judgement::Enter(place) => {
                connections.spawn(connection::run(incoming, place, Arc::clone(&shared)));
            }
        }
    }
}

enum Judgement {
    Prove,
    Full,
    Enter(Place),
}

/// Who is inside.
#[derive(Debug, Default)]
struct Door {
    half_open: AtomicUsize,
    by_address: Mutex<Inside>,
}

#[derive(Debug, Default)]
struct Inside {
    total: u32,
    by_address: HashMap<IpAddr, u32>,
}

impl Door {
    fn judge(self: &Arc<Self>, incoming: &Incoming, config: &ServerConfig) -> Judgement {
        if self.half_open.load(Ordering::Relaxed) >= HALF_OPEN_RETRY && incoming.may_retry() {
            return Judgement::Prove;
        }
        self.enter(incoming.remote_address(), config).map_or(Judgement::Full, Judgement::Enter)
    }

    fn enter(self: &Arc<Self>, address: SocketAddr, config: &ServerConfig) -> Option<Place> {
        let address = address.ip().to_canonical();
        let mut inside = self.by_address.lock();
        let here = inside.by_address.get(&address).copied().unwrap_or(0);
        if inside.total >= config.connections_max || here >= config.connections_per_address_max {
            return None;
        }
        inside.total += 1;
        inside.by_address.insert(address, here + 1);
        self.half_open.fetch_add(1, Ordering::Relaxed);
        Some(Place { door: Arc::clone(self), address, half_open: true })
    }
}

/// A connection's place inside, until dropped.
#[derive(Debug)]
pub(crate) struct Place {
    door: Arc<Door>,
    address: IpAddr,
    half_open: bool,
}

impl Place {
    /// The hello is through: the connection no longer counts as half open.
    pub fn settle(&mut self) {
        if std::mem::take(&mut self.half_open) {
            self.door.half_open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.settle();
        let mut inside = self.door.by_address.lock();
        inside.total = inside.total.saturating_sub(1);
        match inside.by_address.get_mut(&self.address) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(inside.by_address.remove(&self.address)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_limited_in_total_and_by_address_and_given_back() {
        let door = Arc::new(Door::default());
        let config = ServerConfig { connections_max: 3, connections_per_address_max: 2, ..ServerConfig::default() };
        let from = |last: u8| SocketAddr::from(([10, 0, 0, last], 1));
        let mut inside = vec![door.enter(from(1), &config), door.enter(from(1), &config)];
        assert!(inside.iter().all(Option::is_some));
        assert!(door.enter(from(1), &config).is_none(), "two are from there already");
        inside.push(door.enter(from(2), &config));
        assert!(door.enter(from(3), &config).is_none(), "three are inside already");
        assert_eq!(door.half_open.load(Ordering::Relaxed), 3);
        inside[0].as_mut().expect("inside").settle();
        assert_eq!(door.half_open.load(Ordering::Relaxed), 2);
        drop(inside);
        assert_eq!(door.half_open.load(Ordering::Relaxed), 0);
        assert!(door.by_address.lock().by_address.is_empty());
        assert!(door.enter(from(1), &config).is_some());
    }
}
