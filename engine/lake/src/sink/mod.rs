//! One running lake: its handle. The loop is in [`driver`], a partition's steps in [`lane`].

mod driver;
mod lane;
mod scan;
mod shared;

use std::sync::Arc;
use std::time::Duration;

use millstream_protocol::frame::control::{
    LakeAudit, LakeConfig, LakePartition, LakePreview, LakeRetry, LakeStatus,
};
use millstream_protocol::{LakeId, Offset};
use tokio::task::JoinHandle;

use self::driver::Driver;
use self::lane::Lane;
use self::shared::{Context, Progress, Shared};
use crate::owner::Owner;
use crate::state::LakeState;
use crate::store::{Location, Store};
use crate::{LakeError, LakeSettings, Source, settings};

/// One running lake. Dropping it lets its work end by itself; [`stop`](Sink::stop) waits for that.
pub struct Sink {
    context: Arc<Context>,
    sources: Vec<Arc<dyn Source>>,
    driver: Option<JoinHandle<()>>,
}

impl Sink {
    /// Finds out whether a lake can run: its settings are in range, its URL is understood, no other
    /// lake lands there, and its store can be written and keeps two writers apart (an object is put, put again in vain, and
    /// deleted). For a lake that is to be added: one that has landed already owns its directory and would be refused.
    ///
    /// # Errors
    /// `IllegalLake`: change the lake's URL or settings, or the directory's permissions; `LakeUnavailable`: the store
    /// does not answer, try again.
    pub async fn check(config: &LakeConfig, settings: &LakeSettings) -> Result<(), LakeError> {
        settings::check_ranges(config)?;
        Location::parse(&config.url)?;
        let url = config.url.clone();
        let store = tokio::task::spawn_blocking(move || Store::open(&url)).await;
        let store = store.map_err(|error| LakeError::Bug(error.to_string()))??;
        let now = settings.clock.append_time();
        store.probe(&format!("{}-{}-{now}", config.name, std::process::id(), now = now.0)).await
    }

    /// Starts a lake over the partitions of a stream: goes on where its state in them says, or at their log starts.
    /// Must be called inside a tokio runtime. Retention is held from the moment this returns. A store that cannot be reached
    /// is no error here: the lake tries for ever, and says so in its [`status`](Sink::status).
    ///
    /// # Errors
    /// `IllegalLake`: the configuration is not one that [`check`](Sink::check) lets through.
    pub fn start(
        id: LakeId,
        config: LakeConfig,
        stream_name: &str,
        sources: Vec<Arc<dyn Source>>,
        settings: LakeSettings,
    ) -> Result<Sink, LakeError> {
        Location::parse(&config.url)?;
        Self::start_on(None, id, config, stream_name, sources, settings)
    }

    /// The same on any `ObjectStore`: for tests with stores that fail.
    ///
    /// # Errors
    /// As [`start`](Sink::start).
    #[doc(hidden)]
    pub fn start_over(
        objects: Arc<dyn object_store::ObjectStore>,
        id: LakeId,
        config: LakeConfig,
        stream_name: &str,
        sources: Vec<Arc<dyn Source>>,
        settings: LakeSettings,
    ) -> Result<Sink, LakeError> {
        Self::start_on(Some(Store::over(objects)), id, config, stream_name, sources, settings)
    }

    fn start_on(
        store: Option<Store>,
        id: LakeId,
        config: LakeConfig,
        stream_name: &str,
        sources: Vec<Arc<dyn Source>>,
        settings: LakeSettings,
    ) -> Result<Sink, LakeError> {
        settings::check_ranges(&config)?;
        let key = id.key();
        let (mut lanes, mut progress, mut halt) = (Vec::new(), Vec::new(), None);
        for (index, source) in sources.iter().enumerate() {
            let (state, is_written) = read_state(&**source, &key).unwrap_or_else(|error| {
                halt.get_or_insert(error);
                (LakeState::new(source.incarnation(), source.log_start()), false)
            });
            source.set_hold(&key, Some(state.landed_end));
            progress.push(Progress::new(&state));
            lanes.push(Lane::new(index, Arc::clone(source), state, is_written));
        }
        let shared = Shared::new(progress);
        let context = Arc::new(Context { id, config, stream: stream_name.to_owned(), settings, shared, key });
        let driver = match halt {
            Some(error) => {
                context.shared.halt(error);
                None
            }
            None => {
                let owner = Owner::new(&context.config.name, id, stream_name, &sources);
                Some(tokio::spawn(Driver::new(Arc::clone(&context), lanes, store, owner).run()))
            }
        };
        Ok(Sink { context, sources, driver })
    }

    /// Lands everything below the high watermarks of now, and waits until it has landed.
    ///
    /// # Errors
    /// `TimedOut` after `timeout`, saying how far it is and what holds it up; what the lake stopped at, if it has. The lake
    /// goes on in any case.
    pub async fn flush(&self, timeout: Duration) -> Result<(), LakeError> {
        let shared = &self.context.shared;
        let targets: Vec<Offset> = self.sources.iter().map(|source| source.high_watermark()).collect();
        let mut changes = shared.changes();
        shared.ask_flush(&targets);
        let landed = async {
            loop {
                changes.borrow_and_update();
                // First: a lake that has stopped vouches for nothing, not even for offsets it once landed.
                if let Some(error) = shared.halted() {
                    return Err(error);
                }
                let progress = shared.progress();
                if progress.iter().zip(&targets).all(|(progress, target)| progress.landed_end >= *target) {
                    return Ok(());
                }
                if shared.is_stopping() || changes.changed().await.is_err() {
                    return Err(LakeError::Stopped);
                }
            }
        };
        match tokio::time::timeout(timeout, landed).await {
            Ok(result) => result,
            Err(_) => Err(LakeError::TimedOut { waited: timeout, progress: self.missing(&targets) }),
        }
    }

    /// What has not landed of what was to, in words.
    fn missing(&self, targets: &[Offset]) -> String {
        let shared = &self.context.shared;
        let waiting: Vec<String> = self
            .sources
            .iter()
            .zip(shared.progress())
            .zip(targets)
            .filter(|((_, progress), target)| progress.landed_end < **target)
            .map(|((source, progress), target)| {
                format!("partition {} has landed up to {} of {target}", source.partition(), progress.landed_end)
            })
            .collect();
        let more = waiting.len().saturating_sub(4);
        let mut text = waiting.into_iter().take(4).collect::<Vec<_>>().join(", ");
        if more > 0 {
            text.push_str(&format!(", and {more} more"));
        }
        match shared.error() {
            error if error.is_empty() => text,
            error => format!("{text}; it is held up: {error}"),
        }
    }

    /// How far the lake is and what holds it up. Cheap: nothing is asked of the store.
    pub fn status(&self) -> LakeStatus {
        let shared = &self.context.shared;
        let progress = shared.progress();
        let partitions = self.sources.iter().zip(&progress).map(|(source, progress)| LakePartition {
            partition: source.partition().0,
            landed_end: progress.landed_end.0,
            read_end: progress.landed_end.0,
            high_watermark: source.high_watermark().0,
        });
        let oldest = progress.iter().filter_map(|progress| progress.oldest).min();
        let waited = oldest.map_or(0, |oldest| self.context.settings.clock.append_time().0.saturating_sub(oldest.0));
        LakeStatus {
            config: self.context.config.clone(),
            partitions: partitions.collect(),
            files: progress.iter().map(|progress| progress.files).sum(),
            rows: progress.iter().map(|progress| progress.rows).sum(),
            rejected: progress.iter().map(|progress| progress.rejected).sum(),
            bytes: 0,
            lost: 0,
            open_rows: 0,
            open_files: 0,
            newest_landed_ms: 0,
            last_error: String::new(),
            last_error_ms: 0,
            oldest_waiting_ms: waited.max(0).unsigned_abs(),
            error: shared.error(),
        }
    }

    /// What a lake of that configuration would do with the newest `records` records. Blocks; writes nothing.
    ///
    /// # Errors
    /// `IllegalLake`: as [`check`](Sink::check), without asking the store; a template that names a field which no record has.
    pub fn preview(config: &LakeConfig, sources: &[Arc<dyn Source>], records: u32) -> Result<LakePreview, LakeError> {
        let _ = (config, sources, records);
        Err(LakeError::Bug("not yet".into()))
    }

    /// Whether a running lake may take over that configuration: only its declared schema differs, and only adds or loosens.
    ///
    /// # Errors
    /// `IllegalLake`, saying what may not change.
    pub fn check_alter(old: &LakeConfig, new: &LakeConfig) -> Result<(), LakeError> {
        let _ = (old, new);
        Err(LakeError::Bug("not yet".into()))
    }

    /// Tries again to land what is in the error prefix, and waits until it is done.
    ///
    /// # Errors
    /// `TimedOut` after `timeout`; what the lake stopped at, if it has. The lake goes on in any case.
    pub async fn retry_errors(&self, timeout: Duration) -> Result<LakeRetry, LakeError> {
        let _ = timeout;
        Err(LakeError::Bug("not yet".into()))
    }

    /// Compares the manifest, the files and the log.
    ///
    /// # Errors
    /// `TimedOut` after `timeout`; `LakeUnavailable` if the store does not answer.
    pub async fn audit(&self, timeout: Duration) -> Result<LakeAudit, LakeError> {
        let _ = timeout;
        Err(LakeError::Bug("not yet".into()))
    }

    /// Offsets that were not in the log any more when their turn came; each range is in an error file.
    pub fn lost(&self) -> u64 {
        self.context.shared.progress().iter().map(|progress| progress.lost).sum()
    }

    /// Stops the lake. A file in hand is finished or abandoned; either is safe, a later start redoes it.
    pub async fn stop(mut self) {
        self.end().await;
    }

    /// Stops the lake and forgets its state and its holds. Its files stay.
    ///
    /// # Errors
    /// Where a partition's state could not be written; the rest is forgotten all the same.
    pub async fn remove(mut self) -> Result<(), LakeError> {
        self.end().await;
        let (sources, key) = (self.sources.clone(), self.context.key.clone());
        let forgotten = tokio::task::spawn_blocking(move || {
            let mut result = Ok(());
            for source in &sources {
                source.set_hold(&key, None);
                let removed = source.state_put(&key, None);
                result = result.and(removed.map_err(LakeError::Log));
            }
            result
        });
        forgotten.await.unwrap_or_else(|error| Err(LakeError::Bug(error.to_string())))
    }

    async fn end(&mut self) {
        self.context.shared.ask_stop();
        if let Some(driver) = self.driver.take()
            && let Err(error) = driver.await
            && error.is_panic()
        {
            tracing::error!(%error, lake = self.context.config.name, "the lake's driver panicked");
        }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.context.shared.ask_stop();
    }
}

/// A partition's state, and whether there is one.
fn read_state(source: &dyn Source, key: &str) -> Result<(LakeState, bool), LakeError> {
    let Some(blob) = source.state_get(key)? else {
        return Ok((LakeState::new(source.incarnation(), source.log_start()), false));
    };
    let state = LakeState::decode(&blob, source.partition(), source.incarnation())?;
    let high_watermark = source.high_watermark();
    let decided_end = state.intent.as_ref().map_or(state.landed_end, |intent| intent.last.next());
    if decided_end > high_watermark {
        let (partition, landed_end) = (source.partition(), decided_end);
        return Err(LakeError::LogTruncated { partition, landed_end, high_watermark });
    }
    Ok((state, true))
}
