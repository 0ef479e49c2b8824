//! Consumers: one that follows everything from the beginning, one that moves about.

use std::sync::Arc;
use std::time::Duration;

use millstream_check::history::{Place, Recorder, What};
use millstream_check::seeded::Seeded;
use millstream_check::value::{self, ValueId};
use millstream_client::{Client, ConsumedBatch, Consumer, ConsumerBuilder, Error, Offset, Position, Record, Start};
use tokio::sync::watch;

use super::{PATIENCE, patiently};
use crate::failure::Failure;
use crate::last_read::{Ends, reached};

/// How long a follower may take to come to the end once nothing is sent any more.
const CATCH_UP: Duration = Duration::from_secs(60);
/// How far a seeker goes back.
const BACK_MAX: u64 = 500;
/// Batches between two of its moves.
const MOVES_AFTER_MAX: u64 = 200;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Follower = 0,
    Seeker = 1,
}

pub struct Worker {
    pub client: Client,
    pub kind: Kind,
    pub stream: u32,
    pub name: String,
    pub process: u32,
    pub seeded: Seeded,
    pub recorder: Recorder,
    pub ends: watch::Receiver<Option<Arc<Ends>>>,
}

impl Worker {
    pub async fn run(mut self) -> Result<(), Failure> {
        let mut consumer = self.open(|builder| builder.start(Start::Earliest)).await?;
        let mut moves_after = self.seeded.of(1..=MOVES_AFTER_MAX);
        loop {
            let item = tokio::select! {
                item = consumer.next_batch() => item,
                _ = self.ends.wait_for(Option::is_some) => break,
            };
            self.take(&consumer, item)?;
            moves_after -= 1;
            if moves_after == 0 {
                moves_after = self.seeded.of(1..=MOVES_AFTER_MAX);
                if self.kind == Kind::Seeker {
                    consumer = self.seek(&consumer).await?;
                }
            }
        }
        if self.kind == Kind::Follower {
            self.catch_up(consumer).await?;
        }
        self.recorder.finish()?;
        Ok(())
    }

    /// Every record is read by who follows: what is in the log and never comes would be found here.
    async fn catch_up(&mut self, mut consumer: Consumer) -> Result<(), Failure> {
        let ends = self.ends.borrow().clone().unwrap_or_default();
        let rest = async {
            while !reached(&ends, self.stream, &consumer.positions()) {
                let item = consumer.next_batch().await;
                self.take(&consumer, item)?;
            }
            Ok(())
        };
        match tokio::time::timeout(CATCH_UP, rest).await {
            Ok(done) => done,
            Err(_) => Err(Failure::run(format!(
                "consumer {} did not come to the end of {:?} within {CATCH_UP:?}: it stands at {:?}",
                self.process,
                self.name,
                consumer.positions()
            ))),
        }
    }

    async fn open(&mut self, at: impl Fn(ConsumerBuilder) -> ConsumerBuilder) -> Result<Consumer, Failure> {
        let attempt = || at(self.client.consumer(&self.name).follow().reconnect_timeout(PATIENCE)).build();
        let consumer = patiently("a consumer cannot be opened", attempt).await?;
        for Position { partition, next, .. } in consumer.positions() {
            let at = Place { stream: self.stream, partition: partition.0 };
            self.recorder.record(What::Open { at, next: next.0 });
        }
        Ok(consumer)
    }

    /// To the end, back a little, or where it stands, with another consumer.
    async fn seek(&mut self, consumer: &Consumer) -> Result<Consumer, Failure> {
        let positions = consumer.positions();
        let back = self.seeded.of(1..=BACK_MAX);
        match self.seeded.index(3) {
            0 => self.open(|builder| builder.start(Start::Latest)).await,
            1 => {
                let earlier = |position: &Position| {
                    let next = Offset(position.next.0.saturating_sub(back));
                    Position { next, epoch: None, ..*position }
                };
                let earlier: Vec<Position> = positions.iter().map(earlier).collect();
                self.open(|builder| builder.positions(earlier.clone())).await
            }
            _ => self.open(|builder| builder.positions(positions.clone())).await,
        }
    }

    fn take(&mut self, consumer: &Consumer, item: Option<Result<ConsumedBatch, Error>>) -> Result<(), Failure> {
        let ended = |why: &dyn std::fmt::Display| {
            Failure::run(format!("consumer {} of {:?} ended: {why}", self.process, self.name))
        };
        let read = item.ok_or_else(|| ended(&"nothing more comes"))?.and_then(|batch| {
            let at = Place { stream: self.stream, partition: batch.partition.0 };
            let high_watermark = consumer.high_watermark(batch.partition).unwrap_or_default().0;
            records(&batch, seen).map(|records| What::Fetch { at, records, high_watermark })
        });
        let what = read.or_else(|error| gap(self.stream, &error).ok_or_else(|| ended(&error)))?;
        self.recorder.record(what);
        Ok(())
    }
}

/// The records of a batch, as a history has them.
pub fn records(
    batch: &ConsumedBatch,
    seen: impl Fn(&Record) -> Option<ValueId>,
) -> Result<Vec<(u64, Option<ValueId>)>, Error> {
    let one = |found: millstream_client::ConsumedRecord| (found.offset.0, seen(&found.record));
    batch.records()?.map(|record| record.map(one)).collect()
}

/// The value of a record whose payload is one, if it is whole.
pub fn seen(record: &Record) -> Option<ValueId> {
    record.value.as_deref().and_then(value::decode)
}

/// What a history says of an error, if it is about missing records.
pub fn gap(stream: u32, error: &Error) -> Option<What> {
    let gap = error.gap()?;
    let at = Place { stream, partition: gap.partition.0 };
    Some(What::Gap { at, from: gap.from.0, resume: gap.resume.0, code: error.code().number() })
}
