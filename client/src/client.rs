//! The client: one connection, made again when it is lost, shared by everything that hangs on it.
//!
//! Reconnecting is lazy and shared: who needs a connection and finds none makes one, who comes meanwhile waits for
//! that attempt and shares its result, good or bad.
//! Not here: when to try again (producers and consumers have their own patience).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use millstream_protocol::Code;
use tokio::sync::Mutex;

use crate::config::{ClientBuilder, Config, NoTrust};
use crate::connection::Connection;
use crate::consumer::ConsumerBuilder;
use crate::error::{Error, Result};
use crate::group::GroupConsumerBuilder;
use crate::producer::ProducerBuilder;
use crate::queue::Queue;

/// A handle to a server. Cheap to clone; clones, producers and consumers share one connection, which is closed when
/// the last of them is dropped, or by [`close`](Self::close).
///
/// A lost connection is made again by whoever needs it next. See the crate's page for an example.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

impl Client {
    /// Connects to `host:port`, trusting only the server with this fingerprint (`sha256:…`). Takes at most 5 s.
    ///
    /// # Errors
    /// As [`ClientBuilder::connect`].
    pub async fn connect(address: impl Into<String>, fingerprint: impl Into<String>) -> Result<Self> {
        Self::builder(address).fingerprint(fingerprint).connect().await
    }

    /// Settings of a client of `host:port`.
    pub fn builder(address: impl Into<String>) -> ClientBuilder<NoTrust> {
        ClientBuilder::new(address.into())
    }

    pub(crate) async fn open(config: Config) -> Result<Self> {
        let shared = Arc::new(Shared { config, slot: Mutex::default(), attempts: 0.into(), closed: false.into() });
        shared.connection().await?;
        Ok(Self { shared })
    }

    /// Settings of a producer to the stream of that name.
    pub fn producer(&self, stream: impl Into<String>) -> ProducerBuilder {
        ProducerBuilder::new(self.clone(), stream.into())
    }

    /// Settings of a consumer of the stream of that name.
    pub fn consumer(&self, stream: impl Into<String>) -> ConsumerBuilder {
        ConsumerBuilder::new(self.clone(), stream.into())
    }

    /// Settings of a member of the consumer group of that name, which is made if it is not there.
    pub fn group(&self, group: impl Into<String>) -> GroupConsumerBuilder {
        GroupConsumerBuilder::new(self.clone(), group.into())
    }

    /// The queue of that name: asks for messages, receives them as they come, works on them.
    pub fn queue(&self, queue: impl Into<String>) -> Queue {
        Queue::new(self.clone(), queue.into())
    }

    /// Closes the connection for all who share it, and waits until the server knows. Producers that were not
    /// [closed](crate::Producer::close) before lose what was not acknowledged.
    pub async fn close(self) {
        self.shared.closed.store(true, Ordering::Relaxed);
        let connection = self.shared.slot.lock().await.connection.take();
        if let Some(connection) = connection {
            connection.close();
            connection.closed().await;
        }
    }

    pub(crate) fn config(&self) -> &Config {
        &self.shared.config
    }

    /// The connection there is, or a new one.
    pub(crate) async fn connection(&self) -> Result<Arc<Connection>> {
        self.shared.connection().await
    }

    /// Who asks next gets another connection than this one, which does not answer. Whoever still uses it may go on.
    pub(crate) async fn abandon(&self, connection: &Arc<Connection>) {
        let mut slot = self.shared.slot.lock().await;
        if slot.connection.as_ref().is_some_and(|current| Arc::ptr_eq(current, connection)) {
            slot.connection = None;
        }
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("address", &self.shared.config.address).finish_non_exhaustive()
    }
}

struct Shared {
    config: Config,
    slot: Mutex<Slot>,
    /// Attempts finished: tells whoever waited for the slot that another one was made meanwhile.
    attempts: std::sync::atomic::AtomicU64,
    closed: AtomicBool,
}

#[derive(Default)]
struct Slot {
    connection: Option<Arc<Connection>>,
    /// Why the last attempt failed.
    failure: Option<Error>,
}

impl Shared {
    async fn connection(&self) -> Result<Arc<Connection>> {
        let seen = self.attempts.load(Ordering::Acquire);
        let mut slot = self.slot.lock().await;
        if self.closed.load(Ordering::Relaxed) {
            return Err(Error::local(Code::NotAllowed, "the client was closed: make a new one"));
        }
        if let Some(connection) = slot.connection.as_ref().filter(|connection| connection.is_open()) {
            return Ok(Arc::clone(connection));
        }
        if self.attempts.load(Ordering::Acquire) != seen
            && let Some(failure) = &slot.failure
        {
            return Err(failure.clone());
        }
        slot.connection = None;
        let result = Connection::open(&self.config).await.map(Arc::new);
        slot.failure = result.as_ref().err().cloned();
        slot.connection = result.as_ref().ok().cloned();
        self.attempts.fetch_add(1, Ordering::Release);
        result
    }
}
