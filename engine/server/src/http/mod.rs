//! HTTP beside QUIC, for probes and scrapers on this machine: `GET /health`, `GET /metrics`.
//!
//! It asks nobody who they are, so it listens on loopback unless a setting says otherwise by name. Nothing here
//! changes anything.

mod health;
mod metrics;

use std::net::TcpListener;
use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use tokio_util::sync::CancellationToken;

use crate::config::ServerConfig;
use crate::error::ServeError;
use crate::shared::Shared;

/// Binds HTTP's socket, if HTTP is on.
pub(crate) fn bind(config: &ServerConfig) -> Result<Option<TcpListener>, ServeError> {
    let Some(address) = config.http else { return Ok(None) };
    let bind = || {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    bind().map(Some).map_err(|source| ServeError::listen("HTTP", "http", address, source))
}

/// Answers until `end`.
pub(crate) async fn serve(listener: tokio::net::TcpListener, shared: Arc<Shared>, end: CancellationToken) {
    let app = Router::new().route("/health", get(health::get)).route("/metrics", get(metrics::get)).with_state(shared);
    let served = axum::serve(listener, app).with_graceful_shutdown(end.cancelled_owned()).await;
    if let Err(error) = served {
        tracing::error!(%error, "the HTTP listener ended");
    }
}
