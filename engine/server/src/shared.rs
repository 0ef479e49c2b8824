//! What every connection and the HTTP listener share.

use std::sync::Arc;
use std::time::Duration;

use millstream_broker::{Broker, BrokerError};
use millstream_log::{Clock, LogError, SystemClock};
use millstream_protocol::frame::Refusal;
use millstream_protocol::{Code, Timestamp};
use tokio_util::sync::CancellationToken;

use crate::budget::Budget;
use crate::config::ServerConfig;
use crate::lakes::Lakes;
use crate::metrics::Metrics;

/// One server's parts.
pub(crate) struct Shared {
    pub config: ServerConfig,
    pub broker: Arc<Broker>,
    pub lakes: Lakes,
    pub budget: Arc<Budget>,
    pub metrics: Arc<Metrics>,
    /// Cancelled once, when the server begins to stop.
    pub stopping: CancellationToken,
    clock: SystemClock,
}

impl Shared {
    pub fn new(config: ServerConfig, broker: Arc<Broker>, lakes: Lakes) -> Arc<Self> {
        Arc::new(Self {
            budget: Budget::new(config.memory_in_hand),
            config,
            broker,
            lakes,
            metrics: Arc::default(),
            stopping: CancellationToken::new(),
            clock: SystemClock::default(),
        })
    }

    /// The wall clock, which does not step.
    pub fn now(&self) -> Timestamp {
        self.clock.append_time()
    }
}

/// What clients are told while the server stops.
pub(crate) fn shutting_down() -> Refusal {
    retryable(Code::ShuttingDown, Duration::from_secs(1), "the server is stopping: retry after its restart")
}

/// A refusal that says when a retry may help.
pub(crate) fn retryable(code: Code, after: Duration, text: impl Into<String>) -> Refusal {
    Refusal { code, retry_after_ms: u32::try_from(after.as_millis()).unwrap_or(u32::MAX), text: text.into() }
}

/// The log's error as clients see it.
pub(crate) fn log_refusal(error: &LogError) -> Refusal {
    let after = match error.code() {
        Code::Throttled => Duration::from_millis(50),
        Code::DiskFull | Code::ShuttingDown => Duration::from_secs(1),
        _ => Duration::ZERO,
    };
    retryable(error.code(), after, error.to_string())
}

/// The broker's error as clients see it.
pub(crate) fn broker_refusal(error: BrokerError) -> Refusal {
    match error {
        BrokerError::Log(error) => log_refusal(&error),
        other => other.refusal(),
    }
}

/// Runs what may wait for a disk on a blocking thread. A panic there is a bug, and told as one.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        if error.is_panic() {
            tracing::error!(%error, "a request panicked: this is a bug");
        }
        Refusal::new(Code::Internal, "a bug in the server: its log has the details")
    })
}
