//! QUIC: sockets, certificates, limits, and the connections they let in.

pub(crate) mod connection;
pub(crate) mod endpoint;
pub(crate) mod tls;
pub(crate) mod transport;
