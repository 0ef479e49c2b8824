//! One partition of a lake: intent → build → put → checkpoint, each step taken again until it holds.

use std::sync::Arc;
use std::time::Instant;

use millstream_log::LogError;
use millstream_protocol::Offset;

use super::shared::Context;
use crate::build::{self, BuildError, Built, Job};
use crate::judge::Verdict;
use crate::plan::{self, Open};
use crate::schema::Schema;
use crate::state::{Intent, LakeState};
use crate::store::Store;
use crate::{LakeError, Source};

/// Why a step did not get through.
#[derive(Debug)]
pub enum Trouble {
    /// It may, later.
    Retry(String),
    /// It never will: the lake stops.
    Halt(LakeError),
    /// The lake is being stopped.
    Stopped,
}

/// See the module.
pub struct Lane {
    /// Its place among the lake's partitions.
    pub index: usize,
    /// The partition.
    pub source: Arc<dyn Source>,
    /// What is durable.
    pub state: LakeState,
    /// Whether `state` has been written at all.
    pub is_written: bool,
    /// What is scanned and not landed.
    pub open: Open,
    /// Everything below is to land as soon as it is scanned.
    pub flush_to: Offset,
    /// `open` is to become a file; nothing is added to it any more.
    pub rolling: bool,
    /// The file of the intent, while it is kept for another attempt.
    built: Option<Built>,
    failures: u32,
    /// Not before then, after a failure.
    pub retry_at: Option<Instant>,
    /// What ends the lake.
    pub trouble: Option<Trouble>,
}

impl Lane {
    /// Goes on from `state`. An intent in it is rolling from the start: it is redone before anything else.
    pub fn new(index: usize, source: Arc<dyn Source>, state: LakeState, is_written: bool) -> Self {
        let mut open = Open::at(state.landed_end);
        let rolling = state.intent.is_some();
        if let Some(intent) = &state.intent {
            open.next = intent.last.next();
        }
        Self {
            index,
            source,
            state,
            is_written,
            open,
            flush_to: Offset::ZERO,
            rolling,
            built: None,
            failures: 0,
            retry_at: None,
            trouble: None,
        }
    }

    /// Whether it may try again.
    pub fn is_ready(&self, now: Instant) -> bool {
        self.retry_at.is_none_or(|at| at <= now)
    }

    /// Whether there is something to scan and room for it.
    pub fn wants_scan(&self, now: Instant) -> bool {
        !self.rolling && self.is_ready(now) && self.open.next < self.source.high_watermark()
    }

    /// Notes how an attempt went.
    pub fn note(&mut self, context: &Context, result: Result<(), Trouble>) {
        match result {
            Ok(()) => {
                if self.failures > 0 {
                    context.shared.update(self.index, |progress| progress.error.clear());
                }
                self.failures = 0;
                self.retry_at = None;
            }
            Err(Trouble::Retry(text)) => {
                self.failures += 1;
                let wait = plan::backoff(self.failures);
                self.retry_at = Some(Instant::now() + wait);
                let (lake, partition) = (&context.config.name, self.source.partition());
                tracing::warn!(lake, %partition, error = text, retry_after = ?wait, "a lake is held up");
                let text = format!("partition {partition}: {text}");
                context.shared.update(self.index, |progress| progress.error = text);
            }
            Err(trouble) => self.trouble = Some(trouble),
        }
    }

    /// Lands what is open, or redoes the intent of an earlier attempt or start.
    pub async fn land(&mut self, context: &Arc<Context>, store: &Store, schema: &Schema) {
        let result = self.try_land(context, store, schema).await;
        self.note(context, result);
    }

    async fn try_land(&mut self, context: &Arc<Context>, store: &Store, schema: &Schema) -> Result<(), Trouble> {
        let intent = match &self.state.intent {
            Some(intent) => intent.clone(),
            None => self.decide(context, schema).await?,
        };
        if self.built.is_none() {
            self.built = Some(self.build(context, &intent).await?);
        }
        let built = self.built.take().expect("it was built above");
        let built = self.put(context, store, built).await?;
        self.checkpoint(context, &intent, &built).await.inspect_err(|_| self.built = Some(built))
    }

    /// Writes down what the next file holds.
    async fn decide(&mut self, context: &Context, schema: &Schema) -> Result<Intent, Trouble> {
        assert!(self.open.first < self.open.next, "a file holds something");
        assert_eq!(self.open.first, self.state.landed_end, "files follow one another");
        let (partition, first, last) = (self.source.partition(), self.open.first, Offset(self.open.next.0 - 1));
        let name = plan::file_name(partition, first, last, context.config.format);
        let intent = Intent { epoch: self.source.epoch(), first, last, name };
        let state = LakeState { schema: schema.clone(), intent: Some(intent.clone()), ..self.state.clone() };
        self.write(context, state).await?;
        Ok(intent)
    }

    async fn build(&self, context: &Context, intent: &Intent) -> Result<Built, Trouble> {
        let job = Job {
            lake: context.id,
            lake_name: context.config.name.clone(),
            stream: context.stream.clone(),
            partition: self.source.partition(),
            incarnation: self.source.incarnation(),
            format: context.config.format,
            intent: intent.clone(),
            schema: self.state.schema.clone(),
            spool_dir: context.settings.spool_dir.clone(),
        };
        let (source, stop) = (Arc::clone(&self.source), Arc::clone(&context.shared.stop));
        let built = blocking(move || build::build(&job, &*source, &stop)).await?;
        built.map_err(|error| match error {
            BuildError::Stopped => Trouble::Stopped,
            error => Trouble::Retry(error.to_string()),
        })
    }

    /// Puts what has not been put yet. On failure what was built is kept.
    async fn put(&mut self, context: &Context, store: &Store, mut built: Built) -> Result<Built, Trouble> {
        for index in 0..built.parts.len() {
            if built.parts[index].put {
                continue;
            }
            // The built file goes to the blocking thread and back: reading it may take a while.
            let (back, body) = blocking(move || {
                let body = build::body(&built.parts[index]);
                (built, body)
            })
            .await?;
            built = back;
            let part = &mut built.parts[index];
            let verdict = match body {
                Err(error) => Verdict::Retry(format!("cannot read the spool: {error}")),
                Ok(body) => tokio::select! {
                    verdict = store.put(&part.name, body, &part.proof) => verdict,
                    // A put that goes on without us is found by the redo.
                    () = context.shared.stopping() => return Err(Trouble::Stopped),
                },
            };
            match verdict {
                Verdict::Created | Verdict::Ours => part.put = true,
                Verdict::Foreign(reason) => {
                    let object = store.object(&part.name);
                    return Err(Trouble::Halt(LakeError::Foreign { object, reason }));
                }
                Verdict::Retry(text) => {
                    let text = format!("cannot put {}: {text}", part.name);
                    self.built = Some(built);
                    return Err(Trouble::Retry(text));
                }
            }
        }
        Ok(built)
    }

    async fn checkpoint(&mut self, context: &Context, intent: &Intent, built: &Built) -> Result<(), Trouble> {
        let files = u64::from(built.rows > 0);
        let state = LakeState {
            landed_end: intent.last.next(),
            files: self.state.files + files,
            rows: self.state.rows + built.rows,
            rejected: self.state.rejected + built.rejected,
            lost: self.state.lost + built.lost,
            intent: None,
            ..self.state.clone()
        };
        self.write(context, state).await?;
        self.open = Open::at(self.state.landed_end);
        self.rolling = false;
        self.source.set_hold(&context.key, Some(self.state.landed_end));
        // A flush that waits for this sees the success and no error of before at once.
        context.shared.update(self.index, |progress| {
            progress.set(&self.state, &self.open);
            progress.error.clear();
        });
        tracing::debug!(lake = context.config.name, file = intent.name, rows = built.rows, "landed");
        Ok(())
    }

    /// Makes a state durable, then takes it over.
    pub async fn write(&mut self, context: &Context, state: LakeState) -> Result<(), Trouble> {
        let (source, key, blob) = (Arc::clone(&self.source), context.key.clone(), state.encode());
        let written = blocking(move || source.state_put(&key, Some(&blob))).await?;
        written.map_err(|error| log_trouble("write the lake's state", &error))?;
        self.state = state;
        self.is_written = true;
        Ok(())
    }
}

/// An error of the log: a stream that is gone ends the lake, all else may pass.
pub fn log_trouble(act: &str, error: &LogError) -> Trouble {
    match error {
        LogError::Deleted => Trouble::Halt(LakeError::Log(error.clone())),
        error => Trouble::Retry(format!("cannot {act}: {error}")),
    }
}

/// Runs blocking work on its own thread.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Trouble> {
    tokio::task::spawn_blocking(work).await.map_err(|error| match error.try_into_panic() {
        Ok(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Trouble::Halt(LakeError::Bug(text.unwrap_or_else(|| "a panic without a message".into())))
        }
        Err(_) => Trouble::Stopped,
    })
}
