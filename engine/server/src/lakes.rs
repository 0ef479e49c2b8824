//! The running lakes: one sink for each lake in the catalog.
//!
//! The catalog (`millstream-broker`) says which lakes there are; this is who makes it so. Changes come one at a
//! time, since each has two steps:
//! - *Create*: look at the newest records, check the store, write the catalog, start. A crash in between starts it at the
//!   next start.
//! - *Alter*: check, write the catalog, stop, start under the new settings. A crash in between starts it under the new ones.
//! - *Remove*: write the catalog, then stop it and drop its positions. In this order a crash in between leaves
//!   only positions of a lake that no longer is, under a number that is never used again. The other way round
//!   it would leave a lake without positions, which would land everything once more.
//!
//! What waits for a lake (a flush, a retry of its errors, an audit) holds its sink for reading and ends when the lake is
//! altered or removed, or the server stops. A preview of a lake is of none that runs; one is made at a time, since it reads
//! records into memory.
//!
//! A lake whose store does not answer still runs and says so in its status; one that cannot even be started
//! (its stream's partitions are gone, say) stays in the list with the reason.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use millstream_broker::{Broker, Lake};
use millstream_lake::{LakeError, LakeSettings, Sink, Source};
use millstream_protocol::Code;
use millstream_protocol::frame::Refusal;
use millstream_protocol::frame::control::{LakeAudit, LakeColumns, LakeConfig, LakePreview, LakeRetry, LakeStatus};
use millstream_protocol::limits::LAKE_PREVIEW_RECORDS_MAX;
use parking_lot::Mutex;
use tokio::sync::RwLock;
use tokio_util::sync::CancellationToken;

use crate::lake_answers::{fit_audit, fit_preview, fit_status};
use crate::shared::{blocking, broker_refusal, retryable, shutting_down};

/// The records that a preview may look at.
const PREVIEW_RECORDS: RangeInclusive<u32> = 1..=LAKE_PREVIEW_RECORDS_MAX;
/// How many a new lake's preview looks at: enough to meet the fields that its template names.
const CREATE_PREVIEW_RECORDS: u32 = 1_000;

/// All lakes of a server.
pub(crate) struct Lakes {
    broker: Arc<Broker>,
    settings: LakeSettings,
    /// Held over each change: catalog and sinks change together.
    changes: tokio::sync::Mutex<()>,
    /// Cancelled when all of them stop: no change begins after that, and none waits for a store.
    stopping: CancellationToken,
    running: Mutex<HashMap<String, Arc<Running>>>,
    /// Held over each preview.
    previews: Arc<tokio::sync::Mutex<()>>,
}

/// One lake's sink.
struct Running {
    config: LakeConfig,
    /// `None` once it was taken out to be stopped. Who waits for it (a flush, say) holds it for reading meanwhile.
    sink: RwLock<Option<Sink>>,
    /// Why there is no sink; empty while there is.
    failure: String,
    /// Ends who waits, so that the sink can be taken out.
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
            Some(sink) => fit_status(sink.status()),
            None => LakeStatus {
                config: self.config.clone(),
                partitions: Vec::new(),
                files: 0,
                rows: 0,
                bytes: 0,
                rejected: 0,
                lost: 0,
                open_rows: 0,
                open_files: 0,
                oldest_waiting_ms: 0,
                newest_landed_ms: 0,
                error: if self.failure.is_empty() { "it is stopping".into() } else { self.failure.clone() },
                last_error: self.failure.clone(),
                last_error_ms: 0,
            },
        }
    }
}

impl Lakes {
    pub fn new(broker: Arc<Broker>, settings: LakeSettings) -> Self {
        let (changes, previews) = (tokio::sync::Mutex::default(), Arc::default());
        Self { broker, settings, changes, stopping: CancellationToken::new(), running: Mutex::default(), previews }
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
        self.preview(config.clone(), CREATE_PREVIEW_RECORDS).await?;
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

    /// What a lake would do with the newest records of its stream. Writes nothing, and asks nothing of the store.
    pub async fn preview(&self, config: LakeConfig, records: u32) -> Result<LakePreview, Refusal> {
        if !PREVIEW_RECORDS.contains(&records) {
            let (min, max) = PREVIEW_RECORDS.into_inner();
            let text = format!("a preview of {records} records was asked for: ask for {min} to {max}");
            return Err(Refusal::new(Code::IllegalSetting, text));
        }
        self.broker.check_lake(&config).map_err(broker_refusal)?;
        let (_, sources) = self.sources(&config)?;
        let preview = async {
            let one = Arc::clone(&self.previews).lock_owned().await;
            // Held to the work's end, even if its client leaves meanwhile.
            let preview = blocking(move || {
                let _one = one;
                Sink::preview(&config, &sources, records)
            });
            preview.await?.map_err(|error| error.refusal())
        };
        tokio::select! {
            preview = preview => preview.map(fit_preview),
            () = self.stopping.cancelled() => Err(shutting_down()),
        }
    }

    /// Gives a lake another declared schema. Must run to its end, like [`create`](Self::create): what lands goes on under it.
    pub async fn alter(&self, name: &str, schema: String) -> Result<LakeConfig, Refusal> {
        let _change = self.change().await?;
        let old = self.broker.lake(name).map_err(broker_refusal)?.config;
        let new = LakeConfig { columns: LakeColumns::Declared(schema), ..old.clone() };
        if new == old {
            return Ok(new);
        }
        Sink::check_alter(&old, &new).map_err(|error| error.refusal())?;
        let broker = Arc::clone(&self.broker);
        let lake = blocking(move || broker.alter_lake(new)).await?.map_err(broker_refusal)?;
        let running = self.running.lock().get(name).cloned();
        if let Some(running) = running
            && let Some(sink) = running.take().await
        {
            sink.stop().await;
        }
        match self.run(&lake) {
            Ok(()) => Ok(lake.config),
            Err(refusal) => {
                self.insert(&lake, None, refusal.to_string());
                Err(refusal)
            }
        }
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
        self.wait(name, |sink| Box::pin(sink.flush(timeout))).await?;
        self.status(name)
    }

    /// Tries again to land what is in a lake's error prefix.
    pub async fn retry_errors(&self, name: &str, timeout: Duration) -> Result<LakeRetry, Refusal> {
        self.wait(name, |sink| Box::pin(sink.retry_errors(timeout))).await
    }

    /// Compares a lake's manifest, its files and the log.
    pub async fn audit(&self, name: &str, timeout: Duration) -> Result<LakeAudit, Refusal> {
        self.wait(name, |sink| Box::pin(sink.audit(timeout))).await.map(fit_audit)
    }

    /// Waits for a lake to do something, at most until it is altered or removed, or all are stopped.
    async fn wait<T>(
        &self,
        name: &str,
        ask: impl for<'a> FnOnce(&'a Sink) -> BoxFuture<'a, Result<T, LakeError>>,
    ) -> Result<T, Refusal> {
        let running = self.find(name)?;
        let done = async {
            let sink = running.sink.read().await;
            match sink.as_ref() {
                Some(sink) => ask(sink).await.map_err(|error| error.refusal()),
                None => Err(Refusal::new(Code::LakeUnavailable, running.status().error)),
            }
        };
        tokio::select! {
            done = done => done,
            () = running.leaving.cancelled() => Err(self.left(name)),
        }
    }

    /// Why a lake that ran does not any more.
    fn left(&self, name: &str) -> Refusal {
        if self.stopping.is_cancelled() {
            return shutting_down();
        }
        match self.broker.lake(name) {
            Ok(_) => {
                let text = format!("lake '{name}' was altered meanwhile: ask again");
                retryable(Code::LakeUnavailable, Duration::from_millis(100), text)
            }
            Err(error) => broker_refusal(error),
        }
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
        let (stream, sources) = self.sources(&lake.config)?;
        let sink = Sink::start(lake.id, lake.config.clone(), &stream, sources, self.settings.clone());
        self.insert(lake, Some(sink.map_err(|error| error.refusal())?), String::new());
        Ok(())
    }

    /// The name of a lake's stream, and its partitions that are there.
    fn sources(&self, config: &LakeConfig) -> Result<(String, Vec<Arc<dyn Source>>), Refusal> {
        let stream = self.broker.stream(&config.stream).map_err(broker_refusal)?;
        let mut sources: Vec<Arc<dyn Source>> = Vec::new();
        for partition in stream.partitions() {
            match partition {
                Ok(partition) => sources.push(Arc::new(Arc::clone(partition))),
                Err(error) => tracing::error!(lake = %config.name, %error, "a partition is offline: it does not land"),
            }
        }
        Ok((stream.name.to_string(), sources))
    }

    fn insert(&self, lake: &Lake, sink: Option<Sink>, failure: String) {
        let config = lake.config.clone();
        let name = config.name.clone();
        let leaving = CancellationToken::new();
        self.running.lock().insert(name, Arc::new(Running { config, sink: RwLock::new(sink), failure, leaving }));
    }
}
