//! A server's life: start, ready, drain, stop.
//!
//! ```text
//! start   sockets ─► broker (locks the directory, recovers) ─► certificate ─► lakes ─► accept ─► client.json: ready
//! stop    client.json goes ─► nothing new, answers in hand ─► connections close ─► lakes ─► retention, HTTP ─► broker
//! ```
//! The sockets come first, since a port in use is found at once and an opened log would have begun a new epoch for
//! nothing; the certificate comes after the lock, so that two processes cannot both make one.
//! Not here: signals and exit codes (the program).

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use millstream_broker::{Broker, BrokerConfig};
use millstream_lake::LakeSettings;
use millstream_log::LogConfig;
use quinn::Endpoint;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::client_file::{ClientFile, reachable};
use crate::config::ServerConfig;
use crate::error::ServeError;
use crate::frame_io::close_code;
use crate::http;
use crate::lakes::Lakes;
use crate::quic::endpoint;
use crate::quic::tls::{self, Identity};
use crate::shared::{Shared, shutting_down};

/// How long the last packets may take, after the connections were closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// A running server. Dropping it without [`stop`](Self::stop) is like killing it: nothing acknowledged is lost, but
/// clients are not told, and the next start has a tail to check.
pub struct Server {
    shared: Arc<Shared>,
    endpoint: Endpoint,
    address: SocketAddr,
    http_address: Option<SocketAddr>,
    fingerprint: String,
    connections: TaskTracker,
    accepting: JoinHandle<()>,
    /// Ends HTTP, retention, compaction and the groups' clock, after the connections.
    background: TaskTracker,
    end_background: DropGuard,
    /// So that nothing goes on behind a server that was dropped.
    _stopping: DropGuard,
}

/// What blocks at the start, done on a blocking thread.
struct Opened {
    udp: UdpSocket,
    tcp: Option<TcpListener>,
    broker: Arc<Broker>,
    identity: Identity,
    reset_key: hmac::Key,
}

impl Opened {
    fn open(config: &ServerConfig) -> Result<Self, ServeError> {
        let (udp, tcp) = (endpoint::bind(config)?, http::bind(config)?);
        let mut log = LogConfig::default();
        if config.lanes > 0 {
            log.lanes = config.lanes as usize;
        }
        log.unsynced_bytes = config.unsynced_size.0 * log.lanes as u64;
        log.min_free_bytes = config.min_free_space.map(|size| size.0);
        let broker = Broker::open(BrokerConfig {
            data_dir: config.data_dir.clone(),
            log,
            auto_create_streams: config.auto_create_streams,
            offsets_retention: config.offsets_retention,
        })?;
        let keys = Identity::load(config).and_then(|identity| Ok((identity, tls::reset_key(&config.data_dir)?)));
        match keys {
            Ok((identity, reset_key)) => Ok(Self { udp, tcp, broker, identity, reset_key }),
            Err(error) => {
                // A clean close, so that the failed start costs the next one nothing; the first error is the one to tell.
                let _ = broker.close();
                Err(error)
            }
        }
    }
}

impl Server {
    /// Starts a server; resolves when it is ready. Takes as long as the log needs to recover.
    ///
    /// # Errors
    /// [`ServeError`]: the configuration, a port, the data directory or the certificate cannot be used.
    pub async fn start(config: ServerConfig) -> Result<Self, ServeError> {
        config.check()?;
        let settings = config.clone();
        let opened = tokio::task::spawn_blocking(move || Opened::open(&settings)).await;
        let Opened { udp, tcp, broker, identity, reset_key } = opened.map_err(internal)??;

        let lakes = Lakes::new(Arc::clone(&broker), LakeSettings::new(config.data_dir.join("spool")));
        let shared = Shared::new(config, broker, lakes);
        match Self::run(Arc::clone(&shared), udp, tcp, &identity, reset_key).await {
            Ok(server) => Ok(server),
            Err(error) => {
                shared.stopping.cancel();
                shared.lakes.stop().await;
                let broker = Arc::clone(&shared.broker);
                // The first error is the one to tell.
                let _ = tokio::task::spawn_blocking(move || broker.close()).await;
                Err(error)
            }
        }
    }

    async fn run(
        shared: Arc<Shared>,
        udp: UdpSocket,
        tcp: Option<TcpListener>,
        identity: &Identity,
        reset_key: hmac::Key,
    ) -> Result<Self, ServeError> {
        let config = &shared.config;
        let endpoint = endpoint::open(udp, config, identity, reset_key)?;
        let failed = |source| ServeError::listen("QUIC", "listen", config.listen, source);
        let address = endpoint.local_addr().map_err(failed)?;
        let (background, end) = (TaskTracker::new(), CancellationToken::new());
        let end_background = end.clone().drop_guard();
        let mut http_address = None;
        if let Some(tcp) = tcp {
            let failed = |source| ServeError::listen("HTTP", "http", address, source);
            let listener = tokio::net::TcpListener::from_std(tcp).map_err(failed)?;
            http_address = Some(listener.local_addr().map_err(failed)?);
            background.spawn(http::serve(listener, Arc::clone(&shared), end.clone()));
        }
        shared.lakes.start().await;
        background.spawn(retain(Arc::clone(&shared), end.clone()));
        background.spawn(watch_groups(Arc::clone(&shared), end.clone()));
        background.spawn(compact(Arc::clone(&shared), end));

        let fingerprint = identity.fingerprint.clone();
        let client_file =
            ClientFile { address: reachable(address), fingerprint: fingerprint.clone(), http: http_address };
        client_file.write(&shared.config.data_dir)?;
        let connections = TaskTracker::new();
        let accepting = tokio::spawn(endpoint::accept(endpoint.clone(), Arc::clone(&shared), connections.clone()));
        tracing::info!(%address, http = ?http_address, fingerprint, "ready");
        let _stopping = shared.stopping.clone().drop_guard();
        Ok(Self {
            shared,
            endpoint,
            address,
            http_address,
            fingerprint,
            connections,
            accepting,
            background,
            end_background,
            _stopping,
        })
    }

    /// Where QUIC listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where HTTP listens, if it does.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http_address
    }

    /// `sha256:` and the SHA-256 of the certificate's public key (SPKI, DER) in hexadecimal: what clients pin.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The data directory.
    pub fn data_dir(&self) -> &Path {
        &self.shared.config.data_dir
    }

    /// Stops: takes nothing new, answers what is in hand (for at most `stop_timeout`), tells the clients, stops the lakes
    /// and closes the log cleanly, so that the next start has nothing to recover.
    ///
    /// # Errors
    /// [`ServeError`] if `client.json` cannot be removed or the log does not close; the server has stopped all the same.
    pub async fn stop(self) -> Result<(), ServeError> {
        let shared = self.shared;
        tracing::info!("stopping");
        let forgotten = ClientFile::remove(&shared.config.data_dir);
        shared.stopping.cancel();
        self.connections.close();
        let drained = tokio::time::timeout(shared.config.stop_timeout, self.connections.wait()).await;
        if drained.is_err() {
            tracing::warn!(connections = self.connections.len(), "some connections did not end in time: they are cut");
        }
        let goodbye = shutting_down();
        self.endpoint.close(close_code(goodbye.code), goodbye.text.as_bytes());
        // The accepting task holds the endpoint, which holds the port; connections hold the broker, and with it the lock.
        self.accepting.await.map_err(internal)?;
        self.connections.wait().await;
        if tokio::time::timeout(CLOSE_TIMEOUT, self.endpoint.wait_idle()).await.is_err() {
            tracing::debug!("some peers did not confirm the end");
        }
        drop(self.endpoint);
        shared.lakes.stop().await;
        drop(self.end_background);
        self.background.close();
        if tokio::time::timeout(CLOSE_TIMEOUT, self.background.wait()).await.is_err() {
            tracing::debug!("a reader of HTTP did not finish its request: it is left alone");
        }
        let broker = Arc::clone(&shared.broker);
        tokio::task::spawn_blocking(move || broker.close()).await.map_err(internal)??;
        tracing::info!("stopped");
        forgotten
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("address", &self.address)
            .field("http", &self.http_address)
            .finish_non_exhaustive()
    }
}

/// Looks for old segments, now and then, until `end`.
async fn retain(shared: Arc<Shared>, end: CancellationToken) {
    let mut turns = tokio::time::interval(shared.config.retention_interval);
    // A run that took longer than the interval is not made up for.
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = end.cancelled() => return,
            _ = turns.tick() => {}
        }
        let broker = Arc::clone(&shared.broker);
        if let Err(error) = tokio::task::spawn_blocking(move || broker.run_retention()).await {
            tracing::error!(%error, "retention panicked: this is a bug; it is tried again");
        }
    }
}

/// Looks for what is worth compacting, now and then, until `end`. Apart from [`retain`]: a run may take minutes, and a
/// disk that fills up does not wait. Who closes the broker ends the run in hand.
async fn compact(shared: Arc<Shared>, end: CancellationToken) {
    let mut turns = tokio::time::interval(shared.config.retention_interval);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = end.cancelled() => return,
            _ = turns.tick() => {}
        }
        let broker = Arc::clone(&shared.broker);
        let run = tokio::task::spawn_blocking(move || broker.run_compaction());
        tokio::select! {
            () = end.cancelled() => return,
            ran = run => if let Err(error) = ran {
                tracing::error!(%error, "compaction panicked: this is a bug; it is tried again");
            }
        }
    }
}

/// Removes members of groups whose time is up, until `end`. A stopping server removes nobody: it is what keeps them silent.
async fn watch_groups(shared: Arc<Shared>, end: CancellationToken) {
    loop {
        // Before the tick, so that no deadline that appears after it is missed.
        let earlier = shared.broker.listen_to_groups();
        let broker = Arc::clone(&shared.broker);
        let idle = match tokio::task::spawn_blocking(move || broker.tick_groups()).await {
            Ok(idle) => idle,
            Err(error) => {
                tracing::error!(%error, "the groups' clock panicked: this is a bug; it goes on");
                Duration::from_secs(1)
            }
        };
        tokio::select! {
            () = end.cancelled() => return,
            () = shared.stopping.cancelled() => return,
            () = earlier => {}
            () = tokio::time::sleep(idle) => {}
        }
    }
}

fn internal(error: tokio::task::JoinError) -> ServeError {
    ServeError::Internal(error.to_string())
}
