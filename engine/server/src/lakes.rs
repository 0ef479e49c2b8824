//! The running lakes: one sink for each lake in the catalog.
//!
//! The catalog (`millstream-broker`) says which lakes there are; this is who makes it so. Changes come one at a
//! time, since each has two steps:
//! - *Create*: check the store, write the catalog, start. A crash in between starts it at the next start.
//! - *Remove*: write the catalog, then stop it and drop its positions. In this order a crash in between leaves
//!   only positions of a lake that no longer is, under a number that is never used again. The other way round
//!   it would leave a lake without positions, which would land everything once more.
//!
//! A lake whose store does not answer still runs and says so in its status; one that cannot even be started
//! (its stream's partitions are gone, say) stays in the list with the reason.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use millstream_broker::{Broker, Lake};
use millstream_lake::{LakeSettings, Sink, Source};
use millstream_protocol::Code;
use millstream_protocol::frame::Refusal;
use millstream_protocol::frame::control::{LakeConfig, LakeStatus};
use parking_lot::Mutex;
use tokio::sync::RwLock;
use tokio_util::sync::CancellationToken;

use crate::shared::{blocking, broker_refusal, shutting_down};

/// All lakes of a server.
pub(crate) struct Lakes {
    broker: Arc<Broker>,
    settings: LakeSettings,
    /// Held over each change: catalog and sinks change together.
    changes: tokio::sync::Mutex<()>,
    /// Cancelled when all of them stop: no change begins after that, and none waits for a store.
    stopping: CancellationToken,
    running: Mutex<HashMap<String, Arc<Running>>>,
}

/// One lake's sink.
struct Running {
    config: LakeConfig,
    /// `None` once it was taken out to be stopped. Flushes hold it for reading as long as they wait.
    sink: RwLock<Option<Sink>>,
    /// Why there is no sink; empty while there is.
    failure: String,
    /// Ends waiting flushes, so that the sink can be taken out.
    leaving: CancellationToken,
}

impl Running {
    /// Takes the sink out, once nobody waits on it.
    async fn take(&self) -> Option<Sink> {
        self.leaving.cancel();
        self.sink.write().await.take()
    }

    fn status(&self) -> LakeStatus {
        let guard = self.sink.try_read().ok();
        match guard.as_ref().and_then(|sink| sink.as_ref()) {
            Some(sink) => sink.status(),
            None => LakeStatus {
                config: self.config.clone(),
                partitions: Vec::new(),
                files: 0,
                rows: 0,
                rejected: 0,
                oldest_waiting_ms: 0,
                error: if self.failure.is_empty() { "it is stopping".into() } else { self.failure.clone() },
            },
        }
    }
}

impl Lakes {
    pub fn new(broker: Arc<Broker>, settings: LakeSettings) -> Self {
        let (changes, stopping) = (tokio::sync::Mutex::default(), CancellationToken::new());
        Self { broker, settings, changes, stopping, running: Mutex::default() }
    }

    /// Starts every lake of the catalog.
    pub async fn start(&self) {
        let _change = self.changes.lock().await;
        for lake in self.broker.lakes() {
            if let Err(refusal) = self.run(&lake) {
                tracing::error!(lake = %lake.config.name, error = %refusal, "a lake does not start");
                let failure = refusal.to_string();
                self.insert(&lake, None, failure);
            }
        }
    }

    /// Adds a lake: checks that its store can be written before the catalog knows it. Must run to its end: cut off in the
    /// middle, the lake would be in the catalog and not run.
    pub async fn create(&self, config: LakeConfig) -> Result<LakeConfig, Refusal> {
        let _change = self.change().await?;
        // The cheap and certain reasons first: a probe of a store may take seconds, and write there.
        self.broker.check_lake(&config).map_err(broker_refusal)?;
        tokio::select! {
            checked = Sink::check(&config, &self.settings) => checked.map_err(|error| error.refusal())?,
            () = self.stopping.cancelled() => return Err(shutting_down()),
        }
        let broker = Arc::clone(&self.broker);
        let lake = blocking(move || broker.create_lake(config)).await?.map_err(broker_refusal)?;
        if let Err(refusal) = self.run(&lake) {
            let (broker, name) = (Arc::clone(&self.broker), lake.config.name.clone());
            blocking(move || broker.remove_lake(&name)).await?.map_err(broker_refusal)?;
            return Err(refusal);
        }
        Ok(lake.config)
    }

    /// Removes a lake; its files stay. Must run to its end, like [`create`](Self::create).
    pub async fn remove(&self, name: &str) -> Result<(), Refusal> {
        let _change = self.change().await?;
        let (broker, owned) = (Arc::clone(&self.broker), name.to_owned());
        blocking(move || broker.remove_lake(&owned)).await?.map_err(broker_refusal)?;
        let running = self.running.lock().remove(name);
        if let Some(running) = running
            && let Some(sink) = running.take().await
            && let Err(error) = sink.remove().await
        {
            tracing::warn!(lake = name, error = %error.refusal(), "the lake is removed; some of its positions are left");
        }
        Ok(())
    }

    /// How far a lake is.
    pub fn status(&self, name: &str) -> Result<LakeStatus, Refusal> {
        self.find(name).map(|running| running.status())
    }

    /// How far all of them are, by name.
    pub fn all(&self) -> Vec<LakeStatus> {
        let running: Vec<Arc<Running>> = self.running.lock().values().cloned().collect();
        let mut all: Vec<LakeStatus> = running.iter().map(|running| running.status()).collect();
        all.sort_by(|a, b| a.config.name.cmp(&b.config.name));
        all
    }

    /// Waits until all that a lake's stream holds now has landed.
    pub async fn flush(&self, name: &str, timeout: Duration) -> Result<LakeStatus, Refusal> {
        let running = self.find(name)?;
        let flush = async {
            let sink = running.sink.read().await;
            match sink.as_ref() {
                Some(sink) => sink.flush(timeout).await.map_err(|error| error.refusal()),
                None => Err(Refusal::new(Code::LakeUnavailable, running.status().error)),
            }
        };
        tokio::select! {
            flushed = flush => flushed?,
            () = running.leaving.cancelled() => return Err(shutting_down()),
        }
        Ok(running.status())
    }

    /// Stops all of them. What was in the spool is made again after the next start.
    pub async fn stop(&self) {
        self.stopping.cancel();
        let _change = self.changes.lock().await;
        let running: Vec<Arc<Running>> = self.running.lock().drain().map(|(_, running)| running).collect();
        let stops = running.iter().map(|running| async {
            if let Some(sink) = running.take().await {
                sink.stop().await;
            }
        });
        futures::future::join_all(stops).await;
    }

    /// Waits for a turn to change something.
    async fn change(&self) -> Result<tokio::sync::MutexGuard<'_, ()>, Refusal> {
        let change = self.changes.lock().await;
        if self.stopping.is_cancelled() { Err(shutting_down()) } else { Ok(change) }
    }

    fn find(&self, name: &str) -> Result<Arc<Running>, Refusal> {
        if let Some(running) = self.running.lock().get(name) {
            return Ok(Arc::clone(running));
        }
        // The broker's words for a name that is not there, or not legal.
        self.broker.lake(name).map_err(broker_refusal)?;
        Err(shutting_down())
    }

    fn run(&self, lake: &Lake) -> Result<(), Refusal> {
        let stream = self.broker.stream(&lake.config.stream).map_err(broker_refusal)?;
        let mut sources: Vec<Arc<dyn Source>> = Vec::new();
        for partition in stream.partitions() {
            match partition {
                Ok(partition) => sources.push(Arc::new(Arc::clone(partition))),
                Err(error) => {
                    tracing::error!(lake = %lake.config.name, %error, "a partition is offline: it does not land")
                }
            }
        }
        let sink = Sink::start(lake.id, lake.config.clone(), &stream.name, sources, self.settings.clone());
        self.insert(lake, Some(sink.map_err(|error| error.refusal())?), String::new());
        Ok(())
    }

    fn insert(&self, lake: &Lake, sink: Option<Sink>, failure: String) {
        let config = lake.config.clone();
        let name = config.name.clone();
        let leaving = CancellationToken::new();
        self.running.lock().insert(name, Arc::new(Running { config, sink: RwLock::new(sink), failure, leaving }));
    }
}
