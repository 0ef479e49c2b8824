//! Drives a lake: one loop over all its partitions. Scan, merge the schema, decide, land; then wait.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::{BoxFuture, Either, pending, select_all};
use futures::{FutureExt, StreamExt};
use millstream_protocol::frame::control::LakeFormat;

use super::lane::{Lane, Trouble, blocking, log_trouble};
use super::scan::{Scan, scan};
use super::shared::Context;
use crate::judge::Verdict;
use crate::owner::{OWNER_NAME, Owner};
use crate::schema::Schema;
use crate::store::Store;
use crate::{LakeError, plan};

/// Records that come one by one are scanned together.
const SCAN_PAUSE: Duration = Duration::from_millis(100);

/// See the module.
pub struct Driver {
    context: Arc<Context>,
    lanes: Vec<Lane>,
    /// The lake's columns as far as they are known: that of every partition's state, and all that was scanned since.
    schema: Schema,
    place: Place,
}

/// The store, which may not be there when the lake starts: scanning does not wait for it.
struct Place {
    store: Option<Store>,
    owner: Owner,
    is_claimed: bool,
    failures: u32,
    retry_at: Option<Instant>,
}

impl Driver {
    pub fn new(context: Arc<Context>, lanes: Vec<Lane>, store: Option<Store>, owner: Owner) -> Self {
        let schema = Schema::newest(lanes.iter().map(|lane| &lane.state.schema));
        let place = Place { store, owner, is_claimed: false, failures: 0, retry_at: None };
        Self { context, lanes, schema, place }
    }

    /// Runs until the lake is stopped or cannot go on.
    pub async fn run(mut self) {
        if let Trouble::Halt(error) = self.drive().await {
            self.context.shared.halt(error);
        }
    }

    async fn drive(&mut self) -> Trouble {
        let context = Arc::clone(&self.context);
        loop {
            if context.shared.is_stopping() {
                return Trouble::Stopped;
            }
            self.write_first_states().await;
            let place = self.prepare().await;
            self.take_targets();
            let caught_up = self.scan_all().await;
            for lane in &mut self.lanes {
                lane.rolling |= plan::rolls(&lane.open, context.config.roll_bytes, lane.flush_to);
            }
            let landed = self.land_all().await;
            let troubles = self.lanes.iter_mut().filter_map(|lane| lane.trouble.take());
            if let Some(trouble) = place.err().into_iter().chain(troubles).next() {
                return trouble;
            }
            if caught_up && !landed {
                self.wait().await;
            }
        }
    }

    /// Opens the store and claims the place, or notes why it could not: a directory that is not there now may be mounted
    /// later.
    async fn prepare(&mut self) -> Result<(), Trouble> {
        if self.place.is_claimed || self.place.retry_at.is_some_and(|at| at > Instant::now()) {
            return Ok(());
        }
        let shared = &self.context.shared;
        match self.place.claim(&self.context).await {
            Ok(()) => shared.set_trouble(String::new()),
            Err(Trouble::Retry(text)) => {
                self.place.failures += 1;
                let wait = plan::backoff(self.place.failures);
                self.place.retry_at = Some(Instant::now() + wait);
                tracing::warn!(lake = self.context.config.name, error = text, retry_after = ?wait, "a lake is held up");
                shared.set_trouble(text);
            }
            Err(trouble) => return Err(trouble),
        }
        Ok(())
    }

    /// A new lake begins where the log begins now: written down, so that a gap that comes later is seen as one.
    async fn write_first_states(&mut self) {
        let now = Instant::now();
        for lane in self.lanes.iter_mut().filter(|lane| !lane.is_written && lane.is_ready(now)) {
            let state = lane.state.clone();
            let written = lane.write(&self.context, state).await;
            lane.note(&self.context, written);
        }
    }

    /// Takes over what flushes and the roll age ask for.
    fn take_targets(&mut self) {
        let age = Duration::from_millis(self.context.config.roll_age_ms);
        let opens: Vec<_> = self.lanes.iter().map(|lane| &lane.open).collect();
        let due = plan::due(&opens, Instant::now(), age);
        for (lane, due) in self.lanes.iter_mut().zip(due) {
            lane.flush_to = lane.flush_to.max(self.context.shared.flush_to(lane.index));
            if due && lane.flush_to <= lane.open.first {
                lane.flush_to = lane.source.high_watermark();
            }
        }
    }

    /// Scans every partition that has something new, then merges what was learnt: files decided after this share a
    /// schema. Returns whether all came to their ends.
    async fn scan_all(&mut self) -> bool {
        let (context, now) = (&self.context, Instant::now());
        let has_columns = context.config.format == LakeFormat::Parquet;
        let schema = &self.schema;
        let mut scans: Vec<BoxFuture<'_, (&mut Lane, Result<Scan, Trouble>)>> = Vec::new();
        for lane in &mut self.lanes {
            if lane.is_written && lane.wants_scan(now) {
                let (source, open, context) = (Arc::clone(&lane.source), lane.open.clone(), Arc::clone(context));
                let schema = has_columns.then(|| schema.clone());
                scans.push(
                    async move {
                        let age = Duration::from_millis(context.config.roll_age_ms);
                        let scanned = blocking(move || {
                            let (clock, stop) = (&*context.settings.clock, &*context.shared.stop);
                            scan(&*source, open, schema, context.config.roll_bytes, age, clock, stop)
                        });
                        (lane, scanned.await)
                    }
                    .boxed(),
                );
            }
        }
        let mut scans = futures::stream::iter(scans).buffer_unordered(context.settings.parallel.max(1));
        let (mut learnt, mut caught_up) = (Vec::new(), true);
        while let Some((lane, scanned)) = scans.next().await {
            let result = scanned.and_then(|scanned| {
                lane.open = scanned.open;
                learnt.extend(scanned.schema);
                // After an error the partition's own backoff decides when it goes on.
                caught_up &= scanned.caught_up || scanned.error.is_some();
                context.shared.update(lane.index, |progress| progress.set(&lane.state, &lane.open));
                scanned.error.map_or(Ok(()), |error| Err(log_trouble("read the log", &error)))
            });
            lane.note(context, result);
        }
        drop(scans);
        for schema in learnt {
            self.schema.absorb(&schema);
        }
        caught_up
    }

    /// Lands all files that are decided. Returns whether any did.
    async fn land_all(&mut self) -> bool {
        let Some(store) = self.place.store.as_ref().filter(|_| self.place.is_claimed) else { return false };
        let (context, schema, now) = (&self.context, &self.schema, Instant::now());
        let before: u64 = self.lanes.iter().map(|lane| lane.state.landed_end.0).sum();
        let mut files: Vec<BoxFuture<'_, ()>> = Vec::new();
        for lane in &mut self.lanes {
            if lane.rolling && lane.is_ready(now) {
                files.push(lane.land(context, store, schema).boxed());
            }
        }
        let mut landing = futures::stream::iter(files).buffer_unordered(context.settings.parallel.max(1));
        while landing.next().await.is_some() {}
        drop(landing);
        before != self.lanes.iter().map(|lane| lane.state.landed_end.0).sum::<u64>()
    }

    /// Until there is something to do.
    async fn wait(&self) {
        let shared = &self.context.shared;
        tokio::select! {
            () = tokio::time::sleep(SCAN_PAUSE) => {}
            () = shared.wake.notified() => return,
            () = shared.stopping() => return,
        }
        // First listen, then look: what happens in between is heard.
        let listeners: Vec<_> = self.lanes.iter().map(|lane| lane.source.listen()).collect();
        let now = Instant::now();
        if self.lanes.iter().any(|lane| lane.wants_scan(now)) {
            return;
        }
        let dues = self.lanes.iter().filter(|lane| !lane.rolling).filter_map(|lane| lane.open.due);
        let retries = self.lanes.iter().filter_map(|lane| lane.retry_at);
        let place = self.place.retry_at.filter(|_| !self.place.is_claimed);
        let deadline = match dues.chain(retries).chain(place).min() {
            Some(at) => Either::Left(tokio::time::sleep_until(at.into())),
            None => Either::Right(pending()),
        };
        let heard = if listeners.is_empty() { Either::Right(pending()) } else { Either::Left(select_all(listeners)) };
        tokio::select! {
            _ = heard => {}
            () = shared.wake.notified() => {}
            () = deadline => {}
            () = shared.stopping() => {}
        }
    }
}

impl Place {
    async fn claim(&mut self, context: &Context) -> Result<(), Trouble> {
        let store = match &self.store {
            Some(store) => store,
            None => {
                let url = context.config.url.clone();
                let opened = blocking(move || Store::open(&url)).await?;
                self.store.insert(opened.map_err(|error| Trouble::Retry(error.to_string()))?)
            }
        };
        let verdict = tokio::select! {
            verdict = store.claim(&self.owner) => verdict,
            () = context.shared.stopping() => return Err(Trouble::Stopped),
        };
        match verdict {
            Verdict::Created | Verdict::Ours => self.is_claimed = true,
            Verdict::Foreign(reason) => {
                let object = store.object(OWNER_NAME);
                return Err(Trouble::Halt(LakeError::Foreign { object, reason }));
            }
            Verdict::Retry(text) => return Err(Trouble::Retry(format!("cannot put {OWNER_NAME}: {text}"))),
        }
        Ok(())
    }
}
