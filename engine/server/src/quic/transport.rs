//! quinn's settings, none of which is left to its default where it bounds memory or costs speed (LIMITS §2,
//! RELIABILITY §4.4).
//!
//! A connection starts with small windows ([`WINDOW_BASE`]); the first produce stream lets it grow its receive
//! window, the first consume stream its send window, as far as the budget's share for windows goes.

use std::sync::Arc;

use parking_lot::Mutex;
use quinn::{IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};

use crate::budget::{Budget, Grant};
use crate::config::{ConfigError, ServerConfig};

/// The window, each way, that every connection has: enough for control messages. Times `connections_max` it is
/// beside the budget.
pub(crate) const WINDOW_BASE: usize = 256 << 10;

pub(crate) fn transport(config: &ServerConfig) -> Result<Arc<TransportConfig>, ConfigError> {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(config.datagram_bytes_max);
    let idle = IdleTimeout::try_from(config.idle_timeout)
        .map_err(|_| ConfigError::Conflict("idle_timeout is longer than QUIC can say".into()))?;
    let mut transport = TransportConfig::default();
    transport
        .mtu_discovery_config(Some(mtu))
        .max_idle_timeout(Some(idle))
        .max_concurrent_bidi_streams(VarInt::from_u32(config.streams_per_connection_max))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(window(config.stream_receive_window.as_usize()))
        .receive_window(window(WINDOW_BASE))
        .send_window(WINDOW_BASE as u64)
        .allow_spin(false);
    Ok(Arc::new(transport))
}

fn window(bytes: usize) -> VarInt {
    VarInt::try_from(bytes as u64).unwrap_or(VarInt::MAX)
}

/// The windows of one connection; what was granted goes back when it ends.
#[derive(Debug, Default)]
pub(crate) struct Windows {
    receive: Mutex<Option<Grant>>,
    send: Mutex<Option<Grant>>,
}

impl Windows {
    /// For a connection that produces: lets more arrive ahead of what was read.
    pub fn grow_receive(&self, connection: &quinn::Connection, budget: &Budget, config: &ServerConfig) {
        if let Some(bytes) = grow(&self.receive, budget, config.receive_window.as_usize()) {
            connection.set_receive_window(window(bytes));
        }
    }

    /// For a connection that consumes: keeps more under way.
    pub fn grow_send(&self, connection: &quinn::Connection, budget: &Budget, config: &ServerConfig) {
        if let Some(bytes) = grow(&self.send, budget, config.send_window.as_usize()) {
            connection.set_send_window(bytes as u64);
        }
    }
}

/// The window's new size, if there is no grant yet and one can be had now.
fn grow(granted: &Mutex<Option<Grant>>, budget: &Budget, wanted: usize) -> Option<usize> {
    let mut granted = granted.lock();
    if granted.is_some() {
        return None;
    }
    *granted = budget.grant_window(wanted.saturating_sub(WINDOW_BASE), WINDOW_BASE);
    granted.as_ref().map(|grant| WINDOW_BASE + grant.bytes)
}
