//! One running lake: its handle. What runs it is in [`driver`], a partition's steps in [`lane`].

mod commit;
mod driver;
mod intake;
mod lane;
mod retry;
mod shared;

use std::sync::Arc;
use std::time::Duration;

use millstream_protocol::frame::control::{
    LakeAudit, LakeColumns, LakeConfig, LakePartition, LakePreview, LakeRetry, LakeStatus,
};
use millstream_protocol::{LakeId, Offset};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use self::intake::Limits;
use self::lane::Lane;
use self::shared::{Context, Progress, Shared};
use crate::budget::Budget;
use crate::file::FileContext;
use crate::layout::Layout;
use crate::manifest::Manifest;
use crate::owner::Owner;
use crate::schema::{LakeSchema, Schema, check_loosens, parse_declared};
use crate::state::LakeState;
use crate::store::{Location, Store};
use crate::{LakeError, LakeSettings, Source, audit, preview, settings};

/// How long a lake that is stopped may take to land what it has read.
const FINISH_TIME: Duration = Duration::from_secs(15);

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
        settings::check(config)?;
        Location::parse(&config.url)?;
        let (url, delivery) = (config.url.clone(), config.delivery);
        let store = tokio::task::spawn_blocking(move || Store::open(&url, delivery)).await;
        let store = store.map_err(|error| LakeError::Bug(error.to_string()))??;
        let now = settings.clock.append_time();
        store.probe(&format!("{}-{}-{now}", config.name, std::process::id(), now = now.0)).await
    }

    /// What a lake of that configuration would do with the newest `records` records. Blocks; writes nothing, and asks nothing of
    /// the store.
    ///
    /// # Errors
    /// `IllegalLake`: as [`check`](Sink::check), and a template that names a field which no record has.
    pub fn preview(config: &LakeConfig, sources: &[Arc<dyn Source>], records: u32) -> Result<LakePreview, LakeError> {
        settings::check(config)?;
        Location::parse(&config.url)?;
        preview::preview(config, sources, records)
    }

    /// Whether a running lake may take over that configuration: only its declared schema differs, and only adds or loosens.
    ///
    /// # Errors
    /// `IllegalLake`, saying what may not change.
    pub fn check_alter(old: &LakeConfig, new: &LakeConfig) -> Result<(), LakeError> {
        settings::check(new)?;
        let (LakeColumns::Declared(was), LakeColumns::Declared(is)) = (&old.columns, &new.columns) else {
            return Err(LakeError::IllegalConfig("only a declared schema can be altered: add another lake".into()));
        };
        if *new != (LakeConfig { columns: new.columns.clone(), ..old.clone() }) {
            return Err(LakeError::IllegalConfig("nothing of a lake but its declared schema can be altered".into()));
        }
        let parse = |text: &str| parse_declared(text).map_err(|error| LakeError::IllegalConfig(error.to_string()));
        check_loosens(&parse(was)?, &parse(is)?).map_err(|error| LakeError::IllegalConfig(error.to_string()))
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
        let store = Store::over(objects, config.delivery);
        Self::start_on(Some(store), id, config, stream_name, sources, settings)
    }

    fn start_on(
        store: Option<Store>,
        id: LakeId,
        config: LakeConfig,
        stream_name: &str,
        sources: Vec<Arc<dyn Source>>,
        settings: LakeSettings,
    ) -> Result<Sink, LakeError> {
        settings::check(&config)?;
        let layout = Layout::parse(&config.layout).map_err(|error| LakeError::IllegalConfig(error.to_string()))?;
        let key = id.key();
        let (mut states, mut halt) = (Vec::new(), None);
        for source in &sources {
            let (state, is_written) = read_state(&**source, &key).unwrap_or_else(|error| {
                halt.get_or_insert(error);
                (LakeState::new(source.incarnation(), source.log_start()), false)
            });
            source.set_hold(&key, Some(state.landed.floor));
            states.push((state, is_written));
        }
        let mut schema = Schema::newest(states.iter().map(|(state, _)| &state.schema));
        if let LakeColumns::Declared(text) = &config.columns {
            let declared = parse_declared(text).map_err(|error| LakeError::IllegalConfig(error.to_string()))?;
            schema.redeclare(&declared);
        }
        let now = settings.clock.append_time();
        let context = Arc::new(Context {
            id,
            stream: stream_name.to_owned(),
            layout,
            shared: Shared::new(states.iter().map(|(state, _)| Progress::new(state)).collect()),
            key,
            writer: format!("process {} at {}", std::process::id(), now.0),
            schema: Arc::new(Mutex::new(LakeSchema::new(schema))),
            ledger: Box::new(Manifest),
            store: watch::Sender::new(None),
            config,
            settings,
        });
        let driver = match halt {
            Some(error) => {
                context.shared.halt(error, now);
                None
            }
            None => {
                let owner = Owner::new(&context.config.name, id, stream_name, &sources);
                let limits = limits(&context, sources.len());
                let numbered = sources.iter().zip(states).enumerate();
                let lanes = numbered.map(|(index, (source, (state, is_written)))| {
                    lane(&context, index, source, state, is_written, limits.clone())
                });
                let lanes = lanes.collect();
                Some(tokio::spawn(driver::drive(Arc::clone(&context), lanes, store, owner)))
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
                if progress.iter().zip(&targets).all(|(progress, target)| progress.floor >= *target) {
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
            .filter(|((_, progress), target)| progress.floor < **target)
            .map(|((source, progress), target)| {
                format!("partition {} has landed up to {} of {target}", source.partition(), progress.floor)
            })
            .collect();
        let more = waiting.len().saturating_sub(4);
        let mut text = waiting.into_iter().take(4).collect::<Vec<_>>().join(", ");
        if more > 0 {
            text.push_str(&format!(", and {more} more"));
        }
        self.held_up(&text)
    }

    /// How far the lake is and what holds it up. Cheap: nothing is asked of the store.
    pub fn status(&self) -> LakeStatus {
        let shared = &self.context.shared;
        let progress = shared.progress();
        let partitions = self.sources.iter().zip(&progress).map(|(source, progress)| LakePartition {
            partition: source.partition().0,
            landed_end: progress.floor.0,
            read_end: progress.read_end.0,
            high_watermark: source.high_watermark().0,
        });
        let oldest = progress.iter().filter_map(|progress| progress.oldest).min();
        let waited = oldest.map_or(0, |oldest| self.context.settings.clock.append_time().0.saturating_sub(oldest.0));
        let newest = progress.iter().filter_map(|progress| progress.newest_landed).max();
        let (last_error, last_error_ms) = shared.last_error();
        let sum = |of: fn(&Progress) -> u64| progress.iter().map(of).sum();
        LakeStatus {
            config: self.context.config.clone(),
            partitions: partitions.collect(),
            files: sum(|progress| progress.files),
            rows: sum(|progress| progress.rows),
            bytes: sum(|progress| progress.bytes),
            rejected: sum(|progress| progress.rejected),
            lost: self.lost(),
            open_rows: sum(|progress| progress.open_rows),
            open_files: progress.iter().map(|progress| progress.open_files).sum(),
            oldest_waiting_ms: waited.max(0).unsigned_abs(),
            newest_landed_ms: newest.map_or(0, |newest| newest.0),
            error: shared.error(),
            last_error,
            last_error_ms,
        }
    }

    /// Tries again to land what is in the error prefix, and waits until it is done.
    ///
    /// # Errors
    /// `TimedOut` after `timeout`; what the lake stopped at, if it has. The lake goes on in any case.
    pub async fn retry_errors(&self, timeout: Duration) -> Result<LakeRetry, LakeError> {
        let shared = &self.context.shared;
        let mut changes = shared.changes();
        let landed = |progress: &[Progress]| progress.iter().map(|progress| progress.retried).sum::<u64>();
        let before = landed(&shared.progress());
        let request = shared.ask_retry();
        let retried = async {
            loop {
                changes.borrow_and_update();
                if let Some(error) = shared.halted() {
                    return Err(error);
                }
                let progress = shared.progress();
                if progress.iter().all(|progress| progress.retries_done >= request) {
                    let rejected = progress.iter().map(|progress| progress.left).sum();
                    return Ok(LakeRetry { landed: landed(&progress) - before, rejected });
                }
                if shared.is_stopping() || changes.changed().await.is_err() {
                    return Err(LakeError::Stopped);
                }
            }
        };
        let timed_out = || LakeError::TimedOut { waited: timeout, progress: self.held_up("some error files are left") };
        tokio::time::timeout(timeout, retried).await.unwrap_or_else(|_| Err(timed_out()))
    }

    /// Compares the manifest, the files and the log.
    ///
    /// # Errors
    /// `TimedOut` after `timeout`; `LakeUnavailable` if the store does not answer.
    pub async fn audit(&self, timeout: Duration) -> Result<LakeAudit, LakeError> {
        let (config, sources) = (self.context.config.clone(), self.sources.clone());
        let progress = self.context.shared.progress();
        let starts = sources.iter().zip(&progress).map(|(source, progress)| audit::Place {
            source: Arc::clone(source),
            start: progress.start,
            floor: progress.floor,
        });
        let places: Vec<audit::Place> = starts.collect();
        let store = self.context.store.borrow().clone();
        let store = store.ok_or_else(|| LakeError::Unavailable {
            url: config.url.clone(),
            reason: self.held_up("it was not reached since the start"),
        })?;
        let audited = audit::audit(&store, &config, places);
        let timed_out = || LakeError::TimedOut { waited: timeout, progress: "the audit is not through".into() };
        tokio::time::timeout(timeout, audited).await.unwrap_or_else(|_| Err(timed_out()))
    }

    fn held_up(&self, text: &str) -> String {
        match self.context.shared.error() {
            error if error.is_empty() => text.to_owned(),
            error => format!("{text}; it is held up: {error}"),
        }
    }

    /// Offsets that were not in the log any more when their turn came; each range is in an error file.
    pub fn lost(&self) -> u64 {
        self.context.shared.progress().iter().map(|progress| progress.lost).sum()
    }

    /// Stops the lake: what it has read is landed first, for up to 15 seconds. A file in hand after that is abandoned, which is
    /// safe: a later start redoes it.
    pub async fn stop(mut self) {
        self.context.shared.ask_finish();
        if let Some(driver) = &mut self.driver {
            let _ = tokio::time::timeout(FINISH_TIME, driver).await.map(|ended| {
                self.driver = None;
                if let Err(error) = ended
                    && error.is_panic()
                {
                    tracing::error!(%error, lake = self.context.config.name, "the lake's driver panicked");
                }
            });
        }
        self.end().await;
    }

    /// Stops the lake at once and forgets its state and its holds. Its files stay.
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

/// When files end, the same for all partitions.
fn limits(context: &Context, lanes: usize) -> Limits {
    let config = &context.config;
    let open_files = config.open_files as usize;
    Limits {
        roll_bytes: config.roll_bytes,
        roll_rows: config.roll_rows,
        age: Duration::from_millis(config.roll_age_ms),
        max_age: Duration::from_millis(config.max_age_ms),
        open_files: Arc::new(Budget::new(open_files)),
        open_files_share: (open_files / lanes.max(1)).max(2),
        budget: Arc::clone(&context.settings.building),
    }
}

fn lane(
    context: &Arc<Context>,
    index: usize,
    source: &Arc<dyn Source>,
    state: LakeState,
    is_written: bool,
    limits: Limits,
) -> Lane {
    let config = &context.config;
    let files = FileContext {
        lake: context.id,
        lake_name: config.name.clone(),
        stream: context.stream.clone(),
        partition: source.partition(),
        incarnation: source.incarnation(),
        epoch: source.epoch(),
        format: config.format,
        compression: config.compression,
        columns: config.columns.clone(),
        spool_dir: context.settings.spool_dir.clone(),
        schema: Arc::clone(&context.schema),
    };
    Lane::new(index, Arc::clone(source), state, is_written, files, limits, context)
}

/// A partition's state, and whether there is one.
fn read_state(source: &dyn Source, key: &str) -> Result<(LakeState, bool), LakeError> {
    let Some(blob) = source.state_get(key)? else {
        return Ok((LakeState::new(source.incarnation(), source.log_start()), false));
    };
    let state = LakeState::decode(&blob, source.partition(), source.incarnation())?;
    let high_watermark = source.high_watermark();
    let decided_end = state.decided_end();
    if decided_end > high_watermark {
        let (partition, landed_end) = (source.partition(), decided_end);
        return Err(LakeError::LogTruncated { partition, landed_end, high_watermark });
    }
    Ok((state, true))
}
