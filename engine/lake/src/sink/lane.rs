//! One partition of a lake: reads, closes files, lands them in rounds; each step taken again until it holds.
//!
//! One thing after the other: while a round is landed nothing is read. So what a checkpoint says (the floor, and what lies
//! above it) is simply what the intake holds at that moment.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::{Either, pending};
use millstream_log::LogError;
use millstream_protocol::Offset;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::commit::Pending;
use super::intake::{Intake, Limits};
use super::shared::Context;
use crate::file::{BuildError, FileContext};
use crate::state::LakeState;
use crate::store::Store;
use crate::workers::Lost;
use crate::{LakeError, Source, plan};

/// Records that come one by one are read together.
const READ_PAUSE: Duration = Duration::from_millis(100);
/// A flush waits so long for the lake's other partitions to have read what it asks for, so that its files share their columns.
const FLUSH_TOGETHER: Duration = Duration::from_secs(2);
/// A round has at most so many files: it bounds its intent and its manifest entry.
const ROUND_FILES_MAX: usize = 256;

/// Why a step did not get through.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It may, later.
    Retry(String),
    /// It never will: the lake stops.
    Halt(LakeError),
    /// The lake is being stopped.
    Stopped,
}

/// See the module.
pub(super) struct Lane {
    /// Its place among the lake's partitions.
    pub index: usize,
    /// The partition.
    pub source: Arc<dyn Source>,
    /// What its files have in common.
    pub files: Arc<FileContext>,
    /// What is durable.
    pub state: LakeState,
    /// Whether `state` has been written at all.
    is_written: bool,
    /// Moves to the blocking thread and back. The lock is never waited for: encoders are not `Sync`, and a task's state must be.
    intake: Option<Mutex<Intake>>,
    pub limits: Limits,
    pub pending: Option<Pending>,
    retries_done: u64,
    failures: u32,
    /// Not before then, after a failure.
    retry_at: Option<Instant>,
    requests: watch::Receiver<u64>,
    /// Since when this partition has read what a flush asks for, while others have not.
    ahead_since: Option<Instant>,
}

/// What a turn came to.
enum Turn {
    /// There is more to do.
    Busy,
    /// There is nothing to do but to wait.
    Idle,
}

impl Lane {
    /// Goes on from `state`. A round in it is landed before anything else.
    pub fn new(
        index: usize,
        source: Arc<dyn Source>,
        state: LakeState,
        is_written: bool,
        files: FileContext,
        limits: Limits,
        context: &Context,
    ) -> Self {
        Self {
            index,
            source,
            files: Arc::new(files),
            state,
            is_written,
            intake: None,
            limits,
            pending: None,
            retries_done: 0,
            failures: 0,
            retry_at: None,
            requests: context.shared.requests(),
            ahead_since: None,
        }
    }

    /// Runs until the lake is stopped or cannot go on.
    pub async fn run(mut self, context: Arc<Context>) -> Trouble {
        loop {
            if context.shared.is_aborting() {
                return Trouble::Stopped;
            }
            let was_stopping = context.shared.is_stopping();
            let turn = self.turn(&context).await;
            let is_idle = matches!(turn, Ok(Turn::Idle));
            match turn {
                Ok(_) => self.note_success(&context),
                Err(Trouble::Retry(text)) if was_stopping => {
                    tracing::info!(
                        lake = context.config.name,
                        error = text,
                        "a lake ends with files that have not landed"
                    );
                    return Trouble::Stopped;
                }
                Err(Trouble::Retry(text)) => self.note_failure(&context, text),
                Err(trouble) => return trouble,
            }
            if is_idle && was_stopping {
                return Trouble::Stopped;
            }
            if is_idle || self.retry_at.is_some() {
                self.wait(&context, is_idle).await;
            }
        }
    }

    fn note_success(&mut self, context: &Context) {
        if self.failures > 0 {
            context.shared.update(self.index, |progress| progress.error.clear());
        }
        self.failures = 0;
        self.retry_at = None;
    }

    fn note_failure(&mut self, context: &Context, text: String) {
        self.failures += 1;
        let wait = plan::backoff(self.failures);
        self.retry_at = Some(Instant::now() + wait);
        let (lake, partition) = (&context.config.name, self.source.partition());
        tracing::warn!(lake, %partition, error = text, retry_after = ?wait, "a lake is held up");
        let text = format!("partition {partition}: {text}");
        context.shared.note_error(&text, context.settings.clock.append_time());
        context.shared.update(self.index, |progress| progress.error = text);
    }

    /// Does the next thing that is due.
    async fn turn(&mut self, context: &Arc<Context>) -> Result<Turn, Trouble> {
        if !self.is_written {
            // A new lake begins where the log begins now: written down, so that a gap that comes later is seen as one.
            let state = self.state.clone();
            self.write(context, state).await?;
            return Ok(Turn::Busy);
        }
        if self.pending.is_none()
            && let Some(round) = self.state.round.clone()
        {
            self.pending = Some(Pending::again(&self.files, round, self.state.landed.floor));
        }
        if self.pending.is_some() {
            self.land(context).await?;
            return Ok(Turn::Busy);
        }
        let stopping = context.shared.is_stopping();
        if context.shared.retries() > self.retries_done && !stopping {
            self.retry_errors(context).await?;
            return Ok(Turn::Busy);
        }
        let caught_up = stopping || self.read(context).await?;
        self.report(context);
        self.close_files(context, stopping).await?;
        self.report(context);
        if self.begin_round(context).await? {
            Ok(Turn::Busy)
        } else {
            Ok(if caught_up { Turn::Idle } else { Turn::Busy })
        }
    }

    /// Reads on. Whether it came to the end.
    async fn read(&mut self, context: &Arc<Context>) -> Result<bool, Trouble> {
        if self.intake.is_none() {
            let position = self.state.landed.floor;
            self.intake = Some(Mutex::new(self.new_intake(context, position)));
        }
        if self.intake.as_ref().is_some_and(|intake| intake.lock().position >= self.source.high_watermark()) {
            return Ok(true);
        }
        let (source, landed, clock) =
            (Arc::clone(&self.source), self.state.landed.clone(), Arc::clone(&context.settings.clock));
        let stop = Arc::clone(&context.shared.stop);
        let step = self.with_intake(context, move |intake| intake.read(&*source, &landed, &*clock, &stop)).await?;
        match step.error {
            Some(error) => Err(log_trouble("read the log", &error)),
            None => Ok(step.caught_up),
        }
    }

    fn new_intake(&self, context: &Context, position: Offset) -> Intake {
        Intake::new(Arc::clone(&self.files), context.layout.clone(), self.limits.clone(), position)
    }

    /// Works on the intake on a blocking thread. After a failure what it held is read again, from the floor on.
    async fn with_intake<T: Send + 'static>(
        &mut self,
        context: &Context,
        work: impl FnOnce(&mut Intake) -> Result<T, BuildError> + Send + 'static,
    ) -> Result<T, Trouble> {
        let Some(mut intake) = self.intake.take() else {
            return Err(Trouble::Halt(LakeError::Bug("a lane without its intake".into())));
        };
        let (intake, result) = working(context, move || {
            let result = work(intake.get_mut());
            (intake, result)
        })
        .await?;
        let value = result.map_err(|error| Trouble::Retry(error.to_string()))?;
        self.intake = Some(intake);
        Ok(value)
    }

    /// Closes the files that end now; all of them if the lake is stopping.
    async fn close_files(&mut self, context: &Arc<Context>, all: bool) -> Result<(), Trouble> {
        if self.intake.is_none() {
            return Ok(());
        }
        let (flush_to, landed) = (self.flush_to(context), self.state.landed.clone());
        self.with_intake(context, move |intake| {
            if all { intake.close_all() } else { intake.close_due(Instant::now(), flush_to, &landed) }
        })
        .await
    }

    /// Up to where a flush closes files now.
    fn flush_to(&mut self, context: &Context) -> Offset {
        let flush_to = context.shared.flush_to(self.index);
        if context.shared.flush_is_read() {
            self.ahead_since = None;
            return flush_to;
        }
        let since = *self.ahead_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= FLUSH_TOGETHER { flush_to } else { Offset::ZERO }
    }

    /// Makes a round of what is closed. Whether there was anything.
    async fn begin_round(&mut self, context: &Arc<Context>) -> Result<bool, Trouble> {
        let Some(intake) = self.intake.as_mut().map(Mutex::get_mut) else { return Ok(false) };
        if intake.closed.is_empty() {
            // A flush may have nothing to wait for but the floor: all that was read had landed before.
            let flush_to = context.shared.flush_to(self.index);
            if intake.floor() > self.state.landed.floor
                && self.state.landed.floor < flush_to
                && intake.position >= flush_to
            {
                let mut state = self.state.clone();
                state.landed.raise(intake.floor());
                self.write(context, state).await?;
                self.source.set_hold(&context.key, Some(self.state.landed.floor));
                context.shared.update(self.index, |progress| progress.set(&self.state));
                return Ok(true);
            }
            return Ok(false);
        }
        let count = intake.closed.len().min(ROUND_FILES_MAX);
        let closed: Vec<_> = intake.closed.drain(..count).collect();
        let rest = intake.closed.iter().map(|file| file.intent.first).min();
        let floor = rest.map_or(intake.floor(), |rest| rest.min(intake.floor()));
        self.pending = Some(Pending::new(&self.files, closed, floor, None));
        Ok(true)
    }

    /// Lands the pending round.
    async fn land(&mut self, context: &Arc<Context>) -> Result<(), Trouble> {
        let Some(store) = self.store(context).await else { return Err(Trouble::Stopped) };
        let Some(mut pending) = self.pending.take() else { return Ok(()) };
        let result = self.try_land(context, &store, &mut pending).await;
        if result.is_err() {
            self.pending = Some(pending);
        } else {
            self.report(context);
        }
        result
    }

    async fn try_land(&mut self, context: &Arc<Context>, store: &Store, pending: &mut Pending) -> Result<(), Trouble> {
        if pending.needs_building() {
            pending.look(store).await?;
        }
        if pending.needs_building() {
            match pending.round.retried.clone() {
                None => self.build_again(context, pending).await?,
                Some(retried) => self.build_retried_again(context, store, pending, &retried).await?,
            }
        }
        self.commit(context, store, pending).await
    }

    /// Builds a round's files from the log.
    async fn build_again(&mut self, context: &Arc<Context>, pending: &mut Pending) -> Result<(), Trouble> {
        let round = pending.round.clone();
        let (source, stop) = (Arc::clone(&self.source), Arc::clone(&context.shared.stop));
        let (files, layout, limits) = (Arc::clone(&self.files), context.layout.clone(), self.limits.clone());
        let built = working(context, move || -> Result<_, BuildError> {
            let mut intake = Intake::redo(files, layout, limits, &round)?;
            let read = intake.read_again(&*source, &round, &stop)?;
            Ok((read, intake.finish_redo(&round)?, intake.lost_some))
        })
        .await?;
        if context.shared.is_stopping() {
            return Err(Trouble::Stopped);
        }
        let (read, closed, lost_some) = built.map_err(|error| Trouble::Retry(error.to_string()))?;
        read.map_err(|error| log_trouble("read the log", &error))?;
        pending.built(closed, lost_some)
    }

    /// The store, once it is this lake's; `None` if the lake is stopped before.
    pub async fn store(&self, context: &Context) -> Option<Store> {
        let mut store = context.store.subscribe();
        tokio::select! {
            store = store.wait_for(Option::is_some) => store.ok()?.clone(),
            () = context.shared.stopping() => context.store.borrow().clone(),
        }
    }

    fn report(&self, context: &Context) {
        let Some(intake) = self.intake.as_ref().map(Mutex::lock) else { return };
        let (open_rows, open_files, oldest) = intake.open();
        let waiting =
            self.pending.iter().flat_map(|pending| &pending.round.intents).map(|intent| intent.rows).sum::<u64>();
        let is_behind = intake.position < self.source.high_watermark();
        let oldest = oldest.or_else(|| intake.newest_read().filter(|_| is_behind));
        context.shared.update(self.index, |progress| {
            progress.read_end = intake.position;
            progress.open_rows = open_rows + waiting;
            progress.open_files = u32::try_from(open_files).unwrap_or(u32::MAX);
            progress.oldest = oldest;
        });
    }

    async fn wait(&mut self, context: &Context, is_idle: bool) {
        let shared = &context.shared;
        if let Some(at) = self.retry_at {
            tokio::select! {
                () = tokio::time::sleep_until(at.into()) => {}
                () = shared.stopping() => {}
            }
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(READ_PAUSE) => {}
            _ = self.requests.changed() => return,
            () = shared.stopping() => return,
        }
        if self.ahead_since.is_some() {
            return;
        }
        // First listen, then look: what happens in between is heard.
        let heard = self.source.listen();
        let Some(intake) = self.intake.as_mut().filter(|_| is_idle).map(Mutex::get_mut) else { return };
        if intake.position < self.source.high_watermark() {
            return;
        }
        let due = intake.next_due(Instant::now());
        let deadline = match due {
            Some(at) => Either::Left(tokio::time::sleep_until(at.into())),
            None => Either::Right(pending()),
        };
        tokio::select! {
            () = heard => {}
            _ = self.requests.changed() => {}
            () = deadline => {}
            () = shared.stopping() => {}
        }
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

    pub fn note_retry(&mut self, context: &Context, retry: u64, landed: u64, left: u64) {
        self.retries_done = retry;
        context.shared.update(self.index, |progress| {
            progress.retries_done = retry;
            progress.retried += landed;
            progress.left = left;
        });
    }
}

/// An error of the log: a stream that is gone ends the lake, all else may pass.
pub(super) fn log_trouble(act: &str, error: &LogError) -> Trouble {
    match error {
        LogError::Deleted => Trouble::Halt(LakeError::Log(error.clone())),
        error => Trouble::Retry(format!("cannot {act}: {error}")),
    }
}

/// Runs blocking work on its own thread.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Trouble> {
    tokio::task::spawn_blocking(work).await.map_err(|error| match error.try_into_panic() {
        Ok(panic) => panicked(&*panic),
        Err(_) => Trouble::Stopped,
    })
}

/// Runs work for the processor on the lakes' own threads.
pub(super) async fn working<T: Send + 'static>(
    context: &Context,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Trouble> {
    context.settings.workers.run(work).await.map_err(|lost| match lost {
        Lost::Panic(panic) => panicked(&*panic),
        Lost::Ended => Trouble::Stopped,
    })
}

fn panicked(panic: &(dyn Any + Send)) -> Trouble {
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    Trouble::Halt(LakeError::Bug(text.unwrap_or_else(|| "a panic without a message".into())))
}
