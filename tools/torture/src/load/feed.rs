//! Who sends at a steady rate, whatever is being killed: every record is acknowledged in the end.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use millstream_check::history::{Recorder, What};
use millstream_check::value::ValueId;
use millstream_client::{Client, Record};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use super::{Books, Ledger, PATIENCE, patiently};
use crate::failure::Failure;

const TICK: Duration = Duration::from_millis(10);
const WINDOW: usize = 50_000;

/// What is sent.
pub trait Source: Send + Sync {
    /// As its values name it.
    fn producer(&self) -> u32;

    /// The record of a number, from 0.
    fn record(&self, number: u64) -> (ValueId, Record);

    /// What the history is told of records before they are sent.
    fn told(&self, _numbers: Range<u64>) -> Vec<What> {
        Vec::new()
    }
}

/// Sends records until it is stopped.
pub struct Feed {
    pub client: Client,
    /// The stream's number in the history, and its name.
    pub stream: (u32, String),
    pub source: Arc<dyn Source>,
    /// Records a second.
    pub rate: u64,
    pub recorder: Recorder,
    pub books: Arc<Books>,
    pub stop: watch::Receiver<bool>,
}

impl Feed {
    pub async fn run(self) -> Result<(), Failure> {
        let (stream, name) = &self.stream;
        let attempt = || self.client.producer(name).delivery_timeout(2 * PATIENCE).build();
        let producer = patiently("a producer cannot be built", attempt).await?;
        let mut ledger = Ledger::new(self.recorder, *stream, Arc::clone(&self.books));
        ledger.stands_once(self.source.producer());
        let (began, mut sent) = (Instant::now(), 0);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !*self.stop.borrow() {
            tick.tick().await;
            let due = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_mul(self.rate) / 1_000;
            // What could not be sent while the server was away comes in pieces.
            let end = due.min(sent + self.rate / 10);
            self.source.told(sent..end).into_iter().for_each(|what| ledger.recorder.record(what));
            let sending = ledger.send(&producer, (sent..end).map(|number| self.source.record(number))).await;
            sending.map_err(|error| Failure::run(format!("the producer cannot go on after #{sent}: {error}")))?;
            sent = end;
            ledger.settle(WINDOW).await;
            ledger.write(producer.stats().batches_resent)?;
        }
        let flushed = producer.flush().await;
        flushed.map_err(|error| Failure::run(format!("not all that was sent was acknowledged: {error}")))?;
        ledger.settle(0).await;
        ledger.write(producer.stats().batches_resent)?;
        ledger.recorder.finish()?;
        Ok(())
    }
}
