//! Who asks again and again where partitions begin and end.

use std::time::Duration;

use millstream_check::history::{Place, Recorder, What};
use millstream_check::seeded::Seeded;
use millstream_client::{Client, PartitionInfo};
use tokio::sync::watch;

use super::TRY_AGAIN;
use crate::failure::Failure;

/// Partitions of one answer that are written down.
const NOTED_MAX: usize = 8;
const PAUSE_MS_MAX: u64 = 30;

pub struct Watcher {
    pub client: Client,
    pub streams: Vec<String>,
    pub seeded: Seeded,
    pub recorder: Recorder,
    pub stop: watch::Receiver<bool>,
}

impl Watcher {
    pub async fn run(mut self) -> Result<(), Failure> {
        while !*self.stop.borrow() {
            let stream = self.seeded.index(self.streams.len());
            let invoked_ns = self.recorder.clock().now_ns();
            match self.client.describe_stream(&self.streams[stream]).await {
                Ok(info) => self.note(stream as u32, invoked_ns, &info.partitions),
                Err(error) if error.is_retryable() => tokio::time::sleep(TRY_AGAIN).await,
                Err(error) => return Err(Failure::run(format!("a stream cannot be described: {error}"))),
            }
            tokio::time::sleep(Duration::from_millis(self.seeded.of(0..=PAUSE_MS_MAX))).await;
        }
        self.recorder.finish()?;
        Ok(())
    }

    fn note(&mut self, stream: u32, invoked_ns: u64, partitions: &[PartitionInfo]) {
        let first = self.seeded.index(partitions.len());
        for info in partitions.iter().cycle().skip(first).take(partitions.len().min(NOTED_MAX)) {
            let at = Place { stream, partition: info.partition };
            let (start, high_watermark) = (info.log_start, info.high_watermark);
            self.recorder.record(What::Tail { at, invoked_ns, start, high_watermark });
        }
    }
}
